//! The scores: their names, units, and which direction is better.

/// What is known of a score by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A share from 0 to 1; more is better and 0 is the worst.
    Share,
    /// A distance in millimetres; less is better and the image diagonal is the worst.
    Distance,
    /// A number of errors; less is better and nothing is the worst.
    Errors,
    /// Everything else (volumes and their differences): 0 difference is best, nothing is worst.
    Other,
}

/// Name, kind and meaning of every score but `nsd@<tolerance>`, in the order of tables.
pub const MEASURES: [(&str, Kind, &str); 19] = [
    ("dice", Kind::Share, "Dice coefficient"),
    ("iou", Kind::Share, "intersection over union"),
    (
        "precision",
        Kind::Share,
        "share of the prediction that is right",
    ),
    (
        "recall",
        Kind::Share,
        "share of the reference that was found",
    ),
    (
        "specificity",
        Kind::Share,
        "share of the rest that was left alone",
    ),
    (
        "cldice",
        Kind::Share,
        "Dice coefficient of the centre lines",
    ),
    ("hd_mm", Kind::Distance, "Hausdorff distance"),
    (
        "hd95_mm",
        Kind::Distance,
        "95th percentile of the surface distances",
    ),
    (
        "assd_mm",
        Kind::Distance,
        "average symmetric surface distance",
    ),
    (
        "masd_mm",
        Kind::Distance,
        "mean of the two directed average distances",
    ),
    (
        "centroid_distance_mm",
        Kind::Distance,
        "distance of the centroids",
    ),
    (
        "betti0_error",
        Kind::Errors,
        "difference of the numbers of pieces",
    ),
    (
        "betti1_error",
        Kind::Errors,
        "difference of the numbers of tunnels",
    ),
    (
        "volume_reference_ml",
        Kind::Other,
        "volume of the reference",
    ),
    (
        "volume_prediction_ml",
        Kind::Other,
        "volume of the prediction",
    ),
    (
        "volume_difference_ml",
        Kind::Other,
        "prediction minus reference",
    ),
    (
        "relative_volume_difference",
        Kind::Other,
        "volume difference over reference",
    ),
    (
        "false_positive_volume_ml",
        Kind::Other,
        "volume of pieces of the prediction that touch no reference voxel",
    ),
    (
        "false_negative_volume_ml",
        Kind::Other,
        "volume of pieces of the reference that touch no predicted voxel",
    ),
];

/// The kind of a score; `None` for a name that is none. `nsd@2` is a share.
pub fn kind_of(name: &str) -> Option<Kind> {
    if let Some(tolerance) = name.strip_prefix("nsd@") {
        let mm: f64 = tolerance.parse().ok()?;
        return (mm >= 0.0).then_some(Kind::Share);
    }
    MEASURES
        .iter()
        .find_map(|&(known, kind, _)| (known == name).then_some(kind))
}

/// The full name of a score as people write it: `hd95` is `hd95_mm`, `rvd` is
/// `relative_volume_difference`, `nsd@2.0` is `nsd@2`. `None` for a name that is none.
pub fn full_name(text: &str) -> Option<String> {
    if let Some(tolerance) = text.strip_prefix("nsd@") {
        let mm: f64 = tolerance.trim_end_matches("mm").parse().ok()?;
        return (mm >= 0.0).then(|| format!("nsd@{mm}"));
    }
    let full = match text {
        "rvd" => "relative_volume_difference",
        "jaccard" => "iou",
        "sensitivity" => "recall",
        _ => text,
    };
    MEASURES.iter().find_map(|&(known, ..)| {
        let bare = known.trim_end_matches("_mm").trim_end_matches("_ml");
        (known == full || bare == full).then(|| known.to_owned())
    })
}

/// Sorts names of scores as tables show them: [`MEASURES`] first, `nsd@` by tolerance last.
pub fn sort_names(names: &mut [String]) {
    let rank = |name: &str| {
        let place = MEASURES.iter().position(|&(known, ..)| known == name);
        let tolerance = name
            .strip_prefix("nsd@")
            .and_then(|mm| mm.parse::<f64>().ok());
        (place.unwrap_or(MEASURES.len()), tolerance.unwrap_or(0.0))
    };
    names.sort_by(|a, b| {
        let (a, b) = (rank(a), rank(b));
        a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood_as_people_write_them() {
        assert_eq!(full_name("hd95").as_deref(), Some("hd95_mm"));
        assert_eq!(full_name("dice").as_deref(), Some("dice"));
        assert_eq!(full_name("nsd@2.0").as_deref(), Some("nsd@2"));
        assert_eq!(full_name("nsd@0.5mm").as_deref(), Some("nsd@0.5"));
        assert_eq!(
            full_name("volume_difference").as_deref(),
            Some("volume_difference_ml")
        );
        assert_eq!(full_name("hd96"), None);
        assert_eq!(kind_of("nsd@1.5"), Some(Kind::Share));
        assert_eq!(kind_of("hd95_mm"), Some(Kind::Distance));
        assert_eq!(kind_of("nsd@-1"), None);
    }

    #[test]
    fn tables_have_an_order() {
        let mut names: Vec<String> = ["nsd@10", "iou", "nsd@2", "dice"]
            .map(str::to_owned)
            .to_vec();
        sort_names(&mut names);
        assert_eq!(names, ["dice", "iou", "nsd@2", "nsd@10"]);
    }
}
