//! Actions, each in a task of its own; what becomes of it comes back as a fact.

use super::Driver;
use super::facts::Fact;
use crate::engine::ContainerId;
use crate::plan::world::FactState;
use crate::plan::{Action, ActionKey};
use crate::probe::Outcome;
use crate::reconcile::access;
use crate::reconcile::execute::Failure;
use crate::tasks::caught;

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
                    let pull = caught(executor.pull_model(&uri, access, progress, cancel));
                    let result = pull.await.unwrap_or_else(|words| Err(Failure::own(words)));
                    done(Fact::Model { uri, result }).await;
                });
            }
            Action::CheckModel { uri } => {
                let cancel = tasks.token();
                let access = access::of_model(&self.world, &uri);
                tasks.spawn_droppable("check-model", async move {
                    let check = caught(executor.check_model(&uri, access, cancel));
                    let result = check.await.unwrap_or_else(|words| Err(Failure::own(words)));
                    done(Fact::Source { uri, result }).await;
                });
            }
            Action::CheckImage { image } => {
                tasks.spawn_droppable("check-image", async move {
                    let present = caught(executor.engine.image_present(&image)).await.map_err(Failure::own);
                    let result = present.and_then(|present| present.map_err(Failure::from));
                    done(Fact::ImageChecked { image, result }).await;
                });
            }
            Action::PullImage { image } => {
                let progress = self.pulls.image(&image);
                let logins = access::of_image(&self.world, &image);
                tasks.spawn_droppable("pull-image", async move {
                    let pull = caught(executor.pull_image(&image, &logins, progress));
                    let result = pull.await.unwrap_or_else(|words| Err((Failure::own(words), false)));
                    done(Fact::ImagePulled { image, result }).await;
                });
            }
            Action::LimitCpu { id, name, milli, run } => {
                tasks.spawn_droppable("limit", async move {
                    let limited =
                        caught(executor.engine.limit_cpu(&ContainerId(id), milli)).await.map_err(Failure::own);
                    let result = limited.and_then(|limited| limited.map_err(Failure::from));
                    done(Fact::Limited { name, run, result }).await;
                });
            }
            Action::Repository(order) => {
                // What it was doing is found half done, and is done anew.
                tasks.spawn_droppable("repository", async move {
                    let result = caught(executor.repository(&order)).await;
                    let result = result.unwrap_or_else(|words| Err(Failure::own(words)));
                    done(Fact::Repository { order, result }).await;
                });
            }
            Action::Probe(order) => {
                tasks.spawn_droppable("probe", async move {
                    let outcome = caught(executor.probe(&order)).await.unwrap_or_else(Outcome::Unknown);
                    done(Fact::Probed { order, outcome }).await;
                });
            }
            action => {
                let last = self.note_container_action(&action);
                // What is granted is written before it is used, so that a daemon after this one does not grant it again.
                let granted = action.is_start().then(|| self.desk.settled());
                tasks.spawn_droppable("container", async move {
                    if let Some(granted) = granted {
                        granted.await;
                    }
                    let result = caught(executor.container(&action, last)).await;
                    let result = result.unwrap_or_else(|words| Err(Failure::own(words)));
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
