//! How many replicas of each revision the load wants: what is remembered between passes, and how a measured load is
//! shared out.
//!
//! A pass says which revisions follow their load and how they stand ([`Standing`]); whoever measures says what was asked
//! ([`Load`]); the arithmetic is [`crate::scale::Scaler`]'s. A pass then keeps as many replicas as were decided last.

use std::collections::BTreeMap;
use std::time::Duration;

use super::world::{Now, World};
use crate::scale::{Metric, Policy, Scaler};
use crate::workload::ComponentKey;

/// A revision whose replicas follow their load, as a pass found it.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The component.
    pub component: ComponentKey,
    /// Revision number.
    pub revision: u32,
    /// How it scales.
    pub policy: Policy,
    /// Replicas that are wanted now.
    pub replicas: u32,
    /// Replicas that answer.
    pub ready: u32,
    /// Its percent of the traffic when it is shared; none when all of it is, or is to be, this revision's.
    pub percent: Option<u32>,
}

/// What was asked of one component in the last second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// By revision.
    pub revisions: BTreeMap<u32, Usage>,
    /// Requests that waited for a place at a replica, on average.
    pub queued: f64,
}

/// What one revision did in the last second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Requests in flight, on average.
    pub concurrency: f64,
    /// Requests that came.
    pub rps: f64,
    /// Cores in use; none when it was not measured.
    pub cpu: Option<f64>,
    /// Bytes of memory in use; none when it was not measured.
    pub memory: Option<f64>,
}

/// What is remembered of the revisions whose replicas follow their load.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scales(BTreeMap<(ComponentKey, u32), (Standing, Scaler)>);

impl Scales {
    /// Whether any load has to be measured at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the engine has to measure, and what.
    pub fn wants_resources(&self) -> impl Iterator<Item = (&ComponentKey, u32)> {
        let resource = |standing: &Standing| standing.policy.target.is_some_and(|target| target.metric.is_resource());
        self.0.values().filter(move |(standing, _)| resource(standing)).map(|(s, _)| (&s.component, s.revision))
    }

    /// Returns what was decided last, between fewest and most not yet.
    pub fn wanted(&self, component: &ComponentKey, revision: u32) -> Option<u32> {
        self.0.get(&(component.clone(), revision)).map(|(_, scaler)| scaler.wanted())
    }

    /// Notes how a pass found the revisions; the others are forgotten. One that takes over from another takes over what
    /// is known of the load, too.
    pub(super) fn note(&mut self, standings: &[Standing], now: Now) {
        let before = std::mem::take(&mut self.0);
        for standing in standings {
            let key = (standing.component.clone(), standing.revision);
            let known = before.get(&key).or_else(|| {
                let other = before.iter().rev().find(|((component, _), _)| *component == standing.component);
                other.filter(|_| standing.percent.is_none()).map(|(_, known)| known)
            });
            let scaler = match known {
                Some((_, scaler)) => scaler.clone(),
                None => Scaler::taking_over(standing.replicas, now.tick),
            };
            self.0.insert(key, (standing.clone(), scaler));
        }
    }

    /// Takes up what was asked in the second that ends now. Returns true when other numbers of replicas are wanted.
    pub(super) fn measured(&mut self, loads: &BTreeMap<ComponentKey, Load>, now: Now) -> bool {
        let mut news = false;
        for (standing, scaler) in self.0.values_mut() {
            let before = standing.policy.bounded(scaler.wanted());
            if let Some(amount) = loads.get(&standing.component).and_then(|load| amount(standing, load)) {
                scaler.record(&standing.policy, amount, now.tick);
                scaler.decide(&standing.policy, standing.ready, now.tick);
            }
            news |= standing.policy.bounded(scaler.wanted()) != before;
        }
        news
    }
}

/// What of a component's load is one revision's: all of it when it has, or is to have, all traffic; else what it did
/// itself and its share of those who wait.
fn amount(standing: &Standing, load: &Load) -> Option<f64> {
    let metric = standing.policy.target?.metric;
    let own = load.revisions.get(&standing.revision).copied().unwrap_or_default();
    let sum = |of: fn(&Usage) -> f64| match standing.percent {
        Some(_) => of(&own),
        None => load.revisions.values().map(of).sum(),
    };
    let share = standing.percent.map_or(1.0, |percent| f64::from(percent) / 100.0);
    match metric {
        Metric::Concurrency => Some(sum(|usage| usage.concurrency) + load.queued * share),
        Metric::Rps => Some(sum(|usage| usage.rps)),
        Metric::Cpu => own.cpu,
        Metric::Memory => own.memory,
    }
}

/// Replicas of one revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    /// Replicas that are wanted.
    pub(super) wanted: u32,
    /// Replicas that must answer for the revision to count as able to serve: what load adds may come later.
    pub(super) needed: u32,
}

/// Says how many replicas of a revision are wanted. `there` is how many there are.
pub(super) fn count(world: &World, component: &ComponentKey, revision: u32, policy: &Policy, there: u32) -> Count {
    let history = world.memory.revisions.get(component);
    let is_proven = history.is_some_and(|history| history.is_proven(revision));
    let needed = if is_proven { policy.least() } else { policy.first() };
    if !policy.follows_load() {
        return Count { wanted: needed, needed };
    }
    // Until something is known of the load, as after a restart of the daemon, what runs goes on.
    let load = world.memory.scales.wanted(component, revision).unwrap_or(there);
    Count { wanted: policy.bounded(load).max(needed), needed }
}

/// How often the load is measured where replicas follow it.
pub const MEASURE_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ComponentKind, ServiceKey};

    fn standing(revision: u32, percent: Option<u32>) -> Standing {
        let component =
            ComponentKey { service: ServiceKey::new("default", "iris"), component: ComponentKind::Predictor };
        let policy = Policy { max: Some(5), ..Policy::default() };
        Standing { component, revision, policy, replicas: 1, ready: 1, percent }
    }

    fn usage(concurrency: f64) -> Usage {
        Usage { concurrency, ..Usage::default() }
    }

    #[test]
    fn a_revision_with_all_traffic_has_all_load_and_one_with_a_share_its_own_and_its_share_of_the_queue() {
        let load = Load { revisions: BTreeMap::from([(1, usage(8.0)), (2, usage(2.0))]), queued: 10.0 };
        for (revision, percent, amount) in
            [(2, None, 20.0), (2, Some(20), 4.0), (1, Some(80), 16.0), (2, Some(0), 2.0), (3, Some(50), 5.0)]
        {
            let told = super::amount(&standing(revision, percent), &load).unwrap();
            assert!((told - amount).abs() < 1e-9, "{revision} {percent:?}: {told}");
        }
    }

    #[test]
    fn a_revision_that_takes_over_knows_the_load_of_the_one_before() {
        let mut scales = Scales::default();
        let now = |second: u32| Now::at(f64::from(second));
        scales.note(&[standing(1, None)], now(0));
        let load = BTreeMap::from([(
            standing(1, None).component,
            Load { revisions: BTreeMap::from([(1, usage(200.0))]), queued: 0.0 },
        )]);
        assert!(scales.measured(&load, now(1)));
        let key = standing(1, None).component;
        assert_eq!(scales.wanted(&key, 1), Some(3));
        scales.note(&[standing(2, None)], now(2));
        assert_eq!((scales.wanted(&key, 1), scales.wanted(&key, 2)), (None, Some(3)));
    }
}
