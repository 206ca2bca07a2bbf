//! `demo`: an example model on a throwaway home.

use anyhow::Result;
use camino::Utf8PathBuf;
use clap::Args;

use super::report::Exit;

/// Serve an example model on a throwaway folder, send it a prediction, and keep serving until Ctrl-C.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// End after the first answer
    #[arg(long)]
    pub once: bool,
}

/// Runs the verb. `home` is the folder that was asked for; a throwaway one is made when none was.
///
/// # Errors
/// The model could not be served.
#[expect(clippy::unused_async, reason = "the daemon is awaited here once it is wired in")]
pub async fn run(home: Option<Utf8PathBuf>, args: DemoArgs) -> Result<Exit> {
    let _ = (home, args);
    anyhow::bail!("not wired yet")
}
