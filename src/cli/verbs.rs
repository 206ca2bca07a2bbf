//! The verbs, and running the one that was typed.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use camino::Utf8PathBuf;
use clap::{Args, Parser, Subcommand};

use super::colour::When;
use super::{
    apply, cache, completion, config, delete, demo, describe, doctor, down, events, explain, export, get, home,
    kubeconfig, lint, logs, man, predict, ps, pull, replay, restart, rollback, run, runtimes, schema, serve, service,
    up, validate, version, wait,
};
use super::{complete, output, report};
use crate::daemon::Inherited;

/// KServe on one machine, without Kubernetes: the same InferenceService YAML, served from a folder.
#[derive(Debug, Parser)]
#[command(name = "kserve-local", version, disable_help_subcommand = true)]
#[command(after_help = "Exit codes: 0 done, 1 not so, 2 usage or invalid manifest, 3 this machine, 4 remote, \
                        5 does not fit in memory, 70 a bug of ours, 130 interrupted.")]
pub struct Cli {
    /// What holds for every verb.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What holds for every verb.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Folder of manifests and state [default: $KSERVE_LOCAL_HOME, else ~/.kserve-local]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub home: Option<PathBuf>,
    /// When colours are used: auto, always or never; NO_COLOR, CLICOLOR and CLICOLOR_FORCE are honoured
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "WHEN",
        default_value_t,
        hide_default_value = true,
        hide_possible_values = true,
        help_heading = "Global options"
    )]
    pub color: When,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "the help of a verb is the documentation of its arguments")]
pub enum Command {
    Serve(serve::ServeArgs),
    Up(up::UpArgs),
    Down(down::DownArgs),
    Service(service::ServiceArgs),
    Apply(apply::ApplyArgs),
    Delete(delete::DeleteArgs),
    Get(get::GetArgs),
    Describe(describe::DescribeArgs),
    Logs(logs::LogsArgs),
    Wait(wait::WaitArgs),
    Restart(restart::RestartArgs),
    Events(events::EventsArgs),
    Predict(predict::PredictArgs),
    Ps(ps::PsArgs),
    Explain(explain::ExplainArgs),
    History(rollback::HistoryArgs),
    Rollback(rollback::RollbackArgs),
    Pull(pull::PullArgs),
    Cache(cache::CacheArgs),
    Replay(replay::ReplayArgs),
    Runtimes(runtimes::RuntimesArgs),
    Validate(validate::ValidateArgs),
    Lint(lint::LintArgs),
    Export(export::ExportArgs),
    Schema(schema::SchemaArgs),
    Run(run::RunArgs),
    Demo(demo::DemoArgs),
    Doctor(doctor::DoctorArgs),
    Config(config::ConfigArgs),
    Kubeconfig(kubeconfig::KubeconfigArgs),
    Completion(completion::CompletionArgs),
    Man(man::ManArgs),
    Version(version::VersionArgs),
}

/// Parses the command line, runs the verb, and returns the exit code.
pub fn main() -> ExitCode {
    // The supervisor of a process is this program too, under a verb no person types.
    if let Some(code) = crate::engine::process_supervise::run_if_asked(std::env::args_os().skip(1)) {
        return ExitCode::from(code);
    }
    complete::answer_if_asked();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed stdout is no reason to fail; the exit code is the same either way.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    // Before there are threads: the environment is changed.
    let inherited = match Inherited::take() {
        Ok(inherited) => inherited,
        Err(error) => {
            return report::report(
                &anyhow::Error::new(error).context("the service manager passed on an unusable socket"),
            );
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report::report(&anyhow::Error::new(error).context("could not start the async runtime")),
    };
    match runtime.block_on(run(cli, inherited)) {
        Ok(code) => code,
        Err(error) => report::report(&error),
    }
}

async fn run(cli: Cli, inherited: Inherited) -> anyhow::Result<ExitCode> {
    let given = cli.global.home.is_some();
    let home: Utf8PathBuf = home::home(cli.global.home);
    output::use_colours(cli.global.color.applies(&serve::environment(), std::io::stdout().is_terminal()));
    let exit = match cli.command {
        // Its exit code is that of the command it ran.
        Command::Run(args) => return run::run(&home, args).await,
        Command::Serve(args) => serve::run(&home, args, inherited).await,
        Command::Up(args) => up::run(&home, args).await,
        Command::Down(args) => down::run(&home, args).await,
        Command::Service(args) => service::run(&home, given, args).await,
        Command::Restart(args) => restart::run(&home, args).await,
        Command::Demo(args) => demo::run(given.then_some(home), args).await,
        Command::Apply(args) => apply::run(&home, args).await,
        Command::Delete(args) => delete::run(&home, args).await,
        Command::Get(args) => get::run(&home, args).await,
        Command::Describe(args) => describe::run(&home, args).await,
        Command::Logs(args) => logs::run(&home, args).await,
        Command::Wait(args) => wait::run(&home, args).await,
        Command::Events(args) => events::run(&home, args).await,
        Command::Predict(args) => predict::run(&home, args).await,
        Command::Ps(args) => ps::run(&home, args).await,
        Command::Explain(args) => explain::run(&home, args).await,
        Command::History(args) => rollback::history(&home, args).await,
        Command::Rollback(args) => rollback::rollback(&home, args).await,
        Command::Pull(args) => pull::run(&home, args).await,
        Command::Cache(args) => cache::run(&home, args).await,
        Command::Replay(args) => replay::run(&home, args).await,
        Command::Runtimes(args) => runtimes::run(&home, args).await,
        Command::Lint(args) => lint::run(&home, args).await,
        Command::Export(args) => export::run(&home, args).await,
        Command::Schema(args) => schema::run(args),
        Command::Validate(args) => validate::run(&home, args).await,
        Command::Doctor(args) => doctor::run(&home, args).await,
        Command::Config(args) => config::run(&home, args),
        Command::Kubeconfig(args) => kubeconfig::run(&home, &args),
        Command::Man(args) => man::run(args),
        Command::Completion(args) => completion::run(args),
        Command::Version(args) => version::run(&home, args).await,
    }?;
    Ok(exit.into())
}
