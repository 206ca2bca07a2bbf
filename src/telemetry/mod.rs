//! What can be seen from outside: logs, events, metrics.

pub mod events;
pub mod exposition;
pub mod logs;
pub mod metrics;
pub mod runtime_metrics;

pub use events::{Event, EventLog, EventType};
