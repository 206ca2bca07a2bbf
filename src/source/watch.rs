//! "Something changed", debounced; falls back to polling.
