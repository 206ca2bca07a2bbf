//! Builds every room, hands each its ends of the channels, runs, and shuts down in order.
//!
//! Start: lock, listeners, store, driver, gateway, API. Shutdown: stop accepting, drain requests, stop the driver, leave
//! the containers (or stop them, when they were started for a foreground run), let pulls end where they can resume.

mod engine;
mod exposition;
mod listeners;
mod lock;
mod manager;
mod reload;
mod scrape;
mod state;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::StreamExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::Settings;
use crate::engine::docker::DockerEngine;
use crate::engine::{Container, ContainerEngine, EngineError};
use crate::gateway::{Gate, Gateway, LogPlaces};
use crate::home::Home;
use crate::kubeapi::{self, ApiState};
use crate::machine::GpuTool;
use crate::plan::record::{RECORD_LABEL, ReplicaRecord};
use crate::plan::world::PlanConfig;
use crate::reconcile::downloads::Downloads;
use crate::reconcile::execute::{Executor, chain};
use crate::reconcile::images::EngineImages;
use crate::reconcile::measure::Meter;
use crate::reconcile::mounts::Mounts;
use crate::reconcile::questions::Questions;
use crate::reconcile::{Clock, Driver, DriverConfig, DriverParts, revisions};
use crate::source::{Loader, Published, watch as folder_watch};
use crate::storage::{Cache, PullConfig, Puller, ReachPolicy};
use crate::store::Store;
use crate::tasks::Tasks;
use crate::telemetry::EventLog;
use crate::traffic::TrafficBoard;
use crate::workload::{CA_BUNDLE, Patterns, RunAs, WorkloadConfig};

use listeners::Listeners;
use reload::Reload;

pub use listeners::Inherited;
pub use lock::LockError;
pub use reload::Reloaded;
pub use state::Addresses;

/// Longest wait for tasks at the end.
const TASK_DEADLINE: Duration = Duration::from_secs(10);

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The home cannot be used.
    #[error("could not use the home folder `{home}`")]
    Home {
        /// Home.
        home: String,
        /// Cause.
        source: std::io::Error,
    },
    /// Another daemon owns the home.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// An address is taken or not ours.
    #[error("could not listen on {address} for {what}")]
    Listen {
        /// Address.
        address: SocketAddr,
        /// `predictions` or `the API`.
        what: &'static str,
        /// The flag that chooses another.
        flag: &'static str,
        /// Cause.
        source: std::io::Error,
    },
    /// A service manager passed on a socket that nothing here is configured to listen on.
    #[error(
        "the service manager listens on {address} for us, but the settings say {data} for predictions and {api} for the API"
    )]
    Inherited {
        /// Address of the socket.
        address: SocketAddr,
        /// Address of predictions by the settings.
        data: SocketAddr,
        /// Address of the API by the settings.
        api: SocketAddr,
    },
    /// The engine cannot be set up at all.
    #[error("could not set up the container engine")]
    Engine(#[source] EngineError),
}

/// What becomes of the containers at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Containers {
    /// They keep running and are adopted by the next start.
    Leave,
    /// They are stopped and removed.
    Stop,
}

