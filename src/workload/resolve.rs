//! An InferenceService plus the catalogue of runtimes, resolved into workloads (§1.8, §2.5 to §2.7).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use serde_json::Value;

use super::pod::{self, Pod};
use super::{Patterns, Workload, component, predictor};
use crate::api::storage_kinds::LocalModelCacheSpec;
use crate::api::{
    ComponentKind, ComponentSpec, InferenceServiceSpec, Kind, Metadata, Object, ServiceKey, StorageContainer, Typed,
    meta,
};
use crate::runtimes::{Catalog, NoRuntime};

/// Objects an InferenceService may refer to, by `(namespace, name)`.
#[derive(Clone, Debug, Default)]
pub struct Companions<'o> {
    /// Secrets.
    pub secrets: BTreeMap<(&'o str, &'o str), &'o Secret>,
    /// ConfigMaps.
    pub config_maps: BTreeMap<(&'o str, &'o str), &'o ConfigMap>,
    /// ServiceAccounts.
    pub service_accounts: BTreeMap<(&'o str, &'o str), &'o ServiceAccount>,
    /// Specs of LLMInferenceServiceConfigs.
    pub llm_configs: BTreeMap<(&'o str, &'o str), &'o Value>,
    /// Models that are kept, with the namespace they are for; empty for all.
    pub local_models: Vec<(&'o str, &'o LocalModelCacheSpec)>,
    /// Containers that fetch models, by name.
    pub storage_containers: BTreeMap<&'o str, &'o StorageContainer>,
}

impl<'o> Companions<'o> {
    /// Gathers the companions from all objects.
    pub fn new(objects: impl IntoIterator<Item = &'o Object>) -> Self {
        let mut companions = Self::default();
        for object in objects {
            let key = (object.key.namespace.as_str(), object.key.name.as_str());
            match &object.typed {
                Typed::Secret(secret) => drop(companions.secrets.insert(key, secret)),
                Typed::ConfigMap(map) => drop(companions.config_maps.insert(key, map)),
                Typed::LocalModelCache(spec) => companions.local_models.push((key.0, spec)),
                Typed::LlmInferenceService(_) if object.key.kind == Kind::LlmInferenceServiceConfig => {
                    companions.llm_configs.insert(key, &object.raw["spec"]);
                }
                Typed::StorageContainer(container) => drop(companions.storage_containers.insert(key.1, container)),
                Typed::ServiceAccount(account) => drop(companions.service_accounts.insert(key, account)),
                _ => {}
            }
        }
        companions
    }
}

/// What the operator decided for every workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadConfig {
    /// Folders of this machine that manifests may mount with `hostPath`; none by default.
    pub allowed_host_paths: Vec<String>,
    /// What the engine makes of a container.
    pub run_as: RunAs,
    /// Which files of models are wanted, when nobody says otherwise.
    pub patterns: Patterns,
    /// ConfigMap with certificate authorities for every download.
    pub ca_bundle: Option<String>,
}

/// What the engine makes of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunAs {
    /// A container.
    #[default]
    Containers,
    /// A process of this machine, by its runtime's recipe.
    Processes,
}

/// Why an InferenceService cannot be turned into workloads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// No runtime serves the model.
    #[error(transparent)]
    Runtime(#[from] Box<NoRuntime>),
    /// Something in the spec cannot be done.
    #[error("{message}")]
    Invalid {
        /// Field path, for example `spec.predictor.containers[0].volumeMounts[1]`.
        field: String,
        /// What is wrong.
        message: String,
        /// The next step.
        help: Option<String>,
    },
    /// It can only run in a container, and the engine runs processes.
    #[error("{message}")]
    NeedsContainerEngine {
        /// What, and why not.
        message: String,
        /// The next step.
        help: String,
    },
}

impl ResolveError {
    /// Something in the spec cannot be done.
    pub(super) fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), message: message.into(), help: None }
    }

    /// Adds the next step.
    pub(super) fn with_help(self, text: impl Into<String>) -> Self {
        match self {
            Self::Invalid { field, message, .. } => Self::Invalid { field, message, help: Some(text.into()) },
            other => other,
        }
    }
}

/// Everything a component is resolved from.
#[derive(Clone, Debug)]
pub(super) struct Scope<'a> {
    pub(super) key: ServiceKey,
    pub(super) meta: &'a Metadata,
    pub(super) spec: &'a InferenceServiceSpec,
    pub(super) catalog: &'a Catalog,
    pub(super) companions: &'a Companions<'a>,
    pub(super) config: &'a WorkloadConfig,
}

impl Scope<'_> {
    /// Returns the GPU resource names the service adds by annotation.
    pub(super) fn gpu_types(&self) -> Vec<String> {
        let text = self.meta.annotation(meta::GPU_RESOURCE_TYPES).unwrap_or_default();
        serde_json::from_str(text).unwrap_or_default()
    }
}

/// Resolves every component of an InferenceService, predictor first, and the one of an LLMInferenceService; named
/// canaries are resolved by [`resolve_canaries`](super::resolve_canaries). The object has its defaults applied and its legacy
/// forms folded into `model` (`manifest::defaults`).
///
/// # Errors
/// The first component that cannot be resolved, with the reason.
pub fn resolve(
    object: &Object,
    catalog: &Catalog,
    companions: &Companions<'_>,
    config: &WorkloadConfig,
) -> Result<Vec<Workload>, ResolveError> {
    if object.key.kind == Kind::LlmInferenceService {
        return super::resolve_llm(object, companions, config);
    }
    let Some(spec) = object.as_inference_service() else {
        return Err(ResolveError::invalid("kind", format!("{} is not an InferenceService", object.key.kind)));
    };
    let key = ServiceKey::new(&object.key.namespace, &object.key.name);
    let scope = Scope { key, meta: &object.meta, spec, catalog, companions, config };
    spec.components().map(|(kind, component)| resolve_component(kind, component, &scope)).collect()
}

/// Resolves one component.
pub(super) fn resolve_component(
    kind: ComponentKind,
    component: &ComponentSpec,
    scope: &Scope<'_>,
) -> Result<Workload, ResolveError> {
    pod::to_workload(pod_of(kind, component, scope)?, component, scope)
}

fn pod_of(kind: ComponentKind, spec: &ComponentSpec, scope: &Scope<'_>) -> Result<Pod, ResolveError> {
    match kind {
        ComponentKind::Predictor => {
            refuse_unserved(spec)?;
            match &spec.model {
                Some(model) => predictor::pod(model, scope),
                None => component::custom_predictor(scope),
            }
        }
        ComponentKind::Transformer => component::transformer(spec, scope),
        ComponentKind::Explainer => component::explainer(spec, scope),
    }
}

fn refuse_unserved(predictor: &ComponentSpec) -> Result<(), ResolveError> {
    if predictor.worker_spec.is_some() {
        return Err(ResolveError::invalid("spec.predictor.workerSpec", "one machine has no second node to work on")
            .with_help("leave workerSpec out; several GPUs of this machine are asked for with a nvidia.com/gpu limit and the server's own arguments"));
    }
    Ok(())
}
