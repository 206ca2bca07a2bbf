//! Rules about one predictor, transformer or explainer.

use k8s_openapi::api::core::v1 as core;

use crate::api::component::{BatcherSpec, ComponentSpec, LoggerSpec};
use crate::api::{ComponentKind, ModelSpec, ProtocolVersion, meta};
use crate::manifest::diagnostic::DiagnosticCode;
use crate::manifest::path::FieldPath;
use crate::manifest::report::Report;

use super::storage;

pub(super) fn check(
    service: &str,
    kind: ComponentKind,
    component: &ComponentSpec,
    path: &FieldPath,
    report: &mut Report<'_>,
) {
    check_python_path(service, component, path, report);
    check_implementation(kind, component, path, report);
    check_extension(component, path, report);
    storage::check(component, path, report);
    for model in models_of(component) {
        check_model(&model, path, report);
    }
    if kind == ComponentKind::Predictor {
        check_containers(component, path, report);
    }
    if component.worker_spec.is_some() {
        let message = "multi-node inference (`workerSpec`) is not served by this version";
        report.error(&path.key("workerSpec"), DiagnosticCode::NotServed, message);
        report.help("one machine runs the whole model: remove workerSpec");
    }
}

/// The model of a predictor as it is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written<'a> {
    /// `model`, or the legacy framework.
    pub(super) field: &'static str,
    /// What stands below it.
    pub(super) model: &'a ModelSpec,
}

impl Written<'_> {
    /// Returns the format's name; a legacy form says it with its field.
    pub(super) fn format(&self) -> &str {
        if self.field == "model" { &self.model.model_format.name } else { self.field }
    }
}

/// Returns every model a predictor holds; a valid one holds one at most.
pub(super) fn models_of(component: &ComponentSpec) -> Vec<Written<'_>> {
    let legacy = component.legacy_frameworks().into_iter().map(|(field, model)| Written { field, model });
    let model = component.model.as_deref().map(|model| Written { field: "model", model });
    legacy.chain(model).collect()
}

/// Names what implements a component, as upstream counts it.
pub(super) fn implementations(kind: ComponentKind, component: &ComponentSpec) -> Vec<FieldPath> {
    let here = FieldPath::default();
    let mut found: Vec<_> = models_of(component).iter().map(|model| here.key(model.field)).collect();
    if component.art.is_some() {
        found.push(here.key("art"));
    }
    let containers = here.key("containers");
    if kind == ComponentKind::Predictor {
        let serving = |(_, container): &(usize, &core::Container)| container.name == meta::KSERVE_CONTAINER;
        let named = component.containers().iter().enumerate().filter(serving);
        found.extend(named.map(|(index, _)| containers.index(index)));
    }
    let counted = kind != ComponentKind::Explainer && !found.is_empty();
    if !component.containers().is_empty() && !counted {
        found.push(containers);
    }
    found
}

fn check_implementation(kind: ComponentKind, component: &ComponentSpec, path: &FieldPath, report: &mut Report<'_>) {
    let (list, spec) = match kind {
        ComponentKind::Predictor => (
            "SKLearn, XGBoost, Tensorflow, PyTorch, Triton, ONNX, HuggingFace, PMML, LightGBM, Paddle, Model, PodSpec",
            "PredictorSpec",
        ),
        ComponentKind::Transformer => ("PodSpec", "TransformerSpec"),
        ComponentKind::Explainer => ("ART, PodSpec", "ExplainerSpec"),
    };
    let found = implementations(kind, component);
    let message = format!("exactly one of [{list}] must be specified in {spec}");
    match found.as_slice() {
        [_] => {}
        // It was likely meant by a field that was told already.
        [] if report.has_error_below(&path.key("containers")) || report.has_unknown_field(path) => {}
        [] if ["model", "art"].iter().any(|field| report.has_error_below(&path.key(field))) => {}
        [] => {
            report.denied(path, format!("{message}; there is none"));
            report.help(match kind {
                ComponentKind::Predictor => "write `model` with a modelFormat and a storageUri, or `containers`",
                _ => "write `containers` with one container",
            });
        }
        [.., last] => {
            let names: Vec<_> = found.iter().map(|field| format!("`{field}`")).collect();
            let at = last.steps().iter().fold(path.clone(), |path, step| match step {
                crate::manifest::path::Step::Key(key) => path.key(key),
                crate::manifest::path::Step::Index(index) => path.index(*index),
            });
            report.denied(&at, format!("{message}; there are {}", names.join(" and ")));
            report.help("keep one of them");
        }
    }
}

fn check_extension(component: &ComponentSpec, path: &FieldPath, report: &mut Report<'_>) {
    let (least, most) = (component.min_replicas, component.max_replicas);
    if least.is_some_and(|least| least < 0) {
        report.denied(&path.key("minReplicas"), "'MinReplicas' cannot be less than 0");
    }
    if most.is_some_and(|most| most < 0) {
        report.denied(&path.key("maxReplicas"), "'MaxReplicas' cannot be less than 0");
    }
    if most.is_some_and(|most| most > 0 && least.unwrap_or(1) > most) {
        report.denied(&path.key("minReplicas"), "'MinReplicas' cannot be greater than MaxReplicas");
    }
    if component.container_concurrency.is_some_and(|limit| limit < 0) {
        report.denied(&path.key("containerConcurrency"), "parallelism cannot be less than 0");
    }
    if component.timeout.is_some_and(|timeout| timeout < 0) {
        report.invalid(&path.key("timeout"), "timeout cannot be less than 0 seconds");
    }
    if component.canary_traffic_percent.is_some_and(|percent| !(0..=100).contains(&percent)) {
        report.invalid(&path.key("canaryTrafficPercent"), "canaryTrafficPercent must be between 0 and 100");
    }
    if let Some(logger) = &component.logger {
        check_logger(logger, &path.key("logger"), report);
    }
    if let Some(batcher) = &component.batcher {
        check_batcher(batcher, &path.key("batcher"), report);
    }
}

