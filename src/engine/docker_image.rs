//! Images: what they say of themselves, and pulling them.

use std::collections::HashMap;
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptions;
use camino::Utf8Path;
use futures::StreamExt;
use tokio::sync::watch;

use super::docker_connection::{Connection, QUICK};
use super::docker_error::{refused, status, translate, words};
use super::docker_spec::ImageFacts;
use super::{Blame, EngineError, PullProgress, docker_credentials};

/// A pull that says nothing for so long has hung; the next attempt resumes its layers.
const LONGEST_SILENCE: Duration = Duration::from_secs(15 * 60);

/// Words by which registries and engines say that trying again is no use.
const PERMANENT: [&str; 12] = [
    "manifest unknown",
    "not found",
    "does not exist",
    "pull access denied",
    "denied",
    "unauthorized",
    "no basic auth credentials",
    "invalid reference",
    "repository name must be",
    "no matching manifest",
    "no match for platform",
    "unsupported media type",
];
/// Words of a network or a registry in trouble; they win over the above ("lookup …: not found").
const TRANSIENT: [&str; 13] = [
    "no such host",
    "lookup ",
    "dial tcp",
    "connection refused",
    "connection reset",
    "timeout",
    "deadline exceeded",
    "unreachable",
    "request canceled",
    "toomanyrequests",
    "eof",
    "no space left",
    "server misbehaving",
];

/// Returns what an image on this machine says of itself.
pub(super) async fn facts(connection: &Connection, image: &str) -> Result<ImageFacts, EngineError> {
    check_reference(image)?;
    match connection.answer(QUICK, connection.docker.inspect_image(image)).await? {
        Ok(inspected) => {
            let config = inspected.config.unwrap_or_default();
            let stop_signal = config.stop_signal.filter(|signal| !signal.is_empty());
            Ok(ImageFacts { user: config.user.unwrap_or_default(), stop_signal })
        }
        Err(error) if status(&error) == Some(404) => Err(EngineError::ImageAbsent(image.to_owned())),
        Err(error) => Err(translate(&connection.endpoint, "look for image", image, &error)),
    }
}

/// Pulls an image, telling progress as it goes. Dropping the future cancels the pull; layers that are complete stay.
pub(super) async fn pull(
    connection: &Connection,
    image: &str,
    docker_config: Option<&Utf8Path>,
    logins: &[String],
    progress: &watch::Sender<PullProgress>,
) -> Result<(), EngineError> {
    check_reference(image)?;
    let credentials = docker_credentials::find(docker_config, logins, registry(image)).await;
    // Without a tag the engine would pull every tag there is.
    let options = CreateImageOptions { from_image: Some(tagged(image)), ..CreateImageOptions::default() };
    let mut messages = connection.docker.create_image(Some(options), None, credentials).boxed();
    let mut layers = Layers::default();
    loop {
        match tokio::time::timeout(LONGEST_SILENCE, messages.next()).await {
            Ok(None) => return Ok(()),
            Ok(Some(Ok(message))) => {
                if let Some(now) = layers.note(message) {
                    progress.send_replace(now);
                }
            }
            Ok(Some(Err(error))) => return Err(pull_error(connection, image, &error)),
            Err(_) => {
                let message = "the engine stopped telling progress".to_owned();
                return Err(EngineError::ImagePull { image: image.to_owned(), message, permanent: false });
            }
        }
    }
}

/// Layers by id: bytes done, bytes in all, and whether it is being unpacked or done.
#[derive(Default)]
struct Layers(HashMap<String, Layer>);

#[derive(Default)]
struct Layer {
    done: u64,
    total: u64,
    downloaded: bool,
}

impl Layers {
    /// Takes in one message; returns the sum when it changed something.
    fn note(&mut self, message: CreateImageInfo) -> Option<PullProgress> {
        let status = message.status?;
        let id = message.id.filter(|_| !status.starts_with("Pulling from"))?;
        let layer = self.0.entry(id).or_default();
        let detail = message.progress_detail.unwrap_or_default();
        let bytes = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0);
        match status.as_str() {
            "Downloading" => {
                layer.done = bytes(detail.current).unwrap_or(layer.done).max(layer.done);
                layer.total = bytes(detail.total).unwrap_or(layer.total).max(layer.done);
            }
            "Verifying Checksum" | "Download complete" | "Extracting" | "Pull complete" | "Already exists" => {
                layer.total = layer.total.max(bytes(detail.total).unwrap_or_default());
                layer.done = layer.total;
                layer.downloaded = true;
            }
            _ => {}
        }
        Some(self.sum())
    }

    fn sum(&self) -> PullProgress {
        let downloading = self.0.values().any(|layer| !layer.downloaded);
        PullProgress {
            done: self.0.values().map(|layer| layer.done).sum(),
            total: self.0.values().map(|layer| layer.total).sum(),
            phase: if downloading { "downloading" } else { "extracting" }.to_owned(),
        }
    }
}

