//! The cache directory: layout, completion marker, sizes.

use camino::{Utf8Path, Utf8PathBuf};

use crate::api::StorageUri;

/// A model that is whole and ready to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedModel {
    /// Folder to mount (or the user's own folder or file, for local URIs).
    pub path: Utf8PathBuf,
    /// Bytes in all.
    pub size: u64,
    /// Number of files.
    pub files: u64,
}

/// The model cache.
#[derive(Clone, Debug)]
pub struct Cache {
    root: Utf8PathBuf,
}

impl Cache {
    /// Opens (and makes) the cache at `root`.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(root: Utf8PathBuf) -> std::io::Result<Self> {
        std::fs::create_dir_all(&root)?;
        Ok(Self { root })
    }

    /// Returns the cache's folder.
    pub fn root(&self) -> &Utf8Path {
        &self.root
    }

    /// Returns the model when it is present and whole. Blocking, one or two `stat`s; reads no model bytes.
    pub fn lookup(&self, uri: &StorageUri) -> Option<CachedModel> {
        let _ = uri;
        todo!()
    }
}
