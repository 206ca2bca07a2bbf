//! Digests that sources state, and computing them while bytes pass.
//!
//! A source states digests in its listing ([`RemoteFile::digests`](super::RemoteFile)) or with the bytes
//! ([`Reading::digests`](super::Reading)). All that are stated for a file are checked before the model is published; SHA-256
//! is computed for every file, stated or not, because it is the file's name in the cache. Digests that cover parts (S3's
//! composite checksums, ETags of multipart uploads) say nothing about the whole and are left out.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use md5::Md5;
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// How a digest is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DigestKind {
    /// SHA-256.
    Sha256,
    /// SHA-1.
    Sha1,
    /// SHA-1 of git's header and the content, as git and the Hugging Face Hub name small files.
    GitBlob,
    /// MD5.
    Md5,
    /// CRC-64/NVME, S3's default since 2025.
    Crc64Nvme,
    /// CRC-32C (Castagnoli).
    Crc32c,
    /// CRC-32 as in zip and gzip.
    Crc32,
}

impl fmt::Display for DigestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256 => "SHA-256",
            Self::Sha1 => "SHA-1",
            Self::GitBlob => "git SHA-1",
            Self::Md5 => "MD5",
            Self::Crc64Nvme => "CRC-64/NVME",
            Self::Crc32c => "CRC-32C",
            Self::Crc32 => "CRC-32",
        })
    }
}

impl DigestKind {
    /// Returns the length of its hexadecimal form.
    fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha1 | Self::GitBlob => 40,
            Self::Md5 => 32,
            Self::Crc64Nvme => 16,
            Self::Crc32c | Self::Crc32 => 8,
        }
    }

    /// Whether equal digests and sizes mean equal files for all that a download has to care about. Of MD5 and SHA-1 only
    /// collisions are known, which take two files by one author.
    pub fn names_content(self) -> bool {
        matches!(self, Self::Sha256 | Self::Sha1 | Self::GitBlob | Self::Md5)
    }
}

/// A digest that covers all of one file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StatedDigest {
    /// How it is computed.
    pub kind: DigestKind,
    /// Lower-case hexadecimal digits, big-endian.
    pub hex: String,
    /// When it is the digest of the digests of parts: the size of every part but the last, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<u64>,
}

impl StatedDigest {
    /// Makes a digest of its hexadecimal form; none when it is not one of this kind.
    pub fn from_hex(kind: DigestKind, hex: &str) -> Option<Self> {
        let good = hex.len() == kind.digits() && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        good.then(|| Self { kind, hex: hex.to_ascii_lowercase(), part: None })
    }

    /// Returns how it is computed.
    fn way(&self) -> Way {
        Way { kind: self.kind, part: self.part }
    }

    /// Makes a digest of its Base64 form; none when it is not one of this kind.
    pub fn from_base64(kind: DigestKind, text: &str) -> Option<Self> {
        Self::from_hex(kind, &hex(&STANDARD.decode(text.trim()).ok()?))
    }
}

/// Reads the digests of the whole file from the headers of an answer: S3's `x-amz-checksum-*`, Google's `x-goog-hash`,
/// Azure's `x-ms-blob-content-md5`, `Repr-Digest` (RFC 9530) and `Digest` (RFC 3230).
///
/// An ETag is not read here: whether it is an MD5 depends on the store; see [`etag_md5`].
pub fn from_headers(headers: &HeaderMap) -> Vec<StatedDigest> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let mut stated = Vec::new();
    if !says_composite(headers) {
        stated.extend(AMAZON.iter().filter_map(|&(name, kind)| StatedDigest::from_base64(kind, text(name)?)));
    }
    for value in headers.get_all("x-goog-hash").iter().filter_map(|value| value.to_str().ok()) {
        stated.extend(value.split(',').filter_map(|part| match part.trim().split_once('=')? {
            ("crc32c", crc) => StatedDigest::from_base64(DigestKind::Crc32c, crc),
            ("md5", md5) => StatedDigest::from_base64(DigestKind::Md5, md5),
            _ => None,
        }));
    }
    stated.extend(text("x-ms-blob-content-md5").and_then(|md5| StatedDigest::from_base64(DigestKind::Md5, md5)));
    for name in ["repr-digest", "digest"] {
        let parts = text(name).unwrap_or_default().split(',');
        stated.extend(parts.filter_map(|part| {
            let (algorithm, value) = part.trim().split_once('=')?;
            let value = value.trim_matches(':');
            match algorithm.to_ascii_lowercase().as_str() {
                "sha-256" => StatedDigest::from_base64(DigestKind::Sha256, value),
                "md5" => StatedDigest::from_base64(DigestKind::Md5, value),
                _ => None,
            }
        }));
    }
    stated.sort();
    stated.dedup();
    stated
}

