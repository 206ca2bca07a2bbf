//! The cache directory: layout, completion marker, sizes.
//!
//! ```text
//! <root>/models/<id>/files/…       what is mounted, read-only for everyone
//! <root>/models/<id>/model.json    the marker: what it is, every file with size and digest; written before publishing
//! <root>/partial/<id>/…            a model under construction, kept for resuming (see `staging`)
//! ```
//!
//! `<id>` is the first 16 hex digits of the SHA-256 of what identifies the model (its URI; for a local file also its size
//! and time). A model is present when `models/<id>/model.json` is there and names the same key: the folder arrives under that name by one
//! rename, whole. When it was fetched is the marker's own modification time. Markers hold no passwords or signatures.
//!
//! Digests are recorded per file, so that a later store of blobs shared between models can be filled from what is there.
//!
//! **Invariant:** nothing here reads model bytes except [`Cache::writable_copy`].

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::digest::{StatedDigest, hex};
use super::local;
use crate::api::StorageUri;

/// Name of the marker.
pub(super) const MARKER: &str = "model.json";
/// Name of the folder that is mounted.
pub(super) const FILES: &str = "files";

/// A model that is whole and ready to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedModel {
    /// Folder to mount (or the user's own folder, for local URIs).
    pub path: Utf8PathBuf,
    /// Bytes in all; 0 for a folder mounted in place that no pull of this process has measured yet.
    pub size: u64,
    /// Number of files; 0 like `size`.
    pub files: u64,
}

/// One model of the cache, as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheEntry {
    /// Name of its folder below `models/`.
    pub id: String,
    /// What it was fetched from, without passwords and query.
    pub uri: String,
    /// The model.
    pub model: CachedModel,
    /// When it was published.
    pub fetched: SystemTime,
}

/// What identifies a model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ModelKey {
    /// SHA-256, hex.
    digest: String,
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
    uri: String,
    key: String,
    size: u64,
    files: Vec<RecordedFile>,
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
        Self { version: 1, uri: key.uri.clone(), key: key.digest.clone(), size, files }
    }
}

/// Tells one state of a file or folder from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp(u64, i64, i64, u64);

impl Stamp {
    fn of(meta: &fs::Metadata) -> Self {
        Self(meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len())
    }
}

/// The model cache. Clones are the same cache.
#[derive(Clone, Debug)]
pub struct Cache {
    root: Utf8PathBuf,
    /// Models seen, so that looking again costs one `stat`.
    known: Arc<Mutex<BTreeMap<Utf8PathBuf, (Stamp, CachedModel)>>>,
}

impl Cache {
    /// Opens (and makes) the cache at `root`.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(root: Utf8PathBuf) -> io::Result<Self> {
        fs::create_dir_all(root.join("models"))?;
        fs::create_dir_all(root.join("partial"))?;
        Ok(Self { root, known: Arc::default() })
    }

    /// Returns the cache's folder.
    pub fn root(&self) -> &Utf8Path {
        &self.root
    }

    /// Returns the model when it is present and whole. Blocking, one or two `stat`s; reads no model bytes.
    pub fn lookup(&self, uri: &StorageUri) -> Option<CachedModel> {
        match uri {
            StorageUri::Local(path) => local::present(self, Utf8Path::new(path)),
            remote => self.find(&ModelKey::of(remote)),
        }
    }

    /// Lists the models that are present, by folder name. Blocking.
    ///
    /// # Errors
    /// The cache cannot be read.
    pub fn list(&self) -> io::Result<Vec<CacheEntry>> {
        let mut entries = Vec::new();
        for folder in self.root.join("models").read_dir_utf8()? {
            let folder = folder?;
            let marker = folder.path().join(MARKER);
            let Some((record, meta)) = read_marker(&marker) else { continue };
            let model = model_of(folder.path(), &record);
            let id = folder.file_name().to_owned();
            entries.push(CacheEntry { id, uri: record.uri, model, fetched: meta.modified()? });
        }
        entries.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(entries)
    }

    /// Copies a model to the new folder `target` with files its owner may write, for services that ask for a writable
    /// model (`storage.kserve.io/readonly: "false"`). Blocking; shares blocks where the file system can.
    ///
    /// # Errors
    /// Something cannot be read or written; `target` is then left incomplete.
    pub fn writable_copy(&self, model: &CachedModel, target: &Utf8Path) -> io::Result<()> {
        copy_writable(&model.path, target)
    }

    /// Returns where the model of a key is, or will be.
    pub(super) fn model_folder(&self, key: &ModelKey) -> Utf8PathBuf {
        self.root.join("models").join(key.id())
    }

    /// Returns the model of a key when it is whole.
    pub(super) fn find(&self, key: &ModelKey) -> Option<CachedModel> {
        let folder = self.model_folder(key);
        let marker = folder.join(MARKER);
        let stamp = Stamp::of(&fs::metadata(&marker).ok()?);
        if let Some(model) = self.remembered(&marker, stamp) {
            return Some(model);
        }
        let (record, meta) = read_marker(&marker)?;
        if record.key != key.digest {
            return None;
        }
        let model = model_of(&folder, &record);
        self.remember(marker, Stamp::of(&meta), model.clone());
        Some(model)
    }

    /// Returns a folder's measures when it has not changed since they were taken.
    pub(super) fn measured(&self, folder: &Utf8Path, meta: &fs::Metadata) -> Option<CachedModel> {
        self.remembered(folder, Stamp::of(meta))
    }

    /// Keeps a folder's measures for [`Cache::measured`].
    pub(super) fn keep_measures(&self, meta: &fs::Metadata, model: CachedModel) {
        self.remember(model.path.clone(), Stamp::of(meta), model);
    }

    fn remembered(&self, path: &Utf8Path, stamp: Stamp) -> Option<CachedModel> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(path).filter(|(then, _)| *then == stamp).map(|(_, model)| model.clone())
    }

    fn remember(&self, path: Utf8PathBuf, stamp: Stamp, model: CachedModel) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(path, (stamp, model));
    }
}

