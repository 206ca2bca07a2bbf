//! One line for each request, when asked for: text for people or JSON for programs.
//!
//! Lines are written by a thread of their own. When it cannot keep up they are dropped and counted, never waited for.
//! **Invariant:** no query string, no header value but the request's id, nothing of a body.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, atomic::AtomicU64, atomic::Ordering};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use http::{HeaderValue, Method, Request, Version};
use serde::{Deserialize, Serialize};

use crate::api::ServiceKey;
use crate::plan::routes::ReplicaName;

use super::guard;
use super::metrics::Metrics;

/// What is written for each request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLogFormat {
    /// Nothing.
    #[default]
    None,
    /// A line for people.
    Text,
    /// A JSON object.
    Json,
}

/// Where lines go.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog {
    format: AccessLogFormat,
    lines: SyncSender<String>,
    dropped: Arc<AtomicU64>,
}

/// Lines that wait for the writer.
const WAITING: usize = 8192;

impl AccessLog {
    /// Starts the writer; none when nothing is to be written.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub(crate) fn start(
        format: AccessLogFormat,
        to: Box<dyn Write + Send>,
        metrics: &Metrics,
    ) -> io::Result<Option<Self>> {
        if format == AccessLogFormat::None {
            return Ok(None);
        }
        let (lines, waiting) = sync_channel(WAITING);
        // Ends when the last sender is gone.
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write_lines(&waiting, to))?;
        Ok(Some(Self { format, lines, dropped: Arc::clone(&metrics.log_dropped) }))
    }

    fn write(&self, line: String) {
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A log that is appended to. One that was moved away, as programs that turn logs do, is begun anew.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: Utf8PathBuf,
    file: File,
}

