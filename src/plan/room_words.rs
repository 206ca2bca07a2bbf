//! Decisions about room in words and numbers: what a person reads in the status, and what `explain` shows.

use std::cmp::Reverse;
use std::fmt::Write;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::admission::{Lack, Room, Want};
use super::holders::Holder;
use super::ledger::Footprint;
use super::planner::Draft;
use super::routes::ReplicaName;
use super::said::bytes;
use crate::api::ServiceKey;

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It was given room.
    Admitted,
    /// It waits for room.
    Waits,
    /// There is no room for it.
    Refused,
    /// It was put to sleep to make room for another.
    Evicted,
}

/// The arithmetic of one decision about room. Everything in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// When it was decided.
    pub at: Timestamp,
    /// What was decided.
    pub verdict: Verdict,
    /// The same in a sentence.
    pub summary: String,
    /// Replica that asked for room.
    pub replica: String,
    /// What it needs.
    pub needs: u64,
    /// How that was found.
    pub basis: String,
    /// Memory of the machine, when it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Kept free by the settings.
    pub reserve: u64,
    /// Most that models may have by the settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<u64>,
    /// What other programs use.
    pub others: u64,
    /// Most that models may hold together after all that; none when nobody can tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Who held what when it was decided: at most [`NAMED`], those with most.
    pub held: Vec<HeldLine>,
    /// What all others held.
    #[serde(default, skip_serializing_if = "HeldByOthers::is_nothing")]
    pub held_by_others: HeldByOthers,
    /// Bytes of what is free that were promised to those who came first.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub promised: u64,
    /// Services that are put to sleep for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evicts: Vec<String>,
    /// GPUs it was given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands references")]
fn is_nothing(bytes: &u64) -> bool {
    *bytes == 0
}

/// So many holders are named in a decision. Each service keeps its last decision: with all named, what is kept would grow
/// with the square of how much runs.
pub const NAMED: usize = 25;

/// Replicas that held memory and are not named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldByOthers {
    /// How many.
    pub replicas: u64,
    /// Bytes, together.
    pub memory: u64,
}

impl HeldByOthers {
    fn is_nothing(&self) -> bool {
        self.replicas == 0
    }
}

/// One replica that held memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldLine {
    /// The replica.
    pub replica: String,
    /// Its service, `namespace/name`.
    pub service: String,
    /// Bytes.
    pub memory: u64,
    /// How that was found.
    pub basis: String,
    /// `idle`, `busy`, `stays` or `leaving`.
    pub standing: String,
}

impl Explanation {
    /// Whether another one says nothing new. What moves with every measurement is not new.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        self.verdict == other.verdict
            && self.replica == other.replica
            && self.needs == other.needs
            && self.evicts == other.evicts
            && (self.verdict == Verdict::Admitted || self.summary == other.summary)
    }
}

/// Puts the arithmetic of a decision together.
pub(super) fn explanation(
    draft: &Draft<'_>,
    want: &Want,
    verdict: Verdict,
    summary: String,
    evicts: &[ServiceKey],
) -> Explanation {
    Explanation {
        verdict,
        replica: want.replica.to_string(),
        needs: want.footprint.memory,
        basis: want.footprint.basis.to_string(),
        promised: want.promised,
        evicts: evicts.iter().map(ToString::to_string).collect(),
        ..surroundings(draft, summary, &want.replica)
    }
}

/// Says that a service goes to sleep because more is held than there is.
pub(super) fn relieved(draft: &Draft<'_>, service: &ServiceKey, held: u64, limit: u64) -> Explanation {
    let why = format!(
        "put to sleep because models hold {} and may hold {}: one grew, or other programs did",
        bytes(held),
        bytes(limit)
    );
    let own = draft.room.holders.iter().filter(|(_, holder)| holder.may_go_with(service));
    let memory = own.map(|(_, holder)| holder.memory).sum();
    Explanation { needs: memory, ..surroundings(draft, why, "") }
}

