//! The in-memory engine, with faults on order.
//!
//! A real backend: it passes the conformance suite Docker passes. Containers are entries in a table that move through
//! their states by tokio's clock, so paused time works; those whose behaviour says so serve models on loopback ports, so
//! the whole daemon can be tested without Docker. It makes no use of a spec's mounts, limits or environment.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;

use super::docker_spec::{Abilities, ImageFacts, ReachBy, check_label, create_body};
use super::memory_script::Script;
pub use super::memory_script::{Behaviour, Command, Fault, Remote, Serves, Verb};
use super::memory_server::Server;
use super::{
    Blame, Container, ContainerEngine, ContainerId, ContainerState, CreateContainer, EngineError, EngineInfo, Exit,
    LogLine, LogOptions, Network, PullProgress, Reach,
};
use crate::tasks::Tasks;
use crate::workload::names::INSTANCE_LABEL;

/// 2026-01-01T00:00:00Z, when every in-memory machine was switched on.
const SWITCHED_ON: i64 = 1_767_225_600;
/// A port nothing listens on, for containers that serve nothing.
const NOBODY: u16 = 1;

/// One instance's view of an in-memory machine. Cheap to clone; clones see the same machine.
#[derive(Clone, Debug)]
pub struct MemoryEngine {
    instance: String,
    machine: Arc<Machine>,
}

#[derive(Debug)]
struct Machine {
    state: Mutex<State>,
    /// Counts changes; a change that only time brings is not counted.
    changed: watch::Sender<u64>,
    switched_on: Instant,
    tasks: Tasks,
}

#[derive(Debug, Default)]
struct State {
    present: HashSet<String>,
    behaviours: HashMap<String, Behaviour>,
    registry: HashMap<String, Remote>,
    containers: BTreeMap<String, Cell>,
    made: u64,
    away: bool,
    script: Script,
    last_list: HashMap<String, Vec<Container>>,
}

/// One container.
#[derive(Debug)]
struct Cell {
    request: CreateContainer,
    made_at: Instant,
    life: Life,
    log: Vec<LogLine>,
    server: Option<Server>,
}

#[derive(Clone, Debug, PartialEq)]
enum Life {
    Created,
    Running { since: Instant, ends: Option<(Instant, Exit)> },
    Ended { since: Instant, at: Instant, exit: Exit },
}

impl MemoryEngine {
    /// Switches a machine on and returns one instance's view of it. Needs a tokio runtime.
    pub fn new(instance: &str) -> Self {
        let machine = Machine {
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            switched_on: Instant::now(),
            tasks: Tasks::new(),
        };
        Self { instance: instance.to_owned(), machine: Arc::new(machine) }
    }

    /// Returns another instance's view of the same machine.
    pub fn for_instance(&self, instance: &str) -> Self {
        Self { instance: instance.to_owned(), machine: Arc::clone(&self.machine) }
    }

