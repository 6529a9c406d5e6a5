//! Lists of pairs, as CSV or JSON, for files that no common name brings together.

use super::delimited::fields;
use serde::Deserialize;

/// One line of a list. Paths are as written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedPair {
    /// Name of the case; the reference's file name where there is none.
    #[serde(default)]
    pub case: Option<String>,
    /// Label map to score; empty where a model makes it. `pred` in a list means the same.
    #[serde(default, alias = "pred")]
    pub prediction: String,
    /// Label map that is right. `ref` in a list means the same.
    #[serde(alias = "ref")]
    pub reference: String,
    /// Image of the case.
    #[serde(default)]
    pub image: Option<String>,
}

/// A list that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// Not JSON of this form.
    #[error(
        "{0}; expected an array of objects with prediction, reference and, if need be, case and image"
    )]
    Json(String),
    /// A first line without the columns.
    #[error(
        "the first line is {0:?}, expected column names: prediction, reference and, if need be, case and image"
    )]
    Columns(String),
    /// A line with more or fewer fields.
    #[error("line {line} has {found} fields, expected {expected}")]
    Fields {
        /// Counted from 1.
        line: usize,
        /// In this line.
        found: usize,
        /// In the first line.
        expected: usize,
    },
    /// A line without a file name.
    #[error("line {line} names no {column}")]
    Empty {
        /// Counted from 1.
        line: usize,
        /// What is missing.
        column: &'static str,
    },
    /// Nothing in it.
    #[error("the list holds no pair")]
    Nothing,
}

/// Reads a list: a JSON array of objects, or CSV (commas, semicolons or tabs; fields may be quoted) with
/// column names in the first line. `pred` and `ref` are understood as well.
///
/// # Errors
/// [`ListError`].
pub fn parse_list(text: &str) -> Result<Vec<ListedPair>, ListError> {
    let text = text.trim_start_matches('\u{feff}');
    let pairs = if text.trim_start().starts_with(['[', '{']) {
        serde_json::from_str(text).map_err(|error| ListError::Json(error.to_string()))?
    } else {
        parse_csv(text)?
    };
    if pairs.is_empty() {
        return Err(ListError::Nothing);
    }
    Ok(pairs)
}

fn parse_csv(text: &str) -> Result<Vec<ListedPair>, ListError> {
    let mut lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    let (_, head) = lines.next().ok_or(ListError::Nothing)?;
    let separator = [',', ';', '\t']
        .into_iter()
        .find(|&separator| head.contains(separator))
        .unwrap_or(',');
    let columns: Vec<String> = fields(head, separator)
        .iter()
        .map(|name| match name.trim().to_ascii_lowercase().as_str() {
            "pred" => "prediction".to_owned(),
            "ref" => "reference".to_owned(),
            other => other.to_owned(),
        })
        .collect();
    let known = ["case", "prediction", "reference", "image"];
    let place = |name: &str| columns.iter().position(|column| column == name);
    let unknown = columns
        .iter()
        .any(|column| !known.contains(&column.as_str()));
    if unknown || place("reference").is_none() {
        return Err(ListError::Columns(head.to_owned()));
    }
    lines
        .map(|(index, line)| {
            let line_number = index + 1;
            let values = fields(line, separator);
            if values.len() != columns.len() {
                return Err(ListError::Fields {
                    line: line_number,
                    found: values.len(),
                    expected: columns.len(),
                });
            }
            let value = |name: &str| Some(values.get(place(name)?)?.trim().to_owned());
            let optional = |name| value(name).filter(|text| !text.is_empty());
            let needed = |column: &'static str| {
                optional(column).ok_or(ListError::Empty {
                    line: line_number,
                    column,
                })
            };
            let prediction = match place("prediction") {
                Some(_) => needed("prediction")?,
                None => String::new(),
            };
            Ok(ListedPair {
                case: optional("case"),
                prediction,
                reference: needed("reference")?,
                image: optional("image"),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_and_json_say_the_same() {
        let csv =
            "case;Reference;prediction\r\n\"a;\"\"1\"\"\";r/1.nii;p/1.nii\n\n;r/2.nii;p/2.nii\n";
        let json = r#"[{"case": "a;\"1\"", "reference": "r/1.nii", "prediction": "p/1.nii"},
                       {"reference": "r/2.nii", "prediction": "p/2.nii"}]"#;
        let pairs = parse_list(csv).unwrap();
        assert_eq!(pairs, parse_list(json).unwrap());
        assert_eq!(pairs[0].case.as_deref(), Some("a;\"1\""));
        assert_eq!((pairs.len(), &pairs[1].case), (2, &None));
        let short = "case,pred,ref\n\"a;\"\"1\"\"\",p/1.nii,r/1.nii\n,p/2.nii,r/2.nii\n";
        assert_eq!(parse_list(short).unwrap(), pairs);
        assert_eq!(
            parse_list(&json.replace("prediction", "pred")).unwrap(),
            pairs
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let message = |text: &str| parse_list(text).unwrap_err().to_string();
        assert!(message("").contains("no pair"));
        assert!(message("reference\n").contains("no pair"));
        assert!(message("a.nii,b.nii\n").contains("column names"));
        assert!(
            message("prediction,reference\na.nii\n").contains("line 2 has 1 fields, expected 2")
        );
        assert!(message("prediction,reference\n,b.nii\n").contains("line 2 names no prediction"));
        assert!(message("[{\"prediction\": 3}]").contains("array of objects"));
        assert!(message("[{\"reference\": \"a\", \"file\": \"b\"}]").contains("file"));
    }
}
