//! Finds a replica with room for a request, and waits for one.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::plan::routes::{Backend, ReplicaName, RouteState, ServiceRoute};
use crate::workload::ComponentKey;

use super::balance::{NoPlace, Patience, Slot};
use super::flight::{Client, Flight};
use super::forward::{Exchange, Refused};
use super::hold;
use super::refusal::Refusal;
use super::worker::{Front, RETRY_SOON};

/// A replica, and the place at it if those are counted.
pub(super) type Place = (Backend, Option<Slot>);

impl Exchange<'_> {
    /// Finds a replica with room, if there is one. The target was looked up a moment ago and is as it is now.
    pub(super) fn place_now(&self) -> Refused<Option<Place>> {
        if self.held_in(&self.target.service).is_some() {
            return Ok(None);
        }
        let backends = self.backends(&self.target.service)?;
        match &*backends {
            [one] if one.concurrency.is_none() && one.weight > 0 => Ok(Some((one.clone(), None))),
            several => {
                let key = self.key();
                let place = self.worker.balancer.acquire_now(&key, several, &[]);
                place.map_err(|none| Box::new(no_place(none, &key)))
            }
        }
    }

    /// Waits for a replica with room, for as long as the client does.
    pub(super) async fn wait_for_place(&self, request: &mut Request<Incoming>, front: &mut Front) -> Refused<Place> {
        // Over HTTP/2 a stream ends on its own.
        let client = self.flight.as_ref().map(Flight::shared_client);
        let client = client.filter(|_| request.version() <= Version::HTTP_11);
        let gone = async {
            let limit = self.worker.config.read_ahead;
            match read_ahead(request.body_mut(), front, limit).await {
                Some(broken) => broken,
                None => until_left(client).await,
            }
        };
        tokio::select! {
            biased;
            place = self.place(&[]) => place,
            // What it has read is kept.
            gone = gone => Err(gone),
        }
    }

    /// Finds a replica with room that was not tried yet, and waits for one.
    pub(super) async fn place(&self, tried: &[ReplicaName]) -> Refused<Place> {
        let (known, waited) = self.awake(self.service()?).await?;
        // Whatever was tried before it woke is not what there is now.
        let tried = if waited { &[] } else { tried };
        let backends = self.backends(&known)?;
        let key = self.key();
        let config = &self.worker.config;
        let patience = match waited {
            false => Patience { max_waiting: config.max_waiting, timeout: config.queue_timeout },
            // All who waited come at once; its concurrency limit shapes the burst.
            true => Patience {
                max_waiting: usize::try_from(config.max_held).unwrap_or(usize::MAX),
                timeout: config.default_request_timeout.unwrap_or(config.queue_timeout),
            },
        };
        let current = || {
            let now = self.service().and_then(|now| self.backends(&now).map(Cow::into_owned));
            now.unwrap_or_default()
        };
        let waiting = (Gauge::new(self.flight.as_ref()), self.worker.board.queue_for(&key));
        let place = self.worker.balancer.acquire(&key, &backends, current, tried, patience).await;
        drop(waiting);
        place.map_err(|none| {
            // When the route was closed while the request waited, its reason is the reason.
            let closed = self.service().and_then(|now| self.backends(&now).map(drop));
            closed.err().unwrap_or_else(|| Box::new(no_place(none, &key)))
        })
    }

    /// The service as it is now.
    pub(super) fn service(&self) -> Refused<Arc<ServiceRoute>> {
        let key = &self.target.service.key;
        self.worker.with_desks(|desks| desks.index.table().services.get(key).cloned()).ok_or_else(|| self.removed())
    }

    fn backends<'a>(&self, service: &'a ServiceRoute) -> Refused<Cow<'a, [Backend]>> {
        let route = service.components.get(&self.target.component).map(|route| &**route);
        match (self.target.state(service), &self.target.tag) {
            (Some(RouteState::Open(backends)), None) => Ok(Cow::Borrowed(backends)),
            // A tagged revision is reached although its share of the traffic may be nothing.
            (Some(RouteState::Open(backends)), Some(tag)) => match tag.within(route, backends) {
                none if none.is_empty() && tag.is_canary() => {
                    let message = format!("no replica of this canary of {} answers; try again later", self.key());
                    Err(Box::new(Refusal::unavailable("CanaryNotReady", message, RETRY_SOON)))
                }
                none if none.is_empty() => {
                    let message = format!("{} has one revision only; call it without the tag", self.key());
                    Err(Box::new(Refusal::new(StatusCode::NOT_FOUND, "NoSuchRevision", message)))
                }
                tagged => Ok(Cow::Owned(tagged)),
            },
            (Some(RouteState::NotReady { reason, message, retry_after }), _) => {
                Err(Box::new(Refusal::unavailable(reason.clone(), message.clone(), *retry_after).in_phase()))
            }
            (Some(RouteState::Held(hold)), _) => Err(Box::new(hold::refusal(hold, "it has just ended"))),
            (None, _) => Err(self.removed()),
        }
    }

    fn removed(&self) -> Box<Refusal> {
        let message = format!("InferenceService `{}` has just been removed", self.target.service.key);
        Box::new(Refusal::new(StatusCode::NOT_FOUND, "UnknownService", message))
    }
}

/// Reads a request's body up to a limit while it waits. Only so does hyper notice that an HTTP/1 client has left, and
/// then drops the request. Returns what is to be said when the body cannot be read: what came of it would look whole to a
/// backend.
async fn read_ahead(body: &mut Incoming, front: &mut Front, limit: usize) -> Option<Box<Refusal>> {
    let mut ahead: usize = front.iter().filter_map(Frame::data_ref).map(Bytes::len).sum();
    while ahead < limit {
        let frame = match body.frame().await {
            None => break,
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                return Some(Box::new(Refusal::broken_body(format!("the body could not be read: {error}"))));
            }
        };
        ahead += frame.data_ref().map_or(0, Bytes::len);
        front.push_back(frame);
    }
    None
}

/// hyper reads nothing more when a body is longer than what is read ahead, or when another request is behind it, and so
/// does not notice that the client has left. Until then, and for ever when there is nobody to watch.
async fn until_left(client: Option<Arc<Client>>) -> Box<Refusal> {
    let Some(client) = client else { return std::future::pending().await };
    let watched = Watched(client);
    watched.0.watch(true);
    while !watched.0.has_left() {
        // Each turn of the connection's task looks at its socket, too.
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Box::new(Refusal::broken_body("the client has left"))
}

/// A client that is watched until this is dropped.
struct Watched(Arc<Client>);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.watch(false);
    }
}

/// How soon it is noticed that a client has left.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Counts a request as waiting while it looks for a place.
struct Gauge<'a>(Option<&'a Flight>);

impl<'a> Gauge<'a> {
    fn new(flight: Option<&'a Flight>) -> Self {
        if let Some(flight) = flight {
            flight.metrics().waits();
        }
        Self(flight)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        if let Some(flight) = self.0 {
            flight.metrics().waited();
        }
    }
}

pub(super) fn no_place(none: NoPlace, key: &ComponentKey) -> Refusal {
    let (reason, message) = match none {
        NoPlace::Nobody => ("NoBackend", format!("{key} has no replica that takes traffic; try again later")),
        NoPlace::QueueFull => (
            "Overloaded",
            format!("{key} is at its concurrency limit and its queue is full (`maxWaiting`); send fewer at once"),
        ),
        NoPlace::TooLong => (
            "Overloaded",
            format!("{key} was at its concurrency limit for too long (`queueTimeout`); send fewer at once"),
        ),
    };
    Refusal::unavailable(reason, message, RETRY_SOON)
}
