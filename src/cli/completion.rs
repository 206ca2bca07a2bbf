//! `completion`: scripts for shells.

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use clap_complete::env::Shells;

use super::complete;
use super::output;
use super::report::Exit;
use super::verbs::Cli;

/// Print a completion script for a shell; it knows verbs and flags, and the names of what there is.
///
/// For bash: `source <(kserve-local completion bash)` in ~/.bashrc; zsh the same in ~/.zshrc, after compinit; fish:
/// `kserve-local completion fish > ~/.config/fish/completions/kserve-local.fish`.
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
    let name = args.shell.to_string();
    match Shells::builtins().completer(&name) {
        Some(shell) => {
            let name = "kserve-local";
            shell.write_registration(complete::VARIABLE, name, name, name, &mut script)?;
        }
        // A shell that cannot ask gets what is known beforehand.
        None => clap_complete::generate(args.shell, &mut Cli::command(), "kserve-local", &mut script),
    }
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
