//! Rules about an InferenceService as a whole.

use crate::api::{ComponentKind, InferenceServiceSpec, Metadata, meta};
use crate::manifest::diagnostic::DiagnosticCode;
use crate::manifest::path::FieldPath;
use crate::manifest::report::Report;

use super::{autoscaling, canary, cluster, component};

pub(super) fn check(metadata: &Metadata, spec: &InferenceServiceSpec, report: &mut Report<'_>) {
    check_annotations(metadata, report);
    for (kind, component) in spec.components() {
        let path = FieldPath::of(&["spec", kind.as_str()]);
        component::check(&metadata.name, kind, component, &path, report);
        autoscaling::check(metadata, component, &path, report);
        cluster::check(metadata, component, &path, report);
    }
    check_variant_name(spec, report);
    canary::check(metadata, spec, report);
}

fn check_annotations(metadata: &Metadata, report: &mut Report<'_>) {
    let path = FieldPath::of(&["metadata", "annotations"]);
    if let Some(class) = metadata.annotation(meta::AUTOSCALER_CLASS)
        && !["hpa", "external", "keda", "none"].contains(&class)
    {
        let path = path.key(meta::AUTOSCALER_CLASS);
        report.denied(&path, format!("[{class}] is not a supported autoscaler class type"));
        report.help("write hpa, keda, external or none; Knative's own autoscaler needs no annotation");
    }
    let mode_path = path.key(meta::DEPLOYMENT_MODE);
    match metadata.annotation(meta::DEPLOYMENT_MODE) {
        None | Some("Standard" | "Knative") => {}
        Some("ModelMesh") => {
            let message = "deploymentMode `ModelMesh` is not served by this version";
            report.error(&mode_path, DiagnosticCode::NotServed, message);
            report.help("remove the annotation, or write Standard or Knative");
        }
        Some(other) => {
            let message = format!("deploymentMode `{other}` is unknown; KServe takes its default mode instead");
            report.warning(&mode_path, DiagnosticCode::Suspicious, message);
            report.help("write Standard or Knative");
        }
    }
}

fn check_variant_name(spec: &InferenceServiceSpec, report: &mut Report<'_>) {
    let path = FieldPath::of(&["spec", ComponentKind::Predictor.as_str(), "name"]);
    if let Some(name) = spec.predictor.name.as_deref().filter(|name| !name.is_empty())
        && !super::names::is_service_name(name)
    {
        report.invalid(&path, format!("predictor name `{name}` must match ^[a-z]([-a-z0-9]*[a-z0-9])?$"));
    }
}
