//! One component: which revision is wanted, which one serves, and what becomes of the others.
//!
//! The new revision is started beside the old one, gets the traffic once all its replicas answer, and only then does the
//! old one drain. A revision that never answers gets no request and the old one keeps serving.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::checks::{self, Answered};
use super::doze;
use super::lift;
use super::memory::{LoadClock, Revisions};
use super::planner::Draft;
use super::pods::{self, PodView};
use super::progress::{self, Mark};
use super::record::ReplicaRecord;
use super::replica::{self, Phase, Replica};
use super::retire;
use super::routes::ReplicaName;
use super::sandbox;
use super::scale::{self, Count};
use super::split::{self, Split};
use super::stages::StageNote;
use super::trained;
use super::world::{ContainerFact, ResolvedWorkload};
use crate::scale::Policy;
use crate::workload::{ComponentKey, Workload, names};

pub mod canaries;
pub mod replace;
mod replicas;
mod report;
use canaries::{CanaryReport, Named};
use replicas::there;
pub use report::ComponentReport;
use report::backend;
pub(super) use report::model_names;

type Units<'w> = BTreeMap<(u32, u32), Vec<&'w ContainerFact>>;
type Phases<'w> = BTreeMap<(u32, u32), (Replica<'w>, Phase)>;

/// What is remembered of a component that is new.
static NONE: LazyLock<Revisions> = LazyLock::new(Revisions::default);

/// One component in the making.
struct Rollout<'w, 'k> {
    key: &'k ComponentKey,
    wanted: Option<&'w ResolvedWorkload>,
    history: &'w Revisions,
    target: Option<u32>,
    /// Replicas of the target.
    replicas: Count,
    /// Replicas nothing was decided of yet.
    units: Units<'w>,
    /// Replicas that stay.
    phases: Phases<'w>,
    views: Vec<PodView>,
    /// Why the wanted revision is not tried any more, when it was given up.
    given_up: Option<String>,
    /// How the wanted revision scales while its canaries stand as they do.
    policy: Option<Policy>,
    /// Named canaries nothing was decided of yet.
    named: Vec<Named<'w>>,
    /// Replicas of canaries that are not wanted any more.
    dropped: Units<'w>,
    /// How the named canaries stand.
    canaries: Vec<CanaryReport>,
    /// Whether its service slept and has neither answered nor failed since.
    wakes: bool,
    /// The deadline within which the wanted revision, which has never answered, came no further.
    overdue: Option<Duration>,
}

/// Advances one component.
pub(super) fn advance<'w>(
    draft: &mut Draft<'w>,
    key: &ComponentKey,
    wanted: Option<&'w ResolvedWorkload>,
    facts: &[&'w ContainerFact],
) -> ComponentReport<'w> {
    let mut rollout = Rollout::new(draft, key, wanted, facts);
    if let Some(back) = rollout.came_back(draft) {
        return rollout.go_back(draft, back, facts);
    }
    rollout.advance_wanted(draft);
    let settled = rollout.is_settled();
    rollout.note(draft, settled);
    rollout.overdue = rollout.passed_deadline(draft, settled);
    if let Some((split, workload)) = rollout.split() {
        return rollout.canary(draft, split, workload, facts);
    }
    rollout.keep_surplus_of_wanted(draft);
    let serving = match settled || rollout.replaces(draft) {
        true => rollout.target,
        false => rollout.keep_serving(draft),
    };
    rollout.advance_canaries(draft);
    rollout.retire_others(draft);
    if let (Some(workload), Some(revision)) = (rollout.workload(), rollout.target) {
        rollout.stand(draft, revision, workload, rollout.stable_percent());
    }
    let is_known = |revision| rollout.history.rolled_out == Some(revision) && !rollout.history.inferred;
    if let Some(revision) = rollout.target.filter(|revision| settled && !is_known(*revision)) {
        draft.plan.rolled_out.push((key.clone(), revision));
    }
    let shares = serving.map(|serving| split::all(serving, rollout.workload())).unwrap_or_default();
    rollout.report(shares, settled, facts)
}

