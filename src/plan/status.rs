//! World to conditions, URLs, model state and pods, as KServe reports them (§8).

use std::time::Duration;

use super::pods::{ContainerView, ContainerViewState, PodView};
use super::replica::{Crash, Phase, Replica};
use super::rollout::ComponentReport;
use super::routes::{RouteState, ServiceRoute};
use super::world::{ContainerFact, DesiredService, ExitFact, FactReach, FactState, PullNote, World};
use crate::api::status::{Address, ComponentStatus, FailureInfo, ModelCopies, ModelStates, ModelStatus, TrafficTarget};
use crate::api::{ComponentKind, Condition, ConditionStatus, InferenceServiceStatus, ServiceKey, meta};
use crate::workload::{ComponentKey, ResolveError, names};

/// A phase in the words of a condition.
struct Said {
    status: ConditionStatus,
    reason: &'static str,
    message: String,
}

fn said(phase: &Phase) -> Said {
    use ConditionStatus::{False, True, Unknown};
    let (status, reason, message) = match phase {
        Phase::Ready => (True, "", String::new()),
        Phase::EngineUnknown => (Unknown, "EngineUnavailable", "the container engine has not answered yet".to_owned()),
        Phase::EngineDown(message) => (False, "EngineUnavailable", message.clone()),
        Phase::PullingModel(uri, note) => (Unknown, "ModelPulling", format!("fetching {uri}{}", progress(note))),
        Phase::ModelFailed { message, transient } => (False, "ModelPullFailed", retried(message, *transient)),
        Phase::PullingImage(image, note) => (Unknown, "ImagePulling", format!("pulling {image}{}", progress(note))),
        Phase::ImageFailed { message, transient } => (False, "ImagePullFailed", retried(message, *transient)),
        Phase::Creating => (Unknown, "ContainerCreating", "the container is being created".to_owned()),
        Phase::Refused { message } => (False, "ContainerCannotRun", message.clone()),
        Phase::Initializing(name) => (Unknown, "PodInitializing", format!("init container `{name}` is running")),
        Phase::Loading { message, restarts } => (Unknown, "ModelLoading", loading(message, *restarts)),
        Phase::NotReady { message } => {
            (False, "ModelNotReady", format!("it answered before and does not now: {message}"))
        }
        Phase::Crashed(crash) => (False, crash_reason(&crash.exit), crash_message(crash)),
        Phase::Paused => (False, "ContainerPaused", "someone paused the container; unpause it to serve".to_owned()),
        Phase::Gone => (False, "ContainerGone", "a container of this revision was removed".to_owned()),
    };
    Said { status, reason, message }
}

fn loading(message: &str, restarts: u32) -> String {
    let again = match restarts {
        0 => String::new(),
        1 => " again after it ended once".to_owned(),
        times => format!(" again after it ended {times} times"),
    };
    match message {
        "" => format!("the container runs{again}; the model does not answer yet"),
        words => format!("the container runs{again}; the model does not answer yet ({words})"),
    }
}

fn retried(message: &str, transient: bool) -> String {
    if transient { format!("{message}; it is tried again") } else { message.to_owned() }
}

fn progress(note: &PullNote) -> String {
    match (note.done, note.total) {
        (0, 0) if note.phase.is_empty() => String::new(),
        (0, 0) => format!(": {}", note.phase),
        (done, 0) => format!(": {} so far", bytes(done)),
        (done, total) => {
            let percent = u128::from(done) * 100 / u128::from(total.max(1));
            format!(": {percent}% ({} of {})", bytes(done), bytes(total))
        }
    }
}

/// Returns a size in a person's words.
pub fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| count >= *unit) {
        Some((name, unit)) => format!("{}.{} {name}", count / unit, count % unit * 10 / unit),
        None => format!("{count} B"),
    }
}

