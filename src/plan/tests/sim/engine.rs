//! The engine in the box, with the servers in its containers, and where models and images come from: what becomes of each
//! order and of each check.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use super::super::sample;
use super::Sim;
use crate::plan::Action;
use crate::plan::action::{ContainerPosition, CreateOrder, ProbeKind, ProbeOrder};
use crate::plan::record::ReplicaRecord;
use crate::plan::trained::{Held, RepositoryOrder, RepositoryWork};
use crate::plan::world::{ContainerFact, ExitFact, FactReach, FactState, ImageState, ModelState};
use crate::workload::names;

/// How a container behaves: written into the image's name.
fn loads_in(image: &str) -> Option<Duration> {
    let tag = image.rsplit(':').next().unwrap_or_default();
    match tag.trim_end_matches(|c: char| c.is_ascii_digit()) {
        "never" => None,
        "slow" => Some(Duration::from_secs(30)),
        _ => Some(Duration::from_secs(1)),
    }
}

fn ends_after(image: &str) -> Option<(Duration, ExitFact)> {
    let exit = |code| ExitFact { code, ..ExitFact::default() };
    match image.rsplit(':').next().unwrap_or_default() {
        "crash" => Some((Duration::from_millis(200), exit(1))),
        "oom" => Some((Duration::from_millis(200), ExitFact { out_of_memory: true, ..exit(137) })),
        "killed" => Some((Duration::from_millis(200), ExitFact { killed_under_limit: Some(1 << 30), ..exit(137) })),
        "init" => Some((Duration::from_millis(300), exit(0))),
        "badinit" => Some((Duration::from_millis(300), exit(3))),
        _ => None,
    }
}

impl Sim {
    pub(super) fn ends_at(&self, fact: &ContainerFact) -> Option<Duration> {
        let (after, _) = ends_after(&fact.image).filter(|_| fact.is_running())?;
        Some(*self.runs.get(&fact.name)? + after)
    }

    /// What a server of several models does: it forgets them when it ends, and fails those whose files are `bad`.
    pub(super) fn repository(&mut self, order: &RepositoryOrder) -> Result<BTreeMap<String, Held>, String> {
        let begun = self.runs.get(&order.name).copied();
        let shown = self.shown.entry(order.replica.to_string()).or_default();
        let ready = self.loaded.entry(order.name.clone()).or_default();
        ready.retain(|_, since| Some(*since) == begun);
        match &order.work {
            RepositoryWork::Look => {
                let look = |(name, held): (&String, &Held)| {
                    (name.clone(), Held { ready: ready.contains_key(name), ..held.clone() })
                };
                return Ok(shown.iter().map(look).collect());
            }
            RepositoryWork::Load { uri, .. } if uri.to_string().contains("bad") => {
                return Err("HTTP 500 from load: no model there".to_owned());
            }
            RepositoryWork::Load { model, mark, memory, .. } => {
                let held = Held { mark: mark.clone(), memory: *memory, ready: false };
                shown.insert(model.clone(), held);
                ready.insert(model.clone(), begun.unwrap_or_default());
            }
            RepositoryWork::Unload { model } => {
                shown.remove(model);
                ready.remove(model);
            }
        }
        Ok(BTreeMap::new())
    }

    pub(super) fn model_failure(&self, uri: &crate::api::StorageUri) -> ModelState {
        // `Pulling` replaced the failure before; ours is a small world, so the log remembers it.
        let pulls = self.log.iter().filter(|line| **line == format!("pull model {uri}")).count();
        let failures = u32::try_from(pulls).unwrap();
        ModelState::Failed { message: "no such object".to_owned(), transient: true, failures, at: self.now().tick }
    }

    pub(super) fn pull_image(&mut self, image: &str) -> ImageState {
        let at = self.now().tick;
        if !self.faults.lost_images.contains(image) {
            self.faults.local_images.insert(image.to_owned());
            return ImageState::Present { pulled_at: Some(at) };
        }
        let pulls = self.log.iter().filter(|line| **line == format!("pull image {image}")).count();
        ImageState::Failed {
            message: format!("manifest for {image} not found"),
            transient: true,
            failures: u32::try_from(pulls).unwrap(),
            at,
            present: self.faults.local_images.contains(image),
        }
    }

    pub(super) fn answer(&self, order: &ProbeOrder) -> Result<(), String> {
        let Some(fact) = self.containers.get(&order.name).filter(|fact| fact.is_running()) else {
            return Err("connection refused".to_owned());
        };
        if !self.has_network(fact) {
            return Err("no route to host".to_owned());
        }
        let ran = self.clock - self.runs[&order.name];
        let loaded = loads_in(&fact.image).is_some_and(|takes| ran >= takes);
        let hung = self.sick.contains(&order.name);
        match order.kind {
            ProbeKind::Liveness if hung => Err("HTTP 500".to_owned()),
            ProbeKind::Liveness => Ok(()),
            _ if loaded && !hung => Ok(()),
            _ => Err("HTTP 503".to_owned()),
        }
    }

    /// Whether the sandbox whose network it joined still holds that network.
    pub(in super::super) fn has_network(&self, fact: &ContainerFact) -> bool {
        let Some(id) = &fact.sandbox else { return true };
        let holds = |sandbox: &&ContainerFact| {
            let lives = sandbox.is_running() || sandbox.state == FactState::Paused;
            sandbox.id == *id && lives && self.runs[&sandbox.name] <= self.runs[&fact.name]
        };
        self.containers.values().any(|other| holds(&other))
    }