/// Who holds what, and what there is.
fn surroundings(draft: &Draft<'_>, summary: String, without: &str) -> Explanation {
    let room = &draft.room;
    let (held, held_by_others) = held(room, without);
    Explanation {
        at: draft.now.wall,
        verdict: Verdict::Evicted,
        summary,
        replica: String::new(),
        needs: 0,
        basis: String::new(),
        total: room.total,
        reserve: room.reserve,
        budget: room.budget,
        others: room.others,
        limit: room.limit(),
        held,
        held_by_others,
        promised: 0,
        evicts: Vec::new(),
        gpus: Vec::new(),
    }
}

/// Names those who hold most, in order of their names, and sums up the others.
fn held(room: &Room, without: &str) -> (Vec<HeldLine>, HeldByOthers) {
    let mut all: Vec<_> = room.holders.iter().filter(|(name, _)| name.as_ref() != without).collect();
    let mut others = HeldByOthers::default();
    if all.len() > NAMED {
        all.select_nth_unstable_by_key(NAMED, |(name, holder)| (Reverse(holder.memory), *name));
        for (_, holder) in all.drain(NAMED..) {
            others =
                HeldByOthers { replicas: others.replicas + 1, memory: others.memory.saturating_add(holder.memory) };
        }
        all.sort_unstable_by_key(|(name, _)| *name);
    }
    let line = |(name, holder): (&ReplicaName, &Holder)| HeldLine {
        replica: name.to_string(),
        service: holder.component.service.to_string(),
        memory: holder.memory,
        basis: holder.basis.to_string(),
        standing: standing(room, holder).to_owned(),
    };
    (all.into_iter().map(line).collect(), others)
}

/// Why a holder is or is not put to sleep.
pub(super) fn standing(room: &Room, holder: &Holder) -> &'static str {
    let service = &holder.component.service;
    match holder {
        holder if holder.leaving => "leaving",
        holder if !holder.sleeps => "stays",
        _ if room.idle.contains_key(service) => "idle",
        _ => "busy",
    }
}

pub(super) fn admitted(room: &Room, want: &Want, gpus: &[String]) -> String {
    let mut text = needs(want);
    match room.limit() {
        Some(limit) => {
            let left = limit.saturating_sub(room.held(&|_| false));
            let _ = write!(text, "; {} of {} is free", bytes(left), bytes(limit));
        }
        None => text.push_str("; how much this machine has is not known"),
    }
    if !gpus.is_empty() {
        let _ = write!(text, "; on {}", gpus.join(", "));
    }
    text
}

pub(super) fn too_big(room: &Room, want: &Want, ceiling: u64) -> String {
    let of = match (room.budget, room.total) {
        (Some(budget), _) if budget == ceiling => format!("models may have {} together (memory.budget)", bytes(budget)),
        (_, Some(total)) => {
            format!("this machine has {}, of which {} is kept free (memory.reserve)", bytes(total), bytes(room.reserve))
        }
        _ => format!("there is {}", bytes(ceiling)),
    };
    format!("it {} and {of}: it can never run here", needs(want))
}

pub(super) fn being_made(room: &Room, want: &Want) -> String {
    let leaving = names(room, |holder| holder.leaving);
    format!("it {}; {}; {} on the way out", needs(want), free(room, want), are(&leaving))
}

pub(super) fn replaces(room: &Room, want: &Want) -> String {
    format!(
        "it {}; {}; the revision before goes first, and comes back if this one fails",
        needs(want),
        free(room, want)
    )
}

pub(super) fn retry(room: &Room, want: &Want) -> String {
    let what = lacking(room, want);
    format!("it {}; {what}; it failed before and nobody asks for it, so nobody goes to sleep for it", needs(want))
}

pub(super) fn residency(room: &Room, want: &Want, services: &[ServiceKey]) -> String {
    let names: Vec<String> = services.iter().map(ToString::to_string).collect();
    format!(
        "it {}; {}; {} only just loaded and stay{} a moment before making room",
        needs(want),
        free(room, want),
        joined(&names) + if names.len() == 1 { " has" } else { " have" },
        if names.len() == 1 { "s" } else { "" },
    )
}

pub(super) fn evicts(room: &Room, want: &Want, services: &[ServiceKey]) -> String {
    let names: Vec<String> = services.iter().map(ToString::to_string).collect();
    format!("it {}; {}; {} put to sleep to make room", needs(want), free(room, want), are(&names))
}

