//! Reading models again: whether every byte is as it was when it came.
//!
//! Each content is read once, however many models have it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use camino::{Utf8Path, Utf8PathBuf};

use super::cache::Cache;
use super::digest::{Digester, Way};
use super::piece::read_blocks;
use super::record::{FILES, MARKER, RecordedFile, read_marker};

/// What is wrong with a file of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It is not there.
    Missing,
    /// It has another size, in bytes.
    Size {
        /// As recorded.
        recorded: u64,
        /// As found.
        found: u64,
    },
    /// It has other bytes.
    Digest {
        /// SHA-256 as recorded, hex.
        recorded: String,
        /// SHA-256 as found, hex.
        found: String,
    },
    /// It cannot be read.
    Unreadable(String),
}

impl std::fmt::Display for Flaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => f.write_str("is missing"),
            Self::Size { recorded, found } => write!(f, "has {found} bytes where {recorded} were recorded"),
            Self::Digest { recorded, found } => {
                write!(f, "has the SHA-256 digest {found} where {recorded} was recorded")
            }
            Self::Unreadable(problem) => write!(f, "cannot be read: {problem}"),
        }
    }
}

/// What came of verifying one model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Files that were compared.
    pub files: u64,
    /// Files without a recorded digest: the user's own, mounted from where they are.
    pub unrecorded: u64,
    /// Bytes that are in these files.
    pub bytes: u64,
    /// Files that are not as recorded.
    pub flaws: Vec<(Utf8PathBuf, Flaw)>,
}

/// Verifies models one after another, and remembers contents that were read.
#[derive(Debug)]
pub struct Verifier {
    cache: Cache,
    /// By device and inode.
    read: BTreeMap<(u64, u64), String>,
}

impl Verifier {
    /// Makes a verifier of a cache.
    pub fn new(cache: Cache) -> Self {
        Self { cache, read: BTreeMap::new() }
    }

    /// Reads every file of a model and compares it with the record. None when there is no such model. Blocking; `progress`
    /// gets the bytes as they are read.
    ///
    /// # Errors
    /// The model cannot be kept from being removed meanwhile.
    pub fn verify(&mut self, id: &str, mut progress: impl FnMut(u64)) -> io::Result<Option<Verified>> {
        let Some(_lease) = self.cache.lease(id)? else { return Ok(None) };
        let folder = self.cache.folder_of(id);
        let Some((record, _)) = read_marker(&folder.join(MARKER)) else { return Ok(None) };
        let mut verified = Verified::default();
        for file in &record.files {
            verified.bytes += file.size;
            if file.sha256.is_empty() {
                verified.unrecorded += 1;
                continue;
            }
            verified.files += 1;
            if let Some(flaw) = self.flaw(&folder.join(FILES).join(&file.path), file, &mut progress) {
                verified.flaws.push((file.path.clone(), flaw));
            }
        }
        Ok(Some(verified))
    }

    fn flaw(&mut self, path: &Utf8Path, file: &RecordedFile, progress: &mut dyn FnMut(u64)) -> Option<Flaw> {
        let meta = match fs::symlink_metadata(path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(Flaw::Missing),
            Err(error) => return Some(Flaw::Unreadable(error.to_string())),
        };
        if meta.len() != file.size {
            return Some(Flaw::Size { recorded: file.size, found: meta.len() });
        }
        let key = (meta.dev(), meta.ino());
        let found = match self.read.get(&key) {
            Some(digest) => digest.clone(),
            None => match digest(path, file.size, progress) {
                Ok(digest) => self.read.entry(key).or_insert(digest).clone(),
                Err(error) => return Some(Flaw::Unreadable(error.to_string())),
            },
        };
        (found != file.sha256).then(|| Flaw::Digest { recorded: file.sha256.clone(), found })
    }
}

fn digest(path: &Utf8Path, size: u64, progress: &mut dyn FnMut(u64)) -> io::Result<String> {
    let mut digester = Digester::new::<Way>([], Some(size));
    read_blocks(path, 0, size, |block| {
        digester.update(block);
        progress(block.len() as u64);
    })?;
    Ok(digester.finish().sha256)
}
