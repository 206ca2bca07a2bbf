//! TrainedModels: models that a server of several loads while it runs (§7.1, §7.2).
//!
//! ```text
//! model:    fetched ──server answers──▶ loaded ──other URI──▶ loaded anew over the old one ──deleted──▶ unloaded
//! server:   started ──looked at──▶ loading ──all there or refused once──▶ complete (route opens)
//!                                     ▲                                      │ what it unloaded is needed back
//!                                     └───────── started anew ◀──────────────┘
//! ```
//!
//! What is loaded is not kept anywhere: a server is looked at when it begins to answer, when the daemon has begun, and
//! every ten seconds. A mark beside each model's files says from what they were made.
//!
//! Where this differs from KServe: a model whose service is missing is kept and says so, where KServe deletes the object;
//! Ready also says that the model is loaded; without a memory limit there is no budget, where KServe loads nothing; and a
//! server's own words for a failure are passed on.

mod admit;
mod loaded;
mod show;
mod tend;

use std::sync::Arc;

use crate::api::{Metadata, ServiceKey, StorageUri};
use crate::workload::{ModelRef, Repository, ResolveError};

use super::planner::Draft;
use super::prepare;
use super::world::FactReach;

pub(super) use admit::declared;
pub use loaded::{Failed, Held, Loaded, Note};
pub(super) use show::show;
pub(super) use tend::tend;

/// A TrainedModel as wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainedModel {
    /// Its name.
    pub key: ServiceKey,
    /// Its metadata.
    pub meta: Metadata,
    /// InferenceService that is to load it.
    pub service: ServiceKey,
    /// What it was made with.
    pub framework: String,
    /// Memory it declares, in bytes.
    pub memory: u64,
    /// Where its files are, or why they cannot be found.
    pub model: Result<ModelRef, ResolveError>,
    /// Names what is loaded: another one makes it load anew.
    pub mark: String,
}

/// Something to do in the models of one running server.
#[derive(Clone, Debug, PartialEq)]
pub struct RepositoryOrder {
    /// Name of the container.
    pub name: String,
    /// Its replica, whose scratch folder holds the models.
    pub replica: Arc<str>,
    /// Which run of the container this is: when it was noted to begin.
    pub run: Option<std::time::Duration>,
    /// How the replica's ports are reached.
    pub reach: FactReach,
    /// How the server is spoken to.
    pub repository: Repository,
    /// What is to be done.
    pub work: RepositoryWork,
}

/// What is to be done in the models of a server.
#[derive(Clone, Debug, PartialEq)]
pub enum RepositoryWork {
    /// Find out which models are there, and which of them answer.
    Look,
    /// Show the server a model's files and have it loaded. What it had under that name serves on until then, and
    /// afterwards, too, when it fails.
    Load {
        /// Name of the model.
        model: String,
        /// What it was made with.
        framework: String,
        /// The files, which are in the cache.
        uri: StorageUri,
        /// What the loaded model is remembered by.
        mark: String,
        /// Memory it declares, in bytes.
        memory: u64,
    },
    /// Have a model unloaded, and take its files away.
    Unload {
        /// Name of the model.
        model: String,
    },
}

impl std::fmt::Display for RepositoryWork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Look => f.write_str("look at the models"),
            Self::Load { model, .. } => write!(f, "load model {model}"),
            Self::Unload { model } => write!(f, "unload model {model}"),
        }
    }
}

/// Fetches the files of models that are to be loaded, before a server asks for them.
pub(super) fn fetch(draft: &mut Draft<'_>) {
    for service in draft.world.trained.keys() {
        for (model, verdict) in admit::verdicts(draft.world, service) {
            if let (Ok(reference), admit::Verdict::Admitted) = (&model.model, verdict) {
                // What it waits for is said in its status.
                let _ = prepare::need_model(draft, &reference.uri);
            }
        }
    }
}
