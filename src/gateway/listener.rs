//! Accepts connections, hands them to the workers, tells HTTP/1 from HTTP/2, and ends them in order.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use futures::FutureExt;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::plan::routes::RouteTable;
use crate::tasks::Tasks;
use crate::traffic::TrafficBoard;
use crate::traffic::turn::Turn;

use super::access_log::{AccessLog, AccessLogFormat, LogFile};
use super::balance::Balancer;
use super::batcher::Batcher;
use super::breaker::Policy;
use super::config::GatewayConfig;
use super::crew::{Arrival, Crew, Ending};
use super::desk::Desks;
use super::executor::StreamExecutor;
use super::flight::Client;
use super::graph_run::Propagate;
use super::guard::Guard;
use super::inside::Call;
use super::metrics::Metrics;
use super::outside::Outside;
use super::payload_log::{LogPlaces, PayloadLog};
use super::quiet::Quietly;
use super::roll::Roll;
use super::upstream::Pool;
use super::whole::Room;
use super::worker::Worker;

/// Copies of requests under way at once.
const MOST_MIRRORS: usize = 64;

/// The data path. Built once, then served on one or more listeners.
#[derive(Debug)]
pub struct Gateway {
    routes: Arc<ArcSwap<RouteTable>>,
    board: TrafficBoard,
    config: GatewayConfig,
    metrics: Arc<Metrics>,
    balancer: Arc<Balancer>,
    backend_refused: Arc<Notify>,
    whole: Arc<Room>,
    propagate: Arc<Propagate>,
    inside: mpsc::Sender<Call>,
    calls: Mutex<Option<mpsc::Receiver<Call>>>,
    batcher: Arc<Batcher>,
    mirrors: Arc<Semaphore>,
    places: LogPlaces,
    roll: Arc<Roll>,
    /// Places for connections of the listener that is served; none before.
    room: Mutex<Option<Arc<Semaphore>>>,
}

/// Calls from inside replicas on their way to the workers.
const CALLS: usize = 64;

impl Gateway {
    /// Makes a gateway that forwards as `routes` says at each moment, and marks what it forwards on `board`.
    pub fn new(routes: Arc<ArcSwap<RouteTable>>, board: TrafficBoard, config: GatewayConfig) -> Self {
        let policy = Policy {
            threshold: config.failures_to_eject,
            pause: config.eject_pause,
            max_pause: config.max_eject_pause,
        };
        let metrics: Arc<Metrics> = Arc::default();
        let whole = Arc::new(Room::new(config.max_whole_body, config.max_whole_bodies));
        let propagate = Arc::new(Propagate::new(&config.propagate_headers));
        let (inside, calls) = mpsc::channel(CALLS);
        let roll = Arc::new(Roll::new(config.workers.max(1)));
        Self {
            inside,
            calls: Mutex::new(Some(calls)),
            routes,
            board,
            config,
            balancer: Arc::new(Balancer::new(policy, Arc::clone(&metrics))),
            metrics,
            backend_refused: Arc::default(),
            whole,
            propagate,
            batcher: Arc::default(),
            mirrors: Arc::new(Semaphore::new(MOST_MIRRORS)),
            places: LogPlaces::default(),
            roll,
            room: Mutex::default(),
        }
    }

    /// Says where payload logs may go.
    #[must_use]
    pub fn logging_to(self, places: LogPlaces) -> Self {
        Self { places, ..self }
    }

    /// Returns the counters.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Returns a bell that rings when a backend did not accept a connection, so that someone looks at once. It says
    /// neither which nor how many.
    pub fn backend_refused(&self) -> Arc<Notify> {
        Arc::clone(&self.backend_refused)
    }

    /// Returns where connections go that were made inside replicas; the first listener that is served takes them.
    pub fn inside(&self) -> mpsc::Sender<Call> {
        self.inside.clone()
    }

