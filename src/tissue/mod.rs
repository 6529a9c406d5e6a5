//! Fat around the kidneys, in the abdomen and under the skin.
//!
//! From a label map with kidneys (and tumours) and, where there is one, the CT in Hounsfield units:
//!
//! - **perirenal** fat: inside of the renal fascia, which `fascia` finds as a smooth surface around
//!   each kidney; without CT inside of the surface that is expected there (mode `geometric`);
//! - **visceral** fat: the other fat inside of the body wall, and **subcutaneous** fat: that outside of
//!   it. The wall is found without a network by `body`.
//!
//! Fat is what lies in the HU window, -190 to -30 by default (the convention of body composition
//! analysis), and has no label. Everything works in world millimetres through the affine, so the order
//! and direction of voxel axes do not matter.

mod body;
mod compartments;
mod fascia;
mod kidney;
mod perirenal;
mod sphere;
mod thickness;

pub use compartments::Amount;
pub use perirenal::{Perirenal, Side};
pub use thickness::Thickness;

use body::Body;

use crate::topology::components::TooManyRuns;
use crate::volume::Grid;
use ndarray::{Array3, ArrayView3, ArrayViewMut3, Axis};
use rayon::prelude::*;

/// A label map with its place, and the CT on the same grid.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Labels, `[z, y, x]`; fat is only ever found on 0.
    pub map: ArrayView3<'a, u16>,
    /// Hounsfield units on the same grid.
    pub image: Option<ArrayView3<'a, f32>>,
    /// Where the voxels are.
    pub grid: &'a Grid,
}

/// Hounsfield units that count as fat, both ends included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FatWindow {
    /// Lowest value.
    pub low_hu: f64,
    /// Highest value.
    pub high_hu: f64,
}

impl Default for FatWindow {
    fn default() -> Self {
        Self {
            low_hu: -190.0,
            high_hu: -30.0,
        }
    }
}

impl FatWindow {
    /// Whether a value is fat; NaN is not.
    pub fn contains(&self, hu: f64) -> bool {
        (self.low_hu..=self.high_hu).contains(&hu)
    }
}

/// A kind of fat. The numbers are those of a [`FatMap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FatKind {
    /// Inside of the renal fascia.
    Perirenal = 1,
    /// Inside of the body wall, but not perirenal.
    Visceral = 2,
    /// Between body wall and skin.
    Subcutaneous = 3,
}

/// The kind of fat in every voxel, `[z, y, x]`: a number of [`FatKind`], 0 elsewhere.
pub type FatMap = Array3<u8>;

/// Why fat cannot be found.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// Map, image and grid have different shapes.
    #[error("{what} has {found:?} voxels, the grid {expected:?} (z, y, x)")]
    Shape {
        /// `label map` or `image`.
        what: &'static str,
        /// Its shape.
        found: [usize; 3],
        /// That of the grid.
        expected: [usize; 3],
    },
    /// The affine has no inverse.
    #[error("the affine is singular or not finite: the volume has no place in the world")]
    Singular,
    /// None of the kidney labels occurs.
    #[error("no kidney: none of the labels {labels:?} occurs in the map")]
    NoKidney {
        /// The labels asked for.
        labels: Vec<u16>,
    },
    /// A kidney is cut off by the border of the volume.
    #[error(
        "the kidney with label {label} reaches the border of the volume: the fat around it is incomplete"
    )]
    CutKidney {
        /// Its label.
        label: u16,
    },
    /// The image cannot be a CT in Hounsfield units.
    #[error(
        "the image holds values from {lowest} to {highest}, expected Hounsfield units with air near -1000: these look like stored values whose rescale intercept is missing"
    )]
    NotHounsfield {
        /// Smallest value.
        lowest: f32,
        /// Largest value.
        highest: f32,
    },
    /// Nothing in the image is as large as a body.
    #[error("no body: the image holds no connected tissue above -300 HU")]
    NoBody,
    /// Visceral and subcutaneous fat cannot be told without a CT.
    #[error("visceral and subcutaneous fat need the CT")]
    NeedsImage,
    /// The map has too many pieces.
    #[error(transparent)]
    TooManyRuns(#[from] TooManyRuns),
}

/// What is looked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Labels of the kidneys. One label may hold both.
    pub kidneys: Vec<u16>,
    /// Labels of tumours and cysts; they belong to the kidney that they touch.
    pub tumors: Vec<u16>,
    /// Labels of veins, which say where the renal vein is.
    pub veins: Vec<u16>,
    /// What counts as fat.
    pub window: FatWindow,
    /// Look for visceral and subcutaneous fat also.
    pub compartments: bool,
    /// Go on without kidneys: only with `compartments`.
    pub may_lack_kidneys: bool,
    /// Go on when the border of the volume cuts a kidney.
    pub may_be_cut: bool,
}

impl Options {
    /// Perirenal fat of a map in the `abdomen` scheme.
    pub fn abdomen() -> Self {
        Self {
            kidneys: vec![1, 2],
            tumors: vec![3, 4],
            veins: vec![6],
            window: FatWindow::default(),
            compartments: false,
            may_lack_kidneys: false,
            may_be_cut: false,
        }
    }
}

/// Fat of all kinds.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The kind of fat in every voxel.
    pub fat: FatMap,
    /// One entry per kidney, in the order of the labels.
    pub kidneys: Vec<Perirenal>,
    /// Visceral fat, where looked for.
    pub visceral: Option<Amount>,
    /// Subcutaneous fat, where looked for.
    pub subcutaneous: Option<Amount>,
}

