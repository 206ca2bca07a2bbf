//! One `POST` to a server, for what it is told and not asked: to rest, and to wake.

use std::net::SocketAddr;
use std::time::Duration;

use super::http;

/// Posts nothing to a path, and waits for a good answer.
///
/// # Errors
/// What was wrong, in a few words.
pub async fn post(addr: SocketAddr, path: &str, timeout: Duration) -> Result<(), String> {
    let called = tokio::time::timeout(timeout, http::post(addr, path)).await;
    called.unwrap_or_else(|_| Err(format!("no answer from {path} within {} s", timeout.as_secs())))
}
