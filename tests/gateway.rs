//! The data path over real sockets: what goes in, what comes out, and how it ends.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a helper fails")]

#[path = "gateway/abuse.rs"]
mod abuse;
#[path = "gateway/backends.rs"]
mod backends;
#[path = "gateway/endings.rs"]
mod endings;
#[path = "gateway/extras.rs"]
mod extras;
#[path = "gateway/graphs.rs"]
mod graphs;
#[path = "gateway/hold.rs"]
mod hold;
#[path = "gateway/interop.rs"]
mod interop;
#[path = "gateway/protocols.rs"]
mod protocols;
#[path = "support/raw.rs"]
mod raw;
#[path = "gateway/rest.rs"]
mod rest;
#[path = "support/upstream.rs"]
mod upstream;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use kserve_local::api::{ComponentKind, ServiceKey};
use kserve_local::gateway::{Gateway, GatewayConfig};
use kserve_local::plan::routes::{Backend, ComponentRoute, RouteState, RouteTable, ServiceRoute};
use kserve_local::tasks::Tasks;
use kserve_local::traffic::TrafficBoard;
use kserve_local::workload::{Extras, UpstreamProtocol};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use raw::Raw;
use upstream::{Upstream, mirror};

/// A gateway on a port of its own.
struct House {
    address: SocketAddr,
    gateway: Arc<Gateway>,
    routes: Arc<ArcSwap<RouteTable>>,
    board: TrafficBoard,
    cancel: CancellationToken,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
}

const REPLICA: &str = "iris-predictor-00001-0.default";

fn backend(address: SocketAddr) -> Backend {
    Backend {
        replica: REPLICA.into(),
        address,
        protocol: UpstreamProtocol::Http1,
        grpc_address: None,
        concurrency: None,
        weight: 100,
        revision: "iris-predictor-00001".into(),
    }
}

/// A service of the namespace `default` whose predictor is in `state` and has one model, of the same name.
fn service(name: &str, state: RouteState, extras: Extras) -> (ServiceKey, Arc<ServiceRoute>) {
    let key = ServiceKey::new("default", name);
    let component = ComponentRoute {
        service_name: format!("{name}-predictor"),
        state,
        tags: BTreeMap::new(),
        closed: BTreeMap::new(),
        timeout: None,
        extras: Extras { predict_path: Some(format!("/v1/models/{name}:predict").into()), ..extras },
    };
    let components = BTreeMap::from([(ComponentKind::Predictor, component)]);
    (key.clone(), Arc::new(ServiceRoute::new(key, components, vec![name.into()])))
}

/// One service `default/iris` whose predictor is in `state`.
fn iris(state: RouteState, timeout: Option<Duration>) -> RouteTable {
    let (service_name, extras) = ("iris-predictor".into(), Extras::default());
    let (tags, closed) = (BTreeMap::new(), BTreeMap::new());
    let component = ComponentRoute { service_name, state, tags, closed, timeout, extras };
    let key = ServiceKey::new("default", "iris");
    let components = BTreeMap::from([(ComponentKind::Predictor, component)]);
    let service = ServiceRoute::new(key.clone(), components, vec!["iris".into()]);
    RouteTable {
        domains: vec!["example.com".into(), "localhost".into()],
        services: BTreeMap::from([(key, Arc::new(service))]),
        ..RouteTable::default()
    }
}

fn open(backends: Vec<Backend>) -> RouteTable {
    iris(RouteState::Open(backends), None)
}

impl House {
    async fn open(tasks: &Tasks, table: RouteTable, config: GatewayConfig) -> Self {
        let routes = Arc::new(ArcSwap::from_pointee(table));
        let board = TrafficBoard::default();
        let gateway = Arc::new(Gateway::new(Arc::clone(&routes), board.clone(), config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cancel = CancellationToken::new();
        let (group, token, served) = (tasks.clone(), cancel.clone(), Arc::clone(&gateway));
        let served = tasks.spawn("gateway", async move { served.serve(listener, &group, token).await });
        Self { address, gateway, routes, board, cancel, served }
    }

    /// In front of one HTTP/1.1 backend.
    async fn before(tasks: &Tasks, upstream: &Upstream) -> Self {
        Self::open(tasks, open(vec![backend(upstream.address)]), GatewayConfig::default()).await
    }

    async fn client(&self) -> Raw {
        Raw::connect(self.address).await
    }

    async fn http2(&self) -> hyper::client::conn::http2::SendRequest<upstream::AnswerBody> {
        let socket = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(socket);
        let executor = hyper_util::rt::TokioExecutor::new();
        let (sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        Tasks::new().spawn("http2-client", connection);
        sender
    }

    /// Waits until no request is in flight.
    async fn is_idle(&self) {
        let idle = async {
            while self.board.watch(REPLICA).in_flight > 0 {
                self.board.became_idle().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), idle).await.expect("a lease was not given back");
    }
}

#[tokio::test]
async fn a_header_names_the_model_and_the_body_is_not_looked_into() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = house.client().await;
    let mut ask = async |model: &str| {
        let head =
            format!("POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Gateway-Model-Name: {model}\r\n");
        client.ask(format!("{head}Content-Length: 4\r\n\r\nnone")).await
    };
    let answer = ask("iris").await;
    assert_eq!((answer.status, &answer.json()["body"]), (200, &json!("none")));
    let missed = ask("rose").await;
    assert_eq!((missed.status, &missed.json()["reason"]), (404, &json!("UnknownModel")));
}

#[tokio::test]
async fn a_request_reaches_its_service_by_every_kind_of_address() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::before(&tasks, &upstream).await;
    let table = [
        ("GET", "/v1/models/iris", "iris-default.example.com", "", "/v1/models/iris"),
        ("GET", "/a%2Fb?c=%20d", "IRIS.default.localhost.:80", "", "/a%2Fb?c=%20d"),
        ("POST", "/v1/models/iris:predict", "iris-predictor-default.localhost", "{}", "/v1/models/iris:predict"),
        ("POST", "/v1/models/iris:predict", "127.0.0.1:8080", "{}", "/v1/models/iris:predict"),
        ("POST", "/serving/default/iris/v2/models/iris/infer?x", "localhost", "{}", "/v2/models/iris/infer?x"),
        ("GET", "/serving/default/iris?x", "localhost", "", "/?x"),
        (
            "POST",
            "/openai/v1/chat/completions",
            "localhost",
            r#"{"model":"iris","n":1}"#,
            "/openai/v1/chat/completions",
        ),
    ];
    let mut client = house.client().await;
    for (method, path, host, body, forwarded) in table {
        let length = body.len();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}");
        let answer = client.ask(request).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let seen = answer.json();
        assert_eq!(seen["uri"], forwarded);
        assert_eq!(seen["method"], method);
        assert_eq!(seen["body"], body, "bodies arrive as they were sent");
        let headers = seen["headers"].to_string();
        assert!(headers.contains(&format!(r#"["host","{host}"]"#)), "{headers}");
        assert!(headers.contains(r#"["kserve-isvc-name","iris"]"#), "{headers}");
        assert!(headers.contains(r#"["x-forwarded-for","127.0.0.1"]"#), "{headers}");
    }
    assert_eq!(upstream.connections(), 1, "the backend's connection is used again");
    house.is_idle().await;
}
