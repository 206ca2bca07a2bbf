//! The sum of the kinds, and how objects are named.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret, ServiceAccount};
use serde_json::Value;

use super::{
    InferenceGraphSpec, InferenceServiceSpec, LlmInferenceServiceSpec, LocalModelCacheSpec, LocalModelNodeGroupSpec,
    Metadata, ServingRuntimeSpec, StorageContainer, TrainedModelSpec,
};

/// The kinds that can be desired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `serving.kserve.io/v1beta1` InferenceService.
    InferenceService,
    /// `serving.kserve.io/v1alpha1` ServingRuntime (namespaced).
    ServingRuntime,
    /// `serving.kserve.io/v1alpha1` ClusterServingRuntime.
    ClusterServingRuntime,
    /// `v1` Secret.
    Secret,
    /// `v1` ServiceAccount.
    ServiceAccount,
    /// `v1` ConfigMap.
    ConfigMap,
    /// `v1` Namespace.
    Namespace,
    /// `serving.kserve.io/v1alpha1` InferenceGraph.
    InferenceGraph,
    /// `serving.kserve.io/v1alpha1` TrainedModel.
    TrainedModel,
    /// `serving.kserve.io/v1alpha1` ClusterStorageContainer.
    ClusterStorageContainer,
    /// `serving.kserve.io/v1alpha1` LocalModelCache (cluster-scoped).
    LocalModelCache,
    /// `serving.kserve.io/v1alpha1` LocalModelNamespaceCache.
    LocalModelNamespaceCache,
    /// `serving.kserve.io/v1alpha1` LocalModelNodeGroup.
    LocalModelNodeGroup,
    /// `serving.kserve.io/v1alpha2` LLMInferenceService.
    LlmInferenceService,
    /// `serving.kserve.io/v1alpha2` LLMInferenceServiceConfig.
    LlmInferenceServiceConfig,
    /// `v1` PersistentVolumeClaim: a name for a folder.
    PersistentVolumeClaim,
}

impl Kind {
    /// Every kind, in the order lists are shown.
    pub const ALL: [Self; 16] = [
        Self::InferenceService,
        Self::ServingRuntime,
        Self::ClusterServingRuntime,
        Self::InferenceGraph,
        Self::TrainedModel,
        Self::ClusterStorageContainer,
        Self::LocalModelCache,
        Self::LocalModelNamespaceCache,
        Self::LocalModelNodeGroup,
        Self::LlmInferenceService,
        Self::LlmInferenceServiceConfig,
        Self::Secret,
        Self::ServiceAccount,
        Self::ConfigMap,
        Self::Namespace,
        Self::PersistentVolumeClaim,
    ];

