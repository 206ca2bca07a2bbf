//! `up`: a daemon in the background, ready when the verb ends.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use clap::Args;

use super::client::Client;
use super::output;
use super::report::{Exit, Problem};
use super::wait::duration;
use crate::home::Home;

/// How often the daemon is asked whether it is ready.
const LOOK: Duration = Duration::from_millis(50);
/// Length from which on a log is moved away at the start.
const TURN_AT: u64 = 8 << 20;
/// Lines of the log that are shown when the daemon ends at once.
const LAST_LINES: usize = 8;

/// Start the daemon in the background and wait until it answers. `down` ends it and its models.
#[derive(Clone, Debug, Args)]
pub struct UpArgs {
    /// Where prediction requests are answered [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Where the API is [default: 127.0.0.1:8090]
    #[arg(long, value_name = "ADDR")]
    pub api_listen: Option<String>,
    /// Longest time to wait for the daemon, for example 30s
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
}

/// Runs the verb.
///
/// # Errors
/// The daemon cannot be started, or does not answer in time.
pub async fn run(home: &Utf8Path, args: UpArgs) -> Result<Exit> {
    if let Ok(client) = Client::answering(home).await {
        output::line(&format!(
            "already up: predictions on {}, API on {}",
            client.addresses.data, client.addresses.api
        ))?;
        return Ok(Exit::Done);
    }
    Home::new(home).create().with_context(|| format!("could not make `{home}`"))?;
    let log = Home::new(home).state().join("daemon.log");
    turn(&log).with_context(|| format!("could not move `{log}` away"))?;
    let mut child = start(home, &args, &log)?;
    let ready = tokio::time::timeout(args.timeout, until_ready(home, &mut child)).await;
    match ready {
        Ok(Ok(client)) => {
            let Client { addresses, .. } = client;
            output::line(&format!("up: predictions on {}, API on {}", addresses.data, addresses.api))?;
            output::note(&format!("its log: {log}"));
            Ok(Exit::Done)
        }
        Ok(Err(ended)) => {
            let words = std::fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = words.lines().collect();
            lines.iter().skip(lines.len().saturating_sub(LAST_LINES)).for_each(|line| output::note(line));
            let exit = if ended.code() == Some(2) { Exit::Usage } else { Exit::Machine };
            Err(Problem::new(exit, format!("the daemon ended ({ended}); its last words are above")).into())
        }
        Err(_) => Err(Problem::not_so(format!("the daemon does not answer after {} s", args.timeout.as_secs()))
            .hint(format!("its log: {log}"))
            .into()),
    }
}

/// Moves a long log away; the one that was moved before is gone then.
fn turn(log: &Utf8Path) -> std::io::Result<()> {
    match log.metadata() {
        Ok(found) if found.len() > TURN_AT => std::fs::rename(log, log.with_extension("log.1")),
        // What cannot be looked at cannot be written either, which is said then.
        _ => Ok(()),
    }
}

fn start(home: &Utf8Path, args: &UpArgs, log: &Utf8PathBuf) -> Result<Child> {
    let out =
        File::options().create(true).append(true).open(log).with_context(|| format!("could not write `{log}`"))?;
    let mut command = Command::new(std::env::current_exe().context("could not find this program's own path")?);
    command.args(["--home", home.as_str(), "serve"]);
    for (flag, value) in [("--listen", &args.listen), ("--api-listen", &args.api_listen)] {
        command.args(value.iter().flat_map(|value| [flag, value.as_str()]));
    }
    command.env("NO_COLOR", "1").stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    // A group of its own: Ctrl-C and hang-ups of this terminal are not for it.
    command.process_group(0);
    command.spawn().context("could not start the daemon")
}

/// Waits until the daemon answers, or has ended.
async fn until_ready(home: &Utf8Path, child: &mut Child) -> std::result::Result<Client, std::process::ExitStatus> {
    loop {
        if let Ok(Some(ended)) = child.try_wait() {
            return Err(ended);
        }
        let own = |client: &Client| client.addresses.pid == Some(child.id());
        if let Some(client) = Client::answering(home).await.ok().filter(own) {
            return Ok(client);
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_is_moved_away_and_a_short_one_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let log = Utf8Path::from_path(folder.path()).unwrap().join("daemon.log");
        turn(&log).unwrap();
        std::fs::write(&log, "short").unwrap();
        turn(&log).unwrap();
        assert!(log.exists());
        File::options().write(true).open(&log).unwrap().set_len(TURN_AT + 1).unwrap();
        turn(&log).unwrap();
        assert!(!log.exists() && folder.path().join("daemon.log.1").exists());
    }
}
