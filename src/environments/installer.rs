//! Runs an installer: its output to a log, its progress to whoever listens, and an end when it says nothing any more.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use super::{EnvironmentError, io};

/// An installer that says nothing for this long is ended.
const SILENCE: Duration = Duration::from_secs(600);

/// Variables of a Python that is active in the user's shell; an environment of ours must not see them.
const FOREIGN: [&str; 5] = ["VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "PIP_REQUIRE_VIRTUALENV", "PIP_TARGET"];

/// One installation.
pub(super) struct Installer<'a> {
    pub(super) environment: &'a BTreeMap<String, String>,
    pub(super) log: Utf8PathBuf,
}

/// What became of a command.
pub(super) struct Ended {
    pub(super) success: bool,
    /// Everything it said.
    pub(super) output: String,
}

impl Installer<'_> {
    /// Runs a command to its end; `hear` gets every line.
    pub(super) async fn run(
        &self,
        program: &Utf8Path,
        arguments: &[&str],
        hear: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Ended, EnvironmentError> {
        let mut command = Command::new("sh");
        // One pipe for both streams, so that what is said stays in order.
        command.args(["-c", "exec \"$@\" 2>&1", "sh", program.as_str()]).args(arguments);
        command.env_clear().envs(self.environment);
        for name in FOREIGN {
            command.env_remove(name);
        }
        command.env("PYTHONUNBUFFERED", "1").env("PIP_NO_INPUT", "1").env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| io(format!("start `{program}`"), &error))?;
        let mut log = self.open_log().await?;
        let written = |error: std::io::Error| io(format!("write `{}`", self.log), &error);
        let mut output = String::new();
        if let Some(stdout) = child.stdout.take() {
            let mut lines = BufReader::new(stdout).split(b'\n');
            loop {
                let next = tokio::time::timeout(SILENCE, lines.next_segment());
                let Ok(next) = next.await else {
                    // It is gone when the call returns or the child is dropped, whichever works.
                    let _ = child.kill().await;
                    return Err(EnvironmentError::Stalled { minutes: SILENCE.as_secs() / 60, log: self.log.clone() });
                };
                let Ok(Some(bytes)) = next else { break };
                let line = String::from_utf8_lossy(&bytes);
                log.write_all(format!("{line}\n").as_bytes()).await.map_err(written)?;
                hear(&line);
                output.push_str(&line);
                output.push('\n');
            }
        }
        log.flush().await.map_err(written)?;
        let status = child.wait().await.map_err(|error| io(format!("wait for `{program}`"), &error))?;
        Ok(Ended { success: status.success(), output })
    }

    async fn open_log(&self) -> Result<tokio::fs::File, EnvironmentError> {
        let opened = tokio::fs::File::options().create(true).append(true).open(&self.log).await;
        opened.map_err(|error| io(format!("open `{}`", self.log), &error))
    }
}
