//! Python environments for runtimes that run as processes: made once per recipe in the cache, verified, shared, collected.
//!
//! An environment is a folder named for what is in it (`environments/<digest>`): a fresh folder of its own for every
//! attempt, and a marker, written last, that names the attempt that succeeded. So a cut attempt is never mistaken for an
//! environment, and whatever is left of it (an installer that outlived a killed daemon, too) writes where nobody looks.
//! One attempt at a time per environment, across processes: the kernel's lock on `<digest>.lock` says who. Whoever runs
//! something in an environment holds the same lock shared, so garbage collection never takes what is in use.
//!
//! `uv` does the work when it is there, else `python3 -m venv` and pip. What is installed is exact and checked by hash.
//! Where packages come from is the tools' own configuration.

mod create;
mod installer;
mod interpreter;
mod lock;
mod said;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

pub use interpreter::{Tools, find_on_path};
pub use lock::hold_shared;

use crate::runtimes::process::{digest, module};
use crate::workload::PythonEnvironment;

/// Changes when environments are made differently.
const LAYOUT: &str = "1";

/// The environments of a cache. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Environments {
    root: Utf8PathBuf,
    environment: Arc<BTreeMap<String, String>>,
    flights: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
}

/// An environment that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// Folder of its programs, `python` among them.
    pub bin: Utf8PathBuf,
    /// Folder of the shipped module, to be put on Python's path.
    pub module: Option<Utf8PathBuf>,
    /// File to hold a shared lock on while something runs in it.
    pub lock: Utf8PathBuf,
}

/// Why an environment cannot be made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// No Python that fits.
    #[error(
        "no Python {wanted} is on this machine ({found}); install one with its venv module, or install `uv`, which brings a fitting Python itself"
    )]
    NoPython {
        /// The range.
        wanted: String,
        /// What was found instead.
        found: String,
    },
    /// Python cannot make environments.
    #[error(
        "`{python}` cannot make environments: {message}; install its venv module (on Debian and Ubuntu `apt install python3-venv`), or install `uv`"
    )]
    NoVenv {
        /// The interpreter.
        python: String,
        /// Its words.
        message: String,
    },
    /// The package index does not answer.
    #[error("the package index cannot be reached{}: {message}; connect to the internet once, or point pip or uv to a mirror; all of it is in {log}", of(.package.as_deref()))]
    Unreachable {
        /// The package that was being fetched, when known.
        package: Option<String>,
        /// The tool's words.
        message: String,
        /// Its whole output.
        log: Utf8PathBuf,
    },
    /// A package cannot be installed.
    #[error("package {} cannot be installed: {message}; all of it is in {log}", .package.as_deref().unwrap_or("(see the log)"))]
    Package {
        /// The package, when known.
        package: Option<String>,
        /// The tool's words.
        message: String,
        /// Its whole output.
        log: Utf8PathBuf,
    },
    /// The installer says nothing any more.
    #[error("the installer said nothing for {} minutes and was ended; what it said is in {log}", .minutes)]
    Stalled {
        /// How long.
        minutes: u64,
        /// Its whole output.
        log: Utf8PathBuf,
    },
    /// The shipped list is not there: the recipe is of another version.
    #[error("the list of packages `{0}` is not part of this version")]
    UnknownLock(String),
    /// Files cannot be written, or a program not started.
    #[error("could not {doing}: {message}")]
    Io {
        /// What was being done.
        doing: String,
        /// The system's words.
        message: String,
    },
}

fn of(package: Option<&str>) -> String {
    package.map(|name| format!(" for {name}")).unwrap_or_default()
}

impl EnvironmentError {
    /// Whether trying again is no use until something else changes.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Package { .. } | Self::UnknownLock(_))
    }
}

/// What says that an environment is whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    /// Folder of the attempt.
    folder: String,
    /// Version of its Python.
    python: String,
    /// How many packages it holds.
    packages: usize,
}

impl Environments {
    /// Names the environments of a cache; nothing is made. `environment` is the user's, for `PATH` and for the tools.
    pub fn new(cache: &Utf8Path, environment: BTreeMap<String, String>) -> Self {
        let root = cache.join("environments");
        Self { root, environment: Arc::new(environment), flights: Arc::default() }
    }

    /// Returns the environment when it is here and whole. Blocking, a few `stat`s.
    pub fn present(&self, wanted: &PythonEnvironment) -> Option<Environment> {
        let id = id(wanted);
        let marker = self.marker(&id)?;
        let bin = self.root.join(&id).join(&marker.folder).join("bin");
        // Follows the link to the interpreter: one that was uninstalled or replaced by another version is noticed.
        let works = bin.join("python").is_file();
        let module_folder = wanted.module.as_ref().map(|(name, digest)| self.module_folder(name, digest));
        let has_module = module_folder.as_ref().is_none_or(|folder| folder.is_dir());
        (works && has_module).then(|| Environment { bin, module: module_folder, lock: self.lock_file(&id) })
    }

