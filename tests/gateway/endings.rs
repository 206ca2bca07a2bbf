//! How exchanges end: whole, refused, or visibly broken; and what is given back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use kserve_local::api::ServiceKey;
use kserve_local::gateway::GatewayConfig;
use kserve_local::plan::routes::{Backend, RouteState};
use kserve_local::tasks::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::upstream::{Upstream, data, full, mirror, pieces};
use super::{House, REPLICA, backend, iris, open};

const GET: &str = "GET /v1/models/iris HTTP/1.1\r\nHost: localhost\r\n\r\n";
pub(super) const POST: &str = "POST /v1/models/iris:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}";

/// Reads a request's head, and whatever came with it.
pub(super) async fn hear(socket: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    while !seen.windows(4).any(|part| part == b"\r\n\r\n") {
        if socket.read_buf(&mut seen).await.unwrap_or(0) == 0 {
            break;
        }
    }
    String::from_utf8_lossy(&seen).into_owned()
}

#[tokio::test]
async fn a_service_that_is_not_ready_says_why_and_when_to_come_back() {
    let tasks = Tasks::new();
    let state = RouteState::NotReady {
        reason: "ModelPulling".into(),
        message: "12 of 40 MB".into(),
        retry_after: Duration::from_secs(7),
    };
    let house = House::open(&tasks, iris(state, None), GatewayConfig::default()).await;
    let mut client = house.client().await;
    let answer = client.ask(POST).await;
    assert_eq!(answer.status, 503);
    assert!(answer.head.contains("retry-after: 7"), "{answer:?}");
    assert_eq!(answer.json(), serde_json::json!({"error": "12 of 40 MB", "reason": "ModelPulling"}));
    assert_eq!(client.ask(POST).await.status, 503, "the connection stays");
}

#[tokio::test]
async fn a_refused_connection_rings_the_bell_and_another_replica_answers() {
    let tasks = Tasks::new();
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::open(&tasks, open(vec![backend(gone)]), GatewayConfig::default()).await;
    let bell = house.gateway.backend_refused();
    let mut client = house.client().await;
    let answer = client.ask(POST).await;
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (503, Some("BackendRefused")));
    bell.notified().await;
    let other = Backend { replica: "other".into(), weight: 1, ..backend(upstream.address) };
    house.routes.store(Arc::new(open(vec![backend(gone), other])));
    for _ in 0..8 {
        assert_eq!(client.ask(POST).await.status, 200, "nothing was sent, so another one may be asked");
    }
    house.is_idle().await;
}

