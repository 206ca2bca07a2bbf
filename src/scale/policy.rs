//! Fewest and most replicas, the target and the windows of one component.

use std::time::Duration;

use super::resting::Resting;

/// How a component scales.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Fewest replicas (`minReplicas`); 0 allows sleep.
    pub min: u32,
    /// Most replicas (`maxReplicas`); none when it says nothing or 0: then there are never more than the fewest.
    pub max: Option<u32>,
    /// Replicas a new revision starts with (`autoscaling.knative.dev/initial-scale`).
    pub initial: u32,
    /// Replicas there are at least as long as anything is asked (`activation-scale`).
    pub activation: u32,
    /// What is kept at its target by more or fewer replicas; none when nothing that is measured here is asked for.
    pub target: Option<Target>,
    /// Requests are averaged over this long (`window`). Also how long nobody must have asked before sleep.
    pub window: Duration,
    /// Length of the panic window as a share of [`Policy::window`].
    pub panic_window: f64,
    /// Panic begins when the panic window wants this many times the replicas there are.
    pub panic_threshold: f64,
    /// A smaller number must have been wanted for this long before it is believed (`scale-down-delay`).
    pub scale_down_delay: Duration,
    /// The last replica stays at least this long after it was found idle (`scale-to-zero-pod-retention-period`).
    pub retention: Duration,
    /// What it does when nobody asks.
    pub resting: Resting,
}

/// What is measured, and how much of it one replica should have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// What is measured.
    pub metric: Metric,
    /// Per replica, utilisation already applied: requests, requests a second, cores or bytes.
    pub per_replica: f64,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Requests in flight.
    Concurrency,
    /// Requests a second.
    Rps,
    /// Cores in use.
    Cpu,
    /// Bytes of memory in use.
    Memory,
}

impl Metric {
    /// Whether the engine measures it, and not the gateway.
    pub fn is_resource(self) -> bool {
        matches!(self, Self::Cpu | Self::Memory)
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            min: 1,
            max: None,
            initial: 1,
            activation: 1,
            target: Some(Target { metric: Metric::Concurrency, per_replica: 70.0 }),
            window: Duration::from_secs(60),
            panic_window: 0.10,
            panic_threshold: 2.0,
            scale_down_delay: Duration::ZERO,
            retention: Duration::ZERO,
            resting: Resting::default(),
        }
    }
}

impl Policy {
    /// Whether it may have no replica at all.
    pub fn sleeps(&self) -> bool {
        self.min == 0 && !self.resting.pinned
    }

    /// Fewest replicas while it is awake.
    pub fn least(&self) -> u32 {
        self.min.max(1)
    }

    /// Replicas a new revision must show before it counts as able to serve.
    pub fn first(&self) -> u32 {
        let wanted = self.initial.max(self.least());
        self.max.map_or(wanted, |max| wanted.min(max.max(self.least())))
    }

    /// Whether the number of replicas follows what is measured.
    pub fn follows_load(&self) -> bool {
        self.target.is_some() && self.max.is_some_and(|max| max > self.least())
    }

    /// Returns the nearest number of replicas that is allowed while it is awake.
    pub fn bounded(&self, wanted: u32) -> u32 {
        let most = self.max.unwrap_or(0).max(self.least());
        wanted.clamp(self.least(), most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_stay_between_fewest_and_most_and_without_a_most_at_the_fewest() {
        let policy = |min, max| Policy { min, max, ..Policy::default() };
        for (min, max, wanted, given) in [
            (0, Some(3), 0, 1),
            (0, Some(3), 2, 2),
            (0, Some(3), 9, 3),
            (2, Some(3), 0, 2),
            (2, None, 9, 2),
            (0, None, 9, 1),
            (5, Some(3), 4, 5),
        ] {
            assert_eq!(policy(min, max).bounded(wanted), given, "{min} {max:?} {wanted}");
        }
        assert_eq!(Policy { initial: 4, ..policy(1, None) }.first(), 4);
        assert_eq!(Policy { initial: 4, ..policy(1, Some(2)) }.first(), 2);
    }
}
