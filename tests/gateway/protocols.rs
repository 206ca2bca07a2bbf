//! Every protocol through the one port, unchanged.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use kserve_local::gateway::GatewayConfig;
use kserve_local::plan::routes::{Backend, RouteState};
use kserve_local::tasks::Tasks;
use kserve_local::workload::UpstreamProtocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::raw::Raw;
use super::upstream::{AnswerBody, Upstream, data, full, mirror, pieces, trailers};
use super::{House, backend, iris, open};

const GET: &str = "GET /v1/models/iris HTTP/1.1\r\nHost: localhost\r\n";

#[tokio::test]
async fn events_are_forwarded_one_by_one() {
    let tasks = Tasks::new();
    let (sender, body) = pieces();
    let body = Arc::new(Mutex::new(Some(body)));
    let upstream = Upstream::http1(&tasks, move |_| {
        let body = body.lock().unwrap().take().unwrap();
        async move { Response::builder().header("content-type", "text/event-stream").body(body).unwrap() }
    })
    .await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = house.client().await;
    client.send(format!("{GET}\r\n")).await;
    assert!(client.head().await.contains("text/event-stream"));
    for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        sender.send(data(event)).await.unwrap();
        assert_eq!(client.piece().await, event, "before the next one is sent");
    }
    assert_eq!(house.board.of(super::REPLICA).in_flight, 1, "leased while it streams");
    drop(sender);
    assert_eq!(client.piece().await, "");
    house.is_idle().await;
}

/// Sends events one by one, each when the one before has arrived, and measures the whole.
async fn time_of_events(client: &mut Raw, sender: &tokio::sync::mpsc::Sender<Event>) -> Duration {
    client.head().await;
    let started = Instant::now();
    for number in 0..200 {
        let event = format!("data: {number}\n\n");
        sender.send(data(event.clone())).await.unwrap();
        assert_eq!(client.piece().await, event);
    }
    started.elapsed()
}

type Event = std::io::Result<http_body::Frame<Bytes>>;

#[tokio::test]
async fn events_come_as_soon_through_us_as_directly() {
    let tasks = Tasks::new();
    let (senders, mut begun) = tokio::sync::mpsc::channel(1);
    let upstream = Upstream::http1(&tasks, move |_| {
        let senders = senders.clone();
        async move {
            let (sender, body) = pieces();
            senders.send(sender).await.unwrap();
            Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
        }
    })
    .await;
    let house = House::before(&tasks, &upstream).await;
    // The best of several, by turns: the machine may be busy, and is so for both.
    let (mut direct, mut ours) = (Duration::MAX, Duration::MAX);
    for _ in 0..5 {
        for (address, best) in [(upstream.address, &mut direct), (house.address, &mut ours)] {
            let mut client = Raw::connect(address).await;
            client.send(format!("{GET}\r\n")).await;
            let sender = begun.recv().await.unwrap();
            *best = (*best).min(time_of_events(&mut client, &sender).await);
        }
    }
    // One more hop is twice the way; whoever waits for more to come together takes hundreds of times as long.
    assert!(ours < direct * 20, "200 events: {ours:?}, directly {direct:?}");
}

/// Sends back every piece at once.
async fn echo(request: Request<Incoming>) -> Response<AnswerBody> {
    let (sender, body) = pieces();
    let mut incoming = request.into_body();
    Tasks::new().spawn("echo", async move {
        while let Some(frame) = incoming.frame().await {
            let Ok(frame) = frame else { return };
            if sender.send(Ok(frame)).await.is_err() {
                return;
            }
        }
    });
    Response::builder().header("trailer", "x-sum").body(body).unwrap()
}

#[tokio::test]
async fn request_bodies_are_forwarded_piece_by_piece_with_trailers() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, echo).await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = house.client().await;
    client
        .send(
            "POST /v1/models/iris:predict HTTP/1.1\r\nHost: localhost\r\nTE: trailers\r\nTrailer: x-sum\r\n\
             Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n",
        )
        .await;
    client.head().await;
    assert_eq!(client.piece().await, "one");
    client.send("3\r\ntwo\r\n").await;
    assert_eq!(client.piece().await, "two");
    client.send("0\r\nX-Sum: 6\r\n\r\n").await;
    assert_eq!(client.bytes(3).await, b"0\r\n");
    assert_eq!(client.head().await, "x-sum: 6\r\n\r\n");
    house.is_idle().await;
    assert_eq!(client.ask(format!("{GET}Content-Length: 2\r\n\r\nhi")).await.body, "hi", "the connection is as new");
}

