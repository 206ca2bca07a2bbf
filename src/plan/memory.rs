//! What passes remember: failures, checks, revisions. Written only by the methods here, from facts.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::action::{Action, ActionKey, ProbeKind, ProbeOrder};
use super::admission::{Explanation, Grant, Queued};
use super::backoff;
use super::planner::Plan;
use super::progress::Progress;
use super::routes::ReplicaName;
use super::scale::{Load, Scales};
use super::sleep::Rest;
use super::stages::Stage;
use super::trained::Loaded;
use super::vanish::Vanished;
use super::world::{ExitFact, Now};
use crate::api::ServiceKey;
use crate::workload::{ComponentKey, Probe};

mod revisions;
pub use revisions::{GivenUp, RevisionNote, Revisions};

/// Everything remembered.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Per container name.
    pub containers: HashMap<String, ContainerMemory>,
    /// Per component.
    pub revisions: BTreeMap<ComponentKey, Revisions>,
    /// Revisions kept per component; 10 when none.
    pub history_limit: Option<usize>,
    /// The InferenceService as it was written for each revision, to make it again from.
    pub sources: BTreeMap<ComponentKey, BTreeMap<u32, Arc<serde_json::Value>>>,
    /// What is loaded in servers that load models while they run, per container name.
    pub repositories: HashMap<String, Loaded>,
    /// Attempts to make or start a container that failed, per container name.
    pub refusals: HashMap<String, Refusal>,
    /// Attempts to stop or remove a container that failed, per container name.
    pub stuck: HashMap<String, Refusal>,
    /// When a replica was first found unwanted, by name.
    pub draining: HashMap<String, Duration>,
    /// Of services that may sleep.
    pub activity: BTreeMap<ServiceKey, Activity>,
    /// Containers that could not be put to sleep with their memory kept, by the engine's id.
    pub sleepless: HashSet<String>,
    /// Services that were put to sleep to make room: whichever way they sleep, they give their memory up.
    pub evicted: HashSet<ServiceKey>,
    /// Services that were woken since the daemon started because they are to be.
    pub preloaded: HashSet<ServiceKey>,
    /// Memory given to replicas that are being made, by replica.
    pub granted: BTreeMap<ReplicaName, Grant>,
    /// Replicas that wait for room, by name.
    pub queue: BTreeMap<ReplicaName, Queued>,
    /// Components whose older revision goes so that there is room for the wanted one: which, and since when.
    pub replacing: BTreeMap<ComponentKey, (u32, Duration)>,
    /// Containers that somebody else removed, by name.
    pub vanished: HashMap<String, Vanished>,
    /// Since when the engine says it is removing a container, by name.
    pub removing: HashMap<String, Duration>,
    /// The last decision about the room of each service. They are shown after every pass, and so shared.
    pub explanations: Arc<BTreeMap<ServiceKey, Arc<Explanation>>>,
    /// Of revisions whose replicas follow their load.
    pub scales: Scales,
    /// Which stage of its start a component is in, and since when.
    pub stages: BTreeMap<ComponentKey, (Stage, Duration)>,
    /// How far revisions that have not answered yet have come.
    pub progress: Progress,
    /// Since when a component is being started, for its load time.
    pub begun: BTreeMap<ComponentKey, Duration>,
}

/// When a service was last asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// The end of the last answer to somebody, or the last time it was not fit to answer; none while nothing is known.
    pub last: Option<Duration>,
    /// Whether it was put to sleep.
    pub asleep: bool,
    /// Whether it slept and has neither answered nor failed since.
    pub waking: bool,
}

/// What becomes of the clock that measures how long a component takes to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadClock {
    /// It runs.
    Run,
    /// It starts over: what it measured so far was something else.
    Void,
}