/// A running daemon.
pub struct Daemon {
    addresses: Addresses,
    engine: Arc<dyn ContainerEngine>,
    docker: Option<Arc<DockerEngine>>,
    chosen: (&'static str, String),
    home: Home,
    store: Store,
    loader: Loader,
    gateway_end: CancellationToken,
    driver_end: CancellationToken,
    gateway_done: tokio::task::JoinHandle<std::io::Result<()>>,
    driver_done: tokio::task::JoinHandle<()>,
    tasks: Tasks,
    /// What the driver has under way.
    effects: Tasks,
    reload: Reload,
    is_broken: bool,
    // Held for as long as the daemon lives; the system lets go of it however the process ends.
    _lock: lock::Lock,
}

impl Daemon {
    /// Starts a daemon.
    ///
    /// # Errors
    /// Another daemon owns the home, an address is taken, the home cannot be used, or a service manager passed on sockets
    /// that the settings do not name.
    pub async fn start(settings: Settings, inherited: Inherited) -> Result<Self, StartError> {
        let home = settings.home.clone();
        let in_home = |source| StartError::Home { home: home.root().to_string(), source };
        home.create().map_err(in_home)?;
        let lock = lock::Lock::take(&home)?;
        let Listeners { data, api } = Listeners::open(&settings, inherited).await?;
        let instance = state::instance(&home).map_err(in_home)?;
        let token = state::token(&home).map_err(in_home)?;
        let api_address = api.local_addr().map_err(in_home)?.ip();
        let tls = kubeapi::tls::load_or_make(&home.tls(), api_address).map_err(in_home)?;
        let addresses = Addresses {
            pid: std::process::id(),
            data: data.local_addr().map_err(in_home)?.to_string(),
            api: api.local_addr().map_err(in_home)?.to_string(),
            instance: instance.clone(),
        };

        let clock = Clock::start();
        let tasks = Tasks::new();
        let effects = Tasks::new();
        let events = EventLog::default();
        let store = Store::new(state::ledger(&home, clock.now().wall));
        let loader = Loader::new(home.clone(), store.clone(), events.clone(), move || clock.now());
        loader.publish(published(&settings));
        let chosen = engine::choose(&settings, &instance).await?;
        info!(engine = chosen.name, why = chosen.why, "engine chosen");
        let (engine, docker, run_as) = (Arc::clone(&chosen.engine), chosen.docker.clone(), chosen.run_as);
        let cache = Cache::open(settings.cache_dir.clone()).map_err(in_home)?;
        let board = TrafficBoard::default();
        let routes = Arc::new(ArcSwap::default());
        let served_routes = Arc::clone(&routes);
        let (pods, pods_seen) = watch::channel(Arc::default());
        let (questions, asked) = Questions::channel();
        let (pulls, pulls_seen) = watch::channel(Vec::new());
        let passes = Arc::new(crate::telemetry::metrics::PassMeter::default());
        // A manifest cannot make the daemon ask itself (promise D13).
        let own_listeners = vec![data.local_addr().map_err(in_home)?, api.local_addr().map_err(in_home)?];
        let reach = ReachPolicy { own_listeners, ..ReachPolicy::default() };
        let (room, offline) = (settings.room, settings.offline);
        let pull = PullConfig { reach, room, offline, ..PullConfig::default() };
        let places =
            LogPlaces { folder: Some(home.payloads()), environment: settings.environment.clone(), pull: pull.clone() };
        let gateway = Gateway::new(Arc::clone(&routes), board.clone(), settings.gateway.clone()).logging_to(places);
        let gateway = Arc::new(gateway);
        let mounts = Mounts { home: home.clone(), cache: cache.clone() };
        let downloads = Downloads::new(Arc::clone(&engine), mounts.clone(), instance.clone(), effects.clone());
        let executor = Executor {
            engine: Arc::clone(&engine),
            puller: Puller::new(cache.clone(), pull, Arc::new(settings.environment.clone()))
                .with_images(Arc::new(EngineImages(Arc::clone(&engine))))
                .with_containers(Arc::new(downloads.clone())),
            downloads,
            mounts,
            instance,
            offline,
        };
        let data_port = data.local_addr().map_err(in_home)?.port();
        let (reload, reloads) = watch::channel(driver_config(&settings, data_port, run_as));
        let driver = Driver::new(
            DriverParts {
                store: store.clone(),
                meter: Meter::new(
                    Arc::clone(&engine),
                    settings.environment.get("PATH").and_then(|path| GpuTool::find(path)),
                ),
                executor,
                cache,
                board: board.clone(),
                routes,
                pods,
                questions: asked,
                pulls,
                passes: Arc::clone(&passes),
                events: events.clone(),
                refused: gateway.backend_refused(),
                tasks: effects.clone(),
                clock,
                home: home.clone(),
                reloads,
            },
            reload.borrow().clone(),
            revisions::load(&home),
        );

        let driver_end = CancellationToken::new();
        let driver_done = tasks.spawn("driver", driver.run(driver_end.clone()));
        tasks.spawn("folder", folder_watch::run(loader.clone(), vec![home.services(), home.runtimes()], tasks.token()));
        let gateway_end = CancellationToken::new();
        let gateway_done = tasks.spawn("gateway", {
            let (gateway, tasks, end) = (Arc::clone(&gateway), tasks.clone(), gateway_end.clone());
            let first_table = first_table(board.tables(), gateway_end.clone());
            async move {
                first_table.await;
                gateway.serve(data, &tasks, end).await
            }
        });
        if docker.is_some() {
            match Gate::open(&home.gate()) {
                Ok(gate) => {
                    let (calls, group, end) = (gateway.inside(), tasks.clone(), gateway_end.clone());
                    let first_table = first_table(board.tables(), gateway_end.clone());
                    drop(tasks.spawn("gate", async move {
                        first_table.await;
                        gate.keep(calls, group, end).await;
                    }));
                }
                Err(error) => {
                    warn!(%error, folder = %home.gate(), "could not open the gate; transformers do not reach predictors");
                }
            }
        }
        let gateway_address = addresses.data.parse().unwrap_or(settings.listen);
        let exposition = Arc::new(exposition::Exposition {
            store: store.clone(),
            board,
            pods: pods_seen.clone(),
            pulls: pulls_seen,
            passes,
            loader: loader.clone(),
            gateway: gateway.metrics(),
            routes: served_routes,
            client: scrape::client(),
        });
        let ready_store = store.clone();
        let kept_loader = loader.clone();
        let state = ApiState {
            store: store.clone(),
            events,
            loader,
            pods: pods_seen,
            questions,
            engine: Arc::clone(&engine),
            token,
            home: home.clone(),
            tls: Some(tls),
            metrics: Arc::new(move || {
                let exposition = Arc::clone(&exposition);
                Box::pin(async move { exposition.render().await })
            }),
            ready: Arc::new(move || match ready_store.snapshot().desired_version {
                0 => Err("the folder was not read yet".to_owned()),
                _ => Ok(()),
            }),
            clock: Arc::new(move || clock.now().wall),
            gateway_address,
            version: env!("CARGO_PKG_VERSION"),
        };
        tasks.spawn("api", {
            let (tasks, end) = (tasks.clone(), tasks.token());
            async move { kubeapi::serve(state, api, &tasks, end).await }
        });
        tasks.spawn_droppable("ready", manager::say_ready_when_read(store.clone()));
        let answered = (addresses.data.parse(), addresses.api.parse());
        if let (Ok(data), Ok(api)) = answered {
            tasks.spawn_droppable("watchdog", manager::watchdog(gateway, data, api, tasks.token()));
        }
        addresses.save(&home).map_err(in_home)?;
        info!(data = addresses.data, api = addresses.api, home = %home.root(), "serving");
        let daemon = Self {
            addresses,
            engine,
            docker,
            chosen: (chosen.name, chosen.why.clone()),
            home,
            store,
            loader: kept_loader,
            gateway_end,
            driver_end,
            gateway_done,
            driver_done,
            tasks,
            effects,
            reload: Reload { settings, sender: reload, data_port, run_as },
            is_broken: false,
            _lock: lock,
        };
        daemon.greet_engine();
        chosen.clean_up(&daemon.tasks, &clock);
        Ok(daemon)
    }

