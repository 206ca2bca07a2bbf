//! Automatic and explicit choice of a runtime (§2.2, §2.3), with a reason for every loser.

use super::{Catalog, Runtime};
use crate::api::ModelSpec;

/// The runtime that serves a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice<'c> {
    /// The winner.
    pub runtime: &'c Runtime,
    /// What became of every other candidate, best first.
    pub verdicts: Vec<Verdict>,
}

/// What became of one candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Name of the runtime.
    pub runtime: String,
    /// Namespace of a ServingRuntime; none for a ClusterServingRuntime.
    pub namespace: Option<String>,
    /// Why it was not chosen, in words for a person; none for the winner.
    pub why_not: Option<String>,
}

/// No runtime serves the model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct NoRuntime {
    /// Which of the four ways it failed.
    pub reason: NoRuntimeReason,
    /// `lastFailureInfo.message`, upstream's words.
    pub message: String,
    /// The reconcile error, upstream's words.
    pub error: String,
    /// What became of every candidate.
    pub verdicts: Vec<Verdict>,
    /// What the user can do.
    pub help: String,
}

/// `lastFailureInfo.reason` and the check that failed (§2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoRuntimeReason {
    /// No runtime of that name.
    RuntimeNotRecognized,
    /// The named runtime is disabled.
    RuntimeDisabled,
    /// The named runtime does not speak the protocol.
    UnsupportedProtocol,
    /// The named runtime does not know the format, or none was found.
    UnsupportedFormat,
}

impl NoRuntimeReason {
    /// Returns upstream's failure reason.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RuntimeNotRecognized => "RuntimeNotRecognized",
            Self::RuntimeDisabled => "RuntimeDisabled",
            Self::UnsupportedProtocol | Self::UnsupportedFormat => "NoSupportingRuntime",
        }
    }
}

/// Which runtimes are looked at: multi-node services take only runtimes with a worker spec.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Nodes {
    /// One node.
    #[default]
    Single,
    /// The predictor has a `workerSpec`.
    Multi,
}

/// Chooses the runtime for a model in a namespace.
///
/// # Errors
/// No runtime serves it; the error says why for every candidate.
pub fn select<'c>(
    model: &ModelSpec,
    namespace: &str,
    nodes: Nodes,
    catalog: &'c Catalog,
) -> Result<Choice<'c>, Box<NoRuntime>> {
    let _ = (model, namespace, nodes, catalog);
    todo!()
}
