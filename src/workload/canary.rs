//! Named canaries of a predictor, each resolved like a predictor of its own (§5.2).
//!
//! A canary is the stable predictor with the canary's fields over it: objects are merged, lists and values replaced. Where
//! this differs from KServe, it is so that what is written is what runs: a canary has its artifacts however they are
//! named, another model format chooses another runtime, and one that is to get no traffic runs all the same.

use serde_json::Value;

use super::resolve::{Scope, resolve_component};
use super::{Companions, ResolveError, Workload, WorkloadConfig};
use crate::api::component::ComponentSpec;
use crate::api::inference_service::CanarySpec;
use crate::api::{ComponentKind, InferenceServiceSpec, Object, ServiceKey, meta};
use crate::manifest::defaults::default_protocol;
use crate::runtimes::Catalog;
use crate::scale::Policy;

/// One named canary.
#[derive(Clone, Debug, PartialEq)]
pub struct Canary {
    /// Its name (`predictor.name`).
    pub name: String,
    /// Percent of the traffic that is to be its, 0 to 100.
    pub percent: u32,
    /// What it runs, or why it cannot.
    pub workload: Result<Workload, ResolveError>,
}

/// Resolves the named canaries of an InferenceService, in the order they are written. One that cannot be resolved says
/// why and takes nothing from the others.
pub fn resolve_canaries(
    object: &Object,
    catalog: &Catalog,
    companions: &Companions<'_>,
    config: &WorkloadConfig,
) -> Vec<Canary> {
    let Some(spec) = object.as_inference_service() else { return Vec::new() };
    let key = ServiceKey::new(&object.key.namespace, &object.key.name);
    let canaries = spec.canary.iter().enumerate();
    canaries
        .map(|(index, canary)| {
            let merged = merged(spec, canary);
            let workload = merged.map_err(|error| ResolveError::invalid("spec.predictor", error.to_string()));
            let workload = workload.and_then(|merged| {
                let scope = Scope { key: key.clone(), meta: &object.meta, spec: &merged, catalog, companions, config };
                resolve_component(ComponentKind::Predictor, &merged.predictor, &scope)
            });
            let (name, percent) = (name(canary), percent(canary));
            let workload = workload.map(|workload| finish(workload, &name, replicas(spec, canary), index));
            Canary { name, percent, workload: workload.map_err(|error| at(error, index)) }
        })
        .collect()
}

fn name(canary: &CanarySpec) -> String {
    canary.predictor.name.clone().unwrap_or_default()
}

fn percent(canary: &CanarySpec) -> u32 {
    canary.traffic_percent.and_then(|percent| u32::try_from(percent).ok()).unwrap_or_default().min(100)
}

/// Replicas of a canary: as many as it says, else its share of the stable predictor's, and always one.
fn replicas(spec: &InferenceServiceSpec, canary: &CanarySpec) -> u32 {
    let written = canary.predictor.min_replicas.and_then(|count| u32::try_from(count).ok());
    let stable = spec.predictor.min_replicas.map_or(1, |count| u32::try_from(count).unwrap_or_default());
    written.unwrap_or_else(|| (stable * percent(canary)).div_ceil(100)).max(1)
}

fn finish(workload: Workload, name: &str, replicas: u32, index: usize) -> Workload {
    let scaling =
        Policy { min: replicas, max: None, initial: replicas, activation: 1, target: None, ..workload.scaling };
    let warnings = workload.warnings.iter().map(|warning| placed(warning, index)).collect();
    Workload { canary: Some(name.to_owned()), canary_percent: None, scaling, warnings, ..workload }
}

/// The service as it would be with the canary as its predictor.
fn merged(spec: &InferenceServiceSpec, canary: &CanarySpec) -> Result<InferenceServiceSpec, serde_json::Error> {
    let mut stable = spec.predictor.clone();
    make_way(&mut stable, &canary.predictor);
    let mut value = serde_json::to_value(&stable)?;
    overlay(&mut value, serde_json::to_value(&canary.predictor)?);
    let mut predictor: ComponentSpec = serde_json::from_value(value)?;
    default_protocol(&mut predictor);
    Ok(InferenceServiceSpec { predictor, ..spec.clone() })
}

/// Takes out of the stable predictor what the canary says in another way: where its model is, what it is served by.
fn make_way(stable: &mut ComponentSpec, canary: &ComponentSpec) {
    let model = canary.model.as_deref();
    let own_uri = model.is_some_and(|model| model.storage_uri.is_some());
    let own_path = model.and_then(|model| model.storage.as_ref()).is_some_and(|storage| storage.path.is_some());
    let own_list = canary.storage_uris.as_ref().is_some_and(|uris| !uris.is_empty());
    if own_uri || own_path {
        stable.storage_uris = None;
    }
    if serves_itself(canary) {
        stable.model = None;
    }
    let Some(written) = &mut stable.model else { return };
    if own_list || own_path {
        written.storage_uri = None;
    }
    if let Some(storage) = written.storage.as_mut().filter(|_| own_list || own_uri) {
        storage.path = None;
    }
    let format = model.map(|model| &model.model_format.name).filter(|name| !name.is_empty());
    if format.is_some_and(|format| *format != written.model_format.name) {
        // What was chosen for one format says nothing of another.
        written.model_format.version = None;
        written.runtime = None;
        written.runtime_version = None;
        written.protocol_version = None;
    }
}

/// Whether the canary brings a server of its own and no model.
fn serves_itself(canary: &ComponentSpec) -> bool {
    canary.model.is_none() && canary.containers().iter().any(|container| container.name == meta::KSERVE_CONTAINER)
}

/// Lays one value over another: objects are merged; what says something replaces.
fn overlay(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                overlay(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (base, Value::Array(items)) if items.is_empty() && !base.is_null() => {}
        (base, Value::String(text)) if text.is_empty() && !base.is_null() => {}
        (base, over) => *base = over,
    }
}

/// Says of a problem where it was written.
fn at(error: ResolveError, index: usize) -> ResolveError {
    match error {
        ResolveError::Invalid { field, message, help } => {
            ResolveError::Invalid { field: placed(&field, index), message, help }
        }
        other => other,
    }
}

fn placed(text: &str, index: usize) -> String {
    match text.strip_prefix("spec.predictor") {
        Some(rest) => format!("spec.canary[{index}].predictor{rest}"),
        None => text.to_owned(),
    }
}
