//! The fields of predictor, transformer and explainer.
//!
//! One struct holds the fields of all three; which keys each may carry is checked where text is decoded
//! (`manifest::decode`). Pod fields are listed rather than flattened, so that an unknown key is always noticed.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::apps::v1::DeploymentStrategy;
use k8s_openapi::api::core::v1 as core;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ModelSpec;

/// Which part of an InferenceService.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComponentKind {
    /// Holds the model.
    Predictor,
    /// In front of the predictor.
    Transformer,
    /// Beside the predictor.
    Explainer,
}

impl ComponentKind {
    /// Predictor, transformer, explainer.
    pub const ALL: [Self; 3] = [Self::Predictor, Self::Transformer, Self::Explainer];

    /// Returns the name as used in fields, labels and host names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Predictor => "predictor",
            Self::Transformer => "transformer",
            Self::Explainer => "explainer",
        }
    }
}

impl fmt::Display for ComponentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A predictor, transformer or explainer as written (`V1B1/predictor.go`, `component.go`, `podspec.go`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ComponentSpec {
    // ── predictor only ──
    /// Variant name; objects become `{isvc}-{name}-predictor`, the public host does not change.
    pub name: Option<String>,
    /// Legacy per-framework form; folded into `model` by defaulting.
    pub sklearn: Option<Box<ModelSpec>>,
    /// Legacy form.
    pub xgboost: Option<Box<ModelSpec>>,
    /// Legacy form.
    pub tensorflow: Option<Box<ModelSpec>>,
    /// Legacy form.
    pub pytorch: Option<Box<ModelSpec>>,
    /// Legacy form.
    pub triton: Option<Box<ModelSpec>>,
    /// Legacy form.
    pub onnx: Option<Box<ModelSpec>>,
    /// Legacy form.
    pub huggingface: Option<Box<ModelSpec>>,
    /// Legacy form.
    pub pmml: Option<Box<ModelSpec>>,
    /// Legacy form.
    pub lightgbm: Option<Box<ModelSpec>>,
    /// Legacy form.
    pub paddle: Option<Box<ModelSpec>>,
    /// The canonical form.
    pub model: Option<Box<ModelSpec>>,
    /// Several artifacts with mount paths (KServe 0.16).
    pub storage_uris: Option<Vec<StorageUriEntry>>,
    /// Names a ClusterStorageContainer.
    pub storage_container_name: Option<String>,
    /// Multi-node inference; means nothing on one machine.
    pub worker_spec: Option<Value>,

    // ── explainer only ──
    /// The adversarial robustness toolbox explainer.
    pub art: Option<Box<ArtExplainerSpec>>,

    // ── component extension (`V1B1/component.go`) ──
    /// Fewest replicas; 1 when absent, 0 allows sleep.
    pub min_replicas: Option<i32>,
    /// Most replicas; 0 means no limit.
    pub max_replicas: Option<i32>,
    /// Target value of the scale metric.
    pub scale_target: Option<i32>,
    /// `cpu`, `memory`, `concurrency` or `rps`.
    pub scale_metric: Option<String>,
    /// Declared upstream, not read by it.
    pub scale_metric_type: Option<String>,
    /// HPA/KEDA metrics and behaviour.
    pub auto_scaling: Option<Value>,
    /// Hard limit of requests in flight per replica.
    pub container_concurrency: Option<i64>,
    /// Request timeout in seconds.
    pub timeout: Option<i64>,
    /// Percent of traffic to the newest revision.
    pub canary_traffic_percent: Option<i64>,
    /// Payload logging.
    pub logger: Option<Box<LoggerSpec>>,
    /// Request batching.
    pub batcher: Option<Box<BatcherSpec>>,
    /// Pod labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// Pod annotations.
    pub annotations: Option<BTreeMap<String, String>>,
    /// Rolling update of a Deployment.
    pub deployment_strategy: Option<DeploymentStrategy>,

    // ── pod fields (`V1B1/podspec.go`) ──
    /// Volumes by name.
    pub volumes: Option<Vec<core::Volume>>,
    /// Containers run to completion first.
    pub init_containers: Option<Vec<core::Container>>,
    /// Custom implementation, overrides or sidecars.
    pub containers: Option<Vec<core::Container>>,
    /// Debug containers.
    pub ephemeral_containers: Option<Vec<core::EphemeralContainer>>,
    /// Restart policy of the pod.
    pub restart_policy: Option<String>,
    /// Seconds between the stop signal and the kill; 30 when absent.
    pub termination_grace_period_seconds: Option<i64>,
    /// Seconds the pod may live.
    pub active_deadline_seconds: Option<i64>,
    /// DNS policy.
    pub dns_policy: Option<String>,
    /// Node labels required.
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Selects the credential bundle.
    pub service_account_name: Option<String>,
    /// Deprecated spelling of `serviceAccountName`.
    pub service_account: Option<String>,
    /// Whether the token is mounted.
    pub automount_service_account_token: Option<bool>,
    /// Node by name.
    pub node_name: Option<String>,
    /// Use the host's network.
    pub host_network: Option<bool>,
    /// Use the host's process ids.
    #[serde(rename = "hostPID")]
    pub host_pid: Option<bool>,
    /// Use the host's IPC.
    #[serde(rename = "hostIPC")]
    pub host_ipc: Option<bool>,
    /// Share one process namespace in the pod.
    pub share_process_namespace: Option<bool>,
    /// Pod-level security settings.
    pub security_context: Option<Box<core::PodSecurityContext>>,
    /// Registry credentials.
    pub image_pull_secrets: Option<Vec<core::LocalObjectReference>>,
    /// Host name of the pod.
    pub hostname: Option<String>,
    /// Subdomain of the pod.
    pub subdomain: Option<String>,
    /// Scheduling affinity.
    pub affinity: Option<Box<core::Affinity>>,
    /// Scheduler by name.
    pub scheduler_name: Option<String>,
    /// Scheduling tolerations.
    pub tolerations: Option<Vec<core::Toleration>>,
    /// Extra hosts entries.
    pub host_aliases: Option<Vec<core::HostAlias>>,
    /// Priority class by name.
    pub priority_class_name: Option<String>,
    /// Priority value.
    pub priority: Option<i32>,
    /// DNS settings.
    pub dns_config: Option<Box<core::PodDNSConfig>>,
    /// Extra readiness gates.
    pub readiness_gates: Option<Vec<core::PodReadinessGate>>,
    /// Container runtime class.
    pub runtime_class_name: Option<String>,
    /// Service environment variables.
    pub enable_service_links: Option<bool>,
    /// Preemption policy.
    pub preemption_policy: Option<String>,
    /// Pod overhead.
    pub overhead: Option<BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
    /// Spread over topology.
    pub topology_spread_constraints: Option<Vec<core::TopologySpreadConstraint>>,
    /// Fully-qualified host name.
    #[serde(rename = "setHostnameAsFQDN")]
    pub set_hostname_as_fqdn: Option<bool>,
    /// Operating system.
    pub os: Option<core::PodOS>,
    /// User namespaces.
    pub host_users: Option<bool>,
    /// Scheduling gates.
    pub scheduling_gates: Option<Vec<core::PodSchedulingGate>>,
    /// Dynamic resource claims.
    pub resource_claims: Option<Vec<core::PodResourceClaim>>,
    /// Pod-level resources.
    pub resources: Option<Box<core::ResourceRequirements>>,
    /// Overrides the host name.
    pub hostname_override: Option<String>,
}

/// One artifact of `storageUris` (§3.7).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageUriEntry {
    /// Where it comes from.
    #[serde(default)]
    pub uri: String,
    /// Where it goes; `/mnt/models` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_path: Option<String>,
}

