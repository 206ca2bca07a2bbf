//! Documents to objects.

use serde_json::Value;

use super::{Diagnostic, Position};
use crate::api::{Object, ObjectKey};

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// Documents that are valid, defaults applied. Their warnings are among the diagnostics.
    pub objects: Vec<DecodedObject>,
    /// Everything there is to say, in order of position.
    pub diagnostics: Vec<Diagnostic>,
    /// Documents that are not valid: the object each was meant to be, as far as it can be told. `None` means that any
    /// object of the file may have been meant (for example a syntax error), so none of the previous ones may be dropped.
    pub failed: Vec<Option<ObjectKey>>,
}

/// One valid document.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedObject {
    /// The object.
    pub object: Object,
    /// Where its document begins.
    pub position: Position,
}

/// Decodes a manifest file: YAML or JSON, any number of documents, `List` kinds expanded.
pub fn decode(file: &str, text: &str) -> Decoded {
    let _ = (file, text);
    todo!()
}

/// Decodes one document that came as a JSON value (an API body); diagnostics carry field paths but no positions.
pub fn decode_value(value: &Value) -> Decoded {
    let _ = value;
    todo!()
}
