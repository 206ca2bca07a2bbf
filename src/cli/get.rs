//! `get`: objects in columns, or in full.

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::time::Duration;

use anyhow::Result;
use camino::Utf8Path;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use futures::{FutureExt, Stream, StreamExt};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::client::{AS_TABLE, Client, ClientError};
use super::complete;
use super::find::{self, escaped, items, path_of};
use super::follow::{self, WatchEvent};
use super::format::{Format, list_of};
use super::output::{self, Grid};
use super::report::{self, Exit, Problem, exit_of};
use super::screen::Screen;
use super::wanted::{NamespaceArgs, Wanted};
use crate::kubeapi::age::age;
use crate::kubeapi::resource::Resource;
use crate::reconcile::clock::Clock;

/// Show objects: isvc, runtimes, pods, events, secrets, configmaps, serviceaccounts, namespaces.
#[derive(Clone, Debug, Args)]
pub struct GetArgs {
    /// KIND[,KIND…] [NAME…], or KIND/NAME…
    #[arg(value_name = "KIND", required = true, add = ArgValueCompleter::new(complete::object))]
    pub objects: Vec<String>,
    /// Namespace.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// All namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// wide, yaml, json, name or jsonpath=TEMPLATE
    #[arg(short, long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
    pub output: Format,
    /// Only objects with these labels
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    /// Only objects with these fields
    #[arg(long, value_name = "FIELDS")]
    pub field_selector: Option<String>,
    /// Go on, and show every change
    #[arg(short, long)]
    pub watch: bool,
    /// Leave out the heads of the columns
    #[arg(long)]
    pub no_headers: bool,
}

/// Runs the verb.
///
/// # Errors
/// The daemon is not there, or there is no such object.
pub async fn run(home: &Utf8Path, args: GetArgs) -> Result<Exit> {
    let wanted = Wanted::parse(&args.objects)?;
    let client = Client::find(home)?;
    if args.watch {
        return watch(&client, &wanted, &args).await;
    }
    match (wanted, args.output.is_table()) {
        (Wanted::All(resources), true) => tables(&client, &resources, &args).await,
        (Wanted::All(resources), false) => lists(&client, &resources, &args).await,
        (Wanted::Named(objects), _) => named(&client, &objects, &args).await,
    }
}

impl GetArgs {
    /// Returns the path of a collection with the selectors.
    fn collection(&self, resource: Resource) -> String {
        let namespace = (!self.all_namespaces).then_some(self.namespace.namespace.as_str());
        let selector = |text: &Option<String>| escaped(text.as_deref().unwrap_or_default());
        let (labels, fields) = (selector(&self.selector), selector(&self.field_selector));
        format!("{}?labelSelector={labels}&fieldSelector={fields}&", resource.path(namespace))
    }
}

async fn tables(client: &Client, resources: &[Resource], args: &GetArgs) -> Result<Exit> {
    let mut blocks = Vec::new();
    for resource in resources {
        let table = client.get_table(&args.collection(*resource)).await?;
        let mut rows = Rows::new(args, (resources.len() > 1).then_some(*resource));
        rows.add(&table);
        blocks.extend(rows.take_text());
    }
    if blocks.is_empty() {
        output::note(&nothing_found(resources, args));
    }
    output::print(&blocks.join("\n"))?;
    Ok(Exit::Done)
}

fn nothing_found(resources: &[Resource], args: &GetArgs) -> String {
    if args.all_namespaces || !resources.iter().any(|resource| resource.is_namespaced()) {
        "No resources found".to_owned()
    } else {
        format!("No resources found in {} namespace.", args.namespace.namespace)
    }
}

async fn lists(client: &Client, resources: &[Resource], args: &GetArgs) -> Result<Exit> {
    let mut all = Vec::new();
    for resource in resources {
        let list = client.get(&args.collection(*resource)).await?;
        all.extend(items(&list).into_iter().map(|item| typed(*resource, item)));
    }
    output::print(&args.output.render(&list_of(all))?)?;
    Ok(Exit::Done)
}

/// Returns an item with its kind, which lists may leave out.
fn typed(resource: Resource, item: &Value) -> Value {
    let mut item = item.clone();
    item["kind"] = resource.kind().into();
    item["apiVersion"] = resource.api_version().into();
    item
}

