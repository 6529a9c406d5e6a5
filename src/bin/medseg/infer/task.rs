//! `infer --task`: several models over one reading of each case.

use super::Args;
use super::cases::{self, State, channel_name, check_positions, checksums};
use super::plan::{Files, Plan, shown_inputs, shown_output};
use super::shelf::Shelf;
use crate::arithmetic::Choice;
use crate::cases::Clock;
use crate::context::Context;
use crate::label_output::Target;
use crate::model_store::Store;
use crate::outcome::{Outcome, Usage};
use crate::task::{self, Named};
use anyhow::Context as _;
use medseg::io::batch::Job;
use medseg::io::display_name;
use medseg::io::nifti::Header;
use medseg::nnunet::statistics::label_statistics;
use medseg::progress::Progress;
use medseg::provenance::{CaseRecord, Status};
use medseg::registration::{Registration, Verdict, register};
use medseg::tasks::definition::{Crop, Step, Task, Work};
use medseg::tasks::images::{Images, onto_first};
use medseg::tasks::run::{self, Witness, largest_plan};
use medseg::volume::{Affine, Label, LabelMap, LabelTable, Volume};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Added around a subset of labels before its models run, as TotalSegmentator does, in mm.
const SUBSET_MARGIN_MM: f64 = 20.0;

/// Runs the command with a task.
pub fn run(
    name: &str,
    inputs: &[PathBuf],
    args: &Args,
    choice: &Choice,
    cx: &Context,
) -> anyhow::Result<Outcome> {
    let Named { task, base } = task::find(name)?;
    let task = adapted(task, args)?;
    let inputs = by_channel_names(inputs, &task)?;
    let files = match args.per_class {
        true => Files::Classes(class_files(&task.result_table())?),
        false => Files::Map {
            ending: args.format.ending().to_owned(),
            companions: Vec::new(),
        },
    };
    let plan = Plan::new(&inputs, args, task.channels.len(), files)?;
    let store = Store::new(args.models.model_dir.as_deref(), &base);
    let options = args.predict_options(choice, cx.limits.memory_bytes);
    let mut shelf = Shelf::new(&task, &store, &args.checkpoint, options, plan.to_run() > 1)?;
    for line in shelf.list() {
        cx.detail(&format!("model {line}"));
    }
    if args.dry_run {
        return print_plan(&plan, &task, &mut shelf, cx);
    }
    let mut report = cx.run_report();
    report.model = Some(json!({"task": task.name, "models": shelf.describe()?}));
    report.settings = args.settings(choice);
    report.settings.insert("task".to_owned(), Value::from(name));
    cases::run(args, &plan, report, cx, |job, state| {
        let mut case = Case {
            job,
            args,
            task: &task,
            cx,
            clock: Clock::new(),
        };
        case.run(&mut shelf, state)
    })
}

/// The task as the flags change it.
fn adapted(mut task: Task, args: &Args) -> anyhow::Result<Task> {
    if let Some(volume_mm3) = args.remove_small_blobs {
        if !(volume_mm3.is_finite() && volume_mm3 > 0.0) {
            return Err(Usage(format!(
                "--remove-small-blobs {volume_mm3}: expected a volume above 0 mm3"
            ))
            .into());
        }
        let labels = task.labels.iter().map(|(number, _)| number).collect();
        task.steps.push(Step::RemoveSmall { labels, volume_mm3 });
    }
    if args.roi_subset.is_empty() {
        return Ok(task);
    }
    let mut wanted = Vec::new();
    for name in &args.roi_subset {
        let number = task.labels.number_of(name).filter(|number| *number != 0);
        wanted.push(number.ok_or_else(|| {
            Usage(format!(
                "--roi-subset {name}: {} has no such label; `medseg info --tasks {0}` lists them",
                task.name
            ))
        })?);
    }
    let mut task = task.restricted(&wanted);
    if let Work::Models {
        input, subset_crop, ..
    } = &mut task.work
        && let (None, Some(rough)) = (&input.crop, &subset_crop)
    {
        let rough = task::built_in(rough)?;
        let labels = args
            .roi_subset
            .iter()
            .filter_map(|name| rough.labels.number_of(name));
        input.crop = Some(Box::new(Crop {
            labels: labels.collect(),
            margin_mm: [SUBSET_MARGIN_MM; 3],
            task: rough,
        }));
    }
    Ok(task)
}

