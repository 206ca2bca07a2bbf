//! `pods/{name}/log`: a container's output as text.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{Method, header};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};

use super::failure::Failure;
use super::objects::Call;
use super::resource::Resource;
use super::server::Api;
use crate::engine::{ContainerId, EngineError, LogLine, LogOptions};
use crate::plan::pods::{ContainerView, ContainerViewState, PodView};

/// Answers a log request.
///
/// # Errors
/// No such pod or container, the container has no output yet, or the engine does not give it.
pub async fn answer(api: &Arc<Api>, namespace: &str, name: &str, call: &Call) -> Result<Response, Failure> {
    if call.method != Method::GET {
        return Err(Failure::method_not_allowed("logs can only be read"));
    }
    let pods = Arc::clone(&api.state.pods.borrow());
    let pod = pods.iter().find(|pod| pod.component.service.namespace == namespace && pod.name == name);
    let pod = pod.ok_or_else(|| Failure::not_found(Resource::Pods, name))?;
    let container = choose(pod, call.query.get("container"))?;
    if call.query.flag("previous")? {
        return Err(Failure::bad_request(format!(
            "previous terminated container \"{}\" in pod \"{name}\" not found: kserve-local starts the same container again, so its earlier output is in the log without `previous`",
            container.name
        )));
    }
    let id = container.id.clone().ok_or_else(|| not_started(pod, container))?;
    let options = options(call, (api.state.clock)())?;
    let timestamps = call.query.flag("timestamps")?;
    let lines = api.state.engine.logs(&ContainerId(id), options).await.map_err(|error| refused(&error))?;
    let texts = lines.map(move |line| Ok::<_, std::convert::Infallible>(text(line, timestamps)));
    let ended = Box::pin(api.stop.clone().cancelled_owned());
    let body = Body::from_stream(stream::StreamExt::take_until(texts, ended));
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response())
}

fn choose<'p>(pod: &'p PodView, wanted: Option<&str>) -> Result<&'p ContainerView, Failure> {
    let found = match wanted {
        Some(wanted) => pod.containers.iter().find(|container| container.name == wanted),
        None => pod.containers.first(),
    };
    found.ok_or_else(|| {
        let names: Vec<&str> = pod.containers.iter().map(|container| container.name.as_str()).collect();
        let wanted = wanted.unwrap_or_default();
        Failure::bad_request(format!(
            "container {wanted} is not valid for pod {}: choose one of: [{}]",
            pod.name,
            names.join(" ")
        ))
    })
}

fn not_started(pod: &PodView, container: &ContainerView) -> Failure {
    let why = match &container.state {
        ContainerViewState::Waiting { reason, message } if message.is_empty() => reason.clone(),
        ContainerViewState::Waiting { reason, message } => format!("{reason}: {message}"),
        _ => pod.status.clone(),
    };
    Failure::bad_request(format!("container \"{}\" in pod \"{}\" is waiting to start: {why}", container.name, pod.name))
}

fn options(call: &Call, now: Timestamp) -> Result<LogOptions, Failure> {
    let ago = |seconds: u64| {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN)
    };
    let mut since = call.query.number("sinceSeconds")?.map(ago);
    if let Some(text) = call.query.get("sinceTime") {
        let wrong = |_| Failure::bad_request(format!("invalid value \"{text}\" for sinceTime: not a time"));
        since = Some(text.parse().map_err(wrong)?);
    }
    let tail = call.query.number("tailLines")?.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX));
    Ok(LogOptions { follow: call.query.flag("follow")?, tail, since })
}

fn text(line: Result<LogLine, EngineError>, timestamps: bool) -> Bytes {
    let mut text = match line {
        Ok(LogLine { at: Some(at), text, .. }) if timestamps => format!("{at} {text}"),
        Ok(line) => line.text,
        // The headers are gone; all that is left is to say it where the reader looks.
        Err(error) => format!("kserve-local: the log ended early: {error}"),
    };
    text.push('\n');
    Bytes::from(text)
}

fn refused(error: &EngineError) -> Failure {
    match error {
        EngineError::NoSuchContainer(_) => Failure::bad_request(format!("{error}: it was just removed")),
        other => Failure::unavailable(other.to_string()),
    }
}
