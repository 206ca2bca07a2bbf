//! What one worker needs to answer requests.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Frame;
use hyper::body::Incoming;
use tokio::sync::{Notify, Semaphore};

use crate::plan::routes::RouteTable;
use crate::tasks::Tasks;
use crate::traffic::TrafficBoard;

use super::access_log::AccessLog;
use super::balance::Balancer;
use super::batcher::Batcher;
use super::body::AnswerBody;
use super::config::GatewayConfig;
use super::crew::Ending;
use super::desk::Desks;
use super::flight::{Client, Flight};
use super::graph_run::Propagate;
use super::metrics::{Metrics, ServiceMetrics};
use super::outside::Outside;
use super::payload_log::PayloadLog;
use super::refusal::{Refusal, is_grpc};
use super::roll::Roll;
use super::upstream::Pool;
use super::walk::Walk;
use super::whole::Room;

/// Pieces of a body that have been read ahead.
pub(crate) type Front = VecDeque<Frame<Bytes>>;

/// Everything a request needs on its way. Shared by the connections of one worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) number: usize,
    pub(crate) routes: Arc<ArcSwap<RouteTable>>,
    pub(crate) desks: ArcSwap<Desks>,
    pub(crate) board: TrafficBoard,
    pub(crate) config: GatewayConfig,
    pub(crate) metrics: Arc<Metrics>,
    /// Counters of requests that reach no service.
    pub(crate) unrouted: Arc<ServiceMetrics>,
    pub(crate) balancer: Arc<Balancer>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) tasks: Tasks,
    pub(crate) backend_refused: Arc<Notify>,
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) ending: Ending,
    /// Room for bodies that are held whole.
    pub(crate) whole: Arc<Room>,
    /// Which headers graphs pass on.
    pub(crate) propagate: Arc<Propagate>,
    /// What is called that is not behind this gateway.
    pub(crate) outside: Outside,
    /// Batches that are being filled, by all workers.
    pub(crate) batcher: Arc<Batcher>,
    /// Takes payload events.
    pub(crate) payload_log: PayloadLog,
    /// Copies of requests under way.
    pub(crate) mirrors: Arc<Semaphore>,
    /// Where it says that it turns.
    pub(crate) roll: Arc<Roll>,
}

impl Worker {
    /// Answers one request, whatever happens.
    pub(crate) async fn answer(
        self: Arc<Self>,
        client: Arc<Client>,
        request: Box<Request<Incoming>>,
    ) -> Response<AnswerBody> {
        client.begin();
        let grpc = is_grpc(request.headers());
        let version = request.version();
        let last = ends_connection(&request);
        let walk = Walk { worker: &self, flight: None, grpc };
        // Pinned where it is made, here and below: it is large, and would be moved at every step into the next.
        let walk = pin!(walk.run(Arc::clone(&client), request));
        let mut response = match AssertUnwindSafe(walk).catch_unwind().await {
            Ok(response) => response,
            Err(_) => self.after_panic(client, grpc),
        };
        let last = last || (version <= Version::HTTP_11 && self.ending.drain.is_cancelled());
        if last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn after_panic(&self, client: Arc<Client>, grpc: bool) -> Response<AnswerBody> {
        self.metrics.panics.fetch_add(1, Ordering::Relaxed);
        tracing::error!("a request ended in a panic; this is a bug");
        let refusal = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "Bug", BUG);
        own(refusal.into_response(grpc), Flight::begin(client, Arc::clone(&self.unrouted)))
    }

    /// Uses the current route table, turned over for lookups; turned over again when it has been replaced.
    pub(crate) fn with_desks<T>(&self, look: impl FnOnce(&Desks) -> T) -> T {
        let table = self.routes.load();
        let desks = self.desks.load();
        if Arc::ptr_eq(desks.index.table(), &table) {
            return look(&desks);
        }
        let fresh = Arc::new(Desks::new(Arc::clone(&table), &self.metrics, self.number, &self.board));
        self.desks.store(Arc::clone(&fresh));
        self.pool.keep_to(table.addresses());
        look(&fresh)
    }
}

/// After an upgrade that did not happen, and after a framing error, nothing more is read from the connection.
fn ends_connection(request: &Request<Incoming>) -> bool {
    request.version() <= Version::HTTP_11
        && (request.headers().contains_key(header::UPGRADE) || request.method() == Method::CONNECT)
}

/// What is said of an error of ours.
pub(crate) const BUG: &str = "an error of kserve-local's own; please report it with the daemon's log";

/// Makes an answer of our own.
pub(crate) fn own(response: Response<Bytes>, mut flight: Flight) -> Response<AnswerBody> {
    flight.answered(response.status());
    flight.sent(response.body().len() as u64);
    response.map(|body| AnswerBody::Own(Some(body), Some(flight)))
}

/// Seconds after which a client whose request met a full queue may try again.
pub(crate) const RETRY_SOON: Duration = Duration::from_secs(1);
