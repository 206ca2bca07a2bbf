//! Settings: file, then environment, then flags. Read once; nothing reads the environment later.

pub mod cache;
pub mod effective;

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::gateway::GatewayConfig;
use crate::home::Home;
use crate::manifest::yaml;
use crate::plan::ledger::MemoryConfig;
use crate::plan::world::SandboxConfig;
use crate::storage::RoomPolicy;
use crate::telemetry::logs::LogFormat;

mod memory_keys;

pub use memory_keys::MemoryKeys;

/// The user's environment, read once.
pub type Environment = BTreeMap<String, String>;

/// What runs containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    /// Docker when it answers, else processes.
    #[default]
    Auto,
    /// Docker, or anything that speaks its API.
    Docker,
    /// Supervised processes of this machine.
    Process,
    /// Nothing: containers are imagined. For trying manifests out and for tests.
    Memory,
}

/// `config.yaml`. Keys of `ingress` and `deploy` are those of KServe's `inferenceservice-config`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FileConfig {
    /// Address of the data plane; `127.0.0.1:8080` by default.
    pub listen: Option<String>,
    /// Address of the API; `127.0.0.1:8090` by default.
    pub api_listen: Option<String>,
    /// What runs models: `auto` (Docker when it answers, else processes), `docker`, `process`, or `memory` (containers are
    /// imagined).
    pub engine: Option<EngineChoice>,
    /// Endpoint of the engine, as `DOCKER_HOST` writes it; one of this machine. Found as docker finds it by default.
    pub docker_host: Option<String>,
    /// Folder of the model cache; the platform's cache folder by default.
    pub cache_dir: Option<Utf8PathBuf>,
    /// Limits of the model cache.
    pub cache: cache::CacheConfig,
    /// Whether nothing is fetched, models and images; `false` by default.
    pub offline: Option<bool>,
    /// Host names of services.
    pub ingress: IngressConfig,
    /// How services are deployed.
    pub deploy: DeployConfig,
    /// Folders that manifests may mount with `hostPath`; none by default.
    pub allowed_host_paths: Vec<String>,
    /// Seconds a request in flight may hold up the stop of its replica; 300 by default.
    pub drain_seconds: Option<u64>,
    /// Seconds, besides the scaling window, that nobody must have asked before a service with `minReplicas: 0` sleeps; 30
    /// by default, as Knative's `scale-to-zero-grace-period`.
    pub scale_to_zero_grace_seconds: Option<u64>,
    /// Revisions kept per component, to go back to; 10 by default.
    pub revision_history_limit: Option<usize>,
    /// Memory that models may have.
    pub memory: MemoryKeys,
    /// Limits and deadlines of the data plane.
    pub gateway: GatewayConfig,
    /// Containers that hold the network of a replica.
    pub sandboxes: SandboxesConfig,
}

/// Containers that hold the network of a replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SandboxesConfig {
    /// Whether there are any where they only save time; `true` by default.
    pub enabled: Option<bool>,
    /// How many services keep theirs while they sleep; 20 by default.
    pub asleep: Option<usize>,
}

impl SandboxesConfig {
    fn settings(&self) -> SandboxConfig {
        let default = SandboxConfig::default();
        SandboxConfig {
            enabled: self.enabled.unwrap_or(default.enabled),
            asleep: self.asleep.unwrap_or(default.asleep),
        }
    }
}

/// `ingress` of `inferenceservice-config`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct IngressConfig {
    /// Domain of `status.url`; `localhost` by default.
    pub ingress_domain: Option<String>,
    /// More domains that are answered; `example.com` by default.
    pub additional_ingress_domains: Option<Vec<String>>,
}

/// `deploy` of `inferenceservice-config`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DeployConfig {
    /// `Knative` (upstream's default) or `Standard`.
    pub default_deployment_mode: Option<String>,
}

/// What was given on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--listen`.
    pub listen: Option<String>,
    /// `--api-listen`.
    pub api_listen: Option<String>,
    /// `--engine`.
    pub engine: Option<EngineChoice>,
    /// `--offline`.
    pub offline: bool,
}

