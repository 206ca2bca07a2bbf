//! Gathers what `/metrics` shows.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::api::Kind;
use crate::gateway::{LATENCY_BOUNDS, Metrics, ServiceSnapshot};
use crate::manifest::Severity;
use crate::plan::pods::PodView;
use crate::plan::routes::RouteTable;
use crate::plan::said::ENGINE_NOT_ASKED;
use crate::source::Loader;
use crate::store::Store;
use crate::telemetry::metrics::{PassMeter, PullSample, ServiceSample, render, render_passes, render_pulls};
use crate::telemetry::runtime_metrics;
use crate::traffic::{ReplicaTraffic, TrafficBoard};

use super::scrape::scrape_all;

/// Name, help, and where the number is.
type Counter = (&'static str, &'static str, fn(&ServiceSnapshot) -> u64);

/// Where the numbers are.
pub(super) struct Exposition {
    pub(super) store: Store,
    pub(super) board: TrafficBoard,
    pub(super) pods: watch::Receiver<Arc<Vec<Arc<PodView>>>>,
    pub(super) pulls: watch::Receiver<Vec<PullSample>>,
    pub(super) passes: Arc<PassMeter>,
    pub(super) loader: Loader,
    pub(super) gateway: Arc<Metrics>,
    pub(super) routes: Arc<ArcSwap<RouteTable>>,
    /// Asks replicas for their own; none when it could not be made.
    pub(super) client: Option<super::scrape::Client>,
}

impl Exposition {
    /// Returns the text of `/metrics`, with what replicas show of themselves.
    pub(super) async fn render(&self) -> String {
        let table = self.routes.load_full();
        let scraped = scrape_all(self.client.as_ref(), &table).await;
        let mut text = self.own();
        text.push_str(&runtime_metrics::merge(&scraped));
        text.push_str("# EOF\n");
        text
    }

    fn own(&self) -> String {
        let problems = self.loader.problems();
        let with_errors =
            problems.iter().filter(|file| file.diagnostics.iter().any(|d| d.severity == Severity::Error)).count();
        let services = self.services();
        let engine_down = services.iter().any(|(_, down)| *down);
        let samples: Vec<ServiceSample> = services.into_iter().map(|(sample, _)| sample).collect();
        let mut text = render(&samples, i64::try_from(with_errors).unwrap_or(i64::MAX), !engine_down);
        text.push_str(&render_pulls(&self.pulls.borrow()));
        text.push_str(&render_passes(&self.passes));
        self.gateway_families(&mut text);
        text
    }

    fn services(&self) -> Vec<(ServiceSample, bool)> {
        let pods = self.pods.borrow().clone();
        let mut pods_of: HashMap<(&str, &str), Vec<&PodView>> = HashMap::new();
        for pod in pods.iter() {
            let service = &pod.component.service;
            pods_of.entry((&service.namespace, &service.name)).or_default().push(pod);
        }
        let snapshot = self.store.snapshot();
        let leases = self.board.snapshot(|_| false);
        let sample = |stored: &Arc<crate::store::Stored>| {
            let key = &stored.object.key;
            let own = pods_of.get(&(key.namespace.as_str(), key.name.as_str())).map(Vec::as_slice).unwrap_or_default();
            let ready = stored.status.as_ref().is_some_and(|status| status.is_ready());
            let condition = stored.status.as_ref().and_then(|status| status.condition("Ready"));
            let down = condition
                .is_some_and(|condition| matches!(condition.reason.as_str(), "EngineUnavailable" | ENGINE_NOT_ASKED));
            let in_flight = leased(&leases, &key.namespace, own.iter().map(|pod| pod.name.as_str()));
            let restarts = own.iter().flat_map(|pod| &pod.containers).map(|c| i64::from(c.restarts)).sum();
            let replicas = own.iter().filter(|pod| pod.ready).count();
            let sample = ServiceSample {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                ready,
                ready_replicas: i64::try_from(replicas).unwrap_or(i64::MAX),
                in_flight: i64::try_from(in_flight).unwrap_or(i64::MAX),
                restarts,
            };
            (sample, down)
        };
        snapshot.list(Kind::InferenceService, None).map(sample).collect()
    }

