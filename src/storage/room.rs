//! Room for a download, before it begins: bytes and inodes of the disk, and the cache's own limit.
//!
//! When there is too little, models nobody needs are removed, the one used least lately first (unless the operator said
//! not to). When that is not enough the download does not begin, and the error says how much is missing of what.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use camino::{Utf8Path, Utf8PathBuf};

use super::PullError;
use super::cache::Cache;
use super::remove::Shortage;

/// How much room the cache may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomPolicy {
    /// Most bytes the cache may hold; no limit when none.
    pub most: Option<u64>,
    /// Bytes of the disk that downloads leave free.
    pub spare: u64,
    /// Whether models nobody needs are removed to make room.
    pub collect: bool,
}

impl Default for RoomPolicy {
    fn default() -> Self {
        Self { most: None, spare: 256 << 20, collect: true }
    }
}

/// What the cache takes and what is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Models that are here.
    pub models: u64,
    /// Bytes of their files as the models count them.
    pub apparent: u64,
    /// Bytes of all models on disk, each file once.
    pub stored: u64,
    /// Bytes of downloads that are not finished, and of what waits to be removed.
    pub unfinished: u64,
    /// What is left of the disk.
    pub disk: Disk,
}

impl Usage {
    /// Returns everything the cache takes, in bytes.
    pub fn total(&self) -> u64 {
        self.stored + self.unfinished
    }
}

/// What is left of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Bytes free for us.
    pub free: u64,
    /// Bytes in all.
    pub size: u64,
    /// Files and folders that can still be made; none when the file system has no such limit.
    pub inodes: Option<u64>,
}

impl Disk {
    /// Reads what is left where `path` is, or will be. Blocking.
    ///
    /// # Errors
    /// As the system says.
    pub fn at(path: &Utf8Path) -> io::Result<Self> {
        let existing = path.ancestors().find(|above| above.exists()).unwrap_or(Utf8Path::new("/"));
        let stat = rustix::fs::statvfs(existing.as_std_path())?;
        Ok(Self {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            size: stat.f_blocks.saturating_mul(stat.f_frsize),
            inodes: (stat.f_files > 0).then_some(stat.f_favail),
        })
    }
}

/// What a download is going to need.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

impl Cache {
    /// Measures the cache. Blocking, a `stat` of every file.
    ///
    /// # Errors
    /// The cache cannot be read.
    pub fn usage(&self) -> io::Result<Usage> {
        let blobs: u64 = self.blobs().list()?.iter().map(|blob| blob.size).sum();
        let listed = self.list()?;
        let mut unfinished = 0;
        for folder in ["partial", "trash"] {
            unfinished += own_blocks(&self.root().join(folder));
        }
        Ok(Usage {
            models: listed.len() as u64,
            apparent: listed.iter().map(|entry| entry.model.size).sum(),
            stored: blobs + own_blocks(&self.root().join("models")),
            unfinished,
            disk: Disk::at(self.root())?,
        })
    }

    /// Sees to it that a download fits into `folder`, or says what is missing. Blocking.
    pub(super) fn make_room(&self, folder: &Utf8Path, need: Need, policy: RoomPolicy) -> Result<(), PullError> {
        let failed = |error| PullError::disk(folder, need.bytes, error);
        let mut missing = self.missing(folder, need, policy).map_err(failed)?;
        if policy.collect
            && let Some((_, shortage)) = missing
        {
            self.collect(shortage).map_err(failed)?;
            missing = self.missing(folder, need, policy).map_err(failed)?;
        }
        missing.map_or(Ok(()), |(error, _)| Err(error))
    }

    /// Says what is missing, in words and in numbers.
    fn missing(&self, folder: &Utf8Path, need: Need, policy: RoomPolicy) -> io::Result<Option<(PullError, Shortage)>> {
        let disk = Disk::at(folder)?;
        let path: Utf8PathBuf = folder.to_owned();
        let wanted = need.bytes.saturating_add(policy.spare);
        if need.bytes > 0 && wanted > disk.free {
            let shortage = Shortage { bytes: wanted - disk.free, inodes: 0 };
            let error = PullError::DiskFull { path, needed: need.bytes, free: disk.free, spare: policy.spare };
            return Ok(Some((error, shortage)));
        }
        if let Some(free) = disk.inodes.filter(|free| need.inodes > *free) {
            let shortage = Shortage { bytes: 0, inodes: need.inodes - free };
            return Ok(Some((PullError::InodesFull { path, needed: need.inodes, free }, shortage)));
        }
        if let Some(most) = policy.most {
            let used = self.usage()?.total();
            if need.bytes.saturating_add(used) > most {
                let shortage = Shortage { bytes: need.bytes + used - most, inodes: 0 };
                return Ok(Some((PullError::CacheFull { needed: need.bytes, used, most }, shortage)));
            }
        }
        Ok(None)
    }
}

/// Returns the bytes on disk of files that have no other name; 0 for what cannot be read.
pub(super) fn own_blocks(folder: &Utf8Path) -> u64 {
    let Ok(entries) = folder.read_dir_utf8() else { return 0 };
    let used = entries.flatten().map(|entry| match fs::symlink_metadata(entry.path()) {
        Ok(meta) if meta.is_dir() => own_blocks(entry.path()),
        Ok(meta) if meta.nlink() == 1 => meta.blocks() * 512,
        _ => 0,
    });
    used.sum()
}
