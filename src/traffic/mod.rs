//! The notice board between the gateway and the driver: who is busy, and how busy.
//!
//! The gateway takes a [`Lease`] for every request it forwards and drops it on every path out; the driver reads
//! [`TrafficBoard::snapshot`]. Nothing here decides.

mod lease;

pub use lease::{BoardEntry, Lease, ReplicaTraffic, TrafficBoard};
