//! The images of a case, turned and resampled once per distinct target.

use super::definition::{Input, Task, Work};
use super::run::RunError;
use crate::geometry::bounds::{BoundingBox, crop};
use crate::geometry::orientation::Turn;
use crate::geometry::resample::{
    Interpolation, resample_to_grid, zoom_to_shape, zoomed_grid, zoomed_shape,
};
use crate::volume::{Affine, Grid, Volume};
use ndarray::Array3;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Distance of corresponding voxels up to which two channels lie on one grid.
const SAME_GRID_MM: f64 = 1e-3;

/// Which version of which channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    channel: usize,
    canonical: bool,
    spacing_mm: Option<[u64; 3]>,
}

impl Target {
    fn new(channel: usize, input: &Input) -> Self {
        Self {
            channel,
            canonical: input.canonical,
            spacing_mm: input.spacing_mm.map(|mm| mm.map(f64::to_bits)),
        }
    }

    fn display(&self) -> String {
        match self.spacing_mm {
            None => "as it is".to_owned(),
            Some(bits) => {
                let [z, y, x] = bits.map(f64::from_bits);
                format!("at {x:.4}x{y:.4}x{z:.4} mm")
            }
        }
    }
}

/// The channels of a case on the grid of the first, and versions of them that are still needed.
pub struct Images {
    grid: Grid,
    originals: Vec<Option<Arc<Volume<f32>>>>,
    prepared: BTreeMap<Target, Arc<Volume<f32>>>,
    /// How often each version is still going to be asked for.
    uses: BTreeMap<Target, usize>,
    keep_first: bool,
}

impl Images {
    /// Takes the channels of `task`. `keep_first` keeps the first one to the end, for statistics; all
    /// others go after their last use.
    ///
    /// # Errors
    /// [`RunError::ChannelCount`]; [`RunError::Channel`] for a channel on another grid than the first, see
    /// [`onto_first`].
    pub fn new(
        task: &Task,
        channels: Vec<Volume<f32>>,
        keep_first: bool,
    ) -> Result<Self, RunError> {
        let grid = match channels.first() {
            Some(first) if channels.len() == task.channels.len() => *first.grid(),
            _ => {
                return Err(RunError::ChannelCount {
                    found: channels.len(),
                    names: task.channels.join(", "),
                });
            }
        };
        for (image, name) in channels.iter().zip(&task.channels) {
            image
                .grid()
                .check_matches(&grid, SAME_GRID_MM)
                .map_err(|source| RunError::Channel {
                    name: name.clone(),
                    source,
                })?;
        }
        let mut uses = BTreeMap::new();
        let all: Vec<usize> = (0..channels.len()).collect();
        count_uses(task, &all, &mut uses);
        Ok(Self {
            grid,
            originals: channels.into_iter().map(|c| Some(Arc::new(c))).collect(),
            prepared: BTreeMap::new(),
            uses,
            keep_first,
        })
    }

    /// The grid of the first channel.
    pub fn grid(&self) -> &Grid {
        &self.grid
    }

    /// The first channel, while it is there.
    pub fn first(&self) -> Option<&Volume<f32>> {
        self.originals.first()?.as_deref()
    }

    /// Bytes of all versions that are held.
    pub fn bytes(&self) -> u64 {
        let originals = self.originals.iter().flatten();
        let volumes = originals.chain(self.prepared.values());
        let mut distinct: Vec<&Arc<Volume<f32>>> = Vec::new();
        for volume in volumes {
            if !distinct.iter().any(|other| Arc::ptr_eq(other, volume)) {
                distinct.push(volume);
            }
        }
        let voxels: usize = distinct.iter().map(|v| v.grid().voxel_count()).sum();
        (voxels * size_of::<f32>()) as u64
    }

    /// Channel `channel` as `input` asks for it, within `region` of the image where one is given, and what had
    /// to be done for it, where something had. Versions of the whole image are shared.
    ///
    /// # Errors
    /// What turning and resampling return.
    pub(super) fn take(
        &mut self,
        channel: usize,
        input: &Input,
        region: Option<BoundingBox>,
    ) -> Result<(Arc<Volume<f32>>, Option<String>), RunError> {
        let target = Target::new(channel, input);
        let last = self.uses.get_mut(&target).is_none_or(|uses| {
            *uses = uses.saturating_sub(1);
            *uses == 0
        });
        let shared = match self.prepared.get(&target) {
            Some(found) if region.is_none() => Some(Arc::clone(found)),
            _ => None,
        };
        let (image, done) = match shared {
            Some(shared) => (shared, None),
            None => {
                let original = self.originals.get(channel).and_then(Option::clone);
                let original = original.ok_or(RunError::Used(channel))?;
                let image = prepare(original, input, region)?;
                (image, Some(target.display()))
            }
        };
        if last {
            self.prepared.remove(&target);
        } else if region.is_none() {
            self.prepared.insert(target, Arc::clone(&image));
        }
        let others = |other: &Target| {
            other.channel == channel && !self.prepared.contains_key(other) && self.uses[other] > 0
        };
        let is_kept = self.keep_first && channel == 0;
        if !is_kept && !self.uses.keys().any(others) {
            self.originals[channel] = None;
        }
        Ok((image, done))
    }
}

