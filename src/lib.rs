//! KServe on one machine, without Kubernetes.
//!
//! This file is the map. The house is built in floors; a room imports only rooms on lower floors
//! (`tests/architecture.rs` checks it).
//!
//! | floor | room | what it is for |
//! |---|---|---|
//! | 0 | [`api`] | objects exactly as users write them |
//! | 1 | [`manifest`], [`scale`], [`graph`], [`diagnosis`] | text to objects, with positions and diagnostics; how many replicas; what a graph does; why an object is not ready |
//! | 2 | [`runtimes`] | which runtime serves which model, and why not |
//! | 3 | [`workload`] | what should run, in no engine's words |
//! | 4 | [`plan`] | what to do next, from a snapshot and the time |
//! | | | ── everything above this line is pure: no clock, no files, no sockets, no environment ── |
//! | 5 | [`telemetry`], [`tasks`], [`home`], [`environments`], [`provenance`] | logs, metrics, events; tracked tasks; where things are on disk; Python environments of recipes; which build this is |
//! | 6 | [`store`], [`storage`], [`engine`], [`machine`], [`probe`], [`traffic`] | objects now; model bytes; containers; memory and GPUs; checks; the notice board |
//! | 7 | [`source`], [`reconcile`], [`gateway`] | the folder of manifests; the loop; the data path |
//! | 8 | [`kubeapi`] | what the command line, kubectl and SDKs talk to |
//! | 9 | [`config`] | settings: file, environment, flags |
//! | 10 | [`daemon`] | builds every room and runs it |
//! | 11 | [`cli`] | one file per verb |
//!
//! Two walks through it are in `ARCHITECTURE.md`.

pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod diagnosis;
pub mod engine;
pub mod environments;
pub mod gateway;
pub mod graph;
pub mod home;
pub mod kubeapi;
pub mod machine;
pub mod manifest;
pub mod plan;
pub mod probe;
pub mod provenance;
pub mod reconcile;
pub mod runtimes;
pub mod scale;
pub mod source;
pub mod storage;
pub mod store;
pub mod tasks;
pub mod telemetry;
pub mod traffic;
pub mod workload;