fn crash_reason(exit: &ExitFact) -> &'static str {
    match exit {
        exit if exit.out_of_memory => "OOMKilled",
        exit if !exit.error.is_empty() => "ContainerCannotRun",
        _ => "CrashLoopBackOff",
    }
}

fn crash_message(crash: &Crash) -> String {
    let Crash { container, exit, .. } = crash;
    let mut text = match exit {
        exit if exit.out_of_memory => {
            format!("container `{container}` was killed because it ran out of memory (exit code {})", exit.code)
        }
        exit if !exit.error.is_empty() => format!("container `{container}` could not run: {}", exit.error),
        exit if let Some(why) = &crash.stopped_for => {
            format!("container `{container}` was ended because its {why} (exit code {})", exit.code)
        }
        exit => format!("container `{container}` ended with exit code {}{}", exit.code, signal(exit.code)),
    };
    if crash.retry_in > Duration::ZERO {
        let seconds = crash.retry_in.as_secs() + u64::from(crash.retry_in.subsec_nanos() > 0);
        let times = if crash.restarts == 1 { "once".to_owned() } else { format!("{} times", crash.restarts) };
        text.push_str("; restarted ");
        text.push_str(&times);
        text.push_str(", next try in ");
        text.push_str(&seconds.to_string());
        text.push_str(" s");
    }
    if !crash.last_words.is_empty() {
        text.push_str("; last output:\n");
        text.push_str(&crash.last_words.join("\n"));
    }
    text
}

fn signal(code: i64) -> &'static str {
    match code {
        134 => " (abort)",
        137 => " (killed)",
        139 => " (segmentation fault)",
        143 => " (terminated)",
        _ => "",
    }
}

/// Returns what the proxy says of a component without a backend.
pub(super) fn refusal(key: &ComponentKey, phase: &Phase) -> RouteState {
    let said = said(phase);
    let retry_after = match phase {
        Phase::Crashed(crash) => crash.retry_in.clamp(Duration::from_secs(1), Duration::from_secs(60)),
        phase if phase.is_failure() => Duration::from_secs(30),
        _ => Duration::from_secs(1),
    };
    let reason = if said.reason.is_empty() { "NotReady" } else { said.reason };
    let message = match said.message.split('\n').next() {
        Some(line) if !line.is_empty() => line.trim_end_matches("; last output:").to_owned(),
        _ => format!("{} is not ready", key.component),
    };
    RouteState::NotReady { reason: reason.to_owned(), message, retry_after }
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
    let component = super::routes::ComponentRoute { service_name, state, timeout: None };
    route.components.insert(ComponentKind::Predictor, component);
    route
}

fn failure_reason(error: &ResolveError) -> &'static str {
    match error {
        ResolveError::Runtime(no) => no.reason.as_str(),
        ResolveError::Invalid { .. } => "InvalidPredictorSpec",
    }
}

/// Builds the status of one service.
pub(super) fn of_service(
    world: &World,
    service: &DesiredService,
    reports: &[ComponentReport],
    stopped: bool,
) -> InferenceServiceStatus {
    let mut status = InferenceServiceStatus {
        observed_generation: service.meta.generation,
        deployment_mode: deployment_mode(world, service),
        ..InferenceServiceStatus::default()
    };
    if stopped {
        status.conditions = stopped_conditions(service);
        return status;
    }
    conditions(&mut status, service, reports);
    if let Some(predictor) = reports.iter().find(|report| report.key.component == ComponentKind::Predictor) {
        name_runtime(&mut status, predictor);
        status.model_status = Some(model_status(service, predictor));
    } else if service.resolution.is_err() {
        status.model_status = Some(invalid_spec(service, None));
    }
    for report in reports {
        status.components.insert(report.key.component, component_status(world, report));
    }
    if reports.iter().any(|report| report.serving.is_some()) {
        let entry = if service_has(reports, ComponentKind::Transformer) { "transformer" } else { "predictor" };
        status.url = Some(public_url(world, &names::standard_host(&service.key, domain(world))));
        let ServiceKey { namespace, name } = &service.key;
        status.address = Some(Address { url: format!("http://{name}-{entry}.{namespace}.svc.cluster.local") });
    }
    status
}

