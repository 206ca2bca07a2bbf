//! Accepts connections, hands them to the workers, and ends in order.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::FutureExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::plan::routes::RouteTable;
use crate::tasks::Tasks;
use crate::traffic::TrafficBoard;

use super::access_log::{AccessLog, AccessLogFormat, LogFile};
use super::balance::Balancer;
use super::batcher::Batcher;
use super::breaker::Policy;
use super::config::GatewayConfig;
use super::connection::{self, FIRST_WORDS, drained};
use super::crew::{Arrival, Crew, Ending};
use super::desk::Desks;
use super::flight::Client;
use super::graph_run::Propagate;
use super::inside::Call;
use super::metrics::Metrics;
use super::outside::Outside;
use super::payload_log::{LogPlaces, PayloadLog};
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
    worker.tasks.spawn_short(connection::serve(Arc::clone(worker), socket, client));
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
