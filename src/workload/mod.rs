//! What should run, in no engine's words: a component of an InferenceService plus the catalogue of runtimes, resolved
//! into containers, mounts, ports and probes.
//!
//! **Invariant:** pure. The same inputs give the same [`Workload`] and the same [`Fingerprint`], on any machine.

pub mod fingerprint;
pub mod merge;
pub mod names;
pub mod resolve;
pub mod spec;

pub use fingerprint::{Fingerprint, fingerprint};
pub use resolve::{Companions, ResolveError, WorkloadConfig, resolve};
pub use spec::*;
