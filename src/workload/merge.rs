//! Runtime container plus overrides: strategic-merge rules (§2.5).
//!
//! Arguments are concatenated; everything else follows Kubernetes' strategic merge patch. Like upstream, the overlay is
//! taken as Go would write it: fields that are empty (`""`, `0`, `false`, `[]` where Go omits them) override nothing.
//!
//! | field | result |
//! |---|---|
//! | `args` | runtime's, then overlay's |
//! | `command`, `envFrom`, `capabilities.drop`, other plain lists | overlay's when not empty |
//! | `env`, `ports`, `volumeMounts`, `volumeDevices`, `resources.claims` | by name, number and protocol, path, path, name |
//! | `resources.limits`, `resources.requests` | per key |
//! | probes, `securityContext`, `lifecycle` | field by field, deeply |
//! | volumes, `imagePullSecrets` of the pod | by name |

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, LocalObjectReference, Volume};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::api::{ComponentKind, meta};

/// Merges the overlay over the runtime's container; the name stays the runtime's.
pub fn merge_containers(runtime: &Container, overlay: &Container) -> Container {
    let mut base = to_map(runtime);
    let mut patch = prune(to_map(overlay));
    patch.remove("name");
    let args: Vec<String> = [&runtime.args, &overlay.args].into_iter().flatten().flatten().cloned().collect();
    patch.remove("args");
    merge_maps(&mut base, patch, "");
    let mut merged: Container = from_map(base);
    merged.args = (!args.is_empty()).then_some(args);
    settle_env(&mut merged, overlay);
    merged
}

/// Merges volumes by name; the overlay's settings go over the runtime's.
pub fn merge_volumes(runtime: &[Volume], overlay: &[Volume]) -> Vec<Volume> {
    merge_named(runtime, overlay)
}

/// Merges image pull secrets by name.
pub fn merge_pull_secrets(
    runtime: &[LocalObjectReference],
    overlay: &[LocalObjectReference],
) -> Vec<LocalObjectReference> {
    merge_named(runtime, overlay)
}

/// Returns the labels of a component's pods: runtime < service < component < KServe's own.
pub fn pod_labels(
    runtime: Option<&BTreeMap<String, String>>,
    service: &BTreeMap<String, String>,
    component: Option<&BTreeMap<String, String>>,
    service_name: &str,
    kind: ComponentKind,
) -> BTreeMap<String, String> {
    let mut labels = layered([runtime, Some(service), component]);
    labels.insert(meta::INFERENCE_SERVICE_LABEL.to_owned(), service_name.to_owned());
    labels.insert(meta::COMPONENT_LABEL.to_owned(), kind.as_str().to_owned());
    labels
}

/// Annotations of a service that do not reach its pods.
const KEPT_FROM_PODS: [&str; 5] = [
    "autoscaling.knative.dev/min-scale",
    "autoscaling.knative.dev/max-scale",
    "internal.serving.kserve.io/storage-initializer-sourceuri",
    "kubectl.kubernetes.io/last-applied-configuration",
    meta::MODEL_FORMAT,
];

/// Returns the annotations of a component's pods: runtime < service (less those that stay with it) < component.
pub fn pod_annotations(
    runtime: Option<&BTreeMap<String, String>>,
    service: &BTreeMap<String, String>,
    component: Option<&BTreeMap<String, String>>,
) -> BTreeMap<String, String> {
    let mut passed_on = service.clone();
    passed_on.retain(|key, _| !KEPT_FROM_PODS.contains(&key.as_str()));
    layered([runtime, Some(&passed_on), component])
}

