//! `{{.Name}}` and friends in the containers of runtimes (§2.6).
//!
//! Upstream runs Go's `html/template` over the JSON text of a container, with the InferenceService's metadata as data.
//! This room understands the part of that language that runtimes use: `{{.Name}}`, `{{.Namespace}}`, `{{.Labels.key}}`
//! and `{{.Annotations.key}}`, with blanks and trim markers (`{{- … -}}`). Everything else is refused by name.
//!
//! Two of upstream's habits are kept on purpose, so that a manifest means the same here and on a cluster: a key that is
//! not there renders as nothing, and values are HTML-escaped (`<`, `>`, `&`, `'`, `"` and `+` become entities). One is
//! not kept: there, a backslash or a line break in a value is read as part of the JSON text; here it stays what it is.

use k8s_openapi::api::core::v1::Container;
use serde_json::Value;

use crate::api::Metadata;

/// Why a container cannot be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{placeholder}` in `{field}` {problem}")]
pub struct TemplateError {
    /// Where in the container, for example `args[0]`.
    pub field: String,
    /// The placeholder as written.
    pub placeholder: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Renders every text of a container.
///
/// # Errors
/// The first placeholder that is not understood, or that names an unknown field.
pub fn render_container(container: &Container, meta: &Metadata) -> Result<Container, TemplateError> {
    let broken = |problem: serde_json::Error| TemplateError {
        field: container.name.clone(),
        placeholder: String::new(),
        problem: problem.to_string(),
    };
    let mut value = serde_json::to_value(container).map_err(broken)?;
    render_value(&mut value, "", meta)?;
    serde_json::from_value(value).map_err(broken)
}

/// Renders one text.
///
/// # Errors
/// As [`render_container`]; the field of the error is `field`.
pub fn render(text: &str, field: &str, meta: &Metadata) -> Result<String, TemplateError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((inner, tail)) = after.split_once("}}") else {
            return Err(error(field, &format!("{{{{{after}"), "is not closed with `}}`"));
        };
        let placeholder = format!("{{{{{inner}}}}}");
        let action = Action::parse(inner);
        out.push_str(if action.trim_left { before.trim_end_matches(' ') } else { before });
        let value = lookup(action.body, meta).map_err(|problem| error(field, &placeholder, &problem))?;
        out.push_str(&escape(value));
        rest = if action.trim_right { tail.trim_start_matches(' ') } else { tail };
    }
    out.push_str(rest);
    Ok(out)
}

struct Action<'t> {
    trim_left: bool,
    trim_right: bool,
    body: &'t str,
}

impl<'t> Action<'t> {
    /// A trim marker is a `-` next to the braces with a blank between it and the rest, as in Go.
    fn parse(inner: &'t str) -> Self {
        let left = inner.strip_prefix('-').filter(|rest| rest.starts_with(' '));
        let body = left.unwrap_or(inner);
        let right = body.strip_suffix('-').filter(|rest| rest.ends_with(' '));
        Self { trim_left: left.is_some(), trim_right: right.is_some(), body: right.unwrap_or(body).trim() }
    }
}

/// Fields of Kubernetes' ObjectMeta that upstream can render and this room cannot.
const OTHER_FIELDS: [&str; 12] = [
    "GenerateName",
    "SelfLink",
    "UID",
    "ResourceVersion",
    "Generation",
    "CreationTimestamp",
    "DeletionTimestamp",
    "DeletionGracePeriodSeconds",
    "OwnerReferences",
    "Finalizers",
    "ManagedFields",
    "ObjectMeta",
];

fn lookup<'m>(body: &str, meta: &'m Metadata) -> Result<&'m str, String> {
    let understood = "only {{.Name}}, {{.Namespace}}, {{.Labels.key}} and {{.Annotations.key}} are understood, without functions or pipes";
    let path = body.strip_prefix('.').ok_or_else(|| format!("is not understood: {understood}"))?;
    if !path.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.') {
        return Err(format!("is not understood: {understood}; keys with `/`, `-` or `.` cannot be addressed"));
    }
    match path.split('.').collect::<Vec<_>>()[..] {
        ["Name"] => Ok(&meta.name),
        ["Namespace"] => Ok(&meta.namespace),
        ["Labels", key] if !key.is_empty() => Ok(meta.label(key).unwrap_or_default()),
        ["Annotations", key] if !key.is_empty() => Ok(meta.annotation(key).unwrap_or_default()),
        ["Labels" | "Annotations"] => Err("renders a whole map; name a key, for example {{.Labels.app}}".to_owned()),
        ["Labels" | "Annotations", ..] => Err("goes deeper than a map of texts".to_owned()),
        [field, ..] if OTHER_FIELDS.contains(&field) => Err(format!("is not served: {understood}")),
        _ => Err("names a field that does not exist".to_owned()),
    }
}

