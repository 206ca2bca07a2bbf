//! `version`: ours, the daemon's when one runs, and which build it is.

use anyhow::Result;
use camino::Utf8Path;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::client::Client;
use super::format::Format;
use super::output;
use super::report::Exit;
use super::serve::EngineChoice;
use crate::api::{Kind, StorageUri};
use crate::engine;
use crate::kubeapi::discovery;
use crate::provenance::{BUILD, Build};

/// Print the version.
///
/// As JSON or YAML also the build (commit, compiler, platform, date) and what it can do: engines, API of container
/// engines, schemes of models, kinds of objects. What is not known of a build is null.
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
    let daemon = match Client::answering(home).await {
        Ok(client) => client.get("/version").await.ok().and_then(|version| Daemon::read(&version)),
        Err(_) => None,
    };
    if args.output.is_table() {
        output::line(&line(&BUILD))?;
        let differs = |daemon: &&Daemon| daemon.version != BUILD.version || daemon.commit.as_deref() != BUILD.commit;
        if let Some(daemon) = daemon.as_ref().filter(differs) {
            output::line(&daemon.line())?;
        }
    } else {
        output::print(&args.output.render(&report(&BUILD, daemon.as_ref()))?)?;
    }
    Ok(Exit::Done)
}

/// What a running daemon says of itself.
#[derive(Debug, PartialEq)]
struct Daemon {
    version: String,
    commit: Option<String>,
}

impl Daemon {
    fn read(answer: &Value) -> Option<Self> {
        let version = answer["gitVersion"].as_str()?.split_once("+kserve-local.")?.1.to_owned();
        let commit = answer["gitCommit"].as_str().filter(|commit| !commit.is_empty()).map(str::to_owned);
        Some(Self { version, commit })
    }

    fn line(&self) -> String {
        let commit = self.commit.as_deref().map(|commit| format!(" ({})", commit.get(..12).unwrap_or(commit)));
        format!("daemon       {}{}", self.version, commit.unwrap_or_default())
    }
}

fn platform() -> String {
    format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH)
}

fn line(build: &Build) -> String {
    let known = [Some(platform()), build.short_commit().map(|commit| format!("commit {commit}")), build.day()];
    let known: Vec<String> = known.into_iter().flatten().collect();
    format!("kserve-local {} ({})", build.version, known.join(", "))
}

/// Returns the names of what can run models, as `--engine` takes them.
fn engines() -> Vec<String> {
    let chosen = EngineChoice::value_variants().iter().filter(|choice| **choice != EngineChoice::Auto);
    chosen.filter_map(|choice| Some(choice.to_possible_value()?.get_name().to_owned())).collect()
}

fn report(build: &Build, daemon: Option<&Daemon>) -> Value {
    let api = |(major, minor): (usize, usize)| format!("{major}.{minor}");
    let oldest = (engine::OLDEST_API.0 as usize, engine::OLDEST_API.1 as usize);
    json!({
        "version": build.version,
        "platform": platform(),
        "daemon": daemon.map(|daemon| &daemon.version),
        "daemonCommit": daemon.and_then(|daemon| daemon.commit.as_ref()),
        "build": build.to_json(),
        "engines": engines(),
        "engineApi": {"oldest": api(oldest), "newest": api(engine::newest_api())},
        "kubernetesApi": discovery::kubernetes_version(),
        "storageSchemes": StorageUri::SCHEMES,
        "kinds": Kind::ALL.map(|kind| format!("{}/{}", kind.api_version(), kind.as_str())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELEASE: Build = Build {
        version: "1.2.3",
        commit: Some("0123456789abcdef0123456789abcdef01234567"),
        dirty: Some(true),
        epoch: Some(1_700_000_000),
        ..BUILD
    };

    #[test]
    fn one_line_says_what_is_known() {
        let platform = platform();
        assert_eq!(line(&RELEASE), format!("kserve-local 1.2.3 ({platform}, commit 0123456789ab+, 2023-11-14)"));
        let unknown = Build { commit: None, epoch: None, ..RELEASE };
        assert_eq!(line(&unknown), format!("kserve-local 1.2.3 ({platform})"));
    }

    #[test]
    fn the_daemon_is_told_apart_by_its_commit() {
        let answer = json!({"gitVersion": "v1.34.0+kserve-local.1.2.3", "gitCommit": "abc"});
        let daemon = Daemon::read(&answer).unwrap();
        assert_eq!(daemon.line(), "daemon       1.2.3 (abc)");
        assert_eq!(report(&RELEASE, Some(&daemon))["daemonCommit"], "abc");
        assert_eq!(Daemon::read(&json!({"gitVersion": "v1.34.0"})), None);
    }

    #[test]
    fn json_says_what_this_build_can_do() {
        let report = report(&RELEASE, None);
        assert_eq!(report["build"]["date"], "2023-11-14T22:13:20Z");
        assert_eq!(report["engineApi"]["oldest"], "1.40");
        assert!(report["storageSchemes"].as_array().unwrap().contains(&json!("hf")));
        assert!(report["kinds"].as_array().unwrap().contains(&json!("serving.kserve.io/v1beta1/InferenceService")));
        assert_eq!(report["engines"], json!(["docker", "process", "memory"]));
        assert_eq!(report["daemon"], Value::Null);
    }
}
