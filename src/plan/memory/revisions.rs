//! Revisions of components: which is wanted, which had all traffic, what each was made from, and which are canaries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Memory;
use crate::plan::doze::Dozing;
use crate::plan::ledger::Learned;
use crate::plan::stages::Times;
use crate::plan::world::{ContainerFact, DesiredCanary, Now};
use crate::workload::{ComponentKey, Fingerprint};

/// Revisions of one component.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Revisions {
    /// Highest number ever given.
    pub highest: u32,
    /// The one that is wanted.
    pub target: u32,
    /// The last that had all traffic.
    pub rolled_out: Option<u32>,
    /// The one before.
    pub previous: Option<u32>,
    /// Fingerprint and age by number, the newest few.
    pub known: BTreeMap<u32, Box<RevisionNote>>,
    /// The wanted revision when it was last looked at, and the percent of traffic asked for it then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<(u32, u32)>,
    /// A wanted revision that replaced another one, failed, and is not tried any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub given_up: Option<GivenUp>,
    /// Whether `rolled_out` is only what containers suggest, because the ledger was lost.
    #[serde(skip)]
    pub inferred: bool,
    /// What it takes from the order to make the container to the answer, in milliseconds, as an average that forgets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_millis: Option<u64>,
    /// What each stage of a start usually takes.
    #[serde(skip_serializing_if = "Times::is_empty")]
    pub times: Times,
    /// Containers that sleep with their memory kept, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub dozing: BTreeMap<String, Dozing>,
    /// The wanted revision of each named canary.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub canaries: BTreeMap<String, u32>,
}

/// A revision that is not tried any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GivenUp {
    /// Which one.
    pub revision: u32,
    /// Why, in words for a person.
    pub why: String,
}

/// One revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionNote {
    /// Fingerprint of its workload.
    pub fingerprint: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whether every replica of it answered once.
    #[serde(default)]
    pub proven: bool,
    /// What its replicas were seen to need.
    #[serde(default, skip_serializing_if = "is_unlearned")]
    pub learned: Learned,
    /// The canary it is, or was; none once it is the wanted revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<String>,
}

fn is_unlearned(learned: &Learned) -> bool {
    *learned == Learned::default()
}

/// Revisions remembered by number when the settings say nothing; older ones are forgotten.
const REVISIONS_KEPT: usize = 10;

impl Memory {
    /// Makes `fingerprint` the wanted revision of a component. A revision that is still known is taken up again, so that
    /// undoing an edit finds its containers still there. Returns true when anything changed.
    pub fn want(&mut self, component: &ComponentKey, fingerprint: &Fingerprint, now: Now) -> bool {
        let revisions = self.revisions.entry(component.clone()).or_default();
        let current = revisions.known.get(&revisions.target);
        if current.is_some_and(|note| note.fingerprint == fingerprint.0) {
            return false;
        }
        // What is asked for anew is tried anew.
        revisions.given_up = None;
        let canaries = &revisions.canaries;
        let is_free = |number: u32| !canaries.values().any(|canary| *canary == number);
        let mut known = revisions.known.iter_mut().rev();
        let known = known.find(|(number, note)| note.fingerprint == fingerprint.0 && is_free(**number));
        if let Some((number, note)) = known {
            // A canary that was promoted goes on as it is.
            note.canary = None;
            revisions.target = *number;
            return true;
        }
        revisions.highest += 1;
        revisions.target = revisions.highest;
        revisions.known.insert(revisions.highest, Box::new(RevisionNote::new(&fingerprint.0, now)));
        revisions.forget_oldest(self.history_limit.unwrap_or(REVISIONS_KEPT));
        true
    }

    /// Lets go of the named canaries that are not wanted any more. Call it before [`Memory::want`], so that what was a
    /// canary can become the wanted revision. Returns true when anything changed.
    pub fn release_canaries(&mut self, component: &ComponentKey, wanted: &[DesiredCanary]) -> bool {
        let Some(revisions) = self.revisions.get_mut(component) else { return false };
        let before = revisions.canaries.len();
        revisions.canaries.retain(|name, _| wanted.iter().any(|canary| canary.name == *name));
        revisions.canaries.len() != before
    }

