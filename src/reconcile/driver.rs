//! The driver: select, observe, plan, publish, dispatch.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, warn};

use super::claims::ModelClaims;
use super::desired::Resolver;
use super::desk::Desk;
use super::grants::Grants;
use super::load::LoadMeter;
use super::measure::Rounds;
use super::notice;
use super::pulls::Pulls;
use super::refresh::Versions;
use super::resources::ResourceMeter;
use super::revisions::{Book, Ledger};
use crate::api::StorageUri;
use crate::plan::ledger::Machine;
use crate::plan::memory::Memory;
use crate::plan::{Memo, World, plan_anew};
use crate::tasks::caught;

mod containers;
mod dispatch;
mod facts;
mod look_up;
mod parts;
mod publish;
mod repository;
mod wanted;

use facts::Fact;
pub use parts::{DriverConfig, DriverParts};

/// The engine is asked for its containers this often although nothing was said.
const RELIST: Duration = Duration::from_secs(10);
/// The same while it does not answer.
const RELIST_DOWN: Duration = Duration::from_secs(1);
/// Facts that change nothing a person would see wait this long for company.
const GATHER: Duration = Duration::from_millis(50);
/// That a service's idle clock runs is seen within this time.
const SOME_TIME: Duration = Duration::from_secs(1);
/// Facts of what is still loading wait this long for company.
const SOON: Duration = Duration::from_millis(5);
/// Statuses show the progress of pulls this often.
const PROGRESS: Duration = Duration::from_millis(500);

/// A pass is made this often although nothing happened and no time has come.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// Longest wait at the end for what is still being written.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Owns the world.
pub struct Driver {
    parts: DriverParts,
    world: World,
    /// What was planned of services of which nothing has changed since.
    memo: Memo,
    resolver: Resolver,
    sender: mpsc::Sender<Fact>,
    facts: mpsc::Receiver<Fact>,
    desired_version: Option<u64>,
    /// Counts what we did to containers, so that an older list does not undo what we know.
    serial: u64,
    touched: HashMap<String, u64>,
    load: LoadMeter,
    resources: ResourceMeter,
    listing: bool,
    list_again: bool,
    last_list: Duration,
    /// When the list was asked for that is under way or was the last.
    asked_at: Duration,
    last_check_again: Duration,
    pulls: Pulls,
    image_failures: HashMap<String, u32>,
    model_failures: HashMap<StorageUri, u32>,
    claims: ModelClaims,
    /// Writes revisions down.
    book: Book,
    rounds: Rounds,
    /// When the machine is measured next.
    measure_at: Duration,
    /// When the first of the checks is due that passed since the last pass.
    check_at: Option<Duration>,
    grants: Grants,
    /// Whether something may have gone since what is gone was forgotten, and when that was.
    untidy: bool,
    tidied: Duration,
    /// Writes what the next daemon reads.
    desk: Desk,
    /// Writes what is claimed of the cache.
    claimed: Desk,
    /// Turns at looking at folders of the user's.
    looks: Arc<Semaphore>,
}

/// How soon a pass must follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// With the next one.
    Never,
    /// Some time: nobody waits for it.
    Some,
    /// Before long, with others.
    Gather,
    /// Soon, with others.
    Soon,
    /// Now.
    Now,
}

