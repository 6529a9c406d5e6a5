//! Whether an image looks like what a model was trained on.
//!
//! A model answers to whatever it is given. The commonest mistakes show in the lowest intensity: air in
//! a CT is near -1000 HU, and magnitude images of MR have no negative values that low.

use super::plans::Normalization;

/// Lowest HU that still may be a CT without any air in it.
const CT_HIGHEST_MINIMUM: f32 = 0.0;
/// No MR or PET image has intensities below this.
const OTHER_LOWEST: f32 = -500.0;

/// Why an image whose lowest intensity is `lowest` does not look like the model's channel `name`, which is
/// normalised by `scheme`; `None` where nothing speaks against it. Images of one value say nothing.
pub fn doubt(name: &str, scheme: &Normalization, lowest: f32, highest: f32) -> Option<String> {
    if lowest >= highest {
        return None;
    }
    let is_ct = matches!(scheme, Normalization::Ct { .. });
    if is_ct && lowest >= CT_HIGHEST_MINIMUM {
        return Some(format!(
            "does not look like the model's channel {name}: the lowest intensity is {lowest}, while CT in Hounsfield \
             units is negative in fat and air"
        ));
    }
    if !is_ct && !name.eq_ignore_ascii_case("ct") && lowest <= OTHER_LOWEST {
        return Some(format!(
            "does not look like the model's channel {name}: the lowest intensity is {lowest}, as in CT"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const CT: Normalization = Normalization::Ct {
        lower: -1000.0,
        upper: 1000.0,
        mean: 0.0,
        std: 100.0,
    };
    const MR: Normalization = Normalization::ZScore { inside_mask: false };

    #[test]
    fn mr_for_a_ct_model_and_the_other_way_round() {
        let message = doubt("CT", &CT, 0.0, 1200.0).unwrap();
        assert!(message.contains("Hounsfield"), "{message}");
        assert!(doubt("CT", &CT, -1024.0, 1200.0).is_none());
        let message = doubt("T1", &MR, -1024.0, 1200.0).unwrap();
        assert!(
            message.contains("T1") && message.contains("-1024"),
            "{message}"
        );
        assert!(doubt("T1", &MR, -3.0, 1200.0).is_none());
        // A CT normalised by its own statistics is still a CT.
        assert!(doubt("ct", &MR, -1024.0, 1200.0).is_none());
        assert!(doubt("CT", &CT, 5.0, 5.0).is_none());
    }
}
