//! Which runtime serves which model: the catalogue, automatic and explicit selection with reasons for every loser, and
//! the template language of runtime containers (§2.2 to §2.6 of KServe's behaviour), and recipes for running without one.
//!
//! **Invariant:** pure. Selection depends on the model, the namespace and the catalogue only.

mod advice;
pub mod builtin;
pub mod catalog;
mod eligibility;
pub mod process;
pub mod select;
pub mod template;

pub use catalog::{Catalog, Runtime};
pub use select::{Choice, NoRuntime, NoRuntimeReason, Verdict, select};
