//! One pull: list, fetch in ranges, verify, unpack, publish.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::cache;
use super::container::StorageContainers;
use super::fetch::{Fetch, pause};
use super::image::ImageFolders;
use super::known::link_known;
use super::layers;
use super::local::{self, Found};
use super::names::Placed;
use super::open::{Opening, open};
use super::piece::blocking;
use super::reach::ReachPolicy;
use super::record::{ModelKey, Record, RecordedFile};
use super::refresh::Listing;
use super::room::{Need, RoomPolicy, own_blocks};
use super::staging::Staging;
use super::unpack::{self, ArchiveLimits, UnpackError};
use super::{Cache, CachedModel, ModelSource, PullError, RemoteFile, RemoteManifest, SourceError, Unpack};
use crate::api::StorageUri;
use crate::workload::{Access, patterns};

/// How far a pull is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes so far.
    pub done: u64,
    /// Bytes in all; 0 while unknown.
    pub total: u64,
    /// Files so far and in all.
    pub files: (u64, u64),
    /// `waiting` (for another process), `listing`, `downloading`, `unpacking`, `publishing`.
    pub phase: &'static str,
}

/// Settings of pulls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullConfig {
    /// Ranges in flight at once.
    pub concurrency: usize,
    /// Bytes per range.
    pub range_size: u64,
    /// Longest silence of a connection before it is given up.
    pub stall_timeout: Duration,
    /// Tries of one range without progress before the pull fails.
    pub attempts: u32,
    /// Wait before the second try; doubles, up to ten seconds.
    pub backoff: Duration,
    /// Where connections may go.
    pub reach: ReachPolicy,
    /// How long a container that fetches may be silent.
    pub container_silence: Duration,
    /// What archives may become.
    pub archive: ArchiveLimits,
    /// How much room the cache may take.
    pub room: RoomPolicy,
    /// Whether nothing is fetched: what is in the cache is used, all else is an error.
    pub offline: bool,
}

impl Default for PullConfig {
    fn default() -> Self {
        Self {
            concurrency: 8,
            range_size: 8 << 20,
            stall_timeout: Duration::from_secs(30),
            attempts: 5,
            backoff: Duration::from_millis(200),
            reach: ReachPolicy::default(),
            container_silence: Duration::from_secs(15 * 60),
            archive: ArchiveLimits::default(),
            room: RoomPolicy::default(),
            offline: false,
        }
    }
}

/// What a pull comes to.
pub(super) type Outcome = Result<CachedModel, PullError>;

/// One pull.
pub(super) struct Pull {
    pub(super) uri: StorageUri,
    pub(super) access: Access,
    pub(super) images: Option<Arc<dyn ImageFolders>>,
    pub(super) containers: Option<Arc<dyn StorageContainers>>,
    pub(super) cache: Cache,
    pub(super) config: PullConfig,
    pub(super) environment: Arc<BTreeMap<String, String>>,
    pub(super) progress: watch::Sender<Progress>,
}

/// How often a lock that another process holds is looked at again.
const LOCK_POLL: Duration = Duration::from_millis(200);
/// Tries of a listing before the pull fails: a place that does not answer is told soon.
const LISTING_ATTEMPTS: u32 = 3;

impl Pull {
    /// Brings the model into the cache unless it is there.
    ///
    /// # Errors
    /// See [`PullError`].
    pub(super) async fn run(&self) -> Outcome {
        let (cache, uri) = (self.cache.clone(), self.uri.clone());
        match &self.uri {
            StorageUri::Local(path) => return self.local(Utf8Path::new(path)).await,
            StorageUri::Pvc { .. } => return Err(PullError::UnsupportedScheme { scheme: "pvc".to_owned() }),
            _ => {}
        }
        if let Some(model) = self.blocking(move || Ok(cache.lookup(&uri))).await? {
            return Ok(self.present(model));
        }
        if self.config.offline {
            return Err(PullError::Offline { uri: self.uri.redacted() });
        }
        let key = ModelKey::of(&self.uri);
        let staging = match self.stage(&key).await? {
            Staged::Present(model) => return Ok(self.present(model)),
            Staged::Ours(staging) => staging,
        };
        let source = self.open(&staging).await?;
        let mut outcome = self.remote(&*source, &staging, &key).await;
        if let Err(PullError::Source { source: SourceError::Changed(_), .. }) = &outcome {
            // Someone is writing there. Once more from the listing; nothing of the old version is used.
            outcome = self.remote(&*source, &staging, &key).await;
        }
        if let Err(PullError::DiskFull { .. } | PullError::WrongDigest { .. }) = &outcome {
            // What is wrong is not gone on with, and a full disk needs the room.
            self.blocking(move || staging.reset()).await?;
        }
        outcome
    }

