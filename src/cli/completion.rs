//! `completion`: scripts for shells.

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::output;
use super::report::Exit;
use super::verbs::Cli;

/// Print a completion script for a shell.
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// Shell to write the script for
    pub shell: Shell,
}

/// Runs the verb.
///
/// # Errors
/// Stdout is closed or full.
pub fn run(args: CompletionArgs) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kserve-local", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