#[tokio::test]
async fn http_1_0_clients_are_served() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, |_| async {
        let (sender, body) = pieces();
        sender.send(data("hello ")).await.unwrap();
        sender.send(data("world")).await.unwrap();
        Response::new(body)
    })
    .await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = house.client().await;
    client.send("GET /v1/models/iris HTTP/1.0\r\n\r\n").await;
    let answer = client.rest().await;
    assert!(answer.ends_with("\r\n\r\nhello world"), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("transfer-encoding"), "{answer}");
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connection_usable() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, |request: Request<Incoming>| async move {
        let status = if request.uri().path().ends_with('4') { 304 } else { 204 };
        let mut response = Response::new(full(if request.method() == "HEAD" { "12345" } else { "" }));
        if request.method() != "HEAD" {
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
        }
        response
    })
    .await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = house.client().await;
    client.send("HEAD /v1/models/iris HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(client.head().await.contains("content-length: 5"));
    for (path, status) in [("/v1/models/iris/4", 304), ("/v1/models/iris", 204)] {
        let answer = client.ask(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        assert_eq!(answer.status, status);
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn expect_continue_is_answered_only_when_the_body_is_wanted() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = house.client().await;
    let expecting =
        "POST /v1/models/iris:predict HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    client.send(expecting).await;
    assert!(client.head().await.starts_with("http/1.1 100"));
    let answer = client.ask("{}").await;
    assert_eq!(answer.json()["body"], "{}");
    assert!(!answer.body.contains("100-continue"), "not the backend's business");
    let asleep = RouteState::NotReady {
        reason: "Asleep".into(),
        message: "asleep".into(),
        retry_after: std::time::Duration::from_secs(1),
    };
    house.routes.store(Arc::new(iris(asleep, None)));
    client.send(expecting).await;
    assert!(client.head().await.starts_with("http/1.1 503"), "without asking for the body");
    let mut client = house.client().await;
    assert_eq!(client.ask(format!("{GET}Expect: miracles\r\n\r\n")).await.status, 417);
}

fn post(path: &str, host: &str, content_type: &str, body: impl Into<Bytes>) -> Request<AnswerBody> {
    let uri = format!("http://{host}{path}");
    Request::post(uri).header("content-type", content_type).header("te", "trailers").body(full(body)).unwrap()
}

#[tokio::test]
async fn http2_clients_reach_http1_backends() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = house.http2().await;
    let mut request = post("/v1/models/iris:predict?a", "iris-default.example.com", "application/json", "{}");
    request.headers_mut().append("cookie", "a=1".parse().unwrap());
    request.headers_mut().append("cookie", "b=2".parse().unwrap());
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let seen = response.into_body().collect().await.unwrap().to_bytes();
    let seen: serde_json::Value = serde_json::from_slice(&seen).unwrap();
    assert_eq!(seen["uri"], "/v1/models/iris:predict?a");
    assert_eq!(seen["body"], "{}");
    let headers = seen["headers"].to_string();
    assert!(headers.contains(r#"["cookie","a=1; b=2"]"#), "{headers}");
    assert!(headers.contains(r#"["host","iris-default.example.com"]"#), "{headers}");
    let mut lying = post("/", "iris-default.example.com", "a/b", "");
    lying.headers_mut().insert("host", "other.example.com".parse().unwrap());
    assert_eq!(client.send_request(lying).await.unwrap().status(), 400, "host and authority differ");
}

#[tokio::test]
async fn http1_clients_reach_h2c_backends_over_one_shared_connection() {
    let tasks = Tasks::new();
    let upstream = Upstream::h2c(&tasks, mirror).await;
    let h2c = Backend { protocol: UpstreamProtocol::H2c, ..backend(upstream.address) };
    let house = House::open(&tasks, open(vec![h2c]), GatewayConfig { workers: 1, ..GatewayConfig::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(house.client().await);
    }
    let request = "POST /v1/models/iris:predict HTTP/1.1\r\nHost: iris.default.localhost\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}";
    let answers = futures::future::join_all(clients.iter_mut().map(|client| client.ask(request))).await;
    for answer in answers {
        assert_eq!(answer.json()["uri"], "http://iris.default.localhost/v1/models/iris:predict");
        assert_eq!(answer.json()["body"], "{}");
    }
    assert_eq!((upstream.connections(), upstream.requests()), (1, 4));
}

fn grpc_frame(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message);
    frame
}

/// Sends back what it gets, message by message, then a status.
async fn grpc_echo(request: Request<Incoming>) -> Response<AnswerBody> {
    assert_eq!(request.headers()["te"], "trailers");
    assert_eq!(request.version(), http::Version::HTTP_2);
    let (sender, body) = pieces();
    let mut incoming = request.into_body();
    Tasks::new().spawn("echo", async move {
        while let Some(Ok(frame)) = incoming.frame().await {
            if sender.send(Ok(frame)).await.is_err() {
                return;
            }
        }
        // The test looks at what arrives.
        let _ = sender.send(trailers(&[("grpc-status", "0"), ("grpc-message", "fine")])).await;
    });
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

#[tokio::test]
async fn grpc_passes_with_its_trailers_by_authority_and_by_model_name() {
    let tasks = Tasks::new();
    let rest = Upstream::http1(&tasks, mirror).await;
    let grpc = Upstream::h2c(&tasks, grpc_echo).await;
    let both = Backend { grpc_address: Some(grpc.address), ..backend(rest.address) };
    let house = House::open(&tasks, open(vec![both]), GatewayConfig::default()).await;
    let mut client = house.http2().await;
    let message = grpc_frame(b"\x0a\x04iris\x1a\x02id");
    for host in ["iris-default.localhost", "localhost:8080"] {
        let request = post("/inference.GRPCInferenceService/ModelInfer", host, "application/grpc", message.clone());
        let response = client.send_request(request).await.unwrap();
        let whole = response.into_body().collect().await.unwrap();
        let ended = whole.trailers().cloned().unwrap();
        assert_eq!((&ended["grpc-status"], &ended["grpc-message"]), (&"0".parse().unwrap(), &"fine".parse().unwrap()));
        assert_eq!(whole.to_bytes(), message);
    }
    let (sender, body) = pieces();
    let streaming = post("/any.Service/Chat", "iris-default.localhost", "application/grpc", "").map(|_| body);
    let mut answer = client.send_request(streaming).await.unwrap().into_body();
    for message in ["one", "two"] {
        sender.send(data(grpc_frame(message.as_bytes()))).await.unwrap();
        let frame = answer.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(frame, grpc_frame(message.as_bytes()), "both directions at once");
    }
    drop(sender);
    assert!(answer.frame().await.unwrap().unwrap().is_trailers());
    assert_eq!((grpc.connections(), rest.requests()), (1, 0));
    house.is_idle().await;
}

#[tokio::test]
async fn our_own_errors_to_grpc_clients_are_grpc_statuses() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = house.http2().await;
    let infer = "/inference.GRPCInferenceService/ModelInfer";
    let iris_message = grpc_frame(b"\x0a\x04iris");
    let asleep = RouteState::NotReady {
        reason: "Asleep".into(),
        message: "asleep".into(),
        retry_after: std::time::Duration::from_secs(1),
    };
    for (host, message, state, status) in [
        ("localhost", iris_message.clone(), None, "12"),
        ("nobody.localhost", iris_message.clone(), None, "5"),
        ("localhost", grpc_frame(b"\x0a\x02no"), None, "5"),
        ("localhost", Vec::new(), None, "3"),
        ("localhost", grpc_frame(b"\x0a\x04iris\x12\x011\x0a\x05other"), None, "3"),
        ("iris-default.localhost", iris_message, Some(asleep), "14"),
    ] {
        if let Some(state) = state {
            house.routes.store(Arc::new(iris(state, None)));
        }
        let response = client.send_request(post(infer, host, "application/grpc", message)).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], status, "{host} {response:?}");
        assert!(hyper::body::Body::is_end_stream(response.body()), "trailers only");
    }
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn a_second_model_that_comes_later_than_the_first_is_seen_before_anything_is_routed() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = house.http2().await;
    for (end, status) in [(r#""model":"other"}"#, 400), (r#""n":1}"#, 200)] {
        let (sender, body) = pieces();
        let request = post("/openai/v1/chat/completions", "localhost", "application/json", "").map(|_| body);
        let answer = client.send_request(request);
        for piece in [r#"{"model":"iris","#, end] {
            sender.send(data(piece)).await.unwrap();
        }
        drop(sender);
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), status, "{end}");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let forwarded = String::from_utf8_lossy(&body).contains(r#"{\"model\":\"iris\",\"n\":1}"#);
        assert_eq!(forwarded, status == 200, "{body:?}");
    }
    assert_eq!(upstream.requests(), 1);
}

#[tokio::test]
async fn a_form_goes_to_the_model_that_one_of_its_fields_names_as_it_came() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::before(&tasks, &upstream).await;
    let field = |name: &str, content: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{content}\r\n")
    };
    let mut client = house.client().await;
    for (fields, status, reason) in [
        (field("file", "RIFF") + &field("model", "iris"), 200, None),
        (field("model", "rose") + &field("file", "RIFF"), 404, Some("UnknownModel")),
        (field("file", "RIFF"), 400, Some("NoModelName")),
        (field("model", "iris") + &field("model", "rose"), 400, Some("DuplicateModel")),
    ] {
        let body = fields + "--b--\r\n";
        let head = "POST /openai/v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\n\
                    Content-Type: multipart/form-data; boundary=b\r\n";
        let answer = client.ask(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())).await;
        assert_eq!((answer.status, answer.json()["reason"].as_str()), (status, reason), "{answer:?}");
        match status {
            200 => assert_eq!(answer.json()["body"], body.as_str()),
            400 => assert!(answer.body.contains("address the service by its host"), "what to do: {answer:?}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn answers_of_http1_backends_have_nothing_that_breaks_them_over_http2() {
    let tasks = Tasks::new();
    for (wire, status) in [
        ("HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", 204),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\nX-Sum: 1\r\n\r\n", 200),
    ] {
        let upstream = Upstream::raw(&tasks, move |mut socket| async move {
            while !super::endings::hear(&mut socket).await.is_empty() {
                socket.write_all(wire.as_bytes()).await.unwrap();
            }
        })
        .await;
        let house = House::before(&tasks, &upstream).await;
        let answer = house.http2().await.send_request(post("/v1/models/iris:predict", "localhost", "a/b", "")).await;
        let answer = answer.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers().get("content-length")), (status, None));
        let trailers = answer.into_body().collect().await.unwrap().trailers().cloned().unwrap_or_default();
        assert!(!trailers.contains_key("content-length"), "{trailers:?}");
        assert_eq!(trailers.len(), usize::from(status == 200));
    }
}

/// Agrees to every upgrade to `echo` and sends bytes back.
async fn upgrading(mut request: Request<Incoming>) -> Response<AnswerBody> {
    if request.headers().get("upgrade").is_none_or(|protocol| protocol != "echo") {
        return mirror(request).await;
    }
    let upgrade = hyper::upgrade::on(&mut request);
    Tasks::new().spawn("echo", async move {
        let mut io = TokioIo::new(upgrade.await.unwrap());
        let mut space = [0; 64];
        while let Ok(len @ 1..) = io.read(&mut space).await {
            io.write_all(&space[..len]).await.unwrap();
        }
    });
    Response::builder()
        .status(101)
        .header("connection", "upgrade")
        .header("upgrade", "echo")
        .header("sec-websocket-accept", "yes")
        .body(full(""))
        .unwrap()
}

#[tokio::test]
async fn upgraded_connections_are_tunnels_until_one_side_ends() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, upgrading).await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = house.client().await;
    client.send(format!("{GET}Connection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\n")).await;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains("sec-websocket-accept: yes") && head.contains("upgrade: echo"), "{head}");
    for message in ["ping", "\0\r\n\r\nGET / HTTP/9.9\n"] {
        client.send(message).await;
        assert_eq!(client.bytes(message.len()).await, message.as_bytes());
    }
    assert_eq!(house.board.of(super::REPLICA).in_flight, 1, "leased while the tunnel stands");
    drop(client);
    house.is_idle().await;
    let metrics = house.gateway.metrics().snapshot();
    assert_eq!(metrics.unrouted.responses, [0; 6], "one request, counted once");
}