async fn named(client: &Client, objects: &[(Resource, String)], args: &GetArgs) -> Result<Exit> {
    let (mut found, mut exit) = (Vec::new(), Exit::Done);
    let mut rows: Vec<(Resource, Rows)> = Vec::new();
    let several = objects.iter().any(|(resource, _)| *resource != objects[0].0);
    for (resource, name) in objects {
        let namespace = &args.namespace.namespace;
        let object = match find::get(client, *resource, namespace, name).await {
            Ok(object) => object,
            Err(error) if objects.len() == 1 => return Err(error),
            Err(error) => {
                // The others are shown all the same.
                report::report(&error);
                exit = exit.max(exit_of(&error));
                continue;
            }
        };
        if !args.output.is_table() {
            found.push(object);
            continue;
        }
        let table = client.get_table(&path_of(*resource, namespace, name)).await?;
        if rows.last().is_none_or(|(last, _)| last != resource) {
            rows.push((*resource, Rows::new(args, several.then_some(*resource))));
        }
        if let Some((_, rows)) = rows.last_mut() {
            rows.add(&table);
        }
    }
    let text = match found.as_slice() {
        [] => rows.into_iter().filter_map(|(_, mut rows)| rows.take_text()).collect::<Vec<_>>().join("\n"),
        [one] if objects.len() == 1 => args.output.render(one)?,
        _ => args.output.render(&list_of(found))?,
    };
    output::print(&text)?;
    Ok(exit)
}

async fn watch(client: &Client, wanted: &Wanted, args: &GetArgs) -> Result<Exit> {
    let (resource, path) = match wanted {
        Wanted::All(resources) => match resources.as_slice() {
            [one] => (*one, args.collection(*one)),
            _ => return Err(Problem::usage("only one kind can be watched at a time").into()),
        },
        Wanted::Named(objects) => match objects.as_slice() {
            [(resource, name)] => {
                find::get(client, *resource, &args.namespace.namespace, name).await?;
                let path = resource.path(Some(&args.namespace.namespace));
                (*resource, format!("{path}?fieldSelector=metadata.name%3D{}&", escaped(name)))
            }
            _ => return Err(Problem::usage("only one object can be watched at a time").into()),
        },
    };
    let accept = if args.output.is_table() { AS_TABLE } else { "application/json" };
    let mut events = pin!(follow::watch(client, &format!("{path}watch=true"), accept).await?);
    if let Some(screen) = Screen::on_terminal().filter(|_| args.output.is_table()) {
        return live(screen, events, args).await;
    }
    let mut rows = Rows::new(args, None);
    while let Some(event) = events.next().await {
        let event = event?;
        match event.kind.as_str() {
            "BOOKMARK" => continue,
            "ERROR" => {
                let message = event.object["message"].as_str().unwrap_or("the watch ended").to_owned();
                return Err(Problem::not_so(message).into());
            }
            _ if args.output.is_table() => {
                rows.add(&event.object);
                output::print(&rows.take_text().unwrap_or_default())?;
            }
            _ => output::print(&args.output.render(&typed(resource, &event.object))?)?,
        }
    }
    output::note("the daemon ended the watch");
    Ok(Exit::Done)
}

/// How often ages are brought up to date.
const TICK: Duration = Duration::from_secs(1);

/// Keeps one table on the terminal up to date.
async fn live<S>(mut screen: Screen, mut events: Pin<&mut S>, args: &GetArgs) -> Result<Exit>
where
    S: Stream<Item = Result<WatchEvent, ClientError>>,
{
    let mut board = Board::default();
    let mut tick = tokio::time::interval(TICK);
    'watch: loop {
        let event = tokio::select! {
            // Losing a wait for the next event loses no event.
            event = events.next() => match event {
                Some(event) => Some(event?),
                None => break 'watch,
            },
            _ = tick.tick() => None,
        };
        event.map_or(Ok(()), |event| board.take(event))?;
        // What comes in one burst is shown once.
        while let Some(next) = events.next().now_or_never() {
            match next {
                Some(event) => board.take(event?)?,
                None => break 'watch,
            }
        }
        let mut rows = Rows::new(args, None);
        rows.add(&board.table(Clock::start().now().wall));
        screen.show(&rows.take_text().unwrap_or_else(|| "nothing there yet\n".to_owned()))?;
    }
    output::note("the daemon ended the watch");
    Ok(Exit::Done)
}

/// The rows of a watched table, by namespace and name.
#[derive(Default)]
struct Board {
    columns: Value,
    rows: BTreeMap<(String, String), Value>,
}

