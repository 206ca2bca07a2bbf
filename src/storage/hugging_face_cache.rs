//! The user's own Hugging Face cache, read and never written.
//!
//! ```text
//! models--owner--model/refs/main             the commit a revision was
//! models--owner--model/snapshots/<commit>/…  links to blobs
//! models--owner--model/blobs/<id>            files by SHA-256 (large) or git's id (small)
//! ```

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};

/// A repository in the cache.
#[derive(Clone, Debug)]
pub(super) struct HubCache {
    folder: Utf8PathBuf,
}

/// Returns the folder of Hugging Face's tools.
pub(super) fn home(environment: &BTreeMap<String, String>) -> Option<Utf8PathBuf> {
    let get = |name: &str| environment.get(name).filter(|value| !value.is_empty()).map(Utf8PathBuf::from);
    get("HF_HOME").or_else(|| {
        let caches = get("XDG_CACHE_HOME").or_else(|| Some(get("HOME")?.join(".cache")))?;
        Some(caches.join("huggingface"))
    })
}

impl HubCache {
    /// Finds the folder of a repository; none when the cache does not have it. Blocking.
    pub(super) fn find(environment: &BTreeMap<String, String>, repository: &str) -> Option<Self> {
        let named = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"].iter().find_map(|name| environment.get(*name));
        let hub = match named.filter(|path| !path.is_empty()) {
            Some(path) => Utf8PathBuf::from(path),
            None => home(environment)?.join("hub"),
        };
        let folder = hub.join(format!("models--{}", repository.replace('/', "--")));
        folder.is_dir().then_some(Self { folder })
    }

    /// Returns a blob of the stated size. Blocking.
    pub(super) fn blob(&self, id: &str, size: Option<u64>) -> Option<Utf8PathBuf> {
        if id.is_empty() || !id.chars().all(|c| c.is_ascii_alphanumeric()) {
            return None;
        }
        let path = self.folder.join("blobs").join(id);
        let meta = std::fs::metadata(&path).ok()?;
        (meta.is_file() && size.is_none_or(|size| size == meta.len())).then_some(path)
    }

    /// Lists the files of a revision's snapshot, with their sizes. Blocking.
    pub(super) fn snapshot(&self, revision: &str) -> Option<Vec<(Utf8PathBuf, u64)>> {
        let root = self.snapshot_folder(revision)?;
        let mut files = Vec::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in folder.read_dir_utf8().ok()?.flatten() {
                // Followed: a snapshot is made of links to blobs.
                let meta = std::fs::metadata(entry.path()).ok()?;
                if meta.is_dir() {
                    folders.push(entry.into_path());
                } else {
                    files.push((entry.path().strip_prefix(&root).ok()?.to_owned(), meta.len()));
                }
            }
        }
        files.sort();
        Some(files)
    }

    /// Returns the file of a snapshot.
    pub(super) fn snapshot_file(&self, revision: &str, path: &Utf8Path) -> Option<Utf8PathBuf> {
        Some(self.snapshot_folder(revision)?.join(path))
    }

    fn snapshot_folder(&self, revision: &str) -> Option<Utf8PathBuf> {
        let commit = std::fs::read_to_string(self.folder.join("refs").join(revision));
        let commit = commit.map_or_else(|_| revision.to_owned(), |text| text.trim().to_owned());
        let plain = !commit.is_empty() && commit.chars().all(|c| c.is_ascii_alphanumeric());
        let folder = self.folder.join("snapshots").join(&commit);
        (plain && folder.is_dir()).then_some(folder)
    }
}
