//! Scan, decode, validate, swap into the store.

use std::sync::Arc;

use camino::Utf8PathBuf;
use serde_json::Value;

use super::WriteError;
use crate::api::ObjectKey;
use crate::manifest::Diagnostic;
use crate::store::Stored;

/// What there is to say about one file now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblems {
    /// Absolute path.
    pub path: Utf8PathBuf,
    /// Errors and warnings, in order of position.
    pub diagnostics: Vec<Diagnostic>,
    /// Objects whose last good version is kept although the file no longer says it well.
    pub kept: Vec<ObjectKey>,
}

/// Reads the folder into the store, and writes to it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Loader {}

impl Loader {
    /// Creates or replaces an object: writes its file, reads the folder again, and returns the object as stored.
    ///
    /// # Errors
    /// The object is invalid (nothing was written), or the folder cannot be written.
    pub async fn put(&self, raw: &Value) -> Result<Arc<Stored>, WriteError> {
        let _ = raw;
        todo!()
    }

    /// Deletes an object: removes its document (and its file when it was the only one), reads the folder again, and
    /// returns the object's last state.
    ///
    /// # Errors
    /// No such object, one that came with the binary, or the folder cannot be written.
    pub async fn delete(&self, key: &ObjectKey) -> Result<Arc<Stored>, WriteError> {
        let _ = key;
        todo!()
    }

    /// Returns what there is to say about the files now, worst first.
    pub fn problems(&self) -> Arc<Vec<FileProblems>> {
        todo!()
    }
}
