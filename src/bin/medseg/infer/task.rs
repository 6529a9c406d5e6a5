//! `infer --task`: several models over one reading of each case.

use super::Args;
use super::cases::{self, Done, Turn, channel_name, check_positions};
use super::plan::{Files, Plan, shown_inputs, shown_output};
use super::shelf::Shelf;
use crate::arithmetic::Choice;
use crate::cases::Clock;
use crate::context::Context;
use crate::label_output::Target;
use crate::memory::{Room, Share};
use crate::model_store::Store;
use crate::outcome::{Outcome, Usage};
use crate::task::{self, Named};
use anyhow::Context as _;
use medseg::io::display_name;
use medseg::io::nifti::Header;
use medseg::nnunet::predict::CasePlan;
use medseg::nnunet::statistics::label_statistics;
use medseg::progress::Progress;
use medseg::registration::{Registration, Verdict, register};
use medseg::tasks::definition::{Crop, Step, Task, Work};
use medseg::tasks::images::{Images, onto_first};
use medseg::tasks::run::{self, Witness, largest_plan};
use medseg::volume::{Affine, Grid, Label, LabelMap, LabelTable, Volume};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Added around a subset of labels before its models run, as TotalSegmentator does, in mm.
const SUBSET_MARGIN_MM: f64 = 20.0;