    /// The gateway counts in plain numbers of its own; here they become text.
    fn gateway_families(&self, text: &mut String) {
        let snapshot = self.gateway.snapshot();
        let services: Vec<(String, &ServiceSnapshot)> = snapshot
            .services
            .iter()
            .map(|(key, numbers)| {
                let labels = format!("namespace=\"{}\",inferenceservice=\"{}\"", key.namespace, key.name);
                (labels, numbers)
            })
            .chain(std::iter::once(("namespace=\"\",inferenceservice=\"\"".to_owned(), &snapshot.unrouted)))
            .collect();
        let counters: [Counter; 5] = [
            ("upstream_connect_errors", "Connections a backend did not accept", |s| s.connect_errors),
            ("broken_answers", "Answers that ended before they were whole", |s| s.broken_answers),
            ("timeouts", "Requests that ran out of time", |s| s.timeouts),
            ("request_bytes", "Bytes of request bodies", |s| s.request_bytes),
            ("response_bytes", "Bytes of response bodies", |s| s.response_bytes),
        ];
        let gauges: [Counter; 2] = [
            ("requests_active", "Requests under way at the data plane, waiting ones included", |s| s.in_flight),
            ("requests_queued", "Requests waiting for a replica with room", |s| s.waiting),
        ];
        let mut family = |kind: &str, name: &str, help: &str, lines: String| {
            let _ = write!(text, "# HELP kserve_local_{name} {help}.\n# TYPE kserve_local_{name} {kind}\n{lines}");
        };
        let mut requests = String::new();
        for (labels, numbers) in &services {
            for (class, count) in numbers.responses.iter().enumerate() {
                let code = if class == 0 { "none".to_owned() } else { format!("{class}xx") };
                let _ = writeln!(requests, "kserve_local_requests_total{{{labels},code=\"{code}\"}} {count}");
            }
        }
        family("counter", "requests", "Requests ended, by class of status", requests);
        for (name, help, read) in counters {
            let mut lines = String::new();
            for (labels, numbers) in &services {
                let _ = writeln!(lines, "kserve_local_{name}_total{{{labels}}} {}", read(numbers));
            }
            family("counter", name, help, lines);
        }
        let mut latency = String::new();
        for (labels, numbers) in &services {
            let mut below = 0;
            for (index, count) in numbers.latency.iter().enumerate() {
                below += count;
                let bound = LATENCY_BOUNDS.get(index).map_or_else(|| "+Inf".to_owned(), f64::to_string);
                let _ = writeln!(
                    latency,
                    "kserve_local_request_duration_seconds_bucket{{{labels},le=\"{bound}\"}} {below}"
                );
            }
            let sum = numbers.latency_sum.as_secs_f64();
            let _ = writeln!(latency, "kserve_local_request_duration_seconds_sum{{{labels}}} {sum}");
            let _ = writeln!(latency, "kserve_local_request_duration_seconds_count{{{labels}}} {below}");
        }
        for (name, help, read) in gauges {
            let mut lines = String::new();
            for (labels, numbers) in &services {
                let _ = writeln!(lines, "kserve_local_{name}{{{labels}}} {}", read(numbers));
            }
            family("gauge", name, help, lines);
        }
        let [mirrored, mirrors_failed, mirrors_dropped] = snapshot.mirrors;
        let [payloads, payloads_failed, payloads_dropped] = snapshot.payloads;
        let whole: [(&str, &str, &str, u64); 11] = [
            ("counter", "mirrored_requests", "Copies of requests that were answered with success", mirrored),
            ("counter", "mirror_failures", "Copies of requests that were not", mirrors_failed),
            ("counter", "mirror_dropped", "Copies of requests that were not sent", mirrors_dropped),
            ("counter", "payload_events", "Payload events taken by their sink", payloads),
            ("counter", "payload_event_failures", "Payload events their sink did not take", payloads_failed),
            ("counter", "payload_events_dropped", "Payload events that did not fit a queue", payloads_dropped),
            ("gauge", "client_connections", "Client connections open now", snapshot.connections),
            ("counter", "upstream_connects", "Connections made to backends", snapshot.upstream_connects),
            ("counter", "replica_ejections", "Times a failing replica was taken out", snapshot.ejections),
            ("counter", "panics", "Requests that ended in an error of the daemon's own", snapshot.panics),
            (
                "counter",
                "access_log_dropped",
                "Access log lines that could not be written in time",
                snapshot.log_dropped,
            ),
        ];
        for (kind, name, help, value) in whole {
            let suffix = if kind == "counter" { "_total" } else { "" };
            family(kind, name, help, format!("kserve_local_{name}{suffix} {value}\n"));
        }
        family("histogram", "request_duration_seconds", "From the request's first byte to the answer's last", latency);
    }
}

/// Returns the requests in flight to some pods of a namespace. Replicas are named for both, as `replica_name` does.
fn leased<'p>(leases: &HashMap<Arc<str>, ReplicaTraffic>, namespace: &str, pods: impl Iterator<Item = &'p str>) -> u64 {
    pods.filter_map(|pod| leases.get(format!("{pod}.{namespace}").as_str())).map(|traffic| traffic.in_flight).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::names::replica_name;

    #[test]
    fn requests_in_flight_are_counted_for_their_own_namespace() {
        let lease = |namespace, ordinal, in_flight| {
            let traffic = ReplicaTraffic { in_flight, ..ReplicaTraffic::default() };
            (replica_name(namespace, "iris-predictor", 1, ordinal).into(), traffic)
        };
        let leases = HashMap::from([lease("default", 1, 1), lease("default", 10, 10), lease("prod", 1, 100)]);
        let pods = || ["iris-predictor-00001-1", "iris-predictor-00001-2"].into_iter();
        assert_eq!(leased(&leases, "default", pods()), 1);
        assert_eq!(leased(&leases, "prod", pods()), 100);
        assert_eq!(leased(&leases, "other", pods()), 0);
    }
}