/// Escapes as Go's `html/template` does in text.
fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '"' => out.push_str("&#34;"),
            '&' => out.push_str("&amp;"),
            '\'' => out.push_str("&#39;"),
            '+' => out.push_str("&#43;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\0' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

fn render_value(value: &mut Value, field: &str, meta: &Metadata) -> Result<(), TemplateError> {
    match value {
        Value::String(text) if text.contains("{{") => *text = render(text, field, meta)?,
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                render_value(item, &format!("{field}[{index}]"), meta)?;
            }
        }
        Value::Object(fields) => {
            for (key, item) in fields {
                let path = if field.is_empty() { key.clone() } else { format!("{field}.{key}") };
                render_value(item, &path, meta)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn error(field: &str, placeholder: &str, problem: &str) -> TemplateError {
    TemplateError { field: field.to_owned(), placeholder: placeholder.to_owned(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn meta() -> Metadata {
        let labels = [("modelClass", "mlserver_sklearn.SKLearnModel"), ("risky", "a<b> & \"c\" 'd' +e \\n")];
        Metadata {
            name: "iris".to_owned(),
            namespace: "team".to_owned(),
            labels: Arc::new(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            annotations: Arc::new([("modelFormat".to_owned(), "sklearn".to_owned())].into()),
            ..Metadata::default()
        }
    }

    #[test]
    fn the_forms_runtimes_use_are_rendered() {
        let cases = [
            ("--model_name={{.Name}}", "--model_name=iris"),
            ("{{ .Namespace }}/{{.Name}}", "team/iris"),
            ("{{.Labels.modelClass}}", "mlserver_sklearn.SKLearnModel"),
            ("--framework={{.Annotations.modelFormat}}", "--framework=sklearn"),
            ("[{{.Labels.absent}}{{.Annotations.absent}}]", "[]"),
            ("a  {{- .Name -}}  b", "airisb"),
            ("a  {{- .Name }} b", "airis b"),
            ("no braces } }} here", "no braces } }} here"),
            ("{{.Labels.risky}}", "a&lt;b&gt; &amp; &#34;c&#34; &#39;d&#39; &#43;e \\n"),
        ];
        for (text, want) in cases {
            assert_eq!(render(text, "args[0]", &meta()).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        let cases = [
            ("{{.Nmae}}", "names a field that does not exist"),
            ("{{.Name", "is not closed"),
            ("{{.Name | printf}}", "is not understood"),
            ("{{index .Annotations \"a/b\"}}", "is not understood"),
            ("{{.Labels.a-b}}", "cannot be addressed"),
            ("{{.Labels.a.b}}", "goes deeper"),
            ("{{.Labels}}", "renders a whole map"),
            ("{{.UID}}", "is not served"),
            ("{{-.Name}}", "is not understood"),
            ("{{if .Name}}x{{end}}", "is not understood"),
            ("{{}}", "is not understood"),
            ("{{.}}", "names a field that does not exist"),
        ];
        for (text, problem) in cases {
            let error = render(text, "args[0]", &meta()).unwrap_err();
            assert!(error.problem.contains(problem), "{text}: {error}");
            assert_eq!(error.field, "args[0]");
        }
    }

    #[test]
    fn every_text_of_a_container_is_rendered_and_errors_say_where() {
        let container = |argument: &str| -> Container {
            serde_json::from_value(json!({
                "name": "kserve-container",
                "image": "repo/{{.Name}}:1",
                "args": ["{{.Name}}"],
                "env": [{ "name": "A", "value": "{{.Namespace}}" }, { "name": "B", "value": argument }],
                "readinessProbe": { "httpGet": { "path": "/v1/models/{{.Name}}", "port": 8080 } },
            }))
            .unwrap()
        };
        let rendered = render_container(&container("b"), &meta()).unwrap();
        assert_eq!(rendered.image.as_deref(), Some("repo/iris:1"));
        assert_eq!(rendered.env.unwrap()[0].value.as_deref(), Some("team"));
        let path = rendered.readiness_probe.unwrap().http_get.unwrap().path;
        assert_eq!(path.as_deref(), Some("/v1/models/iris"));
        assert_eq!(render_container(&container("{{.Oops}}"), &meta()).unwrap_err().field, "env[1].value");
    }
}
