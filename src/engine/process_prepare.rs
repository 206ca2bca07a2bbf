//! Making and removing process containers, and what stands in for their images.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use tokio::sync::watch;
use tracing::warn;

use super::process::{ProcessEngine, blocking, refused};
use super::process_folder::{Folder, Found, Record};
use super::process_limits::Limits;
use super::process_table;
use super::{Bind, Blame, ContainerId, CreateContainer, EngineError, EngineInfo, Network, PullProgress};
use crate::environments::find_on_path;
use crate::home::restrict;
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
    let (root, name, binds) = (engine.inner.config.root.clone(), request.name.clone(), request.binds.clone());
    let publish = move || publish(&root, &record, &binds).map_err(disk("create", &name));
    blocking("create", &request.name, publish).await.map(|()| ContainerId(id))
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
fn publish(root: &Utf8Path, record: &Record, binds: &[Bind]) -> io::Result<()> {
    let partial = root.join(format!(".{}", record.id));
    let folder = Folder::new(partial.clone());
    std::fs::create_dir_all(folder.home())?;
    restrict(&partial, 0o700)?;
    let paths = paths(&root.join(&record.name), &partial, binds)?;
    folder.write_record(&Record { paths, ..record.clone() })?;
    let place = Folder::new(root.join(&record.name));
    if place.is_damaged() {
        // Nobody can say what it was; nothing of it may run or keep the name.
        if let Some(launch) = place.launch() {
            process_table::kill_marked(&launch.id);
        }
        if let Some(gone) = set_aside(&place, root, &record.id)? {
            discard(&gone)?;
        }
    }
    std::fs::rename(&partial, place.path())
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
    match set_aside(&found.folder, root, &found.record.id)? {
        Some(gone) => discard(&gone),
        None => Ok(()),
    }
}

/// Gives a folder a name that no container has; none when it is not there.
fn set_aside(folder: &Folder, root: &Utf8Path, id: &str) -> io::Result<Option<Folder>> {
    let gone = root.join(format!(".gone-{id}"));
    match std::fs::rename(folder.path(), &gone) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        renamed => renamed.map(|()| Some(Folder::new(gone))),
    }
}

/// Removes a folder that was set aside, and what its last start had elsewhere.
fn discard(gone: &Folder) -> io::Result<()> {
    if let Some(launch) = gone.launch() {
        launch.groups.remove();
        // The system's folder of temporary files is cleaned by the system too.
        let _ = std::fs::remove_dir_all(&launch.temporary);
    }
    std::fs::remove_dir_all(gone.path())
}

/// Returns the folders below a root that are no container: half made or half removed by a daemon that was killed. To be
/// asked for before anything is made.
pub(super) fn remains(root: &Utf8Path) -> Vec<Utf8PathBuf> {
    let Ok(entries) = root.read_dir_utf8() else { return Vec::new() };
    let hidden = entries.flatten().filter(|entry| entry.file_name().starts_with('.'));
    hidden.map(camino::Utf8DirEntry::into_path).collect()
}

/// Removes such folders: they may hold secrets, and much.
pub(super) fn discard_all(remains: Vec<Utf8PathBuf>) {
    for path in remains {
        if let Err(error) = discard(&Folder::new(path.clone())) {
            warn!(%path, %error, "could not remove what is left of a process");
        }
    }
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
        // Processes have the machine's, which is measured without us.
        memory_total: 0,
        cpus,
        platform: format!("{system}/{architecture}"),
    }
}

/// An error of files in the engine's words.
pub(super) fn disk(verb: &'static str, name: &str) -> impl FnOnce(io::Error) -> EngineError {
    let name = name.to_owned();
    move |error| refused(verb, &name, Arc::new(error).to_string(), Blame::Machine)
}