/// Every request that a task is going to make, as positions among the images.
fn count_uses(task: &Task, channels: &[usize], uses: &mut BTreeMap<Target, usize>) {
    match &task.work {
        Work::Models { input, models, .. } => {
            if let Some(crop) = &input.crop {
                count_uses(&crop.task, channels, uses);
            }
            for used in used_channels(models) {
                *uses.entry(Target::new(channels[used], input)).or_insert(0) += 1;
            }
        }
        Work::Tasks(tasks) => {
            for included in tasks {
                let inner: Vec<usize> = included.channels.iter().map(|&c| channels[c]).collect();
                count_uses(&included.task, &inner, uses);
            }
        }
    }
}

/// The channels that any of `models` sees, ascending.
pub(super) fn used_channels(models: &[super::definition::ModelUse]) -> Vec<usize> {
    let mut used: Vec<usize> = models.iter().flat_map(|m| m.channels.clone()).collect();
    used.sort_unstable();
    used.dedup();
    used
}

/// Crop, turn and resample, in this order, as `TotalSegmentator` does: cropped or resampled intensities are
/// truncated to whole numbers.
fn prepare(
    original: Arc<Volume<f32>>,
    input: &Input,
    region: Option<BoundingBox>,
) -> Result<Arc<Volume<f32>>, RunError> {
    let cropped = match region {
        None => original,
        Some(region) => {
            let mut part = crop(&original, region)?;
            for value in part.as_slice_mut() {
                *value = value.trunc();
            }
            Arc::new(part)
        }
    };
    if !input.canonical {
        return Ok(cropped);
    }
    let turn = Turn::to_canonical(&cropped.grid().affine)?;
    let grid = turned_grid(&turn, cropped.grid());
    let view = cropped.data().view();
    let Some(spacing_mm) = input.spacing_mm.filter(|mm| *mm != grid.spacing_mm) else {
        if turn.is_identity() && grid == *cropped.grid() {
            return Ok(cropped);
        }
        return Ok(Arc::new(Volume::new(turn.array(view), grid)?));
    };
    let target = zoomed(&grid, spacing_mm)?;
    let whole: Array3<i32> = if turn.is_identity() {
        zoom_to_shape(view, target.shape, Interpolation::Linear)?
    } else {
        zoom_to_shape(turn.array(view).view(), target.shape, Interpolation::Linear)?
    };
    Ok(Arc::new(Volume::new(
        whole.mapv(|value| value as f32),
        target,
    )?))
}

/// `grid` at `spacing_mm`.
fn zoomed(grid: &Grid, spacing_mm: [f64; 3]) -> Result<Grid, RunError> {
    let factors = std::array::from_fn(|axis| grid.spacing_mm[axis] / spacing_mm[axis]);
    let mut zoomed = zoomed_grid(grid, zoomed_shape(grid.shape, factors)?, factors);
    // As it comes out of a NIfTI header.
    zoomed.spacing_mm = spacing_mm.map(|mm| f64::from(mm as f32));
    Ok(zoomed)
}

/// The turned grid with the spacing that nibabel gives it: lengths of the affine's columns as `f32`.
fn turned_grid(turn: &Turn, grid: &Grid) -> Grid {
    let mut turned = turn.grid(grid);
    let [x, y, z] = turned.affine.column_norms_mm();
    turned.spacing_mm = [z, y, x].map(|mm| f64::from(mm as f32));
    turned
}

/// The grid on which the models of `input` see an image of `grid`.
///
/// # Errors
/// As [`Images::take`].
pub fn input_grid(grid: &Grid, input: &Input) -> Result<Grid, RunError> {
    if !input.canonical {
        return Ok(*grid);
    }
    let turned = turned_grid(&Turn::to_canonical(&grid.affine)?, grid);
    let Some(spacing_mm) = input.spacing_mm.filter(|mm| *mm != turned.spacing_mm) else {
        return Ok(turned);
    };
    zoomed(&turned, spacing_mm)
}

/// Brings later channels onto the grid of the first where they are not on it yet: another phase of the same
/// study. `motions` say for every later channel where places of the first lie in it
/// ([`crate::registration`]); without one they lie in the same position. What lies outside of a channel takes its lowest intensity. Returns
/// the positions of the channels that were resampled.
///
/// # Errors
/// [`RunError::Resample`].
pub fn onto_first(
    channels: &mut [Volume<f32>],
    motions: &[Affine],
) -> Result<Vec<usize>, RunError> {
    let mut moved = Vec::new();
    if let Some((first, others)) = channels.split_first_mut() {
        for (index, other) in others.iter_mut().enumerate() {
            let motion = motions.get(index).unwrap_or(&Affine::IDENTITY);
            let same = other
                .grid()
                .check_matches(first.grid(), SAME_GRID_MM)
                .is_ok();
            if same && *motion == Affine::IDENTITY {
                continue;
            }
            let lowest = other
                .as_slice()
                .iter()
                .copied()
                .fold(f32::INFINITY, f32::min);
            *other = resample_to_grid(other, first.grid(), motion, lowest)?;
            moved.push(index + 1);
        }
    }
    Ok(moved)
}