/// What is remembered of one container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerMemory {
    /// Ends that count towards back-off.
    pub failures: u32,
    /// Restarts in all.
    pub restarts: u32,
    /// The last end.
    pub last_exit: Option<ExitFact>,
    /// Whether that end looked like one for memory and was none: it used far less than its limit.
    pub not_for_memory: bool,
    /// Last lines of output before the last end.
    pub last_words: Vec<String>,
    /// When the last end was noticed.
    pub ended: Option<Duration>,
    /// When it was last seen to begin running.
    pub started: Option<Duration>,
    /// How long it had run then at least: it was there before this daemon.
    pub ran_before: Duration,
    /// Processes of it that were killed for memory while it ran on.
    pub kills: u64,
    /// Its checks.
    pub probes: HashMap<ProbeKind, ProbeMemory>,
    /// Set when a liveness check failed often enough: the container is to be stopped and started again.
    pub unhealthy: Option<Unhealthy>,
    /// Why we ended it ourselves the last time, if we did: the words of `unhealthy`.
    pub stopped_for: Option<String>,
    /// Set while a start after an end is under way: the next end is a new one, even if it looks the same.
    pub restarting: bool,
    /// Set while it is being stopped in order: the next end is no failure.
    pub stopping: bool,
    /// Whether this run of it was held to its processor limit.
    pub limited: bool,
    /// When that may be tried again.
    pub limit_again: Duration,
    /// Whether its last end was that.
    pub was_stopped: bool,
}

/// Why a container that runs is to be started again.
#[derive(Clone, Debug, PartialEq)]
pub struct Unhealthy {
    /// In words for a person.
    pub why: String,
    /// Between the stop signal and the kill, where the check that failed has a time of its own.
    pub grace: Option<Duration>,
}

/// What is remembered of one check.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProbeMemory {
    /// Successes in a row.
    pub successes: u32,
    /// Failures in a row.
    pub failures: u32,
    /// Attempts since the container started.
    pub attempts: u32,
    /// When the last ended.
    pub last: Option<Duration>,
    /// When that was begun.
    pub begun: Option<Duration>,
    /// The verdict: passed, after thresholds.
    pub passing: bool,
    /// Whether it ever passed since the container started.
    pub ever_passed: bool,
    /// Words of the last failure.
    pub message: String,
}

/// An engine call that failed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Refusal {
    /// In words for a person.
    pub message: String,
    /// Whether the manifest must change first.
    pub permanent: bool,
    /// Failures in a row.
    pub failures: u32,
    /// Time of the last.
    pub at: Duration,
}

impl Memory {
    /// Notes that a container runs. A new start forgets the checks of the old one.
    pub fn note_running(&mut self, name: &str, now: Now) {
        self.refusals.remove(name);
        let memory = self.containers.entry(name.to_owned()).or_default();
        if memory.started.is_none() {
            memory.restarts += u32::from(memory.last_exit.is_some() && !memory.was_stopped);
            memory.begin();
            memory.started = Some(now.tick);
        }
    }

    /// Notes that a container was found running that was not known before: it has run for `up_for` at least.
    pub fn note_found_running(&mut self, name: &str, up_for: Duration, now: Now) {
        self.note_running(name, now);
        if let Some(memory) = self.containers.get_mut(name).filter(|memory| memory.started == Some(now.tick)) {
            memory.ran_before = up_for;
        }
    }

    /// Notes that a container ended. The same end counts once: ends are told apart by their time, or, when the engine
    /// does not tell it, by the start between them. Returns true when it is news.
    pub fn note_exit(&mut self, name: &str, exit: &ExitFact, now: Now) -> bool {
        let memory = self.containers.entry(name.to_owned()).or_default();
        let looks_the_same = memory.last_exit.as_ref() == Some(exit);
        let ran_since = memory.started.is_some() || memory.restarting;
        if looks_the_same && (exit.finished_at.is_some() || !ran_since) {
            return false;
        }
        if memory.stopping {
            memory.last_exit = Some(exit.clone());
            memory.ended = Some(now.tick);
            memory.begin();
            memory.was_stopped = true;
            self.stuck.remove(name);
            return true;
        }
        // Started and ended again before anyone saw it run.
        memory.restarts += u32::from(memory.started.is_none() && memory.last_exit.is_some());
        memory.failures =
            if memory.lived(now) >= backoff::RESTART_RESET { 1 } else { memory.failures.saturating_add(1) };
        memory.last_exit = Some(exit.clone());
        memory.last_words.clear();
        memory.not_for_memory = false;
        memory.ended = Some(now.tick);
        let stopped_for = memory.unhealthy.take().map(|unhealthy| unhealthy.why);
        memory.begin();
        memory.stopped_for = stopped_for;
        self.stuck.remove(name);
        true
    }

    /// Notes how much a container that ended used at most, if that was measured. Returns whether it was killed for memory.
    pub fn weigh_end(&mut self, name: &str, exit: &ExitFact, peak: Option<u64>) -> bool {
        let memory = self.containers.entry(name.to_owned()).or_default();
        memory.not_for_memory = exit.is_refuted_by(peak);
        memory.explained(exit).is_memory_death()
    }

