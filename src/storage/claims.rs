//! Who needs which model: services that use it, people and objects that pinned it, and whoever is reading it now.
//!
//! ```text
//! <root>/uses/<holder>.json     models that a daemon's services and containers need
//! <root>/pins/<id>.json         a pinned model, and by whom
//! <root>/models/<id>/lease      locked, shared, by whoever reads the model right now
//! <root>/models/<id>/used       its time says when the model was last taken up or let go
//! ```
//!
//! Uses and pins are files of their own, so they hold while no daemon runs, and for every process. A daemon writes what it
//! needs before it looks for it; a removal takes the model out of sight first, then looks at the claims, and puts it back
//! when there is one. Whatever the order, a claimed model stays. Leases are let go by the system when their holder dies.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::cache::Cache;
use super::local::{self, Found};
use super::record::ModelKey;
use crate::api::StorageUri;
use crate::home::write_atomically;

/// What one daemon needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Uses {
    /// Its home folder; a home that is gone needs nothing.
    home: Utf8PathBuf,
    /// Models by folder name, with what they were fetched from.
    models: BTreeMap<String, String>,
}

/// A pinned model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Name of its folder below `models/`, there or not.
    #[serde(skip)]
    pub id: String,
    /// What it is or will be fetched from, without secrets.
    pub uri: String,
    /// Who pinned it: `cli`, or an object as `LocalModelCache/name`.
    pub by: BTreeSet<String>,
}

/// Who needs models, as read at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    uses: BTreeMap<String, BTreeSet<String>>,
    pins: BTreeMap<String, BTreeSet<String>>,
}

impl Claims {
    /// Returns who uses a model.
    pub fn users(&self, id: &str) -> Vec<&str> {
        self.uses.get(id).into_iter().flatten().map(String::as_str).collect()
    }

    /// Returns who pinned a model.
    pub fn pinners(&self, id: &str) -> Vec<&str> {
        self.pins.get(id).into_iter().flatten().map(String::as_str).collect()
    }

    /// Whether nobody needs a model.
    pub fn is_free(&self, id: &str) -> bool {
        !self.uses.contains_key(id) && !self.pins.contains_key(id)
    }
}

/// Keeps a model where it is while it is read.
#[derive(Debug)]
pub struct Lease {
    _locked: File,
}

