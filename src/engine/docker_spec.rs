//! A create request to the engine, as a value.
//!
//! Built from an allow-list: every field that is not written here is left to the engine's default, so a manifest cannot
//! ask for a capability, a host namespace or a device by any route. Pure, so that what containers may do is one snapshot.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, DeviceRequest, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountBindOptions,
    MountBindOptionsPropagationEnum, MountType, PortBinding, PortMap, RestartPolicy, RestartPolicyNameEnum,
};

use super::{Bind, Blame, CreateContainer, EngineError, Network};
use crate::workload::ContainerSpec;
use crate::workload::names::INSTANCE_LABEL;

/// Most processes and threads of one container: far above what model servers use, far below what starves a machine.
const PIDS_LIMIT: i64 = 4096;
/// The only GPU resource a docker-compatible engine hands out by count.
const NVIDIA_GPU: &str = "nvidia.com/gpu";
/// Sockets that would hand the machine to a container.
const ENGINE_SOCKETS: [&str; 3] = ["docker.sock", "podman.sock", "containerd.sock"];

/// What the engine can do; a limit it cannot enforce makes it refuse the container, so it is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// It has a small init process that reaps zombies and passes signals on.
    pub init: bool,
    /// CPU quotas work (not so in rootless engines without delegation).
    pub cpu_quota: bool,
    /// CPU shares work.
    pub cpu_shares: bool,
    /// Memory limits work.
    pub memory_limit: bool,
    /// Process limits work.
    pub pids_limit: bool,
    /// Logical CPUs; engines refuse a higher limit, Kubernetes does not.
    pub cpus: u32,
}

impl Default for Abilities {
    fn default() -> Self {
        Self { init: true, cpu_quota: true, cpu_shares: true, memory_limit: true, pids_limit: true, cpus: 64 }
    }
}

/// What the image says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// `USER`, empty when it names none.
    pub user: String,
    /// `STOPSIGNAL`.
    pub stop_signal: Option<String>,
}

/// How the proxy will reach the container's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReachBy {
    /// At the container's own address.
    Address,
    /// At loopback ports chosen by the engine.
    Loopback,
}

/// Why a container may not be made as asked. The first three say what the kubelet says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecRefusal {
    /// `runAsNonRoot` with an image that runs as root.
    #[error("container has runAsNonRoot and image will run as root")]
    ImageRunsAsRoot,
    /// `runAsNonRoot` with an image whose user is a name.
    #[error("container has runAsNonRoot and image has non-numeric user ({0}), cannot verify user is non-root")]
    UserNotNumeric(String),
    /// `runAsNonRoot` with `runAsUser: 0`.
    #[error("container's runAsUser breaks non-root policy")]
    RunAsRoot,
    /// A GPU resource that cannot be handed out.
    #[error("GPU resource `{0}` cannot be handed to a container on this machine; only `nvidia.com/gpu` can")]
    UnknownGpu(String),
    /// A mount that must never be made.
    #[error("`{0}` may not be mounted into a container")]
    ForbiddenMount(String),
}

/// Fails unless the request carries the label of its instance: what we make without it we could never touch again.
pub(super) fn check_label(request: &CreateContainer, instance: &str) -> Result<(), EngineError> {
    if request.labels.get(INSTANCE_LABEL).is_some_and(|label| label == instance) {
        return Ok(());
    }
    Err(EngineError::Refused {
        verb: "create",
        name: request.name.clone(),
        message: format!("the request lacks the label `{INSTANCE_LABEL}={instance}`"),
        blame: Blame::Machine,
    })
}

