//! The output of a process: written by its supervisor with the time and the stream of each line, read by the engine.
//!
//! A line is `2026-11-22T10:00:00.000000Z o text`, `e` for standard error. The log is turned at a limit; one older part is
//! kept.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use jiff::Timestamp;

use super::process_folder::{Folder, Life};
use super::{EngineError, LogLine, LogOptions};

/// Size at which a log is turned; twice this is kept.
const TURN_AT: u64 = 8 << 20;
/// Longest line that is kept, in bytes; the rest of a longer one is dropped and marked.
const LINE_LIMIT: u64 = 64 * 1024;
const CUT_MARK: &str = " [cut]";
/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Name of the log in a container's folder.
const LOG: &str = "log";
/// Name of its older part.
const OLDER: &str = "log.1";

/// Writes a log.
#[derive(Debug)]
pub(super) struct LogWriter {
    folder: Utf8PathBuf,
    file: Option<File>,
    size: u64,
}

impl LogWriter {
    pub(super) fn open(folder: &Utf8Path) -> Self {
        let mut writer = Self { folder: folder.to_owned(), file: None, size: 0 };
        writer.reopen();
        writer
    }

    /// Writes a line. A full disk costs the line, never the process.
    pub(super) fn line(&mut self, at: Timestamp, stderr: bool, text: &str) {
        if self.size >= TURN_AT {
            // Without the older part, the log grows on.
            let _ = std::fs::rename(self.folder.join(LOG), self.folder.join(OLDER));
            self.reopen();
        }
        let stream = if stderr { 'e' } else { 'o' };
        let line = format!("{at:.6} {stream} {text}\n");
        if let Some(file) = &mut self.file
            && file.write_all(line.as_bytes()).is_ok()
        {
            self.size += line.len() as u64;
        }
    }

    fn reopen(&mut self) {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.folder.join(LOG);
        self.file = File::options().create(true).append(true).mode(0o600).open(path).ok();
        self.size = self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |meta| meta.len());
    }
}

/// Reads lines of a process's output and hands each on, until the stream ends.
pub(super) fn pump(from: impl Read, mut write: impl FnMut(&str)) {
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        let Ok(read) = (&mut reader).take(LINE_LIMIT).read_until(b'\n', &mut line) else { return };
        if read == 0 {
            return;
        }
        let is_whole = line.last() == Some(&b'\n');
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\n', '\r']);
        if is_whole || (read as u64) < LINE_LIMIT {
            write(text);
        } else {
            write(&format!("{text}{CUT_MARK}"));
            if skip_line(&mut reader).is_err() {
                return;
            }
        }
    }
}

fn skip_line(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        match buffer.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                reader.consume(end + 1);
                return Ok(());
            }
            None => {
                let length = buffer.len();
                reader.consume(length);
            }
        }
    }
}

fn parse(line: &str) -> LogLine {
    let mut parts = line.splitn(3, ' ');
    let at = parts.next().and_then(|time| time.parse().ok());
    match (at, parts.next(), parts.next()) {
        (Some(at), Some(stream), Some(text)) => LogLine { at: Some(at), stderr: stream == "e", text: text.to_owned() },
        _ => LogLine { at: None, stderr: false, text: line.to_owned() },
    }
}

/// Where a reader stands.
struct Place {
    folder: Folder,
    file: Option<File>,
    /// The beginning of a line whose end is not written yet.
    rest: String,
}

impl Place {
    /// Returns the whole lines written since the last look.
    fn read(&mut self) -> Vec<LogLine> {
        let mut lines = Vec::new();
        let path = self.folder.path().join(LOG);
        if self.file.is_none() {
            self.file = File::open(&path).ok();
        }
        self.take(&mut lines);
        // It was turned meanwhile: what is open is the older part, read to its end just now.
        if let Some(open) = &self.file
            && !is_same(open, &path)
        {
            self.file = File::open(&path).ok();
            self.take(&mut lines);
        }
        lines
    }

