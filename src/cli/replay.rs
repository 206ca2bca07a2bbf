//! `replay`: requests from a payload log, printed or sent again.

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use clap::Args;
use serde_json::Value;

use super::client::Client;
use super::output;
use super::predict::Route;
use super::report::{Exit, Problem};
use super::wanted::NamespaceArgs;
use crate::home::Home;

/// Print requests from a payload log, or send them again.
///
/// A service with `logger` and without a URL writes its payloads to state/payloads/NAMESPACE/NAME.jsonl.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// InferenceService, or a file of events
    #[arg(value_name = "NAME|FILE")]
    pub from: String,
    /// Namespace.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// Only the request with this id
    #[arg(long)]
    pub id: Option<String>,
    /// Only the last so many requests
    #[arg(long, value_name = "COUNT")]
    pub last: Option<usize>,
    /// Send them, and print the answers
    #[arg(long)]
    pub send: bool,
}

/// A request as it was logged.
struct Logged {
    id: String,
    method: String,
    path: String,
    content_type: String,
    /// None when the log does not have it.
    body: Option<String>,
    host: (String, String),
}

/// Runs the verb.
///
/// # Errors
/// There is no such log, no such request, or the daemon is not there to send it to.
pub async fn run(home: &Utf8Path, args: ReplayArgs) -> Result<Exit> {
    let path = log_file(home, &args);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Problem::not_so(format!("there is no payload log `{path}`"))
            .because(error)
            .hint("payloads are logged to a file when a component has `logger: {mode: all}` without a url")
    })?;
    let mut requests: Vec<Logged> = text.lines().filter_map(read).collect();
    if let Some(id) = &args.id {
        requests.retain(|request| request.id == *id);
    }
    if let Some(last) = args.last {
        requests.drain(..requests.len().saturating_sub(last));
    }
    if requests.is_empty() {
        let wanted = args.id.map(|id| format!(" with id `{id}`")).unwrap_or_default();
        return Err(Problem::not_so(format!("no request{wanted} is logged in `{path}`")).into());
    }
    if !args.send {
        // Printing needs no daemon.
        let address = Client::find(home).map_or_else(|_| "127.0.0.1:8080".to_owned(), |client| client.addresses.data);
        for request in &requests {
            output::line(&format!("# {}", request.id))?;
            output::line(&request.to_curl(&address))?;
        }
        return Ok(Exit::Done);
    }
    let client = Client::find(home)?;
    send_all(&client.addresses.data, &requests).await
}

fn log_file(home: &Utf8Path, args: &ReplayArgs) -> Utf8PathBuf {
    let given = Utf8PathBuf::from(&args.from);
    if given.is_file() || args.from.contains('/') {
        return given;
    }
    Home::new(home).payloads().join(&args.namespace.namespace).join(format!("{}.jsonl", args.from))
}

/// Reads one event; none when it is no request.
fn read(line: &str) -> Option<Logged> {
    let event: Value = serde_json::from_str(line).ok()?;
    let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
    if !text("type").ends_with(".request") {
        return None;
    }
    let is_cut = event["datacut"] == "true" || event.get("data_base64").is_some();
    let body = match &event["data"] {
        _ if is_cut => None,
        Value::String(text) => Some(text.clone()),
        value => Some(value.to_string()),
    };
    Some(Logged {
        id: text("id"),
        method: text("requestmethod"),
        path: text("requestpath"),
        content_type: text("datacontenttype"),
        body,
        host: (text("inferenceservicename"), text("namespace")),
    })
}

impl Logged {
    fn host(&self) -> String {
        format!("{}.{}.localhost", self.host.0, self.host.1)
    }

    fn to_curl(&self, address: &str) -> String {
        let route = Route { address: address.to_owned(), host: self.host(), path: self.path.clone() };
        match &self.body {
            Some(body) if self.method == "POST" => route.curl(Some(body), &[]),
            Some(_) => route.curl(None, &[]),
            None => format!("# its body is not in the log: {} {}", self.method, self.path),
        }
    }
}

async fn send_all(address: &str, requests: &[Logged]) -> Result<Exit> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let mut exit = Exit::Done;
    for request in requests {
        let Some(body) = &request.body else {
            output::note(&format!("{}: its body is not in the log", request.id));
            exit = Exit::NotSo;
            continue;
        };
        let method = request.method.parse().unwrap_or(reqwest::Method::POST);
        let url = format!("http://{address}{}", request.path);
        let sent = client.request(method, url).header("host", request.host()).header("ce-id", &request.id);
        let sent = match request.content_type.as_str() {
            "" => sent,
            content_type => sent.header("content-type", content_type),
        };
        let answer = sent.body(body.clone()).send().await?;
        let status = answer.status();
        output::note(&format!("{}: {status}", request.id));
        output::line(answer.text().await?.trim_end())?;
        if !status.is_success() {
            exit = Exit::NotSo;
        }
    }
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_requests_are_read_and_become_something_that_can_be_pasted() {
        let line = r#"{"type":"org.kubeflow.serving.inference.request","id":"e1","requestmethod":"POST",
            "requestpath":"/v1/models/iris:predict","inferenceservicename":"iris","namespace":"team","data":{"instances":[1]}}"#
            .replace('\n', "");
        let request = read(&line).unwrap();
        let curl = request.to_curl("127.0.0.1:8080");
        assert!(curl.contains("http://iris.team.localhost:8080/v1/models/iris:predict"), "{curl}");
        assert!(curl.contains(r#"-d '{"instances":[1]}'"#), "{curl}");
        assert!(read(&line.replace("inference.request", "inference.response")).is_none());
        let cut = line.replace(r#""id""#, r#""datacut":"true","id""#);
        assert!(read(&cut).unwrap().to_curl("x").contains("not in the log"));
        assert!(read("no json").is_none());
    }
}