    /// Returns the addresses it listens on.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Returns the name of the engine that was chosen, and why it was, in a sentence.
    pub fn engine(&self) -> (&'static str, &str) {
        (self.chosen.0, &self.chosen.1)
    }

    /// Returns the objects it serves.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns when a part of the daemon has ended that must not end by itself.
    pub async fn failed(&mut self) {
        tokio::select! {
            // Joining by reference: the handle can be joined again at the end.
            ended = &mut self.driver_done => error!(?ended, "the driver ended"),
            ended = &mut self.gateway_done => error!(?ended, "the gateway ended"),
        }
        self.is_broken = true;
    }

    /// Takes over settings that were changed as far as a running daemon can, and reads the folder again.
    pub async fn reload(&mut self, settings: Settings) -> Reloaded {
        self.loader.publish(published(&settings));
        let reloaded = self.reload.take(settings).await;
        self.loader.load().await;
        reloaded
    }

    /// Says once which engine is used, or why none is.
    fn greet_engine(&self) {
        let engine = Arc::clone(&self.engine);
        self.tasks.spawn("greet-engine", async move {
            match engine.info().await {
                Ok(found) => info!(
                    engine = found.name,
                    version = found.version,
                    endpoint = found.endpoint,
                    platform = found.platform,
                    "container engine"
                ),
                Err(error) => warn!(
                    error = chain(&error),
                    "no container engine answers; models start as soon as one does (is Docker installed and running, and may this user use it?)"
                ),
            }
        });
    }

