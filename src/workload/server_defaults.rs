//! What each known server needs beyond its runtime's YAML (§1.6, SetRuntimeDefaults).
//!
//! Runs after a runtime was chosen and before placeholders are rendered, because some of the defaults are labels that
//! placeholders read. The server is known by the annotation `serving.kserve.io/server-type` of the runtime's metadata;
//! six built-in names are known without it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::EnvVar;

use crate::api::{ModelSpec, meta};
use crate::runtimes::Runtime;

/// Returns which server a runtime is.
pub(super) fn server_type(runtime: &Runtime) -> Option<&str> {
    let annotated = runtime.annotations.get(meta::SERVER_TYPE).map(String::as_str).filter(|text| !text.is_empty());
    annotated.or(match runtime.name.as_str() {
        "kserve-mlserver" => Some("mlserver"),
        "kserve-torchserve" => Some("torchserve"),
        "kserve-tritonserver" => Some("tritonserver"),
        "kserve-tensorflow-serving" => Some("tensorflow-serving"),
        "kserve-huggingfaceserver" => Some("huggingfaceserver"),
        "kserve-vllmserver" => Some("vllmserver"),
        _ => None,
    })
}

/// Whether these defaults see a model: `storageUris` alone does not count, as upstream.
pub(super) fn has_storage(model: &ModelSpec) -> bool {
    model.storage_uri.is_some() || model.storage.is_some()
}

/// Applies the defaults of a server to a model and to the service's labels.
pub(super) fn apply(server_type: &str, service: &str, model: &mut ModelSpec, labels: &mut BTreeMap<String, String>) {
    match server_type {
        "mlserver" => mlserver(service, model, labels),
        "torchserve" => torchserve(model, labels),
        "tritonserver" => tritonserver(model),
        _ => {}
    }
}

fn mlserver(service: &str, model: &mut ModelSpec, labels: &mut BTreeMap<String, String>) {
    model.protocol_version.get_or_insert_with(|| "v2".to_owned());
    if has_storage(model) {
        set_when_absent(model, "MLSERVER_MODEL_NAME", service);
        set_when_absent(model, "MLSERVER_MODEL_URI", meta::MODEL_MOUNT_PATH);
    } else {
        set_when_absent(model, "MLSERVER_LOAD_MODELS_AT_STARTUP", "false");
    }
    labels.insert("modelClass".to_owned(), mlserver_class(&model.model_format.name).to_owned());
}

/// MLServer's class for a framework, as KServe names it (§1.6).
pub fn mlserver_class(framework: &str) -> &'static str {
    match framework {
        "xgboost" => "mlserver_xgboost.XGBoostModel",
        "lightgbm" => "mlserver_lightgbm.LightGBMModel",
        "mlflow" => "mlserver_mlflow.MLflowRuntime",
        _ => "mlserver_sklearn.SKLearnModel",
    }
}

fn torchserve(model: &mut ModelSpec, labels: &mut BTreeMap<String, String>) {
    let protocol = model.protocol_version.get_or_insert_with(|| "v1".to_owned()).clone();
    let envelope = if matches!(protocol.as_str(), "v2" | "grpc-v2") { "kservev2" } else { "kserve" };
    labels.insert("serviceEnvelope".to_owned(), envelope.to_owned());
    // Upstream appends without looking; the last of two entries wins in a container, so replacing means the same.
    let env = model.env.get_or_insert_default();
    env.retain(|variable| variable.name != "PROTOCOL_VERSION");
    env.push(variable("PROTOCOL_VERSION", &protocol));
}

fn tritonserver(model: &mut ModelSpec) {
    model.protocol_version.get_or_insert_with(|| "v2".to_owned());
    if !has_storage(model) {
        model.args.get_or_insert_default().push("--model-control-mode=explicit".to_owned());
    }
}

