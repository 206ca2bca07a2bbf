//! Sleeping with the memory kept: a replica that is paused, or whose server was told to rest, instead of stopped.
//!
//! ```text
//! serving ──nobody asks──▶ route held ──last lease──▶ doze (pause, or hook) ──somebody waits──▶ rouse ──▶ serving
//! ```
//!
//! Which containers doze is remembered with the revisions and survives the daemon. One that somebody else paused is not
//! ours to wake: it is reported as before. A hook that fails ends the replica: it sleeps by being stopped then.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use super::action::Action;
use super::facts::Facts;
use super::memory::{Memory, Unhealthy};
use super::planner::Draft;
use super::pods;
use super::replica::{Phase, Replica};
use super::retire::{self, owner_reach};
use super::world::{ContainerFact, FactReach, FactState, World};
use crate::api::ServiceKey;
use crate::scale::{Policy, Way};
use crate::workload::ComponentKey;

/// A container that sleeps with its memory kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dozing {
    /// The engine's id of the container that does; another one of the same name does not.
    pub id: String,
    /// What wakes its server; none when it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<Call>,
}

/// A `POST` to a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Port within the replica.
    pub port: u16,
    /// Path with query.
    pub path: String,
}

/// Puts a container to sleep, or wakes it.
#[derive(Clone, Debug, PartialEq)]
pub struct DozeOrder {
    /// Whose container it is.
    pub component: ComponentKey,
    /// The engine's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What its server is told; none to pause or go on.
    pub call: Option<Call>,
    /// What wakes its server, to be remembered.
    pub wake: Option<Call>,
    /// How the replica's ports are reached.
    pub reach: FactReach,
}

/// What is to be noted of containers that were found paused.
pub type Found = Vec<(ComponentKey, String, Dozing)>;

/// Puts one replica to sleep with its memory kept, or leaves it there. Returns false when that is not to be had: it must
/// be stopped.
pub(super) fn lie_down<'w>(draft: &mut Draft<'w>, policy: &Policy, containers: &[&'w ContainerFact]) -> bool {
    let Some(first) = containers.first() else { return true };
    let leaving = Replica::kept(draft, containers);
    let must_give_room = draft.world.memory.evicted.contains(&first.component.service);
    if policy.resting.way == Way::Stop || must_give_room || !leaving.is_complete() || failed(draft, containers) {
        return false;
    }
    let alive = |fact: &&ContainerFact| fact.is_running() || fact.state == FactState::Paused || is_init(fact);
    if !containers.iter().all(alive) {
        return false;
    }
    draft.plan.pods.push(pods::pod(draft.world, &first.component, &leaving, &Phase::Asleep).into());
    let awake: Vec<&ContainerFact> =
        containers.iter().copied().filter(|fact| fact.is_running() && !has_been_told(draft, fact)).collect();
    for fact in containers.iter().filter(|fact| fact.state == FactState::Paused) {
        // Adopted, if it was not known: asleep is what it should be.
        let dozing = Dozing { id: fact.id.clone(), hook: None };
        draft.plan.dozing.push((fact.component.clone(), fact.name.clone(), dozing));
    }
    if awake.is_empty() || !retire::may_leave(draft, &first.replica) {
        return true;
    }
    match &policy.resting.way {
        Way::Stop => {}
        Way::Pause => awake.into_iter().for_each(|fact| draft.act(order(draft, fact, None, None))),
        Way::Hook(hooks) => {
            let serving = leaving.record.containers.first().map(|serving| serving.name.as_str());
            let port = hooks.port.unwrap_or(leaving.record.entry.port);
            let call = |path: &str| Some(Call { port, path: path.to_owned() });
            for fact in awake.into_iter().filter(|fact| Some(fact.container.as_str()) == serving) {
                let order = order(draft, fact, call(&hooks.sleep), call(&hooks.wake));
                draft.act(order);
            }
        }
    }
    true
}

fn order(draft: &Draft<'_>, fact: &ContainerFact, call: Option<Call>, wake: Option<Call>) -> Action {
    Action::Doze(Box::new(DozeOrder {
        component: fact.component.clone(),
        id: fact.id.clone(),
        name: fact.name.clone(),
        call,
        wake,
        reach: owner_reach(draft, fact),
    }))
}

fn is_init(fact: &ContainerFact) -> bool {
    fact.record.init.contains(&fact.container)
}

