//! Surface points of structures, in world millimetres.

use super::{Error, Input, Patient};
use crate::geometry::bounds::BoundingBox;
use crate::topology::{Connectivity, label_components};
use crate::volume::{Grid, LabelSet};
use ndarray::{Array3, ArrayView3, Axis, Zip, s};
use rayon::prelude::*;

/// Most surface points of a kidney, of the patient's bones, of the template's bones.
const KIDNEY_POINTS: usize = 800;
const BONE_POINTS: usize = 1500;
const TEMPLATE_BONE_POINTS: usize = 2000;
/// Points of a kidney this near to a tumour are not trusted.
const TUMOR_MM: f64 = 6.0;
/// Most surface points of a tumour.
const TUMOR_POINTS: usize = 1500;
/// Fewer voxels than this have no shape.
const LEAST_VOXELS: usize = 8;
/// Fewer points than this away from a tumour are not enough: then all count.
const LEAST_TRUSTED: usize = 50;
/// Radius of the ball whose inside and outside tell a normal.
const NORMAL_MM: f64 = 6.0;
/// Compact bone and most spongy bone of the trunk.
const BONE_HU: f32 = 220.0;
/// Smaller pieces above [`BONE_HU`] are contrast, calcification or noise.
const LEAST_BONE_MM3: f64 = 3000.0;

/// A point of a surface.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct SurfacePoint {
    /// RAS+ mm.
    pub(super) at_mm: [f64; 3],
    /// Unit vector out of the structure; zero where inside and outside are alike on all sides.
    pub(super) normal: [f64; 3],
    /// Whether it is the structure's own surface, not a tumour's.
    pub(super) is_trusted: bool,
}

/// A kidney as points.
#[derive(Debug, Clone)]
pub(super) struct Kidney {
    /// Points of the surface, spread evenly over the scan order.
    pub(super) surface: Vec<SurfacePoint>,
    /// Mean of all voxels.
    pub(super) centre_mm: [f64; 3],
    /// Root mean square distance from the centre.
    pub(super) radius_mm: f64,
}

/// The part of a label map in which structures are looked for.
pub(super) struct Region<'a> {
    map: ArrayView3<'a, u16>,
    /// Where it begins in the volume, `[z, y, x]`.
    start: [usize; 3],
    grid: &'a Grid,
}

impl<'a> Region<'a> {
    pub(super) fn whole(input: &Input<'a>) -> Self {
        Self {
            map: input.map,
            start: [0; 3],
            grid: input.grid,
        }
    }

    /// The box around some labels: the volume is large, their box is not. `None` where none occurs.
    pub(super) fn around(&self, labels: &LabelSet) -> Option<Self> {
        let bounds = BoundingBox::of_labels(self.map, labels)?;
        let ([z0, y0, x0], [z1, y1, x1]) = (bounds.start, bounds.end);
        Some(Self {
            map: self.map.slice_move(s![z0..z1, y0..y1, x0..x1]),
            start: std::array::from_fn(|axis| self.start[axis] + bounds.start[axis]),
            grid: self.grid,
        })
    }
}

/// A structure's voxels inside of a box of a volume.
struct Body<'a> {
    mask: Array3<bool>,
    /// Where the box begins, `[z, y, x]`.
    start: [usize; 3],
    grid: &'a Grid,
}

impl<'a> Body<'a> {
    /// The voxels of some labels; `None` where none occurs.
    fn of(region: &Region<'a>, labels: &LabelSet) -> Option<Self> {
        let region = region.around(labels)?;
        Some(Self {
            mask: region.map.mapv(|label| labels.holds(label)),
            start: region.start,
            grid: region.grid,
        })
    }

    fn world_mm(&self, [z, y, x]: [usize; 3]) -> [f64; 3] {
        self.grid.affine.apply([
            (x + self.start[2]) as f64,
            (y + self.start[1]) as f64,
            (z + self.start[0]) as f64,
        ])
    }

