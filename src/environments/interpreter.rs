//! Finds uv and a Python that fits, on the user's PATH.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use tokio::process::Command;

use super::EnvironmentError;
use crate::runtimes::process::VersionRange;

/// Newest first; `python3` last, because it is what the system needs, not what the user chose.
const NAMES: [&str; 8] =
    ["python3.13", "python3.12", "python3.11", "python3.10", "python3.9", "python3", "python", "python3.14"];
/// Longest wait for a Python to say its version.
const QUICK: Duration = Duration::from_secs(20);

/// What can make environments here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tools {
    /// `uv`.
    pub uv: Option<Utf8PathBuf>,
    /// Some Python, of whatever version.
    pub python: Option<Utf8PathBuf>,
}

impl Tools {
    /// Looks for the tools on the PATH of an environment. Blocking, some `stat`s.
    pub fn find(environment: &BTreeMap<String, String>) -> Self {
        let path = environment.get("PATH").map(String::as_str).unwrap_or_default();
        let python = ["python3", "python"].iter().find_map(|name| find_on_path(name, path));
        Self { uv: find_on_path("uv", path), python }
    }

    /// Whether any of them is there.
    pub fn any(&self) -> bool {
        self.uv.is_some() || self.python.is_some()
    }
}

/// Returns the first executable file of a name on a PATH.
pub fn find_on_path(name: &str, path: &str) -> Option<Utf8PathBuf> {
    let executable =
        |file: &Utf8Path| file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    if name.contains('/') {
        return Some(Utf8PathBuf::from(name)).filter(|file| executable(file));
    }
    let folders = path.split(':').filter(|folder| folder.starts_with('/'));
    folders.map(|folder| Utf8Path::new(folder).join(name)).find(|file| executable(file))
}

/// A Python that fits.
#[derive(Clone, Debug)]
pub(super) struct Interpreter {
    pub(super) program: Utf8PathBuf,
    pub(super) version: String,
}

/// Returns a Python in the range.
pub(super) async fn find(
    wanted: &str,
    environment: &BTreeMap<String, String>,
) -> Result<Interpreter, EnvironmentError> {
    let range =
        VersionRange::parse(wanted).map_err(|found| EnvironmentError::NoPython { wanted: wanted.to_owned(), found })?;
    let path = environment.get("PATH").map(String::as_str).unwrap_or_default();
    let mut seen = Vec::new();
    for name in NAMES {
        let Some(program) = find_on_path(name, path) else { continue };
        let Some((numbers, version)) = version(&program, environment).await else { continue };
        if range.contains(numbers) {
            return Ok(Interpreter { program, version });
        }
        let found = format!("{name} is {version}");
        if !seen.contains(&found) {
            seen.push(found);
        }
    }
    let found = if seen.is_empty() { "there is no Python at all".to_owned() } else { seen.join(", ") };
    Err(EnvironmentError::NoPython { wanted: wanted.to_owned(), found })
}

/// Asks a Python for its version. None when it is not one: launchers of absent versions are on many PATHs.
pub(super) async fn version(
    program: &Utf8Path,
    environment: &BTreeMap<String, String>,
) -> Option<((u32, u32), String)> {
    let mut command = Command::new(program);
    command.env_clear().envs(environment).kill_on_drop(true);
    command.args(["-I", "-c", "import platform; print(platform.python_version())"]);
    let output = tokio::time::timeout(QUICK, command.output()).await.ok()?.ok()?;
    let version = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    let mut numbers = version.split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else { return None };
    output.status.success().then_some(((major, minor), version))
}
