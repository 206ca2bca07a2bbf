//! `logs`: the output of a service's containers.

use anyhow::Result;
use bytes::Bytes;
use camino::Utf8Path;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use futures::stream::{self, StreamExt};
use serde_json::Value;

use super::client::{Client, ClientError};
use super::complete;
use super::diagnosis::{Found, find_out, lines, text_of};
use super::find::{self, SERVICE, path_of, pods_of};
use super::follow;
use super::output;
use super::report::{Exit, Problem};
use super::wanted::NamespaceArgs;
use crate::api::{ComponentKind, meta};
use crate::diagnosis::Standing;
use crate::kubeapi::resource::Resource;

/// Print the output of an InferenceService's containers.
#[derive(Clone, Debug, Args)]
pub struct LogsArgs {
    /// Name of an InferenceService or of one of its pods; isvc/NAME and pod/NAME are taken too
    #[arg(add = ArgValueCompleter::new(complete::service))]
    pub name: String,
    /// Namespace.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// Go on until the container ends
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    pub tail: Option<u64>,
    /// Only lines younger than this, for example 90s or 10m
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Container [default: the one that serves]
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// Component: predictor, transformer or explainer [default: all]
    #[arg(long, value_name = "NAME")]
    pub component: Option<String>,
    /// Begin every line with its time
    #[arg(long)]
    pub timestamps: bool,
}

/// Runs the verb.
///
/// # Errors
/// The daemon is not there, there is no such service or pod, or nothing of it has run; that is told as `describe` does.
pub async fn run(home: &Utf8Path, args: LogsArgs) -> Result<Exit> {
    let query = query(&args)?;
    let client = Client::find(home)?;
    let pods = pods(&client, home, &args).await?;
    let mut streams = Vec::new();
    for pod in &pods {
        let name = text_of(&pod["metadata"]["name"]).to_owned();
        let path = format!("{}/log?{query}", path_of(Resource::Pods, &args.namespace.namespace, &name));
        match client.stream(&path, "text/plain").await {
            Ok(bytes) => {
                let prefix = if pods.len() > 1 { format!("[{name}] ") } else { String::new() };
                streams.push(follow::lines(bytes).map(move |line| (prefix.clone(), line)).boxed());
            }
            // Another replica may have something to say.
            Err(error) if pods.len() > 1 => output::note(&format!("{name}: {error}")),
            // A container that never started is no wrong usage.
            Err(ClientError::Status { code: 400, message, .. }) => {
                let service = text_of(&pod["metadata"]["labels"][meta::INFERENCE_SERVICE_LABEL]);
                let found = find_out(&client, home, SERVICE, &args.namespace.namespace, service).await;
                return Err(no_output(message, found.ok().as_ref()).into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    if args.follow { print(stream::select_all(streams)).await } else { print(stream::iter(streams).flatten()).await }
}

/// Says that there is no output, and below it why the service is not ready.
fn no_output(message: String, found: Option<&Found>) -> Problem {
    // Of what serves, or was removed meanwhile, there is nothing to add.
    match found.filter(|found| found.diagnosis.cause == "asleep" || found.diagnosis.standing != Standing::Ready) {
        Some(found) => Problem::not_so(format!("{message}\n{}", lines(&found.diagnosis).trim_end())),
        None => Problem::not_so(message),
    }
}

async fn print(mut lines: impl stream::Stream<Item = (String, Result<Bytes, ClientError>)> + Unpin) -> Result<Exit> {
    while let Some((prefix, line)) = lines.next().await {
        output::line(&format!("{prefix}{}", String::from_utf8_lossy(&line?)))?;
    }
    Ok(Exit::Done)
}

fn query(args: &LogsArgs) -> Result<String> {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    if args.follow {
        query.append_pair("follow", "true");
    }
    if let Some(lines) = args.tail {
        query.append_pair("tailLines", &lines.to_string());
    }
    if let Some(since) = &args.since {
        let wrong = |_| Problem::usage(format!("`{since}` is no time")).hint("for example --since 10m");
        let span: jiff::SignedDuration = since.parse().map_err(wrong)?;
        query.append_pair("sinceSeconds", &span.as_secs().max(1).to_string());
    }
    if let Some(container) = &args.container {
        query.append_pair("container", container);
    }
    if args.timestamps {
        query.append_pair("timestamps", "true");
    }
    Ok(query.finish())
}

/// Returns the pods that are meant.
async fn pods(client: &Client, home: &Utf8Path, args: &LogsArgs) -> Result<Vec<Value>> {
    let namespace = &args.namespace.namespace;
    let (kind, name) = match args.name.split_once('/') {
        Some((word, name)) => (Some(super::wanted::kind(word)?), name),
        None => (None, args.name.as_str()),
    };
    if kind != Some(SERVICE) {
        match client.get(&path_of(Resource::Pods, namespace, name)).await {
            Ok(pod) => return Ok(vec![pod]),
            Err(error) if error.is_not_found() && kind.is_none() => {}
            Err(error) if error.is_not_found() => {
                return Err(find::not_found(client, Resource::Pods, namespace, name, error).await.into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    let component = args.component.as_deref();
    let own = |pod: &Value| component.is_none_or(|wanted| pod["metadata"]["labels"][meta::COMPONENT_LABEL] == wanted);
    let pods: Vec<Value> = pods_of(client, namespace, name).await?.into_iter().filter(own).collect();
    if !pods.is_empty() {
        return Ok(pods);
    }
    Err(nothing_runs(&find_out(client, home, SERVICE, namespace, name).await?, name, component).into())
}

fn nothing_runs(found: &Found, name: &str, component: Option<&str>) -> Problem {
    let what = component.map(|component| format!(" of its {component}")).unwrap_or_default();
    let message = format!("`{name}` has no containers{what} now");
    match component {
        Some(component) if ComponentKind::ALL.iter().all(|kind| kind.as_str() != component) => {
            Problem::not_so(message).hint("components are predictor, transformer and explainer")
        }
        _ => no_output(message, Some(found)),
    }
}
