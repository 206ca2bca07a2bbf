//! `pods/{name}/log`: a container's output as text.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{Method, header};
use axum::response::{IntoResponse, Response};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use jiff::{SignedDuration, Timestamp};

use super::failure::Failure;
use super::ingress;
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
    if ingress::is_gateway(namespace, name) {
        return Err(Failure::bad_request("the gateway's log is that of the daemon itself"));
    }
    let pods = Arc::clone(&api.state.pods.borrow());
    let pod = pods.iter().find(|pod| pod.component.service.namespace == namespace && pod.name == name);
    let pod = pod.ok_or_else(|| Failure::not_found(Resource::Pods, name))?;
    let container = choose(pod, call.query.get("container"))?;
    let id = container.id.clone().ok_or_else(|| not_started(pod, container))?;
    let options = options(call, (api.state.clock)())?;
    let timestamps = call.query.flag("timestamps")?;
    let limit = call.query.number("limitBytes")?;
    let lines = if call.query.flag("previous")? {
        previous(api, pod, container, ContainerId(id), options).await?
    } else {
        api.state.engine.logs(&ContainerId(id), options).await.map_err(|error| refused(&error))?
    };
    let texts = lines.map(move |line| text(line, timestamps));
    let texts = limited(texts, limit).map(Ok::<_, std::convert::Infallible>);
    let ended = Box::pin(api.stop.clone().cancelled_owned());
    let body = Body::from_stream(stream::StreamExt::take_until(texts, ended));
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response())
}

/// Returns what a container said before its last start. The same container is started again, so its log has all of it.
async fn previous(
    api: &Arc<Api>,
    pod: &PodView,
    container: &ContainerView,
    id: ContainerId,
    options: LogOptions,
) -> Result<BoxStream<'static, Result<LogLine, EngineError>>, Failure> {
    if container.restarts == 0 {
        let (name, pod) = (&container.name, &pod.name);
        let message = format!("previous terminated container \"{name}\" in pod \"{pod}\" not found");
        return Err(Failure::bad_request(message));
    }
    let end = match container.state {
        ContainerViewState::Running { started_at } => started_at,
        // It has ended again, and is not started yet: that was the previous one.
        _ => None,
    };
    let all = LogOptions { follow: false, tail: None, since: options.since };
    let lines = api.state.engine.logs(&id, all).await.map_err(|error| refused(&error))?;
    let earlier = move |line: &Result<LogLine, EngineError>| match (line, end) {
        (Ok(LogLine { at: Some(at), .. }), Some(end)) => *at < end,
        _ => true,
    };
    let mut lines = lines.take_while(move |line| std::future::ready(earlier(line)));
    let Some(tail) = options.tail else { return Ok(lines.boxed()) };
    let mut last = VecDeque::new();
    while let Some(line) = lines.next().await {
        last.push_back(line);
        if last.len() > tail {
            last.pop_front();
        }
    }
    Ok(stream::iter(last).boxed())
}

/// Ends a log after so many bytes.
fn limited(texts: impl Stream<Item = Bytes>, limit: Option<u64>) -> impl Stream<Item = Bytes> {
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    texts.scan(limit, |left, mut text| {
        text.truncate(*left);
        *left -= text.len();
        std::future::ready((!text.is_empty()).then_some(text))
    })
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
