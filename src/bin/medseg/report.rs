//! `medseg report`: workbook, page and Markdown from results of `medseg evaluate`.
//!
//! The results files hold every number; nothing is scored again. Models are the results files, named
//! by their file names. docs/report.md describes sheets and pages.

pub mod pictures;

use crate::context::Context;
use crate::flags::{Existing, RunOutput};
use crate::outcome::{Outcome, Usage};
use anyhow::Context as _;
use medseg::evaluate::results::Results;
use medseg::io::atomic::{self, Plan};
use medseg::io::display_name;
use medseg::provenance::{CaseRecord, InputFile, Status};
use medseg::report::picture::Window;
use medseg::report::source::{Model, check};
use medseg::report::workbook;
use medseg::report::worst::choose;
use medseg::report::{Language, Report, html, markdown};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Make a workbook and a page of results
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  medseg report -i results.json -o report.xlsx
  medseg report -i results.json more.json -o report.xlsx --markdown summary.md
  medseg report -i results.json -o report.xlsx --lang ko --worst 5
  medseg report -i results.json -o report.xlsx --html report.html
  medseg report -i results.json -o report.xlsx --images images --predictions predictions \\
    --references references")]
pub struct Args {
    /// Results files of medseg evaluate, one for each model; the first is what others are compared with
    #[arg(short, long, value_name = "FILE", num_args = 1.., required = true)]
    input: Vec<PathBuf>,
    /// Workbook (.xlsx) to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Page (.html) to write: one file that needs no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Markdown file to write, for job summaries
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Names of the models, in the order of the files [default: the file names]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    names: Vec<String>,
    /// Language of headings: en or ko
    #[arg(long, value_name = "LANG", default_value = "en")]
    lang: Language,
    /// Folder (or file) of the images, named CASE_0000 or CASE, for pictures of the worst cases
    #[arg(long, visible_alias = "image", value_name = "DIR", requires_all = ["predictions", "references"])]
    images: Option<PathBuf>,
    /// Folder (or file) of the predictions that were scored, one for each results file
    #[arg(long, visible_alias = "prediction", value_name = "DIR", num_args = 1.., requires = "references")]
    predictions: Vec<PathBuf>,
    /// Folder (or file) of the references
    #[arg(
        long,
        visible_alias = "reference",
        value_name = "DIR",
        requires = "predictions"
    )]
    references: Option<PathBuf>,
    /// Intensities from black to white: abdomen, brain, bone, lung, angio or LEVEL,WIDTH (HU for CT) [default: abdomen for CT,
    /// else from the 1st to the 99th percentile]
    #[arg(long, value_name = "WINDOW", allow_hyphen_values = true)]
    window: Option<Window>,
    /// How many of the worst cases of every label to list
    #[arg(long, value_name = "N", default_value_t = 3)]
    worst: usize,
    /// Mark cases with a Dice below this, from 0 to 1
    #[arg(long, value_name = "DICE", default_value_t = 0.7)]
    flag_below: f64,
    /// Check the results and say what would be written, and stop
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    existing: Existing,
    #[command(flatten)]
    run: RunOutput,
}

/// Runs the command.
pub fn run(args: &Args, cx: &Context) -> anyhow::Result<Outcome> {
    args.check()?;
    let mut record = CaseRecord::new(display_name(&args.output), Status::Skipped);
    let mut run = cx.run_report();
    if args.existing.plan(&args.output)? == Plan::Skip {
        cx.say(&format!("{}: exists, skipped", display_name(&args.output)));
        run.cases.push(record);
        cx.report_run(run, &args.run)?;
        return Ok(Outcome::Done);
    }
    let models = read_models(args)?;
    check(&models)?;
    if args.dry_run {
        for path in args.outputs() {
            cx.say(&format!("{}: would be written", display_name(path)));
        }
        return Ok(Outcome::Done);
    }
    let (shown, missing) = pictures::make(args, cx, &models, choose(&models, args.worst))?;
    let report = Report {
        models: &models,
        worst: &shown,
        language: args.lang,
        flag_below: args.flag_below,
    };
    let overwrite = args.existing.overwrite_companions();
    if let Some(path) = &args.markdown {
        atomic::write(path, overwrite, markdown::document(&report).as_bytes())?;
    }
    if let Some(path) = &args.html {
        atomic::write(path, overwrite, html::document(&report).as_bytes())?;
    }
    let book = workbook::document(&report, workbook::Limits::default())
        .with_context(|| display_name(&args.output))?;
    atomic::write(&args.output, overwrite, &book)?;
    cx.say(&format!("wrote {}", display_name(&args.output)));
    record.status = Status::Done;
    record.outputs = args.outputs().map(|path| display_name(path)).collect();
    for file in &args.input {
        record
            .inputs
            .push(InputFile::named(file, args.run.is_wanted())?);
    }
    run.cases.push(record);
    cx.report_run(run, &args.run)?;
    Ok(if missing > 0 {
        Outcome::SomeFailed
    } else {
        Outcome::Done
    })
}

impl Args {
    /// Every file to write; the workbook, which says that the run is complete, last.
    fn outputs(&self) -> impl Iterator<Item = &PathBuf> {
        let others = [&self.markdown, &self.html];
        others.into_iter().flatten().chain([&self.output])
    }

    /// Refuses what cannot work, before anything is read.
    fn check(&self) -> anyhow::Result<()> {
        let name = self.output.as_os_str().as_encoded_bytes();
        if !name.to_ascii_lowercase().ends_with(b".xlsx") {
            let shown = display_name(&self.output);
            return Err(Usage(format!("output {shown}: expected a name ending in .xlsx")).into());
        }
        if !(0.0..=1.0).contains(&self.flag_below) {
            let found = self.flag_below;
            return Err(Usage(format!("--flag-below {found}: expected a Dice from 0 to 1")).into());
        }
        if !self.names.is_empty() && self.names.len() != self.input.len() {
            return Err(Usage(format!(
                "--names has {} names for {} results files",
                self.names.len(),
                self.input.len()
            ))
            .into());
        }
        for path in self.outputs() {
            atomic::check_output(path, self.existing.overwrite_companions())?;
        }
        self.run.check(&self.output)?;
        Ok(())
    }
}

fn read_models(args: &Args) -> anyhow::Result<Vec<Model>> {
    let mut taken = BTreeSet::new();
    let mut models = Vec::new();
    for (index, path) in args.input.iter().enumerate() {
        let reading = || format!("reading {}", display_name(path));
        let text = std::fs::read(path).with_context(reading)?;
        let input = InputFile::of(path).with_context(reading)?;
        let results = Results::from_json(&text).with_context(|| display_name(path))?;
        let base = args.names.get(index).cloned().unwrap_or_else(|| stem(path));
        // Two files of one name in different folders are two models.
        let mut name = base.clone();
        let mut number = 2;
        while !taken.insert(name.clone()) {
            name = format!("{base} ({number})");
            number += 1;
        }
        models.push(Model {
            name,
            sha256: input.sha256.unwrap_or_default(),
            results,
        });
    }
    Ok(models)
}

fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(
        || display_name(path),
        |stem| stem.to_string_lossy().into_owned(),
    )
}
