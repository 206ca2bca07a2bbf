//! Fewest and most replicas, the target and the windows, from a component's fields and annotations.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::api::{ComponentSpec, meta};

/// How a component scales.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Fewest replicas (`minReplicas`); 0 allows sleep.
    pub min: u32,
    /// Most replicas (`maxReplicas`); none when it says nothing or 0.
    pub max: Option<u32>,
    /// Replicas a new revision starts with (`autoscaling.knative.dev/initial-scale`).
    pub initial: u32,
    /// What is kept at its target by more or fewer replicas; none when no metric that is measured here is asked for.
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
}

/// What is measured, and how much of it one replica should have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// What is measured.
    pub metric: Metric,
    /// Per replica, utilisation already applied.
    pub per_replica: f64,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Requests in flight.
    Concurrency,
    /// Requests a second.
    Rps,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            min: 1,
            max: None,
            initial: 1,
            target: Some(Target { metric: Metric::Concurrency, per_replica: 70.0 }),
            window: Duration::from_secs(60),
            panic_window: 0.10,
            panic_threshold: 2.0,
            scale_down_delay: Duration::ZERO,
            retention: Duration::ZERO,
        }
    }
}

/// Share of a target that is aimed at (`container-concurrency-target-percentage`).
const UTILISATION: f64 = 70.0;
/// Requests in flight per replica when nothing is said.
const CONCURRENCY: f64 = 100.0;
/// Requests a second per replica when nothing is said.
const RPS: f64 = 200.0;

impl Policy {
    /// Whether it may have no replica at all.
    pub fn sleeps(&self) -> bool {
        self.min == 0
    }

    /// Whether the number of replicas follows requests.
    pub fn follows_load(&self) -> bool {
        self.target.is_some() && self.max.is_some_and(|max| max > self.min.max(1))
    }

    /// Reads a component's policy. `annotations` are those of its pods; `limit` is its `containerConcurrency`. Says in
    /// words what is written and not honoured.
    pub fn read(
        component: &ComponentSpec,
        annotations: &BTreeMap<String, String>,
        limit: Option<u32>,
    ) -> (Self, Vec<String>) {
        let mut notes = Vec::new();
        let mut reader = Reader { annotations, notes: &mut notes };
        let count = |value: Option<i32>| value.and_then(|value| u32::try_from(value).ok());
        let min = count(component.min_replicas).unwrap_or(1);
        let max = count(component.max_replicas).filter(|max| *max > 0).map(|max| max.max(min));
        let default = Self::default();
        let policy = Self {
            min,
            max,
            initial: reader.number("initial-scale", 1.0, u32::MAX.into()).map_or(1, whole),
            target: reader.target(component, limit),
            window: reader.duration("window", HOUR).filter(|window| *window >= SHORTEST).unwrap_or(default.window),
            panic_window: reader
                .number("panic-window-percentage", 1.0, 100.0)
                .map_or(default.panic_window, |share| share / 100.0),
            panic_threshold: reader
                .number("panic-threshold-percentage", 110.0, 1000.0)
                .map_or(default.panic_threshold, |share| share / 100.0),
            scale_down_delay: reader.duration("scale-down-delay", HOUR).unwrap_or_default(),
            retention: reader.duration("scale-to-zero-pod-retention-period", HOUR).unwrap_or_default(),
        };
        (policy, notes)
    }
}

/// Knative's limits of a window.
const HOUR: Duration = Duration::from_secs(3600);
const SHORTEST: Duration = Duration::from_secs(6);

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within the range of its reader")]
fn whole(value: f64) -> u32 {
    value as u32
}

struct Reader<'a> {
    annotations: &'a BTreeMap<String, String>,
    notes: &'a mut Vec<String>,
}