    /// Returns when a container last ended, as the engine told it.
    pub fn last_end(&self, name: &str) -> Option<Timestamp> {
        self.containers.get(name)?.last_exit.as_ref()?.finished_at
    }

    /// Notes the last lines of the run that ended so; those of an earlier run come too late and are dropped.
    pub fn note_last_words(&mut self, name: &str, exit: &ExitFact, lines: Vec<String>) {
        if let Some(memory) = self.containers.get_mut(name)
            && memory.last_exit.as_ref() == Some(exit)
        {
            memory.last_words = lines;
        }
    }

    /// Notes that a container is about to be stopped in order. One that is stopped because it is unhealthy has failed.
    pub fn note_stop(&mut self, name: &str) {
        let memory = self.containers.entry(name.to_owned()).or_default();
        memory.stopping = memory.unhealthy.is_none();
    }

    /// Whether a container ended because it was stopped in order.
    pub fn was_stopped(&self, name: &str) -> bool {
        self.containers.get(name).is_some_and(|memory| memory.was_stopped)
    }

    /// Notes that somebody was answered, at the latest at `last`, or waits.
    pub fn note_activity(&mut self, service: &ServiceKey, last: Duration) {
        let activity = self.activity.entry(service.clone()).or_default();
        activity.last = activity.last.max(Some(last));
    }

    /// Notes what was asked of components in the last second. Returns true when other numbers of replicas are wanted.
    pub fn note_loads(&mut self, loads: &BTreeMap<ComponentKey, Load>, now: Now) -> bool {
        self.scales.measured(loads, now)
    }

    /// Notes that a container is being started again after it had ended: what is known of its checks is over. Restarts
    /// are not counted here but when they are seen to have worked.
    pub fn note_restart(&mut self, name: &str) {
        let memory = self.containers.entry(name.to_owned()).or_default();
        let (stopped_for, was_stopped) = (memory.stopped_for.take(), memory.was_stopped);
        memory.begin();
        (memory.stopped_for, memory.was_stopped) = (stopped_for, was_stopped);
        memory.restarting = true;
    }

    /// Notes the result of a check that was ordered. One of an earlier run of the container says nothing of this one and
    /// is dropped. Returns true when the verdict changed.
    pub fn note_check(&mut self, order: &ProbeOrder, result: Result<(), String>, now: Now) -> bool {
        let started = self.containers.get(&order.name).and_then(|memory| memory.started);
        if started.is_none() || started != order.run {
            return false;
        }
        let changed = self.note_probe(&order.name, order.kind, &order.probe, result, now);
        self.note_begun(order);
        changed
    }

    /// Notes that a check could not be made, which counts neither way.
    pub fn note_unasked(&mut self, order: &ProbeOrder, words: String, now: Now) -> bool {
        let Some(memory) = self.containers.get_mut(&order.name) else { return false };
        if memory.started.is_some() && memory.started == order.run {
            let state = memory.probes.entry(order.kind).or_default();
            state.attempts = state.attempts.saturating_add(1);
            state.last = Some(now.tick);
            if !state.passing {
                state.message = words;
            }
            self.note_begun(order);
        }
        false
    }

    fn note_begun(&mut self, order: &ProbeOrder) {
        let memory = self.containers.get_mut(&order.name);
        if let Some(state) = memory.and_then(|memory| memory.probes.get_mut(&order.kind)) {
            state.begun = Some(order.at);
        }
    }

    /// Notes the result of a check, applying the probe's thresholds. Returns true when the verdict changed.
    pub fn note_probe(
        &mut self,
        name: &str,
        kind: ProbeKind,
        probe: &Probe,
        result: Result<(), String>,
        now: Now,
    ) -> bool {
        let memory = self.containers.entry(name.to_owned()).or_default();
        let state = memory.probes.entry(kind).or_default();
        let before = state.passing;
        state.attempts = state.attempts.saturating_add(1);
        state.last = Some(now.tick);
        match result {
            Ok(()) => {
                state.successes = state.successes.saturating_add(1);
                state.failures = 0;
                if state.successes >= probe.success_threshold.max(1) {
                    state.passing = true;
                    state.ever_passed = true;
                    state.message.clear();
                }
            }
            Err(message) => {
                state.failures = state.failures.saturating_add(1);
                state.successes = 0;
                state.message = message;
                if state.failures >= probe.failure_threshold.max(1) {
                    state.passing = false;
                }
            }
        }
        let (failures, passing, message) = (state.failures, state.passing, state.message.clone());
        // Startup and liveness failures restart the container, as in Kubernetes; readiness failures do not.
        let restarts = matches!(kind, ProbeKind::Startup | ProbeKind::Liveness);
        if restarts && !passing && failures >= probe.failure_threshold.max(1) {
            let why = format!("{kind} probe failed {failures} times: {message}");
            memory.unhealthy = Some(Unhealthy { why, grace: probe.termination_grace });
            return true;
        }
        before != passing
    }

