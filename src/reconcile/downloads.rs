//! Containers of `ClusterStorageContainer` objects, run by the engine until they end (§3.6).
//!
//! They carry the label `kserve-local/download`, so that one which a daemon that died left behind is found and removed:
//! before the next run of its model, and whenever containers are listed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use futures::StreamExt;
use tokio::sync::watch;

use super::execute::chain;
use super::mounts::Mounts;
use crate::engine::{
    Bind, Blame, Container, ContainerEngine, ContainerId, ContainerState, CreateContainer, EngineError, Exit,
    LogOptions, Network,
};
use crate::storage::SourceError;
use crate::storage::container::{ContainerRun, StorageContainers};
use crate::tasks::Tasks;
use crate::workload::names::INSTANCE_LABEL;
use crate::workload::{ContainerSpec, PullPolicy};

/// Says that a container fetches a model, and which.
const DOWNLOAD_LABEL: &str = "kserve-local/download";
/// Lines of output that an error quotes.
const LAST_WORDS: usize = 10;
/// Characters of a line that an error quotes.
const LONGEST_LINE: usize = 300;
/// How often a container is looked at; seconds, because it runs for minutes.
const LOOK: Duration = Duration::from_millis(500);
/// Looks between two measurements of what it wrote.
const LOOKS_PER_MEASURE: u32 = 4;
/// Between the stop signal and the kill of a container whose work is thrown away.
const GRACE: Duration = Duration::from_secs(5);
/// Values shorter than this are no secrets worth hiding, and hiding them would spoil the text.
const SHORTEST_SECRET: usize = 6;

/// Runs the containers.
#[derive(Clone)]
pub struct Downloads {
    engine: Arc<dyn ContainerEngine>,
    mounts: Mounts,
    instance: String,
    tasks: Tasks,
    running: Arc<Mutex<BTreeSet<String>>>,
}

impl std::fmt::Debug for Downloads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Downloads")
    }
}

impl Downloads {
    /// Makes the room; `tasks` end containers whose pull was given up.
    pub fn new(engine: Arc<dyn ContainerEngine>, mounts: Mounts, instance: String, tasks: Tasks) -> Self {
        Self { engine, mounts, instance, tasks, running: Arc::default() }
    }

