//! Strategic merge patch, for the kinds of the core group: a merge patch that knows lists whose elements have names.
//!
//! Directives: `$patch: replace|delete`, `$deleteFromPrimitiveList/x`, `$setElementOrder/x`, `$retainKeys`.

use serde_json::{Map, Value};

use super::lists::{ListType, strategic_list_type};

/// Why a patch is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// A directive that is not known.
    #[error("unrecognized patch directive `{0}`")]
    Directive(String),
    /// An element of a named list has no name.
    #[error("an element of `{list}` has no `{key}`")]
    NoKey {
        /// The list.
        list: String,
        /// The field that names its elements.
        key: &'static str,
    },
}

/// Merges `patch` into `target`.
///
/// # Errors
/// The patch cannot be understood; the target may then be changed in part and is to be thrown away.
pub fn merge(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Value::Object(changes) = patch else {
        target.clone_from(patch);
        return Ok(());
    };
    match directive(changes)? {
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some(_) => {
            *target = Value::Object(without_directives(changes));
            return Ok(());
        }
        None => {}
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return Ok(()) };
    if let Some(kept) = changes.get("$retainKeys").and_then(Value::as_array) {
        map.retain(|key, _| kept.iter().any(|kept| kept == key));
    }
    for (key, doomed) in changes {
        if let Some(field) = key.strip_prefix("$deleteFromPrimitiveList/")
            && let (Some(list), Some(doomed)) = (map.get_mut(field).and_then(Value::as_array_mut), doomed.as_array())
        {
            list.retain(|value| !doomed.contains(value));
        }
    }
    for (key, change) in changes.iter().filter(|(key, _)| !key.starts_with('$')) {
        let order = changes.get(&format!("$setElementOrder/{key}")).and_then(Value::as_array);
        match change {
            Value::Null => drop(map.shift_remove(key)),
            Value::Array(list) => merge_list(map.entry(key).or_insert(Value::Null), list, key, order)?,
            Value::Object(_) => {
                let inner = map.entry(key).or_insert(Value::Null);
                merge(inner, change)?;
            }
            plain => drop(map.insert(key.clone(), plain.clone())),
        }
    }
    // An order alone moves what is there.
    for (key, order) in changes {
        if let Some(field) = key.strip_prefix("$setElementOrder/")
            && !changes.contains_key(field)
            && let (Some(there), Some(order)) = (map.get_mut(field), order.as_array())
        {
            merge_list(there, &[], field, Some(order))?;
        }
    }
    Ok(())
}

fn directive(changes: &Map<String, Value>) -> Result<Option<&str>, PatchError> {
    match changes.get("$patch").map(|directive| directive.as_str().unwrap_or_default()) {
        None | Some("merge") => Ok(None),
        Some(known @ ("delete" | "replace")) => Ok(Some(known)),
        Some(other) => Err(PatchError::Directive(other.to_owned())),
    }
}

