//! Object metadata, and the labels and annotations that mean something here.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

/// The part of `ObjectMeta` that decisions are made from. Everything else stays in the raw value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// Name within the namespace.
    pub name: String,
    /// Namespace; `default` when the manifest names none; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Labels as written; copies of the object share them.
    pub labels: Arc<BTreeMap<String, String>>,
    /// Annotations as written; the same.
    pub annotations: Arc<BTreeMap<String, String>>,
    /// Identity of this object's life, given by the store.
    pub uid: String,
    /// Counts changes of the desired state, given by the store.
    pub generation: i64,
    /// When the object was first seen, given by the store.
    pub creation_timestamp: Option<Timestamp>,
}

impl Metadata {
    /// Returns the value of an annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }

    /// Returns the value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }

    /// Whether a label keeps the object off the public addresses; that of either deployment mode does.
    pub fn is_cluster_local(&self) -> bool {
        [VISIBILITY, KNATIVE_VISIBILITY].iter().any(|key| self.label(key) == Some(CLUSTER_LOCAL))
    }
}

/// API group of KServe's kinds.
pub const GROUP: &str = "serving.kserve.io";
/// Namespace of manifests that name none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// KServe's system namespace, where `inferenceservice-config` lives.
pub const SYSTEM_NAMESPACE: &str = "kserve";

/// Name of the container that serves (upstream `pkg/constants`).
pub const KSERVE_CONTAINER: &str = "kserve-container";
/// Name of a transformer collocated with its predictor.
pub const TRANSFORMER_CONTAINER: &str = "transformer-container";
/// Where a model is mounted in every container that reads it.
pub const MODEL_MOUNT_PATH: &str = "/mnt/models";
/// Port a container listens on when it declares none.
pub const DEFAULT_CONTAINER_PORT: u16 = 8080;

/// `Standard` or `Knative`; older spellings `RawDeployment` and `Serverless`.
pub const DEPLOYMENT_MODE: &str = "serving.kserve.io/deploymentMode";
/// `"true"` (any case) stops the service and keeps the object.
pub const STOP: &str = "serving.kserve.io/stop";
/// Standard mode's autoscaler: `hpa`, `keda`, `external`, `none`.
pub const AUTOSCALER_CLASS: &str = "serving.kserve.io/autoscalerClass";
/// Knative's autoscaler class.
pub const KNATIVE_AUTOSCALER_CLASS: &str = "autoscaling.knative.dev/class";
/// On a runtime's metadata: which server it is; drives defaults, image suffixes and readiness.
pub const SERVER_TYPE: &str = "serving.kserve.io/server-type";
/// `"false"` makes the model mount writable.
pub const MODEL_READONLY: &str = "storage.kserve.io/readonly";
/// Names the one Secret with storage credentials.
pub const STORAGE_SECRET_NAME: &str = "serving.kserve.io/storageSecretName";
/// `"true"`: a change of its runtime alone does not make a new revision of a service that is ready.
pub const DISABLE_AUTO_UPDATE: &str = "serving.kserve.io/disable-auto-update";
/// Adds the `latest` tag host.
pub const ENABLE_TAG_ROUTING: &str = "serving.kserve.io/enable-tag-routing";
/// Port on which a runtime's containers show their metrics.
pub const PROMETHEUS_PORT: &str = "prometheus.kserve.io/port";
/// Path under which a runtime's containers show their metrics; `/metrics` when it is not given.
pub const PROMETHEUS_PATH: &str = "prometheus.kserve.io/path";
/// Extra GPU resource names, a JSON array.
pub const GPU_RESOURCE_TYPES: &str = "serving.kserve.io/gpu-resource-types";
/// Label `cluster-local` keeps a service off the public addresses (Standard mode).
pub const VISIBILITY: &str = "networking.kserve.io/visibility";
/// The same in Knative mode.
pub const KNATIVE_VISIBILITY: &str = "networking.knative.dev/visibility";
/// The value of both.
const CLUSTER_LOCAL: &str = "cluster-local";
/// Written by defaulting; read by `kserve-predictiveserver`'s template.
pub const MODEL_FORMAT: &str = "modelFormat";
/// Label of everything that belongs to an InferenceService.
pub const INFERENCE_SERVICE_LABEL: &str = "serving.kserve.io/inferenceservice";
/// Label naming the component.
pub const COMPONENT_LABEL: &str = "component";
/// On a TrainedModel: the InferenceService that is to load it.
pub const PARENT_LABEL: &str = "inferenceservice";
/// On a TrainedModel: the InferenceService in whose memory it has room.
pub const ALLOCATED_LABEL: &str = "serving.kserve.io/trainedmodel-allocated";
/// Prefix of Knative's autoscaling annotations.
pub const AUTOSCALING_PREFIX: &str = "autoscaling.knative.dev/";
/// Prefix of our own annotations.
pub const OWN_PREFIX: &str = "kserve-local/";
/// How a service sleeps: `stop`, `pause` or `hook`.
pub const SLEEP_WAY: &str = "kserve-local/sleep";
/// Path that is posted to a server to send it to sleep.
pub const SLEEP_PATH: &str = "kserve-local/sleep-path";
/// Path that is posted to a server to wake it.
pub const WAKE_PATH: &str = "kserve-local/wake-path";
/// Port of both.
pub const SLEEP_PORT: &str = "kserve-local/sleep-port";
/// Hours in which a service that may sleep does not: `mon-fri 08:00-18:00`.
pub const KEEP_WARM: &str = "kserve-local/keep-warm";
/// `"true"`: a service that may sleep never does.
pub const PIN: &str = "kserve-local/pin";
/// A service that sleeps is woken when the daemon starts, lower numbers first.
pub const PRELOAD: &str = "kserve-local/preload";
/// Any value of it keeps a service away from models that objects keep.
pub const DISABLE_LOCAL_MODEL: &str = "serving.kserve.io/disable-localmodel";
/// Name of the one node.
pub const NODE: &str = "kserve-local";
/// When a model's source is asked for something new: `never`, `on-start`, or a time such as `1h`.
pub const REFRESH: &str = "kserve-local/refresh";
/// Which versions of refreshed models a revision has: a JSON object, URI to version. Written by us.
pub const MODEL_VERSIONS: &str = "kserve-local/model-versions";
/// In a status: when the sources of refreshed models were last asked.
pub const MODEL_CHECKED: &str = "kserve-local/model-checked";
/// In a status: why a source could not be asked.
pub const MODEL_CHECK_FAILED: &str = "kserve-local/model-check-failed";
/// On a runtime's metadata: how it runs without a container, as YAML.
pub const PROCESS_RECIPE: &str = "kserve-local/process";
/// On pods: when `kubectl rollout restart` asked for new ones; a new value makes a new revision.
pub const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
