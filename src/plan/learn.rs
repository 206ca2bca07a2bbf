//! What measurements and deaths teach about footprints. Kept with the revision.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::action::ProbeKind;
use super::ledger;
use super::memory::Memory;
use super::routes::ReplicaName;
use super::world::{ContainerFact, World};

impl World {
    /// Takes over what replicas that answer were measured to use. Returns true when that is news.
    pub fn learn_footprints(&mut self) -> bool {
        let mut replicas: BTreeMap<&ReplicaName, Vec<&ContainerFact>> = BTreeMap::new();
        for fact in self.containers.values().filter(|fact| fact.is_running() && !fact.is_sandbox()) {
            replicas.entry(&fact.replica).or_default().push(fact);
        }
        let mut lessons = Vec::new();
        for facts in replicas.values() {
            let used: Vec<_> = facts.iter().filter_map(|fact| self.used.get(&fact.name)).collect();
            // Part of a replica says nothing about all of it.
            let whole = used.len() == facts[0].record.containers.len();
            if whole && self.memory.has_answered(facts) {
                let gpu = used.iter().flat_map(|used| used.gpus.values()).copied().max().unwrap_or_default();
                lessons.push((
                    facts[0].component.clone(),
                    facts[0].revision,
                    used.iter().map(|used| used.peak).sum(),
                    gpu,
                ));
            }
        }
        let mut news = false;
        for (component, revision, memory, gpu) in lessons {
            let revisions = self.memory.revisions.get_mut(&component);
            if let Some(note) = revisions.and_then(|revisions| revisions.known.get_mut(&revision)) {
                news |= note.learn(memory, gpu);
            }
        }
        news
    }
}

impl Memory {
    /// Whether a container ever passed the check of its model since it was started.
    fn answers(&self, container: &str) -> bool {
        let kinds = [ProbeKind::Model, ProbeKind::Readiness];
        kinds.into_iter().any(|kind| self.probe(container, kind).is_some_and(|probe| probe.ever_passed))
    }

    /// Whether a replica answered since its containers were started; companions without a check count as it does.
    pub fn has_answered(&self, facts: &[&ContainerFact]) -> bool {
        facts.iter().any(|fact| self.answers(&fact.name))
    }

    /// Notes how many processes of a container that runs on were killed for memory since it was started, and what it used.
    /// Returns true when that are more than were known.
    pub fn note_memory_kills(&mut self, fact: &ContainerFact, count: u64, used: u64) -> bool {
        let Some(memory) = self.containers.get_mut(&fact.name).filter(|memory| memory.started.is_some()) else {
            return false;
        };
        if memory.kills >= count {
            return false;
        }
        memory.kills = count;
        self.note_memory_death(fact, used);
        true
    }

    /// Notes that a container was killed for memory: its replica is given more the next time.
    pub fn note_memory_death(&mut self, fact: &ContainerFact, used: u64) {
        let had = self.granted.get(&fact.replica).map_or(0, |grant| grant.memory).max(used);
        let revisions = self.revisions.get_mut(&fact.component);
        let note = revisions.and_then(|revisions| revisions.known.get_mut(&fact.revision));
        if let Some(note) = note.filter(|_| had > 0) {
            note.learned.after_kill = note.learned.after_kill.max(ledger::after_kill(had));
        }
        self.granted.remove(&Arc::clone(&fact.replica));
    }
}
