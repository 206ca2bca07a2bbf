//! What to do next: one pure function from a snapshot and the time to actions, routes, statuses and the next wake-up.
//!
//! ```text
//! replica:  absent ──create──▶ created ──start──▶ running ──probe──▶ ready ──route──▶ serving
//!                                 ▲                  │ exits            │ fails        │ replaced or unwanted
//!                                 └──── back-off ◀───┘ ◀────────────────┘              ▼
//!                                                                        draining ──last lease──▶ stop ──▶ remove
//! service:  awake ──nobody asked for long enough──▶ asleep (route held, replicas draining) ──somebody waits──▶ awake
//! ```
//!
//! **Invariant:** nothing here waits, reads a clock or touches the machine; planning twice from the same world gives the
//! same plan. Orders that are under way are part of the world and are never given twice.

pub mod action;
pub mod admission;
pub mod backoff;
pub mod checks;
pub mod doze;
pub mod eviction;
mod facts;
pub mod gpus;
mod graphs;
mod holders;
pub mod hosts;
mod idle;
mod kept;
mod learn;
pub mod ledger;
pub mod lift;
mod llm;
pub mod memo;
pub mod memory;
pub mod pace;
pub mod planner;
pub mod pods;
mod preload;
mod prepare;
mod presence;
pub mod progress;
pub mod ps;
pub mod record;
pub mod refresh;
pub mod replica;
mod retire;
pub mod rollout;
mod room_words;
pub mod routes;
pub mod said;
mod sandbox;
pub mod scale;
pub mod sleep;
pub mod split;
pub mod stages;
pub mod status;
pub mod trained;
pub mod vanish;
mod want;
pub mod world;

pub use action::{Action, ActionKey};
pub use memo::Memo;
pub use memory::Memory;
pub use planner::{Plan, plan, plan_anew};
pub use world::{Now, World};

#[cfg(test)]
mod tests;
