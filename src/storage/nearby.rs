//! Files that are on this machine already: taken instead of fetched.

use std::fs;
use std::io;

use camino::Utf8Path;

use super::cache::hex;
use super::piece::read_blocks;
use super::{Nearby, RemoteFile};

/// Puts the file into its place and returns its digest and size; none when it is not what the source states. Blocking.
pub(super) fn take(remote: &RemoteFile, target: &Utf8Path) -> io::Result<Option<(String, u64)>> {
    let placed = match &remote.nearby {
        None => return Ok(None),
        Some(Nearby::Ours(path)) => fs::rename(path, target),
        Some(Nearby::Theirs(path)) => link(path, target),
    };
    match placed {
        // A file that went away, or that this user may not read, is fetched like any other.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            return Ok(None);
        }
        placed => placed?,
    }
    let size = fs::metadata(target)?.len();
    let mut sha = <sha2::Sha256 as sha2::Digest>::new();
    read_blocks(target, 0, size, |block| sha2::Digest::update(&mut sha, block))?;
    let sha = hex(&sha2::Digest::finalize(sha));
    let differs = remote.size.is_some_and(|stated| stated != size)
        || remote.sha256.as_ref().is_some_and(|stated| !stated.eq_ignore_ascii_case(&sha));
    if differs {
        fs::remove_file(target)?;
        return Ok(None);
    }
    Ok(Some((sha, size)))
}

fn link(path: &Utf8Path, target: &Utf8Path) -> io::Result<()> {
    // Where caches hold links to their files: the file, not the link.
    let file = fs::canonicalize(path)?;
    fs::hard_link(&file, target).or_else(|_| fs::copy(&file, target).map(drop))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use camino::Utf8PathBuf;

    use super::*;

    fn remote(nearby: Nearby, size: u64, sha256: Option<&str>) -> RemoteFile {
        let sha256 = sha256.map(str::to_owned);
        RemoteFile { path: "m".into(), key: String::new(), size: Some(size), etag: None, sha256, nearby: Some(nearby) }
    }

    #[test]
    fn a_file_of_someone_else_is_linked_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
        let (theirs, target) = (folder.join("blob"), folder.join("target"));
        fs::write(&theirs, "weights").unwrap();
        let (sha, size) = take(&remote(Nearby::Theirs(theirs.clone()), 7, None), &target).unwrap().unwrap();
        assert_eq!((sha.len(), size), (64, 7));
        assert_eq!(fs::metadata(&theirs).unwrap().nlink(), 2);
        fs::remove_file(&target).unwrap();
        for wrong in [remote(Nearby::Theirs(theirs.clone()), 8, None), {
            remote(Nearby::Theirs(theirs.clone()), 7, Some(&"0".repeat(64)))
        }] {
            assert_eq!(take(&wrong, &target).unwrap(), None);
            assert!(!target.exists());
        }
        assert_eq!(take(&remote(Nearby::Theirs(folder.join("gone")), 7, None), &target).unwrap(), None);
        assert_eq!(fs::read(&theirs).unwrap(), b"weights");
    }

    #[test]
    fn a_file_made_for_this_pull_is_moved() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
        fs::write(folder.join("made"), "x").unwrap();
        assert!(take(&remote(Nearby::Ours(folder.join("made")), 1, None), &folder.join("target")).unwrap().is_some());
        assert!(!folder.join("made").exists());
    }
}