    /// Puts an image on the machine and says how its containers behave.
    #[must_use]
    pub fn with_behaviour(self, image: &str, behaviour: Behaviour) -> Self {
        self.set_behaviour(image, behaviour);
        self.state().present.insert(image.to_owned());
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
        let at = self.time(Instant::now());
        if let Some(cell) = self.state().named(name) {
            cell.log.push(LogLine { at: Some(at), stderr: false, text: text.to_owned() });
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
        let mut all: Vec<Container> = state.containers.keys().filter_map(|id| self.shown(&state, id)).collect();
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

    fn time(&self, at: Instant) -> Timestamp {
        let since = at.saturating_duration_since(self.machine.switched_on);
        let start = Timestamp::from_second(SWITCHED_ON).unwrap_or_default();
        start.checked_add(SignedDuration::try_from(since).unwrap_or_default()).unwrap_or(start)
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

    /// Returns a container as an engine would list it.
    fn shown(&self, state: &State, id: &str) -> Option<Container> {
        let cell = state.containers.get(id)?;
        let (container_state, started_at, finished_at) = match &cell.life {
            Life::Created => (ContainerState::Created, None, None),
            Life::Running { since, .. } => (ContainerState::Running, Some(*since), None),
            Life::Ended { since, at, exit } => (ContainerState::Exited(exit.clone()), Some(*since), Some(*at)),
        };
        Some(Container {
            id: ContainerId(id.to_owned()),
            name: cell.request.name.clone(),
            labels: cell.request.labels.clone(),
            image: cell.request.spec.image.clone(),
            state: container_state,
            created_at: Some(self.time(cell.made_at)),
            started_at: started_at.map(|at| self.time(at)),
            finished_at: finished_at.map(|at| self.time(at)),
            reach: state.reach(cell),
        })
    }

    /// Returns the container if it is there and ours.
    fn ours<'s>(
        &self,
        state: &'s mut State,
        verb: &'static str,
        id: &ContainerId,
    ) -> Result<&'s mut Cell, EngineError> {
        let key = state.key(&id.0).ok_or_else(|| EngineError::NoSuchContainer(id.0.clone()))?;
        let cell = state.containers.get_mut(&key).ok_or_else(|| EngineError::NoSuchContainer(id.0.clone()))?;
        if cell.request.labels.get(INSTANCE_LABEL) != Some(&self.instance) {
            let message = format!("it does not carry the label `{INSTANCE_LABEL}={}`", self.instance);
            return Err(refused(verb, &id.0, message, Blame::Machine));
        }
        Ok(cell)
    }

    fn create_now(&self, state: &mut State, request: &CreateContainer) -> Result<ContainerId, EngineError> {
        check_label(request, &self.instance)?;
        if !state.present.contains(&request.spec.image) {
            return Err(EngineError::ImageAbsent(request.spec.image.clone()));
        }
        let image = ImageFacts { user: state.behaviour(&request.spec.image).user, stop_signal: None };
        create_body(request, &Abilities::default(), &image, "memory", ReachBy::Loopback)
            .map_err(|refusal| refused("create", &request.name, refusal.to_string(), Blame::User))?;
        if let Network::Join(target) = &request.network {
            self.ours(state, "join the network of", &ContainerId(target.clone()))?;
        }
        if let Some(id) = state.key(&request.name) {
            let taken = state.containers.get(&id).map(|cell| &cell.request.labels);
            let same =
                taken.is_some_and(|labels| request.labels.iter().all(|(name, value)| labels.get(name) == Some(value)));
            return if same { Ok(ContainerId(id)) } else { Err(EngineError::NameTaken(request.name.clone())) };
        }
        Ok(state.make(request))
    }

    fn start_now(&self, state: &mut State, id: &ContainerId) -> Result<(), EngineError> {
        let cell = self.ours(state, "start", id)?;
        let request = cell.request.clone();
        if matches!(cell.life, Life::Running { .. }) {
            return Ok(());
        }
        if let Network::Join(target) = &request.network
            && !state.named(target).is_some_and(|cell| matches!(cell.life, Life::Running { .. }))
        {
            let message = format!("cannot join network of a non running container: {target}");
            return Err(refused("start", &id.0, message, Blame::Machine));
        }
        let behaviour = state.behaviour(&request.spec.image);
        if let Some(message) = behaviour.start_error {
            return Err(refused("start", &id.0, message, Blame::User));
        }
        let server = match behaviour.serves {
            Some(serves) => Some(
                Server::start(&self.machine.tasks, &served_ports(&request), serves)
                    .map_err(|error| refused("start", &id.0, error.to_string(), Blame::Machine))?,
            ),
            None => None,
        };
        let now = Instant::now();
        let at = Some(self.time(now));
        let cell = self.ours(state, "start", id)?;
        cell.server = server;
        cell.life = Life::Running { since: now, ends: behaviour.ends.map(|(after, exit)| (now + after, exit)) };
        cell.log.extend(behaviour.says.into_iter().map(|text| LogLine { at, stderr: false, text }));
        Ok(())
    }

    /// Sends the stop signal and returns when the container will have ended.
    fn signal(&self, state: &mut State, id: &ContainerId, grace: Duration) -> Result<Option<Instant>, EngineError> {
        let image = match self.ours(state, "stop", id) {
            Ok(cell) => cell.request.spec.image.clone(),
            Err(EngineError::NoSuchContainer(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let takes = state.behaviour(&image).stop_takes;
        let code = if takes > grace { 137 } else { 0 };
        let at = Instant::now() + takes.min(grace);
        let cell = self.ours(state, "stop", id)?;
        if let Life::Running { ends, .. } = &mut cell.life
            && ends.as_ref().is_none_or(|(earlier, _)| *earlier > at)
        {
            *ends = Some((at, Exit { code, ..Exit::default() }));
        }
        let end = match &cell.life {
            Life::Running { ends: Some((at, _)), .. } => Some(*at),
            _ => None,
        };
        cell.pass_time(Instant::now());
        Ok(end)
    }

    fn remove_now(&self, state: &mut State, id: &ContainerId) -> Result<(), EngineError> {
        match self.ours(state, "remove", id) {
            Ok(_) => {}
            Err(EngineError::NoSuchContainer(_)) => return Ok(()),
            Err(error) => return Err(error),
        }
        if let Some(key) = state.key(&id.0) {
            state.containers.remove(&key);
        }
        Ok(())
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
        let ends = {
            let state = self.state();
            let ends = |cell: &Cell| match &cell.life {
                Life::Running { ends: Some((at, _)), .. } => Some(*at),
                _ => None,
            };
            state.containers.values().filter_map(ends).min()
        };
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

    async fn list(&self) -> Result<Vec<Container>, EngineError> {
        let (reply, freshness) = self.enter(Verb::List).await?;
        let mut listed = self.everything();
        listed.retain(|container| container.labels.get(INSTANCE_LABEL) == Some(&self.instance));
        let previous = self.state().last_list.insert(self.instance.clone(), listed.clone());
        reply.deliver(self, Ok(if freshness == Freshness::Stale { previous.unwrap_or_default() } else { listed }))
    }

    async fn create(&self, request: &CreateContainer) -> Result<ContainerId, EngineError> {
        let created = self.perform(Verb::Create, |engine, state| engine.create_now(state, request)).await;
        self.ring();
        created
    }

    async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        let started = self.perform(Verb::Start, |engine, state| engine.start_now(state, id)).await;
        self.ring();
        started
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        let (reply, _) = self.enter(Verb::Stop).await?;
        let end = {
            let mut state = self.state();
            self.signal(&mut state, id, grace)?
        };
        self.ring();
        if let Some(at) = end {
            tokio::time::sleep_until(at).await;
            self.ring();
        }
        reply.deliver(self, Ok(()))
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), EngineError> {
        let removed = self.perform(Verb::Remove, |engine, state| engine.remove_now(state, id)).await;
        self.ring();
        removed
    }

    async fn image_present(&self, image: &str) -> Result<bool, EngineError> {
        self.perform(Verb::ImagePresent, |_, state| Ok(state.present.contains(image))).await
    }

    async fn pull_image(&self, image: &str, progress: watch::Sender<PullProgress>) -> Result<(), EngineError> {
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
            engine.ours(state, "inspect", id)?;
            let key = state.key(&id.0).unwrap_or_default();
            engine.shown(state, &key).ok_or_else(|| EngineError::NoSuchContainer(id.0.clone()))
        })
        .await
    }

    async fn exec(
        &self,
        id: &ContainerId,
        command: &[String],
        timeout: Duration,
    ) -> Result<(i64, String), EngineError> {
        const VERB: &str = "run a command in";
        let run = self.perform(Verb::Exec, |engine, state| {
            let cell = engine.ours(state, VERB, id)?;
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
                let written = engine.ours(state, "read the logs of", id)?.log.len();
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
        stream::unfold((self.clone(), seen), |(engine, mut seen)| async move {
            engine.next_change(&mut seen).await;
            Some(((), (engine, seen)))
        })
        .boxed()
    }
}

impl State {
    fn behaviour(&self, image: &str) -> Behaviour {
        self.behaviours.get(image).cloned().unwrap_or_default()
    }

    fn make(&mut self, request: &CreateContainer) -> ContainerId {
        self.made += 1;
        let id = format!("{:064x}", self.made);
        let made_at = Instant::now();
        let cell = Cell { request: request.clone(), made_at, life: Life::Created, log: Vec::new(), server: None };
        self.containers.insert(id.clone(), cell);
        ContainerId(id)
    }

    /// Returns the id of a container given by id or name.
    fn key(&self, id_or_name: &str) -> Option<String> {
        if self.containers.contains_key(id_or_name) {
            return Some(id_or_name.to_owned());
        }
        let named = self.containers.iter().find(|(_, cell)| cell.request.name == id_or_name);
        named.map(|(id, _)| id.clone())
    }

    fn named(&mut self, name: &str) -> Option<&mut Cell> {
        let key = self.key(name)?;
        self.containers.get_mut(&key)
    }

    /// Containers that share a network are all reached through the one that owns it.
    fn reach(&self, cell: &Cell) -> Reach {
        if !matches!(cell.life, Life::Running { .. }) || cell.request.network != Network::Own {
            return Reach::None;
        }
        let joins = Network::Join(cell.request.name.clone());
        let mut ports: BTreeMap<u16, u16> = cell.request.publish.iter().map(|port| (*port, NOBODY)).collect();
        let sharing = self.containers.values().filter(|other| other.request.network == joins);
        for server in std::iter::once(cell).chain(sharing).filter_map(|cell| cell.server.as_ref()) {
            ports.extend(&server.ports);
        }
        Reach::Published(ports)
    }
}

impl Cell {
    fn pass_time(&mut self, now: Instant) {
        if let Life::Running { ends: Some((at, exit)), .. } = &self.life
            && *at <= now
        {
            let (at, exit) = (*at, exit.clone());
            self.end(at, exit);
        }
    }

    fn end(&mut self, at: Instant, exit: Exit) {
        if let Life::Running { since, .. } = self.life {
            self.life = Life::Ended { since, at, exit };
            self.server = None;
        }
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

fn served_ports(request: &CreateContainer) -> Vec<u16> {
    let declared: Vec<u16> = request.spec.ports.iter().map(|port| port.port).collect();
    if declared.is_empty() { vec![8080] } else { declared }
}

fn refused(verb: &'static str, name: &str, message: impl Into<String>, blame: Blame) -> EngineError {
    EngineError::Refused { verb, name: name.to_owned(), message: message.into(), blame }
}
