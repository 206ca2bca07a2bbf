//! Automatic and explicit choice of a runtime (§2.2, §2.3), with a reason for every loser.

use std::cmp::{Ordering, Reverse};

use super::{Catalog, Runtime, advice, eligibility};
use crate::api::{ModelSpec, ProtocolVersion};

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

/// Chooses the runtime for a model in a namespace: the named one, or the best of those that take part in automatic
/// selection.
///
/// # Errors
/// No runtime serves it; the error says why for every candidate.
pub fn select<'c>(
    model: &ModelSpec,
    namespace: &str,
    nodes: Nodes,
    catalog: &'c Catalog,
) -> Result<Choice<'c>, Box<NoRuntime>> {
    match &model.runtime {
        Some(name) => explicit(model, name, namespace, catalog),
        None => automatic(model, namespace, nodes, catalog),
    }
}

/// The ordinal of the most preferred protocol a runtime speaks; an empty list comes last (§0.3).
pub(super) fn protocol_rank(runtime: &Runtime) -> ProtocolVersion {
    let protocols = runtime.spec.protocol_versions.iter();
    protocols.map(|text| ProtocolVersion::parse(text)).min().unwrap_or(ProtocolVersion::Unknown)
}

/// The priority of a runtime for a format: that of the first row of the name, whatever its version and `autoSelect`.
pub(super) fn priority(runtime: &Runtime, format: &str) -> Option<i32> {
    runtime.spec.supported_model_formats.iter().find(|row| row.name == format).and_then(|row| row.priority)
}

fn automatic<'c>(
    model: &ModelSpec,
    namespace: &str,
    nodes: Nodes,
    catalog: &'c Catalog,
) -> Result<Choice<'c>, Box<NoRuntime>> {
    let mut candidates: Vec<&Runtime> = catalog.visible_in(namespace).collect();
    candidates.sort_by(|a, b| rank(a, b, &model.model_format.name));
    let (eligible, others): (Vec<_>, Vec<_>) = candidates
        .into_iter()
        .map(|runtime| (runtime, eligibility::automatic(runtime, model, nodes).err()))
        .partition(|(_, obstacle)| obstacle.is_none());
    let Some((winner, _)) = eligible.first() else {
        return Err(none_found(model, namespace, nodes, catalog, &others));
    };
    let winner = *winner;
    let ranked = eligible.iter().map(|(runtime, _)| {
        let why_not = (!std::ptr::eq(*runtime, winner)).then(|| outranked(runtime, winner, &model.model_format.name));
        verdict(runtime, why_not)
    });
    let refused = others.iter().map(|(runtime, obstacle)| verdict(runtime, obstacle.as_ref().map(ToString::to_string)));
    Ok(Choice { runtime: winner, verdicts: ranked.chain(refused).collect() })
}

/// Namespaced before cluster-wide; then priority, highest first and none last; then protocol; then newest; then name.
fn rank(a: &Runtime, b: &Runtime, format: &str) -> Ordering {
    let key = |runtime: &Runtime| {
        (
            runtime.namespace.is_none(),
            Reverse(priority(runtime, format)),
            protocol_rank(runtime),
            Reverse(runtime.created),
        )
    };
    key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
}

/// Says why a runtime that could serve the model comes after the winner.
fn outranked(loser: &Runtime, winner: &Runtime, format: &str) -> String {
    let name = &winner.name;
    if let (None, Some(namespace)) = (&loser.namespace, &winner.namespace) {
        return format!("a ServingRuntime of namespace `{namespace}` goes before any ClusterServingRuntime");
    }
    match (priority(loser, format), priority(winner, format)) {
        (Some(own), Some(best)) if own != best => return format!("lower priority ({own} < {best})"),
        (None, Some(best)) => return format!("no priority for `{format}`, `{name}` has {best}"),
        _ => {}
    }
    let (own, best) = (protocol_rank(loser), protocol_rank(winner));
    if own != best {
        let own = match own {
            ProtocolVersion::Unknown => "lists no known protocol".to_owned(),
            own => format!("speaks {}", own.as_str()),
        };
        return format!("same priority; it {own}, `{name}` speaks {}, which goes first", best.as_str());
    }
    if loser.created != winner.created {
        return format!("same priority and protocol; it is older than `{name}`");
    }
    format!("same priority, protocol and age; `{name}` comes first by name")
}

