//! Rules that hold only when an object replaces another (§1.7, §2.8).

use k8s_openapi::api::core::v1 as core;

use crate::api::{InferenceServiceSpec, Metadata, Object, ObjectKey, ServingRuntimeSpec, Typed, meta};
use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::path::FieldPath;
use crate::manifest::report::Report;

/// Kubernetes' words for a field that never changes.
const IMMUTABLE: &str = "field is immutable";

/// Checks whether `new` may replace `old`. Diagnostics carry field paths but no positions.
pub fn validate_update(old: &Object, new: &Object) -> Vec<Diagnostic> {
    let mut report = Report::new("", None, None);
    report.about(Some(new.key.clone()));
    match (&old.typed, &new.typed) {
        (Typed::InferenceService(before), Typed::InferenceService(after)) => {
            check_mode(&old.meta, &new.meta, &mut report);
            check_variant(before, after, &mut report);
        }
        (Typed::ServingRuntime(before), Typed::ServingRuntime(after)) => {
            check_workers(before, after, &new.key, &mut report);
        }
        (Typed::Secret(before), Typed::Secret(after)) => {
            let kind = |secret: &core::Secret| secret.type_.clone().unwrap_or_else(|| "Opaque".to_owned());
            if kind(before) != kind(after) {
                report.invalid(&FieldPath::of(&["type"]), IMMUTABLE);
            }
            check_sealed(before.immutable, before.data == after.data && after.immutable == Some(true), &mut report);
        }
        (Typed::ConfigMap(before), Typed::ConfigMap(after)) => {
            let same = before.data == after.data && before.binary_data == after.binary_data;
            check_sealed(before.immutable, same && after.immutable == Some(true), &mut report);
        }
        (Typed::TrainedModel(before), Typed::TrainedModel(after)) if before.model.memory != after.model.memory => {
            let message = format!(
                "the Trained Model \"{}\" memory field is immutable. The memory was \"{}\" but it is updated to \"{}\"",
                new.key.name, before.model.memory.0, after.model.memory.0
            );
            report.denied(&FieldPath::of(&["spec", "model", "memory"]), message);
            report.help("delete the TrainedModel and create it anew");
        }
        (Typed::LocalModelCache(before), Typed::LocalModelCache(after))
            if before.source_model_uri != after.source_model_uri =>
        {
            report.invalid(&FieldPath::of(&["spec", "sourceModelUri"]), "StorageUri is immutable");
        }
        _ => {}
    }
    report.into_diagnostics()
}

/// A Secret or ConfigMap that says so itself never changes.
fn check_sealed(sealed: Option<bool>, same: bool, report: &mut Report<'_>) {
    if sealed == Some(true) && !same {
        report.invalid(&FieldPath::of(&["data"]), "field is immutable when `immutable` is set");
        report.help("delete the object and create it anew");
    }
}

fn check_workers(before: &ServingRuntimeSpec, after: &ServingRuntimeSpec, key: &ObjectKey, report: &mut Report<'_>) {
    if before.worker_spec.is_some() && after.worker_spec.is_none() && !after.is_disabled() {
        let (kind, name) = (key.kind, &key.name);
        let message =
            format!("the {kind} {name} is invalid: removing workerSpec where it already exists is not allowed");
        report.denied(&FieldPath::of(&["spec", "workerSpec"]), message);
    }
}

/// A mode that is not annotated is Knative, upstream's default.
fn check_mode(old: &Metadata, new: &Metadata, report: &mut Report<'_>) {
    let before = old.annotation(meta::DEPLOYMENT_MODE).unwrap_or("Knative");
    let Some(after) = new.annotation(meta::DEPLOYMENT_MODE).filter(|after| *after != before) else { return };
    let path = FieldPath::of(&["metadata", "annotations", meta::DEPLOYMENT_MODE]);
    report.denied(&path, format!("update rejected: deploymentMode cannot be changed from '{before}' to '{after}'"));
    report.help("delete the service and create it anew");
}

fn check_variant(before: &InferenceServiceSpec, after: &InferenceServiceSpec, report: &mut Report<'_>) {
    let uri = |spec: &InferenceServiceSpec| {
        let model = spec.predictor.model.as_ref();
        (model.and_then(|model| model.storage_uri.clone()), spec.predictor.storage_uris.clone())
    };
    if before.predictor.name != after.predictor.name && uri(before) == uri(after) {
        let message = "predictor.name change requires a model change (e.g. storageUri)";
        report.denied(&FieldPath::of(&["spec", "predictor", "name"]), message);
        report.help("keep the name, or change the model with it");
    }
}
