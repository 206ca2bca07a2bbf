//! Objects now: the desired set, swapped as a whole, with statuses beside it and a bounded history for watchers.
//!
//! **Invariant:** a resource version moves only for objects that differ; a write that changes nothing is no event.

pub mod history;
pub mod ledger;
pub mod registry;

pub use history::{Change, ChangeKind, History, TooOld};
pub use ledger::{Identity, Ledger};
pub use registry::{Origin, Snapshot, Store, Stored, random_uid};
