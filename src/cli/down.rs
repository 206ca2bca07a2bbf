//! `down`: stops every model of a home, and the daemon that would start them again.

use std::time::Duration;

use anyhow::{Context, Result};
use camino::Utf8Path;
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use super::client::Client;
use super::output;
use super::report::{Exit, Problem};
use super::serve;
use crate::config::{Flags, Settings};
use crate::daemon;
use crate::home::Home;

/// Longest time a daemon may take to drain and stop its models.
const END: Duration = Duration::from_secs(420);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Stop every model of this home, and the daemon; manifests and downloaded models stay.
#[derive(Clone, Debug, Args)]
pub struct DownArgs {}

/// Runs the verb.
///
/// # Errors
/// The daemon does not end, or the engine does not answer.
pub async fn run(home: &Utf8Path, _args: DownArgs) -> Result<Exit> {
    let daemon = running(home).await?;
    if let Some(pid) = daemon {
        output::note(&format!("ending the daemon (process {}) and its models", pid.as_raw_nonzero()));
        kill_process(pid, Signal::INT).map_err(|error| {
            Problem::machine("could not end the daemon")
                .because(error)
                .hint("it belongs to another user or to the system's service: sudo systemctl stop kserve-local")
        })?;
        until_gone(home).await?;
    }
    let stopped = stop_models(home).await?;
    match (daemon, stopped) {
        (None, 0) => output::line("nothing was running")?,
        (None, 1) => output::line("1 container stopped")?,
        (None, stopped) => output::line(&format!("{stopped} containers stopped"))?,
        (Some(_), _) => output::line("every model is stopped")?,
    }
    Ok(Exit::Done)
}

/// Stops the models of a home that no daemon serves, and returns how many containers they had.
///
/// # Errors
/// A daemon serves the home, or the engine does not answer.
pub(super) async fn stop_models(home: &Utf8Path) -> Result<usize> {
    if !home.exists() {
        return Ok(0);
    }
    let settings = Settings::load(Home::new(home), &Flags::default(), serve::environment());
    daemon::stop_models(&settings.map_err(serve::bad_setting)?).await.map_err(serve::cannot_start)
}

/// Returns the daemon that answers for this home.
async fn running(home: &Utf8Path) -> Result<Option<Pid>> {
    let client = match Client::answering(home).await {
        Ok(client) => client,
        Err(error) if error.is_absent() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let process = daemon::holding_process(&Home::new(home)).context("could not tell which process serves the home")?;
    match told_alike(client.addresses.pid, process) {
        Some(pid) => Ok(Some(pid)),
        None => Err(Problem::machine("a daemon answers, but its process cannot be told from here")
            .hint("it may run in a container or on another machine: end it there")
            .into()),
    }
}

/// Returns the process to end: what the daemon wrote of itself and what the kernel says of the lock must agree. In a
/// container the daemon counts processes from one, and its number is another program's here.
fn told_alike(written: Option<u32>, holding: Option<Pid>) -> Option<Pid> {
    holding.filter(|pid| written == u32::try_from(pid.as_raw_nonzero().get()).ok())
}

/// Waits until nobody serves the home any more.
async fn until_gone(home: &Utf8Path) -> Result<()> {
    let gone = async {
        while daemon::holder(&Home::new(home)).is_ok_and(|holder| holder.is_some()) {
            tokio::time::sleep(LOOK).await;
        }
    };
    match tokio::time::timeout(END, gone).await {
        Ok(()) => Ok(()),
        Err(_) => Err(Problem::not_so(format!("the daemon did not end within {} s", END.as_secs()))
            .hint("its log says what it waits for")
            .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_that_holds_the_lock_is_ended() {
        let pid = |number| Pid::from_raw(number);
        assert_eq!(told_alike(Some(7), pid(7)), pid(7));
        // Another home's daemon, one in a container, and a file system without such locks.
        assert_eq!(told_alike(Some(1), pid(4321)), None);
        assert_eq!(told_alike(Some(1), None), None);
        assert_eq!(told_alike(None, pid(7)), None);
    }
}