    fn take(&mut self, lines: &mut Vec<LogLine>) {
        let Some(file) = &mut self.file else { return };
        let mut bytes = Vec::new();
        // What cannot be read now is read at the next look.
        let _ = file.read_to_end(&mut bytes);
        self.rest.push_str(&String::from_utf8_lossy(&bytes));
        while let Some(end) = self.rest.find('\n') {
            let line: String = self.rest.drain(..=end).collect();
            lines.push(parse(line.trim_end_matches('\n')));
        }
    }
}

fn is_same(open: &File, path: &Utf8Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (open.metadata(), path.metadata()) {
        (Ok(one), Ok(other)) => one.ino() == other.ino(),
        // Not there between the turns: the next look finds the new one.
        _ => true,
    }
}

/// Streams the lines, oldest first, until the end or, when following, until the process ends.
pub(super) fn lines(folder: Folder, options: &LogOptions) -> BoxStream<'static, Result<LogLine, EngineError>> {
    let mut place = Place { folder, file: None, rest: String::new() };
    let mut written = Vec::new();
    if let Ok(older) = File::open(place.folder.path().join(OLDER)) {
        place.file = Some(older);
        place.take(&mut written);
        place.file = None;
        place.rest.clear();
    }
    written.extend(place.read());
    let since = options.since;
    written.retain(|line| line.at.is_none_or(|at| since.is_none_or(|since| at >= since)));
    if let Some(tail) = options.tail {
        written.drain(..written.len().saturating_sub(tail));
    }
    let written = stream::iter(written.into_iter().map(Ok));
    if options.follow { written.chain(follow(place)).boxed() } else { written.boxed() }
}

/// Streams what is written from now on, until the process has ended and everything is read.
fn follow(place: Place) -> impl futures::Stream<Item = Result<LogLine, EngineError>> + Send + 'static {
    let batches = stream::unfold(Some(place), |place| async move {
        let mut place = place?;
        let mut look = tokio::time::interval(LOOK);
        loop {
            look.tick().await;
            let runs = matches!(place.folder.life(), Life::Running(_));
            let lines = place.read();
            match (lines.is_empty(), runs) {
                (_, false) => return Some((lines, None)),
                (false, true) => return Some((lines, Some(place))),
                (true, true) => {}
            }
        }
    });
    batches.flat_map(|lines| stream::iter(lines.into_iter().map(Ok)))
}

/// Returns the end of a file, for messages.
pub(super) fn end_of(path: &Utf8Path, bytes: u64) -> String {
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        io::Result::Ok(String::from_utf8_lossy(&text).trim().to_owned())
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let root = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(root.path().to_owned()).unwrap();
        (root, Folder::new(path))
    }

    async fn texts(folder: &Folder, options: LogOptions) -> Vec<String> {
        lines(folder.clone(), &options).map(|line| line.unwrap().text).collect().await
    }

    #[tokio::test]
    async fn a_turned_log_is_read_whole_and_keeps_one_older_part() {
        let (_root, folder) = folder();
        let mut writer = LogWriter::open(folder.path());
        let at: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        let long = "x".repeat(1 << 20);
        for index in 0..12 {
            writer.line(at, index % 2 == 1, &format!("{index} {long}"));
        }
        let all = texts(&folder, LogOptions::default()).await;
        let numbers: Vec<&str> = all.iter().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(numbers, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"]);
        assert!(folder.path().join("log").metadata().unwrap().len() < 5 << 20);
        let tail = LogOptions { tail: Some(1), ..LogOptions::default() };
        assert!(texts(&folder, tail).await[0].starts_with("11 "));
    }

    #[test]
    fn long_lines_are_cut_and_the_next_one_is_whole() {
        let input = format!("{}\nshort\r\nlast", "y".repeat(200_000));
        let mut seen = Vec::new();
        pump(input.as_bytes(), |line| seen.push(line.to_owned()));
        assert_eq!(seen.len(), 3);
        assert!(seen[0].ends_with(CUT_MARK) && seen[0].len() as u64 <= LINE_LIMIT + 6);
        assert_eq!(seen[1..], ["short", "last"]);
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let line = parse("2026-11-22T10:00:00.500000Z e two  words");
        assert_eq!((line.stderr, line.text.as_str()), (true, "two  words"));
        assert_eq!(line.at.unwrap().to_string(), "2026-11-22T10:00:00.5Z");
        assert_eq!(parse("garbage").text, "garbage");
    }
}
