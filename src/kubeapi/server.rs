//! The listener: connections, limits, who may ask, and which path is whose.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::future::BoxFuture;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::feed::{Board, Feed};
use super::managers::Managers;
use super::resource::Resource;
use super::{access, discovery, extras, objects, room};
use crate::engine::ContainerEngine;
use crate::home::Home;
use crate::plan::pods::PodView;
use crate::reconcile::questions::Questions;
use crate::source::Loader;
use crate::store::Store;
use crate::tasks::Tasks;
use crate::telemetry::EventLog;
use crate::telemetry::exposition::Exposition;

/// Most connections at once.
const CONNECTION_LIMIT: usize = 512;
/// Longest time for a request's headers to arrive.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause after the listener could not accept (no file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the API shows and writes to; the daemon hands it over.
#[derive(Clone)]
pub struct ApiState {
    /// Desired objects and their statuses.
    pub store: Store,
    /// What happened.
    pub events: EventLog,
    /// The one way to write.
    pub loader: Loader,
    /// What runs, as last published by the driver.
    pub pods: watch::Receiver<Arc<Vec<Arc<PodView>>>>,
    /// Asks the driver who holds what, and what became of a service.
    pub questions: Questions,
    /// For logs.
    pub engine: Arc<dyn ContainerEngine>,
    /// Where the API keeps who wrote which field.
    pub home: Home,
    /// The bearer token.
    pub token: Arc<str>,
    /// For clients that speak TLS, on the same port; without it they are turned away.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Renders the metrics.
    pub metrics: Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>,
    /// Says whether the daemon serves, or why not.
    pub ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// The current time, for ages.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Where the gateway listens.
    pub gateway_address: SocketAddr,
    /// Version of kserve-local.
    pub version: &'static str,
}

/// The state, and what the API itself remembers.
pub struct Api {
    /// What the daemon handed over.
    pub(super) state: ApiState,
    /// When the API began.
    pub(super) born: Timestamp,
    /// Versions of what follows, in the order of [`Resource::VIEWS`].
    boards: Vec<Board>,
    /// Who wrote which field.
    pub(super) managers: Managers,
    /// Held while a write checks its preconditions and writes.
    pub(super) writes: tokio::sync::Mutex<()>,
    /// Cancelled when the API ends; watches and logs end with it.
    pub(super) stop: CancellationToken,
    /// What outlives a request: forwarded ports.
    pub(super) tasks: Tasks,
}

impl Api {
    /// Makes the API of a state; it ends with `stop`.
    pub fn new(state: ApiState, tasks: Tasks, stop: CancellationToken) -> Arc<Self> {
        let born = (state.clock)();
        // Versions of boards begin at the time of start in milliseconds, so that they do not go back after a restart.
        let first = u64::try_from(born.as_millisecond()).unwrap_or_default();
        let boards = Resource::VIEWS.iter().map(|_| Board::new(first)).collect();
        let managers = Managers::open(state.home.managers());
        Arc::new(Self { state, born, boards, managers, writes: tokio::sync::Mutex::default(), stop, tasks })
    }

    /// Returns the board of a view.
    pub(super) fn board(&self, resource: Resource) -> &Board {
        let place = Resource::VIEWS.iter().position(|view| *view == resource).unwrap_or_default();
        &self.boards[place]
    }

    /// Returns the feed of a resource.
    pub(super) fn feed(self: &Arc<Self>, resource: Resource) -> Feed {
        Feed::new(Arc::clone(self), resource)
    }
}

/// Address of this end of the connection.
#[derive(Clone, Copy)]
struct Local(SocketAddr);

