//! What a check-up looks at: gathered once, judged in [`super::doctor_checks`].

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt;

use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;

use super::client::Client;
use super::report::chain;
use super::{leftovers, manifests, serve};
use crate::api::Kind;
use crate::config::{EngineChoice, Environment, Flags, Settings};
use crate::daemon;
use crate::engine::docker::{DockerConfig, DockerEngine};
use crate::engine::docker_checkup::Checkup;
use crate::environments::Tools;
use crate::home::Home;
use crate::manifest;
use crate::runtimes::Catalog;

/// Everything that was found.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Our version.
    pub version: String,
    /// The time.
    pub now: Timestamp,
    /// Path of the settings.
    pub config: String,
    /// Whether they can be used.
    pub settings: Result<(), String>,
    /// Path of the home.
    pub home: String,
    /// Whether it is there.
    pub home_exists: bool,
    /// Whether it can be written, or made.
    pub home_writable: Result<(), String>,
    /// Mode of the token's file.
    pub token_mode: Option<u32>,
    /// Files in `services` and `runtimes`.
    pub manifest_files: usize,
    /// The first error of each file that has one.
    pub bad_manifests: Vec<String>,
    /// Files that hold a Secret and that others can read, with their modes.
    pub open_secrets: Vec<(String, u32)>,
    /// Version of the daemon that answers.
    pub daemon: Option<String>,
    /// Who holds the home.
    pub lock: Lock,
    /// Folders of throwaway daemons that were killed.
    pub leftovers: Vec<String>,
    /// The engine.
    pub engine: Engine,
    /// Who says that this very engine is to be used, when somebody does: processes are no way out then.
    pub engine_named_by: Option<String>,
    /// Whether models could run as processes.
    pub has_process_tools: bool,
    /// Version of the machine's control groups.
    pub cgroup_version: Option<u8>,
    /// Where bytes go.
    pub disks: Vec<Disk>,
    /// What is listened on.
    pub ports: Vec<Port>,
    /// A proxy variable and its value, without credentials.
    pub proxy: Option<(String, String)>,
    /// What is not asked through it.
    pub no_proxy: String,
    /// When the newest file in `state` was written.
    pub newest_state: Option<Timestamp>,
    /// GPUs, by what nvidia-smi says.
    pub gpus: Vec<String>,
    /// Whether the kernel has an NVIDIA device.
    pub gpu_device: bool,
    /// What would be used for each kind of store.
    pub credentials: Vec<Credential>,
    /// Images that runtimes of this home use.
    pub runtime_images: BTreeSet<String>,
    /// How many files may be open.
    pub open_files: Option<u64>,
    /// How many folders may be watched.
    pub inotify_watches: Option<u64>,
    /// Whether names below localhost resolve.
    pub localhost_resolves: bool,
}

/// Who holds the home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Nobody.
    Free,
    /// A process.
    Held {
        /// Its id.
        pid: String,
    },
    /// A process that is gone left its addresses.
    Stale {
        /// Its id.
        pid: String,
    },
}

/// The engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Engine {
    /// It answers.
    Answers(Box<Checkup>),
    /// It is there, and this user may not use it.
    Denied {
        /// Where.
        endpoint: String,
        /// What went wrong.
        cause: String,
    },
    /// None answers.
    Absent {
        /// What was tried.
        cause: String,
    },
}

/// Free space of a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// What is kept there.
    pub what: &'static str,
    /// Where.
    pub path: String,
    /// Bytes this user may still use.
    pub free_bytes: u64,
    /// Inodes this user may still use.
    pub free_inodes: u64,
    /// Inodes in all; zero where there is no such table.
    pub total_inodes: u64,
}

/// An address that is listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Address.
    pub address: SocketAddr,
    /// For what.
    pub what: &'static str,
    /// Why it cannot be used.
    pub taken: Option<String>,
}

/// What would be used for a kind of store when a manifest names no Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// `s3`, `gs`, …
    pub scheme: &'static str,
    /// Where it comes from, never what it is.
    pub source: String,
    /// What is wrong with it, and what to do.
    pub problem: Option<(String, String)>,
}

