//! Pulls models: one download per URI, however many ask.
//!
//! ```no_run
//! # use std::{collections::BTreeMap, sync::Arc};
//! # use kserve_local::api::StorageUri;
//! # use kserve_local::storage::{Cache, Progress, PullConfig, Puller};
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let cache = Cache::open("/var/cache/kserve-local".into())?;
//! let environment: BTreeMap<String, String> = std::env::vars().collect();
//! let puller = Puller::new(cache, PullConfig::default(), Arc::new(environment));
//! let (progress, watched) = tokio::sync::watch::channel(Progress::default());
//! let uri = StorageUri::parse("gs://kfserving-examples/models/sklearn/1.0/model")?;
//! let model = puller.pull(&uri, progress, tokio_util::sync::CancellationToken::new()).await?;
//! println!("{} is in {}", watched.borrow().total, model.path);
//! # Ok(()) }
//! ```
//!
//! However many ask for a URI, in this process or in others, one download runs: callers here share one future, other
//! processes wait for the folder's lock. The work is driven by whoever waits for it; when the last one goes (its token is
//! cancelled or its future dropped) it stops, and what was fetched stays for resuming.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::container::StorageContainers;
use super::image::ImageFolders;
use super::pull::{Outcome, Progress, Pull, PullConfig};
use super::{Cache, CachedModel, PullError};
use crate::api::StorageUri;
use crate::workload::Access;

type Work = Shared<BoxFuture<'static, Outcome>>;

/// A pull that someone is waiting for.
#[derive(Debug)]
struct Flight {
    work: WeakShared<BoxFuture<'static, Outcome>>,
    progress: watch::Receiver<Progress>,
}

/// Pulls models into the cache. One download per URI, however many ask. Clones share their downloads.
#[derive(Clone, Debug)]
pub struct Puller {
    cache: Cache,
    config: PullConfig,
    environment: Arc<BTreeMap<String, String>>,
    images: Option<Arc<dyn ImageFolders>>,
    containers: Option<Arc<dyn StorageContainers>>,
    flights: Arc<Mutex<BTreeMap<StorageUri, Flight>>>,
}

impl Puller {
    /// Makes a puller that writes into `cache`; `environment` holds the credentials and endpoints the user's own tools
    /// would find (`AWS_*`, `GOOGLE_APPLICATION_CREDENTIALS`, `STORAGE_EMULATOR_HOST`, …), read once by the caller.
    pub fn new(cache: Cache, config: PullConfig, environment: Arc<BTreeMap<String, String>>) -> Self {
        Self { cache, config, environment, images: None, containers: None, flights: Arc::default() }
    }

    /// Gives the puller an engine whose images `oci://` models are read from; without one their registries are.
    #[must_use]
    pub fn with_images(self, images: Arc<dyn ImageFolders>) -> Self {
        Self { images: Some(images), ..self }
    }

    pub(super) fn cache(&self) -> &Cache {
        &self.cache
    }

    pub(super) fn config(&self) -> &PullConfig {
        &self.config
    }

    pub(super) fn environment(&self) -> Arc<BTreeMap<String, String>> {
        Arc::clone(&self.environment)
    }

    /// Gives the puller an engine that runs the containers of `ClusterStorageContainer` objects.
    #[must_use]
    pub fn with_containers(self, containers: Arc<dyn StorageContainers>) -> Self {
        Self { containers: Some(containers), ..self }
    }

    /// Fetches a model unless it is there. Local URIs are checked and returned as they are.
    ///
    /// # Errors
    /// See [`PullError`]; transient ones may be tried again, and resume.
    pub async fn pull(
        &self,
        uri: &StorageUri,
        progress: watch::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<CachedModel, PullError> {
        self.pull_with(uri, &Access::default(), progress, cancel).await
    }

    /// Fetches a model as [`Puller::pull`] does, with what Secrets, ServiceAccounts and the `storage` block give. Who
    /// joins a pull that is under way shares its credentials.
    ///
    /// # Errors
    /// As [`Puller::pull`].
    pub async fn pull_with(
        &self,
        uri: &StorageUri,
        access: &Access,
        progress: watch::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<CachedModel, PullError> {
        let (work, mut watched) = self.join(uri, access);
        let mut work = work.fuse();
        let mut open = true;
        loop {
            progress.send_replace(watched.borrow_and_update().clone());
            tokio::select! {
                biased;
                // Losing this arm cancels nothing: the work is shared and polled again, here or by someone else.
                outcome = &mut work => {
                    progress.send_replace(watched.borrow().clone());
                    return outcome;
                }
                // Dropping our share stops the work if nobody else waits for it.
                () = cancel.cancelled() => return Err(PullError::Cancelled),
                // Only news of progress is lost.
                changed = watched.changed(), if open => open = changed.is_ok(),
            }
        }
    }

    /// Joins the pull of a URI that is under way, or starts one.
    fn join(&self, uri: &StorageUri, access: &Access) -> (Work, watch::Receiver<Progress>) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(uri)
            && let Some(work) = flight.work.upgrade().filter(|work| work.peek().is_none())
        {
            return (work, flight.progress.clone());
        }
        flights.retain(|_, flight| flight.work.upgrade().is_some());
        let (sender, progress) = watch::channel(Progress::default());
        let pull = Pull {
            uri: uri.clone(),
            access: access.clone(),
            images: self.images.clone(),
            containers: self.containers.clone(),
            cache: self.cache.clone(),
            config: self.config.clone(),
            environment: self.environment.clone(),
            progress: sender,
        };
        let work = async move { pull.run().await }.boxed().shared();
        if let Some(weak) = work.downgrade() {
            flights.insert(uri.clone(), Flight { work: weak, progress: progress.clone() });
        }
        (work, progress)
    }
}