    /// Voxels with a face neighbour outside. The border of the volume cuts a structure and is no surface of it.
    fn surface(&self) -> Vec<[usize; 3]> {
        let shape: [usize; 3] = self.mask.dim().into();
        let is_outside = |at: [usize; 3], axis: usize, forwards: bool| {
            let is_last = at[axis] == if forwards { shape[axis] - 1 } else { 0 };
            if is_last {
                let place = self.start[axis] + at[axis];
                return place
                    != if forwards {
                        self.grid.shape[axis] - 1
                    } else {
                        0
                    };
            }
            let mut near = at;
            near[axis] = if forwards { at[axis] + 1 } else { at[axis] - 1 };
            !self.mask[near]
        };
        let is_surface = |at: &[usize; 3]| {
            (0..3).any(|axis| is_outside(*at, axis, false) || is_outside(*at, axis, true))
        };
        (0..shape[0])
            .into_par_iter()
            .flat_map_iter(|z| self.in_slice(z).filter(is_surface))
            .collect()
    }

    /// The voxels of a slice in scan order.
    fn in_slice(&self, z: usize) -> impl Iterator<Item = [usize; 3]> + '_ {
        /// Most blocks of voxels are empty.
        const BLOCK: usize = 64;
        let [_, height, width]: [usize; 3] = self.mask.dim().into();
        (0..height).flat_map(move |y| {
            let blocks = (0..width).step_by(BLOCK);
            let blocks = blocks.map(move |x| x..(x + BLOCK).min(width));
            blocks
                .filter(move |block| {
                    let voxels = self.mask.slice(s![z, y, block.clone()]);
                    voxels.fold(false, |any, &inside| any | inside)
                })
                .flatten()
                .filter(move |&x| self.mask[[z, y, x]])
                .map(move |x| [z, y, x])
        })
    }

    fn voxel_count(&self) -> usize {
        self.mask.iter().filter(|&&inside| inside).count()
    }

    /// The direction away from the inside of a ball around a voxel.
    fn normal(&self, at: [usize; 3]) -> [f64; 3] {
        let shape: [usize; 3] = self.mask.dim().into();
        let [x, y, z] = self.grid.affine.column_norms_mm();
        let reach = [z, y, x].map(|mm| (NORMAL_MM / mm).ceil());
        let range = |axis: usize| {
            let reach = reach[axis] as usize;
            at[axis].saturating_sub(reach)..(at[axis] + reach + 1).min(shape[axis])
        };
        let mut inwards = [0.0; 3];
        for z in range(0) {
            for y in range(1) {
                for x in range(2) {
                    if !self.mask[[z, y, x]] {
                        continue;
                    }
                    let offset = self.grid.affine.apply_vector([
                        x as f64 - at[2] as f64,
                        y as f64 - at[1] as f64,
                        z as f64 - at[0] as f64,
                    ]);
                    if length(offset) <= NORMAL_MM {
                        for (sum, part) in inwards.iter_mut().zip(offset) {
                            *sum += part;
                        }
                    }
                }
            }
        }
        let length = length(inwards);
        if length > 0.0 {
            inwards.map(|part| -part / length)
        } else {
            [0.0; 3]
        }
    }

    /// At most `count` points of the surface; `None` with hardly a voxel.
    fn points(&self, count: usize) -> Option<Vec<SurfacePoint>> {
        if self.voxel_count() < LEAST_VOXELS {
            return None;
        }
        let points = thinned(self.surface(), count)
            .into_iter()
            .map(|at| SurfacePoint {
                at_mm: self.world_mm(at),
                normal: self.normal(at),
                is_trusted: true,
            });
        Some(points.collect())
    }

    /// Mean of all voxels, and root mean square distance from it.
    fn moments(&self) -> ([f64; 3], f64) {
        let voxels = || (0..self.mask.len_of(Axis(0))).flat_map(|z| self.in_slice(z));
        let places = || voxels().map(|at| self.world_mm(at));
        let number = self.voxel_count() as f64;
        let mut centre_mm = [0.0; 3];
        for place in places() {
            for (sum, part) in centre_mm.iter_mut().zip(place) {
                *sum += part / number;
            }
        }
        let squared = places().map(|place| distance(place, centre_mm).powi(2));
        (centre_mm, (squared.sum::<f64>() / number).sqrt())
    }

    /// With at most [`KIDNEY_POINTS`] points; `None` with hardly a voxel.
    fn kidney(&self) -> Option<Kidney> {
        let surface = self.points(KIDNEY_POINTS)?;
        let (centre_mm, radius_mm) = self.moments();
        Some(Kidney {
            surface,
            centre_mm,
            radius_mm,
        })
    }
}

fn length(vector: [f64; 3]) -> f64 {
    vector.iter().map(|part| part * part).sum::<f64>().sqrt()
}

