//! What a program of someone else put into a folder, as files of a model.
//!
//! Names and links are its affair and are not trusted: a link that leads out of the folder is refused, and so is whatever
//! is neither file nor folder.

use std::fs;

use camino::{Utf8Path, Utf8PathBuf};

use super::{Nearby, RemoteFile, SourceError};

/// What a symbolic link may be followed through.
const MOST_LINKS: usize = 16;

/// A file that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Walked {
    /// Where it is in the model.
    pub(super) path: Utf8PathBuf,
    /// Where its content is: elsewhere when it is a link.
    pub(super) real: Utf8PathBuf,
    /// Bytes.
    pub(super) size: u64,
    /// Whether the content is at its own place.
    own: bool,
}

/// Finds every file below a folder; `owner` says whose they are. Symbolic links that stay inside are files. Blocking.
///
/// # Errors
/// Something leads out of the folder, is no file, or cannot be read.
pub(super) fn walk(root: &Utf8Path, owner: &str) -> Result<Vec<Walked>, SourceError> {
    let unread = |path: &Utf8Path, error: std::io::Error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            SourceError::Denied(format!("`{path}` of {owner} cannot be read by this user: {error}"))
        }
        std::io::ErrorKind::InvalidData => {
            SourceError::Invalid(format!("{owner} has a name in `{path}` that is no UTF-8 text"))
        }
        _ => SourceError::transient(format!("could not read what {owner} has"), error),
    };
    let mut files = Vec::new();
    let mut folders = vec![(root.to_owned(), 0)];
    let base = root.canonicalize_utf8().map_err(|error| unread(root, error))?;
    while let Some((folder, links)) = folders.pop() {
        let relative = |path: &Utf8Path| path.strip_prefix(root).unwrap_or(path).to_owned();
        for entry in folder.read_dir_utf8().map_err(|error| unread(&relative(&folder), error))? {
            let path = entry.map_err(|error| unread(&relative(&folder), error))?.into_path();
            let name = relative(&path);
            let is_link = fs::symlink_metadata(&path).map_err(|error| unread(&name, error))?.is_symlink();
            let real = match path.canonicalize_utf8() {
                Ok(real) if real.starts_with(&base) && links + usize::from(is_link) <= MOST_LINKS => real,
                _ => {
                    return Err(SourceError::Invalid(format!("`{name}` of {owner} is a link that leads out of it")));
                }
            };
            let meta = fs::metadata(&real).map_err(|error| unread(&name, error))?;
            if meta.is_dir() {
                folders.push((path, links + usize::from(is_link)));
            } else if meta.is_file() {
                let own = !is_link && links == 0;
                files.push(Walked { path: name, real: if own { path } else { real }, size: meta.len(), own });
            } else {
                return Err(SourceError::Invalid(format!("`{name}` of {owner} is neither a file nor a folder")));
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// Makes them files of a model that need not be fetched. Links come first: they are copies of files that are moved away
/// afterwards.
pub(super) fn remote_files(files: Vec<Walked>, version: Option<&str>) -> Vec<RemoteFile> {
    let (links, own): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| !file.own);
    let remote = |file: Walked| RemoteFile {
        key: file.path.to_string(),
        nearby: Some(if file.own { Nearby::Ours(file.real) } else { Nearby::Theirs(file.real) }),
        path: file.path,
        size: Some(file.size),
        version: version.map(str::to_owned),
        ..RemoteFile::default()
    };
    links.into_iter().chain(own).map(remote).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_stay_inside_are_files_and_what_leads_out_is_refused() {
        let machine = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(machine.path()).unwrap().join("m");
        fs::create_dir_all(root.join("deep")).unwrap();
        fs::write(root.join("deep/a"), "12345").unwrap();
        std::os::unix::fs::symlink("deep/a", root.join("b")).unwrap();
        std::os::unix::fs::symlink("deep", root.join("also")).unwrap();
        let found = walk(&root, "it").unwrap();
        let rows: Vec<_> = found.iter().map(|file| (file.path.as_str(), file.size, file.own)).collect();
        assert_eq!(rows, [("also/a", 5, false), ("b", 5, false), ("deep/a", 5, true)]);
        let remote = remote_files(found, None);
        assert!(matches!(remote[2].nearby, Some(Nearby::Ours(_))), "moved last: {remote:?}");
        for target in ["/etc/passwd", "../outside", "again"] {
            std::os::unix::fs::symlink(target, root.join("again")).unwrap();
            let error = walk(&root, "it").unwrap_err();
            assert!(error.to_string().contains("leads out of it"), "{target}: {error}");
            fs::remove_file(root.join("again")).unwrap();
        }
        rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe").as_str(), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .unwrap();
        assert!(walk(&root, "it").unwrap_err().to_string().contains("neither a file nor a folder"));
    }
}
