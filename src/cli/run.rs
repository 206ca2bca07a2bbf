//! `run`: services on a throwaway home for as long as a command runs. For continuous integration.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use camino::Utf8Path;
use clap::Args;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::client::Client;
use super::diagnosis::find_out;
use super::find::SERVICE;
use super::home;
use super::input::{self, InputArgs};
use super::kubeconfig;
use super::leftovers;
use super::manifests;
use super::output;
use super::report::{Exit, Problem};
use super::run_report::{Outcome, Readiness, Report};
use super::serve::{self, Called, EngineChoice, Signals};
use super::wait::duration;
use crate::api::{ConditionStatus, InferenceServiceStatus, Kind, ObjectKey};
use crate::config::{Flags, Settings};
use crate::daemon::{Containers, Daemon, Inherited};
use crate::home::{Home, write_atomically};
use crate::manifest::{DecodedObject, yaml};
use crate::telemetry::logs;

/// How long a command may take to end once it was told to.
const COMMAND_END: Duration = Duration::from_secs(10);
/// Reasons that waiting does not mend: whoever reads the report should not wait for the timeout.
const HOPELESS: &[&str] = &[
    "NoSupportingRuntime",
    "RuntimeNotRecognized",
    "RuntimeDisabled",
    "InvalidPredictorSpec",
    "InvalidSpec",
    "ImagePullFailed",
    "InvalidImageName",
    "ModelPullFailed",
    "EnvironmentFailed",
    "ContainerCannotRun",
    "CrashLoopBackOff",
    "OOMKilled",
    "InsufficientMemory",
    "InsufficientGPU",
];

/// Serve manifests on a throwaway home while a command runs, and end with its exit code.
///
/// The command finds the services at $KSERVE_LOCAL_URL, the API through $KUBECONFIG, and the home in
/// $KSERVE_LOCAL_HOME. Claims (pvc://) are those of the home that --home names. Whatever was started is gone afterwards; downloaded models and images stay.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Where the manifests come from.
    #[command(flatten)]
    pub input: InputArgs,
    /// Wait until every service is ready before the command starts; one that never will be ends the run
    #[arg(long)]
    pub wait: bool,
    /// Longest time to wait for the services
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub timeout: Duration,
    /// What runs the containers [default: auto]
    #[arg(long, value_enum)]
    pub engine: Option<EngineChoice>,
    /// Write how soon each service was ready, or why not: junit=FILE or json=FILE; may be given twice
    #[arg(long, value_name = "FORMAT=FILE")]
    pub report: Vec<Report>,
    /// Print the images and models the services need, one a line, and end: for pulling them beforehand
    #[arg(long)]
    pub list_pulls: bool,
    /// Keep the home for looking at it, with the daemon's log
    #[arg(long)]
    pub keep: bool,
    /// The command, after `--`; without one the run ends when every service is ready
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// Runs the verb. Ends with the exit code of the command.
///
/// # Errors
/// The manifests are invalid, a service did not get ready, or the command cannot be started.
pub async fn run(own: &Utf8Path, args: RunArgs) -> Result<ExitCode> {
    if args.input.filename.is_empty() {
        return Err(Problem::usage("which manifests?").hint("name them with -f FILE, -f DIR or -f URL").into());
    }
    let mut sources = input::read(&args.input.filename, args.input.recursive).await?;
    let folder = leftovers::folder("run")?;
    manifests::resolve_all(&folder, &mut sources)?;
    if input::tell_problems(&sources) {
        return Ok(Exit::Usage.into());
    }
    let objects = input::objects(&sources, None)?;
    if args.list_pulls {
        manifests::pulls(&folder, &objects)?.iter().try_for_each(|line| output::line(line))?;
        return Ok(Exit::Done.into());
    }
    leftovers::make(&folder)?;
    leftovers::collect_all().await;
    let outcome = on_throwaway_home(&folder, own, &objects, &args).await;
    if args.keep {
        leftovers::keep(&folder);
        output::note(&format!("kept: {folder}"));
    } else if let Err(error) = std::fs::remove_dir_all(&folder) {
        output::note(&format!("warning: could not remove {folder}: {error}"));
    }
    outcome
}

