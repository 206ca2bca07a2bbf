//! `STORAGE_ALLOW_PATTERNS` and `STORAGE_IGNORE_PATTERNS`: which files of a model are wanted (§3.2).
//!
//! A pattern is a shell's, matched against the whole path below the model; `*` stands for slashes too, as Python's
//! `fnmatch` has it.

use crate::api::StorageUri;

/// The variable with patterns of which one has to match.
pub const ALLOW: &str = "STORAGE_ALLOW_PATTERNS";
/// The variable with patterns of which none may match.
pub const IGNORE: &str = "STORAGE_IGNORE_PATTERNS";

/// Which files are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns {
    /// One of these matches; none allows all.
    pub allow: Vec<String>,
    /// None of these matches.
    pub ignore: Vec<String>,
}

impl Patterns {
    /// Reads them from variables.
    pub fn of<'v>(variable: impl Fn(&str) -> Option<&'v str>) -> Self {
        let list = |name| variable(name).map(read).unwrap_or_default();
        Self { allow: list(ALLOW), ignore: list(IGNORE) }
    }

    /// Names the part of a model that is wanted. Files, archives, repositories of git and images are taken whole, as
    /// upstream does; so are local folders, which are mounted where they are.
    #[must_use]
    pub fn part(&self, uri: StorageUri) -> StorageUri {
        let listed = matches!(
            uri.bare(),
            StorageUri::S3 { .. }
                | StorageUri::Gs { .. }
                | StorageUri::AzureBlob(_)
                | StorageUri::AzureFile(_)
                | StorageUri::Hdfs(_)
                | StorageUri::HuggingFace { .. }
                | StorageUri::ModelScope { .. }
        );
        if !listed || (self.allow.is_empty() && self.ignore.is_empty()) {
            return uri;
        }
        StorageUri::Part { allow: self.allow.clone(), ignore: self.ignore.clone(), uri: Box::new(uri) }
    }
}

/// A JSON list of texts, else texts between commas.
fn read(text: &str) -> Vec<String> {
    let listed: Vec<String> = match serde_json::from_str::<Vec<String>>(text) {
        Ok(listed) => listed,
        Err(_) => text.split(',').map(str::to_owned).collect(),
    };
    listed.iter().map(|pattern| pattern.trim().to_owned()).filter(|pattern| !pattern.is_empty()).collect()
}

/// Whether a file is wanted: one of `allow` matches, when there are any, and none of `ignore`.
pub fn wanted(path: &str, allow: &[String], ignore: &[String]) -> bool {
    let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, path));
    (allow.is_empty() || any(allow)) && !any(ignore)
}

/// Matches the whole of a text; a pattern that ends in `/` means everything below.
fn matches(pattern: &str, text: &str) -> bool {
    let mut pattern: Vec<char> = pattern.chars().collect();
    if pattern.last() == Some(&'/') {
        pattern.push('*');
    }
    let text: Vec<char> = text.chars().collect();
    // Where the last star stands, and what it stood for; going back to it alone is enough.
    let (mut at, mut read, mut star) = (0, 0, None);
    while read < text.len() {
        if pattern.get(at) == Some(&'*') {
            star = Some((at, read));
            at += 1;
        } else if let Some(next) = pattern.get(at).and_then(|_| one(&pattern[at..], text[read])) {
            at += next;
            read += 1;
        } else if let Some((star_at, stood)) = star {
            star = Some((star_at, stood + 1));
            (at, read) = (star_at + 1, stood + 1);
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

/// Matches one character; returns how long the pattern for it is.
fn one(pattern: &[char], c: char) -> Option<usize> {
    match pattern[0] {
        '?' => Some(1),
        '[' => {
            let negated = pattern.get(1) == Some(&'!');
            let first = if negated { 2 } else { 1 };
            // A bracket right after the opening one is meant itself.
            let Some(length) = pattern.iter().skip(first + 1).position(|c| *c == ']') else {
                return (c == '[').then_some(1);
            };
            let end = first + 1 + length;
            (in_set(&pattern[first..end], c) != negated).then_some(end + 1)
        }
        own => (own == c).then_some(1),
    }
}

fn in_set(set: &[char], c: char) -> bool {
    let mut at = 0;
    while at < set.len() {
        if set.get(at + 1) == Some(&'-') && at + 2 < set.len() {
            if (set[at]..=set[at + 2]).contains(&c) {
                return true;
            }
            at += 3;
        } else {
            if set[at] == c {
                return true;
            }
            at += 1;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_pythons_fnmatch_does() {
        for (pattern, text, expected) in [
            ("*.json", "config.json", true),
            ("*.json", "deep/er/config.json", true),
            ("*.json", "config.json.bak", false),
            ("config.*", "deep/config.json", false),
            ("original/", "original/a/b", true),
            ("original/*", "original", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[ab].bin", "b.bin", true),
            ("[!ab].bin", "b.bin", false),
            ("[!ab].bin", "c.bin", true),
            ("[0-9]*.bin", "7-x.bin", true),
            ("[0-9]*.bin", "x7.bin", false),
            ("[]].bin", "].bin", true),
            ("[", "[", true),
            ("[a", "[a", true),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxbxxcx", false),
            ("Model.bin", "model.bin", false),
            ("*.safetensors", "model-00001-of-00002.safetensors", true),
            ("**/x", "a/b/x", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern:?} {text:?}");
        }
    }

    #[test]
    fn lists_are_json_or_between_commas_and_allowing_goes_before_ignoring() {
        assert_eq!(read("[\"*.json\", \" *.bin \"]"), ["*.json", "*.bin"]);
        assert_eq!(read(" *.json, *.bin ,,"), ["*.json", "*.bin"]);
        assert_eq!(read(""), [""; 0]);
        let allow = ["*.json".to_owned(), "*.bin".to_owned()];
        let ignore = ["secret*".to_owned()];
        for (path, expected) in [("a.json", true), ("a.txt", false), ("secret.json", false)] {
            assert_eq!(wanted(path, &allow, &ignore), expected, "{path}");
        }
        assert!(wanted("a.txt", &[], &ignore));
    }

    #[test]
    fn a_part_of_a_model_is_another_model_and_single_files_are_taken_whole() {
        let patterns = Patterns { allow: vec!["*.json".to_owned()], ignore: vec!["b*".to_owned()] };
        let part = |uri: &str| patterns.part(StorageUri::parse(uri).unwrap());
        assert_eq!(part("hf://o/m").redacted(), "hf://o/m only *.json without b*");
        assert_ne!(part("s3://b/m").to_string(), "s3://b/m");
        for whole in ["https://h/f.bin", "/srv/m", "https://h/r.git", "oci://i"] {
            assert!(!matches!(part(whole), StorageUri::Part { .. }), "{whole}");
        }
        assert_eq!(Patterns::default().part(StorageUri::parse("hf://o/m").unwrap()).to_string(), "hf://o/m");
    }
}
