//! What a proxy must not let through, and whom it must not wait for.

use std::time::Duration;

use kserve_local::gateway::GatewayConfig;
use kserve_local::tasks::Tasks;

use super::raw::Raw;
use super::upstream::{Upstream, full, mirror, pieces};
use super::{House, backend, open};

#[tokio::test]
async fn ambiguous_framing_is_refused_and_nothing_of_it_reaches_a_backend() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::before(&tasks, &upstream).await;
    let line = "POST /v1/models/iris:predict HTTP/1.1\r\nHost: localhost\r\n";
    for (request, status) in [
        (format!("{line}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET"), 400),
        (format!("{line}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET"), 400),
        (format!("{line}Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"), 400),
        (format!("{line}Content-Length: 5, 5\r\n\r\nabcde"), 400),
        (format!("{line}Content-Length: -1\r\n\r\n"), 400),
        (format!("{line}Transfer-Encoding: identity\r\n\r\n"), 400),
        (format!("{line}Transfer-Encoding: chunked, identity\r\n\r\n"), 400),
        (format!("{line}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n"), 400),
        (format!("{line}Transfer-Encoding\t: chunked\r\n\r\n"), 400),
        (format!("{line}X: a\r\n b\r\n\r\n"), 400),
        (format!("{line}X: a\nY: b\r\n\r\n"), 400),
        (format!("{line}Host: other\r\n\r\n"), 400),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a/b@c\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: [iris-default.localhost]\r\n\r\n".to_owned(), 400),
        ("GET iris-default.localhost HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 400),
        ("GET * HTTP/1.1\r\nHost: iris-default.localhost\r\n\r\n".to_owned(), 400),
        ("GET http:///v1/models/iris HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 400),
        ("GET /v1/models/iris?\"<> HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 400),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n".to_owned(), 505),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n".to_owned(), 405),
        (format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(20_000)), 414),
        (format!("{line}X: {}\r\n\r\n", "a".repeat(70_000)), 431),
        (format!("{line}{}\r\n", "X: a\r\n".repeat(200)), 431),
    ] {
        let mut client = house.client().await;
        let shown = &request[..request.len().min(120)];
        client.send(&request).await;
        let answer = client.answer().await.unwrap_or_else(|| panic!("no answer to {shown:?}"));
        assert_eq!(answer.status, status, "{shown:?}: {answer:?}");
        assert!(answer.json()["reason"].is_string(), "{answer:?}");
        if status != 400 || answer.json()["reason"] != "BadHost" {
            assert!(answer.head.contains("connection: close"), "{shown:?}: {answer:?}");
            assert!(client.is_closed().await, "{shown:?}");
        }
    }
    assert_eq!(upstream.requests(), 0);
    assert_eq!(house.client().await.ask(format!("{line}\r\n")).await.status, 200, "others do not feel it");
}

#[tokio::test]
async fn limits_hold_over_http2_as_well() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = house.http2().await;
    let get = |path: &str| http::Request::get(format!("http://localhost/v1/models/iris/{path}"));
    let many = (0..200).fold(get(""), |request, _| request.header("x", "y"));
    for (request, status, reason) in [
        (get(&"a".repeat(20_000)), 414, "UriTooLong"),
        (many, 431, "HeadersTooLarge"),
        (get("\u{e9}"), 400, "BadPath"),
        (get("").header("content-length", "0").header("content-length", "0"), 400, "BadContentLength"),
    ] {
        let answer = client.send_request(request.body(full("")).unwrap()).await.unwrap();
        assert_eq!(answer.status(), status, "{reason}");
        let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains(reason), "{body:?}");
    }
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn broken_chunks_end_the_connection_and_the_backends_request() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::before(&tasks, &upstream).await;
    for body in ["zz\r\n", "3\nabc\r\n0\r\n\r\n", "3\r\nabcd\r\n", "11111111111111111\r\n", "3 \r\nabc\r\n"] {
        let mut client = house.client().await;
        client
            .send(format!(
                "POST /v1/models/iris:predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
            ))
            .await;
        let answer = client.answer().await;
        assert!(answer.as_ref().is_none_or(|answer| answer.status == 400), "{body:?}: {answer:?}");
        assert!(client.rest().await.is_empty());
        house.is_idle().await;
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_up_to_the_first_bad_one() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::before(&tasks, &upstream).await;
    let get = |path: &str| format!("GET /v1/models/iris/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let bad = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = house.client().await;
    client.send([get("1"), get("2"), bad.to_owned(), get("3")].concat()).await;
    assert_eq!(client.answer().await.unwrap().json()["uri"], "/v1/models/iris/1");
    assert_eq!(client.answer().await.unwrap().json()["uri"], "/v1/models/iris/2");
    assert_eq!(client.answer().await.unwrap().json()["reason"], "AmbiguousLength");
    assert!(client.is_closed().await);
    assert_eq!(upstream.requests(), 2);
}

#[tokio::test]
async fn heads_in_single_bytes_are_understood() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = house.client().await;
    for byte in b"POST /v1/models/iris:predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" {
        client.send([*byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.answer().await.unwrap().json()["body"], "{}");
}

fn hasty() -> GatewayConfig {
    GatewayConfig {
        header_timeout: Duration::from_millis(100),
        idle_timeout: Duration::from_millis(200),
        stall_timeout: Duration::from_millis(150),
        ..GatewayConfig::default()
    }
}

#[tokio::test]
async fn slow_clients_are_not_waited_for() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::open(&tasks, open(vec![backend(upstream.address)]), hasty()).await;
    assert!(house.client().await.is_closed().await, "says nothing");
    let mut client = house.client().await;
    client.send("GET / HTTP/1.1\r\nHo").await;
    assert_eq!(client.answer().await.unwrap().status, 408, "stops within the head");
    assert!(client.is_closed().await);
    let mut client = house.client().await;
    client.send("PRI * HT").await;
    assert!(client.is_closed().await, "stops within the preface");
    let mut client = house.client().await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    client.rest().await;
    let mut client = house.client().await;
    assert_eq!(client.ask("GET /v2/models HTTP/1.1\r\nHost: localhost\r\n\r\n").await.status, 200);
    assert!(client.is_closed().await, "asks nothing more");
    let mut client = house.client().await;
    client.send("POST /v1/models/iris:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc").await;
    let answer = client.answer().await;
    assert!(answer.is_none_or(|answer| answer.status >= 400), "stops within the body");
    house.is_idle().await;
    let closed = async {
        while house.gateway.metrics().snapshot().connections > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), closed).await.expect("every one of them is gone");
}

