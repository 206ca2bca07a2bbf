//! When a replica that fails is left alone, and when it is tried again. Pure: time is an argument.
//!
//! ```text
//! in ──`threshold` failures in a row──▶ out ──pause over──▶ due ──one request──▶ on trial
//!  ▲                                     ▲                                        │   │
//!  └───────────── it succeeds ───────────┼────────────────────────────────────────┘   │
//!                                        └──────── it fails: twice the pause ─────────┘
//! ```

use std::time::Duration;

use tokio::time::Instant;

/// When a replica is taken out, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Failures in a row that take it out; 0 means never.
    pub(crate) threshold: u32,
    /// The first pause; each further one is twice as long.
    pub(crate) pause: Duration,
    /// The longest pause.
    pub(crate) max_pause: Duration,
}

/// What may be sent to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Everything.
    In,
    /// One request, to see whether it works again.
    Due,
    /// Nothing, if anyone else can take it.
    Out,
}

/// How a request ended for the replica that had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It answered.
    Worked,
    /// No connection, no whole answer, none in time, or a server error.
    Failed,
}

/// One replica's record.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Health {
    failures: u32,
    out: Option<Pause>,
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    until: Instant,
    length: Duration,
    on_trial: bool,
}

impl Health {
    /// Returns whether there is nothing to remember.
    pub(crate) fn is_clean(&self) -> bool {
        self.failures == 0 && self.out.is_none()
    }

    pub(crate) fn standing(&self, now: Instant) -> Standing {
        match self.out {
            None => Standing::In,
            Some(pause) if !pause.on_trial && now >= pause.until => Standing::Due,
            Some(_) => Standing::Out,
        }
    }

    /// A request goes to it. Returns whether that is the trial.
    pub(crate) fn send(&mut self, now: Instant) -> bool {
        let trial = self.standing(now) == Standing::Due;
        if let Some(pause) = &mut self.out {
            pause.on_trial |= trial;
        }
        trial
    }

    /// The trial ended without a verdict: its client left.
    pub(crate) fn abandon_trial(&mut self) {
        if let Some(pause) = &mut self.out {
            pause.on_trial = false;
        }
    }

    /// A request has ended. Returns whether that takes the replica out.
    pub(crate) fn report(&mut self, verdict: Verdict, trial: bool, now: Instant, policy: Policy) -> bool {
        match (verdict, self.out) {
            // What began before it was taken out says nothing about now.
            (Verdict::Worked, Some(_)) if !trial => false,
            (Verdict::Worked, _) => {
                *self = Self::default();
                false
            }
            (Verdict::Failed, Some(pause)) if trial => {
                let length = (pause.length * 2).min(policy.max_pause);
                self.out = Some(Pause { until: now + length, length, on_trial: false });
                true
            }
            (Verdict::Failed, Some(_)) => false,
            (Verdict::Failed, None) => {
                self.failures = self.failures.saturating_add(1);
                let out = policy.threshold > 0 && self.failures >= policy.threshold;
                if out {
                    self.out = Some(Pause { until: now + policy.pause, length: policy.pause, on_trial: false });
                }
                out
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy { threshold: 3, pause: Duration::from_secs(1), max_pause: Duration::from_secs(3) };

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_take_a_replica_out_and_one_good_answer_takes_it_back() {
        let mut health = Health::default();
        let start = Instant::now();
        let after = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let fail = |health: &mut Health, trial, at| health.report(Verdict::Failed, trial, at, POLICY);
        assert!(!fail(&mut health, false, start) && !fail(&mut health, false, start));
        health.report(Verdict::Worked, false, start, POLICY);
        assert!(health.is_clean(), "only failures in a row count");
        assert!(!fail(&mut health, false, start) && !fail(&mut health, false, start));
        assert!(fail(&mut health, false, start));
        assert_eq!(health.standing(after(0.9)), Standing::Out);
        health.report(Verdict::Worked, false, after(0.5), POLICY);
        assert_eq!(health.standing(after(0.9)), Standing::Out, "a request from before proves nothing");
        assert_eq!(health.standing(after(1.0)), Standing::Due);
        assert!(health.send(after(1.0)));
        assert_eq!(health.standing(after(1.0)), Standing::Out, "one at a time");
        health.abandon_trial();
        assert!(health.send(after(1.0)));
        assert!(fail(&mut health, true, after(1.0)));
        assert_eq!((health.standing(after(2.9)), health.standing(after(3.0))), (Standing::Out, Standing::Due));
        assert!(health.send(after(3.0)) && fail(&mut health, true, after(3.0)));
        assert_eq!(health.standing(after(6.0)), Standing::Due, "never longer than the longest pause");
        assert!(health.send(after(6.0)));
        health.report(Verdict::Worked, true, after(6.0), POLICY);
        assert!(health.is_clean());
    }

    #[tokio::test(start_paused = true)]
    async fn a_threshold_of_zero_takes_nothing_out() {
        let mut health = Health::default();
        let policy = Policy { threshold: 0, ..POLICY };
        assert!((0..100).all(|_| !health.report(Verdict::Failed, false, Instant::now(), policy)));
    }
}
