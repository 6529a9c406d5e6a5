//! How scores are written for people.

use crate::evaluate::measure::{Kind, kind_of};

/// What stands where there is no number.
pub const NOTHING: &str = "n/a";

/// Decimals that a score is shown with.
pub fn decimals(score: &str) -> usize {
    match kind_of(score) {
        Some(Kind::Share) => 4,
        _ if score == "relative_volume_difference" => 4,
        _ => 2,
    }
}

/// The spreadsheet format of a score.
pub fn number_format(score: &str) -> String {
    format!("0.{}", "0".repeat(decimals(score)))
}

/// A value as text: `n/a`, `inf` and `-inf` where it is no number.
pub fn text(value: Option<f64>, decimals: usize) -> String {
    match value {
        Some(value) if value.is_finite() => format!("{value:.decimals$}"),
        Some(value) if value == f64::INFINITY => "inf".to_owned(),
        Some(value) if value == f64::NEG_INFINITY => "-inf".to_owned(),
        _ => NOTHING.to_owned(),
    }
}

/// Name of a score with its unit, as headings show it.
pub fn title(score: &str) -> String {
    if let Some(mm) = score.strip_prefix("nsd@") {
        return format!("NSD {mm} mm");
    }
    let known = [
        ("dice", "Dice"),
        ("iou", "IoU"),
        ("precision", "Precision"),
        ("recall", "Recall"),
        ("specificity", "Specificity"),
        ("hd_mm", "HD (mm)"),
        ("hd95_mm", "HD95 (mm)"),
        ("assd_mm", "ASSD (mm)"),
        ("masd_mm", "MASD (mm)"),
        ("centroid_distance_mm", "Centroid distance (mm)"),
        ("volume_reference_ml", "Volume reference (mL)"),
        ("volume_prediction_ml", "Volume prediction (mL)"),
        ("volume_difference_ml", "Volume difference (mL)"),
        ("relative_volume_difference", "Relative volume difference"),
        ("false_positive_volume_ml", "False positive volume (mL)"),
        ("false_negative_volume_ml", "False negative volume (mL)"),
    ];
    known
        .iter()
        .find(|(name, _)| *name == score)
        .map_or_else(|| score.to_owned(), |(_, title)| (*title).to_owned())
}

/// Whether smaller values of this score are better.
pub fn less_is_better(score: &str) -> bool {
    kind_of(score) == Some(Kind::Distance)
}

/// Whether the score is a share from 0 to 1.
pub fn is_share(score: &str) -> bool {
    kind_of(score) == Some(Kind::Share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_never_zero() {
        assert_eq!(text(None, 2), "n/a");
        assert_eq!(text(Some(f64::NAN), 2), "n/a");
        assert_eq!(text(Some(f64::INFINITY), 2), "inf");
        assert_eq!(text(Some(f64::NEG_INFINITY), 2), "-inf");
        assert_eq!(text(Some(0.12345), 4), "0.1235");
        assert_eq!(title("nsd@1.5"), "NSD 1.5 mm");
    }
}
