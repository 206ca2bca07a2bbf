//! One action to effects. Nothing is decided here; every outcome goes back as a fact.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use camino::Utf8PathBuf;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::access;
use super::door;
use super::downloads::Downloads;
use super::mounts::{MountError, Mounts};
use super::observe;
use crate::api::StorageUri;
use crate::engine::{
    Blame, Container, ContainerEngine, ContainerId, CreateContainer, EngineError, Network, PullProgress,
};
use crate::plan::Action;
use crate::plan::action::{ContainerPosition, CreateOrder, ProbeOrder, ProbeWhat};
use crate::plan::world::FactReach;
use crate::probe::{self, ProbeCheck, RunInside};
use crate::storage::{CachedModel, Checked, Progress, PullError, Puller};
use crate::workload::{Access, EntryPoint, Hook, UpstreamProtocol, names};

/// However long a pre-stop hook took, the container has this long after it, as in Kubernetes.
const AFTER_HOOK: Duration = Duration::from_secs(2);

/// What effects need. Cheap to clone.
#[derive(Clone)]
pub struct Executor {
    /// Containers.
    pub engine: Arc<dyn ContainerEngine>,
    /// Models.
    pub puller: Puller,
    /// Containers that fetch models.
    pub downloads: Downloads,
    /// Folders.
    pub mounts: Mounts,
    /// Name of this instance.
    pub instance: String,
    /// Whether nothing is fetched.
    pub offline: bool,
}

/// An effect that failed, in words for a person, with whose problem it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Message with its causes.
    pub message: String,
    /// Whether the manifest or the other side must change first.
    pub permanent: bool,
    /// What the world must learn besides.
    pub lesson: Lesson,
}

/// What a failure says about the world besides itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Lesson {
    /// Nothing.
    #[default]
    None,
    /// The engine does not answer.
    EngineDown,
    /// The image is not here after all.
    ImageGone(String),
    /// A model is not in the cache after all.
    ModelGone,
}

impl Failure {
    /// A failure of the program itself, in its own words; another try may do better.
    pub(super) fn own(message: String) -> Self {
        Self { message, permanent: false, lesson: Lesson::None }
    }
}

/// Returns an error with its causes, joined for a person.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{}: {words}", text.trim_end_matches('.'));
        }
        source = cause.source();
    }
    text
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let (permanent, lesson) = match &error {
            EngineError::Unreachable { .. } => (false, Lesson::EngineDown),
            EngineError::ImageAbsent(image) => (false, Lesson::ImageGone(image.clone())),
            EngineError::ImagePull { permanent, .. } | EngineError::Environment { permanent, .. } => {
                (*permanent, Lesson::None)
            }
            EngineError::NoSuchContainer(_) => (false, Lesson::None),
            EngineError::NameTaken(_) => (true, Lesson::None),
            EngineError::Refused { blame, .. } => (*blame == Blame::User, Lesson::None),
        };
        Self { message: chain(&error), permanent, lesson }
    }
}

impl From<MountError> for Failure {
    fn from(error: MountError) -> Self {
        let lesson = if matches!(error, MountError::ModelGone(_)) { Lesson::ModelGone } else { Lesson::None };
        Self { message: chain(&error), permanent: false, lesson }
    }
}

impl From<PullError> for Failure {
    fn from(error: PullError) -> Self {
        Self { message: chain(&error), permanent: !error.is_transient(), lesson: Lesson::None }
    }
}

impl Executor {
    /// Fetches a model, with the first of the accesses that is let in.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn pull_model(
        &self,
        uri: &StorageUri,
        accesses: Vec<Access>,
        progress: watch::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<CachedModel, Failure> {
        let pull = |access: Access| {
            let (puller, uri, progress, cancel) = (self.puller.clone(), uri.clone(), progress.clone(), cancel.clone());
            async move { puller.pull_with(&uri, &access, progress, cancel).await }
        };
        Ok(access::first_let_in(accesses, pull).await?)
    }

