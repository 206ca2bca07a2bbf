//! A connection to an engine: opened once, its version agreed on, its abilities asked; and calls on it, each with an end.

use std::future::Future;
use std::time::Duration;

use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::InspectContainerOptions;
use bollard::{API_DEFAULT_VERSION, Docker};

use super::docker_error::{translate, unreachable};
use super::docker_find::{Address, Endpoint, FindError, Places, first_answering};
use super::docker_spec::Abilities;
use super::{EngineError, EngineInfo};

/// Longest wait for a question.
pub(super) const QUICK: Duration = Duration::from_secs(30);
/// Upper bound given to bollard itself; the waits above are shorter, streams have their own.
const BOLLARD_TIMEOUT_SECONDS: u64 = 7 * 24 * 3600;

/// Oldest API of an engine that is spoken: Docker 19.03.
pub const OLDEST_API: (u32, u32) = (1, 40);

/// Returns the newest API that is spoken; with an engine that knows less, the engine's own.
pub fn newest_api() -> (usize, usize) {
    (API_DEFAULT_VERSION.major_version, API_DEFAULT_VERSION.minor_version)
}

/// An open, version-negotiated connection and what the engine said about itself.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) docker: Docker,
    pub(super) endpoint: String,
    pub(super) podman: bool,
    pub(super) info: EngineInfo,
    pub(super) abilities: Abilities,
}

impl Connection {
    /// Awaits one call, up to `limit`; the engine's own refusal is handed on untouched.
    pub(super) async fn answer<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<Result<T, bollard::errors::Error>, EngineError> {
        tokio::time::timeout(limit, call).await.map_err(|_| unreachable(&self.endpoint, FindError::Silent))
    }

    /// Awaits one call about `name`, up to `limit`, and translates its failure.
    pub(super) async fn settle<T>(
        &self,
        verb: &'static str,
        name: &str,
        limit: Duration,
        call: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, EngineError> {
        self.answer(limit, call).await?.map_err(|error| translate(&self.endpoint, verb, name, &error))
    }
}

/// Inspects a container by id or name, whoever's it is.
pub(super) async fn inspect(
    connection: &Connection,
    verb: &'static str,
    id: &str,
) -> Result<ContainerInspectResponse, EngineError> {
    // Ids become part of a path; anything else would ask for something else.
    if id.is_empty()
        || id.starts_with('.')
        || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
    {
        return Err(EngineError::NoSuchContainer(id.to_owned()));
    }
    let inspected = connection.docker.inspect_container(id, None::<InspectContainerOptions>);
    connection.settle(verb, id, QUICK, inspected).await
}

/// Finds an engine, agrees on a version with it, and asks what it can do.
pub(super) async fn open(places: &Places) -> Result<Connection, EngineError> {
    let endpoints = places.endpoints().map_err(|(at, cause)| unreachable(&at, cause))?;
    let endpoint = first_answering(endpoints).await.map_err(|(at, cause)| unreachable(&at, cause))?;
    let shown = endpoint.to_string();
    let failed = |error: &bollard::errors::Error| translate(&shown, "ask the version of", "the engine", error);
    let silent = |_| unreachable(&shown, FindError::Silent);
    let docker = client(&endpoint).map_err(|error| failed(&error))?;
    let docker = tokio::time::timeout(QUICK, docker.negotiate_version()).await.map_err(silent)?;
    let docker = docker.map_err(|error| failed(&error))?;
    let version =
        tokio::time::timeout(QUICK, docker.version()).await.map_err(silent)?.map_err(|error| failed(&error))?;
    let system = tokio::time::timeout(QUICK, docker.info()).await.map_err(silent)?.map_err(|error| failed(&error))?;
    let podman = version.components.iter().flatten().any(|component| component.name.contains("Podman"));
    let cpus = system.ncpu.and_then(|count| u32::try_from(count).ok()).unwrap_or(1);
    let able = |ability: Option<bool>| ability.unwrap_or(true);
    // The engine names its init program whether or not it is installed; it then has no version.
    let init_missing = system.init_commit.and_then(|commit| commit.id).is_some_and(|id| id == "N/A");
    let abilities = Abilities {
        init: !podman && system.init_binary.is_some_and(|name| !name.is_empty()) && !init_missing,
        cpu_quota: able(system.cpu_cfs_quota),
        cpu_shares: able(system.cpu_shares),
        memory_limit: able(system.memory_limit),
        pids_limit: able(system.pids_limit),
        cpus,
    };
    let info = EngineInfo {
        name: if podman { "podman" } else { "docker" }.to_owned(),
        version: version.version.unwrap_or_default(),
        endpoint: shown.clone(),
        memory_total: system.mem_total.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default(),
        cpus,
        platform: format!("{}/{}", version.os.unwrap_or_default(), version.arch.unwrap_or_default()),
    };
    Ok(Connection { docker, endpoint: shown, podman, info, abilities })
}

fn client(endpoint: &Endpoint) -> Result<Docker, bollard::errors::Error> {
    match &endpoint.address {
        Address::Unix(path) => Docker::connect_with_unix(path.as_str(), BOLLARD_TIMEOUT_SECONDS, API_DEFAULT_VERSION),
        Address::Tcp(host) => Docker::connect_with_http(host, BOLLARD_TIMEOUT_SECONDS, API_DEFAULT_VERSION),
    }
}

#[cfg(test)]
mod tests {
    use super::super::ContainerEngine;
    use super::super::docker::{DockerConfig, DockerEngine};

    fn engine(socket: &std::path::Path) -> DockerEngine {
        let endpoint = Some(format!("unix://{}", socket.display()));
        DockerEngine::connect(DockerConfig { instance: "t".to_owned(), endpoint, ..DockerConfig::default() }).unwrap()
    }

    fn told(error: &dyn std::error::Error) -> String {
        format!("{error}: {}", error.source().map(ToString::to_string).unwrap_or_default())
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_never_answers_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("hung.sock");
        let _listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let error = engine(&socket).info().await.unwrap_err();
        let wanted = format!(
            "could not reach the container engine at `unix://{} (from the configuration)`: it does not answer in time",
            socket.display()
        );
        assert_eq!(told(&error), wanted);
    }

    #[tokio::test]
    async fn an_engine_that_is_away_says_where_it_was_looked_for_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let error = engine(&socket).list().await.unwrap_err();
        assert!(told(&error).ends_with("no such file; is the engine installed and running?"), "{}", told(&error));
        drop(tokio::net::UnixListener::bind(&socket).unwrap());
        let error = engine(&socket).list().await.unwrap_err();
        assert!(told(&error).ends_with("nothing listens on it; the engine is not running"), "{}", told(&error));
    }

    #[test]
    fn an_endpoint_that_can_never_work_is_refused_at_once() {
        let endpoint = Some("ssh://me@there".to_owned());
        let error = DockerEngine::connect(DockerConfig { endpoint, ..DockerConfig::default() }).unwrap_err();
        assert!(told(&error).contains("`ssh://me@there` is not an engine on this machine"), "{}", told(&error));
    }
}
