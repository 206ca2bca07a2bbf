//! Entrances for fuzzers (`tests/fuzz`), compiled with `--cfg fuzzing` and for tests only. Each panics when a promise is
//! broken.

use std::sync::Arc;

use bytes::{Buf, BytesMut};
use http::Method;

use crate::api::ServiceKey;
use crate::plan::routes::{RouteTable, ServiceRoute};

use super::answer_frames::Frames;
use super::answer_head::read_head;
use super::framing::{Framing, HeadLimits, Scan};
use super::peek::{Found, JsonModel};
use super::peek_form::FormModel;
use super::peek_grpc::{GrpcModel, GrpcName};
use super::route::{Head, Route, RouteIndex};

/// Looks up a request whose host and path are the two lines of the input.
pub fn route(input: &str) {
    let mut lines = input.splitn(3, '\n');
    let (host, path) = (lines.next(), lines.next().unwrap_or("/"));
    let service = |namespace: &str, name: &str| {
        let key = ServiceKey::new(namespace, name);
        let route = ServiceRoute::new(key.clone(), [].into(), vec![name.into()]);
        (key, Arc::new(route))
    };
    let table = RouteTable {
        domains: vec!["example.com".into(), "localhost".into()],
        services: [service("default", "iris"), service("ml", "iris"), service("ml", "org/text")].into(),
        ..RouteTable::default()
    };
    let index = RouteIndex::new(Arc::new(table));
    for (method, grpc) in [(Method::GET, false), (Method::POST, false), (Method::POST, true)] {
        if let Route::To(target) = index.find(Head { method: &method, host, path, grpc }) {
            assert!(path.is_char_boundary(target.strip), "what is cut off is a whole part of the path");
        }
    }
}

/// Looks for a model's name in a body, whole and in pieces of the length of the first byte.
pub fn peek(input: &[u8]) {
    let Some((&piece, body)) = input.split_first() else { return };
    let piece = usize::from(piece).max(1);
    let (mut whole, mut cut) = (JsonModel::default(), JsonModel::default());
    assert_eq!(first(body, body.len().max(1), |part| whole.feed(part)), first(body, piece, |part| cut.feed(part)));
    if let (Some(mut whole), Some(mut cut)) = (FormModel::of_type(FORM), FormModel::of_type(FORM)) {
        assert_eq!(first(body, body.len().max(1), |part| whole.feed(part)), first(body, piece, |part| cut.feed(part)));
    }
    for shape in [GrpcName::Field(1), GrpcName::Field(2), GrpcName::Nested] {
        let (mut whole, mut cut) = (GrpcModel::new(shape), GrpcModel::new(shape));
        assert_eq!(first(body, body.len().max(1), |part| whole.feed(part)), first(body, piece, |part| cut.feed(part)));
    }
}

const FORM: &str = "multipart/form-data; boundary=b";

/// Returns what is found in a body that comes in pieces.
fn first(body: &[u8], piece: usize, feed: impl FnMut(&[u8]) -> Found) -> Found {
    body.chunks(piece).map(feed).find(|found| *found != Found::More).unwrap_or(Found::More)
}

/// Reads requests off a connection, whole and in pieces: the same bytes are passed on and the same fault is found.
pub fn framing(input: &[u8]) {
    let Some((&piece, bytes)) = input.split_first() else { return };
    let (whole, cut) = (follow(bytes, bytes.len().max(1)), follow(bytes, usize::from(piece).max(1)));
    assert_eq!(whole, cut, "however it is cut");
}

/// Returns how many bytes were passed on, and whether a fault was found.
fn follow(bytes: &[u8], piece: usize) -> (usize, bool) {
    let mut framing = Framing::new(HeadLimits { bytes: 4096, lines: 32, target: 1024 });
    let (mut passed, mut pending) = (0, Vec::new());
    for part in bytes.chunks(piece) {
        pending.extend_from_slice(part);
        let len = match framing.scan(&pending) {
            Scan::All => pending.len(),
            Scan::Upto(len) => len,
            Scan::Fault(len, _) => return (passed + len, true),
        };
        passed += len;
        pending.drain(..len);
    }
    (passed, false)
}