/// Serves the API until `cancel`; open watches and log streams end then, other requests are finished.
///
/// # Errors
/// The listener has no address.
pub async fn serve(state: ApiState, listener: TcpListener, tasks: &Tasks, cancel: CancellationToken) -> io::Result<()> {
    listener.local_addr()?;
    let tls = state.tls.clone().map(TlsAcceptor::from);
    let router = router(Api::new(state, tasks.clone(), cancel.clone()));
    let places = Arc::new(Semaphore::new(CONNECTION_LIMIT));
    loop {
        let accepted = tokio::select! {
            // Losing an accept loses nothing: the connection stays in the listener's backlog.
            accepted = listener.accept() => accepted,
            () = cancel.cancelled() => return Ok(()),
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "could not accept an API connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            warn!(limit = CONNECTION_LIMIT, "too many API connections; one was closed");
            continue;
        };
        let (router, tls, cancel) = (router.clone(), tls.clone(), cancel.clone());
        tasks.spawn("api-connection", async move {
            greet(stream, router, tls, cancel).await;
            drop(place);
        });
    }
}

/// Finds out whether a client speaks TLS, and serves it to its end.
async fn greet(stream: TcpStream, router: Router, tls: Option<TlsAcceptor>, cancel: CancellationToken) {
    let Ok(local) = stream.local_addr() else { return };
    let router = router.layer(Extension(Local(local)));
    // A TLS record that begins a conversation has this first byte; no HTTP method does.
    let handshake = 0x16;
    let mut first = [0];
    let begun = tokio::select! {
        // Nothing is lost: a peek takes no bytes.
        begun = tokio::time::timeout(HEADER_TIMEOUT, stream.peek(&mut first)) => begun,
        () = cancel.cancelled() => return,
    };
    match (begun, tls) {
        (Ok(Ok(1)), Some(tls)) if first[0] == handshake => {
            match tokio::time::timeout(HEADER_TIMEOUT, tls.accept(stream)).await {
                Ok(Ok(stream)) => connection(stream, router, cancel).await,
                Ok(Err(error)) => debug!(%error, "a TLS handshake failed"),
                Err(_) => debug!("a TLS handshake took too long"),
            }
        }
        (Ok(Ok(1)), _) => connection(stream, router, cancel).await,
        _ => debug!("an API connection said nothing"),
    }
}

/// Serves one connection to its end.
async fn connection<S>(stream: S, router: Router, cancel: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Some(HEADER_TIMEOUT));
    let exchange = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(exchange);
    let ended = tokio::select! {
        ended = exchange.as_mut() => ended,
        // The exchange is not lost: it is told to finish, and awaited below.
        () = cancel.cancelled() => {
            exchange.as_mut().graceful_shutdown();
            exchange.await
        }
    };
    if let Err(error) = ended {
        debug!(error, "an API connection ended early");
    }
}

/// Returns the routes; public so that tests can call them without a socket.
pub fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/version", get(version))
        .route("/apis/kserve-local/v1/problems", get(extras::problems))
        .route("/apis/kserve-local/v1/addresses", get(extras::addresses))
        .route("/apis/kserve-local/v1/ps", get(room::ps))
        .route("/apis/kserve-local/v1/namespaces/{namespace}/services/{name}/explanation", get(room::explanation))
        .route("/apis/kserve-local/v1/namespaces/{namespace}/services/{name}/revisions", get(room::revisions))
        .fallback(objects::answer)
        .layer(middleware::from_fn_with_state(Arc::clone(&api), guard))
        .with_state(api)
}

/// Lets a request in, or not.
async fn guard(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let local = request.extensions().get::<Local>().map_or(api.state.gateway_address, |local| local.0);
    if let Err(failure) = access::check_site(request.headers(), request.uri(), local) {
        return failure.into_response();
    }
    if !access::is_open(request.uri().path())
        && let Err(failure) = access::check_token(request.headers(), &api.state.token)
    {
        let mut response = failure.into_response();
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return response;
    }
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    response
}

async fn ready(State(api): State<Arc<Api>>) -> Response {
    match (api.state.ready)() {
        Ok(()) => "ok".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response(),
    }
}

async fn metrics(State(api): State<Arc<Api>>, asked: HeaderMap) -> Response {
    let form = Exposition::accepted(asked.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok()));
    let text = form.write((api.state.metrics)().await);
    ([(header::CONTENT_TYPE, form.content_type()), (header::VARY, "Accept")], Body::from(text)).into_response()
}

async fn version(State(api): State<Arc<Api>>) -> Response {
    Json(discovery::version(api.state.version)).into_response()
}
