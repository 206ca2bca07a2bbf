//! `demo`: the iris model on a throwaway home, and a real prediction.

use std::time::Duration;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::report::{Exit, Problem};
use super::serve::{self, End, Heard};
use super::{home, leftovers, output};
use crate::api::{ConditionStatus, InferenceServiceStatus, ServiceKey};
use crate::config::{EngineChoice, Flags, Settings};
use crate::daemon::{Containers, Daemon, Inherited};
use crate::diagnosis::{Evidence, Subject, diagnose};
use crate::environments::Tools;
use crate::home::Home;
use crate::home::write_atomically;
use crate::telemetry::logs;

/// The model, as `examples/models/iris/train.py` makes it.
const MODEL: &[u8] = include_bytes!("../../examples/models/iris/model.joblib");
/// Two flowers, as KServe's first tutorial asks about them.
const INPUT: &str = include_str!("../../examples/models/iris/input-v1.json");
/// Name of the service.
const NAME: &str = "sklearn-iris";

/// Serve an example model on a throwaway folder, send it a prediction, and keep serving until Ctrl-C.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// End after the first answer
    #[arg(long)]
    pub once: bool,
    /// Give up when the model does not answer within this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
}

/// Runs the verb. `home` is the folder that was asked for; a throwaway one is made when none was.
///
/// # Errors
/// The model could not be served.
pub async fn run(home: Option<Utf8PathBuf>, args: DemoArgs) -> Result<Exit> {
    logs::init("warn,kserve_local=error", logs::LogFormat::Text, false).context("could not start logging")?;
    let (folder, throwaway) = match home {
        Some(folder) => (folder, false),
        None => (leftovers::folder("demo")?, true),
    };
    if throwaway {
        leftovers::make(&folder)?;
    }
    leftovers::collect_all().await;
    prepare(&folder)?;
    let outcome = serve_demo(&folder, &args).await;
    if throwaway && let Err(error) = std::fs::remove_dir_all(&folder) {
        output::note(&format!("warning: could not remove {folder}: {error}"));
    }
    outcome
}

/// Writes the model and its manifest.
fn prepare(folder: &Utf8Path) -> Result<()> {
    let home = Home::new(folder);
    home.create()?;
    let model = folder.join("models/iris/model.joblib");
    write_atomically(&model, MODEL, 0o644)?;
    let manifest = format!(
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: {NAME}\nspec:\n  predictor:\n    model:\n      modelFormat:\n        name: sklearn\n      storageUri: {}\n",
        json!(format!("file://{}", model.parent().unwrap_or(folder)))
    );
    write_atomically(&home.services().join("sklearn-iris.yaml"), manifest.as_bytes(), 0o644)?;
    output::note("This InferenceService is served, exactly as KServe would read it:\n");
    output::note(&manifest);
    Ok(())
}

async fn serve_demo(folder: &Utf8Path, args: &DemoArgs) -> Result<Exit> {
    let free = || Some("127.0.0.1:0".to_owned());
    let flags = Flags { listen: free(), api_listen: free(), engine: None, offline: false };
    let settings = Settings::load(Home::new(folder), &flags, serve::environment()).map_err(serve::bad_setting)?;
    let outcome = serve_with(settings.clone(), folder, args).await;
    let Err(error) = outcome else { return outcome };
    match error.downcast::<NoImage>() {
        Ok(NoImage(message)) if settings.engine == EngineChoice::Auto && Tools::find(&settings.environment).any() => {
            output::note(&format!("The image cannot be had ({message}), so the model runs as a process instead.\n"));
            serve_with(Settings { engine: EngineChoice::Process, ..settings }, folder, args).await
        }
        Ok(NoImage(message)) => Err(Problem::new(Exit::Remote, message)
            .hint("the image of the sklearn runtime is needed once: connect to the internet, or bring it with `docker load`; a registry mirror or proxy is set in the engine's own configuration")
            .into()),
        Err(error) => Err(error),
    }
}

async fn serve_with(settings: Settings, folder: &Utf8Path, args: &DemoArgs) -> Result<Exit> {
    let is_automatic = settings.engine == EngineChoice::Auto;
    let mut daemon = Daemon::start(settings, Inherited::default()).await.map_err(serve::cannot_start)?;
    if is_automatic && daemon.engine().0 == "process" {
        output::note("Docker does not answer, so the model runs as a process of this machine.\n");
    }
    let outcome = show(&mut daemon, folder, args).await;
    daemon.shut_down(Containers::Stop).await;
    outcome
}

/// The image cannot be pulled; there may be another way.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NoImage(String);