/// Reads an ETag of S3 or GCS that is the MD5 of the content: 32 hexadecimal digits, and not encrypted with a key of the
/// user's or of KMS, where the ETag is something else.
pub fn etag_md5(headers: &HeaderMap) -> Option<StatedDigest> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let by_key = text("x-amz-server-side-encryption").is_some_and(|how| how.starts_with("aws:"))
        || headers.contains_key("x-amz-server-side-encryption-customer-algorithm")
        || headers.contains_key("x-goog-encryption-algorithm");
    let etag = text("etag").filter(|_| !by_key)?;
    StatedDigest::from_hex(DigestKind::Md5, etag.trim_matches('"'))
}

/// The headers of S3's additional checksums.
const AMAZON: [(&str, DigestKind); 5] = [
    ("x-amz-checksum-sha256", DigestKind::Sha256),
    ("x-amz-checksum-sha1", DigestKind::Sha1),
    ("x-amz-checksum-crc64nvme", DigestKind::Crc64Nvme),
    ("x-amz-checksum-crc32c", DigestKind::Crc32c),
    ("x-amz-checksum-crc32", DigestKind::Crc32),
];

fn says_composite(headers: &HeaderMap) -> bool {
    headers.get("x-amz-checksum-type").is_some_and(|kind| kind.as_bytes().eq_ignore_ascii_case(b"COMPOSITE"))
}

/// A checksum of S3 over the checksums of parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composite {
    digest: StatedDigest,
    parts: Option<u64>,
}

impl Composite {
    /// Reads one from the headers of an answer: its type says so, or it ends in `-` and the number of parts.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        AMAZON.iter().find_map(|&(name, kind)| {
            let value = headers.get(name)?.to_str().ok()?;
            let (digest, parts) = match value.rsplit_once('-') {
                Some((digest, parts)) => (digest, Some(parts.parse().ok().filter(|parts| *parts > 0)?)),
                None if says_composite(headers) => (value, None),
                None => return None,
            };
            Some(Self { digest: StatedDigest::from_base64(kind, digest)?, parts })
        })
    }

    /// Makes it a digest that can be checked, from the size of the first part and of the whole, in bytes. None when they
    /// do not fit the number of parts: then the parts are of different sizes, and nothing is known.
    pub fn of_parts(self, part: u64, parts: Option<u64>, whole: u64) -> Option<StatedDigest> {
        let count = match (self.parts, parts) {
            (Some(one), Some(other)) if one != other => return None,
            (one, other) => one.or(other)?,
        };
        (part > 0 && whole.div_ceil(part).max(1) == count).then_some(StatedDigest { part: Some(part), ..self.digest })
    }
}

/// How a digest is computed over a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    kind: DigestKind,
    /// See [`StatedDigest::part`].
    part: Option<u64>,
}

impl From<DigestKind> for Way {
    fn from(kind: DigestKind) -> Self {
        Self { kind, part: None }
    }
}

/// Computes SHA-256, and what else is wanted, of bytes that pass.
#[derive(Clone)]
pub(super) struct Digester {
    sha256: Sha256,
    more: Vec<(Way, Running)>,
}

