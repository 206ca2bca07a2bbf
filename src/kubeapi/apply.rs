//! Server-side apply: a manager says all that it wants; what it no longer says goes, what others own is a conflict.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::fields::{Element, FieldSet, Path, elements, find, remove, shown};
use super::lists::{ListType, list_type};
use super::managers::{Manager, Operation, own};
use super::pods::whole_seconds;

/// A field that another manager owns and would lose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Whose it is.
    pub manager: String,
    /// How that manager wrote it.
    pub operation: Operation,
    /// In which version.
    pub api_version: String,
    /// The field, as messages show it.
    pub field: String,
}

/// Who applies, and how.
#[derive(Clone, Copy, Debug)]
pub struct Applier<'a> {
    /// Name of the manager.
    pub name: &'a str,
    /// Version of the schema.
    pub api_version: &'a str,
    /// Whether to take fields that others own.
    pub force: bool,
    /// The time.
    pub now: Timestamp,
}

/// Returns the object as it is after a configuration was applied, and brings the managers up to date.
///
/// # Errors
/// Other managers own fields that would change; nothing is changed then.
pub fn apply(
    live: &Value,
    config: &Value,
    managers: &mut Vec<Manager>,
    applier: Applier<'_>,
) -> Result<Value, Vec<Conflict>> {
    let wanted = FieldSet::of(config);
    let differs = |path: &Path| !is_member(path) && find(live, path) != find(config, path);
    let contested: Vec<&Path> = wanted.0.iter().filter(|path| differs(path)).collect();
    let mut conflicts = Vec::new();
    for manager in managers.iter_mut().filter(|manager| !manager.is(applier.name, Operation::Apply)) {
        for path in &contested {
            if !manager.fields.touches(path) {
                continue;
            }
            if applier.force {
                manager.fields.0.retain(|owned| !owned.starts_with(path) && !path.starts_with(owned.as_slice()));
            } else {
                conflicts.push(Conflict {
                    manager: manager.name.clone(),
                    operation: manager.operation,
                    api_version: manager.api_version.clone(),
                    field: shown(path),
                });
            }
        }
    }
    if !conflicts.is_empty() {
        return Err(conflicts);
    }
    let mut after = live.clone();
    let before = managers.iter().find(|manager| manager.is(applier.name, Operation::Apply));
    let dropped: Vec<Path> =
        before.map(|own| own.fields.0.difference(&wanted.0).cloned().collect()).unwrap_or_default();
    // An element of a list goes before the fields in it: without the fields that are its key it cannot be found.
    for path in &dropped {
        let others = managers.iter().filter(|manager| !manager.is(applier.name, Operation::Apply));
        if !others.into_iter().any(|manager| manager.fields.touches(path)) && !wanted.touches(path) {
            remove(&mut after, path);
        }
    }
    merge(&mut after, config, "");
    let own = own(managers, applier.name, Operation::Apply, applier.api_version);
    if own.fields != wanted || own.time.is_none() {
        own.fields = wanted;
        own.time = Some(whole_seconds(applier.now));
    }
    managers.retain(|manager| !manager.fields.0.is_empty());
    Ok(after)
}

fn is_member(path: &Path) -> bool {
    matches!(path.last(), Some(Element::Keys(_) | Element::Value(_)))
}

/// Merges a configuration into what is there: objects and keyed lists element by element, the rest as one value.
fn merge(live: &mut Value, config: &Value, field: &str) {
    match config {
        Value::Null => {}
        Value::Object(wanted) => {
            if !live.is_object() {
                *live = Value::Object(Map::new());
            }
            let Value::Object(map) = live else { return };
            for (key, value) in wanted.iter().filter(|(_, value)| !value.is_null()) {
                merge(map.entry(key).or_insert(Value::Null), value, key);
            }
        }
        Value::Array(wanted) if list_type(field) != ListType::Atomic => match merged_list(live, wanted, field) {
            Some(list) => *live = Value::Array(list),
            None => live.clone_from(config),
        },
        other => live.clone_from(other),
    }
}

