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
}
