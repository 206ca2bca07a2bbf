//! Who wrote which field: `metadata.managedFields`.
//!
//! Files do not carry it: it would bury what people write. It is kept beside the identities, in `state/`, by the object's
//! uid. Losing the file costs the memory of who wrote what, so no conflicts are told until things are written again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use camino::Utf8PathBuf;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::fields::{FieldSet, find};
use super::pods::whole_seconds;
use crate::home::write_atomically;

/// How a manager writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It says all that it wants, each time.
    Apply,
    /// It changes what it names.
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// One manager of an object, and its fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Manager {
    /// Its name.
    pub name: String,
    /// How it writes.
    pub operation: Operation,
    /// Version of the schema it wrote in.
    pub api_version: String,
    /// When it last wrote something new.
    pub time: Option<String>,
    /// What it owns.
    pub fields: FieldSet,
}

impl Manager {
    /// Whether this is the manager of that name and operation.
    pub fn is(&self, name: &str, operation: Operation) -> bool {
        self.name == name && self.operation == operation
    }
}

/// Reads `managedFields`; an entry that cannot be read is left out.
pub fn read(managed: &Value) -> Vec<Manager> {
    let entry = |entry: &Value| {
        let operation = match entry["operation"].as_str()? {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        Some(Manager {
            name: entry["manager"].as_str()?.to_owned(),
            operation,
            api_version: entry["apiVersion"].as_str().unwrap_or_default().to_owned(),
            time: entry["time"].as_str().map(str::to_owned),
            fields: FieldSet::from_v1(&entry["fieldsV1"]),
        })
    };
    managed.as_array().into_iter().flatten().filter_map(entry).collect()
}

/// Writes `managedFields`.
pub fn write(managers: &[Manager]) -> Value {
    let entry = |manager: &Manager| {
        let mut entry = json!({
            "manager": manager.name,
            "operation": manager.operation.as_str(),
            "apiVersion": manager.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": manager.fields.to_v1(),
        });
        if let Some(time) = &manager.time {
            entry["time"] = json!(time);
        }
        entry
    };
    managers.iter().map(entry).collect()
}

/// Gives a manager what it changed from `before` to `after`, and takes it from the others.
pub fn update(managers: &mut Vec<Manager>, before: &Value, after: &Value, writer: &str, version: &str, now: Timestamp) {
    let fields = FieldSet::of(after).0;
    for manager in managers.iter_mut() {
        manager.fields.0.retain(|path| find(after, path).is_some());
    }
    let changed = |path: &&super::fields::Path| find(before, path) != find(after, path);
    // An element of a list is new or it is not; that its fields changed is their matter.
    let changed: Vec<_> = fields
        .iter()
        .filter(changed)
        .filter(|path| !matches!(path.last(), Some(super::fields::Element::Keys(_))) || find(before, path).is_none())
        .cloned()
        .collect();
    if !changed.is_empty() {
        for manager in managers.iter_mut().filter(|manager| !manager.is(writer, Operation::Update)) {
            manager.fields.0.retain(|path| !changed.contains(path));
        }
        let own = own(managers, writer, Operation::Update, version);
        own.fields.0.extend(changed);
        own.time = Some(whole_seconds(now));
    }
    managers.retain(|manager| !manager.fields.0.is_empty());
}

/// Returns a manager's entry, made when it has none.
pub fn own<'m>(managers: &'m mut Vec<Manager>, name: &str, operation: Operation, version: &str) -> &'m mut Manager {
    let place = managers.iter().position(|manager| manager.is(name, operation)).unwrap_or_else(|| {
        managers.push(Manager {
            name: name.to_owned(),
            operation,
            api_version: version.to_owned(),
            time: None,
            fields: FieldSet::default(),
        });
        managers.len() - 1
    });
    let own = &mut managers[place];
    version.clone_into(&mut own.api_version);
    own
}

/// `managedFields` of every object, by uid, kept across restarts.
#[derive(Debug)]
pub struct Managers {
    path: Utf8PathBuf,
    known: Mutex<BTreeMap<String, Value>>,
}

impl Managers {
    /// Reads what an earlier daemon kept; a file that cannot be read is as none.
    pub fn open(path: Utf8PathBuf) -> Self {
        let known = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%path, %error, "the record of who wrote which field is damaged and not used");
                BTreeMap::new()
            }),
            Err(_) => BTreeMap::new(),
        };
        Self { path, known: Mutex::new(known) }
    }

    /// Returns an object's `managedFields`; null when nobody is known.
    pub fn get(&self, uid: &str) -> Value {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned().unwrap_or_default()
    }

    /// Remembers an object's, and forgets those of objects that are gone.
    pub fn set(&self, uid: &str, managed: Value, lives: impl Fn(&str) -> bool) {
        let bytes = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.get(uid) == Some(&managed) {
                return;
            }
            known.insert(uid.to_owned(), managed);
            known.retain(|known, _| known == uid || lives(known));
            serde_json::to_vec(&*known)
        };
        let saved = bytes.map_err(std::io::Error::other).and_then(|bytes| write_atomically(&self.path, &bytes, 0o600));
        if let Err(error) = saved {
            tracing::warn!(path = %self.path, %error, "could not save who wrote which field");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn object(min: i64, image: &str) -> Value {
        json!({"spec": {"minReplicas": min, "containers": [{"name": "c", "image": image}]}})
    }

    #[test]
    fn a_field_belongs_to_who_changed_it_last() {
        let mut managers = Vec::new();
        update(&mut managers, &Value::Null, &object(1, "a"), "first", "v1", at(1));
        update(&mut managers, &object(1, "a"), &object(2, "a"), "second", "v1", at(2));
        update(&mut managers, &object(2, "a"), &object(2, "a"), "third", "v1", at(3));
        let written = write(&managers);
        assert_eq!(managers.len(), 2);
        assert_eq!(written[1]["fieldsV1"], json!({"f:spec": {"f:minReplicas": {}}}));
        assert!(written[0]["fieldsV1"]["f:spec"].get("f:minReplicas").is_none());
        assert_eq!(read(&written), managers);
        update(&mut managers, &object(2, "a"), &json!({"spec": {"containers": []}}), "third", "v1", at(4));
        assert_eq!(managers.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["third"]);
    }

    #[test]
    fn the_record_survives_and_forgets_the_dead() {
        let folder = tempfile::tempdir().unwrap();
        let path = camino::Utf8Path::from_path(folder.path()).unwrap().join("managers.json");
        let managers = Managers::open(path.clone());
        managers.set("a", json!([1]), |_| true);
        managers.set("b", json!([2]), |uid| uid != "a");
        let again = Managers::open(path);
        assert_eq!((again.get("a"), again.get("b")), (Value::Null, json!([2])));
    }
}
