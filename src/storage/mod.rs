//! Model bytes: sources, pulls and the cache.
//!
//! One trait for sources ([`ModelSource`]); the pull ([`pull`]) is written once on top of it: ranged, resumable,
//! verified, cancellable, published atomically into the [`Cache`]. Local paths are mounted in place and never copied.
//!
//! **Invariant:** a model directory that is visible under its final name is whole.

pub mod cache;
pub mod local;
pub mod object;
pub mod pull;
pub mod unpack;

use async_trait::async_trait;
use bytes::Bytes;
use camino::Utf8PathBuf;

pub use cache::{Cache, CachedModel};
pub use pull::{Progress, Puller};

/// One file of a model at its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Where it goes below the model directory: relative, checked, `/`-separated (§3.2).
    pub path: Utf8PathBuf,
    /// What to ask the source for.
    pub key: String,
    /// Size in bytes when the source states it.
    pub size: Option<u64>,
    /// ETag or generation to pin reads to.
    pub etag: Option<String>,
}

/// What a source offers for one URI.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteManifest {
    /// Every file.
    pub files: Vec<RemoteFile>,
    /// Whether a single archive is unpacked into the model directory (§3.2).
    pub unpack: Unpack,
}

/// What happens to a single downloaded file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unpack {
    /// Kept as it is.
    #[default]
    Keep,
    /// Unpacked as tar, gzip-compressed or not by content.
    Tar,
    /// Unpacked as zip.
    Zip,
    /// Decompressed with gzip, stored under the same name without `.gz`.
    Gunzip,
}

/// A place models come from.
#[async_trait]
pub trait ModelSource: Send + Sync {
    /// Lists what to fetch.
    async fn manifest(&self) -> Result<RemoteManifest, SourceError>;
    /// Reads `length` bytes of a file from `offset`, pinned to the file's ETag; shorter only at the end. An `offset` of 0
    /// with `length` none reads the whole file as it comes, for sources that do not support ranges.
    async fn read(
        &self,
        file: &RemoteFile,
        offset: u64,
        length: Option<u64>,
    ) -> Result<futures::stream::BoxStream<'static, Result<Bytes, SourceError>>, SourceError>;
    /// Whether [`ModelSource::read`] can start anywhere.
    fn supports_ranges(&self) -> bool;
}

/// Why a source did not give a model. Texts follow upstream's error mapping (§3.2) and never hold secrets.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SourceError {
    /// Nothing there.
    #[error("{0}")]
    NotFound(String),
    /// Credentials missing, wrong or not enough.
    #[error("{0}")]
    Denied(String),
    /// The place is named wrongly, or answers something that is no model.
    #[error("{0}")]
    Invalid(String),
    /// The place does not answer, or the connection broke: trying again may help.
    #[error("{message}")]
    Transient {
        /// What happened.
        message: String,
        /// The cause.
        #[source]
        source: Option<std::sync::Arc<dyn std::error::Error + Send + Sync>>,
    },
    /// The object changed while it was read.
    #[error("`{0}` changed at the source while it was read")]
    Changed(String),
}

/// Why a pull did not end in a model.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The source.
    #[error("could not fetch `{uri}`")]
    Source {
        /// URI, without secrets.
        uri: String,
        /// What the source said.
        source: SourceError,
    },
    /// Fewer or more bytes than the source stated.
    #[error("`{file}` of `{uri}` has {actual} bytes where the source stated {stated}")]
    WrongSize {
        /// URI.
        uri: String,
        /// File.
        file: String,
        /// Stated size in bytes.
        stated: u64,
        /// Size received in bytes.
        actual: u64,
    },
    /// The archive is broken or hostile.
    #[error("could not unpack `{file}`: {problem}")]
    Archive {
        /// Archive.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// This machine's disk.
    #[error("could not write `{path}`")]
    Disk {
        /// Path.
        path: Utf8PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The scheme is KServe's but is not pulled by this version.
    #[error("storage scheme `{scheme}` is not served by this version")]
    UnsupportedScheme {
        /// The scheme.
        scheme: String,
    },
    /// Cancelled; what was fetched is kept for resuming.
    #[error("the pull was cancelled")]
    Cancelled,
}

impl PullError {
    /// Whether trying again without a change elsewhere may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Source { source, .. } => matches!(source, SourceError::Transient { .. } | SourceError::Changed(_)),
            Self::WrongSize { .. } | Self::Disk { .. } | Self::Cancelled => true,
            Self::Archive { .. } | Self::UnsupportedScheme { .. } => false,
        }
    }
}
