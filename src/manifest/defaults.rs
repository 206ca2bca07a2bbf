//! What an omitted field means, and what the legacy forms mean (§1.6).
//!
//! Applied to the typed view only; what the user wrote stays as it is. What depends on the chosen runtime is decided
//! where the workload is resolved. Upstream's default resources of custom containers are not applied: a limit nobody
//! wrote is not ours to invent.

use std::sync::Arc;

use k8s_openapi::ByteString;

use crate::api::component::ComponentSpec;
use crate::api::{ComponentKind, InferenceServiceSpec, Metadata, ModelFormat, ModelSpec, Typed, meta};

/// Legacy forms that speak V2 when they name no protocol.
const LEGACY_V2: [&str; 3] = ["triton", "onnx", "huggingface"];
/// Formats of `model` that speak V2 when no protocol is named. Not the same as the legacy ones, and so upstream.
const MODEL_V2: [&str; 2] = ["triton", "vLLM"];

/// Writes the deployment mode in today's words.
pub(super) fn normalise_mode(metadata: &mut Metadata) {
    let annotations = Arc::make_mut(&mut metadata.annotations);
    if let Some(mode) = annotations.get_mut(meta::DEPLOYMENT_MODE) {
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
        Typed::InferenceService(spec) => apply_to_service(metadata, Arc::make_mut(spec)),
        Typed::Secret(secret) => {
            let secret = Arc::make_mut(secret);
            let text = secret.string_data.take().unwrap_or_default();
            let bytes = text.into_iter().map(|(key, value)| (key, ByteString(value.into_bytes())));
            secret.data.get_or_insert_default().extend(bytes);
        }
        _ => {}
    }
}

