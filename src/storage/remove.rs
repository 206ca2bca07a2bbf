//! Taking models out of the cache: one by name, or those used least lately to make room.
//!
//! ```text
//! models/<id> ──rename──▶ trash/<id>-<n> ── claimed? ──yes──▶ renamed back
//!                                             └─no──▶ removed; blobs that nobody has any more are removed
//! ```
//!
//! **Invariant:** what is used, pinned or leased is never removed, whoever asks.

use std::fs::{self, File};
use std::io;
use std::time::SystemTime;

use camino::Utf8Path;

use super::cache::{Cache, CacheEntry, remove_tree};

/// Why a model was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// It is not here.
    #[error("there is no model `{0}` in the cache")]
    NotThere(String),
    /// Services use it.
    #[error("`{uri}` is used by {users}")]
    Used {
        /// The model.
        uri: String,
        /// Names of instances.
        users: String,
    },
    /// Someone pinned it.
    #[error("`{uri}` is pinned by {pinners}")]
    Pinned {
        /// The model.
        uri: String,
        /// Who.
        pinners: String,
    },
    /// Someone reads it right now.
    #[error("`{uri}` is being read right now")]
    Leased {
        /// The model.
        uri: String,
    },
    /// The disk.
    #[error("could not remove `{id}` from the cache")]
    Disk {
        /// Folder name.
        id: String,
        /// Cause.
        source: io::Error,
    },
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Models, by URI.
    pub models: Vec<String>,
    /// Bytes of the disk that are free again.
    pub bytes: u64,
}

/// How much must become free; collecting ends when both are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shortage {
    /// Bytes.
    pub bytes: u64,
    /// Files and folders.
    pub inodes: u64,
}

impl Cache {
    /// Removes one model unless someone needs it, and returns the bytes that freed. Blocking.
    ///
    /// # Errors
    /// See [`RemoveError`]; then the model is as it was.
    pub fn remove(&self, id: &str) -> Result<u64, RemoveError> {
        let folder = self.folder_of(id);
        let entry = self.entry(id).ok_or_else(|| RemoveError::NotThere(id.to_owned()))?;
        let failed = |source| RemoveError::Disk { id: id.to_owned(), source };
        self.check_free(id, &entry.uri)?;
        let lease = File::options().create(true).truncate(false).write(true).open(folder.join("lease"));
        match lease.map_err(failed)?.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(RemoveError::Leased { uri: entry.uri }),
            Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
        let trash = self.root().join("trash");
        fs::create_dir_all(&trash).map_err(failed)?;
        let out_of_sight = trash.join(format!("{id}-{:x}", rand::random::<u64>()));
        fs::rename(&folder, &out_of_sight).map_err(failed)?;
        // Whoever claims it from now on does not find it any more; whoever did before is seen here.
        if let Err(claimed) = self.check_free(id, &entry.uri) {
            // It may have been fetched anew already; then this one is not needed.
            return match fs::rename(&out_of_sight, &folder) {
                Ok(()) => Err(claimed),
                Err(_) if folder.exists() => remove_tree(&out_of_sight).map_err(failed).and(Err(claimed)),
                Err(error) => Err(failed(error)),
            };
        }
        let own = own_bytes(&out_of_sight).map_err(failed)?;
        remove_tree(&out_of_sight).map_err(failed)?;
        Ok(own + self.blobs().sweep().map_err(failed)?)
    }

    /// Removes models nobody needs, the one used least lately first, until the shortage is over. Blocking.
    ///
    /// # Errors
    /// The cache cannot be read. What cannot be removed is left out.
    pub fn collect(&self, shortage: Shortage) -> io::Result<Removed> {
        let mut removed = Removed::default();
        let mut inodes = 0;
        let claims = self.claims()?;
        let mut free: Vec<(SystemTime, CacheEntry)> = self
            .list()?
            .into_iter()
            .filter(|entry| claims.is_free(&entry.id))
            .map(|e| (self.last_used(&e), e))
            .collect();
        free.sort_by(|(a, one), (b, other)| (a, &one.id).cmp(&(b, &other.id)));
        for (_, entry) in free {
            if removed.bytes >= shortage.bytes && inodes >= shortage.inodes {
                break;
            }
            match self.remove(&entry.id) {
                Ok(bytes) => {
                    tracing::info!(model = entry.uri, bytes, "removed from the cache to make room");
                    removed.bytes += bytes;
                    inodes += entry.model.files;
                    removed.models.push(entry.uri);
                }
                // Claimed in between, or in the way of the disk: another one then.
                Err(error) => tracing::debug!(model = entry.uri, %error, "not removed from the cache"),
            }
        }
        Ok(removed)
    }

    /// Removes what is left over: partial downloads nobody works on that are older than `age`, what a crash left in the
    /// trash, and blobs nobody has. Returns the bytes that freed. Blocking.
    ///
    /// # Errors
    /// The cache cannot be read or something cannot be removed.
    pub fn tidy(&self, age: std::time::Duration) -> io::Result<u64> {
        let mut freed = 0;
        for left in folders(&self.root().join("trash"))? {
            freed += own_bytes(&left)?;
            remove_tree(&left)?;
        }
        for partial in folders(&self.root().join("partial"))? {
            let old = fs::metadata(&partial)?.modified()?.elapsed().is_ok_and(|since| since >= age);
            let lock = partial.with_extension("lock");
            let held =
                || File::open(&lock).is_ok_and(|file| matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)));
            if old && !held() {
                freed += own_bytes(&partial)?;
                remove_tree(&partial)?;
                remove_tree(&lock)?;
            }
        }
        Ok(freed + self.blobs().sweep()?)
    }

    /// Returns when a model was last taken up or let go.
    pub fn last_used(&self, entry: &CacheEntry) -> SystemTime {
        let used = fs::metadata(self.folder_of(&entry.id).join("used")).and_then(|meta| meta.modified());
        used.map_or(entry.fetched, |used| used.max(entry.fetched))
    }

    fn check_free(&self, id: &str, uri: &str) -> Result<(), RemoveError> {
        let claims = self.claims().map_err(|source| RemoveError::Disk { id: id.to_owned(), source })?;
        let uri = uri.to_owned();
        match (&claims.users(id)[..], &claims.pinners(id)[..]) {
            ([], []) => Ok(()),
            ([], pinners) => Err(RemoveError::Pinned { uri, pinners: pinners.join(", ") }),
            (users, _) => Err(RemoveError::Used { uri, users: users.join(", ") }),
        }
    }
}

fn folders(folder: &Utf8Path) -> io::Result<Vec<camino::Utf8PathBuf>> {
    match folder.read_dir_utf8() {
        Ok(entries) => {
            let paths: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.into_path())).collect();
            Ok(paths?.into_iter().filter(|path| path.is_dir()).collect())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Returns the bytes of files that have no other name.
fn own_bytes(folder: &Utf8Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in folder.read_dir_utf8()? {
        let entry = entry?;
        let meta = fs::symlink_metadata(entry.path())?;
        bytes += if meta.is_dir() {
            own_bytes(entry.path())?
        } else if meta.nlink() == 1 {
            meta.len()
        } else {
            0
        };
    }
    Ok(bytes)
}
