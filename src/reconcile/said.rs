//! Status transitions to log lines and events: one per change a person would care about.

use jiff::Timestamp;
use tracing::{info, warn};

use crate::api::{ConditionStatus, InferenceServiceStatus, ObjectKey};
use crate::plan::Plan;
use crate::plan::said::ENGINE_NOT_ASKED;
use crate::store::Store;
use crate::telemetry::{EventLog, EventType};

/// Sets the statuses of a plan, which are taken out of it, and says what changed.
pub fn publish(store: &Store, events: &EventLog, plan: &mut Plan, now: Timestamp) {
    let services = std::mem::take(&mut plan.statuses).into_iter().map(|(key, status)| (key.to_object_key(), status));
    let all = services.chain(std::mem::take(&mut plan.other_statuses));
    for (before, after) in store.set_statuses(all, now) {
        if let Some(status) = &after.status {
            say(events, &after.object.key, before.status.as_ref(), status, now);
        }
    }
    store.set_kept(&plan.kept);
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
            if !ready.reason.is_empty() && ready.reason != ENGINE_NOT_ASKED {
                events.record(object, EventType::Normal, &ready.reason, &ready.message, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Condition, ServiceKey};

    /// Returns the reasons of the events of a start: what is said first, then what the engine answers.
    fn told(answer: (ConditionStatus, &str)) -> Vec<String> {
        let key = ServiceKey { namespace: "default".to_owned(), name: "iris".to_owned() }.to_object_key();
        let status = |status, reason: &str| {
            let ready =
                Condition { kind: "Ready".to_owned(), status, reason: reason.to_owned(), ..Condition::default() };
            InferenceServiceStatus { conditions: vec![ready], ..InferenceServiceStatus::default() }
        };
        let (events, now) = (EventLog::default(), Timestamp::UNIX_EPOCH);
        let (first, second) = (status(ConditionStatus::Unknown, ENGINE_NOT_ASKED), status(answer.0, answer.1));
        say(&events, &key, None, &first, now);
        say(&events, &key, Some(&first), &second, now);
        events.list().into_iter().map(|event| event.reason).collect()
    }

    #[test]
    fn a_start_tells_of_the_engine_only_when_it_is_away() {
        assert_eq!(told((ConditionStatus::True, "")), ["InferenceServiceReady"]);
        assert_eq!(told((ConditionStatus::False, "EngineUnavailable")), ["EngineUnavailable"]);
    }
}