fn layered<const N: usize>(layers: [Option<&BTreeMap<String, String>>; N]) -> BTreeMap<String, String> {
    layers.into_iter().flatten().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn merge_named<T: Serialize + DeserializeOwned>(base: &[T], overlay: &[T]) -> Vec<T> {
    let base = base.iter().map(|item| Value::Object(to_map(item))).collect();
    let patch = overlay.iter().map(|item| Value::Object(prune(to_map(item)))).collect();
    let merged = merge_lists(base, patch, &["name"], "");
    merged.into_iter().map(|item| from_map(into_map(item))).collect()
}

/// The fields that name an item of a merged list; none for lists that are replaced.
fn merge_keys(path: &str) -> &'static [&'static str] {
    match path {
        "env" | "resources.claims" => &["name"],
        "ports" => &["containerPort", "protocol"],
        "volumeMounts" => &["mountPath"],
        "volumeDevices" => &["devicePath"],
        _ => &[],
    }
}

fn merge_maps(base: &mut Map<String, Value>, patch: Map<String, Value>, path: &str) {
    for (key, value) in patch {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (base.get_mut(&key), value) {
            (Some(Value::Object(base)), Value::Object(patch)) => merge_maps(base, patch, &path),
            (Some(Value::Array(base)), Value::Array(patch)) if !merge_keys(&path).is_empty() => {
                *base = merge_lists(std::mem::take(base), patch, merge_keys(&path), &path);
            }
            (_, value) => drop(base.insert(key, value)),
        }
    }
}

/// Merges two keyed lists. The order is Kubernetes': items of the overlay keep their order, items of the base keep
/// theirs, and an overlay item comes before a base item only when both were in the base in that order.
fn merge_lists(base: Vec<Value>, patch: Vec<Value>, keys: &[&str], path: &str) -> Vec<Value> {
    let position = |item: &Value| base.iter().position(|other| same_key(item, other, keys));
    let mut overlaid: Vec<(Option<usize>, Value)> = Vec::new();
    for item in patch {
        let at = position(&item);
        let merged = match at {
            Some(index) => merged_item(base[index].clone(), item, path),
            None => item,
        };
        match overlaid.iter_mut().find(|(_, other)| same_key(&merged, other, keys)) {
            Some((_, other)) => *other = merged,
            None => overlaid.push((at, merged)),
        }
    }
    let mut only_base =
        base.iter().enumerate().filter(|(_, item)| !overlaid.iter().any(|(_, o)| same_key(item, o, keys)));
    let mut merged = Vec::with_capacity(base.len() + overlaid.len());
    let mut next_base = only_base.next();
    let mut overlaid = overlaid.iter().peekable();
    loop {
        match (overlaid.peek(), next_base) {
            (Some((Some(at), _)), Some((index, _))) if *at < index => {
                merged.extend(overlaid.next().map(|o| o.1.clone()));
            }
            (_, Some((_, item))) => {
                merged.push(item.clone());
                next_base = only_base.next();
            }
            (Some(_), None) => merged.extend(overlaid.next().map(|o| o.1.clone())),
            (None, None) => return merged,
        }
    }
}

fn merged_item(base: Value, patch: Value, path: &str) -> Value {
    let mut base = into_map(base);
    merge_maps(&mut base, into_map(patch), &format!("{path}[]"));
    Value::Object(base)
}

fn same_key(a: &Value, b: &Value, keys: &[&str]) -> bool {
    let tcp = Value::from("TCP");
    let get = |item: &Value, key: &str| match (item.get(key), key) {
        (None, "protocol") => tcp.clone(),
        (value, _) => value.cloned().unwrap_or_default(),
    };
    keys.iter().all(|key| get(a, key) == get(b, key))
}

/// When a merged variable has both a value and a source, the overlay's kind wins.
fn settle_env(merged: &mut Container, overlay: &Container) {
    for variable in merged.env.iter_mut().flatten() {
        let Some(own) = overlay.env.iter().flatten().rev().find(|own| own.name == variable.name) else { continue };
        if variable.value.is_some() && variable.value_from.is_some() {
            if own.value_from.is_some() {
                variable.value = None;
            } else {
                variable.value_from = None;
            }
        } else if let (Some(source), Some(variable_source)) = (&own.value_from, &mut variable.value_from) {
            *variable_source = source.clone();
        }
    }
}

