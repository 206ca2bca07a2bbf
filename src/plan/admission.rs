//! Room before every start: does a replica fit beside what is there, and who goes to sleep when it does not.
//!
//! ```text
//! wanted ──fits──▶ granted
//!    │──fits without who is leaving──────────▶ waits: room is being made
//!    │──fits without some idle services──────▶ those go to sleep (the cheapest), and it waits
//!    │──fits without its own older revision──▶ replaces it (see `rollout`)
//!    │──fits without services that are busy──▶ waits until they are idle
//!    └──otherwise────────────────────────────▶ refused, with the numbers
//! ```
//!
//! Who came first is served first: what the first in the queue is having freed is not given to those behind it. A service
//! that was loaded stays for its minimum residency, so that requests for several models do not chase each other out; all
//! that wait for a model are answered while it is there.
//!
//! A service of several components is begun only when all that it lacks fits, and goes on so: after every start that is
//! granted, the service it is granted to can be completed with the room there is.
//!
//! **Invariant:** what all replicas hold together is never more than the limit because of a start that was granted here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::eviction::{self, Candidate};
use super::gpus::{self, GpuNeed, Seat};
use super::holders::Holder;
use super::ledger::{Basis, Footprint};
use super::planner::Draft;
use super::replica::{Phase, Replica};
use super::rollout::replace::{ROLLOUT, Strategy};
use super::room_words as words;
use super::routes::ReplicaName;
use super::want;
use super::world::World;
use crate::api::ServiceKey;
use crate::workload::ComponentKey;

pub use super::room_words::{Explanation, HeldByOthers, HeldLine, NAMED, Verdict};

/// Memory given to a replica.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// Whose replica it is.
    pub component: ComponentKey,
    /// Revision number.
    pub revision: u32,
    /// Bytes.
    pub memory: u64,
    /// How that was found.
    pub basis: Basis,
    /// GPUs, by UUID.
    pub gpus: Vec<String>,
    /// What it needs of them.
    pub need: GpuNeed,
    /// When, in ticks.
    pub at: Duration,
}

/// A replica that waits for room.
#[derive(Clone, Debug, PartialEq)]
pub struct Queued {
    /// Since when, in ticks.
    pub since: Duration,
    /// Whose it is.
    pub service: ServiceKey,
    /// Bytes it needs.
    pub memory: u64,
    /// Whether room is being made for it.
    pub making: bool,
}

/// A service that is put to sleep to make room.
#[derive(Clone, Debug, PartialEq)]
pub struct Eviction {
    /// The service.
    pub service: ServiceKey,
    /// For whom.
    pub for_service: ServiceKey,
}

/// The room there is, while replicas are placed.
#[derive(Clone, Debug, Default)]
pub(super) struct Room {
    /// Memory of the machine, when it is known.
    pub(super) total: Option<u64>,
    /// Kept free.
    pub(super) reserve: u64,
    /// Most that models may have, when that is set.
    pub(super) budget: Option<u64>,
    /// What other programs use.
    pub(super) others: u64,
    /// Who holds what.
    pub(super) holders: BTreeMap<ReplicaName, Holder>,
    /// GPUs, when they are known.
    pub(super) seats: Option<BTreeMap<String, Seat>>,
    /// Who could be put to sleep, and from when on.
    pub(super) idle: BTreeMap<ServiceKey, Idle>,
    /// Who may sleep, now or later.
    pub(super) sleepers: BTreeSet<ServiceKey>,
    /// Components whose older revision must go before the new one can start.
    pub(super) replaced: BTreeSet<ComponentKey>,
}

/// An idle service.
#[derive(Clone, Debug)]
pub(super) struct Idle {
    pub(super) candidate: Candidate,
    /// From when on it may go.
    pub(super) due: Duration,
}

/// What a replica needs.
#[derive(Clone, Debug)]
pub(super) struct Want {
    pub(super) replica: ReplicaName,
    pub(super) component: ComponentKey,
    pub(super) revision: u32,
    pub(super) footprint: Footprint,
    /// How it takes over from an older revision.
    pub(super) strategy: Strategy,
    /// A container that exists keeps the GPUs it was made with.
    pub(super) fixed: Vec<String>,
    /// Memory that what its service still lacks needs beside it, in bytes.
    pub(super) siblings: u64,
    /// Whether it failed before, may sleep, and nobody waits for it.
    pub(super) is_retry: bool,
    /// Bytes that are free and promised to those who came first.
    pub(super) promised: u64,
}

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    Memory,
    Gpus,
}

impl Want {
    /// Memory there must be room for: a service is begun only when all of it can be placed, so that two that are placed
    /// by halves never wait for each other.
    pub(super) fn together(&self) -> u64 {
        self.footprint.memory.saturating_add(self.siblings)
    }
}