/// Looks at everything.
pub async fn gather(root: &Utf8Path) -> Facts {
    let home = Home::new(root);
    let environment = serve::environment();
    let settings = Settings::load(home.clone(), &Flags::default(), environment.clone());
    let client = Client::find(root).ok();
    let daemon = match Client::answering(root).await {
        Ok(client) => client.get("/version").await.ok().map(|version| daemon_version(&version)),
        Err(_) => None,
    };
    let Manifests { files: manifest_files, bad: bad_manifests, open: open_secrets } = manifests(root);
    let engine = engine(settings.as_ref().ok(), &environment).await;
    let disks = disks(root, settings.as_ref().ok(), &engine);
    let variable = |name: &str| environment.get(name).or_else(|| environment.get(&name.to_uppercase())).cloned();
    let proxy = ["https_proxy", "http_proxy", "all_proxy"].into_iter();
    let proxy =
        proxy.filter_map(|name| Some((name.to_uppercase(), redacted(&variable(name).filter(|v| !v.is_empty())?))));
    let path = environment.get("PATH").cloned().unwrap_or_default();
    Facts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now: now(),
        config: home.config().to_string(),
        home_exists: root.exists(),
        home_writable: writable(&home),
        token_mode: std::fs::metadata(home.token()).ok().map(|file| file.permissions().mode() & 0o777),
        manifest_files,
        bad_manifests,
        open_secrets,
        lock: lock(&home, client.as_ref().and_then(|client| client.addresses.pid), daemon.is_some()),
        daemon,
        leftovers: leftovers::find(&std::env::temp_dir()).into_iter().map(String::from).collect(),
        engine_named_by: engine_named_by(settings.as_ref().ok(), &environment),
        has_process_tools: Tools::find(&environment).any(),
        cgroup_version: cgroup_version(),
        disks,
        ports: ports(settings.as_ref().ok()),
        proxy: proxy.clone().next(),
        no_proxy: variable("no_proxy").unwrap_or_default(),
        newest_state: newest(&home.state()),
        gpus: gpus(&path).await,
        gpu_device: Utf8Path::new("/dev/nvidiactl").exists(),
        credentials: credentials(&environment),
        runtime_images: runtime_images(root),
        open_files: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        inotify_watches: number("/proc/sys/fs/inotify/max_user_watches"),
        localhost_resolves: ("a-name.localhost", 80).to_socket_addrs().is_ok_and(|mut all| all.next().is_some()),
        settings: settings.map(|_| ()).map_err(|error| chain(&error)),
        home: root.to_string(),
        engine,
    }
}

#[expect(clippy::disallowed_methods, reason = "a check-up asks what time this machine believes it is")]
fn now() -> Timestamp {
    Timestamp::now()
}

fn daemon_version(version: &serde_json::Value) -> String {
    let text = version["gitVersion"].as_str().unwrap_or_default();
    text.split_once("+kserve-local.").map_or(text, |(_, own)| own).to_owned()
}

/// Whether the home can be written, or made: a check-up writes nothing itself.
fn writable(home: &Home) -> Result<(), String> {
    let wanted = if home.state().exists() { home.state() } else { home.root().to_owned() };
    let there = wanted.ancestors().find(|folder| folder.exists()).unwrap_or(home.root());
    if !there.is_dir() {
        return Err(format!("`{there}` is not a folder"));
    }
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::access(there.as_std_path(), access)
        .map_err(|error| format!("`{there}`: {}", std::io::Error::from(error)))
}

#[derive(Default)]
struct Manifests {
    files: usize,
    bad: Vec<String>,
    open: Vec<(String, u32)>,
}

fn manifests(root: &Utf8Path) -> Manifests {
    let Ok(files) = manifests::folder_files(root) else { return Manifests::default() };
    let mut found = Manifests { files: files.len(), ..Manifests::default() };
    for path in files.iter().map(|file| &file.path) {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                found.bad.push(format!("{path}: {error}"));
                continue;
            }
        };
        let decoded = manifest::decode(path.as_str(), &text);
        let error = decoded.diagnostics.iter().find(|diagnostic| diagnostic.is_error());
        found.bad.extend(error.and_then(|error| error.render(None).lines().next().map(str::to_owned)));
        let holds = decoded.objects.iter().any(|found| found.object.key.kind == Kind::Secret);
        found.open.extend(open_mode(path).filter(|_| holds).map(|mode| (path.to_string(), mode)));
    }
    found
}

