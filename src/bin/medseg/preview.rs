//! `medseg preview`: a picture of an image with its label map.
//!
//! Three planes through the middle of the labels, a montage of axial slices and the labels' names and
//! colours, as one PNG. Directions are those of radiology; docs/report.md says more.

use crate::context::Context;
use crate::flags::{Existing, RunOutput};
use crate::outcome::{Outcome, Usage};
use anyhow::Context as _;
use medseg::io::atomic::{self, Plan};
use medseg::io::{display_name, labels};
use medseg::provenance::{CaseRecord, InputFile, Status};
use medseg::report::picture::preview::{Style, draw};
use medseg::report::picture::{Png, Window};
use medseg::volume::LabelTable;
use std::path::PathBuf;

/// Draw an image, with a label map on it, as a PNG
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  medseg preview ct.nii.gz -o ct.png
  medseg preview ct.nii.gz labels.nii.gz -o overview.png --window abdomen
  medseg preview ct.nii.gz labels.nii.gz -o overview.png --montage 20 --opacity 0.2 --force")]
pub struct Args {
    /// Image; of several channels the first is shown
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// Label map on the grid of the image
    #[arg(value_name = "MASK")]
    mask: Option<PathBuf>,
    /// Picture (.png) to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Names and colours of labels: abdomen, brats, totalseg or a table file [default: the table in MASK, else abdomen]
    #[arg(long, value_name = "TABLE")]
    labels: Option<PathBuf>,
    /// Intensities from black to white: abdomen, brain, bone, lung, angio or LEVEL,WIDTH (HU for CT) [default: abdomen for CT,
    /// else from the 1st to the 99th percentile]
    #[arg(long, value_name = "WINDOW", allow_hyphen_values = true)]
    window: Option<Window>,
    /// Axial slices below the planes; 0 for none
    #[arg(long, value_name = "N", default_value_t = 10)]
    montage: usize,
    /// How much the labels cover the image, from 0 to 1; outlines are always drawn
    #[arg(long, value_name = "SHARE", default_value_t = 0.35)]
    opacity: f32,
    /// Check the inputs and say what would be written, and stop
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    existing: Existing,
    #[command(flatten)]
    run: RunOutput,
}

/// Most slices of a montage: the picture stays below a hundred million pixels.
const MOST_SLICES: usize = 500;

/// Runs the command.
pub fn run(args: &Args, cx: &Context) -> anyhow::Result<Outcome> {
    let shown = display_name(&args.output);
    let name = args.output.as_os_str().as_encoded_bytes();
    if !name.to_ascii_lowercase().ends_with(b".png") {
        return Err(Usage(format!("output {shown}: expected a name ending in .png")).into());
    }
    if !(0.0..=1.0).contains(&args.opacity) {
        let found = args.opacity;
        return Err(Usage(format!("--opacity {found}: expected a number from 0 to 1")).into());
    }
    if args.montage > MOST_SLICES {
        let found = args.montage;
        return Err(Usage(format!("--montage {found}: expected at most {MOST_SLICES}")).into());
    }
    args.run.check(&args.output)?;
    let mut record = CaseRecord::new(display_name(&args.image), Status::Skipped);
    if args.existing.plan(&args.output)? == Plan::Skip {
        cx.say(&format!("{shown}: exists, skipped"));
    } else {
        let picture = args.picture(cx)?;
        if args.dry_run {
            cx.say(&format!("{shown}: would be written"));
            return Ok(Outcome::Done);
        }
        atomic::write(&args.output, args.existing.overwrite(), &picture.0)?;
        cx.say(&format!("wrote {shown}"));
        record.status = Status::Done;
        record.outputs.push(shown);
        for file in [Some(&args.image), args.mask.as_ref()]
            .into_iter()
            .flatten()
        {
            record
                .inputs
                .push(InputFile::named(file, args.run.is_wanted())?);
        }
    }
    let mut report = cx.run_report();
    report.cases.push(record);
    cx.report_run(report, &args.run)?;
    Ok(Outcome::Done)
}

impl Args {
    fn picture(&self, cx: &Context) -> anyhow::Result<Png> {
        let (mut channels, _) = cx.open(&self.image)?.into_f32()?;
        anyhow::ensure!(
            !channels.is_empty(),
            "{}: no volume in the file",
            display_name(&self.image)
        );
        let image = channels.swap_remove(0);
        let mask = match &self.mask {
            None => None,
            Some(path) => {
                let reader = cx.open(path)?;
                let table = match &self.labels {
                    Some(table) => labels::scheme_or_file(table)?,
                    None => labels::table_in_extensions(reader.extensions())
                        .unwrap_or_else(LabelTable::abdomen),
                };
                Some(reader.into_label_map(table)?.0)
            }
        };
        let window = self
            .window
            .unwrap_or_else(|| Window::automatic(image.as_slice()));
        let style = Style {
            window,
            montage: self.montage,
            opacity: self.opacity,
        };
        draw(&image, mask.as_ref(), style).with_context(|| {
            let files = self.mask.iter().chain([&self.image]);
            files
                .map(|file| display_name(file))
                .collect::<Vec<_>>()
                .join(" on ")
        })
    }
}
