//! One case: read, predict, write, measure.

use super::Args;
use super::cascade::FirstStage;
use super::cases::{Done, Turn, channel_name, check_positions};
use super::companion::Companion;
use super::plan::{shown_inputs, shown_memory, shown_output};
use crate::cases::Clock;
use crate::context::Context;
use crate::label_output::Target;
use crate::memory::Share;
use anyhow::Context as _;
use medseg::io::nifti::{self, Header};
use medseg::io::{display_name, picture};
use medseg::nnunet::postprocess::Postprocessing;
use medseg::nnunet::predict::{CasePlan, Prediction, Predictor};
use medseg::nnunet::statistics::label_statistics;
use medseg::nnunet::uncertainty::label_uncertainties;
use medseg::volume::{Grid, Volume};
use ndarray::Array3;

/// What segments on one device.
pub struct Tools {
    pub predictor: Predictor,
    pub first_stage: FirstStage,
}

impl Tools {
    /// How an image of this grid is predicted within `limit_bytes`, which hold from now on: the stage that takes most.
    ///
    /// # Errors
    /// As [`Predictor::case_plan`].
    pub fn plan(&mut self, grid: &Grid, limit_bytes: u64) -> anyhow::Result<CasePlan> {
        self.predictor.set_limit(limit_bytes);
        if let Some(first) = self.first_stage.predictor() {
            first.set_limit(limit_bytes);
        }
        let second = self.predictor.case_plan(grid)?;
        self.first_stage.larger(second, grid)
    }

    /// Why the processor computes although a GPU was asked for.
    pub fn gpu_problem(&self) -> Option<&str> {
        let first = match &self.first_stage {
            FirstStage::Model(first) => first.gpu_problem(),
            _ => None,
        };
        self.predictor.gpu_problem().or(first)
    }
}

/// A case with what it needs.
pub struct Case<'a> {
    pub turn: &'a Turn<'a>,
    pub args: &'a Args,
    pub tools: &'a mut Tools,
    pub postprocessing: Option<&'a Postprocessing>,
    /// Whether a label map of several slices gets its spacing beside it.
    pub writes_spacing: bool,
    pub cx: &'a Context,
}

impl<'a> Case<'a> {
    /// Segments the case and writes its files.
    ///
    /// # Errors
    /// Anything that prevents the label map from being written; nothing is left behind then.
    pub fn run(&mut self) -> anyhow::Result<Done> {
        let (id, job) = (self.turn.id(), self.turn.job);
        let mut clock = Clock::new();
        let target = self.args.target(job, self.cx)?;
        let (_memory, channels, header) = self.read(&target)?;
        clock.phase("read");
        let progress = self.cx.progress(&id);
        let previous = self
            .tools
            .first_stage
            .label_map(&job.case.id, &channels, &progress, self.cx)
            .with_context(|| shown_inputs(job))?;
        if previous.is_some() {
            clock.phase("first stage");
        }
        let (previous, first_problem) = previous.unzip();
        let mut prediction = self
            .tools
            .predictor
            .predict(&channels, previous.as_ref(), &progress)
            .with_context(|| shown_inputs(job))?;
        drop(progress);
        clock.phase("predict");
        self.cx.warn_of_gpu(prediction.gpu_problem.as_deref());
        let gpu_problem = prediction.gpu_problem.take().or(first_problem.flatten());
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
        let statistics = statistics.map(serde_json::to_value).transpose()?;
        let is_wanted = self.args.run.is_wanted();
        let mut record = self.turn.written(outputs, clock, is_wanted)?;
        if let Some(rows) = uncertainty {
            let rows = serde_json::to_value(rows)?;
            record.fields.insert("uncertainty".to_owned(), rows);
        }
        Ok(Done {
            record,
            statistics,
            gpu_problem,
        })
    }

    /// The channels in order; the header of the first gives the output its geometry. Whether the whole case fits into
    /// memory is decided by that header, before any voxel is read; its memory is the case's until it is dropped.
    fn read(
        &mut self,
        target: &Target,
    ) -> anyhow::Result<(Option<Share<'a>>, Vec<Volume<f32>>, Header)> {
        let mut channels = Vec::new();
        let (mut first_header, mut memory) = (None, None);
        for path in &self.turn.job.case.channels {
            let reader = self.cx.open(path)?;
            if first_header.is_none() {
                target.check(&self.turn.job.output, &reader.header().grid)?;
                let taken = self.take_memory(&reader.header().grid);
                memory = Some(taken.with_context(|| display_name(path))?);
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
        Ok((memory, channels, header))
    }

    fn check_channels(&self, channels: &[Volume<f32>]) -> anyhow::Result<()> {
        let elsewhere = check_positions(self.turn.job, channels)?;
        if let Some(text) = elsewhere.first() {
            self.cx.warn("channel position", text);
        }
        for (index, doubt) in self.tools.predictor.doubts(channels) {
            let name = channel_name(self.turn.job, index);
            self.cx.warn("intensities", &format!("{name} {doubt}"));
        }
        Ok(())
    }

    fn take_memory(&mut self, grid: &Grid) -> anyhow::Result<Share<'a>> {
        let plan = |limit| self.tools.plan(grid, limit);
        let (plan, limit) = self.turn.room.plan(plan, |plan| plan.memory.peak)?;
        plan.memory.check(limit)?;
        let inputs = shown_inputs(self.turn.job);
        let text = format!("{inputs}: {}", shown_memory(&plan, limit));
        // What costs time is said unasked.
        match plan.price() {
            Some(_) => self.cx.say(&format!("note: {text}")),
            None => self.cx.detail(&text),
        }
        Ok(self.turn.share(plan.memory.peak))
    }

    fn write(
        &self,
        mut prediction: Prediction,
        header: &Header,
        target: &Target,
    ) -> anyhow::Result<Vec<String>> {
        let existing = self.args.existing;
        let output = &self.turn.job.output;
        let (map, geometry) = (&prediction.label_map, &header.geometry);
        let mut outputs = vec![shown_output(self.turn.job)];
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