    /// Whether nobody new is served for no other reason than that every place is taken: returns false at once while
    /// there is room, and true when every worker has said that it is there. One that is stuck says nothing; the caller
    /// gives up.
    pub async fn is_merely_full(&self) -> bool {
        let room = self.room.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if room.is_none_or(|room| room.available_permits() > 0) {
            return false;
        }
        self.roll.call().await;
        true
    }

    /// Serves a listener until `cancel`; then accepts nothing more, lets requests in flight finish up to the drain
    /// deadline, and cuts off the rest.
    ///
    /// # Errors
    ///
    /// When the listener cannot be used or the workers cannot be started; errors of single connections end those
    /// connections only.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tasks: &Tasks,
        cancel: CancellationToken,
    ) -> io::Result<()> {
        let ending = Ending { drain: cancel.child_token(), cut: CancellationToken::new() };
        // Whatever becomes of this future, the threads end.
        let cut = ending.cut.clone().drop_guard();
        let access_log = AccessLog::start(self.config.access_log, self.access_log_file()?, &self.metrics)?;
        let own = listener.local_addr()?;
        let payload_log = PayloadLog::start(
            self.places.clone(),
            Arc::clone(&self.routes),
            own,
            self.config.max_payloads,
            tasks,
            Arc::clone(&self.metrics.payloads),
        );
        let worker = |number| self.worker(number, own, tasks, &ending, access_log.clone(), payload_log.clone());
        let workers = (0..self.config.workers.max(1)).map(worker).collect();
        let mut crew = Crew::start(workers)?;
        debug!(workers = self.config.workers, "data path open");
        let room = Arc::new(Semaphore::new(self.config.max_connections));
        *self.room.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&room));
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner).take();
        let accepting = async {
            accept(&listener, calls.as_mut(), &room, &mut crew, &cancel).await;
            accept_rest(&listener, &room, &mut crew).await;
        };
        tokio::select! {
            () = accepting => {}
            // A worker that hangs takes nobody: what was meant for it is lost, and the end goes on.
            () = drained(&cancel, FIRST_WORDS) => {}
        }
        drop(listener);
        ending.drain.cancel();
        let all = u32::try_from(self.config.max_connections).unwrap_or(u32::MAX);
        if tokio::time::timeout(self.config.drain_deadline, room.acquire_many(all)).await.is_err() {
            let remaining = self.config.max_connections - room.available_permits();
            warn!(remaining, "requests did not finish in time");
        }
        drop(cut);
        crew.end().await;
        Ok(())
    }

    fn access_log_file(&self) -> io::Result<Box<dyn io::Write + Send>> {
        Ok(match &self.config.access_log_file {
            Some(path) if self.config.access_log != AccessLogFormat::None => Box::new(LogFile::open(path)?),
            _ => Box::new(io::stdout()),
        })
    }

    fn worker(
        &self,
        number: usize,
        own: SocketAddr,
        tasks: &Tasks,
        ending: &Ending,
        access_log: Option<AccessLog>,
        payload_log: PayloadLog,
    ) -> Arc<Worker> {
        let metrics = Arc::clone(&self.metrics);
        let table = self.routes.load_full();
        let pool = Pool::new(self.config.clone(), tasks.clone(), Arc::clone(&metrics));
        pool.keep_to(table.addresses());
        Arc::new(Worker {
            number,
            desks: ArcSwap::from_pointee(Desks::new(table, &metrics, number, &self.board)),
            routes: Arc::clone(&self.routes),
            board: self.board.clone(),
            config: self.config.clone(),
            unrouted: metrics.unrouted(number),
            balancer: Arc::clone(&self.balancer),
            pool,
            metrics,
            tasks: tasks.clone(),
            backend_refused: Arc::clone(&self.backend_refused),
            access_log,
            ending: ending.of_one_worker(),
            whole: Arc::clone(&self.whole),
            propagate: Arc::clone(&self.propagate),
            outside: Outside::new(own),
            batcher: Arc::clone(&self.batcher),
            payload_log,
            mirrors: Arc::clone(&self.mirrors),
            roll: Arc::clone(&self.roll),
        })
    }
}

