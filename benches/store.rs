//! What `benches/pull` starts: an S3 server that is fast enough not to be what is measured, and the floor.
//!
//! `store serve LISTEN FOLDER` serves the files of `FOLDER/bucket/`: listings of both versions, `HEAD`, and `GET` with
//! ranges and `If-Match`. ETags and CRC-64/NVME are what S3 states today of objects that its own tools uploaded. Bytes go
//! from the page cache to the socket without passing through here; signatures are not checked.
//! `store floor ADDRESS PATH SIZE TARGET` reads one object over four raw sockets into a file: what no download is below.

#![expect(
    clippy::print_stderr,
    clippy::format_push_string,
    reason = "a program for measuring, not a part of the daemon"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use base64::Engine;
use md5::{Digest, Md5};

/// Objects above this size were uploaded in parts of this size, as the tools of S3 do by default.
const PART: u64 = 8 << 20;
/// Connections of the floor.
const STREAMS: u64 = 4;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["serve", listen, folder] => serve(listen, Path::new(folder)),
        ["floor", address, path, size, target] => match size.parse() {
            Ok(size) => floor(address, path, size, Path::new(target)),
            Err(_) => Err(io::Error::other("SIZE is no number")),
        },
        _ => Err(io::Error::other("usage: store serve LISTEN FOLDER | store floor ADDRESS PATH SIZE TARGET")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("store: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Object {
    path: PathBuf,
    size: u64,
    etag: String,
    crc64: String,
}

/// Objects by `bucket/key`.
type Objects = BTreeMap<String, Object>;

fn serve(listen: &str, folder: &Path) -> io::Result<()> {
    let mut objects = Objects::new();
    read_folder(folder, folder, &mut objects)?;
    let objects = Arc::new(objects);
    let listener = TcpListener::bind(listen)?;
    for stream in listener.incoming() {
        let (stream, objects) = (stream?, Arc::clone(&objects));
        std::thread::spawn(move || {
            // A client that goes away is no failure of the server.
            let _ = connection(stream, &objects);
        });
    }
    Ok(())
}

fn read_folder(root: &Path, folder: &Path, objects: &mut Objects) -> io::Result<()> {
    for entry in folder.read_dir()? {
        let path = entry?.path();
        if path.is_dir() {
            read_folder(root, &path, objects)?;
        } else if let Ok(key) = path.strip_prefix(root) {
            let key = key.to_string_lossy().into_owned();
            objects.insert(key, read_object(path)?);
        }
    }
    Ok(())
}

fn read_object(path: PathBuf) -> io::Result<Object> {
    let mut file = File::open(&path)?;
    let size = file.metadata()?.len();
    let (mut parts, mut whole) = (Vec::new(), crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme));
    let mut buffer = vec![0; PART as usize];
    for start in (0..size.max(1)).step_by(PART as usize) {
        let part = &mut buffer[..PART.min(size - start) as usize];
        file.read_exact(part)?;
        whole.update(part);
        parts.push(Md5::digest(part));
    }
    let etag = match &parts[..] {
        [one] => hex(one),
        many => format!("{}-{}", hex(&Md5::digest(many.concat())), many.len()),
    };
    let crc64 = base64::engine::general_purpose::STANDARD.encode(whole.finalize().to_be_bytes());
    Ok(Object { path, size, etag: format!("\"{etag}\""), crc64 })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
}

impl Request {
    fn parse(head: &str) -> Self {
        let mut lines = head.split("\r\n");
        let mut first = lines.next().unwrap_or_default().split(' ');
        let method = first.next().unwrap_or_default().to_owned();
        let target = first.next().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let decoded = url::form_urlencoded::parse(format!("x={}", path.replace('+', "%2B")).as_bytes())
            .next()
            .map(|(_, path)| path.trim_start_matches('/').to_owned());
        let headers = lines.filter_map(|line| line.split_once(':'));
        Self {
            method,
            path: decoded.unwrap_or_default(),
            query: url::form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
            headers: headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect(),
        }
    }

    fn asked(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }
}

fn connection(mut stream: TcpStream, objects: &Objects) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some(head) = read_head(&mut stream, &mut buffer)? {
        answer(&mut stream, &Request::parse(&head), objects)?;
    }
    Ok(())
}

/// Reads to the end of a head; what came after it stays in the buffer.
fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<String>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = buffer.drain(..end + 4).collect::<Vec<u8>>();
            return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
        }
        let mut more = [0; 8192];
        match stream.read(&mut more)? {
            0 => return Ok(None),
            read => buffer.extend_from_slice(&more[..read]),
        }
    }
}

