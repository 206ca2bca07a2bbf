//! Rules about `spec.canary` (§1.7).

use std::collections::HashSet;

use crate::api::component::ComponentSpec;
use crate::api::{ComponentKind, InferenceServiceSpec, Metadata, meta};
use crate::manifest::path::FieldPath;
use crate::manifest::report::Report;

use super::component::{self, implementations};

pub(super) fn check(metadata: &Metadata, spec: &InferenceServiceSpec, report: &mut Report<'_>) {
    if spec.canary.is_empty() {
        return;
    }
    let path = FieldPath::of(&["spec", "canary"]);
    if metadata.annotation(meta::DEPLOYMENT_MODE) != Some("Standard") {
        let message = format!("canary requires the annotation {}: Standard", meta::DEPLOYMENT_MODE);
        report.denied(&path, message);
        report.help("in Knative mode write spec.predictor.canaryTrafficPercent");
    }
    let mut names = HashSet::from([spec.predictor.name.as_deref().unwrap_or_default()]);
    for (index, entry) in spec.canary.iter().enumerate() {
        let path = path.index(index);
        let predictor = path.key("predictor");
        let name = entry.predictor.name.as_deref().unwrap_or_default();
        if name.is_empty() {
            report.denied(&predictor.key("name"), "canary predictor.name is required");
        } else if !names.insert(name) {
            report.denied(&predictor.key("name"), format!("canary \"{name}\" must have a name of its own"));
        }
        if !name.is_empty() && !super::names::is_service_name(name) {
            let message = format!("canary \"{name}\" must match ^[a-z]([-a-z0-9]*[a-z0-9])?$");
            report.denied(&predictor.key("name"), message);
        }
        if entry.traffic_percent.is_some_and(|percent| !(0..=100).contains(&percent)) {
            report.denied(&path.key("trafficPercent"), format!("canary \"{name}\" must have a percent of 0 to 100"));
        }
        check_predictor(metadata, name, &entry.predictor, &spec.predictor, &predictor, report);
    }
    let total: i64 = spec.canary.iter().filter_map(|entry| entry.traffic_percent).fold(0, i64::saturating_add);
    if total > 100 {
        report.denied(&path, format!("the traffic of all canaries together is {total} percent; at most 100"));
    }
}

fn check_predictor(
    metadata: &Metadata,
    name: &str,
    canary: &ComponentSpec,
    stable: &ComponentSpec,
    path: &FieldPath,
    report: &mut Report<'_>,
) {
    let refused = [
        ("workerSpec", canary.worker_spec.is_some()),
        ("maxReplicas", canary.max_replicas.is_some()),
        ("scaleTarget", canary.scale_target.is_some()),
        ("scaleMetric", canary.scale_metric.is_some()),
        ("autoScaling", canary.auto_scaling.is_some()),
    ];
    for (field, _) in refused.into_iter().filter(|(_, set)| *set) {
        report.denied(&path.key(field), format!("canary \"{name}\" must not set {field}"));
    }
    if canary.min_replicas.unwrap_or(1) > stable.min_replicas.unwrap_or(1) {
        let message = format!("canary \"{name}\" must not set minReplicas above that of the stable predictor");
        report.denied(&path.key("minReplicas"), message);
    }
    if let [only] = implementations(ComponentKind::Predictor, canary).as_slice()
        && let Some(framework) = only.last_key().filter(|key| !matches!(*key, "model" | "containers"))
    {
        let message = format!("canary \"{name}\" must be written with `model`: `{framework}` is not converted here");
        report.denied(&path.key(framework), message);
    }
    component::check(&metadata.name, ComponentKind::Predictor, canary, path, report);
}
