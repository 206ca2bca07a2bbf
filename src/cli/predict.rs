//! `predict`: one request to a service, in the protocol it speaks.

use std::io::Read;
use std::time::Duration;

use anyhow::Result;
use camino::Utf8Path;
use clap::{Args, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use serde_json::Value;

use super::client::Client;
use super::complete;
use super::find::{self, SERVICE, condition};
use super::home::quoted;
use super::output;
use super::report::{Exit, Problem};
use super::wanted::NamespaceArgs;
use crate::api::Kind;
use crate::kubeapi::resource::Resource;

/// Longest answer that is printed whole, in bytes.
const HINT_LIMIT: usize = 300;

/// Send a prediction request and print the answer.
///
/// The path follows the protocol: V1 is `/v1/models/NAME:predict`, V2 is `/v2/models/NAME/infer`. The request goes to
/// the same address and host that any other client would use.
#[derive(Clone, Debug, Args)]
pub struct PredictArgs {
    /// Name of the InferenceService
    #[arg(add = ArgValueCompleter::new(complete::service))]
    pub name: String,
    /// Request body: JSON, @FILE, or - for stdin
    #[arg(short, long, value_name = "BODY")]
    pub data: Option<String>,
    /// Namespace.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// Protocol [default: that of the service, or what the body looks like]
    #[arg(long, value_enum, value_name = "V")]
    pub protocol: Option<Protocol>,
    /// Name of the model [default: the name of the service]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Another path, for example /openai/v1/chat/completions
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// Another request header, NAME: VALUE; may be given several times
    #[arg(short = 'H', long, value_name = "HEADER")]
    pub header: Vec<String>,
    /// Longest time to wait for the answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub timeout: u64,
    /// Print the curl command that does the same, and send nothing
    #[arg(long)]
    pub print_curl: bool,
}

/// Protocol of a prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// V1: `{"instances": …}`
    V1,
    /// V2, the open inference protocol: `{"inputs": …}`
    V2,
}

impl Protocol {
    /// Returns the path of a prediction.
    pub fn path(self, model: &str) -> String {
        match self {
            Self::V1 => format!("/v1/models/{model}:predict"),
            Self::V2 => format!("/v2/models/{model}/infer"),
        }
    }

    fn of_body(body: &str) -> Option<Self> {
        let body: Value = serde_json::from_str(body).ok()?;
        if body.get("inputs").is_some() { Some(Self::V2) } else { body.get("instances").map(|_| Self::V1) }
    }

    fn of_name(name: &str) -> Option<Self> {
        match name {
            "v1" => Some(Self::V1),
            "v2" => Some(Self::V2),
            _ => None,
        }
    }
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Address of the gateway.
    pub address: String,
    /// `Host` header.
    pub host: String,
    /// Path.
    pub path: String,
}

impl Route {
    /// Returns the curl command for a body, as something that can be pasted.
    pub fn curl(&self, body: Option<&str>, headers: &[String]) -> String {
        let mut words = vec!["curl".to_owned(), "-sS".to_owned()];
        // Names below `localhost` lead to this machine by themselves; others need the header.
        let port = self.address.rsplit_once(':').map(|(_, port)| port).unwrap_or_default();
        if self.host.ends_with(".localhost") {
            words.push(quoted(&format!("http://{}:{port}{}", self.host, self.path)));
        } else {
            words.push(quoted(&format!("http://{}{}", self.address, self.path)));
            words.push(format!("-H {}", quoted(&format!("Host: {}", self.host))));
        }
        words.extend(headers.iter().map(|header| format!("-H {}", quoted(header))));
        if let Some(body) = body {
            words.push("-H 'Content-Type: application/json'".to_owned());
            words.push(format!("-d {}", quoted(body)));
        }
        words.join(" ")
    }
}

/// Runs the verb.
///
/// # Errors
/// The daemon is not there, there is no such service, or the service answers with an error.
pub async fn run(home: &Utf8Path, args: PredictArgs) -> Result<Exit> {
    let body = args.data.as_deref().map(body).transpose()?;
    let client = Client::find(home)?;
    let service = find::get(&client, SERVICE, &args.namespace.namespace, &args.name).await?;
    let protocol = match args.protocol.or_else(|| body.as_deref().and_then(Protocol::of_body)) {
        Some(protocol) => protocol,
        None => protocol_of(&client, &service).await,
    };
    let model = args.model.as_deref().unwrap_or(&args.name);
    let path = args.path.clone().unwrap_or_else(|| protocol.path(model));
    let route = Route { address: client.addresses.data.clone(), host: host(&service, &args), path };
    if args.print_curl {
        let data = args.data.as_deref().map(|data| if data == "-" { "@-" } else { data });
        output::line(&route.curl(data, &args.header))?;
        return Ok(Exit::Done);
    }
    let Some(body) = body else {
        return Err(Problem::usage("what shall be predicted?")
            .hint("give the request body with -d '{\"instances\": …}', -d @FILE or -d -")
            .into());
    };
    send(&client, &route, body, &args, &service).await
}