async fn on_throwaway_home(
    folder: &Utf8Path,
    own: &Utf8Path,
    objects: &[DecodedObject],
    args: &RunArgs,
) -> Result<ExitCode> {
    let home = Home::new(folder);
    home.create().with_context(|| format!("could not make `{folder}`"))?;
    // A claim is a folder, and no manifest makes one: those of the user's own home are meant.
    if let Ok(claims) = Home::new(own).volumes().canonicalize_utf8() {
        std::os::unix::fs::symlink(claims, home.volumes()).context("could not show the claims of the home")?;
    }
    for (number, decoded) in objects.iter().enumerate() {
        let key = &decoded.object.key;
        let path = home.services().join(&key.namespace).join(format!("{number:04}-{}.yaml", key.name));
        write_atomically(&path, yaml::to_yaml(&decoded.object.raw).as_bytes(), 0o600)?;
    }
    let log = home.state().join("daemon.log");
    logs::init_file(&log).context("could not start logging")?;
    let free = || Some("127.0.0.1:0".to_owned());
    let flags = Flags { listen: free(), api_listen: free(), engine: args.engine.map(Into::into), ..Flags::default() };
    let settings = Settings::load(home, &flags, serve::environment()).map_err(serve::bad_setting)?;
    let mut daemon = Daemon::start(settings, Inherited::default()).await.map_err(serve::cannot_start)?;
    let outcome = with_daemon(&mut daemon, folder, objects, args).await;
    daemon.shut_down(Containers::Stop).await;
    outcome
}

async fn with_daemon(
    daemon: &mut Daemon,
    folder: &Utf8Path,
    objects: &[DecodedObject],
    args: &RunArgs,
) -> Result<ExitCode> {
    let services: Vec<ObjectKey> = objects.iter().map(|decoded| decoded.object.key.clone()).collect();
    let services = services.into_iter().filter(|key| key.kind == Kind::InferenceService).collect::<BTreeSet<_>>();
    // Listened to from here to the end: one that comes between two waits is kept for the next.
    let mut signals = Signals::listen()?;
    if args.wait || args.command.is_empty() || !args.report.is_empty() {
        let waited = tokio::select! {
            // What is lost is only looking; the daemon is shut down by the caller.
            waited = wait_for(daemon, &services, args.timeout) => waited,
            _ = signals.any() => return Ok(Exit::Interrupted.into()),
        };
        let waited = explained(folder, waited).await;
        args.report.iter().try_for_each(|report| report.write(&waited))?;
        if !tell(&waited) {
            return Ok(Exit::NotSo.into());
        }
    }
    if args.command.is_empty() {
        return Ok(Exit::Done.into());
    }
    let mut child = start(daemon, folder, &args.command)?;
    let status = tokio::select! {
        // The child is waited for again where it matters.
        status = child.wait() => status?,
        called = signals.any() => {
            // The terminal told the command itself.
            let signal = (called == Called::Off).then_some(rustix::process::Signal::TERM);
            return ended(&mut child, signal).await;
        }
        () = daemon.failed() => {
            ended(&mut child, Some(rustix::process::Signal::TERM)).await?;
            return Err(Problem::new(Exit::Bug, "a part of the daemon ended that must not; see its log (--keep)").into());
        }
    };
    Ok(code_of(status))
}

