//! A WebSocket that says back what it hears, at any path.

use futures_util::{SinkExt, StreamExt};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::reply::{self, Reply};

pub fn is_asked_for(request: &Request<Incoming>) -> bool {
    let upgrade = request.headers().get(UPGRADE).and_then(|value| value.to_str().ok());
    upgrade.is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket"))
}

pub fn accept(request: Request<Incoming>) -> Reply {
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) else {
        return reply::error(StatusCode::BAD_REQUEST, "the handshake has no Sec-WebSocket-Key");
    };
    let accept = derive_accept_key(key.as_bytes());
    tokio::spawn(echo(request));
    let mut answer = reply::bytes(StatusCode::SWITCHING_PROTOCOLS, "text/plain", "".into());
    let headers = answer.headers_mut();
    headers.clear();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept.parse().expect("base64 is a header value"));
    answer
}

async fn echo(request: Request<Incoming>) {
    // Without an upgrade, or after an error, there is nobody left to tell.
    let Ok(upgraded) = hyper::upgrade::on(request).await else {
        return;
    };
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        let is_content = message.is_text() || message.is_binary();
        if is_content && socket.send(message).await.is_err() {
            return;
        }
    }
}