/// Runs the command with a task.
pub fn run(
    name: &str,
    inputs: &[PathBuf],
    args: &Args,
    mut choice: Choice,
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
    choice.keep(plan.to_run());
    let options = args.predict_options(&choice, cx.limits.memory_bytes);
    let (gpus, keep) = (&choice.gpus, plan.to_run() > 1);
    let shelves = Shelf::on_each(&task, &store, &args.checkpoint, &options, gpus, keep)?;
    let shelves = shelves.into_iter().map(Ok).collect();
    // Models are loaded when they are needed, so problems of GPUs turn up then.
    let mut workers = cases::workers(&choice, shelves, |_| None, cx)?;
    let shelf = &mut workers[0].tools;
    for line in shelf.list() {
        cx.detail(&format!("model {line}"));
    }
    let mut report = cx.run_report();
    report.model = Some(json!({"task": task.name, "models": shelf.describe()?}));
    if args.dry_run {
        let room = Room::new(cx.limits.memory_bytes, choice.devices().len());
        return print_plan(&plan, &task, shelf, &room, cx);
    }
    report.settings = args.settings(&choice, &workers);
    report.settings.insert("task".to_owned(), Value::from(name));
    cases::run(args, &plan, report, cx, &mut workers, |shelf, turn| {
        let mut case = Case {
            turn,
            args,
            task: &task,
            cx,
            clock: Clock::new(),
        };
        case.run(shelf)
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
    room: &Room,
    cx: &Context,
) -> anyhow::Result<Outcome> {
    let mut text = format!("task {}\n", task.name);
    for line in shelf.list() {
        text.push_str(&format!("model {line}\n"));
    }
    plan.print(text, cx, |grid| {
        let (largest, limit) = largest_within(room, task, grid, shelf)?;
        let (_, plan) = largest.ok_or_else(|| anyhow::anyhow!("the task runs no model"))?;
        Ok((plan, limit))
    })?;
    Ok(Outcome::Done)
}

/// The plan of the model that takes most memory, with its name, and the limit it was made within, which holds from now
/// on.
fn largest_within(
    room: &Room,
    task: &Task,
    grid: &Grid,
    shelf: &mut Shelf,
) -> anyhow::Result<(Option<(String, CasePlan)>, u64)> {
    let plan = |limit| {
        shelf.set_limit(limit);
        Ok(largest_plan(task, grid, shelf)?)
    };
    room.plan(plan, |largest| {
        largest.as_ref().map_or(0, |(_, plan)| plan.memory.peak)
    })
}

struct Case<'a> {
    turn: &'a Turn<'a>,
    args: &'a Args,
    task: &'a Task,
    cx: &'a Context,
    clock: Clock,
}

impl<'a> Case<'a> {
    fn run(&mut self, shelf: &mut Shelf) -> anyhow::Result<Done> {
        let job = self.turn.job;
        let target = match self.args.per_class {
            true => Target::Volume,
            false => self.args.target(job, self.cx)?,
        };
        let (_memory, channels, header) = self.read(shelf, &target)?;
        self.clock.phase("read");
        let shown = shown_inputs(job);
        check_positions(job, &channels)?;
        let progress = self.cx.progress(&self.turn.id());
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
            gpu_problem: None,
        };
        let map = run::run(self.task, &mut images, shelf, &mut witness, &progress)
            .with_context(|| shown.clone())?;
        let gpu_problem = witness.gpu_problem;
        drop(progress);
        let statistics = self.args.statistics.as_ref();
        let statistics = statistics.map(|_| label_statistics(&map, images.first()));
        let statistics = statistics.map(serde_json::to_value).transpose()?;
        drop(images);
        let outputs = self.write(&map, &header, &target)?;
        self.clock.phase("write");
        let clock = std::mem::replace(&mut self.clock, Clock::new());
        let is_wanted = self.args.run.is_wanted();
        let mut record = self.turn.written(outputs, clock, is_wanted)?;
        if self.args.register {
            let found = Value::Array(self.described(&found)?);
            record.fields.insert("registration".to_owned(), found);
        }
        Ok(Done {
            record,
            statistics,
            gpu_problem,
        })
    }

    /// The channels and the header of the first, by which the memory of the whole case is checked before any voxel
    /// is read; it is the case's until it is dropped.
    fn read(
        &self,
        shelf: &mut Shelf,
        target: &Target,
    ) -> anyhow::Result<(Option<Share<'a>>, Vec<Volume<f32>>, Header)> {
        let mut channels = Vec::new();
        let (mut first_header, mut memory) = (None, None);
        for path in &self.turn.job.case.channels {
            let shown = display_name(path);
            let reader = self.cx.open(path)?;
            if first_header.is_none() {
                let grid = reader.header().grid;
                target.check(&self.turn.job.output, &grid)?;
                let largest = largest_within(self.turn.room, self.task, &grid, shelf);
                let (largest, limit) = largest.with_context(|| shown.clone())?;
                if let Some((model, plan)) = largest {
                    let checked = plan.memory.check(limit);
                    checked.with_context(|| format!("{shown}: model {model}"))?;
                    memory = Some(self.turn.share(plan.memory.peak));
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
        Ok((memory, channels, header))
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
            let (name, file) = (
                self.channel(index + 1),
                channel_name(self.turn.job, index + 1),
            );
            let found = register(first, other, progress).with_context(|| file.clone())?;
            self.clock.phase(&format!("register {name}"));
            let [degrees, mm] = [found.rotation_degrees, found.mean_displacement_mm];
            match found.verdict {
                Verdict::Moved => self.cx.say(&format!(
                    "note: {file}: moved by {mm:.1} mm on average, {degrees:.1} degrees, against {}",
                    channel_name(self.turn.job, 0)
                )),
                Verdict::InPlace => self.cx.detail(&format!("{file}: lies in place")),
                Verdict::Unrelated => self.cx.warn(
                    "registration",
                    &format!(
                        "{file}: no motion makes it fit {} (mutual information {:.2}): taken as it lies; are they of one patient?",
                        channel_name(self.turn.job, 0),
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
        let output = &self.turn.job.output;
        if !self.args.per_class {
            target.save(output, map, &header.geometry, &[], overwrite)?;
            return Ok(vec![shown_output(self.turn.job)]);
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
    gpu_problem: Option<String>,
}

impl Witness for Told<'_> {
    fn done(&mut self, name: &str) {
        self.clock.phase(name);
    }

    fn remark(&mut self, text: &str) {
        self.cx.warn("task", &format!("{}: {text}", self.shown));
    }

    fn gpu_problem(&mut self, text: &str) {
        let problem = format!("{}: {text}", self.shown);
        self.cx.warn_of_gpu(Some(&problem));
        self.gpu_problem.get_or_insert_with(|| text.to_owned());
    }
}
