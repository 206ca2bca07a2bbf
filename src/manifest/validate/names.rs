//! Names of objects and namespaces.

use crate::api::{Kind, Metadata};
use crate::manifest::path::FieldPath;
use crate::manifest::report::Report;

/// Longest name that fits a label value, a host label and a container name.
const MAX_LABEL: usize = 63;
/// Longest name of any object.
const MAX_SUBDOMAIN: usize = 253;

pub(super) fn check(kind: Kind, metadata: &Metadata, report: &mut Report<'_>) {
    let path = FieldPath::of(&["metadata"]);
    let name = metadata.name.as_str();
    match kind {
        // That it is missing has been told.
        _ if name.is_empty() => {}
        Kind::InferenceService => check_service_name(name, &path.key("name"), report),
        Kind::Namespace => check_label(name, &path.key("name"), report),
        _ if !is_subdomain(name) => {
            report.invalid(&path.key("name"), subdomain_message(name));
        }
        _ => {}
    }
    if kind.is_namespaced() {
        check_label(&metadata.namespace, &path.key("namespace"), report);
    }
}

fn subdomain_message(name: &str) -> String {
    format!(
        "name `{name}` is invalid: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' \
         or '.', and must start and end with an alphanumeric character"
    )
}

fn check_service_name(name: &str, path: &FieldPath, report: &mut Report<'_>) {
    // The API server asks for a subdomain before KServe is asked.
    if !is_subdomain(name) {
        report.invalid(path, subdomain_message(name));
    } else if !is_service_name(name) {
        report.denied(
            path,
            format!(
                "the InferenceService \"{name}\" is invalid: a InferenceService name must consist of lower case \
                 alphanumeric characters or '-', and must start with alphabetical character. (e.g. \"my-name\" or \
                 \"abc-123\", regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
            ),
        );
    }
    check_length(name, path, report);
}

fn check_label(name: &str, path: &FieldPath, report: &mut Report<'_>) {
    let dashes = name.starts_with('-') || name.ends_with('-');
    if name.is_empty() || dashes || !name.bytes().all(is_label_byte) {
        report.invalid(
            path,
            format!(
                "namespace `{name}` is invalid: a lowercase RFC 1123 label must consist of lower case alphanumeric \
                 characters or '-', and must start and end with an alphanumeric character"
            ),
        );
    }
    check_length(name, path, report);
}

fn check_length(name: &str, path: &FieldPath, report: &mut Report<'_>) {
    if name.len() > MAX_LABEL {
        report.invalid(path, format!("the name is {} characters long; at most {MAX_LABEL} fit a label", name.len()));
    }
}

fn is_label_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

/// `^[a-z]([-a-z0-9]*[a-z0-9])?$`
pub(super) fn is_service_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.ends_with('-') && name.bytes().all(is_label_byte)
}

pub(super) fn is_subdomain(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(is_label_byte)
    };
    name.len() <= MAX_SUBDOMAIN && name.split('.').all(label)
}
