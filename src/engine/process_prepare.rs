//! Making and removing process containers, and what stands in for their images.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use camino::Utf8Path;
use tokio::sync::watch;
use tracing::warn;

use super::process::{ProcessEngine, refused};
use super::process_folder::{Folder, Found, Record};
use super::process_limits::Limits;
use super::{Bind, Blame, ContainerId, CreateContainer, EngineError, EngineInfo, Network, PullProgress};
use crate::environments::find_on_path;
use crate::workload::names::INSTANCE_LABEL;
use crate::workload::{ContainerSpec, ProcessSpec, Program};

/// What is to be made, among what is there.
pub(super) struct Request<'a> {
    pub(super) request: &'a CreateContainer,
    pub(super) all: &'a [Found],
}

/// Makes a container, or adopts the one that carries the same labels.
pub(super) async fn create(engine: &ProcessEngine, request: &Request<'_>) -> Result<ContainerId, EngineError> {
    let Request { request, all } = request;
    let refuse = |message: String, blame| refused("create", &request.name, message, blame);
    if request.labels.get(INSTANCE_LABEL) != Some(&engine.inner.config.instance) {
        let message = format!("it would not carry the label `{INSTANCE_LABEL}={}`", engine.inner.config.instance);
        return Err(refuse(message, Blame::Machine));
    }
    let Some(process) = &request.spec.process else {
        return Err(refuse("it has no recipe for running without a container".to_owned(), Blame::User));
    };
    let (known, clone, wanted) = (engine.knows(&request.spec.image), engine.clone(), process.clone());
    let here = tokio::task::spawn_blocking(move || clone.is_prepared(&wanted)).await.unwrap_or(false);
    if known.as_ref() != Some(process) || !here {
        return Err(EngineError::ImageAbsent(request.spec.image.clone()));
    }
    check_user(&request.spec).map_err(|message| refuse(message, Blame::User))?;
    let join = match &request.network {
        Network::Own | Network::Hold => None,
        Network::Join(target) => Some(engine.ours("join the network of", target).await?.record.name),
    };
    if let Some(existing) = all.iter().find(|found| found.record.name == request.name) {
        let same = request.labels.iter().all(|(name, value)| existing.record.labels.get(name) == Some(value));
        return if same && engine.is_ours(existing) {
            Ok(ContainerId(existing.record.id.clone()))
        } else {
            Err(EngineError::NameTaken(request.name.clone()))
        };
    }
    let id = format!("{:032x}", rand::random::<u128>());
    let record = record(engine, &id, request, process, join);
    let root = engine.inner.config.root.clone();
    let made = publish(&root, &record, request).map_err(|error| refuse(error.to_string(), Blame::Machine));
    made.map(|()| ContainerId(id))
}

fn record(
    engine: &ProcessEngine,
    id: &str,
    request: &CreateContainer,
    process: &ProcessSpec,
    join: Option<String>,
) -> Record {
    let spec = &request.spec;
    let declared = spec.ports.iter().filter(|port| port.protocol == "TCP").map(|port| port.port);
    Record {
        id: id.to_owned(),
        name: request.name.clone(),
        labels: request.labels.clone(),
        image: spec.image.clone(),
        created_at: engine.now(),
        process: process.clone(),
        command: spec.command.clone(),
        args: spec.args.clone(),
        env: spec.env.clone(),
        working_dir: spec.working_dir.clone(),
        paths: Vec::new(),
        ports: request.publish.iter().copied().chain(declared).collect(),
        memory_limit: spec.resources.memory_limit,
        cpu_limit_milli: spec.resources.cpu_limit_milli,
        stop_signal: spec.stop_signal.clone(),
        join,
    }
}

/// Makes the folder under another name first: with its name the container is whole.
fn publish(root: &Utf8Path, record: &Record, request: &CreateContainer) -> io::Result<()> {
    let partial = root.join(format!(".{}", record.id));
    let folder = Folder::new(partial.clone());
    std::fs::create_dir_all(folder.home())?;
    crate_only_for_us(&partial)?;
    let paths = paths(&root.join(&record.name), &partial, &request.binds)?;
    folder.write_record(&Record { paths, ..record.clone() })?;
    std::fs::rename(&partial, root.join(&record.name))
}

fn crate_only_for_us(path: &Utf8Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}

