//! How ended containers ended, asked once per ending: the engine's list does not say, and it does not change until the
//! next start.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bollard::models::ContainerInspectResponse;
use futures::StreamExt;

use super::docker_connection::{Connection, inspect};
use super::docker_list::{Ending, from_inspect};
use super::docker_memory_death::{Circumstances, look_closer};
use super::docker_network::leads_here;
use super::{Container, ContainerId, ContainerState, EngineError};

/// Endings learnt so far, and what we did that explains some.
#[derive(Debug, Default)]
pub(super) struct Endings {
    kept: Mutex<HashMap<String, Ending>>,
    /// Ids we told to stop since their last start.
    stopped: Mutex<HashSet<String>>,
    /// Starts so far: an ending learnt before a start is not kept after it.
    starts: AtomicU64,
}

impl Endings {
    /// Notes that a container is about to be started: what is known of its last run no longer holds.
    pub(super) fn starting(&self, id: &ContainerId) {
        let mut kept = lock(&self.kept);
        self.starts.fetch_add(1, Ordering::AcqRel);
        kept.remove(&id.0);
        lock(&self.stopped).remove(&id.0);
    }

    /// Notes that a container is about to be stopped by us.
    pub(super) fn stopping(&self, id: &ContainerId) {
        lock(&self.stopped).insert(id.0.clone());
    }

    /// Translates an inspected container, with its ending looked into.
    pub(super) async fn examine(
        &self,
        connection: &Connection,
        network: &str,
        inspected: ContainerInspectResponse,
    ) -> Container {
        let limit = inspected.host_config.as_ref().and_then(|host| host.memory);
        let limit = limit.and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
        let mut container = from_inspect(inspected, network, leads_here);
        let kept = lock(&self.kept).get(&container.id.0).cloned();
        match kept.filter(|ending| ending.finished_at == container.finished_at) {
            Some(ending) => ending.complete(&mut container),
            None => {
                let stopped_by_us = lock(&self.stopped).contains(&container.id.0);
                let known = Circumstances { limit, stopped_by_us };
                look_closer(connection, &mut container, known).await;
            }
        }
        container
    }

    /// Fills in how the ended ones of a list ended; one that vanished meanwhile is left out.
    pub(super) async fn tell(
        &self,
        connection: &Connection,
        network: &str,
        containers: &mut Vec<Container>,
    ) -> Result<(), EngineError> {
        let starts = self.starts.load(Ordering::Acquire);
        let ended: HashSet<String> =
            containers.iter().filter(|one| has_ended(one)).map(|one| one.id.0.clone()).collect();
        let mut known = lock(&self.kept).clone();
        known.retain(|id, _| ended.contains(id));
        let unknown: Vec<String> = ended.into_iter().filter(|id| !known.contains_key(id)).collect();
        let asked = futures::stream::iter(unknown.into_iter().map(|id| async move {
            let answer = match inspect(connection, "inspect", &id).await {
                Ok(inspected) => Ok(self.examine(connection, network, inspected).await),
                Err(error) => Err(error),
            };
            (id, answer)
        }));
        let answers: Vec<_> = asked.buffer_unordered(8).collect().await;
        for (id, answer) in answers {
            match answer {
                Ok(fresh) => match Ending::of(&fresh) {
                    Some(ending) => drop(known.insert(id, ending)),
                    None => replace(containers, fresh),
                },
                Err(EngineError::NoSuchContainer(_)) => containers.retain(|one| one.id.0 != id),
                Err(error) => return Err(error),
            }
        }
        for container in containers.iter_mut() {
            if let Some(ending) = known.get(&container.id.0) {
                ending.complete(container);
            }
        }
        self.keep(known, starts, containers);
        Ok(())
    }

    fn keep(&self, known: HashMap<String, Ending>, starts: u64, listed: &[Container]) {
        let mut kept = lock(&self.kept);
        if self.starts.load(Ordering::Acquire) == starts {
            *kept = known;
        }
        lock(&self.stopped).retain(|id| listed.iter().any(|one| one.id.0 == *id));
    }
}

fn has_ended(container: &Container) -> bool {
    matches!(container.state, ContainerState::Exited(_))
}

/// It was started again between the list and the question: the later answer counts.
fn replace(containers: &mut [Container], fresh: Container) {
    if let Some(listed) = containers.iter_mut().find(|one| one.id == fresh.id) {
        *listed = fresh;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
