//! One case: read, predict, write, measure.

use super::Args;
use super::cascade::FirstStage;
use super::plan::{record, shown_inputs, shown_memory, shown_output};
use crate::context::Context;
use crate::label_output::Target;
use anyhow::Context as _;
use medseg::io::batch::{Job, case_name};
use medseg::io::display_name;
use medseg::io::nifti::{self, Header};
use medseg::nnunet::postprocess::Postprocessing;
use medseg::nnunet::predict::{Prediction, Predictor};
use medseg::nnunet::statistics::label_statistics;
use medseg::provenance::{CaseRecord, InputFile, Memory, Phase, Status};
use medseg::volume::{Grid, GridMismatch, Volume};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Distance between corresponding voxels of two channels above which a warning is due.
const CHANNEL_TOLERANCE_MM: f64 = 1e-3;

/// A case with what it needs.
pub struct Case<'a> {
    pub job: &'a Job,
    pub args: &'a Args,
    pub predictor: &'a Predictor,
    pub first_stage: &'a FirstStage,
    pub postprocessing: Option<&'a Postprocessing>,
    pub cx: &'a Context,
}

impl Case<'_> {
    /// Segments the case and writes its files. Statistics are added under the case's name.
    ///
    /// # Errors
    /// Anything that prevents the label map from being written; nothing is left behind then.
    pub fn run(
        &self,
        number: usize,
        total: usize,
        statistics: &mut Map<String, Value>,
        memory: &mut Memory,
    ) -> anyhow::Result<CaseRecord> {
        let id = self.job.case.id.to_string_lossy().into_owned();
        let mut clock = Clock::new();
        let target = self.target()?;
        let (channels, header) = self.read(memory)?;
        clock.phase("read");
        let progress = self.cx.progress(&id);
        let previous = self
            .first_stage
            .label_map(&self.job.case.id, &channels, &progress, self.cx)
            .with_context(|| shown_inputs(self.job))?;
        if previous.is_some() {
            clock.phase("first stage");
        }
        let mut prediction = self
            .predictor
            .predict(&channels, previous.as_ref(), &progress)
            .with_context(|| shown_inputs(self.job))?;
        drop(progress);
        clock.phase("predict");
        if self.args.skip_air {
            let skipped = prediction.skipped_tiles;
            self.cx.say(&format!(
                "note: {id}: {skipped} tile(s) held only air and were made background without the network"
            ));
        }
        if let Some(postprocessing) = self.postprocessing {
            postprocessing.apply(prediction.label_map.volume.data_mut())?;
            clock.phase("postprocess");
        }
        let outputs = self.write(&prediction, &header, &target)?;
        clock.phase("write");
        if self.args.statistics.is_some() {
            let rows = label_statistics(&prediction.label_map, channels.first());
            statistics.insert(id, serde_json::to_value(rows)?);
        }
        self.cx.say(&format!(
            "[{number}/{total}] wrote {} ({:.1} s)",
            shown_output(self.job),
            clock.total()
        ));
        let mut record = record(self.job, Status::Done, None);
        record.outputs = outputs;
        if self.args.report.report.is_some() {
            record.inputs = self.checksums()?;
            clock.phase("checksums");
        }
        for phase in &clock.phases {
            self.cx
                .detail(&format!("  {}: {:.2} s", phase.name, phase.seconds));
        }
        record.phases = clock.phases;
        Ok(record)
    }

    /// The channels in order; the header of the first gives the output its geometry. Whether the whole case fits into
    /// memory is decided by that header, before any voxel is read.
    fn read(&self, memory: &mut Memory) -> anyhow::Result<(Vec<Volume<f32>>, Header)> {
        let mut channels = Vec::new();
        let mut first_header = None;
        for path in &self.job.case.channels {
            let reader = self.cx.open(path)?;
            if first_header.is_none() {
                self.check_memory(&reader.header().grid, memory)
                    .with_context(|| display_name(path))?;
            }
            let (volumes, header) = reader.into_f32()?;
            for warning in &header.warnings {
                self.cx
                    .warn("header", &format!("{}: {warning}", display_name(path)));
            }
            channels.extend(volumes);
            first_header.get_or_insert(header);
        }
        let header = first_header.ok_or_else(|| anyhow::anyhow!("a case without files"))?;
        self.check_channels(&channels)?;
        Ok((channels, header))
    }

    /// Refuses channels of different places in the patient and warns of doubtful ones.
    fn check_channels(&self, channels: &[Volume<f32>]) -> anyhow::Result<()> {
        let name = |index: usize| match self.job.case.channels.get(index) {
            Some(path) => display_name(path),
            None => format!("channel {index}"),
        };
        let Some((first, others)) = channels.split_first() else {
            return Ok(());
        };
        for (index, other) in others.iter().enumerate() {
            anyhow::ensure!(
                other.grid().overlaps(first.grid()),
                "{} and {} do not overlap: expected channels of one patient in one position",
                name(0),
                name(index + 1)
            );
            if let Err(mismatch @ GridMismatch::Position { .. }) = other
                .grid()
                .check_matches(first.grid(), CHANNEL_TOLERANCE_MM)
            {
                let text = format!("{} against {}: {mismatch}", name(index + 1), name(0));
                self.cx.warn("channel position", &text);
            }
        }
        for (index, doubt) in self.predictor.doubts(channels) {
            self.cx
                .warn("intensities", &format!("{} {doubt}", name(index)));
        }
        Ok(())
    }

    fn check_memory(&self, grid: &Grid, memory: &mut Memory) -> anyhow::Result<()> {
        let plan = self.predictor.case_plan(grid)?;
        let plan = self.first_stage.larger(plan, grid)?;
        let limit = self.cx.limits.memory_bytes;
        memory.predicted_peak_bytes = memory.predicted_peak_bytes.max(plan.memory.peak);
        plan.memory.check(limit)?;
        let text = format!("{}: {}", shown_inputs(self.job), shown_memory(&plan, limit));
        // What costs time is said unasked.
        match plan.price() {
            Some(_) => self.cx.say(&format!("note: {text}")),
            None => self.cx.detail(&text),
        }
        Ok(())
    }

    /// Where the label map goes.
    fn target(&self) -> anyhow::Result<Target> {
        let files = self.job.case.channels.iter().map(PathBuf::as_path);
        let files: Vec<&Path> = files.collect();
        let (output, id) = (&self.job.output, &self.job.case.id);
        self.args.format.target(output, id, &files, self.cx)
    }

    fn write(
        &self,
        prediction: &Prediction,
        header: &Header,
        target: &Target,
    ) -> anyhow::Result<Vec<String>> {
        let overwrite = self.args.existing.overwrite();
        let output = &self.job.output;
        let mut outputs = vec![shown_output(self.job)];
        // The label map comes last: where it is, everything of the case is.
        if let Some(probabilities) = &prediction.probabilities {
            let path = probabilities_path(output);
            let volumes = probabilities
                .outer_iter()
                .map(|class| Ok(Volume::new(class.to_owned(), *prediction.label_map.grid())?))
                .collect::<anyhow::Result<Vec<_>>>()?;
            let volumes: Vec<&Volume<f32>> = volumes.iter().collect();
            nifti::save_volume(&path, &volumes, &header.geometry, Vec::new(), overwrite)?;
            outputs.push(display_name(&path));
        }
        let map = &prediction.label_map;
        target.save(output, map, &header.geometry, &[], overwrite)?;
        Ok(outputs)
    }

    fn checksums(&self) -> anyhow::Result<Vec<InputFile>> {
        let files = self.job.case.channels.iter();
        files
            .map(|path| {
                if path == Path::new("-") {
                    return Ok(InputFile::standard_input());
                }
                Ok(InputFile::of(path)?)
            })
            .collect()
    }
}

/// `case.nii.gz` to `case_probabilities.nii.gz`, beside it.
fn probabilities_path(output: &Path) -> PathBuf {
    let mut name = case_name(output);
    name.push("_probabilities.nii.gz");
    output.with_file_name(name)
}

/// Seconds per phase.
struct Clock {
    started: Instant,
    last: Instant,
    phases: Vec<Phase>,
}

impl Clock {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            started: now,
            last: now,
            phases: Vec::new(),
        }
    }

    /// Ends the phase that has been running since the last call.
    fn phase(&mut self, name: &str) {
        let now = Instant::now();
        self.phases.push(Phase {
            name: name.to_owned(),
            seconds: (now - self.last).as_secs_f64(),
        });
        self.last = now;
    }

    fn total(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}
