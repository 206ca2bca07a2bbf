//! Files that are on this machine already: taken instead of fetched.

use std::fs;
use std::io;

use camino::Utf8Path;

use super::digest::Way;
use super::piece::{Landed, Piece, read_piece};
use super::{Nearby, RemoteFile};

/// Puts the file into its place; none when it is not what the source states. Blocking.
pub(super) fn take(
    remote: &RemoteFile,
    target: &Utf8Path,
    piece: Piece,
    wanted: Vec<Way>,
) -> io::Result<Option<Landed>> {
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
    let landed = read_piece(target, piece, None, wanted)?;
    let differs = remote.size.is_some_and(|stated| stated != landed.size)
        || landed.computed.contradicts(&remote.digests).is_some();
    if differs {
        fs::remove_file(target)?;
        return Ok(None);
    }
    Ok(Some(landed))
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

    use super::super::piece::{Ranges, pieces_of};
    use super::super::{DigestKind, StatedDigest};
    use super::*;

    fn remote(nearby: Nearby, size: u64, sha256: Option<&str>) -> RemoteFile {
        let stated = sha256.and_then(|hex| StatedDigest::from_hex(DigestKind::Sha256, hex));
        RemoteFile {
            path: "m".into(),
            size: Some(size),
            digests: stated.into_iter().collect(),
            nearby: Some(nearby),
            ..RemoteFile::default()
        }
    }

    fn taken(remote: &RemoteFile, target: &Utf8Path) -> Option<u64> {
        let piece = pieces_of(0, remote, 1, Ranges::No)[0];
        take(remote, target, piece, vec![DigestKind::Sha256.into()]).unwrap().map(|landed| landed.size)
    }

    #[test]
    fn a_file_of_someone_else_is_linked_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
        let (theirs, target) = (folder.join("blob"), folder.join("target"));
        fs::write(&theirs, "weights").unwrap();
        assert_eq!(taken(&remote(Nearby::Theirs(theirs.clone()), 7, None), &target), Some(7));
        assert_eq!(fs::metadata(&theirs).unwrap().nlink(), 2);
        fs::remove_file(&target).unwrap();
        for wrong in [remote(Nearby::Theirs(theirs.clone()), 8, None), {
            remote(Nearby::Theirs(theirs.clone()), 7, Some(&"0".repeat(64)))
        }] {
            assert_eq!(taken(&wrong, &target), None);
            assert!(!target.exists());
        }
        assert_eq!(taken(&remote(Nearby::Theirs(folder.join("gone")), 7, None), &target), None);
        assert_eq!(fs::read(&theirs).unwrap(), b"weights");
    }

    #[test]
    fn a_file_made_for_this_pull_is_moved() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
        fs::write(folder.join("made"), "x").unwrap();
        assert_eq!(taken(&remote(Nearby::Ours(folder.join("made")), 1, None), &folder.join("target")), Some(1));
        assert!(!folder.join("made").exists());
    }
}
