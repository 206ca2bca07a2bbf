//! Lists as `Table`s: the columns `kubectl get` prints (KServe's printer columns, §8.4, and Kubernetes' own).

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age::age;
use super::pods::STATUS_ANNOTATION;
use super::query::IncludeObject;
use super::resource::Resource;
use crate::api::{InferenceServiceStatus, Kind, meta};
use crate::diagnosis::{Evidence, Subject, diagnose};

/// Returns whether the caller prefers a Table, from its `Accept` header.
pub fn is_wanted(accept: &str) -> bool {
    let first = accept.split(',').map(str::trim).find(|clause| {
        let plain = !clause.contains("as=");
        clause.starts_with("application/json") && (plain || clause.contains("as=Table"))
    });
    first.is_some_and(|clause| clause.contains("as=Table"))
}

/// How a Table is to be made.
#[derive(Clone, Copy, Debug)]
pub struct TableOptions {
    /// What the rows carry beside their cells.
    pub include: IncludeObject,
    /// For the ages.
    pub now: Timestamp,
}

/// Returns objects as a Table.
pub fn table(resource: Resource, objects: &[Arc<Value>], version: &str, options: TableOptions) -> Value {
    let definitions: Vec<Value> = columns(resource).iter().map(Column::definition).collect();
    let rows: Vec<Value> = objects.iter().map(|object| row(resource, object, options)).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": version},
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

fn row(resource: Resource, object: &Value, options: TableOptions) -> Value {
    let mut row = json!({"cells": cells(resource, object, options.now)});
    match options.include {
        IncludeObject::None => {}
        IncludeObject::Object => row["object"] = object.clone(),
        IncludeObject::Metadata => {
            row["object"] = json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
            });
        }
    }
    row
}

struct Column {
    name: &'static str,
    kind: &'static str,
    description: &'static str,
    wide: bool,
}

const fn column(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column { name, kind, description, wide: false }
}

const fn wide(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column { name, kind, description, wide: true }
}

impl Column {
    fn definition(&self) -> Value {
        json!({
            "name": self.name,
            "type": self.kind,
            "format": if self.name == "Name" { "name" } else { "" },
            "description": self.description,
            "priority": i32::from(self.wide),
        })
    }
}

const NAME: Column = column("Name", "string", "Name of the object");
const AGE: Column = column("Age", "date", "Time since the object was first seen");

