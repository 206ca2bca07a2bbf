//! An LLMInferenceService, resolved into one workload (§7.3): one vLLM-compatible server.
//!
//! As upstream, three layers are merged, later ones winning: a preset, the configs of `baseRefs` in order, the service's own
//! spec; then `{{…}}` in them is rendered. The result is a pod like that of any predictor of the user's own containers, and
//! goes the same way from there. What only clusters have was refused or named where the manifest was checked.

mod command;
mod compose;
mod render;

use std::collections::BTreeMap;

use serde_json::Value;

use super::model_source::{self, ModelMounts, Wanted};
use super::resolve::Scope;
use super::{Access, Companions, ResolveError, Workload, WorkloadConfig, component, credentials, names, pod};
use crate::api::llm_inference_service::LlmInferenceServiceSpec;
use crate::api::{ComponentSpec, InferenceServiceSpec, Metadata, Object, ServiceKey, Typed, meta};
use crate::runtimes::Catalog;

/// Name of the container that serves, as upstream's.
const MAIN: &str = "main";
/// Where adapters are, each under its name.
const ADAPTERS: &str = "/mnt/lora";

/// Resolves an LLMInferenceService.
///
/// # Errors
/// A config is not there, a placeholder is not understood, or the pod asks for what cannot be done; with the path of the
/// field in the merged spec.
pub fn resolve_llm(
    object: &Object,
    companions: &Companions<'_>,
    config: &WorkloadConfig,
) -> Result<Vec<Workload>, ResolveError> {
    let Typed::LlmInferenceService(written) = &object.typed else {
        return Err(ResolveError::invalid("kind", format!("{} is not an LLMInferenceService", object.key.kind)));
    };
    let merged = compose::compose(object, written, companions)?;
    let spec: LlmInferenceServiceSpec = serde_json::from_value(merged.spec.clone())
        .map_err(|error| ResolveError::invalid("spec", format!("the spec merged with its configs is none: {error}")))?;
    refuse_clusters(&spec)?;
    let names = Names::new(&object.meta, &spec);
    let component = component(&merged, &spec, &names)?;
    let service = InferenceServiceSpec { predictor: component, ..InferenceServiceSpec::default() };
    let (key, catalog) = (ServiceKey::new(&object.key.namespace, &object.key.name), Catalog::with_builtin(&[], []));
    let scope = Scope { key, meta: &object.meta, spec: &service, catalog: &catalog, companions, config };
    workload(&spec, &names, &scope).map(|workload| vec![workload]).map_err(in_users_words)
}

/// A config may ask for what its service may not.
fn refuse_clusters(spec: &LlmInferenceServiceSpec) -> Result<(), ResolveError> {
    for (field, is_written) in [("spec.worker", spec.worker.is_some()), ("spec.prefill", spec.prefill.is_some())] {
        if is_written {
            return Err(ResolveError::invalid(field, "a config of baseRefs asks for more than one machine has"));
        }
    }
    Ok(())
}

/// The names a model is called by.
pub(super) struct Names {
    /// The one in requests.
    pub(super) model: String,
    /// With the namespace, as gateways of several publishers have it.
    pub(super) published: String,
    pub(super) adapters: Vec<String>,
}

impl Names {
    fn new(meta: &Metadata, spec: &LlmInferenceServiceSpec) -> Self {
        let model = spec.model.as_ref();
        let name = model.and_then(|model| model.name.clone()).filter(|name| !name.is_empty());
        let lora = model.and_then(|model| model.lora.as_ref());
        let adapters = lora.and_then(|lora| lora.adapters.as_ref()).into_iter().flatten();
        Self {
            model: name.unwrap_or_else(|| meta.name.clone()),
            published: format!("publishers/{}/models/{}", meta.namespace, meta.name),
            adapters: adapters.map(|adapter| adapter.name.clone()).collect(),
        }
    }
}

