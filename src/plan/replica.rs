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
use super::world::{ContainerFact, EngineState, ExitFact, FactState, ImageState, ModelState, PullNote};
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

/// Advances a replica by one step and says where it is.
pub(super) fn advance(draft: &mut Draft<'_>, replica: &Replica<'_>) -> Phase {
    if let Some(phase) = prepare(draft, replica) {
        return phase;
    }
    for (index, name) in replica.record.init.iter().enumerate() {
        match keep(draft, replica, name, ContainerPosition::Init(index), None) {
            Kept::Done => {}
            Kept::Running => return Phase::Initializing(name.clone()),
            Kept::Not(phase) => return phase,
        }
    }
    let mut owner: Option<&str> = None;
    for (index, container) in replica.record.containers.iter().enumerate() {
        match keep(draft, replica, &container.name, ContainerPosition::Main(index), owner) {
            Kept::Running | Kept::Done => {}
            Kept::Not(phase) => {
                if index == 0 {
                    stop_companions(draft, replica);
                }
                return phase;
            }
        }
        owner = owner.or_else(|| replica.containers.get(container.name.as_str()).map(|fact| fact.name.as_str()));
    }
    checks(draft, replica)
}

/// Models and images must be here before the first container is made. Says why not.
fn prepare(draft: &mut Draft<'_>, replica: &Replica<'_>) -> Option<Phase> {
    let complete = replica
        .record
        .init
        .iter()
        .chain(replica.record.containers.iter().map(|container| &container.name))
        .all(|name| replica.containers.contains_key(name.as_str()));
    if complete {
        return None;
    }
    let Some((workload, _)) = replica.source else { return Some(Phase::Gone) };
    for model in &workload.models {
        if let Some(phase) = need_model(draft, &model.uri) {
            return Some(phase);
        }
    }
    if let EngineState::Down { message } = &draft.world.engine {
        return Some(Phase::EngineDown(message.clone()));
    }
    let all = workload.init_containers.iter().chain(&workload.containers);
    let missing = all.filter(|spec| !replica.containers.contains_key(spec.name.as_str()));
    let mut waiting = None;
    for spec in missing {
        let phase = need_image(draft, spec);
        waiting = waiting.or(phase);
    }
    waiting
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

fn need_image(draft: &mut Draft<'_>, spec: &ContainerSpec) -> Option<Phase> {
    let image = spec.image.clone();
    let pull = |draft: &mut Draft<'_>| draft.act(Action::PullImage { image: image.clone() });
    let pulling = |note| Some(Phase::PullingImage(image.clone(), note));
    match draft.world.images.get(&image) {
        None => {
            draft.act(Action::CheckImage { image: image.clone() });
            pulling(PullNote::default())
        }
        Some(ImageState::Pulling(note)) => pulling(note.clone()),
        Some(ImageState::Present { pulled_at }) => match spec.pull_policy {
            PullPolicy::Always if pulled_at.is_none() => {
                pull(draft);
                pulling(PullNote::default())
            }
            _ => None,
        },
        Some(ImageState::Absent) => match spec.pull_policy {
            PullPolicy::Never => Some(Phase::ImageFailed {
                message: format!("image `{image}` is not on this machine and imagePullPolicy is Never"),
                transient: false,
            }),
            _ => {
                pull(draft);
                pulling(PullNote::default())
            }
        },
        // An older copy is better than none: it is used, and the executor said so.
        Some(ImageState::Failed { present: true, .. }) => None,
        Some(ImageState::Failed { message, transient, failures, at, .. }) => {
            let (message, transient) = (message.clone(), *transient);
            let delay = if transient { backoff::restart_delay(failures + 1) } else { PERMANENT_RETRY };
            if draft.due(*at + delay) {
                draft.act(Action::CheckImage { image: image.clone() });
            }
            Some(Phase::ImageFailed { message, transient })
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
        FactState::Running { .. } => {
            match draft.world.memory.containers.get(&fact.name).and_then(|m| m.unhealthy.clone()) {
                Some(why) => {
                    stop(draft, fact, why.clone());
                    Kept::Not(Phase::NotReady { message: why })
                }
                None => Kept::Running,
            }
        }
        FactState::Created => Kept::Not(start(draft, fact)),
        FactState::Exited(exit) if matches!(position, ContainerPosition::Init(_)) && exit.code == 0 => Kept::Done,
        FactState::Exited(exit) => Kept::Not(restart(draft, fact, exit)),
        FactState::Paused => Kept::Not(Phase::Paused),
        FactState::Removing => Kept::Not(Phase::Creating),
    }
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
    if let Some(phase) = refused(draft, &fact.name) {
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
    let memory = draft.world.memory.containers.get(&fact.name).cloned().unwrap_or_default();
    let due = memory.ended.unwrap_or(draft.now.tick) + backoff::restart_delay(memory.failures);
    if draft.due(due) {
        match refused(draft, &fact.name) {
            Some(phase) => return phase,
            None => draft.act(Action::Start { id: fact.id.clone(), name: fact.name.clone() }),
        }
    }
    Phase::Crashed(Box::new(Crash {
        container: fact.container.clone(),
        exit: memory.last_exit.unwrap_or_else(|| exit.clone()),
        last_words: memory.last_words,
        restarts: memory.restarts,
        retry_in: due.saturating_sub(draft.now.tick),
    }))
}

fn stop(draft: &mut Draft<'_>, fact: &ContainerFact, why: String) {
    draft.act(Action::Stop {
        id: fact.id.clone(),
        name: fact.name.clone(),
        grace: fact.record.grace,
        pre_stop: fact.record.container(&fact.container).and_then(|container| container.pre_stop.clone()),
        why,
    });
}

/// Containers that share the network of one that ended have lost it: they end too, and start again after it.
fn stop_companions(draft: &mut Draft<'_>, replica: &Replica<'_>) {
    let owner_is_down = replica.record.containers.first().is_some_and(|owner| {
        replica.containers.get(owner.name.as_str()).is_some_and(|fact| matches!(fact.state, FactState::Exited(_)))
    });
    if !owner_is_down {
        return;
    }
    for container in replica.record.containers.iter().skip(1) {
        if let Some(fact) = replica.containers.get(container.name.as_str())
            && fact.is_running()
        {
            stop(draft, fact, "the container whose network it shares ended".to_owned());
        }
    }
}

/// Orders the checks that are due and gives the verdict of those that were made.
fn checks(draft: &mut Draft<'_>, replica: &Replica<'_>) -> Phase {
    let mut ready = true;
    let mut ever = true;
    let mut message = String::new();
    for (index, container) in replica.record.containers.iter().enumerate() {
        let Some(fact) = replica.containers.get(container.name.as_str()) else { continue };
        let started_up = match &container.probes.startup {
            Some(probe) => {
                let passed = check(
                    draft,
                    fact,
                    ProbeKind::Startup,
                    probe,
                    ProbeWhat::Check(probe.check.clone()),
                    Pace::Declared,
                );
                passed.map_err(|words| message = words).is_ok()
            }
            None => true,
        };
        if !started_up {
            ready = false;
            ever = false;
            continue;
        }
        if let Some(probe) = &container.probes.liveness {
            // Its verdict reaches us as `unhealthy`; here it is only kept going.
            drop(check(draft, fact, ProbeKind::Liveness, probe, ProbeWhat::Check(probe.check.clone()), Pace::Declared));
        }
        let own = readiness(replica, index);
        let declared =
            container.probes.readiness.as_ref().map(|probe| (probe.clone(), ProbeWhat::Check(probe.check.clone())));
        for (probe, what) in declared.into_iter().chain(own) {
            if let Err(words) = check(draft, fact, ProbeKind::Readiness, &probe, what, Pace::Eager) {
                ready = false;
                message = words;
                let known = draft.world.memory.probe(&fact.name, ProbeKind::Readiness);
                ever &= known.is_some_and(|memory| memory.ever_passed);
            }
        }
    }
    match (ready, ever) {
        (true, _) => Phase::Ready,
        (false, false) => Phase::Loading { message },
        (false, true) => Phase::NotReady { message },
    }
}

/// Returns the check that stands in for a readiness probe nobody declared.
fn readiness(replica: &Replica<'_>, index: usize) -> Option<(Probe, ProbeWhat)> {
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

/// How often something is checked before it passes for the first time.
#[derive(Clone, Copy, PartialEq)]
enum Pace {
    /// As declared.
    Declared,
    /// Within milliseconds at first, then ever slower.
    Eager,
}

fn check(
    draft: &mut Draft<'_>,
    fact: &ContainerFact,
    kind: ProbeKind,
    probe: &Probe,
    what: ProbeWhat,
    pace: Pace,
) -> Result<(), String> {
    let memory = draft.world.memory.containers.get(&fact.name);
    let started = memory.and_then(|memory| memory.started).unwrap_or(draft.now.tick);
    let probed = memory.and_then(|memory| memory.probes.get(&kind)).cloned().unwrap_or_default();
    let is_exec = matches!(what, ProbeWhat::Check(Check::Exec { .. }));
    let eager = pace == Pace::Eager && !is_exec && !probed.ever_passed;
    if draft.due(next_check(&probed, started, probe, eager)) {
        let order = ProbeOrder { id: fact.id.clone(), name: fact.name.clone(), kind, what, timeout: probe.timeout };
        draft.act(Action::Probe(Box::new(order)));
    }
    // Liveness counts as passing until it has failed often enough.
    let passing = probed.passing || (kind == ProbeKind::Liveness && probed.failures < probe.failure_threshold);
    if passing { Ok(()) } else { Err(probed.message) }
}

fn next_check(memory: &ProbeMemory, started: Duration, probe: &Probe, eager: bool) -> Duration {
    match memory.last {
        None => started + probe.initial_delay,
        Some(last) if eager => last + backoff::eager_probe_delay(memory.attempts).min(probe.period),
        Some(last) => last + probe.period,
    }
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
            FactState::Created | FactState::Exited(_) => {
                draft.act(Action::Remove { id: fact.id.clone(), name: fact.name.clone(), replica: Arc::clone(name) })
            }
            _ => {}
        }
    }
}

/// Between closing a route and looking at its leases: long enough for a request that read the old table to lease.
const SETTLE: Duration = Duration::from_millis(100);
