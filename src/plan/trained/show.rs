//! TrainedModels in words and routes: conditions as KServe reports them, and where each model answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::admit::{self, Verdict};
use super::{Loaded, TrainedModel};
use crate::api::status::Address;
use crate::api::{ComponentKind, Condition, ConditionStatus, InferenceServiceStatus, Kind, ServiceKey};
use crate::plan::facts::Facts;
use crate::plan::planner::Plan;
use crate::plan::replica::Phase;
use crate::plan::routes::{Backend, Hold, RouteState, ServiceRoute};
use crate::plan::said::{Said, said};
use crate::plan::world::{ContainerFact, ModelState, World};
use crate::workload::ComponentKey;

/// Longest wait for a model to be fetched or loaded, while nothing of it changes.
const PATIENCE: Duration = Duration::from_secs(600);

/// Adds every TrainedModel to a plan that has its services.
pub(in crate::plan) fn show(plan: &mut Plan, world: &World, facts: &Facts<'_>) {
    for service in world.trained.keys() {
        let parent = plan.status(service).cloned();
        let mut routes = BTreeMap::new();
        for (model, verdict) in admit::verdicts(world, service) {
            let stand = stand(plan, world, facts, model, &verdict);
            let status = status_of(world, model, &verdict, &stand, parent.as_ref());
            plan.other_statuses.push((model.key.to_key_of(Kind::TrainedModel), status.into()));
            if !matches!(verdict, Verdict::NoService | Verdict::NotMultiModel | Verdict::Unresolved) {
                routes.insert(model.key.name.clone(), stand.route);
            }
        }
        if let Some(route) = plan.routes.services.get_mut(service).filter(|_| !routes.is_empty()) {
            let route: &mut ServiceRoute = Arc::make_mut(route);
            let new = routes.keys().filter(|name| !route.model_names.contains(name)).cloned().collect::<Vec<_>>();
            route.model_names.extend(new);
            route.trained = routes;
        }
    }
}

/// Where one model is.
struct Stand {
    /// Whether it answers, in the words of a condition.
    loaded: Condition,
    route: RouteState,
}

impl Stand {
    fn refused(reason: &str, message: &str) -> Self {
        let loaded = Condition::new(LOADED, ConditionStatus::False, reason, message);
        let (reason, message) = (reason.to_owned(), message.to_owned());
        Self { loaded, route: RouteState::NotReady { reason, message, retry_after: Duration::from_secs(30) } }
    }

    fn waiting(reason: &str, message: &str) -> Self {
        let loaded = Condition::new(LOADED, ConditionStatus::Unknown, reason, message);
        let (reason, message) = (reason.to_owned(), message.to_owned());
        let hold = Hold { reason, message, retry_after: Duration::from_secs(1), patience: PATIENCE };
        Self { loaded, route: RouteState::Held(hold) }
    }
}

/// Our own condition, beside upstream's three.
const LOADED: &str = "ModelLoaded";