fn service_has(reports: &[ComponentReport], kind: ComponentKind) -> bool {
    reports.iter().any(|report| report.key.component == kind)
}

fn deployment_mode(world: &World, service: &DesiredService) -> String {
    match service.meta.annotation(meta::DEPLOYMENT_MODE) {
        Some("Standard" | "RawDeployment") => "Standard".to_owned(),
        Some("Knative" | "Serverless") => "Knative".to_owned(),
        _ => world.config.default_mode.clone(),
    }
}

fn name_runtime(status: &mut InferenceServiceStatus, predictor: &ComponentReport) {
    match &predictor.runtime {
        Some(runtime) if runtime.cluster => status.cluster_serving_runtime_name.clone_from(&runtime.name),
        Some(runtime) => status.serving_runtime_name.clone_from(&runtime.name),
        None => {}
    }
}

fn stopped_conditions(service: &DesiredService) -> Vec<Condition> {
    let why = "the service is stopped";
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
    all.sort_by(|a, b| a.kind.cmp(&b.kind));
    all
}

fn condition_name(kind: ComponentKind, suffix: &str) -> String {
    let component = match kind {
        ComponentKind::Predictor => "Predictor",
        ComponentKind::Transformer => "Transformer",
        ComponentKind::Explainer => "Explainer",
    };
    format!("{component}{suffix}")
}

fn conditions(status: &mut InferenceServiceStatus, service: &DesiredService, reports: &[ComponentReport]) {
    let knative = status.deployment_mode == "Knative";
    let info = |condition: Condition| Condition { severity: "Info".to_owned(), ..condition };
    let mut all = vec![info(Condition::new("Stopped", ConditionStatus::False, "", ""))];
    let (mut routes, mut latest) = (ConditionStatus::True, ConditionStatus::True);
    let mut ready = Condition::new("Ready", ConditionStatus::True, "", "");
    let mut ingress = Condition::new("IngressReady", ConditionStatus::True, "", "");
    for report in reports {
        let kind = report.key.component;
        let own = component_condition(service, report);
        let open = if report.serving.is_some() { ConditionStatus::True } else { own.status.min_known() };
        if open != ConditionStatus::True {
            let reason = condition_name(kind, " ingress not created");
            ingress = Condition::new("IngressReady", open, &reason, format!("{kind} does not answer yet"));
        }
        // Upstream lets Ready speak of predictor and ingress only; a transformer that is down makes requests fail, so
        // here it counts (the status is honest: Ready means that a request would succeed now).
        if own.status != ConditionStatus::True && ready.status != ConditionStatus::False {
            ready = Condition { kind: "Ready".to_owned(), ..own.clone() };
        }
        if knative {
            let route_name = match kind {
                ComponentKind::Explainer => "ExplainerRoutesReady".to_owned(),
                _ => condition_name(kind, "RouteReady"),
            };
            all.push(info(Condition::new(&route_name, open, "", "")));
            let configuration = Condition { kind: condition_name(kind, "ConfigurationReady"), ..own.clone() };
            all.push(info(configuration));
            routes = routes.and(open);
            latest = latest.and(own.status);
        }
        all.push(if kind == ComponentKind::Predictor { own } else { info(own) });
    }
    if reports.is_empty() {
        let own = unresolved_condition(service);
        ready = Condition { kind: "Ready".to_owned(), ..own.clone() };
        ingress = Condition::new("IngressReady", ConditionStatus::False, "Predictor ingress not created", "");
        all.push(own);
        (routes, latest) = (ConditionStatus::False, ConditionStatus::False);
    }
    if knative {
        let why = |status, text: &str| if status == ConditionStatus::True { String::new() } else { text.to_owned() };
        let text = why(routes, "PredictorRouteReady not ready");
        all.push(info(Condition::new("RoutesReady", routes, &text, "")));
        let text = why(latest, "PredictorConfigurationReady not ready");
        all.push(info(Condition::new("LatestDeploymentReady", latest, &text, "")));
    }
    all.push(ingress);
    all.push(ready);
    all.sort_by(|a, b| a.kind.cmp(&b.kind));
    status.conditions = all;
}

