//! One replica: its phases, and the next step of each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::action::{Action, ContainerPosition, CreateOrder};
use super::admission;
use super::backoff;
use super::checks::checks;
use super::doze;
use super::lift;
use super::memory::Unhealthy;
use super::planner::Draft;
use super::prepare::{prepare, without_engine};
use super::record::ReplicaRecord;
use super::retire::{remove, stop, stop_within};
use super::routes::ReplicaName;
use super::sandbox;
use super::vanish;
use super::world::{ContainerFact, ExitFact, FactReach, FactState, PullNote};
use crate::api::StorageUri;
use crate::workload::{Workload, names};

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
    /// Its containers by their name within it, the sandbox apart.
    pub containers: BTreeMap<&'w str, &'w ContainerFact>,
    /// The container that holds its network, when one does and it is there.
    pub sandbox: Option<&'w ContainerFact>,
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
    /// It waits until there is room for it: others are going to sleep, or busy.
    WaitingForRoom {
        /// In words for a person, with numbers.
        message: String,
    },
    /// There is no room for it and will be none by itself.
    NoRoom {
        /// In words for a person, with numbers.
        message: String,
        /// Whether it is GPUs that lack.
        gpu: bool,
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
    /// It slept with its memory kept, and is being woken.
    Waking,
    /// Nobody has asked for it lately: it does not run, and starts when somebody does.
    Asleep,
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
    /// Someone keeps removing its container.
    Removed {
        /// How often so far.
        times: u32,
        /// From the last time to when it is made again.
        delay: Duration,
    },
    /// It has never answered, and came no further than this within this time; it is tried on.
    Overdue(Box<Phase>, Duration),
    /// It was given up, and the revision before came back.
    GivenUp {
        /// Why, in words for a person.
        message: String,
    },
    /// A container of an older revision is gone and cannot be made again.
    Gone,
    /// It is not wanted any more.
    Leaving,
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
    /// From its end to the next start. Not a countdown: what is shown must not change as long as nothing happens.
    pub delay: Duration,
    /// Why we ended it ourselves, if we did.
    pub stopped_for: Option<String>,
}

impl Phase {
    /// Whether requests can be sent.
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }

    /// How long a request waits for it while nothing of it changes; none when there is nothing to wait for.
    pub fn patience(&self) -> Option<Duration> {
        let seconds = match self {
            // It is woken by whoever waits, and the planner needs a moment.
            Self::Asleep | Self::EngineUnknown => 30,
            // A server that is told to wake may have gigabytes to move.
            Self::Waking => 120,
            // The engine, and its queue.
            Self::Creating => 120,
            Self::PullingModel(..)
            | Self::PullingImage(..)
            | Self::WaitingForRoom { .. }
            | Self::Initializing(_)
            | Self::Loading { .. } => 600,
            _ => return None,
        };
        Some(Duration::from_secs(seconds))
    }

    /// Whether something went wrong, as opposed to being under way.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::ModelFailed { .. }
            | Self::ImageFailed { .. }
            | Self::Refused { .. }
            | Self::NoRoom { .. }
            | Self::GivenUp { .. }
            | Self::Overdue(..)
            | Self::Removed { .. }
            | Self::Gone => true,
            // The first end may be a passing fault; it is started again at once.
            Self::Crashed(_) => true,
            _ => false,
        }
    }
}