    /// Ends the daemon in order.
    pub async fn shut_down(self, containers: Containers) {
        info!("shutting down");
        manager::say_stopping().await;
        self.gateway_end.cancel();
        // A handle that was joined already must not be joined again; the tracker waits for whatever is left.
        if !self.is_broken
            && let Err(error) = self.gateway_done.await
        {
            warn!(%error, "the gateway ended badly");
        }
        self.driver_end.cancel();
        if !self.is_broken
            && let Err(error) = self.driver_done.await
        {
            warn!(%error, "the driver ended badly");
        }
        self.effects.shut_down(TASK_DEADLINE).await;
        if containers == Containers::Stop {
            stop_everything(&self.engine).await;
            // A folder that stays behind is made again, or removed the next time.
            let _ = tokio::fs::remove_dir_all(self.home.scratch()).await;
            if let Some(docker) = &self.docker
                && let Err(error) = docker.remove_network().await
            {
                warn!(error = chain(&error), "could not remove the network");
            }
        }
        self.tasks.shut_down(TASK_DEADLINE).await;
        Addresses::remove(&self.home);
    }
}

fn published(settings: &Settings) -> Published {
    Published { domains: settings.domains.clone(), default_mode: settings.default_mode.clone() }
}

fn driver_config(settings: &Settings, data_port: u16, run_as: RunAs) -> DriverConfig {
    DriverConfig {
        plan: PlanConfig {
            domains: settings.domains.clone(),
            data_port,
            drain_deadline: settings.drain_deadline,
            default_mode: settings.default_mode.clone(),
            scale_to_zero_grace: settings.scale_to_zero_grace,
            history_limit: settings.history_limit,
            time_zone: jiff::tz::TimeZone::system(),
            sandboxes: settings.sandboxes,
            memory: settings.memory.clone(),
            ..PlanConfig::default()
        },
        workload: WorkloadConfig {
            allowed_host_paths: settings.allowed_host_paths.clone(),
            run_as,
            patterns: Patterns::of(|name| settings.environment.get(name).map(String::as_str)),
            ca_bundle: settings.environment.get(CA_BUNDLE).filter(|name| !name.is_empty()).cloned(),
        },
    }
}

/// Returns the process that serves a home, if one does. Only looks.
///
/// # Errors
/// The lock file cannot be read.
pub fn holder(home: &Home) -> Result<Option<String>, LockError> {
    lock::holder(home)
}

/// Returns the process that serves a home as the kernel knows it, for ending it. Only looks.
///
/// # Errors
/// The lock file cannot be read.
pub fn holding_process(home: &Home) -> Result<Option<rustix::process::Pid>, LockError> {
    lock::process(home)
}

/// Stops and removes every container of a home that no daemon serves. Returns how many there were.
///
/// # Errors
/// A daemon serves the home, or its engine does not answer.
pub async fn stop_models(settings: &Settings) -> Result<usize, StartError> {
    let in_home = |source| StartError::Home { home: settings.home.root().to_string(), source };
    settings.home.create().map_err(in_home)?;
    let _lock = lock::Lock::take(&settings.home)?;
    let instance = state::instance(&settings.home).map_err(in_home)?;
    let chosen = engine::choose(settings, &instance).await?;
    let found = chosen.engine.list().await.map_err(StartError::Engine)?.len();
    stop_everything(&chosen.engine).await;
    if let Some(docker) = &chosen.docker {
        docker.remove_network().await.map_err(StartError::Engine)?;
    }
    Ok(found)
}

/// Stops and removes every container of this instance, all at once. Looks again afterwards: a container that was just
/// being made when the driver ended shows up late.
async fn stop_everything(engine: &Arc<dyn ContainerEngine>) {
    for _ in 0..3 {
        match engine.list().await {
            Ok(containers) if containers.is_empty() => return,
            Ok(containers) => stop_all(engine, containers).await,
            Err(error) => return warn!(error = chain(&error), "could not stop the containers"),
        }
    }
}

async fn stop_all(engine: &Arc<dyn ContainerEngine>, containers: Vec<Container>) {
    info!(containers = containers.len(), "stopping what was started");
    let end = |container: Container| async move {
        let grace = grace(&container);
        let ended = match engine.stop(&container.id, grace).await {
            Ok(()) => engine.remove(&container.id).await,
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            warn!(container = container.name, error = chain(&error), "could not stop a container");
        }
    };
    futures::stream::iter(containers).for_each_concurrent(16, end).await;
}

fn grace(container: &Container) -> Duration {
    let record = container.labels.get(RECORD_LABEL).and_then(|text| serde_json::from_str::<ReplicaRecord>(text).ok());
    record.map_or(Duration::from_secs(10), |record| record.grace)
}

/// Waits until it is known what is served, or until the end: before that nobody would be found, and a client would be told so. Connections
/// wait in the listener's backlog meanwhile. A folder that cannot be read does not keep them there for long.
async fn first_table(mut tables: watch::Receiver<()>, end: CancellationToken) {
    tokio::select! {
        // There is nothing to lose in either.
        _ = tokio::time::timeout(FIRST_TABLE, tables.changed()) => {}
        () = end.cancelled() => {}
    }
}

/// Longest wait for the first route table.
const FIRST_TABLE: Duration = Duration::from_secs(5);