/// Numbers and switches that Go leaves out when they are zero or false; elsewhere these are values like any other.
const OMITTED_WHEN_ZERO: [&str; 10] = [
    "initialDelaySeconds",
    "timeoutSeconds",
    "periodSeconds",
    "successThreshold",
    "failureThreshold",
    "hostPort",
    "stdin",
    "stdinOnce",
    "tty",
    "readOnly",
];

fn prune(map: Map<String, Value>) -> Map<String, Value> {
    map.into_iter().filter_map(|(key, value)| prune_value(&key, value).map(|value| (key, value))).collect()
}

fn prune_value(key: &str, value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        Value::Array(items) if items.is_empty() => None,
        Value::Number(number) if number.as_i64() == Some(0) && OMITTED_WHEN_ZERO.contains(&key) => None,
        Value::Bool(false) if OMITTED_WHEN_ZERO.contains(&key) => None,
        Value::Array(items) => Some(Value::Array(
            items
                .into_iter()
                .map(|item| match item {
                    Value::Object(map) => Value::Object(prune(map)),
                    other => other,
                })
                .collect(),
        )),
        Value::Object(map) => Some(Value::Object(prune(map))),
        other => Some(other),
    }
}

fn to_map<T: Serialize>(value: &T) -> Map<String, Value> {
    into_map(serde_json::to_value(value).expect("Kubernetes types are plain data and always become JSON"))
}