/// Payload logging (`LoggerSpec`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoggerSpec {
    /// Where events go.
    pub url: Option<String>,
    /// `all`, `request` or `response`; must be written when a logger is.
    pub mode: Option<String>,
    /// Request headers to copy.
    pub metadata_headers: Option<Vec<String>>,
    /// Annotations to copy.
    pub metadata_annotations: Option<Vec<String>>,
    /// Object storage for payloads.
    pub storage: Option<LoggerStorageSpec>,
    /// Marshaller service.
    pub marshaller_url: Option<String>,
    /// Records per object.
    pub batch_size: Option<i64>,
    /// Interval between objects.
    pub batch_interval: Option<Value>,
}

/// Object storage of a logger.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoggerStorageSpec {
    /// Path within the bucket.
    pub path: Option<String>,
    /// Parameters such as `format`.
    pub parameters: Option<BTreeMap<String, String>>,
    /// Key in the storage secret.
    pub key: Option<String>,
    /// Account with the credentials.
    pub service_account_name: Option<String>,
}

/// Request batching (`Batcher`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BatcherSpec {
    /// Most instances in a batch.
    pub max_batch_size: Option<i64>,
    /// Longest wait in milliseconds.
    pub max_latency: Option<i64>,
    /// Declared upstream, never read.
    pub timeout: Option<i64>,
}

