//! What the driver is wired to, and its settings.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, watch};

use crate::home::Home;
use crate::plan::pods::PodView;
use crate::plan::routes::RouteTable;
use crate::plan::world::PlanConfig;
use crate::reconcile::Clock;
use crate::reconcile::execute::Executor;
use crate::reconcile::measure::Meter;
use crate::reconcile::questions::Question;
use crate::storage::Cache;
use crate::store::Store;
use crate::tasks::Tasks;
use crate::telemetry::EventLog;
use crate::telemetry::metrics::{PassMeter, PullSample};
use crate::traffic::TrafficBoard;
use crate::workload::WorkloadConfig;

/// Settings of the driver.
#[derive(Clone, Debug, Default)]
pub struct DriverConfig {
    /// Of the planner.
    pub plan: PlanConfig,
    /// Of resolution.
    pub workload: WorkloadConfig,
}

/// Everything the driver is wired to.
pub struct DriverParts {
    /// Desired objects in, statuses out.
    pub store: Store,
    /// Effects.
    pub executor: Executor,
    /// Memory and GPUs.
    pub meter: Meter,
    /// Models that are here.
    pub cache: Cache,
    /// Requests in flight.
    pub board: TrafficBoard,
    /// What the proxy may do.
    pub routes: Arc<ArcSwap<RouteTable>>,
    /// What runs, for people.
    pub pods: watch::Sender<Arc<Vec<Arc<PodView>>>>,
    /// What people ask.
    pub questions: mpsc::Receiver<Question>,
    /// What is being fetched, for metrics.
    pub pulls: watch::Sender<Vec<PullSample>>,
    /// Counts passes, for metrics.
    pub passes: Arc<PassMeter>,
    /// Events.
    pub events: EventLog,
    /// Rung by the gateway when a backend refused a connection.
    pub refused: Arc<Notify>,
    /// Tasks of this daemon.
    pub tasks: Tasks,
    /// The clock.
    pub clock: Clock,
    /// Where revisions are kept.
    pub home: Home,
    /// Settings that changed while the daemon runs.
    pub reloads: watch::Receiver<DriverConfig>,
}