/// Returns the request body for `request`, or why it may not be made.
pub fn create_body(
    request: &CreateContainer,
    abilities: &Abilities,
    image: &ImageFacts,
    network: &str,
    reach: ReachBy,
) -> Result<ContainerCreateBody, SpecRefusal> {
    check_non_root(&request.spec, image)?;
    let spec = &request.spec;
    let own_network = !matches!(request.network, Network::Join(_));
    let published = if own_network && reach == ReachBy::Loopback { request.publish.as_slice() } else { &[] };
    Ok(ContainerCreateBody {
        image: Some(spec.image.clone()),
        // A joined network namespace brings its host name, hosts file and ports along; engines refuse others.
        hostname: own_network.then(|| request.hostname.clone()).filter(|name| !name.is_empty()),
        user: user(spec, image),
        entrypoint: not_empty(&spec.command),
        cmd: not_empty(&spec.args),
        env: Some(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        working_dir: spec.working_dir.clone(),
        labels: Some(request.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect()),
        exposed_ports: not_empty(&published.iter().map(|port| format!("{port}/tcp")).collect::<Vec<_>>()),
        open_stdin: Some(spec.stdin),
        tty: Some(spec.tty),
        stop_signal: if image.stop_signal.is_some() { None } else { spec.stop_signal.clone() },
        stop_timeout: Some(seconds(request.stop_timeout)),
        // Kubernetes knows no image health checks; ours are the manifest's.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        host_config: Some(host_config(request, abilities, network, published)?),
        ..ContainerCreateBody::default()
    })
}

fn host_config(
    request: &CreateContainer,
    abilities: &Abilities,
    network: &str,
    published: &[u16],
) -> Result<HostConfig, SpecRefusal> {
    let spec = &request.spec;
    let own_network = !matches!(request.network, Network::Join(_));
    Ok(HostConfig {
        network_mode: Some(match &request.network {
            Network::Own | Network::Hold => network.to_owned(),
            Network::Join(name) => format!("container:{name}"),
        }),
        ipc_mode: Some(ipc_mode(request)),
        port_bindings: port_bindings(published),
        extra_hosts: if own_network { not_empty(&extra_hosts(&request.host_aliases)) } else { None },
        mounts: not_empty(&mounts(&request.binds)?),
        tmpfs: tmpfs(&request.binds),
        shm_size: request.shm_size.map(bytes),
        nano_cpus: spec
            .resources
            .cpu_limit_milli
            .filter(|_| abilities.cpu_quota)
            .map(|milli| nano_cpus(milli, abilities)),
        cpu_shares: spec.resources.cpu_request_milli.filter(|_| abilities.cpu_shares).map(cpu_shares),
        memory: spec.resources.memory_limit.filter(|_| abilities.memory_limit).map(bytes),
        // Equal to the memory limit: no swap, so that a limit is a limit.
        memory_swap: spec.resources.memory_limit.filter(|_| abilities.memory_limit).map(bytes),
        device_requests: gpus(spec, &request.gpus)?,
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
        privileged: Some(false),
        publish_all_ports: Some(false),
        pids_limit: abilities.pids_limit.then_some(PIDS_LIMIT),
        readonly_rootfs: Some(spec.security.read_only_root_filesystem),
        group_add: not_empty(&spec.security.supplemental_groups.iter().map(ToString::to_string).collect::<Vec<_>>()),
        // Model servers fork workers and shell scripts start servers; without an init process the dead ones stay and the
        // stop signal goes unheard.
        init: abilities.init.then_some(true),
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
        auto_remove: Some(false),
        log_config: Some(log_config()),
        ..HostConfig::default()
    })
}

/// What the kubelet checks before it starts a container that says `runAsNonRoot`.
fn check_non_root(spec: &ContainerSpec, image: &ImageFacts) -> Result<(), SpecRefusal> {
    if !spec.security.run_as_non_root {
        return Ok(());
    }
    match spec.security.run_as_user {
        Some(0) => Err(SpecRefusal::RunAsRoot),
        Some(_) => Ok(()),
        None => match image.user.split(':').next().unwrap_or_default() {
            "" | "root" => Err(SpecRefusal::ImageRunsAsRoot),
            user => match user.parse::<i64>() {
                Ok(0) => Err(SpecRefusal::ImageRunsAsRoot),
                Ok(_) => Ok(()),
                Err(_) => Err(SpecRefusal::UserNotNumeric(user.to_owned())),
            },
        },
    }
}

fn user(spec: &ContainerSpec, image: &ImageFacts) -> Option<String> {
    match (spec.security.run_as_user, spec.security.run_as_group) {
        (None, None) => None,
        (Some(user), None) => Some(user.to_string()),
        (Some(user), Some(group)) => Some(format!("{user}:{group}")),
        (None, Some(group)) => {
            let user = image.user.split(':').next().filter(|user| !user.is_empty()).unwrap_or("0");
            Some(format!("{user}:{group}"))
        }
    }
}

fn ipc_mode(request: &CreateContainer) -> String {
    match (&request.network, request.spec.security.share_ipc) {
        (_, false) | (Network::Hold, true) => "private".to_owned(),
        (Network::Own, true) => "shareable".to_owned(),
        (Network::Join(name), true) => format!("container:{name}"),
    }
}

fn port_bindings(ports: &[u16]) -> Option<PortMap> {
    let binding = || PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(String::new()) };
    let map: PortMap = ports.iter().map(|port| (format!("{port}/tcp"), Some(vec![binding()]))).collect();
    (!map.is_empty()).then_some(map)
}

