//! Requests to a service that sleeps or loads wait here: bounded, as long as there is progress, and until the route opens
//! or is refused. That somebody waits is what wakes the service.
//!
//! Health checks and scrapes never wait: they are told that the service sleeps, and wake nothing.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, header};
use tokio::time::Instant;

use crate::plan::routes::{Hold, RouteState, ServiceRoute};

use super::forward::{Exchange, Refused};
use super::refusal::Refusal;

/// Tells clients where the service was that they asked for.
pub(crate) const PHASE_HEADER: &str = "x-kserve-local-phase";

impl Exchange<'_> {
    /// Waits while the component's route is held. Returns the service as it is then, and whether there was a wait.
    pub(super) async fn awake(&self, service: Arc<ServiceRoute>) -> Refused<(Arc<ServiceRoute>, bool)> {
        match self.held_in(&service) {
            None => Ok((service, false)),
            Some(hold) if self.check => Err(Box::new(refusal(hold, "health checks do not wait for it"))),
            Some(hold) if self.rather_not_wait => self.answer_early(hold),
            Some(hold) => {
                // Where it was found counts; where it went meanwhile does not. Said before the wait begins, which may
                // wake the service sooner than it is looked at again.
                if let (None, Ok(phase)) = (self.held.get(), HeaderValue::from_str(&hold.reason)) {
                    let _ = self.held.set(phase);
                }
                Ok((self.hold().await?, true))
            }
        }
    }

    async fn hold(&self) -> Refused<Arc<ServiceRoute>> {
        let board = &self.worker.board;
        // Before the table is read: a table that comes after is not missed.
        let mut tables = board.tables();
        let waiting = board.wait_for(&self.key(), self.worker.config.max_held);
        let mut known: Option<Hold> = None;
        let mut until = Instant::now();
        loop {
            let service = self.service()?;
            let Some(hold) = self.held_in(&service) else { return Ok(service) };
            if waiting.is_err() {
                return Err(Box::new(refusal(hold, "as many requests as may are waiting for it")));
            }
            if known.as_ref() != Some(hold) {
                // Something moved, and what moves may take its time.
                until = Instant::now() + hold.patience;
                known = Some(hold.clone());
            }
            let changed = tokio::time::timeout_at(until, tables.changed()).await;
            if !matches!(changed, Ok(Ok(()))) {
                let why = format!("nothing has moved for {} s", hold.patience.as_secs());
                return Err(Box::new(refusal(hold, &why)));
            }
        }
    }

    pub(super) fn held_in<'s>(&self, service: &'s ServiceRoute) -> Option<&'s Hold> {
        match self.target.state(service) {
            Some(RouteState::Held(hold)) => Some(hold),
            _ => None,
        }
    }
}

/// What a request is told that does not wait, or no longer.
pub(super) fn refusal(hold: &Hold, why: &str) -> Refusal {
    Refusal::unavailable(hold.reason.clone(), format!("{}; {why}", hold.message), hold.retry_after).in_phase()
}

/// Whether a request only asks how a service is. `path` is the one that is forwarded, `grpc` says what it is spoken in.
pub(crate) fn is_check<B>(request: &Request<B>, path: &str, grpc: bool) -> bool {
    if grpc {
        let methods = ["ServerLive", "ServerReady", "ModelReady"];
        let inference = path.strip_prefix("/inference.GRPCInferenceService/");
        return path.starts_with("/grpc.health.v1.Health/") || inference.is_some_and(|call| methods.contains(&call));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return false;
    }
    let agent = request.headers().get(header::USER_AGENT).map_or(&b""[..], |agent| agent.as_bytes());
    if agent.starts_with(b"kube-probe/") || agent.starts_with(b"Prometheus/") {
        return true;
    }
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    matches!(
        parts.as_slice(),
        ["" | "metrics" | "health" | "healthz" | "readyz" | "livez" | "ping"]
            | ["v2", "health", ..]
            | ["v2", "models", .., "ready"]
            | ["v1", "models", _]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_questions_after_health_are_checks() {
        let table = [
            ("GET", "/", true),
            ("HEAD", "/", true),
            ("POST", "/", false),
            ("GET", "/metrics", true),
            ("GET", "/v2/health/ready", true),
            ("GET", "/v2/models/iris/ready", true),
            ("GET", "/v2/models/iris/versions/1/ready", true),
            ("GET", "/v2/models/iris", false),
            ("GET", "/v1/models/iris", true),
            ("POST", "/v1/models/iris:predict", false),
            ("GET", "/v1/models", false),
            ("GET", "/anything", false),
        ];
        for (method, path, wanted) in table {
            let request = Request::builder().method(method).body(()).unwrap();
            assert_eq!(is_check(&request, path, false), wanted, "{method} {path}");
        }
        let probe = Request::builder().header("user-agent", "kube-probe/1.31").body(()).unwrap();
        assert!(is_check(&probe, "/anything", false));
        let call = Request::builder().method("POST").body(()).unwrap();
        for (path, wanted) in [
            ("/grpc.health.v1.Health/Check", true),
            ("/inference.GRPCInferenceService/ModelReady", true),
            ("/inference.GRPCInferenceService/ModelInfer", false),
        ] {
            assert_eq!(is_check(&call, path, true), wanted, "{path}");
        }
    }
}
