//! The environment of a container: `env` and `envFrom`, resolved to plain values.
//!
//! Order and precedence are the kubelet's: `envFrom` first, `env` over it; a value may refer to variables of `env`
//! before it; commands and arguments may refer to all.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, ResourceFieldSelector,
};
use serde_json::Value;

use super::expand::expand;
use super::origin::Origin;
use super::{Companions, ResolveError, Resources};
use crate::api::quantity;

/// What the downward API can say about the pod a container is in.
pub(super) struct PodFacts<'a> {
    /// Namespace; also that of the Secrets and ConfigMaps.
    pub(super) namespace: &'a str,
    /// `metadata.name`, or what stands for it until the replica is known.
    pub(super) name: &'a str,
    /// Pod labels.
    pub(super) labels: &'a BTreeMap<String, String>,
    /// Pod annotations.
    pub(super) annotations: &'a BTreeMap<String, String>,
    /// `spec.serviceAccountName`.
    pub(super) service_account: &'a str,
    /// Resources of every container, by name.
    pub(super) resources: &'a BTreeMap<String, Resources>,
    /// The objects that can be referred to.
    pub(super) companions: &'a Companions<'a>,
}

/// Resolves a container's environment; names are unique, in order of first mention.
pub(super) fn environment(
    container: &Container,
    origin: &Origin,
    facts: &PodFacts<'_>,
) -> Result<Vec<(String, String)>, ResolveError> {
    let mut all: Vec<(String, String)> = Vec::new();
    for (index, source) in container.env_from.iter().flatten().enumerate() {
        let field = format!("{}[{index}]", origin.field(&["envFrom"]));
        for (name, value) in from_source(source, &field, facts)? {
            set(&mut all, name, value);
        }
    }
    let mut earlier: Vec<(String, String)> = Vec::new();
    for variable in container.env.iter().flatten() {
        let field = origin.item("env", "name", &Value::from(variable.name.as_str()));
        check_name(variable, &field)?;
        let value = match &variable.value_from {
            Some(source) => from_reference(source, &container.name, &field, facts)?,
            None => Some(expand(variable.value.as_deref().unwrap_or_default(), |name| get(&earlier, name))),
        };
        let Some(value) = value else { continue };
        set(&mut earlier, variable.name.clone(), value.clone());
        set(&mut all, variable.name.clone(), value);
    }
    Ok(all)
}

/// Returns the value of a variable.
pub(super) fn get<'e>(env: &'e [(String, String)], name: &str) -> Option<&'e str> {
    env.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
}

fn set(env: &mut Vec<(String, String)>, name: String, value: String) {
    match env.iter_mut().find(|(own, _)| *own == name) {
        Some(entry) => entry.1 = value,
        None => env.push((name, value)),
    }
}

fn check_name(variable: &EnvVar, field: &str) -> Result<(), ResolveError> {
    if variable.name.is_empty() || variable.name.contains(['=', '\0']) {
        return Err(ResolveError::invalid(format!("{field}.name"), "is not a name a variable can have"));
    }
    if variable.value.as_ref().is_some_and(|value| !value.is_empty()) && variable.value_from.is_some() {
        return Err(ResolveError::invalid(field, "has both a value and a valueFrom"));
    }
    Ok(())
}

fn from_source(
    source: &EnvFromSource,
    field: &str,
    facts: &PodFacts<'_>,
) -> Result<Vec<(String, String)>, ResolveError> {
    let prefix = source.prefix.as_deref().unwrap_or_default();
    let (kind, data, optional, name) = match (&source.config_map_ref, &source.secret_ref) {
        (Some(reference), None) => {
            ("configMapRef", config_map(facts, &reference.name), reference.optional, &reference.name)
        }
        (None, Some(reference)) => ("secretRef", secret(facts, &reference.name), reference.optional, &reference.name),
        _ => return Err(ResolveError::invalid(field, "must name exactly one of configMapRef and secretRef")),
    };
    let field = format!("{field}.{kind}");
    let Some(data) = data else {
        return if optional == Some(true) { Ok(Vec::new()) } else { Err(not_found(&field, kind, name, facts)) };
    };
    let usable = data.into_iter().filter(|(key, _)| !key.is_empty() && !key.contains('='));
    usable.map(|(key, value)| Ok((format!("{prefix}{key}"), text(value, &field, &key)?))).collect()
}

