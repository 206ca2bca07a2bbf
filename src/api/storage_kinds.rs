//! Kinds about where models are: `ClusterStorageContainer`, `LocalModelCache` and `LocalModelNodeGroup` v1alpha1
//! (`V1A1/storage_container_types.go`, `V1A1/local_model_*.go`, §3.9).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};

/// A container of the user's that fetches models, and whether it may be chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StorageContainer {
    /// Never chosen.
    pub disabled: bool,
    /// The rest.
    pub spec: StorageContainerSpec,
}

/// A container of the user's that fetches models.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StorageContainerSpec {
    /// The container.
    pub container: core::Container,
    /// URIs it is for.
    pub supported_uri_formats: Vec<SupportedUriFormat>,
    /// `initContainer` or `localModelDownloadJob`.
    pub workload_type: Option<String>,
    /// Whether one run fetches several models.
    pub supports_multi_model_download: Option<bool>,
}

/// URIs by their beginning, or by an expression.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SupportedUriFormat {
    /// How they begin.
    pub prefix: Option<String>,
    /// What they match.
    pub regex: Option<String>,
}

/// A model that is fetched before it is needed, and kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalModelCacheSpec {
    /// Where it is; never changes.
    pub source_model_uri: String,
    /// How large it is.
    pub model_size: Quantity,
    /// Groups of nodes that keep it.
    pub node_groups: Vec<String>,
    /// ServiceAccount whose secrets are used to fetch it.
    pub service_account_name: Option<String>,
    /// Keys of the storage secret.
    pub storage: Option<LocalModelStorage>,
}

/// The observed state of a model that is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalModelCacheStatus {
    /// By node: `NodeDownloadPending`, `NodeDownloading`, `NodeDownloaded` or `NodeDownloadError`.
    pub node_status: BTreeMap<String, String>,
    /// How many nodes have it.
    pub copies: LocalModelCopies,
    /// Services that use it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inference_services: Vec<NamespacedName>,
}

/// How many nodes have a model that is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LocalModelCopies {
    /// Have it.
    pub available: i64,
    /// Shall have it.
    pub total: i64,
    /// Could not fetch it.
    #[serde(skip_serializing_if = "is_zero")]
    pub failed: i64,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Names an object of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespacedName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// A key of the storage secret, and what to set beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LocalModelStorage {
    /// Key.
    pub key: Option<String>,
    /// Parameters that take precedence.
    pub parameters: Option<BTreeMap<String, String>>,
}

/// Nodes that keep models, and on what volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalModelNodeGroupSpec {
    /// Most bytes.
    pub storage_limit: Quantity,
    /// The volume.
    pub persistent_volume_spec: core::PersistentVolumeSpec,
    /// The claim to it.
    pub persistent_volume_claim_spec: core::PersistentVolumeClaimSpec,
}
