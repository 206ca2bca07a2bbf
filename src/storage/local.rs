//! Local folders and files, mounted in place.
//!
//! A folder is mounted as it is. A single file must appear as `/mnt/models/<name>`, so it gets a small folder of its own in
//! the cache with a hard link to it (a copy where the file is on another file system, or where linking is not allowed). A
//! folder or file that is exactly one archive is unpacked into the cache, as upstream does. Both are keyed by path, size,
//! time and inode: a replaced file is a new model.
//!
//! Unlike upstream, which links the folder's visible entries, files whose names begin with a dot are there as well.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;

use camino::{Utf8Path, Utf8PathBuf};

use super::cache::{Cache, CachedModel};
use super::record::{ModelKey, RecordedFile};
use super::staging::Staging;
use super::unpack;
use super::{PullError, SourceError, Unpack};

/// What a local path turns out to be.
pub(super) enum Found {
    /// A folder to mount.
    Folder(Metadata),
    /// A file to give a folder, or an archive to unpack.
    File {
        /// The file.
        path: Utf8PathBuf,
        /// Its place in the cache.
        key: ModelKey,
        /// What to do with it.
        unpack: Unpack,
    },
}

/// Looks at a local path. Blocking.
///
/// # Errors
/// It does not exist, or cannot be read.
pub(super) fn find(path: &Utf8Path) -> Result<Found, PullError> {
    let uri = || format!("file://{path}");
    let missing = || PullError::Source {
        uri: uri(),
        source: SourceError::NotFound(format!("Local path {path} does not exist.")),
    };
    if !path.is_absolute() {
        let problem = format!("local path `{path}` is relative, and to what is not known here");
        return Err(PullError::Source { uri: uri(), source: SourceError::Invalid(problem) });
    }
    let meta = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => missing(),
        _ => unreadable(path, &error),
    })?;
    let (file, unpack) = if meta.is_dir() {
        match only_archive(path).map_err(|error| unreadable(path, &error))? {
            None => return Ok(Found::Folder(meta)),
            Some((file, unpack)) => (file, unpack),
        }
    } else if meta.is_file() {
        (path.to_owned(), unpack::kind_of(path.file_name().unwrap_or_default()))
    } else {
        let problem = format!("local path `{path}` is neither a file nor a folder");
        return Err(PullError::Source { uri: uri(), source: SourceError::Invalid(problem) });
    };
    let meta = fs::metadata(&file).map_err(|error| unreadable(path, &error))?;
    let (size, inode) = (meta.len(), meta.ino());
    let identity = format!("file://{file}#{size}:{}.{}:{inode}", meta.mtime(), meta.mtime_nsec());
    Ok(Found::File { key: ModelKey::new(&identity, format!("file://{file}")), path: file, unpack })
}

/// Returns the model at a local path when nothing has to be done for it. Blocking, a few `stat`s.
pub(super) fn present(cache: &Cache, path: &Utf8Path) -> Option<CachedModel> {
    match find(path).ok()? {
        Found::Folder(meta) => {
            let unmeasured = CachedModel { path: path.to_owned(), size: 0, files: 0 };
            Some(cache.measured(path, &meta).unwrap_or(unmeasured))
        }
        Found::File { key, .. } => cache.find(&key),
    }
}

/// Measures a folder that is mounted in place. Blocking.
pub(super) fn measure(cache: &Cache, path: &Utf8Path, meta: &Metadata) -> Result<CachedModel, PullError> {
    let (mut size, mut files) = (0, 0);
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir_utf8().map_err(|error| unreadable(&folder, &error))? {
            let entry = match entry {
                Ok(entry) => entry,
                // A name that is no UTF-8 is mounted like any other, only not counted.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => continue,
                Err(error) => return Err(unreadable(&folder, &error)),
            };
            // Symbolic links are not followed: in the container they point elsewhere.
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => folders.push(entry.into_path()),
                Ok(meta) if meta.is_file() => {
                    size += meta.len();
                    files += 1;
                }
                _ => {}
            }
        }
    }
    let model = CachedModel { path: path.to_owned(), size, files };
    cache.keep_measures(meta, model.clone());
    Ok(model)
}

/// Puts a single file into the folder that will be mounted. Blocking.
pub(super) fn stage_file(staging: &Staging, file: &Utf8Path) -> Result<Vec<RecordedFile>, PullError> {
    let name = file.file_name().unwrap_or_default();
    let target = staging.files().join(name);
    let staged = fs::create_dir_all(staging.files())
        .and_then(|()| fs::hard_link(file, &target).or_else(|_| fs::copy(file, &target).map(drop)))
        .and_then(|()| fs::metadata(&target));
    let size = staged.map_err(|error| PullError::disk(&target, 0, error))?.len();
    // A file of the user's that may change in place has no digest worth recording.
    Ok(vec![RecordedFile { path: name.into(), size, ..RecordedFile::default() }])
}

/// Returns the one archive a folder consists of, not counting names that begin with a dot.
fn only_archive(folder: &Utf8Path) -> io::Result<Option<(Utf8PathBuf, Unpack)>> {
    let mut only = None;
    for entry in folder.read_dir_utf8()? {
        let entry = match entry {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(None),
            entry => entry?,
        };
        if !entry.file_name().starts_with('.') && only.replace(entry).is_some() {
            return Ok(None);
        }
    }
    Ok(only.and_then(|entry| match unpack::kind_of(entry.file_name()) {
        Unpack::Keep => None,
        kind => entry.path().is_file().then(|| (entry.into_path(), kind)),
    }))
}

fn unreadable(path: &Utf8Path, error: &io::Error) -> PullError {
    let problem = format!("local path `{path}` cannot be read: {error}");
    PullError::Source { uri: format!("file://{path}"), source: SourceError::Denied(problem) }
}