#[tokio::test]
async fn a_trickled_head_ends_in_time_too() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::open(&tasks, open(vec![backend(upstream.address)]), hasty()).await;
    let mut client = house.client().await;
    let trickle = async {
        client.send("GET / HTTP/1.1\r\n").await;
        for _ in 0..1000 {
            client.send("X: y\r\n").await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            if house.gateway.metrics().snapshot().connections == 0 {
                return;
            }
        }
        panic!("still there");
    };
    tokio::time::timeout(Duration::from_secs(5), trickle).await.unwrap();
}

#[tokio::test]
async fn a_client_that_takes_nothing_holds_up_only_itself() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, |_| async {
        let (sender, body) = pieces();
        Tasks::new().spawn("endless", async move {
            while sender.send(super::upstream::data(vec![b'x'; 64 << 10])).await.is_ok() {}
        });
        http::Response::new(body)
    })
    .await;
    let house = House::open(&tasks, open(vec![backend(upstream.address)]), hasty()).await;
    let mut greedy = house.client().await;
    greedy.send("GET /v1/models/iris HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    greedy.head().await;
    house.is_idle().await;
    let sent = house.gateway.metrics().snapshot().services.values().map(|one| one.response_bytes).sum::<u64>();
    assert!(sent < 64 << 20, "{sent} bytes were taken from the backend for nobody");
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = house.client().await;
    client.send("POST /v1/models/nobody:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n").await;
    client.send(vec![b'x'; 500_000]).await;
    assert_eq!(client.answer().await.unwrap().status, 404);
}

/// HTTP/2 frames by hand.
mod frames {
    pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

    pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// `GET / http` with authority `localhost`.
    pub(super) const GET: &[u8] = b"\x82\x84\x86\x41\x09localhost";

    /// The same with a method and a path of the model; 2 is `GET`, 3 is `POST`.
    pub(super) fn iris(method: u8) -> Vec<u8> {
        [&[0x80 | method, 0x86, 0x41, 9], b"localhost".as_slice(), &[0x44, 15], b"/v1/models/iris"].concat()
    }
}

#[tokio::test]
async fn streams_opened_and_reset_at_speed_end_the_connection() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, |_| async { http::Response::new(full("")) }).await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = Raw::connect(house.address).await;
    client.send(frames::PREFACE).await;
    let mut burst = Vec::new();
    for number in 0..2000u32 {
        let stream = number * 2 + 1;
        burst.extend(frames::frame(1, 0x5, stream, frames::GET));
        burst.extend(frames::frame(3, 0, stream, &8u32.to_be_bytes()));
    }
    client.send(burst).await;
    let seen = client.rest().await;
    assert!(seen.contains("too_many") || !seen.is_empty(), "closed, with a reason");
    house.is_idle().await;
    assert_eq!(house.client().await.ask("GET /v2/models HTTP/1.1\r\nHost: localhost\r\n\r\n").await.status, 200);
}