/// `P=late.nii.gz,A=early.nii.gz` in the order of the task's channels; other inputs as they are.
fn by_channel_names(inputs: &[PathBuf], task: &Task) -> anyhow::Result<Vec<PathBuf>> {
    let named = |part: &str| {
        let (name, path) = part.split_once('=')?;
        let position = task.channels.iter().position(|channel| channel == name)?;
        Some((position, path.to_owned()))
    };
    let mut ordered = Vec::new();
    for input in inputs {
        let text = input.to_str().unwrap_or_default();
        let parts: Vec<Option<(usize, String)>> = text.split(',').map(named).collect();
        if parts.iter().all(Option::is_none) {
            ordered.push(input.clone());
            continue;
        }
        let mut paths = vec![None; task.channels.len()];
        for part in parts {
            let Some((position, path)) = part else {
                return Err(Usage(format!(
                    "{}: name every channel ({}) or none",
                    display_name(input),
                    task.channels.join(", ")
                ))
                .into());
            };
            paths[position] = Some(path);
        }
        let paths: Option<Vec<String>> = paths.into_iter().collect();
        let paths = paths.ok_or_else(|| {
            Usage(format!(
                "{}: {} takes the channels {}",
                display_name(input),
                task.name,
                task.channels.join(", ")
            ))
        })?;
        ordered.push(PathBuf::from(paths.join(",")));
    }
    Ok(ordered)
}

/// File names of the classes, background left out.
fn class_files(table: &LabelTable) -> anyhow::Result<Vec<String>> {
    let classes = table.iter().filter(|(number, _)| *number != 0);
    classes
        .map(|(number, label)| {
            let name = &label.name;
            anyhow::ensure!(
                !name.is_empty() && !name.starts_with('.') && !name.contains('/'),
                "label {number} is called {name:?}, which cannot be the name of a file: use one label map instead of --per-class"
            );
            Ok(format!("{name}.nii.gz"))
        })
        .collect()
}

/// Case, output and memory of every case, and every model, on stdout.
fn print_plan(
    plan: &Plan,
    task: &Task,
    shelf: &mut Shelf,
    cx: &Context,
) -> anyhow::Result<Outcome> {
    let mut text = format!("task {}\n", task.name);
    for line in shelf.list() {
        text.push_str(&format!("model {line}\n"));
    }
    plan.print(text, cx, |grid| {
        let largest = largest_plan(task, grid, shelf)?;
        let (_, plan) = largest.ok_or_else(|| anyhow::anyhow!("the task runs no model"))?;
        Ok(plan)
    })?;
    Ok(Outcome::Done)
}

struct Case<'a> {
    job: &'a Job,
    args: &'a Args,
    task: &'a Task,
    cx: &'a Context,
    clock: Clock,
}

