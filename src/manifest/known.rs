//! What is known of fields beyond what the types say: where each belongs, which must be written, what was likely meant.

use super::path::FieldPath;
use super::strict::fields_of;
use crate::api::component::PREDICTOR_MODELS;
use crate::api::{ComponentSpec, ModelSpec};

/// Fields of a predictor only, beside its models (CRD `predictor` without `transformer`).
const PREDICTOR_ONLY: [&str; 3] = ["name", "storageContainerName", "workerSpec"];
/// Fields of an explainer only.
const EXPLAINER_ONLY: [&str; 1] = ["art"];
/// Fields of `model` that the legacy forms do not have.
const MODEL_ONLY: [&str; 2] = ["modelFormat", "runtime"];

/// Fields newer than the Kubernetes types this version is built on.
const NEWER: [(&str, &[&str]); 3] = [
    ("restartPolicyRules", &["Container", "EphemeralContainer", "ModelSpec", "ArtExplainerSpec"]),
    ("fileKeyRef", &["EnvVarSource"]),
    ("podCertificate", &["VolumeProjection"]),
];

/// Fields that an API server insists on (CRD `required`); by type.
const REQUIRED: [(&str, &[&str]); 43] = [
    ("InferenceServiceManifest", &["spec"]),
    ("ServingRuntimeManifest", &["spec"]),
    ("InferenceGraphManifest", &["spec"]),
    ("TrainedModelManifest", &["spec"]),
    ("LlmInferenceServiceManifest", &["spec"]),
    ("LoraAdapter", &["name", "uri"]),
    ("StorageContainerManifest", &["spec"]),
    ("LocalModelCacheManifest", &["spec"]),
    ("LocalModelNodeGroupManifest", &["spec"]),
    ("InferenceServiceSpec", &["predictor"]),
    ("InferenceGraphSpec", &["nodes"]),
    ("GraphNode", &["routerType"]),
    ("TrainedModelSpec", &["inferenceService", "model"]),
    ("TrainedModelSource", &["framework", "memory", "storageUri"]),
    ("StorageContainerSpec", &["container", "supportedUriFormats"]),
    ("LocalModelCacheSpec", &["modelSize", "nodeGroups", "sourceModelUri"]),
    ("LocalModelNodeGroupSpec", &["persistentVolumeClaimSpec", "persistentVolumeSpec", "storageLimit"]),
    ("CanarySpec", &["predictor", "trafficPercent"]),
    ("ServingRuntimeSpec", &["containers"]),
    ("SupportedModelFormat", &["name"]),
    ("StorageUriEntry", &["uri"]),
    ("ConfidentialSpec", &["enabled"]),
    ("Container", &["name"]),
    ("ContainerPort", &["containerPort"]),
    ("EnvVar", &["name"]),
    ("ConfigMapKeySelector", &["key"]),
    ("SecretKeySelector", &["key"]),
    ("ObjectFieldSelector", &["fieldPath"]),
    ("ResourceFieldSelector", &["resource"]),
    ("KeyToPath", &["key", "path"]),
    ("VolumeMount", &["mountPath", "name"]),
    ("VolumeDevice", &["devicePath", "name"]),
    ("Volume", &["name"]),
    ("HostPathVolumeSource", &["path"]),
    ("PersistentVolumeClaimVolumeSource", &["claimName"]),
    ("HTTPHeader", &["name", "value"]),
    ("TCPSocketAction", &["port"]),
    ("GRPCAction", &["port"]),
    ("HostAlias", &["ip"]),
    ("Sysctl", &["name", "value"]),
    ("SeccompProfile", &["type"]),
    ("AppArmorProfile", &["type"]),
    ("ResourceClaim", &["name"]),
];

/// Whether a field is of a predictor only.
fn is_predictors(field: &str) -> bool {
    PREDICTOR_MODELS.contains(&field) || PREDICTOR_ONLY.contains(&field)
}

