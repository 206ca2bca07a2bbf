//! Which engine runs the models of this home.
//!
//! `auto` takes Docker when it answers. A home whose models Docker ran before stays with it: at boot Docker may come later
//! than we do, and the models are still its containers. Otherwise processes, when there is a Python to run them.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{info, warn};

use super::{StartError, stop_everything};
use crate::config::{EngineChoice, Settings};
use crate::engine::docker::{DockerConfig, DockerEngine};
use crate::engine::memory::MemoryEngine;
use crate::engine::memory_script::Behaviour;
use crate::engine::process::{ProcessConfig, ProcessEngine};
use crate::engine::{ContainerEngine, EngineInfo};
use crate::environments::Tools;
use crate::home::write_atomically;
use crate::reconcile::Clock;
use crate::reconcile::execute::chain;
use crate::tasks::Tasks;
use crate::workload::RunAs;

/// Longest wait for Docker to answer before it counts as absent.
const ANSWER: Duration = Duration::from_secs(5);
/// Name of Docker in `state/engine`.
const DOCKER: &str = "docker";
/// Name of the process engine in `state/engine`.
const PROCESS: &str = "process";

/// The engine that was chosen.
pub(super) struct Chosen {
    pub(super) engine: Arc<dyn ContainerEngine>,
    pub(super) docker: Option<Arc<DockerEngine>>,
    pub(super) run_as: RunAs,
    /// Its name.
    pub(super) name: &'static str,
    /// Why it was chosen, in a sentence.
    pub(super) why: String,
    processes: Option<ProcessEngine>,
    /// The engine that ran this home's models before, and must not go on.
    retired: Option<Arc<dyn ContainerEngine>>,
}

/// Chooses the engine.
pub(super) async fn choose(settings: &Settings, instance: &str) -> Result<Chosen, StartError> {
    if settings.engine == EngineChoice::Memory {
        // As KServe's images do; their runtimes ask for a user that is not root.
        let imagined = Behaviour { user: "1000".to_owned(), ..Behaviour::server(Duration::from_millis(50)) };
        let engine = Arc::new(MemoryEngine::new(instance).with_any_image(imagined));
        return Ok(Chosen {
            engine,
            docker: None,
            run_as: RunAs::Containers,
            name: "memory",
            why: "it was asked for; nothing really runs".to_owned(),
            processes: None,
            retired: None,
        });
    }
    let before = std::fs::read_to_string(settings.home.engine()).unwrap_or_default();
    let before = before.trim();
    let docker = docker(settings, instance);
    let (name, why) = match settings.engine {
        EngineChoice::Process => (PROCESS, "it was asked for".to_owned()),
        EngineChoice::Docker => (DOCKER, "it was asked for".to_owned()),
        EngineChoice::Auto | EngineChoice::Memory => automatic(settings, &docker, before).await,
    };
    if name != before
        && let Err(error) = write_atomically(&settings.home.engine(), format!("{name}\n").as_bytes(), 0o600)
    {
        warn!(%error, "could not note which engine is used");
    }
    let processes = processes(settings, instance);
    if name == PROCESS {
        let retired = docker.ok().filter(|_| before == DOCKER).map(|docker| docker as _);
        return Ok(Chosen {
            engine: Arc::new(processes.clone()),
            docker: None,
            run_as: RunAs::Processes,
            name,
            why,
            processes: Some(processes),
            retired,
        });
    }
    let docker = docker.map_err(StartError::Engine)?;
    let has_processes = settings.home.processes().read_dir_utf8().is_ok_and(|mut folders| folders.next().is_some());
    Ok(Chosen {
        engine: Arc::clone(&docker) as _,
        docker: Some(docker),
        run_as: RunAs::Containers,
        name,
        why,
        processes: None,
        retired: has_processes.then(|| Arc::new(processes) as _),
    })
}

type Docker = Result<Arc<DockerEngine>, crate::engine::EngineError>;

async fn automatic(settings: &Settings, docker: &Docker, before: &str) -> (&'static str, String) {
    if before == DOCKER {
        // Not asked, so that a slow one does not hold up the start.
        let why = "it ran the models of this home before; `--engine process` runs them without it";
        return (DOCKER, why.to_owned());
    }
    let silence = match docker {
        Ok(docker) => match tokio::time::timeout(ANSWER, docker.info()).await {
            Ok(Ok(EngineInfo { name, endpoint, .. })) => return (DOCKER, format!("{name} answers at {endpoint}")),
            Ok(Err(error)) => chain(&error),
            Err(_) => format!("no answer within {} s", ANSWER.as_secs()),
        },
        Err(error) => chain(error),
    };
    let tools = Tools::find(&settings.environment);
    match tools.uv.as_ref().or(tools.python.as_ref()) {
        Some(tool) => (PROCESS, format!("{tool} is here, and Docker does not answer: {silence}")),
        None => (DOCKER, format!("there is no Python or uv to do without it, but it does not answer: {silence}")),
    }
}

fn docker(settings: &Settings, instance: &str) -> Docker {
    let config = DockerConfig {
        instance: instance.to_owned(),
        endpoint: settings.docker_host.clone(),
        network_name: None,
        env: settings.environment.clone(),
        user_home: settings.environment.get("HOME").map(Into::into),
    };
    DockerEngine::connect(config).map(Arc::new)
}

fn processes(settings: &Settings, instance: &str) -> ProcessEngine {
    ProcessEngine::new(ProcessConfig {
        instance: instance.to_owned(),
        root: settings.home.processes(),
        cache: settings.cache_dir.clone(),
        environment: settings.environment.clone(),
        supervisor: None,
        now: wall,
    })
}

#[expect(clippy::disallowed_methods, reason = "the daemon is the edge; engines are given their clock")]
fn wall() -> Timestamp {
    Timestamp::now()
}

impl Chosen {
    /// Ends what the engine of before still runs, and removes environments nobody uses.
    pub(super) fn clean_up(self, tasks: &Tasks, clock: &Clock) {
        if let Some(retired) = self.retired {
            tasks.spawn("retire-engine", async move {
                // One that does not answer runs nothing that could be ended.
                if tokio::time::timeout(ANSWER, retired.info()).await.is_ok_and(|answer| answer.is_ok()) {
                    stop_everything(&retired).await;
                }
            });
        }
        if let Some(processes) = self.processes {
            let now = clock.now().wall.into();
            tasks.spawn("collect-environments", async move {
                let collected = tokio::task::spawn_blocking(move || processes.collect_garbage(now)).await;
                if let Ok(removed @ 1..) = collected {
                    info!(removed, "removed Python environments that nothing used for a month");
                }
            });
        }
    }
}