    fn present(&self, model: CachedModel) -> CachedModel {
        let CachedModel { size, files, .. } = model;
        self.progress.send_replace(Progress { done: size, total: size, files: (files, files), phase: "publishing" });
        model
    }

    fn phase(&self, phase: &'static str) {
        self.progress.send_modify(|progress| progress.phase = phase);
    }

    fn failed(&self, source: SourceError) -> PullError {
        PullError::Source { uri: self.uri.redacted(), source }
    }

    /// Runs file work on a blocking thread.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, PullError> {
        blocking(work).await.map_err(|error| PullError::disk(self.cache.root(), 0, error))
    }

    /// Takes the model's folder, or waits until whoever has it is done.
    async fn stage(&self, key: &ModelKey) -> Result<Staged, PullError> {
        loop {
            let (cache, key) = (self.cache.clone(), key.clone());
            let tried = self.blocking(move || {
                let staging = Staging::try_begin(&cache, &key)?;
                Ok((staging, cache.find(&key)))
            });
            match tried.await? {
                (Some(staging), None) => return Ok(Staged::Ours(Arc::new(staging))),
                (staging, Some(model)) => {
                    if let Some(staging) = staging {
                        self.blocking(move || cache::remove_tree(staging.folder())).await?;
                    }
                    return Ok(Staged::Present(model));
                }
                (None, None) => {
                    self.phase("waiting");
                    // Ends when the holder publishes, gives up or dies, or when nobody waits for us any more.
                    tokio::time::sleep(LOCK_POLL).await;
                }
            }
        }
    }

    /// Opens the source of a remote URI.
    async fn open(&self, staging: &Staging) -> Result<Box<dyn ModelSource>, PullError> {
        self.phase("listing");
        let (uri, config, environment) = (self.uri.clone(), self.config.clone(), self.environment.clone());
        let (access, images, scratch) = (self.access.clone(), self.images.clone(), staging.folder().to_owned());
        let (containers, progress) = (self.containers.clone(), self.progress.clone());
        let opening = move || {
            Ok(open(&Opening {
                uri: &uri,
                config: &config,
                environment: &environment,
                access: &access,
                scratch: &scratch,
                images: images.as_ref(),
                containers: containers.as_ref(),
                progress: &progress,
            }))
        };
        let opened = self.blocking(opening).await?;
        opened.map_err(|error| self.failed(error))
    }

    /// Lists, fetches, unpacks and publishes.
    async fn remote(&self, source: &dyn ModelSource, staging: &Arc<Staging>, key: &ModelKey) -> Outcome {
        self.phase("listing");
        let manifest = self.list(source).await?;
        let total: u64 = manifest.files.iter().filter_map(|file| file.size).sum();
        self.progress.send_replace(Progress {
            total,
            files: (0, manifest.files.len() as u64),
            phase: "downloading",
            ..Progress::default()
        });
        let mut linked = self.link_known(staging, &manifest).await?;
        let here: u64 = linked.values().map(|file| file.size).sum();
        let missing: Vec<RemoteFile> = manifest
            .files
            .iter()
            .enumerate()
            .filter(|(index, _)| !linked.contains_key(index))
            .map(|(_, file)| file.clone())
            .collect();
        self.make_room(staging, total.saturating_sub(here), missing.len() as u64).await?;
        let fetch = Fetch {
            uri: &self.uri.redacted(),
            source,
            files: &missing,
            here: (here, linked.len() as u64),
            staging,
            config: &self.config,
            progress: &self.progress,
        };
        let mut fetched = fetch.run().await?;
        if !linked.is_empty() {
            let held = staging.clone();
            let names: Vec<Utf8PathBuf> = linked.values().map(|file| file.path.clone()).collect();
            self.blocking(move || names.iter().try_for_each(|name| held.take_linked(name))).await?;
            fetched.extend(linked.drain().map(|(_, file)| file));
            fetched.sort_by(|a, b| a.path.cmp(&b.path));
        }
        let archive = match (&manifest.files[..], manifest.unpack) {
            ([only], kind @ (Unpack::Tar | Unpack::Zip)) => Some((vec![staging.fetched().join(&only.path)], kind)),
            (layers, Unpack::Layers) => {
                Some((layers.iter().map(|layer| staging.fetched().join(&layer.path)).collect(), Unpack::Layers))
            }
            _ => None,
        };
        let record = |files| Record::new(key, files).with_listing(Listing::of(&manifest));
        let Some((archive, kind)) = archive else {
            return self.publish(staging, staging.fetched(), record(fetched)).await;
        };
        let unpacked = self.unpack(staging, archive, kind).await;
        if let Err(PullError::Archive { .. }) = &unpacked {
            let staging = staging.clone();
            self.blocking(move || staging.reset()).await?;
        }
        self.publish(staging, staging.files(), record(unpacked?)).await
    }

    /// Links what is in the cache already. An archive is not kept, only what it holds.
    async fn link_known(
        &self,
        staging: &Arc<Staging>,
        manifest: &RemoteManifest,
    ) -> Result<HashMap<usize, RecordedFile>, PullError> {
        if manifest.unpack != Unpack::Keep {
            return Ok(HashMap::new());
        }
        let (cache, files, folder) = (self.cache.clone(), manifest.files.clone(), staging.linked());
        self.blocking(move || link_known(&cache, &files, &folder)).await
    }

    /// Asks the source what there is, and checks the names it gives.
    async fn list(&self, source: &dyn ModelSource) -> Result<RemoteManifest, PullError> {
        let mut failures = 0;
        let manifest = loop {
            match source.manifest().await {
                Ok(manifest) => break manifest,
                Err(error @ SourceError::Transient { .. }) => {
                    failures += 1;
                    // A container that failed is run again by the next pull, later and later.
                    let once = matches!(self.uri, StorageUri::By { .. });
                    if once || failures >= LISTING_ATTEMPTS.min(self.config.attempts) {
                        return Err(self.failed(error));
                    }
                    tokio::time::sleep(pause(self.config.backoff, failures)).await;
                }
                Err(error) => return Err(self.failed(error)),
            }
        };
        let manifest = wanted(&self.uri, manifest).map_err(|error| self.failed(error))?;
        let mut placed = Placed::default();
        for file in &manifest.files {
            let checked = super::names::check(file.path.as_str()).and_then(|path| placed.file(&path));
            checked.map_err(|problem| {
                self.failed(SourceError::Invalid(format!("the source offers a file that is not taken: {problem}")))
            })?;
        }
        Ok(manifest)
    }

    /// Sees to it that there is room, before the download begins.
    async fn make_room(&self, staging: &Arc<Staging>, bytes: u64, files: u64) -> Result<(), PullError> {
        let (held, cache, policy) = (staging.clone(), self.cache.clone(), self.config.room);
        let made = self.blocking(move || {
            let there = own_blocks(&held.fetched());
            // Besides the files: folders, blobs are links, and some of our own.
            let need = Need { bytes: bytes.saturating_sub(there), inodes: files + files / 8 + 16 };
            Ok(cache.make_room(held.folder(), need, policy))
        });
        made.await?
    }

    async fn unpack(
        &self,
        staging: &Arc<Staging>,
        archives: Vec<Utf8PathBuf>,
        kind: Unpack,
    ) -> Result<Vec<RecordedFile>, PullError> {
        self.phase("unpacking");
        let stop = CancellationToken::new();
        // When this future is dropped the thread is told to stop; it holds the folder until it has.
        let _told = stop.clone().drop_guard();
        let (held, limits) = (staging.clone(), self.config.archive);
        let file = match kind {
            Unpack::Layers => "layers".to_owned(),
            _ => archives.first().and_then(|path| path.file_name()).unwrap_or_default().to_owned(),
        };
        let unpacked = self
            .blocking(move || {
                Ok(match (kind, &archives[..]) {
                    (Unpack::Layers, layers) => {
                        layers::unpack_layers(layers, &held.files(), &limits, &|| stop.is_cancelled())
                    }
                    (kind, archives) => {
                        unpack::unpack(&archives[0], kind, &held.files(), &limits, &|| stop.is_cancelled())
                    }
                })
            })
            .await?;
        unpacked.map_err(|error| match error {
            UnpackError::Stopped => PullError::Cancelled,
            UnpackError::Disk(error) => PullError::disk(staging.folder(), 0, error),
            problem => PullError::Archive { file, problem: problem.to_string() },
        })
    }

    async fn publish(&self, staging: &Arc<Staging>, from: Utf8PathBuf, record: Record) -> Outcome {
        self.phase("publishing");
        let staging = staging.clone();
        self.blocking(move || staging.publish(&from, &record)).await
    }

    async fn local(&self, path: &Utf8Path) -> Outcome {
        let (owned, cache) = (path.to_owned(), self.cache.clone());
        let looked = self.blocking(move || {
            Ok(local::find(&owned).and_then(|found| match found {
                Found::Folder(meta) => local::measure(&cache, &owned, &meta).map(Ok),
                Found::File { path, key, unpack } => Ok(Err((path, key, unpack))),
            }))
        });
        let (file, key, unpack) = match looked.await?? {
            Ok(model) => return Ok(self.present(model)),
            Err(file) => file,
        };
        let staging = match self.stage(&key).await? {
            Staged::Present(model) => return Ok(self.present(model)),
            Staged::Ours(staging) => staging,
        };
        let files = match unpack {
            Unpack::Keep => {
                let held = staging.clone();
                self.blocking(move || Ok(local::stage_file(&held, &file))).await??
            }
            kind => self.unpack(&staging, vec![file], kind).await?,
        };
        let model = self.publish(&staging, staging.files(), Record::new(&key, files)).await?;
        Ok(self.present(model))
    }
}

