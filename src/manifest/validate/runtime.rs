//! Rules about runtimes, each for itself and against each other (§2.8).

use std::collections::BTreeMap;

use crate::api::{Kind, Object, ServingRuntimeSpec, SupportedModelFormat};
use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::path::FieldPath;
use crate::manifest::report::Report;

use super::component::refuse_python_path;

pub(super) fn check(kind: Kind, name: &str, spec: &ServingRuntimeSpec, report: &mut Report<'_>) {
    let path = FieldPath::of(&["spec"]);
    for (index, format) in spec.supported_model_formats.iter().enumerate() {
        if format.priority.is_some_and(|priority| priority < 1) {
            let path = path.key("supportedModelFormats").index(index).key("priority");
            report.invalid(&path, "priority must be 1 or more");
        }
    }
    if spec.containers.is_empty() {
        report.invalid(&path.key("containers"), "a runtime needs at least one container");
        report.help("the one named kserve-container serves");
    }
    if spec.is_disabled() {
        return;
    }
    check_priorities(kind, name, spec, report);
    let owner = format!("the {kind} \"{name}\"");
    for (index, container) in spec.containers.iter().enumerate() {
        let path = path.key("containers").index(index);
        refuse_python_path(&owner, &container.name, container.env.as_deref(), &path, report);
    }
}

fn check_priorities(kind: Kind, name: &str, spec: &ServingRuntimeSpec, report: &mut Report<'_>) {
    let mut priorities = BTreeMap::new();
    for (index, format) in spec.supported_model_formats.iter().enumerate() {
        let (true, Some(priority)) = (format.auto_select.unwrap_or(false), format.priority) else { continue };
        let first = *priorities.entry(format.name.as_str()).or_insert(priority);
        if first != priority {
            let path = FieldPath::of(&["spec", "supportedModelFormats"]).index(index).key("priority");
            let (format, kind) = (&format.name, kind.as_str().to_lowercase());
            let message =
                format!("different priorities assigned for the model format {format} under the {kind} {name}");
            report.denied(&path, message);
        }
    }
}

/// Checks runtimes against each other: two that could serve the same model must not have the same priority for it.
///
/// Namespaced runtimes are compared within their namespace, cluster-wide ones among themselves. The later of two in
/// `all` is the one reported.
pub fn validate_runtimes(all: &[&Object]) -> Vec<Diagnostic> {
    let each = all.iter().enumerate();
    each.flat_map(|(index, later)| rivals(later, all[..index].iter().copied())).collect()
}

/// Says which of the `others` would be chosen as well as a runtime. Diagnostics are about the runtime, without positions.
pub fn rivals<'o>(runtime: &Object, others: impl Iterator<Item = &'o Object>) -> Vec<Diagnostic> {
    let same_scope = |other: &&Object| {
        let (one, other) = (&runtime.key, &other.key);
        one.kind == other.kind && one.namespace == other.namespace && one.name != other.name
    };
    others.filter(same_scope).filter_map(|other| compare(other, runtime)).collect()
}

fn compare(earlier: &Object, later: &Object) -> Option<Diagnostic> {
    let (first, second) = (earlier.as_serving_runtime()?, later.as_serving_runtime()?);
    let overlap = first.protocol_versions.iter().any(|protocol| second.protocol_versions.contains(protocol));
    let both = !first.is_disabled() && !second.is_disabled() && first.is_multi_model() == second.is_multi_model();
    if !both || !overlap {
        return None;
    }
    let (index, format) = second
        .supported_model_formats
        .iter()
        .enumerate()
        .find(|(_, format)| first.supported_model_formats.iter().any(|other| collide(format, other)))?;
    let path = FieldPath::of(&["spec", "supportedModelFormats"]).index(index).key("priority");
    let (format, older, newer) = (&format.name, &earlier.key.name, &later.key.name);
    let message = match later.key.kind {
        Kind::ServingRuntime => format!(
            "same priority assigned for the model format {format} in the servingruntimes {newer} and {older} in namespace {}",
            later.key.namespace
        ),
        _ => format!(
            "same priority assigned for the model format {format} in the clusterservingruntimes {newer} and {older}"
        ),
    };
    let mut report = Report::new("", None, None);
    report.about(Some(later.key.clone()));
    report.denied(&path, message).help("give one of them another priority; the higher one wins");
    report.into_diagnostics().pop()
}

fn collide(one: &SupportedModelFormat, other: &SupportedModelFormat) -> bool {
    let auto = one.auto_select.unwrap_or(false) && other.auto_select.unwrap_or(false);
    let name = one.name.to_lowercase() == other.name.to_lowercase();
    auto && name && one.version == other.version && one.priority.is_some() && one.priority == other.priority
}
