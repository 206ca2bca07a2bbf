//! The files of one manifest onto disk: ranges, retries, stalls, resuming.
//!
//! Large files are fetched as pieces of one size, several at a time across all files, each read pinned to the file's ETag
//! and written in place. Small files, and files whose source has no ranges or no strong ETag, come in one stream. Digests
//! are computed while bytes arrive, or right behind them. Memory in use is a few blocks per piece in flight, whatever the
//! model's size.
//!
//! ```text
//! piece: (recorded? ── checksum agrees ──▶ done)   read ──▶ write blocks ──▶ recorded, done
//!                                                   ▲          │ broken, stalled, cut: wait, go on where it stopped
//!                                                   └──────────┘ at most `attempts` times without progress
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::{Notify, watch};

use super::digest::{Computed, Digester, Way, worth_checking};
use super::nearby;
use super::piece::{Landed, Piece, Ranges, Sink, Turn, blocking, pieces_of, read_blocks, read_piece};
use super::pull::{Progress, PullConfig};
use super::record::RecordedFile;
use super::resume::{Finished, ResumeLog};
use super::staging::Staging;
use super::{ModelSource, PullError, RemoteFile, SourceError, StatedDigest};

/// Bytes after which a connection that breaks again has been worth it.
const PROGRESS: u64 = 1 << 18;

/// Bytes of a large file that are brought to disk at once while it arrives.
const SYNC_EVERY: u64 = 64 << 20;

/// One download.
pub(super) struct Fetch<'a> {
    pub(super) uri: &'a str,
    pub(super) source: &'a dyn ModelSource,
    pub(super) files: &'a [RemoteFile],
    /// Bytes and files of the model that were here already.
    pub(super) here: (u64, u64),
    pub(super) staging: &'a Arc<Staging>,
    pub(super) config: &'a PullConfig,
    pub(super) progress: &'a watch::Sender<Progress>,
}

impl Fetch<'_> {
    /// Fetches every file into the staging folder, and returns what they are.
    ///
    /// # Errors
    /// As [`PullError`]; what was fetched stays for resuming.
    pub(super) async fn run(&self) -> Result<Vec<RecordedFile>, PullError> {
        if self.source.supports_ranges() {
            match Download::start(self, Ranges::Yes).await?.finish().await {
                Err(PullError::Source { source: SourceError::RangeIgnored(_), .. }) => {}
                other => return other,
            }
        }
        Download::start(self, Ranges::No).await?.finish().await
    }

    fn failed(&self, source: SourceError) -> PullError {
        PullError::Source { uri: self.uri.to_owned(), source }
    }
}

/// The download under way.
struct Download<'a> {
    fetch: &'a Fetch<'a>,
    ranges: Ranges,
    folder: Utf8PathBuf,
    pieces: Vec<Vec<Piece>>,
    turns: Vec<Turn>,
    log: Arc<ResumeLog>,
    recorded: Finished,
    done: Mutex<BTreeSet<(usize, u64)>>,
    /// Digests and sizes of files that came in one piece.
    whole: Mutex<BTreeMap<usize, (Computed, u64)>>,
    moved: Notify,
}

impl<'a> Download<'a> {
    async fn start(fetch: &'a Fetch<'a>, ranges: Ranges) -> Result<Self, PullError> {
        let size = fetch.config.range_size.max(1);
        let files: Vec<RemoteFile> = fetch.files.to_vec();
        let staging = fetch.staging.clone();
        let folder = staging.fetched();
        let (log, recorded) = blocking(move || prepare(&staging, &files, size, ranges))
            .await
            .map_err(|error| PullError::disk(&folder, 0, error))?;
        let pieces: Vec<_> =
            fetch.files.iter().enumerate().map(|(index, file)| pieces_of(index, file, size, ranges)).collect();
        fetch.progress.send_modify(|progress| {
            let (bytes, files) = fetch.here;
            progress.done = bytes;
            progress.files = (files, files + fetch.files.len() as u64);
        });
        Ok(Self {
            fetch,
            ranges,
            folder,
            turns: pieces.iter().map(|_| Turn::default()).collect(),
            pieces,
            log: Arc::new(log),
            recorded,
            done: Mutex::default(),
            whole: Mutex::default(),
            moved: Notify::new(),
        })
    }

