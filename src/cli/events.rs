//! `events`: what happened, oldest first.

use std::fmt::Write as _;
use std::pin::pin;

use anyhow::Result;
use camino::Utf8Path;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use futures::StreamExt;
use serde_json::Value;

use super::client::{AS_TABLE, Client};
use super::complete;
use super::diagnosis;
use super::find::escaped;
use super::follow;
use super::get::Rows;
use super::output;
use super::report::{Exit, Problem};
use super::wanted::{NamespaceArgs, kind};
use crate::diagnosis::Standing;
use crate::kubeapi::resource::Resource;

/// Services that are spoken of above the events.
const MOST_TOLD: usize = 3;

/// Show what happened, oldest first, below why services are not ready.
#[derive(Clone, Debug, Args)]
pub struct EventsArgs {
    /// Namespace.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// All namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Only events about this object
    #[arg(long = "for", value_name = "KIND/NAME", add = ArgValueCompleter::new(complete::about))]
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
    output::print(&trouble(&client, home, &args).await?)?;
    let mut table = client.get_table(&format!("{path}includeObject=Object")).await?;
    sort_oldest_first(&mut table);
    let mut rows = Rows::plain(args.all_namespaces);
    rows.add(&table);
    match rows.take_text() {
        Some(text) => output::print(&text)?,
        None if args.watch => {}
        None => output::note("No events found"),
    }
    if args.watch {
        let since = table["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        return watch(&client, &format!("{path}watch=true&resourceVersion={since}"), rows).await;
    }
    Ok(Exit::Done)
}

/// Sorts the rows of a Table of events by when they were last seen; within a second, by the number in their name.
fn sort_oldest_first(table: &mut Value) {
    let number = |name: &str| u64::from_str_radix(name.rsplit('.').next().unwrap_or_default(), 16).unwrap_or_default();
    if let Some(rows) = table["rows"].as_array_mut() {
        rows.sort_by_cached_key(|row| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let event = &row["object"];
            (text(&event["lastTimestamp"]), number(&text(&event["metadata"]["name"])))
        });
    }
}

/// Says why what is asked about is not ready; of all services, the first few.
async fn trouble(client: &Client, home: &Utf8Path, args: &EventsArgs) -> Result<String> {
    let namespace = args.namespace.namespace.as_str();
    if let Some((word, name)) = args.about.as_deref().and_then(|about| about.split_once('/')) {
        // Events may be left of what is not there any more.
        let found = diagnosis::find_out(client, home, kind(word)?, namespace, name).await.ok();
        let told = found.filter(|found| found.diagnosis.standing != Standing::Ready && found.can_be_ready());
        return Ok(told.map(|found| found.text() + "\n").unwrap_or_default());
    }
    let all = diagnosis::troubled(client, home, (!args.all_namespaces).then_some(namespace)).await?;
    let mut text: String = all.iter().take(MOST_TOLD).map(|one| diagnosis::lines(one) + "\n").collect();
    if let Some(more) = all.len().checked_sub(MOST_TOLD).filter(|more| *more > 0) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{more} more are not ready: kserve-local get isvc -o wide\n");
    }
    Ok(text)
}

async fn watch(client: &Client, path: &str, mut rows: Rows) -> Result<Exit> {
    let mut events = pin!(follow::watch(client, path, AS_TABLE).await?);
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_shown_oldest_first_whatever_they_are_about() {
        let row = |name: &str, last: &str| json!({"object": {"metadata": {"name": name}, "lastTimestamp": format!("2026-11-22T10:00:{last}Z")}});
        let mut table = json!({"rows": [row("a.c", "09"), row("b.10", "07"), row("c.f", "07"), row("d.1", "08")]});
        sort_oldest_first(&mut table);
        let names: Vec<&str> = table["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["object"]["metadata"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["c.f", "b.10", "d.1", "a.c"]);
    }
}
