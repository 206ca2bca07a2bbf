//! A small HTTP origin for storage tests: a web server and a bucket store in one, that misbehaves as told.
//!
//! It serves objects by path (`/file` for HTTP, `/bucket/key` for S3 and GCS, whose XML listings are the same) with ETags,
//! ranges and preconditions, and can stall, cut, change, lie about lengths and ranges, and redirect. It notes every
//! request. It does not check signatures.

#![expect(clippy::format_push_string, reason = "a test's server may allocate")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use kserve_local::tasks::Tasks;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What is behind a path.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) body: Bytes,
    pub(crate) etag: Option<String>,
    pub(crate) content_type: String,
    pub(crate) ranges: bool,
    /// The size listings and content ranges state, when they lie.
    pub(crate) stated: Option<u64>,
    /// Whether the length is said at all.
    pub(crate) chunked: bool,
    /// More headers of answers with its bytes.
    pub(crate) headers: Vec<(&'static str, String)>,
    /// Headers of whole answers to those who send `x-amz-checksum-mode`.
    pub(crate) checksums: Vec<(&'static str, String)>,
    /// The size of its parts, when it came in parts.
    pub(crate) part: Option<u64>,
    /// When it was last changed.
    pub(crate) modified: &'static str,
}

impl Object {
    pub(crate) fn new(body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let digest = Sha256::digest(&body);
        let etag = Some(format!("\"{:02x}{:02x}{:02x}{:02x}\"", digest[0], digest[1], digest[2], digest[3]));
        let content_type = "application/octet-stream".to_owned();
        Self {
            body,
            etag,
            content_type,
            ranges: true,
            stated: None,
            chunked: false,
            headers: Vec::new(),
            checksums: Vec::new(),
            part: None,
            modified: "Mon, 02 Nov 2026 10:00:00 GMT",
        }
    }

    pub(crate) fn with_header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

/// How one answer goes wrong.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// This status and body.
    Status(u16, &'static str),
    /// The connection closes after this many bytes of the body.
    Cut(usize),
    /// Nothing more comes after this many bytes of the body.
    Stall(usize),
    /// The whole comes, whatever range was asked for.
    IgnoreRange,
    /// Another range comes, and says so.
    ShiftRange,
    /// The object is another one from now on.
    Replace(Object),
    /// It is elsewhere.
    Redirect(String),
    /// The answer waits this long.
    Delay(Duration),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: BTreeMap<String, String>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    buckets: BTreeSet<String>,
    /// Faults by path, how many requests from now they wait, and how many they are for.
    faults: Vec<(String, usize, usize, Fault)>,
    seen: Vec<Seen>,
    page: usize,
}

/// The origin; it stops when it is dropped.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    _tasks: Tasks,
}

impl Origin {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { page: 1000, ..State::default() }));
        let tasks = Tasks::new();
        let (shared, connections) = (state.clone(), tasks.clone());
        tasks.spawn("origin", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = shared.clone();
                connections.spawn("origin connection", async move {
                    let _closed = serve(stream, state).await;
                });
            }
        });
        Self { address, state, _tasks: tasks }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn put(&self, path: &str, object: Object) {
        let mut state = self.state.lock().unwrap();
        state.buckets.insert(path.split('/').nth(1).unwrap_or_default().to_owned());
        state.objects.insert(path.to_owned(), object);
    }

    /// Lets the next request for a path go wrong.
    pub(crate) fn fault(&self, path: &str, fault: Fault) {
        self.faults(path, 0, 1, fault);
    }

    /// Lets `times` requests for a path go wrong, after `after` that do not.
    pub(crate) fn faults(&self, path: &str, after: usize, times: usize, fault: Fault) {
        self.state.lock().unwrap().faults.push((path.to_owned(), after, times, fault));
    }

    pub(crate) fn heal(&self) {
        self.state.lock().unwrap().faults.clear();
    }

    /// Lists at most this many keys at once.
    pub(crate) fn page(&self, keys: usize) {
        self.state.lock().unwrap().page = keys;
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    pub(crate) fn forget(&self) {
        self.state.lock().unwrap().seen.clear();
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break buffer.drain(..end + 4).collect::<Vec<u8>>();
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&head).into_owned();
        let (method, seen) = parse(&head);
        let answer = answer(&mut state.lock().unwrap(), &method, &seen);
        if !answer.send(&mut stream, method == "HEAD").await? {
            return Ok(());
        }
    }
}

