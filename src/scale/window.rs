//! Amounts second by second, and their average: Knative's stable and panic windows over buckets of one second.

use std::collections::VecDeque;
use std::time::Duration;

/// The last seconds, each with what was measured in it. Seconds are counted on the caller's clock.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Window {
    seconds: VecDeque<(u64, f64)>,
}

impl Window {
    /// Notes what was measured up to `at`, and forgets what is older than `keep`. Seconds in which nobody measured are
    /// taken to have been like this one: whoever measures was held up, not those who asked.
    pub fn record(&mut self, at: Duration, amount: f64, keep: Duration) {
        let second = at.as_secs();
        let oldest = (second + 1).saturating_sub(seconds(keep));
        let first = match self.seconds.back_mut() {
            Some((last, old)) if *last >= second => {
                // Two measurements in a second: the second one is as good as the first.
                *old = f64::midpoint(*old, amount);
                return;
            }
            Some((last, _)) => (*last + 1).max(oldest),
            None => second,
        };
        self.seconds.extend((first..=second).map(|second| (second, amount)));
        while self.seconds.front().is_some_and(|(second, _)| *second < oldest) {
            self.seconds.pop_front();
        }
    }

    /// Returns the average of the last `over`, or of all there is while that is less.
    pub fn average(&self, now: Duration, over: Duration) -> f64 {
        let second = now.as_secs();
        let oldest = (second + 1).saturating_sub(seconds(over));
        let Some((first, _)) = self.seconds.front() else { return 0.0 };
        let young = self.seconds.iter().filter(|(at, _)| *at >= oldest && *at <= second);
        let sum: f64 = young.map(|(_, amount)| amount).sum();
        let length = second.saturating_sub(*first).saturating_add(1).min(seconds(over));
        sum / f64::from(u32::try_from(length.max(1)).unwrap_or(u32::MAX))
    }
}

fn seconds(length: Duration) -> u64 {
    length.as_secs().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn a_young_window_is_averaged_over_its_age_and_an_old_one_over_its_length() {
        let mut window = Window::default();
        assert!(window.average(at(5), MINUTE).abs() < 1e-9);
        window.record(at(10), 6.0, MINUTE);
        assert!((window.average(at(10), MINUTE) - 6.0).abs() < 1e-9);
        window.record(at(11), 0.0, MINUTE);
        window.record(at(12), 0.0, MINUTE);
        assert!((window.average(at(12), MINUTE) - 2.0).abs() < 1e-9);
        for second in 13..70 {
            window.record(at(second), 0.0, MINUTE);
        }
        assert!((window.average(at(69), MINUTE) - 0.1).abs() < 1e-9);
        window.record(at(70), 0.0, MINUTE);
        assert!(window.average(at(70), MINUTE).abs() < 1e-9, "what is older is forgotten");
    }

    #[test]
    fn a_short_window_sees_the_end_only() {
        let mut window = Window::default();
        for second in 1..=60 {
            window.record(at(second), if second > 54 { 10.0 } else { 0.0 }, MINUTE);
        }
        assert!((window.average(at(60), at(6)) - 10.0).abs() < 1e-9);
        assert!((window.average(at(60), MINUTE) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn seconds_nobody_measured_are_like_the_next_and_bounded() {
        let mut window = Window::default();
        window.record(at(1), 0.0, MINUTE);
        window.record(at(5), 4.0, MINUTE);
        assert!((window.average(at(5), MINUTE) - 3.2).abs() < 1e-9);
        window.record(at(1_000_000), 7.0, MINUTE);
        assert_eq!(window.seconds.len(), 60);
        assert!((window.average(at(1_000_000), MINUTE) - 7.0).abs() < 1e-9);
    }
}
