//! Events in the shape of Kubernetes' `v1` Events.

use serde_json::{Value, json};

use super::pods::whole_seconds;
use super::views::derived_uid;
use crate::api::meta;
use crate::store::Snapshot;
use crate::telemetry::Event;

/// Returns an event as the API shows it. Events about cluster-scoped objects live in `default`, as upstream's do.
pub fn to_value(event: &Event, snapshot: &Snapshot) -> Value {
    let key = &event.object;
    let namespace = if key.namespace.is_empty() { meta::DEFAULT_NAMESPACE } else { &key.namespace };
    let mut involved = json!({"kind": key.kind.as_str(), "namespace": key.namespace, "name": key.name});
    involved["apiVersion"] = json!(key.kind.api_version());
    if let Some(stored) = snapshot.get(key) {
        involved["uid"] = json!(stored.object.meta.uid);
    }
    json!({
        "kind": "Event",
        "apiVersion": "v1",
        "metadata": {
            "name": event.name,
            "namespace": namespace,
            "uid": derived_uid(&["Event", &event.name, &event.first.to_string()]),
            "creationTimestamp": whole_seconds(event.first),
        },
        "involvedObject": involved,
        "reason": event.reason,
        "message": event.message,
        "source": {"component": "kserve-local"},
        "firstTimestamp": whole_seconds(event.first),
        "lastTimestamp": whole_seconds(event.last),
        "count": event.count,
        "type": event.event_type,
        "reportingComponent": "kserve-local",
        "reportingInstance": "",
    })
}
