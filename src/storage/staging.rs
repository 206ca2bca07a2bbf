//! A model under construction: one folder below `partial/`, locked while someone works on it, published by one rename.
//!
//! The lock saves work, it does not make things right: whoever publishes first wins, the other discards its own, and
//! both models are whole. A folder whose holder died is free again (the kernel lets the lock go) and is resumed.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use camino::{Utf8Path, Utf8PathBuf};

use super::cache::{self, Cache, CachedModel};
use super::record::{FILES, MARKER, ModelKey, Record};

/// From this many files on, one `syncfs` is cheaper than an `fsync` for each.
const MANY_FILES: usize = 32;

/// The folder of a model under construction. Dropping it lets the lock go; a folder that can be
/// resumed is kept.
#[derive(Debug)]
pub(super) struct Staging {
    cache: Cache,
    key: ModelKey,
    folder: Utf8PathBuf,
    lock: Utf8PathBuf,
    /// Holds the lock as long as it is open.
    _held: File,
}

impl Staging {
    /// Takes the model's folder unless someone else holds it. Blocking, but never waits for the lock.
    pub(super) fn try_begin(cache: &Cache, key: &ModelKey) -> io::Result<Option<Self>> {
        let partial = cache.root().join("partial");
        fs::create_dir_all(&partial)?;
        let lock = partial.join(format!("{}.lock", key.id()));
        let held = File::options().create(true).truncate(false).write(true).open(&lock)?;
        match held.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        // The holder before us removed the file when it ended: then ours is a lock nobody else sees.
        match fs::metadata(&lock) {
            Ok(meta) if meta.ino() == held.metadata()?.ino() => {}
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        let folder = partial.join(key.id());
        let staging = Self { cache: cache.clone(), key: key.clone(), folder, lock, _held: held };
        fs::create_dir_all(&staging.folder)?;
        fs::create_dir_all(staging.fetched())?;
        Tree::make_writable(&staging.fetched())?;
        cache::remove_tree(&staging.files())?;
        Ok(Some(staging))
    }

    /// Returns the folder of everything this pull writes.
    pub(super) fn folder(&self) -> &Utf8Path {
        &self.folder
    }

    /// Returns the folder that downloads go to; it survives for resuming.
    pub(super) fn fetched(&self) -> Utf8PathBuf {
        self.folder.join("fetched")
    }

    /// Returns the folder that becomes the mounted one. It is always made anew.
    pub(super) fn files(&self) -> Utf8PathBuf {
        self.folder.join(FILES)
    }

    /// Returns the folder of files that were here already; it is made anew by each pull.
    pub(super) fn linked(&self) -> Utf8PathBuf {
        self.folder.join("linked")
    }

    /// Moves a linked file to where downloads are. Blocking.
    pub(super) fn take_linked(&self, name: &Utf8Path) -> io::Result<()> {
        let to = self.fetched().join(name);
        to.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::rename(self.linked().join(name), to)
    }

    /// Returns the record of what has been downloaded.
    pub(super) fn resume_log(&self) -> Utf8PathBuf {
        self.folder.join("resume.log")
    }

    /// Forgets everything downloaded so far. Blocking.
    pub(super) fn reset(&self) -> io::Result<()> {
        cache::remove_tree(&self.folder)?;
        fs::create_dir_all(self.fetched())
    }

    /// Makes what is in `from` (one of this staging's folders) visible as the model, under its final name: on disk,
    /// read-only, marked, renamed. Blocking.
    ///
    /// When another process was first, its model is returned and this one is discarded.
    pub(super) fn publish(&self, from: &Utf8Path, record: &Record) -> io::Result<CachedModel> {
        let tree = Tree::read(from)?;
        // The long part first: until here, a download that is interrupted goes on where it was.
        tree.sync(&self.folder)?;
        tree.make_read_only()?;
        self.share(from, record)?;
        tree.close_folders()?;
        let files = self.files();
        if from != files {
            fs::rename(from, &files)?;
        }
        for done in [self.fetched(), self.linked(), self.resume_log()] {
            cache::remove_tree(&done)?;
        }
        let marker = self.folder.join(MARKER);
        fs::write(&marker, serde_json::to_vec(record)?)?;
        [&marker, &files, &self.folder].into_iter().try_for_each(|path| File::open(path)?.sync_all())?;
        self.rename()?;
        File::open(self.cache.root().join("models"))?.sync_all()?;
        self.cache.find(&self.key).ok_or_else(|| io::Error::other("the published model is not there"))
    }

    /// Makes every file of the model one with the blob of its content.
    fn share(&self, from: &Utf8Path, record: &Record) -> io::Result<()> {
        record
            .files
            .iter()
            .try_for_each(|file| self.cache.blobs().share(&from.join(&file.path), &file.sha256).map(drop))
    }

    fn rename(&self) -> io::Result<()> {
        let target = self.cache.model_folder(&self.key);
        let is_taken =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists);
        match fs::rename(&self.folder, &target) {
            Err(error) if is_taken(&error) && self.cache.find(&self.key).is_some() => cache::remove_tree(&self.folder),
            Err(error) if is_taken(&error) => {
                cache::remove_tree(&target)?;
                fs::rename(&self.folder, &target)
            }
            other => other,
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.resume_log().exists() {
            // Nothing to resume. What cannot be removed now is taken over by the next pull.
            let _ = cache::remove_tree(&self.folder);
        }
        // A lock file that stays behind does no harm: the next holder takes it over.
        let _ = fs::remove_file(&self.lock);
    }
}

/// Files and folders of a model on their way to disk.
#[derive(Default)]
struct Tree {
    files: Vec<Utf8PathBuf>,
    /// Inner ones first.
    folders: Vec<Utf8PathBuf>,
}

impl Tree {
    fn read(folder: &Utf8Path) -> io::Result<Self> {
        let mut tree = Self::default();
        tree.add(folder)?;
        Ok(tree)
    }

