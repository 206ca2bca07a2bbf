//! One server of several models: what it is to do next.

use std::time::Duration;

use super::admit::{self, Verdict};
use super::{Loaded, Note, RepositoryOrder, RepositoryWork, TrainedModel};
use crate::api::ServiceKey;
use crate::plan::action::{Action, ActionKey};
use crate::plan::backoff;
use crate::plan::planner::Draft;
use crate::plan::replica::{Phase, Replica};
use crate::plan::retire;
use crate::plan::world::{ContainerFact, ModelState, World};

/// How often a server is looked at while nothing happens.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Between closing a route and looking at its leases: long enough for a request that read the old table to lease.
const SETTLE: Duration = Duration::from_millis(100);

/// Takes the next step in the models of a replica that answers. Says so while it has not loaded them yet.
pub(in crate::plan) fn tend(draft: &mut Draft<'_>, unit: &Replica<'_>) -> Option<Phase> {
    unit.record.repository.as_ref()?;
    let fact = unit.serving()?;
    let world = draft.world;
    let Some(loaded) = world.memory.loaded(&fact.name) else {
        order(draft, unit, fact, RepositoryWork::Look);
        return Some(loading("it is asked which models it has loaded"));
    };
    let wanted = wanted(world, &fact.component.service);
    let unwanted: Vec<&String> =
        loaded.models.keys().filter(|name| !wanted.iter().any(|model| model.key.name == **name)).collect();
    draft.plan.repositories.extend(unwanted.iter().map(|name| (fact.name.clone(), Note::Unwanted((*name).clone()))));
    if world.in_flight.contains(&ActionKey::Repository(fact.name.clone())) {
        return (!loaded.complete).then(|| loading(&progress(world, &fact.component.service, loaded)));
    }
    if !loaded.known {
        look_again(draft, unit, fact, loaded);
        let words = loaded.trouble.as_ref().map_or("", |(message, _)| message);
        return Some(loading(&format!("it does not say which models it has loaded: {words}")));
    }
    let idle = |draft: &mut Draft<'_>, name: &str| is_left_alone(draft, unit, loaded, name);
    if let Some(name) = unwanted.into_iter().find(|name| may_try(draft, loaded, name, "") && idle(draft, name)) {
        order(draft, unit, fact, RepositoryWork::Unload { model: name.clone() });
        return (!loaded.complete).then(|| loading(&progress(world, &fact.component.service, loaded)));
    }
    let present = |model: &TrainedModel| match &model.model {
        Ok(reference) => matches!(world.models.get(&reference.uri), Some(ModelState::Present { .. })),
        Err(_) => false,
    };
    let missing: Vec<&TrainedModel> =
        wanted.into_iter().filter(|model| present(model) && !loaded.has(&model.key.name, &model.mark)).collect();
    let next = missing.iter().find(|model| may_try(draft, loaded, &model.key.name, &model.mark));
    if let Some(model) = next {
        if waits_for_unloading(world, fact, loaded, model) {
            look_again(draft, unit, fact, loaded);
        } else if lacks_room(world, fact, loaded, model) {
            return start_anew(draft, unit, fact, loaded, model);
        } else {
            load(draft, unit, fact, model);
        }
        return (!loaded.complete).then(|| loading(&progress(world, &fact.component.service, loaded)));
    }
    look_again(draft, unit, fact, loaded);
    // What failed is tried again later and keeps nobody waiting.
    if !loaded.complete {
        draft.plan.repositories.push((fact.name.clone(), Note::Complete));
    }
    None
}

fn loading(message: &str) -> Phase {
    Phase::Loading { message: message.to_owned(), restarts: 0 }
}

fn progress(world: &World, service: &ServiceKey, loaded: &Loaded) -> String {
    let wanted = wanted(world, service);
    let there = wanted.iter().filter(|model| loaded.answers(&model.key.name)).count();
    format!("it is loading its TrainedModels: {there} of {} are there", wanted.len())
}

fn wanted<'w>(world: &'w World, service: &ServiceKey) -> Vec<&'w TrainedModel> {
    let admitted = admit::verdicts(world, service).into_iter().filter(|(_, verdict)| *verdict == Verdict::Admitted);
    admitted.map(|(model, _)| model.as_ref()).collect()
}

/// Whether a model did not fail, or failed long enough ago.
fn may_try(draft: &mut Draft<'_>, loaded: &Loaded, model: &str, mark: &str) -> bool {
    match loaded.failed.get(model).filter(|failed| failed.mark == mark) {
        Some(failed) => draft.due(failed.at + backoff::restart_delay(failed.failures.saturating_add(1))),
        None => true,
    }
}