fn extra_hosts(aliases: &[(String, Vec<String>)]) -> Vec<String> {
    aliases.iter().flat_map(|(address, names)| names.iter().map(move |name| format!("{name}:{address}"))).collect()
}

fn mounts(binds: &[Bind]) -> Result<Vec<Mount>, SpecRefusal> {
    let mut mounts = Vec::new();
    for bind in binds {
        let Bind::Path { source, target, read_only } = bind else { continue };
        let climbs = source.components().any(|part| part.as_str() == "..");
        let socket = source.file_name().is_some_and(|name| ENGINE_SOCKETS.contains(&name));
        if !source.is_absolute() || source == "/" || climbs || socket {
            return Err(SpecRefusal::ForbiddenMount(source.to_string()));
        }
        mounts.push(Mount {
            typ: Some(MountType::BIND),
            source: Some(source.to_string()),
            target: Some(target.clone()),
            read_only: Some(*read_only),
            bind_options: Some(MountBindOptions {
                propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
                create_mountpoint: Some(false),
                ..MountBindOptions::default()
            }),
            ..Mount::default()
        });
    }
    Ok(mounts)
}

/// Memory-backed folders, with `exec` as in Kubernetes: servers compile kernels there and load them.
fn tmpfs(binds: &[Bind]) -> Option<HashMap<String, String>> {
    let entry = |bind: &Bind| match bind {
        Bind::Path { .. } => None,
        Bind::Tmpfs { target, size: None } => Some((target.clone(), "rw,exec,nosuid,nodev,mode=1777".to_owned())),
        Bind::Tmpfs { target, size: Some(size) } => {
            Some((target.clone(), format!("rw,exec,nosuid,nodev,mode=1777,size={size}")))
        }
    };
    let map: HashMap<String, String> = binds.iter().filter_map(entry).collect();
    (!map.is_empty()).then_some(map)
}

fn gpus(spec: &ContainerSpec, chosen: &[String]) -> Result<Option<Vec<DeviceRequest>>, SpecRefusal> {
    let mut wanted = spec.resources.gpus.iter().filter(|(_, count)| **count > 0);
    if let Some((other, _)) = wanted.clone().find(|(name, _)| *name != NVIDIA_GPU) {
        return Err(SpecRefusal::UnknownGpu(other.clone()));
    }
    Ok(wanted.next().map(|(_, count)| {
        vec![DeviceRequest {
            count: chosen.is_empty().then(|| bytes(*count)),
            device_ids: (!chosen.is_empty()).then(|| chosen.to_vec()),
            capabilities: Some(vec![vec!["gpu".to_owned()]]),
            ..DeviceRequest::default()
        }]
    }))
}

fn log_config() -> HostConfigLogConfig {
    let options = [("max-size", "10m"), ("max-file", "3")];
    HostConfigLogConfig {
        typ: Some("json-file".to_owned()),
        config: Some(options.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()),
    }
}

