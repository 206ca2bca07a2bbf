//! "Why is it not ready?": from what is known of an object to what is wrong, why, and one step to take.
//!
//! One pure function, [`diagnose`], and one table of every failure we know ([`known`]). `describe`, `events`, `wait`, `run`
//! and `get -o wide` (kubectl's too) all say what it says; nobody else composes such words. The words of others (engines,
//! registries, servers' output) are looked for by pattern, as they have no types; the tables' tests hold every pattern
//! against the words as they really come.
//!
//! **Invariant:** a diagnosis never invents: what no row of the table knows is told with its own reason and message.

mod cause;
mod causes_crash;
mod causes_engine;
mod causes_image;
mod causes_model;
mod causes_room;
mod causes_run;
mod causes_spec;
mod evidence;
mod verdict;

pub use cause::{Cause, Clue, known};
pub use evidence::{Evidence, Happened, Subject};
pub use verdict::{Diagnosis, Standing, diagnose};

#[cfg(test)]
mod tests;