/// Whether no request can be under way for a model that is not wanted. They are not counted by model, so it is that of
/// the whole replica, or the time a request may take to drain.
fn is_left_alone(draft: &mut Draft<'_>, unit: &Replica<'_>, loaded: &Loaded, name: &str) -> bool {
    let Some(since) = loaded.unwanted.get(name) else {
        // Its route closes now; what slipped through gets a moment to show itself.
        draft.wake(draft.now.tick + SETTLE);
        return false;
    };
    let busy = draft.world.leases.get(&unit.name).copied().unwrap_or(0) > 0;
    draft.due(*since + SETTLE) && (!busy || draft.due(*since + draft.world.config.drain_deadline))
}

/// Whether a model has no room beside those that are about to be unloaded.
fn waits_for_unloading(world: &World, fact: &ContainerFact, loaded: &Loaded, model: &TrainedModel) -> bool {
    let limit = admit::server(world, &fact.component.service).and_then(|server| server.memory_limit);
    // One that the server does not unload is not waited for.
    let mut going = loaded.unwanted.keys().filter(|name| !loaded.failed.contains_key(*name));
    going.any(|name| loaded.models.contains_key(name))
        && limit.is_some_and(|limit| loaded.declared().saturating_add(model.memory) > limit)
}

fn look_again(draft: &mut Draft<'_>, unit: &Replica<'_>, fact: &ContainerFact, loaded: &Loaded) {
    let after = match &loaded.trouble {
        Some((_, failures)) => backoff::retry_delay(*failures).min(LOOK_EVERY),
        None => LOOK_EVERY,
    };
    if loaded.looked.is_none_or(|looked| draft.due(looked + after)) {
        order(draft, unit, fact, RepositoryWork::Look);
    }
}

fn load(draft: &mut Draft<'_>, unit: &Replica<'_>, fact: &ContainerFact, model: &TrainedModel) {
    let Ok(reference) = &model.model else { return };
    let work = RepositoryWork::Load {
        model: model.key.name.clone(),
        framework: model.framework.clone(),
        uri: reference.uri.clone(),
        mark: model.mark.clone(),
        memory: model.memory,
    };
    order(draft, unit, fact, work);
}

fn order(draft: &mut Draft<'_>, unit: &Replica<'_>, fact: &ContainerFact, work: RepositoryWork) {
    let Some(repository) = unit.record.repository.clone() else { return };
    let run = draft.world.memory.containers.get(&fact.name).and_then(|memory| memory.started);
    draft.act(Action::Repository(Box::new(RepositoryOrder {
        name: fact.name.clone(),
        replica: unit.name.clone(),
        run,
        reach: unit.reach().clone(),
        repository,
        work,
    })));
}

/// Whether a model only fits if the server gives back what models took that it has unloaded. Servers keep such memory
/// more often than not; what it uses now is the truth when it is known.
fn lacks_room(world: &World, fact: &ContainerFact, loaded: &Loaded, model: &TrainedModel) -> bool {
    let Some(limit) = admit::server(world, &fact.component.service).and_then(|server| server.memory_limit) else {
        return false;
    };
    let declared = loaded.declared() + loaded.spent;
    let used = world.used.get(&fact.name).map_or(declared, |used| used.memory);
    loaded.spent > 0 && used.saturating_add(model.memory) > limit
}

/// Starts a server anew, which unloads for good; one replica after the other, and when its requests are answered.
fn start_anew(
    draft: &mut Draft<'_>,
    unit: &Replica<'_>,
    fact: &ContainerFact,
    loaded: &Loaded,
    model: &TrainedModel,
) -> Option<Phase> {
    let world = draft.world;
    let elsewhere = world.containers.values().filter(|other| {
        other.component == fact.component && other.container == fact.container && other.replica != fact.replica
    });
    let is_whole = |other: &ContainerFact| {
        world.memory.loaded(&other.name).is_some_and(|loaded| loaded.complete && loaded.leaving.is_none())
    };
    let follows = |other: &ContainerFact| draft.plan.repositories.contains(&(other.name.clone(), Note::Leaving));
    if loaded.leaving.is_none() && !elsewhere.into_iter().all(|other| is_whole(other) && !follows(other)) {
        return None;
    }
    let name = &model.key.name;
    let why = format!("memory of models it has unloaded is needed for the model `{name}`");
    draft.plan.repositories.push((fact.name.clone(), Note::Leaving));
    let phase = loading(&format!("it is started anew: {why}"));
    let Some(since) = loaded.leaving else {
        // The route closes now; what slipped through gets a moment to show itself.
        draft.wake(draft.now.tick + SETTLE);
        return Some(phase);
    };
    let busy = world.leases.get(&unit.name).copied().unwrap_or(0) > 0;
    if draft.due(since + SETTLE) && (!busy || draft.due(since + world.config.drain_deadline)) {
        retire::stop(draft, fact, why);
    }
    Some(phase)
}
