//! From a request's head to a service and component. Pure: the same head and table give the same answer.
//!
//! [`RouteIndex`] is derived from a [`RouteTable`] once per change of the table; [`RouteIndex::find`] then answers each
//! request by hash lookups on slices of the request itself. **Invariant:** nothing is decoded or normalised but the
//! case of the host: what is matched is what is forwarded.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;

use crate::api::{ComponentKind, ServiceKey};
use crate::plan::routes::{Backend, ComponentRoute, GraphRoute, RouteState, RouteTable, ServiceRoute};
use crate::workload::Extras;

use super::address::{self, Place};
use super::peek_grpc::GrpcName;

/// The parts of a request that decide where it goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    /// Method.
    pub(crate) method: &'a Method,
    /// `Host` or `:authority` as sent; none for HTTP/1.0 requests without one.
    pub(crate) host: Option<&'a str>,
    /// Path without query, as sent.
    pub(crate) path: &'a str,
    /// Whether the content type is `application/grpc…`.
    pub(crate) grpc: bool,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Route {
    /// To a component of a service.
    To(Target),
    /// The service is named in the body; look there, then ask [`RouteIndex::by_model`].
    Ask(Question),
    /// Through a graph of services.
    Graph(Arc<GraphRoute>),
    /// Answered by the gateway itself.
    Own(OwnAnswer),
    /// To nobody.
    Miss(Miss),
}

/// A component of a service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    /// The service.
    pub(crate) service: Arc<ServiceRoute>,
    /// One of its components.
    pub(crate) component: ComponentKind,
    /// Leading bytes of the path that are not forwarded: the path template's prefix.
    pub(crate) strip: usize,
    /// The service's place in the table.
    pub(crate) number: usize,
    /// Only this one of the component's revisions.
    pub(crate) tag: Option<Tag>,
    /// The service's TrainedModel that is asked for.
    pub(crate) model: Option<Arc<str>>,
}

impl Target {
    /// Names the model that is asked for, if it is one of the service's TrainedModels.
    fn asking_for(self, model: &str) -> Self {
        match self.service.trained.contains_key(model) {
            true => Self { model: Some(model.into()), ..self },
            false => self,
        }
    }

    /// Returns what may be done with the request, as `service` has it.
    pub(crate) fn state<'s>(&self, service: &'s ServiceRoute) -> Option<&'s RouteState> {
        let state = service.state(self.component, self.model.as_deref())?;
        // A canary on its own host is waited for by itself, however well the others answer.
        let closed = match (&self.tag, state) {
            (Some(Tag::Canary(name)), RouteState::Open(_)) => {
                service.components.get(&self.component).and_then(|route| route.closed.get(name.as_ref()))
            }
            _ => None,
        };
        Some(closed.unwrap_or(state))
    }

    /// Returns what the proxy does for the component besides forwarding.
    pub(crate) fn extras(&self) -> Option<&Extras> {
        self.service.components.get(&self.component).map(|route| &route.extras)
    }
}

/// A revision addressed by a host of its own: `latest-iris-predictor-default.example.com`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Tag {
    /// The newest of those that answer.
    Latest,
    /// The one before it.
    Previous,
    /// A named canary, by the name of its service: `iris-green-predictor`.
    Canary(Arc<str>),
}

/// Key of the newest revision among the tags of a route.
const LATEST: &str = "latest";
/// The same of the one before.
const PREVIOUS: &str = "prev";

impl Tag {
    /// Whether it is a named canary.
    pub(crate) fn is_canary(&self) -> bool {
        matches!(self, Self::Canary(_))
    }

    /// Splits a tag off a host label.
    fn split(label: &str) -> Option<(Self, &str)> {
        let latest = label.strip_prefix("latest-").map(|rest| (Self::Latest, rest));
        latest.or_else(|| label.strip_prefix("prev-").map(|rest| (Self::Previous, rest)))
    }

    /// Returns the backends that carry the tag: as the planner says, else by the names of the revisions.
    pub(crate) fn within(&self, route: Option<&ComponentRoute>, backends: &[Backend]) -> Vec<Backend> {
        let name = match self {
            Self::Latest => LATEST,
            Self::Previous => PREVIOUS,
            Self::Canary(name) => name,
        };
        let tagged = route.and_then(|route| route.tags.get(name)).filter(|tagged| !tagged.is_empty());
        tagged.cloned().unwrap_or_else(|| self.of(backends))
    }

