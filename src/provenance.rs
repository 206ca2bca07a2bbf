//! Which build this is: what `build.rs` found out when the program was compiled, as values.
//!
//! Nothing here is read at run time. What is not known is absent, never guessed: a development build has no commit.

use serde_json::{Value, json};

/// What is known of this build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Build {
    /// Version of the package.
    pub version: &'static str,
    /// Commit of the sources, in full.
    pub commit: Option<&'static str>,
    /// Whether the sources differ from the commit.
    pub dirty: Option<bool>,
    /// `SOURCE_DATE_EPOCH`, else the time of the commit; in seconds since 1970.
    pub epoch: Option<i64>,
    /// Version of the compiler.
    pub rustc: Option<&'static str>,
    /// Platform it was built for, as Rust names it.
    pub target: Option<&'static str>,
    /// `release` or `debug`.
    pub profile: Option<&'static str>,
    /// `static`: needs no library of the machine. `dynamic`: needs its C library.
    pub linkage: Option<&'static str>,
}

/// This build.
pub const BUILD: Build = Build {
    version: env!("CARGO_PKG_VERSION"),
    commit: known(env!("KSERVE_LOCAL_BUILD_COMMIT")),
    dirty: truth(env!("KSERVE_LOCAL_BUILD_DIRTY")),
    epoch: number(env!("KSERVE_LOCAL_BUILD_EPOCH")),
    rustc: known(env!("KSERVE_LOCAL_BUILD_RUSTC")),
    target: known(env!("KSERVE_LOCAL_BUILD_TARGET")),
    profile: known(env!("KSERVE_LOCAL_BUILD_PROFILE")),
    linkage: known(env!("KSERVE_LOCAL_BUILD_LINKAGE")),
};

impl Build {
    /// Returns the first digits of the commit, with a `+` when the sources differ from it.
    pub fn short_commit(&self) -> Option<String> {
        let digits = self.commit?.get(..12)?;
        Some(format!("{digits}{}", if self.dirty == Some(true) { "+" } else { "" }))
    }

    /// Returns the day of the build, as `2026-11-22`.
    pub fn day(&self) -> Option<String> {
        self.date().map(|date| date[..10].to_owned())
    }

    /// Returns the time of the build in RFC 3339, in UTC.
    pub fn date(&self) -> Option<String> {
        Some(jiff::Timestamp::from_second(self.epoch?).ok()?.to_string())
    }

    /// Returns it as JSON, for `version -o json`.
    pub fn to_json(&self) -> Value {
        json!({
            "commit": self.commit, "dirty": self.dirty, "date": self.date(), "rustc": self.rustc,
            "target": self.target, "profile": self.profile, "linkage": self.linkage,
        })
    }
}

const fn known(text: &'static str) -> Option<&'static str> {
    if text.is_empty() { None } else { Some(text) }
}

const fn truth(text: &str) -> Option<bool> {
    match text.as_bytes() {
        b"true" => Some(true),
        b"false" => Some(false),
        _ => None,
    }
}

/// Reads a number of at most 18 digits; anything else is no time of a build.
const fn number(text: &str) -> Option<i64> {
    let digits = text.as_bytes();
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    let (mut value, mut at) = (0_i64, 0);
    while at < digits.len() {
        if !digits[at].is_ascii_digit() {
            return None;
        }
        value = value * 10 + (digits[at] - b'0') as i64;
        at += 1;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: Build = Build {
        commit: Some("0123456789abcdef0123456789abcdef01234567"),
        dirty: Some(false),
        epoch: Some(1_700_000_000),
        ..BUILD
    };

    #[test]
    fn a_build_of_changed_sources_is_marked() {
        assert_eq!(SAMPLE.short_commit().as_deref(), Some("0123456789ab"));
        assert_eq!(Build { dirty: Some(true), ..SAMPLE }.short_commit().as_deref(), Some("0123456789ab+"));
        assert_eq!(Build { commit: None, ..SAMPLE }.short_commit(), None);
    }

    #[test]
    fn the_date_is_what_the_build_was_told() {
        assert_eq!(SAMPLE.date().as_deref(), Some("2023-11-14T22:13:20Z"));
        assert_eq!(SAMPLE.day().as_deref(), Some("2023-11-14"));
        assert_eq!(number("1700000000"), Some(1_700_000_000));
        assert_eq!([number(""), number("-1"), number("yesterday"), number("9999999999999999999")], [None; 4]);
    }

    #[test]
    fn a_development_build_claims_no_commit() {
        assert_eq!(BUILD.profile, Some("debug"));
        assert_eq!(BUILD.to_json()["rustc"].as_str().map(|version| version.contains('.')), Some(true));
        assert!(BUILD.target.is_some_and(|target| target.contains(std::env::consts::ARCH)));
    }
}