#[derive(Clone)]
enum Running {
    Sha256(Box<Sha256>),
    Sha1(Box<Sha1>),
    Md5(Box<Md5>),
    Crc(Box<crc_fast::Digest>, usize),
    Parts(Box<Parts>),
}

/// The digest of the digests of parts, under way.
#[derive(Clone)]
struct Parts {
    size: u64,
    /// Bytes of the part under way.
    at: u64,
    empty: Running,
    part: Running,
    all: Running,
}

impl Digester {
    /// Begins; `size` is the file's when it is known, which git's digest needs.
    pub(super) fn new<W: Into<Way>>(wanted: impl IntoIterator<Item = W>, size: Option<u64>) -> Self {
        let mut more: Vec<(Way, Running)> = Vec::new();
        for way in wanted.into_iter().map(Into::into) {
            if way == DigestKind::Sha256.into() || more.iter().any(|(known, _)| *known == way) {
                continue;
            }
            if let Some(running) = Running::new(way, size) {
                more.push((way, running));
            }
        }
        Self { sha256: Sha256::new(), more }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        for (_, running) in &mut self.more {
            running.update(bytes);
        }
    }

    pub(super) fn finish(self) -> Computed {
        let more = self.more.into_iter().map(|(Way { kind, part }, running)| {
            let hex = hex(&running.finish());
            StatedDigest { kind, hex, part }
        });
        Computed { more: more.collect(), sha256: hex(&self.sha256.finalize()) }
    }
}

impl Running {
    /// Begins; none when the size is needed and not known.
    fn new(way: Way, size: Option<u64>) -> Option<Self> {
        if let Some(part) = way.part {
            let empty = Self::new(way.kind.into(), Some(part))?;
            let (part_running, all) = (empty.clone(), empty.clone());
            return Some(Self::Parts(Box::new(Parts { size: part, at: 0, empty, part: part_running, all })));
        }
        let crc = |algorithm| Self::Crc(Box::new(crc_fast::Digest::new(algorithm)), way.kind.digits() / 2);
        Some(match way.kind {
            DigestKind::Sha256 => Self::Sha256(Box::default()),
            DigestKind::Sha1 => Self::Sha1(Box::default()),
            DigestKind::GitBlob => Self::Sha1(Box::new(Sha1::new_with_prefix(format!("blob {}\0", size?)))),
            DigestKind::Md5 => Self::Md5(Box::default()),
            DigestKind::Crc64Nvme => crc(crc_fast::CrcAlgorithm::Crc64Nvme),
            DigestKind::Crc32c => crc(crc_fast::CrcAlgorithm::Crc32Iscsi),
            DigestKind::Crc32 => crc(crc_fast::CrcAlgorithm::Crc32IsoHdlc),
        })
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(sha) => sha.update(bytes),
            Self::Sha1(sha) => sha.update(bytes),
            Self::Md5(md5) => md5.update(bytes),
            Self::Crc(crc, _) => crc.update(bytes),
            Self::Parts(parts) => parts.update(bytes),
        }
    }

    /// Returns the digest, big-endian.
    fn finish(self) -> Vec<u8> {
        match self {
            Self::Sha256(sha) => sha.finalize().to_vec(),
            Self::Sha1(sha) => sha.finalize().to_vec(),
            Self::Md5(md5) => md5.finalize().to_vec(),
            Self::Crc(crc, length) => crc.finalize().to_be_bytes()[8 - length..].to_vec(),
            Self::Parts(parts) => parts.finish(),
        }
    }
}

impl Parts {
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.at == self.size {
                self.close();
            }
            let take = bytes.len().min((self.size - self.at).try_into().unwrap_or(usize::MAX));
            self.part.update(&bytes[..take]);
            self.at += take as u64;
            bytes = &bytes[take..];
        }
    }

    fn close(&mut self) {
        let part = std::mem::replace(&mut self.part, self.empty.clone());
        self.all.update(&part.finish());
        self.at = 0;
    }

    fn finish(mut self) -> Vec<u8> {
        self.close();
        self.all.finish()
    }
}