    /// Returns the kind as written in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InferenceService => "InferenceService",
            Self::ServingRuntime => "ServingRuntime",
            Self::ClusterServingRuntime => "ClusterServingRuntime",
            Self::Secret => "Secret",
            Self::ServiceAccount => "ServiceAccount",
            Self::ConfigMap => "ConfigMap",
            Self::Namespace => "Namespace",
            Self::InferenceGraph => "InferenceGraph",
            Self::TrainedModel => "TrainedModel",
            Self::ClusterStorageContainer => "ClusterStorageContainer",
            Self::LocalModelCache => "LocalModelCache",
            Self::LocalModelNamespaceCache => "LocalModelNamespaceCache",
            Self::LocalModelNodeGroup => "LocalModelNodeGroup",
            Self::LlmInferenceService => "LLMInferenceService",
            Self::LlmInferenceServiceConfig => "LLMInferenceServiceConfig",
            Self::PersistentVolumeClaim => "PersistentVolumeClaim",
        }
    }

    /// Returns the API group, empty for the core group.
    pub fn group(self) -> &'static str {
        match self {
            Self::Secret | Self::ServiceAccount | Self::ConfigMap | Self::Namespace | Self::PersistentVolumeClaim => "",
            _ => super::meta::GROUP,
        }
    }

    /// Returns the version served.
    pub fn version(self) -> &'static str {
        match self {
            Self::InferenceService => "v1beta1",
            Self::LlmInferenceService | Self::LlmInferenceServiceConfig => "v1alpha2",
            kind if kind.group().is_empty() => "v1",
            _ => "v1alpha1",
        }
    }

    /// Returns `group/version`, or the version alone for the core group.
    pub fn api_version(self) -> String {
        match self.group() {
            "" => self.version().to_owned(),
            group => format!("{group}/{}", self.version()),
        }
    }

    /// Returns the plural name used in API paths.
    pub fn plural(self) -> &'static str {
        match self {
            Self::InferenceService => "inferenceservices",
            Self::ServingRuntime => "servingruntimes",
            Self::ClusterServingRuntime => "clusterservingruntimes",
            Self::Secret => "secrets",
            Self::ServiceAccount => "serviceaccounts",
            Self::ConfigMap => "configmaps",
            Self::Namespace => "namespaces",
            Self::InferenceGraph => "inferencegraphs",
            Self::TrainedModel => "trainedmodels",
            Self::ClusterStorageContainer => "clusterstoragecontainers",
            Self::LocalModelCache => "localmodelcaches",
            Self::LocalModelNamespaceCache => "localmodelnamespacecaches",
            Self::LocalModelNodeGroup => "localmodelnodegroups",
            Self::LlmInferenceService => "llminferenceservices",
            Self::LlmInferenceServiceConfig => "llminferenceserviceconfigs",
            Self::PersistentVolumeClaim => "persistentvolumeclaims",
        }
    }

    /// Returns the short names kubectl knows.
    pub fn short_names(self) -> &'static [&'static str] {
        match self {
            Self::InferenceService => &["isvc"],
            Self::ServiceAccount => &["sa"],
            Self::ConfigMap => &["cm"],
            Self::Namespace => &["ns"],
            Self::InferenceGraph => &["ig"],
            Self::TrainedModel => &["tm"],
            Self::LlmInferenceService => &["llmisvc"],
            Self::PersistentVolumeClaim => &["pvc"],
            _ => &[],
        }
    }

    /// Whether objects of this kind live in a namespace.
    pub fn is_namespaced(self) -> bool {
        !matches!(
            self,
            Self::ClusterServingRuntime
                | Self::Namespace
                | Self::ClusterStorageContainer
                | Self::LocalModelCache
                | Self::LocalModelNodeGroup
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names one object. Cluster-scoped objects have an empty namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Kind of the object.
    pub kind: Kind,
    /// Namespace, empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name within the namespace.
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

impl ObjectKey {
    /// Returns the service of that name: the object itself, or what another kind has its route and its pods under.
    pub fn to_service_key(&self) -> ServiceKey {
        ServiceKey::new(self.namespace.clone(), self.name.clone())
    }
}

/// Names one InferenceService.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Namespace of the InferenceService.
    pub namespace: String,
    /// Name of the InferenceService.
    pub name: String,
}

impl ServiceKey {
    /// Names the service `name` in `namespace`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Returns the key of the object of that name and another kind.
    pub fn to_key_of(&self, kind: Kind) -> ObjectKey {
        ObjectKey { kind, namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// Returns the key of the InferenceService object.
    pub fn to_object_key(&self) -> ObjectKey {
        ObjectKey { kind: Kind::InferenceService, namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One desired object: what the user wrote, and what it means. Copies share both: whoever reads files, shows objects and
/// decides from them has the same ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its name.
    pub key: ObjectKey,
    /// Metadata that decisions are made from.
    pub meta: Metadata,
    /// The typed view, with defaults applied and legacy forms converted.
    pub typed: Typed,
    /// The document as written (JSON form), so that a field that is not modelled is never lost.
    pub raw: Arc<Value>,
}

/// The typed view of each kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Typed {
    /// An InferenceService's spec.
    InferenceService(Arc<InferenceServiceSpec>),
    /// A ServingRuntime's or ClusterServingRuntime's spec; the object's kind tells which.
    ServingRuntime(Arc<ServingRuntimeSpec>),
    /// A Secret, `stringData` folded into `data`.
    Secret(Arc<Secret>),
    /// A ServiceAccount.
    ServiceAccount(Arc<ServiceAccount>),
    /// A ConfigMap.
    ConfigMap(Arc<ConfigMap>),
    /// A Namespace.
    Namespace,
    /// An InferenceGraph's spec.
    InferenceGraph(Arc<InferenceGraphSpec>),
    /// A TrainedModel's spec.
    TrainedModel(Arc<TrainedModelSpec>),
    /// A ClusterStorageContainer.
    StorageContainer(Arc<StorageContainer>),
    /// A LocalModelCache's or LocalModelNamespaceCache's spec; the object's kind tells which.
    LocalModelCache(Arc<LocalModelCacheSpec>),
    /// A LocalModelNodeGroup's spec.
    LocalModelNodeGroup(Arc<LocalModelNodeGroupSpec>),
    /// An LLMInferenceService's or LLMInferenceServiceConfig's spec; the object's kind tells which.
    LlmInferenceService(Arc<LlmInferenceServiceSpec>),
    /// A PersistentVolumeClaim.
    PersistentVolumeClaim(Arc<PersistentVolumeClaim>),
}

impl Object {
    /// Returns the service's key and spec when this is an InferenceService.
    pub fn as_inference_service(&self) -> Option<&InferenceServiceSpec> {
        match &self.typed {
            Typed::InferenceService(spec) => Some(spec),
            _ => None,
        }
    }

    /// Returns the graph's spec when this is an InferenceGraph.
    pub fn as_inference_graph(&self) -> Option<&InferenceGraphSpec> {
        match &self.typed {
            Typed::InferenceGraph(spec) => Some(spec),
            _ => None,
        }
    }

    /// Returns the runtime's spec when this is a ServingRuntime or ClusterServingRuntime.
    pub fn as_serving_runtime(&self) -> Option<&ServingRuntimeSpec> {
        match &self.typed {
            Typed::ServingRuntime(spec) => Some(spec),
            _ => None,
        }
    }
}
