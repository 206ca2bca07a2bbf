//! A component in Kubernetes' words, on its way to a [`Workload`].
//!
//! `predictor` and `component` say what a component's pod would be on a cluster; this room turns that pod into plain
//! values: environment resolved, volumes looked up, probes completed, and everything a manifest may not ask for refused.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Volume};

use super::credentials;
use super::env::{self, PodFacts};
use super::expand::expand;
use super::extras::extras;
use super::model_source::ModelMounts;
use super::origin::Origin;
use super::process::Process;
use super::readiness::{self, Known};
use super::resolve::Scope;
use super::volumes::{self, Volumes};
use super::{
    Access, ComponentKey, ContainerSpec, EntryPoint, Layout, ModelServer, Mount, Port, PullPolicy, Refresh, Repository,
    ResolveError, Resources, RunAs, RuntimeRef, UpstreamProtocol, Workload, mounts, names, pod_name, probes, process,
    refresh, resources, security,
};
use crate::api::{ComponentKind, ComponentSpec, ServiceKey, meta};
use crate::scale;

/// A container and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) container: Container,
    pub(super) origin: Origin,
}

impl Placed {
    /// A container written at one place.
    pub(super) fn new(path: impl Into<String>, container: Container) -> Self {
        Self { origin: Origin::new(path, &container), container }
    }
}

/// The pod of a component.
#[derive(Clone, Debug)]
pub(super) struct Pod {
    pub(super) kind: ComponentKind,
    /// The serving container first.
    pub(super) containers: Vec<Placed>,
    pub(super) volumes: Vec<(String, Volume)>,
    pub(super) pull_secrets: Vec<String>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) models: ModelMounts,
    pub(super) runtime: Option<RuntimeRef>,
    /// What its server wants to find beside the models it loads, and of which frameworks those are.
    pub(super) loads_models: Option<(Layout, Vec<String>)>,
    pub(super) protocol: String,
    /// Protocol in which a graph calls the component (§6.3).
    pub(super) graph_protocol: String,
    /// Whether the manifest hints that a model protocol is spoken.
    pub(super) protocol_written: bool,
    pub(super) has_model: bool,
    /// How the serving container runs as a process, when its runtime says so and it matters.
    pub(super) process: Option<Process>,
    pub(super) warnings: Vec<String>,
    /// Whether its memory is asked for by more than a runtime that came with this program.
    pub(super) memory_is_declared: bool,
}

/// Sets a variable, over whatever it was.
pub(super) fn set_env(container: &mut Container, name: &str, value: &str) {
    let env = container.env.get_or_insert_default();
    let variable =
        k8s_openapi::api::core::v1::EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None };
    match env.iter_mut().find(|own| own.name == name) {
        Some(own) => *own = variable,
        None => env.push(variable),
    }
}

/// Returns the literal value of a variable.
pub(super) fn literal_env<'c>(container: &'c Container, name: &str) -> Option<&'c str> {
    let variable = container.env.iter().flatten().rev().find(|variable| variable.name == name);
    variable.and_then(|variable| variable.value.as_deref()).filter(|value| !value.is_empty())
}

/// Whether the model mount can be written to: the annotation says `"false"`, exactly.
pub(super) fn model_read_only(annotations: &BTreeMap<String, String>) -> bool {
    annotations.get(meta::MODEL_READONLY).is_none_or(|value| value != "false")
}

