//! The route table: what the proxy may do with each request, decided here and only carried out by the gateway.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::api::{ComponentKind, ServiceKey};
use crate::graph::Graph;
use crate::workload::{ComponentKey, Extras, UpstreamProtocol};

/// Everything the gateway knows. Swapped as a whole; read without locks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteTable {
    /// Domains under which services are addressed, lower case, without leading dot: `example.com`, `localhost`, ….
    pub domains: Vec<String>,
    /// Every known service, stopped and failing ones included.
    pub services: BTreeMap<ServiceKey, Arc<ServiceRoute>>,
    /// Every known InferenceGraph that does not share its name with a service.
    pub graphs: BTreeMap<ServiceKey, Arc<GraphRoute>>,
    /// Where the metrics of replicas that answer are to be had (§5.7). Not for requests.
    pub scrapes: Vec<Scrape>,
}

impl RouteTable {
    /// Returns every address that requests may go to, some more than once.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let components = self.services.values().flat_map(|service| service.components.values());
        let backends = components.flat_map(|component| {
            let open = match &component.state {
                RouteState::Open(backends) => backends.as_slice(),
                RouteState::Held(_) | RouteState::NotReady { .. } => &[],
            };
            open.iter().chain(component.tags.values().flatten())
        });
        backends.flat_map(|backend| [Some(backend.address), backend.grpc_address]).flatten()
    }

    /// Whether two tables say the same. What they share is not looked at.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let Self { domains, services, graphs, scrapes } = self;
        let mut pairs = services.iter().zip(&other.services);
        services.len() == other.services.len()
            && pairs.all(|(one, other)| Arc::ptr_eq(one.1, other.1) || one == other)
            && (domains, graphs, scrapes) == (&other.domains, &other.graphs, &other.scrapes)
    }
}

/// Where one replica shows its own metrics, by the runtime's `prometheus.kserve.io/port` and `/path`.
#[derive(Clone, Debug, PartialEq)]
pub struct Scrape {
    /// Whose replica it is.
    pub component: ComponentKey,
    /// The replica.
    pub replica: ReplicaName,
    /// Socket address.
    pub address: SocketAddr,
    /// Path, with its leading slash.
    pub path: String,
}

/// How one InferenceService is reached.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceRoute {
    /// Whose route this is.
    pub key: ServiceKey,
    /// Its components. Requests to the service itself go to the transformer if there is one, else the predictor;
    /// `^/v1/models/[\w-]+:explain$` goes to the explainer if there is one (§4.2).
    pub components: BTreeMap<ComponentKind, Box<ComponentRoute>>,
    /// Names under which the service's models are called on the bare address (`localhost:8080`).
    pub model_names: Vec<String>,
    /// Whether `/{namespace}/{name}/` on the bare address leads to it, as to LLMInferenceServices.
    pub by_path: bool,
    /// Whether it is called by other services only: no public host, path or model name leads to it (§4.1).
    pub cluster_local: bool,
    /// Its TrainedModels, and what may be done with a request for each: replicas have loaded it, or why none has.
    pub trained: BTreeMap<String, RouteState>,
}

impl ServiceRoute {
    /// Makes a route that is public, without TrainedModels.
    pub fn new(key: ServiceKey, components: BTreeMap<ComponentKind, ComponentRoute>, model_names: Vec<String>) -> Self {
        let components = components.into_iter().map(|(kind, route)| (kind, Box::new(route))).collect();
        Self { key, components, model_names, by_path: false, cluster_local: false, trained: BTreeMap::new() }
    }

    /// Returns what may be done with a request for a component, and for one of its TrainedModels when it names one.
    pub fn state(&self, component: ComponentKind, model: Option<&str>) -> Option<&RouteState> {
        let whole = self.components.get(&component).map(|route| &route.state)?;
        let own = model.filter(|_| component == ComponentKind::Predictor).and_then(|model| self.trained.get(model));
        Some(own.unwrap_or(whole))
    }
}

/// How one InferenceGraph is run.
#[derive(Clone, Debug, PartialEq)]
pub struct GraphRoute {
    /// Whose route this is. Steps call services of its namespace.
    pub key: ServiceKey,
    /// What to run, or why it cannot be: one CamelCase word and a sentence.
    pub graph: Result<Graph, (String, String)>,
}

/// How one component is reached.
#[derive(Clone, Debug, PartialEq)]
pub struct ComponentRoute {
    /// Component service name, `{isvc}-predictor` or `{isvc}-{name}-predictor`.
    pub service_name: String,
    /// Open, or why not.
    pub state: RouteState,
    /// Replicas that answer under a tag of their revision (`latest`, `prev`), whatever its share of traffic; hosts begin
    /// with the tag: `prev-iris-predictor.default.example.com`.
    pub tags: BTreeMap<String, Vec<Backend>>,
    /// Why nobody answers under a tag although the component is open: of named canaries.
    pub closed: BTreeMap<String, RouteState>,
    /// Longest time from the request's last byte to the answer's first; none means the gateway's default (§4.3).
    pub timeout: Option<Duration>,
    /// What the proxy does besides forwarding.
    pub extras: Extras,
}

/// What may be done with a request.
#[derive(Clone, Debug, PartialEq)]
pub enum RouteState {
    /// Forward to one of these. Never empty.
    Open(Vec<Backend>),
    /// Known, asleep or being started: requests wait, and by waiting wake it. Health checks are refused at once.
    Held(Hold),
    /// Known, not ready: 503 with `Retry-After` and the reason.
    NotReady {
        /// One CamelCase word, for example `ModelPulling`.
        reason: String,
        /// A sentence for a person.
        message: String,
        /// Seconds after which trying again makes sense.
        retry_after: Duration,
    },
}

/// Why requests wait, and how long.
#[derive(Clone, Debug, PartialEq)]
pub struct Hold {
    /// One CamelCase word, for example `Asleep` or `ModelLoading`.
    pub reason: String,
    /// A sentence for a person.
    pub message: String,
    /// How long it usually takes on this machine; 1 s while that is not known.
    pub retry_after: Duration,
    /// Longest wait while nothing of this changes. A change is progress and the wait begins anew.
    pub patience: Duration,
}

/// One place a request can go.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Names the replica in leases and metrics.
    pub replica: ReplicaName,
    /// Socket address for HTTP.
    pub address: SocketAddr,
    /// How it is spoken to.
    pub protocol: UpstreamProtocol,
    /// Socket address for gRPC when the container declares a port of its own for it.
    pub grpc_address: Option<SocketAddr>,
    /// Most requests in flight at once; none means no limit.
    pub concurrency: Option<u32>,
    /// Share of traffic in relation to the other backends; 0 means none.
    pub weight: u32,
    /// Revision name, `{service_name}-00001`.
    pub revision: Arc<str>,
}

/// Names one replica: the container name of its serving container.
pub type ReplicaName = Arc<str>;
