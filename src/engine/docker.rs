//! Docker, through bollard.
//!
//! Speaks to any engine with Docker's API. The connection is made at the first call and again after a failure, so the
//! daemon may start before the engine and outlive it. Every call has an end. Before it stops, removes, runs or reads
//! anything it knows that the container carries this instance's label.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bollard::models::{ContainerInspectResponse, ContainerUpdateBody};
use bollard::query_parameters::{
    CreateContainerOptions, ListContainersOptions, RemoveContainerOptions, StartContainerOptions, StopContainerOptions,
};
use camino::Utf8PathBuf;
use futures::stream::BoxStream;
use tokio::sync::watch;

use super::docker_connection::{Connection, QUICK, inspect, open};
use super::docker_endings::Endings;
use super::docker_error::{refused, status, translate, unreachable, words};
use super::docker_exec::Lingering;
use super::docker_export::Exports;
use super::docker_find::Places;
use super::docker_list::{from_inspect, from_summary};
use super::docker_network::leads_here;
use super::docker_spec::{ImageFacts, ReachBy, check_label, create_body, nano_cpus, seconds};
use super::{
    Blame, Container, ContainerEngine, ContainerId, ContainerState, CreateContainer, EngineError, EngineInfo, LogLine,
    LogOptions, Network, PullProgress, Usage, docker_events, docker_exec, docker_export, docker_image, docker_logs,
    docker_network, docker_pause, docker_sandbox, docker_usage,
};
use crate::workload::names::INSTANCE_LABEL;

/// Longest wait for making, starting or removing a container.
const SLOW: Duration = Duration::from_secs(120);

/// Which engine, and what is ours in it.
#[derive(Clone, Debug, Default)]
pub struct DockerConfig {
    /// Name of this instance; the value of the label on everything that is ours.
    pub instance: String,
    /// The operator's choice of engine; otherwise it is found as the docker command line finds it.
    pub endpoint: Option<String>,
    /// Name of the bridge network; `kserve-local-<instance>` when not given.
    pub network_name: Option<String>,
    /// `DOCKER_HOST`, `DOCKER_CONTEXT`, `DOCKER_CONFIG`, `XDG_RUNTIME_DIR`, `HOME`; others are ignored.
    pub env: BTreeMap<String, String>,
    /// The user's home folder, when it is not `HOME`.
    pub user_home: Option<Utf8PathBuf>,
}

/// An engine with Docker's API. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DockerEngine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    instance: String,
    network: String,
    places: Places,
    connection: Mutex<Option<Arc<Connection>>>,
    /// Ids known to carry our label; labels never change, ids are never used again.
    ours: Mutex<HashSet<String>>,
    endings: Endings,
    /// Folders of images that are being read.
    exports: Exports,
    /// Commands in containers that did not end in time.
    lingering: Lingering,
    /// Ids in which the kernel was heard to kill for memory since that was last looked into.
    starved: Mutex<HashSet<String>>,
    /// Held while the network is looked for and made, so that two creations do not make two.
    network_making: tokio::sync::Mutex<()>,
}

