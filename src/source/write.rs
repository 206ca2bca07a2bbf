//! Atomic create, replace and delete of documents in the folder.

use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::Value;

use super::document::{self, Edit};
use super::scan;
use crate::api::{Kind, ObjectKey};
use crate::home::{Home, restrict, write_atomically};
use crate::manifest::{self, Diagnostic, yaml};
use crate::store::{Origin, Stored};

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
    /// The file holds the object in a form that cannot be changed in place.
    #[error("`{path}` holds {key} inside a list or beside others in one document; change the file by hand")]
    InsideList {
        /// File.
        path: Utf8PathBuf,
        /// Object.
        key: ObjectKey,
    },
    /// Somebody changed the file since it was loaded.
    #[error("`{path}` was changed meanwhile and does not say where {key} is; look at the file and try again")]
    Moved {
        /// File.
        path: Utf8PathBuf,
        /// Object.
        key: ObjectKey,
    },
    /// The folder cannot be written.
    #[error("could not write `{path}`")]
    Io {
        /// Path.
        path: Utf8PathBuf,
        /// Cause.
        source: io::Error,
    },
}

/// Metadata that the store gives and files do not carry.
const SERVER_FIELDS: [&str; 7] =
    ["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink", "deletionTimestamp"];

/// Returns the object as it belongs into a file: without status and what the store gives it.
pub fn for_file(raw: &Value, key: &ObjectKey) -> Value {
    let mut object = raw.clone();
    if let Some(root) = object.as_object_mut() {
        root.shift_remove("status");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in SERVER_FIELDS {
            metadata.shift_remove(field);
        }
        if key.kind.is_namespaced() {
            metadata.insert("namespace".to_owned(), Value::String(key.namespace.clone()));
        }
    }
    object
}

/// Writes an object: into its document when it has one, else into a file of its own. Returns the file.
///
/// # Errors
/// The file cannot be written, holds the object inside a list, or no longer says where it is.
pub fn put(home: &Home, key: &ObjectKey, raw: &Value, existing: Option<&Stored>) -> Result<Utf8PathBuf, WriteError> {
    let object = for_file(raw, key);
    let Some(Origin::File { path, .. }) = existing.map(|stored| &stored.origin) else {
        let path = new_file(home, key);
        return create(&path, &yaml::to_yaml(&object), key.kind);
    };
    let file = HeldIn::find(path, key)?;
    let document = match path.extension() {
        Some("json") => format!("{object:#}\n"),
        _ => yaml::to_yaml(&object),
    };
    file.save(&document::edit(&file.text, file.document, Edit::Replace(&document)).unwrap_or_default())?;
    Ok(path.clone())
}

/// Removes an object's document, and the file when nothing is left in it.
///
/// # Errors
/// The object did not come from a file, the file cannot be written, or it no longer says where the object is.
pub fn remove(key: &ObjectKey, existing: &Stored) -> Result<Utf8PathBuf, WriteError> {
    let Origin::File { path, .. } = &existing.origin else { return Err(WriteError::BuiltIn(key.clone())) };
    let file = HeldIn::find(path, key)?;
    match document::edit(&file.text, file.document, Edit::Remove) {
        Some(rest) => file.save(&rest)?,
        // Of a symbolic link the link goes: what it leads to may belong to a repository.
        None => std::fs::remove_file(path).map_err(|source| WriteError::Io { path: path.clone(), source })?,
    }
    Ok(path.clone())
}

/// A file as it is now, and which of its documents is the object. What the last load saw may be outdated.
struct HeldIn {
    /// Where the text is, symbolic links followed.
    path: Utf8PathBuf,
    text: String,
    /// One of those that [`document::split`] gives.
    document: usize,
}

impl HeldIn {
    fn find(path: &Utf8Path, key: &ObjectKey) -> Result<Self, WriteError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => WriteError::Moved { path: path.to_owned(), key: key.clone() },
            _ => WriteError::Io { path: path.to_owned(), source },
        };
        let real = path.canonicalize_utf8().map_err(failed)?;
        let text = scan::read(&real).map_err(failed)?;
        let document = document_of(path, key, &text)?;
        Ok(Self { path: real, text, document })
    }

    /// Writes the file with the mode it has; one that holds a Secret is for its owner alone.
    fn save(&self, text: &str) -> Result<(), WriteError> {
        use std::os::unix::fs::PermissionsExt;
        let failed = |source| WriteError::Io { path: self.path.clone(), source };
        let written = std::fs::metadata(&self.path).map_err(failed)?.permissions().mode() & 0o777;
        let secret = manifest::keys(text).into_iter().flatten().any(|key| key.kind == Kind::Secret);
        let mode = if secret { written & 0o700 } else { written };
        write_atomically(&self.path, text.as_bytes(), mode).map_err(failed)?;
        // The umask took its part of the mode; the file had it whole.
        restrict(&self.path, mode).map_err(failed)
    }
}

/// Returns which document of a text is the object, alone: editing one that holds several would lose the others.
fn document_of(path: &Utf8Path, key: &ObjectKey, text: &str) -> Result<usize, WriteError> {
    let documents: Vec<Vec<Option<ObjectKey>>> =
        document::split(text).iter().map(|document| manifest::keys(document)).collect();
    let meant = manifest::keys(text);
    // Something stands where a cut at the separators does not find it.
    let hidden = documents.concat() != meant;
    let holds = |document: &Vec<Option<ObjectKey>>| document.iter().flatten().any(|found| found == key);
    match documents.iter().position(holds) {
        Some(index) if documents[index].len() == 1 && !hidden => Ok(index),
        Some(_) => Err(WriteError::InsideList { path: path.to_owned(), key: key.clone() }),
        None if meant.contains(&Some(key.clone())) => {
            Err(WriteError::InsideList { path: path.to_owned(), key: key.clone() })
        }
        // A file of one document that cannot be read is still the object's, which was kept as it was.
        None if meant == [None] && manifest::decode(path.as_str(), text).failed == [None] => {
            Ok(documents.iter().position(|document| !document.is_empty()).unwrap_or_default())
        }
        None => Err(WriteError::Moved { path: path.to_owned(), key: key.clone() }),
    }
}

/// Writes a file that is not there yet.
fn create(path: &Utf8Path, text: &str, kind: Kind) -> Result<Utf8PathBuf, WriteError> {
    let mode = if kind == Kind::Secret { 0o600 } else { 0o644 };
    write_atomically(path, text.as_bytes(), mode)
        .map(|()| path.to_owned())
        .map_err(|source| WriteError::Io { path: path.to_owned(), source })
}

/// Returns a free file name for a new object: `services/<namespace>/<name>.yaml`, other kinds with their own word.
fn new_file(home: &Home, key: &ObjectKey) -> Utf8PathBuf {
    let folder = match key.kind {
        Kind::ClusterServingRuntime => home.runtimes(),
        Kind::ServingRuntime => home.runtimes().join(&key.namespace),
        kind if !kind.is_namespaced() => home.services(),
        _ => home.services().join(&key.namespace),
    };
    let stem = match key.kind {
        Kind::InferenceService | Kind::ClusterServingRuntime | Kind::ServingRuntime => key.name.clone(),
        kind => format!("{}.{}", key.name, kind.as_str().to_lowercase()),
    };
    let plain = folder.join(format!("{stem}.yaml"));
    let numbered = (2..).map(|number| folder.join(format!("{stem}-{number}.yaml")));
    std::iter::once(plain.clone()).chain(numbered.take(1000)).find(|path| !path.exists()).unwrap_or(plain)
}

#[cfg(test)]
mod tests;
