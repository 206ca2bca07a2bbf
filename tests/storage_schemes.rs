//! Every scheme end to end: from URI to mounted folder, against an emulator or a server that speaks its API.
//!
//! `docs/storage.md` has the table of schemes and tests. Promises that hold for all sources alike are in
//! `storage_conformance.rs`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/stores/mod.rs"]
mod stores;
#[path = "support/tree.rs"]
mod tree;

#[path = "storage_schemes/aws.rs"]
mod aws;
#[path = "storage_schemes/containers.rs"]
mod containers;
#[path = "storage_schemes/credentials.rs"]
mod credentials;
#[path = "storage_schemes/emulators.rs"]
mod emulators;
#[path = "storage_schemes/git.rs"]
mod git;
#[path = "storage_schemes/hub.rs"]
mod hub;
#[path = "storage_schemes/stores.rs"]
mod hubs_and_shares;
#[path = "storage_schemes/oci.rs"]
mod oci;
#[path = "storage_schemes/samples.rs"]
mod samples;

use std::collections::BTreeMap;
use std::time::Duration;

use camino::Utf8PathBuf;
use kserve_local::api::StorageUri;
use kserve_local::storage::{Cache, CachedModel, PullConfig, PullError, Puller};
use kserve_local::workload::{Access, ModelRef};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tree::tree;

/// A cache and a puller with an environment.
pub(crate) struct Bench {
    _folder: tempfile::TempDir,
    pub(crate) puller: Puller,
}

impl Bench {
    pub(crate) fn new(environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let puller = Self::puller(folder.path(), environment);
        Self { _folder: folder, puller }
    }

    fn puller(folder: &std::path::Path, environment: &[(&str, &str)]) -> Puller {
        let cache = Cache::open(Utf8PathBuf::from_path_buf(folder.join("cache")).unwrap()).unwrap();
        let config = PullConfig {
            range_size: 64 << 10,
            stall_timeout: Duration::from_secs(5),
            backoff: Duration::from_millis(1),
            ..PullConfig::default()
        };
        let environment: BTreeMap<String, String> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Puller::new(cache, config, environment.into())
    }

    pub(crate) async fn pull(&self, uri: &str) -> Result<CachedModel, PullError> {
        self.pull_with(uri, &Access::default()).await
    }

    pub(crate) async fn pull_with(&self, uri: &str, access: &Access) -> Result<CachedModel, PullError> {
        let uri = StorageUri::parse(uri).unwrap();
        self.puller.pull_with(&uri, access, watch::Sender::default(), CancellationToken::new()).await
    }

    /// Pulls a model as a service wants it.
    pub(crate) async fn pull_model(&self, model: &ModelRef) -> Result<CachedModel, PullError> {
        let told = watch::Sender::default();
        self.puller.pull_with(&model.uri, &model.access, told, CancellationToken::new()).await
    }

    /// Pulls what must be there and returns its files.
    pub(crate) async fn files(&self, uri: &str) -> BTreeMap<String, Vec<u8>> {
        let model = self.pull(uri).await.unwrap_or_else(|error| panic!("{uri}: {}", told(&error)));
        tree(&model.path)
    }

    /// Pulls what must fail for good and returns what is said.
    pub(crate) async fn refused(&self, uri: &str) -> String {
        let error = self.pull(uri).await.unwrap_err();
        assert!(!error.is_transient(), "{uri}: {}", told(&error));
        let said = told(&error);
        assert!(!said.contains("hush"), "{said}");
        said
    }
}

/// An error with all its causes, as a user sees it.
pub(crate) fn told(error: &PullError) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Bytes that are nowhere the same.
pub(crate) fn weights(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..length).map(next).collect()
}