impl DockerEngine {
    /// Prepares an engine. Succeeds while the engine is away; fails when the configured endpoint can never work.
    pub fn connect(config: DockerConfig) -> Result<Self, EngineError> {
        let places = Places { explicit: config.endpoint, env: config.env, home: config.user_home };
        places.endpoints().map_err(|(at, cause)| unreachable(&at, cause))?;
        let network = config.network_name.unwrap_or_else(|| format!("kserve-local-{}", config.instance));
        let inner = Inner {
            instance: config.instance,
            network,
            places,
            connection: Mutex::default(),
            ours: Mutex::default(),
            endings: Endings::default(),
            exports: Exports::default(),
            lingering: Lingering::default(),
            starved: Mutex::default(),
            network_making: tokio::sync::Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Removes the instance's network; its containers must be gone. Absent is a success.
    pub async fn remove_network(&self) -> Result<(), EngineError> {
        let connection = self.connection().await?;
        self.noting(docker_network::remove(&connection, &self.inner.network, &self.inner.instance).await)
    }

    /// Returns the open connection, making one when there is none.
    pub(super) async fn connection(&self) -> Result<Arc<Connection>, EngineError> {
        if let Some(open) = lock(&self.inner.connection).clone() {
            return Ok(open);
        }
        let opened = Arc::new(open(&self.inner.places).await?);
        *lock(&self.inner.connection) = Some(Arc::clone(&opened));
        Ok(opened)
    }

    /// Forgets the connection when its engine went away: the next call looks for one and asks for its version again.
    pub(super) fn noting<T>(&self, result: Result<T, EngineError>) -> Result<T, EngineError> {
        if let Err(EngineError::Unreachable { .. }) = &result {
            lock(&self.inner.connection).take();
        }
        result
    }

    /// Returns the label filter that selects what is ours.
    /// Notes that the engine told of a kill for memory.
    pub(super) fn note_starved(&self, id: String) {
        lock(&self.inner.starved).insert(id);
    }

    pub(super) fn label_filter(&self) -> String {
        format!("{INSTANCE_LABEL}={}", self.inner.instance)
    }

    /// Fails unless the container is ours.
    async fn check_ours(
        &self,
        connection: &Connection,
        verb: &'static str,
        id: &ContainerId,
    ) -> Result<(), EngineError> {
        if lock(&self.inner.ours).contains(&id.0) {
            return Ok(());
        }
        self.inspect_ours(connection, verb, &id.0).await.map(drop)
    }

    /// Inspects a container by id or name; fails unless it is ours.
    async fn inspect_ours(
        &self,
        connection: &Connection,
        verb: &'static str,
        id: &str,
    ) -> Result<ContainerInspectResponse, EngineError> {
        let inspected = inspect(connection, verb, id).await?;
        let labels = inspected.config.as_ref().and_then(|config| config.labels.as_ref());
        if labels.and_then(|labels| labels.get(INSTANCE_LABEL)) != Some(&self.inner.instance) {
            let message = format!("it does not carry the label `{}`; we touch only what is ours", self.label_filter());
            return Err(refused(verb, id, message, Blame::Machine));
        }
        if let Some(full) = &inspected.id {
            lock(&self.inner.ours).insert(full.clone());
        }
        Ok(inspected)
    }

    async fn ensure_network(&self, connection: &Connection) -> Result<ReachBy, EngineError> {
        let _one_at_a_time = self.inner.network_making.lock().await;
        docker_network::ensure(connection, &self.inner.network, &self.inner.instance).await
    }

    async fn list_on(&self, connection: &Connection) -> Result<Vec<Container>, EngineError> {
        let filters = HashMap::from([("label".to_owned(), vec![self.label_filter()])]);
        let options = ListContainersOptions { all: true, filters: Some(filters), ..ListContainersOptions::default() };
        let listed = connection.docker.list_containers(Some(options));
        let listed = connection.settle("list", "containers", QUICK, listed).await?;
        self.inner.exports.sweep(connection, &self.inner.instance).await;
        let translate = |summary| from_summary(summary, &self.inner.network, leads_here);
        let mut containers: Vec<Container> = listed.into_iter().map(translate).collect();
        containers.sort_by(|one, other| one.name.cmp(&other.name));
        self.inner.lingering.retain(|id| containers.iter().any(|container| container.id == *id));
        *lock(&self.inner.ours) = containers.iter().map(|container| container.id.0.clone()).collect();
        self.inner.endings.tell(connection, &self.inner.network, &mut containers).await?;
        Ok(containers)
    }

    async fn create_on(&self, connection: &Connection, request: &CreateContainer) -> Result<ContainerId, EngineError> {
        check_label(request, &self.inner.instance)?;
        let held;
        let (request, abilities, image) = match &request.network {
            Network::Hold => {
                held = docker_sandbox::request(connection, request).await?;
                (&held, docker_sandbox::abilities(&connection.abilities), ImageFacts::default())
            }
            Network::Own | Network::Join(_) => {
                let image = docker_image::facts(connection, &request.spec.image).await?;
                (request, connection.abilities.clone(), image)
            }
        };
        let reach = match &request.network {
            Network::Own | Network::Hold => self.ensure_network(connection).await?,
            Network::Join(target) => {
                self.check_ours(connection, "join the network of", &ContainerId(target.clone())).await?;
                ReachBy::Loopback
            }
        };
        let body = create_body(request, &abilities, &image, &self.inner.network, reach)
            .map_err(|refusal| refused("create", &request.name, refusal.to_string(), Blame::User))?;
        let options = CreateContainerOptions { name: Some(request.name.clone()), platform: String::new() };
        let created = connection.docker.create_container(Some(options), body);
        match connection.answer(SLOW, created).await? {
            Ok(created) => {
                lock(&self.inner.ours).insert(created.id.clone());
                Ok(ContainerId(created.id))
            }
            Err(error) if words(&error).contains("in use") => self.adopt(connection, request).await,
            Err(error) if status(&error) == Some(404) && words(&error).to_lowercase().contains("image") => {
                Err(EngineError::ImageAbsent(request.spec.image.clone()))
            }
            Err(error) => Err(translate(&connection.endpoint, "create", &request.name, &error)),
        }
    }

    /// The name is taken: by the very container that is wanted (an earlier reply was lost), or by another.
    async fn adopt(&self, connection: &Connection, request: &CreateContainer) -> Result<ContainerId, EngineError> {
        let existing = inspect(connection, "create", &request.name).await?;
        let existing = from_inspect(existing, &self.inner.network, leads_here);
        if !is_the_same(&existing, request) {
            return Err(EngineError::NameTaken(request.name.clone()));
        }
        if existing.state == ContainerState::Removing {
            return Err(refused("create", &request.name, "its predecessor is still being removed", Blame::Machine));
        }
        lock(&self.inner.ours).insert(existing.id.0.clone());
        Ok(existing.id)
    }

    async fn start_on(&self, connection: &Connection, id: &ContainerId) -> Result<(), EngineError> {
        self.check_ours(connection, "start", id).await?;
        self.inner.endings.starting(id);
        let start = || connection.docker.start_container(&id.0, None::<StartContainerOptions>);
        match connection.settle("start", &id.0, SLOW, start()).await {
            // Somebody pruned the network while the container was stopped.
            Err(EngineError::Refused { message, .. })
                if message.contains("network") && message.contains("not found") =>
            {
                self.ensure_network(connection).await?;
                connection.settle("start", &id.0, SLOW, start()).await
            }
            other => other,
        }
    }

    async fn stop_on(&self, connection: &Connection, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        self.check_ours(connection, "stop", id).await?;
        self.inner.endings.stopping(id);
        let seconds = i32::try_from(seconds(grace)).unwrap_or(i32::MAX);
        let options = || StopContainerOptions { signal: None, t: Some(seconds) };
        let stop = || connection.docker.stop_container(&id.0, Some(options()));
        match connection.settle("stop", &id.0, grace + SLOW, stop()).await {
            Err(EngineError::Refused { message, .. }) if message.contains("paused") => {
                connection.settle("stop", &id.0, QUICK, connection.docker.unpause_container(&id.0)).await?;
                connection.settle("stop", &id.0, grace + SLOW, stop()).await
            }
            other => other,
        }
    }

    async fn limit_on(&self, connection: &Connection, id: &ContainerId, milli: u64) -> Result<(), EngineError> {
        self.check_ours(connection, "limit", id).await?;
        let nano_cpus = Some(nano_cpus(milli, &connection.abilities));
        let body = ContainerUpdateBody { nano_cpus, ..ContainerUpdateBody::default() };
        let updated = connection.docker.update_container(&id.0, body);
        connection.settle("limit", &id.0, SLOW, updated).await.map(drop)
    }

    async fn remove_on(&self, connection: &Connection, id: &ContainerId) -> Result<(), EngineError> {
        self.check_ours(connection, "remove", id).await?;
        let options = RemoveContainerOptions { v: true, force: true, link: false };
        let removed = connection.docker.remove_container(&id.0, Some(options));
        match connection.settle("remove", &id.0, SLOW, removed).await {
            Err(EngineError::Refused { message, .. }) if message.contains("already in progress") => Ok(()),
            other => other,
        }
    }
}

#[async_trait]
impl ContainerEngine for DockerEngine {
    async fn info(&self) -> Result<EngineInfo, EngineError> {
        let connection = self.connection().await?;
        let alive = connection.settle("ask", "whether it is alive", QUICK, connection.docker.ping()).await;
        self.noting(alive)?;
        Ok(connection.info.clone())
    }

    async fn list(&self) -> Result<Vec<Container>, EngineError> {
        let connection = self.connection().await?;
        self.noting(self.list_on(&connection).await)
    }

    async fn create(&self, request: &CreateContainer) -> Result<ContainerId, EngineError> {
        let connection = self.connection().await?;
        self.noting(self.create_on(&connection, request).await)
    }

    async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        let connection = self.connection().await?;
        self.noting(self.start_on(&connection, id).await)
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        let connection = self.connection().await?;
        self.noting(gone_is_done(self.stop_on(&connection, id, grace).await))
    }

    async fn pause(&self, id: &ContainerId) -> Result<(), EngineError> {
        let connection = self.connection().await?;
        self.noting(self.check_ours(&connection, "pause", id).await)?;
        self.noting(docker_pause::pause(&connection, id).await)
    }

    async fn unpause(&self, id: &ContainerId) -> Result<(), EngineError> {
        let connection = self.connection().await?;
        self.noting(self.check_ours(&connection, "unpause", id).await)?;
        self.noting(docker_pause::unpause(&connection, id).await)
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), EngineError> {
        let connection = self.connection().await?;
        self.noting(gone_is_done(self.remove_on(&connection, id).await))
    }

    fn limits_later(&self) -> bool {
        lock(&self.inner.connection).as_deref().is_some_and(|open| open.abilities.cpu_quota && !open.podman)
    }

    async fn limit_cpu(&self, id: &ContainerId, milli: u64) -> Result<(), EngineError> {
        let connection = self.connection().await?;
        self.noting(gone_is_done(self.limit_on(&connection, id, milli).await))
    }

    fn holds_networks(&self) -> bool {
        lock(&self.inner.connection).as_deref().is_some_and(docker_sandbox::is_possible)
    }

    async fn image_present(&self, image: &str) -> Result<bool, EngineError> {
        let connection = self.connection().await?;
        match self.noting(docker_image::facts(&connection, image).await) {
            Ok(_) => Ok(true),
            Err(EngineError::ImageAbsent(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn pull_image(
        &self,
        image: &str,
        logins: &[String],
        progress: watch::Sender<PullProgress>,
    ) -> Result<(), EngineError> {
        let connection = self.connection().await?;
        let folder = self.inner.places.docker_config_folder();
        self.noting(docker_image::pull(&connection, image, folder.as_deref(), logins, &progress).await)
    }

    fn has_images(&self) -> bool {
        true
    }

    async fn image_folder(
        &self,
        image: &str,
        folder: &str,
    ) -> Result<BoxStream<'static, Result<bytes::Bytes, EngineError>>, EngineError> {
        let connection = self.connection().await?;
        self.noting(docker_export::folder(connection, &self.inner.exports, &self.inner.instance, image, folder).await)
    }

    async fn inspect(&self, id: &ContainerId) -> Result<Container, EngineError> {
        let connection = self.connection().await?;
        let inspected = self.noting(self.inspect_ours(&connection, "inspect", &id.0).await)?;
        Ok(self.inner.endings.examine(&connection, &self.inner.network, inspected).await)
    }

    async fn usage(&self, ids: &[ContainerId]) -> Result<HashMap<ContainerId, Usage>, EngineError> {
        let connection = self.connection().await?;
        Ok(docker_usage::usage(&connection, ids).await)
    }

    async fn memory_kills(&self, ids: &[ContainerId]) -> HashMap<ContainerId, u64> {
        let mut ids = ids.to_vec();
        ids.extend(lock(&self.inner.starved).drain().map(ContainerId));
        docker_usage::memory_kills(&ids).await
    }

    async fn exec(
        &self,
        id: &ContainerId,
        command: &[String],
        timeout: Duration,
    ) -> Result<(i64, String), EngineError> {
        let connection = self.connection().await?;
        self.noting(self.check_ours(&connection, docker_exec::VERB, id).await)?;
        self.noting(docker_exec::run(&connection, &self.inner.lingering, id, command, timeout).await)
    }

    async fn logs(
        &self,
        id: &ContainerId,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogLine, EngineError>>, EngineError> {
        let connection = self.connection().await?;
        let inspected = self.noting(self.inspect_ours(&connection, docker_logs::VERB, &id.0).await)?;
        let terminal = inspected.config.and_then(|config| config.tty).unwrap_or_default();
        Ok(docker_logs::lines(&connection, id, &options, terminal))
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        docker_events::changes(self.clone())
    }
}

/// Whether a container carries every label that was asked for; images may add their own.
fn is_the_same(existing: &Container, request: &CreateContainer) -> bool {
    request.labels.iter().all(|(name, value)| existing.labels.get(name) == Some(value))
}

fn gone_is_done(result: Result<(), EngineError>) -> Result<(), EngineError> {
    match result {
        Err(EngineError::NoSuchContainer(_)) => Ok(()),
        other => other,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
