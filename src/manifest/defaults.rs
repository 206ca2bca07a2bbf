//! What an omitted field means, and what the legacy forms mean (§1.6).
//!
//! Applied to the typed view only; what the user wrote stays as it is. What depends on the chosen runtime is decided
//! where the workload is resolved. Upstream's default resources of custom containers are not applied: a limit nobody
//! wrote is not ours to invent.

use k8s_openapi::ByteString;

use crate::api::component::ComponentSpec;
use crate::api::{ComponentKind, InferenceServiceSpec, Metadata, ModelFormat, ModelSpec, Typed, meta};

/// Legacy forms that speak V2 when they name no protocol.
const LEGACY_V2: [&str; 3] = ["triton", "onnx", "huggingface"];
/// Formats of `model` that speak V2 when no protocol is named. Not the same as the legacy ones, and so upstream.
const MODEL_V2: [&str; 2] = ["triton", "vLLM"];

/// Writes the deployment mode in today's words.
pub(super) fn normalise_mode(metadata: &mut Metadata) {
    if let Some(mode) = metadata.annotations.get_mut(meta::DEPLOYMENT_MODE) {
        match mode.as_str() {
            "RawDeployment" => "Standard".clone_into(mode),
            "Serverless" => "Knative".clone_into(mode),
            _ => {}
        }
    }
}

/// Applies the defaults to an object that has passed validation.
pub(super) fn apply(metadata: &mut Metadata, typed: &mut Typed) {
    match typed {
        Typed::InferenceService(spec) => apply_to_service(metadata, spec),
        Typed::Secret(secret) => {
            let text = secret.string_data.take().unwrap_or_default();
            let bytes = text.into_iter().map(|(key, value)| (key, ByteString(value.into_bytes())));
            secret.data.get_or_insert_default().extend(bytes);
        }
        _ => {}
    }
}

fn apply_to_service(metadata: &mut Metadata, spec: &mut InferenceServiceSpec) {
    convert_legacy(&mut spec.predictor);
    if let Some(model) = &mut spec.predictor.model {
        if model.protocol_version.is_none() && MODEL_V2.contains(&model.model_format.name.as_str()) {
            model.protocol_version = Some("v2".to_owned());
        }
        let format = model.model_format.name.clone();
        metadata.annotations.entry(meta::MODEL_FORMAT.to_owned()).or_insert(format);
    }
    name_container(ComponentKind::Predictor, &mut spec.predictor);
    for (kind, component) in
        [(ComponentKind::Transformer, &mut spec.transformer), (ComponentKind::Explainer, &mut spec.explainer)]
    {
        if let Some(component) = component {
            name_container(kind, component);
        }
    }
}

/// Folds the legacy per-framework form into `model`. Never names a runtime or a version.
fn convert_legacy(predictor: &mut ComponentSpec) {
    let Some(framework) = predictor.legacy_frameworks().first().map(|(framework, _)| *framework) else { return };
    let Some(legacy) = predictor.take_legacy(framework) else { return };
    let mut model =
        ModelSpec { model_format: ModelFormat { name: framework.to_owned(), version: None }, name: None, ..*legacy };
    if model.protocol_version.is_none() && LEGACY_V2.contains(&framework) {
        model.protocol_version = Some("v2".to_owned());
    }
    predictor.model = Some(Box::new(model));
}

/// Gives the serving container its name: always in transformers and explainers; in a custom predictor when no
/// container has it yet (upstream renames only a lone or nameless one, and fails on what is left).
fn name_container(kind: ComponentKind, component: &mut ComponentSpec) {
    if kind == ComponentKind::Predictor && component.model.is_some() {
        return;
    }
    let Some(containers) = &mut component.containers else { return };
    let named = containers.iter().any(|container| container.name == meta::KSERVE_CONTAINER);
    if let Some(first) = containers.first_mut()
        && (kind != ComponentKind::Predictor || !named)
    {
        meta::KSERVE_CONTAINER.clone_into(&mut first.name);
    }
}
