//! A panic of ours hurts one request and nothing else.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Gateway, GatewayConfig};
use crate::tasks::Tasks;
use crate::traffic::TrafficBoard;

/// The method that makes a worker panic, in tests only.
pub(crate) const PANIC: &str = "PANIC";

async fn ask(client: &mut TcpStream, method: &str) -> String {
    client.write_all(format!("{method} /v2/models HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"}\n") {
        assert!(client.read_buf(&mut seen).await.unwrap() > 0, "the connection was closed");
    }
    String::from_utf8(seen).unwrap()
}

#[tokio::test]
async fn a_panic_hurts_one_request() {
    let tasks = Tasks::new();
    let config = GatewayConfig { workers: 1, ..GatewayConfig::default() };
    let gateway = Arc::new(Gateway::new(Arc::new(ArcSwap::default()), TrafficBoard::default(), config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (served, group, end) = (Arc::clone(&gateway), tasks.clone(), tasks.token());
    tasks.spawn("gateway", async move { served.serve(listener, &group, end).await });
    let mut other = TcpStream::connect(address).await.unwrap();
    assert!(ask(&mut other, "GET").await.starts_with("HTTP/1.1 200"));
    let mut client = TcpStream::connect(address).await.unwrap();
    for _ in 0..2 {
        let answer = ask(&mut client, PANIC).await;
        assert!(answer.starts_with("HTTP/1.1 500") && answer.contains("\"reason\":\"Bug\""), "{answer}");
    }
    assert!(ask(&mut client, "GET").await.starts_with("HTTP/1.1 200"), "the connection stays");
    assert!(ask(&mut other, "GET").await.starts_with("HTTP/1.1 200"), "others on the worker do not feel it");
    let metrics = gateway.metrics().snapshot();
    assert_eq!((metrics.panics, metrics.unrouted.in_flight), (2, 0));
    assert_eq!(metrics.unrouted.responses, [0, 0, 3, 0, 0, 2], "each counted once");
}