#[tokio::test]
async fn websockets_over_http2_are_tunnels_too() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, upgrading).await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = house.http2().await;
    // The client may ask for it once it has heard that we know it.
    let answer = client.send_request(Request::get("http://localhost/v2/models").body(full("")).unwrap()).await;
    assert_eq!(answer.unwrap().status(), 200);
    let connect = |protocol| {
        let mut request = Request::connect("http://localhost/v1/models/iris/talk").body(full("")).unwrap();
        request.extensions_mut().insert(hyper::ext::Protocol::from_static(protocol));
        request
    };
    let mut agreed = client.send_request(connect("echo")).await.unwrap();
    assert_eq!(agreed.status(), 200);
    assert!(!agreed.headers().contains_key("upgrade") && !agreed.headers().contains_key("sec-websocket-accept"));
    let mut tunnel = TokioIo::new(hyper::upgrade::on(&mut agreed).await.unwrap());
    for message in ["ping", "\0\r\n\r\n"] {
        tunnel.write_all(message.as_bytes()).await.unwrap();
        let mut seen = vec![0; message.len()];
        tunnel.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, message.as_bytes());
    }
    drop(tunnel);
    house.is_idle().await;
    let refused = client.send_request(connect("websocket")).await.unwrap();
    assert_eq!(refused.status(), 502, "a 200 of the backend is no agreement, and must not look like one");
    assert_eq!(upstream.requests(), 2);
    let plain = Request::connect("localhost:80").body(full("")).unwrap();
    assert_eq!(client.send_request(plain).await.unwrap().status(), 405);
}