impl Board {
    fn take(&mut self, event: WatchEvent) -> Result<()> {
        match event.kind.as_str() {
            "BOOKMARK" => return Ok(()),
            "ERROR" => {
                let message = event.object["message"].as_str().unwrap_or("the watch ended").to_owned();
                return Err(Problem::not_so(message).into());
            }
            _ => {}
        }
        let mut table = event.object;
        if table["columnDefinitions"].as_array().is_some_and(|columns| !columns.is_empty()) {
            self.columns = table["columnDefinitions"].take();
        }
        for row in table["rows"].as_array_mut().into_iter().flatten() {
            let metadata = &row["object"]["metadata"];
            let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
            let key = (text("namespace"), text("name"));
            match event.kind.as_str() {
                "DELETED" => drop(self.rows.remove(&key)),
                _ => drop(self.rows.insert(key, row.take())),
            }
        }
        Ok(())
    }

    /// The table as it is now: ages are counted here.
    fn table(&self, now: Timestamp) -> Value {
        let columns = self.columns.as_array().map(Vec::as_slice).unwrap_or_default();
        let at = columns.iter().position(|column| column["name"] == "Age");
        let aged = |row: &Value| {
            let mut row = row.clone();
            let made: Option<Timestamp> =
                row["object"]["metadata"]["creationTimestamp"].as_str().and_then(|text| text.parse().ok());
            if let (Some(at), Some(made)) = (at, made) {
                row["cells"][at] = age(made, now).into();
            }
            row
        };
        json!({"columnDefinitions": columns, "rows": self.rows.values().map(aged).collect::<Vec<_>>()})
    }
}

/// Rows of Tables, as they are printed.
pub struct Rows {
    wide: bool,
    with_namespace: bool,
    /// Kind to put before names, when several kinds are shown.
    kind: Option<Resource>,
    hide_heads: bool,
    grid: Option<Grid>,
}

impl Rows {
    fn new(args: &GetArgs, kind: Option<Resource>) -> Self {
        Self {
            wide: args.output == Format::Wide,
            with_namespace: args.all_namespaces,
            kind,
            hide_heads: args.no_headers,
            grid: None,
        }
    }

    /// Rows without kinds, for other verbs.
    pub fn plain(with_namespace: bool) -> Self {
        Self { wide: false, with_namespace, kind: None, hide_heads: false, grid: None }
    }

    /// Adds the rows of a Table.
    pub fn add(&mut self, table: &Value) {
        let empty = Vec::new();
        let columns = table["columnDefinitions"].as_array().unwrap_or(&empty);
        let shown: Vec<usize> =
            (0..columns.len()).filter(|at| self.wide || columns[*at]["priority"].as_i64() == Some(0)).collect();
        let grid = self.grid.get_or_insert_with(|| {
            let heads = shown.iter().filter_map(|at| columns[*at]["name"].as_str());
            let mut grid = Grid::new(self.with_namespace.then_some("Namespace").into_iter().chain(heads));
            if self.hide_heads {
                grid.hide_heads();
            }
            grid
        });
        for row in table["rows"].as_array().unwrap_or(&empty) {
            let mut cells: Vec<String> = shown.iter().map(|at| cell(&row["cells"][*at])).collect();
            if let (Some(kind), Some(first)) = (self.kind, cells.first_mut()) {
                *first = format!("{}/{first}", kind.qualified_singular());
            }
            if self.with_namespace {
                cells.insert(0, cell(&row["object"]["metadata"]["namespace"]));
            }
            grid.row(cells);
        }
    }

    /// Takes the rows out as text, if there are any.
    pub fn take_text(&mut self) -> Option<String> {
        self.grid.as_mut().filter(|grid| !grid.is_empty()).map(Grid::take_text)
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.replace('\n', " "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_keeps_the_newest_row_of_each_object_and_counts_ages_itself() {
        let event = |kind: &str, name: &str, ready: &str| WatchEvent {
            kind: kind.to_owned(),
            object: json!({
                "columnDefinitions": [{"name": "Name"}, {"name": "Ready"}, {"name": "Age"}],
                "rows": [{
                    "cells": [name, ready, "0s"],
                    "object": {"metadata": {"name": name, "creationTimestamp": "1970-01-01T00:00:00Z"}},
                }],
            }),
        };
        let mut board = Board::default();
        for (kind, name, ready) in
            [("ADDED", "b", "Unknown"), ("ADDED", "a", "True"), ("MODIFIED", "b", "True"), ("DELETED", "a", "True")]
        {
            board.take(event(kind, name, ready)).unwrap();
        }
        let table = board.table(Timestamp::from_second(90).unwrap());
        assert_eq!(table["rows"].as_array().unwrap().len(), 1);
        assert_eq!(table["rows"][0]["cells"], json!(["b", "True", "90s"]));
    }
}