    /// Returns the backends of the revision, each with a share of traffic. Revisions are named so that newer ones sort
    /// after older ones.
    pub(crate) fn of(&self, backends: &[Backend]) -> Vec<Backend> {
        let latest = backends.iter().map(|one| &one.revision).max();
        let revision = match self {
            Self::Latest => latest,
            Self::Previous => backends.iter().map(|one| &one.revision).filter(|one| Some(*one) != latest).max(),
            // Only the planner knows which revision that is.
            Self::Canary(_) => None,
        };
        let ours = backends.iter().filter(|one| Some(&one.revision) == revision);
        ours.map(|one| Backend { weight: 1, ..one.clone() }).collect()
    }
}

/// What to look for in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// The `model` member of a JSON object.
    JsonModel,
    /// The model's name in the first gRPC message.
    GrpcModel(GrpcName),
}

/// Requests on the bare address that concern every service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnAnswer {
    /// `/`: what is here.
    Root,
    /// `/v1/models`: KServe V1's list and OpenAI's list in one document.
    V1Models,
    /// `/v2`, and `ServerMetadata` over gRPC.
    Server,
    /// `/v2/models`.
    V2Models,
    /// `/openai/v1/models`.
    OpenAiModels,
    /// `/v2/repository/index`.
    RepositoryIndex,
    /// `/v2/health/live`, `ServerLive`.
    Live,
    /// `/v2/health/ready`, `ServerReady`.
    Ready,
    /// `grpc.health.v1.Health/Check`.
    GrpcHealth,
}

/// Why a request goes to nobody, and what was near.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Miss {
    /// What was wrong.
    pub(crate) reason: MissReason,
    /// The name that was looked up, as sent.
    pub(crate) wanted: String,
    /// Services between which we cannot choose.
    pub(crate) candidates: Vec<ServiceKey>,
}

/// What was wrong with the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MissReason {
    /// The host is below a known domain and no service's.
    UnknownHost,
    /// `/serving/<namespace>/<name>` names no service.
    UnknownService,
    /// No service serves a model of that name.
    UnknownModel,
    /// The path on the bare address means nothing.
    UnknownPath,
    /// The service has no such component.
    NoComponent,
    /// The service is called by others only, and not by its public names.
    ClusterLocal,
    /// Several services have that host.
    AmbiguousHost,
    /// Several services serve a model of that name.
    AmbiguousModel,
}

impl Miss {
    pub(crate) fn new(reason: MissReason, wanted: &str) -> Self {
        Self { reason, wanted: wanted.to_owned(), candidates: Vec::new() }
    }
}

/// A service and its place in the table.
#[derive(Clone, Debug)]
pub(crate) struct Numbered {
    number: usize,
    route: Arc<ServiceRoute>,
}

/// A service, or one of its components, behind a host name.
#[derive(Clone, Debug)]
struct Addressee {
    service: Numbered,
    component: Option<ComponentKind>,
    /// Only this one of the component's revisions.
    tag: Option<Tag>,
}

type Names = HashMap<Box<str>, Vec<Addressee>>;

/// The route table, turned over for lookups.
#[derive(Debug)]
pub(crate) struct RouteIndex {
    table: Arc<RouteTable>,
    /// `iris-default`, `iris.default`.
    services: Names,
    /// `iris-predictor-default`, `iris-predictor.default`, ….
    components: Names,
    models: HashMap<Box<str>, Vec<Numbered>>,
    /// `default/iris`.
    paths: HashMap<Box<str>, Numbered>,
    /// `iris-default`, `iris.default`, `default/iris`.
    graphs: HashMap<Box<str>, Arc<GraphRoute>>,
}

impl RouteIndex {
    /// Turns a table over. Costs time in proportion to the number of services.
    pub(crate) fn new(table: Arc<RouteTable>) -> Self {
        let mut index = Self {
            table: Arc::clone(&table),
            services: HashMap::new(),
            components: HashMap::new(),
            models: HashMap::new(),
            paths: HashMap::new(),
            graphs: graph_names(&table),
        };
        for (number, route) in table.services.values().enumerate() {
            index.add(&Numbered { number, route: Arc::clone(route) });
        }
        index
    }