fn unresolved_condition(service: &DesiredService) -> Condition {
    let (reason, message) = match &service.resolution {
        Err(error) => (failure_reason(error), explain(error)),
        Ok(_) => ("", String::new()),
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
        ResolveError::Runtime(_) => error.to_string(),
    }
}

fn component_condition(service: &DesiredService, report: &ComponentReport) -> Condition {
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
    if report.settled {
        return Condition::new(&name, ConditionStatus::True, "", "");
    }
    let Said { status, reason, message } = said(&report.phase);
    let status = if status == ConditionStatus::True { ConditionStatus::Unknown } else { status };
    Condition::new(&name, status, reason, format!("{message}{kept}"))
}

fn domain(world: &World) -> &str {
    world.config.domains.first().map_or("localhost", String::as_str)
}

fn public_url(world: &World, host: &str) -> String {
    match world.config.data_port {
        80 => format!("http://{host}"),
        port => format!("http://{host}:{port}"),
    }
}

fn component_status(world: &World, report: &ComponentReport) -> ComponentStatus {
    let name = |revision: Option<u32>| {
        revision.map(|number| names::revision_name(&report.service_name, number)).unwrap_or_default()
    };
    let ServiceKey { namespace, name: service } = &report.key.service;
    let part = ServiceKey::new(namespace.clone(), format!("{service}-{}", report.key.component));
    let rolled_out = if report.settled { report.target } else { report.history.rolled_out };
    let previous =
        if rolled_out == report.history.rolled_out { report.history.previous } else { report.history.rolled_out };
    let traffic = report.serving.map(|serving| TrafficTarget {
        revision_name: name(Some(serving)),
        latest_revision: Some(serving) == report.target || report.target.is_none(),
        percent: 100,
        ..TrafficTarget::default()
    });
    ComponentStatus {
        latest_created_revision: name(report.target.or(report.serving)),
        latest_ready_revision: name(report.serving),
        latest_rolledout_revision: name(rolled_out),
        previous_rolledout_revision: name(previous),
        traffic: traffic.into_iter().collect(),
        url: report.serving.map(|_| public_url(world, &names::standard_host(&part, domain(world)))),
        address: report
            .serving
            .map(|_| Address { url: format!("http://{}.{namespace}.svc.cluster.local", report.service_name) }),
    }
}

fn model_status(service: &DesiredService, report: &ComponentReport) -> ModelStatus {
    if report.target.is_none() {
        return invalid_spec(service, report.serving);
    }
    let (transition, target) = match &report.phase {
        _ if report.settled => ("UpToDate", "Loaded"),
        phase if phase.is_failure() => ("BlockedByFailedLoad", "FailedToLoad"),
        Phase::PullingModel(..) | Phase::Loading { .. } | Phase::NotReady { .. } => ("InProgress", "Loading"),
        _ => ("InProgress", "Pending"),
    };
    let active = if report.serving.is_some() { "Loaded" } else { "" };
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
        Phase::Refused { .. } | Phase::ImageFailed { .. } | Phase::Gone => "RuntimeUnhealthy",
        _ => "ModelLoadFailed",
    };
    Some(FailureInfo { reason: reason.to_owned(), message: said(phase).message, exit_code })
}

