//! Named canaries (`spec.canary[]`, §5.2): revisions beside the stable one, each with a share of the traffic of its own.
//!
//! ```text
//! written ──▶ starting ──a replica answers──▶ has its share ──promoted──▶ the wanted revision, as it runs
//!                │                                 │ edited: goes on until its next revision answers
//!                └─fails: the stable one has all   └─entry removed: drains, stops
//! ```
//!
//! A canary has a fixed number of replicas, never takes the place of another revision, and is not gone back to. The
//! stable revision needs as many replicas fewer as canaries have that answer, and always one.

use super::super::checks::{self, Answered};
use super::super::planner::Draft;
use super::super::replica::Phase;
use super::super::retire;
use super::super::routes::Backend;
use super::super::split;
use super::super::world::{DesiredCanary, World};
use super::{Rollout, Units};
use crate::api::ComponentKind;
use crate::plan::memory::Revisions;
use crate::scale::Policy;
use crate::workload::{ComponentKey, names};

/// How a named canary stands.
#[derive(Clone, Debug, PartialEq)]
pub struct CanaryReport {
    /// Its name.
    pub name: String,
    /// KServe's name of its service.
    pub service_name: String,
    /// Percent of the traffic that is to be its.
    pub percent: u32,
    /// The revision that has its share.
    pub serving: Option<u32>,
    /// Whether it is fit to have its share, or asleep and known to wake.
    pub ready: bool,
    /// Replicas that answer.
    pub ready_replicas: u32,
    /// Where it is: the worst of its replicas.
    pub phase: Phase,
}

/// A named canary, and the replicas of it nothing was decided of yet.
#[derive(Debug)]
pub(super) struct Named<'w> {
    wanted: &'w DesiredCanary,
    /// Its wanted revision.
    revision: Option<u32>,
    units: Units<'w>,
}

/// Takes the replicas of named canaries out of those of a component. Returns them by canary, and those of canaries that
/// are not wanted any more.
pub(super) fn set_aside<'w>(
    world: &'w World,
    key: &ComponentKey,
    history: &Revisions,
    units: &mut Units<'w>,
) -> (Vec<Named<'w>>, Units<'w>) {
    let service = world.services.get(&key.service).filter(|_| key.component == ComponentKind::Predictor);
    let wanted = service.map(|service| service.canaries.as_slice()).unwrap_or_default();
    let is_canary = |revision: u32| history.canary_of(revision).is_some() && revision != history.target;
    let mut all: Units<'w> = units.extract_if(.., |(revision, _), _| is_canary(*revision)).collect();
    let named = wanted.iter().map(|canary| {
        let own = |revision: u32| history.canary_of(revision) == Some(canary.name.as_str());
        let units = all.extract_if(.., |(revision, _), _| own(*revision)).collect();
        Named { wanted: canary, revision: history.canaries.get(&canary.name).copied(), units }
    });
    (named.collect(), all)
}

/// Returns the scaling of the stable revision: canaries that answer stand in for some of its replicas.
pub(super) fn relieved(draft: &Draft<'_>, named: &[Named<'_>], policy: &Policy) -> Policy {
    let answers = |canary: &Named<'_>| {
        let own = canary.units.iter().filter(|((revision, _), _)| Some(*revision) == canary.revision);
        own.filter(|(_, containers)| checks::answered(draft, containers) == Answered::Yes).count()
    };
    let answering = u32::try_from(named.iter().map(answers).sum::<usize>()).unwrap_or(u32::MAX);
    let min = policy.min.min(policy.min.saturating_sub(answering).max(1));
    Policy { min, ..policy.clone() }
}

