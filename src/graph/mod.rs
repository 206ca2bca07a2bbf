//! InferenceGraphs as values: what a graph means, and each decision on a request's way through it (§6).
//!
//! `compile` turns a spec into nodes that refer to each other by number; `condition` asks GJSON paths of a body; `step`
//! says what a step is sent and when a Sequence ends; `merge` puts an Ensemble's answers together. Who is called, and how,
//! is the [gateway](crate::gateway)'s business. **Invariant:** the same bodies and the same throw of the dice give the same
//! answer.

pub mod compile;
pub mod condition;
pub mod merge;
pub mod step;

pub use compile::{CompileError, Graph, Node, Step, Target, compile};
pub use step::{Answer, Failure};
