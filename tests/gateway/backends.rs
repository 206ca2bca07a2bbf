//! HTTP/1 backends of every kind, byte by byte: what they may say, what becomes of their connections, and what is a
//! broken answer.

use std::sync::Arc;

use kserve_local::tasks::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::House;
use super::endings::{POST, hear};
use super::upstream::Upstream;

/// A backend that answers every request with these bytes, and keeps its connection.
async fn saying(tasks: &Tasks, wire: &str) -> Upstream {
    let wire: Arc<str> = wire.into();
    Upstream::raw(tasks, move |mut socket| {
        let wire = Arc::clone(&wire);
        async move { while !hear(&mut socket).await.is_empty() && socket.write_all(wire.as_bytes()).await.is_ok() {} }
    })
    .await
}

/// A backend that answers once with these bytes and closes.
async fn saying_once(tasks: &Tasks, wire: String) -> Upstream {
    let wire: Arc<str> = wire.into();
    Upstream::raw(tasks, move |mut socket| {
        let wire = Arc::clone(&wire);
        async move {
            hear(&mut socket).await;
            // Whoever has heard enough leaves.
            let _ = socket.write_all(wire.as_bytes()).await;
        }
    })
    .await
}

const GET: &str = "GET /v1/models/iris HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test]
async fn answers_pass_in_every_form_and_connections_are_kept_where_that_is_allowed() {
    let tasks = Tasks::new();
    for (name, wire, status, body, kept) in [
        ("length", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, "hi", true),
        ("nothing", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "", true),
        (
            "chunks, an extension and trailers",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n1;a=b\r\nh\r\n1 \r\ni\r\n0\r\nx: y\r\n\r\n",
            200,
            "hi",
            true,
        ),
        (
            "more to come",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            200,
            "hi",
            true,
        ),
        ("no content", "HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n", 204, "", true),
        ("not modified", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, "", true),
        ("1.0, kept", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi", 200, "hi", true),
        ("1.0", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, "hi", false),
        ("closing", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi", 200, "hi", false),
        (
            "more than asked for",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n\r\n",
            200,
            "hi",
            false,
        ),
    ] {
        let upstream = saying(&tasks, wire).await;
        let house = House::before(&tasks, &upstream).await;
        let mut client = house.client().await;
        for _ in 0..3 {
            let answer = client.ask(GET).await;
            assert_eq!((answer.status, answer.body.as_str()), (status, body), "{name}: {answer:?}");
        }
        house.is_idle().await;
        assert_eq!(upstream.connections(), if kept { 1 } else { 3 }, "{name}");
    }
}

#[tokio::test]
async fn answers_to_head_have_no_body_whatever_they_say() {
    let tasks = Tasks::new();
    for length in ["Content-Length: 9", "Transfer-Encoding: chunked"] {
        let upstream = saying(&tasks, &format!("HTTP/1.1 200 OK\r\n{length}\r\n\r\n")).await;
        let house = House::before(&tasks, &upstream).await;
        let mut client = house.client().await;
        for _ in 0..2 {
            client.send("HEAD /v1/models/iris HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
            let head = client.head().await;
            assert!(head.starts_with("http/1.1 200"), "{head}");
        }
        assert_eq!(upstream.connections(), 1, "{length}");
    }
}

#[tokio::test]
async fn an_answer_without_a_length_ends_with_the_connection() {
    let tasks = Tasks::new();
    for version in ["1.0", "1.1"] {
        let long = "x".repeat(300_000);
        let upstream = saying_once(&tasks, format!("HTTP/{version} 200 OK\r\n\r\n{long}")).await;
        let house = House::before(&tasks, &upstream).await;
        let mut client = house.client().await;
        for _ in 0..2 {
            assert_eq!(client.ask(GET).await.body, long, "{version}");
        }
        assert_eq!(upstream.connections(), 2);
    }
}

#[tokio::test]
async fn what_is_no_answer_is_a_bad_gateway_and_what_breaks_off_looks_broken() {
    let tasks = Tasks::new();
    let ok = "HTTP/1.1 200 OK\r\n";
    for (name, wire, begun) in [
        ("another protocol", "SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned(), false),
        ("lengths that differ", format!("{ok}Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi!"), false),
        ("a length that is none", format!("{ok}Content-Length: two\r\n\r\nhi"), false),
        ("chunks in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), false),
        ("a header without a name", format!("{ok}: x\r\n\r\n"), false),
        ("too many lines", format!("{ok}{}\r\n", "x: y\r\n".repeat(1000)), false),
        ("an endless line", format!("{ok}x: {}", "y".repeat(1 << 20)), false),
        ("never more than hints", "HTTP/1.1 103 Early Hints\r\n\r\n".to_owned(), false),
        ("no chunk", format!("{ok}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nx"), true),
        ("a chunk without an end", format!("{ok}Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n"), true),
        ("half trailers", format!("{ok}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx: y"), true),
        ("half a body", format!("{ok}Content-Length: 3\r\n\r\nhi"), true),
    ] {
        let upstream = saying_once(&tasks, wire).await;
        let house = House::before(&tasks, &upstream).await;
        let mut client = house.client().await;
        client.send(POST).await;
        let answer = client.answer().await;
        match begun {
            true => assert!(answer.is_none(), "{name}: {answer:?}"),
            false => assert_eq!(answer.map(|answer| answer.status), Some(502), "{name}"),
        }
        house.is_idle().await;
        assert_eq!(upstream.connections(), 1, "{name}: asked once");
    }
}

#[tokio::test]
async fn a_request_that_met_a_closing_connection_is_not_sent_again() {
    let tasks = Tasks::new();
    let upstream = Upstream::raw(&tasks, |mut socket| async move {
        hear(&mut socket).await;
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        // Takes the next request and closes.
        hear(&mut socket).await;
    })
    .await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = house.client().await;
    assert_eq!([client.ask(POST).await.status, client.ask(POST).await.status], [200, 502]);
    assert_eq!(upstream.connections(), 1);
    assert_eq!(client.ask(POST).await.status, 200, "on another connection");
    house.is_idle().await;
}

#[tokio::test]
async fn a_request_is_sent_to_its_end_although_its_answer_has_ended() {
    let tasks = Tasks::new();
    let upstream = Upstream::raw(&tasks, |mut socket| async move {
        loop {
            let head = hear(&mut socket).await;
            if head.is_empty() {
                return;
            }
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly").await.unwrap();
            let mut left = 300_000 - (head.len() - head.find("\r\n\r\n").unwrap() - 4);
            while left > 0 {
                left -= socket.read(&mut vec![0; left]).await.unwrap();
            }
        }
    })
    .await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = house.client().await;
    for _ in 0..3 {
        client.send("POST /v1/models/iris HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000\r\n\r\n").await;
        assert_eq!(client.answer().await.unwrap().body, "early");
        client.send(vec![b'x'; 300_000]).await;
    }
    let mut other = house.client().await;
    other.send("POST /v1/models/iris HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000\r\n\r\n").await;
    assert_eq!(other.answer().await.unwrap().body, "early", "the first client's last request may still be under way");
    drop(other);
    house.is_idle().await;
}

#[tokio::test]
async fn what_a_backend_says_before_it_leaves_is_heard_although_it_takes_no_more() {
    let tasks = Tasks::new();
    let upstream = Upstream::raw(&tasks, |mut socket| async move {
        hear(&mut socket).await;
        let refusal = b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge";
        socket.write_all(refusal).await.unwrap();
        socket.shutdown().await.unwrap();
        // Closing at once would throw the answer away.
        while socket.read(&mut [0; 4096]).await.is_ok_and(|len| len > 0) {}
    })
    .await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = house.client().await;
    client.send("POST /v1/models/iris HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n\r\n").await;
    client.send(vec![b'x'; 100_000]).await;
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (413, "large"));
    drop(client);
    house.is_idle().await;
}

/// Gives back what comes, without waiting for its end.
async fn giving_back(mut socket: TcpStream) {
    let head = hear(&mut socket).await;
    let (lines, begun) = head.split_once("\r\n\r\n").unwrap();
    let lines = lines.to_ascii_lowercase();
    let framing =
        lines.lines().find(|line| line.starts_with("content-length") || line.starts_with("transfer-encoding"));
    let answer = format!("HTTP/1.1 200 OK\r\n{}\r\nConnection: close\r\n\r\n{begun}", framing.unwrap());
    socket.write_all(answer.as_bytes()).await.unwrap();
    let (mut read, mut write) = socket.split();
    // Ends when the gateway has heard the whole answer and leaves.
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

/// Joins chunks.
fn joined(mut chunks: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = chunks.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        whole.push_str(&rest[..size]);
        chunks = &rest[size + 2..];
    }
    whole
}

#[tokio::test]
async fn large_bodies_pass_both_ways_at_once() {
    let tasks = Tasks::new();
    let upstream = Upstream::raw(&tasks, giving_back).await;
    let house = House::before(&tasks, &upstream).await;
    let body: String = (0..400_000).map(|number| format!("{number:07} ")).collect();
    let sized = format!("Content-Length: {}\r\n\r\n{body}", body.len());
    let chunks: String = body
        .as_bytes()
        .chunks(70_001)
        .map(|one| format!("{:x}\r\n{}\r\n", one.len(), std::str::from_utf8(one).unwrap()))
        .collect();
    let chunked = format!("Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
    for (method, framed) in [("POST", &sized), ("POST", &chunked), ("GET", &chunked)] {
        let mut client = TcpStream::connect(house.address).await.unwrap();
        let (mut read, mut write) = client.split();
        let request = format!("{method} /v1/models/iris HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{framed}");
        let mut answer = String::new();
        let (sent, heard) = tokio::join!(write.write_all(request.as_bytes()), read.read_to_string(&mut answer));
        assert!(sent.is_ok() && heard.is_ok(), "{method}: {sent:?}, {heard:?}");
        let (head, given) = answer.split_once("\r\n\r\n").unwrap();
        let whole = if head.contains("chunked") { joined(given) } else { given.to_owned() };
        assert!(head.contains("200 OK") && whole == body, "{method}: {head} {} bytes", whole.len());
    }
    house.is_idle().await;
}