fn invalid_spec(service: &DesiredService, serving: Option<u32>) -> ModelStatus {
    let info = service.resolution.as_ref().err().map(|error| FailureInfo {
        reason: failure_reason(error).to_owned(),
        message: match error {
            ResolveError::Runtime(no) => no.message.clone(),
            ResolveError::Invalid { .. } => explain(error),
        },
        exit_code: None,
    });
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

impl ConditionStatus {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::False, _) | (_, Self::False) => Self::False,
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            _ => Self::True,
        }
    }

    /// What nobody can call True yet.
    fn min_known(self) -> Self {
        if self == Self::True { Self::Unknown } else { self }
    }
}

/// Builds the view of one replica.
pub(super) fn pod(world: &World, key: &ComponentKey, service_name: &str, unit: &Replica<'_>, phase: &Phase) -> PodView {
    let said = said(phase);
    let specs: Vec<(String, String, bool)> = match unit.source {
        Some((workload, _)) => {
            let view =
                |init| move |spec: &crate::workload::ContainerSpec| (spec.name.clone(), spec.image.clone(), init);
            let init = workload.init_containers.iter().map(view(true));
            workload.containers.iter().map(view(false)).chain(init).collect()
        }
        None => unit.containers.values().map(|fact| (fact.container.clone(), fact.image.clone(), false)).collect(),
    };
    let containers: Vec<ContainerView> =
        specs.into_iter().map(|(name, image, init)| container_view(world, unit, name, image, init, phase)).collect();
    let running = containers.iter().any(|container| matches!(container.state, ContainerViewState::Running { .. }));
    let first = unit.record.containers.first().and_then(|owner| unit.containers.get(owner.name.as_str()));
    PodView {
        name: format!("{}-{}", names::revision_name(service_name, unit.revision), unit.ordinal),
        component: key.clone(),
        service_name: service_name.to_owned(),
        revision: unit.revision,
        phase: if running { "Running" } else { "Pending" }.to_owned(),
        status: if running && !phase.is_failure() { "Running".to_owned() } else { said.reason.to_owned() },
        ready: phase.is_ready(),
        containers,
        address: first.and_then(|fact| address(fact)),
        created_at: first.and_then(|fact| fact.created_at),
    }
}

fn address(fact: &ContainerFact) -> Option<String> {
    match &fact.reach {
        FactReach::Address(address) => Some(address.to_string()),
        FactReach::Published(_) => Some("127.0.0.1".to_owned()),
        FactReach::None => None,
    }
}

fn container_view(
    world: &World,
    unit: &Replica<'_>,
    name: String,
    image: String,
    init: bool,
    phase: &Phase,
) -> ContainerView {
    let fact = unit.containers.get(name.as_str()).copied();
    let memory = fact.and_then(|fact| world.memory.containers.get(&fact.name));
    let waiting = || {
        let said = said(phase);
        ContainerViewState::Waiting { reason: said.reason.to_owned(), message: said.message }
    };
    let state = match fact.map(|fact| &fact.state) {
        Some(FactState::Running { started_at }) => ContainerViewState::Running { started_at: *started_at },
        Some(FactState::Exited(exit)) if init && exit.code == 0 => terminated(exit),
        Some(FactState::Exited(exit)) => match phase {
            Phase::Crashed(_) => waiting(),
            _ => terminated(exit),
        },
        _ => waiting(),
    };
    ContainerView {
        id: fact.map(|fact| fact.id.clone()),
        restarts: memory.map_or(0, |memory| memory.restarts),
        ready: phase.is_ready() || (init && matches!(state, ContainerViewState::Terminated { exit_code: 0, .. })),
        name,
        image,
        state,
        init,
    }
}

fn terminated(exit: &ExitFact) -> ContainerViewState {
    let reason = match exit {
        exit if exit.out_of_memory => "OOMKilled",
        exit if exit.code == 0 => "Completed",
        _ => "Error",
    };
    ContainerViewState::Terminated { exit_code: exit.code, reason: reason.to_owned(), finished_at: exit.finished_at }
}
