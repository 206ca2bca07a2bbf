//! One replica: its phases, and the next step of each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::action::{Action, ContainerPosition, CreateOrder, ProbeKind, ProbeOrder, ProbeWhat};
use super::backoff;
use super::memory::ProbeMemory;
use super::planner::Draft;
use super::record::ReplicaRecord;
use super::routes::ReplicaName;
use super::world::{ContainerFact, EngineState, ExitFact, FactReach, FactState, ImageState, ModelState, PullNote};
use crate::api::StorageUri;
use crate::workload::{Check, ContainerSpec, Probe, PullPolicy, Readiness, Workload, names};

/// A replica as it should be: what its containers are called, what is known of them, and, for the wanted revision, what
/// they are made from.
#[derive(Clone, Debug)]
pub struct Replica<'w> {
    /// Its name.
    pub name: ReplicaName,
    /// Revision number.
    pub revision: u32,
    /// Ordinal within the revision.
    pub ordinal: u32,
    /// What must be known of it.
    pub record: Arc<ReplicaRecord>,
    /// What its containers are made from; none for a revision that is only kept.
    pub source: Option<(&'w Arc<Workload>, &'w str)>,
    /// Its containers by their name within it.
    pub containers: BTreeMap<&'w str, &'w ContainerFact>,
}

/// Where a replica is.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// The engine was not asked yet.
    EngineUnknown,
    /// The engine does not answer.
    EngineDown(String),
    /// A model is being fetched.
    PullingModel(StorageUri, PullNote),
    /// A model could not be fetched.
    ModelFailed {
        /// In words for a person.
        message: String,
        /// Whether it is tried again.
        transient: bool,
    },
    /// An image is being pulled.
    PullingImage(String, PullNote),
    /// An image could not be had.
    ImageFailed {
        /// The image, or what stands for one.
        image: String,
        /// In words for a person.
        message: String,
        /// Whether it is tried again.
        transient: bool,
    },
    /// A container is being made or started.
    Creating,
    /// The engine refuses to make or start a container.
    Refused {
        /// In words for a person.
        message: String,
    },
    /// An init container runs.
    Initializing(String),
    /// It runs and does not answer yet.
    Loading {
        /// Words of the last check.
        message: String,
        /// Restarts so far.
        restarts: u32,
    },
    /// It answers.
    Ready,
    /// It answered and does not any more.
    NotReady {
        /// Words of the last check.
        message: String,
    },
    /// A container ended.
    Crashed(Box<Crash>),
    /// Someone paused it.
    Paused,
    /// A container of an older revision is gone and cannot be made again.
    Gone,
}

/// A container that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Crash {
    /// Name of the container within the replica.
    pub container: String,
    /// How it ended.
    pub exit: ExitFact,
    /// Its last lines.
    pub last_words: Vec<String>,
    /// Restarts so far.
    pub restarts: u32,
    /// When it is started again.
    pub retry_in: Duration,
    /// Why we ended it ourselves, if we did.
    pub stopped_for: Option<String>,
}

impl Phase {
    /// Whether requests can be sent.
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }

    /// Whether something went wrong, as opposed to being under way.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::ModelFailed { .. } | Self::ImageFailed { .. } | Self::Refused { .. } | Self::Gone => true,
            // The first end may be a passing fault; it is started again at once.
            Self::Crashed(_) => true,
            _ => false,
        }
    }
}

impl<'w> Replica<'w> {
    fn owner(&self) -> Option<&'w ContainerFact> {
        self.record.containers.first().and_then(|owner| self.containers.get(owner.name.as_str()).copied())
    }

    /// Containers that share the owner's network.
    fn companions(&self) -> Vec<&'w ContainerFact> {
        let others = self.record.containers.iter().skip(1);
        others.filter_map(|container| self.containers.get(container.name.as_str()).copied()).collect()
    }

    /// Init containers have done their work once the first other container is made: someone may tidy them away then.
    fn is_initialized(&self) -> bool {
        self.record.containers.iter().any(|container| self.containers.contains_key(container.name.as_str()))
    }

    fn is_complete(&self) -> bool {
        let has = |name: &String| self.containers.contains_key(name.as_str());
        self.record.containers.iter().all(|container| has(&container.name))
            && (self.is_initialized() || self.record.init.iter().all(has))
    }
}

