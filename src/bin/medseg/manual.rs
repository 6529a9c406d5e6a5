//! `medseg completions` and `medseg man`: what shells and `man` know of the commands.

use crate::context::print_text;
use crate::outcome::Outcome;
use anyhow::Context as _;
use medseg::io::{Overwrite, atomic, display_name};
use std::path::PathBuf;

/// Print the completions of commands and flags for a shell
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  medseg completions bash > medseg.bash
  medseg completions zsh > _medseg
  medseg completions fish > medseg.fish")]
pub struct CompletionsArgs {
    /// The shell
    shell: clap_complete::Shell,
}

/// Write a manual page for every command
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  medseg man man1/")]
pub struct ManArgs {
    /// Folder for the pages, made if it is missing
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Replace pages that exist
    #[arg(long)]
    force: bool,
}

/// Prints the completions of `command` for the shell.
pub fn completions(args: &CompletionsArgs, mut command: clap::Command) -> anyhow::Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "medseg", &mut script);
    print_text(&String::from_utf8(script).context("completions are not text")?)?;
    Ok(Outcome::Done)
}

/// Writes the pages of `command` and of every command below it.
pub fn man(args: &ManArgs, mut command: clap::Command) -> anyhow::Result<Outcome> {
    command.build();
    let mut pages = Vec::new();
    collect(&command, &mut pages)?;
    let overwrite = if args.force {
        Overwrite::Force
    } else {
        Overwrite::Refuse
    };
    let paths: Vec<PathBuf> = pages
        .iter()
        .map(|(name, _)| args.folder.join(name))
        .collect();
    if let Some(path) = paths.iter().find(|path| path.exists() && !args.force) {
        anyhow::bail!("{} already exists: --force replaces it", display_name(path));
    }
    std::fs::create_dir_all(&args.folder)
        .with_context(|| format!("cannot make the folder {}", display_name(&args.folder)))?;
    for (path, (_, page)) in paths.iter().zip(&pages) {
        atomic::write(path, overwrite, page)?;
    }
    Ok(Outcome::Done)
}

/// The page of `command`, which is built, and those below it, each with its file's name.
fn collect(command: &clap::Command, pages: &mut Vec<(String, Vec<u8>)>) -> anyhow::Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    let name = command.get_display_name().unwrap_or(command.get_name());
    pages.push((format!("{name}.1"), page));
    for below in command.get_subcommands() {
        if below.get_name() != "help" && !below.is_hide_set() {
            collect(below, pages)?;
        }
    }
    Ok(())
}