/// Returns the fields a struct may carry at a place: some structs of ours hold the fields of several upstream types.
pub(super) fn fields_here(owner: &str, fields: &'static [&'static str], path: &FieldPath) -> Vec<&'static str> {
    let place = path.last_key().unwrap_or_default();
    let allowed = |field: &&&'static str| match (owner, place) {
        ("ComponentSpec", "transformer") => !is_predictors(field) && !EXPLAINER_ONLY.contains(field),
        ("ComponentSpec", "explainer") => !is_predictors(field),
        ("ComponentSpec", _) => !EXPLAINER_ONLY.contains(field),
        ("ModelSpec", place) if place != "model" => !MODEL_ONLY.contains(field),
        _ => true,
    };
    fields.iter().filter(allowed).copied().collect()
}

/// Returns the fields that must be written.
pub(super) fn required(owner: &str, path: &FieldPath) -> impl Iterator<Item = &'static str> {
    let fields = REQUIRED.iter().find(|(name, _)| *name == owner).map_or(&[][..], |(_, fields)| fields);
    let format: &[&str] = match (owner, path.last_key()) {
        ("ModelSpec", Some("model")) => &["modelFormat"],
        // The legacy forms have no `modelFormat` at all.
        ("ModelFormat", _) => &["name"],
        _ => &[],
    };
    fields.iter().chain(format).copied()
}

/// Whether the field exists in newer versions of Kubernetes.
pub(super) fn is_newer(owner: &str, field: &str) -> bool {
    NEWER.iter().any(|(name, owners)| *name == field && owners.contains(&owner))
}

/// Says what was likely meant by an unknown key of the struct at `path`.
pub(super) fn suggest(owner: &str, key: &str, fields: &[&'static str], path: &FieldPath) -> Option<String> {
    let same = |field: &&&'static str| field.eq_ignore_ascii_case(key);
    let meant = |field: &str| format!("did you mean `{field}`?");
    let spelled = fields.iter().find(same).map(|field| meant(field));
    spelled.or_else(|| belongs(owner, key, path)).or_else(|| nearest(key, fields).map(meant))
}

/// Says where a key belongs that is known elsewhere.
fn belongs(owner: &str, key: &str, path: &FieldPath) -> Option<String> {
    let of_component = fields_of::<ComponentSpec>().contains(&key);
    let of_model = fields_of::<ModelSpec>().contains(&key);
    let place = path.last_key().unwrap_or_default();
    let hint = match (owner, key) {
        ("InferenceServiceManifest" | "ServingRuntimeManifest", "name" | "namespace" | "labels" | "annotations") => {
            "it belongs to `metadata`"
        }
        ("InferenceServiceManifest", "predictor" | "transformer" | "explainer") => "it belongs to `spec`",
        ("InferenceServiceSpec", "default") => "`spec.default` is the old v1alpha2 form; write `spec.predictor`",
        ("InferenceServiceManifest" | "InferenceServiceSpec", _) if of_component || of_model => {
            "it belongs to `spec.predictor`"
        }
        ("ComponentSpec", "custom") => "`custom` is the old v1alpha2 form; list the container under `containers`",
        ("ComponentSpec", "alibi" | "aix") => {
            "KServe has dropped this explainer; use a container under `containers`, or `art`"
        }
        ("ComponentSpec", "art") => "it belongs to `spec.explainer`",
        ("ComponentSpec", _) if is_predictors(key) => "it belongs to `spec.predictor`",
        ("ComponentSpec", _) if of_model && place == "predictor" => "it belongs to `model`",
        ("ComponentSpec", _) if of_model => "it belongs to a container under `containers`",
        ("LlmInferenceServiceSpec", "workload") => "its fields stand in `spec` itself",
        ("LlmInferenceServiceSpec", "containers") => "it belongs to `template`",
        ("LlmInferenceServiceSpec", "uri" | "lora") => "it belongs to `model`",
        ("ModelSpec", "modelFormat" | "runtime") => {
            return Some(format!("it belongs to `model`; write `model` with `modelFormat.name` instead of `{place}`"));
        }
        ("ModelSpec" | "Container", _) if of_component => "it belongs one level up, to the component",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Returns the candidate that is most like a text, when one is like it at all.
pub(super) fn nearest<'a>(text: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let lower = text.to_lowercase();
    let likeness =
        |candidate: &&'a str| (strsim::normalized_damerau_levenshtein(&lower, &candidate.to_lowercase()), *candidate);
    let best = candidates.iter().map(likeness).max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(likeness, _)| *likeness >= 0.7).map(|(_, candidate)| candidate)
}
