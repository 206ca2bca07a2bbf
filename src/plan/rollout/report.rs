//! What a pass found out about one component, and what the proxy may do with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::memory::Revisions;
use super::super::pods::PodView;
use super::super::replica::{Phase, Replica};
use super::super::routes::{Backend, ComponentRoute, RouteState, Scrape};
use super::super::split::{self, Share};
use super::super::status;
use super::super::world::{ContainerFact, DesiredService};
use super::Rollout;
use super::canaries::CanaryReport;
use crate::api::meta;
use crate::workload::{ComponentKey, RuntimeRef, names};

/// What a pass found out about one component.
#[derive(Clone, Debug)]
pub struct ComponentReport<'w> {
    /// The component.
    pub key: ComponentKey,
    /// KServe's name of its service.
    pub service_name: String,
    /// The wanted revision, when the component could be resolved.
    pub target: Option<u32>,
    /// The revision with the traffic.
    pub serving: Option<u32>,
    /// The last revision that had all traffic, and the one before, as remembered before this pass.
    pub history: &'w Revisions,
    /// Where the wanted revision is: the worst of its replicas.
    pub phase: Phase,
    /// Whether every replica of the wanted revision answers and has the traffic.
    pub settled: bool,
    /// Whether its service slept, and a share of the traffic has neither answered nor failed since.
    pub waking: bool,
    /// Replicas that are wanted.
    pub replicas: u32,
    /// Replicas of the serving revision that answer.
    pub ready_replicas: u32,
    /// The runtime that was chosen.
    pub runtime: Option<RuntimeRef>,
    /// How its traffic is shared; nothing when nothing answers.
    pub shares: Vec<Share>,
    /// Whether two revisions are wanted at once.
    pub is_split: bool,
    /// What the proxy may do.
    pub route: ComponentRoute,
    /// Name under which the server knows its model.
    pub model_name: Option<String>,
    /// Its named canaries, in the order they are written.
    pub canaries: Vec<CanaryReport>,
    /// Its replicas, for people.
    pub pods: Vec<PodView>,
    /// Where its replicas show metrics.
    pub scrapes: Vec<Scrape>,
}

impl ComponentReport<'_> {
    /// Whether it is as it should be: one revision is wanted and has all traffic, and every replica answers, or it sleeps.
    pub(in super::super) fn is_quiet(&self) -> bool {
        let is_plain = self.target.is_some() && !self.is_split && self.canaries.is_empty();
        let stands = self.settled && !self.waking && matches!(self.phase, Phase::Ready | Phase::Asleep);
        is_plain && stands && self.pods.iter().all(|pod| pod.ready)
    }
}