/// Digests of what was received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Computed {
    /// Hex.
    pub(super) sha256: String,
    /// The others that were wanted.
    pub(super) more: Vec<StatedDigest>,
}

impl Computed {
    /// Returns the digest that is computed in a way.
    pub(super) fn get(&self, way: impl Into<Way>) -> Option<&str> {
        match way.into() {
            Way { kind: DigestKind::Sha256, part: None } => Some(&self.sha256),
            way => self.more.iter().find(|digest| digest.way() == way).map(|digest| digest.hex.as_str()),
        }
    }

    /// Returns the first stated digest that is another than the one computed, with that one.
    pub(super) fn contradicts<'a>(&'a self, stated: &'a [StatedDigest]) -> Option<(&'a StatedDigest, &'a str)> {
        stated.iter().find_map(|stated| {
            let actual = self.get(stated.way())?;
            (actual != stated.hex).then_some((stated, actual))
        })
    }
}

/// Files beyond this size are not read for a slow digest when a quick one is stated too.
const SLOW_ABOVE: u64 = 64 << 20;

/// Chooses which of the stated digests are worth computing besides SHA-256.
pub(super) fn worth_checking(stated: &[StatedDigest], size: Option<u64>) -> Vec<Way> {
    let quick = |way: &Way| match way.kind {
        DigestKind::Crc64Nvme | DigestKind::Crc32c | DigestKind::Crc32 => true,
        // The file's own name in the cache; of parts it is one more pass.
        DigestKind::Sha256 => way.part.is_none(),
        DigestKind::Sha1 | DigestKind::GitBlob | DigestKind::Md5 => false,
    };
    let ways = stated.iter().map(StatedDigest::way);
    if size.is_some_and(|size| size > SLOW_ABOVE) && ways.clone().any(|way| quick(&way)) {
        return ways.filter(quick).collect();
    }
    ways.collect()
}

