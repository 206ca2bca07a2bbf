//! Which engine to talk to: the one the docker command line would, found in the same order.
//!
//! Explicit setting, `DOCKER_HOST`, `DOCKER_CONTEXT` or the current context of `config.json`, the default socket, the
//! rootless one, those of Docker Desktop and Colima, Podman's. How it was found is remembered, because "which socket
//! was that?" is the first question when it does not answer. Nothing here speaks to an engine.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use sha2::{Digest, Sha256};

/// An engine's address and how it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub address: Address,
    /// How it was found, in a few words.
    pub found_by: String,
}

/// Where an engine listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A socket of this machine.
    Unix(Utf8PathBuf),
    /// Plain TCP on this machine's loopback: host and port.
    Tcp(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{path}"),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.address, self.found_by)
    }
}

/// Why there is no engine to talk to. The next step is part of the text, because it differs per cause.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The address is of a kind this program cannot use.
    #[error(
        "`{0}` is not an engine on this machine; containers mount this machine's model folders, so use a `unix://` socket or \
         `tcp://localhost:<port>`"
    )]
    NotLocal(String),
    /// The context does not exist.
    #[error("docker has no context `{0}`; `docker context ls` lists them")]
    NoContext(String),
    /// The context's file cannot be understood.
    #[error("could not read the docker context `{name}`")]
    BadContext {
        /// Context name.
        name: String,
        /// What went wrong.
        source: io::Error,
    },
    /// No socket anywhere.
    #[error(
        "there is no socket; is Docker installed and running? looked at {}; set `DOCKER_HOST` when it is elsewhere",
        .0.join(", ")
    )]
    NoSocket(Vec<String>),
    /// The socket's file is missing.
    #[error("no such file; is the engine installed and running?")]
    Missing,
    /// The socket is there, nobody listens.
    #[error("nothing listens on it; the engine is not running")]
    NotRunning,
    /// The socket is not ours to use.
    #[error(
        "permission denied; add yourself to the group that owns the socket (`sudo usermod -aG docker $USER`, then log in \
         again), or use rootless Docker"
    )]
    Denied,
    /// It takes the connection and does not answer.
    #[error("it does not answer in time")]
    Silent,
    /// Anything else.
    #[error("the connection failed")]
    Io(#[source] io::Error),
}

impl From<io::Error> for FindError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::ConnectionRefused => Self::NotRunning,
            io::ErrorKind::PermissionDenied => Self::Denied,
            io::ErrorKind::TimedOut => Self::Silent,
            _ => Self::Io(error),
        }
    }
}

/// Where to look, as values; nothing here reads the process environment.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The operator's setting.
    pub explicit: Option<String>,
    /// `DOCKER_HOST`, `DOCKER_CONTEXT`, `DOCKER_CONFIG`, `XDG_RUNTIME_DIR`; others are ignored.
    pub env: BTreeMap<String, String>,
    /// The user's home.
    pub home: Option<Utf8PathBuf>,
}

impl Places {
    /// Returns the endpoints worth trying, best first: one when somebody chose, the known sockets otherwise.
    pub fn endpoints(&self) -> Result<Vec<Endpoint>, (String, FindError)> {
        if let Some(host) = self.explicit.as_deref().filter(|host| !host.is_empty()) {
            return chosen(host, "from the configuration");
        }
        if let Some(host) = self.var("DOCKER_HOST") {
            return chosen(host, "from DOCKER_HOST");
        }
        match self.context() {
            Some((name, by)) => {
                let found_by = format!("context `{name}`, {by}");
                let host = self.context_host(&name).map_err(|error| (found_by.clone(), error))?;
                chosen(&host, &found_by)
            }
            None => Ok(self.known_sockets()),
        }
    }

    /// Returns the folder of docker's own configuration.
    pub fn docker_config_folder(&self) -> Option<Utf8PathBuf> {
        match self.var("DOCKER_CONFIG") {
            Some(folder) => Some(folder.into()),
            None => self.home_folder().map(|home| home.join(".docker")),
        }
    }

