//! LLMInferenceServices in their own words (§7.3): the conditions and addresses upstream's controller gives.
//!
//! How one is run is that of any service; only what is said of it differs.

use super::planner::Plan;
use super::status::public_url;
use super::world::{DesiredService, World};
use crate::api::status::{Address, ModelAddress};
use crate::api::{Condition, ConditionStatus, InferenceServiceStatus, Kind};

/// Turns the status of a service with one predictor into that of an LLMInferenceService.
pub(super) fn status(world: &World, service: &DesiredService, of: InferenceServiceStatus) -> InferenceServiceStatus {
    let as_kind = |from: &str, kind: &str| {
        of.condition(from).map(|condition| Condition { kind: kind.to_owned(), ..condition.clone() })
    };
    let mut conditions: Vec<Condition> = of.conditions.iter().filter(|one| one.kind == "Stopped").cloned().collect();
    conditions.extend(as_kind("Ready", "Ready"));
    if service.resolution.is_ok() {
        conditions.push(Condition::new("PresetsCombined", ConditionStatus::True, "", ""));
        conditions.extend(as_kind("PredictorReady", "MainWorkloadReady"));
        conditions.extend(as_kind("PredictorReady", "WorkloadsReady"));
        let routes = of.condition("IngressReady").map_or(ConditionStatus::Unknown, |routes| routes.status);
        let (reason, message) = match routes {
            ConditionStatus::True => ("", ""),
            _ => ("HTTPRoutesNotReady", "the server does not answer"),
        };
        conditions.push(Condition::new("HTTPRoutesReady", routes, reason, message));
        conditions.push(Condition::new("RouterReady", routes, reason, message));
    } else {
        let combined = as_kind("PredictorReady", "PresetsCombined");
        conditions.extend(combined.map(|combined| Condition { reason: "CombineBaseError".to_owned(), ..combined }));
    }
    conditions.sort_by(|a, b| a.kind.cmp(&b.kind));
    let url = of.url.as_ref().map(|_| path_url(world, service));
    let addresses = url.iter().chain(&of.url).map(|url| ModelAddress { url: url.clone(), models: models(service) });
    InferenceServiceStatus {
        observed_generation: of.observed_generation,
        conditions,
        addresses: addresses.collect(),
        address: url.clone().map(|url| Address { url }),
        url,
        ..InferenceServiceStatus::default()
    }
}

/// The address upstream's gateway has: the path names the service.
fn path_url(world: &World, service: &DesiredService) -> String {
    format!("{}/{}/{}", public_url(world, "localhost"), service.key.namespace, service.key.name)
}

fn models(service: &DesiredService) -> Vec<String> {
    let parts = service.resolution.as_deref().unwrap_or_default();
    let names = parts.iter().flat_map(|part| [&part.workload.model_name].into_iter().chain(&part.workload.aliases));
    names.cloned().collect()
}

/// Says of those whose name an InferenceService has that they are not served.
pub(super) fn add_shadowed(plan: &mut Plan, world: &World) {
    for (key, generation) in &world.shadowed {
        let message = format!("InferenceService `{key}` has the same name and so the same address");
        let status = InferenceServiceStatus {
            observed_generation: *generation,
            conditions: vec![Condition::new("Ready", ConditionStatus::False, "NameTaken", message)],
            ..InferenceServiceStatus::default()
        };
        plan.other_statuses.push((key.to_key_of(Kind::LlmInferenceService), status.into()));
    }
}