/// Advances a replica by one step and says where it is.
pub(super) fn advance(draft: &mut Draft<'_>, replica: &Replica<'_>) -> Phase {
    if let Some(phase) = prepare(draft, replica) {
        return phase;
    }
    if !replica.is_initialized() {
        for (index, name) in replica.record.init.iter().enumerate() {
            match keep(draft, replica, name, ContainerPosition::Init(index), None) {
                Kept::Done => {}
                Kept::Running => return Phase::Initializing(name.clone()),
                Kept::Not(phase) => return phase,
            }
        }
    }
    if let Some(phase) = reunite(draft, replica) {
        return phase;
    }
    let owner = replica.owner().map(|fact| fact.name.as_str());
    let mut trouble = None;
    for (index, container) in replica.record.containers.iter().enumerate() {
        let join = owner.filter(|_| index > 0);
        if let Kept::Not(phase) = keep(draft, replica, &container.name, ContainerPosition::Main(index), join) {
            trouble = trouble.or(Some(phase));
            if index == 0 {
                break;
            }
        }
    }
    let verdict = checks(draft, replica);
    trouble.unwrap_or(verdict)
}

/// Whether the serving container of a replica runs.
pub(super) fn runs(containers: &[&ContainerFact]) -> bool {
    let serves = |fact: &&&ContainerFact| {
        fact.record.containers.first().is_some_and(|container| container.name == fact.container)
    };
    containers.iter().find(serves).is_some_and(|fact| fact.is_running())
}

/// What is known of a replica's checks without making any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Answered {
    /// It failed one, does not run or is being worked on.
    No,
    /// Some were not made yet: the daemon or the replica was just started.
    Perhaps,
    /// It passed them all.
    Yes,
}

/// Says whether a replica passed its checks when they were last made.
pub(super) fn answered(draft: &Draft<'_>, containers: &[&ContainerFact]) -> Answered {
    let check = |fact: &ContainerFact, kind| match draft.world.memory.probe(&fact.name, kind) {
        Some(known) if known.passing => Answered::Yes,
        Some(_) => Answered::No,
        None => Answered::Perhaps,
    };
    let of = |fact: &&ContainerFact| {
        let container = fact.record.container(&fact.container)?;
        if !fact.is_running() || draft.is_busy(&fact.name) || unhealthy(draft, fact).is_some() {
            return Some(Answered::No);
        }
        let is_first = fact.record.containers.first().is_some_and(|first| first.name == fact.container);
        let has_own = is_first && fact.record.readiness != Readiness::Declared;
        let declared = container.probes.readiness.as_ref().map(|_| check(fact, ProbeKind::Readiness));
        let own = has_own.then(|| check(fact, ProbeKind::Model));
        declared.into_iter().chain(own).min().or(Some(Answered::Yes))
    };
    if runs(containers) { containers.iter().filter_map(of).min().unwrap_or(Answered::No) } else { Answered::No }
}

/// Containers that share the network of one that ended have lost it. They are stopped before it is started again, so that
/// none is ever left behind in a network that is gone; one whose owner was made anew can never join it and is removed.
fn reunite(draft: &mut Draft<'_>, replica: &Replica<'_>) -> Option<Phase> {
    let companions = replica.companions();
    let running = companions.iter().copied().filter(|fact| fact.is_running());
    let Some(owner) = replica.owner() else {
        for fact in &companions {
            if fact.is_running() {
                stop(draft, fact, "the container whose network it shares is gone".to_owned());
            } else {
                remove(draft, fact);
            }
        }
        return (!companions.is_empty()).then_some(Phase::Creating);
    };
    match &owner.state {
        FactState::Exited(exit) => {
            let mut waiting = false;
            for fact in running {
                stop(draft, fact, "the container whose network it shares ended".to_owned());
                waiting = true;
            }
            waiting.then(|| crashed(draft, owner, exit).0)
        }
        FactState::Running { .. } => {
            let memory = &draft.world.memory;
            let started = |fact: &ContainerFact| memory.containers.get(&fact.name).and_then(|memory| memory.started);
            let stale: Vec<_> =
                running.filter(|fact| started(owner) > started(fact) && started(fact).is_some()).collect();
            for fact in stale {
                stop(draft, fact, "the container whose network it shares was started again".to_owned());
            }
            None
        }
        _ => None,
    }
}

