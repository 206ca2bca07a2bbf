//! The cache directory: layout, completion marker, sizes.
//!
//! ```text
//! <root>/models/<id>/files/…       what is mounted, read-only for everyone
//! <root>/models/<id>/model.json    the marker: what it is, every file with size and digest; written before publishing
//! <root>/blobs/…                   the files themselves, once each (see `blobs`); `files/` holds links to them
//! <root>/partial/<id>/…            a model under construction, kept for resuming (see `staging`)
//! ```
//!
//! `<id>` is the first 16 hex digits of the SHA-256 of what identifies the model (its URI; for a local file also its size
//! and time). A model is present when `models/<id>/model.json` is there and names the same key: the folder arrives under that name by one
//! rename, whole. When it was fetched is the marker's own modification time. Markers hold no passwords or signatures.
//!
//! **Invariant:** nothing here reads model bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use camino::{Utf8Path, Utf8PathBuf};

use super::blobs::Blobs;
use super::local;
use super::record::{FILES, MARKER, ModelKey, Record, read_marker};
use crate::api::StorageUri;

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
    blobs: Blobs,
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
        let cache = Self { blobs: Blobs::new(&root), root, known: Arc::default() };
        cache.adopt();
        Ok(cache)
    }

    /// Makes blobs of the files of models that were published before there were blobs, once. They are whole and digested,
    /// so nothing is read; what cannot be linked stays as it is. Blocking.
    fn adopt(&self) {
        let done = self.root.join("layout");
        if done.exists() {
            return;
        }
        let adopted = self.records().and_then(|records| {
            records.iter().try_for_each(|(folder, record)| {
                record.files.iter().try_for_each(|file| {
                    let path = folder.join(FILES).join(&file.path);
                    self.blobs.adopt(&path, &file.sha256, file.size)
                })
            })?;
            fs::write(&done, "2\n")
        });
        if let Err(error) = adopted {
            tracing::warn!(cache = %self.root, %error, "models of an older version are not shared yet");
        }
    }

    /// Returns the folder of blobs.
    pub(super) fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Reads what is written down of every model, with its folder. Blocking.
    ///
    /// # Errors
    /// The folder of models cannot be read.
    pub(super) fn records(&self) -> io::Result<Vec<(Utf8PathBuf, Record)>> {
        let mut records = Vec::new();
        for folder in self.root.join("models").read_dir_utf8()? {
            let folder = folder?.into_path();
            if let Some((record, _)) = read_marker(&folder.join(MARKER)) {
                records.push((folder, record));
            }
        }
        Ok(records)
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
            entries.extend(self.entry(folder?.file_name()));
        }
        entries.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(entries)
    }

    /// Returns where the model of a key is, or will be.
    pub(super) fn model_folder(&self, key: &ModelKey) -> Utf8PathBuf {
        self.folder_of(key.id())
    }

    /// Returns the folder with everything of a model, there or not.
    pub(super) fn folder_of(&self, id: &str) -> Utf8PathBuf {
        self.root.join("models").join(id)
    }

    /// Returns one model as listed; none when it is not here. Blocking.
    pub fn entry(&self, id: &str) -> Option<CacheEntry> {
        if id.contains('/') || id.starts_with('.') {
            return None;
        }
        let folder = self.folder_of(id);
        let (record, meta) = read_marker(&folder.join(MARKER))?;
        let model = model_of(&folder, &record);
        Some(CacheEntry { id: id.to_owned(), uri: record.uri, model, fetched: meta.modified().ok()? })
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

fn model_of(folder: &Utf8Path, record: &Record) -> CachedModel {
    CachedModel { path: folder.join(FILES), size: record.size, files: record.files.len() as u64 }
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

#[cfg(test)]
mod tests {
    use super::super::record::RecordedFile;
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
}
