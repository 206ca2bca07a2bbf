//! `serve`: runs the daemon.

use anyhow::Result;
use camino::Utf8Path;
use clap::{Args, ValueEnum};

use super::report::Exit;

/// Run the daemon: watch the folder, run models, answer requests.
///
/// Ctrl-C stops the models it started; SIGTERM leaves them running for the next start.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Where prediction requests are answered; port 0 takes a free one, which `state/addresses.json` then names
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: String,
    /// Where the API, health and metrics are answered
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8090")]
    pub api_listen: String,
    /// What runs the containers
    #[arg(long, value_enum, default_value_t)]
    pub engine: EngineChoice,
    /// What is logged, for example `info` or `warn,kserve_local=debug`
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// How it is logged
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// What runs the containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum EngineChoice {
    /// Docker, when it answers
    #[default]
    Auto,
    /// Docker, Podman or anything else that speaks Docker's API
    Docker,
    /// Nothing runs: containers are imagined, for trying things out
    Memory,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// Runs the verb.
///
/// # Errors
/// The daemon could not start, or ended badly.
#[expect(clippy::unused_async, reason = "the daemon is awaited here once it is wired in")]
pub async fn run(home: &Utf8Path, args: ServeArgs) -> Result<Exit> {
    let _ = (home, args);
    anyhow::bail!("not wired yet")
}