fn nano_cpus(milli: u64, abilities: &Abilities) -> i64 {
    // Docker takes no less than a hundredth of a core and no more than the machine has.
    let milli = milli.max(10).min(u64::from(abilities.cpus.max(1)) * 1000);
    bytes(milli * 1_000_000)
}

/// The kubelet's arithmetic: 1024 shares per core, at least 2.
fn cpu_shares(milli: u64) -> i64 {
    bytes((milli.saturating_mul(1024) / 1000).clamp(2, 262_144))
}

fn bytes(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Whole seconds, rounded up: a grace period is never shortened.
pub(super) fn seconds(duration: std::time::Duration) -> i64 {
    bytes(duration.as_secs() + u64::from(duration.subsec_nanos() > 0))
}

fn not_empty<T: Clone>(values: &[T]) -> Option<Vec<T>> {
    (!values.is_empty()).then(|| values.to_vec())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::workload::{Resources, Security};

    fn iris() -> CreateContainer {
        CreateContainer {
            name: "kserve-local.home.sklearn-iris-predictor-00001-0.default".to_owned(),
            labels: BTreeMap::from([("kserve-local/instance".to_owned(), "home".to_owned())]),
            spec: ContainerSpec {
                name: "kserve-container".to_owned(),
                image: "kserve/sklearnserver:v0.15.2".to_owned(),
                args: vec!["--model_name=sklearn-iris".to_owned(), "--model_dir=/mnt/models".to_owned()],
                env: vec![("PROTOCOL".to_owned(), "v1".to_owned())],
                security: Security { run_as_non_root: true, ..Security::default() },
                resources: Resources {
                    cpu_limit_milli: Some(1500),
                    cpu_request_milli: Some(1000),
                    memory_limit: Some(2 << 30),
                    ..Resources::default()
                },
                ..ContainerSpec::default()
            },
            binds: vec![
                Bind::Path { source: "/cache/iris".into(), target: "/mnt/models".to_owned(), read_only: true },
                Bind::Tmpfs { target: "/tmp/work".to_owned(), size: Some(1 << 20) },
            ],
            network: Network::Own,
            publish: vec![8080],
            shm_size: None,
            host_aliases: vec![("10.0.0.7".to_owned(), vec!["features".to_owned()])],
            gpus: Vec::new(),
            hostname: "sklearn-iris-predictor-00001-0".to_owned(),
            stop_timeout: Duration::from_millis(30_500),
        }
    }

    fn numbered() -> ImageFacts {
        ImageFacts { user: "1000".to_owned(), stop_signal: None }
    }

    fn body(request: &CreateContainer, reach: ReachBy) -> ContainerCreateBody {
        create_body(request, &Abilities::default(), &numbered(), "kserve-local-home", reach).unwrap()
    }

    #[test]
    fn a_predictor_asks_for_this_and_nothing_else() {
        insta::with_settings!({sort_maps => true}, {
            insta::assert_json_snapshot!("predictor_by_address", body(&iris(), ReachBy::Address));
        });
    }

    #[test]
    fn a_gpu_server_with_published_ports_asks_for_this() {
        let mut request = iris();
        request.spec.command = vec!["python3".to_owned(), "-m".to_owned(), "server".to_owned()];
        request.spec.working_dir = Some("/srv".to_owned());
        request.spec.stop_signal = Some("SIGINT".to_owned());
        request.spec.resources.gpus = BTreeMap::from([("nvidia.com/gpu".to_owned(), 2)]);
        request.spec.security = Security {
            run_as_user: Some(1000),
            run_as_group: Some(100),
            read_only_root_filesystem: true,
            supplemental_groups: vec![7, 8],
            share_ipc: true,
            ..Security::default()
        };
        request.shm_size = Some(3 << 30);
        insta::with_settings!({sort_maps => true}, {
            insta::assert_json_snapshot!("gpu_server_published", body(&request, ReachBy::Loopback));
        });
    }

    #[test]
    fn a_sidecar_brings_no_network_of_its_own() {
        let mut request = iris();
        request.network = Network::Join("the-first".to_owned());
        request.spec.security.share_ipc = true;
        let body = body(&request, ReachBy::Loopback);
        let host = body.host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("container:the-first"));
        assert_eq!(host.ipc_mode.as_deref(), Some("container:the-first"));
        assert_eq!((body.hostname, body.exposed_ports, host.port_bindings, host.extra_hosts), (None, None, None, None));
    }

    #[test]
    fn run_as_non_root_is_judged_as_the_kubelet_does() {
        let verdict = |image_user: &str, run_as_user: Option<i64>| {
            let mut request = iris();
            request.spec.security.run_as_user = run_as_user;
            let image = ImageFacts { user: image_user.to_owned(), stop_signal: None };
            create_body(&request, &Abilities::default(), &image, "n", ReachBy::Address).map(drop)
        };
        for root in ["", "root", "0", "0:1000", "root:1000"] {
            assert_eq!(verdict(root, None), Err(SpecRefusal::ImageRunsAsRoot), "{root:?}");
            assert_eq!(verdict(root, Some(1000)), Ok(()), "{root:?}");
        }
        assert_eq!(verdict("1000:1000", None), Ok(()));
        assert_eq!(verdict("1000", Some(0)), Err(SpecRefusal::RunAsRoot));
        assert_eq!(verdict("kserve:kserve", None), Err(SpecRefusal::UserNotNumeric("kserve".to_owned())));
    }

    #[test]
    fn what_the_engine_cannot_enforce_is_not_asked_of_it() {
        let rootless = Abilities {
            init: false,
            cpu_quota: false,
            cpu_shares: false,
            memory_limit: false,
            pids_limit: false,
            cpus: 2,
        };
        let body = create_body(&iris(), &rootless, &numbered(), "n", ReachBy::Address).unwrap();
        let host = body.host_config.unwrap();
        assert_eq!((host.init, host.nano_cpus, host.cpu_shares), (None, None, None));
        assert_eq!((host.memory, host.memory_swap, host.pids_limit), (None, None, None));
    }

    #[test]
    fn a_cpu_limit_above_the_machine_is_the_machine() {
        let two = Abilities { cpus: 2, ..Abilities::default() };
        for (milli, nano) in [(1, 10_000_000), (500, 500_000_000), (8000, 2_000_000_000)] {
            assert_eq!(nano_cpus(milli, &two), nano, "{milli}m");
        }
    }

    #[test]
    fn an_engine_socket_or_the_whole_machine_is_never_mounted() {
        for source in ["/", "/var/run/docker.sock", "/run/podman/podman.sock", "relative", "/models/../etc"] {
            let mut request = iris();
            request.binds = vec![Bind::Path { source: source.into(), target: "/mnt".to_owned(), read_only: true }];
            let refused = create_body(&request, &Abilities::default(), &numbered(), "n", ReachBy::Address);
            assert_eq!(refused.unwrap_err(), SpecRefusal::ForbiddenMount(source.to_owned()));
        }
    }

    #[test]
    fn a_gpu_of_a_kind_that_cannot_be_counted_out_is_refused() {
        let mut request = iris();
        request.spec.resources.gpus = BTreeMap::from([("amd.com/gpu".to_owned(), 1)]);
        let refused = create_body(&request, &Abilities::default(), &numbered(), "n", ReachBy::Address);
        assert_eq!(refused.unwrap_err(), SpecRefusal::UnknownGpu("amd.com/gpu".to_owned()));
    }

    #[test]
    fn the_images_own_stop_signal_wins() {
        let mut request = iris();
        request.spec.stop_signal = Some("SIGINT".to_owned());
        let signal = |of_image: Option<&str>| {
            let image = ImageFacts { stop_signal: of_image.map(str::to_owned), ..numbered() };
            create_body(&request, &Abilities::default(), &image, "n", ReachBy::Address).unwrap().stop_signal
        };
        assert_eq!(signal(None).as_deref(), Some("SIGINT"));
        assert_eq!(signal(Some("SIGQUIT")), None);
    }
}