fn stand(plan: &Plan, world: &World, facts: &Facts<'_>, model: &TrainedModel, verdict: &Verdict) -> Stand {
    if let Some((_, reason, message)) = refusal(model, verdict) {
        return Stand::refused(reason, &message);
    }
    let service = &model.service;
    let whole = plan.routes.services.get(service);
    let whole = whole.and_then(|route| route.components.get(&ComponentKind::Predictor)).map(|route| &route.state);
    let servers = servers(world, facts, service);
    let holding = |backend: &&Backend| servers.get(&*backend.replica).is_some_and(|one| one.answers(&model.key.name));
    let open: Vec<Backend> = match whole {
        Some(RouteState::Open(backends)) => backends.iter().filter(holding).cloned().collect(),
        _ => Vec::new(),
    };
    let failed = servers.values().find_map(|one| one.failed.get(&model.key.name).filter(|it| it.mark == model.mark));
    let is_new =
        |backend: &Backend| servers.get(&*backend.replica).is_some_and(|one| one.has(&model.key.name, &model.mark));
    let not_here = files(world, model);
    if !open.is_empty() {
        let loaded = match (failed, not_here) {
            _ if open.iter().all(is_new) => Condition::new(LOADED, ConditionStatus::True, "", ""),
            (Some(failed), _) => {
                let message = format!("{}; what was loaded before keeps serving", failed.message);
                Condition::new(LOADED, ConditionStatus::False, "ModelLoadFailed", message)
            }
            (None, Some(waiting)) => waiting.loaded,
            (None, None) => Condition::new(LOADED, ConditionStatus::Unknown, "ModelLoading", "it is loaded anew"),
        };
        return Stand { loaded, route: RouteState::Open(open) };
    }
    if let Some(waiting) = not_here {
        return waiting;
    }
    match whole {
        Some(RouteState::Open(_)) => match failed {
            Some(failed) => Stand::refused("ModelLoadFailed", &failed.message),
            None => Stand::waiting("ModelLoading", "its server is loading it"),
        },
        // It sleeps, and is there as soon as its server is.
        Some(RouteState::Held(hold)) if hold.reason == "Asleep" => {
            let loaded = Condition::new(LOADED, ConditionStatus::True, "Asleep", hold.message.as_str());
            Stand { loaded, route: RouteState::Held(hold.clone()) }
        }
        Some(RouteState::Held(hold)) => {
            let loaded = Condition::new(LOADED, ConditionStatus::Unknown, &hold.reason, hold.message.as_str());
            Stand { loaded, route: RouteState::Held(hold.clone()) }
        }
        Some(state @ RouteState::NotReady { reason, message, .. }) => Stand {
            loaded: Condition::new(LOADED, ConditionStatus::False, reason, message.as_str()),
            route: state.clone(),
        },
        None => Stand::waiting("ModelLoading", "its server is not there yet"),
    }
}

/// What is known of each replica of a service, by its name.
fn servers<'w>(world: &'w World, facts: &Facts<'w>, service: &ServiceKey) -> BTreeMap<&'w str, &'w Loaded> {
    let key = ComponentKey { service: service.clone(), component: ComponentKind::Predictor };
    let own = facts.of(&key).iter().filter(|fact| serves(fact));
    own.filter_map(|fact| Some((&*fact.replica, world.memory.loaded(&fact.name)?))).collect()
}

fn serves(fact: &ContainerFact) -> bool {
    fact.is_running() && fact.record.containers.first().is_some_and(|first| first.name == fact.container)
}

/// Says so while a model's files are not here.
fn files(world: &World, model: &TrainedModel) -> Option<Stand> {
    let uri = &model.model.as_ref().ok()?.uri;
    let phase = match world.models.get(uri) {
        Some(ModelState::Present { .. }) => return None,
        Some(ModelState::Pulling(note)) => Phase::PullingModel(uri.clone(), note.clone()),
        Some(ModelState::Failed { message, transient, .. }) => {
            Phase::ModelFailed { message: message.clone(), transient: *transient }
        }
        Some(ModelState::Absent) | None => Phase::PullingModel(uri.clone(), crate::plan::world::PullNote::default()),
    };
    let Said { reason, message, .. } = said(&phase);
    Some(if phase.is_failure() { Stand::refused(reason, &message) } else { Stand::waiting(reason, &message) })
}

/// Why a model is not to be loaded: condition, reason, message.
fn refusal(model: &TrainedModel, verdict: &Verdict) -> Option<(&'static str, &'static str, String)> {
    let (service, name) = (&model.service.name, &model.key.name);
    Some(match verdict {
        Verdict::Admitted => return None,
        Verdict::NoService => {
            let message = format!(
                "there is no InferenceService \"{service}\" in namespace {}; on a cluster Trained Model \"{name}\" would be \
                 deleted now",
                model.key.namespace
            );
            (SERVICE_READY, "InferenceServiceNotFound", message)
        }
        Verdict::Unresolved => (SERVICE_READY, "InferenceServiceNotReady", SERVICE_NOT_READY.to_owned()),
        Verdict::NotMultiModel => {
            let message = format!(
                "{NOT_MULTI_MODEL}: \"{service}\" has a model of its own (storageUri), or its server finds one itself"
            );
            (IS_MULTI_MODEL, "IsNotMMSPredictor", message)
        }
        Verdict::Framework(known) => {
            let message = format!(
                "Inference Service \"{service}\" does not support the Trained Model \"{name}\" framework \"{}\"; its \
                 runtime takes {}",
                model.framework,
                known.join(", ")
            );
            (FRAMEWORK, "FrameworkNotSupported", message)
        }
        Verdict::NoMemory(numbers) => (MEMORY, "MemoryResourceNotAvailable", format!("{NO_MEMORY}: {numbers}")),
        Verdict::Invalid(message) => (LOADED, "InvalidModelSpec", message.clone()),
    })
}