/// The ART explainer: a model spec's container fields plus its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ArtExplainerSpec {
    /// Kind of attack, for example `SquareAttack`.
    #[serde(rename = "type")]
    pub adversary_type: String,
    /// Settings of the attack, passed as arguments.
    pub config: Option<BTreeMap<String, String>>,
    /// Where the explainer's own artifacts are.
    pub storage_uri: Option<String>,
    /// Image tag.
    pub runtime_version: Option<String>,
    /// Key and parameters of the storage secret.
    pub storage: Option<super::model_spec::StorageSpec>,

    // ── the inline Container ──
    /// Image.
    pub image: Option<String>,
    /// Name of the container.
    pub name: Option<String>,
    /// Command.
    pub command: Option<Vec<String>>,
    /// Arguments.
    pub args: Option<Vec<String>>,
    /// Working directory.
    pub working_dir: Option<String>,
    /// Ports.
    pub ports: Option<Vec<core::ContainerPort>>,
    /// Environment from whole ConfigMaps and Secrets.
    pub env_from: Option<Vec<core::EnvFromSource>>,
    /// Environment.
    pub env: Option<Vec<core::EnvVar>>,
    /// Resources.
    pub resources: Option<core::ResourceRequirements>,
    /// In-place resize policy.
    pub resize_policy: Option<Vec<core::ContainerResizePolicy>>,
    /// Restart policy of the container.
    pub restart_policy: Option<String>,
    /// Mounts of volumes.
    pub volume_mounts: Option<Vec<core::VolumeMount>>,
    /// Raw devices.
    pub volume_devices: Option<Vec<core::VolumeDevice>>,
    /// Liveness probe.
    pub liveness_probe: Option<core::Probe>,
    /// Readiness probe.
    pub readiness_probe: Option<core::Probe>,
    /// Startup probe.
    pub startup_probe: Option<core::Probe>,
    /// Hooks.
    pub lifecycle: Option<core::Lifecycle>,
    /// Where the container leaves its last words.
    pub termination_message_path: Option<String>,
    /// How they are found.
    pub termination_message_policy: Option<String>,
    /// `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: Option<String>,
    /// Security settings.
    pub security_context: Option<core::SecurityContext>,
    /// Keep stdin open.
    pub stdin: Option<bool>,
    /// Close stdin after the first attach.
    pub stdin_once: Option<bool>,
    /// Allocate a terminal.
    pub tty: Option<bool>,
}

/// Fields of a predictor that are a model and a container in one: `model`, and the legacy frameworks (§1.6).
pub const PREDICTOR_MODELS: [&str; 11] = [
    "model",
    "sklearn",
    "xgboost",
    "tensorflow",
    "pytorch",
    "triton",
    "onnx",
    "huggingface",
    "pmml",
    "lightgbm",
    "paddle",
];

impl ComponentSpec {
    /// Returns the legacy framework fields that are set, in upstream's order of conversion (§1.6).
    pub fn legacy_frameworks(&self) -> Vec<(&'static str, &ModelSpec)> {
        let all = [
            ("sklearn", &self.sklearn),
            ("tensorflow", &self.tensorflow),
            ("xgboost", &self.xgboost),
            ("pytorch", &self.pytorch),
            ("triton", &self.triton),
            ("onnx", &self.onnx),
            ("huggingface", &self.huggingface),
            ("pmml", &self.pmml),
            ("lightgbm", &self.lightgbm),
            ("paddle", &self.paddle),
        ];
        all.into_iter().filter_map(|(name, spec)| spec.as_deref().map(|spec| (name, spec))).collect()
    }

    /// Takes a legacy framework field out of the spec.
    pub fn take_legacy(&mut self, framework: &str) -> Option<Box<ModelSpec>> {
        match framework {
            "sklearn" => self.sklearn.take(),
            "tensorflow" => self.tensorflow.take(),
            "xgboost" => self.xgboost.take(),
            "pytorch" => self.pytorch.take(),
            "triton" => self.triton.take(),
            "onnx" => self.onnx.take(),
            "huggingface" => self.huggingface.take(),
            "pmml" => self.pmml.take(),
            "lightgbm" => self.lightgbm.take(),
            "paddle" => self.paddle.take(),
            _ => None,
        }
    }

    /// Returns the containers, or none.
    pub fn containers(&self) -> &[core::Container] {
        self.containers.as_deref().unwrap_or_default()
    }

    /// Returns the name of the service account, `default` when absent.
    pub fn service_account(&self) -> &str {
        self.service_account_name.as_deref().or(self.service_account.as_deref()).unwrap_or("default")
    }
}
