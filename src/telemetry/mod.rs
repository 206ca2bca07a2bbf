//! Logs, metrics, events.