fn read_marker(marker: &Utf8Path) -> Option<(Record, fs::Metadata)> {
    let meta = fs::metadata(marker).ok()?;
    let record: Record = serde_json::from_slice(&fs::read(marker).ok()?).ok()?;
    (record.version == 1).then_some((record, meta))
}

fn model_of(folder: &Utf8Path, record: &Record) -> CachedModel {
    CachedModel { path: folder.join(FILES), size: record.size, files: record.files.len() as u64 }
}

fn copy_writable(from: &Utf8Path, to: &Utf8Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in from.read_dir_utf8()? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_writable(source, &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(source)?, &target)?;
        } else {
            fs::copy(source, &target)?;
            let mode = fs::metadata(&target)?.permissions().mode();
            fs::set_permissions(&target, fs::Permissions::from_mode(mode | 0o200))?;
        }
    }
    Ok(())
}

/// Removes a tree whose folders may be read-only. A tree that is not there is removed already.
pub(super) fn remove_tree(path: &Utf8Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
            for entry in path.read_dir_utf8()? {
                remove_tree(entry?.path())?;
            }
            fs::remove_dir(path)
        }
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Returns the bytes free for us on the file system of `path`, or of the nearest folder above it that exists.
pub(super) fn free_space(path: &Utf8Path) -> io::Result<u64> {
    let existing = path.ancestors().find(|above| above.exists()).unwrap_or(Utf8Path::new("/"));
    let stat = rustix::fs::statvfs(existing.as_std_path())?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::super::staging::Staging;
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(folder.path().join("cache")).unwrap();
        (folder, Cache::open(root).unwrap())
    }

    fn published(cache: &Cache, uri: &StorageUri) -> CachedModel {
        let key = ModelKey::of(uri);
        let staging = Staging::try_begin(cache, &key).unwrap().unwrap();
        fs::create_dir_all(staging.files().join("1")).unwrap();
        fs::write(staging.files().join("1/weights"), "12345").unwrap();
        let file = RecordedFile { path: "1/weights".into(), size: 5, sha256: "ab".into(), ..RecordedFile::default() };
        staging.publish(&staging.files(), &Record::new(&key, vec![file])).unwrap()
    }

    #[test]
    fn a_published_model_is_found_and_listed_and_readable_by_anyone() {
        let (_folder, cache) = cache();
        let uri = StorageUri::parse("https://user:pw@host/m?sig=secret").unwrap();
        assert_eq!(cache.lookup(&uri), None);
        let model = published(&cache, &uri);
        assert_eq!((model.size, model.files), (5, 1));
        assert_eq!(cache.lookup(&uri), Some(model.clone()));
        let listed = cache.list().unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].uri.as_str(), &listed[0].model), ("https://host/m?…", &model));
        let mode = |path: &str| fs::metadata(model.path.join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!([mode(""), mode("1"), mode("1/weights")], [0o555, 0o555, 0o444]);
        let marker = fs::read_to_string(model.path.parent().unwrap().join(MARKER)).unwrap();
        assert!(!marker.contains("secret") && !marker.contains("pw"), "{marker}");
        assert_eq!(fs::read_dir(cache.root().join("partial")).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_without_a_good_marker_is_absent() {
        let (_folder, cache) = cache();
        let uri = StorageUri::parse("s3://bucket/m").unwrap();
        let model = published(&cache, &uri);
        let marker = model.path.parent().unwrap().join(MARKER);
        let good = fs::read_to_string(&marker).unwrap();
        for bad in [&good[..good.len() / 2], &good.replace("\"version\":1", "\"version\":2"), "", "[]"] {
            fs::remove_file(&marker).unwrap();
            assert_eq!(cache.lookup(&uri), None);
            fs::write(&marker, bad).unwrap();
            assert_eq!(Cache::open(cache.root().to_owned()).unwrap().lookup(&uri), None, "{bad}");
        }
        fs::write(&marker, good.replace(&ModelKey::of(&uri).digest, &"0".repeat(64))).unwrap();
        assert_eq!(cache.lookup(&uri), None, "another model with the same first digits is not this one");
        assert_eq!(published(&cache, &uri), model, "a broken model is replaced");
        assert_eq!(cache.lookup(&uri), Some(model));
    }

    #[test]
    fn a_writable_copy_leaves_the_cached_model_alone() {
        let (folder, cache) = cache();
        let model = published(&cache, &StorageUri::parse("gs://bucket/m").unwrap());
        let target = Utf8PathBuf::from_path_buf(folder.path().join("copy")).unwrap();
        cache.writable_copy(&model, &target).unwrap();
        fs::write(target.join("1/weights"), "changed").unwrap();
        fs::write(target.join("1/new"), "new").unwrap();
        assert_eq!(fs::read_to_string(model.path.join("1/weights")).unwrap(), "12345");
    }
}