/// Models and images must be here before the first container is made. Says why not.
fn prepare(draft: &mut Draft<'_>, replica: &Replica<'_>) -> Option<Phase> {
    if replica.is_complete() {
        return None;
    }
    let Some((workload, _)) = replica.source else { return Some(Phase::Gone) };
    let mut waiting = None;
    for model in &workload.models {
        let phase = need_model(draft, &model.uri);
        waiting = waiting.or(phase);
    }
    if waiting.is_some() {
        return waiting;
    }
    if let Some(phase) = without_engine(draft) {
        return Some(phase);
    }
    let init = workload.init_containers.iter().filter(|_| !replica.is_initialized());
    let missing = init.chain(&workload.containers).filter(|spec| !replica.containers.contains_key(spec.name.as_str()));
    for spec in missing {
        let phase = need_image(draft, spec);
        waiting = waiting.or(phase);
    }
    waiting
}

/// Says so when nothing can be asked of the engine.
fn without_engine(draft: &Draft<'_>) -> Option<Phase> {
    match &draft.world.engine {
        EngineState::Up => None,
        EngineState::Unknown => Some(Phase::EngineUnknown),
        EngineState::Down { message } => Some(Phase::EngineDown(message.clone())),
    }
}

fn need_model(draft: &mut Draft<'_>, uri: &StorageUri) -> Option<Phase> {
    match draft.world.models.get(uri) {
        Some(ModelState::Present { .. }) => None,
        Some(ModelState::Pulling(note)) => Some(Phase::PullingModel(uri.clone(), note.clone())),
        Some(ModelState::Failed { message, transient, failures, at }) => {
            let delay = if *transient { backoff::retry_delay(*failures) } else { PERMANENT_RETRY };
            if draft.due(*at + delay) {
                draft.act(Action::PullModel { uri: uri.clone() });
            }
            Some(Phase::ModelFailed { message: message.clone(), transient: *transient })
        }
        Some(ModelState::Absent) | None => {
            draft.act(Action::PullModel { uri: uri.clone() });
            Some(Phase::PullingModel(uri.clone(), PullNote::default()))
        }
    }
}

/// What failed for good is looked at again this much later all the same: someone may have mended the other side.
const PERMANENT_RETRY: Duration = Duration::from_secs(300);

/// How long a pull by policy `Always` serves the containers made after it.
const PULL_HOLDS: Duration = Duration::from_secs(60);
/// How often an image that must not be pulled is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

fn need_image(draft: &mut Draft<'_>, spec: &ContainerSpec) -> Option<Phase> {
    let image = &spec.image;
    let pulling = |note| Some(Phase::PullingImage(image.clone(), note));
    match draft.world.images.get(image) {
        None => {
            draft.act(Action::CheckImage { image: image.clone() });
            pulling(PullNote::default())
        }
        Some(ImageState::Pulling(note)) => pulling(note.clone()),
        Some(ImageState::Present { pulled_at }) => {
            let is_fresh = pulled_at.is_some_and(|at| draft.now.tick.saturating_sub(at) <= PULL_HOLDS);
            if spec.pull_policy != PullPolicy::Always || is_fresh {
                return None;
            }
            draft.act(Action::PullImage { image: image.clone() });
            pulling(PullNote::default())
        }
        Some(ImageState::Absent { at }) if spec.pull_policy == PullPolicy::Never => {
            if draft.due(*at + LOOK_AGAIN) {
                draft.act(Action::CheckImage { image: image.clone() });
            }
            let message = format!("image `{image}` is not on this machine and imagePullPolicy is Never");
            Some(Phase::ImageFailed { image: image.clone(), message, transient: false })
        }
        Some(ImageState::Absent { .. }) => {
            draft.act(Action::PullImage { image: image.clone() });
            pulling(PullNote::default())
        }
        // An older copy is better than none: it is used, and the executor said so.
        Some(ImageState::Failed { present: true, .. }) => None,
        Some(ImageState::Failed { message, transient, failures, at, .. }) => {
            let delay = if *transient { backoff::restart_delay(failures.saturating_add(1)) } else { PERMANENT_RETRY };
            if draft.due(*at + delay) {
                let image = image.clone();
                let never = spec.pull_policy == PullPolicy::Never;
                draft.act(if never { Action::CheckImage { image } } else { Action::PullImage { image } });
            }
            Some(Phase::ImageFailed { image: image.clone(), message: message.clone(), transient: *transient })
        }
    }
}

