//! What there is to say about a manifest, and how it is shown.

use std::fmt;

use serde_json::{Value, json};

use crate::api::{Kind, ObjectKey};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The object cannot be taken.
    Error,
    /// The object is taken; something in it means nothing here, or something else than its author may think.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// What sort of thing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DiagnosticCode {
    /// The text is not YAML or JSON, or not an object.
    Syntax,
    /// The type has no such field.
    UnknownField,
    /// A key stands twice, or an object does.
    DuplicateField,
    /// A value of another type is wanted.
    WrongType,
    /// A field must be written.
    Required,
    /// A rule about the value is broken.
    Invalid,
    /// A rule of KServe's validating webhook is broken.
    Denied,
    /// KServe or Kubernetes has it, this version does not.
    NotServed,
    /// It is taken and means nothing on one machine.
    Ignored,
    /// It is taken and may surprise.
    Suspicious,
}

/// A place in a text; both count from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One thing to say about a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What sort of thing it is.
    pub code: DiagnosticCode,
    /// File as given by the caller; empty for a document that came without one.
    pub file: String,
    /// Where, when known.
    pub position: Option<Position>,
    /// Field path, for example `spec.predictor.model.storageUri`.
    pub field: Option<String>,
    /// The object, as far as it can be told.
    pub object: Option<ObjectKey>,
    /// What is wrong: lower-case fragment, or upstream's own words where a rule is upstream's.
    pub message: String,
    /// The next step.
    pub help: Option<String>,
}

/// Widest source line shown whole, in characters.
const MAX_SOURCE_WIDTH: usize = 160;

impl Diagnostic {
    /// Returns it as JSON, as `validate -o json` and the API show it.
    pub fn to_value(&self) -> Value {
        json!({
            "severity": self.severity.to_string(),
            "line": self.position.map(|position| position.line),
            "column": self.position.map(|position| position.column),
            "field": self.field,
            "object": self.object.as_ref().map(ToString::to_string),
            "message": self.message,
            "help": self.help,
        })
    }

    /// Whether the object cannot be taken because of it.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Returns the words an API server's strict decoding uses for it, when it has any.
    pub fn strict_decoding_text(&self) -> Option<String> {
        let field = self.field.as_deref()?;
        match self.code {
            DiagnosticCode::UnknownField => Some(format!("unknown field \"{field}\"")),
            DiagnosticCode::DuplicateField => Some(format!("duplicate field \"{field}\"")),
            _ => None,
        }
    }

    /// Shows it in full: place, message, field, the source line with a caret, help. `source` is the text of the file.
    ///
    /// The source line of a Secret is never shown.
    pub fn render(&self, source: Option<&str>) -> String {
        let mut lines = vec![self.headline()];
        if let Some(field) = &self.field {
            lines.push(format!("  field: {field}"));
        }
        lines.extend(self.excerpt(source));
        if let Some(help) = &self.help {
            lines.push(format!("  help: {help}"));
        }
        lines.join("\n")
    }

    fn headline(&self) -> String {
        let place = match (self.file.as_str(), self.position) {
            ("", None) => String::new(),
            ("", Some(position)) => format!("{position}: "),
            (file, None) => format!("{file}: "),
            (file, Some(position)) => format!("{file}:{position}: "),
        };
        format!("{place}{}: {}", self.severity, self.message)
    }

    fn excerpt(&self, source: Option<&str>) -> Vec<String> {
        let secret = self.object.as_ref().is_some_and(|object| object.kind == Kind::Secret);
        let (Some(source), Some(position), false) = (source, self.position, secret) else { return Vec::new() };
        let source = source.strip_prefix('\u{feff}').unwrap_or(source);
        let Some(line) = source.lines().nth(position.line.saturating_sub(1)) else { return Vec::new() };
        let before = position.column.saturating_sub(1);
        // Tabs and wide characters take the place they take in the line above.
        let pad: String = line.chars().take(before).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        if pad.chars().count() > MAX_SOURCE_WIDTH {
            return Vec::new();
        }
        let shown: String = line.chars().take(MAX_SOURCE_WIDTH).collect();
        let gutter = " ".repeat(position.line.to_string().len());
        vec![format!("  {} | {}", position.line, shown.trim_end()), format!("  {gutter} | {pad}^")]
    }
}

impl fmt::Display for Diagnostic {
    /// One line: place, severity, message and field.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.headline())?;
        match &self.field {
            Some(field) if !self.message.contains(field.as_str()) => write!(f, " ({field})"),
            _ => Ok(()),
        }
    }
}
