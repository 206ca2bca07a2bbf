//! The loop: one task owns the world, plans, publishes and dispatches; everyone else posts facts or rings its bell.
//!
//! **Invariant:** statuses and routes are published before anything is done; a pass never waits for an effect.

mod access;
mod claims;
pub mod clock;
pub mod desired;
mod desk;
mod door;
pub mod downloads;
mod doze;
pub mod driver;
pub mod execute;
pub mod grants;
mod graphs;
pub mod images;
mod last_words;
mod layers;
mod load;
pub mod measure;
pub mod mounts;
mod notice;
pub mod observe;
mod pulls;
pub mod questions;
mod refresh;
mod renames;
mod repository;
mod resources;
pub mod revisions;
pub mod said;
mod trained;

pub use clock::Clock;
pub use driver::{Driver, DriverConfig, DriverParts};
