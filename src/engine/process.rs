//! Supervised local processes: for machines without a container engine, and for hardware containers do not see.
//!
//! A container is a folder (`process_folder`), what stands in for its image is the recipe of its runtime (an environment
//! of packages, or a program on the PATH), and running it is a supervisor with the server as its child
//! (`process_supervise`). The folders are all that must survive: a daemon that starts reads them and goes on.
//!
//! What a container has and a process has not: a file system, a network and a user of its own. Models and volumes are
//! reached at their real paths, servers listen on ports of the loopback interface that we choose, and everything runs as
//! the user of the daemon.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use camino::Utf8PathBuf;
use futures::stream::BoxStream;
use jiff::Timestamp;
use rustix::process::Signal;
use tokio::sync::watch;

use super::process_folder::{self, Folder, Found, Life};
use super::process_prepare::{self, Request};
use super::{
    Blame, Container, ContainerEngine, ContainerId, CreateContainer, EngineError, EngineInfo, LogLine, LogOptions,
    PullProgress, Usage, process_changes, process_logs, process_start, process_table, process_usage,
};
use crate::environments::{Environments, find_on_path};
use crate::workload::names::INSTANCE_LABEL;
use crate::workload::{ContainerSpec, ProcessSpec, Program};

/// Environments that nothing has used for this long are removed.
const UNUSED_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// Longest wait for a killed process to be gone.
const KILLED: Duration = Duration::from_secs(10);
/// How often an end is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// Which processes are ours, and where things are.
#[derive(Clone, Debug)]
pub struct ProcessConfig {
    /// Name of this instance; the value of the label on everything that is ours.
    pub instance: String,
    /// Folder of the containers.
    pub root: Utf8PathBuf,
    /// Folder of the cache; environments are below it.
    pub cache: Utf8PathBuf,
    /// The user's environment: `PATH`, `LANG`, and what installers need.
    pub environment: BTreeMap<String, String>,
    /// The program that supervises; this very one when not given.
    pub supervisor: Option<Utf8PathBuf>,
    /// The clock.
    pub now: fn() -> Timestamp,
}

/// An engine of supervised processes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ProcessEngine {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) config: ProcessConfig,
    pub(super) environments: Environments,
    /// Recipes by what stands in for their image.
    recipes: Mutex<HashMap<String, ProcessSpec>>,
    /// One start, stop or removal of a container at a time.
    gates: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Counts what we did.
    pub(super) changed: watch::Sender<u64>,
}

