//! A model that a container of the user's fetches (`ClusterStorageContainer`, §3.6).
//!
//! The container writes into a folder of the pull's own; when it has ended well, what is there becomes the model, as a git
//! checkout does. It starts from nothing each time: what a run that died left behind is not gone on with.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use camino::Utf8PathBuf;
use tokio::sync::watch;

use super::piece::blocking;
use super::scratch::Scratch;
use super::walk::{remote_files, walk};
use super::{ModelSource, Progress, Reading, RemoteFile, RemoteManifest, SourceError, Unpack};
use crate::home::restrict;
use crate::workload::Downloader;

/// A run of such a container.
#[derive(Clone, Debug)]
pub struct ContainerRun {
    /// Names the model; there is one run of each at a time.
    pub id: String,
    /// What runs.
    pub downloader: Arc<Downloader>,
    /// Folder of this machine that is mounted at the destination.
    pub folder: Utf8PathBuf,
    /// Logins for its image, of pull Secrets.
    pub logins: Vec<String>,
    /// How long it may be silent: neither write a byte nor say a word.
    pub silence: Duration,
}

/// Runs such containers.
#[async_trait]
pub trait StorageContainers: Send + Sync + std::fmt::Debug {
    /// Removes what an earlier run of a model left.
    async fn clear(&self, id: &str) -> Result<(), SourceError>;
    /// Runs a container until it ends, telling how many bytes its folder has. It is gone when this returns or is dropped.
    async fn run(&self, run: &ContainerRun, bytes: watch::Sender<u64>) -> Result<(), SourceError>;
}

/// The model of a container.
#[derive(Debug)]
pub(super) struct ContainerSource {
    pub(super) containers: Arc<dyn StorageContainers>,
    pub(super) downloader: Arc<Downloader>,
    pub(super) id: String,
    pub(super) logins: Vec<String>,
    /// The pull's folder.
    pub(super) beside: Utf8PathBuf,
    pub(super) silence: Duration,
    pub(super) progress: watch::Sender<Progress>,
    /// Held until the pull is over: its files are moved away one by one.
    pub(super) scratch: tokio::sync::Mutex<Option<Scratch>>,
}

impl ContainerSource {
    /// Makes the run's folders anew.
    async fn folders(&self) -> Result<Utf8PathBuf, SourceError> {
        let mut held = self.scratch.lock().await;
        *held = None;
        let beside = self.beside.clone();
        let made = blocking(move || {
            let scratch = Scratch::beside(&beside)?;
            let model = scratch.path().join("model");
            std::fs::create_dir_all(&model)?;
            // Containers run as any user.
            restrict(&model, 0o777)?;
            Ok((scratch, model))
        });
        let unmade = |error| SourceError::transient("could not make a folder for the container", error);
        let (scratch, model) = made.await.map_err(unmade)?;
        *held = Some(scratch);
        Ok(model)
    }
}

#[async_trait]
impl ModelSource for ContainerSource {
    async fn manifest(&self) -> Result<RemoteManifest, SourceError> {
        let name = &self.downloader.name;
        self.containers.clear(&self.id).await?;
        let folder = self.folders().await?;
        let run = ContainerRun {
            id: self.id.clone(),
            downloader: Arc::clone(&self.downloader),
            folder: folder.clone(),
            logins: self.logins.clone(),
            silence: self.silence,
        };
        self.progress.send_modify(|progress| progress.phase = "fetching by container");
        let (bytes, mut grown) = watch::channel(0);
        let running = self.containers.run(&run, bytes);
        tokio::pin!(running);
        let mut told = true;
        loop {
            tokio::select! {
                ended = &mut running => { ended?; break; }
                // Only news of progress is lost.
                changed = grown.changed(), if told => match changed {
                    Ok(()) => { let done = *grown.borrow_and_update(); self.progress.send_modify(|progress| progress.done = done); }
                    Err(_) => told = false,
                },
            }
        }
        let owner = format!("what storage container `{name}` fetched");
        let walked = blocking(move || {
            Ok(walk(&folder, &owner).and_then(|files| {
                let opened = files.iter().try_for_each(|file| make_ours(&file.real));
                opened.map(|()| files).map_err(|error| {
                    SourceError::Denied(format!("{owner} belongs to another user, and cannot be taken over: {error}. Set securityContext.runAsUser in the ClusterStorageContainer to the user of kserve-local"))
                })
            }))
        });
        let files =
            walked.await.map_err(|error| SourceError::transient("could not read what was fetched", error))??;
        if files.is_empty() {
            return Err(SourceError::NotFound(format!(
                "Failed to fetch model. Storage container `{name}` ended well and left nothing in {}.",
                self.downloader.destination
            )));
        }
        Ok(RemoteManifest { files: remote_files(files, None), unpack: Unpack::Keep })
    }

    async fn read(&self, file: &RemoteFile, _offset: u64, _length: Option<u64>) -> Result<Reading, SourceError> {
        Err(SourceError::Changed(format!("{} of storage container {}", file.path, self.downloader.name)))
    }

    fn supports_ranges(&self) -> bool {
        false
    }
}

/// Makes a file one that this user can move and close. Blocking.
fn make_ours(file: &camino::Utf8Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let executable = std::fs::metadata(file)?.permissions().mode() & 0o100 != 0;
    restrict(file, if executable { 0o755 } else { 0o644 })
}
