//! Where the home folder is.

use std::path::PathBuf;

use camino::{Utf8Path, Utf8PathBuf};
use directories::UserDirs;

/// Environment variable that names the home folder.
pub const HOME_VARIABLE: &str = "KSERVE_LOCAL_HOME";

/// Returns the home folder, absolute: the flag, else `KSERVE_LOCAL_HOME`, else `~/.kserve-local`.
pub fn home(flag: Option<PathBuf>) -> Utf8PathBuf {
    let named = flag.or_else(|| std::env::var_os(HOME_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from));
    let path = named.unwrap_or_else(|| {
        let user = UserDirs::new().map(|dirs| dirs.home_dir().to_owned());
        user.unwrap_or_else(|| PathBuf::from(".")).join(".kserve-local")
    });
    let path = std::path::absolute(&path).unwrap_or(path);
    Utf8PathBuf::from(path.to_string_lossy().into_owned())
}

/// Returns a path as it is shown: below the user's own folder with `~`.
pub fn shown(path: &Utf8Path) -> String {
    let user = UserDirs::new().and_then(|dirs| Utf8PathBuf::from_path_buf(dirs.home_dir().to_owned()).ok());
    match user.as_ref().and_then(|user| path.strip_prefix(user).ok()) {
        Some(rest) => format!("~/{rest}"),
        None => path.to_string(),
    }
}

/// Returns the flag that leads another call to this home, or nothing when it is the usual one.
pub fn flag_for(chosen: &Utf8Path) -> String {
    if chosen == home(None) { String::new() } else { format!(" --home {}", quoted(chosen.as_str())) }
}

/// Quotes a word for a shell when it needs it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_wins_and_becomes_absolute() {
        assert_eq!(home(Some(PathBuf::from("/tmp/x"))), "/tmp/x");
        assert!(home(Some(PathBuf::from("relative"))).is_absolute());
    }

    #[test]
    fn words_are_quoted_only_when_a_shell_needs_it() {
        assert_eq!(quoted("/a/b-c.yaml"), "/a/b-c.yaml");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }
}
