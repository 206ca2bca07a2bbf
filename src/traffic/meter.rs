//! How much was asked between two looks: the time requests were in flight added up, and their number.
//!
//! Nothing is locked on a request's way: its start takes away, and its end adds, the time since the last look; whoever
//! looks adds the same for those still in flight. A request that starts or ends in the very moment of a look may be
//! counted by up to one look's distance too long or too short, once.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// What was asked of one replica, or waited for one, between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// Requests in flight, on average.
    pub concurrency: f64,
    /// Requests that came, per second.
    pub rps: f64,
    /// Time between the looks.
    pub over: Duration,
}

/// Adds up. Times are since an origin of the caller's choice.
#[derive(Debug)]
pub(super) struct Meter {
    /// Time in flight since the last look, in microseconds, less what those in flight have still to add.
    busy: AtomicI64,
    came: AtomicU64,
    /// The last look, in microseconds.
    looked: AtomicI64,
}

impl Meter {
    /// Starts at `now`.
    pub(super) fn new(now: Duration) -> Self {
        Self { busy: AtomicI64::new(0), came: AtomicU64::new(0), looked: AtomicI64::new(micros(now)) }
    }

    /// A request begins.
    pub(super) fn begin(&self, now: Duration) {
        self.busy.fetch_sub(micros(now) - self.looked.load(Ordering::Relaxed), Ordering::Relaxed);
        self.came.fetch_add(1, Ordering::Relaxed);
    }

    /// A request ends.
    pub(super) fn end(&self, now: Duration) {
        self.busy.fetch_add(micros(now) - self.looked.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// One that has just begun is not to be counted.
    pub(super) fn forget(&self, now: Duration) {
        self.end(now);
        // The look in between has counted it: then the next one does not miss it.
        let _ = self.came.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |came| came.checked_sub(1));
    }

    /// Says what was since the last look, when so many are in flight now.
    pub(super) fn look(&self, in_flight: u64, now: Duration) -> Measured {
        let now = micros(now);
        let over = (now - self.looked.swap(now, Ordering::Relaxed)).max(0);
        let in_flight = i64::try_from(in_flight).unwrap_or(i64::MAX);
        let busy = self.busy.swap(0, Ordering::Relaxed).saturating_add(in_flight.saturating_mul(over)).max(0);
        let came = self.came.swap(0, Ordering::Relaxed);
        if over == 0 {
            return Measured::default();
        }
        #[expect(clippy::cast_precision_loss, reason = "averages")]
        let (busy, came, length) = (busy as f64, came as f64, over as f64);
        Measured {
            concurrency: busy / length,
            rps: came * 1e6 / length,
            over: Duration::from_micros(over.unsigned_abs()),
        }
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn time_in_flight_is_averaged_whenever_requests_begin_and_end() {
        let meter = Meter::new(at(0));
        meter.begin(at(100));
        meter.begin(at(500));
        meter.end(at(600));
        let first = meter.look(1, at(1000));
        assert!((first.concurrency - 1.0).abs() < 1e-9, "{first:?}");
        assert!((first.rps - 2.0).abs() < 1e-9, "{first:?}");
        meter.end(at(1250));
        let second = meter.look(0, at(2000));
        assert!((second.concurrency - 0.25).abs() < 1e-9 && second.rps.abs() < 1e-9, "{second:?}");
        assert!(meter.look(0, at(3000)).concurrency.abs() < 1e-9);
    }

    #[test]
    fn a_long_stream_counts_in_every_look() {
        let meter = Meter::new(at(0));
        meter.begin(at(0));
        for second in 1..10 {
            assert!((meter.look(1, at(second * 1000)).concurrency - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn what_is_forgotten_leaves_no_trace() {
        let meter = Meter::new(at(0));
        meter.begin(at(400));
        meter.forget(at(400));
        assert_eq!(meter.look(0, at(1000)), Measured { over: at(1000), ..Measured::default() });
        assert_eq!(meter.look(0, at(1000)), Measured::default(), "two looks at once say nothing");
    }
}