impl<'w> Replica<'w> {
    /// The container whose network the others share.
    pub(super) fn owner(&self) -> Option<&'w ContainerFact> {
        if self.record.sandbox { self.sandbox } else { self.serving() }
    }

    /// The container that serves.
    pub(super) fn serving(&self) -> Option<&'w ContainerFact> {
        self.record.containers.first().and_then(|first| self.containers.get(first.name.as_str()).copied())
    }

    /// How its ports are reached.
    pub(super) fn reach(&self) -> &'w FactReach {
        self.owner().map_or(&FactReach::None, |owner| &owner.reach)
    }

    /// Returns a replica of which only the containers are known; never empty.
    pub(super) fn kept(draft: &Draft<'w>, containers: &[&'w ContainerFact]) -> Self {
        let first = containers[0];
        Self {
            name: Arc::clone(&first.replica),
            revision: first.revision,
            ordinal: first.ordinal,
            record: Arc::clone(&first.record),
            source: None,
            containers: containers.iter().map(|fact| (fact.container.as_str(), *fact)).collect(),
            sandbox: draft.sandboxes.of(&first.replica),
        }
    }

    /// Containers that share the owner's network.
    fn companions(&self) -> Vec<&'w ContainerFact> {
        if self.record.sandbox {
            return self.containers.values().copied().collect();
        }
        let others = self.record.containers.iter().skip(1);
        others.filter_map(|container| self.containers.get(container.name.as_str()).copied()).collect()
    }

    /// Init containers have done their work once the first other container is made: someone may tidy them away then.
    pub(super) fn is_initialized(&self) -> bool {
        self.record.containers.iter().any(|container| self.containers.contains_key(container.name.as_str()))
    }

    pub(super) fn is_complete(&self) -> bool {
        let has = |name: &String| self.containers.contains_key(name.as_str());
        self.record.containers.iter().all(|container| has(&container.name))
            && (self.is_initialized() || self.record.init.iter().all(has))
    }
}

/// Advances a replica by one step and says where it is.
pub(super) fn advance(draft: &mut Draft<'_>, replica: &Replica<'_>) -> Phase {
    if let Some(phase) = prepare(draft, replica) {
        sandbox::make_ahead(draft, replica, &phase);
        return phase;
    }
    if let Some(phase) = sandbox::hold(draft, replica) {
        return phase;
    }
    let sandbox = replica.sandbox.filter(|_| replica.record.sandbox).map(|sandbox| sandbox.id.as_str());
    if !replica.is_initialized() {
        for (index, name) in replica.record.init.iter().enumerate() {
            match keep(draft, replica, name, ContainerPosition::Init(index), sandbox) {
                Kept::Done => {}
                Kept::Running => return Phase::Initializing(name.clone()),
                Kept::Not(phase) => return phase,
            }
        }
    }
    if sandbox.is_none()
        && let Some(phase) = reunite(draft, replica)
    {
        return phase;
    }
    let owner = replica.owner().map(|fact| fact.name.as_str());
    let mut trouble = None;
    for (index, container) in replica.record.containers.iter().enumerate() {
        let join = sandbox.or(owner.filter(|_| index > 0));
        if let Kept::Not(phase) = keep(draft, replica, &container.name, ContainerPosition::Main(index), join) {
            trouble = trouble.or(Some(phase));
            if index == 0 && sandbox.is_none() {
                break;
            }
        }
    }
    // Containers that are being worked on have no say in the verdict, so it counts for nothing while there are any.
    let verdict = checks(draft, replica);
    let phase = trouble.unwrap_or(verdict);
    if phase.is_ready() {
        lift::apply(draft, replica);
    }
    phase
}

