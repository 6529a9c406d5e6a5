//! One case: read, predict, write, measure.

use super::Args;
use super::cascade::FirstStage;
use super::cases::{State, channel_name, check_positions, checksums};
use super::companion::Companion;
use super::plan::{shown_inputs, shown_memory, shown_output};
use crate::cases::Clock;
use crate::context::Context;
use crate::label_output::Target;
use anyhow::Context as _;
use medseg::io::batch::Job;
use medseg::io::nifti::{self, Header};
use medseg::io::{display_name, picture};
use medseg::nnunet::postprocess::Postprocessing;
use medseg::nnunet::predict::{Prediction, Predictor};
use medseg::nnunet::statistics::label_statistics;
use medseg::nnunet::uncertainty::label_uncertainties;
use medseg::provenance::{CaseRecord, Memory, Status};
use medseg::volume::{Grid, Volume};
use ndarray::Array3;

/// A case with what it needs.
pub struct Case<'a> {
    pub job: &'a Job,
    pub args: &'a Args,
    pub predictor: &'a Predictor,
    pub first_stage: &'a FirstStage,
    pub postprocessing: Option<&'a Postprocessing>,
    /// Whether a label map of several slices gets its spacing beside it.
    pub writes_spacing: bool,
    pub cx: &'a Context,
}

impl Case<'_> {
    /// Segments the case and writes its files. Statistics are added under the case's name.
    ///
    /// # Errors
    /// Anything that prevents the label map from being written; nothing is left behind then.
    pub fn run(&self, state: &mut State) -> anyhow::Result<CaseRecord> {
        let id = self.job.case.id.to_string_lossy().into_owned();
        let mut clock = Clock::new();
        let target = self.args.target(self.job, self.cx)?;
        let (channels, header) = self.read(&target, &mut state.memory)?;
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
        self.cx.warn_of_gpu(prediction.gpu_problem.as_deref());
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
        let map = &prediction.label_map;
        let uncertainty = prediction.uncertainty.as_ref();
        let uncertainty = uncertainty.map(|found| label_uncertainties(map, found));
        let statistics = self.args.statistics.as_ref();
        let statistics = statistics.map(|_| label_statistics(map, channels.first()));
        let outputs = self.write(prediction, &header, &target)?;
        clock.phase("write");
        if let Some(rows) = statistics {
            state
                .statistics
                .insert(id.clone(), serde_json::to_value(rows)?);
        }
        let [number, total] = state.position;
        self.cx.say(&format!(
            "[{number}/{total}] wrote {} ({:.1} s)",
            shown_output(self.job),
            clock.total()
        ));
        let mut record = CaseRecord::new(id.clone(), Status::Done);
        record.outputs = outputs;
        if let Some(rows) = uncertainty {
            let rows = serde_json::to_value(rows)?;
            record.fields.insert("uncertainty".to_owned(), rows);
        }
        if self.args.run.is_wanted() {
            record.inputs = checksums(self.job)?;
            clock.phase("checksums");
        }
        record.phases = clock.told(self.cx);
        Ok(record)
    }

    /// The channels in order; the header of the first gives the output its geometry. Whether the whole case fits into
    /// memory is decided by that header, before any voxel is read.
    fn read(
        &self,
        target: &Target,
        memory: &mut Memory,
    ) -> anyhow::Result<(Vec<Volume<f32>>, Header)> {
        let mut channels = Vec::new();
        let mut first_header = None;
        for path in &self.job.case.channels {
            let reader = self.cx.open(path)?;
            if first_header.is_none() {
                target.check(&self.job.output, &reader.header().grid)?;
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

    fn check_channels(&self, channels: &[Volume<f32>]) -> anyhow::Result<()> {
        let elsewhere = check_positions(self.job, channels)?;
        if let Some(text) = elsewhere.first() {
            self.cx.warn("channel position", text);
        }
        for (index, doubt) in self.predictor.doubts(channels) {
            let name = channel_name(self.job, index);
            self.cx.warn("intensities", &format!("{name} {doubt}"));
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

    fn write(
        &self,
        mut prediction: Prediction,
        header: &Header,
        target: &Target,
    ) -> anyhow::Result<Vec<String>> {
        let existing = self.args.existing;
        let output = &self.job.output;
        let (map, geometry) = (&prediction.label_map, &header.geometry);
        let mut outputs = vec![shown_output(self.job)];
        let mut save = |companion: Companion, volumes: Vec<Array3<f32>>| {
            let path = companion.path(output);
            let volumes = volumes.into_iter().map(|all| Volume::new(all, *map.grid()));
            let volumes: Vec<Volume<f32>> = volumes.collect::<Result<_, _>>()?;
            let volumes: Vec<&Volume<f32>> = volumes.iter().collect();
            let overwrite = existing.overwrite_companions();
            nifti::save_volume(&path, &volumes, geometry, Vec::new(), overwrite)?;
            outputs.push(display_name(&path));
            anyhow::Ok(())
        };
        // The label map comes last: where it is, everything of the case is.
        if let Some(probabilities) = prediction.probabilities.take() {
            let classes = probabilities.outer_iter();
            let classes = classes.map(|class| class.to_owned()).collect();
            save(Companion::Probabilities, classes)?;
        }
        if let Some(found) = prediction.uncertainty.take() {
            save(Companion::Uncertainty, vec![found.entropy])?;
            if let Some(disagreement) = found.disagreement {
                save(Companion::Disagreement, vec![disagreement])?;
            }
        }
        if self.writes_spacing && map.grid().shape[0] > 1 {
            let path = Companion::Spacing.path(output);
            let spacing = picture::spacing_json(map.grid().spacing_mm);
            medseg::io::atomic::write(&path, existing.overwrite_companions(), &spacing)?;
            outputs.push(display_name(&path));
        }
        target.save(output, map, geometry, &[], existing.overwrite())?;
        Ok(outputs)
    }
}
