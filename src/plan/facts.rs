//! What a pass looks up for every service, put in order once.
//!
//! **Invariant:** a question about one service costs no walk over all of them, so that a pass grows as what there is grows.

use std::collections::HashSet;

use super::preload;
use super::world::{ContainerFact, World};
use crate::api::ServiceKey;
use crate::workload::ComponentKey;

/// Containers by component, sandboxes apart, and who waits for what.
#[derive(Debug, Default)]
pub(super) struct Facts<'w> {
    containers: Vec<&'w ContainerFact>,
    waited_for: HashSet<&'w ServiceKey>,
    queued: HashSet<&'w ServiceKey>,
    next_preload: Option<&'w ServiceKey>,
}

impl<'w> Facts<'w> {
    pub(super) fn new(world: &'w World) -> Self {
        let mut containers: Vec<&ContainerFact> = world.containers.values().filter(|fact| !fact.is_sandbox()).collect();
        containers.sort_by(|one, other| one.component.cmp(&other.component));
        let waiting = world.waiting.iter().filter(|(_, count)| **count > 0);
        Self {
            containers,
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

    /// Returns the containers of each component that has any.
    pub(super) fn by_component(&self) -> impl Iterator<Item = &[&'w ContainerFact]> {
        self.containers.chunk_by(|one, other| one.component == other.component)
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
