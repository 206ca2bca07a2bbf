//! The in-memory engine, with faults on order.
//!
//! A real backend: it passes the conformance suite Docker passes. Containers are entries in a table that move through
//! their states by tokio's clock, so paused time works; those whose behaviour says so serve models on loopback ports, so
//! the whole daemon can be tested without Docker. It makes no use of a spec's mounts, limits or environment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::watch;
use tokio::time::Instant;

use super::memory_machine::{Life, State, refused};
pub use super::memory_script::{Behaviour, Command, Fault, Remote, Serves, Verb};
use super::memory_server::Server;
use super::{
    Blame, Container, ContainerEngine, ContainerId, CreateContainer, EngineError, EngineInfo, Exit, LogLine,
    LogOptions, PullProgress, Usage,
};
use crate::workload::names::INSTANCE_LABEL;

/// One instance's view of an in-memory machine. Cheap to clone; clones see the same machine.
#[derive(Clone, Debug)]
pub struct MemoryEngine {
    instance: String,
    holds_networks: bool,
    machine: Arc<Machine>,
}

#[derive(Debug)]
struct Machine {
    state: Mutex<State>,
    /// Counts changes; a change that only time brings is not counted.
    changed: watch::Sender<u64>,
}

impl MemoryEngine {
    /// Switches a machine on and returns one instance's view of it. Needs a tokio runtime.
    pub fn new(instance: &str) -> Self {
        let machine = Machine { state: Mutex::new(State::new()), changed: watch::Sender::new(0) };
        Self { instance: instance.to_owned(), holds_networks: false, machine: Arc::new(machine) }
    }

    /// Returns another instance's view of the same machine.
    pub fn for_instance(&self, instance: &str) -> Self {
        Self { instance: instance.to_owned(), machine: Arc::clone(&self.machine), ..*self }
    }

    /// Makes it offer containers that hold a network for others, as Docker does.
    #[must_use]
    pub fn holding_networks(self) -> Self {
        Self { holds_networks: true, ..self }
    }

    /// Puts an image on the machine and says how its containers behave.
    #[must_use]
    pub fn with_behaviour(self, image: &str, behaviour: Behaviour) -> Self {
        self.set_behaviour(image, behaviour);
        self.state().present.insert(image.to_owned());
        self
    }

    /// Puts every image there is on the machine; those that were given no behaviour of their own have this one.
    #[must_use]
    pub fn with_any_image(self, behaviour: Behaviour) -> Self {
        self.state().any = Some(behaviour);
        self
    }

    /// Puts an image into a registry.
    #[must_use]
    pub fn with_remote(self, image: &str, remote: Remote) -> Self {
        self.state().registry.insert(image.to_owned(), remote);
        self
    }

    /// Says how containers of an image behave from now on, present or not.
    pub fn set_behaviour(&self, image: &str, behaviour: Behaviour) {
        self.state().behaviours.insert(image.to_owned(), behaviour);
    }

    /// Removes an image from the machine.
    pub fn forget_image(&self, image: &str) {
        self.state().present.remove(image);
    }

    /// Orders a fault for the `nth` call of a verb from now, the next being 1.
    pub fn on_call(&self, verb: Verb, nth: u64, fault: Fault) {
        self.state().script.order(verb, nth, fault);
    }

    /// Makes the engine answer nothing, or answer again. Containers go on.
    pub fn set_away(&self, away: bool) {
        self.state().away = away;
        self.ring();
    }

    /// Returns how often a verb was called.
    pub fn calls(&self, verb: Verb) -> u64 {
        self.state().script.calls(verb)
    }

    /// Ends a running container from outside.
    pub fn end(&self, name: &str, exit: Exit) {
        let now = Instant::now();
        if let Some(cell) = self.state().named(name) {
            cell.end(now, exit);
        }
        self.ring();
    }

    /// Makes a container of somebody else: with whatever labels it has, and no questions asked.
    pub fn plant(&self, request: &CreateContainer) -> ContainerId {
        let id = self.state().make(request);
        self.ring();
        id
    }

    /// Removes a container from outside.
    pub fn lose(&self, name: &str) {
        self.state().containers.retain(|_, cell| cell.request.name != name);
        self.ring();
    }

    /// Makes a container write a line.
    pub fn say(&self, name: &str, text: &str) {
        {
            let mut state = self.state();
            let at = Some(state.time(Instant::now()));
            if let Some(cell) = state.named(name) {
                cell.log.push(LogLine { at, stderr: false, text: text.to_owned() });
            }
        }
        self.ring();
    }

    /// Returns how many requests a container's server has taken since it started.
    pub fn requests(&self, name: &str) -> u64 {
        self.state().named(name).and_then(|cell| cell.server.as_ref()).map(Server::requests).unwrap_or_default()
    }