impl LogFile {
    /// Opens a log, or makes it.
    pub(crate) fn open(path: &Utf8Path) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        Ok(Self { path: path.to_owned(), file })
    }

    fn was_moved(&self) -> bool {
        let there = self.path.metadata().map(|there| (there.dev(), there.ino()));
        let open = self.file.metadata().map(|open| (open.dev(), open.ino()));
        match (there, open) {
            (Ok(there), Ok(open)) => there != open,
            (Err(error), _) => error.kind() == io::ErrorKind::NotFound,
            (_, Err(_)) => false,
        }
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Lines come in batches, so this is asked once for many.
        if self.was_moved()
            && let Ok(fresh) = Self::open(&self.path)
        {
            // Where none can be made, the one that was moved is written on.
            *self = fresh;
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn write_lines(lines: &Receiver<String>, to: Box<dyn Write + Send>) {
    let mut to = BufWriter::new(to);
    while let Ok(line) = lines.recv() {
        // Whoever reads them has gone: nobody misses the rest.
        let mut written = to.write_all(line.as_bytes());
        while let Ok(line) = lines.try_recv() {
            written = written.and_then(|()| to.write_all(line.as_bytes()));
        }
        if written.and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

/// What is known of a request so far.
#[derive(Debug)]
pub(crate) struct Entry {
    log: AccessLog,
    /// Method and path; none when what was sent could not be read.
    asked: Option<(Method, String)>,
    version: Version,
    host: Option<HeaderValue>,
    /// The request's id, the client's or ours.
    pub(crate) id: Option<HeaderValue>,
    /// Whose request it is.
    pub(crate) service: Option<ServiceKey>,
    /// Who answers it.
    pub(crate) replica: Option<ReplicaName>,
    /// Bytes of the answer's body.
    pub(crate) sent: u64,
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End<'a> {
    pub(crate) client: &'a str,
    /// None when the client left before there was an answer.
    pub(crate) status: Option<u16>,
    /// Whether the answer could not be finished.
    pub(crate) broken: bool,
    pub(crate) took: Duration,
}

impl Entry {
    pub(crate) fn new<B>(log: &AccessLog, request: &Request<B>) -> Box<Self> {
        Box::new(Self {
            log: log.clone(),
            asked: (!guard::is_stand_in(request)).then(|| (request.method().clone(), request.uri().path().to_owned())),
            version: request.version(),
            host: host_of(request),
            id: request.headers().get("x-request-id").cloned(),
            service: None,
            replica: None,
            sent: 0,
        })
    }

    /// Writes the line.
    pub(crate) fn end(&self, end: End<'_>) {
        #[expect(clippy::disallowed_methods, reason = "a line for people and programs carries the time of day")]
        let now = jiff::Timestamp::now();
        let line = match self.log.format {
            AccessLogFormat::None => return,
            AccessLogFormat::Text => self.text(now, end),
            AccessLogFormat::Json => self.json(now, end),
        };
        self.log.write(line);
    }

    fn text(&self, now: jiff::Timestamp, end: End<'_>) -> String {
        let (method, path) = self.asked();
        let mut line = format!("{now:.3} {} \"{method} ", end.client);
        for c in path.chars() {
            match c {
                '"' | '\\' => line.extend(['\\', c]),
                c if c.is_control() => line.extend(c.escape_default()),
                c => line.push(c),
            }
        }
        let status = end.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
        let broken = if end.broken { " broken" } else { "" };
        let service = self.service.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        let milliseconds = end.took.as_secs_f64() * 1e3;
        // Writing to a string cannot fail.
        let _ = writeln!(
            line,
            " {:?}\" {status}{broken} {} {milliseconds:.3}ms {service} {} {}",
            self.version,
            self.sent,
            self.replica.as_deref().unwrap_or("-"),
            text_of(self.id.as_ref()).map_or(Cow::Borrowed("-"), one_word),
        );
        line
    }

    fn asked(&self) -> (&str, &str) {
        self.asked.as_ref().map_or(("-", "-"), |(method, path)| (method.as_str(), path))
    }

    fn json(&self, now: jiff::Timestamp, end: End<'_>) -> String {
        let asked = self.asked.as_ref();
        let line = serde_json::json!({
            "time": format!("{now:.3}"),
            "client": end.client,
            "method": asked.map(|(method, _)| method.as_str()),
            "path": asked.map(|(_, path)| path),
            "protocol": format!("{:?}", self.version),
            "host": text_of(self.host.as_ref()),
            "status": end.status,
            "broken": end.broken,
            "responseBytes": self.sent,
            "seconds": end.took.as_secs_f64(),
            "namespace": self.service.as_ref().map(|key| &key.namespace),
            "inferenceService": self.service.as_ref().map(|key| &key.name),
            "replica": self.replica.as_deref(),
            "requestId": text_of(self.id.as_ref()),
        });
        format!("{line}\n")
    }
}

/// The host as the client wrote it; none of what could not be read.
fn host_of<B>(request: &Request<B>) -> Option<HeaderValue> {
    if guard::is_stand_in(request) {
        return None;
    }
    let authority = || request.uri().authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    request.headers().get(http::header::HOST).cloned().or_else(authority)
}

/// What clients choose must not look like more columns.
fn one_word(id: &str) -> Cow<'_, str> {
    let is_word = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
    if is_word { id.into() } else { format!("{id:?}").into() }
}

fn text_of(value: Option<&HeaderValue>) -> Option<&str> {
    value.and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_was_moved_away_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let (path, older) = (folder.join("access.log"), folder.join("access.log.1"));
        let mut log = LogFile::open(&path).unwrap();
        log.write_all(b"one\n").unwrap();
        std::fs::rename(&path, &older).unwrap();
        log.write_all(b"two\n").unwrap();
        log.write_all(b"three\n").unwrap();
        let read = |path| std::fs::read_to_string(path).unwrap();
        assert_eq!((read(older).as_str(), read(path).as_str()), ("one\n", "two\nthree\n"));
    }

    fn entry(format: AccessLogFormat) -> (Box<Entry>, Receiver<String>) {
        let (lines, written) = sync_channel(1);
        let log = AccessLog { format, lines, dropped: Arc::default() };
        let request = Request::post("/v1/models/a\"b:predict?token=secret")
            .header("host", "iris-default.localhost")
            .header("x-request-id", "7")
            .body(())
            .unwrap();
        let mut entry = Entry::new(&log, &request);
        entry.service = Some(ServiceKey::new("default", "iris"));
        entry.replica = Some("iris-predictor-00001-0".into());
        entry.sent = 12;
        (entry, written)
    }

    const END: End<'_> =
        End { client: "127.0.0.1", status: Some(200), broken: false, took: Duration::from_micros(1500) };

    #[test]
    fn a_text_line_says_who_asked_what_and_what_became_of_it() {
        let (entry, written) = entry(AccessLogFormat::Text);
        entry.end(END);
        let line = written.recv().unwrap();
        let (_, rest) = line.split_once(' ').unwrap();
        assert_eq!(
            rest,
            "127.0.0.1 \"POST /v1/models/a\\\"b:predict HTTP/1.1\" 200 12 1.500ms default/iris iris-predictor-00001-0 7\n"
        );
    }

    #[test]
    fn a_json_line_is_one_object_without_the_query() {
        let (entry, written) = entry(AccessLogFormat::Json);
        entry.end(End { status: None, ..END });
        let line = written.recv().unwrap();
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["path"], "/v1/models/a\"b:predict");
        assert_eq!((&object["status"], &object["inferenceService"]), (&serde_json::Value::Null, &"iris".into()));
        assert!(!line.contains("secret") && line.ends_with("}\n"));
    }

    #[test]
    fn what_could_not_be_read_is_no_request_and_an_id_is_one_word() {
        let (mut refused, written) = entry(AccessLogFormat::Text);
        refused.asked = None;
        refused.id = Some(HeaderValue::from_static("a\" 200 0"));
        refused.end(END);
        let line = written.recv().unwrap();
        assert!(line.contains("\"- - HTTP/1.1\"") && line.ends_with(" \"a\\\" 200 0\"\n"), "{line}");
    }

    #[test]
    fn lines_beyond_what_the_writer_can_take_are_dropped_and_counted() {
        let (entry, _written) = entry(AccessLogFormat::Text);
        for _ in 0..3 {
            entry.end(END);
        }
        assert_eq!(entry.log.dropped.load(Ordering::Relaxed), 2);
    }
}
