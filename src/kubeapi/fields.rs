//! Sets of fields, as `managedFields` records them, and the values they lead to.
//!
//! A set holds the leaves that somebody wrote: plain values, lists that are one value, empty objects, and the elements of
//! lists that are maps in disguise ([`lists`](super::lists)). Kubernetes writes such sets as nested objects, `FieldsV1`.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value, json};

use super::lists::{ListType, default_key, list_type};

/// One step from an object or a list to what is inside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element {
    /// A field.
    Field(String),
    /// An element of a list, by the values of its keys (as canonical JSON).
    Keys(String),
    /// An element of a set of plain values (as JSON).
    Value(String),
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Keys(keys) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let pairs: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                write!(f, "[{}]", pairs.join(","))
            }
        }
    }
}

/// From the root of an object to one of its fields.
pub type Path = Vec<Element>;

/// Writes a path as messages do: `.spec.predictor.minReplicas`.
pub fn shown(path: &[Element]) -> String {
    path.iter().map(ToString::to_string).collect()
}

/// A set of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet(pub BTreeSet<Path>);

/// Fields that nobody owns: they name the object, or the store gives them.
const NOBODYS: [&str; 10] = [
    "name",
    "namespace",
    "generateName",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "managedFields",
    "selfLink",
];

impl FieldSet {
    /// Returns the fields that an object sets.
    pub fn of(object: &Value) -> Self {
        let mut set = BTreeSet::new();
        for (key, value) in object.as_object().into_iter().flatten() {
            match key.as_str() {
                "apiVersion" | "kind" | "status" => {}
                "metadata" => {
                    for (key, value) in value.as_object().into_iter().flatten() {
                        if !NOBODYS.contains(&key.as_str()) {
                            let mut path = vec![Element::Field("metadata".to_owned()), Element::Field(key.clone())];
                            collect(key, value, &mut path, &mut set);
                        }
                    }
                }
                _ => collect(key, value, &mut vec![Element::Field(key.clone())], &mut set),
            }
        }
        Self(set)
    }

    /// Reads `FieldsV1`; what is not understood is left out.
    pub fn from_v1(fields: &Value) -> Self {
        let mut set = BTreeSet::new();
        read_v1(fields, &mut Vec::new(), &mut set);
        Self(set)
    }

    /// Writes `FieldsV1`.
    pub fn to_v1(&self) -> Value {
        let mut root = Map::new();
        for path in &self.0 {
            let mut here = &mut root;
            for (depth, element) in path.iter().enumerate() {
                let key = match element {
                    Element::Field(name) => format!("f:{name}"),
                    Element::Keys(keys) => format!("k:{keys}"),
                    Element::Value(value) => format!("v:{value}"),
                };
                let entry = here.entry(key).or_insert_with(|| json!({}));
                let Value::Object(inside) = entry else { break };
                // An element of a list is itself a member, beside the fields in it.
                if depth + 1 == path.len() && matches!(element, Element::Keys(_)) {
                    inside.insert(".".to_owned(), json!({}));
                }
                here = inside;
            }
        }
        Value::Object(root)
    }

    /// Whether any field of the set is this one, inside it, or around it.
    pub fn touches(&self, path: &[Element]) -> bool {
        let around = (1..=path.len()).any(|length| self.0.contains(&path[..length]) && is_leaf(&path[..length], path));
        around || self.0.range(path.to_vec()..).next().is_some_and(|next| next.starts_with(path))
    }
}

/// Whether a member at the beginning of a path owns all of it: an element of a list is a member without owning its fields.
fn is_leaf(member: &[Element], path: &[Element]) -> bool {
    member.len() == path.len() || !matches!(member.last(), Some(Element::Keys(_)))
}

fn collect(field: &str, value: &Value, path: &mut Path, set: &mut BTreeSet<Path>) {
    match value {
        Value::Null => {}
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                path.push(Element::Field(key.clone()));
                collect(key, value, path, set);
                path.pop();
            }
        }
        Value::Array(list) if !list.is_empty() && elements(field, list).is_some() => {
            for (element, value) in elements(field, list).into_iter().flatten() {
                path.push(element);
                set.insert(path.clone());
                for (key, value) in value.as_object().into_iter().flatten() {
                    path.push(Element::Field(key.clone()));
                    collect(key, value, path, set);
                    path.pop();
                }
                path.pop();
            }
        }
        _ => drop(set.insert(path.clone())),
    }
}

/// Returns the elements of a list with what tells them apart; `None` when the list is one value.
pub fn elements<'v>(field: &str, list: &'v [Value]) -> Option<Vec<(Element, &'v Value)>> {
    match list_type(field) {
        ListType::Atomic => None,
        ListType::Set => Some(list.iter().map(|value| (Element::Value(value.to_string()), value)).collect()),
        ListType::Map(keys) => list.iter().map(|value| Some((key_of(value, keys)?, value))).collect(),
    }
}

