//! S3's additional checksums, of whole objects and of parts, against an origin that lies.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crc_fast::{CrcAlgorithm, checksum};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::{Bench, Kind, Object, RANGE, told, tree, weights};

const HEADERS: [&str; 5] = [
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc32c",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-sha1",
    "x-amz-checksum-sha256",
];

/// The checksum that a header is for, as bytes.
fn of(header: &str, bytes: &[u8]) -> Vec<u8> {
    let crc = |algorithm, length: usize| checksum(algorithm, bytes).to_be_bytes()[8 - length..].to_vec();
    match header {
        "x-amz-checksum-crc32" => crc(CrcAlgorithm::Crc32IsoHdlc, 4),
        "x-amz-checksum-crc32c" => crc(CrcAlgorithm::Crc32Iscsi, 4),
        "x-amz-checksum-crc64nvme" => crc(CrcAlgorithm::Crc64Nvme, 8),
        "x-amz-checksum-sha1" => Sha1::digest(bytes).to_vec(),
        _ => Sha256::digest(bytes).to_vec(),
    }
}

/// An object whose checksum is of `stated`, which may be other bytes than it has.
fn whole(header: &'static str, body: &[u8], stated: &[u8]) -> Object {
    let checksums =
        vec![(header, STANDARD.encode(of(header, stated))), ("x-amz-checksum-type", "FULL_OBJECT".to_owned())];
    Object { checksums, ..Object::new(body.to_vec()) }
}

/// The same for an object that came in parts.
fn in_parts(header: &'static str, body: &[u8], stated: &[u8], part: usize) -> Object {
    let parts: Vec<u8> = stated.chunks(part).flat_map(|part| of(header, part)).collect();
    let count = stated.len().div_ceil(part);
    let checksums = vec![
        (header, format!("{}-{count}", STANDARD.encode(of(header, &parts)))),
        ("x-amz-checksum-type", "COMPOSITE".to_owned()),
    ];
    Object { checksums, part: Some(part as u64), ..Object::new(body.to_vec()) }
}

#[tokio::test]
async fn a_store_is_asked_for_checksums_and_what_it_states_is_checked() {
    for header in HEADERS {
        for size in [1000, 5 * RANGE + 3] {
            let bench = Bench::new(Kind::S3).await;
            let (body, other) = (weights(size, 21), weights(size, 22));
            for (name, object, is_right) in [
                ("right", whole(header, &body, &body), true),
                ("wrong", whole(header, &body, &other), false),
                ("parts", in_parts(header, &body, &body, 700), true),
                ("wrong-parts", in_parts(header, &body, &other, 700), false),
                ("one-part", in_parts(header, &body, &other, size), false),
            ] {
                bench.put(name, object);
                let pulled = bench.pull(name).await;
                let case = format!("{header}, {size} bytes, {name}");
                match (is_right, &pulled) {
                    (true, Ok(model)) => assert_eq!(tree(&model.path)[name], body, "{case}"),
                    (false, Err(error)) => {
                        assert!(told(error).contains("where the source stated"), "{case}: {error:?}");
                    }
                    (_, other) => panic!("{case}: {other:?}"),
                }
                bench.assert_nothing_left();
            }
        }
    }
}

#[tokio::test]
async fn what_asks_for_checksums_is_signed() {
    let bench = Bench::new(Kind::S3).await;
    bench.put("m/a", whole("x-amz-checksum-crc32c", b"12345", b"12345"));
    bench.put("m/b", in_parts("x-amz-checksum-sha256", &weights(5 * RANGE, 23), &weights(5 * RANGE, 23), RANGE));
    bench.pull("m").await.unwrap();
    let mut asked = 0;
    for seen in bench.origin.seen().iter().filter(|seen| seen.header("x-amz-checksum-mode").is_some()) {
        asked += 1;
        let signed = seen.header("authorization").unwrap_or_default();
        assert!(signed.contains("x-amz-checksum-mode"), "{seen:?}");
    }
    assert!(asked >= 3, "{asked}");
    assert!(bench.origin.seen().iter().any(|seen| seen.query == "partNumber=1"));
}

#[tokio::test]
async fn a_checksum_of_parts_that_cannot_be_checked_is_no_checksum_of_the_whole() {
    let bench = Bench::new(Kind::S3).await;
    let body = weights(3 * RANGE, 24);
    // Nobody says how large the parts are, or what is said does not fit their number.
    for (name, part) in [("silent", None), ("misfit", Some(10))] {
        bench.put(name, Object { part, ..in_parts("x-amz-checksum-crc32", &body, &body, RANGE) });
        let model = bench.pull(name).await.unwrap_or_else(|error| panic!("{name}: {}", told(&error)));
        assert_eq!(tree(&model.path)[name], body, "{name}");
    }
}