/// The merged template as the predictor of an InferenceService.
fn component(
    merged: &compose::Merged,
    spec: &LlmInferenceServiceSpec,
    names: &Names,
) -> Result<ComponentSpec, ResolveError> {
    let template = merged.spec.get("template").cloned().unwrap_or_default();
    let mut component: ComponentSpec = serde_json::from_value(template)
        .map_err(|error| ResolveError::invalid("spec.template", format!("it is no pod: {error}")))?;
    let containers = component.containers.get_or_insert_default();
    let Some(at) = containers.iter().position(|container| container.name == MAIN) else {
        return Err(ResolveError::invalid("spec.template.containers", "none of them is named `main`"));
    };
    let mut main = containers.remove(at);
    meta::KSERVE_CONTAINER.clone_into(&mut main.name);
    if merged.runs_preset {
        command::complete(&mut main, spec, names)?;
    }
    containers.insert(0, main);
    let scaling = spec.scaling.as_ref();
    component.min_replicas = spec.replicas.or_else(|| scaling.and_then(|scaling| scaling.min_replicas)).or(Some(1));
    // Their number is fixed unless it is said to follow the load.
    component.max_replicas = match scaling {
        Some(scaling) => spec.replicas.or(scaling.max_replicas),
        None => spec.replicas.or(Some(1)),
    };
    if spec.replicas == Some(0) {
        // None and no more: it sleeps, and the first request brings one.
        component.max_replicas = Some(1);
    }
    component.labels.clone_from(&spec.labels);
    component.annotations.clone_from(&spec.annotations);
    Ok(component)
}

fn workload(spec: &LlmInferenceServiceSpec, names: &Names, scope: &Scope<'_>) -> Result<Workload, ResolveError> {
    let component = &scope.spec.predictor;
    let mut pod = component::custom_predictor(scope)?;
    pod.models = models(spec, scope, &mut pod.warnings)?;
    pod.has_model = true;
    let mut workload = pod::to_workload(pod, component, scope)?;
    // As it was written, and as `kubectl logs -c` of a cluster has it.
    if let Some(serving) = workload.containers.first_mut() {
        MAIN.clone_into(&mut serving.name);
    }
    workload.service_name = names::llm_service_name(&scope.key.name);
    workload.model_name.clone_from(&names.model);
    workload.aliases = names.adapters.iter().chain([&names.published]).cloned().collect();
    workload.extras.predict_path = None;
    workload.protocol = String::new();
    for warning in &mut workload.warnings {
        *warning = warning.replacen("spec.predictor", "spec.template", 1);
    }
    Ok(workload)
}

/// The model at `/mnt/models` and each adapter below `/mnt/lora`.
fn models(
    spec: &LlmInferenceServiceSpec,
    scope: &Scope<'_>,
    warnings: &mut Vec<String>,
) -> Result<ModelMounts, ResolveError> {
    let mut all = ModelMounts::default();
    let Some(model) = &spec.model else {
        return Err(ResolveError::invalid("spec.model.uri", "neither the service nor its configs name a model"));
    };
    let component = &scope.spec.predictor;
    let access = credentials::of_account(scope, component, warnings)?;
    let own: Vec<String> = component.image_pull_secrets.iter().flatten().map(|secret| secret.name.clone()).collect();
    let secrets = credentials::pull_secrets(&own, component, scope);
    // Warned of where images are resolved.
    let mut unsaid = Vec::new();
    let access = Access { registries: credentials::registries(&secrets, scope, &mut unsaid), ..access };
    let wanted = Wanted { namespace: &scope.key.namespace, read_only: true, access: &access, fetching: None };
    let is_fetched = spec.storage_initializer.as_ref().and_then(|initializer| initializer.enabled) != Some(false);
    let uri = model.uri.as_deref().unwrap_or_default();
    match is_fetched {
        true if uri.is_empty() => {
            return Err(ResolveError::invalid("spec.model.uri", "neither the service nor its configs name a model"));
        }
        true => all = model_source::single(uri, "spec.model.uri", &wanted)?,
        false => warnings.push(
            "spec.storageInitializer: the server finds its model itself; containers have no way out of this machine unless \
             their engine gives them one"
                .to_owned(),
        ),
    }
    let adapters = model.lora.as_ref().and_then(|lora| lora.adapters.as_ref()).into_iter().flatten();
    for (index, adapter) in adapters.enumerate() {
        let found = model_source::single(&adapter.uri, &format!("spec.model.lora.adapters[{index}].uri"), &wanted)?;
        all.add_at(found, &format!("{ADAPTERS}/{}", adapter.name));
    }
    Ok(all)
}

/// A predictor's paths are those of the template here.
fn in_users_words(error: ResolveError) -> ResolveError {
    match error {
        ResolveError::Invalid { field, message, help } => {
            ResolveError::Invalid { field: field.replacen("spec.predictor", "spec.template", 1), message, help }
        }
        other => other,
    }
}

/// Variables placeholders are rendered from.
fn values(meta: &Metadata, spec: &Value) -> BTreeMap<&'static str, Value> {
    let object = serde_json::json!({
        "Name": meta.name, "Namespace": meta.namespace, "Labels": *meta.labels, "Annotations": *meta.annotations,
    });
    BTreeMap::from([("Spec", spec.clone()), ("ObjectMeta", object)])
}

#[cfg(test)]
mod tests;
