//! The lines of a NRRD header.

use super::super::error::{Error, Result};
use super::super::stream::Stream;
use std::collections::BTreeMap;

/// Longest line and most lines of a header; a `.seg.nrrd` has a dozen lines for every segment.
const MOST_LINE_BYTES: usize = 64 << 10;
const MOST_LINES: usize = 1 << 16;

/// Fields (`name: value`) and key/value pairs (`key:=value`).
pub(super) struct Fields<'a> {
    pub file: &'a str,
    fields: BTreeMap<String, String>,
    /// Key/value pairs in alphabetical order.
    pub pairs: BTreeMap<String, String>,
}

impl<'a> Fields<'a> {
    /// Reads up to the empty line (or the end, for a detached header).
    pub fn read(stream: &mut Stream, file: &'a str) -> Result<Self> {
        let mut all = Self {
            file,
            fields: BTreeMap::new(),
            pairs: BTreeMap::new(),
        };
        for _ in 0..MOST_LINES {
            let line = stream.read_line(MOST_LINE_BYTES)?.unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.trim().is_empty() {
                return Ok(all);
            }
            if line.starts_with('#') {
                continue;
            }
            let pair = line.split_once(":=");
            let field = line.split_once(": ");
            match (pair, field) {
                (Some((key, value)), _) => all.pairs.insert(key.to_owned(), value.to_owned()),
                (None, Some((name, value))) => all
                    .fields
                    .insert(name.trim().to_ascii_lowercase(), value.trim().to_owned()),
                (None, None) => {
                    return Err(Error::malformed(
                        file,
                        format!(
                            "the header line {line:?} is neither \"field: value\" nor \"key:=value\""
                        ),
                    ));
                }
            };
        }
        Err(Error::malformed(
            file,
            format!("the header has more than {MOST_LINES} lines"),
        ))
    }

    /// The first of `names` that is there.
    pub fn text(&self, names: &[&str]) -> Option<&str> {
        names
            .iter()
            .find_map(|name| self.fields.get(*name))
            .map(String::as_str)
    }

    /// A count; 0 where the field is absent.
    pub fn count(&self, names: &[&str]) -> Result<u64> {
        let Some(text) = self.text(names) else {
            return Ok(0);
        };
        text.parse().map_err(|_| {
            Error::malformed(
                self.file,
                format!(
                    "{} is {text:?}, expected a whole number",
                    names.first().copied().unwrap_or_default()
                ),
            )
        })
    }

    pub fn sizes(&self, axes: usize) -> Result<Vec<u64>> {
        let text = self.text(&["sizes"]).unwrap_or_default();
        let sizes: Vec<u64> = text
            .split_whitespace()
            .map_while(|word| word.parse().ok().filter(|&size| size > 0))
            .collect();
        if sizes.len() != axes || sizes.len() != text.split_whitespace().count() {
            return Err(Error::malformed(
                self.file,
                format!("sizes is {text:?}, expected {axes} numbers of at least 1"),
            ));
        }
        Ok(sizes)
    }

    /// `space directions`: a vector for each spatial axis, `None` for the others.
    pub fn directions(&self, axes: usize) -> Result<Option<Vec<Option<[f64; 3]>>>> {
        let Some(text) = self.text(&["space directions"]) else {
            return Ok(None);
        };
        let wrong = || {
            Error::malformed(
                self.file,
                format!("space directions is {text:?}, expected {axes} vectors or \"none\""),
            )
        };
        let mut found = Vec::new();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("none") {
                found.push(None);
                rest = after.trim_start();
            } else {
                let (inside, after) = rest.split_once(')').ok_or_else(wrong)?;
                found.push(Some(vector(inside).ok_or_else(wrong)?));
                rest = after.trim_start();
            }
        }
        if found.len() != axes {
            return Err(wrong());
        }
        Ok(Some(found))
    }

    /// Axis-aligned steps from `spacings`; `NaN` marks an axis that is not spatial. Without the
    /// field every voxel is one millimetre, as in ITK.
    pub fn spacings(&self, axes: usize) -> Result<Vec<Option<[f64; 3]>>> {
        let text = self.text(&["spacings"]).unwrap_or_default();
        let mut numbers: Vec<Option<f64>> = text
            .split_whitespace()
            .map(|word| word.parse().ok())
            .collect();
        if text.is_empty() {
            numbers = vec![Some(1.0); axes.min(3)];
            numbers.resize(axes, Some(f64::NAN));
        }
        if numbers.len() != axes || numbers.contains(&None) {
            return Err(Error::malformed(
                self.file,
                format!("spacings is {text:?}, expected {axes} numbers"),
            ));
        }
        let mut spatial = 0;
        let steps = numbers.into_iter().flatten().map(|length| {
            (!length.is_nan()).then(|| {
                let step = std::array::from_fn(|axis| if axis == spatial { length } else { 0.0 });
                spatial += 1;
                step
            })
        });
        Ok(steps.collect())
    }

    pub fn origin(&self) -> Result<[f64; 3]> {
        let Some(text) = self.text(&["space origin"]) else {
            return Ok([0.0; 3]);
        };
        vector(text.trim_end_matches(')')).ok_or_else(|| {
            Error::malformed(
                self.file,
                format!("space origin is {text:?}, expected a vector such as (0,0,0)"),
            )
        })
    }

    /// Refuses `space units` other than millimetres.
    pub fn check_millimetres(&self) -> Result<()> {
        let units = self.text(&["space units"]).unwrap_or_default();
        let wrong = units
            .split_whitespace()
            .map(|unit| unit.trim_matches('"'))
            .find(|unit| !matches!(*unit, "" | "mm" | "millimeter" | "millimetre"));
        match wrong {
            None => Ok(()),
            Some(unit) => Err(Error::unsupported(
                self.file,
                format!("space units are {unit:?}, expected \"mm\""),
            )),
        }
    }
}

/// `(1,2,3` or `(1,2` (a plane: the third is 0), finite numbers.
fn vector(text: &str) -> Option<[f64; 3]> {
    let inside = text.trim().strip_prefix('(')?;
    let numbers: Option<Vec<f64>> = inside
        .split(',')
        .map(|word| word.trim().parse().ok().filter(|n: &f64| n.is_finite()))
        .collect();
    match *numbers?.as_slice() {
        [x, y, z] => Some([x, y, z]),
        [x, y] => Some([x, y, 0.0]),
        _ => None,
    }
}
