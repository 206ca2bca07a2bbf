//! Text to objects, with positions: parsing, legacy conversion, defaults, validation.
//!
//! **Invariant:** decoding never fails as a whole. Good documents of a file come out as objects, bad ones as diagnostics,
//! every violation at once, each with file, line, column and field path.

pub mod decode;
pub mod defaults;
pub mod diagnostic;
mod identify;
pub mod json_schema;
mod known;
mod locate;
mod manifests;
mod path;
mod report;
mod scalar;
pub mod schema;
mod strict;
pub mod validate;
pub mod yaml;

pub use decode::{Decoded, DecodedObject, decode, decode_value, keys, locate};
pub use diagnostic::{Diagnostic, DiagnosticCode, Position, Severity};
pub use path::{FieldPath, Step};
