//! The top levels of KServe's kinds, as they are read.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::api::{
    InferenceGraphSpec, InferenceServiceSpec, LlmInferenceServiceSpec, LocalModelCacheSpec, LocalModelNodeGroupSpec,
    ServingRuntimeSpec, StorageContainerSpec, TrainedModelSpec,
};

macro_rules! manifests {
    ($($(#[$about:meta])* $name:ident: $spec:ty;)*) => {$(
        $(#[$about])*
        #[derive(Debug, Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub(super) struct $name {
            #[serde(rename = "apiVersion")]
            _api_version: String,
            #[serde(rename = "kind")]
            _kind: String,
            pub(super) metadata: ObjectMeta,
            pub(super) spec: $spec,
            #[serde(rename = "status")]
            _status: IgnoredStatus,
        }
    )*};
}

manifests! {
    /// An InferenceService.
    InferenceServiceManifest: InferenceServiceSpec;
    /// A ServingRuntime or ClusterServingRuntime.
    ServingRuntimeManifest: ServingRuntimeSpec;
    /// An InferenceGraph.
    InferenceGraphManifest: InferenceGraphSpec;
    /// A TrainedModel.
    TrainedModelManifest: TrainedModelSpec;
    /// A LocalModelCache or LocalModelNamespaceCache.
    LocalModelCacheManifest: LocalModelCacheSpec;
    /// A LocalModelNodeGroup.
    LocalModelNodeGroupManifest: LocalModelNodeGroupSpec;
    /// An LLMInferenceService or LLMInferenceServiceConfig.
    LlmInferenceServiceManifest: LlmInferenceServiceSpec;
}

/// A ClusterStorageContainer, which has a field beside its spec.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct StorageContainerManifest {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    pub(super) metadata: ObjectMeta,
    pub(super) disabled: Option<bool>,
    pub(super) spec: StorageContainerSpec,
}

/// A `status` in a manifest says nothing: the status is ours to tell.
#[derive(Debug, Default)]
struct IgnoredStatus;

impl<'de> Deserialize<'de> for IgnoredStatus {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}
