//! `describe`: one object in full. For an InferenceService the first three lines say why it is not ready and what to do.

use anyhow::Result;
use camino::Utf8Path;
use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use super::client::Client;
use super::find::{self, SERVICE, condition, escaped, items, path_of, pods_of};
use super::output::{self, Grid};
use super::predict::{Protocol, Route, protocol_of};
use super::report::Exit;
use super::wanted::{NamespaceArgs, Wanted};
use crate::kubeapi::age::age;
use crate::kubeapi::pods::STATUS_ANNOTATION;
use crate::kubeapi::resource::Resource;
use crate::manifest::yaml;
use crate::reconcile::clock::Clock;

/// Log lines shown of a failing container.
const LOG_LINES: usize = 10;

/// Show one object in full, beginning with why it is not ready.
#[derive(Clone, Debug, Args)]
pub struct DescribeArgs {
    /// KIND NAME…, KIND/NAME…, or the name of an InferenceService
    #[arg(value_name = "KIND", required = true)]
    pub objects: Vec<String>,
    /// Namespace.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
}

/// Runs the verb.
///
/// # Errors
/// The daemon is not there, or there is no such object.
pub async fn run(home: &Utf8Path, args: DescribeArgs) -> Result<Exit> {
    let client = Client::find(home)?;
    let objects = objects(&client, &args).await?;
    let mut texts = Vec::new();
    for (resource, name) in &objects {
        texts.push(match *resource {
            SERVICE => service(&client, &args.namespace.namespace, name).await?,
            resource => plain(&client, resource, &args.namespace.namespace, name).await?,
        });
    }
    output::print(&texts.join("\n\n"))?;
    Ok(Exit::Done)
}

async fn objects(client: &Client, args: &DescribeArgs) -> Result<Vec<(Resource, String)>> {
    match (Wanted::parse(&args.objects), args.objects.as_slice()) {
        // One word that is no kind: the name of a service.
        (Err(_), [name]) if !name.contains('/') => Ok(vec![(SERVICE, name.clone())]),
        (Ok(Wanted::Named(objects)), _) => Ok(objects),
        (Ok(Wanted::All(resources)), _) => {
            let mut found = Vec::new();
            for resource in resources {
                let list = client.get(&resource.path(Some(&args.namespace.namespace))).await?;
                let names = items(&list).into_iter().filter_map(|item| item["metadata"]["name"].as_str());
                found.extend(names.map(|name| (resource, name.to_owned())));
            }
            Ok(found)
        }
        (Err(error), _) => Err(error),
    }
}

/// Any other kind: the object as YAML, and its events.
async fn plain(client: &Client, resource: Resource, namespace: &str, name: &str) -> Result<String> {
    let mut object = find::get(client, resource, namespace, name).await?;
    if resource == Resource::Object(crate::api::Kind::Secret) {
        hide_values(&mut object);
    }
    let mut text = yaml::to_yaml(&object);
    text.push_str(&events(client, &object).await?);
    Ok(text)
}

/// Leaves of a Secret only the names and lengths of its values.
fn hide_values(secret: &mut Value) {
    for value in secret["data"].as_object_mut().into_iter().flat_map(|data| data.values_mut()) {
        // Base64 has four letters for three bytes.
        let text = value.as_str().unwrap_or_default();
        let bytes = text.len() / 4 * 3 - text.bytes().rev().take_while(|byte| *byte == b'=').count().min(2);
        *value = format!("{bytes} bytes").into();
    }
}