#[tokio::test]
async fn endless_continuation_frames_end_the_connection() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = Raw::connect(house.address).await;
    client.send(frames::PREFACE).await;
    client.send(frames::frame(1, 0x1, 1, frames::GET)).await;
    let line = [b"\x40\x01x\x7f\x80\x7e".as_slice(), &vec![b'a'; 16_000]].concat();
    for _ in 0..100 {
        client.send(frames::frame(9, 0, 1, &line)).await;
    }
    client.rest().await;
    house.is_idle().await;
}

#[tokio::test]
async fn an_upload_that_trickles_ends_and_one_that_the_backend_holds_up_does_not() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let config = GatewayConfig { min_upload_rate: 1000, ..hasty() };
    let house = House::open(&tasks, open(vec![backend(upstream.address)]), config).await;
    let mut client = house.client().await;
    client.send("POST /v1/models/iris:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n").await;
    let trickle = async {
        for _ in 0..1000 {
            client.send("x").await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            if house.gateway.metrics().snapshot().connections == 0 {
                return;
            }
        }
        panic!("still there");
    };
    tokio::time::timeout(Duration::from_secs(8), trickle).await.unwrap();
    house.is_idle().await;
    // A backend that reads late: the client has done nothing wrong.
    let slow = Upstream::raw(&tasks, |mut socket| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        tokio::time::sleep(Duration::from_millis(600)).await;
        let mut left = 8 << 20;
        let mut space = vec![0; 64 << 10];
        while left > 0 {
            let read = socket.read(&mut space).await.unwrap_or(0);
            if read == 0 {
                return;
            }
            left -= read.min(left);
        }
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    })
    .await;
    house.routes.store(std::sync::Arc::new(open(vec![backend(slow.address)])));
    let mut client = house.client().await;
    client
        .send(format!(
            "POST /v1/models/iris:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
            8 << 20
        ))
        .await;
    client.send(vec![b'x'; 8 << 20]).await;
    assert_eq!(client.answer().await.expect("an answer").status, 200);
}

#[tokio::test]
async fn frames_that_only_make_work_end_the_connection() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::before(&tasks, &upstream).await;
    let priority = frames::frame(2, 0, 1, &[0, 0, 0, 0, 1]);
    for (name, noise) in [
        ("pings", frames::frame(6, 0, 0, &[0; 8])),
        ("settings", frames::frame(4, 0, 0, &[])),
        ("priorities", priority),
        ("window updates", frames::frame(8, 0, 0, &1u32.to_be_bytes())),
    ] {
        let mut client = Raw::connect(house.address).await;
        client.send(frames::PREFACE).await;
        client.send(noise.repeat(20_000)).await;
        client.rest().await;
        let gone = async {
            while house.gateway.metrics().snapshot().connections > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), gone).await.unwrap_or_else(|_| panic!("{name}: still there"));
    }
    assert_eq!(house.client().await.ask("GET /v2/models HTTP/1.1\r\nHost: localhost\r\n\r\n").await.status, 200);
}

#[tokio::test]
async fn an_http2_client_that_gives_an_answer_no_window_loses_its_stream() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::open(&tasks, open(vec![backend(upstream.address)]), hasty()).await;
    let mut client = Raw::connect(house.address).await;
    // No window for any answer, ever; pings show that it is there.
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    client.send(frames::frame(4, 0, 0, &[0, 4, 0, 0, 0, 0])).await;
    client.send(frames::frame(1, 0x5, 1, &frames::iris(2))).await;
    let (mut reset, mut seen) = (false, 0);
    while !reset && seen < 100 {
        let head = client.bytes(9).await;
        client.bytes(usize::from(head[1]) << 8 | usize::from(head[2])).await;
        reset = head[3] == 3;
        seen += 1;
    }
    assert!(reset, "the stream is reset");
    house.is_idle().await;
    assert_eq!(upstream.requests(), 1);
}

#[tokio::test]
async fn an_upload_that_trickles_over_http2_ends_too() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let config = GatewayConfig { min_upload_rate: 1000, ..hasty() };
    let house = House::open(&tasks, open(vec![backend(upstream.address)]), config).await;
    let mut client = Raw::connect(house.address).await;
    client.send(frames::PREFACE).await;
    client.send(frames::frame(1, 0x4, 1, &frames::iris(3))).await;
    let ended = || {
        let metrics = house.gateway.metrics().snapshot();
        metrics.services.values().any(|one| one.responses[4] > 0 && one.in_flight == 0)
    };
    let trickle = async {
        while !ended() {
            client.send(frames::frame(0, 0, 1, b"x")).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(8), trickle).await.expect("a 408");
    house.is_idle().await;
}