fn into_map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn from_map<T: DeserializeOwned>(map: Map<String, Value>) -> T {
    serde_json::from_value(Value::Object(map)).expect("merging two valid values keeps every field's type")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn container(value: Value) -> Container {
        let mut value = value;
        value["name"] = json!("kserve-container");
        serde_json::from_value(value).unwrap()
    }

    fn merged(runtime: Value, overlay: Value) -> Value {
        let merged = merge_containers(&container(runtime), &container(overlay));
        let mut value = serde_json::to_value(merged).unwrap();
        value.as_object_mut().unwrap().remove("name");
        value
    }

    #[test]
    fn each_field_merges_by_its_own_rule() {
        let cases = [
            (
                "args are concatenated",
                json!({"args": ["-a", "-b"]}),
                json!({"args": ["-a"]}),
                json!({"args": ["-a", "-b", "-a"]}),
            ),
            ("command replaces", json!({"command": ["a", "b"]}), json!({"command": ["c"]}), json!({"command": ["c"]})),
            ("an empty command does not", json!({"command": ["a"]}), json!({"command": []}), json!({"command": ["a"]})),
            (
                "image and pull policy",
                json!({"image": "a:1", "workingDir": "/a"}),
                json!({"image": "b:2", "workingDir": ""}),
                json!({"image": "b:2", "workingDir": "/a"}),
            ),
            (
                "env by name, the runtime's own first",
                json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}),
                json!({"env": [{"name": "C", "value": "4"}, {"name": "A", "value": "3"}]}),
                json!({"env": [{"name": "B", "value": "2"}, {"name": "C", "value": "4"}, {"name": "A", "value": "3"}]}),
            ),
            (
                "an overlaid variable keeps its place",
                json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}),
                json!({"env": [{"name": "A", "value": "3"}]}),
                json!({"env": [{"name": "A", "value": "3"}, {"name": "B", "value": "2"}]}),
            ),
            (
                "the overlay's kind of variable wins",
                json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
                json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}, {"name": "B", "value": "2"}]}),
                json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}, {"name": "B", "value": "2"}]}),
            ),
            (
                "another source replaces the source",
                json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
                json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
                json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
            ),
            (
                "envFrom replaces",
                json!({"envFrom": [{"secretRef": {"name": "a"}}]}),
                json!({"envFrom": [{"configMapRef": {"name": "b"}}]}),
                json!({"envFrom": [{"configMapRef": {"name": "b"}}]}),
            ),
            (
                "resources per key",
                json!({"resources": {"limits": {"cpu": "1", "memory": "2Gi"}, "requests": {"cpu": "1"}}}),
                json!({"resources": {"limits": {"nvidia.com/gpu": "1", "memory": "4Gi"}}}),
                json!({"resources": {"limits": {"cpu": "1", "memory": "4Gi", "nvidia.com/gpu": "1"}, "requests": {"cpu": "1"}}}),
            ),
            (
                "ports by number",
                json!({"ports": [{"containerPort": 8080, "name": "http1"}]}),
                json!({"ports": [{"containerPort": 9000, "name": "h2c"}, {"containerPort": 8080, "protocol": "TCP", "name": "web"}]}),
                json!({"ports": [{"containerPort": 9000, "name": "h2c"}, {"containerPort": 8080, "name": "web", "protocol": "TCP"}]}),
            ),
            (
                "mounts by path",
                json!({"volumeMounts": [{"name": "a", "mountPath": "/a"}, {"name": "b", "mountPath": "/b"}]}),
                json!({"volumeMounts": [{"name": "c", "mountPath": "/b"}]}),
                json!({"volumeMounts": [{"name": "a", "mountPath": "/a"}, {"name": "c", "mountPath": "/b"}]}),
            ),
            (
                "probes deeply, so two kinds of check can meet",
                json!({"readinessProbe": {"exec": {"command": ["a"]}, "periodSeconds": 5}}),
                json!({"readinessProbe": {"httpGet": {"port": 8080}, "periodSeconds": 0}}),
                json!({"readinessProbe": {"exec": {"command": ["a"]}, "httpGet": {"port": 8080}, "periodSeconds": 5}}),
            ),
            (
                "security settings deeply, false is a value",
                json!({"securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "capabilities": {"drop": ["ALL"]}}}),
                json!({"securityContext": {"runAsNonRoot": false, "runAsUser": 0}}),
                json!({"securityContext": {"capabilities": {"drop": ["ALL"]}, "runAsNonRoot": false, "runAsUser": 0}}),
            ),
        ];
        for (rule, runtime, overlay, want) in cases {
            assert_eq!(merged(runtime, overlay), want, "{rule}");
        }
    }

    #[test]
    fn the_name_stays_and_nothing_over_nothing_is_nothing() {
        let mut overlay = container(json!({}));
        overlay.name = "other".to_owned();
        let runtime = container(json!({"image": "a"}));
        assert_eq!(merge_containers(&runtime, &overlay), runtime);
    }

    #[test]
    fn volumes_merge_by_name_and_deeply() {
        let volumes = |value: Value| -> Vec<Volume> { serde_json::from_value(value).unwrap() };
        let runtime = volumes(json!([{"name": "devshm", "emptyDir": {"medium": "Memory"}}]));
        let overlay = volumes(json!([
            {"name": "extra", "configMap": {"name": "c"}},
            {"name": "devshm", "emptyDir": {"sizeLimit": "1Gi"}},
        ]));
        let want = volumes(json!([
            {"name": "extra", "configMap": {"name": "c"}},
            {"name": "devshm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
        ]));
        assert_eq!(merge_volumes(&runtime, &overlay), want);
        assert_eq!(merge_volumes(&runtime, &[]), runtime);
    }

    #[test]
    fn labels_and_annotations_come_in_layers() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let runtime = map(&[("a", "runtime"), ("b", "runtime"), ("c", "runtime")]);
        let service = map(&[("b", "service"), ("c", "service"), ("modelFormat", "sklearn"), ("component", "mine")]);
        let component = map(&[("c", "component")]);
        let labels = pod_labels(Some(&runtime), &service, Some(&component), "iris", ComponentKind::Predictor);
        assert_eq!(
            labels,
            map(&[
                ("a", "runtime"),
                ("b", "service"),
                ("c", "component"),
                ("component", "predictor"),
                ("modelFormat", "sklearn"),
                ("serving.kserve.io/inferenceservice", "iris"),
            ])
        );
        let annotations = pod_annotations(Some(&runtime), &service, Some(&component));
        assert_eq!(annotations, map(&[("a", "runtime"), ("b", "service"), ("c", "component"), ("component", "mine")]));
    }
}