impl<'w> Rollout<'w, '_> {
    /// The replicas of a revision that answer.
    pub(super) fn backends(&self, revision: u32) -> Vec<Backend> {
        let ready = self.of(Some(revision)).filter(|(_, _, phase)| phase.is_ready());
        ready.filter_map(|(_, unit, _)| backend(unit, revision)).collect()
    }

    /// What requests are told: an older revision that is on its way is waited for while the wanted one fails.
    fn closed_by(&self, phase: &Phase) -> Phase {
        let older = self.history.rolled_out.filter(|older| Some(*older) != self.target);
        let comes = older.filter(|older| self.of(Some(*older)).next().is_some()).map(|older| self.worst(Some(older)));
        comes.filter(|comes| phase.is_failure() && comes.patience().is_some()).unwrap_or_else(|| phase.clone())
    }

    /// Where a share of the traffic is of which nothing answers yet, and something will.
    fn coming(&self, shares: &[Share]) -> Option<Phase> {
        let silent = |share: &&Share| share.percent > 0 && self.backends(share.revision).is_empty();
        let is_there = |share: &&Share| self.of(Some(share.revision)).next().is_some();
        let mut phases = shares.iter().filter(silent).filter(is_there).map(|share| self.worst(Some(share.revision)));
        phases.find(|phase| phase.patience().is_some() && !matches!(phase, Phase::WaitingForRoom { .. }))
    }

    /// Who answers under a tag; canaries do under the name of their own service.
    fn tags(&self, shares: &[Share]) -> BTreeMap<String, Vec<Backend>> {
        let tagged = shares.iter().filter(|share| !share.tag.is_empty());
        let tagged = tagged.map(|share| (share.tag.to_owned(), self.backends(share.revision)));
        let canaries = self.canaries.iter().map(|one| (one.service_name.clone(), self.canary_backends(one)));
        tagged.chain(canaries).collect()
    }

    /// Why canaries do not answer on their own hosts: one that loads is waited for, as a service is.
    fn closed_canaries(&self) -> BTreeMap<String, RouteState> {
        let closed = self.canaries.iter().filter(|one| one.ready_replicas == 0 && !one.phase.is_ready());
        let state = |one: &CanaryReport| status::closed(self.key, &one.phase, self.history.times.left(&one.phase));
        closed.map(|one| (one.service_name.clone(), state(one))).collect()
    }

    /// What the proxy may do. Canaries get nothing before the first deployment has answered: they are to have their share
    /// and no more, and so is whoever is up first when the service is woken. Later, a share of which nothing answers goes to
    /// the others.
    fn state(&self, stable: Vec<Backend>, phase: &Phase, coming: Option<&Phase>) -> RouteState {
        let has_answered = !stable.is_empty() || self.history.rolled_out.is_some();
        let phase = coming.unwrap_or(phase);
        match self.shared(stable) {
            backends if has_answered && coming.is_none() && !backends.is_empty() => RouteState::Open(backends),
            _ => {
                let phase = self.closed_by(phase);
                let left = self.history.times.left(&phase).or(self.history.load_time());
                status::closed(self.key, &phase, left)
            }
        }
    }

    pub(super) fn report(self, shares: Vec<Share>, settled: bool, facts: &[&'w ContainerFact]) -> ComponentReport<'w> {
        let revisions: BTreeSet<u32> = shares.iter().map(|share| share.revision).collect();
        let ready = revisions.iter().flat_map(|one| self.backends(*one).into_iter().map(|backend| (*one, backend)));
        let ready: Vec<(u32, Backend)> = ready.collect();
        let backends = split::weigh(&shares, &ready);
        let serving = shares.first().map(|share| share.revision);
        let canaries = self.canaries.iter().filter_map(|canary| canary.serving);
        let answering: Vec<&Replica<'_>> = revisions
            .iter()
            .copied()
            .chain(canaries)
            .flat_map(|one| self.of(Some(one)).filter(|(_, _, phase)| phase.is_ready()).map(|(_, unit, _)| unit))
            .collect();
        let annotations = self.wanted.map(|resolved| &resolved.workload.annotations);
        let shows =
            |annotations| answering.iter().filter_map(move |unit| scrape(self.key, unit, annotations)).collect();
        let scrapes = annotations.map(shows).unwrap_or_default();
        let asleep = self.wanted.is_some() && self.replicas.wanted == 0;
        let given_up = self.given_up.clone().map(|message| Phase::GivenUp { message });
        let phase = match () {
            () if given_up.is_some() => given_up.unwrap_or(Phase::Gone),
            () if asleep => Phase::Asleep,
            // What load added may still be on its way, or fail: that is told of those replicas alone.
            () if settled => Phase::Ready,
            () => match (self.worst(self.target.or(serving)), self.overdue) {
                (phase, Some(deadline)) if !phase.is_failure() => Phase::Overdue(Box::new(phase), deadline),
                (phase, _) => phase,
            },
        };
        let workload = self.wanted.map(|resolved| &resolved.workload);
        let recorded = || self.of(serving).find_map(|(_, unit, _)| unit.record.timeout);
        let timeout = workload.map_or_else(recorded, |workload| workload.timeout);
        let extras = workload.map(|workload| workload.extras.clone()).unwrap_or_default();
        let recorded = || recorded_name(self.key, serving, facts);
        let service_name = workload.map_or_else(recorded, |workload| workload.service_name.clone());
        let ready_replicas = u32::try_from(ready.len()).unwrap_or(u32::MAX);
        let tags = self.tags(&shares);
        let closed = self.closed_canaries();
        let coming = self.coming(&shares).filter(|_| self.wakes);
        // Requests wake what came back, whatever became of the revision that is wanted.
        let state = self.state(backends, if asleep { &Phase::Asleep } else { &phase }, coming.as_ref());
        ComponentReport {
            key: self.key.clone(),
            service_name: service_name.clone(),
            target: self.target,
            serving: serving.filter(|_| asleep || ready_replicas > 0),
            settled,
            waking: coming.is_some(),
            phase,
            replicas: self.replicas.needed,
            ready_replicas,
            runtime: workload.and_then(|workload| workload.runtime.clone()),
            route: ComponentRoute { service_name, state, tags, closed, timeout, extras },
            is_split: shares.len() > 1,
            shares: if asleep || ready_replicas > 0 { shares } else { Vec::new() },
            model_name: workload.map(|workload| workload.model_name.clone()),
            history: self.history,
            scrapes,
            canaries: self.canaries,
            pods: self.views,
        }
    }
}

/// What the service of a component that cannot be resolved is called: as when what serves was made, which may have been
/// a canary that was promoted. Its canaries are called something else.
fn recorded_name(key: &ComponentKey, serving: Option<u32>, facts: &[&ContainerFact]) -> String {
    let serves = |fact: &&&ContainerFact| Some(fact.revision) == serving;
    let own = facts.iter().find(serves).or_else(|| facts.iter().find(|fact| fact.record.canary.is_none()));
    let plain = || names::component_service_name(&key.service.name, key.component, None);
    own.map_or_else(plain, |fact| fact.service_name.clone())
}

pub(super) fn backend(unit: &Replica<'_>, revision: u32) -> Option<Backend> {
    let fact = unit.serving()?;
    let (entry, reach) = (&unit.record.entry, unit.reach());
    Some(Backend {
        replica: Arc::clone(&unit.name),
        address: reach.to(entry.port)?,
        protocol: entry.protocol,
        grpc_address: entry.grpc_port.and_then(|port| reach.to(port)),
        concurrency: unit.record.concurrency,
        weight: 1,
        revision: names::revision_name(&fact.service_name, revision).into(),
    })
}

/// Where a replica shows its metrics, when its runtime says so (§5.7).
fn scrape(key: &ComponentKey, unit: &Replica<'_>, annotations: &BTreeMap<String, String>) -> Option<Scrape> {
    unit.serving()?;
    let port = annotations.get(meta::PROMETHEUS_PORT)?.trim().parse().ok()?;
    let path = annotations.get(meta::PROMETHEUS_PATH).map_or("/metrics", |path| path.trim());
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Some(Scrape { component: key.clone(), replica: Arc::clone(&unit.name), address: unit.reach().to(port)?, path })
}

/// Returns the names under which a service's models are called on the bare address.
pub(in super::super) fn model_names(service: &DesiredService, reports: &[ComponentReport<'_>]) -> Vec<String> {
    let mut names = vec![service.key.name.clone()];
    let parts = service.resolution.as_deref().unwrap_or_default();
    let aliases = parts.iter().flat_map(|part| part.workload.aliases.iter().cloned());
    for name in reports.iter().filter_map(|report| report.model_name.clone()).chain(aliases) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}
