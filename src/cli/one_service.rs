//! What the verbs about one service's memory and revisions share: which service is meant, and how it is shown.

use anyhow::Result;
use camino::Utf8Path;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use serde_json::Value;

use super::client::Client;
use super::complete;
use super::find::{SERVICE, not_found};
use super::format::TextOrJson;
use super::output;
use super::wanted::NamespaceArgs;

/// One service, and how what is told of it is shown.
#[derive(Clone, Debug, Args)]
pub struct OneService {
    /// Name of the InferenceService
    #[arg(add = ArgValueCompleter::new(complete::service))]
    pub name: String,
    /// Namespace.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// How it is shown
    #[arg(short, long, value_enum, default_value_t)]
    pub output: TextOrJson,
}

impl OneService {
    /// Gets something the daemon tells of the service. Where JSON is wanted, that is printed and nothing is returned.
    ///
    /// # Errors
    /// The daemon is not there, or there is no such service.
    pub async fn ask(&self, home: &Utf8Path, what: &str) -> Result<Option<Value>> {
        let answer = of_service(&Client::find(home)?, &self.namespace.namespace, &self.name, what).await?;
        if self.output == TextOrJson::Text {
            return Ok(Some(answer));
        }
        output::line(&format!("{answer:#}"))?;
        Ok(None)
    }
}

/// Gets something the daemon tells of one service.
pub(super) async fn of_service(client: &Client, namespace: &str, name: &str, what: &str) -> Result<Value> {
    // `isvc/name` is how other verbs take it.
    let name = name.rsplit_once('/').map_or(name, |(_, name)| name);
    let path = format!("/apis/kserve-local/v1/namespaces/{namespace}/services/{name}/{what}");
    match client.get(&path).await {
        Err(error) if error.is_not_found() => Err(not_found(client, SERVICE, namespace, name, error).await.into()),
        other => Ok(other?),
    }
}
