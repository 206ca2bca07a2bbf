//! Whether one runtime can serve one model, and the first obstacle when it cannot.
//!
//! Names and versions are compared exactly and case-sensitively, as upstream does. Obstacles print as the reason a
//! person reads in `runtimes explain`.

use std::fmt;

use super::Runtime;
use super::select::Nodes;
use crate::api::{ModelSpec, SupportedModelFormat};

/// Why a runtime cannot serve a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// `disabled: true`.
    Disabled,
    /// `multiModel: true`.
    MultiModel,
    /// No row of the format's name; rows whose name differs in case only are told.
    Format { name: String, similar: Option<String> },
    /// Rows of the name, none of the version.
    Version { name: String, version: String, listed: Vec<String> },
    /// The rows that match do not take part in automatic selection.
    NotAutomatic { name: String, version: Option<String> },
    /// Speaks other protocols.
    Protocol { spoken: Vec<String>, wanted: String, by_default: bool },
    /// Needs several nodes.
    NeedsWorkers,
    /// Several nodes are asked for and it has no worker.
    NoWorkers,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("disabled"),
            Self::MultiModel => f.write_str("serves several models in one process (multiModel)"),
            Self::Format { name, similar: None } => write!(f, "does not list format `{name}`"),
            Self::Format { name, similar: Some(similar) } => {
                write!(f, "does not list format `{name}`; it lists `{similar}`, and case matters")
            }
            Self::Version { name, version, listed } if listed.is_empty() => {
                write!(f, "lists format `{name}` without a version; the model asks for `{version}`")
            }
            Self::Version { name, version, listed } => {
                write!(f, "does not list format `{name}` version `{version}`; it lists {}", quoted(listed))
            }
            Self::NotAutomatic { name, version: None } => write!(f, "autoSelect is not set for `{name}`"),
            Self::NotAutomatic { name, version: Some(version) } => {
                write!(f, "autoSelect is not set for `{name}` version `{version}`")
            }
            Self::Protocol { spoken, wanted, by_default } => {
                let default = if *by_default { " (the default when protocolVersion is not set)" } else { "" };
                write!(f, "speaks {} only; the model asks for {wanted}{default}", spoken.join(", "))
            }
            Self::NeedsWorkers => f.write_str("needs several nodes (workerSpec)"),
            Self::NoWorkers => f.write_str("has no workerSpec; the service asks for several nodes"),
        }
    }
}

/// Puts each text in backticks, with commas between.
pub(super) fn quoted<T: AsRef<str>>(texts: &[T]) -> String {
    texts.iter().map(|text| format!("`{}`", text.as_ref())).collect::<Vec<_>>().join(", ")
}

/// Checks a runtime for automatic selection (§2.2 steps 4 and 5).
pub(super) fn automatic(runtime: &Runtime, model: &ModelSpec, nodes: Nodes) -> Result<(), Obstacle> {
    if runtime.spec.is_disabled() {
        return Err(Obstacle::Disabled);
    }
    if runtime.spec.is_multi_model() {
        return Err(Obstacle::MultiModel);
    }
    format(runtime, model, |row| row.auto_select == Some(true))?;
    protocol(runtime, model.protocol_version.as_deref().unwrap_or("v1"), model.protocol_version.is_none())?;
    match (nodes, runtime.spec.worker_spec.is_some()) {
        (Nodes::Single, true) => Err(Obstacle::NeedsWorkers),
        (Nodes::Multi, false) => Err(Obstacle::NoWorkers),
        _ => Ok(()),
    }
}

/// Checks a runtime the manifest names (§2.3): no multi-model, worker or autoSelect filter, and a protocol only when one
/// is asked for.
pub(super) fn explicit(runtime: &Runtime, model: &ModelSpec) -> Result<(), Obstacle> {
    if runtime.spec.is_disabled() {
        return Err(Obstacle::Disabled);
    }
    if let Some(wanted) = &model.protocol_version {
        protocol(runtime, wanted, false)?;
    }
    format(runtime, model, |_| true)
}

fn protocol(runtime: &Runtime, wanted: &str, by_default: bool) -> Result<(), Obstacle> {
    let spoken = &runtime.spec.protocol_versions;
    if spoken.is_empty() || spoken.iter().any(|spoken| spoken == wanted) {
        return Ok(());
    }
    Err(Obstacle::Protocol { spoken: spoken.clone(), wanted: wanted.to_owned(), by_default })
}

fn format(
    runtime: &Runtime,
    model: &ModelSpec,
    takes_part: impl Fn(&SupportedModelFormat) -> bool,
) -> Result<(), Obstacle> {
    let name = &model.model_format.name;
    let version = model.model_format.version.as_ref();
    let rows: Vec<_> = runtime.spec.supported_model_formats.iter().filter(|row| row.name == *name).collect();
    let fits = |row: &&&SupportedModelFormat| version.is_none() || row.version.as_ref() == version;
    if rows.iter().filter(fits).any(|row| takes_part(row)) {
        return Ok(());
    }
    if rows.is_empty() {
        let mut all = runtime.spec.supported_model_formats.iter();
        let similar = all.find(|row| row.name.eq_ignore_ascii_case(name)).map(|row| row.name.clone());
        return Err(Obstacle::Format { name: name.clone(), similar });
    }
    match version {
        Some(version) if !rows.iter().any(|row| fits(&row)) => Err(Obstacle::Version {
            name: name.clone(),
            version: version.clone(),
            listed: rows.iter().filter_map(|row| row.version.clone()).collect(),
        }),
        _ => Err(Obstacle::NotAutomatic { name: name.clone(), version: version.cloned() }),
    }
}