const SERVICE_READY: &str = "InferenceServiceReady";
const IS_MULTI_MODEL: &str = "IsMMSPredictor";
const MEMORY: &str = "MemoryResourceAvailable";
const FRAMEWORK: &str = "FrameworkSupported";
/// Upstream's words, which scripts may look for.
const SERVICE_NOT_READY: &str = "Inference Service needs to be ready before Trained Model can be ready";
const NOT_MULTI_MODEL: &str = "Inference Service predictor is not configured for multi-model serving";
const NO_MEMORY: &str = "Inference Service does not have enough memory resources for Trained Model";

fn status_of(
    world: &World,
    model: &TrainedModel,
    verdict: &Verdict,
    stand: &Stand,
    parent: Option<&InferenceServiceStatus>,
) -> InferenceServiceStatus {
    let service = parent.and_then(|parent| parent.condition("Ready"));
    let refused = refusal(model, verdict);
    let mut conditions: Vec<Condition> = [SERVICE_READY, IS_MULTI_MODEL, MEMORY]
        .into_iter()
        .map(|kind| match &refused {
            Some((culprit, reason, message)) if *culprit == kind => {
                Condition::new(kind, ConditionStatus::False, reason, message.as_str())
            }
            // Nothing is known of a server that is not there.
            Some((culprit, ..)) if *culprit == SERVICE_READY || (*culprit == IS_MULTI_MODEL && kind == MEMORY) => {
                Condition::new(kind, ConditionStatus::Unknown, "", "")
            }
            _ if kind == SERVICE_READY && service.is_none_or(|ready| ready.status != ConditionStatus::True) => {
                Condition::new(kind, ConditionStatus::False, "InferenceServiceNotReady", SERVICE_NOT_READY)
            }
            _ => Condition::new(kind, ConditionStatus::True, "", ""),
        })
        .collect();
    if let Some((FRAMEWORK, reason, message)) = &refused {
        conditions.push(Condition::new(FRAMEWORK, ConditionStatus::False, reason, message.as_str()));
    }
    conditions.push(stand.loaded.clone());
    let rank = |condition: &&Condition| match condition.status {
        ConditionStatus::False => 0,
        ConditionStatus::Unknown => 1,
        ConditionStatus::True => 2,
    };
    // What is wrong with the model itself says more than that its service is not ready.
    let telling = conditions.iter().rev().min_by_key(rank).filter(|worst| worst.status != ConditionStatus::True);
    let ready = match telling {
        Some(worst) => Condition { kind: "Ready".to_owned(), ..worst.clone() },
        None => Condition::new("Ready", ConditionStatus::True, &stand.loaded.reason, stand.loaded.message.as_str()),
    };
    conditions.push(ready);
    conditions.sort_by(|a, b| a.kind.cmp(&b.kind));
    let path = predict_path(world, model).filter(|_| !matches!(verdict, Verdict::NotMultiModel));
    let below = |url: &str| path.as_ref().map(|path| format!("{url}{path}"));
    InferenceServiceStatus {
        observed_generation: model.meta.generation,
        url: parent.and_then(|parent| parent.url.as_deref()).and_then(below),
        address: parent.and_then(|parent| below(&parent.address.as_ref()?.url)).map(|url| Address { url }),
        conditions,
        ..InferenceServiceStatus::default()
    }
}

/// Where a model is called (§7.1).
fn predict_path(world: &World, model: &TrainedModel) -> Option<String> {
    let parts = world.services.get(&model.service)?.resolution.as_deref().ok()?;
    let predictor = parts.iter().find(|part| part.workload.component.component == ComponentKind::Predictor)?;
    let name = &model.key.name;
    match predictor.workload.protocol.as_str() {
        "v1" => Some(format!("/v1/models/{name}:predict")),
        "v2" => Some(format!("/v2/models/{name}/infer")),
        _ => None,
    }
}