/// Whether a container's server was told to rest, or need not be: only the one that serves is.
fn has_been_told(draft: &Draft<'_>, fact: &ContainerFact) -> bool {
    let known = draft.world.memory.dozing(&fact.component, &fact.name);
    known.is_some_and(|dozing| dozing.id == fact.id && dozing.hook.is_some())
}

/// Whether an attempt to put it to sleep this way has failed since it was started.
fn failed(draft: &Draft<'_>, containers: &[&ContainerFact]) -> bool {
    containers.iter().any(|fact| draft.world.memory.sleepless.contains(&fact.id))
}

/// Whether a service that sleeps keeps its memory, and is to.
pub(super) fn keeps_memory(world: &World, service: &ServiceKey, facts: &Facts<'_>) -> bool {
    let dozes = |fact: &ContainerFact| {
        let known = world.memory.dozing(&fact.component, &fact.name);
        known.is_some_and(|dozing| dozing.id == fact.id)
    };
    !world.memory.evicted.contains(service) && facts.of_service(service).iter().any(|fact| dozes(fact))
}

/// Wakes a container that dozes. None when it does not.
pub(super) fn rouse(draft: &mut Draft<'_>, fact: &ContainerFact) -> Option<Phase> {
    let dozing = draft.world.memory.dozing(&fact.component, &fact.name)?;
    let is_ours = dozing.id == fact.id && (fact.state == FactState::Paused || dozing.hook.is_some());
    if !is_ours {
        return None;
    }
    let call = dozing.hook.clone();
    if retire::is_stuck(draft, &fact.name) {
        return Some(Phase::Waking);
    }
    let reach = owner_reach(draft, fact);
    let (component, id, name) = (fact.component.clone(), fact.id.clone(), fact.name.clone());
    draft.act(Action::Rouse(Box::new(DozeOrder { component, id, name, call, wake: None, reach })));
    Some(Phase::Waking)
}

impl Memory {
    /// Returns what is known of a container that sleeps with its memory kept.
    pub fn dozing(&self, component: &ComponentKey, name: &str) -> Option<&Dozing> {
        self.revisions.get(component)?.dozing.get(name)
    }

    /// Notes that a container is about to be put to sleep: whatever comes of the order, it must be woken before it
    /// serves.
    pub fn note_doze(&mut self, order: &DozeOrder) {
        let dozing = Dozing { id: order.id.clone(), hook: order.wake.clone() };
        let revisions = self.revisions.entry(order.component.clone()).or_default();
        revisions.dozing.insert(order.name.clone(), dozing);
    }

    /// Notes that a container was woken, and that whatever it was told before is over.
    pub fn note_roused(&mut self, order: &DozeOrder) {
        if let Some(revisions) = self.revisions.get_mut(&order.component) {
            revisions.dozing.remove(&order.name);
        }
    }

    /// Notes that a container could not be put to sleep, or woken, in its way. A server that does not wake is started
    /// anew.
    pub fn note_sleepless(&mut self, action: &Action, message: &str) {
        match action {
            Action::Doze(order) => {
                self.sleepless.insert(order.id.clone());
            }
            Action::Rouse(order) if order.call.is_some() => {
                self.note_roused(order);
                let memory = self.containers.entry(order.name.clone()).or_default();
                let why = format!("server does not wake: {message}");
                memory.unhealthy = Some(Unhealthy { why, grace: None });
            }
            _ => {}
        }
    }

    /// Takes up what a pass found, and forgets containers that are gone.
    pub(super) fn note_found(&mut self, found: &Found) -> bool {
        let mut news = false;
        for (component, name, dozing) in found {
            let revisions = self.revisions.entry(component.clone()).or_default();
            news |= revisions.dozing.insert(name.clone(), dozing.clone()).as_ref() != Some(dozing);
        }
        news
    }

    /// Forgets containers that are gone.
    pub(super) fn tidy_dozing(&mut self, containers: &BTreeMap<String, ContainerFact>) {
        for revisions in self.revisions.values_mut().filter(|revisions| !revisions.dozing.is_empty()) {
            revisions.dozing.retain(|name, dozing| containers.get(name).is_some_and(|fact| fact.id == dozing.id));
        }
        let ids: HashSet<&str> = containers.values().map(|fact| fact.id.as_str()).collect();
        self.sleepless.retain(|id| ids.contains(id.as_str()));
    }
}