impl<'w> Rollout<'w, '_> {
    /// Advances the named canaries, after the stable revision: room goes to that first.
    pub(super) fn advance_canaries(&mut self, draft: &mut Draft<'w>) {
        for named in std::mem::take(&mut self.named) {
            let report = self.advance_canary(draft, named);
            self.canaries.push(report);
        }
    }

    fn advance_canary(&mut self, draft: &mut Draft<'w>, named: Named<'w>) -> CanaryReport {
        let Named { wanted, revision, units } = named;
        let others = std::mem::replace(&mut self.units, units);
        let mut replicas = 1;
        match (&wanted.resolution, revision) {
            (Ok(resolved), Some(revision)) => {
                replicas = resolved.workload.scaling.least();
                self.advance_revision(draft, resolved, revision, replicas);
            }
            // What it was written as means nothing now; what runs of it goes on.
            (Err(_), revision) => self.keep(draft, revision),
            (Ok(_), None) => {}
        }
        let answering = self.ready(revision);
        let is_news = |revision: &u32| answering >= replicas && !self.history.was_noted_proven(*revision);
        let proven = revision.filter(is_news);
        draft.plan.proven.extend(proven.map(|revision| (self.key.clone(), revision)));
        let is_proven = revision.is_some_and(|revision| answering >= replicas || self.history.is_proven(revision));
        let serving = if answering > 0 && is_proven { revision } else { self.earlier(draft).or(revision) };
        for containers in std::mem::replace(&mut self.units, others).values() {
            retire::retire(draft, containers, "another revision of the canary took over");
        }
        let ready_replicas = self.ready(serving);
        self.canary_report(wanted, serving, ready_replicas > 0, self.worst(revision))
    }

    /// While the wanted revision of a canary does not answer: the newest of the earlier ones that does.
    fn earlier(&mut self, draft: &mut Draft<'w>) -> Option<u32> {
        let hopeful = self.units.iter().filter(|(_, containers)| checks::answered(draft, containers) > Answered::No);
        let revision = hopeful.map(|((revision, _), _)| *revision).max();
        self.keep(draft, revision);
        revision.filter(|_| self.ready(revision) > 0)
    }

    /// Puts the named canaries to sleep with their service.
    pub(super) fn rest_canaries(&mut self, draft: &mut Draft<'w>) {
        for Named { wanted, revision, units } in std::mem::take(&mut self.named) {
            for containers in units.values() {
                retire::retire(draft, containers, "nobody has asked for it lately");
            }
            let is_known = revision.is_some_and(|revision| self.history.is_proven(revision));
            let report = self.canary_report(wanted, revision, is_known, Phase::Asleep);
            self.canaries.push(report);
        }
    }

    fn canary_report(&self, wanted: &DesiredCanary, serving: Option<u32>, ready: bool, phase: Phase) -> CanaryReport {
        let service = &self.key.service.name;
        CanaryReport {
            name: wanted.name.clone(),
            service_name: names::component_service_name(service, ComponentKind::Predictor, Some(&wanted.name)),
            percent: wanted.percent,
            serving,
            ready,
            ready_replicas: self.ready(serving),
            phase,
        }
    }

    /// Percent of the traffic that is left to the component's own revisions; none when it has no canaries.
    pub(super) fn stable_percent(&self) -> Option<u32> {
        let answering = self.canaries.iter().filter(|canary| canary.ready_replicas > 0);
        let taken: u32 = answering.map(|canary| canary.percent).sum();
        (!self.canaries.is_empty()).then(|| 100u32.saturating_sub(taken))
    }

    /// Adds the replicas of canaries to those of the stable revisions, each with its share of the traffic.
    pub(super) fn shared(&self, stable: Vec<Backend>) -> Vec<Backend> {
        let shares = self.canaries.iter().map(|canary| (canary.percent, self.canary_backends(canary)));
        split::mix(stable, &shares.collect::<Vec<_>>())
    }

    /// The replicas of a canary that answer.
    pub(super) fn canary_backends(&self, canary: &CanaryReport) -> Vec<Backend> {
        canary.serving.map(|revision| self.backends(revision)).unwrap_or_default()
    }
}
