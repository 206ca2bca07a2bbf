//! A component's policy, from its fields and annotations (§5.3). Says in words what is written and not honoured.

use std::collections::BTreeMap;
use std::time::Duration;

use super::duration;
use super::policy::{Metric, Policy, Target};
use super::{resource, resting};
use crate::api::{ComponentSpec, meta};

/// What a policy is read from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The component.
    pub component: &'a ComponentSpec,
    /// Its field path, for notes: `spec.predictor`.
    pub path: &'a str,
    /// Annotations of its pods.
    pub annotations: &'a BTreeMap<String, String>,
    /// Its `containerConcurrency`.
    pub limit: Option<u32>,
    /// CPU its containers request together, in thousandths of a core; 0 when none does.
    pub cpu_milli: u64,
    /// Memory its containers request together, in bytes; 0 when none does.
    pub memory: u64,
}

/// Who decides the number of replicas on a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Knative's own autoscaler.
    Knative,
    /// The Horizontal Pod Autoscaler.
    Hpa,
    /// KEDA.
    Keda,
    /// Somebody else, or nobody.
    Fixed,
}

impl Class {
    fn of(annotations: &BTreeMap<String, String>) -> Self {
        let text = |name: &str| annotations.get(name).map(String::as_str);
        let class = text(meta::AUTOSCALER_CLASS);
        match text(meta::DEPLOYMENT_MODE) {
            Some("Standard" | "RawDeployment") => match class {
                Some("keda") => Self::Keda,
                Some("external" | "none") => Self::Fixed,
                _ => Self::Hpa,
            },
            _ if text(meta::KNATIVE_AUTOSCALER_CLASS) == Some("hpa.autoscaling.knative.dev") => Self::Hpa,
            _ => Self::Knative,
        }
    }
}

/// Share of a target that is aimed at (`container-concurrency-target-percentage`).
const UTILISATION: f64 = 70.0;
/// Requests in flight per replica when nothing is said.
const CONCURRENCY: f64 = 100.0;
/// Requests a second per replica when nothing is said.
const RPS: f64 = 200.0;
/// Knative's limits of a window.
const HOUR: Duration = Duration::from_secs(3600);
const SHORTEST: Duration = Duration::from_secs(6);

/// Reads a policy, and what of it is not honoured.
pub fn read(source: Source<'_>) -> (Policy, Vec<String>) {
    let mut reader = Reader { source, notes: Vec::new() };
    let component = source.component;
    let count = |value: Option<i32>| value.and_then(|value| u32::try_from(value).ok());
    let min = count(component.min_replicas).unwrap_or(1);
    let default = Policy::default();
    let policy = Policy {
        min,
        max: count(component.max_replicas).filter(|max| *max > 0).map(|max| max.max(min)),
        initial: reader.number("initial-scale", 1.0, u32::MAX.into()).map_or(1, whole),
        activation: reader.number("activation-scale", 1.0, u32::MAX.into()).map_or(1, whole),
        target: reader.target(),
        window: reader.duration("window", SHORTEST).unwrap_or(default.window),
        panic_window: reader
            .number("panic-window-percentage", 1.0, 100.0)
            .map_or(default.panic_window, |share| share / 100.0),
        panic_threshold: reader
            .number("panic-threshold-percentage", 110.0, 1000.0)
            .map_or(default.panic_threshold, |share| share / 100.0),
        scale_down_delay: reader.duration("scale-down-delay", Duration::ZERO).unwrap_or_default(),
        retention: reader.duration("scale-to-zero-pod-retention-period", Duration::ZERO).unwrap_or_default(),
        resting: resting::read(source.annotations, &mut reader.notes),
    };
    reader.note_no_limit(&policy);
    (policy, reader.notes)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within the range of its reader")]
fn whole(value: f64) -> u32 {
    value as u32
}

pub(super) struct Reader<'a> {
    pub(super) source: Source<'a>,
    notes: Vec<String>,
}