    /// Gives each named canary of a component the revision it wants. One that cannot be resolved keeps its own. Call it
    /// after [`Memory::want`]. Returns true when anything changed.
    pub fn want_canaries(&mut self, component: &ComponentKey, wanted: &[DesiredCanary], now: Now) -> bool {
        if wanted.is_empty() {
            return false;
        }
        let revisions = self.revisions.entry(component.clone()).or_default();
        let before = revisions.canaries.clone();
        for canary in wanted {
            if let Ok(resolved) = &canary.resolution {
                revisions.want_canary(&canary.name, &resolved.fingerprint, now);
            }
        }
        revisions.forget_oldest(self.history_limit.unwrap_or(REVISIONS_KEPT));
        revisions.canaries != before
    }

    /// Takes over what a container's labels say, for components whose ledger was lost or is older than the containers.
    /// The labels are right: a number that the ledger gave to something else is given anew. Returns true when anything
    /// changed.
    pub fn adopt(&mut self, fact: &ContainerFact, now: Now) -> bool {
        let canary = fact.record.canary.as_deref();
        self.adopt_revision(&fact.component, fact.revision, (&fact.fingerprint, canary), now)
    }

    /// The same for a revision by its fingerprint and the canary it was made as.
    pub(in crate::plan) fn adopt_revision(
        &mut self,
        component: &ComponentKey,
        revision: u32,
        (fingerprint, canary): (&str, Option<&str>),
        now: Now,
    ) -> bool {
        let revisions = self.revisions.entry(component.clone()).or_default();
        let known = revisions.known.get(&revision).map(|note| note.fingerprint.as_str());
        if known == Some(fingerprint) {
            return false;
        }
        let note = RevisionNote { canary: canary.map(str::to_owned), ..RevisionNote::new(fingerprint, now) };
        revisions.highest = revisions.highest.max(revision);
        if let Some(other) = revisions.known.insert(revision, Box::new(note)) {
            revisions.renumber(revision, other);
        }
        if let Some(name) = canary.filter(|name| revisions.canaries.contains_key(*name)) {
            revisions.adopt_canary(name, revision, fingerprint);
            return true;
        }
        // A ledger that was lost: the oldest that runs had all traffic before the others came, canaries apart.
        if canary.is_none() && (revisions.rolled_out.is_none() || revisions.inferred) {
            revisions.rolled_out = Some(revisions.rolled_out.map_or(revision, |other| other.min(revision)));
            revisions.inferred = true;
        }
        // The wanted workload already runs under this number: nothing needs to be started for it.
        let target = revisions.known.get(&revisions.target);
        if revision > revisions.target && target.is_some_and(|note| note.fingerprint == fingerprint) {
            revisions.target = revision;
            // It was a canary once, and was promoted.
            revisions.known.entry(revision).and_modify(|note| note.canary = None);
        }
        true
    }

    /// Notes that a revision has all traffic now. Returns true when that is news.
    pub fn rolled_out(&mut self, component: &ComponentKey, revision: u32) -> bool {
        let revisions = self.revisions.entry(component.clone()).or_default();
        revisions.inferred = false;
        if revisions.rolled_out == Some(revision) {
            return false;
        }
        revisions.previous = revisions.rolled_out.replace(revision);
        true
    }

    /// Notes that every replica of a revision answered once. Returns true when that is news.
    pub(super) fn note_proven(&mut self, component: &ComponentKey, revision: u32) -> bool {
        let note = self.revisions.get_mut(component).and_then(|revisions| revisions.known.get_mut(&revision));
        note.is_some_and(|note| !std::mem::replace(&mut note.proven, true))
    }