/// Returns a file's mode when others than its owner can read it.
pub(super) fn open_mode(path: &Utf8Path) -> Option<u32> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o044 != 0).then_some(mode)
}

fn lock(home: &Home, announced: Option<u32>, answers: bool) -> Lock {
    match daemon::holder(home) {
        Ok(Some(pid)) => Lock::Held { pid },
        // One that cannot be read is told by the check of the home.
        Ok(None) | Err(_) => match announced.filter(|_| !answers) {
            Some(pid) => Lock::Stale { pid: pid.to_string() },
            None => Lock::Free,
        },
    }
}

async fn engine(settings: Option<&Settings>, environment: &Environment) -> Engine {
    let config = DockerConfig {
        instance: "doctor".to_owned(),
        endpoint: settings.and_then(|settings| settings.docker_host.clone()),
        network_name: None,
        env: environment.clone(),
        user_home: environment.get("HOME").map(Into::into),
    };
    let answer = match DockerEngine::connect(config) {
        Ok(engine) => engine.checkup().await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(found) => Engine::Answers(Box::new(found)),
        Err(error) => {
            let cause = chain(&error);
            if cause.to_lowercase().contains("permission denied") {
                return Engine::Denied { endpoint: "the engine's socket".to_owned(), cause };
            }
            Engine::Absent { cause }
        }
    }
}

/// Returns who names the engine. The current context of docker's own configuration is nobody: Docker Desktop sets it.
fn engine_named_by(settings: Option<&Settings>, environment: &Environment) -> Option<String> {
    let set = |name: &str| environment.get(name).is_some_and(|value| !value.is_empty());
    let choice = settings.map_or(EngineChoice::Auto, |settings| settings.engine);
    let is_in_settings =
        settings.and_then(|settings| settings.docker_host.as_ref()).is_some_and(|host| !host.is_empty());
    let ran_before = |settings: &Settings| std::fs::read_to_string(settings.home.engine()).unwrap_or_default();
    match choice {
        EngineChoice::Process | EngineChoice::Memory => None,
        _ if is_in_settings => Some("the setting `dockerHost` names it".to_owned()),
        _ if set("DOCKER_HOST") => Some("DOCKER_HOST names it".to_owned()),
        _ if set("DOCKER_CONTEXT") => Some("DOCKER_CONTEXT names it".to_owned()),
        EngineChoice::Docker => Some("`engine: docker` is set".to_owned()),
        EngineChoice::Auto => settings
            .filter(|settings| ran_before(settings).trim() == "docker")
            .map(|_| "it ran the models of this home before".to_owned()),
    }
}

fn cgroup_version() -> Option<u8> {
    if Utf8Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Some(2);
    }
    Utf8Path::new("/sys/fs/cgroup").exists().then_some(1)
}

fn disks(root: &Utf8Path, settings: Option<&Settings>, engine: &Engine) -> Vec<Disk> {
    let mut places = vec![("home", root.to_owned())];
    places.extend(settings.map(|settings| ("models", settings.cache_dir.clone())));
    if let Engine::Answers(found) = engine {
        places.extend(found.root.as_ref().map(|root| ("images", Utf8PathBuf::from(root))));
    }
    places.into_iter().filter_map(|(what, path)| disk(what, &path)).collect()
}

/// Asks the file system of a folder, or of the nearest one above it that is there.
fn disk(what: &'static str, path: &Utf8Path) -> Option<Disk> {
    let there = path.ancestors().find(|folder| folder.exists())?;
    let found = rustix::fs::statvfs(there.as_std_path()).ok()?;
    Some(Disk {
        what,
        path: path.to_string(),
        free_bytes: found.f_bavail * found.f_frsize,
        free_inodes: found.f_favail,
        total_inodes: found.f_files,
    })
}

fn ports(settings: Option<&Settings>) -> Vec<Port> {
    let Some(settings) = settings else { return Vec::new() };
    let both = [(settings.listen, "predictions"), (settings.api_listen, "the API")];
    let port = |(address, what)| {
        let taken = TcpListener::bind(address).err().map(|error: std::io::Error| error.to_string());
        Port { address, what, taken }
    };
    both.into_iter().filter(|(address, _)| address.port() != 0).map(port).collect()
}

