//! Connections between requests: those of clients at rest, and those to backends that are just being closed.

use std::sync::Arc;
use std::time::Duration;

use kserve_local::gateway::GatewayConfig;
use kserve_local::tasks::Tasks;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use super::endings::{POST, hear};
use super::upstream::{Upstream, mirror};
use super::{House, backend, open};

fn restless() -> GatewayConfig {
    GatewayConfig { rest_after: Duration::from_millis(1), ..GatewayConfig::default() }
}

/// Waits until connections have been put aside that many times.
async fn rested(house: &House, times: u64) {
    let metrics = house.gateway.metrics();
    let reached = async {
        while metrics.snapshot().rests < times {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), reached).await.expect("a connection without a request rests");
}

#[tokio::test]
async fn a_connection_at_rest_answers_as_before() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = House::open(&tasks, open(vec![backend(upstream.address)]), restless()).await;
    let mut client = house.client().await;
    for times in 1..5 {
        assert_eq!(client.ask(POST).await.status, 200);
        rested(&house, times).await;
    }
    // Byte by byte, with rests that must not happen in between; then a request behind another.
    for byte in POST.as_bytes() {
        client.send([*byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.answer().await.expect("an answer").json()["body"], "{}");
    client.send([POST, POST].concat()).await;
    assert_eq!(client.answer().await.expect("the first").status, 200);
    assert_eq!(client.answer().await.expect("the second").status, 200);
    rested(&house, 5).await;
    assert_eq!(client.ask("GET / HTTP/3.0\r\n\r\n").await.status, 505, "no less strict than before");
    assert!(client.is_closed().await);
    assert_eq!(house.gateway.metrics().snapshot().panics, 0);
}

#[tokio::test]
async fn a_connection_at_rest_is_closed_when_its_time_is_up_and_when_we_end() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let config = GatewayConfig { idle_timeout: Duration::from_millis(100), ..restless() };
    let house = House::open(&tasks, open(vec![backend(upstream.address)]), config).await;
    let mut client = house.client().await;
    assert_eq!(client.ask(POST).await.status, 200);
    assert!(client.is_closed().await, "asks nothing more");
    let house = House::open(&tasks, open(vec![backend(upstream.address)]), restless()).await;
    let (mut client, leaver) = (house.client().await, house.client().await);
    assert_eq!(client.ask(POST).await.status, 200);
    drop(leaver);
    rested(&house, 1).await;
    house.cancel.cancel();
    assert!(client.is_closed().await);
    let ended = tokio::time::timeout(Duration::from_secs(5), house.served).await;
    ended.expect("nothing was left to wait for").unwrap().unwrap();
}

#[tokio::test]
async fn a_request_never_goes_to_a_backend_that_has_left() {
    let tasks = Tasks::new();
    let left = Arc::new(Notify::new());
    let leaves = Arc::clone(&left);
    // It says nothing of closing, and does.
    let upstream = Upstream::raw(&tasks, move |mut socket| {
        let left = Arc::clone(&leaves);
        async move {
            hear(&mut socket).await;
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            drop(socket);
            left.notify_one();
        }
    })
    .await;
    let house = House::before(&tasks, &upstream).await;
    let mut client = house.client().await;
    for _ in 0..50 {
        // No pause: the end of the connection and the next request are there together.
        assert_eq!(client.ask(POST).await.status, 200);
        left.notified().await;
    }
    assert_eq!(upstream.connections(), 50);
}
