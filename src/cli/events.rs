//! `events`: what happened, oldest first.

use std::pin::pin;

use anyhow::Result;
use camino::Utf8Path;
use clap::Args;
use futures::StreamExt;

use super::client::{AS_TABLE, Client};
use super::find::escaped;
use super::follow;
use super::get::Rows;
use super::output;
use super::report::{Exit, Problem};
use super::wanted::{NamespaceArgs, kind};
use crate::kubeapi::resource::Resource;

/// Show what happened, oldest first.
#[derive(Clone, Debug, Args)]
pub struct EventsArgs {
    /// Namespace.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// All namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Only events about this object
    #[arg(long = "for", value_name = "KIND/NAME")]
    pub about: Option<String>,
    /// Go on, and show what happens next
    #[arg(short, long)]
    pub watch: bool,
}

/// Runs the verb.
///
/// # Errors
/// The daemon is not there.
pub async fn run(home: &Utf8Path, args: EventsArgs) -> Result<Exit> {
    let client = Client::find(home)?;
    let namespace = (!args.all_namespaces).then_some(args.namespace.namespace.as_str());
    let about = args.about.as_deref().map(selector).transpose()?.unwrap_or_default();
    let path = format!("{}?fieldSelector={}&", Resource::Events.path(namespace), escaped(&about));
    if args.watch {
        return watch(&client, &path, &args).await;
    }
    let table = client.get_table(&path).await?;
    let mut rows = Rows::plain(args.all_namespaces);
    rows.add(&table);
    match rows.take_text() {
        Some(text) => output::print(&text)?,
        None => output::note("No events found"),
    }
    Ok(Exit::Done)
}

async fn watch(client: &Client, path: &str, args: &EventsArgs) -> Result<Exit> {
    let mut events = pin!(follow::watch(client, &format!("{path}watch=true"), AS_TABLE).await?);
    let mut rows = Rows::plain(args.all_namespaces);
    while let Some(event) = events.next().await {
        let event = event?;
        if matches!(event.kind.as_str(), "ADDED" | "MODIFIED") {
            rows.add(&event.object);
            output::print(&rows.take_text().unwrap_or_default())?;
        }
    }
    Ok(Exit::Done)
}

/// Returns the field selector for events about `KIND/NAME`.
///
/// # Errors
/// It is not of that form, or there is no such kind.
pub fn selector(about: &str) -> Result<String> {
    let Some((word, name)) = about.split_once('/') else {
        return Err(Problem::usage(format!("`{about}` is not KIND/NAME")).into());
    };
    Ok(format!("involvedObject.kind={},involvedObject.name={name}", kind(word)?.kind()))
}