/// Settings of one daemon.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Home folder.
    pub home: Home,
    /// Address of the data plane.
    pub listen: SocketAddr,
    /// Address of the API.
    pub api_listen: SocketAddr,
    /// What runs containers.
    pub engine: EngineChoice,
    /// Endpoint of the engine when it is set.
    pub docker_host: Option<String>,
    /// Folder of the model cache.
    pub cache_dir: Utf8PathBuf,
    /// How much room the cache may take.
    pub room: RoomPolicy,
    /// Whether nothing is fetched.
    pub offline: bool,
    /// Domains, the one of `status.url` first.
    pub domains: Vec<String>,
    /// `Knative` or `Standard`.
    pub default_mode: String,
    /// Folders that manifests may mount.
    pub allowed_host_paths: Vec<String>,
    /// Longest wait for requests in flight.
    pub drain_deadline: Duration,
    /// Besides the scaling window, the time before a service sleeps.
    pub scale_to_zero_grace: Duration,
    /// Revisions kept per component.
    pub history_limit: usize,
    /// Memory that models may have.
    pub memory: MemoryConfig,
    /// Limits and deadlines of the data plane.
    pub gateway: GatewayConfig,
    /// Containers that hold the network of a replica.
    pub sandboxes: SandboxConfig,
    /// The user's environment.
    pub environment: Environment,
    /// The file as it was read.
    pub file: FileConfig,
    /// How logs look; used by `serve`.
    pub log_format: LogFormat,
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("could not read `{path}`")]
    Read {
        /// Path.
        path: Utf8PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The file is wrong.
    #[error("{path}: {message}")]
    File {
        /// Path, with line and column where known.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// A value is wrong.
    #[error("{from}: {message}")]
    Value {
        /// Flag, variable or key.
        from: String,
        /// What is wrong, and what would be right.
        message: String,
    },
}

impl ConfigError {
    /// Says what is wrong with a file, and where when that is known.
    fn in_file(path: &Utf8Path, error: yaml::SettingsError) -> Self {
        let path = error.position.map_or_else(|| path.to_string(), |position| format!("{path}:{position}"));
        Self::File { path, message: error.message }
    }
}

impl Settings {
    /// Puts the settings together: file, then environment (`KSERVE_LOCAL_*`), then flags.
    ///
    /// # Errors
    /// A value that cannot be used, with where it came from.
    pub fn load(home: Home, flags: &Flags, environment: Environment) -> Result<Self, ConfigError> {
        let file = read_file(&home)?;
        let as_read = file.clone();
        let variable = |name: &str| environment.get(&format!("KSERVE_LOCAL_{name}")).cloned().filter(|v| !v.is_empty());
        let pick = |flag: &Option<String>, flag_name: &str, name: &str, key: Option<String>, key_name: &str| {
            let from_flag = flag.clone().map(|value| (flag_name.to_owned(), value));
            let from_variable = || variable(name).map(|value| (format!("KSERVE_LOCAL_{name}"), value));
            from_flag.or_else(from_variable).or_else(|| key.map(|value| (key_name.to_owned(), value)))
        };
        let listen = pick(&flags.listen, "--listen", "LISTEN", file.listen.clone(), "config.yaml: listen");
        let api =
            pick(&flags.api_listen, "--api-listen", "API_LISTEN", file.api_listen.clone(), "config.yaml: apiListen");
        let engine = match (flags.engine, variable("ENGINE")) {
            (Some(engine), _) => engine,
            (None, Some(text)) => parse_engine(&text)?,
            (None, None) => file.engine.unwrap_or_default(),
        };
        let offline = match variable("OFFLINE") {
            _ if flags.offline => true,
            Some(text) => cache::switch("KSERVE_LOCAL_OFFLINE", &text)?,
            None => file.offline.unwrap_or_default(),
        };
        let room = file.cache.policy(variable)?;
        let cache = variable("CACHE_DIR").map(Utf8PathBuf::from).or(file.cache_dir.clone());
        let mode = file.deploy.default_deployment_mode.clone().unwrap_or_else(|| "Knative".to_owned());
        Ok(Self {
            listen: loopback(listen, "127.0.0.1:8080", "--listen")?,
            api_listen: loopback(api, "127.0.0.1:8090", "--api-listen")?,
            engine,
            docker_host: variable("DOCKER_HOST").or(file.docker_host.clone()),
            cache_dir: cache.unwrap_or_else(|| default_cache(&home)),
            room,
            offline,
            domains: domains(&file.ingress),
            default_mode: parse_mode(&mode)?,
            allowed_host_paths: file.allowed_host_paths,
            drain_deadline: Duration::from_secs(file.drain_seconds.unwrap_or(300)),
            scale_to_zero_grace: Duration::from_secs(file.scale_to_zero_grace_seconds.unwrap_or(30)),
            history_limit: file.revision_history_limit.unwrap_or(10),
            sandboxes: file.sandboxes.settings(),
            memory: file.memory.checked(variable("MEMORY_BUDGET"))?,
            gateway: checked(file.gateway)?,
            environment,
            file: as_read,
            log_format: LogFormat::default(),
            home,
        })
    }
}

/// Reads the file; one that is not there is empty.
fn read_text(home: &Home) -> Result<String, ConfigError> {
    let path = home.config();
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(ConfigError::Read { path, source }),
    }
}