fn from_reference(
    source: &EnvVarSource,
    container: &str,
    field: &str,
    facts: &PodFacts<'_>,
) -> Result<Option<String>, ResolveError> {
    let field = format!("{field}.valueFrom");
    match source {
        EnvVarSource {
            secret_key_ref: Some(key),
            config_map_key_ref: None,
            field_ref: None,
            resource_field_ref: None,
        } => {
            let data = secret(facts, &key.name);
            by_key(data, "secretKeyRef", &key.name, &key.key, key.optional, &field, facts)
        }
        EnvVarSource {
            secret_key_ref: None,
            config_map_key_ref: Some(key),
            field_ref: None,
            resource_field_ref: None,
        } => {
            let data = config_map(facts, &key.name);
            by_key(data, "configMapKeyRef", &key.name, &key.key, key.optional, &field, facts)
        }
        EnvVarSource {
            secret_key_ref: None,
            config_map_key_ref: None,
            field_ref: Some(own),
            resource_field_ref: None,
        } => pod_field(own, &format!("{field}.fieldRef"), facts).map(Some),
        EnvVarSource {
            secret_key_ref: None,
            config_map_key_ref: None,
            field_ref: None,
            resource_field_ref: Some(own),
        } => resource_field(own, container, &format!("{field}.resourceFieldRef"), facts).map(Some),
        _ => Err(ResolveError::invalid(
            field,
            "must name exactly one of secretKeyRef, configMapKeyRef, fieldRef and resourceFieldRef",
        )),
    }
}

fn by_key(
    data: Option<BTreeMap<String, Vec<u8>>>,
    kind: &str,
    name: &str,
    key: &str,
    optional: Option<bool>,
    field: &str,
    facts: &PodFacts<'_>,
) -> Result<Option<String>, ResolveError> {
    let field = format!("{field}.{kind}");
    let optional = optional == Some(true);
    let Some(mut data) = data else {
        return if optional { Ok(None) } else { Err(not_found(&field, kind, name, facts)) };
    };
    match data.remove(key) {
        Some(value) => text(value, &field, key).map(Some),
        None if optional => Ok(None),
        None => {
            let kind = if kind == "secretKeyRef" { "Secret" } else { "ConfigMap" };
            Err(ResolveError::invalid(field, format!("couldn't find key {key} in {kind} {}/{name}", facts.namespace)))
        }
    }
}

fn not_found(field: &str, kind: &str, name: &str, facts: &PodFacts<'_>) -> ResolveError {
    let (kind, word) = if kind.starts_with("secret") { ("Secret", "secret") } else { ("ConfigMap", "configmap") };
    ResolveError::invalid(field, format!("{word} \"{name}\" not found"))
        .with_help(format!("add a {kind} `{name}` in namespace `{}`, or set `optional: true`", facts.namespace))
}

fn text(value: Vec<u8>, field: &str, key: &str) -> Result<String, ResolveError> {
    let text = String::from_utf8(value).ok().filter(|text| !text.contains('\0'));
    text.ok_or_else(|| {
        ResolveError::invalid(field, format!("the value of key `{key}` is not text"))
            .with_help("mount it as a file instead")
    })
}

/// Returns a Secret's data.
pub(super) fn secret(facts: &PodFacts<'_>, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
    let secret = facts.companions.secrets.get(&(facts.namespace, name))?;
    let data = secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    let texts = secret.string_data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    Some(data.chain(texts).collect())
}

/// Returns a ConfigMap's data.
pub(super) fn config_map(facts: &PodFacts<'_>, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
    let map = facts.companions.config_maps.get(&(facts.namespace, name))?;
    let texts = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let bytes = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    Some(texts.chain(bytes).collect())
}

