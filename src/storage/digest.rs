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

/// A digest of one whole file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StatedDigest {
    /// How it is computed.
    pub kind: DigestKind,
    /// Lower-case hexadecimal digits, big-endian.
    pub hex: String,
}

impl StatedDigest {
    /// Makes a digest of its hexadecimal form; none when it is not one of this kind.
    pub fn from_hex(kind: DigestKind, hex: &str) -> Option<Self> {
        let good = hex.len() == kind.digits() && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        good.then(|| Self { kind, hex: hex.to_ascii_lowercase() })
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
    if text("x-amz-checksum-type").is_none_or(|kind| !kind.eq_ignore_ascii_case("COMPOSITE")) {
        let amazon = [
            ("x-amz-checksum-sha256", DigestKind::Sha256),
            ("x-amz-checksum-sha1", DigestKind::Sha1),
            ("x-amz-checksum-crc64nvme", DigestKind::Crc64Nvme),
            ("x-amz-checksum-crc32c", DigestKind::Crc32c),
            ("x-amz-checksum-crc32", DigestKind::Crc32),
        ];
        stated.extend(amazon.iter().filter_map(|&(name, kind)| StatedDigest::from_base64(kind, text(name)?)));
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

/// Computes SHA-256, and what else is wanted, of bytes that pass.
#[derive(Clone)]
pub(super) struct Digester {
    sha256: Sha256,
    more: Vec<(DigestKind, Running)>,
}

#[derive(Clone)]
enum Running {
    Sha1(Box<Sha1>),
    Md5(Box<Md5>),
    Crc(Box<crc_fast::Digest>),
}

impl Digester {
    /// Begins; `size` is the file's when it is known, which git's digest needs.
    pub(super) fn new(wanted: impl IntoIterator<Item = DigestKind>, size: Option<u64>) -> Self {
        let mut more: Vec<(DigestKind, Running)> = Vec::new();
        for kind in wanted {
            let running = match kind {
                DigestKind::Sha256 => continue,
                DigestKind::Sha1 => Running::Sha1(Box::default()),
                DigestKind::GitBlob => match size {
                    None => continue,
                    Some(size) => Running::Sha1(Box::new(Sha1::new_with_prefix(format!("blob {size}\0")))),
                },
                DigestKind::Md5 => Running::Md5(Box::default()),
                DigestKind::Crc64Nvme => crc(crc_fast::CrcAlgorithm::Crc64Nvme),
                DigestKind::Crc32c => crc(crc_fast::CrcAlgorithm::Crc32Iscsi),
                DigestKind::Crc32 => crc(crc_fast::CrcAlgorithm::Crc32IsoHdlc),
            };
            if more.iter().all(|(known, _)| *known != kind) {
                more.push((kind, running));
            }
        }
        Self { sha256: Sha256::new(), more }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        for (_, running) in &mut self.more {
            match running {
                Running::Sha1(sha) => sha.update(bytes),
                Running::Md5(md5) => md5.update(bytes),
                Running::Crc(crc) => crc.update(bytes),
            }
        }
    }

    pub(super) fn finish(self) -> Computed {
        let more = self.more.into_iter().map(|(kind, running)| {
            let hex = match running {
                Running::Sha1(sha) => hex(&sha.finalize()),
                Running::Md5(md5) => hex(&md5.finalize()),
                Running::Crc(crc) => format!("{:0width$x}", crc.finalize(), width = kind.digits()),
            };
            StatedDigest { kind, hex }
        });
        Computed { sha256: hex(&self.sha256.finalize()), more: more.collect() }
    }
}

fn crc(algorithm: crc_fast::CrcAlgorithm) -> Running {
    Running::Crc(Box::new(crc_fast::Digest::new(algorithm)))
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
    /// Returns the digest of a kind.
    pub(super) fn get(&self, kind: DigestKind) -> Option<&str> {
        match kind {
            DigestKind::Sha256 => Some(&self.sha256),
            _ => self.more.iter().find(|digest| digest.kind == kind).map(|digest| digest.hex.as_str()),
        }
    }

    /// Returns the first stated digest that is another than the one computed, with that one.
    pub(super) fn contradicts<'a>(&'a self, stated: &'a [StatedDigest]) -> Option<(&'a StatedDigest, &'a str)> {
        stated.iter().find_map(|stated| {
            let actual = self.get(stated.kind)?;
            (actual != stated.hex).then_some((stated, actual))
        })
    }
}

/// Files beyond this size are not read for a slow digest when a quick one is stated too.
const SLOW_ABOVE: u64 = 64 << 20;

/// Chooses which of the stated digests are worth computing besides SHA-256.
pub(super) fn worth_checking(stated: &[StatedDigest], size: Option<u64>) -> Vec<DigestKind> {
    let quick = |kind: &DigestKind| {
        matches!(kind, DigestKind::Sha256 | DigestKind::Crc64Nvme | DigestKind::Crc32c | DigestKind::Crc32)
    };
    let kinds = stated.iter().map(|digest| digest.kind);
    if size.is_some_and(|size| size > SLOW_ABOVE) && kinds.clone().any(|kind| quick(&kind)) {
        return kinds.filter(quick).collect();
    }
    kinds.collect()
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
            kinds.iter().map(|&kind| StatedDigest { kind, hex: String::new() }).collect()
        };
        let both = stated(&[DigestKind::Md5, DigestKind::Crc32c]);
        assert_eq!(worth_checking(&both, Some(1000)).len(), 2);
        assert_eq!(worth_checking(&both, Some(1 << 30)), [DigestKind::Crc32c]);
        assert_eq!(worth_checking(&stated(&[DigestKind::Md5]), Some(1 << 30)), [DigestKind::Md5]);
    }
}