fn columns(resource: Resource) -> &'static [Column] {
    match resource {
        Resource::Object(Kind::InferenceService) => {
            const {
                &[
                    NAME,
                    column("URL", "string", "Address from outside"),
                    column("Ready", "string", "Whether it answers"),
                    column("Prev", "integer", "Percent of traffic to the previous revision"),
                    column("Latest", "integer", "Percent of traffic to the latest revision"),
                    column("PrevRolledoutRevision", "string", "Previous revision"),
                    column("LatestReadyRevision", "string", "Latest ready revision"),
                    AGE,
                    wide("Why", "string", "What keeps it from being ready"),
                ]
            }
        }
        Resource::Object(Kind::ServingRuntime | Kind::ClusterServingRuntime) => {
            const {
                &[
                    NAME,
                    column("Disabled", "boolean", "Whether it is never chosen"),
                    column("ModelType", "string", "First format it serves"),
                    column("Containers", "string", "First container"),
                    AGE,
                ]
            }
        }
        Resource::Object(Kind::LlmInferenceService) => {
            const {
                &[
                    NAME,
                    column("URL", "string", "Address"),
                    column("Ready", "string", "Whether it answers"),
                    column("Reason", "string", "Why not"),
                    AGE,
                    wide("URLs", "string", "Every address"),
                ]
            }
        }
        Resource::Object(Kind::InferenceGraph | Kind::TrainedModel) => {
            const { &[NAME, column("URL", "string", "Address"), column("Ready", "string", "Whether it answers"), AGE] }
        }
        Resource::Object(Kind::LocalModelCache | Kind::LocalModelNamespaceCache) => {
            const {
                &[
                    NAME,
                    column("Model", "string", "Where it comes from"),
                    column("Status", "string", "Whether it is here"),
                    AGE,
                ]
            }
        }
        Resource::Object(Kind::PersistentVolumeClaim) => {
            const { &[NAME, column("Status", "string", "Phase"), column("Volume", "string", "Volume it names"), AGE] }
        }
        Resource::Object(
            Kind::ClusterStorageContainer | Kind::LocalModelNodeGroup | Kind::LlmInferenceServiceConfig,
        ) => const { &[NAME, AGE] },
        Resource::Object(Kind::Secret) => {
            const {
                &[
                    NAME,
                    column("Type", "string", "Type of the secret"),
                    column("Data", "integer", "Number of keys"),
                    AGE,
                ]
            }
        }
        Resource::Object(Kind::ServiceAccount) => {
            const { &[NAME, column("Secrets", "integer", "Number of secrets"), AGE] }
        }
        Resource::Object(Kind::ConfigMap) => const { &[NAME, column("Data", "integer", "Number of keys"), AGE] },
        Resource::Object(Kind::Namespace) => const { &[NAME, column("Status", "string", "Phase"), AGE] },
        Resource::Pods => {
            const {
                &[
                    NAME,
                    column("Ready", "string", "Containers that are ready"),
                    column("Status", "string", "What the replica is doing"),
                    column("Restarts", "integer", "Restarts of its containers"),
                    AGE,
                    wide("IP", "string", "Address of the replica"),
                    wide("Image", "string", "Image of the serving container"),
                ]
            }
        }
        Resource::Deployments => {
            const {
                &[
                    NAME,
                    column("Ready", "string", "Replicas that are ready"),
                    column("Up-to-date", "string", "Replicas of the latest revision"),
                    column("Available", "string", "Replicas that answer"),
                    AGE,
                ]
            }
        }
        Resource::ReplicaSets => {
            const {
                &[
                    NAME,
                    column("Desired", "integer", "Replicas that should be there"),
                    column("Current", "integer", "Replicas that are there"),
                    column("Ready", "integer", "Replicas that are ready"),
                    AGE,
                ]
            }
        }
        Resource::Services => {
            const {
                &[
                    NAME,
                    column("Type", "string", "Type of the service"),
                    column("Cluster-IP", "string", "None: it has no address of its own"),
                    column("External-IP", "string", "None"),
                    column("Port(s)", "string", "Ports"),
                    AGE,
                ]
            }
        }
        Resource::Nodes => {
            const {
                &[
                    NAME,
                    column("Status", "string", "Whether the daemon runs"),
                    column("Roles", "string", "None"),
                    AGE,
                    column("Version", "string", "Version of the Kubernetes API"),
                ]
            }
        }
        Resource::Events => {
            const {
                &[
                    column("Last Seen", "string", "Time since it was last said"),
                    column("Type", "string", "Normal or Warning"),
                    column("Reason", "string", "One word"),
                    column("Object", "string", "About what"),
                    column("Message", "string", "A sentence"),
                    wide("Count", "integer", "How often it was said"),
                    wide("Name", "string", "Name of the event"),
                ]
            }
        }
    }
}