    /// Notes what the wanted revision of a component is made from. Returns true when that is news.
    pub fn note_source(&mut self, component: &ComponentKey, source: &Arc<serde_json::Value>) -> bool {
        let Some(revisions) = self.revisions.get(component) else { return false };
        let sources = self.sources.entry(component.clone()).or_default();
        sources.retain(|revision, _| revisions.known.contains_key(revision));
        let Some(known) = sources.get_mut(&revisions.target) else {
            sources.insert(revisions.target, Arc::clone(source));
            return true;
        };
        // What an earlier daemon wrote down is the document that is in the folder: one of the two is enough.
        if !Arc::ptr_eq(known, source) && known == source {
            *known = Arc::clone(source);
        }
        false
    }
}

impl RevisionNote {
    fn new(fingerprint: &str, now: Now) -> Self {
        let fingerprint = fingerprint.to_owned();
        Self { fingerprint, created_at: now.wall, proven: false, learned: Learned::default(), canary: None }
    }
}

impl Revisions {
    /// Whether every replica of a revision answered once.
    pub fn is_proven(&self, revision: u32) -> bool {
        self.rolled_out == Some(revision) || self.known.get(&revision).is_some_and(|note| note.proven)
    }

    /// Whether it is written down that every replica of a revision answered once, or nothing can be written of it any more.
    pub(in crate::plan) fn was_noted_proven(&self, revision: u32) -> bool {
        self.known.get(&revision).is_none_or(|note| note.proven)
    }

    /// The revision that serves when nothing is amiss: the wanted one, or the one that came back for it.
    pub fn current(&self) -> u32 {
        let is_given_up = self.given_up.as_ref().is_some_and(|given_up| given_up.revision == self.target);
        self.rolled_out.filter(|_| is_given_up).unwrap_or(self.target)
    }

    /// Returns what a start usually takes, in whole seconds.
    pub fn load_time(&self) -> Option<Duration> {
        self.load_millis.map(|millis| Duration::from_secs(millis.div_ceil(1000)))
    }

    /// Returns the canary a revision is, or was when it was made.
    pub fn canary_of(&self, revision: u32) -> Option<&str> {
        self.known.get(&revision)?.canary.as_deref()
    }

    /// Makes `fingerprint` the wanted revision of a canary; one that is still known is taken up again.
    fn want_canary(&mut self, name: &str, fingerprint: &Fingerprint, now: Now) {
        let is_it = |note: &RevisionNote| note.fingerprint == fingerprint.0 && note.canary.as_deref() == Some(name);
        let current = self.canaries.get(name).filter(|number| self.known.get(number).is_some_and(|note| is_it(note)));
        if current.is_some() {
            return;
        }
        let known = self.known.iter().rev().find(|(_, note)| is_it(note)).map(|(number, _)| *number);
        let number = known.unwrap_or_else(|| {
            self.highest += 1;
            let note = RevisionNote { canary: Some(name.to_owned()), ..RevisionNote::new(&fingerprint.0, now) };
            self.known.insert(self.highest, Box::new(note));
            self.highest
        });
        self.canaries.insert(name.to_owned(), number);
    }

    /// The wanted revision of a canary already runs under this number, which the ledger had lost.
    fn adopt_canary(&mut self, name: &str, revision: u32, fingerprint: &str) {
        let Some(current) = self.canaries.get_mut(name) else { return };
        if self.known.get(current).is_some_and(|note| note.fingerprint == fingerprint) {
            *current = revision;
        }
    }

    /// Gives what the ledger called `taken` the next free number.
    fn renumber(&mut self, taken: u32, note: Box<RevisionNote>) {
        self.highest += 1;
        let next = self.highest;
        self.known.insert(next, note);
        let own = [Some(&mut self.target), self.rolled_out.as_mut(), self.previous.as_mut()].into_iter().flatten();
        for number in own.chain(self.canaries.values_mut()) {
            if *number == taken {
                *number = next;
            }
        }
    }

    fn forget_oldest(&mut self, kept: usize) {
        let own = [Some(self.target), self.rolled_out, self.previous].into_iter().flatten();
        let in_use: Vec<u32> = own.chain(self.canaries.values().copied()).collect();
        while self.known.len() > kept.max(1) {
            let Some(oldest) = self.known.keys().copied().find(|number| !in_use.contains(number)) else {
                return;
            };
            self.known.remove(&oldest);
        }
    }
}
