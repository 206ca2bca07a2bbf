//! What Kubernetes itself asks of metadata and of its core kinds: labels, keys, sizes.

use serde_json::{Map, Value};

use crate::api::{Kind, Metadata, Typed};
use crate::manifest::path::FieldPath;
use crate::manifest::report::Report;

/// Most bytes of all annotations together.
const ANNOTATION_BYTES: usize = 256 << 10;
/// Most bytes of the data of a Secret or ConfigMap.
const DATA_BYTES: usize = 1 << 20;
/// Longest label value, and longest name part of a key.
const LABEL_LENGTH: usize = 63;
/// Longest prefix of a key, and longest key of a Secret or ConfigMap.
const SUBDOMAIN_LENGTH: usize = 253;

pub(super) fn check(kind: Kind, metadata: &Metadata, typed: &Typed, raw: &Value, report: &mut Report<'_>) {
    let path = FieldPath::of(&["metadata"]);
    for (key, value) in &*metadata.labels {
        check_key(key, &path.key("labels"), report);
        if !is_label_value(value) {
            report.invalid(
                &path.key("labels").key(key),
                format!(
                    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
                     must start and end with an alphanumeric character, at most {LABEL_LENGTH} in all; found `{value}`"
                ),
            );
        }
    }
    let mut size = 0;
    for (key, value) in &*metadata.annotations {
        check_key(&key.to_ascii_lowercase(), &path.key("annotations"), report);
        size += key.len() + value.len();
    }
    if size > ANNOTATION_BYTES {
        report.invalid(&path.key("annotations"), format!("Too long: may not be more than {ANNOTATION_BYTES} bytes"));
    }
    match typed {
        Typed::Secret(secret) => {
            let data = secret.data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.len()));
            let text = secret.string_data.iter().flatten().map(|(key, value)| (key.as_str(), value.len()));
            check_data(kind, data.chain(text), raw, report);
        }
        Typed::ConfigMap(map) => {
            let data = map.data.iter().flatten().map(|(key, value)| (key.as_str(), value.len()));
            let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.len()));
            check_data(kind, data.chain(binary), raw, report);
        }
        _ => {}
    }
}

fn check_data<'k>(kind: Kind, data: impl Iterator<Item = (&'k str, usize)>, raw: &Value, report: &mut Report<'_>) {
    let mut size = 0;
    for (key, length) in data {
        size += length;
        let plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !plain || key.is_empty() || key.len() > SUBDOMAIN_LENGTH || key == "." || key.starts_with("..") {
            let written = |field: &&str| {
                raw.get(*field).and_then(Value::as_object).is_some_and(|map: &Map<_, _>| map.contains_key(key))
            };
            let field = ["data", "stringData", "binaryData"].into_iter().find(written).unwrap_or("data");
            report.invalid(
                &FieldPath::of(&[field]).key(key),
                "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            );
        }
    }
    if size > DATA_BYTES {
        let path = FieldPath::of(&["data"]);
        report.invalid(&path, format!("Too long: a {kind} may not hold more than {DATA_BYTES} bytes"));
    }
}

/// `[prefix/]name`, as keys of labels and annotations are written.
fn check_key(key: &str, path: &FieldPath, report: &mut Report<'_>) {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let prefixed = prefix.is_none_or(|prefix| prefix.len() <= SUBDOMAIN_LENGTH && super::names::is_subdomain(prefix));
    if !prefixed || name.is_empty() || !is_label_value(name) {
        report.invalid(
            &path.key(key),
            "a valid key is a name of at most 63 alphanumeric characters, '-', '_' or '.', starting and ending with an \
             alphanumeric one, with an optional DNS subdomain and `/` in front",
        );
    }
}

fn is_label_value(value: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    let plain = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte));
    value.len() <= LABEL_LENGTH && plain && edge(bytes.first()) && edge(bytes.last())
}
