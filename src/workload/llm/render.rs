//! `{{ .Spec.Model.Name }}` and friends in the template of an LLMInferenceService.
//!
//! Upstream runs Go's `text/template` with `.Spec`, `.ObjectMeta`, `.GlobalConfig` and functions of its own. Understood here:
//! paths below `.Spec` and `.ObjectMeta`, and `ChildName name \`suffix\``. Everything else is refused by name. A value that
//! is not there is an error, as upstream; nothing is escaped.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::workload::ResolveError;

/// Longest name of a child.
const MAX_NAME: usize = 63;

/// Renders every text below a value.
pub(super) fn render(
    value: &mut Value,
    field: &str,
    values: &BTreeMap<&'static str, Value>,
) -> Result<(), ResolveError> {
    match value {
        Value::String(text) if text.contains("{{") => *text = render_text(text, field, values)?,
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                render(item, &format!("{field}[{index}]"), values)?;
            }
        }
        Value::Object(fields) => {
            for (key, value) in fields {
                render(value, &format!("{field}.{key}"), values)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn render_text(text: &str, field: &str, values: &BTreeMap<&'static str, Value>) -> Result<String, ResolveError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((inner, tail)) = after.split_once("}}") else {
            return Err(ResolveError::invalid(field, format!("`{{{{{after}` is not closed with `}}}}`")));
        };
        let left = inner.strip_prefix('-').filter(|inner| inner.starts_with([' ', '\n']));
        let body = left.unwrap_or(inner);
        let right = body.strip_suffix('-').filter(|inner| inner.ends_with([' ', '\n']));
        out.push_str(if left.is_some() { before.trim_end() } else { before });
        out.push_str(&evaluate(right.unwrap_or(body).trim(), field, values)?);
        rest = if right.is_some() { tail.trim_start() } else { tail };
    }
    out.push_str(rest);
    Ok(out)
}

fn evaluate(body: &str, field: &str, values: &BTreeMap<&'static str, Value>) -> Result<String, ResolveError> {
    let words: Vec<&str> = body.split_whitespace().collect();
    match words.as_slice() {
        [path] if path.starts_with('.') => look_up(path, field, values),
        ["ChildName", name, suffix] => {
            let name = if name.starts_with('.') { look_up(name, field, values)? } else { unquoted(name).to_owned() };
            Ok(child_name(&name, unquoted(suffix)))
        }
        _ => {
            let message =
                format!("`{{{{ {body} }}}}` is not understood: paths below .Spec and .ObjectMeta, and ChildName, are");
            Err(ResolveError::invalid(field, message).with_help("write the value itself"))
        }
    }
}

fn unquoted(word: &str) -> &str {
    word.trim_matches(['`', '"'])
}

/// A name with a suffix; one that is too long loses its middle, and a digest tells it from others.
fn child_name(name: &str, suffix: &str) -> String {
    let whole = format!("{name}{suffix}");
    if whole.len() <= MAX_NAME {
        return whole;
    }
    let digest = crate::workload::fingerprint::digest(name);
    let kept = MAX_NAME.saturating_sub(suffix.len() + digest.len() + 1);
    format!("{}-{digest}{suffix}", name.get(..kept).unwrap_or(name))
}

/// Go names fields by the capital letters of their types; manifests begin small.
fn look_up(path: &str, field: &str, values: &BTreeMap<&'static str, Value>) -> Result<String, ResolveError> {
    let missing = || ResolveError::invalid(field, format!("`{path}` is not there"));
    let mut parts = path.trim_start_matches('.').split('.');
    let mut value = parts.next().and_then(|root| values.get(root)).ok_or_else(missing)?;
    for part in parts {
        let found = value.as_object().and_then(|map| {
            map.get(part).or_else(|| map.iter().find(|(key, _)| key.eq_ignore_ascii_case(part)).map(|(_, value)| value))
        });
        value = found.ok_or_else(missing)?;
    }
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(value) => Ok(value.to_string()),
        _ => Err(ResolveError::invalid(field, format!("`{path}` is no text"))),
    }
}