impl Driver {
    /// Makes a driver; what earlier daemons knew of revisions is taken up.
    pub fn new(parts: DriverParts, config: DriverConfig, ledger: Ledger) -> Self {
        let (sender, facts) = mpsc::channel(4096);
        let Ledger { revisions, sources, granted } = ledger;
        let history_limit = Some(config.plan.history_limit);
        let memory = Memory { revisions: revisions.clone(), sources, granted, history_limit, ..Memory::default() };
        let instance = parts.executor.instance.clone();
        let machine = Machine { pending: true, ..Machine::default() };
        let world = World { instance, memory, machine, config: config.plan, ..World::default() };
        let (desk, claimed) = (Desk::open(&parts.tasks), Desk::open(&parts.tasks));
        let owner = (world.instance.clone(), parts.home.root().to_owned());
        let claims = ModelClaims::new(parts.cache.clone(), owner, claimed.clone());
        Self {
            resolver: Resolver::new(config.workload, Versions::load(&parts.home)),
            parts,
            world,
            memo: Memo::default(),
            sender,
            facts,
            desired_version: None,
            serial: 0,
            touched: HashMap::new(),
            load: LoadMeter::default(),
            resources: ResourceMeter::default(),
            listing: false,
            list_again: true,
            last_list: Duration::ZERO,
            asked_at: Duration::ZERO,
            last_check_again: Duration::ZERO,
            pulls: Pulls::default(),
            image_failures: HashMap::new(),
            model_failures: HashMap::new(),
            claims,
            book: Book::of(revisions),
            rounds: Rounds::default(),
            measure_at: Duration::ZERO,
            check_at: None,
            grants: Grants::default(),
            untidy: true,
            tidied: Duration::ZERO,
            desk,
            claimed,
            looks: Arc::new(Semaphore::new(look_up::LOOKS_AT_ONCE)),
        }
    }

    /// Runs until cancelled. Containers are left as they are.
    pub async fn run(mut self, cancel: tokio_util::sync::CancellationToken) {
        let mut store = self.parts.store.subscribe();
        store.mark_changed();
        let mut changes = self.parts.executor.engine.changes();
        let board = self.parts.board.clone();
        let refused = Arc::clone(&self.parts.refused);
        let mut reloads = self.parts.reloads.clone();
        let mut wake = Duration::ZERO;
        loop {
            self.ask_for_list();
            self.ask_for_measure();
            let at = |tick| tokio::time::Instant::from_std(self.parts.clock.at(tick));
            let timer = at(self.check_at.map_or(wake, |check| check.min(wake)));
            let tick = self.parts.clock.now().tick;
            let chores = at(self.measure_at.min(self.list_at()).min(tick + HEARTBEAT));
            let measure = self.load.due(&self.world, tick).map(at);
            let urgency = tokio::select! {
                // The loop ends; effects under way are ended by their own tokens.
                () = cancel.cancelled() => break,
                // A tick of the store that loses its race is still marked and wins the next one.
                changed = store.changed() => {
                    if changed.is_err() { break }
                    self.take_desired(&store.borrow_and_update().clone())
                }
                // A fact stays in its queue until it is taken.
                Some(fact) = self.facts.recv() => self.take_facts(fact),
                // So does a question.
                Some(question) = self.parts.questions.recv() => self.answer(question),
                // A hint that is lost costs time, not truth: the list is asked for regularly.
                hint = changes.next() => {
                    self.list_again = true;
                    if hint.is_none() { changes = futures::stream::pending().boxed() }
                    Urgency::Never
                }
                // The board is read as a whole in every pass.
                () = board.became_idle() => notice::urgency(&self.world),
                // The same: who waits is found there.
                () = board.bell() => Urgency::Now,
                // A permit that is not taken stays.
                () = refused.notified() => {
                    self.check_again()
                }
                // Settings that lose their race are still marked and win the next one; whoever held them may be gone.
                Ok(()) = reloads.changed() => {
                    let config = reloads.borrow_and_update().clone();
                    self.reconfigure(config, &store.borrow().clone())
                }
                // A timer that loses its race is made again.
                () = tokio::time::sleep_until(timer) => Urgency::Now,
                // The same. They are asked for at the beginning of a turn; what comes of it says whether a pass is needed.
                () = tokio::time::sleep_until(chores) => Urgency::Never,
                // The same.
                () = until(measure) => self.measure_load(),
            };
            let tick = self.parts.clock.now().tick;
            match urgency {
                Urgency::Now => wake = self.pass(),
                Urgency::Soon => wake = wake.min(tick + SOON),
                Urgency::Gather => wake = wake.min(tick + GATHER),
                Urgency::Some => wake = wake.min(tick + SOME_TIME),
                Urgency::Never => {}
            }
        }
        let written = futures::future::join(self.desk.settled(), self.claimed.settled());
        if tokio::time::timeout(LAST_WORDS, written).await.is_err() {
            warn!("the disk is slow: not everything that the next daemon should know is written");
        }
        debug!("driver ended");
    }

