//! Model bytes: sources, pulls and the cache.
//!
//! One trait for sources ([`ModelSource`]); the pull ([`pull`]) is written once on top of it: ranged, resumable,
//! verified, cancellable, published atomically into the [`Cache`]. Local paths are mounted in place and never copied.
//!
//! | file | what it is for |
//! |---|---|
//! | [`pull`] | one pull from URI to published folder; one download however many ask |
//! | [`fetch`] | the files of one manifest onto disk: ranges, retries, stalls, resuming |
//! | [`piece`] | one piece of a file, on its way to disk and back |
//! | [`resume`] | what a partial download already has, written as it goes |
//! | [`cache`] | where models live, and what makes one visible |
//! | `record` | what is written down beside a model |
//! | `refresh` | whether a source has something new |
//! | `blobs`, `known` | every content once on disk; which contents are here already |
//! | `claims`, `remove`, `room` | who needs a model; taking models out; room before a download |
//! | `verify`, `transfer` | reading models again; in and out as archives |
//! | [`staging`] | a model under construction: locked, and published by one rename |
//! | [`object`] (and [`object_azure`], `object_aws`, `object_gcp`, `object_client`), [`http`], [`hugging_face`] (and [`hugging_face_cache`]), [`model_scope`], [`git`], [`hdfs`], [`azure_files`], [`image`], [`registry`] (and [`registry_reference`], [`layers`]), [`local`] | the sources |
//! | [`trial`] | whether a URI answers, and as whom it is asked |
//! | [`open`] | which source a URI has, and with which credentials |
//! | [`credentials`], [`credentials_aws`], [`credentials_azure`] | what the environment says about S3, GCS and Azure |
//! | [`container`] | what a container of the user's fetches |
//! | `walk` | what someone else's program put into a folder |
//! | [`scratch`] | a folder of one pull's own |
//! | [`reach`] | where connections may go, and the HTTP client that keeps to it |
//! | `redirects` | a `GET` through redirects, each judged |
//! | [`digest`] | digests that sources state, computed while bytes pass |
//! | [`names`] | names chosen by servers and archives, checked |
//! | [`nearby`] | files that are on this machine already |
//! | [`web`] | requests to the HTTP APIs of stores |
//! | [`unpack`] | archives, in their box |
//!
//! **Invariant:** a model directory that is visible under its final name is whole.

pub mod azure_files;
mod blobs;
pub mod cache;
mod claims;
pub mod container;
pub mod credentials;
pub mod credentials_aws;
pub mod credentials_azure;
pub mod digest;
pub mod fetch;
pub mod git;
pub mod hdfs;
pub mod http;
pub mod hugging_face;
pub mod hugging_face_cache;
pub mod image;
mod known;
pub mod layers;
pub mod local;
pub mod model_scope;
pub mod names;
pub mod nearby;
pub mod object;
mod object_aws;
pub mod object_azure;
mod object_client;
mod object_gcp;
pub mod open;
pub mod piece;
pub mod pull;
mod puller;
pub mod reach;
mod record;
mod redirects;
mod refresh;
pub mod registry;
pub mod registry_reference;
mod remove;
pub mod resume;
mod room;
pub mod scratch;
pub mod staging;
mod transfer;
pub mod trial;
pub mod unpack;
mod verify;
mod walk;
pub mod web;

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};

pub use cache::{Cache, CacheEntry, CachedModel};
pub use claims::{Claims, Lease, Pin};
pub use digest::{DigestKind, StatedDigest};
pub use pull::{Progress, PullConfig};
pub use puller::Puller;
pub use reach::ReachPolicy;
pub use refresh::Checked;
pub use remove::{RemoveError, Removed, Shortage};
pub use room::{Disk, RoomPolicy, Usage};
pub use transfer::{Imported, TransferError};
pub use verify::{Flaw, Verified, Verifier};

use crate::plan::said::bytes as shown;

/// One file of a model at its source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteFile {
    /// Where it goes below the model directory: relative, checked, `/`-separated (§3.2).
    pub path: Utf8PathBuf,
    /// What to ask the source for.
    pub key: String,
    /// Size in bytes when the source states it.
    pub size: Option<u64>,
    /// Strong ETag to pin reads to; without one a file is read in one stream and never resumed.
    pub etag: Option<String>,
    /// Digests of the whole file that the listing states; checked before the model is published.
    pub digests: Vec<StatedDigest>,
    /// What else tells one version of the file from another, compared and never read: a `Last-Modified`, a generation, a
    /// commit. Used to see whether the source has something new, not to resume.
    pub version: Option<String>,
    /// A file of this machine with these bytes, so that nothing has to be fetched.
    pub nearby: Option<Nearby>,
}

/// A file of this machine that has the bytes of a [`RemoteFile`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nearby {
    /// Someone else's, such as a Hugging Face cache's: linked, or copied where it cannot be, and never written to. When it
    /// has not the size or digest that the source states, the file is fetched after all.
    Theirs(Utf8PathBuf),
    /// Made for this pull: moved.
    Ours(Utf8PathBuf),
}

/// An answer of a source: bytes, and what it states about them.
pub struct Reading {
    /// The bytes.
    pub bytes: futures::stream::BoxStream<'static, Result<Bytes, SourceError>>,
    /// Digests of the **whole** file that came along with the bytes.
    pub digests: Vec<StatedDigest>,
}

