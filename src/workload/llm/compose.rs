//! Preset, configs and the service's own spec become one (`config_merge.go`).

use serde_json::{Map, Value, json};

use super::render;
use crate::api::llm_inference_service::LlmInferenceServiceSpec;
use crate::api::{Object, meta};
use crate::workload::{Companions, ResolveError};

/// The merged spec.
pub(super) struct Merged {
    pub(super) spec: Value,
    /// Whether the container `main` runs the preset's own command.
    pub(super) runs_preset: bool,
}

/// Image of the preset: upstream's.
const IMAGE: &str = "ghcr.io/llm-d/llm-d-cuda:v0.9.0";
/// Port of the preset.
const PORT: u16 = 8000;

/// Merges and renders.
pub(super) fn compose(
    object: &Object,
    written: &LlmInferenceServiceSpec,
    companions: &Companions<'_>,
) -> Result<Merged, ResolveError> {
    let mut spec = preset();
    let mut layers = Vec::new();
    for (index, reference) in written.base_refs.iter().flatten().enumerate() {
        let field = format!("spec.baseRefs[{index}].name");
        layers.push(config(&reference.name, &object.key.namespace, &field, companions)?);
    }
    layers.push(&object.raw["spec"]);
    let has_command = |layer: &&Value| {
        let mut containers = layer["template"]["containers"].as_array().into_iter().flatten();
        containers.any(|container| container["name"] == super::MAIN && !container["command"].is_null())
    };
    let runs_preset = !layers.iter().any(has_command);
    for layer in layers {
        merge(&mut spec, layer, "");
    }
    if let Some(fields) = spec.as_object_mut() {
        fields.remove("baseRefs");
    }
    if spec["model"]["name"].is_null() {
        spec["model"]["name"] = json!(object.meta.name);
    }
    if runs_preset {
        speak_plainly(&mut spec);
    }
    let values = super::values(&object.meta, &spec);
    render::render(&mut spec["template"], "spec.template", &values)?;
    Ok(Merged { spec, runs_preset })
}

/// A config of the service's namespace, else of the system's.
fn config<'o>(
    name: &str,
    namespace: &str,
    field: &str,
    companions: &Companions<'o>,
) -> Result<&'o Value, ResolveError> {
    let found =
        [namespace, meta::SYSTEM_NAMESPACE].iter().find_map(|place| companions.llm_configs.get(&(*place, name)));
    found.copied().ok_or_else(|| {
        ResolveError::invalid(
            field,
            format!("there is no LLMInferenceServiceConfig `{name}` in `{namespace}` or `{}`", meta::SYSTEM_NAMESPACE),
        )
        .with_help("put its manifest into the folder, too")
    })
}

/// The single-node preset, in its effects: vLLM on one node, asked at `/health`.
fn preset() -> Value {
    let probe = |period: u32, failures: u32, timeout: u32| {
        json!({
            "httpGet": {"path": "/health", "port": PORT, "scheme": "HTTP"},
            "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": timeout,
        })
    };
    json!({
        "model": {},
        "template": {
            "terminationGracePeriodSeconds": 60,
            "containers": [{
                "name": super::MAIN,
                "image": IMAGE,
                "imagePullPolicy": "IfNotPresent",
                "ports": [{"containerPort": PORT, "protocol": "TCP"}],
                "env": [
                    {"name": "HOME", "value": "/home"},
                    {"name": "VLLM_LOGGING_LEVEL", "value": "INFO"},
                    {"name": "HF_HUB_CACHE", "value": "/models"},
                ],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "startupProbe": probe(10, 60, 10),
                "livenessProbe": probe(10, 10, 10),
                "readinessProbe": probe(1, 2, 5),
                "volumeMounts": [
                    {"name": "home", "mountPath": "/home"},
                    {"name": "dshm", "mountPath": "/dev/shm"},
                    {"name": "model-cache", "mountPath": "/models"},
                ],
            }],
            "volumes": [
                {"name": "home", "emptyDir": {}},
                {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
                {"name": "model-cache", "emptyDir": {}},
            ],
        },
    })
}

/// Nobody issues certificates to servers here, so those of the preset speak plain HTTP, whatever their probes say.
fn speak_plainly(spec: &mut Value) {
    let containers = spec["template"]["containers"].as_array_mut().into_iter().flatten();
    for container in containers.filter(|container| container["name"] == super::MAIN) {
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            if let Some(scheme) = container.pointer_mut(&format!("/{probe}/httpGet/scheme")) {
                *scheme = json!("HTTP");
            }
        }
    }
}

/// Lists whose elements have names, and the field that names them (strategic merge).
const NAMED: [(&str, &str); 9] = [
    ("containers", "name"),
    ("initContainers", "name"),
    ("volumes", "name"),
    ("env", "name"),
    ("imagePullSecrets", "name"),
    ("ports", "containerPort"),
    ("volumeMounts", "mountPath"),
    ("hostAliases", "ip"),
    ("adapters", "name"),
];
/// The ways a probe asks.
const CHECKS: [&str; 4] = ["httpGet", "tcpSocket", "grpc", "exec"];
/// Objects of which one form excludes the others: the later one is taken whole.
const WHOLE: [&str; 1] = ["valueFrom"];

/// Merges `over` into `base`, which is at `field`: maps by key, lists by the names of their elements, everything else is
/// replaced; null removes.
fn merge(base: &mut Value, over: &Value, field: &str) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) if !WHOLE.contains(&field) => merge_map(base, over),
        (Value::Array(base), Value::Array(over))
            if let Some((_, key)) = NAMED.iter().find(|(name, _)| *name == field) =>
        {
            for item in over {
                match base.iter_mut().find(|known| !item[key].is_null() && known[key] == item[key]) {
                    Some(known) => merge(known, item, ""),
                    None => base.push(item.clone()),
                }
            }
        }
        (base, over) => base.clone_from(over),
    }
}

fn merge_map(base: &mut Map<String, Value>, over: &Map<String, Value>) {
    // A variable has a value or a source.
    for (one, other) in [("value", "valueFrom"), ("valueFrom", "value")] {
        if over.contains_key(one) && over.contains_key("name") {
            base.remove(other);
        }
    }
    // A probe asks in one way.
    if let Some(check) = CHECKS.iter().find(|check| over.contains_key(**check)) {
        base.retain(|key, _| key.as_str() == *check || !CHECKS.contains(&key.as_str()));
    }
    for (key, value) in over {
        match value {
            Value::Null => drop(base.remove(key)),
            value => merge(base.entry(key.clone()).or_insert(Value::Null), value, key),
        }
    }
}
