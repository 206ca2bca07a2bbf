//! The text of `/metrics`: declared here, gathered when asked for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// One service at the moment of asking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSample {
    /// Namespace.
    pub namespace: String,
    /// Name of the InferenceService.
    pub name: String,
    /// Whether it is Ready.
    pub ready: bool,
    /// Replicas that answer.
    pub ready_replicas: i64,
    /// Requests in flight.
    pub in_flight: i64,
    /// Restarts of its containers.
    pub restarts: i64,
}

/// What a service waits for, at the moment of asking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullSample {
    /// Namespace.
    pub namespace: String,
    /// Name of the InferenceService.
    pub name: String,
    /// `model` or `image`.
    pub kind: &'static str,
    /// Bytes so far.
    pub done: u64,
    /// Bytes in all; 0 while unknown.
    pub total: u64,
    /// Bytes per second; 0 while unknown.
    pub rate: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Pull {
    namespace: String,
    inferenceservice: String,
    kind: &'static str,
}

/// Name, help, and where the number is.
type PullFamily = (&'static str, &'static str, fn(&PullSample) -> u64);

/// Returns the families of pulls under way in the Prometheus text format, without the closing `# EOF`.
pub fn render_pulls(pulls: &[PullSample]) -> String {
    let mut registry = Registry::with_prefix("kserve_local");
    let families: [PullFamily; 3] = [
        ("pull_done_bytes", "Bytes fetched so far of what the InferenceService waits for", |pull| pull.done),
        ("pull_size_bytes", "Bytes in all of what the InferenceService waits for, 0 while unknown", |pull| pull.total),
        ("pull_bytes_per_second", "Speed of what the InferenceService waits for", |pull| pull.rate),
    ];
    for (name, help, read) in families {
        let family = Family::<Pull, Gauge>::default();
        for pull in pulls {
            let (namespace, inferenceservice) = (pull.namespace.clone(), pull.name.clone());
            let labels = Pull { namespace, inferenceservice, kind: pull.kind };
            family.get_or_create(&labels).set(i64::try_from(read(pull)).unwrap_or(i64::MAX));
        }
        registry.register(name, help, family);
    }
    encoded(&registry)
}

/// How often everything was planned, and how long that took.
#[derive(Debug, Default)]
pub struct PassMeter {
    passes: AtomicU64,
    planning_nanos: AtomicU64,
    nanos: AtomicU64,
}

impl PassMeter {
    /// Counts a pass: the time of its planning, and all of its time.
    pub fn count(&self, planning: Duration, whole: Duration) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.passes.fetch_add(1, Ordering::Relaxed);
        self.planning_nanos.fetch_add(nanos(planning), Ordering::Relaxed);
        self.nanos.fetch_add(nanos(whole), Ordering::Relaxed);
    }
}

/// Returns the families of the control loop in the Prometheus text format, without the closing `# EOF`.
pub fn render_passes(meter: &PassMeter) -> String {
    let mut registry = Registry::with_prefix("kserve_local");
    let passes = Counter::<u64>::default();
    passes.inc_by(meter.passes.load(Ordering::Relaxed));
    registry.register("control_passes", "Passes of the control loop over all services", passes);
    let families = [
        ("control_planning_seconds", "Time spent planning", &meter.planning_nanos),
        ("control_pass_seconds", "Time spent in passes, planning included", &meter.nanos),
    ];
    for (name, help, nanos) in families {
        let seconds = Counter::<f64, AtomicU64>::default();
        seconds.inc_by(Duration::from_nanos(nanos.load(Ordering::Relaxed)).as_secs_f64());
        registry.register(name, help, seconds);
    }
    encoded(&registry)
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Service {
    namespace: String,
    inferenceservice: String,
}

/// Returns the daemon's own families in the Prometheus text format, without the closing `# EOF`.
pub fn render(services: &[ServiceSample], file_problems: i64, engine_up: bool) -> String {
    let mut registry = Registry::with_prefix("kserve_local");
    registry.register("build", "Version of the daemon", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    let gauge = |registry: &mut Registry, name: &str, help: &str, read: fn(&ServiceSample) -> i64| {
        let family = Family::<Service, Gauge>::default();
        for sample in services {
            let labels = Service { namespace: sample.namespace.clone(), inferenceservice: sample.name.clone() };
            family.get_or_create(&labels).set(read(sample));
        }
        registry.register(name, help, family);
    };
    gauge(&mut registry, "service_ready", "Whether the InferenceService is Ready", |s| i64::from(s.ready));
    gauge(&mut registry, "service_ready_replicas", "Replicas that answer", |s| s.ready_replicas);
    gauge(&mut registry, "service_requests_in_flight", "Requests in flight", |s| s.in_flight);
    gauge(&mut registry, "service_container_restarts", "Restarts of the service's containers", |s| s.restarts);
    let problems = Gauge::<i64>::default();
    problems.set(file_problems);
    registry.register("manifest_problems", "Manifest files with an error", problems);
    let engine = Gauge::<i64>::default();
    engine.set(i64::from(engine_up));
    registry.register("engine_up", "Whether the container engine answers", engine);
    encoded(&registry)
}

fn encoded(registry: &Registry) -> String {
    let mut text = String::new();
    if encode(&mut text, registry).is_err() {
        // Writing into a string does not fail; an empty answer is better than none.
        text.clear();
    }
    text.truncate(text.trim_end().trim_end_matches("# EOF").len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_names_its_service() {
        let sample =
            ServiceSample { namespace: "default".into(), name: "iris".into(), ready: true, ..Default::default() };
        let text = render(&[sample], 1, true);
        assert!(
            text.contains(r#"kserve_local_service_ready{namespace="default",inferenceservice="iris"} 1"#),
            "{text}"
        );
        assert!(text.contains("kserve_local_manifest_problems 1"));
        assert!(!text.contains("# EOF"));
    }

    #[test]
    fn passes_and_their_times_are_added_up() {
        let meter = PassMeter::default();
        meter.count(Duration::from_millis(250), Duration::from_millis(500));
        meter.count(Duration::from_millis(250), Duration::from_millis(500));
        let text = render_passes(&meter);
        assert!(text.contains("kserve_local_control_passes_total 2"), "{text}");
        assert!(text.contains("kserve_local_control_planning_seconds_total 0.5"), "{text}");
        assert!(text.contains("kserve_local_control_pass_seconds_total 1.0"), "{text}");
    }

    #[test]
    fn a_pull_names_its_service_and_what_is_fetched() {
        let (namespace, name) = ("default".to_owned(), "iris".to_owned());
        let text = render_pulls(&[PullSample { namespace, name, kind: "model", done: 5, total: 10, rate: 2 }]);
        let labels = r#"{namespace="default",inferenceservice="iris",kind="model"}"#;
        for line in ["done_bytes", "size_bytes", "bytes_per_second"].iter().zip([5, 10, 2]) {
            assert!(text.contains(&format!("kserve_local_pull_{}{labels} {}", line.0, line.1)), "{text}");
        }
    }
}