async fn show(daemon: &mut Daemon, folder: &Utf8Path, args: &DemoArgs) -> Result<Exit> {
    tokio::select! {
        // The daemon is shut down in order by the caller, whoever wins.
        ready = wait_until_ready(daemon, Duration::from_secs(args.timeout)) => ready?,
        _ = tokio::signal::ctrl_c() => return Ok(Exit::Interrupted),
    }
    let base = format!("http://{}", daemon.addresses().data);
    let url = format!("{base}/v1/models/{NAME}:predict");
    let answer = predict(&url).await?;
    output::note("The model answered:\n");
    output::line(answer.trim_end())?;
    if args.once {
        return Ok(Exit::Done);
    }
    output::note("\nAsk again from another terminal:\n");
    output::note(&format!("  curl -H 'Content-Type: application/json' {url} -d {}", home::quoted(&compact(INPUT))));
    output::note(&format!("  kserve-local --home {folder} get isvc\n"));
    output::note("Ctrl-C stops the model and removes the folder.");
    match serve::Signals::listen()?.next(daemon).await {
        Heard::Reload | Heard::End(End::Interrupted | End::Terminated) => Ok(Exit::Done),
        Heard::End(End::Failed) => Err(Problem::new(Exit::Bug, "a part of the daemon ended that must not").into()),
    }
}

fn compact(text: &str) -> String {
    serde_json::from_str::<serde_json::Value>(text).map_or_else(|_| text.to_owned(), |value| value.to_string())
}

async fn predict(url: &str) -> Result<String> {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build()?;
    let request = client.post(url).header("content-type", "application/json").body(INPUT);
    let answer = request.send().await.context("the prediction was not answered")?;
    let (status, text) = (answer.status(), answer.text().await?);
    if !status.is_success() {
        return Err(Problem::not_so(format!("the model answered {status}: {text}")).into());
    }
    Ok(text)
}

/// Waits until the model answers, showing what happens meanwhile.
async fn wait_until_ready(daemon: &Daemon, limit: Duration) -> Result<()> {
    let bar = ProgressBar::new_spinner().with_style(ProgressStyle::with_template("{spinner} {msg} ({elapsed})")?);
    bar.enable_steady_tick(Duration::from_millis(120));
    let waited = tokio::time::timeout(limit, follow(daemon, &bar)).await;
    bar.finish_and_clear();
    match waited {
        Ok(outcome) => outcome,
        Err(_) => Err(Problem::not_so(format!("the model did not answer within {} s", limit.as_secs()))
            .hint("try again with a longer --timeout")
            .into()),
    }
}

async fn follow(daemon: &Daemon, bar: &ProgressBar) -> Result<()> {
    let key = ServiceKey::new("default", NAME).to_object_key();
    let mut store = daemon.store().subscribe();
    let mut last = String::new();
    loop {
        let status = store.borrow_and_update().get(&key).and_then(|stored| stored.status.clone());
        if let Some(status) = status {
            if status.is_ready() {
                return Ok(());
            }
            let words = step(&status);
            if words != last {
                bar.set_message(words.clone());
                if bar.is_hidden() {
                    output::note(&words);
                }
                last = words;
            }
            hopeless(&status)?;
        }
        // The store lives as long as the daemon; its end is the end of waiting.
        if store.changed().await.is_err() {
            anyhow::bail!("the daemon ended");
        }
    }
}

fn step(status: &InferenceServiceStatus) -> String {
    match status.condition("Ready") {
        Some(ready) if !ready.message.is_empty() => format!("{}: {}", ready.reason, ready.message),
        _ => "waiting".to_owned(),
    }
}

/// What waiting does not mend ends the demo with the cause and the next step.
fn hopeless(status: &InferenceServiceStatus) -> Result<()> {
    let Some(ready) = status.condition("Ready").filter(|ready| ready.status == ConditionStatus::False) else {
        return Ok(());
    };
    let exit = match ready.reason.as_str() {
        "ImagePullFailed" => return Err(NoImage(ready.message.clone()).into()),
        "EngineUnavailable" | "EnvironmentFailed" => Exit::Machine,
        "CrashLoopBackOff" | "OOMKilled" | "ContainerCannotRun" | "NoSupportingRuntime" => Exit::NotSo,
        _ => return Ok(()),
    };
    let subject = Subject { kind: "InferenceService", namespace: "default", name: NAME, generation: 0 };
    let told = diagnose(&Evidence::of(subject, Some(status)));
    let output: String = told.output.iter().map(|line| format!("\n  {line}")).collect();
    Err(Problem::new(exit, format!("{}: {}{output}", told.what, told.why)).hint(told.step).into())
}