fn body(data: &str) -> Result<String> {
    let unreadable = |name: &str, error| Problem::usage(format!("could not read `{name}`")).because(error);
    if data == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(|error: std::io::Error| unreadable("stdin", error))?;
        return Ok(text);
    }
    match data.strip_prefix('@') {
        Some(path) => Ok(std::fs::read_to_string(path).map_err(|error| unreadable(path, error))?),
        None => Ok(data.to_owned()),
    }
}

/// Returns the host of the service's URL, or the one it will have.
fn host(service: &Value, args: &PredictArgs) -> String {
    let url = service["status"]["url"].as_str().and_then(|url| url::Url::parse(url).ok());
    let host = url.and_then(|url| url.host_str().map(str::to_owned));
    host.unwrap_or_else(|| format!("{}-{}.localhost", args.name, args.namespace.namespace))
}

/// Returns the protocol a service says it speaks, or its runtime.
pub async fn protocol_of(client: &Client, service: &Value) -> Protocol {
    let predictor = &service["spec"]["predictor"];
    let written = predictor["model"]["protocolVersion"].as_str().or_else(|| {
        let frameworks = predictor.as_object()?;
        frameworks.values().find_map(|framework| framework["protocolVersion"].as_str())
    });
    if let Some(protocol) = written.and_then(Protocol::of_name) {
        return protocol;
    }
    let status = &service["status"];
    let namespace = service["metadata"]["namespace"].as_str().unwrap_or_default();
    let (kind, name) = match status["clusterServingRuntimeName"].as_str() {
        Some(name) => (Kind::ClusterServingRuntime, name),
        None => (Kind::ServingRuntime, status["servingRuntimeName"].as_str().unwrap_or_default()),
    };
    let runtime = client.get(&find::path_of(Resource::Object(kind), namespace, name)).await.unwrap_or_default();
    let spoken = runtime["spec"]["protocolVersions"].as_array().cloned().unwrap_or_default();
    // A service that names no protocol speaks V1 when its runtime does.
    let speaks = |name: &str| spoken.iter().any(|protocol| protocol == name);
    if speaks("v2") && !speaks("v1") { Protocol::V2 } else { Protocol::V1 }
}

async fn send(client: &Client, route: &Route, body: String, args: &PredictArgs, service: &Value) -> Result<Exit> {
    let url = format!("http://{}{}", route.address, route.path);
    let mut request = client.http().post(&url).timeout(Duration::from_secs(args.timeout)).body(body);
    request = request.header("host", &route.host).header("content-type", "application/json");
    for header in &args.header {
        let Some((name, value)) = header.split_once(':') else {
            return Err(Problem::usage(format!("`{header}` is not NAME: VALUE")).into());
        };
        request = request.header(name.trim(), value.trim());
    }
    let failed = |error: reqwest::Error| {
        Problem::machine(format!("could not send the request to {}", route.address)).because(error.without_url())
    };
    let response = request.send().await.map_err(failed)?;
    let code = response.status();
    let text = response.text().await.map_err(failed)?;
    if code.is_success() {
        output::print(&text)?;
        if !text.ends_with('\n') {
            output::print("\n")?;
        }
        return Ok(Exit::Done);
    }
    let said: String = text.trim().chars().take(HINT_LIMIT).collect();
    let problem = Problem::not_so(format!("`{}` answered {code} at {}: {said}", args.name, route.path));
    let ready = condition(service, "Ready").is_some_and(|ready| ready["status"] == "True");
    Err(if ready {
        problem.hint("the service is ready: look at the body, --protocol, --model and --path").into()
    } else {
        problem.hint(format!("the service is not ready: see `kserve-local describe isvc {}`", args.name)).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curl_can_be_pasted() {
        let mut route = Route {
            address: "127.0.0.1:8080".to_owned(),
            host: "iris-default.localhost".to_owned(),
            path: Protocol::V1.path("iris"),
        };
        assert_eq!(
            route.curl(Some("{\"instances\": [[1]]}"), &[]),
            "curl -sS http://iris-default.localhost:8080/v1/models/iris:predict -H 'Content-Type: application/json' -d '{\"instances\": [[1]]}'"
        );
        route.host = "iris-default.example.com".to_owned();
        route.path = Protocol::V2.path("iris");
        assert_eq!(
            route.curl(Some("@x.json"), &[]),
            "curl -sS http://127.0.0.1:8080/v2/models/iris/infer -H 'Host: iris-default.example.com' -H 'Content-Type: application/json' -d @x.json"
        );
    }

    #[test]
    fn the_body_tells_the_protocol() {
        assert_eq!(Protocol::of_body("{\"inputs\": []}"), Some(Protocol::V2));
        assert_eq!(Protocol::of_body("{\"instances\": []}"), Some(Protocol::V1));
        assert_eq!(Protocol::of_body("{\"model\": \"x\"}"), None);
    }
}