    fn var(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn home_folder(&self) -> Option<Utf8PathBuf> {
        self.home.clone().or_else(|| self.var("HOME").map(Utf8PathBuf::from))
    }

    /// The chosen context, unless it is the default one, and who chose it.
    fn context(&self) -> Option<(String, &'static str)> {
        let (name, by) = match self.var("DOCKER_CONTEXT") {
            Some(name) => (name.to_owned(), "from DOCKER_CONTEXT"),
            None => {
                let text = std::fs::read_to_string(self.docker_config_folder()?.join("config.json")).ok()?;
                let config: serde_json::Value = serde_json::from_str(&text).ok()?;
                (config.get("currentContext")?.as_str()?.to_owned(), "current in docker's config.json")
            }
        };
        (!name.is_empty() && name != "default").then_some((name, by))
    }

    fn context_host(&self, name: &str) -> Result<String, FindError> {
        let digest = Sha256::digest(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let folder = self.docker_config_folder().ok_or_else(|| FindError::NoContext(name.to_owned()))?;
        let text = match std::fs::read_to_string(folder.join("contexts/meta").join(digest).join("meta.json")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(FindError::NoContext(name.to_owned())),
            Err(source) => return Err(FindError::BadContext { name: name.to_owned(), source }),
            Ok(text) => text,
        };
        let meta: serde_json::Value = serde_json::from_str(&text)
            .map_err(|error| FindError::BadContext { name: name.to_owned(), source: error.into() })?;
        let host = meta.pointer("/Endpoints/docker/Host").and_then(serde_json::Value::as_str);
        host.map(str::to_owned).ok_or_else(|| FindError::BadContext {
            name: name.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidData, "it has no docker endpoint"),
        })
    }

    fn known_sockets(&self) -> Vec<Endpoint> {
        let home = self.home_folder();
        let runtime = self.var("XDG_RUNTIME_DIR").map(Utf8PathBuf::from);
        let under = |folder: &Option<Utf8PathBuf>, path: &str| folder.as_ref().map(|folder| folder.join(path));
        let places = [
            (Some(Utf8PathBuf::from("/var/run/docker.sock")), "default socket"),
            (under(&runtime, "docker.sock"), "rootless Docker"),
            (under(&home, ".docker/desktop/docker.sock"), "Docker Desktop"),
            (under(&home, ".docker/run/docker.sock"), "Docker Desktop"),
            (under(&home, ".colima/default/docker.sock"), "Colima"),
            (under(&runtime, "podman/podman.sock"), "rootless Podman"),
            (Some(Utf8PathBuf::from("/run/podman/podman.sock")), "Podman"),
        ];
        let socket = |(path, found_by): (Option<Utf8PathBuf>, &str)| {
            path.map(|path| Endpoint { address: Address::Unix(path), found_by: found_by.to_owned() })
        };
        places.into_iter().filter_map(socket).collect()
    }
}

fn chosen(host: &str, found_by: &str) -> Result<Vec<Endpoint>, (String, FindError)> {
    match parse(host) {
        Some(address) => Ok(vec![Endpoint { address, found_by: found_by.to_owned() }]),
        None => Err((format!("{host} ({found_by})"), FindError::NotLocal(host.to_owned()))),
    }
}

fn parse(host: &str) -> Option<Address> {
    if let Some(path) = host.strip_prefix("unix://") {
        return Some(Address::Unix(path.into()));
    }
    if host.starts_with('/') {
        return Some(Address::Unix(host.into()));
    }
    let rest = host.strip_prefix("tcp://").or_else(|| host.strip_prefix("http://"))?;
    let rest = rest.trim_end_matches('/');
    let (name, port) = rest.rsplit_once(':').unwrap_or((rest, "2375"));
    let loopback = name == "localhost"
        || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    (loopback && port.parse::<u16>().is_ok()).then(|| Address::Tcp(format!("{name}:{port}")))
}

/// Returns the first endpoint that takes a connection, or why the most likely one does not.
pub async fn first_answering(endpoints: Vec<Endpoint>) -> Result<Endpoint, (String, FindError)> {
    let mut failure: Option<(String, FindError)> = None;
    let mut missing = Vec::new();
    for endpoint in endpoints {
        match connects(&endpoint.address).await {
            Ok(()) => return Ok(endpoint),
            Err(FindError::Missing) => missing.push(endpoint),
            Err(error) => failure = failure.or_else(|| Some((endpoint.to_string(), error))),
        }
    }
    Err(failure.unwrap_or_else(|| nothing_there(&missing)))
}

fn nothing_there(missing: &[Endpoint]) -> (String, FindError) {
    match missing {
        [only] => (only.to_string(), FindError::Missing),
        all => {
            let first = all.first().map(ToString::to_string).unwrap_or_default();
            (first, FindError::NoSocket(all.iter().map(|endpoint| format!("`{}`", endpoint.address)).collect()))
        }
    }
}

async fn connects(address: &Address) -> Result<(), FindError> {
    let connect = async {
        match address {
            Address::Unix(path) => unix_connects(path).await,
            Address::Tcp(host) => tokio::net::TcpStream::connect(host.as_str()).await.map(drop),
        }
    };
    match tokio::time::timeout(std::time::Duration::from_secs(5), connect).await {
        Ok(result) => result.map_err(FindError::from),
        Err(_) => Err(FindError::Silent),
    }
}

#[cfg(unix)]
async fn unix_connects(path: &Utf8Path) -> io::Result<()> {
    tokio::net::UnixStream::connect(path).await.map(drop)
}

#[cfg(not(unix))]
async fn unix_connects(_: &Utf8Path) -> io::Result<()> {
    Err(io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(env: &[(&str, &str)], home: &Utf8Path) -> Places {
        Places {
            explicit: None,
            env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            home: Some(home.to_owned()),
        }
    }

    fn shown(places: &Places) -> String {
        match places.endpoints() {
            Ok(endpoints) => endpoints[0].to_string(),
            Err((at, error)) => format!("{at}: {error}"),
        }
    }

    fn home() -> (tempfile::TempDir, Utf8PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
        (folder, path)
    }

    fn write_context(home: &Utf8Path, name: &str, host: &str) {
        let digest: String = Sha256::digest(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        let folder = home.join(".docker/contexts/meta").join(digest);
        std::fs::create_dir_all(&folder).unwrap();
        let meta = serde_json::json!({"Name": name, "Endpoints": {"docker": {"Host": host}}});
        std::fs::write(folder.join("meta.json"), meta.to_string()).unwrap();
    }

    #[test]
    fn the_setting_beats_docker_host_beats_the_context_beats_the_default() {
        let (_keep, home) = home();
        assert_eq!(shown(&places(&[], &home)), "unix:///var/run/docker.sock (default socket)");
        write_context(&home, "colima", "unix:///colima.sock");
        std::fs::write(home.join(".docker/config.json"), r#"{"currentContext":"colima"}"#).unwrap();
        assert_eq!(
            shown(&places(&[], &home)),
            "unix:///colima.sock (context `colima`, current in docker's config.json)"
        );
        assert_eq!(
            shown(&places(&[("DOCKER_CONTEXT", "default")], &home)),
            "unix:///var/run/docker.sock (default socket)"
        );
        let env = [("DOCKER_HOST", "unix:///env.sock"), ("DOCKER_CONTEXT", "colima")];
        assert_eq!(shown(&places(&env, &home)), "unix:///env.sock (from DOCKER_HOST)");
        let mut explicit = places(&env, &home);
        explicit.explicit = Some("/mine.sock".to_owned());
        assert_eq!(shown(&explicit), "unix:///mine.sock (from the configuration)");
    }

    #[test]
    fn an_unknown_context_is_named() {
        let (_keep, home) = home();
        assert_eq!(
            shown(&places(&[("DOCKER_CONTEXT", "gone")], &home)),
            "context `gone`, from DOCKER_CONTEXT: docker has no context `gone`; `docker context ls` lists them"
        );
    }

    #[test]
    fn an_engine_on_another_machine_is_refused_and_loopback_is_not() {
        for host in ["tcp://10.0.0.1:2375", "ssh://me@there", "https://localhost:2376", "tcp://docker:2375"] {
            assert_eq!(parse(host), None, "{host}");
        }
        for (host, wanted) in
            [("tcp://127.0.0.1:2375", "tcp://127.0.0.1:2375"), ("tcp://localhost", "tcp://localhost:2375")]
        {
            assert_eq!(parse(host).unwrap().to_string(), wanted);
        }
    }

    #[tokio::test]
    async fn a_stale_socket_is_passed_over_for_one_that_answers_and_named_when_none_does() {
        let (_keep, home) = home();
        let stale = home.join("stale.sock");
        drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
        let live = home.join("live.sock");
        let listener = std::os::unix::net::UnixListener::bind(&live).unwrap();
        let at = |path: &Utf8Path| Endpoint { address: Address::Unix(path.to_owned()), found_by: "test".to_owned() };
        let missing = at(&home.join("missing.sock"));
        let found = first_answering(vec![missing.clone(), at(&stale), at(&live)]).await.unwrap();
        assert_eq!(found.address, Address::Unix(live));
        drop(listener);
        let (name, error) = first_answering(vec![missing.clone(), at(&stale)]).await.unwrap_err();
        assert_eq!(name, format!("unix://{stale} (test)"));
        assert!(matches!(error, FindError::NotRunning), "{error}");
        let (_, error) = first_answering(vec![missing.clone(), missing.clone()]).await.unwrap_err();
        assert!(matches!(error, FindError::NoSocket(_)), "{error}");
        assert!(matches!(first_answering(vec![missing]).await.unwrap_err().1, FindError::Missing));
    }
}