/// Leaves out the files that are not wanted. What remains counts when it comes to a single archive.
pub(super) fn wanted(uri: &StorageUri, manifest: RemoteManifest) -> Result<RemoteManifest, SourceError> {
    let StorageUri::Part { allow, ignore, .. } = uri.unversioned() else { return Ok(manifest) };
    let RemoteManifest { mut files, unpack } = manifest;
    // An object that is named itself is meant, as upstream has it.
    if let (StorageUri::S3 { path, .. }, [only]) = (uri.bare(), &files[..])
        && only.key == *path
    {
        return Ok(RemoteManifest { files, unpack });
    }
    files.retain(|file| patterns::wanted(file.path.as_str(), allow, ignore));
    if files.is_empty() {
        let nothing = "Failed to fetch model. STORAGE_ALLOW_PATTERNS and STORAGE_IGNORE_PATTERNS leave no file of it.";
        return Err(SourceError::NotFound(nothing.to_owned()));
    }
    let hub = matches!(uri.bare(), StorageUri::HuggingFace { .. } | StorageUri::ModelScope { .. });
    let unpack = match (&files[..], unpack) {
        ([only], Unpack::Keep) if !hub => unpack::kind_of(only.path.file_name().unwrap_or_default()),
        (_, unpack) => unpack,
    };
    Ok(RemoteManifest { files, unpack })
}

enum Staged {
    Present(CachedModel),
    Ours(Arc<Staging>),
}
