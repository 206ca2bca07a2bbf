//! What to do next, from a snapshot and the time.

pub mod pods;
pub mod routes;