fn read_file(home: &Home) -> Result<FileConfig, ConfigError> {
    let path = home.config();
    let text = read_text(home)?;
    if text.trim().is_empty() {
        return Ok(FileConfig::default());
    }
    yaml::from_yaml(&text).map_err(|error| ConfigError::in_file(&path, error))
}

/// A setting with where it came from.
type Sourced = (String, String);

/// Reads an address. Only loopback is taken: neither listener has an authentication that could stand outside of it.
fn loopback(given: Option<Sourced>, default: &str, flag: &str) -> Result<SocketAddr, ConfigError> {
    let (from, text) = given.unwrap_or_else(|| (flag.to_owned(), default.to_owned()));
    let wrong = |message: String| ConfigError::Value { from: from.clone(), message };
    let with_host = if text.starts_with(':') { format!("127.0.0.1{text}") } else { text.clone() };
    let resolved = with_host.to_socket_addrs().ok().and_then(|mut all| all.next());
    let address =
        resolved.ok_or_else(|| wrong(format!("`{text}` is not an address; write host:port, for example {default}")))?;
    if !address.ip().is_loopback() {
        return Err(wrong(format!(
            "`{text}` would open models and manifests to the network without authentication; use a loopback address such as {default}, and put an authenticating proxy in front to reach it from elsewhere"
        )));
    }
    Ok(address)
}

fn checked(gateway: GatewayConfig) -> Result<GatewayConfig, ConfigError> {
    let wrong = |message| ConfigError::Value { from: "config.yaml: gateway".to_owned(), message };
    gateway.check().map(|()| gateway).map_err(wrong)
}

fn parse_engine(text: &str) -> Result<EngineChoice, ConfigError> {
    match text {
        "auto" => Ok(EngineChoice::Auto),
        "docker" => Ok(EngineChoice::Docker),
        "process" => Ok(EngineChoice::Process),
        "memory" => Ok(EngineChoice::Memory),
        other => Err(ConfigError::Value {
            from: "KSERVE_LOCAL_ENGINE".to_owned(),
            message: format!("`{other}` is not an engine; use auto, docker, process or memory"),
        }),
    }
}

fn parse_mode(text: &str) -> Result<String, ConfigError> {
    match text {
        "Knative" | "Serverless" => Ok("Knative".to_owned()),
        "Standard" | "RawDeployment" => Ok("Standard".to_owned()),
        other => Err(ConfigError::Value {
            from: "config.yaml: deploy.defaultDeploymentMode".to_owned(),
            message: format!("`{other}` is not a deployment mode; use Knative or Standard"),
        }),
    }
}

