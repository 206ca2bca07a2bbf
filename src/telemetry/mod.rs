//! What can be seen from outside: logs, events, metrics.

pub mod events;

pub use events::{Event, EventLog, EventType};
