//! Makes one environment, in a folder of this attempt's own.

use camino::{Utf8Path, Utf8PathBuf};

use super::installer::{Ended, Installer};
use super::said::{self, FailureKind, Progress};
use super::{EnvironmentError, Environments, MARKER, Marker, Tools, interpreter, io, make_folder};
use crate::runtimes::process::lock;
use crate::workload::PythonEnvironment;

/// Makes the environment and publishes its marker. The caller holds the environment's lock alone.
pub(super) async fn create(
    environments: &Environments,
    id: &str,
    wanted: &PythonEnvironment,
    tell: &(dyn Fn(String) + Send + Sync),
) -> Result<(), EnvironmentError> {
    if let Some((name, digest)) = &wanted.module {
        environments.unfold_module(name, digest)?;
    }
    let folder = environments.root.join(id);
    make_folder(&folder)?;
    remove_attempts(&folder, None);
    let list = list(wanted)?;
    let attempt = Attempt {
        path: folder.join(format!("v-{:08x}", rand::random::<u32>())),
        list: folder.join("packages.txt"),
        packages: said::count(&list),
        is_complete: wanted.lock.is_some(),
        installer: Installer {
            environment: &environments.environment,
            log: environments.root.join(format!("{id}.log")),
        },
    };
    std::fs::write(&attempt.list, &list).map_err(|error| io(format!("write `{}`", attempt.list), &error))?;
    // A log of an earlier attempt says nothing about this one; that there is none is right too.
    let _ = std::fs::remove_file(&attempt.installer.log);
    let python = match attempt.run(wanted, tell).await {
        Ok(python) => python,
        Err(error) => {
            remove_attempts(&folder, None);
            return Err(error);
        }
    };
    let marker =
        Marker { folder: attempt.path.file_name().unwrap_or_default().to_owned(), python, packages: attempt.packages };
    publish(&folder.join(MARKER), &marker)
}

fn list(wanted: &PythonEnvironment) -> Result<String, EnvironmentError> {
    match &wanted.lock {
        Some((name, _)) => lock(name).map(str::to_owned).ok_or_else(|| EnvironmentError::UnknownLock(name.clone())),
        None => Ok(wanted.packages.join("\n") + "\n"),
    }
}

/// Removes what attempts left, but for one.
pub(super) fn remove_attempts(folder: &Utf8Path, but: Option<&str>) {
    let Ok(entries) = folder.read_dir_utf8() else { return };
    for entry in entries.filter_map(Result::ok) {
        if entry.file_name().starts_with("v-") && Some(entry.file_name()) != but {
            // An installer that outlived its daemon may still write there; the next attempt or collection tries again.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn publish(path: &Utf8Path, marker: &Marker) -> Result<(), EnvironmentError> {
    let bytes = serde_json::to_vec_pretty(marker).unwrap_or_default();
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, bytes)
        .and_then(|()| std::fs::File::open(&temporary)?.sync_all())
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(|error| io(format!("write `{path}`"), &error))
}

struct Attempt<'a> {
    path: Utf8PathBuf,
    list: Utf8PathBuf,
    packages: usize,
    /// The list names everything, so nobody has to ask what else is needed.
    is_complete: bool,
    installer: Installer<'a>,
}

impl Attempt<'_> {
    /// Makes the folder and installs the packages. Returns the version of its Python.
    async fn run(
        &self,
        wanted: &PythonEnvironment,
        tell: &(dyn Fn(String) + Send + Sync),
    ) -> Result<String, EnvironmentError> {
        tell("looking for Python".to_owned());
        let uv = Tools::find(self.installer.environment).uv;
        match &uv {
            Some(uv) => self.make_with_uv(uv, &wanted.python).await?,
            None => self.make_with_venv(&wanted.python).await?,
        }
        let python = self.path.join("bin/python");
        if self.packages > 0 {
            self.install(uv.as_deref(), &python, tell).await?;
        }
        let version = interpreter::version(&python, self.installer.environment).await;
        version.map(|(_, version)| version).ok_or_else(|| EnvironmentError::Io {
            doing: format!("start `{python}`"),
            message: "it does not run".to_owned(),
        })
    }

    async fn make_with_uv(&self, uv: &Utf8Path, wanted: &str) -> Result<(), EnvironmentError> {
        let arguments = ["venv", "--no-project", "--python", wanted, self.path.as_str()];
        let ended = self.installer.run(uv, &arguments, &mut |_| {}).await?;
        if ended.success {
            return Ok(());
        }
        let found = ended.output.trim().lines().last().unwrap_or_default().to_owned();
        Err(EnvironmentError::NoPython { wanted: wanted.to_owned(), found })
    }

    async fn make_with_venv(&self, wanted: &str) -> Result<(), EnvironmentError> {
        let python = interpreter::find(wanted, self.installer.environment).await?;
        tracing::debug!(python = %python.program, version = python.version, "making a Python environment");
        let arguments = ["-I", "-m", "venv", self.path.as_str()];
        let ended = self.installer.run(&python.program, &arguments, &mut |_| {}).await?;
        if ended.success {
            return Ok(());
        }
        let mut words = ended.output.lines().map(str::trim).filter(|line| !line.is_empty());
        let message = words.next().unwrap_or("it said nothing").to_owned();
        Err(EnvironmentError::NoVenv { python: python.program.to_string(), message })
    }

    async fn install(
        &self,
        uv: Option<&Utf8Path>,
        python: &Utf8Path,
        tell: &(dyn Fn(String) + Send + Sync),
    ) -> Result<(), EnvironmentError> {
        let total = self.packages;
        let mut fetched = 0;
        let mut hear = |line: &str| match said::progress(line) {
            // uv names only packages of some size, so they are not counted.
            Some(Progress::Fetching(name)) if uv.is_some() => tell(format!("fetching {total} packages: {name}")),
            Some(Progress::Fetching(name)) => {
                fetched += 1;
                tell(format!("fetching package {} of {total}: {name}", fetched.min(total)));
            }
            Some(Progress::Installing) => tell(format!("installing {total} packages")),
            None => {}
        };
        tell(format!("fetching {total} packages"));
        let mut arguments = Vec::new();
        let program = match uv {
            Some(uv) => {
                arguments.extend(["pip", "install", "--compile-bytecode", "--python", python.as_str()]);
                uv
            }
            None => {
                arguments.extend(["-I", "-m", "pip", "install", "--progress-bar", "off"]);
                python
            }
        };
        arguments.extend(["--require-hashes", "--only-binary", ":all:"]);
        arguments.extend(self.is_complete.then_some("--no-deps"));
        arguments.extend(["-r", self.list.as_str()]);
        let ended = self.installer.run(program, &arguments, &mut hear).await?;
        if ended.success { Ok(()) } else { Err(self.failed(&ended)) }
    }

    fn failed(&self, ended: &Ended) -> EnvironmentError {
        let said::Failure { kind, package, message } = said::failure(&ended.output);
        let log = self.installer.log.clone();
        match kind {
            FailureKind::Network => EnvironmentError::Unreachable { package, message, log },
            FailureKind::Package => EnvironmentError::Package { package, message, log },
        }
    }
}