/// How one container stands after the step.
enum Kept {
    /// It runs.
    Running,
    /// An init container that ended well.
    Done,
    /// Neither; where the replica is instead.
    Not(Phase),
}

fn keep(
    draft: &mut Draft<'_>,
    replica: &Replica<'_>,
    container: &str,
    position: ContainerPosition,
    join: Option<&str>,
) -> Kept {
    let Some(fact) = replica.containers.get(container) else {
        return Kept::Not(create(draft, replica, container, position, join));
    };
    match &fact.state {
        // It is being stopped, or has not been seen since its start ended.
        FactState::Running { .. } if draft.is_busy(&fact.name) => Kept::Not(Phase::Creating),
        FactState::Running { .. } => match unhealthy(draft, fact) {
            Some(why) => {
                stop(draft, fact, why.clone());
                Kept::Not(Phase::NotReady { message: why })
            }
            None => Kept::Running,
        },
        FactState::Created => Kept::Not(start(draft, fact)),
        FactState::Exited(exit) if matches!(position, ContainerPosition::Init(_)) && exit.code == 0 => Kept::Done,
        FactState::Exited(exit) => Kept::Not(restart(draft, fact, exit)),
        FactState::Paused => Kept::Not(Phase::Paused),
        FactState::Removing => Kept::Not(Phase::Creating),
    }
}

fn unhealthy(draft: &Draft<'_>, fact: &ContainerFact) -> Option<String> {
    draft.world.memory.containers.get(&fact.name).and_then(|memory| memory.unhealthy.clone())
}

fn create(
    draft: &mut Draft<'_>,
    replica: &Replica<'_>,
    container: &str,
    position: ContainerPosition,
    join: Option<&str>,
) -> Phase {
    let Some((workload, fingerprint)) = replica.source else { return Phase::Gone };
    let name = names::container_name(&draft.world.instance, &replica.name, container);
    if let Some(phase) = refused(draft, &name) {
        return phase;
    }
    draft.act(Action::Create(Box::new(CreateOrder {
        name,
        replica: Arc::clone(&replica.name),
        revision: replica.revision,
        ordinal: replica.ordinal,
        fingerprint: fingerprint.to_owned(),
        workload: Arc::clone(workload),
        position,
        join: join.map(str::to_owned),
    })));
    Phase::Creating
}

fn start(draft: &mut Draft<'_>, fact: &ContainerFact) -> Phase {
    if let Some(phase) = without_engine(draft).or_else(|| refused(draft, &fact.name)) {
        return phase;
    }
    draft.act(Action::Start { id: fact.id.clone(), name: fact.name.clone() });
    Phase::Creating
}

/// Says so when the engine refused lately and it is too early to try again.
fn refused(draft: &mut Draft<'_>, name: &str) -> Option<Phase> {
    let refusal = draft.world.memory.refusals.get(name)?;
    let delay = if refusal.permanent { PERMANENT_RETRY } else { backoff::retry_delay(refusal.failures) };
    let message = refusal.message.clone();
    if draft.due(refusal.at + delay) {
        return None;
    }
    Some(Phase::Refused { message })
}

fn restart(draft: &mut Draft<'_>, fact: &ContainerFact, exit: &ExitFact) -> Phase {
    let (crash, is_due) = crashed(draft, fact, exit);
    if !is_due {
        return crash;
    }
    if let Some(phase) = without_engine(draft).or_else(|| refused(draft, &fact.name)) {
        return phase;
    }
    draft.act(Action::Start { id: fact.id.clone(), name: fact.name.clone() });
    crash
}

/// Describes a container that ended, and says whether it may be started again.
fn crashed(draft: &mut Draft<'_>, fact: &ContainerFact, exit: &ExitFact) -> (Phase, bool) {
    let memory = draft.world.memory.containers.get(&fact.name).cloned().unwrap_or_default();
    let due = memory.ended.unwrap_or(draft.now.tick) + backoff::restart_delay(memory.failures);
    let is_due = draft.due(due);
    let crash = Crash {
        container: fact.container.clone(),
        exit: memory.last_exit.unwrap_or_else(|| exit.clone()),
        last_words: memory.last_words,
        restarts: memory.restarts,
        retry_in: due.saturating_sub(draft.now.tick),
        stopped_for: memory.stopped_for,
    };
    (Phase::Crashed(Box::new(crash)), is_due)
}