impl Cache {
    /// Says which models a daemon needs; everything it said before is over. Call it before looking the models up. Blocking.
    ///
    /// # Errors
    /// The claim cannot be written; then nothing is claimed anew.
    pub fn claim<'a>(
        &self,
        holder: &str,
        home: &Utf8Path,
        uris: impl IntoIterator<Item = &'a StorageUri>,
    ) -> io::Result<()> {
        let models: BTreeMap<String, String> =
            uris.into_iter().filter_map(|uri| Some((self.id_of(uri)?, uri.redacted()))).collect();
        let path = self.uses_folder().join(format!("{holder}.json"));
        let before = read_json::<Uses>(&path).map(|uses| uses.models).unwrap_or_default();
        if before == models && path.exists() {
            return Ok(());
        }
        fs::create_dir_all(self.uses_folder())?;
        let changed =
            before.keys().chain(models.keys()).filter(|id| before.contains_key(*id) != models.contains_key(*id));
        let changed: Vec<String> = changed.cloned().collect();
        write_json(&path, &Uses { home: home.to_owned(), models })?;
        for id in changed {
            self.note_use(&id);
        }
        Ok(())
    }

    /// Pins a model for someone, whether it is here yet or not: it is never removed to make room. Blocking.
    ///
    /// # Errors
    /// The pin cannot be written, or the URI names a folder that is mounted in place.
    pub fn pin(&self, uri: &StorageUri, by: &str) -> io::Result<()> {
        let id = self.id_of(uri).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("`{}` is not kept in the cache", uri.redacted()))
        })?;
        self.pin_id(&id, &uri.redacted(), by)
    }

    /// Pins the model in a folder, as [`Cache::pin`] does. Blocking.
    ///
    /// # Errors
    /// The pin cannot be written.
    pub fn pin_id(&self, id: &str, uri: &str, by: &str) -> io::Result<()> {
        let path = self.pin_file(id);
        let new = || Pin { id: id.to_owned(), uri: uri.to_owned(), by: BTreeSet::new() };
        let _turn = self.turn_at_pins()?;
        let mut pin = read_pin(&path)?.unwrap_or_else(new);
        if !pin.by.insert(by.to_owned()) {
            return Ok(());
        }
        write_json(&path, &pin)
    }

    /// Takes someone's pin off a model. Returns whether there was one. Blocking.
    ///
    /// # Errors
    /// The pin cannot be written.
    pub fn unpin(&self, uri: &StorageUri, by: &str) -> io::Result<bool> {
        self.id_of(uri).map_or(Ok(false), |id| self.unpin_id(&id, by))
    }

    /// Takes someone's pin off the model in a folder. Returns whether there was one. Blocking.
    ///
    /// # Errors
    /// The pin cannot be written.
    pub fn unpin_id(&self, id: &str, by: &str) -> io::Result<bool> {
        let path = self.pin_file(id);
        let _turn = self.turn_at_pins()?;
        let Some(mut pin) = read_pin(&path)? else { return Ok(false) };
        if !pin.by.remove(by) {
            return Ok(false);
        }
        if pin.by.is_empty() { fs::remove_file(&path) } else { write_json(&path, &pin) }.map(|()| true)
    }

    /// Lists what is pinned. Blocking.
    ///
    /// # Errors
    /// The cache cannot be read.
    pub fn pins(&self) -> io::Result<Vec<Pin>> {
        let mut pins = Vec::new();
        for (id, path) in json_files(&self.pins_folder())? {
            pins.extend(read_pin(&path)?.map(|pin| Pin { id, ..pin }));
        }
        Ok(pins)
    }

    /// Reads who needs models now. Blocking.
    ///
    /// # Errors
    /// The cache cannot be read.
    pub fn claims(&self) -> io::Result<Claims> {
        let mut claims = Claims::default();
        for (holder, path) in json_files(&self.uses_folder())? {
            let uses = match read_json::<Uses>(&path) {
                Some(uses) if uses.home.exists() => uses,
                Some(_) => continue,
                None => return Err(io::Error::other(format!("`{path}` cannot be read"))),
            };
            for id in uses.models.into_keys() {
                claims.uses.entry(id).or_default().insert(holder.clone());
            }
        }
        for pin in self.pins()? {
            claims.pins.insert(pin.id, pin.by);
        }
        Ok(claims)
    }

    /// Keeps a model from being removed while it is read. None when it is not here, or is just being removed. Blocking.
    ///
    /// # Errors
    /// The lease cannot be made.
    pub fn lease(&self, id: &str) -> io::Result<Option<Lease>> {
        let path = self.folder_of(id).join("lease");
        let locked = match File::options().create(true).truncate(false).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match locked.try_lock_shared() {
            // It was taken out of sight between the two: then the name is gone.
            Ok(()) => Ok(path.exists().then_some(Lease { _locked: locked })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// Returns the folder name of a model; none for a folder that is mounted in place. Blocking for local URIs.
    pub fn id_of(&self, uri: &StorageUri) -> Option<String> {
        match uri {
            StorageUri::Local(path) => match local::find(Utf8Path::new(path)).ok()? {
                Found::File { key, .. } => Some(key.id().to_owned()),
                Found::Folder(_) => None,
            },
            StorageUri::Pvc { .. } => None,
            remote => Some(ModelKey::of(remote).id().to_owned()),
        }
    }

    fn note_use(&self, id: &str) {
        // The order of removal is all that depends on it.
        let _ = fs::write(self.folder_of(id).join("used"), "");
    }

    fn uses_folder(&self) -> Utf8PathBuf {
        self.root().join("uses")
    }

    fn pins_folder(&self) -> Utf8PathBuf {
        self.root().join("pins")
    }

    /// Waits until no other process changes pins: each change is made to what was read. It ends with the file.
    fn turn_at_pins(&self) -> io::Result<File> {
        fs::create_dir_all(self.pins_folder())?;
        let turn = File::options().create(true).truncate(false).write(true).open(self.pins_folder().join(".lock"))?;
        turn.lock()?;
        Ok(turn)
    }

    fn pin_file(&self, id: &str) -> Utf8PathBuf {
        self.pins_folder().join(format!("{id}.json"))
    }
}

/// Lists `*.json` of a folder by name without the ending.
fn json_files(folder: &Utf8Path) -> io::Result<Vec<(String, Utf8PathBuf)>> {
    let entries = match folder.read_dir_utf8() {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.into_path();
        if let Some(name) = path.file_name().and_then(|name| name.strip_suffix(".json")) {
            found.push((name.to_owned(), path.clone()));
        }
    }
    found.sort();
    Ok(found)
}

/// Reads a pin; none when there is none. One that cannot be read is an error: it must not pass for no pin.
fn read_pin(path: &Utf8Path) -> io::Result<Option<Pin>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            let problem =
                format!("the pin `{path}` cannot be read ({error}); remove it, and pin again what should stay");
            io::Error::new(io::ErrorKind::InvalidData, problem)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io::Error::new(error.kind(), format!("the pin `{path}` cannot be read: {error}"))),
    }
}

fn read_json<T: DeserializeOwned>(path: &Utf8Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn write_json(path: &Utf8Path, value: &impl Serialize) -> io::Result<()> {
    write_atomically(path, &serde_json::to_vec(value)?, 0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Utf8PathBuf::from_path_buf(folder.path().join("cache")).unwrap()).unwrap();
        (folder, cache)
    }

    #[test]
    fn a_pin_that_cannot_be_read_is_not_no_pin() {
        let (_folder, cache) = cache();
        cache.pin_id("0011223344556677", "s3://b/m", "me").unwrap();
        std::fs::write(cache.pin_file("0011223344556677"), "").unwrap();
        assert!(cache.pins().is_err() && cache.claims().is_err());
        assert!(cache.pin_id("0011223344556677", "s3://b/m", "you").is_err());
        assert!(cache.unpin_id("0011223344556677", "me").is_err());
    }

    #[test]
    fn pins_of_many_at_once_are_all_kept() {
        let (_folder, cache) = cache();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let cache = &cache;
                scope.spawn(move || cache.pin_id("0011223344556677", "s3://b/m", &number.to_string()).unwrap());
            }
        });
        assert_eq!(cache.pins().unwrap()[0].by.len(), 8);
    }
}