    /// Returns the table this was made from.
    pub(crate) fn table(&self) -> &Arc<RouteTable> {
        &self.table
    }

    /// Returns a service by its name.
    pub(crate) fn service(&self, key: &ServiceKey) -> Option<&Numbered> {
        self.paths.get(format!("{}/{}", key.namespace, key.name).as_str())
    }

    fn add(&mut self, service: &Numbered) {
        let route = &service.route;
        let ServiceKey { namespace, name } = &route.key;
        insert(&mut self.services, name, service, None, None);
        for (kind, component) in &route.components {
            insert(&mut self.components, &format!("{name}-{kind}"), service, Some(*kind), None);
            insert(&mut self.components, &component.service_name, service, Some(*kind), None);
            for canary in component.tags.keys().filter(|tag| ![LATEST, PREVIOUS].contains(&tag.as_str())) {
                let tag = Tag::Canary(canary.as_str().into());
                insert(&mut self.components, canary, service, Some(*kind), Some(&tag));
            }
        }
        // Those that are called within the cluster only have no public names.
        for model in route.model_names.iter().filter(|_| !route.cluster_local) {
            let services = self.models.entry(model.as_str().into()).or_insert_with(|| Vec::with_capacity(1));
            if !services.iter().any(|known| known.number == service.number) {
                services.push(service.clone());
            }
        }
        self.paths.insert(format!("{namespace}/{name}").into(), service.clone());
    }

    /// Decides where a request goes.
    pub(crate) fn find(&self, head: Head<'_>) -> Route {
        let route = self.find_any(head);
        match &route {
            Route::To(target)
                if target.service.cluster_local && !address::is_internal(head.host, &self.table.domains) =>
            {
                Route::Miss(Miss::new(MissReason::ClusterLocal, &target.service.key.to_string()))
            }
            _ => route,
        }
    }

    fn find_any(&self, head: Head<'_>) -> Route {
        match address::place(head.host, &self.table.domains) {
            Place::Bare => self.find_bare(head),
            Place::Below(label) => self
                .find_host(&label, head.path)
                .unwrap_or_else(|| Route::Miss(Miss::new(MissReason::UnknownHost, head.host.unwrap_or_default()))),
            Place::Elsewhere(host) => self.find_host(&host, head.path).unwrap_or_else(|| self.find_bare(head)),
        }
    }

    /// Decides by the name of a model found in a body.
    pub(crate) fn by_model(&self, model: &str, path: &str) -> Route {
        match self.models.get(model).map(Vec::as_slice) {
            None | Some([]) => Route::Miss(Miss::new(MissReason::UnknownModel, model)),
            Some([service]) => match select_component(service, None, path, 0) {
                Route::To(target) => Route::To(target.asking_for(model)),
                route => route,
            },
            Some(services) => Route::Miss(Miss {
                reason: MissReason::AmbiguousModel,
                wanted: model.to_owned(),
                candidates: services.iter().map(|service| service.route.key.clone()).collect(),
            }),
        }
    }

    /// Finds the component of a service that answers for it.
    pub(crate) fn by_key(&self, key: &ServiceKey) -> Option<Target> {
        let service = self.paths.get(format!("{}/{}", key.namespace, key.name).as_str())?;
        match select_component(service, None, "", 0) {
            Route::To(target) => Some(target),
            _ => None,
        }
    }

    /// Decides where a URL of a manifest leads, if that is here. `is_own` says that host and port are this gateway's.
    pub(crate) fn by_url(&self, host: &str, is_own: bool, path: &str) -> Option<Route> {
        let head = Head { method: &Method::POST, host: Some(host), path, grpc: false };
        match address::place(Some(host), &self.table.domains) {
            Place::Bare => is_own.then(|| self.find(head)),
            Place::Below(_) => Some(self.find(head)),
            Place::Elsewhere(label) => self.find_host(&label, path),
        }
    }

    /// A service's own host wins over a component's host of the same spelling, and that over a tag's.
    fn find_host(&self, label: &str, path: &str) -> Option<Route> {
        let Some(found) = self.services.get(label).or_else(|| self.components.get(label)) else {
            if let Some(graph) = self.graphs.get(label) {
                return Some(Route::Graph(Arc::clone(graph)));
            }
            let (tag, component) = Tag::split(label)?;
            let [one] = self.components.get(component)?.as_slice() else { return None };
            let route = select_component(&one.service, one.component, path, 0);
            return Some(tagged(route, Some(tag)));
        };
        Some(match found.as_slice() {
            [one] => tagged(select_component(&one.service, one.component, path, 0), one.tag.clone()),
            several => Route::Miss(Miss {
                reason: MissReason::AmbiguousHost,
                wanted: label.to_owned(),
                candidates: several.iter().map(|one| one.service.route.key.clone()).collect(),
            }),
        })
    }