/// Puts one component to sleep, or leaves it there.
pub(super) fn sleep<'w>(
    draft: &mut Draft<'w>,
    key: &ComponentKey,
    wanted: &'w ResolvedWorkload,
    facts: &[&'w ContainerFact],
) -> ComponentReport<'w> {
    let mut rollout = Rollout::new(draft, key, Some(wanted), facts);
    rollout.replicas = Count { wanted: 0, needed: 0 };
    let target = rollout.history.current();
    for ((revision, ordinal), containers) in std::mem::take(&mut rollout.units) {
        let policy = &wanted.workload.scaling;
        let is_kept = revision == target && ordinal < policy.least() && is_made_from(wanted, &containers);
        if !(is_kept && doze::lie_down(draft, policy, &containers)) {
            retire::retire(draft, &containers, "nobody has asked for it lately");
        }
    }
    sandbox::rest(draft, wanted, target);
    rollout.rest_canaries(draft);
    rollout.retire_others(draft);
    let shares = match rollout.split() {
        Some((split, workload)) => split::shares(split, target, workload),
        None => split::all(target, rollout.workload()),
    };
    // What came back sleeps as it would have answered: the wanted revision is given up all the same.
    rollout.given_up = rollout.came_back(draft).and(rollout.history.given_up.as_ref()).map(|one| one.why.clone());
    let settled = rollout.given_up.is_none();
    rollout.report(shares, settled, facts)
}

impl<'w, 'k> Rollout<'w, 'k> {
    fn new(
        draft: &Draft<'w>,
        key: &'k ComponentKey,
        wanted: Option<&'w ResolvedWorkload>,
        facts: &[&'w ContainerFact],
    ) -> Self {
        let history = draft.world.memory.revisions.get(key).unwrap_or(&NONE);
        let mut units: Units<'w> = BTreeMap::new();
        for fact in facts {
            units.entry((fact.revision, fact.ordinal)).or_default().push(*fact);
        }
        let target = wanted.map(|_| history.target);
        let (named, dropped) = canaries::set_aside(draft.world, key, history, &mut units);
        let policy = wanted.map(|resolved| canaries::relieved(draft, &named, &resolved.workload.scaling));
        let replicas = policy.as_ref().map_or(Count { wanted: 0, needed: 0 }, |policy| {
            scale::count(draft.world, key, history.target, policy, there(&units, history.target))
        });
        Self {
            key,
            wanted,
            target,
            history,
            replicas,
            units,
            phases: BTreeMap::new(),
            views: Vec::new(),
            given_up: None,
            policy,
            named,
            dropped,
            canaries: Vec::new(),
            wakes: draft.world.memory.activity.get(&key.service).is_some_and(|one| one.asleep || one.waking),
            overdue: None,
        }
    }

    fn workload(&self) -> Option<&'w Workload> {
        self.wanted.map(|resolved| resolved.workload.as_ref())
    }

    fn split(&self) -> Option<(Split, &'w Workload)> {
        let workload = self.workload()?;
        Some((split::split(self.history, workload)?, workload))
    }

    /// Leaves word of what was found out about the wanted revision, where that is news.
    fn note(&self, draft: &mut Draft<'w>, settled: bool) {
        let (plan, memory) = (&mut draft.plan, &draft.world.memory);
        plan.loads.extend(self.load_clock().map(|clock| (self.key.clone(), clock)));
        let first = self.of(self.target).map(|(_, _, phase)| StageNote::of(phase)).next();
        let runs = memory.stages.contains_key(self.key);
        let stage = first.filter(|note| runs || matches!(note, StageNote::In(_)));
        plan.stages.extend(stage.map(|note| (self.key.clone(), note)));
        let percent = self.workload().map(|workload| workload.canary_percent.unwrap_or(100));
        let asked = percent.filter(|percent| self.history.asked != Some((self.history.target, *percent)));
        plan.asked.extend(asked.map(|percent| (self.key.clone(), percent)));
        let is_news = |revision: &u32| !self.history.was_noted_proven(*revision) || memory.begun.contains_key(self.key);
        let proven = self.target.filter(|_| settled).filter(is_news);
        plan.proven.extend(proven.map(|revision| (self.key.clone(), revision)));
    }