#[tokio::test]
async fn a_cut_answer_looks_cut() {
    let tasks = Tasks::new();
    let upstream = Upstream::raw(&tasks, |mut socket| async move {
        let head = hear(&mut socket).await;
        let answer = match head.split(' ').nth(1) {
            Some("/v1/models/iris/length") => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
            Some("/v1/models/iris/chunks") => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            Some("/v1/models/iris/head") => "HTTP/1.1 200 OK\r\nContent-Le",
            _ => "",
        };
        socket.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let house = House::before(&tasks, &upstream).await;
    for (path, begun) in [("length", true), ("chunks", true), ("head", false), ("nothing", false)] {
        let mut client = house.client().await;
        client
            .send(format!("POST /v1/models/iris/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"))
            .await;
        let answer = client.answer().await;
        if begun {
            assert!(answer.is_none(), "{path}: {answer:?}");
        } else {
            assert_eq!(answer.unwrap().status, 502, "{path}");
        }
        let uri = format!("http://localhost/v1/models/iris/{path}");
        let response = house.http2().await.send_request(Request::post(uri).body(full("")).unwrap()).await.unwrap();
        if begun {
            assert_eq!(response.status(), 200);
            let error = response.into_body().collect().await.unwrap_err();
            assert!(!error.is_timeout(), "{path}: {error:?}");
        } else {
            assert_eq!(response.status(), 502);
        }
    }
    house.is_idle().await;
    assert_eq!(upstream.connections(), 8, "nothing was sent twice");
    let mut old = TcpStream::connect(house.address).await.unwrap();
    old.write_all(b"GET /v1/models/iris/chunks HTTP/1.0\r\n\r\n").await.unwrap();
    let mut seen = Vec::new();
    let end = old.read_to_end(&mut seen).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "an end would look like the end");
    let metrics = house.gateway.metrics().snapshot();
    assert_eq!(metrics.services[&ServiceKey::new("default", "iris")].broken_answers, 9);
}

#[tokio::test]
async fn when_the_client_leaves_the_backend_is_left_too() {
    let tasks = Tasks::new();
    let (left, arrived) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (seen, came) = (Arc::clone(&left), Arc::clone(&arrived));
    let upstream = Upstream::raw(&tasks, move |mut socket| {
        let (left, arrived) = (Arc::clone(&seen), Arc::clone(&came));
        async move {
            let head = hear(&mut socket).await;
            if head.starts_with("GET /v1/models/iris/stream") {
                socket.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await.unwrap();
            }
            arrived.notify_one();
            while socket.read(&mut [0; 64]).await.unwrap_or(0) > 0 {}
            left.notify_one();
        }
    })
    .await;
    let house = House::before(&tasks, &upstream).await;
    for request in [
        "GET /v1/models/iris/wait HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /v1/models/iris/stream HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "POST /v1/models/iris/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nbegun",
        "POST /v1/models/iris/upload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
    ] {
        let mut client = house.client().await;
        client.send(request).await;
        arrived.notified().await;
        drop(client);
        let left = tokio::time::timeout(Duration::from_secs(5), left.notified());
        assert!(left.await.is_ok(), "still connected: {request}");
        house.is_idle().await;
    }
    let mut client = house.http2().await;
    let request = Request::get("http://localhost/v1/models/iris/wait").body(full("")).unwrap();
    tokio::select! {
        _ = client.send_request(request) => panic!("no answer was sent"),
        () = arrived.notified() => {}
    }
    let left = tokio::time::timeout(Duration::from_secs(5), left.notified());
    assert!(left.await.is_ok(), "a reset stream is a client that left");
    house.is_idle().await;
}

#[tokio::test]
async fn an_answer_that_does_not_begin_in_time_is_a_timeout() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, |request: Request<Incoming>| async move {
        if request.uri().path().ends_with("slow") {
            std::future::pending::<()>().await;
        }
        mirror(request).await
    })
    .await;
    let state = RouteState::Open(vec![backend(upstream.address)]);
    let limit = Duration::from_millis(200);
    let house = House::open(&tasks, iris(state, Some(limit)), GatewayConfig::default()).await;
    let mut client = house.client().await;
    let answer = client.ask("GET /v1/models/iris/slow HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (504, Some("Timeout")));
    house.is_idle().await;
    let mut client = house.client().await;
    client.send("POST /v1/models/iris/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nab").await;
    tokio::time::sleep(limit * 2).await;
    assert_eq!(client.ask("cd").await.status, 200, "the clock starts with the request's last byte");
}

#[tokio::test]
async fn a_silent_answer_is_cut_off() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, |_| async {
        let (sender, body) = pieces();
        sender.send(data("begun")).await.unwrap();
        Tasks::new().spawn("silent", async move {
            sender.closed().await;
        });
        Response::new(body)
    })
    .await;
    let config = GatewayConfig { body_idle_timeout: Duration::from_millis(100), ..GatewayConfig::default() };
    let house = House::open(&tasks, open(vec![backend(upstream.address)]), config).await;
    let mut client = house.client().await;
    client.send(GET).await;
    assert!(client.answer().await.is_none());
    house.is_idle().await;
}

#[tokio::test]
async fn requests_over_the_concurrency_limit_wait_and_then_overflow() {
    let tasks = Tasks::new();
    let gate = Arc::new(Notify::new());
    let (busy, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (open_gate, top) = (Arc::clone(&gate), Arc::clone(&most));
    let upstream = Upstream::http1(&tasks, move |_| {
        let (gate, busy, most) = (Arc::clone(&gate), Arc::clone(&busy), Arc::clone(&most));
        async move {
            most.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            gate.notified().await;
            busy.fetch_sub(1, Ordering::SeqCst);
            Response::new(full("done"))
        }
    })
    .await;
    let narrow = Backend { concurrency: Some(1), ..backend(upstream.address) };
    let config = GatewayConfig { max_waiting: 2, ..GatewayConfig::default() };
    let house = House::open(&tasks, open(vec![narrow]), config).await;
    let mut clients = Vec::new();
    for waiting in 0..3u64 {
        let mut client = house.client().await;
        client.send(POST).await;
        clients.push(client);
        let settled = async {
            let metrics = house.gateway.metrics();
            let service = ServiceKey::new("default", "iris");
            while house.board.of(REPLICA).in_flight == 0
                || metrics.snapshot().services.get(&service).is_none_or(|one| one.waiting < waiting)
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), settled).await.unwrap();
    }
    let mut overflow = house.client().await;
    let answer = overflow.ask(POST).await;
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (503, Some("Overloaded")));
    assert!(answer.head.contains("retry-after: 1"), "{answer:?}");
    for mut client in clients {
        open_gate.notify_one();
        assert_eq!(client.answer().await.unwrap().status, 200, "in the order of arrival");
    }
    assert_eq!(top.load(Ordering::SeqCst), 1, "never more than the limit");
    house.is_idle().await;
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_is_forgotten() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, |_| async { std::future::pending().await }).await;
    let narrow = Backend { concurrency: Some(1), ..backend(upstream.address) };
    let house = House::open(&tasks, open(vec![narrow]), GatewayConfig::default()).await;
    let metrics = house.gateway.metrics();
    let waiting = async |wanted| {
        let service = ServiceKey::new("default", "iris");
        let reached = async {
            while metrics.snapshot().services.get(&service).is_none_or(|one| one.waiting != wanted) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), reached).await.unwrap();
    };
    let (mut busy, mut leaver) = (house.client().await, house.client().await);
    busy.send(POST).await;
    while house.board.of(REPLICA).in_flight == 0 || upstream.requests() == 0 {
        tokio::task::yield_now().await;
    }
    leaver.send(POST).await;
    waiting(1).await;
    drop(leaver);
    waiting(0).await;
    drop(busy);
    house.is_idle().await;
    assert_eq!(upstream.requests(), 1, "nothing is started for a client that has gone");
}