    fn find_bare(&self, head: Head<'_>) -> Route {
        if let Some(rest) = head.path.strip_prefix("/serving/") {
            return self.find_path_template(rest, head.path);
        }
        if head.grpc {
            return match (own_method(head.path), GrpcName::of_method(head.path)) {
                (Some(own), _) => Route::Own(own),
                (None, Some(shape)) => Route::Ask(Question::GrpcModel(shape)),
                (None, None) => Route::Miss(Miss::new(MissReason::UnknownPath, head.path)),
            };
        }
        self.find_bare_path(head)
    }

    fn find_bare_path(&self, head: Head<'_>) -> Route {
        let reads = head.method == Method::GET || head.method == Method::HEAD;
        match head.path {
            "/" | "" if reads => return Route::Own(OwnAnswer::Root),
            "/v2" | "/v2/" if reads => return Route::Own(OwnAnswer::Server),
            "/v1/models" if reads => return Route::Own(OwnAnswer::V1Models),
            "/v2/models" if reads => return Route::Own(OwnAnswer::V2Models),
            "/openai/v1/models" if reads => return Route::Own(OwnAnswer::OpenAiModels),
            "/v2/repository/index" if head.method == Method::POST => return Route::Own(OwnAnswer::RepositoryIndex),
            "/v2/health/live" if reads => return Route::Own(OwnAnswer::Live),
            "/v2/health/ready" if reads => return Route::Own(OwnAnswer::Ready),
            _ => {}
        }
        let named = ["/v1/models/", "/v2/models/", "/v2/repository/models/", "/openai/v1/models/"]
            .iter()
            .find_map(|prefix| head.path.strip_prefix(prefix));
        if let Some(rest) = named {
            return self.find_model_in_path(rest, head.path);
        }
        let by_body = head.path.starts_with("/v1/") || head.path.starts_with("/openai/");
        if by_body && head.method == Method::POST {
            return Route::Ask(Question::JsonModel);
        }
        if let Some(route) = self.find_by_path(head.path) {
            return route;
        }
        Route::Miss(Miss::new(MissReason::UnknownPath, head.path))
    }

    /// `rest` is `iris:predict`, `iris/infer`, `org/model`, …: the longest prefix that is a known model wins.
    fn find_model_in_path(&self, rest: &str, path: &str) -> Route {
        let mut ends = [rest.len(); MAX_MODEL_SEPARATORS + 1];
        let separators = rest.bytes().enumerate().filter(|(_, byte)| matches!(byte, b'/' | b':'));
        ends.iter_mut().take(MAX_MODEL_SEPARATORS).zip(separators).for_each(|(end, (at, _))| *end = at);
        let count = ends.iter().position(|end| *end == rest.len()).unwrap_or(MAX_MODEL_SEPARATORS);
        let known = ends[..=count].iter().rev().map(|end| &rest[..*end]).find(|name| self.models.contains_key(*name));
        self.by_model(known.unwrap_or(&rest[..ends[0]]), path)
    }

    /// `/<namespace>/<name>/…` leads to an LLMInferenceService.
    fn find_by_path(&self, path: &str) -> Option<Route> {
        let rest = path.strip_prefix('/')?;
        let (namespace, after) = rest.split_once('/')?;
        let name = after.split('/').next()?;
        let named = &rest[..namespace.len() + 1 + name.len()];
        let service = self.paths.get(named).filter(|service| service.route.by_path)?;
        let strip = 1 + named.len();
        Some(select_component(service, None, &path[strip..], strip))
    }

    /// `rest` is `<namespace>/<name>…`.
    fn find_path_template(&self, rest: &str, path: &str) -> Route {
        let mut slashes = rest.match_indices('/').map(|(at, _)| at);
        let (_, end) = (slashes.next(), slashes.next());
        let named = &rest[..end.unwrap_or(rest.len())];
        let strip = "/serving/".len() + named.len();
        match self.paths.get(named) {
            Some(service) => select_component(service, None, &path[strip..], strip),
            None => match self.graphs.get(named) {
                Some(graph) => Route::Graph(Arc::clone(graph)),
                None => Route::Miss(Miss::new(MissReason::UnknownService, named)),
            },
        }
    }
}

