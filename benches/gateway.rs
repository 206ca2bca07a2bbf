//! What `benches/proxy` starts: our data path with a fixed route table, and a backend that answers from memory.
//!
//! `gateway proxy LISTEN WORKERS HTTP_BACKEND GRPC_BACKEND` serves `default/iris`, exactly as the daemon does: the same
//! [`Gateway`], limits and table, without engine and driver behind it; and `default/upload`, whose only backend is the
//! second one.
//! `gateway backend LISTEN` answers HTTP/1.1 and h2c: gRPC with a fixed message and trailers, `/bytes/N` with N bytes,
//! anything else with 200 bytes of JSON, once the request's body has been read.

#![expect(
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a program for measuring, not a part of the daemon"
)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use kserve_local::api::{ComponentKind, ServiceKey};
use kserve_local::gateway::{Gateway, GatewayConfig};
use kserve_local::plan::routes::{Backend, ComponentRoute, RouteState, RouteTable, ServiceRoute};
use kserve_local::tasks::Tasks;
use kserve_local::traffic::TrafficBoard;
use kserve_local::workload::{Extras, UpstreamProtocol};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

// As the daemon has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let done = match words.as_slice() {
        ["proxy", listen, workers, http, grpc] => runtime.block_on(proxy(listen, workers, http, grpc)),
        ["backend", listen] => runtime.block_on(backend(listen)),
        // `cargo bench` and `cargo test` start every bench with arguments of their own.
        _ => {
            eprintln!("use benches/proxy");
            return ExitCode::SUCCESS;
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

async fn proxy(listen: &str, workers: &str, http: &str, grpc: &str) -> Outcome {
    let routes = Arc::new(ArcSwap::from_pointee(table(http.parse()?, grpc.parse()?)));
    let config = GatewayConfig { workers: workers.parse()?, ..GatewayConfig::default() };
    let gateway = Arc::new(Gateway::new(routes, TrafficBoard::default(), config));
    let tasks = Tasks::new();
    let end = tasks.token();
    // It ends in order, so that a build that counts its own steps can write down what it counted.
    let mut asked = signal(SignalKind::terminate())?;
    tasks.spawn_droppable("signals", {
        let end = end.clone();
        async move {
            asked.recv().await;
            end.cancel();
        }
    });
    Ok(gateway.serve(TcpListener::bind(listen).await?, &tasks, end).await?)
}

fn table(http: SocketAddr, grpc: SocketAddr) -> RouteTable {
    let services = [service("iris", http, grpc), service("upload", grpc, grpc)];
    RouteTable {
        domains: vec!["example.com".into(), "localhost".into()],
        services: services.into_iter().map(|one| (one.key.clone(), Arc::new(one))).collect(),
        ..RouteTable::default()
    }
}

fn service(name: &str, http: SocketAddr, grpc: SocketAddr) -> ServiceRoute {
    let backend = Backend {
        replica: format!("{name}-predictor-00001-0.default").into(),
        address: http,
        protocol: UpstreamProtocol::Http1,
        grpc_address: Some(grpc),
        concurrency: None,
        weight: 1,
        revision: format!("{name}-predictor-00001").into(),
    };
    let state = RouteState::Open(vec![backend]);
    let predictor = ComponentRoute {
        service_name: format!("{name}-predictor"),
        state,
        tags: std::collections::BTreeMap::new(),
        closed: BTreeMap::new(),
        timeout: None,
        extras: Extras::default(),
    };
    let components = BTreeMap::from([(ComponentKind::Predictor, predictor)]);
    ServiceRoute::new(ServiceKey::new("default", name), components, vec![name.into()])
}

async fn backend(listen: &str) -> Outcome {
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(async move {
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http2().max_concurrent_streams(1024);
            // A client that leaves is no news.
            let _ = builder.serve_connection(TokioIo::new(socket), service_fn(answer)).await;
        });
    }
}

type Pieces = futures::stream::Iter<std::array::IntoIter<Result<Frame<Bytes>, Infallible>, 2>>;
type Body = Either<Full<Bytes>, StreamBody<Pieces>>;

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let grpc =
        request.headers().get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let len = request.uri().path().strip_prefix("/bytes/").and_then(|len| len.parse().ok()).unwrap_or(200);
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    if grpc {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let message = Bytes::from_static(b"\0\0\0\0\x0c\x0a\x04iris\x12\x01\x31\x1a\x01\x31");
        let frames = [Ok(Frame::data(message)), Ok(Frame::trailers(trailers))];
        let mut response = Response::new(Either::Right(StreamBody::new(futures::stream::iter(frames))));
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        return Ok(response);
    }
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(vec![b'x'; len]))));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    Ok(response)
}
