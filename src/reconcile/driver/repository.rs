//! TrainedModels: which are wanted, and what became of orders to their servers.

use std::collections::BTreeMap;

use super::{Driver, Urgency};
use crate::plan::ActionKey;
use crate::plan::trained::{Held, RepositoryOrder};
use crate::plan::world::ModelState;
use crate::reconcile::execute::Failure;
use crate::reconcile::trained;
use crate::store::Snapshot;

impl Driver {
    /// Takes up the TrainedModels that are desired. One that was changed gets a fresh try at once.
    pub(super) fn take_trained(&mut self, snapshot: &Snapshot) {
        let next = self.resolver.trained(snapshot);
        for uri in trained::changed(&self.world.trained, &next) {
            if let Some(state @ ModelState::Failed { .. }) = self.world.models.get_mut(&uri) {
                *state = ModelState::Absent;
            }
            self.model_failures.remove(&uri);
        }
        self.world.trained = next;
    }

    pub(super) fn take_repository(
        &mut self,
        order: &RepositoryOrder,
        result: Result<BTreeMap<String, Held>, Failure>,
    ) -> Urgency {
        self.world.in_flight.remove(&ActionKey::Repository(order.name.clone()));
        let result = result.map_err(|failure| {
            self.learn(&failure);
            failure.message
        });
        let now = self.parts.clock.now();
        trained::say(&self.parts.events, &self.world, order, &result, now);
        self.world.memory.note_repository(order, result, now);
        Urgency::Now
    }
}
