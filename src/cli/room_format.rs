//! What the verbs about memory and revisions share: `-o`, sizes, and the service that is meant.

use clap::ValueEnum;

use super::client::{Client, ClientError};
use super::find::not_found;
use super::report::Problem;
use crate::api::Kind;
use crate::kubeapi::resource::Resource;
use crate::plan::said::bytes;

/// How it is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum RoomFormat {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// Returns a size in a person's words.
pub(super) fn size(count: u64) -> String {
    bytes(count)
}

/// Gets something the daemon tells of one service.
pub(super) async fn of_service(
    client: &Client,
    namespace: &str,
    name: &str,
    what: &str,
) -> anyhow::Result<serde_json::Value> {
    // `isvc/name` is how other verbs take it.
    let name = name.rsplit_once('/').map_or(name, |(_, name)| name);
    let path = format!("/apis/kserve-local/v1/namespaces/{namespace}/services/{name}/{what}");
    match client.get(&path).await {
        Err(error) if error.is_not_found() => Err(missing(client, namespace, name, error).await.into()),
        other => Ok(other?),
    }
}

async fn missing(client: &Client, namespace: &str, name: &str, error: ClientError) -> Problem {
    not_found(client, Resource::Object(Kind::InferenceService), namespace, name, error).await
}
