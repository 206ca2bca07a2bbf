//! Which engine runs the models of this home.
//!
//! `auto` takes Docker when it answers. A home whose models Docker ran before stays with it: at boot Docker may come later
//! than we do, and the models are still its containers. Otherwise processes, when there is a Python to run them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use camino::Utf8PathBuf;
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
use crate::home::{Home, write_atomically};
use crate::reconcile::Clock;
use crate::reconcile::execute::chain;
use crate::tasks::Tasks;
use crate::workload::RunAs;

/// Longest wait for Docker to answer before it counts as absent.
const ANSWER: Duration = Duration::from_secs(5);
/// How often an engine that is retired and away is looked for: its containers are to end when it comes back.
const RETIRE_AGAIN: Duration = Duration::from_secs(60);
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
    /// What a killed daemon left of processes, half made or half removed.
    remains: Vec<Utf8PathBuf>,
    /// The engine that ran this home's models before, and must not go on.
    retired: Option<Arc<dyn ContainerEngine>>,
    home: Home,
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
            remains: Vec::new(),
            retired: None,
            home: settings.home.clone(),
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
    if let Err(error) = note(&settings.home, before, name) {
        warn!(%error, "could not note which engine is used");
    }
    let processes = processes(settings, instance);
    let remains = processes.remains();
    if name == PROCESS {
        let retired = docker.ok().filter(|_| is_retired(&settings.home, DOCKER)).map(|docker| docker as _);
        return Ok(Chosen {
            engine: Arc::new(processes.clone()),
            docker: None,
            run_as: RunAs::Processes,
            name,
            why,
            processes: Some(processes),
            remains,
            retired,
            home: settings.home.clone(),
        });
    }
    let docker = docker.map_err(StartError::Engine)?;
    let has_processes = settings.home.processes().read_dir_utf8().is_ok_and(|mut folders| folders.next().is_some());
    let collector = has_processes.then(|| processes.clone());
    Ok(Chosen {
        engine: Arc::clone(&docker) as _,
        docker: Some(docker),
        run_as: RunAs::Containers,
        name,
        why,
        processes: collector,
        remains,
        retired: has_processes.then(|| Arc::new(processes) as _),
        home: settings.home.clone(),
    })
}

/// Notes which engine is used. The one before stays noted beside it until nothing of it runs any more: it may be away
/// now, and its containers would go on for ever.
fn note(home: &Home, before: &str, name: &str) -> io::Result<()> {
    let write = |path: Utf8PathBuf, name: &str| write_atomically(&path, format!("{name}\n").as_bytes(), 0o600);
    if is_retired(home, name) {
        std::fs::remove_file(home.retired_engine())?;
    }
    if name == before {
        return Ok(());
    }
    if !before.is_empty() {
        write(home.retired_engine(), before)?;
    }
    write(home.engine(), name)
}

/// Whether an engine is noted as one that may still run models, although another is used.
fn is_retired(home: &Home, name: &str) -> bool {
    std::fs::read_to_string(home.retired_engine()).is_ok_and(|text| text.trim() == name)
}

/// Ends everything a retired engine runs, and forgets it when nothing is left. Says whether it is done.
async fn retire(engine: &Arc<dyn ContainerEngine>, home: &Home) -> bool {
    stop_everything(engine).await;
    let left = tokio::time::timeout(ANSWER, engine.list()).await;
    if !matches!(&left, Ok(Ok(containers)) if containers.is_empty()) {
        return false;
    }
    match std::fs::remove_file(home.retired_engine()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(%error, "could not forget the engine of before; it is asked again at the next start");
        }
        _ => {}
    }
    true
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
    /// Ends what the engine of before still runs, and removes what is left of processes and environments nobody uses.
    pub(super) fn clean_up(self, tasks: &Tasks, clock: &Clock) {
        if let Some(retired) = self.retired {
            let home = self.home;
            // What was stopped half is stopped again by the next daemon.
            tasks.spawn_droppable("retire-engine", async move {
                let mut again = tokio::time::interval(RETIRE_AGAIN);
                loop {
                    again.tick().await;
                    let answers = tokio::time::timeout(ANSWER, retired.info()).await.is_ok_and(|answer| answer.is_ok());
                    if answers && retire(&retired, &home).await {
                        return;
                    }
                }
            });
        }
        if let Some(processes) = self.processes {
            let (now, remains) = (clock.now().wall.into(), self.remains);
            tasks.spawn("collect-environments", async move {
                let collect = move || {
                    processes.discard(remains);
                    processes.collect_garbage(now)
                };
                let collected = tokio::task::spawn_blocking(collect).await;
                if let Ok(removed @ 1..) = collected {
                    info!(removed, "removed Python environments that nothing used for a month");
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;

    use super::*;
    use crate::engine::{CreateContainer, Network};
    use crate::workload::ContainerSpec;
    use crate::workload::names::INSTANCE_LABEL;

    fn home(folder: &tempfile::TempDir) -> Home {
        let home = Home::new(Utf8Path::from_path(folder.path()).unwrap());
        home.create().unwrap();
        home
    }

    #[test]
    fn an_engine_that_was_left_is_remembered_over_starts_until_it_is_retired() {
        let folder = tempfile::tempdir().unwrap();
        let home = home(&folder);
        note(&home, "", DOCKER).unwrap();
        assert!(!is_retired(&home, DOCKER));
        note(&home, DOCKER, PROCESS).unwrap();
        // Docker was away at that start, and at the next.
        note(&home, PROCESS, PROCESS).unwrap();
        assert!(is_retired(&home, DOCKER));
        // Whoever goes back to it uses it again.
        note(&home, PROCESS, DOCKER).unwrap();
        assert!(!is_retired(&home, DOCKER) && is_retired(&home, PROCESS));
    }

    #[tokio::test]
    async fn an_engine_is_forgotten_when_nothing_of_it_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let home = home(&folder);
        note(&home, DOCKER, PROCESS).unwrap();
        let memory = MemoryEngine::new("i").with_any_image(Behaviour::default());
        let request = CreateContainer {
            name: "a".to_owned(),
            labels: [(INSTANCE_LABEL.to_owned(), "i".to_owned())].into(),
            spec: ContainerSpec { image: "x".to_owned(), ..ContainerSpec::default() },
            binds: Vec::new(),
            network: Network::Own,
            publish: Vec::new(),
            shm_size: None,
            host_aliases: Vec::new(),
            gpus: Vec::new(),
            hostname: String::new(),
            stop_timeout: Duration::ZERO,
        };
        memory.create(&request).await.unwrap();
        let engine: Arc<dyn ContainerEngine> = Arc::new(memory);
        assert!(retire(&engine, &home).await);
        assert!(engine.list().await.unwrap().is_empty() && !is_retired(&home, DOCKER));
    }
}