    /// Moves the clock of a revision that has never answered on. Returns its deadline when it has passed.
    fn passed_deadline(&self, draft: &mut Draft<'w>, settled: bool) -> Option<Duration> {
        let revision = self.target.filter(|revision| !settled && !self.history.is_proven(*revision))?;
        let deadline = progress::deadline(self.workload()?);
        let mark = Mark::of(revision, self.ready(Some(revision)), &self.worst(Some(revision)))?;
        let since = draft.world.memory.stands_since(self.key, &mark).unwrap_or(draft.now.tick);
        draft.plan.progress.push((self.key.clone(), mark));
        draft.due(since + deadline).then_some(deadline)
    }

    /// Keeps two revisions: the newest that answers and the last that had all traffic.
    fn canary(
        mut self,
        draft: &mut Draft<'w>,
        split: Split,
        workload: &Workload,
        facts: &[&'w ContainerFact],
    ) -> ComponentReport<'w> {
        if split.takes_back {
            draft.plan.taken_back.push(self.key.clone());
        }
        let target = self.history.target;
        let settled = self.is_settled();
        self.keep_surplus_of_wanted(draft);
        let serves = settled || (self.history.is_proven(target) && self.ready(Some(target)) > 0);
        match draft.world.older.get(self.key).and_then(|older| older.get(&split.stable)) {
            Some(resolved) => {
                let policy = &resolved.workload.scaling;
                let there = there(&self.units, split.stable);
                let replicas = scale::count(draft.world, self.key, split.stable, policy, there);
                self.advance_revision(draft, resolved, split.stable, replicas.wanted);
                self.keep_surplus(draft, split.stable, replicas.wanted);
            }
            None => self.keep(draft, Some(split.stable)),
        }
        let latest = if serves { target } else { self.stand_in(draft, split).unwrap_or(split.stable) };
        self.advance_canaries(draft);
        self.retire_others(draft);
        let left = self.stable_percent().unwrap_or(100);
        self.stand(draft, target, workload, Some(split.percent * left / 100));
        if let Some(resolved) = draft.world.older.get(self.key).and_then(|older| older.get(&split.stable)) {
            self.stand(draft, split.stable, &resolved.workload, Some((100 - split.percent) * left / 100));
        }
        self.report(split::shares(split, latest, workload), settled, facts)
    }

    /// While the wanted revision does not answer: the newest of those between it and the stable one that does.
    fn stand_in(&mut self, draft: &mut Draft<'w>, split: Split) -> Option<u32> {
        let between = self.units.iter().filter(|((revision, _), _)| *revision != split.stable);
        let hopeful = between.filter(|(_, containers)| checks::answered(draft, containers) > Answered::No);
        let revision = hopeful.map(|((revision, _), _)| *revision).max();
        self.keep(draft, revision);
        revision.filter(|_| self.ready(revision) > 0)
    }

    /// Advances the replicas of the wanted revision.
    fn advance_wanted(&mut self, draft: &mut Draft<'w>) {
        if let Some(resolved) = self.wanted {
            self.advance_revision(draft, resolved, self.history.target, self.replicas.wanted);
        }
    }

    fn advance_revision(
        &mut self,
        draft: &mut Draft<'w>,
        resolved: &'w ResolvedWorkload,
        revision: u32,
        replicas: u32,
    ) {
        for ordinal in 0..replicas {
            let containers = self.units.remove(&(revision, ordinal)).unwrap_or_default();
            let unit = wanted_replica(draft, self.key, resolved, revision, ordinal, &containers);
            if !is_made_from(resolved, &containers) {
                // It carries the number and was made from something else: it must go before its place can be taken.
                retire::retire(draft, &containers, "it was made from something else");
                self.phases.insert((revision, ordinal), (unit, Phase::Creating));
                continue;
            }
            self.advance(draft, ordinal, unit);
        }
    }