fn cells(resource: Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    let name = object["metadata"]["name"].clone();
    let age = ago(&object["metadata"]["creationTimestamp"], now);
    match resource {
        Resource::Object(Kind::InferenceService) => inference_service(object, name, age),
        Resource::Object(Kind::ServingRuntime | Kind::ClusterServingRuntime) => {
            let spec = &object["spec"];
            let first = |list: &Value| list[0]["name"].clone();
            vec![name, spec["disabled"].clone(), first(&spec["supportedModelFormats"]), first(&spec["containers"]), age]
        }
        Resource::Object(Kind::Secret) => vec![name, object["type"].clone(), count(&object["data"]), age],
        Resource::Object(Kind::ServiceAccount) => vec![name, count(&object["secrets"]), age],
        Resource::Object(Kind::ConfigMap) => {
            let keys = ["data", "binaryData"].map(|field| object[field].as_object().map_or(0, serde_json::Map::len));
            vec![name, json!(keys.iter().sum::<usize>()), age]
        }
        Resource::Object(Kind::Namespace) => vec![name, object["status"]["phase"].clone(), age],
        Resource::Object(Kind::LlmInferenceService) => language_model(object, name, age),
        Resource::Object(Kind::InferenceGraph | Kind::TrainedModel) => {
            vec![name, object["status"]["url"].clone(), condition(object, "Ready"), age]
        }
        Resource::Object(Kind::LocalModelCache | Kind::LocalModelNamespaceCache) => {
            let state = object["status"]["nodeStatus"][meta::NODE].as_str().unwrap_or_default();
            vec![name, object["spec"]["sourceModelUri"].clone(), json!(state.trim_start_matches("Node")), age]
        }
        Resource::Object(Kind::PersistentVolumeClaim) => {
            vec![name, object["status"]["phase"].clone(), object["spec"]["volumeName"].clone(), age]
        }
        Resource::Object(_) => vec![name, age],
        Resource::Pods => pod(object, name, age),
        Resource::Deployments => {
            let status = &object["status"];
            let ready = format!("{}/{}", status["readyReplicas"], object["spec"]["replicas"]);
            vec![name, json!(ready), status["updatedReplicas"].clone(), status["availableReplicas"].clone(), age]
        }
        Resource::ReplicaSets => {
            let status = &object["status"];
            let wanted = object["spec"]["replicas"].clone();
            vec![name, wanted, status["replicas"].clone(), status["readyReplicas"].clone(), age]
        }
        Resource::Services => {
            let spec = &object["spec"];
            let ports = spec["ports"].as_array().into_iter().flatten();
            let ports: Vec<String> = ports.map(|port| format!("{}/TCP", port["port"])).collect();
            let outside = object["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().unwrap_or("<none>");
            vec![name, spec["type"].clone(), spec["clusterIP"].clone(), json!(outside), json!(ports.join(",")), age]
        }
        Resource::Nodes => {
            let version = object["status"]["nodeInfo"]["kubeletVersion"].clone();
            vec![name, json!("Ready"), json!("<none>"), age, version]
        }
        Resource::Events => event(object, name, now),
    }
}

fn inference_service(object: &Value, name: Value, age: Value) -> Vec<Value> {
    let status = &object["status"];
    let empty = Vec::new();
    let traffic = status["components"]["predictor"]["traffic"].as_array().unwrap_or(&empty);
    let previous = traffic.iter().find(|target| target["tag"] == "prev");
    let latest = traffic.iter().find(|target| target["latestRevision"] == true);
    let field = |target: Option<&Value>, key: &str| target.map(|target| target[key].clone()).unwrap_or_default();
    vec![
        name,
        status["url"].clone(),
        condition(object, "Ready"),
        field(previous, "percent"),
        field(latest, "percent"),
        field(previous, "revisionName"),
        field(latest, "revisionName"),
        age,
        why(object),
    ]
}

fn language_model(object: &Value, name: Value, age: Value) -> Vec<Value> {
    let status = &object["status"];
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready");
    let reason = ready.map(|ready| ready["reason"].clone()).unwrap_or_default();
    let urls = status["addresses"].as_array().into_iter().flatten().filter_map(|address| address["url"].as_str());
    let urls = urls.collect::<Vec<_>>().join(",");
    vec![name, status["url"].clone(), condition(object, "Ready"), reason, age, json!(urls)]
}

/// Returns what keeps a service from being ready, in a few words.
fn why(object: &Value) -> Value {
    let status = serde_json::from_value::<InferenceServiceStatus>(object["status"].clone()).ok();
    let text = |value: &'_ Value| value.as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
    let generation = object["metadata"]["generation"].as_i64().unwrap_or_default();
    let subject = Subject { kind: "InferenceService", namespace: &namespace, name: &name, generation };
    let known = status.filter(|status| !status.conditions.is_empty());
    json!(diagnose(&Evidence::of(subject, known.as_ref())).what)
}

/// Returns the status of a condition; null when it is not there.
fn condition(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let found = conditions.into_iter().find(|condition| condition["type"] == kind);
    found.map(|condition| condition["status"].clone()).unwrap_or_default()
}

fn pod(object: &Value, name: Value, age: Value) -> Vec<Value> {
    let empty = Vec::new();
    let statuses = object["status"]["containerStatuses"].as_array().unwrap_or(&empty);
    let ready = statuses.iter().filter(|status| status["ready"] == true).count();
    let restarts: u64 = statuses.iter().filter_map(|status| status["restartCount"].as_u64()).sum();
    let word = &object["metadata"]["annotations"][STATUS_ANNOTATION];
    vec![
        name,
        json!(format!("{ready}/{}", statuses.len())),
        word.clone(),
        json!(restarts),
        age,
        object["status"]["podIP"].clone(),
        object["spec"]["containers"][0]["image"].clone(),
    ]
}

fn event(object: &Value, name: Value, now: Timestamp) -> Vec<Value> {
    let about = &object["involvedObject"];
    let kind = about["kind"].as_str().unwrap_or_default().to_ascii_lowercase();
    let about = format!("{kind}/{}", about["name"].as_str().unwrap_or_default());
    vec![
        ago(&object["lastTimestamp"], now),
        object["type"].clone(),
        object["reason"].clone(),
        json!(about),
        // The output that a message may carry is no matter for a column.
        json!(
            object["message"]
                .as_str()
                .unwrap_or_default()
                .split('\n')
                .next()
                .unwrap_or_default()
                .trim_end_matches("; last output:")
        ),
        object["count"].clone(),
        name,
    ]
}

fn count(value: &Value) -> Value {
    json!(value.as_object().map(serde_json::Map::len).or(value.as_array().map(Vec::len)).unwrap_or_default())
}

fn ago(time: &Value, now: Timestamp) -> Value {
    let since = time.as_str().and_then(|text| text.parse::<Timestamp>().ok());
    json!(since.map_or_else(|| "<unknown>".to_owned(), |since| age(since, now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_made_only_when_it_is_asked_for_first() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert!(is_wanted(kubectl));
        assert!(!is_wanted("application/json"));
        assert!(!is_wanted("application/json,application/json;as=Table;v=v1;g=meta.k8s.io"));
        assert!(!is_wanted("*/*"));
    }

    #[test]
    fn every_row_has_a_cell_for_every_column() {
        for resource in Resource::all() {
            let cells = cells(resource, &json!({"metadata": {"name": "x"}}), Timestamp::UNIX_EPOCH);
            assert_eq!(cells.len(), columns(resource).len(), "{resource:?}");
        }
    }

    #[test]
    fn the_traffic_columns_come_from_the_predictor() {
        let object = json!({
            "metadata": {"name": "iris", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "status": {
                "url": "http://iris-default.example.com",
                "conditions": [{"type": "PredictorReady", "status": "False"}, {"type": "Ready", "status": "True"}],
                "components": {"predictor": {"traffic": [
                    {"tag": "prev", "revisionName": "iris-predictor-00001", "percent": 80},
                    {"latestRevision": true, "revisionName": "iris-predictor-00002", "percent": 20},
                ]}},
            },
        });
        let now = Timestamp::from_second(90).unwrap();
        let cells = cells(Resource::Object(Kind::InferenceService), &object, now);
        let expected = json!([
            "iris",
            "http://iris-default.example.com",
            "True",
            80,
            20,
            "iris-predictor-00001",
            "iris-predictor-00002",
            "90s",
            ""
        ]);
        assert_eq!(json!(cells), expected);
    }
}