#[tokio::test]
async fn a_client_that_leaves_resets_its_stream_on_a_shared_connection() {
    struct Gone(Arc<Notify>);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let tasks = Tasks::new();
    let gone = Arc::new(Notify::new());
    let seen = Arc::clone(&gone);
    let upstream = Upstream::h2c(&tasks, move |request: Request<Incoming>| {
        let gone = Gone(Arc::clone(&seen));
        async move {
            if request.uri().path().ends_with("wait") {
                std::future::pending::<()>().await;
            }
            drop(gone);
            mirror(request).await
        }
    })
    .await;
    let h2c = Backend { protocol: kserve_local::workload::UpstreamProtocol::H2c, ..backend(upstream.address) };
    let house = House::open(&tasks, open(vec![h2c]), GatewayConfig { workers: 1, ..GatewayConfig::default() }).await;
    let mut client = house.client().await;
    client.send("GET /v1/models/iris/wait HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    while upstream.requests() == 0 {
        tokio::task::yield_now().await;
    }
    drop(client);
    tokio::time::timeout(Duration::from_secs(5), gone.notified()).await.expect("the stream was reset");
    house.is_idle().await;
    assert_eq!(house.client().await.ask(GET).await.status, 200);
    assert_eq!(upstream.connections(), 1, "others on the connection do not feel it");
}

#[tokio::test]
async fn draining_lets_requests_finish_and_closes_what_is_idle() {
    let tasks = Tasks::new();
    let (sender, body) = pieces();
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let upstream = Upstream::http1(&tasks, move |_| {
        let body = body.lock().unwrap().take();
        async move { Response::new(body.unwrap_or_else(|| full("short"))) }
    })
    .await;
    let house = House::before(&tasks, &upstream).await;
    let (mut busy, mut idle, mut fresh) = (house.client().await, house.client().await, house.client().await);
    busy.send(GET).await;
    busy.head().await;
    assert_eq!(idle.ask(GET).await.status, 200);
    house.cancel.cancel();
    assert!(idle.is_closed().await, "nothing is under way here");
    assert!(fresh.is_closed().await, "nor here");
    sender.send(data("the end")).await.unwrap();
    assert_eq!(busy.piece().await, "the end");
    drop(sender);
    assert_eq!(busy.piece().await, "");
    assert!(busy.is_closed().await);
    let served = tokio::time::timeout(Duration::from_secs(5), house.served).await.expect("served to the end");
    assert!(served.unwrap().is_ok());
    assert!(TcpStream::connect(house.address).await.is_err(), "nothing more is accepted");
}

#[tokio::test]
async fn requests_that_were_sent_before_their_clients_knew_of_the_end_are_answered() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::before(&tasks, &upstream).await;
    let mut kept = house.client().await;
    assert_eq!(kept.ask(GET).await.status, 200);
    // One that says nothing yet, and one that nobody has accepted so far.
    let mut fresh = house.client().await;
    let mut waiting = house.client().await;
    house.cancel.cancel();
    for client in [&mut kept, &mut fresh, &mut waiting] {
        let answer = client.ask(GET).await;
        assert_eq!(answer.status, 200);
        assert!(answer.head.contains("connection: close"), "{}", answer.head);
        assert!(client.is_closed().await, "it was the last one");
    }
    let served = tokio::time::timeout(Duration::from_secs(5), house.served).await.expect("served to the end");
    assert!(served.unwrap().is_ok());
}