/// Turns a pod into a workload.
pub(super) fn to_workload(pod: Pod, component: &ComponentSpec, scope: &Scope<'_>) -> Result<Workload, ResolveError> {
    let path = format!("spec.{}", pod.kind);
    refuse_host_sharing(component, &path)?;
    let init: Vec<Placed> = component
        .init_containers
        .iter()
        .flatten()
        .enumerate()
        .map(|(index, container)| Placed::new(format!("{path}.initContainers[{index}]"), container.clone()))
        .collect();
    refuse_duplicate_names(pod.containers.iter().chain(&init))?;
    let mut warnings = pod.warnings.clone();
    warnings.extend(not_served(component, &path));
    refuse_impossible_replicas(component, &path)?;
    Refresh::of(&pod.annotations)?;
    let limit = concurrency(component, &path)?;
    let amounts = amounts(pod.containers.iter().chain(&init), &scope.gpu_types(), &mut warnings)?;
    let requested = |of: fn(&Resources) -> Option<u64>| {
        pod.containers.iter().filter_map(|placed| of(amounts.get(&placed.container.name)?)).sum()
    };
    let (scaling, notes) = scale::read(scale::Source {
        component,
        path: &path,
        annotations: &pod.annotations,
        limit,
        cpu_milli: requested(|resources| resources.cpu_request_milli),
        memory: requested(|resources| resources.memory_request),
    });
    warnings.extend(notes);
    let service_name = names::component_service_name(&scope.key.name, pod.kind, scope.spec.predictor.name.as_deref());
    let facts = PodFacts {
        namespace: &scope.key.namespace,
        name: pod_name::MARK,
        labels: &pod.labels,
        annotations: &pod.annotations,
        service_account: component.service_account(),
        resources: &amounts,
        companions: scope.companions,
    };
    let volumes = volumes::volumes(&pod.volumes, &facts, scope.config)?;
    let translator = Translator { pod: &pod, component, facts: &facts, volumes: &volumes };
    let mut containers =
        pod.containers.iter().map(|placed| translator.container(placed)).collect::<Result<Vec<_>, _>>()?;
    let init_containers = init.iter().map(|placed| translator.init_container(placed)).collect::<Result<Vec<_>, _>>()?;
    if scope.config.run_as == RunAs::Processes {
        process::apply(pod.process.as_ref(), pod.kind, &mut containers, &init_containers)?;
    }

    let image_pull_secrets = credentials::pull_secrets(&pod.pull_secrets, component, scope);
    let written: Vec<Container> = pod.containers.iter().map(|placed| placed.container.clone()).collect();
    let entry = readiness::entry(&written);
    // A model's name is the same in every replica.
    let model_name = pod_name::filled(&readiness::model_name(&containers, &scope.key.name), &service_name);
    let extras = extras(&pod, component, &scope.key, &model_name, &mut warnings);
    let known = Known {
        containers: &written,
        server_type: pod.runtime.as_ref().and_then(|runtime| runtime.server_type.as_deref()),
        has_runtime: pod.runtime.is_some(),
        protocol: &pod.protocol,
        protocol_written: pod.protocol_written,
        has_model: pod.has_model,
        model: &model_name,
    };
    let read_only = model_read_only(&pod.annotations);
    let model_server = pod.loads_models.clone().map(|loads| model_server(loads, read_only, &entry, &containers));
    Ok(Workload {
        component: ComponentKey { service: scope.key.clone(), component: pod.kind },
        readiness: readiness::readiness(known, &entry),
        shm_size: containers.iter().filter_map(|spec| mounts::shm_size(&spec.mounts)).max(),
        image_access: Access {
            registries: credentials::registries(&image_pull_secrets, scope, &mut warnings),
            ..Access::default()
        },
        image_pull_secrets,
        service_account: component.service_account().to_owned(),
        termination_grace: seconds(
            component.termination_grace_period_seconds,
            30,
            &format!("{path}.terminationGracePeriodSeconds"),
        )?,
        timeout: Some(seconds(component.timeout, 0, &format!("{path}.timeout"))?).filter(|time| !time.is_zero()),
        container_concurrency: limit,
        canary_percent: canary_percent(component, &path)?,
        canary: None,
        scaling,
        host_aliases: host_aliases(component),
        callees: callees(&pod, &scope.key, scope.spec.predictor.name.as_deref(), &mut warnings),
        service_name,
        init_containers,
        containers,
        entry,
        extras,
        model_name,
        aliases: Vec::new(),
        models: refresh::versioned(pod.models.models, &pod.annotations),
        labels: pod.labels,
        annotations: pod.annotations,
        protocol: pod.protocol,
        runtime: pod.runtime,
        model_server,
        memory_is_declared: pod.memory_is_declared,
        priority_class: component.priority_class_name.clone().filter(|name| !name.is_empty()),
        warnings,
    })
}

/// How a server is told which models to load. KServe's agent always calls port 8080; a server that is called elsewhere
/// over HTTP has its repository there.
fn model_server(
    (layout, frameworks): (Layout, Vec<String>),
    read_only: bool,
    entry: &EntryPoint,
    containers: &[ContainerSpec],
) -> ModelServer {
    let port = match entry.protocol {
        UpstreamProtocol::Http1 => entry.port,
        UpstreamProtocol::H2c => meta::DEFAULT_CONTAINER_PORT,
    };
    let memory_limit = containers.first().and_then(|serving| serving.resources.memory_limit);
    ModelServer { repository: Repository { port, layout, read_only }, frameworks, memory_limit }
}

fn refuse_host_sharing(component: &ComponentSpec, path: &str) -> Result<(), ResolveError> {
    let asked = [
        ("hostNetwork", component.host_network, "the network"),
        ("hostPID", component.host_pid, "the processes"),
        ("hostIPC", component.host_ipc, "the shared memory"),
    ];
    if let Some((field, _, what)) = asked.iter().find(|(_, asked, _)| *asked == Some(true)) {
        return Err(ResolveError::invalid(
            format!("{path}.{field}"),
            format!("containers do not share {what} of this machine"),
        )
        .with_help("remove the field; for shared memory mount an emptyDir with `medium: Memory` at /dev/shm"));
    }
    match &component.security_context {
        Some(pod) => security::refuse_pod(pod, &format!("{path}.securityContext")),
        None => Ok(()),
    }
}