fn pod_field(selector: &ObjectFieldSelector, field: &str, facts: &PodFacts<'_>) -> Result<String, ResolveError> {
    let path = selector.field_path.as_str();
    if let Some(key) = subscript(path, "metadata.labels") {
        return Ok(facts.labels.get(key).cloned().unwrap_or_default());
    }
    if let Some(key) = subscript(path, "metadata.annotations") {
        return Ok(facts.annotations.get(key).cloned().unwrap_or_default());
    }
    match path {
        "metadata.name" => Ok(facts.name.to_owned()),
        "metadata.namespace" => Ok(facts.namespace.to_owned()),
        "spec.serviceAccountName" => Ok(facts.service_account.to_owned()),
        _ => Err(ResolveError::invalid(format!("{field}.fieldPath"), format!("`{path}` means nothing on one machine"))
            .with_help("metadata.name, metadata.namespace, metadata.labels['key'], metadata.annotations['key'] and spec.serviceAccountName are known")),
    }
}

fn subscript<'p>(path: &'p str, map: &str) -> Option<&'p str> {
    let key = path.strip_prefix(map)?.strip_prefix('[')?.strip_suffix(']')?;
    [('\'', '\''), ('"', '"')].iter().find_map(|(open, close)| key.strip_prefix(*open)?.strip_suffix(*close))
}

