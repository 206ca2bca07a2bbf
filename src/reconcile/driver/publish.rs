//! What a plan says, shown and remembered before anything of it is done.

use std::collections::HashSet;
use std::sync::Arc;

use super::Driver;
use crate::plan::pods::say_the_same;
use crate::plan::ps::{self, RoomView};
use crate::plan::{Now, Plan};
use crate::reconcile::{pulls, said};

impl Driver {
    /// Shows what a plan says to those whom it concerns; what nobody else asks for is taken out of it.
    pub(super) fn publish(&self, plan: &mut Plan, now: Now) {
        let routes = std::mem::take(&mut plan.routes);
        if self.world.desired_known && !self.parts.routes.load().says_the_same(&routes) {
            self.parts.routes.store(Arc::new(routes));
            self.parts.board.announce_table();
        }
        said::publish(&self.parts.store, &self.parts.events, plan, now.wall);
        self.parts.pulls.send_replace(pulls::samples(&self.world));
        let pods = Arc::new(std::mem::take(&mut plan.pods));
        self.parts.pods.send_if_modified(|current| {
            let differs = !say_the_same(current, &pods);
            *current = pods;
            differs
        });
    }

    /// Shows who holds what, and why.
    fn show_room(&self, plan: &mut Plan) {
        let view = RoomView {
            machine: std::mem::take(&mut plan.machine),
            rows: std::mem::take(&mut plan.rows),
            explanations: Arc::clone(&self.world.memory.explanations),
            histories: Arc::clone(&self.histories),
        };
        self.parts.room.send_replace(Arc::new(view));
    }

    /// Keeps what a pass decided. Returns whether room came free that was granted: the next pass gives it to who waits.
    pub(super) fn remember(&mut self, plan: &mut Plan, now: Now) -> bool {
        self.world.memory.note_plan(plan, now);
        let granted = self.world.memory.granted.len();
        self.world.tidy(now);
        let came_free = self.world.memory.granted.len() < granted;
        self.grants.save(&self.desk, &self.parts.home, &self.world.memory.granted);
        let replicas: HashSet<&str> = self.world.containers.values().map(|fact| fact.replica.as_ref()).collect();
        self.parts.board.retain(|name| replicas.contains(name));
        let changed = self.book.save(&self.desk, &self.parts.home, &self.world.memory);
        // Revisions are named after what is wanted.
        if !changed.is_empty() || std::mem::take(&mut self.names_changed) {
            self.histories = Arc::new(ps::histories(&self.world));
        }
        self.show_room(plan);
        came_free
    }
}
