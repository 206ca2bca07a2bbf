//! The command line: one file per verb, all of them clients of the API.
//!
//! What was typed becomes what is meant ([`verbs`]), runs, and ends as text ([`output`], the only place that prints) and
//! as an exit code ([`report`]). Results go to stdout, everything else to stderr.

pub mod apply;
pub mod cache;
pub mod client;
pub mod colour;
pub mod complete;
pub mod completion;
pub mod config;
pub mod delete;
pub mod demo;
pub mod describe;
pub mod diagnosis;
pub mod doctor;
pub mod doctor_checks;
pub mod doctor_facts;
pub mod doctor_storage;
pub mod down;
pub mod events;
pub mod explain;
pub mod export;
pub mod find;
pub mod folder;
pub mod follow;
pub mod format;
pub mod get;
pub mod home;
#[cfg(test)]
mod imitation;
pub mod input;
pub mod jsonpath;
pub mod kubeconfig;
pub mod leftovers;
pub mod lint;
pub mod logs;
pub mod man;
pub mod manifests;
pub mod one_service;
pub mod output;
pub mod parity;
pub mod predict;
pub mod progress;
pub mod ps;
pub mod pull;
pub mod replay;
pub mod report;
pub mod restart;
pub mod rollback;
pub mod run;
pub mod run_report;
pub mod runtimes;
pub mod schema;
pub mod screen;
pub mod serve;
pub mod service;
pub mod service_units;
pub mod up;
pub mod validate;
pub mod verbs;
pub mod version;
pub mod wait;
pub mod wanted;

pub use home::home;
pub use verbs::{Cli, main};
