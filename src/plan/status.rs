//! World to conditions, URLs and model state, as KServe reports them (§8).
//!
//! Where this differs from KServe, it is because the truth is known here and one machine has no reason to hide it:
//! - `Ready` also speaks of transformer and explainer: without them requests fail.
//! - A spec that cannot be resolved makes `PredictorReady` False with the reason; KServe leaves the condition as it was.
//! - A service that sleeps says so (`PredictorReady` True with reason `Asleep`, model state `Standby`); KServe leaves its
//!   model `Pending`.
//! - `observedGeneration` is the generation this status speaks of.
//! - Failed pulls, refused containers and containers out of memory are failures (`BlockedByFailedLoad`), not `Pending`, and
//!   `lastFailureInfo` goes away when the failure does.

mod canaries;

use std::collections::BTreeMap;
use std::time::Duration;

use super::refresh;
use super::replica::Phase;
use super::rollout::ComponentReport;
use super::routes::{Hold, RouteState, ServiceRoute};
use super::said::{Said, said};
use super::split::Share;
use super::world::{DesiredService, World};
use crate::api::status::{Address, ComponentStatus, FailureInfo, ModelCopies, ModelStates, ModelStatus, TrafficTarget};
use crate::api::{ComponentKind, Condition, ConditionStatus, InferenceServiceStatus, Metadata, ServiceKey, meta};
use crate::workload::{ComponentKey, Extras, ResolveError, names};

/// Returns what the proxy does about a component without a backend: requests wait while it is under way, and are refused
/// when something is wrong. `left` is what it usually takes from here.
pub(super) fn closed(key: &ComponentKey, phase: &Phase, left: Option<Duration>) -> RouteState {
    let said = said(phase);
    let retry_after = match phase {
        Phase::Crashed(crash) => crash.delay.clamp(Duration::from_secs(1), Duration::from_secs(60)),
        phase if phase.is_failure() => Duration::from_secs(30),
        _ => left.unwrap_or_default().max(Duration::from_secs(1)),
    };
    let reason = if said.reason.is_empty() { "NotReady" } else { said.reason };
    let message = match said.message.split('\n').next() {
        Some(line) if !line.is_empty() => line.trim_end_matches("; last output:").to_owned(),
        _ => format!("{} is not ready", key.component),
    };
    let reason = reason.to_owned();
    match phase.patience() {
        Some(patience) => RouteState::Held(Hold { reason, message, retry_after, patience }),
        None => RouteState::NotReady { reason, message, retry_after },
    }
}

/// A service without components (stopped, or not resolvable) still has a route that says why it refuses.
pub(super) fn close_when_empty(mut route: ServiceRoute, service: &DesiredService, stopped: bool) -> ServiceRoute {
    if !route.components.is_empty() {
        return route;
    }
    let (reason, message) = match &service.resolution {
        _ if stopped => ("Stopped".to_owned(), format!("the service is stopped by its annotation {}", meta::STOP)),
        Err(error) => (failure_reason(error).to_owned(), error.to_string()),
        Ok(_) => ("NotReady".to_owned(), "the service has no component".to_owned()),
    };
    let state = RouteState::NotReady { reason, message, retry_after: Duration::from_secs(30) };
    let service_name = names::component_service_name(&service.key.name, ComponentKind::Predictor, None);
    let component = super::routes::ComponentRoute {
        service_name,
        state,
        tags: BTreeMap::new(),
        closed: BTreeMap::new(),
        timeout: None,
        extras: Extras::default(),
    };
    route.components.insert(ComponentKind::Predictor, Box::new(component));
    route
}

fn failure_reason(error: &ResolveError) -> &'static str {
    match error {
        ResolveError::Runtime(no) => no.reason.as_str(),
        ResolveError::Invalid { .. } => "InvalidPredictorSpec",
        ResolveError::NeedsContainerEngine { .. } => "NeedsContainerEngine",
    }
}

