//! The `medseg` command line: parse, set up threads, dispatch, map errors to exit codes.

mod arithmetic;
mod bench;
mod bridges;
mod cases;
mod check_model;
mod compare;
mod context;
mod convert;
mod demo;
mod evaluate;
mod fat;
mod flags;
mod infer;
mod info;
mod label_cases;
mod label_output;
mod labels;
mod manual;
mod memory;
mod model;
mod model_store;
mod outcome;
mod phantom;
mod preview;
mod report;
mod sample;
mod signals;
mod skeleton;
mod smooth;
mod task;
mod terminal;
mod ureter_connect;
mod vessel_connect;

use clap::{CommandFactory, Parser};
use context::Context;
use outcome::Outcome;
use std::process::ExitCode;

/// CT and MR volumes to checked anatomy. Research use only; not a medical device.
#[derive(Parser)]
#[command(
    name = "medseg",
    version,
    arg_required_else_help = true,
    max_term_width = 100
)]
struct Cli {
    #[command(flatten)]
    global: flags::Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Infer(Box<infer::Args>),
    Smooth(Box<smooth::Args>),
    VesselConnect(vessel_connect::Args),
    UreterConnect(ureter_connect::Args),
    Fat(fat::Args),
    Sample(sample::Args),
    Skeleton(skeleton::Args),
    Evaluate(Box<evaluate::Args>),
    Report(Box<report::Args>),
    Preview(preview::Args),
    Info(info::Args),
    CheckModel(check_model::Args),
    Compare(compare::Args),
    Labels(labels::Args),
    Convert(convert::Args),
    Phantom(phantom::Args),
    Demo(demo::Args),
    Bench(bench::Args),
    Completions(manual::CompletionsArgs),
    Man(manual::ManArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    signals::install();
    let outcome = Context::new(&cli.global).and_then(|context| dispatch(&cli.command, &context));
    match outcome {
        Ok(outcome) => outcome.exit_code(),
        Err(error) => outcome::fail(&error),
    }
}

fn dispatch(command: &Command, context: &Context) -> anyhow::Result<Outcome> {
    match command {
        Command::Infer(args) => infer::run(args, context),
        Command::Skeleton(args) => skeleton::run(args, context),
        Command::Evaluate(args) => evaluate::run(args, context),
        Command::Preview(args) => preview::run(args, context),
        Command::Report(args) => report::run(args, context),
        Command::Info(args) => info::run(args, context),
        Command::CheckModel(args) => check_model::run(args, context),
        Command::Compare(args) => compare::run(args, context),
        Command::Labels(args) => labels::run(args, context),
        Command::Convert(args) => convert::run(args, context),
        Command::Smooth(args) => smooth::run(args, context),
        Command::Phantom(args) => phantom::run(args, context),
        Command::Demo(args) => demo::run(args, context),
        Command::Bench(args) => bench::run(args, context),
        Command::VesselConnect(args) => vessel_connect::run(args, context),
        Command::Sample(args) => sample::run(args, context),
        Command::Fat(args) => fat::run(args, context),
        Command::UreterConnect(args) => ureter_connect::run(args, context),
        Command::Completions(args) => manual::completions(args, Cli::command()),
        Command::Man(args) => manual::man(args, Cli::command()),
    }
}