/// Containers that share the network of one that ended have lost it. They are stopped before it is started again, so that
/// none is ever left behind in a network that is gone; one whose owner was made anew can never join it and is removed.
pub(super) fn reunite(draft: &mut Draft<'_>, replica: &Replica<'_>) -> Option<Phase> {
    let companions = replica.companions();
    let running = companions.iter().copied().filter(|fact| fact.is_running());
    let joined = |owner: &ContainerFact, fact: &ContainerFact| match &fact.sandbox {
        Some(id) => *id == owner.id,
        None => !owner.is_sandbox(),
    };
    let orphans = companions.iter().filter(|fact| replica.owner().is_none_or(|owner| !joined(owner, fact)));
    let orphans: Vec<&ContainerFact> = orphans.copied().collect();
    for fact in &orphans {
        if fact.is_running() {
            stop(draft, fact, "the container whose network it shares is gone".to_owned());
        } else {
            remove(draft, fact);
        }
    }
    let owner = replica.owner().filter(|_| orphans.is_empty());
    let Some(owner) = owner else { return (!orphans.is_empty()).then_some(Phase::Creating) };
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

/// How one container stands after the step.
pub(super) enum Kept {
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
    match replica.containers.get(container) {
        Some(fact) => keep_running(draft, replica, fact, position),
        None => Kept::Not(create(draft, replica, container, position, join)),
    }
}

pub(super) fn keep_running(
    draft: &mut Draft<'_>,
    replica: &Replica<'_>,
    fact: &ContainerFact,
    position: ContainerPosition,
) -> Kept {
    match &fact.state {
        // It is being stopped, or has not been seen since its start ended.
        FactState::Running { .. } if draft.is_busy(&fact.name) => Kept::Not(under_way(draft, fact)),
        FactState::Running { .. } | FactState::Paused if let Some(phase) = doze::rouse(draft, fact) => Kept::Not(phase),
        FactState::Running { .. } => match unhealthy(draft, fact) {
            Some(Unhealthy { why, grace }) => {
                stop_within(draft, fact, why.clone(), grace.unwrap_or(fact.record.grace));
                Kept::Not(Phase::NotReady { message: why })
            }
            None => Kept::Running,
        },
        FactState::Created => Kept::Not(start(draft, replica, fact)),
        FactState::Exited(exit) if matches!(position, ContainerPosition::Init(_)) && exit.code == 0 => Kept::Done,
        // We ended it ourselves, in order, and want it after all.
        FactState::Exited(_) if draft.world.memory.was_stopped(&fact.name) => Kept::Not(start(draft, replica, fact)),
        // A sandbox does nothing that could fail: one that was terminated was stopped, by an earlier daemon or by hand.
        FactState::Exited(exit) if matches!(position, ContainerPosition::Sandbox) && exit.code == TERMINATED => {
            Kept::Not(start(draft, replica, fact))
        }
        FactState::Exited(exit) => Kept::Not(restart(draft, replica, fact, exit)),
        FactState::Paused => Kept::Not(Phase::Paused),
        FactState::Removing => Kept::Not(dead(draft, fact)),
    }
}

/// Waits for a container the engine says it is removing; one that stays like that is removed again.
pub(super) fn dead(draft: &mut Draft<'_>, fact: &ContainerFact) -> Phase {
    let since = draft.world.memory.removing.get(&fact.name).copied().unwrap_or(draft.now.tick);
    if !draft.due(since + REMOVAL_TAKES) {
        return Phase::Creating;
    }
    remove(draft, fact);
    let message = format!(
        "the engine does not get done with removing container `{0}`; it is asked again (by hand: docker rm -f {0})",
        fact.name
    );
    Phase::Refused { message }
}

/// Exit code of what ended by SIGTERM: 128 and the signal's number.
const TERMINATED: i64 = 143;
/// Longest time an engine is left alone with a removal.
const REMOVAL_TAKES: Duration = Duration::from_secs(30);

pub(super) fn unhealthy(draft: &Draft<'_>, fact: &ContainerFact) -> Option<Unhealthy> {
    draft.world.memory.containers.get(&fact.name).and_then(|memory| memory.unhealthy.clone())
}

pub(super) fn create(
    draft: &mut Draft<'_>,
    replica: &Replica<'_>,
    container: &str,
    position: ContainerPosition,
    join: Option<&str>,
) -> Phase {
    let Some((workload, fingerprint)) = replica.source else { return Phase::Gone };
    let name = names::container_name(&draft.world.instance, &replica.name, container);
    if let Some(phase) = refused(draft, &name).or_else(|| vanish::removed(draft, &name)) {
        return phase;
    }
    let gpus = match admit(draft, replica, container) {
        Ok(gpus) => gpus,
        Err(phase) => return phase,
    };
    let memory = draft.room.holders.get(&replica.name).map_or(0, |holder| holder.memory);
    draft.act(Action::Create(Box::new(CreateOrder {
        memory,
        gpus,
        name,
        replica: Arc::clone(&replica.name),
        revision: replica.revision,
        ordinal: replica.ordinal,
        fingerprint: fingerprint.to_owned(),
        workload: Arc::clone(workload),
        position,
        join: join.map(str::to_owned),
        sandboxed: replica.record.sandbox,
        lift_cpu: replica.record.containers.iter().any(|container| container.cpu_when_ready.is_some()),
    })));
    Phase::Creating
}

/// Asks for room. A sandbox takes none, but is of no use to a replica that gets none.
fn admit(draft: &mut Draft<'_>, replica: &Replica<'_>, container: &str) -> Result<Vec<String>, Phase> {
    let gpus = admission::admit(draft, replica);
    if let Err(Phase::NoRoom { .. }) = &gpus {
        draft.sandboxes.give_up(&replica.name);
    }
    if container == names::SANDBOX { gpus.map(|_| Vec::new()) } else { gpus }
}

/// Asks for room for a container that is there. A replica that was made with GPUs that are somebody else's now goes, when
/// one that is made anew would find others.
fn readmit(draft: &mut Draft<'_>, replica: &Replica<'_>, fact: &ContainerFact) -> Result<(), Phase> {
    if replica.source.is_some() && admission::would_fit_elsewhere(draft, replica) {
        replica.containers.values().for_each(|fact| remove(draft, fact));
        return Err(Phase::Creating);
    }
    admit(draft, replica, &fact.container).map(drop)
}

fn start(draft: &mut Draft<'_>, replica: &Replica<'_>, fact: &ContainerFact) -> Phase {
    if let Some(phase) = without_engine(draft).or_else(|| refused(draft, &fact.name)) {
        return phase;
    }
    if let Err(phase) = readmit(draft, replica, fact) {
        return phase;
    }
    draft.act(Action::Start { id: fact.id.clone(), name: fact.name.clone() });
    Phase::Creating
}

/// What is being done to a container that runs.
fn under_way(draft: &Draft<'_>, fact: &ContainerFact) -> Phase {
    match draft.world.memory.dozing(&fact.component, &fact.name) {
        Some(dozing) if dozing.id == fact.id => Phase::Waking,
        _ => Phase::Creating,
    }
}

/// Says so when the engine refused lately and it is too early to try again.
fn refused(draft: &mut Draft<'_>, name: &str) -> Option<Phase> {
    let refusal = draft.world.memory.refusals.get(name)?;
    let delay = if refusal.permanent { backoff::PERMANENT_RETRY } else { backoff::retry_delay(refusal.failures) };
    let message = refusal.message.clone();
    if draft.due(refusal.at + delay) {
        return None;
    }
    Some(Phase::Refused { message })
}

fn restart(draft: &mut Draft<'_>, replica: &Replica<'_>, fact: &ContainerFact, exit: &ExitFact) -> Phase {
    let (crash, is_due) = crashed(draft, fact, exit);
    if !is_due {
        return crash;
    }
    if let Some(phase) = without_engine(draft).or_else(|| refused(draft, &fact.name)) {
        return phase;
    }
    if let Err(phase) = readmit(draft, replica, fact) {
        return phase;
    }
    draft.act(Action::Start { id: fact.id.clone(), name: fact.name.clone() });
    crash
}

/// Describes a container that ended, and says whether it may be started again.
fn crashed(draft: &mut Draft<'_>, fact: &ContainerFact, exit: &ExitFact) -> (Phase, bool) {
    let memory = draft.world.memory.containers.get(&fact.name).cloned().unwrap_or_default();
    let delay = backoff::restart_delay(memory.failures);
    let is_due = draft.due(memory.ended.unwrap_or(draft.now.tick) + delay);
    let crash = Crash {
        container: fact.container.clone(),
        exit: memory.explained(memory.last_exit.as_ref().unwrap_or(exit)),
        last_words: memory.last_words,
        restarts: memory.restarts,
        delay,
        stopped_for: memory.stopped_for,
    };
    (Phase::Crashed(Box::new(crash)), is_due)
}
