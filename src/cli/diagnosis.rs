//! Gathers what a diagnosis is made from: the object, its events, its file, and the last output of what fails.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use camino::Utf8Path;
use futures::StreamExt;
use jiff::Timestamp;
use serde_json::Value;

use super::client::{Client, ClientError};
use super::colour;
use super::find::{self, SERVICE, condition, escaped, items, path_of, pods_of};
use super::home::flag_for;
use super::output;
use crate::api::{InferenceServiceStatus, meta};
use crate::diagnosis::{Diagnosis, Evidence, Happened, Standing, Subject, diagnose};
use crate::kubeapi::resource::Resource;
use crate::reconcile::clock::Clock;

/// Log lines asked for of a failing container.
const LOG_LINES: usize = 10;

/// What was found out about one object.
pub struct Found {
    /// What is wrong, why, and one step.
    pub diagnosis: Diagnosis,
    /// The object; nothing when only its file is there.
    pub object: Option<Value>,
    /// Its replicas.
    pub pods: Vec<Value>,
    /// Where the output of the diagnosis comes from: `POD/CONTAINER`.
    pub source: String,
    /// Events about it, oldest first.
    pub events: Vec<Value>,
}

impl Found {
    /// Whether readiness means something for this kind of object.
    pub fn can_be_ready(&self) -> bool {
        let is_looked_at = |object: &Value| matches!(text_of(&object["kind"]), "InferenceService" | "InferenceGraph");
        self.object.as_ref().is_none_or(|object| is_looked_at(object) || condition(object, "Ready").is_some())
    }

    /// Returns the lines of the diagnosis, and the output of what fails below them. Writing to a string cannot fail.
    pub fn text(&self) -> String {
        let mut text = lines(&self.diagnosis);
        if !self.diagnosis.output.is_empty() {
            let of = if self.source.is_empty() { String::new() } else { format!(" of {}", self.source) };
            let lines: String = self.diagnosis.output.iter().map(|line| format!("  {line}\n")).collect();
            let _ = write!(text, "\nLast output{of}:\n{lines}");
        }
        text
    }
}

/// Returns the lines of a diagnosis, with the first one in the colour of how it stands.
pub fn lines(diagnosis: &Diagnosis) -> String {
    let text = diagnosis.lines();
    match text.split_once('\n').filter(|_| output::colours()) {
        Some((head, rest)) => format!("{}\n{rest}", colour::of_standing(diagnosis.standing).paint(head)),
        None => text,
    }
}

/// Finds out about one object.
///
/// # Errors
/// The daemon is not there, or neither the object nor a file that means it.
pub async fn find_out(
    client: &Client,
    home: &Utf8Path,
    resource: Resource,
    namespace: &str,
    name: &str,
) -> Result<Found> {
    let file = find::broken_file(client, resource, namespace, name).await;
    let object = match find::get(client, resource, namespace, name).await {
        Ok(object) => Some(object),
        Err(_) if file.is_some() => None,
        Err(error) => return Err(error),
    };
    let pods = if resource == SERVICE { pods_of(client, namespace, name).await? } else { Vec::new() };
    let events = events(client, resource, namespace, name).await?;
    let status = object.as_ref().and_then(status);
    let failing = object.as_ref().filter(|object| !is_ready(object)).and_then(|object| failing(&pods, said(object)));
    let output = match &failing {
        Some(failing) => last_output(client, namespace, failing).await,
        None => Vec::new(),
    };
    let program = format!("kserve-local{}", flag_for(home));
    let evidence = Evidence {
        subject: Subject {
            kind: resource.kind(),
            namespace: if resource.is_namespaced() { namespace } else { "" },
            name,
            generation: object.as_ref().map_or(0, generation),
        },
        status: status.as_ref(),
        file: file.as_deref(),
        since: object.as_ref().and_then(|object| since(object, Clock::start().now().wall)),
        events: &events.iter().map(happened).collect::<Vec<_>>(),
        output: &output,
        init: failing.as_ref().filter(|failing| failing.init).map(|failing| failing.container),
        program: &program,
    };
    let diagnosis = diagnose(&evidence);
    let shown = failing.filter(|_| !diagnosis.output.is_empty());
    let source = shown.map(|failing| format!("{}/{}", failing.pod, failing.container)).unwrap_or_default();
    Ok(Found { diagnosis, object, pods, source, events })
}

/// Returns the lines of every service of a namespace, or of all, that is not ready or not there.
///
/// # Errors
/// The daemon is not there.
pub async fn troubled(client: &Client, home: &Utf8Path, namespace: Option<&str>) -> Result<Vec<Diagnosis>> {
    let list = client.get(&SERVICE.path(namespace)).await?;
    let mut all = Vec::new();
    for item in items(&list).into_iter().filter(|item| !is_ready(item)) {
        let text = |field: &str| item["metadata"][field].as_str().unwrap_or_default();
        // One that was removed meanwhile is no trouble.
        if let Ok(found) = find_out(client, home, SERVICE, text("namespace"), text("name")).await {
            all.push(found.diagnosis);
        }
    }
    all.retain(|diagnosis| matches!(diagnosis.standing, Standing::Fails | Standing::Waits | Standing::Absent));
    all.sort_by_key(|diagnosis| diagnosis.standing == Standing::Waits);
    Ok(all)
}

/// Returns the text of a value; of anything else, none.
pub fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn status(object: &Value) -> Option<InferenceServiceStatus> {
    let status: InferenceServiceStatus = serde_json::from_value(object.get("status")?.clone()).ok()?;
    (!status.conditions.is_empty()).then_some(status)
}