fn stop(draft: &mut Draft<'_>, fact: &ContainerFact, why: String) {
    if is_stuck(draft, &fact.name) {
        return;
    }
    draft.act(Action::Stop {
        id: fact.id.clone(),
        name: fact.name.clone(),
        grace: fact.record.grace,
        pre_stop: fact.record.container(&fact.container).and_then(|container| container.pre_stop.clone()),
        reach: owner_reach(draft, fact),
        why,
    });
}

fn remove(draft: &mut Draft<'_>, fact: &ContainerFact) {
    if is_stuck(draft, &fact.name) {
        return;
    }
    draft.act(Action::Remove { id: fact.id.clone(), name: fact.name.clone(), replica: Arc::clone(&fact.replica) });
}

/// Whether stopping or removing failed lately and it is too early to try again.
fn is_stuck(draft: &mut Draft<'_>, name: &str) -> bool {
    let Some(stuck) = draft.world.memory.stuck.get(name) else { return false };
    let again = stuck.at + backoff::retry_delay(stuck.failures);
    !draft.due(again)
}

/// How the ports of a container's replica are reached: only the owner of the network has an address.
fn owner_reach(draft: &Draft<'_>, fact: &ContainerFact) -> FactReach {
    let Some(owner) = fact.record.containers.first().filter(|owner| owner.name != fact.container) else {
        return fact.reach.clone();
    };
    let name = names::container_name(&draft.world.instance, &fact.replica, &owner.name);
    draft.world.containers.get(&name).map_or(FactReach::None, |owner| owner.reach.clone())
}

/// Orders the checks that are due and gives the verdict of those that were made.
fn checks(draft: &mut Draft<'_>, replica: &Replica<'_>) -> Phase {
    let mut verdict = Verdict { ready: true, ever: true, message: String::new(), restarts: 0 };
    for (index, container) in replica.record.containers.iter().enumerate() {
        let Some(fact) = replica.containers.get(container.name.as_str()) else { continue };
        if !fact.is_running() || draft.is_busy(&fact.name) || unhealthy(draft, fact).is_some() {
            continue;
        }
        let memory = draft.world.memory.containers.get(&fact.name);
        verdict.restarts = verdict.restarts.max(memory.map_or(0, |memory| memory.restarts));
        check_container(draft, replica, index, fact, &mut verdict);
    }
    let Verdict { message, restarts, .. } = verdict;
    match (verdict.ready, verdict.ever) {
        (true, _) => Phase::Ready,
        (false, false) => Phase::Loading { message, restarts },
        (false, true) => Phase::NotReady { message },
    }
}

struct Verdict {
    ready: bool,
    ever: bool,
    message: String,
    restarts: u32,
}

fn check_container(
    draft: &mut Draft<'_>,
    replica: &Replica<'_>,
    index: usize,
    fact: &ContainerFact,
    verdict: &mut Verdict,
) {
    let container = &replica.record.containers[index];
    let as_written = |probe: &Probe| ProbeWhat::Check(probe.check.clone());
    if let Some(probe) = &container.probes.startup
        && let Err(words) = check(draft, fact, ProbeKind::Startup, probe, as_written(probe))
    {
        (verdict.ready, verdict.ever, verdict.message) = (false, false, words);
        return;
    }
    if let Some(probe) = &container.probes.liveness {
        // Its verdict reaches us as `unhealthy`; here it is only kept going.
        drop(check(draft, fact, ProbeKind::Liveness, probe, as_written(probe)));
    }
    let declared = container.probes.readiness.as_ref();
    let declared = declared.map(|probe| (ProbeKind::Readiness, probe.clone(), as_written(probe)));
    let own = own_check(replica, index).map(|(probe, what)| (ProbeKind::Model, probe, what));
    for (kind, probe, what) in declared.into_iter().chain(own) {
        if let Err(words) = check(draft, fact, kind, &probe, what) {
            (verdict.ready, verdict.message) = (false, words);
            verdict.ever &= draft.world.memory.probe(&fact.name, kind).is_some_and(|memory| memory.ever_passed);
        }
    }
}

