//! The in-memory engine, with faults on order.