fn check_logger(logger: &LoggerSpec, path: &FieldPath, report: &mut Report<'_>) {
    if !matches!(logger.mode.as_deref(), Some("all" | "request" | "response")) {
        report.invalid(&path.key("mode"), "invalid logger type");
        report.help("write mode: all, request or response");
    }
    if let Some(storage) = &logger.storage
        && (storage.path.is_none() || storage.parameters.is_none() || storage.key.is_none())
    {
        report.denied(&path.key("storage"), "invalid logger storage configuration");
        report.help("it needs path, parameters and key");
    }
}

/// Upstream's agent refuses these when it starts; here they are refused when they are written.
fn check_batcher(batcher: &BatcherSpec, path: &FieldPath, report: &mut Report<'_>) {
    for (field, value) in [("maxBatchSize", batcher.max_batch_size), ("maxLatency", batcher.max_latency)] {
        if value.is_some_and(|value| value <= 0) {
            report.invalid(&path.key(field), format!("{field} must be greater than 0"));
        }
    }
}

fn check_model(written: &Written<'_>, component_path: &FieldPath, report: &mut Report<'_>) {
    let path = component_path.key(written.field);
    let model = written.model;
    if model.name.as_deref().is_some_and(|name| !name.is_empty()) {
        report.denied(&path.key("name"), "the 'name' field is not allowed in standard predictor");
        report.help("the serving container is always named kserve-container: remove name");
    }
    if let Some(protocol) = &model.protocol_version
        && ProtocolVersion::parse(protocol) == ProtocolVersion::Unknown
    {
        let message = format!("protocolVersion `{protocol}` is none that KServe knows");
        report.warning(&path.key("protocolVersion"), DiagnosticCode::Suspicious, message);
        report.help("write v1, v2, grpc-v1 or grpc-v2");
    }
}

fn check_containers(component: &ComponentSpec, path: &FieldPath, report: &mut Report<'_>) {
    let custom = models_of(component).is_empty();
    let containers = component.containers();
    let named = containers.iter().any(|container| container.name == meta::KSERVE_CONTAINER);
    if custom && containers.len() > 1 && !named {
        let message = "none of the containers is named kserve-container; the first one is taken to serve";
        report.warning(&path.key("containers"), DiagnosticCode::Suspicious, message);
        report.help("name the serving container kserve-container: a cluster fails without it");
    }
    let collocated = containers.iter().any(|container| container.name == meta::TRANSFORMER_CONTAINER);
    for (index, container) in containers.iter().enumerate() {
        let path = path.key("containers").index(index);
        for (index, env) in container.env.iter().flatten().enumerate() {
            let path = path.key("env").index(index);
            if container.name == meta::TRANSFORMER_CONTAINER && env.name == "STORAGE_URI" {
                report.denied(&path, "storage uri should not be specified in transformer container");
            }
            // The protocol of a collocated pair is told by its transformer.
            let speaks = if collocated { meta::TRANSFORMER_CONTAINER } else { meta::KSERVE_CONTAINER };
            let serving = container.name == speaks || (!collocated && !named && index == 0);
            if custom && serving && env.name == "PROTOCOL" {
                check_protocol(env, &path.key("value"), report);
            }
        }
    }
}

fn check_protocol(env: &core::EnvVar, path: &FieldPath, report: &mut Report<'_>) {
    let Some(protocol) = env.value.as_deref() else { return };
    if !matches!(protocol, "v1" | "v2") {
        report.denied(path, format!("invalid protocol {protocol}. Must be one of [v1, v2]"));
    }
}

fn check_python_path(service: &str, component: &ComponentSpec, path: &FieldPath, report: &mut Report<'_>) {
    let owner = format!("the InferenceService \"{service}\"");
    let containers = component.containers.iter().flatten().map(|container| (container, "containers"));
    let init = component.init_containers.iter().flatten().map(|container| (container, "initContainers"));
    for (list, field) in [(containers.collect::<Vec<_>>(), "containers"), (init.collect(), "initContainers")] {
        for (index, (container, _)) in list.into_iter().enumerate() {
            let path = path.key(field).index(index);
            refuse_python_path(&owner, &container.name, container.env.as_deref(), &path, report);
        }
    }
    for written in models_of(component) {
        let path = path.key(written.field);
        refuse_python_path(&owner, meta::KSERVE_CONTAINER, written.model.env.as_deref(), &path, report);
    }
    if let Some(art) = &component.art {
        refuse_python_path(&owner, meta::KSERVE_CONTAINER, art.env.as_deref(), &path.key("art"), report);
    }
}

/// Refuses `PYTHONPATH` in the environment of a container at `path`.
pub(super) fn refuse_python_path(
    owner: &str,
    container: &str,
    env: Option<&[core::EnvVar]>,
    path: &FieldPath,
    report: &mut Report<'_>,
) {
    let container = if container.is_empty() { meta::KSERVE_CONTAINER } else { container };
    for (index, _) in env.unwrap_or_default().iter().enumerate().filter(|(_, env)| env.name == "PYTHONPATH") {
        let message = format!(
            "{owner} is invalid: setting PYTHONPATH in container \"{container}\" is not allowed for security reasons"
        );
        report.denied(&path.key("env").index(index), message);
    }
}