    fn advance(&mut self, draft: &mut Draft<'w>, ordinal: u32, unit: Replica<'w>) {
        let mut phase = replica::advance(draft, &unit);
        // A replica answers only if the proxy can reach it, too.
        if phase.is_ready() && backend(&unit, unit.revision).is_none() {
            let message = format!("port {} of the container cannot be reached from here", unit.record.entry.port);
            phase = Phase::NotReady { message };
        }
        if phase.is_ready()
            && let Some(loading) = trained::tend(draft, &unit)
        {
            phase = loading;
        }
        self.views.push(pods::pod(draft.world, self.key, &unit, &phase));
        self.phases.insert((unit.revision, ordinal), (unit, phase));
    }

    /// The wanted revision is not there yet: keeps what answers meanwhile, and says which revision gets the traffic.
    fn keep_serving(&mut self, draft: &mut Draft<'w>) -> Option<u32> {
        let target = self.target;
        let was_target = self.history.rolled_out.filter(|rolled_out| Some(*rolled_out) == target);
        if was_target.is_some() && self.ready(target) > 0 {
            return target;
        }
        // Else the last revision that had all traffic; if that does not answer, the newest that does. The first deployment
        // may have been edited before all its replicas answered: then its serving container at least runs.
        let rolled_out =
            self.history.rolled_out.filter(|revision| self.units.keys().any(|(number, _)| number == revision));
        self.keep(draft, rolled_out);
        if rolled_out.is_some() && self.ready(rolled_out) > 0 {
            return rolled_out;
        }
        if self.units.is_empty() {
            self.revive(draft);
        }
        let others = self.units.iter().filter(|((revision, _), _)| Some(*revision) != target);
        let ranked =
            others.map(|((revision, _), containers)| (checks::answered(draft, containers), *revision, containers));
        // What has never answered does not hold the room that the wanted one waits for.
        let lacks_room = matches!(self.worst(target), Phase::NoRoom { .. } | Phase::WaitingForRoom { .. });
        let hopeful = ranked.filter(|(answered, _, containers)| {
            *answered > Answered::No || (rolled_out.is_none() && !lacks_room && checks::runs(containers))
        });
        let fallback = hopeful.map(|(answered, revision, _)| (answered, revision)).max().map(|(_, revision)| revision);
        self.keep(draft, fallback);
        if fallback.is_some() && self.ready(fallback) > 0 {
            return fallback;
        }
        // Nothing older answers: a part of the new revision is better than none of the old.
        let partly = target.filter(|_| self.ready(target) > 0);
        partly.or(rolled_out).or(fallback).or(target)
    }

    /// Advances what there is of a revision. A replica that lacks a container answers nobody: what it lacks is made again
    /// when it is known from what, else it goes.
    fn keep(&mut self, draft: &mut Draft<'w>, revision: Option<u32>) {
        let Some(revision) = revision else { return };
        let units: Vec<_> = self.units.extract_if(.., |(number, _), _| *number == revision).collect();
        for ((_, ordinal), containers) in units {
            let unit = self.kept(draft, (revision, ordinal), &containers);
            if unit.is_complete() || unit.source.is_some() {
                self.advance(draft, ordinal, unit);
            } else {
                retire::retire(draft, &containers, "a container of it is gone");
                self.phases.insert((revision, ordinal), (unit, Phase::Gone));
            }
        }
    }