/// Straight distance between two points.
pub(super) fn distance(a: [f64; 3], b: [f64; 3]) -> f64 {
    length(std::array::from_fn(|axis| a[axis] - b[axis]))
}

/// `count` of the points at equal distances in the list.
fn thinned<T: Copy>(points: Vec<T>, count: usize) -> Vec<T> {
    if points.len() <= count {
        return points;
    }
    (0..count)
        .map(|index| points[index * points.len() / count])
        .collect()
}

/// A kidney of the template.
pub(super) fn template_kidney(template: &Region<'_>, label: u16) -> Option<Kidney> {
    Body::of(template, &LabelSet::new(&[label]))?.kidney()
}

/// Surface points of the template's bones.
pub(super) fn template_bones(template: &Region<'_>, labels: &[u16]) -> Option<Vec<SurfacePoint>> {
    Body::of(template, &LabelSet::new(labels))?.points(TEMPLATE_BONE_POINTS)
}

/// A kidney of the patient with the tumours that touch it. Points near a tumour are not trusted. The tumour
/// counts for centre and radius while it is smaller than half of the kidney.
pub(super) fn patient_kidney(
    patient: &Region<'_>,
    label: u16,
    tumors: &[u16],
) -> Result<Option<Kidney>, Error> {
    let Some(own) = Body::of(patient, &LabelSet::new(&[label])) else {
        return Ok(None);
    };
    let with_tumors = LabelSet::new(tumors.iter().chain([&label]));
    let Some(mut whole) = Body::of(patient, &with_tumors) else {
        return Ok(None);
    };
    let pieces = label_components(whole.mask.view(), Connectivity::Six)?;
    let [z0, y0, x0]: [usize; 3] =
        std::array::from_fn(|axis| whole.start[axis] - patient.start[axis]);
    let mut touches = vec![false; pieces.len()];
    for (piece, [z, y], x) in pieces.runs() {
        let row = patient
            .map
            .slice(s![z + z0, y + y0, x.start + x0..x.end + x0]);
        touches[piece] |= row.iter().any(|&other| other == label);
    }
    whole.mask = pieces.mask(|number, _| touches[number]);
    let Some(mut kidney) = whole.kidney() else {
        return Ok(None);
    };
    if let Some(tumor) = Body::of(patient, &LabelSet::new(tumors)) {
        let tumor = thinned(tumor.surface(), TUMOR_POINTS)
            .into_iter()
            .map(|at| tumor.world_mm(at))
            .collect::<Vec<_>>();
        for point in &mut kidney.surface {
            let is_far = |&other: &[f64; 3]| distance(point.at_mm, other) > TUMOR_MM;
            point.is_trusted = tumor.iter().all(is_far);
        }
        if (kidney.surface.iter().filter(|point| point.is_trusted)).count() < LEAST_TRUSTED {
            for point in &mut kidney.surface {
                point.is_trusted = true;
            }
        }
    }
    if whole.voxel_count() * 2 >= own.voxel_count() * 3 && own.voxel_count() >= LEAST_VOXELS {
        (kidney.centre_mm, kidney.radius_mm) = own.moments();
    }
    Ok(Some(kidney))
}

/// Surface points of the bones in the patient's CT: large bright pieces without a given label.
pub(super) fn patient_bones(patient: &Patient<'_>, given: &LabelSet) -> Option<Vec<SurfacePoint>> {
    let image = patient.image?;
    let mut mask = Array3::from_elem(image.dim(), false);
    let slices: Vec<_> = mask.axis_iter_mut(Axis(0)).collect();
    (slices.into_par_iter().enumerate()).for_each(|(z, slice)| {
        Zip::from(slice)
            .and(image.index_axis(Axis(0), z))
            .and(patient.input.map.index_axis(Axis(0), z))
            .for_each(|bone, &hu, &label| *bone = hu > BONE_HU && !given.holds(label));
    });
    let voxel_mm3 = patient.input.grid.affine.determinant().abs();
    let pieces = label_components(mask.view(), Connectivity::TwentySix).ok()?;
    drop(mask);
    let body = Body {
        mask: pieces.mask(|_, piece| piece.voxels as f64 * voxel_mm3 >= LEAST_BONE_MM3),
        start: [0; 3],
        grid: patient.input.grid,
    };
    body.points(BONE_POINTS)
}