    /// Notes whether a run of a container could be held to its processor limit.
    pub fn note_limit(&mut self, name: &str, run: Option<Duration>, done: bool, now: Now) {
        let Some(memory) = self.containers.get_mut(name).filter(|memory| memory.started == run) else { return };
        memory.limited = done;
        memory.limit_again = now.tick + backoff::restart_delay(2);
    }

    /// Notes that the engine refused to make or start a container.
    pub fn note_refusal(&mut self, name: &str, message: String, permanent: bool, now: Now) {
        let refusal = self.refusals.entry(name.to_owned()).or_default();
        *refusal = Refusal { message, permanent, failures: refusal.failures.saturating_add(1), at: now.tick };
    }

    /// Notes that an action on a container failed; it is tried again later and later. An engine that does not answer is
    /// no failure of the action: do not note it.
    pub fn note_failure(&mut self, action: &Action, message: String, permanent: bool, now: Now) {
        match action {
            Action::Create(order) => self.note_refusal(&order.name, message, permanent, now),
            Action::Start { name, .. } => self.note_refusal(name, message, permanent, now),
            Action::Doze(_) => self.note_sleepless(action, &message),
            Action::Rouse(order) if order.call.is_some() => self.note_sleepless(action, &message),
            Action::Stop { .. } | Action::Remove { .. } | Action::Rouse(_) => {
                let ActionKey::Container(name) = action.key() else { return };
                let stuck = self.stuck.entry(name).or_default();
                *stuck = Refusal { message, permanent, failures: stuck.failures.saturating_add(1), at: now.tick };
            }
            Action::PullModel { .. } | Action::CheckModel { .. } | Action::Probe(_) => {}
            Action::CheckImage { .. } | Action::PullImage { .. } => {}
            Action::LimitCpu { .. } | Action::Repository(_) => {}
        }
    }

    /// Notes what a plan says of revisions and of replicas on their way out. Returns true when revisions changed and the
    /// ledger is to be saved.
    pub fn note_plan(&mut self, plan: &Plan, now: Now) -> bool {
        let leaving: HashSet<&str> = plan.draining.iter().map(AsRef::as_ref).collect();
        self.draining.retain(|name, _| leaving.contains(name.as_str()));
        for name in &plan.draining {
            self.draining.entry(name.to_string()).or_insert(now.tick);
        }
        self.note_rests(plan, now);
        self.note_repositories(plan, now);
        self.note_room(plan);
        self.scales.note(&plan.standings, now);
        self.preloaded.extend(plan.preloaded.iter().cloned());
        self.note_progress(&plan.progress, now);
        let mut news = self.note_replaced(plan, now);
        news |= self.note_stages(&plan.stages, now);
        news |= self.note_found(&plan.dozing);
        for (component, revision) in &plan.rolled_out {
            news |= self.rolled_out(component, *revision);
        }
        for (component, revision) in &plan.proven {
            let is_target = self.revisions.get(component).is_some_and(|revisions| revisions.target == *revision);
            news |= is_target && self.note_loaded(component, now);
            news |= self.note_proven(component, *revision);
        }
        for component in &plan.taken_back {
            let revisions = self.revisions.entry(component.clone()).or_default();
            revisions.rolled_out = revisions.previous;
            news = true;
        }
        for (component, percent) in &plan.asked {
            let revisions = self.revisions.entry(component.clone()).or_default();
            let asked = Some((revisions.target, *percent));
            news |= revisions.asked != asked;
            revisions.asked = asked;
        }
        for (component, clock) in &plan.loads {
            match clock {
                LoadClock::Run => _ = self.begun.entry(component.clone()).or_insert(now.tick),
                LoadClock::Void => _ = self.begun.remove(component),
            }
        }
        news
    }

