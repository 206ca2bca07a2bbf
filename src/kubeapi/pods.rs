//! Replicas in the shape of Kubernetes' Pods.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::views::{self, NODE, derived_uid};
use crate::api::{Kind, meta};
use crate::plan::pods::{ContainerView, ContainerViewState, PodView};
use crate::store::Snapshot;
use crate::workload::names;

/// Annotation with the word of the STATUS column.
pub const STATUS_ANNOTATION: &str = "kserve-local/status";
/// Annotation that tells `kubectl logs` which container is meant.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Returns a replica as a Pod.
pub fn to_value(pod: &PodView, snapshot: &Snapshot) -> Value {
    let service = &pod.component.service;
    let serving = pod.containers.first().map(|container| container.name.as_str()).unwrap_or_default();
    let owner = snapshot.get(&service.to_object_key());
    let owner = owner.or_else(|| snapshot.get(&service.to_key_of(Kind::LlmInferenceService)));
    let mut metadata = json!({
        "name": pod.name,
        "namespace": service.namespace,
        "uid": derived_uid(&["Pod", owner.map_or("", |owner| &owner.object.meta.uid), &pod.name]),
        "labels": {
            "app": format!("isvc.{}", pod.service_name),
            meta::COMPONENT_LABEL: pod.component.component.as_str(),
            meta::INFERENCE_SERVICE_LABEL: service.name,
            "kserve-local/revision": pod.revision.to_string(),
        },
        "annotations": {DEFAULT_CONTAINER: serving, STATUS_ANNOTATION: pod.status},
    });
    if let Some(owner) = owner {
        let set = names::revision_name(&pod.service_name, pod.revision);
        metadata["ownerReferences"] = views::owned_by("apps/v1", "ReplicaSet", &set, &owner.object.meta.uid);
    }
    let written = owner.map(|owner| &*owner.object.meta.labels);
    for (key, value) in written.into_iter().flatten() {
        if metadata["labels"].get(key).is_none() {
            metadata["labels"][key] = json!(value);
        }
    }
    let created = pod.created_at.or_else(|| owner.and_then(|owner| owner.object.meta.creation_timestamp));
    if let Some(created) = created {
        metadata["creationTimestamp"] = json!(whole_seconds(created));
    }
    let (init, running): (Vec<_>, Vec<_>) = pod.containers.iter().partition(|container| container.init);
    let mut spec = Map::new();
    let mut status = Map::new();
    spec.insert("containers".to_owned(), running.iter().map(|container| container_spec(container)).collect());
    spec.insert("securityContext".to_owned(), json!({}));
    for (field, value) in [("nodeName", NODE), ("restartPolicy", "Always"), ("dnsPolicy", "Default")] {
        spec.insert(field.to_owned(), json!(value));
    }
    status.insert("hostIP".to_owned(), json!("127.0.0.1"));
    status.insert("qosClass".to_owned(), json!("BestEffort"));
    status.insert("phase".to_owned(), json!(pod.phase));
    status.insert("conditions".to_owned(), conditions(pod));
    if let Some(address) = &pod.address {
        status.insert("podIP".to_owned(), json!(address));
        status.insert("podIPs".to_owned(), json!([{"ip": address}]));
    }
    if let Some(created) = pod.created_at {
        status.insert("startTime".to_owned(), json!(whole_seconds(created)));
    }
    status
        .insert("containerStatuses".to_owned(), running.iter().map(|container| container_status(container)).collect());
    if !init.is_empty() {
        spec.insert("initContainers".to_owned(), init.iter().map(|container| container_spec(container)).collect());
        let statuses = init.iter().map(|container| container_status(container)).collect();
        status.insert("initContainerStatuses".to_owned(), statuses);
    }
    json!({"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": spec, "status": status})
}

fn conditions(pod: &PodView) -> Value {
    let condition = |kind: &str, so: bool| json!({"type": kind, "status": if so { "True" } else { "False" }});
    json!([condition("Ready", pod.ready), condition("ContainersReady", pod.ready), condition("PodScheduled", true)])
}

fn container_spec(container: &ContainerView) -> Value {
    json!({"name": container.name, "image": container.image, "resources": {}})
}

fn container_status(container: &ContainerView) -> Value {
    let mut status = json!({
        "name": container.name,
        "image": container.image,
        "imageID": "",
        "ready": container.ready,
        "started": matches!(container.state, ContainerViewState::Running { .. }),
        "restartCount": container.restarts,
        "state": state(&container.state),
    });
    if let Some(id) = &container.id {
        status["containerID"] = json!(format!("docker://{id}"));
    }
    status
}

fn state(state: &ContainerViewState) -> Value {
    match state {
        ContainerViewState::Waiting { reason, message } if message.is_empty() => json!({"waiting": {"reason": reason}}),
        ContainerViewState::Waiting { reason, message } => json!({"waiting": {"reason": reason, "message": message}}),
        ContainerViewState::Running { started_at } => {
            json!({"running": started_at.map_or_else(|| json!({}), |at| json!({"startedAt": whole_seconds(at)}))})
        }
        ContainerViewState::Terminated { exit_code, reason, finished_at } => {
            let mut terminated = json!({"exitCode": exit_code, "reason": reason});
            if let Some(at) = finished_at {
                terminated["finishedAt"] = json!(whole_seconds(*at));
            }
            json!({"terminated": terminated})
        }
    }
}

/// Returns a time as the Kubernetes API writes it: UTC, whole seconds.
pub fn whole_seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}
