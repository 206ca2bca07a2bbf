//! What a plan says, shown and remembered before anything of it is done.

use std::collections::HashSet;
use std::sync::Arc;

use tracing::warn;

use super::Driver;
use crate::home::write_atomically;
use crate::plan::ps::{self, RoomView};
use crate::plan::{Now, Plan};
use crate::reconcile::{pulls, revisions, said};

impl Driver {
    pub(super) fn publish(&self, plan: &Plan, now: Now) {
        if self.world.desired_known && *self.parts.routes.load_full() != plan.routes {
            self.parts.routes.store(Arc::new(plan.routes.clone()));
            self.parts.board.announce_table();
        }
        said::publish(&self.parts.store, &self.parts.events, plan, now.wall);
        self.parts.pulls.send_replace(pulls::samples(&self.world));
        let pods = Arc::new(plan.pods.clone());
        self.parts.pods.send_if_modified(|current| {
            let differs = *current != pods;
            *current = pods;
            differs
        });
    }

    /// Shows who holds what, and why.
    pub(super) fn show_room(&self, plan: &Plan) {
        let view = RoomView {
            machine: plan.machine.clone(),
            rows: plan.rows.clone(),
            explanations: self.world.memory.explanations.clone(),
            histories: ps::histories(&self.world),
        };
        self.parts.room.send_replace(Arc::new(view));
    }

    pub(super) fn remember(&mut self, plan: &Plan, now: Now) {
        self.world.memory.note_plan(plan, now);
        self.show_room(plan);
        self.world.tidy(now);
        self.grants.save(&self.desk, &self.parts.home, &self.world.memory.granted);
        let replicas: HashSet<&str> = self.world.containers.values().map(|fact| fact.replica.as_ref()).collect();
        self.parts.board.retain(|name| replicas.contains(name));
        if self.world.memory.revisions != self.saved_revisions || std::mem::take(&mut self.sources_changed) {
            self.save_revisions();
        }
    }

    pub(super) fn save_revisions(&mut self) {
        self.saved_revisions.clone_from(&self.world.memory.revisions);
        let bytes = revisions::to_bytes(&self.world.memory);
        let path = self.parts.home.revisions();
        self.desk.order("revisions", move || {
            if let Err(error) = write_atomically(&path, &bytes, 0o600) {
                warn!(%path, %error, "could not save the revisions");
            }
        });
    }
}
