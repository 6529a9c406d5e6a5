//! Which intensities become black and white.

/// Intensities from `level - width / 2` (black) to `level + width / 2` (white).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// Middle of the range, in HU for CT.
    pub level: f32,
    /// Width of the range, above 0.
    pub width: f32,
}

/// Usual CT windows: name, level, width in HU.
const NAMED: [(&str, f32, f32); 5] = [
    ("abdomen", 40.0, 400.0),
    ("brain", 40.0, 80.0),
    ("bone", 400.0, 1800.0),
    ("lung", -600.0, 1500.0),
    ("angio", 300.0, 600.0),
];

impl std::str::FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(&(_, level, width)) = NAMED.iter().find(|(name, _, _)| *name == text) {
            return Ok(Self { level, width });
        }
        let numbers = text.split_once(',').and_then(|(level, width)| {
            Some((level.trim().parse().ok()?, width.trim().parse().ok()?))
        });
        match numbers {
            Some((level, width))
                if f32::is_finite(level) && f32::is_finite(width) && width > 0.0 =>
            {
                Ok(Self { level, width })
            }
            _ => Err(format!(
                "{text:?}: expected abdomen, brain, bone, lung, angio or LEVEL,WIDTH with a width above 0"
            )),
        }
    }
}

impl Window {
    /// For images in HU (a value below -500 occurs) the abdomen window, else from the 1st to the 99th
    /// percentile of the finite values. Cost: one sorted sample of at most 100 000 values.
    pub fn automatic(values: &[f32]) -> Self {
        let step = values.len() / 100_000 + 1;
        let mut sample: Vec<f32> = values
            .iter()
            .copied()
            .step_by(step)
            .filter(|value| value.is_finite())
            .collect();
        sample.sort_by(f32::total_cmp);
        let at = |share: f64| {
            let index = ((sample.len().max(1) - 1) as f64 * share).round() as usize;
            sample.get(index).copied().unwrap_or(0.0)
        };
        if at(0.0) < -500.0 {
            return Self {
                level: 40.0,
                width: 400.0,
            };
        }
        let (low, high) = (at(0.01), at(0.99));
        Self {
            level: f32::midpoint(low, high),
            width: (high - low).max(f32::MIN_POSITIVE),
        }
    }

    /// The grey value of an intensity; NaN is black.
    pub fn grey(self, value: f32) -> u8 {
        let share = (value - self.level) / self.width + 0.5;
        // A NaN becomes 0 in the cast.
        (share * 255.0).round().clamp(0.0, 255.0) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_by_name_and_number() {
        let abdomen: Window = "abdomen".parse().unwrap();
        assert_eq!(abdomen, "40,400".parse().unwrap());
        assert_eq!(
            [-500.0, -160.0, 40.0, 240.0, f32::NAN].map(|hu| abdomen.grey(hu)),
            [0, 0, 128, 255, 0]
        );
        for wrong in ["", "40", "40,0", "40,-1", "nan,3", "liver"] {
            assert!(wrong.parse::<Window>().is_err(), "{wrong}");
        }
        let mr = Window::automatic(&[0.0, 100.0, 200.0, f32::NAN]);
        assert_eq!((mr.grey(0.0), mr.grey(200.0)), (0, 255));
        assert_eq!(Window::automatic(&[-1000.0, 0.0]), abdomen);
        assert_eq!(Window::automatic(&[]).grey(0.0), 128);
    }
}