impl Room {
    /// Most that models may hold together now; none when nobody can tell.
    pub(super) fn limit(&self) -> Option<u64> {
        let left = self.total.map(|total| total.saturating_sub(self.reserve).saturating_sub(self.others));
        [left, self.budget].into_iter().flatten().min()
    }

    /// The same with nothing else running.
    pub(super) fn ceiling(&self) -> Option<u64> {
        let left = self.total.map(|total| total.saturating_sub(self.reserve));
        [left, self.budget].into_iter().flatten().min()
    }

    /// What is held by all but some.
    pub(super) fn held(&self, gone: &dyn Fn(&Holder) -> bool) -> u64 {
        self.holders.values().filter(|holder| !gone(holder)).map(|holder| holder.memory).sum()
    }

    /// Returns the GPUs a replica would get if some holders were gone; none when it does not fit even then. `ahead` is
    /// promised to others.
    fn fit(&self, want: &Want, ahead: u64, gone: &dyn Fn(&Holder) -> bool) -> Option<Vec<String>> {
        let limit = self.limit().unwrap_or(u64::MAX);
        let taken = self.held(gone).saturating_add(ahead);
        // Who needs nothing takes nothing away, however full it is.
        let fits = taken.saturating_add(want.together()) <= limit || want.footprint.memory == 0;
        if !fits {
            return None;
        }
        let need = &want.footprint.gpus;
        if need.count == 0 {
            return Some(Vec::new());
        }
        let Some(seats) = &self.seats else { return Some(Vec::new()) };
        let mut seats = seats.clone();
        for holder in self.holders.values().filter(|holder| !gone(holder)) {
            holder.sit(&mut seats);
        }
        if want.fixed.is_empty() {
            return gpus::best_fit(&seats, need);
        }
        seats.retain(|uuid, _| want.fixed.contains(uuid));
        gpus::best_fit(&seats, need)
    }

    /// Why it can never fit, and what lacks: a GPU that is not there before memory, which an edit may mend.
    fn impossible(&self, want: &Want) -> Option<(String, Lack)> {
        let gpus = self.seats.as_ref().and_then(|seats| {
            let gpus: Vec<_> = seats.values().map(|seat| seat.gpu.clone()).collect();
            gpus::impossible(&gpus, &want.footprint.gpus)
        });
        if let Some(why) = gpus {
            return Some((why, Lack::Gpus));
        }
        let is_something = want.footprint.memory > 0;
        let ceiling = self.ceiling().filter(|ceiling| is_something && want.together() > *ceiling)?;
        Some((words::too_big(self, want, ceiling), Lack::Memory))
    }
}

/// Asks for room for a replica that is about to be started. Returns the GPUs it gets, or where it is instead.
pub(super) fn admit(draft: &mut Draft<'_>, replica: &Replica<'_>) -> Result<Vec<String>, Phase> {
    if let Some(holder) = draft.room.holders.get(&replica.name) {
        return Ok(holder.gpus.clone());
    }
    if draft.world.machine.pending {
        return Err(Phase::Creating);
    }
    let want = want::want(draft, replica);
    let ahead = ahead(draft, &want);
    let want = Want { promised: ahead, ..want };
    if let Some((why, lack)) = draft.room.impossible(&want) {
        return Err(refuse(draft, &want, why, lack));
    }
    if want.strategy == Strategy::Replace && has_older(draft, &want) {
        draft.room.replaced.insert(want.component.clone());
        let why = format!("the revision before stops first, as the annotation {ROLLOUT} says");
        return Err(wait(draft, &want, why, false));
    }
    if let Some(gpus) = draft.room.fit(&want, ahead, &|_| false) {
        return Ok(grant(draft, want, gpus));
    }
    let leaving = |holder: &Holder| holder.leaving;
    if draft.room.fit(&want, ahead, &leaving).is_some() {
        let why = words::being_made(&draft.room, &want);
        return Err(wait(draft, &want, why, true));
    }
    if want.is_retry {
        let why = words::retry(&draft.room, &want);
        return Err(wait(draft, &want, why, false));
    }
    if let Some(phase) = evict(draft, &want, ahead) {
        return Err(phase);
    }
    Err(blocked(draft, &want, ahead))
}

/// Whether a replica would be given room now, without giving it any.
pub(super) fn would_fit(draft: &Draft<'_>, replica: &Replica<'_>) -> bool {
    if draft.room.holders.contains_key(&replica.name) {
        return true;
    }
    let want = want::want(draft, replica);
    !draft.world.machine.pending && draft.room.fit(&want, ahead(draft, &want), &|_| false).is_some()
}

