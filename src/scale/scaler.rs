//! How many replicas a load asks for: Knative's arithmetic for requests, the Horizontal Pod Autoscaler's for CPU and
//! memory (§5.3).
//!
//! ```text
//! requests:  stable window wants ⌈average ÷ target⌉ ──▶ wanted
//!            panic window wants ≥ 2 × what is ready ──▶ panic: only upwards, until a stable window without
//! resources: ⌈usage ÷ target⌉ unless within a tenth ──▶ the most of five minutes
//! ```
//!
//! Fewest and most replicas are not looked at here: [`Policy::bounded`] does that.

use std::collections::VecDeque;
use std::time::Duration;

use super::policy::Policy;
use super::window::Window;

/// Replicas may grow this many times at once (`max-scale-up-rate`).
const MAX_UP: f64 = 1000.0;
/// Replicas may shrink to one part in this many at once (`max-scale-down-rate`).
const MAX_DOWN: f64 = 2.0;
/// A usage this close to its target changes nothing (the controller manager's tolerance).
const TOLERANCE: f64 = 0.1;
/// Usage of resources is averaged over this long.
const RESOURCE_WINDOW: Duration = Duration::from_secs(15);
/// A smaller number wanted by resources is believed after this long (`behavior.scaleDown.stabilizationWindowSeconds`).
const RESOURCE_DELAY: Duration = Duration::from_secs(300);

/// What is known of the load of one revision, and what was decided from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaler {
    window: Window,
    panic: Option<Panic>,
    /// What was wanted lately, for delays.
    lately: VecDeque<(Duration, u32)>,
    decided: Option<Duration>,
    wanted: u32,
}

/// A surge: replicas only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Panic {
    /// When it was last seen to surge.
    since: Duration,
    /// Most replicas wanted since it began.
    most: u32,
}

impl Scaler {
    /// Takes over so many replicas. More than one are kept for a window: why they are there is not known.
    pub fn taking_over(replicas: u32, now: Duration) -> Self {
        let panic = (replicas > 1).then_some(Panic { since: now, most: replicas });
        Self { window: Window::default(), panic, lately: VecDeque::new(), decided: None, wanted: replicas }
    }

    /// Returns the number of replicas decided last.
    pub fn wanted(&self) -> u32 {
        self.wanted
    }

    /// Whether replicas only grow at the moment.
    pub fn is_panicking(&self) -> bool {
        self.panic.is_some()
    }

    /// Notes how much there was, of what the policy's target measures, in the second that ended at `now`.
    pub fn record(&mut self, policy: &Policy, amount: f64, now: Duration) {
        self.window.record(now, amount, policy.window.max(RESOURCE_WINDOW));
    }

    /// Decides anew, if it is time to, from what was recorded. `ready` replicas answer.
    pub fn decide(&mut self, policy: &Policy, ready: u32, now: Duration) {
        let Some(target) = policy.target else { return };
        let is_resource = target.metric.is_resource();
        let pause = if is_resource { Duration::from_secs(15) } else { Duration::from_secs(2) };
        if self.decided.is_some_and(|last| now < last + pause) {
            return;
        }
        self.decided = Some(now);
        let wanted = if is_resource {
            self.for_resources(target.per_replica, ready, now)
        } else {
            self.for_requests(policy, target.per_replica, ready, now)
        };
        let delay = if is_resource { RESOURCE_DELAY } else { policy.scale_down_delay };
        self.wanted = self.delayed(wanted, delay, now);
    }

    fn for_requests(&mut self, policy: &Policy, target: f64, ready: u32, now: Duration) -> u32 {
        let ready = f64::from(ready.max(1));
        let up = (MAX_UP * ready).ceil();
        let down = (ready / MAX_DOWN).floor();
        let wants = |over: Duration| (self.window.average(now, over) / target).ceil();
        let panic_window = policy.window.mul_f64(policy.panic_window);
        let (stable, panic) = (wants(policy.window), wants(panic_window));
        let is_surge = panic / ready >= policy.panic_threshold;
        let activated = |wanted: f64| if stable > 0.0 { wanted.max(f64::from(policy.activation)) } else { wanted };
        let stable = whole(activated(stable.max(down).min(up)));
        let panic = whole(activated(panic.max(down).min(up)));
        self.panic = match self.panic {
            _ if is_surge => Some(Panic { since: now, most: self.panic.map_or(0, |panic| panic.most) }),
            Some(panic) if now > panic.since + policy.window => None,
            other => other,
        };
        match &mut self.panic {
            Some(surge) => {
                surge.most = surge.most.max(stable).max(panic);
                surge.most
            }
            None => stable,
        }
    }

    fn for_resources(&self, target: f64, ready: u32, now: Duration) -> u32 {
        if ready == 0 {
            return self.wanted;
        }
        let usage = self.window.average(now, RESOURCE_WINDOW);
        let ratio = usage / (target * f64::from(ready));
        if (ratio - 1.0).abs() <= TOLERANCE {
            return ready;
        }
        // At most twice as many, or four more, in one step.
        whole((usage / target).ceil()).min(ready.saturating_mul(2).max(ready.saturating_add(4)))
    }

