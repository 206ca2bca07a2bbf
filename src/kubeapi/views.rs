//! Deployments, ReplicaSets, Services and the one Node, in the shape clients expect them: read off the InferenceServices
//! and what runs for them. Nothing is made of them; they are for looking at.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::discovery;
use super::pods::whole_seconds;
use crate::api::{ComponentKind, Kind, meta};
use crate::plan::pods::PodView;
use crate::store::{Snapshot, Stored};
use crate::workload::names;

pub use crate::api::meta::NODE;

/// Where `kubectl rollout history` looks for the number of a revision.
const REVISION: &str = "deployment.kubernetes.io/revision";

/// Returns the reference to a view that owns another; `service` is the uid both are derived from.
pub fn owned_by(api_version: &str, kind: &str, name: &str, service: &str) -> Value {
    json!([{
        "apiVersion": api_version, "kind": kind, "name": name, "uid": derived_uid(&[kind, service, name]),
        "controller": true, "blockOwnerDeletion": true,
    }])
}

/// One component of an InferenceService, and its replicas.
struct Part<'a> {
    owner: &'a Stored,
    component: ComponentKind,
    name: String,
}

fn parts(snapshot: &Snapshot) -> Vec<Part<'_>> {
    let services = snapshot.list(Kind::InferenceService, None);
    let parts = services.filter_map(|owner| owner.object.as_inference_service().map(|spec| (owner, spec)));
    parts
        .flat_map(|(owner, spec)| {
            let canaries = spec.canary.iter().map(|canary| (ComponentKind::Predictor, &canary.predictor));
            spec.components().chain(canaries).map(|(component, written)| Part {
                owner,
                component,
                name: names::component_service_name(&owner.object.key.name, component, written.name.as_deref()),
            })
        })
        .collect()
}

impl Part<'_> {
    fn labels(&self) -> Value {
        json!({
            "app": format!("isvc.{}", self.name),
            meta::COMPONENT_LABEL: self.component.as_str(),
            meta::INFERENCE_SERVICE_LABEL: self.owner.object.key.name,
        })
    }

    fn selector(&self) -> Value {
        json!({"app": format!("isvc.{}", self.name)})
    }

    fn metadata(&self, kind: &str, name: &str) -> Value {
        let owner = &self.owner.object;
        let mut metadata = json!({
            "name": name,
            "namespace": owner.key.namespace,
            "uid": derived_uid(&[kind, &owner.meta.uid, name]),
            "generation": owner.meta.generation,
            "labels": self.labels(),
            "ownerReferences": [{
                "apiVersion": owner.key.kind.api_version(), "kind": owner.key.kind.as_str(),
                "name": owner.key.name, "uid": owner.meta.uid, "controller": true, "blockOwnerDeletion": true,
            }],
        });
        if let Some(created) = owner.meta.creation_timestamp {
            metadata["creationTimestamp"] = json!(whole_seconds(created));
        }
        metadata
    }

    fn template(&self, pods: &[&PodView]) -> Value {
        let containers = pods.first().map(|pod| {
            let running = pod.containers.iter().filter(|container| !container.init);
            running
                .map(|container| json!({"name": container.name, "image": container.image, "resources": {}}))
                .collect()
        });
        let containers: Vec<Value> = containers.unwrap_or_default();
        json!({"metadata": {"labels": self.labels()}, "spec": {"containers": containers}})
    }

    fn pods<'p>(&self, pods: &'p [Arc<PodView>]) -> Vec<&'p PodView> {
        let own = |pod: &&PodView| {
            pod.service_name == self.name && pod.component.service.namespace == self.owner.object.key.namespace
        };
        pods.iter().map(|pod| &**pod).filter(own).collect()
    }
}

/// Returns a Deployment for each component and named canary.
pub fn deployments(snapshot: &Snapshot, pods: &[Arc<PodView>]) -> Vec<Value> {
    parts(snapshot).iter().map(|part| deployment(part, &part.pods(pods))).collect()
}

