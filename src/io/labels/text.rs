//! Line formats: ITK-SNAP, 3D Slicer `.ctbl` and CSV, BIDS TSV.

use super::{Builder, Format, number};
use crate::io::delimited::fields;
use crate::io::error::{Error, Result};
use crate::volume::LabelTable;
use std::fmt::Write;

/// Column names of the two tabular formats, lower case: number, name, then colours.
const NUMBER_COLUMNS: [&str; 4] = ["labelvalue", "index", "number", "label"];
const NAME_COLUMNS: [&str; 2] = ["name", "labelname"];

pub(super) fn parse(text: &str, file: &str) -> Result<LabelTable> {
    let mut lines = text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim_end()))
        .filter(|(_, line)| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    let Some((line, first)) = lines.next() else {
        return Err(Error::malformed(file, "lists no labels"));
    };
    for separator in ['\t', ','] {
        if let Some(columns) = Columns::find(first, separator) {
            return columns.parse(lines, file);
        }
    }
    let mut builder = Builder::new(file);
    for (line, text) in std::iter::once((line, first)).chain(lines) {
        let (number, name, rgb) = snap_line(text).or_else(|| ctbl_line(text)).ok_or_else(|| {
            Error::malformed(
                file,
                format!(
                    "line {line} is {text:?}, expected an ITK-SNAP or Slicer label, or a table with the columns index and name"
                ),
            )
        })?;
        builder.add(number, name, Some(rgb), &format!(" in line {line}"))?;
    }
    builder.finish()
}

/// `1  255 0 0  1 1 1  "liver"`.
fn snap_line(line: &str) -> Option<(u16, &str, [u8; 3])> {
    let (fields, quoted) = line.split_once('"')?;
    let name = quoted.trim_end().strip_suffix('"')?;
    let mut fields = fields.split_whitespace();
    let number = number(fields.next()?)?;
    Some((number, name, rgb(&mut fields)?))
}

/// `1 liver 255 0 0 255`.
fn ctbl_line(line: &str) -> Option<(u16, &str, [u8; 3])> {
    let mut fields = line.split_whitespace();
    let number = number(fields.next()?)?;
    let name = fields.next()?;
    Some((number, name, rgb(&mut fields)?))
}

fn rgb<'a>(fields: &mut impl Iterator<Item = &'a str>) -> Option<[u8; 3]> {
    let mut channel = || fields.next()?.parse().ok();
    Some([channel()?, channel()?, channel()?])
}

/// Where things are in a table with a head line.
struct Columns {
    separator: char,
    number: usize,
    name: usize,
    /// `#rrggbb` in one column.
    hex: Option<usize>,
    /// Three columns from 0 to 255.
    rgb: Option<[usize; 3]>,
}

impl Columns {
    fn find(head: &str, separator: char) -> Option<Self> {
        let names: Vec<String> = fields(head, separator)
            .iter()
            .map(|name| name.trim().to_ascii_lowercase())
            .collect();
        let at = |wanted: &str| names.iter().position(|name| name == wanted);
        let channel = |letter: &str| at(&format!("color_{letter}")).or_else(|| at(letter));
        let rgb = || Some([channel("r")?, channel("g")?, channel("b")?]);
        Some(Self {
            separator,
            number: NUMBER_COLUMNS.iter().find_map(|name| at(name))?,
            name: NAME_COLUMNS.iter().find_map(|name| at(name))?,
            hex: at("color"),
            rgb: rgb(),
        })
    }

    fn parse<'a>(
        &self,
        lines: impl Iterator<Item = (usize, &'a str)>,
        file: &str,
    ) -> Result<LabelTable> {
        let mut builder = Builder::new(file);
        for (line, text) in lines {
            let fields = fields(text, self.separator);
            let field = |at: usize| fields.get(at).map(String::as_str);
            let Some(number) = field(self.number).and_then(number) else {
                return Err(Error::malformed(
                    file,
                    format!("line {line} is {text:?}, expected a label number from 0 to 65535"),
                ));
            };
            let hex = self.hex.and_then(field).and_then(hex_rgb);
            let rgb = self.rgb.and_then(|columns| {
                rgb(&mut columns.iter().filter_map(|&at| field(at).map(str::trim)))
            });
            let name = field(self.name).unwrap_or_default();
            builder.add(number, name, hex.or(rgb), &format!(" in line {line}"))?;
        }
        builder.finish()
    }
}