fn domains(ingress: &IngressConfig) -> Vec<String> {
    let first = ingress.ingress_domain.clone().unwrap_or_else(|| "localhost".to_owned());
    let mut all = vec![first];
    let more = ingress.additional_ingress_domains.clone();
    all.extend(more.unwrap_or_else(|| vec!["example.com".to_owned()]));
    // Whatever the domain is, localhost keeps working: it needs no resolver.
    all.push("localhost".to_owned());
    let mut seen = std::collections::BTreeSet::new();
    all.into_iter().map(|domain| domain.trim_matches('.').to_lowercase()).filter(|d| seen.insert(d.clone())).collect()
}

fn default_cache(home: &Home) -> Utf8PathBuf {
    let platform = directories::ProjectDirs::from("", "", "kserve-local");
    let folder = platform.and_then(|dirs| Utf8PathBuf::from_path_buf(dirs.cache_dir().to_owned()).ok());
    folder.unwrap_or_else(|| home.root().join("cache"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, variables: &[(&str, &str)], flags: &Flags) -> Result<Settings, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap());
        std::fs::write(home.config(), file).unwrap();
        let environment = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Settings::load(home, flags, environment)
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let file = "listen: 127.0.0.1:1\napiListen: 127.0.0.1:2\n";
        let variables = [("KSERVE_LOCAL_LISTEN", "127.0.0.1:3"), ("KSERVE_LOCAL_API_LISTEN", "127.0.0.1:4")];
        let flags = Flags { listen: Some("127.0.0.1:5".to_owned()), ..Flags::default() };
        let settings = load(file, &variables, &flags).unwrap();
        assert_eq!((settings.listen.port(), settings.api_listen.port()), (5, 4));
        let settings = load(file, &[], &Flags::default()).unwrap();
        assert_eq!((settings.listen.port(), settings.api_listen.port()), (1, 2));
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_place() {
        let said = |file: &str, flags: &Flags| load(file, &[], flags).unwrap_err().to_string();
        let wide = Flags { listen: Some("0.0.0.0:8080".to_owned()), ..Flags::default() };
        assert!(said("", &wide).contains("--listen: `0.0.0.0:8080` would open"));
        let typo = said("listne: 127.0.0.1:1\n", &Flags::default());
        assert!(typo.contains("config.yaml") && typo.contains("listne"), "{typo}");
        assert!(said("gateway:\n  maxConections: 5\n", &Flags::default()).contains("maxConections"));
        assert!(said("gateway:\n  workers: 0\n", &Flags::default()).contains("gateway: workers: 0 is not between"));
        assert!(said("deploy:\n  defaultDeploymentMode: Raw\n", &Flags::default()).contains("use Knative or Standard"));
    }

    #[test]
    fn limits_of_the_cache_are_quantities_and_the_environment_wins() {
        let file = "cache: {maxSize: 50Gi, minFree: 2Gi, collect: false}\noffline: true\n";
        let settings = load(file, &[], &Flags::default()).unwrap();
        assert_eq!(settings.room, RoomPolicy { most: Some(50 << 30), spare: 2 << 30, collect: false });
        assert!(settings.offline);
        let variables = [("KSERVE_LOCAL_CACHE_MAX_SIZE", "1Gi"), ("KSERVE_LOCAL_OFFLINE", "no")];
        let settings = load(file, &variables, &Flags::default()).unwrap();
        assert_eq!((settings.room.most, settings.offline), (Some(1 << 30), false));
        let said = load("cache: {maxSize: lots}\n", &[], &Flags::default()).unwrap_err().to_string();
        assert!(said.starts_with("config.yaml: cache.maxSize: `lots` is not a quantity"), "{said}");
    }

    #[test]
    fn localhost_is_always_among_the_domains() {
        let settings = load("ingress:\n  ingressDomain: models.test\n", &[], &Flags::default()).unwrap();
        assert_eq!(settings.domains, ["models.test", "example.com", "localhost"]);
        assert_eq!(load("", &[], &Flags::default()).unwrap().domains, ["localhost", "example.com"]);
    }
}