fn set_when_absent(model: &mut ModelSpec, name: &str, value: &str) {
    let env = model.env.get_or_insert_default();
    if !env.iter().any(|variable| variable.name == name) {
        env.push(variable(name, value));
    }
}

fn variable(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn applied(server: &str, model: Value) -> (ModelSpec, BTreeMap<String, String>) {
        let mut model: ModelSpec = serde_json::from_value(model).unwrap();
        let mut labels = BTreeMap::from([("modelClass".to_owned(), "mine".to_owned())]);
        apply(server, "iris", &mut model, &mut labels);
        (model, labels)
    }

    fn env(model: &ModelSpec) -> Vec<(&str, &str)> {
        let value = |variable: &'_ EnvVar| variable.value.clone().unwrap_or_default().leak() as &str;
        model.env.iter().flatten().map(|variable| (variable.name.as_str(), value(variable))).collect()
    }

    #[test]
    fn mlserver_learns_the_models_name_place_and_class() {
        for (format, class) in [
            ("sklearn", "mlserver_sklearn.SKLearnModel"),
            ("xgboost", "mlserver_xgboost.XGBoostModel"),
            ("lightgbm", "mlserver_lightgbm.LightGBMModel"),
            ("mlflow", "mlserver_mlflow.MLflowRuntime"),
            ("other", "mlserver_sklearn.SKLearnModel"),
        ] {
            let (model, labels) =
                applied("mlserver", json!({ "modelFormat": { "name": format }, "storageUri": "s3://b/m" }));
            assert_eq!(labels["modelClass"], class);
            assert_eq!(model.protocol_version.as_deref(), Some("v2"));
            assert_eq!(env(&model), [("MLSERVER_MODEL_NAME", "iris"), ("MLSERVER_MODEL_URI", "/mnt/models")]);
        }
    }

    #[test]
    fn mlserver_keeps_what_the_user_set() {
        let (model, _) = applied(
            "mlserver",
            json!({
                "storageUri": "s3://b/m",
                "protocolVersion": "grpc-v2",
                "env": [{ "name": "MLSERVER_MODEL_NAME", "value": "mine" }],
            }),
        );
        assert_eq!(model.protocol_version.as_deref(), Some("grpc-v2"));
        assert_eq!(env(&model), [("MLSERVER_MODEL_NAME", "mine"), ("MLSERVER_MODEL_URI", "/mnt/models")]);
    }

    #[test]
    fn without_storage_mlserver_and_triton_start_empty() {
        let (model, _) = applied("mlserver", json!({}));
        assert_eq!(env(&model), [("MLSERVER_LOAD_MODELS_AT_STARTUP", "false")]);
        let (model, _) = applied("tritonserver", json!({ "args": ["--strict"] }));
        assert_eq!(model.args.unwrap(), ["--strict", "--model-control-mode=explicit"]);
        assert_eq!(model.protocol_version.as_deref(), Some("v2"));
        let (model, _) = applied("tritonserver", json!({ "storageUri": "s3://b/m" }));
        assert_eq!(model.args, None);
    }

    #[test]
    fn torchserve_is_told_its_envelope_and_protocol() {
        for (protocol, envelope, version) in [
            (None, "kserve", "v1"),
            (Some("v1"), "kserve", "v1"),
            (Some("v2"), "kservev2", "v2"),
            (Some("grpc-v2"), "kservev2", "grpc-v2"),
        ] {
            let (model, labels) = applied(
                "torchserve",
                json!({ "protocolVersion": protocol, "env": [{ "name": "PROTOCOL_VERSION", "value": "x" }] }),
            );
            assert_eq!(labels["serviceEnvelope"], envelope);
            assert_eq!(env(&model), [("PROTOCOL_VERSION", version)]);
        }
    }

    #[test]
    fn other_servers_have_no_defaults() {
        let (model, labels) = applied("sklearnserver", json!({}));
        assert_eq!((model, labels["modelClass"].as_str()), (ModelSpec::default(), "mine"));
    }
}