/// Names what is written and has no effect yet; what can never have one is named where manifests are checked.
fn not_served(component: &ComponentSpec, path: &str) -> Vec<String> {
    let written = [
        (
            "shareProcessNamespace",
            component.share_process_namespace == Some(true),
            "containers of a replica share the network and volumes, not processes",
        ),
        ("dnsConfig", component.dns_config.is_some(), "names are resolved by the container engine"),
        ("runtimeClassName", component.runtime_class_name.is_some(), "the container engine's own runtime is used"),
    ];
    let written = written.into_iter().filter(|(_, written, _)| *written);
    written.map(|(field, _, why)| format!("{path}.{field}: {why}")).collect()
}

fn refuse_duplicate_names<'p>(containers: impl Iterator<Item = &'p Placed>) -> Result<(), ResolveError> {
    let mut seen = BTreeSet::new();
    for Placed { container, origin } in containers {
        let name = container.name.as_str();
        if name.is_empty() {
            return Err(ResolveError::invalid(origin.field(&["name"]), "the container has no name"));
        }
        if !seen.insert(name) {
            return Err(ResolveError::invalid(
                origin.field(&["name"]),
                format!("container name `{name}` is used twice"),
            ));
        }
    }
    Ok(())
}

fn amounts<'p>(
    containers: impl Iterator<Item = &'p Placed>,
    gpu_types: &[String],
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<String, Resources>, ResolveError> {
    let mut amounts = BTreeMap::new();
    for Placed { container, origin } in containers {
        let resolved = resources::resources(container, origin, gpu_types)?;
        warnings.extend(resolved.warnings);
        amounts.insert(container.name.clone(), resolved.resources);
    }
    Ok(amounts)
}

/// Reads seconds; a year stands for every longer time, so that it can be added to any other.
fn seconds(value: Option<i64>, default: u64, field: &str) -> Result<Duration, ResolveError> {
    let seconds = value.map_or(Ok(default), u64::try_from);
    seconds
        .map(|seconds| Duration::from_secs(seconds).min(A_YEAR))
        .map_err(|_| ResolveError::invalid(field, "must be greater than or equal to 0"))
}

const A_YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

fn concurrency(component: &ComponentSpec, path: &str) -> Result<Option<u32>, ResolveError> {
    let Some(written) = component.container_concurrency else { return Ok(None) };
    let limit = u32::try_from(written).map_err(|_| {
        ResolveError::invalid(format!("{path}.containerConcurrency"), "parallelism cannot be less than 0")
    })?;
    Ok(Some(limit).filter(|limit| *limit > 0))
}

fn refuse_impossible_replicas(component: &ComponentSpec, path: &str) -> Result<(), ResolveError> {
    for (field, value, message) in [
        ("minReplicas", component.min_replicas, "'MinReplicas' cannot be less than 0"),
        ("maxReplicas", component.max_replicas, "'MaxReplicas' cannot be less than 0"),
    ] {
        if value.is_some_and(|value| value < 0) {
            return Err(ResolveError::invalid(format!("{path}.{field}"), message));
        }
    }
    let least = component.min_replicas.unwrap_or(1);
    if component.max_replicas.is_some_and(|most| most > 0 && least > most) {
        let message = "'MinReplicas' cannot be greater than MaxReplicas";
        return Err(ResolveError::invalid(format!("{path}.minReplicas"), message));
    }
    Ok(())
}

fn canary_percent(component: &ComponentSpec, path: &str) -> Result<Option<u32>, ResolveError> {
    let Some(written) = component.canary_traffic_percent else { return Ok(None) };
    let percent = u32::try_from(written).ok().filter(|percent| *percent <= 100);
    let wrong = || ResolveError::invalid(format!("{path}.canaryTrafficPercent"), "must be between 0 and 100");
    percent.map(Some).ok_or_else(wrong)
}

/// The names under which a transformer or an explainer finds its own service, unless it uses the port itself.
fn callees(pod: &Pod, service: &ServiceKey, predictor: Option<&str>, warnings: &mut Vec<String>) -> Vec<String> {
    if pod.kind == ComponentKind::Predictor {
        return Vec::new();
    }
    let mut ports = pod.containers.iter().flat_map(|placed| placed.container.ports.iter().flatten());
    if ports.any(|port| port.container_port == 80) {
        warnings.push(format!(
            "spec.{}.containers: port 80 is taken by the container itself, so it does not find its predictor there",
            pod.kind
        ));
        return Vec::new();
    }
    names::callees(service, predictor)
}

pub(super) fn host_aliases(component: &ComponentSpec) -> Vec<(String, Vec<String>)> {
    let aliases = component.host_aliases.iter().flatten();
    aliases.map(|alias| (alias.ip.clone(), alias.hostnames.clone().unwrap_or_default())).collect()
}