pub(super) fn evicted(want: &Want) -> String {
    format!("put to sleep to make room for {}, which {}", want.component.service, needs(want))
}

pub(super) fn busy(room: &Room, want: &Want) -> String {
    let busy = names(room, |holder| standing(room, holder) == "busy" && holder.component != want.component);
    let what = lacking(room, want);
    match busy.is_empty() {
        true => format!("it {}; {what}; it waits for others that came first", needs(want)),
        false => format!("it {}; {what}; it waits until {} idle", needs(want), are(&busy)),
    }
}

pub(super) fn no_room(room: &Room, want: &Want) -> String {
    let mut text = format!("it {}; {}", needs(want), lacking(room, want));
    let stays = names(room, |holder| holder.component != want.component);
    if !stays.is_empty() {
        let _ = write!(text, "; {} it and may not sleep (minReplicas is not 0)", hold(&stays));
    }
    if room.others > 0 && room.ceiling().is_some_and(|ceiling| want.together() <= ceiling) {
        let _ = write!(text, "; other programs use {}", bytes(room.others));
    }
    text
}

/// What there is too little of.
pub(super) fn lack(room: &Room, want: &Want) -> Lack {
    let fits =
        room.limit().is_none_or(|limit| room.held(&|holder| holder.leaving).saturating_add(want.together()) <= limit);
    if fits && room.seats.is_some() && want.footprint.gpus.count > 0 { Lack::Gpus } else { Lack::Memory }
}

/// The same in numbers.
fn lacking(room: &Room, want: &Want) -> String {
    let Some(seats) = room.seats.as_ref().filter(|_| lack(room, want) == Lack::Gpus) else {
        return free(room, want);
    };
    let mut seats = seats.clone();
    room.holders.values().for_each(|holder| holder.sit(&mut seats));
    let gpus: Vec<String> = seats
        .values()
        .map(|seat| match seat.taken {
            true => format!("{} is taken by one that wants it for itself", seat.gpu.uuid),
            false => format!("{} has {} of {} free", seat.gpu.uuid, bytes(seat.free()), bytes(seat.gpu.total)),
        })
        .collect();
    format!("no GPU has room: {}", gpus.join(", "))
}

fn needs(want: &Want) -> String {
    let Footprint { memory, basis, gpus } = &want.footprint;
    let mut text = format!("needs {} ({basis})", bytes(*memory));
    if want.siblings > 0 {
        let _ = write!(text, " and, with the other components of its service, {}", bytes(want.together()));
    }
    if gpus.count > 0 {
        let each = match (gpus.memory, gpus.exclusive) {
            (_, true) => "to itself".to_owned(),
            (Some(memory), _) => format!("with {}", bytes(memory)),
            (None, _) => "whole, because what it needs of it is not known yet".to_owned(),
        };
        let _ = write!(text, " and {} GPU{} {each}", gpus.count, if gpus.count == 1 { "" } else { "s" });
    }
    text
}

fn free(room: &Room, want: &Want) -> String {
    let Some(limit) = room.limit() else { return "memory is not counted".to_owned() };
    let held = room.held(&|_| false);
    let mut text = format!("{} of {} is free", bytes(limit.saturating_sub(held)), bytes(limit));
    if want.promised > 0 {
        let _ = write!(text, ", {} of it promised to those who came first", bytes(want.promised));
    }
    text
}

/// The services some holders belong to, each once.
fn names(room: &Room, pick: impl Fn(&Holder) -> bool) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for holder in room.holders.values().filter(|holder| pick(holder)) {
        let name = holder.component.service.to_string();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn joined(names: &[String]) -> String {
    match names {
        [] => "nobody".to_owned(),
        [one] => one.clone(),
        [all @ .., last] if all.len() < 4 => format!("{} and {last}", all.join(", ")),
        all => format!("{} and {} more", all[..3].join(", "), all.len() - 3),
    }
}

fn are(names: &[String]) -> String {
    format!("{} {}", joined(names), if names.len() == 1 { "is" } else { "are" })
}

fn hold(names: &[String]) -> String {
    format!("{} {}", joined(names), if names.len() == 1 { "holds" } else { "hold" })
}
