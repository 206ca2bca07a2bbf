//! How many replicas: what the manifest asks for, as numbers, and what a load asks for.
//!
//! The knobs are Knative's, with its defaults and its arithmetic (§5.3). Nothing here reads a clock or knows what a
//! replica is.

mod duration;
mod policy;
mod read;
mod resource;
mod resting;
mod scaler;
mod warm;
mod window;

pub(crate) use duration::parse as parse_duration;
pub use policy::{Metric, Policy, Target};
pub use read::{Source, read};
pub use resting::{Hooks, Resting, Way};
pub use scaler::Scaler;
pub use warm::Warm;
pub use window::Window;
