//! The end of the demo: the segmentation scored against the truth, as a workbook and a page.

use crate::context::Context;
use crate::outcome::one_line;
use crate::report::pictures::Volumes;
use anyhow::Context as _;
use medseg::evaluate::align::GRID_TOLERANCE_MM;
use medseg::evaluate::case::{Options, score_case};
use medseg::evaluate::results::{Results, Settings};
use medseg::io::{Overwrite, atomic};
use medseg::provenance::InputFile;
use medseg::report::source::{Model, check};
use medseg::report::workbook::{self, Limits};
use medseg::report::worst::{Shown, choose};
use medseg::report::{Language, Report, html};
use medseg::volume::{LabelMap, Volume};
use std::path::Path;

/// The page, which is written last.
pub const PAGE: &str = "report.html";

/// Names of the files, in the folder of the demo.
pub const FILES: [&str; 3] = ["results.json", "report.xlsx", PAGE];

/// Scores `found` against `truth` and writes [`FILES`].
pub fn write(
    folder: &Path,
    overwrite: Overwrite,
    image: Volume<f32>,
    found: LabelMap,
    truth: LabelMap,
    cx: &Context,
) -> anyhow::Result<()> {
    let options = Options {
        table: found.table.clone(),
        ..Options::default()
    };
    let mut scores = score_case("demo", &found.volume, &truth.volume, &options)?;
    scores.prediction = "segmentation.nii.gz".to_owned();
    scores.reference = "label.nii.gz".to_owned();
    let settings = Settings {
        definition: options.definition.to_string(),
        nsd_tolerances_mm: options.tolerances_mm.clone(),
        grid_tolerance_mm: GRID_TOLERANCE_MM,
        ..Settings::default()
    };
    let results = Results::new(settings, vec![scores], Vec::new(), None);
    let [json, book, page] = FILES.map(|name| folder.join(name));
    atomic::write(&json, overwrite, &results.to_json()?)?;
    let models = [Model {
        name: "demo".to_owned(),
        sha256: InputFile::of(&json)
            .context("results.json")?
            .sha256
            .unwrap_or_default(),
        results,
    }];
    check(&models)?;
    let volumes = Volumes {
        image: Some(image),
        prediction: found.volume,
        reference: truth.volume,
    };
    let worst: Vec<Shown> = choose(&models, 1)
        .into_iter()
        .map(|chosen| Shown {
            pictures: volumes
                .draw(&models[0], &chosen, None)
                .map_err(|error| one_line(&error)),
            chosen,
        })
        .collect();
    let report = Report {
        models: &models,
        worst: &worst,
        language: Language::English,
        flag_below: 0.7,
    };
    atomic::write(&page, overwrite, html::document(&report).as_bytes())?;
    let bytes = workbook::document(&report, Limits::default())?;
    atomic::write(&book, overwrite, &bytes)?;
    cx.detail("scored the segmentation and wrote the report");
    Ok(())
}
