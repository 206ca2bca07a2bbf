//! One JSON Schema (draft 2020-12) for every kind, for editors: completion, and errors while typing.
//!
//! It is made of the schemas that the API publishes ([`super::schema`]), so it accepts the fields that are accepted here.
//! Rules between fields are not in it; `validate` has those.

use serde_json::{Map, Value, json};

use super::decode;
use super::schema::{Definitions, REFERENCE};
use crate::api::Kind;

/// Prefix of a reference inside a JSON Schema.
const DEFINITIONS: &str = "#/$defs/";

/// Returns the schema of a manifest of any kind.
pub fn json_schema() -> Value {
    let mut definitions = Definitions::new();
    let kinds: Vec<Value> = Kind::ALL.iter().filter_map(|kind| alternative(*kind, &mut definitions)).collect();
    let definitions: Map<String, Value> =
        definitions.into_iter().map(|(name, schema)| (name, translated(&schema))).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Manifests of kserve-local",
        "type": "object",
        "required": ["apiVersion", "kind"],
        "properties": {"kind": {"enum": Kind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>()}},
        "allOf": kinds,
        "$defs": definitions,
    })
}

/// An object of this kind looks like this.
fn alternative(kind: Kind, definitions: &mut Definitions) -> Option<Value> {
    let name = decode::schema(kind, definitions)?;
    Some(json!({
        "if": {"properties": {"kind": {"const": kind.as_str()}}, "required": ["kind"]},
        "then": {"$ref": format!("{DEFINITIONS}{name}")},
    }))
}

/// Says the same in JSON Schema's words: OpenAPI 3.0 and Kubernetes have some of their own.
fn translated(schema: &Value) -> Value {
    let Value::Object(words) = schema else {
        return match schema {
            Value::Array(items) => items.iter().map(translated).collect(),
            // A field of any shape.
            Value::Null => json!({}),
            other => other.clone(),
        };
    };
    if words.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        return json!({"type": ["integer", "string"]});
    }
    // Where Kubernetes takes a quantity, people write numbers too.
    let mut said = Map::new();
    for (word, value) in words.iter().filter(|(word, _)| !word.starts_with("x-kubernetes-")) {
        let value = match (word.as_str(), value) {
            ("$ref", Value::String(target)) => Value::from(target.replace(REFERENCE, DEFINITIONS)),
            ("properties", Value::Object(fields)) => {
                fields.iter().map(|(field, schema)| (field.clone(), translated(schema))).collect()
            }
            _ => translated(value),
        };
        said.insert(word.clone(), value);
    }
    let open =
        words.get("x-kubernetes-preserve-unknown-fields").is_some() || words.contains_key("additionalProperties");
    if words.contains_key("properties") && !open {
        said.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    Value::Object(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere_and_nothing_speaks_kubernetes() {
        let schema = json_schema();
        let text = schema.to_string();
        for target in text.split(DEFINITIONS).skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(schema["$defs"].get(target).is_some(), "{target}");
        }
        assert!(!text.contains("x-kubernetes") && !text.contains(REFERENCE));
    }

    #[test]
    fn a_typo_in_a_field_is_an_error_for_an_editor() {
        let schema = json_schema();
        let predictor = &schema["$defs"]["PredictorSpec"];
        assert_eq!(predictor["additionalProperties"], false);
        assert!(predictor["properties"].get("minReplicas").is_some());
    }
}
