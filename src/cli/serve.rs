//! `serve`: runs the daemon in the foreground.

use anyhow::{Context, Result};
use camino::Utf8Path;
use clap::{Args, ValueEnum};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::warn;

use super::report::{Exit, Problem, chain};
use crate::config::{self, ConfigError, Environment, Flags, Settings};
use crate::daemon::{Containers, Daemon, Inherited, StartError};
use crate::home::Home;
use crate::telemetry::logs;

/// Run the daemon: watch the folder, run models, answer requests.
///
/// Ctrl-C stops the models it started; SIGTERM leaves them running for the next start. A second Ctrl-C ends at once.
/// SIGHUP reads config.yaml and the folder again.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Settings.
    #[command(flatten)]
    pub settings: SettingFlags,
    /// What is logged, for example `info` or `warn,kserve_local=debug`
    #[arg(long, value_name = "FILTER", default_value = "info", env = "KSERVE_LOCAL_LOG", hide_env_values = true)]
    pub log: String,
    /// How it is logged
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// Settings that can be given as flags.
#[derive(Clone, Debug, Args)]
pub struct SettingFlags {
    /// Where prediction requests are answered; port 0 takes a free one, which `state/addresses.json` then names [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Where the API, health and metrics are answered [default: 127.0.0.1:8090]
    #[arg(long, value_name = "ADDR")]
    pub api_listen: Option<String>,
    /// What runs the containers [default: auto]
    #[arg(long, value_enum)]
    pub engine: Option<EngineChoice>,
    /// Fetch nothing: use the models and images that are here
    #[arg(long)]
    pub offline: bool,
}

impl SettingFlags {
    /// Returns them as the settings take them.
    pub fn flags(&self) -> Flags {
        Flags {
            listen: self.listen.clone(),
            api_listen: self.api_listen.clone(),
            engine: self.engine.map(Into::into),
            offline: self.offline,
        }
    }
}

/// What runs the containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EngineChoice {
    /// Docker when it answers, else processes
    Auto,
    /// Docker, Podman or anything else that speaks Docker's API
    Docker,
    /// Processes of this machine, for runtimes that have a recipe for it
    Process,
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

impl From<EngineChoice> for config::EngineChoice {
    fn from(choice: EngineChoice) -> Self {
        match choice {
            EngineChoice::Auto => Self::Auto,
            EngineChoice::Docker => Self::Docker,
            EngineChoice::Process => Self::Process,
            EngineChoice::Memory => Self::Memory,
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// The daemon could not start, or ended badly.
pub async fn run(home: &Utf8Path, args: ServeArgs, inherited: Inherited) -> Result<Exit> {
    let format = match args.log_format {
        LogFormat::Text => logs::LogFormat::Text,
        LogFormat::Json => logs::LogFormat::Json,
    };
    logs::init(&args.log, format, colour()).map_err(|error| Problem::usage("--log cannot be used").because(error))?;
    let flags = args.settings.flags();
    let mut signals = Signals::listen().context("could not listen to signals")?;
    let load = || Settings::load(Home::new(home), &flags, environment());
    let mut daemon = Daemon::start(load().map_err(bad_setting)?, inherited).await.map_err(cannot_start)?;
    let end = loop {
        match signals.next(&mut daemon).await {
            Heard::End(end) => break end,
            Heard::Reload => match load() {
                Ok(settings) => _ = daemon.reload(settings).await,
                Err(error) => warn!(error = chain(&error), "the settings cannot be used; nothing was changed"),
            },
        }
    };
    match end {
        End::Interrupted => {
            let ending = daemon.shut_down(Containers::Stop);
            tokio::select! {
                // Whatever was still being stopped is left running and adopted by the next start.
                _ = tokio::signal::ctrl_c() => {}
                () = ending => {}
            }
            Ok(Exit::Interrupted)
        }
        End::Terminated => {
            daemon.shut_down(Containers::Leave).await;
            Ok(Exit::Done)
        }
        End::Failed => {
            daemon.shut_down(Containers::Leave).await;
            Err(Problem::new(Exit::Bug, "a part of the daemon ended that must not; the log says why")
                .hint("models keep running; start the daemon again, and please report the log")
                .into())
        }
    }
}

/// Why a daemon ends.
pub(super) enum End {
    /// Ctrl-C.
    Interrupted,
    /// SIGTERM.
    Terminated,
    /// A part of it ended by itself.
    Failed,
}

/// What a daemon in the foreground hears.
pub(super) enum Heard {
    /// It ends.
    End(End),
    /// SIGHUP: settings and folder are to be read again.
    Reload,
}

/// Who called something off that runs in the foreground.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Called {
    /// Ctrl-C, which the terminal sends to every program in front.
    ByTerminal,
    /// SIGTERM or SIGHUP, which only we got.
    Off,
}

/// The signals that are listened to, from the start to the end: one that comes while nobody waits is kept.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Starts to listen.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal, or for the daemon to fail.
    pub(super) async fn next(&mut self, daemon: &mut Daemon) -> Heard {
        tokio::select! {
            // A signal that loses is kept for the next wait.
            _ = self.interrupt.recv() => Heard::End(End::Interrupted),
            _ = self.terminate.recv() => Heard::End(End::Terminated),
            _ = self.hang_up.recv() => Heard::Reload,
            () = daemon.failed() => Heard::End(End::Failed),
        }
    }

    /// Waits for a signal that ends what runs in the foreground for somebody: the terminal that goes away is one.
    pub(super) async fn any(&mut self) -> Called {
        tokio::select! {
            // As above.
            _ = self.interrupt.recv() => Called::ByTerminal,
            _ = self.terminate.recv() => Called::Off,
            _ = self.hang_up.recv() => Called::Off,
        }
    }
}

/// Reads the environment, once.
pub(super) fn environment() -> Environment {
    // A variable that is not UTF-8 cannot be one of ours.
    std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?))).collect()
}

fn colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A setting that cannot be used, with the exit code of wrong usage.
pub(super) fn bad_setting(error: ConfigError) -> anyhow::Error {
    Problem::usage("the settings cannot be used").because(error).into()
}

/// A daemon that cannot start, with the next step.
pub(super) fn cannot_start(error: StartError) -> anyhow::Error {
    let hint = match &error {
        StartError::Lock(crate::daemon::LockError::Held { .. }) => {
            "use the daemon that runs, stop it, or start this one with another folder: --home DIR".to_owned()
        }
        StartError::Listen { flag, .. } => {
            format!("something else listens there; choose another address with {flag}, or port 0 for a free one")
        }
        StartError::Home { .. } | StartError::Lock(_) => "choose a folder you may write to with --home DIR".to_owned(),
        StartError::Inherited { .. } => {
            "write the same addresses in the socket unit (ListenStream=) and in config.yaml (listen, apiListen)"
                .to_owned()
        }
        StartError::Engine(_) => "check DOCKER_HOST, `docker context show` and config.yaml: dockerHost".to_owned(),
    };
    Problem::machine("kserve-local cannot start").because(error).hint(hint).into()
}
