//! What there is to say about a manifest, and how it is shown.

use crate::api::ObjectKey;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The object cannot be taken.
    Error,
    /// The object is taken; something in it means nothing here, or something else than its author may think.
    Warning,
}

/// A place in a text; both count from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

/// One thing to say about a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// File as given by the caller.
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