    fn kept(&self, draft: &Draft<'w>, place: (u32, u32), containers: &[&'w ContainerFact]) -> Replica<'w> {
        let unit = Replica::kept(draft, containers);
        let known = draft.world.older.get(self.key).and_then(|older| older.get(&place.0));
        match known.filter(|known| !unit.is_complete() && is_made_from(known, containers)) {
            Some(known) => wanted_replica(draft, self.key, known, place.0, place.1, containers),
            None => unit,
        }
    }

    fn retire_others(&mut self, draft: &mut Draft<'w>) {
        for ((revision, _), containers) in std::mem::take(&mut self.units) {
            let surplus = Some(revision) == self.target;
            let why = if surplus { "fewer replicas are wanted" } else { "another revision took over" };
            retire::retire(draft, &containers, why);
        }
        for containers in std::mem::take(&mut self.dropped).values() {
            retire::retire(draft, containers, "the canary was removed");
        }
    }

    /// Counts the replicas of a revision that answer.
    fn ready(&self, revision: Option<u32>) -> u32 {
        let ready = self.of(revision).filter(|(_, _, phase)| phase.is_ready());
        u32::try_from(ready.count()).unwrap_or(u32::MAX)
    }

    fn of(&self, revision: Option<u32>) -> impl Iterator<Item = (u32, &Replica<'w>, &Phase)> {
        let own = self.phases.iter().filter(move |((number, _), _)| Some(*number) == revision);
        own.map(|((_, ordinal), (unit, phase))| (*ordinal, unit, phase))
    }

    /// Returns the phase a person should hear of: a failure before progress, progress before readiness.
    fn worst(&self, revision: Option<u32>) -> Phase {
        let rank = |phase: &Phase| match phase {
            Phase::Ready => 2,
            phase if phase.is_failure() => 0,
            _ => 1,
        };
        let counts = |ordinal: u32| revision != self.target || ordinal < self.replicas.needed;
        let phases = self.of(revision).filter(|(ordinal, _, _)| counts(*ordinal)).map(|(_, _, phase)| phase);
        phases.min_by_key(|phase| rank(phase)).cloned().unwrap_or(Phase::Creating)
    }

    /// What this pass means for the clock of the load time: it runs from the order to make the first container, and only
    /// what goes smoothly is learned from.
    fn load_clock(&self) -> Option<LoadClock> {
        let mut own = self.of(self.target).map(|(_, _, phase)| phase);
        match own.next()? {
            Phase::Creating => Some(LoadClock::Run),
            Phase::PullingModel(..) | Phase::PullingImage(..) => Some(LoadClock::Void),
            phase if phase.is_failure() => Some(LoadClock::Void),
            _ => None,
        }
    }
}

/// Whether a revision's containers are what it would be made from now.
fn is_made_from(resolved: &ResolvedWorkload, containers: &[&ContainerFact]) -> bool {
    containers.iter().all(|fact| fact.fingerprint == resolved.fingerprint.0)
}

fn wanted_replica<'w>(
    draft: &Draft<'w>,
    key: &ComponentKey,
    resolved: &'w ResolvedWorkload,
    revision: u32,
    ordinal: u32,
    containers: &[&'w ContainerFact],
) -> Replica<'w> {
    let workload = &resolved.workload;
    // What runs keeps its name, whatever its service is called now: a canary that was promoted, for example.
    let first = || names::replica_name(&key.service.namespace, &workload.service_name, revision, ordinal).into();
    let name: ReplicaName = containers.first().map_or_else(first, |fact| Arc::clone(&fact.replica));
    // What runs stays as it was made.
    let lifts = |fact: &&ContainerFact| fact.record.containers.iter().any(|one| one.cpu_when_ready.is_some());
    let lifted = containers.first().map_or_else(|| lift::lifts(draft.world, workload), lifts);
    let record = ReplicaRecord::of(workload);
    let record = if lifted { record.lifting_cpu(workload) } else { record };
    let sandboxed = containers.first().map_or_else(|| sandbox::pays(draft, workload), |fact| fact.record.sandbox);
    Replica {
        sandbox: draft.sandboxes.of(&name),
        name,
        revision,
        ordinal,
        record: Arc::new(record.with_sandbox(sandboxed)),
        source: Some((workload, resolved.fingerprint.0.as_str())),
        containers: containers.iter().map(|fact| (fact.container.as_str(), *fact)).collect(),
    }
}