#[tokio::test]
async fn an_upgrade_that_the_backend_does_not_agree_to_is_a_request_and_the_last() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, upgrading).await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = house.client().await;
    let answer = client
        .ask(format!(
            "{GET}Connection: Upgrade\r\nUpgrade: other\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\nhost: y\r\n\r\n"
        ))
        .await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("connection: close"), "{answer:?}");
    assert!(client.is_closed().await);
    assert_eq!(upstream.requests(), 1);
    let mut client = house.client().await;
    let answer = client
        .ask(format!("{GET}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n"))
        .await;
    assert!(!answer.body.contains("h2c") && !answer.body.contains("http2-settings"), "{answer:?}");
}

#[tokio::test]
async fn the_bare_address_lists_all_services() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = house.client().await;
    for (path, pointer, wanted) in [
        ("/v1/models", "/models/0", "iris"),
        ("/v1/models", "/data/0/id", "iris"),
        ("/v2/models", "/models/0", "iris"),
        ("/openai/v1/models", "/data/0/id", "iris"),
        ("/", "/services/0/name", "iris"),
    ] {
        let answer = client.ask(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json().pointer(pointer).unwrap(), wanted, "{path}");
    }
    let answer = client.ask("GET / HTTP/1.1\r\nHost: nobody.localhost\r\n\r\n").await;
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (404, Some("UnknownHost")));
    assert_eq!(answer.json()["services"][0]["namespace"], "default");
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_at_once_share_few_connections_and_lose_nothing() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::before(&tasks, &upstream).await;
    let house = &house;
    let client = |number: usize| async move {
        let mut client = house.client().await;
        for round in 0..50 {
            let body = format!("{number}/{round}");
            let length = body.len();
            let request = format!(
                "POST /v1/models/iris:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            assert_eq!(client.ask(request).await.json()["body"], body);
        }
    };
    let started = tokio::time::Instant::now();
    futures::future::join_all((0..32).map(client)).await;
    println!("{} connections, {:?} per request", upstream.connections(), started.elapsed() / 1600);
    assert_eq!(upstream.requests(), 1600);
    assert!(upstream.connections() <= 64, "{} connections for 32 clients", upstream.connections());
    house.is_idle().await;
}

