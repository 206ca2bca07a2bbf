//! `ServingRuntime` and `ClusterServingRuntime` v1alpha1: one spec, two scopes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How models of some formats are served (`V1A1/servingruntime_types.go`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServingRuntimeSpec {
    /// Formats it serves.
    pub supported_model_formats: Vec<SupportedModelFormat>,
    /// Serves several models in one process; never chosen for an InferenceService's model.
    pub multi_model: Option<bool>,
    /// Never chosen, and an error when named.
    pub disabled: Option<bool>,
    /// Protocols it speaks; an empty list means any.
    pub protocol_versions: Vec<String>,
    /// Marks a multi-node runtime.
    pub worker_spec: Option<Value>,
    /// Containers; the one named `kserve-container` serves.
    pub containers: Vec<core::Container>,
    /// Volumes by name.
    pub volumes: Option<Vec<core::Volume>>,
    /// Node labels required.
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Scheduling affinity.
    pub affinity: Option<core::Affinity>,
    /// Scheduling tolerations.
    pub tolerations: Option<Vec<core::Toleration>>,
    /// Scheduler by name.
    pub scheduler_name: Option<String>,
    /// Dynamic resource claims.
    pub resource_claims: Option<Vec<core::PodResourceClaim>>,
    /// Registry credentials.
    pub image_pull_secrets: Option<Vec<core::LocalObjectReference>>,
    /// Pod labels of lowest precedence.
    pub labels: Option<BTreeMap<String, String>>,
    /// Pod annotations of lowest precedence; carry `prometheus.kserve.io/*`.
    pub annotations: Option<BTreeMap<String, String>>,
    /// Use the host's IPC.
    #[serde(rename = "hostIPC")]
    pub host_ipc: Option<bool>,

    // ── ModelMesh only; read and ignored ──
    /// ModelMesh.
    pub grpc_endpoint: Option<String>,
    /// ModelMesh.
    pub grpc_data_endpoint: Option<String>,
    /// ModelMesh.
    pub http_data_endpoint: Option<String>,
    /// ModelMesh.
    pub replicas: Option<i32>,
    /// ModelMesh.
    pub storage_helper: Option<Value>,
    /// ModelMesh.
    pub built_in_adapter: Option<Value>,
}

/// One row of a runtime's format table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SupportedModelFormat {
    /// Format name, exact.
    pub name: String,
    /// Format version, exact; any when absent.
    pub version: Option<String>,
    /// Whether this row takes part in automatic selection.
    pub auto_select: Option<bool>,
    /// Higher wins; absent loses to any number.
    pub priority: Option<i32>,
}

impl ServingRuntimeSpec {
    /// Whether the runtime is disabled.
    pub fn is_disabled(&self) -> bool {
        self.disabled.unwrap_or(false)
    }

    /// Whether the runtime serves several models in one process.
    pub fn is_multi_model(&self) -> bool {
        self.multi_model.unwrap_or(false)
    }
}