/// Returns the exit code a shell would give: the command's own, or 128 and the signal that ended it.
fn code_of(status: std::process::ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn start(daemon: &Daemon, folder: &Utf8Path, command: &[OsString]) -> Result<Child> {
    let addresses = daemon.addresses();
    let kubeconfig = kubeconfig::write(folder).context("could not write a kubeconfig")?;
    let (host, port) = addresses.data.rsplit_once(':').unwrap_or((&addresses.data, "80"));
    let (program, words) = command.split_first().context("a command has a name")?;
    let started = Command::new(program)
        .args(words)
        .env("KSERVE_LOCAL_HOME", folder)
        .env("KSERVE_LOCAL_URL", format!("http://{}", addresses.data))
        .env("KUBECONFIG", kubeconfig)
        // The names KServe's own pages use.
        .env("INGRESS_HOST", host)
        .env("INGRESS_PORT", port)
        .kill_on_drop(true)
        .spawn();
    let shown = program.to_string_lossy().into_owned();
    started.map_err(|error| {
        let problem = Problem::usage(format!("could not start `{shown}`")).because(error);
        problem
            .hint("what follows `--` is a program with its arguments, not a line for a shell: use `-- sh -c '…'`")
            .into()
    })
}

/// Waits for a command that was told to end: by the terminal, or by us.
async fn ended(child: &mut Child, signal: Option<rustix::process::Signal>) -> Result<ExitCode> {
    let pid = child.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?));
    if let (Some(pid), Some(signal)) = (pid, signal) {
        // One that ended by itself meanwhile cannot be told, and need not be.
        let _ = rustix::process::kill_process(pid, signal);
    }
    if tokio::time::timeout(COMMAND_END, child.wait()).await.is_err() {
        child.kill().await?;
    }
    Ok(Exit::Interrupted.into())
}

/// Waits until every service is ready or will never be.
async fn wait_for(daemon: &Daemon, services: &BTreeSet<ObjectKey>, limit: Duration) -> Vec<Readiness> {
    let start = Instant::now();
    let until = start + limit;
    let mut store = daemon.store().subscribe();
    let mut settled: Vec<Readiness> = Vec::new();
    loop {
        let snapshot = store.borrow_and_update().clone();
        for key in services {
            let is_settled = settled.iter().any(|readiness| readiness.is_of(key));
            let status = snapshot.get(key).and_then(|stored| stored.status.clone());
            let outcome = status.as_ref().and_then(outcome).filter(|_| !is_settled);
            settled.extend(outcome.map(|outcome| Readiness::new(key, outcome, start.elapsed())));
        }
        if settled.len() == services.len() || settled.iter().any(|readiness| readiness.outcome != Outcome::Ready) {
            break;
        }
        // A change that loses its race against the deadline is found below.
        match tokio::time::timeout_at(until, store.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => break,
        }
    }
    let last = store.borrow().clone();
    for key in services {
        if !settled.iter().any(|readiness| readiness.is_of(key)) {
            let words = last.get(key).and_then(|stored| stored.status.as_ref().map(said)).unwrap_or_default();
            let after = start.elapsed();
            let outcome = Outcome::NotReady(format!("not ready after {} s: {words}", after.as_secs()));
            settled.push(Readiness::new(key, outcome, after));
        }
    }
    settled
}

/// Finds out why services are not ready, while their containers are still there.
async fn explained(folder: &Utf8Path, mut waited: Vec<Readiness>) -> Vec<Readiness> {
    // Without an answer of the daemon, its last words about the service are what is told.
    let Ok(client) = Client::find(folder) else { return waited };
    for readiness in waited.iter_mut().filter(|readiness| readiness.outcome != Outcome::Ready) {
        let (namespace, name) = readiness.service();
        // The home is gone when somebody reads this: commands are named without it.
        let found = find_out(&client, &home::home(None), SERVICE, namespace, name).await;
        readiness.diagnosis = found.ok().map(|found| found.diagnosis);
    }
    waited
}

fn outcome(status: &InferenceServiceStatus) -> Option<Outcome> {
    if status.is_ready() {
        return Some(Outcome::Ready);
    }
    let ready = status.condition("Ready").filter(|ready| ready.status == ConditionStatus::False)?;
    HOPELESS.contains(&ready.reason.as_str()).then(|| Outcome::Failed(said(status)))
}

fn said(status: &InferenceServiceStatus) -> String {
    let ready = status.condition("Ready");
    ready.map(|ready| format!("{}: {}", ready.reason, ready.message)).unwrap_or_default()
}

/// Says what became of the services, and whether all are ready.
fn tell(waited: &[Readiness]) -> bool {
    for readiness in waited {
        output::note(&readiness.line());
    }
    waited.iter().all(|readiness| readiness.outcome == Outcome::Ready)
}
