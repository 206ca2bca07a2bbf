//! `man`: the manual pages, made from the same text as the help.

use anyhow::{Context, Result};
use camino::Utf8PathBuf;
use clap::{Args, CommandFactory};

use super::output;
use super::report::Exit;
use super::verbs::Cli;
use crate::home::write_atomically;

/// Print the manual page, or write one for every verb into a folder.
#[derive(Clone, Debug, Args)]
pub struct ManArgs {
    /// Folder for `kserve-local.1`, `kserve-local-apply.1`, `kserve-local-cache-ls.1`, …
    #[arg(value_name = "DIR")]
    pub folder: Option<Utf8PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// The folder cannot be written, or stdout is closed.
pub fn run(args: ManArgs) -> Result<Exit> {
    let mut command = Cli::command();
    command.build();
    let Some(folder) = args.folder else {
        output::print(&page(command)?)?;
        return Ok(Exit::Done);
    };
    std::fs::create_dir_all(&folder).with_context(|| format!("could not make `{folder}`"))?;
    for (name, verb) in pages("kserve-local", &command) {
        let path = folder.join(format!("{name}.1"));
        let text = page(verb.display_name(name.clone()))?;
        write_atomically(&path, text.as_bytes(), 0o644).with_context(|| format!("could not write `{path}`"))?;
    }
    Ok(Exit::Done)
}

/// A command and everything below it, by the names of their pages.
fn pages(name: &str, command: &clap::Command) -> Vec<(String, clap::Command)> {
    let below = command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help");
    let below = below.flat_map(|verb| pages(&format!("{name}-{}", verb.get_name()), verb));
    [(name.to_owned(), command.clone())].into_iter().chain(below).collect()
}

fn page(command: clap::Command) -> Result<String> {
    let mut bytes = Vec::new();
    clap_mangen::Man::new(command).render(&mut bytes)?;
    Ok(String::from_utf8(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_that_names_itself() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
        run(ManArgs { folder: Some(folder.clone()) }).unwrap();
        let main = std::fs::read_to_string(folder.join("kserve-local.1")).unwrap();
        assert!(
            main.contains(".TH kserve-local 1") && main.contains("EXIT STATUS") | main.contains("Exit codes"),
            "{main}"
        );
        let apply = std::fs::read_to_string(folder.join("kserve-local-apply.1")).unwrap();
        assert!(apply.contains(".TH kserve-local-apply 1"), "{apply}");
        let below = std::fs::read_to_string(folder.join("kserve-local-config-view.1")).unwrap();
        assert!(below.contains(".TH kserve-local-config-view 1") && below.contains("config.yaml"), "{below}");
    }
}
