//! Archives, unpacked in their box.
//!
//! An archive is data from elsewhere: names are checked, only files, folders and links that stay inside are made, and a
//! hostile entry refuses the archive as a whole (what was unpacked until then is never published). Symbolic links are
//! made last, when nothing is written through them any more. Sizes are counted while unpacking, never believed.
//!
//! As upstream: contents go to the model folder as they are, no top-level folder is taken off, a bare `.gz` is no archive.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use camino::{Utf8Path, Utf8PathBuf};
use sha2::{Digest, Sha256};
use tar::EntryType;

use super::Unpack;
use super::digest::hex;
use super::names::{self, NameError, Placed};
use super::record::RecordedFile;

/// How much an archive may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchiveLimits {
    /// Bytes in all.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
    /// Bytes unpacked per byte of archive.
    pub ratio: u64,
    /// Bytes that any archive may become, whatever its ratio.
    pub floor: u64,
}

impl Default for ArchiveLimits {
    fn default() -> Self {
        Self { bytes: 1 << 40, entries: 1_000_000, ratio: 200, floor: 64 << 20 }
    }
}

impl ArchiveLimits {
    fn budget(&self, archive: u64) -> u64 {
        self.bytes.min(archive.saturating_mul(self.ratio).max(self.floor))
    }
}

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is broken.
    #[error("Failed to unpack archive file. The file format is not valid. ({0})")]
    Broken(String),
    /// It is compressed or packed in a way that is not read.
    #[error("Failed to unpack archive file. {0}")]
    Unread(&'static str),
    /// It has an entry that no model needs.
    #[error("Failed to unpack archive file. It is refused as a whole: {0}")]
    Hostile(String),
    /// Writing failed.
    #[error("could not write what was unpacked")]
    Disk(#[source] io::Error),
    /// The caller asked to stop.
    #[error("stopped")]
    Stopped,
}

impl UnpackError {
    /// Names the entry that was read.
    fn in_entry(self, path: &Utf8Path) -> Self {
        match self {
            Self::Broken(problem) => Self::Broken(format!("`{path}`: {problem}")),
            Self::Hostile(problem) => Self::Hostile(format!("with `{path}` {problem}")),
            other => other,
        }
    }
}

impl From<NameError> for UnpackError {
    fn from(error: NameError) -> Self {
        Self::Hostile(error.to_string())
    }
}

/// Says by its name whether a file is an archive that is unpacked: what Python's `mimetypes` calls tar or zip.
pub fn kind_of(name: &str) -> Unpack {
    let name = name.to_ascii_lowercase();
    let has = |suffixes: &[&str]| suffixes.iter().any(|suffix| name.len() > suffix.len() && name.ends_with(suffix));
    if has(&[".zip"]) {
        Unpack::Zip
    } else if has(&[".tar", ".tar.gz", ".tgz", ".taz", ".tz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.z"]) {
        Unpack::Tar
    } else {
        Unpack::Keep
    }
}

/// Unpacks `archive` into the new folder `into`. Blocking; `stop` is asked between blocks.
///
/// # Errors
/// See [`UnpackError`]; `into` then holds a part that must not be used.
pub(super) fn unpack(
    archive: &Utf8Path,
    kind: Unpack,
    into: &Utf8Path,
    limits: &ArchiveLimits,
    stop: &dyn Fn() -> bool,
) -> Result<Vec<RecordedFile>, UnpackError> {
    let file = File::open(archive).map_err(UnpackError::Disk)?;
    let size = file.metadata().map_err(UnpackError::Disk)?.len();
    let mut archive = Sandbox::new(into, size, limits, stop)?;
    match kind {
        Unpack::Zip => unpack_zip(file, &mut archive)?,
        Unpack::Tar | Unpack::Keep | Unpack::Layers => {
            unpack_tar(BufReader::with_capacity(1 << 17, file), &mut archive)?;
        }
    }
    archive.finish()
}

/// The folder an archive is unpacked into, and what it may still do.
pub(super) struct Sandbox<'a> {
    root: &'a Utf8Path,
    stop: &'a dyn Fn() -> bool,
    /// Bytes left.
    budget: u64,
    /// Entries left.
    entries: u64,
    placed: Placed,
    files: BTreeMap<Utf8PathBuf, RecordedFile>,
    links: Vec<(Utf8PathBuf, String)>,
}

impl<'a> Sandbox<'a> {
    /// Makes the folder `into`, for what `size` bytes of archive may become.
    pub(super) fn new(
        into: &'a Utf8Path,
        size: u64,
        limits: &ArchiveLimits,
        stop: &'a dyn Fn() -> bool,
    ) -> Result<Self, UnpackError> {
        fs::create_dir_all(into).map_err(UnpackError::Disk)?;
        Ok(Self {
            root: into,
            stop,
            budget: limits.budget(size),
            entries: limits.entries,
            placed: Placed::default(),
            files: BTreeMap::new(),
            links: Vec::new(),
        })
    }

    pub(super) fn count_entry(&mut self) -> Result<(), UnpackError> {
        self.entries = self.entries.checked_sub(1).ok_or_else(|| hostile("it has too many entries"))?;
        Ok(())
    }

