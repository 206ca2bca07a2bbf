//! Which replicas there are, and whether what was granted may still be on its way.

use std::collections::{BTreeSet, HashMap};

use super::action::ActionKey;
use super::admission::Grant;
use super::world::World;
use crate::api::meta;
use crate::workload::names;

/// Which replicas there are, and which are worked on.
pub(super) struct Presence<'w> {
    world: &'w World,
    /// Replicas with containers, and whether one of those is no sandbox.
    there: HashMap<&'w str, bool>,
    /// Names of containers somebody works on.
    worked_on: BTreeSet<&'w str>,
}

impl<'w> Presence<'w> {
    pub(super) fn of(world: &'w World) -> Self {
        let mut there: HashMap<&str, bool> = HashMap::new();
        for fact in world.containers.values() {
            *there.entry(fact.replica.as_ref()).or_default() |= !fact.is_sandbox();
        }
        let name = |key: &'w ActionKey| match key {
            ActionKey::Container(name) => Some(name.as_str()),
            _ => None,
        };
        Self { world, there, worked_on: world.in_flight.iter().filter_map(name).collect() }
    }

    /// Whether a replica has any container.
    pub(super) fn is_there(&self, replica: &str) -> bool {
        self.there.contains_key(replica)
    }

    /// Whether what was granted may still be on its way: somebody works on it, or no list has shown since that it is not
    /// there.
    pub(super) fn is_pending(&self, replica: &str, grant: &Grant) -> bool {
        if self.there.get(replica).copied().unwrap_or_default() {
            return true;
        }
        let own = prefix(&self.world.instance, replica);
        let is_worked_on = self.worked_on.range(own.as_str()..).next().is_some_and(|name| name.starts_with(&own));
        is_worked_on || self.world.listed_at.is_none_or(|listed| listed <= grant.at)
    }
}

/// Whether a container's name says that it is one of a replica's.
pub(super) fn is_of(instance: &str, replica: &str, container: &str) -> bool {
    container.starts_with(&prefix(instance, replica))
}

/// What the names of a replica's containers begin with.
fn prefix(instance: &str, replica: &str) -> String {
    names::container_name(instance, replica, meta::KSERVE_CONTAINER)
}
