//! Whether a source has something new under the same name.
//!
//! A listing is told from another by its files: path, size, and what the source states of each, its digests before its
//! ETag before its time. A model remembers the listing it came from. A source of one file that knows conditional requests
//! (HTTP) is asked with its ETag or time, and answers with nothing; others list.

use std::fs;
use std::io;
use std::time::SystemTime;

use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::cache::Cache;
use super::open::{Opening, open};
use super::piece::blocking;
use super::pull::wanted;
use super::puller::Puller;
use super::record::{MARKER, ModelKey, Record, read_marker};
use super::scratch::Scratch;
use super::{PullError, RemoteFile, RemoteManifest, SourceError};
use crate::api::StorageUri;
use crate::workload::Access;

/// What a model's source said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// It is what was fetched.
    Same,
    /// It has something else, which is named by this.
    Changed(String),
    /// The model is not in the cache, so there is nothing to compare.
    NotHere,
}

/// What is remembered of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listing {
    /// SHA-256 of its files, hex.
    pub(super) digest: String,
    /// What a source of one file can be asked with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<String>,
}

impl Listing {
    pub(super) fn of(manifest: &RemoteManifest) -> Self {
        let version = match &manifest.files[..] {
            [only] => only.version.clone(),
            _ => None,
        };
        let mut lines: Vec<String> = manifest.files.iter().map(line).collect();
        lines.sort();
        Self { digest: super::digest::hex(&Sha256::digest(lines.concat())), version }
    }

    /// Returns its name as a version.
    fn name(&self) -> &str {
        &self.digest[..12]
    }
}

/// Says what a source states of one file.
fn line(file: &RemoteFile) -> String {
    let digests: Vec<String> = file.digests.iter().map(|digest| format!("{} {}", digest.kind, digest.hex)).collect();
    let mark = match (&digests[..], &file.etag, &file.version) {
        ([], Some(etag), _) => etag.trim_matches('"').to_owned(),
        ([], None, Some(version)) => version.clone(),
        (digests, ..) => digests.join(" "),
    };
    format!("{:?} {:?} {mark:?}\n", file.path, file.size)
}

impl Puller {
    /// Asks the source of a model whether it has something else than what is in the cache. Fetches no model bytes, and
    /// changes nothing but the time of the last check.
    ///
    /// # Errors
    /// As [`Puller::pull`]: the source does not answer, or this is offline mode.
    pub async fn check(
        &self,
        uri: &StorageUri,
        access: &Access,
        cancel: CancellationToken,
    ) -> Result<Checked, PullError> {
        if self.config().offline {
            return Err(PullError::Offline { uri: uri.redacted() });
        }
        let (cache, key) = (self.cache().clone(), ModelKey::of(uri));
        let failed = |error| PullError::disk(self.cache().root(), 0, error);
        let looked = blocking(move || Ok(cache.record_of(key.id()))).await.map_err(failed)?;
        let Some(record) = looked else { return Ok(Checked::NotHere) };
        let checked = tokio::select! {
            // What is lost is asked again.
            checked = self.compare(uri, access, &record) => checked?,
            // What was asked is not needed any more.
            () = cancel.cancelled() => return Err(PullError::Cancelled),
        };
        let (cache, key) = (self.cache().clone(), ModelKey::of(uri));
        blocking(move || cache.note_check(key.id())).await.map_err(failed)?;
        Ok(checked)
    }

    async fn compare(&self, uri: &StorageUri, access: &Access, record: &Record) -> Result<Checked, PullError> {
        let failed = |source: SourceError| PullError::Source { uri: uri.redacted(), source };
        let disk = |error| PullError::disk(self.cache().root(), 0, error);
        let folder = self.cache().root().join("partial").join(format!("{}-check", ModelKey::of(uri).id()));
        let beside = folder.clone();
        let scratch = blocking(move || Scratch::beside(&beside)).await.map_err(disk)?;
        let (config, environment) = (self.config().clone(), self.environment());
        let (owned, access) = (uri.clone(), access.clone());
        let opened = blocking(move || {
            let scratch = scratch;
            Ok(open(&Opening {
                uri: &owned,
                config: &config,
                environment: &environment,
                access: &access,
                scratch: scratch.path(),
                images: None,
                containers: None,
                progress: &watch::Sender::default(),
            }))
        });
        let source = opened.await.map_err(disk)?.map_err(failed)?;
        let known = record.listing.as_ref();
        let asked = match known.and_then(|listing| listing.version.as_deref()) {
            Some(version) => source.manifest_unless(version).await,
            None => source.manifest().await.map(Some),
        };
        let Some(manifest) = asked.map_err(failed)? else { return Ok(Checked::Same) };
        let manifest = wanted(uri, manifest).map_err(failed)?;
        let listing = Listing::of(&manifest);
        let same = match known {
            Some(known) => known.digest == listing.digest,
            // Fetched before listings were remembered.
            None => unlike(record, &manifest).is_none(),
        };
        if same || uri.version() == Some(listing.name()) {
            return Ok(Checked::Same);
        }
        Ok(Checked::Changed(listing.name().to_owned()))
    }
}

/// Returns a file that is another one than was fetched, as far as its record tells.
fn unlike<'m>(record: &Record, manifest: &'m RemoteManifest) -> Option<&'m RemoteFile> {
    manifest.files.iter().find(|file| {
        let recorded = record.files.iter().find(|recorded| recorded.path == file.path);
        recorded.is_some_and(|recorded| {
            file.size.is_some_and(|size| size != recorded.size)
                || matches!((&file.etag, &recorded.etag), (Some(now), Some(then)) if now != then)
        })
    })
}

impl Cache {
    /// Returns when a model's source was last asked for something new. Blocking.
    pub fn last_checked(&self, id: &str) -> Option<SystemTime> {
        fs::metadata(self.check_file(id)).and_then(|meta| meta.modified()).ok()
    }

    /// Notes that a model's source was asked. A model that has gone meanwhile is none to note it of.
    fn note_check(&self, id: &str) -> io::Result<()> {
        match fs::write(self.check_file(id), "") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            written => written,
        }
    }

    fn check_file(&self, id: &str) -> Utf8PathBuf {
        self.folder_of(id).join("checked")
    }

    /// Returns what is written down of a model that is here.
    fn record_of(&self, id: &str) -> Option<Record> {
        read_marker(&self.folder_of(id).join(MARKER)).map(|(record, _)| record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_another_when_a_file_is_and_not_when_only_its_time_is() {
        let file = |path: &str, etag: Option<&str>, version: &str| RemoteFile {
            path: path.into(),
            size: Some(5),
            etag: etag.map(str::to_owned),
            version: Some(version.to_owned()),
            ..RemoteFile::default()
        };
        let of = |files: &[RemoteFile]| {
            Listing::of(&RemoteManifest { files: files.to_vec(), ..RemoteManifest::default() }).digest
        };
        let (a, b) = (file("a", Some("\"1\""), "monday"), file("b", None, "monday"));
        let base = of(&[a.clone(), b.clone()]);
        assert_eq!(of(&[b.clone(), a.clone()]), base, "the order says nothing");
        assert_eq!(of(&[file("a", Some("1"), "tuesday"), b.clone()]), base, "the ETag says more than the time");
        for other in [
            vec![a.clone()],
            vec![file("a", Some("\"2\""), "monday"), b.clone()],
            vec![a.clone(), file("b", None, "tuesday")],
            vec![a.clone(), RemoteFile { size: Some(6), ..b.clone() }],
            vec![a.clone(), file("c", None, "monday")],
        ] {
            assert_ne!(of(&other), base, "{other:?}");
        }
    }
}
