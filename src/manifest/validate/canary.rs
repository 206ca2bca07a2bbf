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
    check_stable(metadata, spec, &path, report);
    let stable = spec.predictor.name.as_deref().unwrap_or_default();
    let mut names = HashSet::new();
    for (index, entry) in spec.canary.iter().enumerate() {
        let path = path.index(index);
        let predictor = path.key("predictor");
        let name = entry.predictor.name.as_deref().unwrap_or_default();
        if name.is_empty() {
            report.denied(&predictor.key("name"), "canary predictor.name is required");
        } else if !names.insert(name) {
            report.denied(&predictor.key("name"), format!("canary predictor.name \"{name}\" is duplicated"));
        } else if name == stable {
            let message = format!("canary predictor.name \"{name}\" conflicts with stable predictor.name");
            report.denied(&predictor.key("name"), message);
        }
        if !name.is_empty() && !super::names::is_service_name(name) {
            let message = format!("canary \"{name}\" must match ^[a-z]([-a-z0-9]*[a-z0-9])?$");
            report.denied(&predictor.key("name"), message);
        }
        match entry.traffic_percent {
            Some(0..=100) => {}
            Some(other) => {
                let message = format!("canary \"{name}\" trafficPercent must be between 0 and 100, and is {other}");
                report.denied(&path.key("trafficPercent"), message);
            }
            None => {}
        }
        check_predictor(metadata, name, &entry.predictor, &spec.predictor, &predictor, report);
    }
    let total: i64 = spec.canary.iter().filter_map(|entry| entry.traffic_percent).fold(0, i64::saturating_add);
    if total > 100 {
        report.denied(&path, format!("sum of canary trafficPercent must be <= 100, and is {total}"));
    }
}

/// What a service must be to have named canaries at all.
fn check_stable(metadata: &Metadata, spec: &InferenceServiceSpec, path: &FieldPath, report: &mut Report<'_>) {
    if metadata.annotation(meta::DEPLOYMENT_MODE) != Some("Standard") {
        report.denied(path, "canary is only supported in Standard deployment mode");
        report.help(format!(
            "write the annotation {}: Standard, or spec.predictor.canaryTrafficPercent in Knative mode",
            meta::DEPLOYMENT_MODE
        ));
    }
    if spec.predictor.model.is_none() && spec.predictor.legacy_frameworks().is_empty() {
        report.denied(path, "canary requires a stable predictor with a model");
        report.help("spec.predictor.canaryTrafficPercent works with containers of your own, too");
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
    // Nothing written is derived from the share of traffic, and never more than the stable predictor has.
    let most = stable.min_replicas.unwrap_or(1);
    if let Some(written) = canary.min_replicas.filter(|written| *written > most) {
        let message = format!("canary \"{name}\" minReplicas ({written}) must not exceed stable minReplicas ({most})");
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
