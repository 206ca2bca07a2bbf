//! Actions, each in a task of its own; what becomes of it comes back as a fact.

use super::Driver;
use super::facts::Fact;
use crate::engine::ContainerId;
use crate::plan::world::FactState;
use crate::plan::{Action, ActionKey};
use crate::reconcile::access;
use crate::reconcile::execute::Failure;

impl Driver {
    pub(super) fn dispatch(&mut self, action: Action) {
        let key = action.key();
        self.world.in_flight.insert(key.clone());
        self.serial += 1;
        if let ActionKey::Container(name) = &key {
            self.touched.insert(name.clone(), self.serial);
        }
        let (executor, sender, tasks) = (self.parts.executor.clone(), self.sender.clone(), self.parts.tasks.clone());
        let done = async move |fact: Fact| {
            // The driver is gone: its successor finds out by looking.
            let _ = sender.send(fact).await;
        };
        match action {
            Action::PullModel { uri } => {
                let progress = self.pulls.model(&uri);
                let cancel = tasks.token();
                let access = access::of_model(&self.world, &uri);
                tasks.spawn("pull-model", async move {
                    let result = executor.pull_model(&uri, &access, progress, cancel).await;
                    done(Fact::Model { uri, result }).await;
                });
            }
            Action::CheckModel { uri } => {
                let cancel = tasks.token();
                let access = access::of_model(&self.world, &uri);
                tasks.spawn_droppable("check-model", async move {
                    let result = executor.check_model(&uri, &access, cancel).await;
                    done(Fact::Source { uri, result }).await;
                });
            }
            Action::CheckImage { image } => {
                tasks.spawn_droppable("check-image", async move {
                    let result = executor.engine.image_present(&image).await.map_err(Failure::from);
                    done(Fact::ImageChecked { image, result }).await;
                });
            }
            Action::PullImage { image } => {
                let progress = self.pulls.image(&image);
                let logins = access::of_image(&self.world, &image);
                tasks.spawn_droppable("pull-image", async move {
                    let result = executor.pull_image(&image, &logins, progress).await;
                    done(Fact::ImagePulled { image, result }).await;
                });
            }
            Action::LimitCpu { id, name, milli, run } => {
                tasks.spawn_droppable("limit", async move {
                    let result = executor.engine.limit_cpu(&ContainerId(id), milli).await;
                    done(Fact::Limited { name, run, result }).await;
                });
            }
            Action::Repository(order) => {
                // What it was doing is found half done, and is done anew.
                tasks.spawn_droppable("repository", async move {
                    let result = executor.repository(&order).await;
                    done(Fact::Repository { order, result }).await;
                });
            }
            Action::Probe(order) => {
                tasks.spawn_droppable("probe", async move {
                    let outcome = executor.probe(&order).await;
                    done(Fact::Probed { order, outcome }).await;
                });
            }
            action => {
                let last = self.note_container_action(&action);
                tasks.spawn_droppable("container", async move {
                    let result = executor.container(&action, last).await;
                    done(Fact::Container { action: Box::new(action), result }).await;
                });
            }
        }
    }

    /// Notes what is about to be done to a container. Says whether it is the last of its replica to be removed.
    pub(super) fn note_container_action(&mut self, action: &Action) -> bool {
        match action {
            Action::Start { name, .. } => {
                if matches!(self.world.containers.get(name).map(|fact| &fact.state), Some(FactState::Exited(_))) {
                    self.world.memory.note_restart(name);
                }
                false
            }
            Action::Stop { name, .. } => {
                self.world.memory.note_stop(name);
                false
            }
            Action::Doze(order) => {
                self.world.memory.note_doze(order);
                false
            }
            Action::Remove { name, replica, .. } => !self
                .world
                .containers
                .values()
                .any(|fact| fact.replica == *replica && fact.name != *name && !fact.is_sandbox()),
            _ => false,
        }
    }
}
