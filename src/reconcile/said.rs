//! Status transitions to log lines and events: one per change a person would care about.

use jiff::Timestamp;
use tracing::{info, warn};

use crate::api::{ConditionStatus, InferenceServiceStatus, ServiceKey};
use crate::telemetry::{EventLog, EventType};

/// Says what changed between two statuses of a service.
pub fn say(
    events: &EventLog,
    key: &ServiceKey,
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
    let object = key.to_object_key();
    let was_ready = old.is_some_and(|old| old.status == ConditionStatus::True);
    match ready.status {
        ConditionStatus::True => {
            info!(service = %key, url = after.url.as_deref().unwrap_or_default(), "ready");
            let message = format!("InferenceService [{}] is Ready", key.name);
            events.record(&object, EventType::Normal, "InferenceServiceReady", &message, now);
        }
        ConditionStatus::False => {
            warn!(service = %key, reason = ready.reason, message = ready.message, "not ready");
            if was_ready {
                let why: Vec<&str> = after
                    .conditions
                    .iter()
                    .filter(|c| c.status == ConditionStatus::False && c.severity.is_empty() && c.kind != "Ready")
                    .map(|c| c.kind.as_str())
                    .collect();
                let message =
                    format!("InferenceService [{}] is no longer Ready because of: {}", key.name, why.join(", "));
                events.record(&object, EventType::Warning, "InferenceServiceNotReady", &message, now);
            }
            events.record(&object, EventType::Warning, &ready.reason, &ready.message, now);
        }
        ConditionStatus::Unknown => {
            info!(service = %key, reason = ready.reason, "{}", ready.message);
            if !ready.reason.is_empty() {
                events.record(&object, EventType::Normal, &ready.reason, &ready.message, now);
            }
        }
    }
}
