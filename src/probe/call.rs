//! Calls to a server besides checks: to rest, to wake, to load and unload models.

use std::net::SocketAddr;
use std::time::Duration;

use super::http;

/// Asks a server whether a model of its answers, in whichever protocol it speaks.
///
/// # Errors
/// Nobody answers, or not in time: in a few words.
pub async fn model_answers(addr: SocketAddr, model: &str, timeout: Duration) -> Result<bool, String> {
    let asked = tokio::time::timeout(timeout, async {
        if http::is_ready(addr, &format!("/v2/models/{model}/ready")).await? {
            return Ok(true);
        }
        http::is_ready(addr, &format!("/v1/models/{model}")).await
    });
    asked.await.unwrap_or_else(|_| Err(format!("no answer about model {model} within {} s", timeout.as_secs())))
}

/// Posts nothing to a path, and waits for a good answer.
///
/// # Errors
/// What was wrong, in a few words.
pub async fn post(addr: SocketAddr, path: &str, timeout: Duration) -> Result<(), String> {
    let called = tokio::time::timeout(timeout, http::post(addr, path)).await;
    called.unwrap_or_else(|_| Err(format!("no answer from {path} within {} s", timeout.as_secs())))
}
