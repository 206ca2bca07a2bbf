//! Rules about a TrainedModel (§7.1, `V1A1/trainedmodel_webhook.go`), with upstream's messages. Whether its InferenceService
//! exists, loads models of that framework and has memory left is not known here; its status says so.

use crate::api::trained_model::AGENT_SCHEMES;
use crate::api::{Metadata, StorageUri, TrainedModelSpec, quantity};
use crate::manifest::diagnostic::DiagnosticCode;
use crate::manifest::path::FieldPath;
use crate::manifest::report::Report;

pub(super) fn check(metadata: &Metadata, spec: &TrainedModelSpec, report: &mut Report<'_>) {
    let name = metadata.name.as_str();
    check_name(name, report);
    let path = FieldPath::of(&["spec"]);
    // That something is missing has been told.
    if spec.inference_service.is_empty() && !report.has_error_below(&path) {
        report.invalid(&path.key("inferenceService"), "it names no InferenceService");
    }
    let model = path.key("model");
    let uri = spec.model.storage_uri.as_str();
    if !report.has_error_below(&model) {
        check_uri(name, uri, &model.key("storageUri"), report);
        if spec.model.framework.trim().is_empty() {
            report.invalid(
                &model.key("framework"),
                "it is empty; write what the model was made with, for example sklearn",
            );
        }
        let memory = model.key("memory");
        match quantity::parse_whole(&spec.model.memory.0) {
            Ok(0) => {
                report.invalid(&memory, "the model would take no memory");
                report.help("write what it takes when it is loaded, for example 256Mi");
            }
            Ok(_) => {}
            Err(error) => {
                report.invalid(&memory, error.to_string());
            }
        }
    }
}

fn check_name(name: &str, report: &mut Report<'_>) {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !name.is_empty() && !name.bytes().all(fits) {
        let message = format!(
            "the Trained Model \"{name}\" is invalid: a Trained Model name must consist of alphanumeric characters, '_', or \
             '-'. (e.g. \"my-Name\" or \"abc_123\", regex used for validation is '^[a-zA-Z0-9_-]+$')"
        );
        report.denied(&FieldPath::of(&["metadata", "name"]), message);
    }
}

/// Upstream takes what its agent fetches. What can be fetched here besides is taken, and named.
fn check_uri(name: &str, uri: &str, path: &FieldPath, report: &mut Report<'_>) {
    let of_agent = AGENT_SCHEMES.iter().any(|scheme| uri.starts_with(scheme));
    let prefixes = AGENT_SCHEMES.join(", ");
    match StorageUri::parse(uri) {
        Ok(_) if of_agent => {}
        Err(error) if of_agent => {
            report.invalid(path, error.to_string());
        }
        Err(_) | Ok(StorageUri::Pvc { .. }) => {
            let message = format!(
                "the Trained Model \"{name}\" storageUri field is invalid. The storage uri must start with one of the \
                 prefixes: {prefixes}. (the storage uri given is \"{uri}\")"
            );
            report.denied(path, message);
        }
        Ok(_) => {
            let message = format!("`{uri}` is fetched here; a cluster takes {prefixes} only for a TrainedModel");
            report.warning(path, DiagnosticCode::Suspicious, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::manifest::{Diagnostic, decode};

    fn told(name: &str, model: &str) -> (Vec<String>, usize) {
        let text = format!(
            "apiVersion: serving.kserve.io/v1alpha1\nkind: TrainedModel\nmetadata: {{name: {name}}}\nspec: {{inferenceService: shelf, model: {model}}}\n"
        );
        let decoded = decode("f.yaml", &text);
        let errors = decoded.diagnostics.iter().filter(|found| found.is_error());
        let errors: Vec<String> = errors.map(|found| found.message.clone()).collect();
        let warnings = decoded.diagnostics.iter().filter(|found: &&Diagnostic| !found.is_error()).count();
        (errors, warnings)
    }

    #[test]
    fn names_places_and_amounts_are_checked_in_upstreams_words() {
        let model = |uri: &str, memory: &str| format!("{{storageUri: '{uri}', framework: sklearn, memory: {memory}}}");
        assert_eq!(told("one", &model("s3://b/m", "1Gi")), (Vec::new(), 0));
        assert_eq!(told("one", &model("file:///srv/m", "1Gi")), (Vec::new(), 1), "here, but not on a cluster");
        let prefix = "the Trained Model \"one\" storageUri field is invalid. The storage uri must start with one of the \
                      prefixes: s3://, gs://, https://, http://. (the storage uri given is";
        for uri in ["foo://x", "pvc://claim/m"] {
            let (errors, _) = told("one", &model(uri, "1Gi"));
            assert_eq!(errors, [format!("{prefix} \"{uri}\")")]);
        }
        let (errors, _) = told("a.b", &model("s3://b/m", "1Gi"));
        assert!(errors[0].starts_with("the Trained Model \"a.b\" is invalid: a Trained Model name must consist of"));
        assert_eq!(told("one", &model("s3://b/m", "0")).0, ["the model would take no memory"]);
        assert_eq!(told("one", &model("s3://b/m", "much")).0.len(), 1);
        assert_eq!(told("one", "{storageUri: 's3://b/m', framework: '', memory: 1Gi}").0.len(), 1);
    }
}