/// Turns the containers of one pod into plain values.
struct Translator<'a> {
    pod: &'a Pod,
    component: &'a ComponentSpec,
    facts: &'a PodFacts<'a>,
    volumes: &'a Volumes,
}

impl Translator<'_> {
    fn container(&self, placed: &Placed) -> Result<ContainerSpec, ResolveError> {
        let mut spec = self.common(placed)?;
        spec.probes = probes::probes(&placed.container, &placed.origin)?;
        spec.pre_stop = probes::pre_stop(&placed.container, &placed.origin)?;
        if matches!(spec.name.as_str(), meta::KSERVE_CONTAINER | meta::TRANSFORMER_CONTAINER) {
            add_model_mounts(&mut spec.mounts, &self.pod.models.mounts, &placed.origin)?;
        }
        Ok(spec)
    }

    fn init_container(&self, placed: &Placed) -> Result<ContainerSpec, ResolveError> {
        if placed.container.restart_policy.as_deref() == Some("Always") {
            return Err(ResolveError::invalid(
                placed.origin.field(&["restartPolicy"]),
                "init containers that keep running are not served yet",
            )
            .with_help("list it among the containers"));
        }
        self.common(placed)
    }

    fn common(&self, placed: &Placed) -> Result<ContainerSpec, ResolveError> {
        let Placed { container, origin } = placed;
        let env = env::environment(container, origin, self.facts)?;
        let expanded = |texts: &Option<Vec<String>>| -> Vec<String> {
            texts.iter().flatten().map(|text| expand(text, |name| env::get(&env, name))).collect()
        };
        Ok(ContainerSpec {
            name: container.name.clone(),
            image: image(container, origin)?,
            pull_policy: pull_policy(container, origin)?,
            command: expanded(&container.command),
            args: expanded(&container.args),
            working_dir: container.working_dir.clone().filter(|path| !path.is_empty()),
            ports: ports(container, origin)?,
            mounts: mounts::mounts(container, origin, self.volumes, &env)?,
            resources: self.facts.resources.get(&container.name).cloned().unwrap_or_default(),
            security: security::security(container, origin, self.component.security_context.as_deref())?,
            stdin: container.stdin.unwrap_or(false),
            tty: container.tty.unwrap_or(false),
            stop_signal: container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone()),
            env,
            ..ContainerSpec::default()
        })
    }
}

fn add_model_mounts(mounts: &mut Vec<Mount>, models: &[Mount], origin: &Origin) -> Result<(), ResolveError> {
    if let Some(taken) = mounts.iter().find(|mount| models.iter().any(|model| model.path == mount.path)) {
        let field = origin.item("volumeMounts", "mountPath", &serde_json::Value::from(taken.path.as_str()));
        return Err(ResolveError::invalid(
            format!("{field}.mountPath"),
            format!("`{}` is where the model is", taken.path),
        ));
    }
    mounts.extend(models.iter().cloned());
    Ok(())
}

pub(super) fn image(container: &Container, origin: &Origin) -> Result<String, ResolveError> {
    match container.image.as_deref() {
        Some(image) if !image.trim().is_empty() => Ok(image.to_owned()),
        _ => Err(ResolveError::invalid(
            origin.field(&["image"]),
            format!("container `{}` names no image", container.name),
        )),
    }
}

/// Upstream's Deployments default to `IfNotPresent`, also for `latest`.
pub(super) fn pull_policy(container: &Container, origin: &Origin) -> Result<PullPolicy, ResolveError> {
    match container.image_pull_policy.as_deref().unwrap_or_default() {
        "" | "IfNotPresent" => Ok(PullPolicy::IfNotPresent),
        "Always" => Ok(PullPolicy::Always),
        "Never" => Ok(PullPolicy::Never),
        other => Err(ResolveError::invalid(
            origin.field(&["imagePullPolicy"]),
            format!("`{other}` is none of Always, IfNotPresent and Never"),
        )),
    }
}

fn ports(container: &Container, origin: &Origin) -> Result<Vec<Port>, ResolveError> {
    let read = |port: &k8s_openapi::api::core::v1::ContainerPort| {
        let field = || origin.item("ports", "containerPort", &serde_json::Value::from(port.container_port));
        if port.host_port.is_some_and(|host| host != 0) {
            return Err(ResolveError::invalid(
                format!("{}.hostPort", field()),
                "ports of this machine are not given away",
            )
            .with_help("requests reach the service through the proxy"));
        }
        Ok(Port {
            name: port.name.clone().unwrap_or_default(),
            port: probes::number_port(port.container_port, &format!("{}.containerPort", field()))?,
            protocol: port.protocol.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| "TCP".to_owned()),
        })
    };
    container.ports.iter().flatten().map(read).collect()
}