    /// Works by other settings from now on: everything is resolved again.
    fn reconfigure(&mut self, config: DriverConfig, snapshot: &crate::store::Snapshot) -> Urgency {
        self.world.config = config.plan;
        self.resolver.reconfigure(config.workload);
        self.desired_version = None;
        self.take_desired(snapshot);
        Urgency::Now
    }

    /// Takes up what was asked in the last second, where replicas follow it.
    fn measure_load(&mut self) -> Urgency {
        let now = self.parts.clock.now();
        self.ask_for_usage(now.tick);
        let loads = self.load.measure(&self.parts.board, &self.world, now.tick);
        let Some(mut loads) = loads else { return Urgency::Never };
        self.resources.add_to(&mut loads);
        if self.world.memory.note_loads(&loads, now) { Urgency::Now } else { Urgency::Never }
    }

    /// Asks the engine what containers use, where replicas follow that; once at a time.
    fn ask_for_usage(&mut self, tick: Duration) {
        let Some(ids) = self.resources.due(&self.world, tick) else { return };
        let (engine, sender) = (Arc::clone(&self.parts.executor.engine), self.sender.clone());
        self.parts.tasks.spawn_droppable("usage", async move {
            let used = caught(engine.usage(&ids)).await;
            // What could not be counted is counted the next time; the driver is gone: nobody needs it.
            let _ = sender.send(Fact::Used(used.ok().and_then(Result::ok))).await;
        });
    }

    /// Measures the machine, once at a time.
    fn ask_for_measure(&mut self) {
        let tick = self.parts.clock.now().tick;
        if tick < self.measure_at {
            return;
        }
        let begun = self.rounds.begin(&self.world, tick);
        self.measure_at = self.rounds.next(&self.world);
        let Some(containers) = begun else { return };
        let (meter, sender) = (self.parts.meter.clone(), self.sender.clone());
        self.parts.tasks.spawn_droppable("measure", async move {
            let measured = caught(meter.measure(containers)).await.ok();
            // The driver is gone: nobody needs the numbers.
            let _ = sender.send(Fact::Measured(measured)).await;
        });
    }

    /// One pass: observe, plan, publish, dispatch. Returns when to plan again.
    fn pass(&mut self) -> Duration {
        let now = self.parts.clock.now();
        notice::read(&self.parts.board, &mut self.world, now.tick);
        self.pulls.note(&mut self.world, now.tick);
        let began = self.parts.clock.now().tick;
        let mut plan = plan_anew(&self.world, now, &mut self.memo);
        let planned = self.parts.clock.now().tick;
        self.publish(&mut plan, now);
        let wake = plan.wake_at;
        self.check_at = None;
        let came_free = self.remember(&plan, now).then_some(now.tick);
        for action in plan.actions {
            debug!(%action, "doing");
            self.dispatch(action);
        }
        let over = self.claims.let_go(now.tick);
        let wake = wake.into_iter().chain(over).chain(came_free).min();
        let rest = if self.pulls.is_empty() { HEARTBEAT } else { PROGRESS };
        // What was planned may make the next round due sooner or later.
        self.measure_at = self.rounds.next(&self.world);
        let ended = self.parts.clock.now().tick;
        self.parts.passes.count(planned.saturating_sub(began), ended.saturating_sub(now.tick));
        wake.unwrap_or(Duration::MAX).min(now.tick + rest)
    }
}

/// Waits until then, or for ever.
async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
