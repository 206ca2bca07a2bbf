//! Label and field selectors.

use serde_json::Value;

use super::resource::Resource;

/// A conjunction of requirements on labels; empty matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    /// Also matches objects without the label.
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

impl LabelSelector {
    /// Reads `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    ///
    /// # Errors
    /// The text is not a selector; says where.
    pub fn parse(text: &str) -> Result<Self, String> {
        split_outside_parentheses(text)
            .into_iter()
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| Requirement::parse(part).ok_or_else(|| format!("unable to parse requirement: `{part}`")))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether an object matches.
    pub fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| object.get("metadata")?.get("labels")?.get(key)?.as_str();
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => label(key).is_some_and(|found| values.iter().any(|v| v == found)),
            Requirement::NotIn(key, values) => label(key).is_none_or(|found| values.iter().all(|v| v != found)),
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Absent(key) => label(key).is_none(),
        })
    }
}

impl Requirement {
    fn parse(text: &str) -> Option<Self> {
        if let Some(key) = text.strip_prefix('!') {
            return label_key(key).map(Self::Absent);
        }
        if let Some((left, list)) = text.strip_suffix(')').and_then(|text| text.split_once('(')) {
            let values = list.split(',').map(|value| value.trim().to_owned()).collect();
            let (key, operator) = left.trim().rsplit_once(char::is_whitespace)?;
            return match operator {
                "in" => Some(Self::In(label_key(key)?, values)),
                "notin" => Some(Self::NotIn(label_key(key)?, values)),
                _ => None,
            };
        }
        if let Some((key, value)) = text.split_once("!=") {
            return Some(Self::NotIn(label_key(key)?, vec![value.trim().to_owned()]));
        }
        if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
            return Some(Self::In(label_key(key)?, vec![value.trim().to_owned()]));
        }
        label_key(text).map(Self::Exists)
    }
}

fn label_key(text: &str) -> Option<String> {
    let key = text.trim();
    let known = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    (!key.is_empty() && key.chars().all(known)).then(|| key.to_owned())
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut depth = 0;
    text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
    .collect()
}

/// A conjunction of requirements on fields; empty matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<FieldRequirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldRequirement {
    path: String,
    value: String,
    equal: bool,
}

impl FieldSelector {
    /// Reads `metadata.name=x,involvedObject.kind!=y`.
    ///
    /// # Errors
    /// The text is not a selector, or names a field that this kind cannot be selected by.
    pub fn parse(text: &str, resource: Resource) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let unequal = part.split_once("!=").map(|pair| (pair, false));
            let equal = || part.split_once("==").or_else(|| part.split_once('=')).map(|pair| (pair, true));
            let ((path, value), equal) = unequal
                .or_else(equal)
                .ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{part}'"))?;
            if !is_selectable(resource, path) {
                return Err(format!("field label not supported: {path}"));
            }
            requirements.push(FieldRequirement { path: path.to_owned(), value: value.to_owned(), equal });
        }
        Ok(Self(requirements))
    }

    /// Whether an object matches. A field that is absent is an empty one.
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|requirement| {
            let found = requirement.path.split('.').try_fold(object, |value, key| value.get(key));
            (found.and_then(Value::as_str).unwrap_or_default() == requirement.value) == requirement.equal
        })
    }
}

fn is_selectable(resource: Resource, path: &str) -> bool {
    let own: &[&str] = match resource {
        Resource::Object(crate::api::Kind::Secret) => &["type"],
        Resource::Object(crate::api::Kind::Namespace) => &["status.phase"],
        Resource::Object(_) => &[],
        Resource::Pods => &["spec.nodeName", "spec.serviceAccountName", "status.phase", "status.podIP"],
        Resource::Deployments | Resource::ReplicaSets | Resource::Services | Resource::Nodes => &[],
        Resource::Events => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "reason",
            "type",
        ],
    };
    ["metadata.name", "metadata.namespace"].contains(&path) || own.contains(&path)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::Kind;

    #[test]
    fn label_selectors_mean_what_kubernetes_means() {
        let object = json!({"metadata": {"labels": {"app": "iris", "tier": "a"}}});
        let table = [
            ("", true),
            ("app=iris", true),
            ("app==iris,tier=a", true),
            ("app=other", false),
            ("app!=other", true),
            ("none!=x", true),
            ("tier in (a,b)", true),
            ("tier notin (a, b)", false),
            ("none notin (a)", true),
            ("app", true),
            ("!app", false),
            ("!none,app", true),
        ];
        for (text, expected) in table {
            assert_eq!(LabelSelector::parse(text).unwrap().matches(&object), expected, "{text}");
        }
        assert!(LabelSelector::parse("a b").is_err());
        assert!(LabelSelector::parse("a within (b)").is_err());
    }

    #[test]
    fn field_selectors_know_their_kinds_fields() {
        let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "InferenceService", "name": "x"}});
        let parse = |text, resource| FieldSelector::parse(text, resource);
        let both = "involvedObject.kind=InferenceService,involvedObject.name=x";
        assert!(parse(both, Resource::Events).unwrap().matches(&event));
        assert!(!parse("involvedObject.name!=x", Resource::Events).unwrap().matches(&event));
        assert!(parse("involvedObject.name=x", Resource::Object(Kind::InferenceService)).is_err());
        assert!(parse("metadata.name", Resource::Pods).is_err());
    }
}
