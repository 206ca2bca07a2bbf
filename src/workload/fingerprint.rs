//! A stable hash of what would need a new container.
//!
//! It covers containers and init containers, models, the entry point, `/dev/shm`, hosts entries and the chosen runtime's
//! identity as far as it shows in those. It leaves out what the daemon can change under a running container: replica
//! counts, timeouts, concurrency (unless it became an argument), probes and hooks, readiness, grace, and labels and
//! annotations of the pod. On a cluster any change of the pod template, labels included, makes a revision; here a new
//! label restarts nothing.
//!
//! **Invariant:** the same workload has the same fingerprint in every version of the program, or upgrading would restart
//! every model. So fields are hashed by name, sorted, and a field at its default (empty, false, zero, none) does not
//! count: adding a field to [`ContainerSpec`] changes no fingerprint. A test pins a value.

use sha2::{Digest, Sha256};

use serde_json::{Value, json};

use super::{ContainerSpec, Mount, MountSource, Workload};

/// Names what a workload's containers would be. Equal fingerprints mean that nothing needs replacing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub String);

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns the workload's fingerprint: the first 16 hexadecimal digits of a SHA-256.
pub fn fingerprint(workload: &Workload) -> Fingerprint {
    let containers = |specs: &[ContainerSpec]| specs.iter().map(container).collect::<Vec<_>>();
    let essence = json!({
        "init": containers(&workload.init_containers),
        "containers": containers(&workload.containers),
        "models": workload.models.iter().map(|model| model.uri.to_string()).collect::<Vec<_>>(),
        "entry": workload.entry,
        "shmSize": workload.shm_size,
        "hostAliases": workload.host_aliases,
    });
    let mut hasher = Sha256::new();
    feed(&essence, &mut hasher);
    Fingerprint(hex(&hasher.finalize()[..8]))
}

/// A container without what is not part of it: the daemon runs the probes and hooks.
fn container(spec: &ContainerSpec) -> Value {
    let mut value = serde_json::to_value(spec).expect("a container spec is plain data and always becomes JSON");
    if let Value::Object(fields) = &mut value {
        fields.retain(|key, _| !matches!(key.as_str(), "probes" | "pre_stop"));
        fields.insert("files".to_owned(), spec.mounts.iter().map(files).collect());
        for mount in fields.get_mut("mounts").and_then(Value::as_array_mut).into_iter().flatten() {
            drop(mount.pointer_mut("/source/Files/files").map(Value::take));
        }
    }
    value
}

/// A digest of the files a mount shows, so that neither an empty file nor its contents get lost or out.
fn files(mount: &Mount) -> Value {
    let MountSource::Files { files, .. } = &mount.source else { return Value::Null };
    let digest = files.iter().fold(Sha256::new(), |mut hasher, (path, contents)| {
        text(path, &mut hasher);
        hasher.update(format!("{}:", contents.len()));
        hasher.update(contents);
        hasher
    });
    Value::from(hex(&digest.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hashes a value in a form that says where each part ends; defaults of an object's fields are left out.
fn feed(value: &Value, hasher: &mut Sha256) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().filter(|(_, value)| !is_default(value)).collect();
            fields.sort_by_key(|(key, _)| key.as_str());
            hasher.update(format!("{{{}", fields.len()));
            for (key, value) in fields {
                text(key, hasher);
                feed(value, hasher);
            }
        }
        Value::Array(items) => {
            hasher.update(format!("[{}", items.len()));
            items.iter().for_each(|item| feed(item, hasher));
        }
        Value::String(string) => text(string, hasher),
        other => hasher.update(format!("={other};")),
    }
}

fn text(text: &str, hasher: &mut Sha256) {
    hasher.update(format!("\"{}:", text.len()));
    hasher.update(text);
}

fn is_default(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_default),
    }
}