impl ProcessEngine {
    /// Prepares an engine; nothing is made yet.
    pub fn new(config: ProcessConfig) -> Self {
        let environments = Environments::new(&config.cache, config.environment.clone());
        let inner = Inner {
            config,
            environments,
            recipes: Mutex::default(),
            gates: Mutex::default(),
            changed: watch::Sender::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Removes environments nobody uses any more. Returns how many. Blocking.
    pub fn collect_garbage(&self, now: std::time::SystemTime) -> usize {
        self.inner.environments.collect_garbage(now, UNUSED_FOR).len()
    }

    /// Returns the folders a killed daemon left half made or half removed. To be asked for before anything is made, under
    /// the home's lock. Blocking.
    pub fn remains(&self) -> Vec<Utf8PathBuf> {
        process_prepare::remains(&self.inner.config.root)
    }

    /// Removes what [`ProcessEngine::remains`] found. Blocking.
    pub fn discard(&self, remains: Vec<Utf8PathBuf>) {
        process_prepare::discard_all(remains);
    }

    /// Whether this user may make the control groups that limits need. Blocking.
    pub fn enforces_limits(&self) -> bool {
        process_prepare::can_limit()
    }

    pub(super) fn ring(&self) {
        self.inner.changed.send_modify(|count| *count += 1);
    }

    pub(super) fn now(&self) -> Timestamp {
        (self.inner.config.now)()
    }

    /// Reads every container below the root, whoever's.
    pub(super) async fn all(&self) -> Result<Vec<Found>, EngineError> {
        let (root, now) = (self.inner.config.root.clone(), self.now());
        let read = tokio::task::spawn_blocking(move || process_folder::all(&root, now)).await;
        let endpoint = self.inner.config.root.to_string();
        let unreachable = |source: std::io::Error| EngineError::Unreachable { endpoint, source: Arc::new(source) };
        match read {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(unreachable(error)),
            Err(error) => Err(unreachable(std::io::Error::other(error))),
        }
    }

    pub(super) fn is_ours(&self, found: &Found) -> bool {
        found.record.labels.get(INSTANCE_LABEL) == Some(&self.inner.config.instance)
    }

    /// Returns a container by id or name; fails unless it is there and ours.
    pub(super) async fn ours(&self, verb: &'static str, id: &str) -> Result<Found, EngineError> {
        let all = self.all().await?;
        let found = all.into_iter().find(|found| found.record.id == id || found.record.name == id);
        let found = found.ok_or_else(|| EngineError::NoSuchContainer(id.to_owned()))?;
        if self.is_ours(&found) {
            return Ok(found);
        }
        let message = format!(
            "it does not carry the label `{INSTANCE_LABEL}={}`; we touch only what is ours",
            self.inner.config.instance
        );
        Err(refused(verb, id, message, Blame::Machine))
    }

    /// Waits until nobody else starts, stops or removes a container.
    pub(super) async fn gate(&self, id: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let gate = {
            let mut gates = lock(&self.inner.gates);
            // Those that nobody holds or waits for.
            gates.retain(|_, gate| Arc::strong_count(gate) > 1);
            Arc::clone(gates.entry(id.to_owned()).or_default())
        };
        gate.lock_owned().await
    }

    /// Returns a container of ours as it is behind its gate: what went before may have started or removed it.
    async fn behind_gate(
        &self,
        verb: &'static str,
        id: &ContainerId,
    ) -> Result<(tokio::sync::OwnedMutexGuard<()>, Found), EngineError> {
        let name = self.ours(verb, &id.0).await?.record.name;
        let gate = self.gate(&name).await;
        Ok((gate, self.ours(verb, &id.0).await?))
    }

    pub(super) fn knows(&self, image: &str) -> Option<ProcessSpec> {
        lock(&self.inner.recipes).get(image).cloned()
    }

    /// Whether what a recipe needs is here. Blocking.
    pub(super) fn is_prepared(&self, process: &ProcessSpec) -> bool {
        match &process.program {
            Program::Python(wanted) => self.inner.environments.present(wanted).is_some(),
            Program::Executable { name, .. } => find_on_path(name, self.path()).is_some(),
        }
    }

    pub(super) fn path(&self) -> &str {
        self.inner.config.environment.get("PATH").map(String::as_str).unwrap_or_default()
    }

    /// Sends a signal to the processes of a container that runs.
    async fn signal(&self, verb: &'static str, id: &ContainerId, signal: Signal) -> Result<(), EngineError> {
        let (_gate, found) = self.behind_gate(verb, id).await?;
        match &found.life {
            Life::Running(Some(running)) => running.process.signal_group(signal),
            _ => return Err(refused(verb, &found.record.name, "it is not running".to_owned(), Blame::Machine)),
        }
        self.ring();
        Ok(())
    }

    /// Ends what runs: signal, grace, kill. Returns when it is gone.
    async fn end(&self, found: &Found, grace: Duration) -> Result<(), EngineError> {
        let Life::Running(running) = &found.life else { return Ok(()) };
        let folder = &found.folder;
        if let Some(running) = running.as_ref().filter(|running| running.process.is_alive())
            && !grace.is_zero()
        {
            let signal = found.record.stop_signal.as_deref().and_then(process_table::signal).unwrap_or(Signal::TERM);
            running.process.signal_group(signal);
            // One that is paused hears it only when it goes on.
            running.process.signal_group(Signal::CONT);
            if ended(folder, grace).await {
                return Ok(());
            }
        }
        if let Some(running) = running {
            running.process.signal_group(Signal::KILL);
        }
        process_table::kill_marked(&found.record.id);
        if ended(folder, KILLED).await {
            return Ok(());
        }
        let message = "it does not end, although it was killed".to_owned();
        Err(refused("stop", &found.record.name, message, Blame::Machine))
    }
}

/// Waits until a process has ended; says whether it did in time.
async fn ended(folder: &Folder, within: Duration) -> bool {
    let looking = async {
        let mut look = tokio::time::interval(LOOK);
        loop {
            look.tick().await;
            if !matches!(folder.life(), Life::Running(_)) {
                return;
            }
        }
    };
    tokio::time::timeout(within, looking).await.is_ok()
}

#[async_trait]
impl ContainerEngine for ProcessEngine {
    async fn info(&self) -> Result<EngineInfo, EngineError> {
        Ok(process_prepare::info(&self.inner.config.root))
    }

    async fn list(&self) -> Result<Vec<Container>, EngineError> {
        let all = self.all().await?;
        let ours = all.iter().filter(|found| self.is_ours(found));
        Ok(ours.map(|found| found.container(&joined_ports(&all, found))).collect())
    }

    async fn create(&self, request: &CreateContainer) -> Result<ContainerId, EngineError> {
        let _gate = self.gate(&request.name).await;
        let all = self.all().await?;
        let id = process_prepare::create(self, &Request { request, all: &all }).await?;
        self.ring();
        Ok(id)
    }

    async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        let (_gate, found) = self.behind_gate("start", id).await?;
        let started = process_start::start(self, &found).await;
        self.ring();
        started
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        let (_gate, found) = match self.behind_gate("stop", id).await {
            Err(EngineError::NoSuchContainer(_)) => return Ok(()),
            found => found?,
        };
        let stopped = self.end(&found, grace).await;
        self.ring();
        stopped
    }

    async fn pause(&self, id: &ContainerId) -> Result<(), EngineError> {
        if !process_table::tells_stopped() {
            let message = "this system does not tell which processes are stopped".to_owned();
            return Err(refused("pause", &id.0, message, Blame::Machine));
        }
        self.signal("pause", id, Signal::STOP).await
    }

    async fn unpause(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.signal("unpause", id, Signal::CONT).await
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), EngineError> {
        let (_gate, found) = match self.behind_gate("remove", id).await {
            Err(EngineError::NoSuchContainer(_)) => return Ok(()),
            found => found?,
        };
        self.end(&found, Duration::ZERO).await?;
        let removed = tokio::task::spawn_blocking({
            let (found, root) = (found.clone(), self.inner.config.root.clone());
            move || process_prepare::remove(&found, &root)
        });
        let removed = removed.await.map_err(std::io::Error::other).and_then(|removed| removed);
        self.ring();
        removed.map_err(|error| refused("remove", &found.record.name, error.to_string(), Blame::Machine))
    }

    fn learn(&self, spec: &ContainerSpec) {
        if let Some(process) = &spec.process {
            lock(&self.inner.recipes).insert(spec.image.clone(), process.clone());
        }
    }

    async fn image_present(&self, image: &str) -> Result<bool, EngineError> {
        let Some(process) = self.knows(image) else { return Ok(false) };
        let engine = self.clone();
        let looked = tokio::task::spawn_blocking(move || engine.is_prepared(&process)).await;
        Ok(looked.unwrap_or(false))
    }

    async fn pull_image(
        &self,
        image: &str,
        _logins: &[String],
        progress: watch::Sender<PullProgress>,
    ) -> Result<(), EngineError> {
        process_prepare::pull(self, image, progress).await
    }

    async fn inspect(&self, id: &ContainerId) -> Result<Container, EngineError> {
        let found = self.ours("inspect", &id.0).await?;
        let all = self.all().await?;
        Ok(found.container(&joined_ports(&all, &found)))
    }

    async fn usage(&self, ids: &[ContainerId]) -> Result<HashMap<ContainerId, Usage>, EngineError> {
        let ids = ids.to_vec();
        let measured = tokio::task::spawn_blocking(move || process_usage::usage(&ids));
        Ok(measured.await.unwrap_or_default())
    }

    async fn memory_kills(&self, ids: &[ContainerId]) -> HashMap<ContainerId, u64> {
        // What cannot be read now is read the next time.
        let all = self.all().await.unwrap_or_default();
        let asked = all.iter().filter(|found| ids.iter().any(|id| id.0 == found.record.id));
        asked.map(|found| (ContainerId(found.record.id.clone()), found.memory_kills())).collect()
    }

    async fn exec(
        &self,
        id: &ContainerId,
        command: &[String],
        timeout: Duration,
    ) -> Result<(i64, String), EngineError> {
        let found = self.ours(process_start::EXEC, &id.0).await?;
        process_start::exec(&found, command, timeout).await
    }

    async fn logs(
        &self,
        id: &ContainerId,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogLine, EngineError>>, EngineError> {
        let found = self.ours("read the logs of", &id.0).await?;
        let name = found.record.name;
        blocking("read the logs of", &name, move || Ok(process_logs::lines(found.folder, &options))).await
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        process_changes::changes(self.clone())
    }
}

/// Ports of running containers that joined this one.
fn joined_ports(all: &[Found], target: &Found) -> BTreeMap<u16, u16> {
    let joined = all.iter().filter(|found| {
        found.record.join.as_ref() == Some(&target.record.name) && matches!(found.life, Life::Running(_))
    });
    joined.flat_map(Found::ports).collect()
}

pub(super) fn refused(verb: &'static str, name: &str, message: String, blame: Blame) -> EngineError {
    EngineError::Refused { verb, name: name.to_owned(), message, blame }
}

/// Does work on files away from the threads that must not wait.
pub(super) async fn blocking<T: Send + 'static>(
    verb: &'static str,
    name: &str,
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(refused(verb, name, error.to_string(), Blame::Machine)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
