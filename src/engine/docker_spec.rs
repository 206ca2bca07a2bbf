//! A create request to the engine, as a value.