impl Reading {
    /// Makes a reading of a source that states nothing along with the bytes.
    pub fn new(bytes: futures::stream::BoxStream<'static, Result<Bytes, SourceError>>) -> Self {
        Self { bytes, digests: Vec::new() }
    }
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
    /// The files are layers of an image, lowest first: unpacked over each other, what is below `/models`.
    Layers,
}

/// A place models come from.
#[async_trait]
pub trait ModelSource: Send + Sync {
    /// Lists what to fetch.
    async fn manifest(&self) -> Result<RemoteManifest, SourceError>;
    /// Lists what to fetch unless it is still `version`, which is a [`RemoteFile::version`] of an earlier listing; none
    /// then. Only sources of one file that can be asked so are.
    async fn manifest_unless(&self, version: &str) -> Result<Option<RemoteManifest>, SourceError> {
        let _ = version;
        self.manifest().await.map(Some)
    }
    /// Reads `length` bytes of a file from `offset`, pinned to the file's ETag; shorter only at the end. An `offset` of 0
    /// with `length` none reads the whole file as it comes, for sources that do not support ranges.
    async fn read(&self, file: &RemoteFile, offset: u64, length: Option<u64>) -> Result<Reading, SourceError>;
    /// Asks what the source states about a whole file that is read in parts, where parts do not say it. Called once for
    /// each file of several ranges; only connection problems are errors.
    async fn stated(&self, file: &RemoteFile) -> Result<Vec<StatedDigest>, SourceError> {
        let _ = file;
        Ok(Vec::new())
    }
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
    /// A range was asked for and the whole was sent: the file has to be read in one stream.
    #[error("`{0}` cannot be read in ranges")]
    RangeIgnored(String),
}

impl SourceError {
    /// Makes a [`SourceError::Transient`] with its cause.
    pub fn transient(message: impl Into<String>, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Transient { message: message.into(), source: Some(Arc::new(source)) }
    }
}

/// Why a pull did not end in a model.
#[derive(Clone, Debug, thiserror::Error)]
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
    /// Other bytes than the source stated.
    #[error("`{file}` of `{uri}` has the {kind} digest {actual} where the source stated {stated}")]
    WrongDigest {
        /// URI.
        uri: String,
        /// File.
        file: String,
        /// How the digest is computed.
        kind: DigestKind,
        /// Stated digest, hex.
        stated: String,
        /// Digest of what was received, hex.
        actual: String,
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
        source: Arc<io::Error>,
    },
    /// This machine's disk is full, or would be.
    #[error(
        "the disk is full: {} more needed in `{path}`, {} free{}",
        shown(*needed), shown(*free), kept_free(*spare)
    )]
    DiskFull {
        /// Where to.
        path: Utf8PathBuf,
        /// Bytes still to be written, as far as known.
        needed: u64,
        /// Bytes free.
        free: u64,
        /// Bytes of these that are left free for others.
        spare: u64,
    },
    /// The disk has no room for more files.
    #[error("the disk has no room for more files: {needed} more needed in `{path}`, {free} can be made")]
    InodesFull {
        /// Where to.
        path: Utf8PathBuf,
        /// Files and folders to be made.
        needed: u64,
        /// Files and folders that can be made.
        free: u64,
    },
    /// The cache has reached its limit.
    #[error(
        "the cache is full: {} more needed, {} of {} in use by models that are needed",
        shown(*needed), shown(*used), shown(*most)
    )]
    CacheFull {
        /// Bytes to be written.
        needed: u64,
        /// Bytes the cache takes.
        used: u64,
        /// Bytes it may take.
        most: u64,
    },
    /// It is not in the cache, and nothing is fetched.
    #[error("`{uri}` is not in the cache, and this is offline mode")]
    Offline {
        /// URI, without secrets.
        uri: String,
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
            Self::WrongSize { .. } | Self::WrongDigest { .. } | Self::Cancelled => true,
            Self::Disk { .. } | Self::DiskFull { .. } | Self::InodesFull { .. } | Self::CacheFull { .. } => true,
            Self::Archive { .. } | Self::UnsupportedScheme { .. } | Self::Offline { .. } => false,
        }
    }

    /// Makes the error of a failed write below `path` with `needed` bytes still to come.
    pub(crate) fn disk(path: &Utf8Path, needed: u64, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let free = Disk::at(path).map_or(0, |disk| disk.free);
                Self::DiskFull { path: path.to_owned(), needed, free, spare: 0 }
            }
            _ => Self::Disk { path: path.to_owned(), source: Arc::new(source) },
        }
    }
}

fn kept_free(spare: u64) -> String {
    if spare == 0 { String::new() } else { format!(" of which {} are kept for others", shown(spare)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_with_numbers_and_is_transient() {
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            let error = PullError::disk(Utf8Path::new("/tmp/models"), 1234, kind.into());
            assert!(matches!(&error, PullError::DiskFull { needed: 1234, free, .. } if *free > 0), "{error:?}");
            assert!(error.is_transient());
        }
        let other = PullError::disk(Utf8Path::new("/tmp/models"), 1234, io::ErrorKind::PermissionDenied.into());
        assert!(matches!(other, PullError::Disk { .. }));
    }
}
