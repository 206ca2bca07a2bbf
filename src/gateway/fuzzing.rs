//! Entrances for fuzzers (`tests/fuzz`), compiled with `--cfg fuzzing` and for tests only. Each panics when a promise is
//! broken.

use std::sync::Arc;

use http::Method;

use crate::api::ServiceKey;
use crate::plan::routes::{RouteTable, ServiceRoute};

use super::framing::{Framing, HeadLimits, Scan};
use super::peek::{Found, GrpcName, JsonModel};
use super::route::{Head, Route, RouteIndex};

/// Looks up a request whose host and path are the two lines of the input.
pub fn route(input: &str) {
    let mut lines = input.splitn(3, '\n');
    let (host, path) = (lines.next(), lines.next().unwrap_or("/"));
    let service = |namespace: &str, name: &str| {
        let key = ServiceKey::new(namespace, name);
        let route = ServiceRoute {
            key: key.clone(),
            components: [].into(),
            model_names: vec![name.into()],
            trained: [].into(),
            by_path: false,
            cluster_local: false,
        };
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
    let mut scan = JsonModel::default();
    let whole = scan.feed(body);
    let mut scan = JsonModel::default();
    let pieces = body.chunks(usize::from(piece).max(1)).map(|part| scan.feed(part));
    let found = pieces.into_iter().find(|found| *found != Found::More).unwrap_or(Found::More);
    // A second name is only seen when it arrives with the first.
    assert!(whole == found || whole == Found::Twice, "however it is cut: {whole:?} and {found:?}");
    for shape in [GrpcName::Field(1), GrpcName::Field(2), GrpcName::Nested] {
        if let Found::Name(name) = shape.look(body) {
            assert!(!name.is_empty());
        }
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// What fuzzing starts from, and what it once found.
    #[test]
    fn the_seeds_of_every_target_keep_its_promises() {
        type Target = fn(&[u8]);
        let targets: [(&str, Target); 3] = [
            ("route", |input| super::route(&String::from_utf8_lossy(input))),
            ("peek", super::peek),
            ("framing", super::framing),
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
    }
}
