//! Atomic create, replace and delete of documents in the folder.

use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::Value;

use super::document::{self, Edit};
use super::scan;
use crate::api::{Kind, ObjectKey};
use crate::home::{Home, write_atomically};
use crate::manifest::{Diagnostic, yaml};
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
    #[error("`{path}` holds {key} inside a list; change the file by hand")]
    InsideList {
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
/// The file cannot be written, or holds the object inside a list.
pub fn put(home: &Home, key: &ObjectKey, raw: &Value, existing: Option<&Stored>) -> Result<Utf8PathBuf, WriteError> {
    let object = for_file(raw, key);
    let mode = if key.kind == Kind::Secret { 0o600 } else { 0o644 };
    let Some(Origin::File { path, line }) = existing.map(|stored| &stored.origin) else {
        let path = new_file(home, key);
        return save(&path, &yaml::to_yaml(&object), mode);
    };
    if path.extension() == Some("json") {
        return save(path, &(format!("{object:#}") + "\n"), mode);
    }
    let text = read(path)?;
    check_not_in_list(path, key, &text, *line)?;
    let edited = document::edit(&text, *line, Edit::Replace(&yaml::to_yaml(&object)));
    save(path, &edited.unwrap_or_default(), mode)
}

/// Removes an object's document, and the file when nothing is left in it.
///
/// # Errors
/// The object did not come from a file, or the file cannot be written.
pub fn remove(key: &ObjectKey, existing: &Stored) -> Result<Utf8PathBuf, WriteError> {
    let Origin::File { path, line } = &existing.origin else { return Err(WriteError::BuiltIn(key.clone())) };
    let delete = || std::fs::remove_file(path).map_err(|source| WriteError::Io { path: path.clone(), source });
    if path.extension() == Some("json") {
        return delete().map(|()| path.clone());
    }
    let text = read(path)?;
    check_not_in_list(path, key, &text, *line)?;
    match document::edit(&text, *line, Edit::Remove) {
        Some(rest) => save(path, &rest, 0o644),
        None => delete().map(|()| path.clone()),
    }
}

/// A document that is a `List` holds several objects: editing it as if it were one would lose the others.
fn check_not_in_list(path: &Utf8Path, key: &ObjectKey, text: &str, line: usize) -> Result<(), WriteError> {
    let decoded = crate::manifest::decode(path.as_str(), text);
    let sharing = decoded.objects.iter().filter(|found| found.position.line == line).count();
    let documents = document::count(text);
    if sharing > 1 || (documents < decoded.objects.len() && documents <= 1) {
        return Err(WriteError::InsideList { path: path.to_owned(), key: key.clone() });
    }
    Ok(())
}

fn read(path: &Utf8Path) -> Result<String, WriteError> {
    scan::read(path).map_err(|source| WriteError::Io { path: path.to_owned(), source })
}

fn save(path: &Utf8Path, text: &str, mode: u32) -> Result<Utf8PathBuf, WriteError> {
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
