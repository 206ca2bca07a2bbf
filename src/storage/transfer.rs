//! Models in and out of the cache as tar archives, for machines without a network.
//!
//! ```text
//! <id>/model.json    the record
//! <id>/files/…       the model
//! ```
//!
//! What comes in is data from elsewhere: the archive is unpacked in its box as any other, every file is digested and held
//! against its record, and models that are here already are left alone.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};

use camino::{Utf8Path, Utf8PathBuf};

use super::Unpack;
use super::cache::{Cache, remove_tree};
use super::record::{FILES, MARKER, ModelKey, Record, RecordedFile};
use super::staging::Staging;
use super::unpack::{self, ArchiveLimits, UnpackError};

/// Why an archive of models was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The archive is broken or hostile.
    #[error(transparent)]
    Archive(#[from] UnpackError),
    /// It is an archive of something else, or its files are not those of its records.
    #[error("it is no archive of cached models: {0}")]
    Wrong(String),
    /// Someone downloads the same model right now.
    #[error("`{0}` is being fetched right now")]
    Busy(String),
    /// Reading or writing failed.
    #[error("could not read or write")]
    Disk(#[from] io::Error),
}

/// One model that was brought in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// What it was fetched from.
    pub uri: String,
    /// Bytes.
    pub size: u64,
    /// Whether it was here already.
    pub was_here: bool,
}

impl Cache {
    /// Writes models as one tar archive. Blocking.
    ///
    /// # Errors
    /// A model is not here, or something cannot be read or written.
    pub fn export(&self, ids: &[String], out: impl Write) -> io::Result<()> {
        let mut archive = tar::Builder::new(out);
        archive.follow_symlinks(false);
        archive.mode(tar::HeaderMode::Deterministic);
        for id in ids {
            let gone = || io::Error::new(io::ErrorKind::NotFound, format!("there is no model `{id}` in the cache"));
            let _lease = self.lease(id)?.ok_or_else(gone)?;
            let folder = self.folder_of(id);
            archive.append_path_with_name(folder.join(MARKER), format!("{id}/{MARKER}"))?;
            archive.append_dir_all(format!("{id}/{FILES}"), folder.join(FILES))?;
        }
        archive.into_inner()?.flush()
    }

    /// Takes the models of an archive that [`Cache::export`] wrote. Blocking.
    ///
    /// # Errors
    /// The archive is not one, or holds other bytes than it records; then nothing of it is in the cache, apart from models
    /// that were taken before the one that is wrong.
    pub fn import(&self, archive: &Utf8Path) -> Result<Vec<Imported>, TransferError> {
        let folder = self.root().join("partial").join(format!("import-{:x}", rand::random::<u64>()));
        let taken = self.import_into(archive, &folder);
        remove_tree(&folder)?;
        taken
    }

    fn import_into(&self, archive: &Utf8Path, folder: &Utf8Path) -> Result<Vec<Imported>, TransferError> {
        let limits = ArchiveLimits { ratio: 2, ..ArchiveLimits::default() };
        let unpacked = unpack::unpack(archive, Unpack::Tar, folder, &limits, &|| false)?;
        let mut models: BTreeMap<String, Vec<RecordedFile>> = BTreeMap::new();
        for file in unpacked {
            let mut parts = file.path.components();
            let id = parts.next().map(|part| part.to_string()).unwrap_or_default();
            models.entry(id).or_default().push(RecordedFile { path: parts.as_path().to_owned(), ..file });
        }
        models.into_iter().map(|(id, files)| self.import_one(&folder.join(id), &files)).collect()
    }

    fn import_one(&self, folder: &Utf8Path, files: &[RecordedFile]) -> Result<Imported, TransferError> {
        let name = folder.file_name().unwrap_or_default();
        let wrong = |problem: &str| TransferError::Wrong(format!("`{name}` {problem}"));
        let record = fs::read(folder.join(MARKER)).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
        let record = record.filter(Record::is_readable).ok_or_else(|| wrong("has no record"))?;
        let key = ModelKey::recorded(&record).filter(|key| key.id() == name);
        let key = key.ok_or_else(|| wrong("is not the model of its record"))?;
        let found: BTreeMap<Utf8PathBuf, &RecordedFile> =
            files.iter().filter_map(|file| Some((file.path.strip_prefix(FILES).ok()?.to_owned(), file))).collect();
        for recorded in &record.files {
            match found.get(&recorded.path) {
                Some(file) if file.sha256 == recorded.sha256 || recorded.sha256.is_empty() => {}
                Some(_) => return Err(wrong(&format!("has other bytes in `{}` than it records", recorded.path))),
                None => return Err(wrong(&format!("has no `{}`", recorded.path))),
            }
        }
        if found.len() != record.files.len() {
            return Err(wrong("has files that it does not record"));
        }
        let imported = |was_here| Imported { uri: record.uri.clone(), size: record.size, was_here };
        if self.find(&key).is_some() {
            return Ok(imported(true));
        }
        let staging = Staging::try_begin(self, &key)?.ok_or_else(|| TransferError::Busy(record.uri.clone()))?;
        fs::rename(folder.join(FILES), staging.files())?;
        staging.publish(&staging.files(), &record)?;
        Ok(imported(false))
    }
}
