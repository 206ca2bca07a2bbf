//! What a pass looks up for every service, put in order once.
//!
//! **Invariant:** a question about one service costs no walk over all of them, so that a pass grows as what there is grows.

use std::collections::HashSet;
use std::sync::Arc;

use super::memory::Revisions;
use super::preload;
use super::sleep::Rest;
use super::world::{ContainerFact, DesiredService, World};
use crate::api::ServiceKey;
use crate::workload::ComponentKey;

/// Containers by component, sandboxes apart, and who waits for what.
#[derive(Debug, Default)]
pub(super) struct Facts<'w> {
    containers: Vec<&'w ContainerFact>,
    histories: Vec<(&'w ComponentKey, &'w Revisions)>,
    waited_for: HashSet<&'w ServiceKey>,
    queued: HashSet<&'w ServiceKey>,
    next_preload: Option<&'w ServiceKey>,
}

/// One service that is wanted, and what there is of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own<'f, 'w> {
    pub(super) service: &'w Arc<DesiredService>,
    /// How it stands, when it may sleep.
    pub(super) rest: Option<Rest>,
    /// Its containers, component by component, sandboxes apart.
    pub(super) containers: &'f [&'w ContainerFact],
    histories: &'f [(&'w ComponentKey, &'w Revisions)],
}

impl<'w> Own<'_, 'w> {
    /// Returns the revisions of one of its components.
    pub(super) fn history(&self, component: &ComponentKey) -> Option<&'w Revisions> {
        let mut own = self.histories.iter().filter(|(key, _)| key.component == component.component);
        own.next().map(|(_, history)| *history)
    }
}

impl<'w> Facts<'w> {
    pub(super) fn new(world: &'w World) -> Self {
        let mut containers: Vec<&ContainerFact> = world.containers.values().filter(|fact| !fact.is_sandbox()).collect();
        containers.sort_by(|one, other| one.component.cmp(&other.component));
        let waiting = world.waiting.iter().filter(|(_, count)| **count > 0);
        Self {
            containers,
            histories: world.memory.revisions.iter().collect(),
            waited_for: waiting.map(|(component, _)| &component.service).collect(),
            queued: world.memory.queue.values().map(|queued| &queued.service).collect(),
            next_preload: preload::next(world),
        }
    }

    /// Returns the containers of a component, in order of their names.
    pub(super) fn of(&self, component: &ComponentKey) -> &[&'w ContainerFact] {
        self.among(|fact| fact.component.cmp(component))
    }

    /// Returns the containers of a service, component by component.
    pub(super) fn of_service(&self, service: &ServiceKey) -> &[&'w ContainerFact] {
        self.among(|fact| fact.component.service.cmp(service))
    }

    /// Returns every service that is wanted with what there is of it, and the containers of each that is not: one walk
    /// over all, which are in the same order, instead of a search for each.
    pub(super) fn by_service<'f>(&'f self, world: &'w World) -> (Vec<Own<'f, 'w>>, Vec<&'f [&'w ContainerFact]>) {
        let containers = self.containers.chunk_by(|one, other| one.component.service == other.component.service);
        let histories = self.histories.chunk_by(|one, other| one.0.service == other.0.service);
        let (mut containers, mut histories) = (containers.peekable(), histories.peekable());
        let (mut wanted, mut others) = (Vec::with_capacity(world.services.len()), Vec::new());
        for (key, service) in &world.services {
            others.extend(std::iter::from_fn(|| containers.next_if(|all| all[0].component.service < *key)));
            while histories.next_if(|all| all[0].0.service < *key).is_some() {}
            let containers = containers.next_if(|all| all[0].component.service == *key).unwrap_or_default();
            let histories = histories.next_if(|all| all[0].0.service == *key).unwrap_or_default();
            wanted.push(Own { service, rest: None, containers, histories });
        }
        others.extend(containers);
        (wanted, others)
    }

    /// Whether a request waits for a component of a service.
    pub(super) fn is_waited_for(&self, service: &ServiceKey) -> bool {
        self.waited_for.contains(service)
    }

    /// Whether a replica of a service waits for room.
    pub(super) fn is_queued(&self, service: &ServiceKey) -> bool {
        self.queued.contains(service)
    }

    /// Whether it is a service's turn to be woken because the daemon started.
    pub(super) fn is_preloaded_next(&self, service: &ServiceKey) -> bool {
        self.next_preload == Some(service)
    }

    fn among(&self, place: impl Fn(&ContainerFact) -> std::cmp::Ordering) -> &[&'w ContainerFact] {
        let begin = self.containers.partition_point(|fact| place(fact).is_lt());
        let length = self.containers[begin..].partition_point(|fact| place(fact).is_le());
        &self.containers[begin..begin + length]
    }
}
