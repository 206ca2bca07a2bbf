//! How many replicas: what the manifest asks for, as numbers.
//!
//! The knobs are Knative's, with its defaults and its arithmetic (§5.3). Nothing here reads a clock or knows what a
//! replica is.

mod policy;

pub use policy::{Metric, Policy, Target};