    /// What the engine does.
    pub(super) fn act(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Create(order) => self.create(order),
            Action::Start { id, name } => {
                let known = self.containers.get(name).filter(|fact| fact.id == *id);
                if known.ok_or("no such container")?.is_running() {
                    return Ok(());
                }
                self.begin(name);
                Ok(())
            }
            Action::Stop { id, name, .. } => {
                let lives = |fact: &ContainerFact| fact.is_running() || fact.state == FactState::Paused;
                if self.containers.get(name).is_some_and(|fact| fact.id == *id && lives(fact)) {
                    self.end(name, ExitFact { code: 143, ..ExitFact::default() });
                }
                Ok(())
            }
            Action::Doze(order) => {
                self.doze(&order.name, &order.id, order.call.as_ref().map(|call| call.path.as_str()))
            }
            Action::Rouse(order) => match order.call.as_ref().map(|call| call.path.as_str()) {
                Some("/broken") => Err("HTTP 500 from /broken".to_owned()),
                call => self.rouse(&order.name, &order.id, call),
            },
            Action::Remove { id, name, .. } => match self.containers.get(name).filter(|fact| fact.id == *id) {
                Some(fact) if fact.is_running() => Err("it is running".to_owned()),
                Some(_) => {
                    self.containers.remove(name);
                    Ok(())
                }
                None => Ok(()),
            },
            _ => unreachable!("not the engine's: {action}"),
        }
    }

    fn doze(&mut self, name: &str, id: &str, call: Option<&str>) -> Result<(), String> {
        let fact = self.containers.get_mut(name).filter(|fact| fact.id == id).ok_or("no such container")?;
        match call {
            Some("/absent") => return Err("HTTP 404 from /absent".to_owned()),
            Some(_) => drop(self.resting.insert(id.to_owned())),
            None if fact.is_running() => fact.state = FactState::Paused,
            None => {}
        }
        Ok(())
    }

    fn rouse(&mut self, name: &str, id: &str, call: Option<&str>) -> Result<(), String> {
        let started_at = Some(self.now().wall);
        let fact = self.containers.get_mut(name).filter(|fact| fact.id == id).ok_or("no such container")?;
        match call {
            Some(_) => drop(self.resting.remove(id)),
            None if fact.state == FactState::Paused => fact.state = FactState::Running { started_at },
            None => {}
        }
        Ok(())
    }

    fn create(&mut self, order: &CreateOrder) -> Result<(), String> {
        if let Some(there) = self.containers.get(&order.name) {
            if there.fingerprint != order.fingerprint {
                return Err("the name is taken".to_owned());
            }
            // An identical one is adopted, and started as the order says.
            if !there.is_running() && !matches!(there.state, FactState::Exited(_)) {
                self.begin(&order.name);
            }
            return Ok(());
        }
        if let Some(owner) = &order.join {
            let is_meant =
                |fact: &&ContainerFact| if order.sandboxed { fact.id == *owner } else { fact.name == *owner };
            let runs = self.containers.values().find(is_meant).is_some_and(ContainerFact::is_running);
            runs.then_some(()).ok_or("the network is gone")?;
        }
        let workload = &order.workload;
        let spec = match order.position {
            ContainerPosition::Init(index) => &workload.init_containers[index],
            ContainerPosition::Main(index) => &workload.containers[index],
            ContainerPosition::Sandbox => &sample::container(names::SANDBOX, "sandbox"),
        };
        self.made += 1;
        let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, u8::try_from(self.made % 250).unwrap()));
        let fact = ContainerFact {
            id: format!("id{}", self.made),
            name: order.name.clone(),
            component: workload.component.clone(),
            replica: Arc::clone(&order.replica),
            service_name: workload.service_name.clone(),
            revision: order.revision,
            ordinal: order.ordinal,
            fingerprint: order.fingerprint.clone(),
            container: spec.name.clone(),
            image: spec.image.clone(),
            state: FactState::Created,
            reach: if order.join.is_none() { FactReach::Address(address) } else { FactReach::None },
            gpus: order.gpus.clone(),
            created_at: Some(self.now().wall),
            record: Arc::new(
                match ReplicaRecord::of(workload).with_sandbox(order.sandboxed).with_memory(order.memory) {
                    record if order.lift_cpu => record.lifting_cpu(workload),
                    record => record,
                },
            ),
            sandbox: order.join.clone().filter(|_| order.sandboxed),
        };
        self.containers.insert(order.name.clone(), fact);
        self.begin(&order.name);
        Ok(())
    }

    fn begin(&mut self, name: &str) {
        let started_at = Some(self.now().wall);
        self.runs.insert(name.to_owned(), self.clock);
        self.resting.remove(&self.containers[name].id);
        self.containers.get_mut(name).unwrap().state = FactState::Running { started_at };
    }

    /// Ends a container.
    pub(in super::super) fn end(&mut self, name: &str, exit: ExitFact) {
        let finished_at = Some(self.now().wall);
        self.leases.remove(self.containers[name].replica.as_ref());
        self.containers.get_mut(name).unwrap().state = FactState::Exited(ExitFact { finished_at, ..exit });
    }

    pub(super) fn end_what_ends(&mut self) {
        let ended: Vec<(String, ExitFact)> = self
            .containers
            .values()
            .filter(|fact| self.ends_at(fact).is_some_and(|at| at <= self.clock))
            .filter_map(|fact| Some((fact.name.clone(), ends_after(&fact.image)?.1)))
            .collect();
        for (name, exit) in ended {
            self.end(&name, exit);
        }
    }
}
