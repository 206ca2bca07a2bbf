//! Files of models, each once on disk, named by their content.
//!
//! ```text
//! <root>/blobs/<first two digits>/<sha256>      not executable
//! <root>/blobs/<first two digits>/<sha256>.x    executable
//! ```
//!
//! A blob is a hard link to the same file in every model that has it, so the file system counts its uses: a blob whose
//! only name is its own is used by nobody. Nothing else has to be kept in step, and a crash cannot leave a count wrong.
//! Where hard links cannot be made (some network and removable file systems) models keep files of their own.
//!
//! **Invariant:** a blob is whole when it gets its name: its bytes are on disk and were digested. Blobs are never written
//! to; whoever needs to write has a copy (`docs/decisions/0019-hard-links-to-blobs.md`).

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, SystemTime};

use camino::{Utf8Path, Utf8PathBuf};

/// A link that is this old was left by a process that died.
const LEFT_AFTER: Duration = Duration::from_secs(3600);

/// The folder of blobs.
#[derive(Clone, Debug)]
pub(super) struct Blobs {
    root: Utf8PathBuf,
}

/// What sharing a file came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shared {
    /// It is a blob now.
    New,
    /// There was a blob like it; the file is that one now.
    Old,
    /// It stays a file of its own.
    Own,
}

/// One blob, as found on disk.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    pub(super) path: Utf8PathBuf,
    /// Bytes.
    pub(super) size: u64,
    /// Models that have it.
    pub(super) uses: u64,
}

impl Blobs {
    pub(super) fn new(cache: &Utf8Path) -> Self {
        Self { root: cache.join("blobs") }
    }

    fn path(&self, sha256: &str, executable: bool) -> Utf8PathBuf {
        let name = if executable { format!("{sha256}.x") } else { sha256.to_owned() };
        self.root.join(sha256.get(..2).unwrap_or("xx")).join(name)
    }