fn none_found(
    model: &ModelSpec,
    namespace: &str,
    nodes: Nodes,
    catalog: &Catalog,
    refused: &[(&Runtime, Option<eligibility::Obstacle>)],
) -> Box<NoRuntime> {
    Box::new(NoRuntime {
        reason: NoRuntimeReason::UnsupportedFormat,
        message: "No runtime found to support specified framework/version".to_owned(),
        error: format!("no runtime found to support predictor with model type: {}", model.model_format),
        verdicts: refused
            .iter()
            .map(|(runtime, obstacle)| verdict(runtime, obstacle.as_ref().map(ToString::to_string)))
            .collect(),
        help: advice::when_none_found(model, namespace, nodes, catalog),
    })
}

fn explicit<'c>(
    model: &ModelSpec,
    name: &str,
    namespace: &str,
    catalog: &'c Catalog,
) -> Result<Choice<'c>, Box<NoRuntime>> {
    let Some(runtime) = catalog.find(name, namespace) else {
        return Err(refused(
            NoRuntimeReason::RuntimeNotRecognized,
            "Waiting for runtime to become available",
            format!("No ServingRuntimes or ClusterServingRuntimes with the name: {name}"),
            others(catalog, namespace, None, name),
            advice::when_not_recognized(model, name, namespace, catalog),
        ));
    };
    let Err(obstacle) = eligibility::explicit(runtime, model) else {
        let mut verdicts = vec![verdict(runtime, None)];
        verdicts.extend(others(catalog, namespace, Some(runtime), name));
        return Ok(Choice { runtime, verdicts });
    };
    let (reason, message) = match &obstacle {
        eligibility::Obstacle::Disabled => (NoRuntimeReason::RuntimeDisabled, "is disabled"),
        eligibility::Obstacle::Protocol { .. } => {
            (NoRuntimeReason::UnsupportedProtocol, "does not support specified protocol version")
        }
        _ => (NoRuntimeReason::UnsupportedFormat, "does not support specified framework/version"),
    };
    let mut verdicts = vec![verdict(runtime, Some(obstacle.to_string()))];
    verdicts.extend(others(catalog, namespace, Some(runtime), name));
    Err(refused(
        reason,
        &format!("Specified runtime {message}"),
        format!("specified runtime {name} {message}"),
        verdicts,
        advice::when_named_one_fails(model, runtime, &obstacle, namespace, catalog),
    ))
}

fn refused(
    reason: NoRuntimeReason,
    message: &str,
    error: String,
    verdicts: Vec<Verdict>,
    help: String,
) -> Box<NoRuntime> {
    Box::new(NoRuntime { reason, message: message.to_owned(), error, verdicts, help })
}

/// Verdicts on the runtimes a manifest did not name.
fn others(catalog: &Catalog, namespace: &str, named: Option<&Runtime>, name: &str) -> Vec<Verdict> {
    let mut others: Vec<&Runtime> = catalog
        .visible_in(namespace)
        .filter(|runtime| named.is_none_or(|named| !std::ptr::eq(named, *runtime)))
        .collect();
    others.sort_by_key(|runtime| (runtime.namespace.is_none(), &runtime.name));
    let why_not = |runtime: &Runtime| match named {
        Some(named) if runtime.name == named.name => {
            format!("the ServingRuntime `{name}` of the namespace goes before the ClusterServingRuntime of that name")
        }
        _ => format!("the manifest names `{name}`"),
    };
    others.into_iter().map(|runtime| verdict(runtime, Some(why_not(runtime)))).collect()
}

fn verdict(runtime: &Runtime, why_not: Option<String>) -> Verdict {
    Verdict { runtime: runtime.name.clone(), namespace: runtime.namespace.clone(), why_not }
}