/// Returns the check of the model itself, which is made although nobody declared it.
fn own_check(replica: &Replica<'_>, index: usize) -> Option<(Probe, ProbeWhat)> {
    if index != 0 || replica.record.readiness == Readiness::Declared {
        return None;
    }
    let what = ProbeWhat::Readiness(replica.record.readiness.clone(), replica.record.entry.port);
    Some((derived_probe(replica.record.entry.port), what))
}

/// Returns the schedule of a check that nobody declared: every 10 s once ready, three failures to lose it.
pub fn derived_probe(port: u16) -> Probe {
    Probe {
        check: Check::Tcp { port },
        initial_delay: Duration::ZERO,
        period: Duration::from_secs(10),
        timeout: Duration::from_secs(2),
        success_threshold: 1,
        failure_threshold: 3,
    }
}

fn check(
    draft: &mut Draft<'_>,
    fact: &ContainerFact,
    kind: ProbeKind,
    probe: &Probe,
    what: ProbeWhat,
) -> Result<(), String> {
    let memory = draft.world.memory.containers.get(&fact.name);
    let run = memory.and_then(|memory| memory.started);
    let known = memory.and_then(|memory| memory.probes.get(&kind)).cloned().unwrap_or_default();
    if kind == ProbeKind::Startup && known.ever_passed {
        // It has said what it is for.
        return Ok(());
    }
    let eager = matches!(kind, ProbeKind::Readiness | ProbeKind::Model)
        && !matches!(what, ProbeWhat::Check(Check::Exec { .. }))
        && !known.passing
        && known.successes == 0;
    if draft.due(next_check(&known, run.unwrap_or(draft.now.tick), probe, eager)) {
        draft.act(Action::Probe(Box::new(ProbeOrder {
            id: fact.id.clone(),
            name: fact.name.clone(),
            kind,
            what,
            reach: owner_reach(draft, fact),
            timeout: probe.timeout,
            probe: probe.clone(),
            run,
        })));
    }
    if known.passing { Ok(()) } else { Err(known.message) }
}

/// Checks that pass are bundled: their times are rounded up to this, so that hundreds of services wake the loop a few
/// times a second and not hundreds of times.
const BUNDLE: Duration = Duration::from_millis(250);

fn next_check(memory: &ProbeMemory, started: Duration, probe: &Probe, eager: bool) -> Duration {
    match memory.last {
        None => started + probe.initial_delay,
        Some(last) if eager => last + backoff::eager_probe_delay(memory.attempts).min(probe.period),
        Some(last) if memory.passing => round_up(last + probe.period, BUNDLE),
        Some(last) => last + probe.period,
    }
}

fn round_up(time: Duration, step: Duration) -> Duration {
    let (time, step) = (time.as_nanos(), step.as_nanos());
    Duration::from_nanos(u64::try_from(time.div_ceil(step) * step).unwrap_or(u64::MAX))
}

/// Takes a replica down in order: out of routing (the caller's), last lease, stop, remove. `since` is when it was first
/// found unwanted.
pub(super) fn retire<'f>(
    draft: &mut Draft<'_>,
    name: &ReplicaName,
    containers: impl Iterator<Item = &'f ContainerFact>,
    why: &str,
) {
    draft.plan.draining.push(Arc::clone(name));
    let Some(since) = draft.world.memory.draining.get(name.as_ref()).copied() else {
        // First seen unwanted in this pass: the route closes now; what slipped through gets a moment to show itself.
        draft.wake(draft.now.tick + SETTLE);
        return;
    };
    let busy = draft.world.leases.get(name).copied().unwrap_or(0) > 0;
    let deadline = since + draft.world.config.drain_deadline;
    let settled = draft.due(since + SETTLE);
    let may_stop = settled && (!busy || draft.due(deadline));
    for fact in containers {
        match &fact.state {
            FactState::Running { .. } | FactState::Paused if may_stop => stop(draft, fact, why.to_owned()),
            FactState::Created | FactState::Exited(_) => remove(draft, fact),
            _ => {}
        }
    }
}

/// Between closing a route and looking at its leases: long enough for a request that read the old table to lease.
const SETTLE: Duration = Duration::from_millis(100);
