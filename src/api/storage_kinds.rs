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

/// What is run for it when `workloadType` says nothing else.
pub const INIT_CONTAINER: &str = "initContainer";
/// What is run for objects that keep a model.
pub const DOWNLOAD_JOB: &str = "localModelDownloadJob";

impl StorageContainerSpec {
    /// Returns what the container is run as: [`INIT_CONTAINER`] unless it says otherwise.
    pub fn workload_type(&self) -> &str {
        self.workload_type.as_deref().filter(|kind| !kind.is_empty()).unwrap_or(INIT_CONTAINER)
    }

    /// Whether it is for a URI: one of its formats is how the URI begins, or is found in it.
    ///
    /// # Errors
    /// An expression that is none, in the parser's words.
    pub fn supports(&self, uri: &str) -> Result<bool, regex::Error> {
        for format in &self.supported_uri_formats {
            let prefix = format.prefix.as_deref().filter(|prefix| !prefix.is_empty());
            if prefix.is_some_and(|prefix| uri.starts_with(prefix)) {
                return Ok(true);
            }
            if let Some(expression) = format.regex.as_deref().filter(|expression| !expression.is_empty())
                && regex::Regex::new(expression)?.is_match(uri)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storage_container_is_for_uris_by_prefix_or_by_what_is_found_in_them() {
        let spec = |formats: serde_json::Value| -> StorageContainerSpec {
            let written = serde_json::json!({ "container": { "name": "c" }, "supportedUriFormats": formats });
            serde_json::from_value(written).unwrap()
        };
        let both =
            spec(serde_json::json!([{ "prefix": "custom://" }, { "regex": "https://(.+?).models.example.com/" }]));
        for (uri, expected) in [
            ("custom://team/model", true),
            ("https://eu.models.example.com/m", true),
            ("see https://eu.models.example.com/m", true),
            ("https://example.com/m", false),
            ("xcustom://team/model", false),
            ("", false),
        ] {
            assert_eq!(both.supports(uri).unwrap(), expected, "{uri}");
        }
        assert!(!spec(serde_json::json!([{ "prefix": "" }, {}])).supports("s3://b/m").unwrap());
        assert!(spec(serde_json::json!([{ "regex": "(" }])).supports("s3://b/m").is_err());
        assert_eq!(both.workload_type(), INIT_CONTAINER);
    }
}
