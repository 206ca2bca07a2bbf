//! Where the fields of a container were written, so that an error names the line's field and not ours.
//!
//! A merged container has two layers: the runtime's and the manifest's. A field belongs to the last layer that has it.

use k8s_openapi::api::core::v1::Container;
use serde_json::Value;

/// The layers a container was merged from, lowest first. Never empty.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    layers: Vec<(String, Value)>,
}

impl Origin {
    /// A container that was written in one place.
    pub(super) fn new(path: impl Into<String>, container: &Container) -> Self {
        Self { layers: vec![layer(path.into(), container)] }
    }

    /// Adds a layer over the others.
    pub(super) fn over(mut self, path: impl Into<String>, container: &Container) -> Self {
        self.layers.push(layer(path.into(), container));
        self
    }

    /// Returns the path of the container as a whole: that of the topmost layer.
    pub(super) fn root(&self) -> &str {
        self.layers.last().map_or("spec", |(path, _)| path)
    }

    /// Returns the path of a field, for example `["resources", "limits", "cpu"]`.
    pub(super) fn field(&self, steps: &[&str]) -> String {
        let has = |value: &Value| steps.iter().try_fold(value, |value, step| value.get(step)).is_some();
        let owner = self.layers.iter().rev().find(|(_, value)| has(value)).map_or(self.root(), |(path, _)| path);
        format!("{owner}.{}", steps.join("."))
    }

    /// Returns where a text is written, as the layer's path and the field's within it; `merged` is its path in the merged
    /// container, for a text no layer has.
    pub(super) fn text(&self, wanted: &str, merged: &str) -> (&str, String) {
        let found =
            self.layers.iter().rev().find_map(|(path, value)| Some((path.as_str(), holder(value, "", wanted)?)));
        found.unwrap_or_else(|| (self.root(), merged.to_owned()))
    }

    /// Returns the path of the item of a list whose `key` has this value, for example `env` by `name`.
    pub(super) fn item(&self, list: &str, key: &str, wanted: &Value) -> String {
        let position =
            |value: &Value| value.get(list)?.as_array()?.iter().rposition(|item| item.get(key) == Some(wanted));
        let found = self.layers.iter().rev().find_map(|(path, value)| Some((path, position(value)?)));
        match found {
            Some((path, index)) => format!("{path}.{list}[{index}]"),
            None => format!("{}.{list}", self.root()),
        }
    }
}

/// Finds the first text within a value that holds another, as a path: `args[0]`, `env[2].value`.
fn holder(value: &Value, path: &str, wanted: &str) -> Option<String> {
    match value {
        Value::String(text) => text.contains(wanted).then(|| path.to_owned()),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(index, item)| holder(item, &format!("{path}[{index}]"), wanted))
        }
        Value::Object(fields) => fields.iter().find_map(|(key, item)| {
            let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            holder(item, &inner, wanted)
        }),
        _ => None,
    }
}

fn layer(path: String, container: &Container) -> (String, Value) {
    (path, serde_json::to_value(container).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_belongs_to_the_topmost_layer_that_has_it() {
        let container = |value: Value| -> Container { serde_json::from_value(value).unwrap() };
        let runtime = container(json!({ "name": "a", "image": "x", "env": [{ "name": "A" }, { "name": "B" }] }));
        let manifest =
            container(json!({ "name": "a", "env": [{ "name": "B" }], "resources": { "limits": { "cpu": "1" } } }));
        let origin = Origin::new("runtime", &runtime).over("spec.predictor.model", &manifest);
        assert_eq!(origin.field(&["image"]), "runtime.image");
        assert_eq!(origin.field(&["resources", "limits", "cpu"]), "spec.predictor.model.resources.limits.cpu");
        assert_eq!(origin.field(&["lifecycle"]), "spec.predictor.model.lifecycle");
        assert_eq!(origin.item("env", "name", &json!("A")), "runtime.env[0]");
        assert_eq!(origin.item("env", "name", &json!("B")), "spec.predictor.model.env[0]");
        assert_eq!(origin.item("env", "name", &json!("C")), "spec.predictor.model.env");
    }

    #[test]
    fn a_text_is_where_it_was_written_and_not_where_it_is_merged_to() {
        let container = |value: Value| -> Container { serde_json::from_value(value).unwrap() };
        let runtime = container(json!({ "name": "a", "args": ["{{.Oops}}", "x"] }));
        let manifest =
            container(json!({ "name": "a", "args": ["--n={{.No}}"], "env": [{ "name": "A", "value": "{{.E}}" }] }));
        let origin = Origin::new("runtime", &runtime).over("spec.predictor.model", &manifest);
        let text = |wanted| origin.text(wanted, "args[2]");
        assert_eq!(text("{{.No}}"), ("spec.predictor.model", "args[0]".to_owned()));
        assert_eq!(text("{{.E}}"), ("spec.predictor.model", "env[0].value".to_owned()));
        assert_eq!(text("{{.Oops}}"), ("runtime", "args[0]".to_owned()));
        assert_eq!(text("{{.Other}}"), ("spec.predictor.model", "args[2]".to_owned()));
    }
}
