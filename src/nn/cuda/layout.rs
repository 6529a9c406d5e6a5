//! Where activations lie in a GPU's memory while a network runs, decided before anything is allocated.

use super::error::Error;
use super::network::{End, Network};
use crate::nn::arena::{Lifetime, place};
use crate::nn::plan::level_grids;

/// Bytes of the unit that the arena counts in: with its 16 to a line, every tensor starts at a multiple of 256 bytes.
const UNIT: usize = 16;
/// Most numbers of a tensor: the kernels count in 31 bits.
const MOST: usize = (1 << 31) - 1;
/// Most lanes that share the voxels of a channel while its moments are summed.
const MOST_LANES: usize = 16384;
/// Voxels of a lane at least, where there are enough.
const LANE: usize = 64;

/// The memory of one pass over so many items.
pub(super) struct Layout {
    /// Grid of each resolution level.
    pub grids: Vec<[usize; 3]>,
    /// Items computed together.
    pub items: usize,
    /// First byte of the image in the network's type.
    pub image: usize,
    /// First byte of each value.
    pub values: Vec<usize>,
    /// First byte of what a step reads side by side, where it reads several values.
    pub joined: Vec<Option<usize>>,
    /// For each value the step that reads it beside others, and the first channel there.
    pub copies: Vec<Option<(usize, usize)>>,
    /// Bytes of all.
    pub bytes: usize,
    /// Numbers of a pass's largest table of moments.
    pub moments: usize,
    /// Most rows, items times channels, of any value.
    pub rows: usize,
}

/// Lanes that share so many voxels.
pub(super) fn lanes(voxels: usize) -> usize {
    (voxels / LANE).clamp(1, MOST_LANES)
}

impl Layout {
    /// Lays out `items` patches of the network's size `patch`.
    ///
    /// # Errors
    ///
    /// A tensor is too large for the kernels; a graph no U-Net has.
    pub fn new(network: &Network, patch: [usize; 3], items: usize) -> Result<Self, Error> {
        let grids = level_grids(network.strides.iter().copied(), patch);
        let voxels: Vec<usize> = grids.iter().map(|grid| grid.iter().product()).collect();
        let mut copies = vec![None; network.values.len()];
        // First and last step of each value by itself.
        let mut lives = vec![[usize::MAX, 0]; network.values.len()];
        for (index, step) in network.steps.iter().enumerate() {
            let mut touch = |value: usize| {
                let [first, last] = &mut lives[value];
                *first = (*first).min(index);
                *last = (*last).max(index);
            };
            step.output().into_iter().for_each(&mut touch);
            step.after.into_iter().for_each(&mut touch);
            step.before
                .into_iter()
                .flat_map(|pool| [pool.from, pool.to])
                .for_each(&mut touch);
            if let [one] = step.reads[..] {
                touch(one);
                continue;
            }
            let mut first = 0;
            for &value in &step.reads {
                if copies[value].replace((index, first)).is_some() {
                    return Err(Error::Refused(
                        "a value is joined with others twice".to_owned(),
                    ));
                }
                first += network.values[value].channels;
            }
        }
        let size = |channels: usize, level: usize| -> Result<usize, Error> {
            let numbers = voxels[level]
                .checked_mul(channels)
                .and_then(|n| n.checked_mul(items));
            let numbers = numbers.filter(|&numbers| numbers <= MOST).ok_or_else(|| {
                Error::Refused(format!(
                    "a patch of {patch:?} voxels is too large for a GPU"
                ))
            })?;
            Ok((numbers * network.arithmetic.bytes()).div_ceil(UNIT))
        };
        // Logits and the patch itself are counted in 31 bits too.
        size(network.classes.max(network.channels), 0)?;
        let image_read = network.steps.iter().rposition(|step| step.reads.is_empty());
        let mut lifetimes = vec![Lifetime {
            len: size(network.channels, 0)?,
            steps: [0, image_read.unwrap_or(0)],
        }];
        for (value, steps) in network.values.iter().zip(&lives) {
            lifetimes.push(Lifetime {
                len: size(value.channels, value.level)?,
                steps: *steps,
            });
        }
        let mut places = vec![None; network.steps.len()];
        for (index, step) in network.steps.iter().enumerate() {
            if step.reads.len() < 2 {
                continue;
            }
            places[index] = Some(lifetimes.len());
            let written = step.reads.iter().map(|&value| lives[value][0]).min();
            lifetimes.push(Lifetime {
                len: size(step.channels[0], step.levels[0])?,
                steps: [written.unwrap_or(0), index],
            });
        }
        let (offsets, units) = place(&lifetimes);
        let (mut moments, mut rows) = (0, 0);
        for step in &network.steps {
            if let End::Normalised { value, .. } = step.finish {
                let value = &network.values[value];
                let channels = items * value.channels;
                rows = rows.max(channels);
                moments = moments.max(2 * channels * lanes(voxels[value.level]));
            }
        }
        Ok(Self {
            grids,
            items,
            image: offsets[0] * UNIT,
            values: offsets[1..=network.values.len()]
                .iter()
                .map(|offset| offset * UNIT)
                .collect(),
            joined: places
                .iter()
                .map(|place| place.map(|place| offsets[place] * UNIT))
                .collect(),
            copies,
            bytes: units * UNIT,
            moments,
            rows,
        })
    }
}