fn key_of(value: &Value, keys: &[&str]) -> Option<Element> {
    let map = value.as_object()?;
    let mut named = Map::new();
    for key in keys {
        let value = map.get(*key).cloned().or_else(|| default_key(key).map(|text| json!(text)));
        named.insert((*key).to_owned(), value?);
    }
    Some(Element::Keys(Value::Object(named).to_string()))
}

fn read_v1(fields: &Value, path: &mut Path, set: &mut BTreeSet<Path>) {
    for (key, inside) in fields.as_object().into_iter().flatten() {
        if key == "." {
            set.insert(path.clone());
            continue;
        }
        let element = match key.split_once(':') {
            Some(("f", name)) => Element::Field(name.to_owned()),
            Some(("v", value)) => Element::Value(value.to_owned()),
            Some(("k", keys)) => match serde_json::from_str::<Map<String, Value>>(keys) {
                Ok(map) => Element::Keys(Value::Object(map).to_string()),
                Err(_) => continue,
            },
            _ => continue,
        };
        path.push(element);
        if inside.as_object().is_none_or(Map::is_empty) {
            set.insert(path.clone());
        } else {
            read_v1(inside, path, set);
        }
        path.pop();
    }
}

/// Returns the value a path leads to.
pub fn find<'v>(root: &'v Value, path: &[Element]) -> Option<&'v Value> {
    let mut here = root;
    let mut field = "";
    for element in path {
        here = match element {
            Element::Field(name) => {
                field = name;
                here.get(name)?
            }
            _ => elements(field, here.as_array()?)?.into_iter().find(|(found, _)| found == element)?.1,
        };
    }
    Some(here)
}

/// Removes the value a path leads to, and what is empty around it then.
pub fn remove(root: &mut Value, path: &[Element]) {
    remove_in(root, "", path);
}

fn remove_in(here: &mut Value, field: &str, path: &[Element]) {
    let Some((first, rest)) = path.split_first() else { return };
    match first {
        Element::Field(name) => {
            let Some(map) = here.as_object_mut() else { return };
            let Some(inner) = map.get_mut(name) else { return };
            if !rest.is_empty() {
                remove_in(inner, name, rest);
            }
            if rest.is_empty() || is_empty(inner) {
                map.shift_remove(name);
            }
        }
        element => {
            let Some(list) = here.as_array_mut() else { return };
            let place = elements(field, list).and_then(|all| all.iter().position(|(found, _)| found == element));
            let Some(place) = place else { return };
            if rest.is_empty() {
                list.remove(place);
            } else {
                remove_in(&mut list[place], "", rest);
            }
        }
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Value {
        json!({
            "apiVersion": "v1", "kind": "X",
            "metadata": {"name": "a", "uid": "1", "labels": {"x": "1"}},
            "spec": {
                "predictor": {
                    "minReplicas": 1,
                    "tolerations": [{"key": "a"}],
                    "containers": [{"name": "c"}],
                    "model": {"env": [{"name": "c", "value": "v"}], "ports": [{"containerPort": 80}]},
                },
            },
            "status": {"url": "x"},
        })
    }

    #[test]
    fn a_set_is_written_as_kubernetes_writes_it_and_read_again() {
        let set = FieldSet::of(&service());
        let fields = set.to_v1();
        let port = r#"k:{"containerPort":80,"protocol":"TCP"}"#;
        let expected = json!({
            "f:metadata": {"f:labels": {"f:x": {}}},
            "f:spec": {"f:predictor": {
                "f:minReplicas": {},
                "f:tolerations": {},
                "f:containers": {},
                "f:model": {
                    "f:env": {r#"k:{"name":"c"}"#: {".": {}, "f:name": {}, "f:value": {}}},
                    "f:ports": {port: {".": {}, "f:containerPort": {}}},
                },
            }},
        });
        assert_eq!(fields, expected);
        assert_eq!(FieldSet::from_v1(&fields), set);
    }

    #[test]
    fn paths_find_and_remove() {
        let mut value = service();
        let set = FieldSet::of(&value);
        for path in &set.0 {
            assert!(find(&value, path).is_some(), "{}", shown(path));
        }
        for path in &set.0 {
            remove(&mut value, path);
        }
        assert_eq!(FieldSet::of(&value), FieldSet::default());
        let replicas: Path = ["spec", "predictor", "minReplicas"].map(|name| Element::Field(name.to_owned())).into();
        assert_eq!(shown(&replicas), ".spec.predictor.minReplicas");
        assert!(set.touches(&replicas) && set.touches(&replicas[..1]));
        let element = Element::Keys(r#"{"name":"c"}"#.to_owned());
        assert_eq!(shown(&[Element::Field("env".to_owned()), element]), r#".env[name="c"]"#);
    }
}