/// Returns what the paths of mounts become. Memory becomes a folder; several mounts below one folder get that folder too,
/// as one of links, because servers are told its path.
fn paths(later: &Utf8Path, now: &Utf8Path, binds: &[Bind]) -> io::Result<Vec<(String, String)>> {
    let mut paths = Vec::new();
    let mut parents: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for (index, bind) in binds.iter().enumerate() {
        let (source, target) = match bind {
            // The machine has one of its own.
            Bind::Tmpfs { target, .. } if target == "/dev/shm" => continue,
            Bind::Tmpfs { target, .. } => {
                std::fs::create_dir_all(now.join(format!("memory-{index}")))?;
                (later.join(format!("memory-{index}")).to_string(), target)
            }
            Bind::Path { source, target, .. } => {
                if !source.exists() {
                    return Err(io::Error::other(format!("`{source}` does not exist")));
                }
                (source.to_string(), target)
            }
        };
        let target = target.trim_end_matches('/').to_owned();
        if let Some((parent, name)) = target.rsplit_once('/')
            && parent.matches('/').count() >= 2
        {
            parents.entry(parent.to_owned()).or_default().push((name.to_owned(), source.clone()));
        }
        paths.push((target, source));
    }
    for (index, (parent, members)) in parents.into_iter().enumerate() {
        if paths.iter().any(|(target, _)| *target == parent) {
            continue;
        }
        let links = format!("links-{index}");
        std::fs::create_dir_all(now.join(&links))?;
        for (name, source) in members {
            std::os::unix::fs::symlink(source, now.join(&links).join(name))?;
        }
        paths.push((parent, later.join(&links).to_string()));
    }
    Ok(paths)
}

/// Users are judged as the kubelet does; which user it runs as is said, because it cannot be chosen.
fn check_user(spec: &ContainerSpec) -> Result<(), String> {
    let security = &spec.security;
    if security.run_as_non_root && security.run_as_user == Some(0) {
        return Err("container's runAsUser breaks non-root policy".to_owned());
    }
    let own = rustix::process::getuid();
    let other = security.run_as_user.is_some_and(|user| u32::try_from(user) != Ok(own.as_raw()));
    if other || (security.run_as_non_root && own.is_root()) {
        warn!(
            container = spec.name,
            user = own.as_raw(),
            "a process runs as the user of kserve-local, whatever its securityContext says"
        );
    }
    Ok(())
}

/// Removes a stopped container's folder: its name is free at once.
pub(super) fn remove(found: &Found, root: &Utf8Path) -> io::Result<()> {
    let gone = root.join(format!(".gone-{}", found.record.id));
    let launch = found.folder.launch();
    match std::fs::rename(found.folder.path(), &gone) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        renamed => renamed?,
    }
    if let Some(launch) = launch {
        launch.groups.remove();
        // The system's folder of temporary files is cleaned by the system too.
        let _ = std::fs::remove_dir_all(&launch.temporary);
    }
    std::fs::remove_dir_all(&gone)
}

/// Makes what a recipe needs, telling progress.
pub(super) async fn pull(
    engine: &ProcessEngine,
    image: &str,
    progress: watch::Sender<PullProgress>,
) -> Result<(), EngineError> {
    let Some(process) = engine.knows(image) else {
        let message = "nothing says how to make it".to_owned();
        return Err(EngineError::Environment { recipe: image.to_owned(), message, permanent: true });
    };
    let failure =
        |message: String, permanent| EngineError::Environment { recipe: process.recipe.clone(), message, permanent };
    match &process.program {
        Program::Python(wanted) => {
            let tell = move |phase: String| {
                progress.send_replace(PullProgress { phase, ..PullProgress::default() });
            };
            let made = engine.inner.environments.create(wanted, &tell).await;
            made.map(drop).map_err(|error| failure(error.to_string(), error.is_permanent()))
        }
        Program::Executable { name, hint } => match find_on_path(name, engine.path()) {
            Some(_) => Ok(()),
            None if hint.is_empty() => Err(failure(format!("`{name}` is not on the PATH; install it"), false)),
            None => Err(failure(format!("`{name}` is not on the PATH; {hint}"), false)),
        },
    }
}

/// Makes the groups that enforce the limits of a container; says so when this user may not.
pub(super) fn limit(record: &Record) -> super::process_limits::Groups {
    let limits = Limits { memory: record.memory_limit, cpu_milli: record.cpu_limit_milli };
    let short = record.id.get(..12).unwrap_or(&record.id);
    limits.enforce(short).unwrap_or_else(|error| {
        warn!(
            container = record.name,
            %error,
            "its limits are not enforced, because this user may not make control groups"
        );
        super::process_limits::Groups::default()
    })
}

/// Whether a memory limit can be enforced: tried on an empty group.
pub(super) fn can_limit() -> bool {
    let limits = Limits { memory: Some(1 << 30), cpu_milli: None };
    let tried = limits.enforce(&format!("try-{:08x}", rand::random::<u32>()));
    tried.map(|groups| groups.remove()).is_ok()
}

/// Describes this machine.
pub(super) fn info(root: &Utf8Path) -> EngineInfo {
    let cpus = std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let system = if cfg!(target_os = "macos") { "darwin" } else { std::env::consts::OS };
    EngineInfo {
        name: "process".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        endpoint: root.to_string(),
        memory_total: memory_total().unwrap_or(8 << 30),
        cpus,
        platform: format!("{system}/{architecture}"),
    }
}

fn memory_total() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// An error of files in the engine's words.
pub(super) fn disk(verb: &'static str, name: &str) -> impl FnOnce(io::Error) -> EngineError {
    let name = name.to_owned();
    move |error| refused(verb, &name, Arc::new(error).to_string(), Blame::Machine)
}