fn apply_to_service(metadata: &mut Metadata, spec: &mut InferenceServiceSpec) {
    convert_legacy(&mut spec.predictor);
    default_protocol(&mut spec.predictor);
    if let Some(model) = &spec.predictor.model {
        let format = model.model_format.name.clone();
        Arc::make_mut(&mut metadata.annotations).entry(meta::MODEL_FORMAT.to_owned()).or_insert(format);
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

/// Gives a predictor the protocol its model format speaks, when it names none.
pub fn default_protocol(predictor: &mut ComponentSpec) {
    let Some(model) = &mut predictor.model else { return };
    if model.protocol_version.is_none() && MODEL_V2.contains(&model.model_format.name.as_str()) {
        model.protocol_version = Some("v2".to_owned());
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

#[cfg(test)]
mod tests {
    use crate::api::{Object, Typed, meta};
    use crate::manifest::decode;

    fn object(text: &str) -> Object {
        let mut decoded = decode("f.yaml", text);
        assert_eq!(decoded.failed, [], "{:?}", decoded.diagnostics);
        decoded.objects.remove(0).object
    }

    fn service(predictor: &str) -> Object {
        object(&format!(
            "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {{name: iris}}\nspec: {predictor}\n"
        ))
    }

    #[test]
    fn legacy_forms_become_model_and_only_three_of_them_speak_v2() {
        let cases = [
            ("sklearn", None),
            ("xgboost", None),
            ("lightgbm", None),
            ("pmml", None),
            ("paddle", None),
            ("tensorflow", None),
            ("pytorch", None),
            ("triton", Some("v2")),
            ("onnx", Some("v2")),
            ("huggingface", Some("v2")),
        ];
        for (framework, protocol) in cases {
            let object = service(&format!(
                "{{predictor: {{{framework}: {{storageUri: s3://b/m, runtimeVersion: '1', env: [{{name: A}}]}}}}}}"
            ));
            let spec = object.as_inference_service().unwrap();
            let model = spec.predictor.model.as_ref().unwrap();
            assert_eq!(model.model_format.name, framework);
            assert_eq!(model.model_format.version, None);
            assert_eq!(model.runtime, None);
            assert_eq!(model.protocol_version.as_deref(), protocol, "{framework}");
            assert_eq!(model.storage_uri.as_deref(), Some("s3://b/m"));
            assert_eq!(model.runtime_version.as_deref(), Some("1"));
            assert_eq!(model.env.as_ref().unwrap()[0].name, "A");
            assert_eq!(spec.predictor.legacy_frameworks(), []);
            assert_eq!(object.meta.annotation(meta::MODEL_FORMAT), Some(framework));
            assert!(object.raw["spec"]["predictor"].get(framework).is_some(), "the document stays as written");
            assert!(object.raw["metadata"].get("annotations").is_none());
        }
    }

    #[test]
    fn of_the_new_form_only_triton_and_vllm_speak_v2() {
        let cases =
            [("triton", Some("v2")), ("vLLM", Some("v2")), ("vllm", None), ("onnx", None), ("huggingface", None)];
        for (format, protocol) in cases {
            let object = service(&format!(
                "{{predictor: {{model: {{modelFormat: {{name: {format}}}, storageUri: s3://b/m}}}}}}"
            ));
            let model = object.as_inference_service().unwrap().predictor.model.clone().unwrap();
            assert_eq!(model.protocol_version.as_deref(), protocol, "{format}");
        }
        let named = service("{predictor: {triton: {storageUri: s3://b/m, protocolVersion: grpc-v2}}}");
        let model = named.as_inference_service().unwrap().predictor.model.clone().unwrap();
        assert_eq!(model.protocol_version.as_deref(), Some("grpc-v2"));
    }

    #[test]
    fn serving_containers_get_their_name() {
        let names = |object: &Object, kind| {
            let component = object.as_inference_service().unwrap().component(kind).unwrap().clone();
            component.containers.unwrap().into_iter().map(|container| container.name).collect::<Vec<_>>()
        };
        use crate::api::ComponentKind::{Explainer, Predictor, Transformer};
        let object = service(
            "{predictor: {containers: [{name: mine}]}, transformer: {containers: [{name: pre}, {name: side}]}, explainer: {containers: [{name: why}]}}",
        );
        assert_eq!(names(&object, Predictor), ["kserve-container"]);
        assert_eq!(names(&object, Transformer), ["kserve-container", "side"]);
        assert_eq!(names(&object, Explainer), ["kserve-container"]);
        let second = service("{predictor: {containers: [{name: side}, {name: kserve-container}]}}");
        assert_eq!(names(&second, Predictor), ["side", "kserve-container"]);
        let beside = service("{predictor: {sklearn: {storageUri: s3://b/m}, containers: [{name: side}]}}");
        assert_eq!(names(&beside, Predictor), ["side"]);
    }

    #[test]
    fn custom_containers_get_no_limits_nobody_wrote() {
        let object = service("{predictor: {containers: [{name: mine}]}}");
        assert_eq!(object.as_inference_service().unwrap().predictor.containers()[0].resources, None);
    }

    #[test]
    fn old_words_for_the_deployment_mode_become_todays() {
        for (written, mode) in [("RawDeployment", "Standard"), ("Serverless", "Knative"), ("Standard", "Standard")] {
            let object = object(&format!(
                "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {{name: iris, annotations: {{serving.kserve.io/deploymentMode: {written}}}}}\nspec: {{predictor: {{sklearn: {{storageUri: s3://b/m}}}}}}\n"
            ));
            assert_eq!(object.meta.annotation(meta::DEPLOYMENT_MODE), Some(mode));
            assert_eq!(object.raw["metadata"]["annotations"][meta::DEPLOYMENT_MODE], written);
        }
    }

    #[test]
    fn text_of_a_secret_overrides_its_data() {
        let object =
            object("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: YQ==, b: Yg==}\nstringData: {b: B}\n");
        let Typed::Secret(secret) = object.typed else { panic!("a secret") };
        let data = secret.data.clone().unwrap();
        assert_eq!((data["a"].0.as_slice(), data["b"].0.as_slice()), (&b"a"[..], &b"B"[..]));
        assert_eq!(secret.string_data, None);
    }
}
