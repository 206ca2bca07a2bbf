//! A stable hash of what would need a new container.
//!
//! It covers containers and init containers, models, the entry point, `/dev/shm`, hosts entries and the chosen runtime's
//! identity as far as it shows in those. It leaves out what the daemon can change under a running container: replica
//! counts, timeouts, concurrency (unless it became an argument), probes and hooks, readiness, grace, and labels and
//! annotations of the pod, but for the mark of `kubectl rollout restart`, which asks for just that. On a cluster any change
//! of the pod template, labels included, makes a revision; here a new label restarts nothing.
//!
//! **Invariant:** the same workload has the same fingerprint in every version of the program, or upgrading would restart
//! every model. So fields are hashed by name, sorted, and a field at its default (empty, false, zero, none) does not
//! count: adding a field to [`ContainerSpec`] changes no fingerprint. A test pins a value.

use sha2::{Digest, Sha256};

use serde_json::{Value, json};

use crate::api::meta::RESTARTED_AT;

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
        "restartedAt": workload.annotations.get(RESTARTED_AT),
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

/// Returns eight digits that tell a text from others.
pub(super) fn digest(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes())[..4])
}

/// Returns bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::api::{ComponentKind, ServiceKey, StorageUri};
    use crate::scale::Policy;
    use crate::workload::{
        Check, ComponentKey, EntryPoint, Extras, ModelRef, Probe, Readiness, Resources, Security, UpstreamProtocol,
    };

    fn container() -> ContainerSpec {
        ContainerSpec {
            name: "kserve-container".to_owned(),
            image: "kserve/sklearnserver:v0.20.0".to_owned(),
            args: vec!["--model_name=iris".to_owned()],
            env: vec![("A".to_owned(), "1".to_owned())],
            mounts: vec![
                Mount {
                    path: "/mnt/models".to_owned(),
                    source: MountSource::Model(0),
                    sub_path: None,
                    read_only: true,
                },
                Mount {
                    path: "/etc/conf".to_owned(),
                    source: MountSource::Files {
                        volume: "conf".to_owned(),
                        files: BTreeMap::from([("a".to_owned(), b"secret".to_vec())]),
                        mode: 0o644,
                    },
                    sub_path: None,
                    read_only: true,
                },
            ],
            resources: Resources {
                gpus: BTreeMap::from([("nvidia.com/gpu".to_owned(), 1)]),
                memory_limit: Some(1 << 30),
                ..Resources::default()
            },
            security: Security { run_as_non_root: true, ..Security::default() },
            ..ContainerSpec::default()
        }
    }

    fn workload() -> Workload {
        Workload {
            component: ComponentKey {
                service: ServiceKey::new("default", "iris"),
                component: ComponentKind::Predictor,
            },
            service_name: "iris-predictor".to_owned(),
            init_containers: Vec::new(),
            containers: vec![container()],
            models: vec![ModelRef {
                uri: StorageUri::parse("s3://bucket/iris").unwrap(),
                written: "s3://bucket/iris".to_owned(),
                access: crate::workload::Access::default(),
            }],
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            entry: EntryPoint { port: 8080, protocol: UpstreamProtocol::Http1, grpc_port: None },
            protocol: "v1".to_owned(),
            extras: Extras::default(),
            model_name: "iris".to_owned(),
            readiness: Readiness::PortOpen,
            termination_grace: Duration::from_secs(30),
            timeout: None,
            container_concurrency: None,
            canary_percent: None,
            canary: None,
            scaling: Policy::default(),
            shm_size: None,
            host_aliases: Vec::new(),
            callees: Vec::new(),
            image_pull_secrets: Vec::new(),
            image_access: crate::workload::Access::default(),
            service_account: "default".to_owned(),
            runtime: None,
            model_server: None,
            aliases: Vec::new(),
            memory_is_declared: true,
            priority_class: None,
            warnings: Vec::new(),
        }
    }

    fn changed(change: impl FnOnce(&mut Workload)) -> bool {
        let mut other = workload();
        change(&mut other);
        fingerprint(&other) != fingerprint(&workload())
    }

    #[test]
    fn the_fingerprint_of_a_known_workload_never_changes() {
        // Changing this value restarts every model of everyone who upgrades.
        assert_eq!(fingerprint(&workload()).to_string(), "38205083991b74a4");
    }

    #[test]
    fn what_a_container_is_made_of_counts() {
        assert!(changed(|w| w.containers[0].image.push('x')));
        assert!(changed(|w| w.containers[0].args.push("--x".to_owned())));
        assert!(changed(|w| w.containers[0].env[0].1.push('x')));
        assert!(changed(|w| w.containers[0].resources.memory_limit = None));
        assert!(changed(|w| w.containers[0].mounts[0].read_only = false));
        assert!(changed(|w| w.containers.push(ContainerSpec::default())));
        assert!(changed(|w| w.init_containers.push(container())));
        assert!(changed(|w| w.models[0].uri = StorageUri::parse("s3://bucket/other").unwrap()));
        assert!(changed(|w| w.entry.port = 8081));
        assert!(changed(|w| w.shm_size = Some(1)));
        assert!(changed(|w| w.host_aliases.push(("10.0.0.1".to_owned(), vec!["a".to_owned()]))));
    }

    #[test]
    fn the_contents_of_files_count_empty_ones_too() {
        let files = |change: fn(&mut BTreeMap<String, Vec<u8>>)| {
            changed(|w| match &mut w.containers[0].mounts[1].source {
                MountSource::Files { files, .. } => change(files),
                _ => unreachable!(),
            })
        };
        assert!(files(|files| files.values_mut().for_each(|contents| contents.push(b'x'))));
        assert!(files(|files| drop(files.insert("b".to_owned(), Vec::new()))));
        assert!(files(BTreeMap::clear));
        assert!(!files(|files| drop(files.insert("a".to_owned(), b"secret".to_vec()))));
    }

    #[test]
    fn what_the_daemon_does_itself_does_not_count() {
        assert!(!changed(|w| w.scaling.min = 0));
        assert!(!changed(|w| w.timeout = Some(Duration::from_secs(1))));
        assert!(!changed(|w| w.container_concurrency = Some(1)));
        assert!(!changed(|w| w.termination_grace = Duration::from_secs(1)));
        assert!(!changed(|w| w.readiness = Readiness::Declared));
        assert!(!changed(|w| drop(w.labels.insert("a".to_owned(), "b".to_owned()))));
        assert!(!changed(|w| drop(w.annotations.insert("a".to_owned(), "b".to_owned()))));
        assert!(changed(|w| drop(w.annotations.insert(RESTARTED_AT.to_owned(), "now".to_owned()))));
        assert!(!changed(|w| w.warnings.push("x".to_owned())));
        assert!(!changed(|w| "s3://bucket/./iris".clone_into(&mut w.models[0].written)));
        assert!(!changed(|w| {
            w.containers[0].probes.liveness = Some(Probe {
                check: Check::Tcp { port: 1 },
                initial_delay: Duration::ZERO,
                period: Duration::ZERO,
                timeout: Duration::ZERO,
                success_threshold: 1,
                failure_threshold: 1,
                termination_grace: None,
            });
        }));
    }

    #[test]
    fn neither_the_order_of_fields_nor_a_new_field_at_its_default_changes_a_hash() {
        let hash = |value: Value| {
            let mut hasher = Sha256::new();
            feed(&value, &mut hasher);
            hex(&hasher.finalize())
        };
        let plain = hash(json!({ "a": 1, "b": { "c": ["x", ""] } }));
        assert_eq!(plain, hash(json!({ "b": { "c": ["x", ""] }, "a": 1 })));
        assert_eq!(plain, hash(json!({ "a": 1, "b": { "c": ["x", ""], "new": null, "off": false, "n": 0 }, "d": {} })));
        assert_ne!(plain, hash(json!({ "a": 1, "b": { "c": ["x"] } })));
        assert_ne!(hash(json!(["ab", "c"])), hash(json!(["a", "bc"])));
        assert_ne!(hash(json!([[], ["a"]])), hash(json!([["a"], []])));
    }
}
