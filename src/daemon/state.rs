//! The small files of `state/`: instance, token, addresses, identities.

use std::io;
use std::sync::Arc;

use camino::Utf8Path;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::home::Home;
use crate::home::{restrict, write_atomically};
use crate::store::Ledger;

/// Where a running daemon listens; `state/addresses.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Process id.
    pub pid: u32,
    /// Address of the data plane.
    pub data: String,
    /// Address of the API.
    pub api: String,
    /// Name of the instance.
    pub instance: String,
}

impl Addresses {
    /// Writes the file.
    pub(super) fn save(&self, home: &Home) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        write_atomically(&home.addresses(), &bytes, 0o600)
    }

    /// Removes the file; the daemon is gone.
    pub(super) fn remove(home: &Home) {
        // A file that stays behind names a process that is gone, and the lock tells.
        let _ = std::fs::remove_file(home.addresses());
    }
}

/// Returns the instance's name, made once per home.
pub(super) fn instance(home: &Home) -> io::Result<String> {
    let make = || format!("{:08x}", rand::random::<u32>());
    let text = once(&home.instance(), make)?;
    let valid = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric());
    if valid { Ok(text) } else { Err(io::Error::other(format!("`{}` does not hold a name", home.instance()))) }
}

/// Returns the API's token, made once per home.
pub(super) fn token(home: &Home) -> io::Result<Arc<str>> {
    let make = || format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
    let text = once(&home.token(), make)?;
    restrict(&home.token(), 0o600)?;
    Ok(text.into())
}

fn once(path: &Utf8Path, make: impl FnOnce() -> String) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let text = make();
    write_atomically(path, format!("{text}\n").as_bytes(), 0o600)?;
    Ok(text)
}

/// Returns the identities an earlier daemon gave; none when the record is damaged.
///
/// Versions go on from the time in milliseconds, or from the last one saved when that is later: statuses raise versions
/// too and save nothing, and a client must never see a number of the last daemon again that means something else.
pub(super) fn ledger(home: &Home, now: Timestamp) -> Ledger {
    let mut ledger = saved_ledger(home);
    ledger.version = ledger.version.max(u64::try_from(now.as_millisecond()).unwrap_or_default());
    ledger
}

fn saved_ledger(home: &Home) -> Ledger {
    let Ok(bytes) = std::fs::read(home.objects()) else { return Ledger::default() };
    serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        tracing::warn!(path = %home.objects(), %error, "the record of identities is damaged and not used");
        Ledger::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[test]
    fn versions_do_not_go_back_at_a_restart_whatever_was_not_saved() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(Utf8Path::from_path(folder.path()).unwrap());
        home.create().unwrap();
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = Store::new(ledger(&home, at(1_700_000_000)));
        std::fs::write(home.objects(), serde_json::to_vec(&first.ledger()).unwrap()).unwrap();
        // Fifty statuses, of which the record knows nothing.
        let last_seen = first.snapshot().version + 50;
        let next = Store::new(ledger(&home, at(1_700_000_001)));
        assert!(next.snapshot().version > last_seen);
        assert!(next.changes_since(last_seen).is_err(), "whoever goes on from there is told to look anew");
        // A clock that went back: at least not before what was saved.
        assert_eq!(ledger(&home, at(0)).version, first.ledger().version);
    }
}
