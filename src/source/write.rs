//! Atomic create, replace and delete of documents in the folder.

use camino::Utf8PathBuf;

use crate::api::ObjectKey;
use crate::manifest::Diagnostic;

/// Why the folder was not changed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The object breaks a rule; nothing was written.
    #[error("the object is invalid")]
    Invalid(Vec<Diagnostic>),
    /// No such object.
    #[error("{0} does not exist")]
    NotFound(ObjectKey),
    /// It came with the binary.
    #[error("{0} is built in and cannot be deleted; a runtime of the same name in the folder replaces it")]
    BuiltIn(ObjectKey),
    /// The folder cannot be written.
    #[error("could not write `{path}`")]
    Io {
        /// Path.
        path: Utf8PathBuf,
        /// Cause.
        source: std::io::Error,
    },
}