fn hex_rgb(text: &str) -> Option<[u8; 3]> {
    let digits = text.trim().strip_prefix('#')?;
    if digits.len() != 6 {
        return None;
    }
    let value = u32::from_str_radix(digits, 16).ok()?;
    let [_, red, green, blue] = value.to_be_bytes();
    Some([red, green, blue])
}

pub(super) fn format(table: &LabelTable, format: Format) -> String {
    let mut text = match format {
        Format::ItkSnap => concat!(
            "# ITK-SNAP Label Description File\n",
            "# number, red, green, blue, opacity, visible, mesh visible, name\n"
        ),
        Format::Ctbl => "# number, name, red, green, blue, opacity\n",
        Format::Csv => "LabelValue,Name,Color_R,Color_G,Color_B,Color_A\n",
        _ => "index\tname\tcolor\n",
    }
    .to_owned();
    for (number, label) in table.iter() {
        let [red, green, blue] = label.rgb;
        let shown = u8::from(number != 0);
        let name = &label.name;
        // Writing to a string cannot fail.
        let _ = match format {
            Format::ItkSnap => {
                let name = name.replace('"', "'");
                writeln!(
                    text,
                    "{number:5} {red:5} {green:4} {blue:4} {shown:8} {shown:2} {shown:2}    \"{name}\""
                )
            }
            Format::Ctbl => {
                let name = name.replace(char::is_whitespace, "_");
                let opacity = 255 * u16::from(shown);
                writeln!(text, "{number} {name} {red} {green} {blue} {opacity}")
            }
            Format::Csv => {
                let opacity = 255 * u16::from(shown);
                let name = quoted(name, ',');
                writeln!(text, "{number},{name},{red},{green},{blue},{opacity}")
            }
            _ => {
                let name = quoted(name, '\t');
                writeln!(text, "{number}\t{name}\t#{red:02x}{green:02x}{blue:02x}")
            }
        };
    }
    text
}

fn quoted(name: &str, separator: char) -> String {
    if name.contains([separator, '"']) {
        return format!("\"{}\"", name.replace('"', "\"\""));
    }
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_as_the_tools_write_them_are_read() {
        let snap = "################\n# ITK-SnAP Label Description File\n\n    0     0    0    0        0  0  0    \"Clear Label\"\n    1   255    0    0        1  1  1    \"left kidney\"\n";
        let table = parse(snap, "x").unwrap();
        assert_eq!(table.name_of(1), "left kidney");
        assert_eq!(table.get(1).unwrap().rgb, [255, 0, 0]);
        let ctbl = "# Color table file x.ctbl\n# 2 values\n0 background 0 0 0 0\n1 left_kidney 255 0 0 255\n";
        assert_eq!(parse(ctbl, "x").unwrap().number_of("left_kidney"), Some(1));
        let csv = "LabelValue,Name,Color_R,Color_G,Color_B,Color_A,Terminology\r\n1,\"kidney, left\",255,0,10,255,a~b\r\n";
        let table = parse(csv, "x").unwrap();
        assert_eq!(table.get(1).unwrap().rgb, [255, 0, 10]);
        assert_eq!(table.name_of(1), "kidney, left");
        let tsv = "index\tname\tabbreviation\tcolor\tmapping\n1\tGray Matter\tGM\t#ff53bb\t1\n";
        let table = parse(tsv, "x").unwrap();
        assert_eq!(table.get(1).unwrap().rgb, [255, 0x53, 0xbb]);
    }

    #[test]
    fn a_table_without_colours_gets_default_ones() {
        let table = parse("name\tindex\nliver\t9\n", "x").unwrap();
        assert_eq!(table.get(9).unwrap().rgb, LabelTable::default_rgb(9));
    }
}