impl Found {
    /// Writes the label of every kind of fat, by its number in [`FatKind`], into `map`, which has the shape of
    /// [`Self::fat`]; a label of 0 leaves voxels as they are. Returns how many voxels held each label before.
    /// Slices in parallel.
    pub fn write(&self, mut map: ArrayViewMut3<'_, u16>, labels: [u16; 4]) -> [u64; 4] {
        /// Voxels that are looked at together: most blocks hold neither labels nor fat.
        const BLOCK: usize = 64;
        let slices: Vec<_> = map.outer_iter_mut().zip(self.fat.outer_iter()).collect();
        let before: Vec<[u64; 4]> = slices
            .into_par_iter()
            .map(|(mut slice, fat)| {
                let mut before = [0; 4];
                for (mut row, fat) in slice.outer_iter_mut().zip(fat.outer_iter()) {
                    let blocks = (row.axis_chunks_iter_mut(Axis(0), BLOCK))
                        .zip(fat.axis_chunks_iter(Axis(0), BLOCK));
                    for (mut targets, kinds) in blocks {
                        if targets.fold(0, |any, &label| any | label) != 0 {
                            for (count, label) in before.iter_mut().zip(labels) {
                                let is_label = targets.iter().filter(|&&target| target == label);
                                *count += if label != 0 {
                                    is_label.count() as u64
                                } else {
                                    0
                                };
                            }
                        }
                        if kinds.fold(0, |any, &kind| any | kind) != 0 {
                            for (target, &kind) in targets.iter_mut().zip(kinds) {
                                let label = labels[usize::from(kind)];
                                *target = if label != 0 { label } else { *target };
                            }
                        }
                    }
                }
                before
            })
            .collect();
        let sum = |kind: usize| before.iter().map(|counts| counts[kind]).sum();
        std::array::from_fn(sum)
    }
}

/// Finds fat.
///
/// Perirenal fat with an image is what lies inside of the fitted fascia and of the body wall, in the
/// window; without, all unlabelled voxels inside of the expected fascia.
///
/// Cost: some million samples of the image per kidney, a pass over the boxes around the kidneys, one over
/// the image, with `compartments` a second; memory: one byte per voxel for the result and one per voxel of
/// the boxes, and a copy of the image in cells of 3 mm.
///
/// # Errors
/// [`Error`], each as it says.
pub fn find_fat(input: &Input<'_>, options: &Options) -> Result<Found, Error> {
    input.check()?;
    let mut fat = FatMap::zeros(input.grid.shape);
    let body = match input.image {
        Some(image) => match Body::find(input, image) {
            // An image that shows less than a body still shows the surroundings of its kidneys.
            Err(Error::NoBody) if !options.compartments => None,
            found => Some(found?),
        },
        None if options.compartments => return Err(Error::NeedsImage),
        None => None,
    };
    let kidneys = perirenal::perirenal_fat(input, options, body.as_ref(), &mut fat)?;
    let amounts = match (input.image, &body) {
        (Some(image), Some(body)) if options.compartments => Some(compartments::mark(
            input,
            image,
            body,
            options.window,
            &mut fat,
        )),
        _ => None,
    };
    Ok(Found {
        fat,
        kidneys,
        visceral: amounts.map(|[visceral, _]| visceral),
        subcutaneous: amounts.map(|[_, subcutaneous]| subcutaneous),
    })
}

impl Input<'_> {
    /// Checks that everything has the grid's shape and that the image can be a CT.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Singular`], [`Error::NotHounsfield`].
    pub fn check(&self) -> Result<(), Error> {
        let expected = self.grid.shape;
        let same = |what, found: [usize; 3]| {
            if found == expected {
                Ok(())
            } else {
                Err(Error::Shape {
                    what,
                    found,
                    expected,
                })
            }
        };
        same("label map", self.map.dim().into())?;
        if self.grid.affine.inverse().is_none() {
            return Err(Error::Singular);
        }
        if let Some(image) = &self.image {
            same("image", image.dim().into())?;
            // Every CT of a body holds fat or air; stored values without their intercept hold neither.
            let is_dark =
                |&value: &f32| value.is_finite() && value < FatWindow::default().high_hu as f32;
            if !image.iter().any(is_dark) {
                let finite = image.iter().copied().filter(|value| value.is_finite());
                let (lowest, highest) = finite.fold(
                    (f32::INFINITY, f32::NEG_INFINITY),
                    |(lowest, highest), value| (lowest.min(value), highest.max(value)),
                );
                return Err(Error::NotHounsfield { lowest, highest });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fat_is_written_by_kind_and_what_held_its_labels_is_counted() {
        let shape = [2, 3, 150];
        let mut fat = FatMap::zeros(shape);
        let mut map = Array3::<u16>::zeros(shape);
        for (at, kind) in [
            ([0, 0, 0], 1),
            ([0, 2, 149], 2),
            ([1, 1, 64], 3),
            ([1, 1, 63], 1),
        ] {
            fat[at] = kind;
        }
        for (at, label) in [
            ([0, 0, 1], 7),
            ([0, 2, 100], 8),
            ([1, 0, 5], 8),
            ([1, 2, 128], 1),
        ] {
            map[at] = label;
        }
        let mut expected = map.clone();
        expected[[0, 0, 0]] = 7;
        expected[[1, 1, 63]] = 7;
        expected[[1, 1, 64]] = 8;
        let found = Found {
            fat,
            kidneys: Vec::new(),
            visceral: None,
            subcutaneous: None,
        };
        let before = found.write(map.view_mut(), [0, 7, 0, 8]);
        assert_eq!(before, [0, 1, 0, 2]);
        assert_eq!(map, expected);
    }
}