    /// Fetches all pieces while the digests of large files follow behind.
    async fn finish(self) -> Result<Vec<RecordedFile>, PullError> {
        let fetching = futures::stream::iter(self.pieces.iter().flatten().copied())
            .map(|piece| self.piece(piece))
            .buffer_unordered(self.fetch.config.concurrency.max(1))
            .try_collect::<()>();
        let ((), large, ()) = futures::future::try_join3(fetching, self.digest_large(), self.sync_large()).await?;
        let mut digests = self.whole.lock().unwrap_or_else(PoisonError::into_inner).clone();
        digests.extend(large);
        let recorded = self.fetch.files.iter().enumerate().map(|(index, remote)| {
            let (computed, size) = digests.remove(&index).expect("every file has been fetched and digested");
            let Computed { sha256, more: digests } = computed;
            RecordedFile { path: remote.path.clone(), size, sha256, digests, etag: remote.etag.clone() }
        });
        Ok(recorded.collect())
    }

    /// Compares what came with what was stated.
    fn check(&self, remote: &RemoteFile, computed: &Computed, stated: &[StatedDigest]) -> Result<(), PullError> {
        let differs = computed.contradicts(stated);
        differs.map_or(Ok(()), |(stated, actual)| {
            Err(PullError::WrongDigest {
                uri: self.fetch.uri.to_owned(),
                file: remote.path.to_string(),
                kind: stated.kind,
                stated: stated.hex.clone(),
                actual: actual.to_owned(),
            })
        })
    }

    fn sink(&self, piece: Piece) -> Sink {
        Sink::new(self.target(piece), Arc::clone(&self.turns[piece.file]), piece)
    }

    fn target(&self, piece: Piece) -> Utf8PathBuf {
        self.folder.join(&self.fetch.files[piece.file].path)
    }

    fn disk_error(&self, error: io::Error) -> PullError {
        let progress = self.fetch.progress.borrow().clone();
        PullError::disk(&self.folder, progress.total.saturating_sub(progress.done), error)
    }

    /// Brings one piece to disk, from an earlier download or from the source.
    async fn piece(&self, piece: Piece) -> Result<(), PullError> {
        let remote = &self.fetch.files[piece.file];
        if remote.nearby.is_some() {
            let (nearby, target) = (remote.clone(), self.target(piece));
            let wanted = worth_checking(&remote.digests, remote.size);
            let taken = blocking(move || nearby::take(&nearby, &target, piece, wanted)).await;
            if let Some(landed) = taken.map_err(|error| self.disk_error(error))? {
                self.advance(landed.size);
                self.finished(piece, landed);
                return Ok(());
            }
        }
        if let Some(&crc) = self.recorded.get(&(piece.file, piece.index)) {
            let (path, length) = (self.target(piece), piece.length.or(remote.size));
            let wanted = worth_checking(&remote.digests, remote.size);
            let read = blocking(move || read_piece(&path, piece, length, wanted)).await;
            if let Ok(landed) = read
                && landed.crc == crc
            {
                self.advance(landed.size);
                self.finished(piece, landed);
                return Ok(());
            }
        }
        let mut sink = self.sink(piece);
        let stated = self.fill(piece, &mut sink).await?;
        let known: Vec<StatedDigest> = match piece.whole {
            true => stated.iter().chain(&remote.digests).cloned().collect(),
            false => Vec::new(),
        };
        let (log, against) = (self.log.clone(), known.clone());
        // Recorded when it is known to be right: what is resumed was checked.
        let record = move |landed: &Landed| match landed.computed.contradicts(&against) {
            None => log.finished(piece.file, piece.index, landed.crc),
            Some(_) => Ok(()),
        };
        let landed = sink.close(record).await.map_err(|error| self.disk_error(error))?;
        if let Err(wrong) = self.check(remote, &landed.computed, &known) {
            self.retreat(landed.size);
            return Err(wrong);
        }
        self.finished(piece, landed);
        Ok(())
    }

