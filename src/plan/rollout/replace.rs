//! A new revision beside which the old one has no room: the old one goes first, and comes back when the new one fails.
//!
//! ```text
//! beside ──no room──▶ replacing ──answers──▶ rolled out
//!                         │ crashes twice, is refused twice, or never answers
//!                         ▼
//!                     given up: the old one is made again from what was written, the new one is not tried any more
//! ```
//!
//! The annotation `kserve-local/rollout` says `beside` (never replace) or `replace` (always); otherwise it is beside when
//! there is room. Where only the older revision's container is known, and not what it was made from, it is not given up:
//! it could not come back.

use std::time::Duration;

use super::super::memory::GivenUp;
use super::super::planner::Draft;
use super::super::presence;
use super::super::progress;
use super::super::replica::Phase;
use super::super::said::said;
use super::super::scale;
use super::super::split;
use super::super::world::{ContainerFact, ResolvedWorkload};
use super::replicas::there;
use super::{ComponentReport, Rollout};
use crate::workload::Workload;

/// Annotation: `beside`, `replace` or `auto`.
pub const ROLLOUT: &str = "kserve-local/rollout";

/// How a new revision takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Strategy {
    /// Beside when there is room, else in its place.
    Auto,
    /// Never in its place.
    Beside,
    /// Always in its place.
    Replace,
}

impl Strategy {
    /// Reads the annotation.
    pub(in super::super) fn of(workload: &Workload) -> Self {
        match workload.annotations.get(ROLLOUT).map(|text| text.trim().to_lowercase()).as_deref() {
            Some("beside") => Self::Beside,
            Some("replace") => Self::Replace,
            _ => Self::Auto,
        }
    }
}

impl<'w> Rollout<'w, '_> {
    /// Whether the older revision is to go, so that there is room for the wanted one.
    pub(super) fn replaces(&mut self, draft: &mut Draft<'w>) -> bool {
        let (Some(target), Some(workload)) = (self.target, self.workload()) else { return false };
        let older = self.history.rolled_out.filter(|older| *older != target);
        if older.is_none() || self.ready(Some(target)) >= self.replicas.needed {
            return false;
        }
        let under_way = draft.world.memory.replacing.get(self.key).filter(|(revision, _)| *revision == target);
        let under_way = under_way.map(|(_, since)| *since);
        if under_way.is_none() && !draft.room.replaced.contains(self.key) {
            return false;
        }
        let since = under_way.unwrap_or(draft.now.tick);
        if self.older(draft).is_some()
            && let Some(why) = self.failed(draft, since, workload)
        {
            draft.plan.given_up.push((self.key.clone(), GivenUp { revision: target, why }));
            return false;
        }
        draft.plan.replacing.push((self.key.clone(), target));
        true
    }

    /// What the last revision that had all traffic is made from.
    fn older(&self, draft: &Draft<'w>) -> Option<(u32, &'w ResolvedWorkload)> {
        let revision = self.history.rolled_out?;
        let resolved = draft.world.older.get(self.key)?.get(&revision)?;
        Some((revision, resolved))
    }

    /// Why the wanted revision will not get ready; none while there is hope, or while a part of it answers: what came back
    /// in its place would have to load first.
    fn failed(&self, draft: &mut Draft<'w>, since: Duration, workload: &Workload) -> Option<String> {
        if self.ready(self.target) > 0 {
            return None;
        }
        let phase = self.worst(self.target);
        let words = |phase: &Phase| said(phase).message.lines().next().unwrap_or_default().to_owned();
        let is_over = match &phase {
            Phase::Crashed(crash) => crash.restarts >= 1 || crash.exit.is_memory_death(),
            // It is still on its way out, and has to be waited for.
            Phase::NoRoom { .. } => !self.units.keys().any(|(revision, _)| Some(*revision) == self.history.rolled_out),
            Phase::Refused { .. } => !self.is_refused_once(draft),
            Phase::ModelFailed { transient, .. } | Phase::ImageFailed { transient, .. } => !transient,
            phase => phase.is_failure(),
        };
        if is_over {
            return Some(words(&phase).trim_end_matches("; last output:").to_owned());
        }
        let deadline = progress::deadline(workload);
        draft
            .due(since + deadline)
            .then(|| format!("it did not answer within {} s: {}", deadline.as_secs(), words(&phase)))
    }

    /// Whether all that the engine refused of the wanted revision is one order each that may succeed when it is repeated.
    fn is_refused_once(&self, draft: &Draft<'w>) -> bool {
        let (instance, refusals) = (&draft.world.instance, &draft.world.memory.refusals);
        let own = self.of(self.target).flat_map(|(_, unit, _)| {
            refusals.iter().filter(|(container, _)| presence::is_of(instance, &unit.name, container))
        });
        let mut own = own.map(|(_, refusal)| !refusal.permanent && refusal.failures < 2).peekable();
        own.peek().is_some() && own.all(|once| once)
    }

    /// The revision that came back after the wanted one was given up.
    pub(super) fn came_back(&self, draft: &Draft<'w>) -> Option<(u32, &'w ResolvedWorkload)> {
        let given_up = self.history.given_up.as_ref()?;
        self.older(draft).filter(|_| Some(given_up.revision) == self.target)
    }

    /// Serves with the revision that came back.
    pub(super) fn go_back(
        mut self,
        draft: &mut Draft<'w>,
        (revision, resolved): (u32, &'w ResolvedWorkload),
        facts: &[&'w ContainerFact],
    ) -> ComponentReport<'w> {
        self.bring_back(draft, revision, resolved);
        self.advance_canaries(draft);
        self.retire_others(draft);
        self.given_up = self.history.given_up.as_ref().map(|given_up| given_up.why.clone());
        let shares = split::all(revision, Some(&resolved.workload));
        self.report(shares, false, facts)
    }

    /// Makes the replicas of an older revision again, as far as they are missing.
    fn bring_back(&mut self, draft: &mut Draft<'w>, revision: u32, resolved: &'w ResolvedWorkload) {
        let policy = &resolved.workload.scaling;
        let replicas = scale::count(draft.world, self.key, revision, policy, there(&self.units, revision));
        self.advance_revision(draft, resolved, revision, replicas.wanted.max(1));
        self.keep_surplus(draft, revision, replicas.wanted.max(1));
        self.stand(draft, revision, &resolved.workload, None);
    }

    /// The wanted revision fails, no part of it answers, and nothing older runs, because it slept or was lost: the last one
    /// that had all traffic is made again. What there is of it already is kept by the caller.
    pub(super) fn revive(&mut self, draft: &mut Draft<'w>) {
        if self.ready(self.target) > 0 {
            return;
        }
        let Some((revision, resolved)) = self.older(draft) else { return };
        let fails = match self.worst(self.target) {
            Phase::Crashed(crash) => crash.restarts >= 1 || crash.exit.is_memory_death(),
            phase => phase.is_failure(),
        };
        let is_there = self.of(Some(revision)).next().is_some();
        if Some(revision) != self.target && fails && !is_there {
            self.bring_back(draft, revision, resolved);
        }
    }
}
