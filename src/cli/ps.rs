//! `ps`: what runs, what it holds, and for how long.

use std::fmt::Write;
use std::time::Duration;

use anyhow::Result;
use camino::Utf8Path;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use serde_json::Value;

use super::client::Client;
use super::complete;
use super::format::TextOrJson;
use super::output::{self, Grid};
use super::report::Exit;
use super::screen::Screen;
use crate::plan::said::bytes as size;

/// Show what runs, the memory it holds, and until when.
#[derive(Clone, Debug, Args)]
pub struct PsArgs {
    /// Only this namespace [default: all]
    #[arg(short, long, value_name = "NAME", add = ArgValueCompleter::new(complete::namespace))]
    pub namespace: Option<String>,
    /// How it is shown
    #[arg(short, long, value_enum, default_value_t)]
    pub output: TextOrJson,
    /// Go on, and show every change
    #[arg(short, long)]
    pub watch: bool,
}

/// How often a watched view is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Runs the verb.
///
/// # Errors
/// The daemon is not there.
pub async fn run(home: &Utf8Path, args: PsArgs) -> Result<Exit> {
    let client = Client::find(home)?;
    if args.watch {
        return watch(&client, &args).await;
    }
    let answer = ask(&client, &args).await?;
    if args.output == TextOrJson::Json {
        output::line(&format!("{answer:#}"))?;
        return Ok(Exit::Done);
    }
    output::print(&table(&answer))?;
    output::note(&machine(&answer["machine"]));
    Ok(Exit::Done)
}

async fn ask(client: &Client, args: &PsArgs) -> Result<Value> {
    let mut answer = client.get("/apis/kserve-local/v1/ps").await?;
    if let (Some(namespace), Some(items)) = (&args.namespace, answer["items"].as_array_mut()) {
        items.retain(|item| item["namespace"] == namespace.as_str());
    }
    Ok(answer)
}

/// Keeps the view up to date on a terminal; elsewhere prints each line again when it has changed.
async fn watch(client: &Client, args: &PsArgs) -> Result<Exit> {
    let mut screen = Screen::on_terminal().filter(|_| args.output == TextOrJson::Text);
    let mut before = Vec::new();
    loop {
        let answer = ask(client, args).await?;
        let text = match args.output {
            TextOrJson::Json => format!("{answer}\n"),
            TextOrJson::Text => table(&answer),
        };
        match &mut screen {
            Some(screen) => screen.show(&format!("{text}{}\n", machine(&answer["machine"])))?,
            None => {
                let lines: Vec<String> = text.lines().map(str::to_owned).collect();
                for line in lines.iter().filter(|line| !before.contains(*line)) {
                    output::line(line)?;
                }
                before = lines;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn table(answer: &Value) -> String {
    let mut grid = Grid::new(["Namespace", "Service", "Revision", "Phase", "Memory", "Used", "Device", "Until"]);
    for item in answer["items"].as_array().into_iter().flatten() {
        let text = |field: &str| item[field].as_str().unwrap_or_default().to_owned();
        let memory = match item["memory"].as_u64() {
            Some(0) | None => "-".to_owned(),
            Some(bytes) => format!("{} ({})", size(bytes), text("basis")),
        };
        let gpus: Vec<&str> = item["gpus"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let until = match (item["until"].as_str(), item["standing"].as_str()) {
            (Some(until), _) => until.to_owned(),
            (None, Some("asleep")) => "asked".to_owned(),
            (None, Some(standing)) => standing.to_owned(),
            (None, None) => String::new(),
        };
        grid.row([
            text("namespace"),
            text("service"),
            text("revision"),
            match item["answersIn"].as_u64() {
                Some(seconds) => format!("{} ({seconds} s)", text("phase")),
                None => text("phase"),
            },
            memory,
            item["used"].as_u64().map_or_else(|| "-".to_owned(), size),
            if gpus.is_empty() { "CPU".to_owned() } else { gpus.join(",") },
            until,
        ]);
    }
    grid.take_text()
}

fn machine(machine: &Value) -> String {
    let bytes = |field: &str| machine[field].as_u64();
    let held = size(bytes("held").unwrap_or_default());
    let Some(limit) = bytes("limit") else { return format!("models hold {held}; what this machine has is not known") };
    let mut text = format!("models hold {held} of {}", size(limit));
    if let Some(budget) = bytes("budget") {
        let _ = write!(text, "; budget {}", size(budget));
    }
    if let Some(total) = bytes("total") {
        let (others, reserve) = (bytes("others").unwrap_or_default(), bytes("reserve").unwrap_or_default());
        let _ = write!(text, "; machine {}, others {}, reserve {}", size(total), size(others), size(reserve));
    }
    for gpu in machine["gpus"].as_array().into_iter().flatten() {
        let part = |field: &str| size(gpu[field].as_u64().unwrap_or_default());
        let name = gpu["uuid"].as_str().unwrap_or_default();
        let _ = write!(text, "; {name}: {} of {} held, others {}", part("held"), part("total"), part("others"));
    }
    text
}