    /// Reads a piece until it is whole; goes on where it stopped when the connection breaks. Returns what the source
    /// stated about a whole file along with its bytes.
    async fn fill(&self, piece: Piece, sink: &mut Sink) -> Result<Vec<StatedDigest>, PullError> {
        let mut failures = 0;
        let mut stated = Vec::new();
        loop {
            let before = sink.written();
            let problem = match self.read(piece, sink, &mut stated).await {
                Ok(()) => return Ok(stated),
                Err(Stopped::Disk(error)) => return Err(self.disk_error(error)),
                Err(Stopped::Source(error)) => self.fetch.failed(error),
                Err(Stopped::Short) => self.wrong_size(piece, sink.written()),
                Err(Stopped::Long(sent)) => return Err(self.wrong_size(piece, sent)),
            };
            let again = matches!(
                problem,
                PullError::WrongSize { .. } | PullError::Source { source: SourceError::Transient { .. }, .. }
            );
            let resumable =
                self.ranges == Ranges::Yes && piece.length.is_some() && self.fetch.files[piece.file].etag.is_some();
            failures = if resumable && sink.written() >= before + PROGRESS { 1 } else { failures + 1 };
            if !again || failures >= self.fetch.config.attempts.max(1) {
                return Err(problem);
            }
            tracing::debug!(file = %self.fetch.files[piece.file].path, failures, "reading again");
            tokio::time::sleep(pause(self.fetch.config.backoff, failures)).await;
            if !resumable {
                self.retreat(sink.written());
                *sink = self.sink(piece);
            }
        }
    }

    fn wrong_size(&self, piece: Piece, actual: u64) -> PullError {
        let file = &self.fetch.files[piece.file];
        PullError::WrongSize {
            uri: self.fetch.uri.to_owned(),
            file: file.path.to_string(),
            stated: file.size.unwrap_or_default(),
            actual: piece.start + actual,
        }
    }

    /// Reads what is missing of a piece, once.
    async fn read(&self, piece: Piece, sink: &mut Sink, stated: &mut Vec<StatedDigest>) -> Result<(), Stopped> {
        let file = &self.fetch.files[piece.file];
        if piece.length == Some(sink.written()) {
            return Ok(());
        }
        let offset = piece.start + sink.written();
        let length = match piece.length {
            Some(_) if piece.whole && sink.written() == 0 => None,
            length => length.map(|length| length - sink.written()),
        };
        let reading = self.alive(file, self.fetch.source.read(file, offset, length)).await??;
        if sink.written() == 0 && length.is_none() {
            let known = reading.digests.iter().chain(&file.digests).cloned().collect::<Vec<_>>();
            sink.expect(worth_checking(&known, file.size), file.size);
            *stated = reading.digests;
        }
        let mut stream = reading.bytes;
        while let Some(bytes) = self.alive(file, stream.next()).await? {
            let bytes = bytes?;
            if piece.length.is_some_and(|length| sink.written() + bytes.len() as u64 > length) {
                return Err(Stopped::Long(sink.written() + bytes.len() as u64));
            }
            self.advance(bytes.len() as u64);
            sink.write(bytes).await.map_err(Stopped::Disk)?;
        }
        match piece.length {
            Some(length) if sink.written() < length => Err(Stopped::Short),
            _ => Ok(()),
        }
    }

    /// Waits for the source, but not longer than a silence may last.
    async fn alive<T>(&self, file: &RemoteFile, future: impl Future<Output = T>) -> Result<T, SourceError> {
        let longest = self.fetch.config.stall_timeout;
        tokio::time::timeout(longest, future).await.map_err(|elapsed| {
            SourceError::transient(format!("no bytes of `{}` came for {longest:?}", file.path), elapsed)
        })
    }

    fn advance(&self, bytes: u64) {
        self.fetch.progress.send_modify(|progress| progress.done += bytes);
    }

    fn retreat(&self, bytes: u64) {
        self.fetch.progress.send_modify(|progress| progress.done = progress.done.saturating_sub(bytes));
    }

    fn finished(&self, piece: Piece, landed: Landed) {
        let all = {
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            done.insert((piece.file, piece.index));
            done.range((piece.file, 0)..(piece.file + 1, 0)).count() == self.pieces[piece.file].len()
        };
        if piece.whole {
            self.whole
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(piece.file, (landed.computed, landed.size));
        }
        if all {
            self.fetch.progress.send_modify(|progress| progress.files.0 += 1);
        }
        self.moved.notify_waiters();
    }

