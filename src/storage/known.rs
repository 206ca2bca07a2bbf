//! Which contents are in the cache already, by what a listing says of a file.
//!
//! Read from the records of the models that are here, so there is no index that could be wrong. A file is known by size
//! together with a digest that names content and was checked when it came, or with the ETag of a multipart upload, which
//! is an MD5 of MD5s with the number of parts. A listing's ETag that is a known content's MD5 means that content. Other
//! ETags (a web server's time and size) say nothing across files.

use std::collections::HashMap;
use std::io;

use camino::Utf8Path;

use super::blobs::Blobs;
use super::cache::Cache;
use super::digest::DigestKind;
use super::record::RecordedFile;
use super::{RemoteFile, StatedDigest};

/// Contents by their marks.
#[derive(Debug, Default)]
pub(super) struct Known {
    contents: HashMap<(String, u64), RecordedFile>,
}

impl Known {
    /// Reads what the cache holds. Blocking, one small file per model.
    ///
    /// # Errors
    /// The cache cannot be read.
    pub(super) fn read(cache: &Cache) -> io::Result<Self> {
        let mut known = Self::default();
        for (_, record) in cache.records()? {
            record.files.into_iter().for_each(|file| known.add(file));
        }
        Ok(known)
    }

    fn add(&mut self, file: RecordedFile) {
        if file.sha256.is_empty() {
            return;
        }
        let own = StatedDigest { kind: DigestKind::Sha256, hex: file.sha256.clone(), part: None };
        let digests = file.digests.iter().chain([&own]).filter_map(mark);
        // An ETag alone is no proof: some web servers hash a file's time and size into one that looks like an MD5.
        let counted = file.etag.as_deref().and_then(etag_mark).filter(|etag| etag.contains('-'));
        let marks: Vec<String> = digests.chain(counted).collect();
        for mark in marks {
            self.contents.insert((mark, file.size), file.clone());
        }
    }

    /// Returns what is known to have the content of a file.
    pub(super) fn find(&self, file: &RemoteFile) -> Option<&RecordedFile> {
        let size = file.size?;
        let digests = file.digests.iter().filter_map(mark);
        let mut marks = digests.chain(file.etag.as_deref().and_then(etag_mark));
        marks.find_map(|mark| self.contents.get(&(mark, size)))
    }
}

fn mark(digest: &StatedDigest) -> Option<String> {
    (digest.kind.names_content() && digest.part.is_none()).then(|| match digest.kind {
        // One name for an MD5, stated as a digest or as an ETag.
        DigestKind::Md5 => digest.hex.clone(),
        kind => format!("{kind}:{}", digest.hex),
    })
}

fn etag_mark(etag: &str) -> Option<String> {
    let etag = etag.trim_matches('"').to_ascii_lowercase();
    let (digits, parts) = etag.split_once('-').map_or((etag.as_str(), None), |(digits, parts)| (digits, Some(parts)));
    let is_md5 = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let counted = parts.is_none_or(|parts| !parts.is_empty() && parts.bytes().all(|byte| byte.is_ascii_digit()));
    (is_md5 && counted).then_some(etag)
}

/// Links the files that are here already into `folder`, and returns them; the others have to be fetched. Blocking.
///
/// # Errors
/// The disk.
pub(super) fn link_known(
    cache: &Cache,
    files: &[RemoteFile],
    folder: &Utf8Path,
) -> io::Result<HashMap<usize, RecordedFile>> {
    let known = Known::read(cache)?;
    let blobs: &Blobs = cache.blobs();
    super::cache::remove_tree(folder)?;
    let mut linked = HashMap::new();
    for (index, file) in files.iter().enumerate() {
        let Some(content) = known.find(file) else { continue };
        if blobs.link(&content.sha256, content.size, &folder.join(&file.path))? {
            let RecordedFile { size, sha256, digests, .. } = content.clone();
            let (path, etag) = (file.path.clone(), file.etag.clone());
            linked.insert(index, RecordedFile { path, size, sha256, digests, etag });
        }
    }
    Ok(linked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_is_known_by_size_and_digest_or_a_stores_etag() {
        let sha256 = "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225";
        let md5 = "25f9e794323b453885f5181f1b624d0b";
        let etag = |etag: &str| Some(format!("\"{etag}\""));
        let mut known = Known::default();
        let digests = vec![StatedDigest::from_hex(DigestKind::Md5, md5).unwrap()];
        known.add(RecordedFile { size: 9, sha256: sha256.into(), digests, ..RecordedFile::default() });
        known.add(RecordedFile { size: 5, sha256: "fifth".into(), etag: etag(md5), ..RecordedFile::default() });
        let parts = format!("{md5}-3");
        known.add(RecordedFile { size: 8, sha256: "other".into(), etag: etag(&parts), ..RecordedFile::default() });
        known.add(RecordedFile { size: 7, sha256: "third".into(), etag: etag("5f3c-7"), ..RecordedFile::default() });
        let find = |size, etag: Option<String>, digests: &[StatedDigest]| {
            let file = RemoteFile { size, etag, digests: digests.to_vec(), ..RemoteFile::default() };
            known.find(&file).map(|file| file.sha256.chars().take(5).collect::<String>())
        };
        let digest = |kind, hex: &str| [StatedDigest::from_hex(kind, hex).unwrap()];
        assert_eq!(find(Some(9), etag(md5), &[]).as_deref(), Some("15e2b"));
        assert_eq!(find(Some(9), None, &digest(DigestKind::Sha256, sha256)).as_deref(), Some("15e2b"));
        assert_eq!(find(Some(9), None, &digest(DigestKind::Md5, md5)).as_deref(), Some("15e2b"));
        assert_eq!(find(Some(8), etag(&parts), &[]).as_deref(), Some("other"));
        assert_eq!(find(Some(8), etag(md5), &[]), None, "the size is another");
        assert_eq!(find(Some(5), etag(md5), &[]), None, "nobody has checked that it is an MD5");
        assert_eq!(find(None, etag(md5), &[]), None);
        assert_eq!(find(Some(7), etag("5f3c-7"), &[]), None, "a web server's ETag does not name content");
    }
}
