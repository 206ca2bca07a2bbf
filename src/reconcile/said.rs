//! Status transitions to log lines and events: one per change a person would care about.

use std::collections::HashMap;

use jiff::Timestamp;
use tracing::{info, warn};

use crate::api::{ConditionStatus, InferenceServiceStatus, ObjectKey};
use crate::plan::Plan;
use crate::store::Store;
use crate::telemetry::{EventLog, EventType};

/// Sets the statuses of a plan, and says what changed.
pub fn publish(store: &Store, events: &EventLog, plan: &Plan, now: Timestamp) {
    let services = plan.statuses.iter().map(|(key, status)| (key.to_object_key(), status));
    let all: Vec<_> = services.chain(plan.other_statuses.iter().map(|(key, status)| (key.clone(), status))).collect();
    let changed = store.set_statuses(all.iter().map(|(key, status)| (key.clone(), (*status).clone())), now);
    store.set_kept(&plan.kept);
    let mut before: HashMap<_, _> = changed.into_iter().collect();
    for (key, status) in all {
        if let Some(before) = before.remove(&key) {
            say(events, &key, before.as_ref(), status, now);
        }
    }
}

/// Says what changed between two statuses of an object.
fn say(
    events: &EventLog,
    key: &ObjectKey,
    before: Option<&InferenceServiceStatus>,
    after: &InferenceServiceStatus,
    now: Timestamp,
) {
    let Some(ready) = after.condition("Ready") else { return };
    let old = before.and_then(|status| status.condition("Ready"));
    let same = old.is_some_and(|old| old.status == ready.status && old.reason == ready.reason);
    if same {
        return;
    }
    let (object, kind) = (key, key.kind);
    let name = format!("{}/{}", key.namespace, key.name);
    let was_ready = old.is_some_and(|old| old.status == ConditionStatus::True);
    match ready.status {
        ConditionStatus::True => {
            info!(%kind, service = name, url = after.url.as_deref().unwrap_or_default(), "ready");
            let message = format!("{kind} [{}] is Ready", key.name);
            events.record(object, EventType::Normal, &format!("{kind}Ready"), &message, now);
        }
        ConditionStatus::False => {
            warn!(%kind, service = name, reason = ready.reason, message = ready.message, "not ready");
            if was_ready {
                let why: Vec<&str> = after
                    .conditions
                    .iter()
                    .filter(|c| c.status == ConditionStatus::False && c.severity.is_empty() && c.kind != "Ready")
                    .map(|c| c.kind.as_str())
                    .collect();
                let message = format!("{kind} [{}] is no longer Ready because of: {}", key.name, why.join(", "));
                events.record(object, EventType::Warning, &format!("{kind}NotReady"), &message, now);
            }
            events.record(object, EventType::Warning, &ready.reason, &ready.message, now);
        }
        ConditionStatus::Unknown => {
            info!(%kind, service = name, reason = ready.reason, "{}", ready.message);
            if !ready.reason.is_empty() {
                events.record(object, EventType::Normal, &ready.reason, &ready.message, now);
            }
        }
    }
}