/// Accepts connections and hands them out until `cancel`: an accept that fails is tried again.
async fn accept(
    listener: &TcpListener,
    mut calls: Option<&mut mpsc::Receiver<Call>>,
    room: &Arc<Semaphore>,
    crew: &mut Crew,
    cancel: &CancellationToken,
) {
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(room).acquire_owned() => permit,
            () = cancel.cancelled() => return,
        };
        let Ok(permit) = permit else { return };
        let accepted = tokio::select! {
            // What is not accepted waits in the backlog.
            accepted = listener.accept() => accepted,
            () = cancel.cancelled() => return,
            // What is not taken stays in the queue.
            Some(Call { socket, peer, service }) = next(&mut calls) => {
                crew.take((socket, peer), Some(service), permit).await;
                continue;
            }
        };
        match hand_over(accepted, permit, crew).await {
            Ok(()) => {}
            Err(error) => {
                if !is_about_one_connection(&error) {
                    warn!(%error, "could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Accepts what the kernel has accepted for us already: closing the listener would reset it.
async fn accept_rest(listener: &TcpListener, room: &Arc<Semaphore>, crew: &mut Crew) {
    for _ in 0..BACKLOG {
        let Ok(permit) = Arc::clone(room).try_acquire_owned() else { return };
        let Some(accepted) = listener.accept().now_or_never() else { return };
        // Nothing is tried again any more.
        let _ = hand_over(accepted, permit, crew).await;
    }
}

/// Gives a connection to a worker. It is taken out of this runtime for that: another one will serve it.
async fn hand_over(
    accepted: io::Result<(TcpStream, SocketAddr)>,
    permit: OwnedSemaphorePermit,
    crew: &mut Crew,
) -> io::Result<()> {
    let (socket, peer) = accepted?;
    crew.take((socket.into_std()?, peer), None, permit).await;
    Ok(())
}

/// Most connections that are accepted after the end was asked for.
const BACKLOG: usize = 1024;

/// The next call from inside a replica; none for ever when another listener takes them.
async fn next(calls: &mut Option<&mut mpsc::Receiver<Call>>) -> Option<Call> {
    match calls {
        Some(calls) => calls.recv().await,
        None => std::future::pending().await,
    }
}

/// The life of one worker: serves what arrives until everything is cut.
pub(crate) async fn work(worker: &Arc<Worker>, mut arrivals: mpsc::Receiver<Arrival>) {
    let serve_all = async {
        while let Some(arrival) = arrivals.recv().await {
            begin(worker, arrival);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        // Losing an arrival closes it, and everything is being closed.
        () = serve_all => {}
        () = worker.ending.cut.cancelled() => {}
        // Neither holds anything over its waits.
        () = sweep(worker) => {}
        () = worker.roll.answer(worker.number) => {}
    }
}

fn begin(worker: &Arc<Worker>, arrival: Arrival) {
    let Arrival { socket, peer, place, caller } = arrival;
    // A socket that cannot be registered is closed.
    let Ok(socket) = TcpStream::from_std(socket) else { return };
    let client = Client::new(peer, caller, place, Arc::clone(&worker.metrics));
    // When everything is cut it is dropped with the runtime, which closes it, and with it everything done for it.
    worker.tasks.spawn_short(serve(Arc::clone(worker), socket, client));
}

/// Closes idle connections to backends and forgets what is gone, at every new route table and now and then. Never ends.
async fn sweep(worker: &Worker) {
    let mut tick = tokio::time::interval(worker.config.upstream_idle_timeout.max(Duration::from_secs(1)));
    let mut tables = worker.board.tables();
    loop {
        tokio::select! {
            _ = tick.tick() => worker.pool.sweep(),
            // The board outlives its workers. Turned over here, not by the next request.
            Ok(()) = tables.changed() => {
                worker.with_desks(|_| ());
                continue;
            }
        }
        let table = worker.with_desks(|desks| Arc::clone(desks.index.table()));
        if worker.number == 0 {
            worker.balancer.sweep(|key| table.services.contains_key(&key.service), &table);
            worker.metrics.retain(|key| table.services.contains_key(key) || table.graphs.contains_key(key));
        }
    }
}

/// After running out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn serve(worker: Arc<Worker>, mut socket: TcpStream, client: Arc<Client>) {
    let drain = worker.ending.drain.clone();
    // Small answers must not wait for more; if that cannot be set, they do.
    let _ = socket.set_nodelay(true);
    let limit = worker.config.idle_timeout;
    let first = tokio::select! {
        // Losing the first bytes closes a connection on which no request has been understood.
        first = tokio::time::timeout(limit, first_bytes(&mut socket, worker.config.header_timeout)) => first,
        () = drained(&drain, FIRST_WORDS) => return,
    };
    let Ok(Ok((first, protocol))) = first else { return };
    // All boxed: a connection at rest keeps none of it.
    match protocol {
        Protocol::Http1 => {
            let mut first = first;
            loop {
                let connection = serve_http1(&worker, socket, std::mem::take(&mut first), &client, &drain);
                tell(&client, Box::pin(connection).await);
                let Some(rested) = client.wake() else { return };
                socket = rested;
                tokio::select! {
                    // Losing the wait for readiness loses nothing, and we are closing.
                    more = says_more(&worker, &socket) => if !more { return },
                    () = drained(&drain, LAST_REQUEST) => return,
                }
            }
        }
        Protocol::Http2 => {
            tell(&client, Box::pin(serve_http2(worker, socket, first, Arc::clone(&client), drain)).await);
        }
    }
}

/// Waits until we shut down, and then as long again as a client may need whose words are under way.
async fn drained(drain: &CancellationToken, grace: Duration) {
    drain.cancelled().await;
    tokio::time::sleep(grace).await;
}

/// How long a connection that was accepted and has said nothing yet is waited for when we shut down. Closing it at once
/// would reset it under the hands of a client that is just sending its first request.
const FIRST_WORDS: Duration = Duration::from_secs(1);
/// How long a kept connection without a request is left open when we shut down. A request that was sent before its client
/// could know is answered, and its answer says that it was the last one (RFC 9112, section 9.6).
const LAST_REQUEST: Duration = Duration::from_millis(100);

fn tell(client: &Client, served: hyper::Result<()>) {
    if let Err(error) = served {
        debug!(peer = %client.peer, %error, "client connection ended");
    }
}

#[derive(Clone, Copy)]
enum Protocol {
    Http1,
    Http2,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads until it is clear which protocol is spoken. The first byte may take its time, the others not.
async fn first_bytes(socket: &mut TcpStream, limit: Duration) -> io::Result<(BytesMut, Protocol)> {
    // A connection that says nothing gets no memory.
    socket.readable().await?;
    let mut first = BytesMut::with_capacity(1024);
    if socket.read_buf(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let preface = async {
        loop {
            let len = first.len().min(PREFACE.len());
            if first[..len] != PREFACE[..len] {
                return Ok((first, Protocol::Http1));
            }
            if len == PREFACE.len() {
                return Ok((first, Protocol::Http2));
            }
            if socket.read_buf(&mut first).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    };
    tokio::time::timeout(limit, preface).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Waits, without a buffer, until the client says something. Returns whether it did in time.
async fn says_more(worker: &Worker, socket: &TcpStream) -> bool {
    let left = worker.config.idle_timeout.saturating_sub(worker.config.rest_after);
    matches!(tokio::time::timeout(left, socket.readable()).await, Ok(Ok(())))
}

async fn serve_http1(
    worker: &Arc<Worker>,
    socket: TcpStream,
    first: BytesMut,
    client: &Arc<Client>,
    drain: &CancellationToken,
) -> hyper::Result<()> {
    let guard = Guard::http1(socket, first, Arc::clone(client), &worker.config);
    let most_lines = worker.config.max_header_count;
    let service = service_fn(move |request: Request<Incoming>| {
        let (worker, client) = (Arc::clone(worker), Arc::clone(client));
        // Boxed: it is large, and hyper moves it.
        Box::pin(async move { Ok::<_, std::convert::Infallible>(pin!(worker.answer(client, Box::new(request))).await) })
    });
    // The guard keeps the time; hyper's own timer would also end connections that are merely idle.
    let mut http = http1::Builder::new();
    http.header_read_timeout(None);
    // So does it count the lines; to be told any number costs hyper two lists of that length for each request.
    if most_lines > HYPERS_LINES {
        http.max_headers(most_lines);
    }
    let connection = http.serve_connection(TokioIo::new(guard), service).with_upgrades();
    let connection = pin!(connection);
    let told = drained(drain, LAST_REQUEST);
    let quietly = pin!(Quietly::new(connection));
    until_drained(quietly, drain, told, |mut quietly| quietly.inner().graceful_shutdown()).await
}

/// Header lines of a request that hyper takes by itself.
const HYPERS_LINES: usize = 100;

async fn serve_http2(
    worker: Arc<Worker>,
    socket: TcpStream,
    first: BytesMut,
    client: Arc<Client>,
    drain: CancellationToken,
) -> hyper::Result<()> {
    let guard = Guard::http2(socket, first, Arc::clone(&client), &worker.config);
    let mut builder =
        http2::Builder::new(StreamExecutor { tasks: worker.tasks.clone(), stall: worker.config.stall_timeout });
    builder
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(worker.config.max_streams)
        .max_header_list_size(u32::try_from(worker.config.max_header_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(worker.config.header_timeout);
    let service = service_fn(move |request: Request<Incoming>| {
        let (worker, client) = (Arc::clone(&worker), Arc::clone(&client));
        // Boxed: it is moved into a task of its own, through several hands.
        Box::pin(async move { Ok::<_, std::convert::Infallible>(pin!(worker.answer(client, Box::new(request))).await) })
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(guard), service));
    // HTTP/2 has words of its own for which requests still count.
    until_drained(connection.as_mut(), &drain, drain.cancelled(), |connection| connection.graceful_shutdown()).await
}

/// Runs a connection to its end, and asks it to come to one when we shut down: once `told` is done, which waits for `drain`.
async fn until_drained<C: Future>(
    mut connection: Pin<&mut C>,
    drain: &CancellationToken,
    told: impl Future<Output = ()>,
    wind_up: impl FnOnce(Pin<&mut C>),
) -> C::Output {
    let mut told = pin!(told);
    let (mut heard, mut wind_up) = (false, Some(wind_up));
    poll_fn(move |cx| {
        let _turn = Turn::begin();
        let ended = connection.as_mut().poll(cx);
        if ended.is_ready() || wind_up.is_none() {
            return ended;
        }
        // Polled once, so that this task is woken; from then on looking is cheaper, at every step of every request.
        let now = (!heard || drain.is_cancelled()) && told.as_mut().poll(cx).is_ready();
        heard = true;
        match wind_up.take_if(|_| now) {
            None => Poll::Pending,
            Some(wind_up) => {
                wind_up(connection.as_mut());
                connection.as_mut().poll(cx)
            }
        }
    })
    .await
}

/// What a client may send ahead on one stream, and on all together.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 2 << 20;
/// What of an answer waits for a slow client, per stream.
const SEND_BUFFER: usize = 256 << 10;
/// Streams opened and reset again before we have looked at them.
const MAX_RESETS: usize = 32;
/// Streams reset for the client's own errors.
const MAX_ERROR_RESETS: usize = 256;
const PING_INTERVAL: Duration = Duration::from_secs(30);
