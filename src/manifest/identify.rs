//! Which kind a document is, or why it is none of ours.

use serde_json::Value;

use super::diagnostic::DiagnosticCode;
use super::known::nearest;
use super::path::FieldPath;
use super::report::Report;
use crate::api::{Kind, meta};

/// KServe's kinds that are not served by this version.
const OTHER_KSERVE_KINDS: [&str; 3] = ["LocalModelNode", "LocalModel", "Predictor"];

/// What a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// One of our kinds, in the version served.
    Ours(Kind),
    /// Meant to be one of our kinds, but not written so.
    Meant(Kind),
    /// Not an object of ours; nothing of ours was meant.
    Foreign,
    /// Cannot be told.
    Unknown,
}

/// Tells what a document is, and reports why when it is not one of ours.
pub(super) fn identify(value: &Value, at: &FieldPath, report: &mut Report<'_>) -> Identity {
    let kind_path = at.key("kind");
    let version_path = at.key("apiVersion");
    let kind = text(value, "kind", &kind_path, report);
    let api_version = text(value, "apiVersion", &version_path, report);
    let (Some(kind), Some(api_version)) = (kind, api_version) else {
        return kind.and_then(known_kind).map_or(Identity::Unknown, Identity::Meant);
    };
    let Some(known) = known_kind(kind) else {
        return unknown_kind(kind, api_version, &kind_path, report);
    };
    if api_version == known.api_version() || is_alike(known, api_version) {
        return Identity::Ours(known);
    }
    if !is_group_of(known, api_version) {
        return foreign(kind, api_version, &kind_path, report);
    }
    report.error(
        &version_path,
        DiagnosticCode::NotServed,
        format!("apiVersion `{api_version}` of kind `{kind}` is not served by this version"),
    );
    report.help(format!("write apiVersion: {}{}", known.api_version(), old_form(known, api_version)));
    Identity::Meant(known)
}

/// An older version of the same form.
fn is_alike(kind: Kind, api_version: &str) -> bool {
    let llm = matches!(kind, Kind::LlmInferenceService | Kind::LlmInferenceServiceConfig);
    llm && api_version == "serving.kserve.io/v1alpha1"
}

fn old_form(kind: Kind, api_version: &str) -> &'static str {
    match kind {
        Kind::InferenceService if api_version.ends_with("v1alpha2") || api_version.contains("kubeflow") => {
            "; the old form's `spec.default.predictor` becomes `spec.predictor`"
        }
        _ => "",
    }
}

fn text<'v>(value: &'v Value, key: &str, path: &FieldPath, report: &mut Report<'_>) -> Option<&'v str> {
    match value.get(key) {
        Some(Value::String(text)) if !text.is_empty() => Some(text),
        None | Some(Value::Null | Value::String(_)) => {
            report.error(path, DiagnosticCode::Required, format!("field `{key}` is required"));
            let example = if key == "kind" { "InferenceService" } else { "serving.kserve.io/v1beta1" };
            report.help(format!("for example {key}: {example}"));
            None
        }
        Some(_) => {
            report.error(path, DiagnosticCode::WrongType, format!("field `{key}` must be text"));
            None
        }
    }
}

fn known_kind(kind: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|known| known.as_str() == kind)
}

/// Whether an apiVersion is another version, or an older group, of a kind of ours.
fn is_group_of(kind: Kind, api_version: &str) -> bool {
    match (kind.group(), api_version.split_once('/')) {
        ("", group_and_version) => group_and_version.is_none(),
        (_, Some((group, _))) => {
            group == meta::GROUP || group == "serving.kubeflow.org" || group == "kfserving.kubeflow.org"
        }
        // `v1beta1` alone, or a core version: the group was forgotten.
        (_, None) => true,
    }
}

fn unknown_kind(kind: &str, api_version: &str, path: &FieldPath, report: &mut Report<'_>) -> Identity {
    let ours = api_version.starts_with(meta::GROUP) || api_version == "v1";
    let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    let near = nearest(kind, &names).filter(|_| ours && !OTHER_KSERVE_KINDS.contains(&kind));
    if let Some(near) = near {
        report.error(path, DiagnosticCode::NotServed, format!("there is no kind `{kind}` in `{api_version}`"));
        report.help(format!("did you mean `{near}`?"));
        return known_kind(near).map_or(Identity::Foreign, Identity::Meant);
    }
    foreign(kind, api_version, path, report)
}

fn foreign(kind: &str, api_version: &str, path: &FieldPath, report: &mut Report<'_>) -> Identity {
    if OTHER_KSERVE_KINDS.contains(&kind) && api_version.starts_with(meta::GROUP) {
        report.error(path, DiagnosticCode::NotServed, format!("kind `{kind}` is not served by this version"));
    } else {
        let message = format!("kind `{kind}` of `{api_version}` is not served");
        report.error(path, DiagnosticCode::NotServed, message);
    }
    let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    report.help(format!("the kinds served are {}", names.join(", ")));
    Identity::Foreign
}