async fn service(client: &Client, namespace: &str, name: &str) -> Result<String> {
    let object = find::get(client, SERVICE, namespace, name).await?;
    let pods = pods_of(client, namespace, name).await?;
    let now = Clock::start().now().wall;
    let mut text = verdict(&object, &pods, now);
    if let Some(place) = find::broken_file(client, SERVICE, namespace, name).await {
        text = format!(
            "{text}  note:    its file was changed and cannot be taken; the last good version is kept: {place}\n"
        );
    }
    text.push('\n');
    text.push_str(&facts(&object));
    text.push_str(&conditions(&object, now));
    text.push_str(&canaries(&object));
    text.push_str(&pod_table(&pods, now));
    text.push_str(&failure(client, &object, &pods).await);
    text.push_str(&events(client, &object).await?);
    text.push_str(&try_it(client, &object).await);
    Ok(text)
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn ago(value: &Value, now: Timestamp) -> Option<String> {
    value.as_str()?.parse().ok().map(|since| age(since, now))
}

/// Three lines: whether it is ready, why not, and the next step.
fn verdict(object: &Value, pods: &[Value], now: Timestamp) -> String {
    let metadata = &object["metadata"];
    let (namespace, name) = (text_of(&metadata["namespace"]), text_of(&metadata["name"]));
    let ready = condition(object, "Ready");
    let state = match ready.map(|ready| text_of(&ready["status"])) {
        Some("True") => "ready",
        Some("False") => "not ready",
        _ => "not ready yet",
    };
    let since = ready.and_then(|ready| ago(&ready["lastTransitionTime"], now));
    let since = since.map(|since| format!(" for {since}")).unwrap_or_default();
    let scope = if namespace == "default" { String::new() } else { format!(" -n {namespace}") };
    let (because, next) = match state {
        "ready" => (
            format!("it answers at {}", text_of(&object["status"]["url"])),
            format!("kserve-local predict {name}{scope} -d @request.json"),
        ),
        _ => (reason(object, pods), next_step(object, pods, name, &scope)),
    };
    format!("InferenceService {namespace}/{name} is {state}{since}\n  because: {because}\n  next:    {next}\n")
}

/// Returns the most telling reason there is: the model's failure, the container's, else the condition's.
fn reason(object: &Value, pods: &[Value]) -> String {
    // Ready itself says it best when it says no; upstream's own words in `lastFailureInfo` are shorter.
    if let Some(ready) = condition(object, "Ready").filter(|ready| ready["status"] == "False")
        && !text_of(&ready["message"]).is_empty()
    {
        return format!("{}: {}", text_of(&ready["reason"]), one_line(text_of(&ready["message"])));
    }
    let failure = &object["status"]["modelStatus"]["lastFailureInfo"];
    let code = failure["exitCode"].as_i64().map(|code| format!(" (exit code {code})")).unwrap_or_default();
    if !text_of(&failure["message"]).is_empty() {
        return format!("{}: {}{code}", text_of(&failure["reason"]), one_line(text_of(&failure["message"])));
    }
    if let Some((container, waiting)) = waiting_container(pods) {
        return format!("container {container} is waiting: {waiting}");
    }
    let empty = Vec::new();
    let conditions = object["status"]["conditions"].as_array().unwrap_or(&empty);
    let bad = |wanted: &str| {
        conditions.iter().find(|condition| {
            condition["status"] == wanted && condition["severity"] != "Info" && condition["type"] != "Ready"
        })
    };
    let culprit = bad("False").or_else(|| bad("Unknown")).or_else(|| condition(object, "Ready"));
    match culprit {
        Some(culprit) => {
            let words = [text_of(&culprit["reason"]), text_of(&culprit["message"])];
            let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
            let why = if words.is_empty() { "no reason was given".to_owned() } else { words.join(": ") };
            format!("{} is {}: {}", text_of(&culprit["type"]), text_of(&culprit["status"]), one_line(&why))
        }
        None => "it was not looked at yet".to_owned(),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn waiting_container(pods: &[Value]) -> Option<(String, String)> {
    let statuses = pods.iter().flat_map(|pod| {
        ["initContainerStatuses", "containerStatuses"].into_iter().flat_map(|list| items_of(&pod["status"][list]))
    });
    statuses.into_iter().find_map(|status| {
        let waiting = status["state"].get("waiting")?;
        let words = [text_of(&waiting["reason"]), text_of(&waiting["message"])];
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        Some((text_of(&status["name"]).to_owned(), one_line(&words.join(": "))))
    })
}

fn items_of(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Returns what a person can do next.
fn next_step(object: &Value, pods: &[Value], name: &str, scope: &str) -> String {
    match text_of(&object["status"]["modelStatus"]["lastFailureInfo"]["reason"]) {
        "NoSupportingRuntime" | "RuntimeNotRecognized" | "RuntimeDisabled" => {
            return format!("kserve-local runtimes explain {name}{scope}");
        }
        "InvalidPredictorSpec" => return "correct the manifest; `kserve-local validate FILE` checks it".to_owned(),
        _ => {}
    }
    if pods.iter().any(has_output) {
        format!("kserve-local logs {name}{scope}")
    } else {
        format!("kserve-local events --for isvc/{name}{scope}")
    }
}

/// Whether a container of the pod ever ran.
fn has_output(pod: &Value) -> bool {
    items_of(&pod["status"]["containerStatuses"]).iter().any(|status| {
        let restarted = status["restartCount"].as_u64().is_some_and(|restarts| restarts > 0);
        restarted || status["state"].get("waiting").is_none()
    })
}

fn facts(object: &Value) -> String {
    let status = &object["status"];
    let runtime = [&status["clusterServingRuntimeName"], &status["servingRuntimeName"]]
        .into_iter()
        .map(text_of)
        .find(|name| !name.is_empty());
    let model = &status["modelStatus"];
    let states =
        [&model["transitionStatus"], &model["states"]["activeModelState"], &model["states"]["targetModelState"]];
    let model = match states.map(text_of) {
        ["", _, _] => String::new(),
        [transition, "", target] => format!("{transition} (target {target})"),
        [transition, active, target] => format!("{transition} (active {active}, target {target})"),
    };
    let rows = [
        ("URL", text_of(&status["url"]).to_owned()),
        ("Runtime", runtime.unwrap_or_default().to_owned()),
        ("Model", model),
        ("Storage", storage(&object["spec"]["predictor"]).unwrap_or_default()),
        ("Mode", text_of(&status["deploymentMode"]).to_owned()),
    ];
    let shown = rows.iter().filter(|(_, value)| !value.is_empty());
    shown.map(|(name, value)| format!("{name}:{}{value}\n", " ".repeat(12 - name.len()))).collect()
}

fn storage(predictor: &Value) -> Option<String> {
    let parts = predictor.as_object()?.values();
    parts.filter_map(|part| part.get("storageUri")?.as_str()).map(str::to_owned).next()
}

fn conditions(object: &Value, now: Timestamp) -> String {
    let mut grid = Grid::new(["Type", "Status", "Since", "Reason", "Message"]);
    for condition in items_of(&object["status"]["conditions"]) {
        let since = ago(&condition["lastTransitionTime"], now).unwrap_or_default();
        let text = |field: &str| one_line(text_of(&condition[field]));
        grid.row([text("type"), text("status"), since, text("reason"), text("message")]);
    }
    section("Conditions", &mut grid)
}

/// Named canaries, and whether they have their share of the traffic.
fn canaries(object: &Value) -> String {
    let mut grid = Grid::new(["Name", "Ready", "Traffic", "Model"]);
    for canary in items_of(&object["status"]["canaryStatuses"]) {
        let model = text_of(&canary["modelStatus"]["transitionStatus"]).to_owned();
        let ready = if canary["ready"] == true { "True" } else { "False" };
        let percent = format!("{} %", canary["trafficPercent"]);
        grid.row([text_of(&canary["name"]).to_owned(), ready.to_owned(), percent, model]);
    }
    section("Canaries", &mut grid)
}

fn pod_table(pods: &[Value], now: Timestamp) -> String {
    let mut grid = Grid::new(["Pod", "Container", "State", "Restarts", "Age"]);
    for pod in pods {
        let name = text_of(&pod["metadata"]["name"]);
        let age = ago(&pod["metadata"]["creationTimestamp"], now).unwrap_or_default();
        let word = text_of(&pod["metadata"]["annotations"][STATUS_ANNOTATION]);
        for status in items_of(&pod["status"]["containerStatuses"]) {
            let ready = if status["ready"] == true { ", ready" } else { "" };
            let state = format!("{}{ready}", container_state(&status["state"], word));
            let restarts = status["restartCount"].as_u64().unwrap_or_default().to_string();
            grid.row([name.to_owned(), text_of(&status["name"]).to_owned(), state, restarts, age.clone()]);
        }
    }
    section("Pods", &mut grid)
}

fn container_state(state: &Value, word: &str) -> String {
    if let Some(terminated) = state.get("terminated") {
        let code = terminated["exitCode"].as_i64().unwrap_or_default();
        return format!("{} (exit code {code})", text_of(&terminated["reason"]));
    }
    match state.get("waiting") {
        Some(waiting) => text_of(&waiting["reason"]).to_owned(),
        None if word.is_empty() => "Running".to_owned(),
        None => word.to_owned(),
    }
}

fn section(title: &str, grid: &mut Grid) -> String {
    if grid.is_empty() {
        return String::new();
    }
    let indented: String = grid.take_text().lines().map(|line| format!("  {line}\n")).collect();
    format!("\n{title}:\n{indented}")
}

/// Returns the last log lines of a replica that is not ready.
async fn failure(client: &Client, object: &Value, pods: &[Value]) -> String {
    if condition(object, "Ready").is_some_and(|ready| ready["status"] == "True") {
        return String::new();
    }
    let namespace = text_of(&object["metadata"]["namespace"]);
    let failing = pods.iter().find(|pod| has_output(pod));
    let Some(name) = failing.map(|pod| text_of(&pod["metadata"]["name"])) else { return String::new() };
    let path = format!("{}/log?tailLines={LOG_LINES}", path_of(Resource::Pods, namespace, name));
    let Ok(bytes) = client.stream(&path, "text/plain").await else { return String::new() };
    let chunks: Vec<_> = futures::StreamExt::collect(bytes).await;
    let text: Vec<u8> = chunks.into_iter().filter_map(Result::ok).flatten().collect();
    let lines: String = String::from_utf8_lossy(&text).lines().map(|line| format!("  {line}\n")).collect();
    if lines.is_empty() { lines } else { format!("\nLast output of {name}:\n{lines}") }
}

async fn events(client: &Client, object: &Value) -> Result<String> {
    let metadata = &object["metadata"];
    let selector =
        format!("involvedObject.kind={},involvedObject.name={}", text_of(&object["kind"]), text_of(&metadata["name"]));
    let namespace = metadata["namespace"].as_str().unwrap_or("default");
    let path = format!("{}?fieldSelector={}", Resource::Events.path(Some(namespace)), escaped(&selector));
    let list = client.get(&path).await?;
    let now = Clock::start().now().wall;
    let mut grid = Grid::new(["Last seen", "Type", "Reason", "Count", "Message"]);
    for event in items(&list) {
        grid.row([
            ago(&event["lastTimestamp"], now).unwrap_or_default(),
            text_of(&event["type"]).to_owned(),
            text_of(&event["reason"]).to_owned(),
            event["count"].to_string(),
            one_line(text_of(&event["message"])),
        ]);
    }
    Ok(section("Events", &mut grid))
}

/// Returns a prediction that can be pasted.
async fn try_it(client: &Client, object: &Value) -> String {
    let url = object["status"]["url"].as_str().and_then(|url| url::Url::parse(url).ok());
    let Some(host) = url.as_ref().and_then(|url| url.host_str()) else { return String::new() };
    let protocol = protocol_of(client, object).await;
    let path = protocol.path(text_of(&object["metadata"]["name"]));
    let route = Route { address: client.addresses.data.clone(), host: host.to_owned(), path };
    let body = match protocol {
        Protocol::V1 => "{\"instances\": [[6.8, 2.8, 4.8, 1.4]]}",
        Protocol::V2 => {
            "{\"inputs\": [{\"name\": \"input-0\", \"shape\": [1, 4], \"datatype\": \"FP32\", \"data\": [6.8, 2.8, 4.8, 1.4]}]}"
        }
    };
    format!("\nTry it:\n  {}\n", route.curl(Some(body), &[]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(ready: &str, status: Value) -> Value {
        let mut status = status;
        status["url"] = json!("http://iris-default.localhost:8080");
        status["conditions"] = json!([
            {"type": "PredictorReady", "status": ready, "reason": "MinimumReplicasUnavailable", "message": "0 of 1 ready"},
            {"type": "Ready", "status": ready, "lastTransitionTime": "1970-01-01T00:00:00Z"},
        ]);
        json!({"metadata": {"name": "iris", "namespace": "default"}, "status": status})
    }

    #[test]
    fn the_first_three_lines_say_why_it_is_not_ready() {
        let now = Timestamp::from_second(90).unwrap();
        let failed = json!({"modelStatus": {"lastFailureInfo": {
            "reason": "ModelLoadFailed", "message": "no such file\nmodel.joblib", "exitCode": 1,
        }}});
        let waiting = json!({"status": {"containerStatuses": [
            {"name": "kserve-container", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no network"}}},
        ]}});
        let crashed = json!({"status": {"containerStatuses": [{"restartCount": 3, "state": {"waiting": {}}}]}});
        let texts = [
            verdict(&service("True", json!({})), &[], now),
            verdict(&service("False", failed), &[crashed], now),
            verdict(&service("False", json!({})), &[waiting], now),
            verdict(&service("Unknown", json!({})), &[], now),
            verdict(&json!({"metadata": {"name": "iris", "namespace": "team"}}), &[], now),
        ];
        insta::assert_snapshot!(texts.join("\n"));
    }

    #[test]
    fn the_values_of_a_secret_are_not_shown() {
        let mut secret = json!({"data": {"a": "c2VjcmV0", "b": "eA==", "c": ""}});
        hide_values(&mut secret);
        assert_eq!(secret["data"], json!({"a": "6 bytes", "b": "1 bytes", "c": "0 bytes"}));
    }
}