    /// Returns a blob of this content and size.
    pub(super) fn find(&self, sha256: &str, size: u64) -> Option<Utf8PathBuf> {
        if !is_sha256(sha256) {
            return None;
        }
        let paths = [false, true].map(|executable| self.path(sha256, executable));
        paths.into_iter().find(|path| fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == size))
    }

    /// Makes a finished, read-only file of a model one with the blob of its content. Blocking.
    ///
    /// # Errors
    /// The disk, apart from what only means that files cannot be shared here.
    pub(super) fn share(&self, file: &Utf8Path, sha256: &str) -> io::Result<Shared> {
        let meta = fs::symlink_metadata(file)?;
        // More than one name: a blob already, or a file of someone else's that may change in place.
        if !meta.is_file() || meta.nlink() > 1 || !is_sha256(sha256) {
            return Ok(Shared::Own);
        }
        let blob = self.path(sha256, meta.permissions().mode() & 0o111 != 0);
        if let Some(parent) = blob.parent() {
            fs::create_dir_all(parent)?;
        }
        match fs::hard_link(file, &blob) {
            Ok(()) => Ok(Shared::New),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.replace(file, &meta, &blob),
            Err(error) if cannot_link(&error) => Ok(Shared::Own),
            Err(error) => Err(error),
        }
    }

    /// Makes a file of a model that was published earlier a blob. It is replaced by nothing: it may be mounted.
    pub(super) fn adopt(&self, file: &Utf8Path, sha256: &str, size: u64) -> io::Result<()> {
        // Not there, or not to be read: nothing to adopt.
        let Ok(meta) = fs::symlink_metadata(file) else { return Ok(()) };
        if meta.is_file() && meta.len() == size && meta.nlink() == 1 && self.find(sha256, size).is_none() {
            self.share(file, sha256)?;
        }
        Ok(())
    }

    /// Replaces a file by the blob, when that is as long as it must be.
    fn replace(&self, file: &Utf8Path, meta: &fs::Metadata, blob: &Utf8Path) -> io::Result<Shared> {
        if fs::metadata(blob)?.len() != meta.len() {
            // It was damaged. This one is good.
            fs::remove_file(blob)?;
            fs::hard_link(file, blob)?;
            return Ok(Shared::New);
        }
        let beside = self.root.join(format!(".{}-{:x}", std::process::id(), rand::random::<u64>()));
        match fs::hard_link(blob, &beside) {
            Ok(()) => {}
            // Gone in this moment, or linked as often as the file system can.
            Err(error) if cannot_link(&error) || error.kind() == io::ErrorKind::NotFound => return Ok(Shared::Own),
            Err(error) => return Err(error),
        }
        match fs::rename(&beside, file) {
            Ok(()) => Ok(Shared::Old),
            // Somebody cleaned up: the file is as good as it was.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Shared::Own),
            Err(error) => Err(error),
        }
    }

    /// Gives a blob another name, in a model under construction. False when there is no such blob, or it cannot be linked.
    pub(super) fn link(&self, sha256: &str, size: u64, to: &Utf8Path) -> io::Result<bool> {
        let Some(blob) = self.find(sha256, size) else { return Ok(false) };
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        match fs::hard_link(&blob, to) {
            Ok(()) => Ok(true),
            Err(error) if cannot_link(&error) || error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lists every blob. Blocking.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(super) fn list(&self) -> io::Result<Vec<Blob>> {
        let mut blobs = Vec::new();
        for shard in entries(&self.root)?.into_iter().filter(|path| path.is_dir()) {
            for path in entries(&shard)? {
                let name = path.file_name().unwrap_or_default();
                let is_blob = is_sha256(name.strip_suffix(".x").unwrap_or(name));
                let Ok(meta) = fs::symlink_metadata(&path) else { continue };
                if is_blob && meta.is_file() {
                    blobs.push(Blob { path, size: meta.len(), uses: meta.nlink().saturating_sub(1) });
                }
            }
        }
        Ok(blobs)
    }

    /// Removes the blobs that no model has, and returns the bytes that frees. Blocking. A model that takes one up in the
    /// same moment keeps its file; only the shared name is gone.
    ///
    /// # Errors
    /// A blob cannot be removed.
    pub(super) fn sweep(&self) -> io::Result<u64> {
        let mut freed = 0;
        for blob in self.list()?.into_iter().filter(|blob| blob.uses == 0) {
            match fs::remove_file(&blob.path) {
                Ok(()) => freed += blob.size,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        for path in entries(&self.root)?.iter().filter(|path| is_left(path)) {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(freed)
    }
}

/// Whether a name was left by a process that died before it became another's. One that is in use is renamed in the same
/// moment. A link has the times of its file, but for the last change of its names.
fn is_left(path: &Utf8Path) -> bool {
    let Ok(meta) = fs::symlink_metadata(path) else { return false };
    let linked = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(meta.ctime()).unwrap_or_default());
    !meta.is_dir() && linked.elapsed().is_ok_and(|since| since >= LEFT_AFTER)
}

fn entries(folder: &Utf8Path) -> io::Result<Vec<Utf8PathBuf>> {
    match folder.read_dir_utf8() {
        Ok(entries) => entries.map(|entry| Ok(entry?.into_path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether an error only means that this file system does not link these.
fn cannot_link(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
    matches!(error.kind(), CrossesDevices | PermissionDenied | TooManyLinks | Unsupported)
        || error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: &str = "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225";

    fn folder() -> (tempfile::TempDir, Utf8PathBuf, Blobs) {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
        let blobs = Blobs::new(&root);
        (folder, root, blobs)
    }

    fn file(root: &Utf8Path, name: &str, mode: u32) -> Utf8PathBuf {
        let path = root.join(name);
        fs::write(&path, "123456789").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn inode(path: &Utf8Path) -> u64 {
        fs::metadata(path).unwrap().ino()
    }

    #[test]
    fn equal_files_become_one_and_the_last_use_gone_frees_it() {
        let (_folder, root, blobs) = folder();
        let (a, b) = (file(&root, "a", 0o444), file(&root, "b", 0o444));
        assert_eq!(blobs.share(&a, CONTENT).unwrap(), Shared::New);
        assert_eq!(blobs.share(&b, CONTENT).unwrap(), Shared::Old);
        assert_eq!(inode(&a), inode(&b));
        let x = file(&root, "x", 0o555);
        assert_eq!(blobs.share(&x, CONTENT).unwrap(), Shared::New, "an executable is another file");
        assert!(blobs.link(CONTENT, 9, &root.join("sub/c")).unwrap());
        assert!(!blobs.link(CONTENT, 8, &root.join("d")).unwrap(), "a blob of another size is not it");
        assert_eq!(blobs.list().unwrap().iter().map(|blob| blob.uses).sum::<u64>(), 4);
        assert_eq!(blobs.sweep().unwrap(), 0);
        for path in [a, b, x, root.join("sub/c")] {
            fs::remove_file(path).unwrap();
        }
        assert_eq!(blobs.sweep().unwrap(), 18);
        assert!(blobs.list().unwrap().is_empty());
    }

    #[test]
    fn a_link_that_is_about_to_be_renamed_is_not_swept_away() {
        let (_folder, root, blobs) = folder();
        blobs.share(&file(&root, "a", 0o444), CONTENT).unwrap();
        let about = root.join("blobs/.1-2");
        fs::hard_link(root.join("a"), &about).unwrap();
        blobs.sweep().unwrap();
        assert!(about.exists());
    }

    #[test]
    fn a_damaged_blob_gives_way_to_a_good_file() {
        let (_folder, root, blobs) = folder();
        let a = file(&root, "a", 0o444);
        blobs.share(&a, CONTENT).unwrap();
        fs::set_permissions(&a, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&a, "1234").unwrap();
        let b = file(&root, "b", 0o444);
        assert_eq!(blobs.share(&b, CONTENT).unwrap(), Shared::New);
        assert_ne!(inode(&a), inode(&b));
        assert_eq!(blobs.find(CONTENT, 9).map(|path| inode(&path)), Some(inode(&b)));
    }

    #[test]
    fn a_file_with_other_names_is_someone_elses() {
        let (_folder, root, blobs) = folder();
        let a = file(&root, "a", 0o644);
        fs::hard_link(&a, root.join("theirs")).unwrap();
        assert_eq!(blobs.share(&a, CONTENT).unwrap(), Shared::Own);
        assert_eq!(blobs.share(&file(&root, "b", 0o444), "").unwrap(), Shared::Own, "no digest, no blob");
    }
}
