//! Collects what there is to say about one document, and finds where it stands.

use serde_json::Value;

use super::diagnostic::{Diagnostic, DiagnosticCode, Position, Severity};
use super::known;
use super::locate::{Below, Located};
use super::path::FieldPath;
use super::strict::{Misfit, MisfitKind};
use super::yaml::{Problem, ProblemKind};
use crate::api::{Kind, ObjectKey};

/// The diagnostics of one document.
#[derive(Debug)]
pub(super) struct Report<'a> {
    file: &'a str,
    located: Option<&'a Located>,
    start: Option<Position>,
    object: Option<ObjectKey>,
    diagnostics: Vec<Diagnostic>,
}

impl<'a> Report<'a> {
    pub(super) fn new(file: &'a str, located: Option<&'a Located>, start: Option<Position>) -> Self {
        Self { file, located, start, object: None, diagnostics: Vec::new() }
    }

    /// Says which object everything, also what was said before, is about.
    pub(super) fn about(&mut self, object: Option<ObjectKey>) {
        for diagnostic in &mut self.diagnostics {
            diagnostic.object.clone_from(&object);
        }
        self.object = object;
    }

    pub(super) fn error(&mut self, path: &FieldPath, code: DiagnosticCode, message: impl Into<String>) -> &mut Self {
        self.add(Severity::Error, path, code, message.into())
    }

    /// A broken rule.
    pub(super) fn invalid(&mut self, path: &FieldPath, message: impl Into<String>) -> &mut Self {
        self.error(path, DiagnosticCode::Invalid, message)
    }

    /// A broken rule of KServe's validating webhook, in its words.
    pub(super) fn denied(&mut self, path: &FieldPath, message: impl Into<String>) -> &mut Self {
        self.error(path, DiagnosticCode::Denied, message)
    }

    pub(super) fn warning(&mut self, path: &FieldPath, code: DiagnosticCode, message: impl Into<String>) -> &mut Self {
        self.add(Severity::Warning, path, code, message.into())
    }