    /// Asks a model's source whether it has something new.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn check_model(
        &self,
        uri: &StorageUri,
        accesses: Vec<Access>,
        cancel: CancellationToken,
    ) -> Result<Checked, Failure> {
        let check = |access: Access| {
            let (puller, uri, cancel) = (self.puller.clone(), uri.clone(), cancel.clone());
            async move { puller.check(&uri, &access, cancel).await }
        };
        Ok(access::first_let_in(accesses, check).await?)
    }

    /// Pulls an image. Says afterwards, when it failed, whether an older copy is here.
    ///
    /// # Errors
    /// The registry or the engine refused.
    pub async fn pull_image(
        &self,
        image: &str,
        logins: &[String],
        progress: watch::Sender<PullProgress>,
    ) -> Result<(), (Failure, bool)> {
        if self.offline {
            let present = self.engine.image_present(image).await.unwrap_or(false);
            let message = format!("the image `{image}` is not on this machine, and this is offline mode");
            let absent = Failure { message, permanent: true, lesson: Lesson::None };
            return if present { Ok(()) } else { Err((absent, false)) };
        }
        match self.engine.pull_image(image, logins, progress).await {
            Ok(()) => Ok(()),
            Err(error) => {
                let present = self.engine.image_present(image).await.unwrap_or(false);
                Err((error.into(), present))
            }
        }
    }

    /// Does something to a container, and looks at it afterwards. None when it is gone. `last` says that a removal takes
    /// the replica's last container.
    ///
    /// # Errors
    /// A mount cannot be made, or the engine refuses.
    pub async fn container(&self, action: &Action, last: bool) -> Result<Option<Container>, Failure> {
        match action {
            Action::Create(order) => self.create(order).await.map(Some),
            Action::Start { id, .. } => self.start(id).await.map(Some),
            Action::Stop { id, grace, pre_stop, reach, .. } => self.stop(id, *grace, pre_stop.as_ref(), reach).await,
            Action::Doze(order) => self.doze(order).await,
            Action::Rouse(order) => self.rouse(order).await,
            Action::Remove { id, replica, .. } => {
                let scratch = last.then(|| self.mounts.scratch(replica));
                self.remove(id, scratch).await.map(|()| None)
            }
            Action::PullModel { .. }
            | Action::CheckModel { .. }
            | Action::CheckImage { .. }
            | Action::PullImage { .. }
            | Action::Probe(_)
            | Action::Repository(_)
            | Action::LimitCpu { .. } => Ok(None),
        }
    }

    async fn create(&self, order: &CreateOrder) -> Result<Container, Failure> {
        let request = self.request(order).await?;
        let id = self.engine.create(&request).await?;
        self.engine.start(&id).await?;
        Ok(self.engine.inspect(&id).await?)
    }

    async fn request(&self, order: &CreateOrder) -> Result<CreateContainer, Failure> {
        let workload = Arc::clone(&order.workload);
        let pod = names::pod_name(&workload.service_name, order.revision, order.ordinal);
        let spec = match order.position {
            ContainerPosition::Init(index) => workload.init_containers[index].clone(),
            ContainerPosition::Main(index) => workload.containers[index].clone(),
            ContainerPosition::Sandbox => door::sandbox(&workload),
        };
        let mut spec = spec.in_pod(&pod);
        if order.lift_cpu && matches!(order.position, ContainerPosition::Main(_)) {
            spec.resources.cpu_limit_milli = None;
        }
        let (mounts, replica) = (self.mounts.clone(), Arc::clone(&order.replica));
        let (for_binds, owner) = (Arc::clone(&workload), spec.clone());
        let mut binds = tokio::task::spawn_blocking(move || mounts.binds(&replica, &for_binds, &owner))
            .await
            .map_err(|error| Failure { message: error.to_string(), permanent: false, lesson: Lesson::None })??;
        let calls = order.position == ContainerPosition::Sandbox && !workload.callees.is_empty();
        let mut host_aliases = workload.host_aliases.clone();
        if calls {
            host_aliases.push(door::names(&workload));
            binds.push(door::gate(&self.mounts.home));
        }
        let owner = if order.sandboxed { ContainerPosition::Sandbox } else { ContainerPosition::Main(0) };
        let owns_network = order.position == owner;
        let mut publish: Vec<u16> = Vec::new();
        if owns_network {
            publish.push(workload.entry.port);
            publish.extend(workload.entry.grpc_port);
            let declared = workload.containers.iter().flat_map(|container| &container.ports);
            publish.extend(declared.filter(|port| port.protocol == "TCP").map(|port| port.port));
            publish.sort_unstable();
            publish.dedup();
        }
        Ok(CreateContainer {
            name: order.name.clone(),
            labels: observe::labels(&self.instance, order, &spec.name),
            binds,
            network: match (order.position, &order.join) {
                (ContainerPosition::Sandbox, _) => Network::Hold,
                (_, Some(other)) => Network::Join(other.clone()),
                (_, None) => Network::Own,
            },
            publish,
            shm_size: workload.shm_size,
            host_aliases,
            gpus: order.gpus.clone(),
            hostname: format!("{}-{}", names_host(&workload.service_name, order.revision), order.ordinal),
            stop_timeout: workload.termination_grace,
            spec,
        })
    }

    /// Starts a container that is made or has ended, and looks at it.
    ///
    /// # Errors
    /// The engine refuses.
    async fn start(&self, id: &str) -> Result<Container, Failure> {
        let id = ContainerId(id.to_owned());
        self.engine.start(&id).await?;
        Ok(self.engine.inspect(&id).await?)
    }

    /// Runs the pre-stop hook and stops a container. None when it is gone.
    ///
    /// # Errors
    /// The engine refuses.
    async fn stop(
        &self,
        id: &str,
        grace: Duration,
        pre_stop: Option<&Hook>,
        reach: &FactReach,
    ) -> Result<Option<Container>, Failure> {
        let id = ContainerId(id.to_owned());
        let mut left = grace;
        if let Some(hook) = pre_stop {
            let begun = Instant::now();
            // A hook that fails does not keep a container alive, in Kubernetes neither; the grace period covers it too.
            let _ = tokio::time::timeout(grace, self.hook(&id, hook, reach)).await;
            left = grace.saturating_sub(begun.elapsed()).max(AFTER_HOOK);
        }
        self.engine.stop(&id, left).await?;
        self.look(&id).await
    }

    async fn hook(&self, id: &ContainerId, hook: &Hook, reach: &FactReach) {
        match hook {
            Hook::Exec { command } => {
                if let Err(error) = self.engine.exec(id, command, Duration::from_secs(3600)).await {
                    tracing::debug!(container = %id, error = %chain(&error), "pre-stop hook failed");
                }
            }
            Hook::Http { path, port } => {
                if let Some(addr) = reach.to(*port) {
                    let (path, headers) = (path.clone(), Vec::new());
                    let check = ProbeCheck::Http { addr, path, headers, tls: false, expect_model_ready: false };
                    // Only that it was called matters.
                    let _ = probe::check(&check, Duration::from_secs(3600), &*self.run_inside()).await;
                }
            }
            Hook::Sleep(duration) => tokio::time::sleep(*duration).await,
        }
    }

    /// Removes a container and, with the last one of a replica, its scratch folder.
    ///
    /// # Errors
    /// The engine refuses.
    async fn remove(&self, id: &str, scratch: Option<Utf8PathBuf>) -> Result<(), Failure> {
        self.engine.remove(&ContainerId(id.to_owned())).await?;
        if let Some(folder) = scratch {
            match tokio::fs::remove_dir_all(&folder).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(%folder, %error, "could not remove a scratch folder");
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Looks at a container; none when it is gone.
    ///
    /// # Errors
    /// The engine does not answer.
    pub(super) async fn look(&self, id: &ContainerId) -> Result<Option<Container>, Failure> {
        match self.engine.inspect(id).await {
            Ok(container) => Ok(Some(container)),
            Err(EngineError::NoSuchContainer(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Checks a container once.
    pub async fn probe(&self, order: &ProbeOrder) -> probe::Outcome {
        let address = |port: u16| order.reach.to(port);
        let check = match &order.what {
            ProbeWhat::Check(check) => ProbeCheck::declared(check, &order.id, address),
            ProbeWhat::Readiness(readiness, port) => {
                let entry = EntryPoint { port: *port, protocol: UpstreamProtocol::Http1, grpc_port: None };
                ProbeCheck::readiness(readiness, &entry, address)
            }
        };
        let Some(check) = check else { return probe::Outcome::Failure("its port cannot be reached".to_owned()) };
        match probe::check(&check, order.timeout, &*self.run_inside()).await {
            // A command that hangs because the engine that runs it goes away says nothing of the container.
            probe::Outcome::Failure(words)
                if matches!(check, ProbeCheck::Exec { .. }) && self.engine.info().await.is_err() =>
            {
                probe::Outcome::Unknown(words)
            }
            outcome => outcome,
        }
    }

    /// Returns how commands are run inside containers.
    fn run_inside(&self) -> Box<RunInside> {
        let engine = Arc::clone(&self.engine);
        Box::new(move |id, command, timeout| {
            let engine = Arc::clone(&engine);
            Box::pin(async move {
                let ran = engine.exec(&ContainerId(id), &command, timeout).await;
                ran.map_err(|error| chain(&error))
            })
        })
    }
}

fn names_host(service_name: &str, revision: u32) -> String {
    let name = names::revision_name(service_name, revision);
    // Host names end at 63 characters; the last ones tell revisions apart.
    let start = name.len().saturating_sub(60);
    name.get(start..).unwrap_or(&name).trim_start_matches('-').to_owned()
}
