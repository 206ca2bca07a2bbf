//! How ended containers ended, asked once per ending: the engine's list does not say, and it does not change until the
//! next start.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bollard::models::ContainerInspectResponse;
use futures::StreamExt;

use super::docker_connection::{Connection, inspect};
use super::docker_find::FindError;
use super::docker_list::{Ending, from_inspect};
use super::docker_memory_death::{Circumstances, look_closer};
use super::docker_network::leads_here;
use super::{Container, ContainerId, ContainerState, EngineError, Exit};

/// Endings learnt so far, and what we did that explains some.
#[derive(Debug, Default)]
pub(super) struct Endings {
    kept: Mutex<HashMap<String, Ending>>,
    /// Ids we told to stop since their last start.
    stopped: Mutex<HashSet<String>>,
    /// Starts so far: an ending learnt before a start is not kept after it.
    starts: AtomicU64,
    /// Ids whose ending the engine would not tell at the last list.
    untold: Mutex<HashSet<String>>,
}

/// Code of a container that has ended, nobody knows how; Kubernetes gives the same one to `ContainerStatusUnknown`.
const UNKNOWN: i64 = 137;

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

    /// Fills in how the ended ones of a list ended; one that vanished meanwhile is left out. One the engine cannot tell
    /// of, for example because its files are damaged, ended somehow, and is asked for again at the next list: the others
    /// do not wait for it.
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
        let mut untold = HashSet::new();
        for (id, answer) in answers {
            match answer {
                Ok(fresh) => match Ending::of(&fresh) {
                    Some(ending) => drop(known.insert(id, ending)),
                    None => replace(containers, fresh),
                },
                Err(EngineError::NoSuchContainer(_)) => containers.retain(|one| one.id.0 != id),
                Err(error) if is_away(&error) => return Err(error),
                Err(error) => {
                    self.say_once(&id, &error);
                    unknown_ending(containers, &id, &error);
                    untold.insert(id);
                }
            }
        }
        *lock(&self.untold) = untold;
        for container in containers.iter_mut() {
            if let Some(ending) = known.get(&container.id.0) {
                ending.complete(container);
            }
        }
        self.keep(known, starts, containers);
        Ok(())
    }

    fn say_once(&self, id: &str, error: &EngineError) {
        if !lock(&self.untold).contains(id) {
            tracing::warn!(container = id, %error, "the engine does not tell how this container ended");
        }
    }

    fn keep(&self, known: HashMap<String, Ending>, starts: u64, listed: &[Container]) {
        let mut kept = lock(&self.kept);
        if self.starts.load(Ordering::Acquire) == starts {
            *kept = known;
        }
        lock(&self.stopped).retain(|id| listed.iter().any(|one| one.id.0 == *id));
    }
}

/// Whether the engine itself is gone; one that is silent about a single container has just answered the list.
fn is_away(error: &EngineError) -> bool {
    match error {
        EngineError::Unreachable { source, .. } => !matches!(source.downcast_ref(), Some(FindError::Silent)),
        _ => false,
    }
}

fn unknown_ending(containers: &mut [Container], id: &str, error: &EngineError) {
    if let Some(container) = containers.iter_mut().find(|one| one.id.0 == id) {
        let error = format!("how it ended is not known: {error}");
        container.state =
            ContainerState::Exited(Exit { code: UNKNOWN, out_of_memory: false, killed_under_limit: None, error });
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

#[cfg(test)]
mod tests {
    use super::super::ContainerEngine;
    use super::super::docker_imitation::Imitation;
    use super::*;

    #[tokio::test]
    async fn one_container_that_cannot_be_inspected_hides_no_other() {
        let imitation = Imitation::start(|question| {
            let listed = r#"[{"Id":"damaged","Names":["/a"],"State":"exited"},
                {"Id":"well","Names":["/b"],"State":"exited"},{"Id":"runs","Names":["/c"],"State":"running"}]"#;
            let well = r#"{"Id":"well","Name":"/b","State":{"Status":"exited","ExitCode":3}}"#;
            Some(match question {
                list if list.starts_with("GET /containers/json") => (200, listed.to_owned()),
                "GET /containers/damaged/json" => (500, r#"{"message":"layer does not exist"}"#.to_owned()),
                "GET /containers/well/json" => (200, well.to_owned()),
                other => (501, format!(r#"{{"message":"not imitated: {other}"}}"#)),
            })
        });
        for round in 1..=2 {
            let listed = imitation.engine.list().await.unwrap();
            let states: Vec<_> = listed.into_iter().map(|container| container.state).collect();
            let ContainerState::Exited(damaged) = &states[0] else { panic!("{states:?}") };
            assert!(damaged.code == UNKNOWN && damaged.error.contains("layer does not exist"), "{damaged:?}");
            assert!(matches!(&states[1], ContainerState::Exited(exit) if exit.code == 3), "{states:?}");
            assert_eq!(states[2], ContainerState::Running);
            assert_eq!(imitation.count("GET /containers/damaged/"), round, "it is asked again");
        }
    }
}
