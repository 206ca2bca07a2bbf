//! What should run, in no engine's words: a component of an InferenceService plus the catalogue of runtimes, resolved
//! into containers, mounts, ports and probes.
//!
//! **Invariant:** pure. The same inputs give the same [`Workload`] and the same [`Fingerprint`], on any machine.

pub mod access;
mod canary;
mod component;
mod credentials;
mod downloader;
mod env;
mod expand;
mod extras;
pub mod fingerprint;
mod image;
mod llm;
mod local_model;
pub mod merge;
mod model_server;
mod model_source;
mod mounts;
pub mod names;
mod origin;
pub mod patterns;
mod pod;
mod pod_name;
mod predictor;
mod probes;
mod process;
mod readiness;
mod refresh;
pub mod registry_login;
pub mod resolve;
mod resources;
mod security;
mod server_defaults;
mod shared_folders;
pub mod spec;
mod storage_container;
mod storage_spec;
mod volumes;

pub use access::{Access, Downloader};
pub use canary::{Canary, resolve_canaries};
pub use credentials::CA_BUNDLE;
pub use extras::{Batching, Extras, LogSink, Logging, Mirroring};
pub use fingerprint::{Fingerprint, fingerprint};
pub use llm::resolve_llm;
pub use local_model::local_model;
pub use model_server::{Layout, ModelServer, Repository, VOLUME as MODELS_VOLUME, mark, trained_model};
pub use patterns::Patterns;
pub use refresh::Refresh;
pub use resolve::{Companions, ResolveError, RunAs, WorkloadConfig, resolve};
pub use server_defaults::mlserver_class;
pub use spec::*;
