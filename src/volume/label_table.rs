//! Names and colours of labels.

use std::collections::BTreeMap;

/// What one label number means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Name, for example `kidney_left`. Never empty.
    pub name: String,
    /// Display colour, red, green, blue.
    pub rgb: [u8; 3],
}

/// Label numbers to names and colours, ordered by number. Number 0 is background.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelTable {
    labels: BTreeMap<u16, Label>,
}

/// The `abdomen` scheme: number, name, colour.
const ABDOMEN: [(u16, &str, [u8; 3]); 13] = [
    (0, "background", [0, 0, 0]),
    (1, "kidney_right", [185, 102, 83]),
    (2, "kidney_left", [212, 137, 108]),
    (3, "tumor", [144, 238, 144]),
    (4, "cyst", [102, 205, 205]),
    (5, "artery", [216, 40, 30]),
    (6, "vein", [40, 90, 210]),
    (7, "ureter", [250, 210, 60]),
    (8, "bladder", [222, 154, 132]),
    (9, "liver", [160, 60, 50]),
    (10, "spleen", [150, 80, 140]),
    (11, "bone", [241, 232, 200]),
    (12, "fat", [230, 220, 120]),
];

impl LabelTable {
    /// The built-in `abdomen` scheme: kidneys, tumour, cyst, vessels, ureter, bladder, liver, spleen, bone, fat.
    pub fn abdomen() -> Self {
        ABDOMEN
            .iter()
            .map(|&(number, name, rgb)| {
                let name = name.to_owned();
                (number, Label { name, rgb })
            })
            .collect()
    }

    /// The built-in `brats` scheme: 1 necrotic core, 2 oedema, 3 enhancing tumour.
    pub fn brats() -> Self {
        [
            (0, "background", [0, 0, 0]),
            (1, "necrotic_core", [190, 60, 60]),
            (2, "edema", [80, 170, 90]),
            (3, "enhancing_tumor", [240, 200, 60]),
        ]
        .into_iter()
        .map(|(number, name, rgb)| {
            let name = name.to_owned();
            (number, Label { name, rgb })
        })
        .collect()
    }

    /// The scheme called `name` (`abdomen` or `brats`), if there is one.
    pub fn built_in(name: &str) -> Option<Self> {
        match name {
            "abdomen" => Some(Self::abdomen()),
            "brats" => Some(Self::brats()),
            _ => None,
        }
    }

    /// A colour for a label that has none: well separated hues, the same for the same number everywhere.
    pub fn default_rgb(number: u16) -> [u8; 3] {
        if number == 0 {
            return [0, 0, 0];
        }
        // Golden-ratio steps around the hue circle (0.618… of 1536 steps); value and saturation fixed.
        let hue = (u32::from(number) * 949) % 1536;
        let ramp = (hue % 256) as u8;
        let (high, low) = (235, 60);
        let mix = |t: u8| low + ((u16::from(high - low) * u16::from(t)) / 255) as u8;
        match hue / 256 {
            0 => [high, mix(ramp), low],
            1 => [mix(255 - ramp), high, low],
            2 => [low, high, mix(ramp)],
            3 => [low, mix(255 - ramp), high],
            4 => [mix(ramp), low, high],
            _ => [high, low, mix(255 - ramp)],
        }
    }

    /// Adds or replaces a label.
    pub fn insert(&mut self, number: u16, label: Label) {
        self.labels.insert(number, label);
    }

    /// Adds a label under a name from a file that need not keep to our rules: control characters go, an
    /// empty name or one that is taken gets the number behind it. Without a colour it gets the default one.
    pub fn insert_named(&mut self, number: u16, given: &str, rgb: Option<[u8; 3]>) {
        let mut name: String = given.trim().chars().filter(|c| !c.is_control()).collect();
        if name.is_empty() || self.number_of(&name).is_some() {
            name = format!("{name}_{number}")
                .trim_start_matches('_')
                .to_owned();
        }
        let rgb = rgb.unwrap_or_else(|| Self::default_rgb(number));
        self.insert(number, Label { name, rgb });
    }

    /// The label with this number.
    pub fn get(&self, number: u16) -> Option<&Label> {
        self.labels.get(&number)
    }

    /// The name of this number, or `label_<number>` where the table has none.
    pub fn name_of(&self, number: u16) -> String {
        self.labels
            .get(&number)
            .map_or_else(|| format!("label_{number}"), |label| label.name.clone())
    }

    /// The number of this name (exact match).
    pub fn number_of(&self, name: &str) -> Option<u16> {
        self.labels
            .iter()
            .find_map(|(&number, label)| (label.name == name).then_some(number))
    }

    /// All labels in ascending order, background included where it is listed.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &Label)> {
        self.labels.iter().map(|(&number, label)| (number, label))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether nothing is known about any label.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

impl FromIterator<(u16, Label)> for LabelTable {
    fn from_iter<I: IntoIterator<Item = (u16, Label)>>(entries: I) -> Self {
        Self {
            labels: entries.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abdomen_names_resolve_both_ways() {
        let table = LabelTable::abdomen();
        assert_eq!(table.len(), 13);
        assert_eq!(table.number_of("bladder"), Some(8));
        assert_eq!(table.name_of(8), "bladder");
        assert_eq!(table.name_of(77), "label_77");
    }

    #[test]
    fn names_from_elsewhere_become_distinct_and_printable() {
        let mut table = LabelTable::default();
        for (number, given) in [(1, " liver\n"), (2, "liver"), (3, "")] {
            table.insert_named(number, given, None);
        }
        assert_eq!(
            [1, 2, 3].map(|number| table.name_of(number)),
            ["liver", "liver_2", "3"]
        );
    }

    #[test]
    fn neighbouring_default_colours_differ() {
        for number in 1..200_u16 {
            let a = LabelTable::default_rgb(number);
            let b = LabelTable::default_rgb(number + 1);
            let distance: i32 = a
                .iter()
                .zip(b)
                .map(|(&x, y)| (i32::from(x) - i32::from(y)).abs())
                .sum();
            assert!(distance > 100, "{number}: {a:?} {b:?}");
        }
    }
}
