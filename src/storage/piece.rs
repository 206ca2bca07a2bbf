//! One piece of a file: what it is, where its bytes go, and reading it back.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use crc_fast::{CrcAlgorithm, Digest as Crc};
use tokio::sync::Mutex;

use super::RemoteFile;
use super::digest::{Computed, Digester, Way};

/// Bytes written at once.
const BLOCK: usize = 1 << 20;

/// Whether the source is asked for parts of files.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ranges {
    Yes,
    No,
}

/// A part of a file that is fetched, and recorded, as one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) file: usize,
    pub(super) index: u64,
    pub(super) start: u64,
    /// None: to the end, wherever that is.
    pub(super) length: Option<u64>,
    /// Whether it is all of the file.
    pub(super) whole: bool,
}

/// Cuts a file into pieces; into one when it is small, or cannot be pinned to a version.
pub(super) fn pieces_of(file: usize, remote: &RemoteFile, piece_size: u64, ranges: Ranges) -> Vec<Piece> {
    match remote.size {
        Some(size)
            if ranges == Ranges::Yes && remote.etag.is_some() && remote.nearby.is_none() && size > piece_size =>
        {
            (0..size.div_ceil(piece_size))
                .map(|index| {
                    let start = index * piece_size;
                    Piece { file, index, start, length: Some(piece_size.min(size - start)), whole: false }
                })
                .collect()
        }
        length => vec![Piece { file, index: 0, start: 0, length, whole: true }],
    }
}

/// What has arrived on disk.
pub(super) struct Landed {
    /// Of the file, when the piece is all of it.
    pub(super) computed: Computed,
    /// Of the piece.
    pub(super) crc: u32,
    /// Bytes.
    pub(super) size: u64,
}

/// Whose turn it is to write to a file: the kernel lets one in at a time, and the others burn a core while they wait.
pub(super) type Turn = Arc<Mutex<()>>;

/// Where the bytes of one piece go: in order, a block at a time, on a blocking thread.
pub(super) struct Sink {
    path: Utf8PathBuf,
    turn: Turn,
    next: u64,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    state: Option<SinkState>,
    start: u64,
}

struct SinkState {
    file: Option<File>,
    /// Of the file, when it is this piece and nothing else.
    digester: Option<Digester>,
    crc: Crc,
}

impl Sink {
    pub(super) fn new(path: Utf8PathBuf, turn: Turn, piece: Piece) -> Self {
        let Piece { start, whole, .. } = piece;
        let digester = whole.then(|| Digester::new::<Way>([], piece.length));
        let state = Some(SinkState { file: None, digester, crc: crc() });
        Self { path, turn, next: start, start, waiting: Vec::new(), waiting_bytes: 0, state }
    }

    /// Computes these digests besides SHA-256. Before the first byte, and for whole files only.
    pub(super) fn expect(&mut self, wanted: Vec<Way>, size: Option<u64>) {
        if let Some(state) = self.state.as_mut().filter(|state| state.digester.is_some()) {
            state.digester = Some(Digester::new(wanted, size));
        }
    }

    pub(super) fn written(&self) -> u64 {
        self.next - self.start
    }

    pub(super) async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        self.next += bytes.len() as u64;
        self.waiting_bytes += bytes.len();
        self.waiting.push(bytes);
        if self.waiting_bytes >= BLOCK { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.state = Some(self.append_with(Ok).await?);
        Ok(())
    }

    /// Writes what is left, and returns the digests, the checksum and the length; `record` sees them before, on the same
    /// thread.
    pub(super) async fn close(
        mut self,
        record: impl FnOnce(&Landed) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Landed> {
        let size = self.written();
        let end = move |state: SinkState| {
            let computed = state.digester.map(Digester::finish).unwrap_or_default();
            let landed = Landed { computed, crc: state.crc.finalize() as u32, size };
            record(&landed)?;
            Ok(landed)
        };
        self.append_with(end).await
    }

    /// Writes what waits, and does something with the state on the same thread.
    async fn append_with<T: Send + 'static>(
        &mut self,
        then: impl FnOnce(SinkState) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let blocks = std::mem::take(&mut self.waiting);
        let offset = self.next - self.waiting_bytes as u64;
        self.waiting_bytes = 0;
        let mut state = self.state.take().ok_or_else(|| io::Error::other("a write failed before"))?;
        let path = self.path.clone();
        // Given back when the block is written, or when nobody waits for that any more.
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let appended = blocking(move || {
            state.append(&path, offset, &blocks)?;
            drop(turn);
            then(state)
        });
        appended.await
    }
}

/// The checksum that pieces are recorded with.
fn crc() -> Crc {
    Crc::new(CrcAlgorithm::Crc32IsoHdlc)
}

impl SinkState {
    fn append(&mut self, path: &Utf8Path, mut offset: u64, blocks: &[Bytes]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                self.file.insert(File::options().create(true).truncate(self.digester.is_some()).write(true).open(path)?)
            }
        };
        for block in blocks {
            file.write_all_at(block, offset)?;
            offset += block.len() as u64;
            if let Some(digester) = &mut self.digester {
                digester.update(block);
            }
            self.crc.update(block);
        }
        Ok(())
    }
}

/// Reads a piece back.
pub(super) fn read_piece(path: &Utf8Path, piece: Piece, length: Option<u64>, wanted: Vec<Way>) -> io::Result<Landed> {
    let length = match length {
        Some(length) => length,
        None => std::fs::metadata(path)?.len(),
    };
    let mut digester = piece.whole.then(|| Digester::new(wanted, Some(length)));
    let mut crc = crc();
    read_blocks(path, piece.start, length, |block| {
        if let Some(digester) = &mut digester {
            digester.update(block);
        }
        crc.update(block);
    })?;
    let computed = digester.map(Digester::finish).unwrap_or_default();
    Ok(Landed { computed, crc: crc.finalize() as u32, size: length })
}

pub(super) fn read_blocks(path: &Utf8Path, start: u64, length: u64, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let file = File::open(path)?;
    let mut buffer = vec![0; BLOCK.min(length as usize)];
    let mut at = 0;
    while at < length {
        let block = buffer.len().min((length - at) as usize);
        file.read_exact_at(&mut buffer[..block], start + at)?;
        each(&buffer[..block]);
        at += block as u64;
    }
    Ok(())
}

/// Runs something that blocks, on a thread for that.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(io::Error::other(error)),
        },
    }
}