impl<'a> Reader<'a> {
    fn text(&self, name: &str) -> Option<&'a str> {
        let value = self.source.annotations.get(&format!("{}{name}", meta::AUTOSCALING_PREFIX))?;
        Some(value.trim()).filter(|value| !value.is_empty())
    }

    /// Notes that an annotation is not honoured.
    fn note(&mut self, name: &str, value: &str, wanted: &str) {
        let prefix = meta::AUTOSCALING_PREFIX;
        self.notes.push(format!("{prefix}{name}: `{value}` is not {wanted}; the default is used"));
    }

    /// Notes that a field is not honoured.
    pub(super) fn note_field(&mut self, field: &str, why: impl std::fmt::Display) {
        self.notes.push(format!("{}.{field}: {why}", self.source.path));
    }

    fn number(&mut self, name: &str, least: f64, most: f64) -> Option<f64> {
        let text = self.text(name)?;
        let value = text.parse::<f64>().ok().filter(|value| (least..=most).contains(value));
        if value.is_none() {
            self.note(name, text, &format!("a number of at least {least}"));
        }
        value
    }

    fn duration(&mut self, name: &str, least: Duration) -> Option<Duration> {
        let text = self.text(name)?;
        let value = duration::parse(text).filter(|value| (least..=HOUR).contains(value));
        if value.is_none() {
            let least = least.as_secs();
            self.note(name, text, &format!("a time from {least} s to an hour, for example `90s`"));
        }
        value
    }

    fn target(&mut self) -> Option<Target> {
        let class = Class::of(self.source.annotations);
        let written = self.source.component.scale_metric.as_deref().or_else(|| self.text("metric"));
        match (class, written) {
            (Class::Fixed, _) => None,
            (_, Some("concurrency")) | (Class::Knative, None) => Some(self.requests(Metric::Concurrency)),
            (_, Some("rps")) => Some(self.requests(Metric::Rps)),
            (Class::Hpa | Class::Keda, None | Some("cpu" | "memory")) => resource::target(self, class, written),
            (_, Some(other)) => {
                let why = format!("`{other}` is not measured here; replicas stay at minReplicas");
                self.note_field("scaleMetric", why);
                None
            }
        }
    }

    fn requests(&mut self, metric: Metric) -> Target {
        let default = if metric == Metric::Rps { RPS } else { CONCURRENCY };
        let field = self.source.component.scale_target.filter(|target| *target > 0).map(f64::from);
        let wanted = field.or_else(|| self.number("target", 0.01, f64::MAX));
        let share = self.number("target-utilization-percentage", 1.0, 100.0).unwrap_or(UTILISATION) / 100.0;
        let hard = self.source.limit.filter(|_| metric == Metric::Concurrency).map(f64::from);
        // A hard limit is never aimed above, and is what is aimed at when nothing else is said.
        let target = match (wanted, hard) {
            (Some(wanted), Some(hard)) => wanted.min(hard),
            (Some(target), None) | (None, Some(target)) => target,
            (None, None) => default,
        };
        Target { metric, per_replica: (target * share).max(0.01) }
    }

    /// Without a limit of its own a cluster adds replicas without end; one machine does not.
    fn note_no_limit(&mut self, policy: &Policy) {
        let component = self.source.component;
        let written =
            [("scaleTarget", component.scale_target.is_some()), ("scaleMetric", component.scale_metric.is_some())];
        let Some((field, _)) = written.iter().find(|(_, written)| *written) else { return };
        if policy.max.is_none() && policy.target.is_some() {
            let least = policy.least();
            let why =
                format!("no effect without maxReplicas: one machine adds no replicas without a limit, {least} run");
            self.note_field(field, why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(component: &ComponentSpec, annotations: &[(&str, &str)], limit: Option<u32>) -> (Policy, Vec<String>) {
        let full = |name: &str| match name.split_once('/') {
            Some(_) => name.to_owned(),
            None => format!("autoscaling.knative.dev/{name}"),
        };
        let annotations = annotations.iter().map(|(name, value)| (full(name), (*value).to_owned())).collect();
        let (cpu_milli, memory) = (500, 1 << 30);
        super::read(Source { component, path: "spec.predictor", annotations: &annotations, limit, cpu_milli, memory })
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
        let (policy, notes) = read(&ComponentSpec::default(), &[("window", "2s")], None);
        assert_eq!((policy.window.as_secs(), notes.len()), (60, 1), "shorter than Knative allows");
    }

    #[test]
    fn a_target_without_a_most_is_named() {
        let component = ComponentSpec { scale_target: Some(10), ..ComponentSpec::default() };
        let (policy, notes) = read(&component, &[], None);
        assert!(!policy.follows_load());
        assert!(notes[0].starts_with("spec.predictor.scaleTarget: no effect without maxReplicas"), "{notes:?}");
    }

    const STANDARD: (&str, &str) = (meta::DEPLOYMENT_MODE, "Standard");

    fn metric(metric: Option<&str>, target: Option<i32>) -> ComponentSpec {
        let scale_metric = metric.map(str::to_owned);
        ComponentSpec { max_replicas: Some(4), scale_target: target, scale_metric, ..ComponentSpec::default() }
    }

    #[test]
    fn standard_mode_follows_cpu_and_memory_as_shares_of_their_requests() {
        let target = |component: &ComponentSpec, annotations: &[(&str, &str)]| read(component, annotations, None);
        let (policy, notes) = target(&metric(None, None), &[STANDARD]);
        assert_eq!(policy.target, Some(Target { metric: Metric::Cpu, per_replica: 0.4 }), "80 % of half a core");
        assert_eq!(notes, [] as [String; 0]);
        let memory = f64::from(1 << 29);
        let (policy, _) = target(&metric(Some("memory"), Some(50)), &[STANDARD]);
        assert_eq!(policy.target, Some(Target { metric: Metric::Memory, per_replica: memory }));
        let (policy, notes) = target(&metric(Some("memory"), None), &[STANDARD]);
        assert!(policy.target.is_none() && notes[0].contains("spec.predictor.scaleMetric: memory"), "{notes:?}");
        let knative = [(meta::KNATIVE_AUTOSCALER_CLASS, "hpa.autoscaling.knative.dev")];
        let (policy, _) = target(&metric(Some("cpu"), Some(40)), &knative);
        assert_eq!(policy.target, Some(Target { metric: Metric::Cpu, per_replica: 0.2 }));
        for class in ["external", "none"] {
            let (policy, _) = target(&metric(None, None), &[STANDARD, (meta::AUTOSCALER_CLASS, class)]);
            assert_eq!(policy.target, None, "{class}");
        }
    }

    #[test]
    fn listed_metrics_win_over_the_one_field_and_what_is_not_measured_is_named() {
        let listed = |metrics: serde_json::Value| ComponentSpec {
            max_replicas: Some(4),
            auto_scaling: Some(serde_json::json!({ "metrics": metrics })),
            ..ComponentSpec::default()
        };
        let memory = serde_json::json!({"type": "Resource", "resource": {
            "name": "memory", "target": {"type": "AverageValue", "averageValue": "100Mi"}}});
        let query = serde_json::json!({"type": "External", "external": {"metric": {"query": "q"}}});
        let keda = [STANDARD, (meta::AUTOSCALER_CLASS, "keda")];
        let (policy, notes) = read(&listed(serde_json::json!([query, memory])), &keda, None);
        assert_eq!(policy.target, Some(Target { metric: Metric::Memory, per_replica: f64::from(100 << 20) }));
        assert!(notes[0].starts_with("spec.predictor.autoScaling.metrics[0]: "), "{notes:?}");
        let (policy, notes) = read(&listed(serde_json::json!([])), &keda, None);
        assert!(policy.target.is_none() && notes.is_empty(), "as on a cluster: no trigger, no scaling");
    }
}