    /// Returns every container of the machine, whoever's, with names in order.
    pub fn everything(&self) -> Vec<Container> {
        let state = self.state();
        let mut all: Vec<Container> = state.containers.keys().filter_map(|id| state.shown(id)).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    fn ring(&self) {
        self.machine.changed.send_modify(|count| *count += 1);
    }

    /// Locks the machine, with everything time has brought already in it.
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.machine.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        state.containers.values_mut().for_each(|cell| cell.pass_time(now));
        state
    }

    /// Counts a call and plays its faults; returns whether its reply will be lost and whether its answer is stale.
    async fn enter(&self, verb: Verb) -> Result<(Reply, Freshness), EngineError> {
        let faults = self.state().script.count(verb);
        let (mut reply, mut freshness) = (Reply::Given, Freshness::Fresh);
        for fault in faults {
            match fault {
                Fault::Fail(error) => return Err(error),
                Fault::LoseReply => reply = Reply::Lost,
                Fault::Delay(wait) => tokio::time::sleep(wait).await,
                Fault::Hang => std::future::pending().await,
                Fault::Panic => panic!("as ordered"),
                Fault::Stale => freshness = Freshness::Stale,
            }
        }
        if self.state().away { Err(self.unreachable()) } else { Ok((reply, freshness)) }
    }

    /// Does one thing under the lock.
    async fn perform<T>(
        &self,
        verb: Verb,
        act: impl FnOnce(&Self, &mut State) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let (reply, _) = self.enter(verb).await?;
        let result = act(self, &mut self.state());
        reply.deliver(self, result)
    }

    fn unreachable(&self) -> EngineError {
        let source = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "the in-memory engine is away");
        EngineError::Unreachable { endpoint: "memory (in-process)".to_owned(), source: Arc::new(source) }
    }

    /// Returns lines from the `from`th on, and whether more may come.
    fn lines_from(&self, id: &ContainerId, from: usize) -> (Vec<LogLine>, bool) {
        let state = self.state();
        match state.containers.get(&id.0) {
            Some(cell) => {
                let lines = cell.log.get(from..).unwrap_or_default().to_vec();
                (lines, matches!(cell.life, Life::Running { .. }))
            }
            None => (Vec::new(), false),
        }
    }

    /// Waits for a change, be it by time alone.
    async fn next_change(&self, seen: &mut watch::Receiver<u64>) {
        let ends = self.state().next_end();
        let end = async {
            match ends {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Both only say "look again"; the one that loses is looked for anew. The machine outlives its view.
            _ = seen.changed() => {}
            () = end => {}
        }
    }
}

#[async_trait]
impl ContainerEngine for MemoryEngine {
    async fn info(&self) -> Result<EngineInfo, EngineError> {
        self.perform(Verb::Info, |_, _| {
            Ok(EngineInfo {
                name: "memory".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                endpoint: "memory (in-process)".to_owned(),
                memory_total: 16 << 30,
                cpus: 8,
                platform: "linux/amd64".to_owned(),
            })
        })
        .await
    }

    fn holds_networks(&self) -> bool {
        self.holds_networks
    }

    async fn list(&self) -> Result<Vec<Container>, EngineError> {
        let (reply, freshness) = self.enter(Verb::List).await?;
        let mut listed = self.everything();
        listed.retain(|container| container.labels.get(INSTANCE_LABEL) == Some(&self.instance));
        let previous = self.state().last_list.insert(self.instance.clone(), listed.clone());
        reply.deliver(self, Ok(if freshness == Freshness::Stale { previous.unwrap_or_default() } else { listed }))
    }

    async fn create(&self, request: &CreateContainer) -> Result<ContainerId, EngineError> {
        let created = self.perform(Verb::Create, |engine, state| state.create(&engine.instance, request)).await;
        self.ring();
        created
    }