impl Case<'_> {
    fn run(&mut self, shelf: &mut Shelf, state: &mut State) -> anyhow::Result<CaseRecord> {
        let id = self.job.case.id.to_string_lossy().into_owned();
        let target = match self.args.per_class {
            true => Target::Volume,
            false => self.args.target(self.job, self.cx)?,
        };
        let (channels, header) = self.read(shelf, &target, state)?;
        self.clock.phase("read");
        let shown = shown_inputs(self.job);
        check_positions(self.job, &channels)?;
        let progress = self.cx.progress(&id);
        let found = match self.args.register {
            true => self
                .register(&channels, &progress)
                .with_context(|| shown.clone())?,
            false => Vec::new(),
        };
        let channels = self.on_one_grid(channels, &found)?;
        let mut images = Images::new(self.task, channels, self.args.statistics.is_some())
            .with_context(|| shown.clone())?;
        let mut witness = Told {
            clock: &mut self.clock,
            cx: self.cx,
            shown: &shown,
        };
        let map = run::run(self.task, &mut images, shelf, &mut witness, &progress)
            .with_context(|| shown.clone())?;
        drop(progress);
        if self.args.statistics.is_some() {
            let rows = label_statistics(&map, images.first());
            state
                .statistics
                .insert(id.clone(), serde_json::to_value(rows)?);
        }
        drop(images);
        let outputs = self.write(&map, &header, &target)?;
        self.clock.phase("write");
        let [number, total] = state.position;
        self.cx.say(&format!(
            "[{number}/{total}] wrote {} ({:.1} s)",
            shown_output(self.job),
            self.clock.total()
        ));
        let mut record = CaseRecord::new(id.clone(), Status::Done);
        record.outputs = outputs;
        if self.args.register {
            let found = Value::Array(self.described(&found)?);
            record.fields.insert("registration".to_owned(), found);
        }
        if self.args.run.is_wanted() {
            record.inputs = checksums(self.job)?;
            self.clock.phase("checksums");
        }
        record.phases = std::mem::replace(&mut self.clock, Clock::new()).told(self.cx);
        Ok(record)
    }

    /// The channels and the header of the first, by which the memory of the whole case is checked before any voxel
    /// is read.
    fn read(
        &self,
        shelf: &mut Shelf,
        target: &Target,
        state: &mut State,
    ) -> anyhow::Result<(Vec<Volume<f32>>, Header)> {
        let mut channels = Vec::new();
        let mut first_header = None;
        for path in &self.job.case.channels {
            let shown = display_name(path);
            let reader = self.cx.open(path)?;
            if first_header.is_none() {
                let grid = reader.header().grid;
                target.check(&self.job.output, &grid)?;
                let largest =
                    largest_plan(self.task, &grid, shelf).with_context(|| shown.clone())?;
                if let Some((model, plan)) = largest {
                    let peak = plan.memory.peak;
                    let known = &mut state.memory.predicted_peak_bytes;
                    *known = (*known).max(peak);
                    plan.memory
                        .check(self.cx.limits.memory_bytes)
                        .with_context(|| format!("{shown}: model {model}"))?;
                }
            }
            let (volumes, header) = reader.into_f32()?;
            for warning in &header.warnings {
                self.cx.warn("header", &format!("{shown}: {warning}"));
            }
            channels.extend(volumes);
            first_header.get_or_insert(header);
        }
        let header = first_header.ok_or_else(|| anyhow::anyhow!("a case without files"))?;
        Ok((channels, header))
    }

    /// Where places of the first phase lie in every later one.
    fn register(
        &mut self,
        channels: &[Volume<f32>],
        progress: &dyn Progress,
    ) -> anyhow::Result<Vec<Registration>> {
        let mut all = Vec::new();
        let Some((first, others)) = channels.split_first() else {
            return Ok(all);
        };
        for (index, other) in others.iter().enumerate() {
            let (name, file) = (self.channel(index + 1), channel_name(self.job, index + 1));
            let found = register(first, other, progress).with_context(|| file.clone())?;
            self.clock.phase(&format!("register {name}"));
            let [degrees, mm] = [found.rotation_degrees, found.mean_displacement_mm];
            match found.verdict {
                Verdict::Moved => self.cx.say(&format!(
                    "note: {file}: moved by {mm:.1} mm on average, {degrees:.1} degrees, against {}",
                    channel_name(self.job, 0)
                )),
                Verdict::InPlace => self.cx.detail(&format!("{file}: lies in place")),
                Verdict::Unrelated => self.cx.warn(
                    "registration",
                    &format!(
                        "{file}: no motion makes it fit {} (mutual information {:.2}): taken as it lies; are they of one patient?",
                        channel_name(self.job, 0),
                        found.information_after
                    ),
                ),
            }
            all.push(found);
        }
        Ok(all)
    }

    /// Motions for the run report, with the names of the channels.
    fn described(&self, found: &[Registration]) -> anyhow::Result<Vec<Value>> {
        let rows = found.iter().enumerate().map(|(index, found)| {
            let mut row = serde_json::to_value(found)?;
            if let Value::Object(row) = &mut row {
                row.insert("channel".to_owned(), Value::from(self.channel(index + 1)));
                row.insert("onto".to_owned(), Value::from(self.channel(0)));
            }
            Ok(row)
        });
        rows.collect()
    }

    /// The task's name of a channel.
    fn channel(&self, index: usize) -> &str {
        self.task.channels.get(index).map_or("", String::as_str)
    }

    /// Later phases are resampled onto the first.
    fn on_one_grid(
        &mut self,
        mut channels: Vec<Volume<f32>>,
        found: &[Registration],
    ) -> anyhow::Result<Vec<Volume<f32>>> {
        let motions: Vec<Affine> = found.iter().map(Registration::motion).collect();
        for index in onto_first(&mut channels, &motions)? {
            let name = self.task.channels.get(index).map_or("", String::as_str);
            self.clock
                .phase(&format!("channel {name} onto the grid of the first"));
        }
        Ok(channels)
    }

    fn write(
        &self,
        map: &LabelMap,
        header: &Header,
        target: &Target,
    ) -> anyhow::Result<Vec<String>> {
        let overwrite = self.args.existing.overwrite();
        let output = &self.job.output;
        if !self.args.per_class {
            target.save(output, map, &header.geometry, &[], overwrite)?;
            return Ok(vec![shown_output(self.job)]);
        }
        medseg::io::atomic::create_folder(output)?;
        let mut outputs = Vec::new();
        for (number, label) in map.table.iter().filter(|(number, _)| *number != 0) {
            let path = output.join(format!("{}.nii.gz", label.name));
            let mut table = LabelTable::default();
            table.insert(1, Label::clone(label));
            let mask = LabelMap {
                volume: map.volume.map(|&found| u16::from(found == number)),
                table,
            };
            target.save(&path, &mask, &header.geometry, &[], overwrite)?;
            outputs.push(display_name(&path));
        }
        Ok(outputs)
    }
}

/// Turns what a task did into phases and warnings.
struct Told<'a> {
    clock: &'a mut Clock,
    cx: &'a Context,
    shown: &'a str,
}

impl Witness for Told<'_> {
    fn done(&mut self, name: &str) {
        self.clock.phase(name);
    }

    fn remark(&mut self, text: &str) {
        self.cx.warn("task", &format!("{}: {text}", self.shown));
    }
}
