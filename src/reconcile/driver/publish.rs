//! What a plan says, shown and remembered before anything of it is done.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Driver, HEARTBEAT, Urgency};
use crate::plan::pods::say_the_same;
use crate::plan::{Now, Plan, ps};
use crate::reconcile::questions::{Past, Question};
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

    /// Answers a question of a person's. Whoever has gone meanwhile does not hear it.
    pub(super) fn answer(&mut self, question: Question) -> Urgency {
        match question {
            Question::Room(answer) => {
                drop(answer.send(ps::room(&self.world, self.parts.clock.now(), &mut self.memo)));
            }
            Question::Past(service, answer) => {
                let decision = self.world.memory.explanations.get(&service).cloned();
                drop(answer.send(Past { decision, revisions: ps::history(&self.world, &service) }));
            }
        }
        Urgency::Never
    }

    /// Forgets what is remembered of what is gone.
    fn tidy(&mut self, now: Now) {
        self.world.tidy(now);
        let replicas: HashSet<&str> = self.world.containers.values().map(|fact| fact.replica.as_ref()).collect();
        self.parts.board.retain(|name| replicas.contains(name));
    }

    /// Keeps what a pass decided. Returns whether room came free that was granted: the next pass gives it to who waits.
    pub(super) fn remember(&mut self, plan: &Plan, now: Now) -> bool {
        self.world.memory.note_plan(plan, now);
        let granted = self.world.memory.granted.len();
        if std::mem::take(&mut self.untidy) || now.tick >= self.tidied + HEARTBEAT {
            self.tidied = now.tick;
            self.tidy(now);
        }
        let came_free = self.world.memory.granted.len() < granted;
        self.grants.save(&self.desk, &self.parts.home, &self.world.memory.granted);
        self.book.save(&self.desk, &self.parts.home, &self.world.memory);
        came_free
    }
}