/// Reads a backend's answer, whole and in pieces: it is the same answer, or the same nonsense.
pub fn answer(input: &[u8]) {
    let Some((&piece, bytes)) = input.split_first() else { return };
    let (whole, cut) = (hear(bytes, bytes.len().max(1)), hear(bytes, usize::from(piece).max(1)));
    assert_eq!(whole, cut, "however it is cut");
}

/// What came of an answer.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    status: Option<u16>,
    body: Vec<u8>,
    trailers: usize,
    ended: bool,
    nonsense: bool,
    /// Bytes that do not belong to it, once it has ended.
    more: usize,
}

fn hear(bytes: &[u8], piece: usize) -> Heard {
    let (mut heard, mut read, mut frames) = (Heard::default(), BytesMut::new(), None);
    for part in bytes.chunks(piece) {
        read.extend_from_slice(part);
        if frames.is_none() {
            match read_head(&read, 64, false) {
                Ok(Some(head)) => {
                    heard.status = Some(head.response.status().as_u16());
                    read.advance(head.len);
                    frames = Some(Frames::new(head.ending));
                }
                Ok(None) => continue,
                Err(_) => return Heard { nonsense: true, ..heard },
            }
        }
        let Some(frames) = &mut frames else { continue };
        loop {
            match frames.next(&mut read) {
                Ok(Some(frame)) => match frame.into_data() {
                    Ok(data) => heard.body.extend_from_slice(&data),
                    Err(frame) => heard.trailers += frame.into_trailers().map_or(0, |lines| lines.len()),
                },
                Ok(None) => break,
                Err(_) => return Heard { nonsense: true, ..heard },
            }
        }
        heard.ended = frames.ended();
        heard.more = if heard.ended { read.len() } else { 0 };
    }
    heard
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// What fuzzing starts from, and what it once found.
    #[test]
    fn the_seeds_of_every_target_keep_its_promises() {
        type Target = fn(&[u8]);
        let targets: [(&str, Target); 4] = [
            ("route", |input| super::route(&String::from_utf8_lossy(input))),
            ("peek", super::peek),
            ("framing", super::framing),
            ("answer", super::answer),
        ];
        for (name, target) in targets {
            let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/corpus");
            let seeds: Vec<_> = std::fs::read_dir(format!("{seeds}/{name}")).unwrap().collect();
            assert!(seeds.len() > 4, "{name}");
            for seed in seeds {
                target(&std::fs::read(seed.unwrap().path()).unwrap());
            }
        }
    }

    proptest! {
        #[test]
        fn routes_hold_for_whatever_is_sent(input in "(latest-|prev-)?[a-z:./\\[-]{0,30}(\\.localhost)?\n(/serving/|/v1/models/|/)?[a-z/:%é]{0,30}") {
            super::route(&input);
        }

        #[test]
        fn bodies_give_the_same_name_however_they_are_cut(piece in 0u8..9, body in "[{}:, \"\\\\modela-c\\[\\]]{0,60}") {
            super::peek(&[&[piece], body.as_bytes()].concat());
        }

        #[test]
        fn requests_are_told_apart_however_they_are_cut(
            piece in 0u8..20,
            head in "(GET|POST) /[a-z]{0,5} HTTP/1\\.[01]\r\nHost: a\r\n(Content-Length: [0-9]{1,2}|Transfer-Encoding: chunked|Upgrade: x)?\r\n(\r\n)?",
            rest in "([0-9a-f]{1,2}\r\n|[a-z]{0,9}|\r\n|0\r\n\r\n){0,6}",
        ) {
            super::framing(&[&[piece], head.as_bytes(), rest.as_bytes(), head.as_bytes()].concat());
        }

        #[test]
        fn answers_are_heard_the_same_however_they_are_cut(
            piece in 0u8..20,
            head in "HTTP/1\\.[01] [12345][0-9]{2} [a-z]{0,3}\r\n(Content-Length: [0-9]{1,2}|Transfer-Encoding: chunked|X: y)?\r\n(\r\n)?",
            rest in "([0-9a-f]{1,2}( |;x)?\r\n|[a-z]{0,9}|\r\n|0\r\n(x: y\r\n)?\r\n){0,6}",
        ) {
            super::answer(&[&[piece], head.as_bytes(), rest.as_bytes()].concat());
        }
    }
}