    /// Notes which revisions go so that another one has room, and which of those did not get ready.
    fn note_replaced(&mut self, plan: &Plan, now: Now) -> bool {
        self.replacing.retain(|component, (revision, _)| plan.replacing.contains(&(component.clone(), *revision)));
        for (component, revision) in &plan.replacing {
            self.replacing.entry(component.clone()).or_insert((*revision, now.tick));
        }
        for (component, given_up) in &plan.given_up {
            self.revisions.entry(component.clone()).or_default().given_up = Some(given_up.clone());
        }
        !plan.given_up.is_empty()
    }

    /// Notes that the engine says it is removing a container.
    pub fn note_removing(&mut self, name: &str, now: Now) {
        self.removing.entry(name.to_owned()).or_insert(now.tick);
    }

    /// Notes who was given room, who waits for it, and who must go.
    fn note_room(&mut self, plan: &Plan) {
        self.granted.extend(plan.granted.iter().cloned());
        self.queue = plan.queued.iter().cloned().collect();
        for eviction in &plan.evicted {
            self.activity.entry(eviction.service.clone()).or_default().asleep = true;
            self.evicted.insert(eviction.service.clone());
        }
        for (service, explanation) in &plan.explanations {
            let known = self.explanations.get(service);
            if known.is_none_or(|known| !known.says_the_same(explanation)) {
                Arc::make_mut(&mut self.explanations).insert(service.clone(), Arc::new(explanation.clone()));
            }
        }
    }

    fn note_rests(&mut self, plan: &Plan, now: Now) {
        let may_sleep: HashSet<&ServiceKey> = plan.rests.iter().map(|(service, _)| service).collect();
        self.activity.retain(|service, _| may_sleep.contains(service));
        for (service, rest) in &plan.rests {
            let activity = self.activity.entry(service.clone()).or_default();
            let woke = *rest != Rest::Asleep && (activity.waking || activity.asleep);
            activity.waking = woke && plan.waking.contains(service);
            activity.asleep = *rest == Rest::Asleep;
            if !activity.asleep {
                self.evicted.remove(service);
            }
            if *rest == Rest::Busy {
                activity.last = Some(now.tick);
            }
        }
    }

    /// Learns how long a start took. Returns true when that is worth keeping.
    fn note_loaded(&mut self, component: &ComponentKey, now: Now) -> bool {
        let Some(begun) = self.begun.remove(component) else { return false };
        let took = u64::try_from(now.tick.saturating_sub(begun).as_millis()).unwrap_or(u64::MAX);
        let revisions = self.revisions.entry(component.clone()).or_default();
        let learned = revisions.load_millis.map_or(took, |before| (before + took) / 2);
        // A few milliseconds are no news, and what is news is written to disk.
        let is_news = revisions.load_millis.is_none_or(|before| before.abs_diff(learned) > before / 4);
        if is_news {
            revisions.load_millis = Some(learned);
        }
        is_news
    }

    /// Keeps what is known of a container under its new name.
    pub fn rename_container(&mut self, old: &str, new: &str) {
        if let Some(memory) = self.containers.remove(old) {
            self.containers.insert(new.to_owned(), memory);
        }
        if let Some(stuck) = self.stuck.remove(old) {
            self.stuck.insert(new.to_owned(), stuck);
        }
    }

    /// Forgets a container that is gone.
    pub fn forget_container(&mut self, name: &str) {
        self.containers.remove(name);
        self.removing.remove(name);
        self.stuck.remove(name);
    }

    /// Returns a check's memory.
    pub fn probe(&self, name: &str, kind: ProbeKind) -> Option<&ProbeMemory> {
        self.containers.get(name).and_then(|memory| memory.probes.get(&kind))
    }
}

impl ContainerMemory {
    /// Returns an end of it without a guess that was refuted.
    pub fn explained(&self, exit: &ExitFact) -> ExitFact {
        let killed_under_limit = exit.killed_under_limit.filter(|_| !self.not_for_memory);
        ExitFact { killed_under_limit, ..exit.clone() }
    }

    /// How long it has run since it was last started.
    pub fn lived(&self, now: Now) -> Duration {
        self.started.map_or(Duration::ZERO, |started| now.tick.saturating_sub(started) + self.ran_before)
    }

    /// A new run: nothing that was found out about the one before holds.
    fn begin(&mut self) {
        self.started = None;
        self.ran_before = Duration::ZERO;
        self.kills = 0;
        self.probes.clear();
        self.unhealthy = None;
        self.restarting = false;
        self.stopped_for = None;
        self.stopping = false;
        self.was_stopped = false;
        self.limited = false;
    }
}