fn parse(head: &str) -> (String, Seen) {
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let method = first.next().unwrap_or_default().to_owned();
    let target = first.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    (method, Seen { path: decoded(path), query: query.to_owned(), headers })
}

fn decoded(text: &str) -> String {
    url::form_urlencoded::parse(format!("x={}", text.replace('+', "%2B")).as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    chunked: bool,
    cut: Option<usize>,
    stall: Option<usize>,
    delay: Duration,
}

impl Answer {
    fn new(status: u16, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self { status, headers: vec![], body, chunked: false, cut: None, stall: None, delay: Duration::ZERO }
    }

    fn xml(status: u16, code: &str) -> Self {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>told so</Message></Error>");
        let mut answer = Self::new(status, body);
        answer.headers.push(("content-type", "application/xml".to_owned()));
        answer
    }

    /// Sends the answer; says whether the connection may be used again.
    async fn send(self, stream: &mut TcpStream, head_only: bool) -> std::io::Result<bool> {
        tokio::time::sleep(self.delay).await;
        let mut head = format!("HTTP/1.1 {} X\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &match self.chunked {
            true => "transfer-encoding: chunked\r\n\r\n".to_owned(),
            false => format!("content-length: {}\r\n\r\n", self.body.len()),
        };
        stream.write_all(head.as_bytes()).await?;
        if head_only {
            return Ok(true);
        }
        let sent = self.cut.or(self.stall).unwrap_or(self.body.len()).min(self.body.len());
        if self.chunked && sent > 0 {
            stream.write_all(format!("{sent:x}\r\n").as_bytes()).await?;
        }
        stream.write_all(&self.body[..sent]).await?;
        if self.stall.is_some() {
            // Until the client gives up.
            let _closed = stream.read(&mut [0; 1]).await?;
            return Ok(false);
        }
        if self.cut.is_some() {
            return Ok(false);
        }
        if self.chunked {
            stream.write_all(if sent > 0 { b"\r\n0\r\n\r\n" } else { b"0\r\n\r\n" }).await?;
        }
        Ok(true)
    }
}

fn answer(state: &mut State, method: &str, seen: &Seen) -> Answer {
    state.seen.push(seen.clone());
    let mut answered = match take_fault(state, &seen.path) {
        Some(Fault::Status(status, body)) => return Answer::new(status, body),
        Some(Fault::Redirect(to)) => {
            let mut answer = Answer::new(302, "");
            answer.headers.push(("location", to));
            return answer;
        }
        Some(Fault::Replace(object)) => {
            state.objects.insert(seen.path.clone(), object);
            object_or_list(state, method, seen)
        }
        Some(Fault::Cut(after)) => Answer { cut: Some(after), ..object_or_list(state, method, seen) },
        Some(Fault::Stall(after)) => Answer { stall: Some(after), ..object_or_list(state, method, seen) },
        Some(Fault::Delay(delay)) => Answer { delay, ..object_or_list(state, method, seen) },
        Some(fault @ (Fault::IgnoreRange | Fault::ShiftRange)) => {
            let mut seen = seen.clone();
            match fault {
                Fault::IgnoreRange => drop(seen.headers.remove("range")),
                _ => drop(seen.headers.insert("range".to_owned(), "bytes=1-2".to_owned())),
            }
            object_or_list(state, method, &seen)
        }
        None => object_or_list(state, method, seen),
    };
    let modified = state.objects.get(&seen.path).map_or("Mon, 02 Nov 2026 10:00:00 GMT", |object| object.modified);
    answered.headers.push(("last-modified", modified.to_owned()));
    answered
}

fn take_fault(state: &mut State, path: &str) -> Option<Fault> {
    let index = state.faults.iter().position(|(at, ..)| at == path)?;
    let (_, after, times, fault) = &mut state.faults[index];
    if *after > 0 {
        *after -= 1;
        return None;
    }
    let fault = fault.clone();
    *times -= 1;
    if *times == 0 {
        state.faults.remove(index);
    }
    Some(fault)
}

fn object_or_list(state: &State, method: &str, seen: &Seen) -> Answer {
    if method == "GET" && seen.query.contains("list-type=2") {
        return list(state, seen);
    }
    let Some(object) = state.objects.get(&seen.path) else {
        let bucket = seen.path.split('/').nth(1).unwrap_or_default();
        return Answer::xml(404, if state.buckets.contains(bucket) { "NoSuchKey" } else { "NoSuchBucket" });
    };
    if let (Some(wanted), Some(etag)) = (seen.header("if-match"), &object.etag)
        && wanted != etag
    {
        return Answer::xml(412, "PreconditionFailed");
    }
    let known = match seen.header("if-none-match") {
        Some(etag) => object.etag.as_deref() == Some(etag),
        None => seen.header("if-modified-since") == Some(object.modified),
    };
    if known {
        return Answer::new(304, "");
    }
    if let Some(part) = object.part.filter(|_| seen.query.contains("partNumber=1")) {
        return first_part(object, part);
    }
    let whole = object.body.len() as u64;
    let stated = object.stated.unwrap_or(whole);
    let mut answer = match seen.header("range").filter(|_| object.ranges).and_then(|range| bounds(range, whole)) {
        None => Answer::new(200, object.body.clone()),
        Some(None) => {
            let mut answer = Answer::xml(416, "InvalidRange");
            answer.headers.push(("content-range", format!("bytes */{stated}")));
            return answer;
        }
        Some(Some((start, end))) => {
            let mut answer = Answer::new(206, object.body.slice(start as usize..end as usize + 1));
            answer.headers.push(("content-range", format!("bytes {start}-{end}/{stated}")));
            answer
        }
    };
    answer.chunked = object.chunked;
    answer.headers.push(("content-type", object.content_type.clone()));
    answer.headers.extend(object.etag.clone().map(|etag| ("etag", etag)));
    answer.headers.extend(object.headers.iter().cloned());
    if answer.status == 200 && seen.header("x-amz-checksum-mode") == Some("ENABLED") {
        answer.headers.extend(object.checksums.iter().cloned());
    }
    answer
}

/// Returns the first of an object's parts.
fn first_part(object: &Object, part: u64) -> Answer {
    let whole = object.body.len() as u64;
    let mut answer = Answer::new(206, object.body.slice(..part.min(whole) as usize));
    answer.headers.push(("x-amz-mp-parts-count", whole.div_ceil(part).to_string()));
    answer
}

/// Returns the first and last byte of a range; none inside when it cannot be satisfied.
fn bounds(range: &str, size: u64) -> Option<Option<(u64, u64)>> {
    let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
    let start: u64 = start.parse().ok()?;
    let end = end.parse().unwrap_or(u64::MAX).min(size.saturating_sub(1));
    Some((start < size).then_some((start, end)))
}

fn list(state: &State, seen: &Seen) -> Answer {
    let query: BTreeMap<String, String> = url::form_urlencoded::parse(seen.query.as_bytes()).into_owned().collect();
    let bucket = seen.path.trim_matches('/');
    if !state.buckets.contains(bucket) {
        return Answer::xml(404, "NoSuchBucket");
    }
    let prefix = format!("/{bucket}/{}", query.get("prefix").map_or("", String::as_str));
    let from: usize = query.get("continuation-token").and_then(|token| token.parse().ok()).unwrap_or(0);
    let all: Vec<_> = state.objects.iter().filter(|(path, _)| path.starts_with(&prefix)).collect();
    let mut xml = String::from("<?xml version=\"1.0\"?><ListBucketResult>");
    for (path, object) in all.iter().skip(from).take(state.page) {
        let key = path[bucket.len() + 2..].replace('&', "&amp;").replace('<', "&lt;");
        let size = object.stated.unwrap_or(object.body.len() as u64);
        let etag = object.etag.as_deref().unwrap_or_default().replace('"', "&quot;");
        xml += &format!(
            "<Contents><Key>{key}</Key><LastModified>2026-11-02T10:00:00.000Z</LastModified><ETag>{etag}</ETag><Size>{size}</Size></Contents>"
        );
    }
    if all.len() > from + state.page {
        xml += &format!("<NextContinuationToken>{}</NextContinuationToken>", from + state.page);
    }
    Answer::new(200, xml + "</ListBucketResult>")
}
