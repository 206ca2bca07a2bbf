//! What a test wants to know of the container from the inside, and of the request as it arrived.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, HeaderMap};
use hyper::{Request, StatusCode};
use serde_json::{Value, json};

use crate::faults::Faults;
use crate::model::Stub;
use crate::reply::{self, Reply};

pub async fn answer(stub: &Arc<Stub>, request: Request<Incoming>, path: &str) -> Reply {
    let query = Query::of(request.uri().query());
    match path {
        "/echo/body" => echo_body(request),
        _ if path.starts_with("/echo") => echo(request).await,
        "/stub/stats" => reply::ok(&stub.stats()),
        "/stub/env" => reply::ok(&environment()),
        "/stub/files" => reply::ok(&files(Path::new(query.get("dir").unwrap_or(&stub.settings.model_dir)))),
        "/stub/read" => read(&Path::new(&stub.settings.model_dir).join(query.get("path").unwrap_or(""))),
        "/stub/write" => reply::ok(&write(Path::new(query.get("dir").unwrap_or(&stub.settings.model_dir)))),
        "/stub/connect" => reply::ok(&connect(query.get("to").unwrap_or("")).await),
        "/stub/ready/true" | "/stub/ready/false" => {
            stub.force_ready(path.ends_with("true"));
            reply::ok(&stub.stats())
        }
        "/stub/live/true" | "/stub/live/false" => {
            stub.live.store(path.ends_with("true"), Ordering::Relaxed);
            reply::ok(&stub.stats())
        }
        _ => reply::error(StatusCode::NOT_FOUND, format!("the stub has nothing at {path}")),
    }
}

/// Takes a body of any length and says how long it was.
pub async fn sink(request: Request<Incoming>) -> Reply {
    let mut body = request.into_body();
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => total += frame.data_ref().map_or(0, Bytes::len),
            Err(error) => {
                return reply::error(StatusCode::BAD_REQUEST, format!("after {total} bytes: {error}"));
            }
        }
    }
    reply::ok(&json!({ "bytes": total }))
}

/// `/bytes/N`: N bytes, with their length in the head, or chunked with `?chunked=1`.
pub fn send_bytes(path: &str, query: Option<&str>, faults: &Faults) -> Reply {
    const CHUNK: u64 = 64 * 1024;
    let Some(total) = path.rsplit('/').next().and_then(|text| text.parse::<u64>().ok()) else {
        return reply::error(StatusCode::BAD_REQUEST, "/bytes/ wants a number");
    };
    let (delay, cut_after) = (faults.chunk_delay, faults.cut_after);
    let mut answer = reply::stream("application/octet-stream", move |mut sender| async move {
        let whole = Bytes::from(vec![b'x'; usize::try_from(CHUNK).unwrap_or(usize::MAX)]);
        let mut left = total;
        let mut sent = 0;
        while left > 0 {
            if cut_after == Some(sent) {
                reply::break_off(sender).await;
                return;
            }
            let length = left.min(CHUNK);
            let chunk = whole.slice(..usize::try_from(length).unwrap_or(whole.len()));
            if sender.send_data(chunk).await.is_err() {
                return;
            }
            reply::pause(delay).await;
            left -= length;
            sent += 1;
        }
    });
    if Query::of(query).get("chunked").is_none() {
        answer.headers_mut().insert(CONTENT_LENGTH, total.into());
    }
    answer
}

/// Sends the request's body back as it arrives, trailers included.
fn echo_body(request: Request<Incoming>) -> Reply {
    let body = request.into_body().map_err(|error| io::Error::other(error.to_string()));
    reply::with_body(StatusCode::OK, "application/octet-stream", body)
}

async fn echo(request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let (body, trailers) = match body.collect().await {
        Ok(collected) => {
            let trailers = collected.trailers().cloned();
            (collected.to_bytes(), trailers)
        }
        Err(error) => {
            return reply::error(StatusCode::BAD_REQUEST, format!("the body broke off: {error}"));
        }
    };
    reply::ok(&json!({
        "method": head.method.as_str(),
        "path": head.uri.path(),
        "query": head.uri.query(),
        "authority": head.uri.authority().map(ToString::to_string),
        "version": format!("{:?}", head.version),
        "headers": pairs(&head.headers),
        "body": String::from_utf8_lossy(&body),
        "bytes": body.len(),
        "trailers": trailers.as_ref().map(pairs),
    }))
}

fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect()
}

/// The process as the kernel sees it: arguments, variables, user, capabilities.
fn environment() -> Value {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.split_whitespace().next().unwrap_or("").to_owned())
    };
    let id = |name: &str| field(name).and_then(|text| text.parse::<u32>().ok());
    json!({
        "args": std::env::args().collect::<Vec<_>>(),
        "env": std::env::vars().collect::<BTreeMap<_, _>>(),
        "uid": id("Uid"),
        "gid": id("Gid"),
        "pid": std::process::id(),
        "cwd": std::env::current_dir().ok(),
        "hostname": std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim(),
        "capabilities": field("CapEff"),
        "no_new_privileges": field("NoNewPrivs").as_deref() == Some("1"),
        "seccomp": field("Seccomp"),
        "mounts": mounts(),
        "memory_limit": memory_limit(),
    })
}

fn mounts() -> Vec<Value> {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mount = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (at, kind, options) = (words.next()?, words.next()?, words.next()?);
        Some(json!({ "at": at, "type": kind, "read_only": options.split(',').any(|option| option == "ro") }))
    };
    table.lines().filter_map(mount).collect()
}

fn memory_limit() -> Option<u64> {
    let files = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    files.iter().find_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok())
}

/// Every file below, links followed, as `path`, `size` and `is_link`.
fn files(root: &Path) -> Value {
    fn walk(root: &Path, directory: &Path, found: &mut Vec<Value>) -> io::Result<()> {
        let mut entries: Vec<_> = std::fs::read_dir(directory)?.collect::<io::Result<_>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            match std::fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => walk(root, &path, found)?,
                Ok(metadata) => {
                    let is_link = entry.file_type()?.is_symlink();
                    found.push(json!({ "path": relative, "size": metadata.len(), "is_link": is_link }));
                }
                Err(error) => found.push(json!({ "path": relative, "error": error.to_string() })),
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    match walk(root, root, &mut found) {
        Ok(()) => json!({ "dir": root, "files": found }),
        Err(error) => json!({ "dir": root, "files": found, "error": error.to_string() }),
    }
}

fn read(path: &Path) -> Reply {
    match std::fs::read(path) {
        Ok(content) => reply::bytes(StatusCode::OK, "application/octet-stream", content.into()),
        Err(error) => reply::error(StatusCode::NOT_FOUND, format!("{}: {error}", path.display())),
    }
}

/// Tries to create a file, and says what came of it.
fn write(directory: &Path) -> Value {
    let path = directory.join(format!(".stub-write-{}", std::process::id()));
    match std::fs::write(&path, b"x").and_then(|()| std::fs::remove_file(&path)) {
        Ok(()) => json!({ "dir": directory, "written": true }),
        Err(error) => {
            json!({ "dir": directory, "written": false, "kind": format!("{:?}", error.kind()), "error": error.to_string() })
        }
    }
}

/// Tries to reach an address (no names: a static binary resolves none) from inside the container.
async fn connect(to: &str) -> Value {
    let Ok(address) = to.parse::<SocketAddr>() else {
        return json!({ "to": to, "connected": false, "error": "`to` is not an address and a port" });
    };
    match tokio::time::timeout(Duration::from_secs(2), tokio::net::TcpStream::connect(address)).await {
        Ok(Ok(_)) => json!({ "to": to, "connected": true }),
        Ok(Err(error)) => json!({ "to": to, "connected": false, "error": error.to_string() }),
        Err(_) => json!({ "to": to, "connected": false, "error": "no answer in two seconds" }),
    }
}

/// The query's `name=value` pairs, taken literally.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(query: Option<&str>) -> Self {
        let pairs = query.unwrap_or("").split('&').filter_map(|pair| pair.split_once('='));
        Self(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}