/// Whether a replica has no room only because its containers were made with GPUs that are somebody else's by now.
pub(super) fn would_fit_elsewhere(draft: &Draft<'_>, replica: &Replica<'_>) -> bool {
    if draft.room.holders.contains_key(&replica.name) {
        return false;
    }
    let want = want::want(draft, replica);
    let anew = Want { fixed: Vec::new(), ..want.clone() };
    let fits = |want: &Want| draft.room.fit(want, ahead(draft, want), &|_| false).is_some();
    !want.fixed.is_empty() && !draft.world.machine.pending && !fits(&want) && fits(&anew)
}

/// Whether an older revision that had all traffic is still there.
fn has_older(draft: &Draft<'_>, want: &Want) -> bool {
    let history = draft.world.memory.revisions.get(&want.component);
    let Some(older) = history.and_then(|history| history.rolled_out) else { return false };
    let is_older = |holder: &&Holder| holder.component == want.component && holder.revision == older;
    older != want.revision && draft.room.holders.values().any(|holder| is_older(&holder))
}

/// Bytes that are promised to those who came first and have not got them yet.
fn ahead(draft: &Draft<'_>, want: &Want) -> u64 {
    let queue = &draft.world.memory.queue;
    let own = queue.get(&want.replica).map(|own| own.since);
    let first = |(name, other): &(&ReplicaName, &Queued)| {
        let is_first = own.is_none_or(|own| (other.since, *name) < (own, &want.replica));
        let is_other = **name != want.replica && other.service != want.component.service;
        other.making && is_first && is_other && !draft.room.holders.contains_key(*name)
    };
    queue.iter().filter(first).map(|(_, other)| other.memory).sum()
}

fn grant(draft: &mut Draft<'_>, want: Want, gpus: Vec<String>) -> Vec<String> {
    let summary = words::admitted(&draft.room, &want, &gpus);
    let explanation = words::explanation(draft, &want, Verdict::Admitted, summary, &[]);
    let explanation = Explanation { gpus: gpus.clone(), ..explanation };
    draft.plan.explanations.push((want.component.service.clone(), explanation));
    let Footprint { memory, basis, gpus: need } = want.footprint;
    let Want { component, revision, replica, .. } = want;
    let grant = Grant { component, revision, memory, basis, gpus: gpus.clone(), need, at: draft.now.tick };
    draft.room.holders.insert(Arc::clone(&replica), Holder::granted(&grant));
    draft.plan.granted.push((replica, grant));
    gpus
}

/// Chooses idle services to be put to sleep; none when that would not be enough.
fn evict(draft: &mut Draft<'_>, want: &Want, ahead: u64) -> Option<Phase> {
    let idle: Vec<Idle> = {
        let own = |one: &&Idle| one.candidate.service != want.component.service;
        draft.room.idle.values().filter(own).cloned().collect()
    };
    let room = &draft.room;
    let choose = |idle: &[Idle]| {
        let candidates: Vec<Candidate> = idle.iter().map(|one| one.candidate.clone()).collect();
        let set = eviction::cheapest(&candidates, |set| {
            let goes =
                |holder: &Holder| holder.leaving || set.iter().any(|at| holder.may_go_with(&candidates[*at].service));
            room.fit(want, ahead, &goes).is_some()
        })?;
        Some(set.into_iter().map(|at| idle[at].clone()).collect::<Vec<_>>())
    };
    let now: Vec<Idle> = idle.iter().filter(|one| one.due <= draft.now.tick).cloned().collect();
    let Some(chosen) = choose(&now) else {
        // Those who have only just come stay a little.
        let later = choose(&idle)?;
        let due = later.iter().map(|one| one.due).max().unwrap_or_default();
        draft.wake(due);
        let names: Vec<ServiceKey> = later.into_iter().map(|one| one.candidate.service).collect();
        let why = words::residency(&draft.room, want, &names);
        return Some(wait(draft, want, why, true));
    };
    let names: Vec<ServiceKey> = chosen.into_iter().map(|one| one.candidate.service).collect();
    let why = words::evicts(&draft.room, want, &names);
    explain(draft, want, Verdict::Waits, why.clone(), &names);
    for service in &names {
        let why = words::evicted(want);
        draft.plan.explanations.push((service.clone(), words::explanation(draft, want, Verdict::Evicted, why, &[])));
        let for_service = want.component.service.clone();
        draft.plan.evicted.push(Eviction { service: service.clone(), for_service });
    }
    draft.room.leave(&names);
    // They leave in the next pass, which closes their routes before anything stops.
    draft.wake(draft.now.tick + SOON);
    Some(wait_quietly(draft, want, why, true))
}

/// How long a new revision waits for others to become idle before it replaces the old one.
const REPLACE_AFTER: Duration = Duration::from_secs(30);
/// A pass that has to follow at once, though nothing happens before it.
const SOON: Duration = Duration::from_millis(1);