fn resource_field(
    selector: &ResourceFieldSelector,
    container: &str,
    field: &str,
    facts: &PodFacts<'_>,
) -> Result<String, ResolveError> {
    let of = selector.container_name.as_deref().filter(|name| !name.is_empty()).unwrap_or(container);
    let Some(resources) = facts.resources.get(of) else {
        return Err(ResolveError::invalid(format!("{field}.containerName"), format!("there is no container `{of}`")));
    };
    let milli = |whole: Option<u64>| whole.map(|whole| i128::from(whole) * 1000);
    let amount = match selector.resource.as_str() {
        "limits.cpu" => resources.cpu_limit_milli.map(i128::from),
        "requests.cpu" => resources.cpu_request_milli.map(i128::from),
        "limits.memory" => milli(resources.memory_limit),
        "requests.memory" => milli(resources.memory_request),
        other => match other.strip_prefix("limits.").or_else(|| other.strip_prefix("requests.")) {
            Some(gpu) if resources.gpus.contains_key(gpu) => milli(resources.gpus.get(gpu).copied()),
            _ => {
                return Err(ResolveError::invalid(format!("{field}.resource"), format!("`{other}` is not known")));
            }
        },
    };
    let Some(amount) = amount else {
        return Err(ResolveError::invalid(
            format!("{field}.resource"),
            format!(
                "`{}` is not set for container `{of}`, and one machine has no node to take it from",
                selector.resource
            ),
        ));
    };
    let divisor = selector.divisor.as_ref().map_or("1", |divisor| if divisor.0 == "0" { "1" } else { &divisor.0 });
    let divisor = quantity::parse_milli(divisor).ok().filter(|divisor| *divisor > 0).ok_or_else(|| {
        ResolveError::invalid(format!("{field}.divisor"), format!("`{divisor}` is not a positive quantity"))
    })?;
    Ok((amount / divisor + i128::from(amount % divisor != 0)).to_string())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};
    use serde_json::json;

    use super::*;

    fn resolved(container: Value) -> Result<Vec<(String, String)>, ResolveError> {
        let mut container = container;
        container["name"] = json!("kserve-container");
        let container: Container = serde_json::from_value(container).unwrap();
        let secret: Secret = serde_json::from_value(json!({ "data": { "token": "czNjcjN0", "raw": "/w==" } })).unwrap();
        let map: ConfigMap = serde_json::from_value(json!({ "data": { "B": "2", "A": "1", "a=b": "x" } })).unwrap();
        let companions = Companions {
            secrets: [(("team", "creds"), &secret)].into(),
            config_maps: [(("team", "settings"), &map)].into(),
            ..Companions::default()
        };
        let labels = [("app/x".to_owned(), "label".to_owned())].into();
        let annotations = [("note".to_owned(), "annotation".to_owned())].into();
        let resources = Resources { cpu_limit_milli: Some(1500), memory_limit: Some(2 << 30), ..Resources::default() };
        let resources = [("kserve-container".to_owned(), resources)].into();
        let facts = PodFacts {
            namespace: "team",
            name: "iris-predictor",
            labels: &labels,
            annotations: &annotations,
            service_account: "default",
            resources: &resources,
            companions: &companions,
        };
        environment(&container, &Origin::new("spec.predictor.model", &container), &facts)
    }

    fn from(source: Value) -> Result<Vec<(String, String)>, ResolveError> {
        resolved(json!({ "env": [{ "name": "X", "valueFrom": source }] }))
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn env_goes_over_env_from_and_sees_what_came_before_it_in_env() {
        let env = resolved(json!({
            "envFrom": [{ "configMapRef": { "name": "settings" }, "prefix": "P_" }, { "configMapRef": { "name": "settings" } }],
            "env": [
                { "name": "A", "value": "own" },
                { "name": "C", "value": "$(A) $(B) $(D) $$(A)" },
                { "name": "D", "value": "late" },
                { "name": "A", "value": "again" },
            ],
        }));
        let want = [("P_A", "1"), ("P_B", "2"), ("A", "again"), ("B", "2"), ("C", "own $(B) $(D) $(A)"), ("D", "late")];
        assert_eq!(env.unwrap(), pairs(&want));
    }

    #[test]
    fn every_reference_is_looked_up() {
        let cases = [
            (json!({ "secretKeyRef": { "name": "creds", "key": "token" } }), "s3cr3t"),
            (json!({ "configMapKeyRef": { "name": "settings", "key": "A" } }), "1"),
            (json!({ "fieldRef": { "fieldPath": "metadata.name" } }), "iris-predictor"),
            (json!({ "fieldRef": { "fieldPath": "metadata.namespace" } }), "team"),
            (json!({ "fieldRef": { "fieldPath": "metadata.labels['app/x']" } }), "label"),
            (json!({ "fieldRef": { "fieldPath": "metadata.annotations['note']" } }), "annotation"),
            (json!({ "fieldRef": { "fieldPath": "metadata.labels['absent']" } }), ""),
            (json!({ "fieldRef": { "fieldPath": "spec.serviceAccountName" } }), "default"),
            (json!({ "resourceFieldRef": { "resource": "limits.cpu" } }), "2"),
            (json!({ "resourceFieldRef": { "resource": "limits.cpu", "divisor": "1m" } }), "1500"),
            (json!({ "resourceFieldRef": { "resource": "limits.memory", "divisor": "1Mi" } }), "2048"),
        ];
        for (source, want) in cases {
            assert_eq!(from(source.clone()), Ok(pairs(&[("X", want)])), "{source}");
        }
    }

    #[test]
    fn what_is_not_there_is_an_error_with_its_path_unless_it_is_optional() {
        let cases = [
            (json!({ "secretKeyRef": { "name": "no", "key": "k" } }), "secretKeyRef", "secret \"no\" not found"),
            (
                json!({ "secretKeyRef": { "name": "creds", "key": "k" } }),
                "secretKeyRef",
                "couldn't find key k in Secret team/creds",
            ),
            (json!({ "secretKeyRef": { "name": "creds", "key": "raw" } }), "secretKeyRef", "is not text"),
            (
                json!({ "configMapKeyRef": { "name": "no", "key": "k" } }),
                "configMapKeyRef",
                "configmap \"no\" not found",
            ),
            (
                json!({ "fieldRef": { "fieldPath": "status.podIP" } }),
                "fieldRef.fieldPath",
                "means nothing on one machine",
            ),
            (json!({ "resourceFieldRef": { "resource": "requests.cpu" } }), "resourceFieldRef.resource", "is not set"),
            (
                json!({ "resourceFieldRef": { "resource": "limits.cpu", "containerName": "no" } }),
                "resourceFieldRef.containerName",
                "no container",
            ),
        ];
        for (source, field, message) in cases {
            let error = from(source).unwrap_err();
            let ResolveError::Invalid { field: path, message: text, .. } = &error else { panic!("{error}") };
            assert_eq!(path, &format!("spec.predictor.model.env[0].valueFrom.{field}"));
            assert!(text.contains(message), "{text}");
            assert!(!text.contains("s3cr3t"));
        }
        for kind in ["secretKeyRef", "configMapKeyRef"] {
            assert_eq!(from(json!({ kind: { "name": "no", "key": "k", "optional": true } })), Ok(Vec::new()));
        }
        assert_eq!(
            resolved(json!({ "envFrom": [{ "secretRef": { "name": "no", "optional": true } }] })),
            Ok(Vec::new())
        );
        assert!(resolved(json!({ "envFrom": [{ "secretRef": { "name": "no" } }] })).is_err());
    }
}