fn deployment(part: &Part<'_>, pods: &[&PodView]) -> Value {
    let (all, ready) = (pods.len(), ready(pods));
    let newest = pods.iter().map(|pod| pod.revision).max();
    let updated = pods.iter().filter(|pod| Some(pod.revision) == newest).count();
    let condition = |kind: &str, so: bool, reason: &str| json!({"type": kind, "status": if so { "True" } else { "False" }, "reason": reason});
    let mut metadata = part.metadata("Deployment", &part.name);
    if let Some(newest) = newest {
        metadata["annotations"] = json!({REVISION: newest.to_string()});
    }
    json!({
        "kind": "Deployment", "apiVersion": "apps/v1",
        "metadata": metadata,
        "spec": {
            "replicas": all,
            "selector": {"matchLabels": part.selector()},
            "template": part.template(pods),
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
        },
        "status": {
            "observedGeneration": part.owner.object.meta.generation,
            "replicas": all, "updatedReplicas": updated, "readyReplicas": ready, "availableReplicas": ready,
            "unavailableReplicas": all - ready,
            "conditions": [
                condition("Available", ready == all, "MinimumReplicasAvailable"),
                condition("Progressing", true, "NewReplicaSetAvailable"),
            ],
        },
    })
}

/// Returns a ReplicaSet for each revision that has replicas.
pub fn replica_sets(snapshot: &Snapshot, pods: &[Arc<PodView>]) -> Vec<Value> {
    let mut sets = Vec::new();
    for part in parts(snapshot) {
        let mut revisions: BTreeMap<u32, Vec<&PodView>> = BTreeMap::new();
        for pod in part.pods(pods) {
            revisions.entry(pod.revision).or_default().push(pod);
        }
        for (revision, pods) in revisions {
            let name = names::revision_name(&part.name, revision);
            let (all, ready) = (pods.len(), ready(&pods));
            let mut metadata = part.metadata("ReplicaSet", &name);
            metadata["ownerReferences"] = owned_by("apps/v1", "Deployment", &part.name, &part.owner.object.meta.uid);
            metadata["annotations"] = json!({REVISION: revision.to_string()});
            sets.push(json!({
                "kind": "ReplicaSet", "apiVersion": "apps/v1",
                "metadata": metadata,
                "spec": {
                    "replicas": all, "selector": {"matchLabels": part.selector()}, "template": part.template(&pods),
                },
                "status": {"replicas": all, "readyReplicas": ready, "availableReplicas": ready},
            }));
        }
    }
    sets
}

/// Returns a Service for each component.
pub fn services(snapshot: &Snapshot) -> Vec<Value> {
    let service = |part: Part<'_>| {
        json!({
            "kind": "Service", "apiVersion": "v1",
            "metadata": part.metadata("Service", &part.name),
            "spec": {
                "type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"], "selector": part.selector(),
                "ports": [{
                    "name": "http", "protocol": "TCP", "port": 80, "targetPort": meta::DEFAULT_CONTAINER_PORT,
                }],
            },
            "status": {"loadBalancer": {}},
        })
    };
    parts(snapshot).into_iter().map(service).collect()
}

/// Returns this machine as a Node.
pub fn node(born: Timestamp) -> Value {
    let born = whole_seconds(born);
    json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {
            "name": NODE, "uid": derived_uid(&["Node", NODE]), "creationTimestamp": born,
            "labels": {"kubernetes.io/hostname": NODE, "kubernetes.io/os": std::env::consts::OS},
        },
        "spec": {},
        "status": {
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "DaemonReady", "message": "kserve-local is running",
                "lastHeartbeatTime": born, "lastTransitionTime": born,
            }],
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": NODE}],
            "nodeInfo": {
                "kubeletVersion": discovery::kubernetes_version(), "operatingSystem": std::env::consts::OS,
                "architecture": discovery::platform_architecture(), "containerRuntimeVersion": "",
                "kernelVersion": "", "osImage": "", "machineID": "", "systemUUID": "", "bootID": "",
                "kubeProxyVersion": "",
            },
        },
    })
}

fn ready(pods: &[&PodView]) -> usize {
    pods.iter().filter(|pod| pod.ready).count()
}

/// Returns a uid that is the same for the same words.
pub fn derived_uid(words: &[&str]) -> String {
    let digest = Sha256::digest(words.join("\n"));
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}
