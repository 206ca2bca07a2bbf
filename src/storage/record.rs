//! What is written down beside a model: what it is, and every file with size and digest.

use std::fs;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::digest::{StatedDigest, hex};
use super::refresh::Listing;
use crate::api::StorageUri;

/// Name of the marker.
pub(super) const MARKER: &str = "model.json";
/// Name of the folder that is mounted.
pub(super) const FILES: &str = "files";

/// What identifies a model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ModelKey {
    /// SHA-256, hex.
    pub(super) digest: String,
    /// For people.
    pub(super) uri: String,
}

impl ModelKey {
    /// Makes the key of a model that is identified by `identity` and shown as `uri`.
    pub(super) fn new(identity: &str, uri: String) -> Self {
        Self { digest: hex(&Sha256::digest(identity.as_bytes())), uri }
    }

    pub(super) fn of(uri: &StorageUri) -> Self {
        Self::new(&uri.to_string(), uri.redacted())
    }

    /// Returns the key that is recorded; none when that cannot be one.
    pub(super) fn recorded(record: &Record) -> Option<Self> {
        let good = record.key.len() == 64 && record.key.bytes().all(|byte| byte.is_ascii_hexdigit());
        good.then(|| Self { digest: record.key.clone(), uri: record.uri.clone() })
    }

    /// Returns the name of the model's folder.
    pub(super) fn id(&self) -> &str {
        &self.digest[..16]
    }
}

/// What the marker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    version: u32,
    pub(super) uri: String,
    pub(super) key: String,
    pub(super) size: u64,
    pub(super) files: Vec<RecordedFile>,
    /// What the source listed, for sources that list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) listing: Option<Listing>,
}

/// One file, as the marker records it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RecordedFile {
    /// Relative to the mounted folder.
    pub(super) path: Utf8PathBuf,
    /// Bytes.
    pub(super) size: u64,
    /// Hex.
    pub(super) sha256: String,
    /// Digests that the source stated and that were checked, besides SHA-256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) digests: Vec<StatedDigest>,
    /// As the source gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) etag: Option<String>,
}

impl Record {
    pub(super) fn new(key: &ModelKey, files: Vec<RecordedFile>) -> Self {
        let size = files.iter().map(|file| file.size).sum();
        Self { version: 1, uri: key.uri.clone(), key: key.digest.clone(), size, files, listing: None }
    }

    /// Adds what the source listed.
    pub(super) fn with_listing(self, listing: Listing) -> Self {
        Self { listing: Some(listing), ..self }
    }

    /// Whether this version can read it.
    pub(super) fn is_readable(&self) -> bool {
        self.version == 1
    }
}

/// Reads a record; none when it is not one. Blocking.
pub(super) fn read_marker(marker: &Utf8Path) -> Option<(Record, fs::Metadata)> {
    let meta = fs::metadata(marker).ok()?;
    let record: Record = serde_json::from_slice(&fs::read(marker).ok()?).ok()?;
    record.is_readable().then_some((record, meta))
}
