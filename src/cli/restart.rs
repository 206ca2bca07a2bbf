//! `restart`: new containers for a service, one revision further.

use anyhow::Result;
use camino::Utf8Path;
use clap::Args;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::client::Client;
use super::find::{self, path_of};
use super::output;
use super::report::Exit;
use super::wanted::{NamespaceArgs, Wanted};
use crate::api::meta::RESTARTED_AT;

/// Start a service's containers anew, as `kubectl rollout restart` does: the new ones are ready before the old ones stop.
#[derive(Clone, Debug, Args)]
pub struct RestartArgs {
    /// Names of InferenceServices
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    /// Namespace.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
}

/// Runs the verb.
///
/// # Errors
/// No daemon runs, or there is no such service.
pub async fn run(home: &Utf8Path, args: RestartArgs) -> Result<Exit> {
    let client = Client::find(home)?;
    for name in &args.names {
        let name = name.rsplit_once('/').map_or(name.as_str(), |(_, name)| name);
        let wanted = Wanted::parse(&["isvc".to_owned(), name.to_owned()])?;
        let Wanted::Named(named) = wanted else { continue };
        for (resource, name) in named {
            let path = path_of(resource, &args.namespace.namespace, &name);
            let found = find::get(&client, resource, &args.namespace.namespace, &name).await?;
            let patch = patch(&found, now());
            client.patch(&path, &patch).await?;
            output::line(&format!("inferenceservice.serving.kserve.io/{name} restarted"))?;
        }
    }
    Ok(Exit::Done)
}

/// A merge patch that marks the pods of every component.
fn patch(service: &Value, at: Timestamp) -> Value {
    let present =
        ["predictor", "transformer", "explainer"].into_iter().filter(|name| service["spec"][*name].is_object());
    let mark = json!({"annotations": {RESTARTED_AT: at.to_string()}});
    let spec: Map<String, Value> = present.map(|name| (name.to_owned(), mark.clone())).collect();
    json!({"spec": spec})
}

#[expect(clippy::disallowed_methods, reason = "the mark is the time at which the person asked")]
fn now() -> Timestamp {
    Timestamp::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_component_that_is_there_is_marked() {
        let service = json!({"spec": {"predictor": {"model": {}}, "transformer": {"containers": []}}});
        let patch = patch(&service, "2026-01-02T03:04:05Z".parse().unwrap());
        let mark = json!({"annotations": {"kubectl.kubernetes.io/restartedAt": "2026-01-02T03:04:05Z"}});
        assert_eq!(patch, json!({"spec": {"predictor": mark, "transformer": mark}}));
    }
}
