//! `version`: ours, and the daemon's when one runs.

use anyhow::Result;
use camino::Utf8Path;
use clap::Args;
use serde_json::json;

use super::client::Client;
use super::format::Format;
use super::output;
use super::report::Exit;

/// Print the version.
#[derive(Clone, Debug, Args)]
pub struct VersionArgs {
    /// yaml, json or jsonpath=TEMPLATE
    #[arg(short, long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
    pub output: Format,
}

/// Runs the verb.
///
/// # Errors
/// Stdout is closed or full.
pub async fn run(home: &Utf8Path, args: VersionArgs) -> Result<Exit> {
    let ours = env!("CARGO_PKG_VERSION");
    let platform = format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH);
    let daemon = match Client::find(home) {
        Ok(client) => client.get("/version").await.ok(),
        Err(_) => None,
    };
    let daemon = daemon.and_then(|version| Some(version["gitVersion"].as_str()?.to_owned()));
    let daemon = daemon.and_then(|version| Some(version.split_once("+kserve-local.")?.1.to_owned()));
    if args.output.is_table() {
        output::line(&format!("kserve-local {ours} ({platform})"))?;
        if let Some(daemon) = daemon.filter(|daemon| daemon != ours) {
            output::line(&format!("daemon       {daemon}"))?;
        }
    } else {
        let version = json!({"version": ours, "platform": platform, "daemon": daemon});
        output::print(&args.output.render(&version)?)?;
    }
    Ok(Exit::Done)
}
