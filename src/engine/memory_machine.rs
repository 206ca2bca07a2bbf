//! The machine behind the in-memory engine: a table of containers, and what each verb does to it.
//!
//! Synchronous and under one lock; faults, waits and hints are the engine's ([`super::memory`]).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::docker_spec::{Abilities, ImageFacts, ReachBy, check_label, create_body};
use super::memory_script::{Behaviour, Remote, Script};
use super::memory_server::Server;
use super::{
    Blame, Container, ContainerId, ContainerState, CreateContainer, EngineError, Exit, LogLine, Network, Reach, Usage,
};
use crate::tasks::Tasks;
use crate::workload::names::INSTANCE_LABEL;

/// 2026-01-01T00:00:00Z, when every in-memory machine was switched on.
const SWITCHED_ON: i64 = 1_767_225_600;
/// A port nothing listens on, for containers that serve nothing.
const NOBODY: u16 = 1;

/// The machine: what is on it, and what is ordered to go wrong with it.
#[derive(Debug)]
pub(super) struct State {
    switched_on: Instant,
    tasks: Tasks,
    pub(super) present: HashSet<String>,
    pub(super) behaviours: HashMap<String, Behaviour>,
    /// How containers of any other image behave; such images are all on the machine.
    pub(super) any: Option<Behaviour>,
    pub(super) registry: HashMap<String, Remote>,
    pub(super) containers: BTreeMap<String, Cell>,
    made: u64,
    pub(super) away: bool,
    pub(super) script: Script,
    pub(super) last_list: HashMap<String, Vec<Container>>,
}

/// One container.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) request: CreateContainer,
    made_at: Instant,
    pub(super) life: Life,
    pub(super) log: Vec<LogLine>,
    pub(super) paused: bool,
    pub(super) server: Option<Server>,
}

/// Where it stands; an end that is known beforehand is kept with the run it ends.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Life {
    Created,
    Running { since: Instant, ends: Option<(Instant, Exit)> },
    Ended { since: Instant, at: Instant, exit: Exit },
}

impl State {
    /// Switches a machine on.
    pub(super) fn new() -> Self {
        Self {
            switched_on: Instant::now(),
            tasks: Tasks::new(),
            present: HashSet::new(),
            behaviours: HashMap::new(),
            any: None,
            registry: HashMap::new(),
            containers: BTreeMap::new(),
            made: 0,
            away: false,
            script: Script::default(),
            last_list: HashMap::new(),
        }
    }

    /// Returns a moment as the machine's clock shows it.
    pub(super) fn time(&self, at: Instant) -> Timestamp {
        let since = at.saturating_duration_since(self.switched_on);
        let start = Timestamp::from_second(SWITCHED_ON).unwrap_or_default();
        start.checked_add(SignedDuration::try_from(since).unwrap_or_default()).unwrap_or(start)
    }