    /// The most that was wanted within the delay.
    fn delayed(&mut self, wanted: u32, delay: Duration, now: Duration) -> u32 {
        self.lately.push_back((now, wanted));
        self.lately.retain(|(at, _)| *at + delay > now || *at == now);
        self.lately.iter().map(|(_, wanted)| *wanted).max().unwrap_or(wanted)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is cut to what fits")]
fn whole(value: f64) -> u32 {
    value.clamp(0.0, f64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::super::policy::{Metric, Target};
    use super::*;

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    fn concurrency(per_replica: f64) -> Policy {
        Policy { target: Some(Target { metric: Metric::Concurrency, per_replica }), ..Policy::default() }
    }

    /// Plays a load, second by second; replicas become ready at once. Returns how many were wanted after each second.
    fn play(
        policy: &Policy,
        scaler: &mut Scaler,
        seconds: std::ops::Range<u64>,
        load: impl Fn(u64) -> f64,
    ) -> Vec<u32> {
        let one = |second| {
            let ready = scaler.wanted().max(1);
            scaler.record(policy, load(second), at(second));
            scaler.decide(policy, ready, at(second));
            scaler.wanted()
        };
        seconds.map(one).collect()
    }

    #[test]
    fn a_steady_load_gets_its_quotient_rounded_up() {
        let policy = concurrency(7.0);
        for (load, wanted) in [(0.0, 0), (0.1, 1), (7.0, 1), (7.1, 2), (35.0, 5)] {
            let mut scaler = Scaler::taking_over(1, at(0));
            assert_eq!(play(&policy, &mut scaler, 1..200, |_| load).last(), Some(&wanted), "{load}");
        }
    }

    #[test]
    fn a_surge_is_answered_in_seconds_and_kept_until_it_is_over_for_a_window() {
        let policy = concurrency(1.0);
        let mut scaler = Scaler::taking_over(1, at(0));
        play(&policy, &mut scaler, 1..61, |_| 1.0);
        let surge = play(&policy, &mut scaler, 61..66, |_| 10.0);
        assert!(surge.iter().any(|wanted| *wanted >= 5), "the panic window of six seconds sees it: {surge:?}");
        assert!(scaler.is_panicking());
        let after = play(&policy, &mut scaler, 66..120, |_| 1.0);
        assert!(after.is_sorted(), "while it panics replicas do not shrink: {after:?}");
        assert_eq!(play(&policy, &mut scaler, 120..260, |_| 1.0).last(), Some(&1));
        assert!(!scaler.is_panicking());
    }

    #[test]
    fn replicas_shrink_by_half_at_a_time() {
        let policy = concurrency(1.0);
        let mut scaler = Scaler::taking_over(1, at(0));
        play(&policy, &mut scaler, 1..200, |_| 8.0);
        assert_eq!((scaler.wanted(), scaler.is_panicking()), (8, false));
        let down = play(&policy, &mut scaler, 200..300, |_| 0.0);
        let steps: Vec<u32> = down.windows(2).filter(|pair| pair[0] != pair[1]).map(|pair| pair[1]).collect();
        assert!(steps.windows(2).all(|pair| pair[1] >= pair[0] / 2), "{steps:?}");
        assert_eq!(down.last(), Some(&0));
        assert_eq!(down[..50].iter().min(), Some(&2), "the window still remembers: {down:?}");
    }

    #[test]
    fn a_delay_keeps_the_most_that_was_wanted() {
        let policy = Policy { scale_down_delay: at(100), window: at(6), ..concurrency(1.0) };
        let mut scaler = Scaler::taking_over(1, at(0));
        play(&policy, &mut scaler, 1..40, |_| 3.0);
        assert_eq!(play(&policy, &mut scaler, 40..130, |_| 0.0).last(), Some(&3));
        assert_eq!(play(&policy, &mut scaler, 130..160, |_| 0.0).last(), Some(&1), "half of it, and so on");
    }

    #[test]
    fn any_load_gets_the_activation_scale() {
        let policy = Policy { activation: 3, ..concurrency(10.0) };
        let mut scaler = Scaler::taking_over(1, at(0));
        assert_eq!(play(&policy, &mut scaler, 1..10, |_| 0.5).last(), Some(&3));
        assert_eq!(play(&policy, &mut scaler, 10..200, |_| 0.0).last(), Some(&0));
    }

    #[test]
    fn what_was_there_before_stays_for_a_window() {
        let policy = concurrency(1.0);
        let mut scaler = Scaler::taking_over(5, at(0));
        assert_eq!(play(&policy, &mut scaler, 1..60, |_| 0.0), [5; 59]);
        assert_eq!(play(&policy, &mut scaler, 60..80, |_| 0.0).last(), Some(&0));
    }

    #[test]
    fn resources_follow_the_pod_autoscaler() {
        let policy = Policy { target: Some(Target { metric: Metric::Cpu, per_replica: 0.8 }), ..Policy::default() };
        let mut scaler = Scaler::taking_over(1, at(0));
        assert_eq!(play(&policy, &mut scaler, 1..60, |_| 0.85).last(), Some(&1), "within the tolerance");
        assert_eq!(play(&policy, &mut scaler, 60..120, |_| 2.0).last(), Some(&3));
        assert_eq!(play(&policy, &mut scaler, 120..380, |_| 0.1).last(), Some(&3), "it waits five minutes");
        assert_eq!(play(&policy, &mut scaler, 380..500, |_| 0.1).last(), Some(&1));
    }
}