/// Builds the status of one service.
pub(super) fn of_service(
    world: &World,
    service: &DesiredService,
    reports: &[ComponentReport<'_>],
    stopped: bool,
) -> InferenceServiceStatus {
    let mut status = InferenceServiceStatus {
        observed_generation: service.meta.generation,
        deployment_mode: deployment_mode(world, &service.meta),
        ..InferenceServiceStatus::default()
    };
    let predictor = reports.iter().find(|report| report.key.component == ComponentKind::Predictor);
    status.canary_statuses = canaries::lines(service, predictor);
    if stopped {
        status.conditions = stopped_conditions(service);
        return status;
    }
    conditions(&mut status, service, reports);
    let workloads = service.resolution.as_deref().unwrap_or_default();
    refresh::say(&mut status, world, &workloads.iter().map(|resolved| &*resolved.workload).collect::<Vec<_>>());
    if let Some(predictor) = predictor {
        name_runtime(&mut status, predictor);
        status.model_status = Some(model_status(service, predictor));
    } else if service.resolution.is_err() {
        status.model_status = Some(invalid_spec(service, None));
    }
    let knative = status.deployment_mode == KNATIVE;
    for report in reports {
        if let Some(mut component) = component_status(world, report, knative) {
            if service.meta.is_cluster_local() {
                component.url = component.url.map(|_| component_address(report));
                component.traffic.iter_mut().for_each(|share| share.url = None);
            }
            status.components.insert(report.key.component, Box::new(component));
        }
    }
    // The addresses stay once given, as KServe's do: while nothing answers, the proxy says there what is wrong.
    if reports.iter().any(has_route) {
        let internal = internal_url(&service.key, reports, knative);
        // What has no public address shows the one it has, as Knative does; a name that nothing routes helps nobody (§4.1).
        let public = (!service.meta.is_cluster_local()).then(|| public_url(world, &host(world, &service.key, knative)));
        status.url = Some(public.unwrap_or_else(|| internal.clone()));
        status.address = Some(Address { url: internal });
    }
    status
}

/// Whether a component was ever given a route; a later failure does not take it away.
fn has_route(report: &ComponentReport) -> bool {
    report.serving.is_some() || report.history.rolled_out.is_some()
}

/// Deployment mode whose revisions and split of traffic are shown.
const KNATIVE: &str = "Knative";

fn host(world: &World, service: &ServiceKey, knative: bool) -> String {
    let domain = world.config.domains.first().map_or("localhost", String::as_str);
    if knative { names::knative_host(service, domain) } else { names::standard_host(service, domain) }
}

fn internal_url(service: &ServiceKey, reports: &[ComponentReport<'_>], knative: bool) -> String {
    let entry = [ComponentKind::Transformer, ComponentKind::Predictor];
    let entry = entry.iter().find_map(|kind| reports.iter().find(|report| report.key.component == *kind));
    let name = match entry {
        Some(report) if !knative => &report.service_name,
        _ => &service.name,
    };
    ["http://", name, ".", &service.namespace, ".svc.cluster.local"].concat()
}

/// Returns the address of an object from outside.
pub(super) fn public_address(world: &World, key: &ServiceKey, mode: &str) -> String {
    public_url(world, &host(world, key, mode == KNATIVE))
}

/// Returns the deployment mode an object asks for, else the default one.
pub(super) fn deployment_mode(world: &World, meta: &Metadata) -> String {
    match meta.annotation(meta::DEPLOYMENT_MODE) {
        Some("Standard" | "RawDeployment") => "Standard".to_owned(),
        Some("Knative" | "Serverless") => KNATIVE.to_owned(),
        _ => world.config.default_mode.clone(),
    }
}

fn name_runtime(status: &mut InferenceServiceStatus, predictor: &ComponentReport<'_>) {
    match &predictor.runtime {
        Some(runtime) if runtime.cluster => status.cluster_serving_runtime_name.clone_from(&runtime.name),
        Some(runtime) => status.serving_runtime_name.clone_from(&runtime.name),
        None => {}
    }
}

fn stopped_conditions(service: &DesiredService) -> Vec<Condition> {
    let why = stop_words();
    let mut all = vec![
        Condition::new("IngressReady", ConditionStatus::False, "Stopped", why),
        Condition::new("PredictorReady", ConditionStatus::False, "Stopped", why),
        Condition::new("Ready", ConditionStatus::False, "Stopped", why),
        Condition::new("Stopped", ConditionStatus::True, "Stopped", why),
    ];
    let parts = service.resolution.as_deref().unwrap_or_default();
    for kind in [ComponentKind::Transformer, ComponentKind::Explainer] {
        if parts.iter().any(|part| part.workload.component.component == kind) {
            all.push(Condition::new(&condition_name(kind, "Ready"), ConditionStatus::False, "Stopped", why));
        }
    }
    all.extend(canaries::condition(service, None, true));
    all.sort_by(|a, b| a.kind.cmp(&b.kind));
    all
}

fn stop_words() -> &'static str {
    "the service is stopped"
}

fn condition_name(kind: ComponentKind, suffix: &str) -> String {
    let component = match kind {
        ComponentKind::Predictor => "Predictor",
        ComponentKind::Transformer => "Transformer",
        ComponentKind::Explainer => "Explainer",
    };
    [component, suffix].concat()
}

fn conditions(status: &mut InferenceServiceStatus, service: &DesiredService, reports: &[ComponentReport<'_>]) {
    let knative = status.deployment_mode == KNATIVE;
    let mut all = vec![info(Condition::new("Stopped", ConditionStatus::False, "", ""))];
    let mut ready = Condition::new("Ready", ConditionStatus::True, "", "");
    let mut ingress = Condition::new("IngressReady", ConditionStatus::True, "", "");
    let mut routes = Condition::new("RoutesReady", ConditionStatus::True, "", "");
    let mut latest = Condition::new("LatestDeploymentReady", ConditionStatus::True, "", "");
    for Stand { kind, own, open } in stands(service, reports) {
        worsen(&mut ingress, open, || {
            (condition_name(kind, " ingress not created"), format!("the {kind} does not answer"))
        });
        // The predictor is what everyone thinks of; another component is named.
        let named = || match kind {
            ComponentKind::Predictor => own.message.clone(),
            kind => format!("{kind}: {}", own.message),
        };
        worsen(&mut ready, own.status, || (own.reason.clone(), named()));
        let route = match kind {
            ComponentKind::Explainer => "ExplainerRoutesReady".to_owned(),
            _ => condition_name(kind, "RouteReady"),
        };
        let configuration = condition_name(kind, "ConfigurationReady");
        if knative {
            worsen(&mut routes, open, || (format!("{route} not ready"), String::new()));
            worsen(&mut latest, own.status, || (format!("{configuration} not ready"), String::new()));
            all.push(info(Condition::new(&route, open, "", "")));
            all.push(info(Condition { kind: configuration, ..own.clone() }));
        }
        all.push(if kind == ComponentKind::Predictor { own } else { info(own) });
    }
    if knative {
        all.extend([info(routes), info(latest)]);
    }
    all.extend([ingress, ready]);
    let predictor = reports.iter().find(|report| report.key.component == ComponentKind::Predictor);
    all.extend(canaries::condition(service, predictor, false));
    all.sort_by(|a, b| a.kind.cmp(&b.kind));
    status.conditions = all;
}

/// How a component stands.
struct Stand {
    kind: ComponentKind,
    own: Condition,
    /// Whether it has a route: made when it answers for the first time, and kept from then on.
    open: ConditionStatus,
}

fn stands(service: &DesiredService, reports: &[ComponentReport<'_>]) -> Vec<Stand> {
    let mut all = Vec::new();
    if !reports.iter().any(|report| report.key.component == ComponentKind::Predictor) {
        let own = unresolved_condition(service);
        all.push(Stand { kind: ComponentKind::Predictor, open: own.status, own });
    }
    all.extend(reports.iter().map(|report| {
        let own = component_condition(service, report);
        let open = if has_route(report) { ConditionStatus::True } else { own.status.min_known() };
        Stand { kind: report.key.component, own, open }
    }));
    all
}

fn info(condition: Condition) -> Condition {
    Condition { severity: "Info".to_owned(), ..condition }
}

/// Makes a condition that sums up others as bad as the worst of them, and gives the reason of the first that is that bad.
fn worsen(sum: &mut Condition, status: ConditionStatus, words: impl FnOnce() -> (String, String)) {
    let rank = |status| match status {
        ConditionStatus::False => 0,
        ConditionStatus::Unknown => 1,
        ConditionStatus::True => 2,
    };
    if rank(status) < rank(sum.status) {
        let (reason, message) = words();
        *sum = Condition::new(&sum.kind, status, &reason, message);
    }
}

fn unresolved_condition(service: &DesiredService) -> Condition {
    let (reason, message) = match &service.resolution {
        Err(error) => (failure_reason(error), explain(error)),
        Ok(_) => ("InvalidPredictorSpec", "the service has no predictor".to_owned()),
    };
    Condition::new("PredictorReady", ConditionStatus::False, reason, message)
}

/// An error with its next step.
fn explain(error: &ResolveError) -> String {
    match error {
        ResolveError::Runtime(no) if !no.help.is_empty() => format!("{error}; {}", no.help),
        ResolveError::Invalid { field, message, help } => match help {
            Some(help) => format!("{field}: {message}; {help}"),
            None => format!("{field}: {message}"),
        },
        ResolveError::NeedsContainerEngine { message, help } => format!("{message}; {help}"),
        ResolveError::Runtime(_) => error.to_string(),
    }
}

fn component_condition(service: &DesiredService, report: &ComponentReport<'_>) -> Condition {
    let name = condition_name(report.key.component, "Ready");
    let kept = match report.serving {
        Some(revision) if Some(revision) != report.target => {
            format!("; revision {} keeps serving", names::revision_name(&report.service_name, revision))
        }
        _ => String::new(),
    };
    if report.target.is_none() {
        let own = unresolved_condition(service);
        return Condition::new(&name, own.status, &own.reason, format!("{}{kept}", own.message));
    }
    let Said { status, reason, message } = said(&report.phase);
    if report.settled {
        // Asleep is Ready, as on a cluster: a request is answered. The reason says why nothing runs.
        return Condition::new(&name, ConditionStatus::True, reason, message);
    }
    let status = if status == ConditionStatus::True { ConditionStatus::Unknown } else { status };
    let message = match report.history.times.left(&report.phase) {
        // Bytes on their way say themselves how long they will take.
        Some(_) if matches!(report.phase, Phase::PullingModel(..) | Phase::PullingImage(..)) => message,
        Some(left) => beside(message, &format!("; it usually answers within {} s", left.as_secs().max(1))),
        None => message,
    };
    let part = match report.serving {
        Some(serving) if Some(serving) == report.target => {
            format!("; {} of {} replicas answer", report.ready_replicas, report.replicas)
        }
        _ => kept,
    };
    Condition::new(&name, status, reason, beside(message, &part))
}

/// Adds a remark to the first line of a message: output of the container may follow it.
fn beside(message: String, remark: &str) -> String {
    match message.split_once('\n') {
        Some((first, rest)) => {
            let (first, colon) =
                first.strip_suffix("; last output:").map_or((first, ""), |first| (first, "; last output:"));
            format!("{first}{remark}{colon}\n{rest}")
        }
        None => message + remark,
    }
}

pub(super) fn public_url(world: &World, host: &str) -> String {
    match world.config.data_port {
        80 => ["http://", host].concat(),
        port => ["http://", host, ":", &port.to_string()].concat(),
    }
}

/// Standard mode shows nothing but the address, and that once it was ready (§8.1).
fn component_status(world: &World, report: &ComponentReport<'_>, knative: bool) -> Option<ComponentStatus> {
    let history = &report.history;
    let answered = report.serving.is_some() || history.rolled_out.is_some();
    let ServiceKey { namespace, name: service } = &report.key.service;
    let part = ServiceKey::new(namespace.clone(), [service.as_str(), "-", report.key.component.as_str()].concat());
    let url = answered.then(|| public_url(world, &host(world, &part, knative)));
    if !knative {
        return url.map(|url| ComponentStatus { url: Some(url), ..ComponentStatus::default() });
    }
    let name = |revision: Option<u32>| {
        revision.map(|number| names::revision_name(&report.service_name, number)).unwrap_or_default()
    };
    let rolled_out = if report.settled && !report.is_split { report.target } else { history.rolled_out };
    let previous = if rolled_out == history.rolled_out { history.previous } else { history.rolled_out };
    // The first share goes to the newest revision that is ready, whichever that is: as in KServe, that is the "latest".
    let target = |share: &Share| {
        let tagged = ServiceKey::new(namespace.clone(), format!("{}-{}", share.tag, part.name));
        TrafficTarget {
            revision_name: name(Some(share.revision)),
            latest_revision: share.latest,
            percent: i64::from(share.percent),
            tag: share.tag.to_owned(),
            url: (!share.tag.is_empty()).then(|| public_url(world, &host(world, &tagged, true))),
        }
    };
    Some(ComponentStatus {
        latest_created_revision: name(report.target.or(report.serving).or(history.rolled_out)),
        latest_ready_revision: name(report.serving.or(history.rolled_out)),
        latest_rolledout_revision: name(rolled_out),
        previous_rolledout_revision: name(previous),
        traffic: report.shares.iter().map(target).collect(),
        url,
        address: answered.then(|| Address { url: component_address(report) }),
    })
}

fn component_address(report: &ComponentReport<'_>) -> String {
    ["http://", &report.service_name, ".", &report.key.service.namespace, ".svc.cluster.local"].concat()
}

fn model_status(service: &DesiredService, report: &ComponentReport<'_>) -> ModelStatus {
    if report.target.is_none() {
        return invalid_spec(service, report.serving);
    }
    let (transition, target) = match &report.phase {
        Phase::Asleep => ("UpToDate", "Standby"),
        _ if report.settled => ("UpToDate", "Loaded"),
        phase if phase.is_failure() => ("BlockedByFailedLoad", "FailedToLoad"),
        Phase::PullingModel(..) | Phase::Loading { .. } | Phase::NotReady { .. } => ("InProgress", "Loading"),
        _ => ("InProgress", "Pending"),
    };
    let active = match report.serving {
        Some(_) if report.phase == Phase::Asleep => "Standby",
        Some(_) => "Loaded",
        None => "",
    };
    ModelStatus {
        transition_status: transition.to_owned(),
        states: Some(ModelStates { active_model_state: active.to_owned(), target_model_state: target.to_owned() }),
        last_failure_info: failure(&report.phase),
        copies: Some(ModelCopies {
            failed_copies: 0,
            total_copies: i32::try_from(report.ready_replicas).unwrap_or(i32::MAX),
        }),
    }
}

fn failure(phase: &Phase) -> Option<FailureInfo> {
    let exit_code = match phase {
        Phase::Crashed(crash) => Some(crash.exit.code),
        phase if phase.is_failure() => None,
        _ => return None,
    };
    let reason = match phase {
        Phase::Refused { .. } | Phase::ImageFailed { .. } | Phase::Removed { .. } | Phase::Gone => "RuntimeUnhealthy",
        _ => "ModelLoadFailed",
    };
    Some(FailureInfo { reason: reason.to_owned(), message: said(phase).message, exit_code })
}

fn invalid_spec(service: &DesiredService, serving: Option<u32>) -> ModelStatus {
    let info = service.resolution.as_ref().err().map(failure_of);
    let active = if serving.is_some() { "Loaded" } else { "" };
    ModelStatus {
        transition_status: "InvalidSpec".to_owned(),
        states: Some(ModelStates {
            active_model_state: active.to_owned(),
            target_model_state: "FailedToLoad".to_owned(),
        }),
        last_failure_info: info,
        copies: None,
    }
}

fn failure_of(error: &ResolveError) -> FailureInfo {
    let message = match error {
        ResolveError::Runtime(no) => no.message.clone(),
        ResolveError::Invalid { .. } | ResolveError::NeedsContainerEngine { .. } => explain(error),
    };
    FailureInfo { reason: failure_reason(error).to_owned(), message, exit_code: None }
}

impl ConditionStatus {
    /// What nobody can call True yet.
    fn min_known(self) -> Self {
        if self == Self::True { Self::Unknown } else { self }
    }
}