impl<'a> Reader<'a> {
    fn text(&self, name: &str) -> Option<&'a str> {
        let value = self.annotations.get(&format!("{}{name}", meta::AUTOSCALING_PREFIX))?;
        Some(value.trim()).filter(|value| !value.is_empty())
    }

    fn note(&mut self, name: &str, value: &str, wanted: &str) {
        let prefix = meta::AUTOSCALING_PREFIX;
        self.notes.push(format!("{prefix}{name}: `{value}` is not {wanted}; the default is used"));
    }

    fn number(&mut self, name: &str, least: f64, most: f64) -> Option<f64> {
        let text = self.text(name)?;
        let value = text.parse::<f64>().ok().filter(|value| (least..=most).contains(value));
        if value.is_none() {
            self.note(name, text, &format!("a number of at least {least}"));
        }
        value
    }

    fn duration(&mut self, name: &str, most: Duration) -> Option<Duration> {
        let text = self.text(name)?;
        let value = duration(text).filter(|value| *value <= most);
        if value.is_none() {
            self.note(name, text, "a time of at most an hour, for example `90s`");
        }
        value
    }

    fn target(&mut self, component: &ComponentSpec, limit: Option<u32>) -> Option<Target> {
        let written = component.scale_metric.as_deref().or_else(|| self.text("metric"));
        let metric = match written {
            None | Some("concurrency") => Metric::Concurrency,
            Some("rps") => Metric::Rps,
            // Said by whoever warns of what is not served; the replicas stay at their fewest.
            Some(_) => return None,
        };
        let default = if metric == Metric::Rps { RPS } else { CONCURRENCY };
        let field = component.scale_target.filter(|target| *target > 0).map(f64::from);
        let wanted = field.or_else(|| self.number("target", 0.01, f64::MAX));
        let share = self.number("target-utilization-percentage", 1.0, 100.0).unwrap_or(UTILISATION) / 100.0;
        let hard = limit.filter(|_| metric == Metric::Concurrency).map(f64::from);
        // A hard limit is never aimed above, and is what is aimed at when nothing else is said.
        let target = match (wanted, hard) {
            (Some(wanted), Some(hard)) => wanted.min(hard),
            (Some(target), None) | (None, Some(target)) => target,
            (None, None) => default,
        };
        // As in Knative, a target that was written for rps is an average; of concurrency it is a share of the limit.
        Some(Target { metric, per_replica: (target * share).max(0.01) })
    }
}

/// Reads a duration as Go writes it: `90s`, `1m30s`, `1.5h`, `250ms`, `0`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += value
            * match &rest[..unit] {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(total).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(component: &ComponentSpec, annotations: &[(&str, &str)], limit: Option<u32>) -> (Policy, Vec<String>) {
        let annotations =
            annotations.iter().map(|(name, value)| (format!("autoscaling.knative.dev/{name}"), (*value).to_owned()));
        Policy::read(component, &annotations.collect(), limit)
    }

    #[test]
    fn nothing_written_means_one_replica_and_knatives_defaults() {
        let (policy, notes) = read(&ComponentSpec::default(), &[], None);
        assert_eq!((policy, notes.len()), (Policy::default(), 0));
    }

    #[test]
    fn fields_win_over_annotations_and_min_and_max_annotations_are_not_heard() {
        let component = ComponentSpec {
            min_replicas: Some(0),
            max_replicas: Some(3),
            scale_target: Some(10),
            scale_metric: Some("rps".to_owned()),
            ..ComponentSpec::default()
        };
        let annotations = [("target", "5"), ("metric", "concurrency"), ("min-scale", "4"), ("max-scale", "9")];
        let (policy, notes) = read(&component, &annotations, None);
        assert_eq!((policy.min, policy.max), (0, Some(3)));
        assert_eq!(policy.target, Some(Target { metric: Metric::Rps, per_replica: 7.0 }));
        assert!(policy.sleeps() && policy.follows_load() && notes.is_empty());
    }

    #[test]
    fn the_target_is_never_above_the_hard_limit() {
        let per_replica = |target: Option<i32>, limit| {
            let component = ComponentSpec { scale_target: target, ..ComponentSpec::default() };
            read(&component, &[], limit).0.target.unwrap().per_replica
        };
        assert!((per_replica(None, None) - 70.0).abs() < 1e-9);
        assert!((per_replica(None, Some(10)) - 7.0).abs() < 1e-9);
        assert!((per_replica(Some(20), Some(10)) - 7.0).abs() < 1e-9);
        assert!((per_replica(Some(5), Some(10)) - 3.5).abs() < 1e-9);
    }

    #[test]
    fn a_value_that_means_nothing_is_named_and_left_out() {
        let annotations = [("window", "soon"), ("initial-scale", "0"), ("scale-down-delay", "2m")];
        let (policy, notes) = read(&ComponentSpec::default(), &annotations, None);
        assert_eq!((policy.window.as_secs(), policy.initial, policy.scale_down_delay.as_secs()), (60, 1, 120));
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(notes.iter().any(|note| note.contains("autoscaling.knative.dev/window: `soon`")), "{notes:?}");
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, millis) in [("90s", 90_000), ("1m30s", 90_000), ("1.5h", 5_400_000), ("250ms", 250), ("0", 0)] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "1d", "-3s", "1m 30s"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