    /// Removes, beside everything else, listed containers that fetch for nobody: a daemon that died left them.
    pub fn sweep(&self, listed: &[Container]) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let left =
            |container: &&Container| container.labels.get(DOWNLOAD_LABEL).is_some_and(|model| !running.contains(model));
        for container in listed.iter().filter(left) {
            tracing::info!(container = container.name, "removing a download that nobody waits for");
            self.remove_later(container.id.clone());
        }
    }

    fn remove_later(&self, id: ContainerId) {
        let engine = Arc::clone(&self.engine);
        self.tasks.spawn_short(async move {
            if let Err(error) = remove(&*engine, &id).await {
                tracing::warn!(container = %id, error = %chain(&error), "could not remove a download");
            }
        });
    }

    fn scratch_name(id: &str) -> String {
        format!("download-{id}")
    }

    async fn ensure_image(&self, spec: &ContainerSpec, logins: &[String]) -> Result<(), SourceError> {
        let present = self.engine.image_present(&spec.image).await.map_err(|error| failed(&error))?;
        match (present, spec.pull_policy) {
            (true, PullPolicy::IfNotPresent | PullPolicy::Never) => Ok(()),
            (false, PullPolicy::Never) => Err(failed(&EngineError::ImageAbsent(spec.image.clone()))),
            _ => {
                let pulled = self.engine.pull_image(&spec.image, logins, watch::Sender::default()).await;
                pulled.map_err(|error| failed(&error))
            }
        }
    }

    async fn request(&self, run: &ContainerRun) -> Result<CreateContainer, SourceError> {
        let mut spec = run.downloader.container.clone();
        let user = rustix::process::getuid();
        let rootless = self.engine.info().await.is_ok_and(|info| info.endpoint.contains("rootless"));
        if spec.security.run_as_user.is_none() && !user.is_root() && !rootless {
            // What it writes is to be ours, or it could not be moved into the cache.
            spec.security.run_as_user = Some(i64::from(user.as_raw()));
            spec.security.run_as_group = Some(i64::from(rustix::process::getgid().as_raw()));
        }
        let (mounts, replica, owned) = (self.mounts.clone(), Self::scratch_name(&run.id), spec.mounts.clone());
        let binds = tokio::task::spawn_blocking(move || mounts.binds_of(&replica, &[], &owned)).await;
        let binds = binds.map_err(|error| SourceError::transient("could not prepare mounts", error))?;
        let mut binds = binds.map_err(|error| SourceError::transient("could not prepare mounts", error))?;
        binds.push(Bind::Path {
            source: run.folder.clone(),
            target: run.downloader.destination.clone(),
            read_only: false,
        });
        Ok(CreateContainer {
            name: format!("kserve-local.{}.download-{}", self.instance, run.id),
            labels: [(INSTANCE_LABEL, self.instance.clone()), (DOWNLOAD_LABEL, run.id.clone())]
                .map(|(label, value)| (label.to_owned(), value))
                .into(),
            spec,
            binds,
            network: Network::Own,
            publish: Vec::new(),
            shm_size: None,
            host_aliases: run.downloader.host_aliases.clone(),
            gpus: Vec::new(),
            hostname: Self::scratch_name(&run.id),
            stop_timeout: GRACE,
        })
    }

    /// Waits until the container ends, or has been silent for too long.
    async fn wait(
        &self,
        id: &ContainerId,
        run: &ContainerRun,
        bytes: &watch::Sender<u64>,
    ) -> Result<Exit, SourceError> {
        let name = &run.downloader.name;
        let (mut looks, mut silent, mut before) = (0_u32, Duration::ZERO, (0, None));
        loop {
            let container = self.engine.inspect(id).await;
            match container.map_err(|error| failed(&error))?.state {
                ContainerState::Exited(exit) => return Ok(exit),
                ContainerState::Removing => {
                    let message = format!("storage container `{name}` was removed while it ran");
                    return Err(SourceError::Transient { message, source: None });
                }
                ContainerState::Created | ContainerState::Running | ContainerState::Paused => {}
            }
            looks += 1;
            if looks.is_multiple_of(LOOKS_PER_MEASURE) {
                let folder = run.folder.clone();
                let written = tokio::task::spawn_blocking(move || size_of(&folder)).await.unwrap_or_default();
                bytes.send_replace(written);
                let said = self.words(id, 1).await;
                if (written, Some(&said)) == (before.0, before.1.as_ref()) {
                    silent += LOOK * LOOKS_PER_MEASURE;
                } else {
                    (silent, before) = (Duration::ZERO, (written, Some(said)));
                }
            }
            if silent >= run.silence {
                let message = format!(
                    "storage container `{name}` neither wrote nor said anything for {} s, and was stopped",
                    run.silence.as_secs()
                );
                return Err(SourceError::Transient { message, source: None });
            }
            // The container ends this, or its silence.
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Returns the last lines a container wrote.
    async fn words(&self, id: &ContainerId, lines: usize) -> Vec<String> {
        let read = async {
            let options = LogOptions { tail: Some(lines), since: None, follow: false };
            let lines = self.engine.logs(id, options).await.ok()?;
            let lines = lines.filter_map(|line| async { line.ok() });
            Some(lines.map(|line| line.text.trim_end().to_owned()).collect::<Vec<_>>().await)
        };
        let words = tokio::time::timeout(Duration::from_secs(5), read).await.ok().flatten().unwrap_or_default();
        words.into_iter().filter(|line| !line.is_empty()).collect()
    }
}

#[async_trait]
impl StorageContainers for Downloads {
    async fn clear(&self, id: &str) -> Result<(), SourceError> {
        let listed = self.engine.list().await.map_err(|error| failed(&error))?;
        for container in listed.iter().filter(|one| one.labels.get(DOWNLOAD_LABEL).is_some_and(|model| model == id)) {
            remove(&*self.engine, &container.id).await.map_err(|error| failed(&error))?;
        }
        discard(&self.mounts.scratch(&Self::scratch_name(id))).await;
        Ok(())
    }

    async fn run(&self, run: &ContainerRun, bytes: watch::Sender<u64>) -> Result<(), SourceError> {
        if !self.engine.has_images() {
            return Err(SourceError::Invalid(format!(
                "storage container `{}` needs a container engine, and this one runs no containers",
                run.downloader.name
            )));
        }
        let spec = &run.downloader.container;
        self.ensure_image(spec, &run.logins).await?;
        // Noted before the container is there: a list that shows it must not take it for a stranger.
        let mut held = Held { downloads: self, model: run.id.clone(), container: None };
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(run.id.clone());
        let request = self.request(run).await?;
        let id = self.engine.create(&request).await.map_err(|error| failed(&error))?;
        held.container = Some(id.clone());
        self.engine.start(&id).await.map_err(|error| failed(&error))?;
        let exit = self.wait(&id, run, &bytes).await?;
        let words = if exit.code == 0 { Vec::new() } else { self.words(&id, LAST_WORDS).await };
        remove(&*self.engine, &id).await.map_err(|error| failed(&error))?;
        held.container = None;
        discard(&self.mounts.scratch(&Self::scratch_name(&run.id))).await;
        match exit.code {
            0 => Ok(()),
            _ => Err(SourceError::Transient { message: told(run, &exit, &words), source: None }),
        }
    }
}

/// A run under way. Dropped before its end, the container is removed.
struct Held<'d> {
    downloads: &'d Downloads,
    model: String,
    container: Option<ContainerId>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.container.take() {
            self.downloads.remove_later(id);
        }
        self.downloads.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.model);
    }
}