/// Says who is in the way.
fn blocked(draft: &mut Draft<'_>, want: &Want, ahead: u64) -> Phase {
    let room = &draft.room;
    let others = |holder: &Holder| holder.component.service != want.component.service;
    let sleeps =
        |holder: &Holder| holder.leaving || (others(holder) && room.sleepers.contains(&holder.component.service));
    let canaries = draft.world.memory.revisions.get(&want.component).map(|history| &history.canaries);
    let is_canary = |revision: u32| canaries.is_some_and(|all| all.values().any(|number| *number == revision));
    let is_other = |holder: &Holder| holder.revision != want.revision && !is_canary(holder.revision);
    let own = |holder: &Holder| holder.component == want.component && is_other(holder);
    let without_own = room.fit(want, ahead, &|holder| own(holder) || sleeps(holder)).is_some();
    let may_wait = room.fit(want, 0, &sleeps).is_some();
    let since = draft.world.memory.queue.get(&want.replica).map_or(draft.now.tick, |queued| queued.since);
    let replaces = without_own && want.strategy != Strategy::Beside && may_come_back(draft.world, want);
    if replaces && (!may_wait || draft.due(since + REPLACE_AFTER)) {
        draft.room.replaced.insert(want.component.clone());
        let why = words::replaces(&draft.room, want);
        return wait(draft, want, why, true);
    }
    let room = &draft.room;
    if may_wait {
        let why = words::busy(room, want);
        return wait(draft, want, why, false);
    }
    let (why, lack) = (words::no_room(room, want), words::lack(room, want));
    refuse(draft, want, why, lack)
}

/// Puts idle services to sleep when more is held than there is: a model grew, or other programs did.
pub(super) fn relieve(draft: &mut Draft<'_>) {
    let room = &draft.room;
    let Some(limit) = room.limit() else { return };
    let held = room.held(&|holder| holder.leaving);
    if held <= limit || room.idle.is_empty() {
        return;
    }
    let candidates: Vec<Candidate> = room.idle.values().map(|one| one.candidate.clone()).collect();
    let all: Vec<usize> = (0..candidates.len()).collect();
    let freed = |set: &[usize]| set.iter().map(|at| candidates[*at].memory).sum::<u64>();
    let chosen = eviction::cheapest(&candidates, |set| held.saturating_sub(freed(set)) <= limit).unwrap_or(all);
    let names: Vec<ServiceKey> = chosen.into_iter().map(|at| candidates[at].service.clone()).collect();
    for service in &names {
        let explanation = words::relieved(draft, service, held, limit);
        draft.plan.explanations.push((service.clone(), explanation));
        draft.plan.evicted.push(Eviction { service: service.clone(), for_service: service.clone() });
    }
    draft.room.leave(&names);
    draft.wake(draft.now.tick + SOON);
}

/// Whether the last revision that had all traffic could be made again if this one fails.
fn may_come_back(world: &World, want: &Want) -> bool {
    let history = world.memory.revisions.get(&want.component);
    let older = history.and_then(|history| history.rolled_out).filter(|older| *older != want.revision);
    older.is_some_and(|older| world.older.get(&want.component).is_some_and(|known| known.contains_key(&older)))
}

fn wait(draft: &mut Draft<'_>, want: &Want, message: String, making: bool) -> Phase {
    explain(draft, want, Verdict::Waits, message.clone(), &[]);
    wait_quietly(draft, want, message, making)
}

fn wait_quietly(draft: &mut Draft<'_>, want: &Want, message: String, making: bool) -> Phase {
    let since = draft.world.memory.queue.get(&want.replica).map_or(draft.now.tick, |queued| queued.since);
    let service = want.component.service.clone();
    let queued = Queued { since, service, memory: want.together(), making };
    draft.plan.queued.push((Arc::clone(&want.replica), queued));
    Phase::WaitingForRoom { message }
}

fn refuse(draft: &mut Draft<'_>, want: &Want, message: String, lack: Lack) -> Phase {
    explain(draft, want, Verdict::Refused, message.clone(), &[]);
    Phase::NoRoom { message, gpu: lack == Lack::Gpus }
}

fn explain(draft: &mut Draft<'_>, want: &Want, verdict: Verdict, summary: String, evicts: &[ServiceKey]) {
    let explanation = words::explanation(draft, want, verdict, summary, evicts);
    draft.plan.explanations.push((want.component.service.clone(), explanation));
}

impl Room {
    /// Counts services as on their way out.
    fn leave(&mut self, services: &[ServiceKey]) {
        for holder in self.holders.values_mut() {
            holder.leaving |= services.iter().any(|service| holder.may_go_with(service));
        }
        self.idle.retain(|service, _| !services.contains(service));
    }
}
