//! Checks behind one enum.
//!
//! One check, one answer: nothing here repeats, counts thresholds or keeps a connection. Commands inside containers are
//! run by whoever asks (see [`RunInside`]), because this room knows no engine.

mod call;
mod check;
mod grpc;
mod http;
mod tcp;

pub use call::{model_answers, post};
pub use check::{Outcome, ProbeCheck, RunInside, check};
