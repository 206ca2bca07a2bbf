//! The folder without a daemon: what `apply` and `delete` do when none runs.
//!
//! The same loader that the daemon uses writes the files; the next start serves what they say.

use anyhow::Result;
use camino::Utf8Path;

use super::client::{Client, ClientError};
use super::home::{flag_for, shown};
use super::output;
use super::report::{Exit, Problem};
use crate::home::Home;
use crate::reconcile::clock::Clock;
use crate::source::{Loader, WriteError};
use crate::store::Store;
use crate::telemetry::EventLog;

/// Where a write goes.
pub enum Place {
    /// To the daemon.
    Daemon(Client),
    /// Into the folder: nobody watches it now.
    Folder(Folder),
}

/// A folder nobody watches.
pub struct Folder {
    /// Writes to it.
    pub loader: Loader,
    /// What it holds.
    pub store: Store,
}

/// Returns the daemon when it answers, else the folder.
///
/// # Errors
/// The daemon refuses, or the folder cannot be read.
pub async fn place(home: &Utf8Path) -> Result<Place> {
    match Client::answering(home).await {
        Ok(client) => Ok(Place::Daemon(client)),
        Err(error) if error.is_absent() => Ok(Place::Folder(open(home).await?)),
        Err(error) => Err(error.into()),
    }
}

/// Reads the folder as the daemon would.
async fn open(root: &Utf8Path) -> Result<Folder> {
    let home = Home::new(root);
    home.create().map_err(|error| Problem::machine(format!("could not prepare {}", shown(root))).because(error))?;
    // Without the record of identities objects merely look new.
    let ledger = std::fs::read(home.objects()).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let store = Store::new(ledger.unwrap_or_default());
    let clock = Clock::start();
    let loader = Loader::new(home, store.clone(), EventLog::default(), move || clock.now());
    let report = loader.load().await;
    match report.error {
        None => Ok(Folder { loader, store }),
        Some(error) => Err(Problem::machine(error.to_string()).because(error.source).into()),
    }
}

/// Says that what was written waits for a daemon.
pub fn tell_not_running(home: &Utf8Path) {
    output::note(&format!(
        "note: no daemon runs on {}; the folder is served once you start `kserve-local serve{}`",
        shown(home),
        flag_for(home)
    ));
}

/// Returns a refused write in the words of the command line.
pub fn refused(error: WriteError) -> Problem {
    let exit = match &error {
        WriteError::Invalid(_) => Exit::Usage,
        WriteError::Io { .. } => Exit::Machine,
        _ => Exit::NotSo,
    };
    match error {
        WriteError::Invalid(diagnostics) => {
            let texts: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
            Problem::new(exit, texts.join("; "))
        }
        other => Problem::new(exit, super::report::chain(&other)),
    }
}

/// Returns the error of a daemon that is needed and does not run.
///
/// # Errors
/// Always, unless a daemon left its addresses.
pub fn daemon(home: &Utf8Path) -> Result<Client, ClientError> {
    Client::find(home)
}