/// Writes bytes as lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_computed_as_its_standard_says() {
        let all = [
            (DigestKind::Sha256, "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
            (DigestKind::Sha1, "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
            (DigestKind::GitBlob, "e2e107ac61ac259b87c544f6e7a4eb03422c6c21"),
            (DigestKind::Md5, "25f9e794323b453885f5181f1b624d0b"),
            (DigestKind::Crc64Nvme, "ae8b14860a799888"),
            (DigestKind::Crc32c, "e3069283"),
            (DigestKind::Crc32, "cbf43926"),
        ];
        let mut digester = Digester::new(all.map(|(kind, _)| kind), Some(9));
        digester.update(b"1234");
        digester.update(b"56789");
        let computed = digester.finish();
        for (kind, hex) in all {
            assert_eq!(computed.get(kind), Some(hex), "{kind}");
        }
        let right: Vec<_> = all.iter().filter_map(|(kind, hex)| StatedDigest::from_hex(*kind, hex)).collect();
        assert_eq!((right.len(), computed.contradicts(&right)), (7, None));
        let wrong = [StatedDigest::from_base64(DigestKind::Crc32c, "AAAAAA==").unwrap()];
        assert_eq!(computed.contradicts(&wrong).map(|(_, actual)| actual), Some("e3069283"));
    }

    #[test]
    fn headers_state_digests_of_whole_files_only() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect::<HeaderMap>()
        };
        let kinds = |pairs: &[(&'static str, &'static str)]| {
            from_headers(&headers(pairs)).iter().map(|digest| (digest.kind, digest.hex.clone())).collect::<Vec<_>>()
        };
        let crc = (DigestKind::Crc32c, "e3069283".to_owned());
        let md5 = (DigestKind::Md5, "25f9e794323b453885f5181f1b624d0b".to_owned());
        assert_eq!(kinds(&[("x-amz-checksum-crc32c", "4waSgw==")]), std::slice::from_ref(&crc));
        assert_eq!(kinds(&[("x-amz-checksum-crc32c", "4waSgw==-3")]), []);
        assert_eq!(kinds(&[("x-amz-checksum-crc32c", "4waSgw=="), ("x-amz-checksum-type", "COMPOSITE")]), []);
        let both = "crc32c=4waSgw==,md5=JfnnlDI7RTiF9RgfG2JNCw==";
        let google = kinds(&[("x-goog-hash", both)]);
        assert_eq!(google.last(), Some(&crc));
        let azure = kinds(&[("x-ms-blob-content-md5", "JfnnlDI7RTiF9RgfG2JNCw==")]);
        assert_eq!(azure.first().map(|digest| digest.0), google.first().map(|digest| digest.0));
        let rfc = kinds(&[("repr-digest", "sha-256=:FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=:")]);
        assert_eq!(rfc[0].0, DigestKind::Sha256);
        let etag = "\"25f9e794323b453885f5181f1b624d0b\"";
        assert_eq!(etag_md5(&headers(&[("etag", etag)])).map(|digest| digest.hex), Some(md5.1));
        assert_eq!(etag_md5(&headers(&[("etag", "\"25f9e794323b453885f5181f1b624d0b-2\"")])), None);
        assert_eq!(etag_md5(&headers(&[("etag", etag), ("x-amz-server-side-encryption", "aws:kms")])), None);
        assert!(etag_md5(&headers(&[("etag", etag), ("x-amz-server-side-encryption", "AES256")])).is_some());
    }

    #[test]
    fn large_files_are_not_read_for_a_slow_digest_when_a_quick_one_is_stated() {
        let stated = |kinds: &[DigestKind]| -> Vec<StatedDigest> {
            kinds.iter().map(|&kind| StatedDigest { kind, hex: String::new(), part: None }).collect()
        };
        let both = stated(&[DigestKind::Md5, DigestKind::Crc32c]);
        assert_eq!(worth_checking(&both, Some(1000)).len(), 2);
        assert_eq!(worth_checking(&both, Some(1 << 30)), [DigestKind::Crc32c.into()]);
        assert_eq!(worth_checking(&stated(&[DigestKind::Md5]), Some(1 << 30)), [DigestKind::Md5.into()]);
    }

    #[test]
    fn composite_checksums_are_known_as_such_and_checked_part_by_part() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect::<HeaderMap>()
        };
        // Of "12345678" and "9", by the tools of others.
        let stated = [("x-amz-checksum-crc32", "NAIU5Q==-2")];
        let composite = Composite::from_headers(&headers(&stated)).unwrap();
        let typed = [("x-amz-checksum-crc32", "NAIU5Q=="), ("x-amz-checksum-type", "COMPOSITE")];
        assert_eq!(Composite::from_headers(&headers(&typed)).unwrap().digest, composite.digest);
        assert_eq!(from_headers(&headers(&stated)), []);
        let whole = [("x-amz-checksum-crc32", "NAIU5Q=="), ("x-amz-checksum-type", "FULL_OBJECT")];
        assert_eq!(Composite::from_headers(&headers(&whole)), None);
        for (part, count, size) in [(8, None, 17), (8, Some(3), 9), (0, None, 9), (4, None, 9)] {
            assert_eq!(composite.clone().of_parts(part, count, size), None, "{part} {count:?} {size}");
        }
        for kind in [DigestKind::Crc32, DigestKind::Crc64Nvme, DigestKind::Sha256, DigestKind::Sha1] {
            let of = |bytes: &[u8]| {
                let mut running = Running::new(kind.into(), None).unwrap();
                running.update(bytes);
                running.finish()
            };
            let expected = hex(&of(&[of(b"12345678"), of(b"9")].concat()));
            for cut in 0..9 {
                let mut digester = Digester::new([Way { kind, part: Some(8) }, kind.into()], Some(9));
                digester.update(&b"123456789"[..cut]);
                digester.update(&b"123456789"[cut..]);
                let computed = digester.finish();
                assert_eq!(computed.get(Way { kind, part: Some(8) }), Some(expected.as_str()), "{kind} {cut}");
                assert_eq!(computed.get(kind), Some(hex(&of(b"123456789")).as_str()));
            }
        }
    }
}