fn without_directives(map: &Map<String, Value>) -> Map<String, Value> {
    map.iter().filter(|(key, _)| !key.starts_with('$')).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn merge_list(target: &mut Value, patch: &[Value], field: &str, order: Option<&Vec<Value>>) -> Result<(), PatchError> {
    let name = match strategic_list_type(field) {
        ListType::Atomic => {
            *target = Value::Array(patch.to_vec());
            return Ok(());
        }
        ListType::Set => None,
        ListType::Map(keys) => keys.first().copied(),
    };
    let identity = |value: &Value| name.map_or_else(|| value.clone(), |name| value[name].clone());
    let before = target.as_array().cloned().unwrap_or_default();
    let mut list = before.clone();
    let mut named = Vec::new();
    let mut replaces = false;
    for change in patch {
        let what = change.as_object().map(directive).transpose()?.flatten();
        if what == Some("replace") && name.is_some_and(|name| change.get(name).is_none()) {
            replaces = true;
            continue;
        }
        let key = identity(change);
        if let (Some(name), true) = (name, key.is_null()) {
            return Err(PatchError::NoKey { list: field.to_owned(), key: name });
        }
        let place = list.iter().position(|value| identity(value) == key);
        if what == Some("delete") {
            place.map(|place| list.remove(place));
            continue;
        }
        named.push(key);
        match place {
            Some(place) => merge(&mut list[place], change)?,
            None => list.push(match change {
                Value::Object(map) => Value::Object(without_directives(map)),
                plain => plain.clone(),
            }),
        }
    }
    if replaces {
        list.retain(|value| named.contains(&identity(value)));
    }
    let wanted: Vec<Value> = order.map_or(named, |order| order.iter().map(&identity).collect());
    let before: Vec<Value> = before.iter().map(identity).collect();
    *target = Value::Array(ordered(list, &wanted, &before, identity));
    Ok(())
}

/// Puts what the patch names into the patch's order, and what it does not name around that, as it was: before the first
/// named element that it stood before.
fn ordered(list: Vec<Value>, wanted: &[Value], before: &[Value], identity: impl Fn(&Value) -> Value) -> Vec<Value> {
    let place = |of: &[Value], value: &Value| of.iter().position(|key| *key == identity(value));
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        list.into_iter().partition(|value| place(wanted, value).is_some());
    named.sort_by_key(|value| place(wanted, value));
    let mut result = Vec::new();
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let take_other = match (named.peek(), others.peek()) {
            (None, None) => return result,
            (Some(_), None) => false,
            (None, Some(_)) => true,
            (Some(next), Some(other)) => match (place(before, other), place(before, next)) {
                (Some(other), Some(next)) => other < next,
                _ => false,
            },
        };
        result.extend(if take_other { others.next() } else { named.next() });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(mut target: Value, patch: Value) -> Value {
        merge(&mut target, &patch).unwrap();
        target
    }

    #[test]
    fn named_elements_are_merged_and_new_ones_come_first() {
        let table = [
            (
                json!({"secrets": [{"name": "a"}]}),
                json!({"secrets": [{"name": "b"}]}),
                json!({"secrets": [{"name": "b"}, {"name": "a"}]}),
            ),
            (
                json!({"secrets": [{"name": "a"}, {"name": "b"}]}),
                json!({"secrets": [{"name": "b", "x": 1}]}),
                json!({"secrets": [{"name": "a"}, {"name": "b", "x": 1}]}),
            ),
            (
                json!({"secrets": [{"name": "a"}, {"name": "b"}]}),
                json!({"secrets": [{"$patch": "delete", "name": "a"}]}),
                json!({"secrets": [{"name": "b"}]}),
            ),
            (
                json!({"secrets": [{"name": "a"}, {"name": "b"}]}),
                json!({"secrets": [{"$patch": "replace"}, {"name": "c"}]}),
                json!({"secrets": [{"name": "c"}]}),
            ),
            (
                json!({"secrets": [{"name": "a"}, {"name": "b"}]}),
                json!({"$setElementOrder/secrets": [{"name": "b"}, {"name": "a"}]}),
                json!({"secrets": [{"name": "b"}, {"name": "a"}]}),
            ),
            (
                json!({"data": {"a": "1", "b": "2"}}),
                json!({"data": {"a": null, "c": "3"}}),
                json!({"data": {"b": "2", "c": "3"}}),
            ),
            (
                json!({"data": {"a": "1"}}),
                json!({"data": {"$patch": "replace", "b": "2"}}),
                json!({"data": {"b": "2"}}),
            ),
            (
                json!({"data": {"a": "1", "b": "2"}}),
                json!({"data": {"$retainKeys": ["b"]}}),
                json!({"data": {"b": "2"}}),
            ),
            (
                json!({"finalizers": ["a", "b"]}),
                json!({"$deleteFromPrimitiveList/finalizers": ["a"]}),
                json!({"finalizers": ["b"]}),
            ),
            (json!({"args": ["a"]}), json!({"args": ["b"]}), json!({"args": ["b"]})),
        ];
        for (target, patch, expected) in table {
            assert_eq!(merged(target, patch.clone()), expected, "{patch}");
        }
    }

    #[test]
    fn a_patch_that_cannot_be_understood_is_refused() {
        let refused = |patch: Value| merge(&mut json!({"secrets": []}), &patch).unwrap_err().to_string();
        assert!(refused(json!({"secrets": [{"x": 1}]})).contains("`name`"));
        assert!(refused(json!({"data": {"$patch": "shred"}})).contains("`shred`"));
    }
}
