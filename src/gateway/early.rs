//! Clients that would rather not wait. `Prefer: respond-async` (RFC 7240, section 4.1) to a service that sleeps or loads is
//! answered at once with 202 and where to look how far it is. The service is woken; the request is not kept, and is sent
//! again when it is ready.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::api::ServiceKey;
use crate::plan::routes::{Hold, RouteState, RouteTable};
use crate::traffic::Waiting;
use crate::workload::ComponentKey;

use super::forward::{Exchange, Refused};
use super::hold;
use super::refusal::Refusal;
use super::worker::Worker;

/// Where it is said how a service is, on every host: `/kserve-local/status/<namespace>/<name>`. Asking wakes nothing.
pub(super) const STATUS: &str = "/kserve-local/status/";

/// Whether a client would rather not wait.
pub(super) fn prefers_async(headers: &HeaderMap) -> bool {
    let written = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut names = written.flat_map(|value| value.split(',')).filter_map(|one| one.split(';').next());
    names.any(|name| name.trim().eq_ignore_ascii_case("respond-async"))
}

impl Exchange<'_> {
    /// Wakes the service and says where to look.
    pub(super) fn answer_early<T>(&self, hold: &Hold) -> Refused<T> {
        let key = self.key();
        let Ok(waiting) = self.worker.board.wait_for(&key, self.worker.config.max_held) else {
            return Err(Box::new(hold::refusal(hold, "as many requests as may are waiting for it")));
        };
        let ServiceKey { namespace, name } = &key.service;
        let location = format!("{STATUS}{namespace}/{name}");
        let message = format!("{}; it is being woken, ask {location} and send the request again", hold.message);
        let told = Refusal::new(StatusCode::ACCEPTED, hold.reason.clone(), message).in_phase();
        let waker = ask_until_awake(Arc::clone(self.worker), key, waiting);
        self.worker.tasks.spawn_droppable("wake", waker);
        Err(Box::new(Refusal { retry_after: Some(hold.retry_after), location: Some(location), ..told }))
    }
}

/// Stands for a client that does not wait itself: until the route opens or is refused, and as long as something moves.
async fn ask_until_awake(worker: Arc<Worker>, key: ComponentKey, _waiting: Waiting) {
    let mut tables = worker.board.tables();
    let mut known: Option<Hold> = None;
    let mut until = Instant::now();
    while let Some(hold) = held(&worker.routes.load(), &key) {
        if known.as_ref() != Some(&hold) {
            until = Instant::now() + hold.patience;
            known = Some(hold);
        }
        if !matches!(tokio::time::timeout_at(until, tables.changed()).await, Ok(Ok(()))) {
            return;
        }
    }
}

fn held(table: &RouteTable, key: &ComponentKey) -> Option<Hold> {
    match &table.services.get(&key.service)?.components.get(&key.component)?.state {
        RouteState::Held(hold) => Some(hold.clone()),
        _ => None,
    }
}

/// Says how a service is; none when there is no such service. `rest` is the path behind [`STATUS`];
/// a replica that asks (`caller` is its service) learns of its own service only.
pub(super) fn status(rest: &str, caller: Option<&ServiceKey>, table: &RouteTable) -> Option<Value> {
    let (namespace, name) = rest.trim_end_matches('/').split_once('/')?;
    let key = ServiceKey::new(namespace, name);
    let service = table.services.get(&key).filter(|_| caller.is_none_or(|caller| *caller == key))?;
    let mut components = Map::new();
    let mut ready = true;
    for (kind, component) in &service.components {
        let (phase, message, retry_after) = match &component.state {
            RouteState::Open(_) => ("Ready", "", None),
            RouteState::Held(hold) => (hold.reason.as_str(), hold.message.as_str(), Some(hold.retry_after)),
            RouteState::NotReady { reason, message, retry_after } => {
                (reason.as_str(), message.as_str(), Some(*retry_after))
            }
        };
        ready &= retry_after.is_none();
        let retry_after = retry_after.map(|after| after.as_secs().max(1));
        let told = json!({ "phase": phase, "message": message, "retryAfterSeconds": retry_after });
        components.insert(kind.to_string(), told);
    }
    Some(json!({ "namespace": namespace, "name": name, "ready": ready, "components": components }))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_preference_is_found_among_others() {
        for (value, wanted) in [
            ("respond-async", true),
            ("wait=10, Respond-Async", true),
            ("respond-async; foo=1", true),
            ("return=minimal", false),
            ("respond-async-not", false),
        ] {
            let headers =
                HeaderMap::from_iter([(http::HeaderName::from_static("prefer"), HeaderValue::from_static(value))]);
            assert_eq!(prefers_async(&headers), wanted, "{value}");
        }
    }
}