fn answer(stream: &mut TcpStream, request: &Request, objects: &Objects) -> io::Result<()> {
    let bucket = request.path.trim_end_matches('/');
    if !bucket.contains('/') {
        return match (request.method.as_str(), request.asked("location")) {
            ("HEAD", _) => text(stream, "200 OK", ""),
            (_, Some(_)) => text(stream, "200 OK", "<LocationConstraint></LocationConstraint>"),
            _ => text(stream, "200 OK", &listing(bucket, request, objects)),
        };
    }
    let Some(object) = objects.get(&request.path) else {
        return text(stream, "404 Not Found", "<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>");
    };
    if request.headers.get("if-match").is_some_and(|wanted| *wanted != object.etag) {
        return text(stream, "412 Precondition Failed", "<Error><Code>PreconditionFailed</Code></Error>");
    }
    let range = request.headers.get("range").and_then(|range| bounds(range, object.size));
    let (start, length) = range.unwrap_or((0, object.size));
    let mut head = match range {
        None => "HTTP/1.1 200 OK\r\n".to_owned(),
        Some(_) => {
            let end = start + length - 1;
            format!("HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {start}-{end}/{}\r\n", object.size)
        }
    };
    if range.is_none() && request.headers.get("x-amz-checksum-mode").is_some_and(|mode| mode == "ENABLED") {
        head += &format!("x-amz-checksum-crc64nvme: {}\r\nx-amz-checksum-type: FULL_OBJECT\r\n", object.crc64);
    }
    head += &format!(
        "content-length: {length}\r\netag: {}\r\ncontent-type: binary/octet-stream\r\n\
         accept-ranges: bytes\r\nlast-modified: Mon, 02 Nov 2026 10:00:00 GMT\r\n\r\n",
        object.etag
    );
    stream.write_all(head.as_bytes())?;
    if request.method != "HEAD" {
        let mut file = File::open(&object.path)?;
        file.seek(SeekFrom::Start(start))?;
        // On Linux this is sendfile.
        io::copy(&mut file.take(length), stream)?;
    }
    Ok(())
}

/// Returns the first byte and the length of a range.
fn bounds(range: &str, size: u64) -> Option<(u64, u64)> {
    let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
    let start: u64 = start.parse().ok()?;
    let end = end.parse().unwrap_or(u64::MAX).min(size.checked_sub(1)?);
    (start <= end).then(|| (start, end - start + 1))
}

fn text(stream: &mut TcpStream, status: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/xml\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes())
}

/// Lists a bucket, as version 1 or 2 of the call wants it.
fn listing(bucket: &str, request: &Request, objects: &Objects) -> String {
    let second = request.asked("list-type") == Some("2");
    let prefix = request.asked("prefix").unwrap_or_default();
    let delimiter = request.asked("delimiter").filter(|delimiter| !delimiter.is_empty());
    let most = request.asked("max-keys").and_then(|most| most.parse().ok()).unwrap_or(1000_usize).min(1000);
    let after = ["continuation-token", "start-after", "marker"].into_iter().find_map(|name| request.asked(name));
    let (mut contents, mut folders, mut last, mut truncated) = (String::new(), BTreeSet::new(), String::new(), false);
    let mut count = 0;
    for (path, object) in objects {
        let Some(key) = path.strip_prefix(bucket).and_then(|key| key.strip_prefix('/')) else { continue };
        let Some(below) = key.strip_prefix(prefix).filter(|_| after.is_none_or(|after| key > after)) else { continue };
        if count == most {
            truncated = true;
            break;
        }
        key.clone_into(&mut last);
        match delimiter.and_then(|delimiter| below.split_once(delimiter)) {
            Some((folder, _)) => {
                if folders.insert(format!("{prefix}{folder}/")) {
                    count += 1;
                }
            }
            None => {
                count += 1;
                contents += &format!(
                    "<Contents><Key>{key}</Key><LastModified>2026-11-02T10:00:00.000Z</LastModified>\
                     <ETag>{}</ETag><Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
                    object.etag.replace('"', "&quot;"),
                    object.size
                );
            }
        }
    }
    let folders: String =
        folders.iter().map(|folder| format!("<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>")).collect();
    let next = match (truncated, second) {
        (false, _) => String::new(),
        (true, true) => format!("<NextContinuationToken>{last}</NextContinuationToken>"),
        (true, false) => format!("<NextMarker>{last}</NextMarker>"),
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
         <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>{bucket}</Name>\
         <Prefix>{prefix}</Prefix><MaxKeys>{most}</MaxKeys><KeyCount>{count}</KeyCount>\
         <IsTruncated>{truncated}</IsTruncated>{next}{contents}{folders}</ListBucketResult>"
    )
}

/// Reads an object over raw sockets, and does nothing else with it.
fn floor(address: &str, path: &str, size: u64, target: &Path) -> io::Result<()> {
    let file = Arc::new(File::create(target)?);
    let part = size.div_ceil(STREAMS);
    let readers: Vec<_> = (0..STREAMS)
        .map(|index| {
            let (start, end) = (index * part, size.min((index + 1) * part));
            let (address, path, file) = (address.to_owned(), path.to_owned(), Arc::clone(&file));
            std::thread::spawn(move || read_range(&address, &path, start, end, &file))
        })
        .collect();
    readers.into_iter().try_for_each(|reader| reader.join().unwrap_or_else(|_| Err(io::Error::other("it panicked"))))
}

fn read_range(address: &str, path: &str, start: u64, end: u64, file: &File) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let last = end - 1;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: store\r\nRange: bytes={start}-{last}\r\n\r\n").as_bytes())?;
    let mut buffer = Vec::new();
    if !read_head(&mut stream, &mut buffer)?.is_some_and(|head| head.starts_with("HTTP/1.1 206")) {
        return Err(io::Error::other("the range was refused"));
    }
    file.write_all_at(&buffer, start)?;
    let mut at = start + buffer.len() as u64;
    let mut block = vec![0; 1 << 20];
    while at < end {
        let read = stream.read(&mut block)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.write_all_at(&block[..read], at)?;
        at += read as u64;
    }
    Ok(())
}