/// gRPC calls that concern no model: the merged server answers.
fn own_method(path: &str) -> Option<OwnAnswer> {
    match path {
        "/inference.GRPCInferenceService/ServerLive" => Some(OwnAnswer::Live),
        "/inference.GRPCInferenceService/ServerReady" => Some(OwnAnswer::Ready),
        "/inference.GRPCInferenceService/ServerMetadata" => Some(OwnAnswer::Server),
        "/grpc.health.v1.Health/Check" => Some(OwnAnswer::GrpcHealth),
        _ => None,
    }
}

/// Separators looked at in a path that names a model: enough for `org/model/versions/1:predict`.
const MAX_MODEL_SEPARATORS: usize = 8;

/// Every name of every graph: its hosts, its path.
fn graph_names(table: &RouteTable) -> HashMap<Box<str>, Arc<GraphRoute>> {
    let mut names = HashMap::new();
    for graph in table.graphs.values() {
        let ServiceKey { namespace, name } = &graph.key;
        for spelling in [format!("{name}-{namespace}"), format!("{name}.{namespace}"), format!("{namespace}/{name}")] {
            // `a-b` in `c` and `a` in `b-c` share a spelling; as among services, the others are told apart.
            names.entry(spelling.to_ascii_lowercase().into()).or_insert_with(|| Arc::clone(graph));
        }
    }
    names
}

/// Leads to one revision only.
fn tagged(route: Route, tag: Option<Tag>) -> Route {
    match route {
        Route::To(target) => Route::To(Target { tag, ..target }),
        route => route,
    }
}

fn insert(names: &mut Names, name: &str, service: &Numbered, component: Option<ComponentKind>, tag: Option<&Tag>) {
    let namespace = &service.route.key.namespace;
    let tag = tag.cloned();
    for spelling in [format!("{name}-{namespace}"), format!("{name}.{namespace}")] {
        // Few names are those of several.
        let known = names.entry(spelling.to_ascii_lowercase().into()).or_insert_with(|| Vec::with_capacity(1));
        let is_same = |one: &Addressee| one.component == component && one.tag == tag;
        if !known.iter().any(|one| one.service.number == service.number && is_same(one)) {
            known.push(Addressee { service: service.clone(), component, tag: tag.clone() });
        }
    }
}

/// Chooses the component of a service (§4.2): the one the host names, else explainer, transformer, predictor.
pub(crate) fn select_component(service: &Numbered, named: Option<ComponentKind>, path: &str, strip: usize) -> Route {
    let Numbered { number, route } = service;
    let has = |kind: &ComponentKind| route.components.contains_key(kind);
    let component = named.filter(has).or_else(|| {
        let explainer = is_explain(path).then_some(ComponentKind::Explainer);
        explainer.into_iter().chain([ComponentKind::Transformer, ComponentKind::Predictor]).find(has)
    });
    match component {
        Some(component) => {
            let target =
                Target { service: Arc::clone(route), component, strip, number: *number, tag: None, model: None };
            Route::To(match named_model(route, path) {
                Some(model) => target.asking_for(model),
                None => target,
            })
        }
        None => Route::Miss(Miss {
            reason: MissReason::NoComponent,
            wanted: route.key.to_string(),
            candidates: vec![route.key.clone()],
        }),
    }
}

/// The model a path names, where that matters: at services with TrainedModels.
fn named_model<'p>(service: &ServiceRoute, path: &'p str) -> Option<&'p str> {
    if service.trained.is_empty() {
        return None;
    }
    let rest =
        ["/v1/models/", "/v2/models/", "/openai/v1/models/"].iter().find_map(|prefix| path.strip_prefix(prefix))?;
    rest.split(['/', ':']).next()
}

/// `^/v1/models/[\w-]+:explain$`
fn is_explain(path: &str) -> bool {
    let model = path.strip_prefix("/v1/models/").and_then(|rest| rest.strip_suffix(":explain"));
    model.is_some_and(|model| {
        !model.is_empty() && model.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    })
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