/// References become part of a path; anything that is none would ask for something else.
fn check_reference(image: &str) -> Result<(), EngineError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte);
    let good = !image.is_empty()
        && image.bytes().all(plain)
        && image.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && !image.split('/').any(|part| part.is_empty() || part.starts_with('.'));
    if good { Ok(()) } else { Err(refused("look for image", image, "invalid reference format", Blame::User)) }
}

/// Returns the registry a reference names, as docker understands it.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => docker_credentials::DOCKER_HUB,
    }
}

fn tagged(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if image.contains('@') || last.contains(':') { image.to_owned() } else { format!("{image}:latest") }
}

fn pull_error(connection: &Connection, image: &str, error: &Error) -> EngineError {
    let words = words(error);
    let streamed = matches!(error, Error::DockerStreamError { .. });
    if status(error).is_none() && !streamed {
        return translate(&connection.endpoint, "pull image", image, error);
    }
    let permanent = is_permanent(&words);
    let message = if is_network(&words) {
        let registry = registry(image);
        format!(
            "the registry `{registry}` does not answer ({words}); check the network, or bring the image here by hand with \
             `docker pull {image}` or `docker load`: an image that is here is used unless imagePullPolicy is Always"
        )
    } else {
        words
    };
    EngineError::ImagePull { image: image.to_owned(), message, permanent }
}

fn is_permanent(words: &str) -> bool {
    let words = words.to_lowercase();
    let says = |list: &[&str]| list.iter().any(|word| words.contains(word));
    !says(&TRANSIENT) && says(&PERMANENT)
}

fn is_network(words: &str) -> bool {
    let words = words.to_lowercase();
    TRANSIENT.iter().any(|word| words.contains(word))
        && !words.contains("toomanyrequests")
        && !words.contains("no space left")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: &str, status: &str, current: i64, total: i64) -> CreateImageInfo {
        serde_json::from_value(serde_json::json!({
            "id": id, "status": status, "progressDetail": {"current": current, "total": total}
        }))
        .unwrap()
    }

    #[test]
    fn progress_adds_up_over_layers_and_never_goes_back() {
        let mut layers = Layers::default();
        assert_eq!(layers.note(message("v1", "Pulling from kserve/sklearnserver", 0, 0)), None);
        layers.note(message("a", "Pulling fs layer", 0, 0));
        layers.note(message("b", "Pulling fs layer", 0, 0));
        layers.note(message("a", "Downloading", 10, 100));
        let now = layers.note(message("b", "Downloading", 5, 50)).unwrap();
        assert_eq!(now, PullProgress { done: 15, total: 150, phase: "downloading".to_owned() });
        layers.note(message("a", "Download complete", 0, 0));
        layers.note(message("a", "Extracting", 20, 100));
        let now = layers.note(message("b", "Download complete", 0, 0)).unwrap();
        assert_eq!(now, PullProgress { done: 150, total: 150, phase: "extracting".to_owned() });
    }

    #[test]
    fn it_is_known_which_failures_are_final() {
        for (words, permanent) in [
            ("manifest for kserve/x:v9 not found: manifest unknown: manifest unknown", true),
            ("pull access denied for nobody/x, repository does not exist or may require 'docker login'", true),
            ("unauthorized: authentication required", true),
            ("no matching manifest for linux/arm64/v8 in the manifest list entries", true),
            ("invalid reference format", true),
            ("Get \"https://x/v2/\": dial tcp: lookup x on 127.0.0.53:53: no such host", false),
            ("Get \"https://x/v2/\": net/http: request canceled while waiting for connection", false),
            ("toomanyrequests: You have reached your pull rate limit", false),
            ("received unexpected HTTP status: 503 Service Unavailable", false),
            ("write /var/lib/docker/tmp/x: no space left on device", false),
        ] {
            assert_eq!(is_permanent(words), permanent, "{words}");
        }
    }

    #[test]
    fn a_reference_names_its_registry_and_never_every_tag() {
        for (image, wanted_registry, wanted) in [
            ("busybox", docker_credentials::DOCKER_HUB, "busybox:latest"),
            ("kserve/sklearnserver:v1", docker_credentials::DOCKER_HUB, "kserve/sklearnserver:v1"),
            ("localhost:5000/x", "localhost:5000", "localhost:5000/x:latest"),
            ("registry.example.com/a/b@sha256:00", "registry.example.com", "registry.example.com/a/b@sha256:00"),
        ] {
            assert_eq!((registry(image), tagged(image).as_str()), (wanted_registry, wanted));
        }
    }

    #[test]
    fn what_is_no_reference_never_reaches_the_engine() {
        for image in ["", "a b", "../containers/json", "x?y", "/x", "a//b", "-x", "a/../b", "ä"] {
            assert!(check_reference(image).is_err(), "{image:?}");
        }
        for image in ["busybox", "a/b:v1", "localhost:5000/a/b", "a@sha256:abc", "A-b.c_d/x"] {
            assert!(check_reference(image).is_ok(), "{image:?}");
        }
    }
}
