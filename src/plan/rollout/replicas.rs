//! How many replicas of a revision stay: what its load wants, and what stands in for those that are missing.

use super::super::checks::{self, Answered};
use super::super::planner::Draft;
use super::super::replica::Replica;
use super::super::scale::Standing;
use super::{Rollout, Units};
use crate::workload::Workload;

impl<'w> Rollout<'w, '_> {
    /// Leaves word of a revision whose replicas follow its load.
    pub(super) fn stand(&self, draft: &mut Draft<'w>, revision: u32, workload: &Workload, percent: Option<u32>) {
        let own = self.policy.as_ref().filter(|_| Some(revision) == self.target);
        let policy = own.unwrap_or(&workload.scaling);
        // How many there are is not known before the engine has said it: who would take over none would stop them.
        if !policy.follows_load() || draft.world.listed_at.is_none() {
            return;
        }
        let there = self.of(Some(revision)).count();
        draft.plan.standings.push(Standing {
            component: self.key.clone(),
            revision,
            policy: policy.clone(),
            replicas: u32::try_from(there).unwrap_or(u32::MAX),
            ready: self.ready(Some(revision)),
            percent,
        });
    }

    /// Whether as many replicas of the wanted revision answer as must for it to serve.
    pub(super) fn is_settled(&self) -> bool {
        self.target.is_some() && self.ready(self.target) >= self.replicas.needed
    }

    /// Keeps replicas of the wanted revision beyond the number that is wanted now.
    pub(super) fn keep_surplus_of_wanted(&mut self, draft: &mut Draft<'w>) {
        if let Some(target) = self.target {
            self.keep_surplus(draft, target, self.replicas.wanted);
        }
    }

    /// Keeps replicas of a revision beyond the number that is wanted now, as many as are missing of that: they go when the
    /// others answer.
    pub(super) fn keep_surplus(&mut self, draft: &mut Draft<'w>, revision: u32, wanted: u32) {
        let missing = wanted.saturating_sub(self.ready(Some(revision)));
        let surplus = self.units.iter().filter(|((number, _), _)| *number == revision);
        let hopeful = surplus.filter(|(_, containers)| checks::answered(draft, containers) > Answered::No);
        let kept: Vec<(u32, u32)> =
            hopeful.map(|(place, _)| *place).take(usize::try_from(missing).unwrap_or(usize::MAX)).collect();
        for place in kept {
            if let Some(containers) = self.units.remove(&place) {
                let unit = Replica::kept(draft, &containers);
                self.advance(draft, place.1, unit);
            }
        }
    }
}

/// Counts the places of a revision that are taken.
pub(super) fn there(units: &Units<'_>, revision: u32) -> u32 {
    let last = units.keys().filter(|(number, _)| *number == revision).map(|(_, ordinal)| ordinal + 1).max();
    last.unwrap_or_default()
}
