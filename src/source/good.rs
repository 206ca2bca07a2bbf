//! The last good objects, written down for the next daemon: a file that was broken while none ran takes nothing down.

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::pass::Found;
use crate::home::{Home, write_atomically};
use crate::manifest;
use crate::store::{Origin, Store};

/// One line of `state/last-good.json`.
#[derive(Serialize, Deserialize)]
struct GoodObject<P, R> {
    path: P,
    line: usize,
    raw: R,
}

/// Saves the last good objects and the identities. A failure costs only what a restart would have known.
pub(super) fn save(home: &Home, objects: &Found, store: &Store) {
    let good: Vec<GoodObject<&Utf8Path, &Value>> = objects
        .values()
        .filter_map(|(object, origin)| match origin {
            Origin::File { path, line } => Some(GoodObject { path: path.as_path(), line: *line, raw: &*object.raw }),
            _ => None,
        })
        .collect();
    let saves =
        [(home.last_good(), serde_json::to_vec(&good)), (home.objects(), serde_json::to_vec_pretty(&store.ledger()))];
    for (path, bytes) in saves {
        let saved = bytes.map_err(std::io::Error::other).and_then(|bytes| write_atomically(&path, &bytes, 0o600));
        if let Err(error) = saved {
            tracing::warn!(%path, %error, "could not save state");
        }
    }
}

/// Reads the last good objects of an earlier daemon. A file that cannot be read is as none.
pub(super) fn read(home: &Home) -> Found {
    let Ok(bytes) = std::fs::read(home.last_good()) else { return Found::new() };
    let good: Vec<GoodObject<Utf8PathBuf, Value>> = serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        tracing::warn!(path = %home.last_good(), %error, "the record of last good objects is damaged and not used");
        Vec::new()
    });
    let decode = |saved: GoodObject<Utf8PathBuf, Value>| {
        let found = manifest::decode_value(&saved.raw).objects.into_iter().next()?;
        let origin = Origin::File { path: saved.path, line: saved.line };
        Some((found.object.key.clone(), (found.object, origin)))
    };
    good.into_iter().filter_map(decode).collect()
}