    /// Adds help to what was said last.
    pub(super) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        if let Some(last) = self.diagnostics.last_mut() {
            last.help = Some(help.into());
        }
        self
    }

    pub(super) fn problem(&mut self, problem: &Problem) {
        let code = match problem.kind {
            ProblemKind::Duplicate => DiagnosticCode::DuplicateField,
            ProblemKind::Syntax => DiagnosticCode::Syntax,
        };
        self.diagnostics.push(Diagnostic {
            severity: Severity::Error,
            code,
            file: self.file.to_owned(),
            position: problem.position.or(self.start),
            field: problem.path.as_ref().map(FieldPath::to_string),
            object: self.object.clone(),
            message: problem.message.clone(),
            help: problem.help.clone(),
        });
    }

    pub(super) fn misfit(&mut self, misfit: &Misfit) {
        let path = &misfit.path;
        let key = path.last_key().unwrap_or_default();
        match &misfit.kind {
            MisfitKind::Unknown { owner, .. } if known::is_newer(owner, key) => {
                self.error(path, DiagnosticCode::NotServed, format!("field `{key}` is not served by this version"));
            }
            MisfitKind::Unknown { fields, owner } => {
                self.error(path, DiagnosticCode::UnknownField, format!("unknown field `{key}`"));
                let parent = path.parent().unwrap_or_default();
                if let Some(help) = known::suggest(owner, key, fields, &parent) {
                    self.help(help);
                }
            }
            MisfitKind::Missing => {
                self.error(path, DiagnosticCode::Required, format!("field `{key}` is required"));
            }
            MisfitKind::Wrong { wanted, found } => self.wrong_type(path, wanted, found),
            MisfitKind::Unfit { message } => self.unfit(path, message),
        }
    }

    fn wrong_type(&mut self, path: &FieldPath, wanted: &str, found: &Value) {
        let plain = self.located.and_then(|node| node.find(path)).and_then(|node| node.plain.clone());
        let written = plain.or_else(|| found.is_number().then(|| found.to_string()));
        let written = written.filter(|_| !self.is_secret());
        let what = match (found, &written) {
            (Value::Null, _) => "nothing".to_owned(),
            (Value::Bool(_), None) if self.is_secret() => "a boolean".to_owned(),
            (Value::Bool(value), Some(written)) if *written != value.to_string() => {
                format!("`{written}`, which reads as {value}")
            }
            (Value::Bool(value), _) => value.to_string(),
            (Value::Number(_), Some(written)) => format!("the number {written}"),
            (Value::Number(_), None) => "a number".to_owned(),
            (Value::String(_), _) => "text".to_owned(),
            (Value::Array(_), _) => "a list".to_owned(),
            (Value::Object(_), _) => "a mapping".to_owned(),
        };
        self.error(path, DiagnosticCode::WrongType, format!("expected {wanted}, found {what}"));
        match (wanted, found) {
            ("text", Value::Bool(_) | Value::Number(_)) => {
                let quoted = written.map_or_else(String::new, |written| format!(": \"{written}\""));
                self.help(format!("quote it{quoted}"));
            }
            ("true or false" | "a whole number" | "a number", Value::String(text))
                if serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_boolean() || value.is_number()) =>
            {
                self.help("remove the quotes");
            }
            ("a list", Value::Object(_)) => {
                self.help("begin each element with `- `");
            }
            ("a mapping", Value::Array(_)) => {
                self.help("there is only one here: remove the `- `");
            }
            _ => {}
        }
    }

    fn unfit(&mut self, path: &FieldPath, message: &str) {
        if self.is_secret() {
            // The decoder's message quotes what it stumbled over.
            self.error(path, DiagnosticCode::Invalid, "expected base64");
            self.help("write plain text under `stringData` instead of `data`");
        } else {
            self.error(path, DiagnosticCode::Invalid, message.to_owned());
        }
    }

    fn is_secret(&self) -> bool {
        self.object.as_ref().is_some_and(|object| object.kind == Kind::Secret)
    }

    pub(super) fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }

    /// Whether something at or below a path is wrong.
    pub(super) fn has_error_below(&self, path: &FieldPath) -> bool {
        let path = path.to_string();
        let below =
            |field: &str| field.strip_prefix(&path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        self.diagnostics
            .iter()
            .any(|diagnostic| diagnostic.is_error() && diagnostic.field.as_deref().is_some_and(below))
    }

    /// Whether the mapping at a path has a field nobody knows.
    pub(super) fn has_unknown_field(&self, path: &FieldPath) -> bool {
        let path = path.to_string();
        let within = |field: &str| field.rsplit_once('.').is_some_and(|(parent, _)| parent == path);
        let unknown = self.diagnostics.iter().filter(|diagnostic| diagnostic.code == DiagnosticCode::UnknownField);
        unknown.into_iter().any(|diagnostic| diagnostic.field.as_deref().is_some_and(within))
    }

    pub(super) fn into_diagnostics(self) -> Vec<Diagnostic> {
        self.diagnostics
    }

    fn add(&mut self, severity: Severity, path: &FieldPath, code: DiagnosticCode, message: String) -> &mut Self {
        self.diagnostics.push(Diagnostic {
            severity,
            code,
            file: self.file.to_owned(),
            position: self.position(path, code),
            field: (!path.steps().is_empty()).then(|| path.to_string()),
            object: self.object.clone(),
            message,
            help: None,
        });
        self
    }

    /// A type or a plain value is wrong where the value stands, anything else where the key does.
    fn position(&self, path: &FieldPath, code: DiagnosticCode) -> Option<Position> {
        let Some(root) = self.located else { return self.start };
        let node = root.nearest(path);
        let at_value = match code {
            _ if root.find(path).is_none() || node.plain.as_deref() == Some("") => false,
            DiagnosticCode::WrongType => true,
            DiagnosticCode::Invalid | DiagnosticCode::Denied => node.below == Below::Nothing,
            _ => false,
        };
        Some(if at_value { node.value } else { node.key.unwrap_or(node.value) })
    }
}