    /// Computes the digests of files in several pieces, each piece as soon as it and those before it are there.
    async fn digest_large(&self) -> Result<BTreeMap<usize, (Computed, u64)>, PullError> {
        let mut digests = BTreeMap::new();
        for pieces in self.pieces.iter().filter(|pieces| pieces.len() > 1) {
            let file = pieces[0].file;
            let remote = &self.fetch.files[file];
            let stated = self.stated(remote).await?;
            let known: Vec<StatedDigest> = stated.iter().chain(&remote.digests).cloned().collect();
            let wanted: Vec<Way> = worth_checking(&known, remote.size);
            let mut digester = Digester::new(wanted, remote.size);
            for &piece in pieces {
                self.wait_for(piece).await;
                let (path, length) = (self.target(piece), piece.length.unwrap_or_default());
                digester = blocking(move || {
                    read_blocks(&path, piece.start, length, |block| digester.update(block))?;
                    Ok(digester)
                })
                .await
                .map_err(|error| self.disk_error(error))?;
            }
            let computed = digester.finish();
            self.check(remote, &computed, &known)?;
            digests.insert(file, (computed, remote.size.unwrap_or_default()));
        }
        Ok(digests)
    }

    /// Brings large files to disk while they arrive, so that publishing them does not have to wait for all of it.
    async fn sync_large(&self) -> Result<(), PullError> {
        for pieces in self.pieces.iter().filter(|pieces| pieces.len() > 1) {
            let mut waiting = 0;
            for &piece in pieces {
                self.wait_for(piece).await;
                waiting += piece.length.unwrap_or_default();
                if waiting >= SYNC_EVERY {
                    waiting = 0;
                    let path = self.target(piece);
                    let synced = blocking(move || std::fs::File::open(path)?.sync_data()).await;
                    synced.map_err(|error| self.disk_error(error))?;
                }
            }
        }
        Ok(())
    }

    /// Asks what the source states about a file that is read in parts.
    async fn stated(&self, file: &RemoteFile) -> Result<Vec<StatedDigest>, PullError> {
        let mut failures = 0;
        loop {
            match self.alive(file, self.fetch.source.stated(file)).await.and_then(|stated| stated) {
                Ok(stated) => return Ok(stated),
                Err(error @ SourceError::Transient { .. }) => {
                    failures += 1;
                    if failures >= self.fetch.config.attempts.max(1) {
                        return Err(self.fetch.failed(error));
                    }
                    tokio::time::sleep(pause(self.fetch.config.backoff, failures)).await;
                }
                Err(error) => return Err(self.fetch.failed(error)),
            }
        }
    }

    async fn wait_for(&self, piece: Piece) {
        loop {
            // Registered before looking, so that a piece that finishes in between is not missed.
            let moved = self.moved.notified();
            if self.done.lock().unwrap_or_else(PoisonError::into_inner).contains(&(piece.file, piece.index)) {
                return;
            }
            moved.await;
        }
    }
}

/// Why reading a piece stopped.
enum Stopped {
    Source(SourceError),
    Disk(io::Error),
    /// The source ended before the stated size.
    Short,
    /// The source went on after the stated size, to at least this many bytes.
    Long(u64),
}

impl From<SourceError> for Stopped {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

/// Makes folders, drops what does not belong, and opens the record. Blocking.
fn prepare(
    staging: &Staging,
    files: &[RemoteFile],
    piece_size: u64,
    ranges: Ranges,
) -> io::Result<(ResumeLog, Finished)> {
    if ranges == Ranges::No {
        staging.reset()?;
    }
    let opened = ResumeLog::open(&staging.resume_log(), files, piece_size)?;
    let folders: BTreeSet<&Utf8Path> = files.iter().filter_map(|file| file.path.parent()).collect();
    let kept = opened.1.keys().map(|&(file, _)| files[file].path.as_path()).collect();
    let fetched = staging.fetched();
    std::fs::create_dir_all(&fetched)?;
    drop_strangers(&fetched, Utf8Path::new(""), &kept)?;
    folders.iter().try_for_each(|folder| std::fs::create_dir_all(fetched.join(folder)))?;
    Ok(opened)
}

/// Removes what an earlier download left that this one does not go on with.
fn drop_strangers(root: &Utf8Path, below: &Utf8Path, kept: &BTreeSet<&Utf8Path>) -> io::Result<()> {
    for entry in root.join(below).read_dir_utf8()? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true if kept.iter().any(|file| file.starts_with(&path)) => drop_strangers(root, &path, kept)?,
            false if kept.contains(path.as_path()) => {}
            _ => super::cache::remove_tree(entry.path())?,
        }
    }
    Ok(())
}

/// Returns how long to wait before the next try: doubling, with jitter, at most ten seconds.
pub(super) fn pause(first: Duration, failures: u32) -> Duration {
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(Duration::from_secs(10));
    doubled.mul_f64(rand::random_range(0.5..1.0))
}