fn generation(object: &Value) -> i64 {
    object["metadata"]["generation"].as_i64().unwrap_or_default()
}

fn is_ready(object: &Value) -> bool {
    let observed = object["status"]["observedGeneration"].as_i64();
    let current = observed.is_none_or(|observed| observed >= generation(object));
    current && condition(object, "Ready").is_some_and(|ready| ready["status"] == "True")
}

fn since(object: &Value, now: Timestamp) -> Option<Duration> {
    let since: Timestamp = condition(object, "Ready")?["lastTransitionTime"].as_str()?.parse().ok()?;
    Duration::try_from(now.duration_since(since)).ok()
}

fn happened(event: &Value) -> Happened<'_> {
    Happened {
        warning: event["type"] == "Warning",
        reason: text_of(&event["reason"]),
        message: text_of(&event["message"]),
    }
}

async fn events(client: &Client, resource: Resource, namespace: &str, name: &str) -> Result<Vec<Value>, ClientError> {
    let selector = format!("involvedObject.kind={},involvedObject.name={name}", resource.kind());
    let namespace = if resource.is_namespaced() { namespace } else { meta::DEFAULT_NAMESPACE };
    let path = format!("{}?fieldSelector={}", Resource::Events.path(Some(namespace)), escaped(&selector));
    let list = client.get(&path).await?;
    Ok(items(&list).into_iter().cloned().collect())
}

/// What the condition Ready says.
fn said(object: &Value) -> &str {
    condition(object, "Ready").map_or("", |ready| text_of(&ready["message"]))
}

/// The container that keeps a service from being ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Failing<'p> {
    pod: &'p str,
    container: &'p str,
    init: bool,
}

/// Returns the last lines of a container.
async fn last_output(client: &Client, namespace: &str, failing: &Failing<'_>) -> Vec<String> {
    let path = path_of(Resource::Pods, namespace, failing.pod);
    let path = format!("{path}/log?tailLines={LOG_LINES}&container={}", escaped(failing.container));
    // Whoever has printed nothing has no last words; the rest of the diagnosis stands.
    let Ok(bytes) = client.stream(&path, "text/plain").await else { return Vec::new() };
    let chunks: Vec<_> = bytes.collect().await;
    let text: Vec<u8> = chunks.into_iter().filter_map(Result::ok).flatten().collect();
    String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
}

/// Finds the container that keeps a service from being ready: of the newest revision, of the component that is named, an
/// init container before the others, and one that ran before one that never did.
fn failing<'p>(pods: &'p [Value], message: &str) -> Option<Failing<'p>> {
    let named = ["transformer", "explainer"].into_iter().find(|kind| message.starts_with(&format!("{kind}: ")));
    let component = |pod: &Value| pod["metadata"]["labels"][meta::COMPONENT_LABEL] == named.unwrap_or("predictor");
    let revision = |pod: &Value| text_of(&pod["metadata"]["labels"]["kserve-local/revision"]).parse::<u32>().ok();
    let newest = pods.iter().filter(|pod| component(pod)).filter_map(revision).max();
    let own = pods.iter().filter(|pod| component(pod) && revision(pod) == newest);
    let mut containers = own.flat_map(|pod| {
        [("initContainerStatuses", true), ("containerStatuses", false)].into_iter().flat_map(move |(list, init)| {
            let statuses = pod["status"][list].as_array().into_iter().flatten();
            statuses.map(move |status| (pod, init, status))
        })
    });
    let (pod, init, status) = containers.find(|(_, _, status)| status["ready"] != true && has_output(status))?;
    Some(Failing { pod: text_of(&pod["metadata"]["name"]), container: text_of(&status["name"]), init })
}

/// Whether a container ever ran.
fn has_output(status: &Value) -> bool {
    let restarted = status["restartCount"].as_u64().is_some_and(|restarts| restarts > 0);
    let waits = status["state"].get("waiting");
    let crashed = waits.is_some_and(|waiting| matches!(text_of(&waiting["reason"]), "CrashLoopBackOff" | "OOMKilled"));
    restarted || crashed || waits.is_none()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, component: &str, revision: &str, init: &Value, main: &Value) -> Value {
        json!({
            "metadata": {"name": name, "labels": {"component": component, "kserve-local/revision": revision}},
            "status": {"initContainerStatuses": init, "containerStatuses": main},
        })
    }

    #[test]
    fn the_container_that_fails_is_the_one_whose_output_is_shown() {
        let running = json!([{"name": "main", "ready": false, "state": {"running": {}}}]);
        let ready = json!([{"name": "main", "ready": true, "state": {"running": {}}}]);
        let never = json!([{"name": "main", "ready": false, "state": {"waiting": {"reason": "ContainerCreating"}}}]);
        let init = json!([{"name": "fetch", "ready": false, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]);
        let none = json!([]);
        let old = pod("iris-1", "predictor", "1", &none, &ready);
        let new = pod("iris-2", "predictor", "2", &none, &running);
        let side = pod("side-1", "transformer", "1", &none, &running);
        let starts = pod("iris-3", "predictor", "3", &init, &never);
        let found = |pod, container, init| Some(Failing { pod, container, init });
        assert_eq!(failing(&[old.clone(), new.clone(), side.clone()], "x"), found("iris-2", "main", false));
        assert_eq!(failing(&[old.clone(), new, side], "transformer: x"), found("side-1", "main", false));
        assert_eq!(failing(&[old.clone(), starts], "x"), found("iris-3", "fetch", true));
        assert_eq!(failing(&[old], "x"), None);
    }
}
