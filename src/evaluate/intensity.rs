//! Intensities of the image inside what was scored.

use super::case::CaseScores;
use super::targets::Target;
use crate::volume::Volume;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Lower and upper end of the intensities that count (HU in CT), both inside.
pub type Window = [f32; 2];

/// Intensities inside one mask.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Voxels with a number inside the window.
    pub voxels: u64,
    /// Voxels with a number outside the window.
    pub outside: u64,
    /// Mean.
    pub mean: f64,
    /// Standard deviation with `n - 1`; `None` for a single voxel.
    pub sd: Option<f64>,
    /// Smallest.
    pub min: f64,
    /// Median (of an even number, the mean of the middle two).
    pub median: f64,
    /// Largest.
    pub max: f64,
}

/// Intensities inside the two masks of a target; `None` where a mask holds no voxel of the window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Intensity {
    /// Where the prediction is.
    pub prediction: Option<Figures>,
    /// Where the reference is.
    pub reference: Option<Figures>,
}

/// Reads a window, `LO,HI`; `None` for anything else.
pub fn parse_window(text: &str) -> Option<Window> {
    let (low, high) = text.split_once(',')?;
    let window: Window = [low.trim().parse().ok()?, high.trim().parse().ok()?];
    (window.iter().all(|end| end.is_finite()) && window[0] < window[1]).then_some(window)
}

/// Adds the intensities of `image` to every target of a case that was scored from `prediction` and
/// `reference`, all three on one grid. NaN counts nowhere, nor do voxels that the reference gives to
/// `ignored`. Cost: one pass per target, in parallel; memory: 4 bytes per voxel of a mask.
pub fn add_intensities(
    case: &mut CaseScores,
    image: &Volume<f32>,
    [prediction, reference]: [&Volume<u16>; 2],
    window: Option<Window>,
    ignored: Option<u16>,
) {
    case.labels.par_iter_mut().for_each(|target| {
        let labels = Target {
            name: String::new(),
            labels: target.numbers.clone(),
        };
        let figures = |map: &Volume<u16>| {
            let voxels = image.as_slice().iter().zip(map.as_slice());
            let voxels = voxels.zip(reference.as_slice());
            Figures::of(
                voxels
                    .filter(|&((_, label), reference)| {
                        labels.contains(*label) && Some(*reference) != ignored
                    })
                    .map(|((value, _), _)| *value),
                window,
            )
        };
        target.intensity = Some(Intensity {
            prediction: figures(prediction),
            reference: figures(reference),
        });
    });
}

impl Figures {
    /// Figures of `values`; `None` when none is a number in the window.
    fn of(values: impl Iterator<Item = f32>, window: Option<Window>) -> Option<Self> {
        let [low, high] = window.unwrap_or([f32::NEG_INFINITY, f32::INFINITY]);
        let (mut inside, mut outside) = (Vec::new(), 0);
        for value in values.filter(|value| !value.is_nan()) {
            if (low..=high).contains(&value) {
                inside.push(value);
            } else {
                outside += 1;
            }
        }
        inside.sort_unstable_by(f32::total_cmp);
        let n = inside.len() as f64;
        let (&min, &max) = (inside.first()?, inside.last()?);
        let mean = inside.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let squares: f64 = inside.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum();
        let middle = inside.len() / 2;
        let upper = f64::from(inside[middle]);
        let lower = f64::from(inside[(inside.len() - 1) / 2]);
        Some(Self {
            voxels: inside.len() as u64,
            outside,
            mean,
            sd: (inside.len() > 1).then(|| (squares / (n - 1.0)).sqrt()),
            min: f64::from(min),
            median: f64::midpoint(lower, upper),
            max: f64::from(max),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_by_hand() {
        let values = [10.0_f32, f32::NAN, -500.0, 20.0, 60.0, 30.0];
        let found = Figures::of(values.into_iter(), Some([0.0, 60.0])).unwrap();
        assert_eq!((found.voxels, found.outside), (4, 1));
        assert_eq!((found.mean, found.median), (30.0, 25.0));
        assert_eq!((found.min, found.max), (10.0, 60.0));
        assert!((found.sd.unwrap() - (1400.0_f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(Figures::of([f32::NAN].into_iter(), None), None);
        assert_eq!(Figures::of([7.0].into_iter(), None).unwrap().sd, None);
    }

    #[test]
    fn windows_are_two_ascending_numbers() {
        assert_eq!(parse_window("-150, 250"), Some([-150.0, 250.0]));
        for wrong in ["250,-150", "1", "1,1", "a,b", "nan,1", "-inf,1"] {
            assert_eq!(parse_window(wrong), None, "{wrong}");
        }
    }
}