    async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        let started = self.perform(Verb::Start, |engine, state| state.start(&engine.instance, id)).await;
        self.ring();
        started
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        let (reply, _) = self.enter(Verb::Stop).await?;
        let end = self.state().signal(&self.instance, id, grace)?;
        self.ring();
        if let Some(at) = end {
            tokio::time::sleep_until(at).await;
            self.ring();
        }
        reply.deliver(self, Ok(()))
    }

    async fn pause(&self, id: &ContainerId) -> Result<(), EngineError> {
        let paused = self.perform(Verb::Pause, |engine, state| state.pause(&engine.instance, id)).await;
        self.ring();
        paused
    }

    async fn unpause(&self, id: &ContainerId) -> Result<(), EngineError> {
        let went_on = self.perform(Verb::Unpause, |engine, state| state.unpause(&engine.instance, id)).await;
        self.ring();
        went_on
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), EngineError> {
        let removed = self.perform(Verb::Remove, |engine, state| state.remove(&engine.instance, id)).await;
        self.ring();
        removed
    }

    async fn image_present(&self, image: &str) -> Result<bool, EngineError> {
        self.perform(Verb::ImagePresent, |_, state| Ok(state.has_image(image))).await
    }

    async fn pull_image(
        &self,
        image: &str,
        _logins: &[String],
        progress: watch::Sender<PullProgress>,
    ) -> Result<(), EngineError> {
        const STEPS: u32 = 4;
        let (reply, _) = self.enter(Verb::PullImage).await?;
        let failure =
            |message: String, permanent| EngineError::ImagePull { image: image.to_owned(), message, permanent };
        let Some(remote) = self.state().registry.get(image).cloned() else {
            return Err(failure("manifest unknown".to_owned(), true));
        };
        for step in 1..=STEPS {
            tokio::time::sleep(remote.takes / STEPS).await;
            let done = remote.bytes * u64::from(step) / u64::from(STEPS);
            progress.send_replace(PullProgress { done, total: remote.bytes, phase: "downloading".to_owned() });
        }
        if let Some((message, permanent)) = remote.error {
            return Err(failure(message, permanent));
        }
        self.state().present.insert(image.to_owned());
        reply.deliver(self, Ok(()))
    }

    async fn inspect(&self, id: &ContainerId) -> Result<Container, EngineError> {
        self.perform(Verb::Inspect, |engine, state| {
            state.ours(&engine.instance, "inspect", id)?;
            let key = state.key(&id.0).unwrap_or_default();
            state.shown(&key).ok_or_else(|| EngineError::NoSuchContainer(id.0.clone()))
        })
        .await
    }

    async fn usage(&self, ids: &[ContainerId]) -> Result<HashMap<ContainerId, Usage>, EngineError> {
        let state = self.state();
        Ok(ids.iter().filter_map(|id| Some((id.clone(), state.usage(&id.0)?))).collect())
    }

    async fn exec(
        &self,
        id: &ContainerId,
        command: &[String],
        timeout: Duration,
    ) -> Result<(i64, String), EngineError> {
        const VERB: &str = "run a command in";
        let run = self.perform(Verb::Exec, |engine, state| {
            let cell = state.ours(&engine.instance, VERB, id)?;
            if !matches!(cell.life, Life::Running { .. }) {
                return Err(refused(VERB, &id.0, "it is not running", Blame::Machine));
            }
            let image = cell.request.spec.image.clone();
            Ok(state.behaviour(&image).commands.get(command).cloned().unwrap_or_default())
        });
        let run = run.await?;
        tokio::time::sleep(run.takes.min(timeout)).await;
        if run.takes > timeout {
            let message = format!("`{}` did not end within {timeout:?}", command.join(" "));
            return Err(refused(VERB, &id.0, message, Blame::User));
        }
        Ok((run.code, run.output))
    }

    async fn logs(
        &self,
        id: &ContainerId,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogLine, EngineError>>, EngineError> {
        let seen = self.machine.changed.subscribe();
        let (key, written) = self
            .perform(Verb::Logs, |engine, state| {
                let written = state.ours(&engine.instance, "read the logs of", id)?.log.len();
                Ok((ContainerId(state.key(&id.0).unwrap_or_default()), written))
            })
            .await?;
        let from = options.tail.map_or(0, |tail| written.saturating_sub(tail));
        let start = Some((self.clone(), seen, from));
        let (follow, since) = (options.follow, options.since);
        let batches = stream::unfold(start, move |place| {
            let key = key.clone();
            async move {
                let (engine, mut seen, from) = place?;
                loop {
                    let (lines, more) = engine.lines_from(&key, from);
                    if !follow || !more {
                        return Some((lines, None));
                    }
                    if !lines.is_empty() {
                        let next = from + lines.len();
                        return Some((lines, Some((engine, seen, next))));
                    }
                    engine.next_change(&mut seen).await;
                }
            }
        });
        let lines = batches.flat_map(|lines| stream::iter(lines.into_iter().map(Ok)));
        let young = move |line: &LogLine| line.at.is_none_or(|at| since.is_none_or(|since| at >= since));
        Ok(lines.try_filter(move |line| futures::future::ready(young(line))).boxed())
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        let seen = self.machine.changed.subscribe();
        let changes = stream::unfold((self.clone(), seen), |(engine, mut seen)| async move {
            engine.next_change(&mut seen).await;
            Some(((), (engine, seen)))
        });
        // As with a real engine, the first hint says that the ear is open.
        stream::iter([()]).chain(changes).boxed()
    }
}

/// Whether the caller hears of what was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    Given,
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Freshness {
    Fresh,
    Stale,
}

impl Reply {
    fn deliver<T>(self, engine: &MemoryEngine, result: Result<T, EngineError>) -> Result<T, EngineError> {
        match self {
            Self::Given => result,
            Self::Lost => Err(engine.unreachable()),
        }
    }
}