    /// Returns a container as an engine would list it.
    pub(super) fn shown(&self, id: &str) -> Option<Container> {
        let cell = self.containers.get(id)?;
        let (container_state, started_at, finished_at) = match &cell.life {
            Life::Created => (ContainerState::Created, None, None),
            Life::Running { since, .. } if cell.paused => (ContainerState::Paused, Some(*since), None),
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
            up_for: None,
            started_at: started_at.map(|at| self.time(at)),
            finished_at: finished_at.map(|at| self.time(at)),
            reach: self.reach(id, cell),
        })
    }

    /// Returns the container if it is there and ours.
    pub(super) fn ours(
        &mut self,
        instance: &str,
        verb: &'static str,
        id: &ContainerId,
    ) -> Result<&mut Cell, EngineError> {
        let key = self.key(&id.0).ok_or_else(|| EngineError::NoSuchContainer(id.0.clone()))?;
        let cell = self.containers.get_mut(&key).ok_or_else(|| EngineError::NoSuchContainer(id.0.clone()))?;
        if cell.request.labels.get(INSTANCE_LABEL).is_none_or(|label| label != instance) {
            let message = format!("it does not carry the label `{INSTANCE_LABEL}={instance}`");
            return Err(refused(verb, &id.0, message, Blame::Machine));
        }
        Ok(cell)
    }

    /// Makes a container, or adopts the one that carries the same labels.
    pub(super) fn create(&mut self, instance: &str, request: &CreateContainer) -> Result<ContainerId, EngineError> {
        check_label(request, instance)?;
        if request.network != Network::Hold && !self.has_image(&request.spec.image) {
            return Err(EngineError::ImageAbsent(request.spec.image.clone()));
        }
        let image = ImageFacts { user: self.behaviour(&request.spec.image).user, stop_signal: None };
        create_body(request, &Abilities::default(), &image, "memory", ReachBy::Loopback)
            .map_err(|refusal| refused("create", &request.name, refusal.to_string(), Blame::User))?;
        if let Network::Join(target) = &request.network {
            self.ours(instance, "join the network of", &ContainerId(target.clone()))?;
        }
        if let Some(id) = self.key(&request.name) {
            let taken = self.containers.get(&id).map(|cell| &cell.request.labels);
            let same =
                taken.is_some_and(|labels| request.labels.iter().all(|(name, value)| labels.get(name) == Some(value)));
            return if same { Ok(ContainerId(id)) } else { Err(EngineError::NameTaken(request.name.clone())) };
        }
        Ok(self.make(request))
    }

    /// Starts a container; its server listens when this returns.
    pub(super) fn start(&mut self, instance: &str, id: &ContainerId) -> Result<(), EngineError> {
        let cell = self.ours(instance, "start", id)?;
        let request = cell.request.clone();
        if matches!(cell.life, Life::Running { .. }) {
            return Ok(());
        }
        if let Network::Join(target) = &request.network
            && !self.named(target).is_some_and(|cell| matches!(cell.life, Life::Running { .. }))
        {
            let message = format!("cannot join network of a non running container: {target}");
            return Err(refused("start", &id.0, message, Blame::Machine));
        }
        let behaviour = match request.network {
            Network::Hold => Behaviour::default(),
            _ => self.behaviour(&request.spec.image),
        };
        if let Some(message) = behaviour.start_error {
            return Err(refused("start", &id.0, message, Blame::User));
        }
        let server = match behaviour.serves {
            Some(serves) => Some(
                Server::start(&self.tasks, &served_ports(&request), serves)
                    .map_err(|error| refused("start", &id.0, error.to_string(), Blame::Machine))?,
            ),
            None => None,
        };
        let now = Instant::now();
        let at = Some(self.time(now));
        let cell = self.ours(instance, "start", id)?;
        cell.server = server;
        cell.paused = false;
        cell.life = Life::Running { since: now, ends: behaviour.ends.map(|(after, exit)| (now + after, exit)) };
        cell.log.extend(behaviour.says.into_iter().map(|text| LogLine { at, stderr: false, text }));
        Ok(())
    }

    /// Sends the stop signal and returns when the container will have ended.
    pub(super) fn signal(
        &mut self,
        instance: &str,
        id: &ContainerId,
        grace: Duration,
    ) -> Result<Option<Instant>, EngineError> {
        let image = match self.ours(instance, "stop", id) {
            Ok(cell) => cell.request.spec.image.clone(),
            Err(EngineError::NoSuchContainer(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let takes = self.behaviour(&image).stop_takes;
        let code = if takes > grace { 137 } else { 0 };
        let at = Instant::now() + takes.min(grace);
        let cell = self.ours(instance, "stop", id)?;
        cell.set_paused(false);
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

    /// Pauses a container.
    pub(super) fn pause(&mut self, instance: &str, id: &ContainerId) -> Result<(), EngineError> {
        let cell = self.ours(instance, "pause", id)?;
        if !matches!(cell.life, Life::Running { .. }) {
            return Err(refused("pause", &id.0, "it is not running", Blame::Machine));
        }
        cell.set_paused(true);
        Ok(())
    }

    /// Lets a paused container go on.
    pub(super) fn unpause(&mut self, instance: &str, id: &ContainerId) -> Result<(), EngineError> {
        self.ours(instance, "unpause", id)?.set_paused(false);
        Ok(())
    }

    /// Removes a container, running or not.
    pub(super) fn remove(&mut self, instance: &str, id: &ContainerId) -> Result<(), EngineError> {
        match self.ours(instance, "remove", id) {
            Ok(_) => {}
            Err(EngineError::NoSuchContainer(_)) => return Ok(()),
            Err(error) => return Err(error),
        }
        if let Some(key) = self.key(&id.0) {
            self.containers.remove(&key);
        }
        Ok(())
    }

    /// Whether an image is on the machine.
    pub(super) fn has_image(&self, image: &str) -> bool {
        self.any.is_some() || self.present.contains(image)
    }

    /// Returns how containers of an image behave.
    pub(super) fn behaviour(&self, image: &str) -> Behaviour {
        self.behaviours.get(image).or(self.any.as_ref()).cloned().unwrap_or_default()
    }

    /// Returns what a running container is told to use.
    pub(super) fn usage(&self, id: &str) -> Option<Usage> {
        let cell = self.containers.get(id).filter(|cell| matches!(cell.life, Life::Running { .. }))?;
        let memory = self.behaviour(&cell.request.spec.image).memory;
        (memory > 0).then_some(Usage { memory, peak: memory, cpu_nanos: None })
    }

    /// Makes a container, no questions asked.
    pub(super) fn make(&mut self, request: &CreateContainer) -> ContainerId {
        self.made += 1;
        let id = format!("{:064x}", self.made);
        let made_at = Instant::now();
        let cell = Cell {
            request: request.clone(),
            made_at,
            life: Life::Created,
            log: Vec::new(),
            paused: false,
            server: None,
        };
        self.containers.insert(id.clone(), cell);
        ContainerId(id)
    }

    /// Returns the id of a container given by id or name.
    pub(super) fn key(&self, id_or_name: &str) -> Option<String> {
        if self.containers.contains_key(id_or_name) {
            return Some(id_or_name.to_owned());
        }
        let named = self.containers.iter().find(|(_, cell)| cell.request.name == id_or_name);
        named.map(|(id, _)| id.clone())
    }

    /// Returns the container of a name.
    pub(super) fn named(&mut self, name: &str) -> Option<&mut Cell> {
        let key = self.key(name)?;
        self.containers.get_mut(&key)
    }

    /// Containers that share a network are all reached through the one that owns it.
    fn reach(&self, id: &str, cell: &Cell) -> Reach {
        if !matches!(cell.life, Life::Running { .. }) || matches!(cell.request.network, Network::Join(_)) {
            return Reach::None;
        }
        let mut ports: BTreeMap<u16, u16> = cell.request.publish.iter().map(|port| (*port, NOBODY)).collect();
        let joins = |other: &&Cell| match &other.request.network {
            Network::Join(target) => self.key(target).as_deref() == Some(id),
            Network::Own | Network::Hold => false,
        };
        let sharing = self.containers.values().filter(joins);
        for server in std::iter::once(cell).chain(sharing).filter_map(|cell| cell.server.as_ref()) {
            ports.extend(&server.ports);
        }
        Reach::Published(ports)
    }

    /// Returns when the next container ends by time alone.
    pub(super) fn next_end(&self) -> Option<Instant> {
        let end = |cell: &Cell| match &cell.life {
            Life::Running { ends: Some((at, _)), .. } => Some(*at),
            _ => None,
        };
        self.containers.values().filter_map(end).min()
    }
}

impl Cell {
    /// Ends it when its time has come.
    pub(super) fn pass_time(&mut self, now: Instant) {
        if let Life::Running { ends: Some((at, exit)), .. } = &self.life
            && *at <= now
        {
            let (at, exit) = (*at, exit.clone());
            self.end(at, exit);
        }
    }

    /// Holds up its server, or lets it go on.
    pub(super) fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
        if let Some(server) = &self.server {
            server.set_paused(paused);
        }
    }

    /// Ends it if it runs.
    pub(super) fn end(&mut self, at: Instant, exit: Exit) {
        if let Life::Running { since, .. } = self.life {
            self.life = Life::Ended { since, at, exit };
            self.paused = false;
            self.server = None;
        }
    }
}

fn served_ports(request: &CreateContainer) -> Vec<u16> {
    let declared: Vec<u16> = request.spec.ports.iter().map(|port| port.port).collect();
    if declared.is_empty() { vec![8080] } else { declared }
}

/// Makes a refusal.
pub(super) fn refused(verb: &'static str, name: &str, message: impl Into<String>, blame: Blame) -> EngineError {
    EngineError::Refused { verb, name: name.to_owned(), message: message.into(), blame }
}