#[tokio::test]
async fn the_merged_server_answers_grpc_calls_that_concern_no_model() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = house.http2().await;
    let empty = grpc_frame(b"");
    for (method, wanted) in [
        ("/inference.GRPCInferenceService/ServerLive", grpc_frame(b"\x08\x01")),
        ("/inference.GRPCInferenceService/ServerReady", grpc_frame(b"\x08\x01")),
        ("/grpc.health.v1.Health/Check", grpc_frame(b"\x08\x01")),
    ] {
        let request = post(method, "localhost:8080", "application/grpc", empty.clone());
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/grpc");
        let whole = response.into_body().collect().await.unwrap();
        assert_eq!(whole.trailers().unwrap()["grpc-status"], "0", "{method}");
        assert_eq!(whole.to_bytes(), wanted, "{method}");
    }
    let metadata = "/inference.GRPCInferenceService/ServerMetadata";
    let response = client.send_request(post(metadata, "localhost", "application/grpc", empty)).await.unwrap();
    let message = response.into_body().collect().await.unwrap().to_bytes();
    assert!(message[5..].starts_with(b"\x0a\x0ckserve-local"), "{message:?}");
    assert_eq!(
        house.client().await.ask("GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned()).await.json()["name"],
        "kserve-local"
    );
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn tag_hosts_address_one_revision() {
    let tasks = Tasks::new();
    let (old, new) = (Upstream::http1(&tasks, mirror).await, Upstream::http1(&tasks, mirror).await);
    let of = |upstream: &Upstream, revision: &str, weight| Backend {
        replica: revision.into(),
        revision: revision.into(),
        weight,
        ..backend(upstream.address)
    };
    let both = vec![of(&old, "iris-predictor-00001", 100), of(&new, "iris-predictor-00002", 0)];
    let house = House::open(&tasks, open(both), GatewayConfig::default()).await;
    let mut client = house.client().await;
    let get = |host: &str| format!("GET /v1/models/iris HTTP/1.1\r\nHost: {host}\r\n\r\n");
    for host in ["latest-iris-predictor-default.localhost", "latest-iris-predictor.default.example.com"] {
        assert_eq!(client.ask(get(host)).await.status, 200);
    }
    assert_eq!((old.requests(), new.requests()), (0, 2), "whatever its share of traffic");
    assert_eq!(client.ask(get("prev-iris-predictor-default.localhost")).await.status, 200);
    assert_eq!((old.requests(), new.requests()), (1, 2));
    house.routes.store(Arc::new(open(vec![of(&new, "iris-predictor-00002", 1)])));
    let answer = client.ask(get("prev-iris-predictor-default.localhost")).await;
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (404, Some("NoSuchRevision")));
    assert_eq!(client.ask(get("latest-iris-transformer-default.localhost")).await.status, 404);
}

#[tokio::test]
async fn trace_headers_and_request_ids_pass_and_a_missing_id_is_given() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = house.client().await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let seen =
        client.ask(format!("{GET}traceparent: {trace}\r\ntracestate: a=b\r\nX-Request-Id: mine\r\n\r\n")).await.body;
    for line in
        [format!(r#"["traceparent","{trace}"]"#), r#"["tracestate","a=b"]"#.into(), r#"["x-request-id","mine"]"#.into()]
    {
        assert!(seen.contains(&line), "{seen}");
    }
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let answer = client.ask(format!("{GET}\r\n")).await.json();
        let headers: Vec<(String, String)> = serde_json::from_value(answer["headers"].clone()).unwrap();
        let id = headers.into_iter().find(|(name, _)| name == "x-request-id").unwrap().1;
        assert_eq!(id.len(), 32);
        ids.insert(id);
    }
    assert_eq!(ids.len(), 3);
}