#[tokio::test]
async fn draining_ends_at_its_deadline() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, |_| async { std::future::pending().await }).await;
    let config = GatewayConfig { drain_deadline: Duration::from_millis(100), ..GatewayConfig::default() };
    let house = House::open(&tasks, open(vec![backend(upstream.address)]), config).await;
    let mut client = house.client().await;
    client.send(GET).await;
    while house.board.of(REPLICA).in_flight == 0 {
        tokio::task::yield_now().await;
    }
    house.cancel.cancel();
    assert!(client.is_closed().await);
    let served = tokio::time::timeout(Duration::from_secs(5), house.served).await;
    assert!(served.unwrap().unwrap().is_ok());
}

#[tokio::test]
async fn requests_are_counted_by_service_and_class() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = house.client().await;
    client.ask(POST).await;
    client.ask(GET).await;
    client.ask("GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    house.is_idle().await;
    let metrics = house.gateway.metrics().snapshot();
    let service = &metrics.services[&ServiceKey::new("default", "iris")];
    assert_eq!(service.responses, [0, 0, 2, 0, 0, 0]);
    assert_eq!(service.latency.iter().sum::<u64>(), 2);
    assert_eq!((service.request_bytes, service.in_flight), (2, 0));
    assert!(service.response_bytes > 100);
    assert_eq!(metrics.unrouted.responses, [0, 0, 0, 0, 1, 0]);
    assert_eq!((metrics.connections, metrics.upstream_connects), (1, 1));
}

#[tokio::test]
async fn a_failing_replica_is_taken_out_and_probed_back_in() {
    let tasks = Tasks::new();
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let state = Arc::clone(&broken);
    let failing = Upstream::http1(&tasks, move |request: Request<Incoming>| {
        let broken = state.load(Ordering::SeqCst);
        async move {
            let mut response = mirror(request).await;
            if broken {
                *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            }
            response
        }
    })
    .await;
    let healthy = Upstream::http1(&tasks, mirror).await;
    let bad = Backend { replica: "bad".into(), weight: 1, ..backend(failing.address) };
    let good = Backend { replica: "good".into(), weight: 1, ..backend(healthy.address) };
    let config = GatewayConfig {
        failures_to_eject: 3,
        eject_pause: Duration::from_millis(1500),
        max_eject_pause: Duration::from_millis(1500),
        ..GatewayConfig::default()
    };
    let house = House::open(&tasks, open(vec![bad, good]), config).await;
    let mut client = house.client().await;
    let mut errors = 0;
    while failing.requests() < 3 {
        errors += usize::from(client.ask(POST).await.status == 500);
    }
    assert_eq!(errors, 3);
    let before = failing.requests();
    for _ in 0..20 {
        assert_eq!(client.ask(POST).await.status, 200, "the other one takes all");
    }
    assert_eq!((failing.requests(), house.gateway.metrics().snapshot().ejections), (before, 1));
    broken.store(false, Ordering::SeqCst);
    let back = async {
        while failing.requests() < before + 5 {
            assert_eq!(client.ask(POST).await.status, 200);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), back).await.expect("it is used again");
    house.is_idle().await;
}

#[tokio::test]
async fn one_failing_replica_alone_is_asked_all_the_same() {
    let tasks = Tasks::new();
    let failing =
        Upstream::http1(&tasks, |_| async { Response::builder().status(500).body(full("no")).unwrap() }).await;
    let config = GatewayConfig { failures_to_eject: 1, ..GatewayConfig::default() };
    let both = ["a", "b"].map(|name| Backend { replica: name.into(), weight: 1, ..backend(failing.address) });
    let house = House::open(&tasks, open(both.to_vec()), config).await;
    let mut client = house.client().await;
    for _ in 0..10 {
        assert_eq!(client.ask(POST).await.status, 500, "its own answer, not one of ours");
    }
}

#[tokio::test]
async fn connections_are_spread_evenly_and_a_tunnel_is_drained_like_a_request() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let config = GatewayConfig { workers: 3, ..GatewayConfig::default() };
    let house = House::open(&tasks, open(vec![backend(upstream.address)]), config).await;
    let mut clients = Vec::new();
    for _ in 0..9 {
        let mut client = house.client().await;
        assert_eq!(client.ask(POST).await.status, 200);
        clients.push(client);
    }
    assert_eq!(upstream.connections(), 3, "every worker has its own connections to the backend");
    drop(clients);
    house.is_idle().await;
}
