//! What `run` and `demo` leave behind when they are killed: a folder, its containers and their network. The folder's lock
//! says that nobody is there any more; whoever comes next removes it.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::{Pid, test_kill_process};

use super::output;
use super::report::{Problem, chain};
use super::serve;
use crate::config::{EngineChoice, Flags, Settings};
use crate::daemon;
use crate::home::{Home, make_private};

/// How throwaway folders begin: this, the verb, the process, and something nobody can guess.
const PREFIX: &str = "kserve-local-";
/// Verbs that make throwaway folders.
const VERBS: [&str; 2] = ["run", "demo"];
/// A folder without a lock that is younger than this may be about to get one.
const JUST_MADE: Duration = Duration::from_secs(60);

/// Returns the throwaway folder of a verb in this process. Nobody can know its name beforehand: others may write to the
/// temporary folder, and in containers that share it the same process numbers come again.
///
/// # Errors
/// The path of the temporary folder is not UTF-8.
pub(super) fn folder(verb: &str) -> Result<Utf8PathBuf> {
    let name = format!("{PREFIX}{verb}-{}-{:08x}", std::process::id(), rand::random::<u32>());
    Ok(Utf8PathBuf::try_from(std::env::temp_dir())?.join(name))
}

/// Makes the throwaway folder.
///
/// # Errors
/// It is there already, so it is somebody else's; or it cannot be made.
pub(super) fn make(folder: &Utf8Path) -> Result<()> {
    make_private(folder).map_err(|error| Problem::machine(format!("could not make `{folder}`")).because(error).into())
}

/// Marks a folder as one that is kept on purpose.
pub(super) fn keep(folder: &Utf8Path) {
    // Without the mark it is removed by a later run, as it would have been by this one.
    let _ = std::fs::write(mark(folder), b"");
}

fn mark(folder: &Utf8Path) -> Utf8PathBuf {
    Home::new(folder).state().join("kept")
}

/// Finds the folders below `temporary` whose process was killed.
pub(super) fn find(temporary: &Path) -> Vec<Utf8PathBuf> {
    let Some(entries) = Utf8Path::from_path(temporary).and_then(|folder| folder.read_dir_utf8().ok()) else {
        return Vec::new();
    };
    let mut found: Vec<_> =
        entries.flatten().map(camino::Utf8DirEntry::into_path).filter(|path| is_left(path)).collect();
    found.sort();
    found
}

fn is_left(folder: &Utf8Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let process = folder.file_name().and_then(|name| name.strip_prefix(PREFIX)?.split_once('-'));
    let Some((verb, rest)) = process else { return false };
    let pid = rest.split('-').next().unwrap_or_default();
    let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) else { return false };
    let Ok(found) = std::fs::symlink_metadata(folder) else { return false };
    let own = found.is_dir() && found.uid() == rustix::process::getuid().as_raw();
    // Another user's process cannot be told, and is there all the same.
    let lives = !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH));
    if !VERBS.contains(&verb) || !own || lives || mark(folder).exists() {
        return false;
    }
    let home = Home::new(folder);
    let age = || found.modified().ok().and_then(|made| made.elapsed().ok());
    // A container of continuous integration may share /tmp and have its own process numbers: the lock knows better.
    let begins = !home.lock().exists() && age().is_none_or(|age| age < JUST_MADE);
    !begins && daemon::holder(&home).is_ok_and(|holder| holder.is_none())
}

/// Stops what a folder's daemon left running and removes the folder. Returns how many containers there were.
///
/// # Errors
/// The engine does not answer, somebody has taken the folder over, or it cannot be removed.
pub(super) async fn collect(folder: &Utf8Path) -> Result<usize> {
    let home = Home::new(folder);
    let engine = match std::fs::read_to_string(home.engine()).unwrap_or_default().trim() {
        "process" => Some(EngineChoice::Process),
        "docker" => Some(EngineChoice::Docker),
        // Nothing ran, or in memory only.
        _ => None,
    };
    let mut stopped = 0;
    if let Some(engine) = engine {
        let flags = Flags { engine: Some(engine), ..Flags::default() };
        let settings = Settings::load(home, &flags, serve::environment()).map_err(serve::bad_setting)?;
        stopped = daemon::stop_models(&settings).await.map_err(serve::cannot_start)?;
    }
    std::fs::remove_dir_all(folder)?;
    Ok(stopped)
}

/// Collects what every killed process left, and says so.
pub(super) async fn collect_all() {
    for folder in find(&std::env::temp_dir()) {
        match collect(&folder).await {
            Ok(stopped) => output::note(&format!(
                "removed what a process that was killed left: {folder} and {stopped} {}",
                if stopped == 1 { "container" } else { "containers" }
            )),
            Err(error) => output::note(&format!("warning: could not remove {folder}: {}", chain(error.as_ref()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_folders_of_processes_that_are_gone_are_collected() {
        let temporary = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(temporary.path()).unwrap();
        let dead =
            std::process::Command::new("true").spawn().and_then(|mut child| child.wait().map(|_| child.id())).unwrap();
        let make = |name: String, lock: bool| {
            let home = Home::new(root.join(name));
            home.create().unwrap();
            if lock {
                std::fs::write(home.lock(), "1\n").unwrap();
            }
            home.root().to_owned()
        };
        let killed = make(format!("kserve-local-run-{dead}-0123abcd"), true);
        make(format!("kserve-local-run-{}-0123abcd", std::process::id()), true);
        make(format!("kserve-local-other-{dead}"), true);
        keep(&make(format!("kserve-local-demo-{dead}-0123abcd"), true));
        make("kserve-local-run-x".to_owned(), true);
        assert_eq!(find(temporary.path()), std::slice::from_ref(&killed));
        assert_eq!(collect(&killed).await.unwrap(), 0);
        assert!(!killed.exists() && find(temporary.path()).is_empty());
        make(format!("kserve-local-run-{dead}-0123abcd"), false);
        assert!(find(temporary.path()).is_empty(), "it may only just begin");
    }

    #[test]
    fn a_folder_that_is_there_already_is_not_used() {
        let folder = folder("run").unwrap();
        make(&folder).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&folder.metadata().unwrap().permissions());
        let again = make(&folder);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(mode & 0o777, 0o700);
        assert!(again.is_err());
        assert_ne!(super::folder("run").unwrap(), folder, "the next one is another");
    }
}