/// Whether a container fetches a model.
pub(super) fn is_download(container: &Container) -> bool {
    container.labels.contains_key(DOWNLOAD_LABEL)
}

/// Ends a container and removes it.
async fn remove(engine: &dyn ContainerEngine, id: &ContainerId) -> Result<(), EngineError> {
    engine.stop(id, GRACE).await?;
    engine.remove(id).await
}

/// Removes a folder with credentials, as far as it can.
async fn discard(folder: &Utf8Path) {
    match tokio::fs::remove_dir_all(folder).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%folder, %error, "could not remove a scratch folder");
        }
        _ => {}
    }
}

fn size_of(folder: &Utf8Path) -> u64 {
    let mut size = 0;
    let mut folders: Vec<Utf8PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // What changes under our eyes is looked at again.
        for entry in folder.read_dir_utf8().into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => folders.push(entry.into_path()),
                Ok(meta) => size += meta.len(),
                Err(_) => {}
            }
        }
    }
    size
}

/// Says how a container ended that did not end well.
fn told(run: &ContainerRun, exit: &Exit, words: &[String]) -> String {
    let name = &run.downloader.name;
    let how = match exit {
        Exit { out_of_memory: true, .. } => "ran out of memory; raise resources.limits.memory of it".to_owned(),
        Exit { killed_under_limit: Some(_), code, .. } => {
            format!("was killed (exit code {code}), most likely for memory; raise resources.limits.memory of it")
        }
        Exit { error, .. } if !error.is_empty() => format!("could not be started: {error}"),
        Exit { code, .. } => format!("ended with exit code {code}"),
    };
    let secrets = parts(run.downloader.container.env.iter().map(|(_, value)| value.as_str()));
    let words: Vec<String> = words.iter().map(|line| hide(line, &secrets)).collect();
    match words.is_empty() {
        true => format!("storage container `{name}` {how}"),
        false => format!("storage container `{name}` {how}: {}", words.join(" | ")),
    }
}

/// Returns values and their lines, also those that are written as `\n` within JSON: output comes line by line. The longest
/// come first, so that none is missed because a part of it is hidden already.
fn parts<'v>(values: impl Iterator<Item = &'v str>) -> Vec<&'v str> {
    let lines = |value: &'v str| value.split('\n').flat_map(|line| line.split("\\n")).map(str::trim);
    let mut parts: Vec<&str> = values.flat_map(|value| std::iter::once(value).chain(lines(value))).collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
    parts
}

/// Takes credentials out of a line, and what is too long.
fn hide(line: &str, secrets: &[&str]) -> String {
    let mut line = crate::api::storage_uri::redact_all(line);
    for secret in secrets.iter().filter(|secret| secret.len() >= SHORTEST_SECRET) {
        line = line.replace(secret, "…");
    }
    line.chars().take(LONGEST_LINE).collect()
}

/// An engine's error in the words of a pull.
fn failed(error: &EngineError) -> SourceError {
    match error {
        EngineError::ImagePull { permanent: true, .. }
        | EngineError::ImageAbsent(_)
        | EngineError::Refused { blame: Blame::User, .. } => SourceError::Invalid(chain(error)),
        _ => SourceError::Transient { message: chain(error), source: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_several_lines_is_hidden_line_by_line() {
        let pem = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF\n-----END PRIVATE KEY-----\n";
        let json = r#"{"private_key": "-----BEGIN PRIVATE KEY-----\nQUJDREVGRw\nSElKS0xNTg=="}"#;
        let secrets = parts([pem, json].into_iter());
        for (line, shown) in [
            ("bad key: MIIEvQIBADANBg", "bad key: …"),
            ("  kqhkiG9w0BAQEF", "  …"),
            ("QUJDREVGRw is no key", "… is no key"),
            ("nothing of it", "nothing of it"),
        ] {
            assert_eq!(hide(line, &secrets), shown);
        }
        assert_eq!(hide(json, &secrets), "…");
    }
}
