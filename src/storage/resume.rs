//! What a partial download already has, written as it goes.
//!
//! One JSON line for what is fetched, then one short line per finished piece with a checksum of it. Lines are only
//! appended, nothing is synced: after a power cut the checksums tell which pieces really arrived on disk, and a torn last
//! line is ignored. Pieces count only for a file whose key, size and strong ETag are unchanged, so versions never mix.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Mutex;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use super::RemoteFile;

/// Identity of one file's version at its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Version {
    path: Utf8PathBuf,
    key: String,
    size: Option<u64>,
    etag: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    piece_size: u64,
    files: Vec<Version>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    file: usize,
    piece: u64,
    crc: u32,
}

/// Finished pieces by file and piece, with their checksums.
pub(super) type Finished = BTreeMap<(usize, u64), u32>;

/// The record, open for more.
#[derive(Debug)]
pub(super) struct ResumeLog {
    out: Mutex<File>,
}

impl ResumeLog {
    /// Reads what an earlier download left at `path` and starts the record of this one. Blocking.
    pub(super) fn open(path: &Utf8Path, files: &[RemoteFile], piece_size: u64) -> io::Result<(Self, Finished)> {
        let header = Header { piece_size, files: files.iter().map(version).collect() };
        let finished = std::fs::read_to_string(path).map_or_else(|_| Finished::new(), |old| usable(&old, &header));
        let fresh = path.with_extension("new");
        let mut out = io::BufWriter::new(File::create(&fresh)?);
        writeln!(out, "{}", serde_json::to_string(&header)?)?;
        for (&(file, piece), &crc) in &finished {
            writeln!(out, "{}", serde_json::to_string(&Line { file, piece, crc })?)?;
        }
        let out = out.into_inner()?;
        std::fs::rename(&fresh, path)?;
        Ok((Self { out: Mutex::new(out) }, finished))
    }

    /// Records a finished piece. Blocking, one small write.
    pub(super) fn finished(&self, file: usize, piece: u64, crc: u32) -> io::Result<()> {
        let line = format!("{}\n", serde_json::to_string(&Line { file, piece, crc })?);
        self.out.lock().unwrap_or_else(std::sync::PoisonError::into_inner).write_all(line.as_bytes())
    }
}

fn version(file: &RemoteFile) -> Version {
    // Keys may be signed URLs; the path and the ETag tell versions apart as well.
    let key = super::digest::hex(&<sha2::Sha256 as sha2::Digest>::digest(file.key.as_bytes()));
    Version { path: file.path.clone(), key, size: file.size, etag: file.etag.clone() }
}

/// Returns the pieces of an old record that are of the same versions, renumbered for the new one.
fn usable(old: &str, new: &Header) -> Finished {
    let mut lines = old.lines();
    let Some(Ok(header)) = lines.next().map(serde_json::from_str::<Header>) else { return Finished::new() };
    if header.piece_size != new.piece_size {
        return Finished::new();
    }
    let by_path: BTreeMap<&Utf8Path, usize> =
        new.files.iter().enumerate().map(|(index, file)| (file.path.as_path(), index)).collect();
    let same = |file: &Version| {
        let index = *by_path.get(file.path.as_path())?;
        (file.etag.is_some() && new.files[index] == *file).then_some(index)
    };
    let indexes: Vec<Option<usize>> = header.files.iter().map(same).collect();
    lines
        .filter_map(|line| serde_json::from_str::<Line>(line).ok())
        .filter_map(|line| Some(((indexes.get(line.file).copied()??, line.piece), line.crc)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, etag: Option<&str>) -> RemoteFile {
        let etag = etag.map(str::to_owned);
        RemoteFile { path: path.into(), key: path.to_owned(), size: Some(100), etag, ..RemoteFile::default() }
    }

    #[test]
    fn pieces_are_taken_over_only_for_the_same_version_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("log")).unwrap();
        let before = [file("a", Some("1")), file("b", Some("1")), file("c", None)];
        let (log, finished) = ResumeLog::open(&path, &before, 10).unwrap();
        assert!(finished.is_empty());
        for (file, piece) in [(0, 0), (0, 9), (1, 3), (2, 0)] {
            log.finished(file, piece, 7).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}{{\"file\":0,\"pie")).unwrap();

        let after = [file("b", Some("2")), file("c", None), file("a", Some("1"))];
        let (_, finished) = ResumeLog::open(&path, &after, 10).unwrap();
        assert_eq!(finished, Finished::from([((2, 0), 7), ((2, 9), 7)]));
        let (_, again) = ResumeLog::open(&path, &after, 10).unwrap();
        assert_eq!(again, finished, "what is taken over is recorded again");
        let (_, other_size) = ResumeLog::open(&path, &after, 20).unwrap();
        assert!(other_size.is_empty());
    }
}
