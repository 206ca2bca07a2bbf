//! The manifest folder: the desired state.
//!
//! Everything that writes (API, command line) ends as a file here; everything that reads reads the whole folder.
//! **Invariant:** a folder that cannot be read changes nothing; a document that stops parsing keeps its last good object,
//! across restarts too.

mod admit;
pub mod document;
pub mod good;
mod load;
mod pass;
pub mod published;
pub mod scan;
pub mod settle;
pub mod watch;
pub mod write;

pub use load::{FileProblems, LoadReport, Loader};
pub use published::Published;
pub use write::WriteError;
