//! What a body must be before it is written: the right kind and name, known fields, KServe's rules.

use serde_json::{Map, Value, json};

use super::document::Document;
use super::failure::{Failure, sentence};
use super::query::FieldValidation;
use super::resource::Resource;
use crate::api::{Kind, Object};
use crate::manifest::{self, Diagnostic, DiagnosticCode};

/// Metadata that the store gives; a body's own is not written.
const STORE_OWNED: [&str; 8] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
];

/// A body that may be written.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// The document for the folder.
    pub raw: Value,
    /// What it means.
    pub object: Object,
    /// What the caller should know, one sentence each.
    pub warnings: Vec<String>,
}

/// What a write is about.
#[derive(Clone, Copy, Debug)]
pub struct Place<'p> {
    /// Kind of the object.
    pub kind: Kind,
    /// Namespace of the path, empty for cluster-scoped kinds.
    pub namespace: &'p str,
}

impl Place<'_> {
    fn resource(self) -> Resource {
        Resource::Object(self.kind)
    }
}

/// Fits a body to the path it was sent to: kind, version and namespace are filled in, or must agree.
///
/// # Errors
/// They do not agree, or the body is not an object.
pub fn fit(mut body: Document, place: Place<'_>, name: Option<&str>) -> Result<Document, Failure> {
    let Value::Object(root) = &mut body.value else {
        return Err(Failure::bad_request("the body is not an object"));
    };
    agree(root, "kind", place.kind.as_str())?;
    agree(root, "apiVersion", &place.kind.api_version())?;
    let metadata = root.entry("metadata").or_insert_with(|| json!({}));
    let Value::Object(metadata) = metadata else {
        return Err(Failure::bad_request("metadata is not an object"));
    };
    if place.kind.is_namespaced() {
        let given = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
        if !given.is_empty() && given != place.namespace {
            return Err(Failure::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        metadata.insert("namespace".to_owned(), json!(place.namespace));
    } else {
        metadata.shift_remove("namespace");
    }
    let given = metadata.get("name").and_then(Value::as_str).unwrap_or_default();
    match name {
        Some(name) if given.is_empty() => drop(metadata.insert("name".to_owned(), json!(name))),
        Some(name) if name != given => {
            let message = format!("the name of the object ({given}) does not match the name on the URL ({name})");
            return Err(Failure::bad_request(message));
        }
        _ => {}
    }
    Ok(body)
}

/// Fills in a field that the path decides, or compares it.
fn agree(root: &mut Map<String, Value>, field: &str, expected: &str) -> Result<(), Failure> {
    match root.get(field).and_then(Value::as_str) {
        // In front, where a reader of the file looks for it.
        None | Some("") => drop(root.shift_insert(0, field.to_owned(), json!(expected))),
        Some(given) if given == expected => {}
        Some(given) => {
            return Err(Failure::bad_request(format!(
                "the {field} in the data ({given}) does not match the expected {field} ({expected})"
            )));
        }
    }
    Ok(())
}

/// Removes what the store gives and the status, which is never written from outside.
pub fn strip_store_owned(body: &mut Value) {
    if let Some(root) = body.as_object_mut() {
        root.shift_remove("status");
    }
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in STORE_OWNED {
            metadata.shift_remove(field);
        }
    }
}

/// Applies the rules to a body that fits its path.
///
/// # Errors
/// Unknown fields when they are to be refused, or broken rules, all at once.
pub fn admit(body: Document, place: Place<'_>, unknown_fields: FieldValidation) -> Result<Admitted, Failure> {
    let Document { value: mut raw, duplicates } = body;
    strip_store_owned(&mut raw);
    let mut decoded = manifest::decode_value(&raw);
    let mut warnings = Vec::new();
    let unknown: Vec<String> = decoded.diagnostics.iter().filter_map(unknown_field).map(str::to_owned).collect();
    let doubled = duplicates.iter().map(|path| format!("duplicate field \"{path}\""));
    let strange: Vec<String> = doubled.chain(unknown.iter().map(|path| format!("unknown field \"{path}\""))).collect();
    match unknown_fields {
        FieldValidation::Strict if !strange.is_empty() => return Err(strict_decoding_error(place, &strange)),
        FieldValidation::Warn => warnings.extend(strange),
        FieldValidation::Strict | FieldValidation::Ignore => {}
    }
    if !unknown.is_empty() {
        for path in &unknown {
            prune(&mut raw, path);
        }
        decoded = manifest::decode_value(&raw);
    }
    let errors: Vec<&Diagnostic> = decoded.diagnostics.iter().filter(|d| d.is_error()).collect();
    let name = raw["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if !errors.is_empty() {
        return Err(Failure::refused(place.resource(), &name, &errors));
    }
    warnings.extend(decoded.diagnostics.iter().map(sentence));
    let Some(decoded) = decoded.objects.into_iter().next() else {
        return Err(Failure::bad_request(format!("the body is not a {}", place.kind)));
    };
    Ok(Admitted { raw, object: decoded.object, warnings })
}

fn strict_decoding_error(place: Place<'_>, strange: &[String]) -> Failure {
    let (kind, version) = (place.kind, place.kind.version());
    Failure::bad_request(format!(
        "{kind} in version \"{version}\" cannot be handled as a {kind}: strict decoding error: {}",
        strange.join(", ")
    ))
}

/// Returns the path of a field nobody knows, when the diagnostic is about one.
fn unknown_field(diagnostic: &Diagnostic) -> Option<&str> {
    diagnostic.field.as_deref().filter(|_| diagnostic.code == DiagnosticCode::UnknownField)
}

/// Removes a field by its path, for example `spec.predictor.containers[0].imagee`.
fn prune(root: &mut Value, path: &str) {
    let (parent, last) = path.rsplit_once('.').unwrap_or(("", path));
    let mut here = root;
    for segment in parent.split(['.', '[']).filter(|segment| !segment.is_empty()) {
        let next = match segment.strip_suffix(']').map(str::parse::<usize>) {
            Some(Ok(index)) => here.get_mut(index),
            _ => here.get_mut(segment),
        };
        let Some(next) = next else { return };
        here = next;
    }
    if let Some(map) = here.as_object_mut() {
        map.shift_remove(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'static> = Place { kind: Kind::InferenceService, namespace: "a" };

    #[test]
    fn a_body_is_fitted_to_its_path_or_refused() {
        let fitted = fit(json!({"metadata": {"name": "x"}}).into(), PLACE, None).unwrap().value;
        assert_eq!(fitted["apiVersion"], "serving.kserve.io/v1beta1");
        assert_eq!(fitted["kind"], "InferenceService");
        assert_eq!(fitted["metadata"], json!({"name": "x", "namespace": "a"}));
        assert!(fit(json!({"kind": "Secret"}).into(), PLACE, None).is_err());
        assert!(fit(json!({"metadata": {"namespace": "b"}}).into(), PLACE, None).is_err());
        assert!(fit(json!({"metadata": {"name": "x"}}).into(), PLACE, Some("y")).is_err());
        assert!(fit(json!([]).into(), PLACE, None).is_err());
    }

    #[test]
    fn fields_are_pruned_by_path() {
        let mut value = json!({"spec": {"containers": [{"name": "a"}, {"imagee": 1, "image": 2}], "x": 1}, "y": 1});
        prune(&mut value, "spec.containers[1].imagee");
        prune(&mut value, "spec.x");
        prune(&mut value, "y");
        prune(&mut value, "spec.none.none");
        assert_eq!(value, json!({"spec": {"containers": [{"name": "a"}, {"image": 2}]}}));
    }

    #[test]
    fn what_the_store_gives_is_not_written() {
        let mut value = json!({"metadata": {"name": "x", "uid": "1", "resourceVersion": "2"}, "status": {}});
        strip_store_owned(&mut value);
        assert_eq!(value, json!({"metadata": {"name": "x"}}));
    }
}
