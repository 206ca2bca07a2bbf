//! Names chosen by servers and archives, checked before they become paths.
//!
//! Such a name is data: it may say where below the model folder a file goes, and nothing else. What is refused is refused
//! loudly, because a silently renamed file is a broken model.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use camino::{Utf8Path, Utf8PathBuf};

/// Longest name of one file or folder, in bytes, that common file systems take.
const LONGEST_PART: usize = 255;
/// Longest relative path in bytes; leaves room for the cache's own folder within the usual 4096.
const LONGEST_PATH: usize = 2048;

/// Why a name is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing is left of it.
    #[error("it has an empty name")]
    Empty,
    /// It begins with `/`.
    #[error("`{0}` is an absolute path")]
    Absolute(String),
    /// It has a `..`.
    #[error("`{0}` leaves the model folder")]
    Outside(String),
    /// It has a character no file name should have.
    #[error("`{0}` holds a control character or a backslash")]
    Character(String),
    /// It is longer than file systems take.
    #[error("the name that begins with `{0}` is too long")]
    TooLong(String),
    /// Two entries want the same name.
    #[error("`{0}` is there twice")]
    Twice(String),
    /// One entry's file is another's folder.
    #[error("`{0}` is both a file and a folder")]
    FileAndFolder(String),
}

/// Checks a name and returns it as a relative path without `.` parts.
///
/// # Errors
/// The name is not one below the model folder; see [`NameError`].
pub fn check(name: &str) -> Result<Utf8PathBuf, NameError> {
    let shown = || name.escape_debug().take(100).collect::<String>();
    if name.contains(|c: char| c.is_control() || c == '\\') {
        return Err(NameError::Character(shown()));
    }
    if name.starts_with('/') {
        return Err(NameError::Absolute(shown()));
    }
    let mut path = Utf8PathBuf::new();
    for part in name.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            return Err(NameError::Outside(shown()));
        }
        if part.len() > LONGEST_PART {
            return Err(NameError::TooLong(shown()));
        }
        path.push(part);
    }
    match path.as_str().len() {
        0 => Err(NameError::Empty),
        length if length > LONGEST_PATH => Err(NameError::TooLong(shown())),
        _ => Ok(path),
    }
}

/// What has been placed in a model folder so far; refuses a second claim on a name.
#[derive(Debug, Default)]
pub struct Placed {
    /// By what the file system compares: whether it is a folder.
    names: BTreeMap<String, bool>,
}

impl Placed {
    /// Claims a file's name, and the folders above it.
    ///
    /// # Errors
    /// The name is taken, or one of the folders above it is a file.
    pub fn file(&mut self, path: &Utf8Path) -> Result<(), NameError> {
        self.folders_above(path)?;
        match self.names.entry(compared(path)) {
            Entry::Vacant(free) => {
                free.insert(false);
                Ok(())
            }
            Entry::Occupied(taken) if *taken.get() => Err(NameError::FileAndFolder(path.to_string())),
            Entry::Occupied(_) => Err(NameError::Twice(path.to_string())),
        }
    }

    /// Claims a folder, which may be claimed more than once.
    ///
    /// # Errors
    /// It, or one of the folders above it, is a file.
    pub fn folder(&mut self, path: &Utf8Path) -> Result<(), NameError> {
        self.folders_above(path)?;
        match *self.names.entry(compared(path)).or_insert(true) {
            true => Ok(()),
            false => Err(NameError::FileAndFolder(path.to_string())),
        }
    }

    fn folders_above(&mut self, path: &Utf8Path) -> Result<(), NameError> {
        match path.parent().filter(|above| !above.as_str().is_empty()) {
            Some(above) => self.folder(above),
            None => Ok(()),
        }
    }
}

/// Returns what two names share when this machine's file systems may take them for the same.
fn compared(path: &Utf8Path) -> String {
    if cfg!(any(target_os = "macos", windows)) { path.as_str().to_lowercase() } else { path.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_below_the_model_folder_or_is_refused() {
        let long = "x".repeat(256);
        let deep = "ab/".repeat(1000);
        let table = [
            ("model.joblib", Ok("model.joblib")),
            ("1/variables/v-0 of 1", Ok("1/variables/v-0 of 1")),
            ("./a//b/./c", Ok("a/b/c")),
            ("a...b", Ok("a...b")),
            ("~/x", Ok("~/x")),
            ("", Err(NameError::Empty)),
            ("./", Err(NameError::Empty)),
            ("/etc/passwd", Err(NameError::Absolute("/etc/passwd".into()))),
            ("..", Err(NameError::Outside("..".into()))),
            ("a/../../b", Err(NameError::Outside("a/../../b".into()))),
            ("a/..", Err(NameError::Outside("a/..".into()))),
            ("a\0b", Err(NameError::Character("a\\0b".into()))),
            ("a\nb", Err(NameError::Character("a\\nb".into()))),
            ("..\\..\\x", Err(NameError::Character("..\\\\..\\\\x".into()))),
            (&long, Err(NameError::TooLong("x".repeat(100)))),
            (&deep, Err(NameError::TooLong(deep[..100].into()))),
        ];
        for (name, expected) in table {
            assert_eq!(check(name), expected.map(Utf8PathBuf::from), "{name:?}");
        }
    }

    #[test]
    fn a_name_is_placed_once_and_is_a_file_or_a_folder() {
        let mut placed = Placed::default();
        assert_eq!(placed.file("a/b".into()), Ok(()));
        assert_eq!(placed.folder("a".into()), Ok(()));
        assert_eq!(placed.file("a/b".into()), Err(NameError::Twice("a/b".into())));
        assert_eq!(placed.file("a".into()), Err(NameError::FileAndFolder("a".into())));
        assert_eq!(placed.file("a/b/c".into()), Err(NameError::FileAndFolder("a/b".into())));
        assert_eq!(placed.folder("a/b".into()), Err(NameError::FileAndFolder("a/b".into())));
        assert_eq!(placed.folder("c/d".into()), Ok(()));
        assert_eq!(placed.folder("c/d".into()), Ok(()));
    }
}
