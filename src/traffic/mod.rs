//! The notice board between the gateway and the driver: who is busy and how busy, and who waits for what.
//!
//! The gateway takes a [`Lease`] for every request it forwards and a [`Waiting`] for every one that must wait for a
//! service to wake, and drops it on every path out; the driver reads [`TrafficBoard::snapshot`] and
//! [`TrafficBoard::waiting`], and once a second, where somebody wants to know, [`TrafficBoard::measure`]. Bells carry no
//! data. Nothing here decides.

mod lease;
mod meter;
mod queue;
pub mod turn;
mod waiting;

pub use lease::{BoardEntry, Lease, ReplicaTraffic, TrafficBoard};
pub use meter::Measured;
pub use queue::Queued;
pub use waiting::{Full, Waiting};
