//! `describe`: one object in full. For an InferenceService the first three lines say why it is not ready and what to do.

use anyhow::Result;
use camino::Utf8Path;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use jiff::Timestamp;
use serde_json::Value;

use super::client::Client;
use super::complete;
use super::diagnosis::{find_out, lines, text_of};
use super::find::{SERVICE, condition, items};
use super::output::{self, Grid};
use super::predict::{Protocol, Route, protocol_of};
use super::report::Exit;
use super::wanted::{NamespaceArgs, Wanted};
use crate::api::Kind;
use crate::diagnosis::Standing;
use crate::kubeapi::age::age;
use crate::kubeapi::pods::STATUS_ANNOTATION;
use crate::kubeapi::resource::Resource;
use crate::manifest::yaml;
use crate::reconcile::clock::Clock;

/// Show one object in full, beginning with why it is not ready.
#[derive(Clone, Debug, Args)]
pub struct DescribeArgs {
    /// KIND NAME…, KIND/NAME…, or the name of an InferenceService
    #[arg(value_name = "KIND", required = true, add = ArgValueCompleter::new(complete::described))]
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
    let (mut texts, mut worst) = (Vec::new(), Exit::Done);
    for (resource, name) in &objects {
        let (text, exit) = match *resource {
            SERVICE => service(&client, home, &args.namespace.namespace, name).await?,
            resource => plain(&client, home, resource, &args.namespace.namespace, name).await?,
        };
        texts.push(text);
        worst = worst.max(exit);
    }
    output::print(&texts.join("\n\n"))?;
    Ok(worst)
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

/// Any other kind: the object as YAML, and its events. One that can be ready begins with whether it is.
async fn plain(
    client: &Client,
    home: &Utf8Path,
    resource: Resource,
    namespace: &str,
    name: &str,
) -> Result<(String, Exit)> {
    let found = find_out(client, home, resource, namespace, name).await?;
    let Some(mut object) = found.object else { return Ok((lines(&found.diagnosis), Exit::NotSo)) };
    if resource == Resource::Object(Kind::Secret) {
        hide_values(&mut object);
    }
    let mut text = match condition(&object, "Ready") {
        Some(_) => format!("{}\n", lines(&found.diagnosis)),
        None => String::new(),
    };
    text.push_str(&yaml::to_yaml(&object));
    text.push_str(&events(&found.events, Clock::start().now().wall));
    Ok((text, Exit::Done))
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

/// A service: the three lines, the last output of what fails, and then everything else.
async fn service(client: &Client, home: &Utf8Path, namespace: &str, name: &str) -> Result<(String, Exit)> {
    let found = find_out(client, home, SERVICE, namespace, name).await?;
    let mut text = found.text();
    let Some(object) = &found.object else { return Ok((text, Exit::NotSo)) };
    let now = Clock::start().now().wall;
    text.push('\n');
    text.push_str(&facts(object));
    text.push_str(&conditions(object, now));
    text.push_str(&canaries(object));
    text.push_str(&pod_table(&found.pods, now));
    text.push_str(&events(&found.events, now));
    if found.diagnosis.standing == Standing::Ready {
        text.push_str(&try_it(client, object).await);
    }
    Ok((text, Exit::Done))
}

fn ago(value: &Value, now: Timestamp) -> Option<String> {
    value.as_str()?.parse().ok().map(|since| age(since, now))
}

/// A message without the output it may carry: that is shown once, above.
fn first_line(text: &str) -> String {
    let first = text.split('\n').next().unwrap_or_default();
    first.trim_end().trim_end_matches("; last output:").to_owned()
}

fn items_of(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
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
        let text = |field: &str| first_line(text_of(&condition[field]));
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

fn events(events: &[Value], now: Timestamp) -> String {
    let mut grid = Grid::new(["Last seen", "Type", "Reason", "Count", "Message"]);
    for event in events {
        grid.row([
            ago(&event["lastTimestamp"], now).unwrap_or_default(),
            text_of(&event["type"]).to_owned(),
            text_of(&event["reason"]).to_owned(),
            event["count"].to_string(),
            first_line(text_of(&event["message"])),
        ]);
    }
    section("Events", &mut grid)
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

    #[test]
    fn the_values_of_a_secret_are_not_shown() {
        let mut secret = json!({"data": {"a": "c2VjcmV0", "b": "eA==", "c": ""}});
        hide_values(&mut secret);
        assert_eq!(secret["data"], json!({"a": "6 bytes", "b": "1 bytes", "c": "0 bytes"}));
    }
}