    /// Returns the environment, making it first when it is not here. `tell` hears what is being done, in a few words.
    ///
    /// # Errors
    /// See [`EnvironmentError`]. Nothing half-made is left to be mistaken for an environment.
    pub async fn create(
        &self,
        wanted: &PythonEnvironment,
        tell: &(dyn Fn(String) + Send + Sync),
    ) -> Result<Environment, EnvironmentError> {
        let id = id(wanted);
        let flight = {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(flights.entry(id.clone()).or_default())
        };
        let _one_of_us = flight.lock().await;
        if let Some(environment) = self.present(wanted) {
            return Ok(environment);
        }
        make_folder(&self.root)?;
        let _one_of_all = lock::take_alone(&self.lock_file(&id), tell).await?;
        if let Some(environment) = self.present(wanted) {
            return Ok(environment);
        }
        create::create(self, &id, wanted, tell).await?;
        self.present(wanted).ok_or_else(|| EnvironmentError::Io {
            doing: "verify the new environment".to_owned(),
            message: "it is not whole".to_owned(),
        })
    }

    /// Notes that an environment is used now.
    pub fn note_use(&self, wanted: &PythonEnvironment) {
        let used = self.root.join(id(wanted)).join("used");
        // Only the age of the file counts; a cache that cannot be written to is not collected either.
        let _ = std::fs::write(used, b"");
    }

    /// Removes environments that nobody uses and nobody has used for this long, and what broken attempts left. Returns
    /// what was removed. Blocking.
    pub fn collect_garbage(&self, now: SystemTime, unused_for: Duration) -> Vec<String> {
        let Ok(entries) = self.root.read_dir_utf8() else { return Vec::new() };
        let ids = entries.filter_map(Result::ok).filter(|entry| entry.path().is_dir());
        let ids: Vec<String> = ids.map(|entry| entry.file_name().to_owned()).filter(|name| is_id(name)).collect();
        ids.into_iter().filter(|id| self.collect(id, now, unused_for)).collect()
    }

    /// Removes one environment when nobody holds it and it is old, or its broken attempts. Whether it is gone.
    fn collect(&self, id: &str, now: SystemTime, unused_for: Duration) -> bool {
        let Some(_alone) = lock::try_alone(&self.lock_file(id)) else { return false };
        let folder = self.root.join(id);
        let age = |name: &str| {
            let modified = folder.join(name).metadata().and_then(|meta| meta.modified()).ok()?;
            now.duration_since(modified).ok()
        };
        match self.marker(id) {
            Some(marker) if age("used").or_else(|| age(MARKER)).is_none_or(|age| age < unused_for) => {
                create::remove_attempts(&folder, Some(&marker.folder));
                false
            }
            _ => std::fs::remove_dir_all(&folder).is_ok(),
        }
    }

    fn marker(&self, id: &str) -> Option<Marker> {
        let bytes = std::fs::read(self.root.join(id).join(MARKER)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    fn lock_file(&self, id: &str) -> Utf8PathBuf {
        self.root.join(format!("{id}.lock"))
    }

    fn module_folder(&self, name: &str, digest: &str) -> Utf8PathBuf {
        self.root.join(format!("{name}-{digest}"))
    }

    /// Puts a shipped module where Python finds it: whole, or not at all.
    fn unfold_module(&self, name: &str, digest: &str) -> Result<(), EnvironmentError> {
        let folder = self.module_folder(name, digest);
        if folder.is_dir() {
            return Ok(());
        }
        let files = module(name).ok_or_else(|| EnvironmentError::UnknownLock(name.to_owned()))?;
        let partial = self.root.join(format!(".{name}-{:08x}", rand::random::<u32>()));
        make_folder(&partial.join(name))?;
        for (file, text) in files {
            let path = partial.join(name).join(file);
            std::fs::write(&path, text).map_err(|error| io(format!("write `{path}`"), &error))?;
        }
        match std::fs::rename(&partial, &folder) {
            Err(error) if !folder.is_dir() => Err(io(format!("write `{folder}`"), &error)),
            // Somebody else was faster.
            Err(_) => std::fs::remove_dir_all(&partial).map_err(|error| io(format!("remove `{partial}`"), &error)),
            Ok(()) => Ok(()),
        }
    }
}

/// Name of the marker.
const MARKER: &str = "environment.json";

/// Names an environment by what is in it, and by the kind of machine.
fn id(wanted: &PythonEnvironment) -> String {
    let lock = wanted.lock.as_ref().map_or("", |(_, digest)| digest.as_str());
    let machine = [std::env::consts::OS, std::env::consts::ARCH];
    let texts = [LAYOUT, &wanted.python, lock].into_iter().chain(machine);
    digest(texts.chain(wanted.packages.iter().map(String::as_str)))
}

fn is_id(name: &str) -> bool {
    name.len() == 16 && name.chars().all(|c| c.is_ascii_hexdigit())
}

fn make_folder(path: &Utf8Path) -> Result<(), EnvironmentError> {
    std::fs::create_dir_all(path).map_err(|error| io(format!("make the folder `{path}`"), &error))
}

fn io(doing: String, error: &std::io::Error) -> EnvironmentError {
    EnvironmentError::Io { doing, message: error.to_string() }
}

#[cfg(test)]
mod tests;
