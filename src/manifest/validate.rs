//! Upstream's rules, reported all at once (§1.7, §2.8), and what a file asks for that one machine does not have.
//!
//! Rules look at a document as it is written, before legacy forms are converted, so that paths are the user's own.
//! Whether an image, a model or a runtime exists is not known here.

mod annotations;
mod autoscaling;
mod canary;
mod cluster;
mod component;
mod graph;
mod ignored;
mod kept;
mod limits;
mod llm;
mod names;
mod runtime;
mod service;
mod storage;
mod storage_container;
mod trained;
mod update;

use serde_json::Value;

pub use runtime::{rivals, validate_runtimes};
pub use update::validate_update;

use super::report::Report;
use crate::api::{Kind, Metadata, Typed};

/// Checks one object.
pub(super) fn check(kind: Kind, metadata: &Metadata, typed: &Typed, raw: &Value, report: &mut Report<'_>) {
    names::check(kind, metadata, report);
    limits::check(kind, metadata, typed, raw, report);
    kept::check(kind, report);
    annotations::check(kind, raw, report);
    match typed {
        Typed::InferenceService(spec) => {
            service::check(metadata, spec, report);
            ignored::check_service(spec, raw, report);
        }
        Typed::InferenceGraph(spec) => {
            graph::check(&metadata.name, spec, report);
            ignored::check_graph(raw, report);
        }
        Typed::TrainedModel(spec) => trained::check(metadata, spec, report),
        Typed::LlmInferenceService(spec) => {
            llm::check(kind, metadata, spec, raw, report);
            ignored::check_llm(raw, report);
        }
        Typed::ServingRuntime(spec) => {
            runtime::check(kind, &metadata.name, spec, report);
            ignored::check_runtime(raw, report);
        }
        Typed::StorageContainer(container) => storage_container::check(container, report),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