    fn add(&mut self, folder: &Utf8Path) -> io::Result<()> {
        for entry in folder.read_dir_utf8()? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.add(entry.path())?;
            } else if kind.is_file() {
                self.files.push(entry.into_path());
            }
        }
        self.folders.push(folder.to_owned());
        Ok(())
    }

    /// Brings everything to disk, contents before names.
    fn sync(&self, folder: &Utf8Path) -> io::Result<()> {
        if cfg!(target_os = "linux") && self.files.len() + self.folders.len() > MANY_FILES {
            return sync_file_system(folder);
        }
        self.files.iter().chain(&self.folders).try_for_each(|path| File::open(path)?.sync_all())
    }

    /// Makes everything readable for all and writable for none: containers run as any user.
    fn make_read_only(&self) -> io::Result<()> {
        for file in &self.files {
            let meta = fs::metadata(file)?;
            // A hard link to a file of the user's: its permissions are the user's.
            if meta.nlink() == 1 {
                let executable = meta.permissions().mode() & 0o100 != 0;
                fs::set_permissions(file, Permissions::from_mode(if executable { 0o555 } else { 0o444 }))?;
            }
        }
        Ok(())
    }

    /// Makes the folders read-only as well.
    fn close_folders(&self) -> io::Result<()> {
        self.folders.iter().try_for_each(|folder| fs::set_permissions(folder, Permissions::from_mode(0o555)))
    }

    /// Undoes [`Tree::make_read_only`] and [`Tree::close_folders`] for a download that was interrupted there. Files that
    /// are blobs already, or someone else's, are let go: they must not be written to.
    fn make_writable(folder: &Utf8Path) -> io::Result<()> {
        fs::set_permissions(folder, Permissions::from_mode(0o755))?;
        for entry in folder.read_dir_utf8()? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                Self::make_writable(entry.path())?;
            } else if entry.metadata()?.nlink() > 1 {
                fs::remove_file(entry.path())?;
            } else if entry.metadata()?.permissions().readonly() {
                fs::set_permissions(entry.path(), Permissions::from_mode(0o644))?;
            }
        }
        Ok(())
    }
}

#[cfg(target_os = "linux")]
fn sync_file_system(folder: &Utf8Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(folder)?)?)
}

#[cfg(not(target_os = "linux"))]
fn sync_file_system(folder: &Utf8Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