/// Returns the elements of the configuration in its order, then those that only others have; `None` when the elements
/// cannot be told apart.
fn merged_list(live: &Value, wanted: &[Value], field: &str) -> Option<Vec<Value>> {
    let wanted = elements(field, wanted)?;
    let there = elements(field, live.as_array().map_or(&[][..], Vec::as_slice))?;
    let mut list = Vec::new();
    for (key, value) in &wanted {
        let mut element =
            there.iter().find(|(known, _)| known == key).map_or(Value::Null, |(_, value)| (*value).clone());
        merge(&mut element, value, "");
        list.push(element);
    }
    let only_there = there.iter().filter(|(known, _)| !wanted.iter().any(|(key, _)| key == known));
    list.extend(only_there.map(|(_, value)| (*value).clone()));
    Some(list)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::kubeapi::managers::update;

    fn by(name: &str, force: bool) -> Applier<'_> {
        Applier { name, api_version: "v1", force, now: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn what_a_manager_no_longer_says_goes_unless_others_say_it() {
        let mut managers = Vec::new();
        let first =
            json!({"spec": {"a": 1, "b": 2, "env": [{"name": "x", "value": "1"}, {"name": "y", "value": "1"}]}});
        let live = apply(&json!({}), &first, &mut managers, by("one", false)).unwrap();
        assert_eq!(live, first);
        let live = apply(&live, &json!({"spec": {"b": 2}}), &mut managers, by("two", false)).unwrap();
        let less = json!({"spec": {"env": [{"name": "y", "value": "1"}]}});
        let live = apply(&live, &less, &mut managers, by("one", false)).unwrap();
        assert_eq!(live, json!({"spec": {"b": 2, "env": [{"name": "y", "value": "1"}]}}));
    }

    #[test]
    fn what_others_own_is_a_conflict_until_it_is_forced() {
        let mut managers = Vec::new();
        let live = json!({"spec": {"a": 1, "env": [{"name": "c", "value": "i"}]}});
        update(&mut managers, &Value::Null, &live, "kubectl-edit", "v1", Timestamp::UNIX_EPOCH);
        let wanted = json!({"spec": {"a": 2, "env": [{"name": "c", "value": "i"}, {"name": "d", "value": "j"}]}});
        let conflicts = apply(&live, &wanted, &mut managers.clone(), by("one", false)).unwrap_err();
        assert_eq!(conflicts.len(), 1);
        assert_eq!((conflicts[0].field.as_str(), conflicts[0].manager.as_str()), (".spec.a", "kubectl-edit"));
        let after = apply(&live, &wanted, &mut managers, by("one", true)).unwrap();
        assert_eq!(after, wanted);
        let same = apply(&after, &wanted, &mut managers.clone(), by("two", false)).unwrap();
        assert_eq!(same, wanted, "saying the same is no conflict");
        assert!(apply(&after, &json!({"spec": {"a": 3}}), &mut managers, by("two", false)).is_err());
    }

    prop_compose! {
        fn config()(fields in proptest::collection::btree_map("[a-d]", 0..3, 0..4), env in proptest::collection::btree_map("[x-z]", 0..3, 0..3)) -> Value {
            let env: Vec<Value> = env.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
            let mut spec = json!(fields);
            if !env.is_empty() {
                spec["env"] = json!(env);
            }
            if spec == json!({}) { json!({}) } else { json!({"spec": spec}) }
        }
    }

    proptest! {
        #[test]
        fn applying_twice_changes_nothing_more(a in config(), b in config()) {
            let mut managers = Vec::new();
            let live = apply(&json!({}), &a, &mut managers, by("one", true)).unwrap();
            let once = apply(&live, &b, &mut managers, by("one", true)).unwrap();
            let known = managers.clone();
            let twice = apply(&once, &b, &mut managers, by("one", true)).unwrap();
            prop_assert_eq!(&once, &twice);
            prop_assert_eq!(known, managers);
            // A manager that is alone gets exactly what it says.
            prop_assert_eq!(FieldSet::of(&once), FieldSet::of(&b));
        }
    }
}