/// Leaves out the user and password of a proxy's URL.
fn redacted(url: &str) -> String {
    match url::Url::parse(url) {
        Ok(mut url) if !url.username().is_empty() || url.password().is_some() => {
            // A URL that carries them can be without them.
            let _ = url.set_username("");
            let _ = url.set_password(None);
            url.to_string()
        }
        _ => url.to_owned(),
    }
}

fn newest(folder: &Utf8Path) -> Option<Timestamp> {
    let files = folder.read_dir_utf8().ok()?.flatten();
    let written = |file: camino::Utf8DirEntry| Timestamp::try_from(file.metadata().ok()?.modified().ok()?).ok();
    files.filter_map(written).max()
}

/// Asks the driver for its GPUs.
async fn gpus(path: &str) -> Vec<String> {
    let Some(tool) = crate::machine::GpuTool::find(path) else { return Vec::new() };
    let found = crate::machine::gpus(&tool).await.unwrap_or_default();
    found.devices.iter().map(|gpu| format!("{} with {} MiB", gpu.uuid, gpu.total >> 20)).collect()
}

/// Says where each cloud's own tools would find credentials. Values are never read out.
fn credentials(environment: &Environment) -> Vec<Credential> {
    let set = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    let home = set("HOME").map(Utf8PathBuf::from).unwrap_or_default();
    let file = |path: &str| home.join(path).exists();
    let plain = |scheme, source: &str| Credential { scheme, source: source.to_owned(), problem: None };
    let s3 = match (set("AWS_ACCESS_KEY_ID"), set("AWS_SECRET_ACCESS_KEY")) {
        (Some(_), Some(_)) => plain("s3", "AWS_ACCESS_KEY_ID of the environment"),
        (Some(_), None) => Credential {
            problem: Some(("AWS_SECRET_ACCESS_KEY is not set".to_owned(), "set both, or neither".to_owned())),
            ..plain("s3", "AWS_ACCESS_KEY_ID of the environment, without its secret")
        },
        _ if file(".aws/credentials") => plain("s3", "~/.aws/credentials"),
        _ => plain("s3", "none: public buckets only, unless a manifest names a Secret"),
    };
    let gs = match set("GOOGLE_APPLICATION_CREDENTIALS") {
        Some(path) if Utf8Path::new(path).exists() => plain("gs", "GOOGLE_APPLICATION_CREDENTIALS"),
        Some(path) => Credential {
            problem: Some((format!("`{path}` is not there"), "point it at a key file, or unset it".to_owned())),
            ..plain("gs", "GOOGLE_APPLICATION_CREDENTIALS names a file that is missing")
        },
        None if file(".config/gcloud/application_default_credentials.json") => {
            plain("gs", "gcloud's application default")
        }
        None => plain("gs", "none: public buckets only, unless a manifest names a Secret"),
    };
    let azure = match (set("AZURE_STORAGE_ACCESS_KEY").or(set("AZURE_STORAGE_ACCOUNT_KEY")), set("AZURE_CLIENT_ID")) {
        (Some(_), _) => plain("azure", "an access key of the environment"),
        (None, Some(_)) => plain("azure", "AZURE_CLIENT_ID of the environment"),
        (None, None) => plain("azure", "none: public containers only, unless a manifest names a Secret"),
    };
    let hf = match set("HF_TOKEN") {
        Some(_) => plain("hf", "HF_TOKEN"),
        None if file(".cache/huggingface/token") => plain("hf", "~/.cache/huggingface/token"),
        None => plain("hf", "none: public models only, unless a manifest names a Secret"),
    };
    vec![s3, gs, azure, hf]
}

fn runtime_images(root: &Utf8Path) -> BTreeSet<String> {
    let objects = manifests::folder_objects(root).unwrap_or_default();
    let catalog = Catalog::new(&objects);
    let containers = catalog.runtimes.iter().flat_map(|runtime| &runtime.spec.containers);
    containers.filter_map(|container| container.image.clone()).collect()
}

fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
