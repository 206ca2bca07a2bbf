//! One pull: list, fetch in ranges, verify, unpack, publish.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Cache, CachedModel, PullError};
use crate::api::StorageUri;

/// How far a pull is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes so far.
    pub done: u64,
    /// Bytes in all; 0 while unknown.
    pub total: u64,
    /// Files so far and in all.
    pub files: (u64, u64),
    /// `listing`, `downloading`, `unpacking`, `publishing`.
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
    pub stall_timeout: std::time::Duration,
}

/// Pulls models into the cache. One download per URI, however many ask.
#[derive(Clone, Debug)]
pub struct Puller {
    cache: Cache,
    config: PullConfig,
}

impl Puller {
    /// Makes a puller that writes into `cache`; `environment` holds the credentials and endpoints the user's own tools
    /// would find (`AWS_*`, `GOOGLE_APPLICATION_CREDENTIALS`, `STORAGE_EMULATOR_HOST`, …), read once by the caller.
    pub fn new(cache: Cache, config: PullConfig, environment: Arc<std::collections::BTreeMap<String, String>>) -> Self {
        let _ = environment;
        Self { cache, config }
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
        let _ = (uri, progress, cancel, &self.cache, &self.config);
        todo!()
    }
}
