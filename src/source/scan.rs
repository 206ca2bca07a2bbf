//! The whole folder to files; an error is not emptiness.

use std::collections::BTreeSet;
use std::io;
use std::time::SystemTime;

use camino::{Utf8Path, Utf8PathBuf};

/// Longest manifest file, in bytes.
pub const FILE_LIMIT: u64 = 16 << 20;
/// Deepest sub-folder.
const DEPTH_LIMIT: usize = 16;

/// One manifest file as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundFile {
    /// Absolute path.
    pub path: Utf8PathBuf,
    /// Changes whenever the content may have.
    pub signature: Signature,
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Last change of the content.
    pub modified: Option<SystemTime>,
    /// Bytes.
    pub length: u64,
    /// Identity of the file; another one after a rename.
    pub inode: u64,
}

/// Why a folder could not be read.
#[derive(Debug, thiserror::Error)]
#[error("could not read the folder `{folder}`")]
pub struct ScanError {
    /// Which folder.
    pub folder: Utf8PathBuf,
    /// Cause.
    pub source: io::Error,
}

/// Lists every manifest file below the folders, in order of path.
///
/// # Errors
/// A folder cannot be read: the caller must change nothing.
pub fn scan(folders: &[Utf8PathBuf]) -> Result<Vec<FoundFile>, ScanError> {
    let mut found = Vec::new();
    let mut visited = BTreeSet::new();
    for folder in folders {
        walk(folder, 0, &mut visited, &mut found)?;
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found.dedup_by(|a, b| a.path == b.path);
    Ok(found)
}

fn walk(
    folder: &Utf8Path,
    depth: usize,
    visited: &mut BTreeSet<(u64, u64)>,
    found: &mut Vec<FoundFile>,
) -> Result<(), ScanError> {
    use std::os::unix::fs::MetadataExt;
    let failed = |source| ScanError { folder: folder.to_owned(), source };
    let identity = std::fs::metadata(folder).map_err(failed)?;
    // A symbolic link may lead back up; every folder is read once.
    if depth > DEPTH_LIMIT || !visited.insert((identity.dev(), identity.ino())) {
        return Ok(());
    }
    for entry in folder.read_dir_utf8().map_err(failed)? {
        let entry = match entry {
            Ok(entry) => entry,
            // A name that is not UTF-8 cannot be a manifest of ours.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => continue,
            Err(error) => return Err(failed(error)),
        };
        let path = entry.path();
        if entry.file_name().starts_with('.') {
            continue;
        }
        // A dangling link, or a file that vanished while we looked: not there.
        let Ok(metadata) = std::fs::metadata(path) else { continue };
        if metadata.is_dir() {
            walk(path, depth + 1, visited, found)?;
        } else if metadata.is_file() && is_manifest(path) {
            let signature =
                Signature { modified: metadata.modified().ok(), length: metadata.len(), inode: metadata.ino() };
            found.push(FoundFile { path: path.to_owned(), signature });
        }
    }
    Ok(())
}

/// Whether a path is a manifest by its name.
pub fn is_manifest(path: &Utf8Path) -> bool {
    matches!(path.extension(), Some("yaml" | "yml" | "json"))
        && !path.file_name().is_some_and(|name| name.starts_with(['.', '#']))
}

/// Reads a manifest file as text.
///
/// # Errors
/// The file cannot be read, is too long, or is not UTF-8.
pub fn read(path: &Utf8Path) -> io::Result<String> {
    let length = std::fs::metadata(path)?.len();
    if length > FILE_LIMIT {
        let text = format!("the file has {length} bytes; manifests may have {FILE_LIMIT}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let bytes = std::fs::read(path)?;
    String::from_utf8(bytes).map_err(|error| {
        let text = format!("the file is not UTF-8 text (byte {})", error.utf8_error().valid_up_to());
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}