    pub(super) fn spend(&mut self, bytes: u64) -> Result<(), UnpackError> {
        if (self.stop)() {
            return Err(UnpackError::Stopped);
        }
        self.budget = self.budget.checked_sub(bytes).ok_or_else(|| hostile("it unpacks to far more than its size"))?;
        Ok(())
    }

    /// Returns a stream of the archive's bytes that ends when it is too long, or when the caller asked to stop. It counts
    /// what is skipped, headers and padding too, so that an archive of empty entries ends as well.
    pub(super) fn meter<R: Read>(&self, inner: R) -> Metered<'a, R> {
        Metered { inner, left: self.budget.saturating_mul(2), stop: self.stop }
    }

    pub(super) fn folder(&mut self, path: &Utf8Path) -> Result<(), UnpackError> {
        self.placed.folder(path)?;
        fs::create_dir_all(self.root.join(path)).map_err(UnpackError::Disk)
    }

    /// Writes a file; `stated` is the size the archive gives.
    pub(super) fn file(
        &mut self,
        path: Utf8PathBuf,
        mode: u32,
        stated: u64,
        from: &mut dyn Read,
    ) -> Result<(), UnpackError> {
        self.placed.file(&path)?;
        let mut out = self.create(&path, mode)?;
        let (mut sha, mut size) = (Sha256::new(), 0);
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => return Err(unread(error).in_entry(&path)),
            };
            self.spend(read as u64).map_err(|error| error.in_entry(&path))?;
            sha.update(&buffer[..read]);
            out.write_all(&buffer[..read]).map_err(UnpackError::Disk)?;
            size += read as u64;
        }
        if size != stated {
            return Err(UnpackError::Broken(format!("`{path}` has {size} bytes of {stated}")));
        }
        let sha256 = hex(&sha.finalize());
        self.files.insert(path.clone(), RecordedFile { path, size, sha256, ..RecordedFile::default() });
        Ok(())
    }

    /// Creates a file that must not be there yet, never through a link.
    fn create(&self, path: &Utf8Path, mode: u32) -> Result<File, UnpackError> {
        let target = self.root.join(path);
        let mode = if mode & 0o111 != 0 { 0o755 } else { 0o644 };
        let made = target.parent().map_or(Ok(()), fs::create_dir_all);
        made.and_then(|()| File::options().write(true).create_new(true).mode(mode).open(&target))
            .map_err(UnpackError::Disk)
    }

    /// Copies an earlier file of the archive, as its hard links mean.
    pub(super) fn same_as(&mut self, path: Utf8PathBuf, target: &str) -> Result<(), UnpackError> {
        let target = names::check(target)?;
        let Some(original) = self.files.get(&target).cloned() else {
            return Err(hostile(&format!("`{path}` is a hard link to `{target}`, which is no file before it")));
        };
        self.placed.file(&path)?;
        self.spend(original.size).map_err(|error| error.in_entry(&path))?;
        let mut from = File::open(self.root.join(&target)).map_err(UnpackError::Disk)?;
        let mut out = self.create(&path, 0)?;
        io::copy(&mut from, &mut out).map_err(UnpackError::Disk)?;
        self.files.insert(path.clone(), RecordedFile { path, ..original });
        Ok(())
    }

    /// Notes a symbolic link whose target stays inside: relative, and going up only at its beginning, no further than
    /// the box.
    pub(super) fn link(&mut self, path: Utf8PathBuf, target: &str) -> Result<(), UnpackError> {
        let leaves = || hostile(&format!("`{path}` is a link to `{}`", target.escape_debug()));
        let depth = path.components().count() - 1;
        let parts: Vec<&str> = target.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let up = parts.iter().take_while(|part| **part == "..").count();
        let down = &parts[up..];
        if target.starts_with('/') || up > depth || down.contains(&"..") {
            return Err(leaves());
        }
        if !down.is_empty() {
            names::check(&down.join("/"))?;
        }
        self.placed.file(&path)?;
        self.links.push((path, target.to_owned()));
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Vec<RecordedFile>, UnpackError> {
        for (path, target) in &self.links {
            let link = self.root.join(path);
            let made = link.parent().map_or(Ok(()), fs::create_dir_all);
            made.and_then(|()| std::os::unix::fs::symlink(target, &link)).map_err(UnpackError::Disk)?;
        }
        if self.files.is_empty() {
            return Err(UnpackError::Broken("it holds no files".to_owned()));
        }
        Ok(self.files.into_values().collect())
    }
}

fn unpack_tar(mut file: BufReader<File>, into: &mut Sandbox<'_>) -> Result<(), UnpackError> {
    use std::io::BufRead;
    let start = file.fill_buf().map_err(UnpackError::Disk)?;
    match start {
        [0x1f, 0x8b, ..] => tar_entries(flate2::bufread::MultiGzDecoder::new(file), into),
        [b'B', b'Z', b'h', ..] => Err(UnpackError::Unread("bzip2 compression is not read; use gzip or none.")),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Err(UnpackError::Unread("xz compression is not read; use gzip or none.")),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Err(UnpackError::Unread("zstd compression is not read; use gzip or none.")),
        [0x1f, 0x9d, ..] => Err(UnpackError::Unread("compress (.Z) is not read; use gzip or none.")),
        _ => tar_entries(file, into),
    }
}

fn tar_entries(stream: impl Read, into: &mut Sandbox<'_>) -> Result<(), UnpackError> {
    let mut metered = into.meter(stream);
    {
        let mut archive = tar::Archive::new(&mut metered);
        for entry in archive.entries().map_err(unread)? {
            tar_entry(entry.map_err(unread)?, into)?;
        }
    }
    // What follows the end mark belongs to the compressed stream, whose checksum is at its end.
    let mut rest = vec![0; 1 << 16];
    while metered.read(&mut rest).map_err(unread)? > 0 {
        into.spend(0)?;
    }
    Ok(())
}

fn tar_entry(mut entry: tar::Entry<'_, impl Read>, into: &mut Sandbox<'_>) -> Result<(), UnpackError> {
    into.count_entry()?;
    into.spend(0)?;
    let kind = entry.header().entry_type();
    if kind.is_pax_global_extensions() {
        return Ok(());
    }
    let name = String::from_utf8(entry.path_bytes().into_owned())
        .map_err(|_| hostile("it has a name that is no UTF-8 text"))?;
    let is_folder = kind.is_dir() || (matches!(kind, EntryType::Regular) && name.ends_with('/'));
    let path = match names::check(&name) {
        // The folder that was packed.
        Err(NameError::Empty) if is_folder && !name.is_empty() => return Ok(()),
        checked => checked?,
    };
    let target = |entry: &tar::Entry<'_, _>| {
        let bytes = entry.link_name_bytes().unwrap_or_default().into_owned();
        String::from_utf8(bytes).map_err(|_| hostile("it has a link that is no UTF-8 text"))
    };
    match kind {
        _ if is_folder => into.folder(&path),
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let (mode, size) = (entry.header().mode().unwrap_or(0), entry.size());
            into.file(path, mode, size, &mut entry)
        }
        EntryType::Symlink => into.link(path, &target(&entry)?),
        EntryType::Link => into.same_as(path, &target(&entry)?),
        _ => Err(hostile(&format!("`{path}` is neither file, folder nor link"))),
    }
}

fn unpack_zip(file: File, into: &mut Sandbox<'_>) -> Result<(), UnpackError> {
    let unread_zip = |error: zip::result::ZipError| match error {
        zip::result::ZipError::Io(error) => unread(error),
        other => broken(&other.to_string()),
    };
    let mut archive = zip::ZipArchive::new(BufReader::new(file)).map_err(unread_zip)?;
    if archive.has_duplicate_names() {
        return Err(hostile("it has a name twice"));
    }
    if archive.has_overlapping_entries().map_err(unread_zip)? {
        return Err(hostile("its entries overlap"));
    }
    for index in 0..archive.len() {
        into.count_entry()?;
        let mut entry = archive.by_index(index).map_err(unread_zip)?;
        let name = entry.name().map_err(unread_zip)?.into_owned();
        let path = names::check(&name)?;
        let mode = entry.unix_mode().unwrap_or(0);
        match mode & 0o170_000 {
            _ if entry.is_dir() => into.folder(&path)?,
            0o120_000 => {
                let mut target = String::new();
                let read = (&mut entry).take(4096).read_to_string(&mut target);
                read.map_err(unread)?;
                into.link(path, &target)?;
            }
            0 | 0o100_000 => {
                let size = entry.size();
                into.file(path, mode, size, &mut entry)?;
            }
            _ => return Err(hostile(&format!("`{path}` is neither file, folder nor link"))),
        }
    }
    Ok(())
}

pub(super) fn hostile(problem: &str) -> UnpackError {
    UnpackError::Hostile(problem.to_owned())
}

/// Makes the error of a broken archive; what the reader says may quote the archive.
fn broken(problem: &str) -> UnpackError {
    UnpackError::Broken(problem.escape_debug().take(200).collect())
}

/// Maps an error of reading the archive; readers in between may have wrapped ours.
pub(super) fn unread(error: io::Error) -> UnpackError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(found) = cause {
        match found.downcast_ref::<Ended>() {
            Some(Ended::TooMuch) => return hostile("it unpacks to far more than its size"),
            Some(Ended::Stopped) => return UnpackError::Stopped,
            None => {}
        }
        cause = match found.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => found.source(),
        };
    }
    broken(&error.to_string())
}

/// Ends a stream with an error when it gives more than it may, or when the caller asked to stop.
pub(super) struct Metered<'a, R> {
    inner: R,
    left: u64,
    stop: &'a dyn Fn() -> bool,
}

#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("too much")]
    TooMuch,
    #[error("stopped")]
    Stopped,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.stop)() {
            return Err(io::Error::other(Ended::Stopped));
        }
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| io::Error::other(Ended::TooMuch))?;
        Ok(read)
    }
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
