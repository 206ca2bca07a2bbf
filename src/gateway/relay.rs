//! An answer on its way to the client, or the end of HTTP on a connection whose protocol changes.

use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;

use super::backend_body::BackendBody;
use super::body::{AnswerBody, Held, Relay};
use super::forward::{Exchange, Refused};
use super::headers;
use super::hold::PHASE_HEADER;
use super::refusal::Refusal;
use super::tunnel::Tunnel;

/// What the client wants to change to, and its end of the connection.
pub(super) struct Upgrade {
    pub(super) protocol: HeaderValue,
    client: OnUpgrade,
    /// Asked for by an extended `CONNECT` of HTTP/2 (RFC 8441), where agreement is a 200.
    extended: bool,
}

/// Finds what the client wants to change to. An extended `CONNECT` becomes the request that HTTP/1 has for it.
pub(super) fn wanted_upgrade(request: &mut Request<Incoming>) -> Option<Upgrade> {
    if let Some(protocol) = request.extensions().get::<Protocol>() {
        let protocol = HeaderValue::from_str(protocol.as_str()).ok()?;
        let client = hyper::upgrade::on(&mut *request);
        *request.method_mut() = Method::GET;
        headers::add_websocket_key(request.headers_mut());
        return Some(Upgrade { protocol, client, extended: true });
    }
    let protocol = headers::wanted_upgrade(request.headers()).filter(|_| request.version() == Version::HTTP_11)?;
    Some(Upgrade { protocol, client: hyper::upgrade::on(request), extended: false })
}

impl Exchange<'_> {
    pub(super) fn relay(
        &mut self,
        response: Response<BackendBody>,
        held: Held,
        upgrade: Option<Upgrade>,
    ) -> Refused<Response<AnswerBody>> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return self.change_protocol(response, held, upgrade);
        }
        if response.status().is_success() && upgrade.is_some_and(|upgrade| upgrade.extended) {
            // Over HTTP/2 this would say that the backend has agreed.
            let message = format!("{} did not change the protocol; call it without an upgrade", self.key());
            return Err(Box::new(Refusal::new(StatusCode::BAD_GATEWAY, "NotUpgraded", message)));
        }
        let mut flight = self.flight.take().ok_or_else(|| self.unasked())?;
        flight.answered(response.status());
        let (mut parts, body) = response.into_parts();
        if parts.headers.contains_key(header::TRANSFER_ENCODING) {
            parts.headers.remove(header::CONTENT_LENGTH);
        }
        headers::strip_hop_by_hop(&mut parts.headers);
        parts.version = Version::HTTP_11;
        if let Some(phase) = self.held.take() {
            parts.headers.insert(PHASE_HEADER, phase);
        }
        let tap = self.taps.as_mut().and_then(|taps| taps.of_answer(parts.status, &parts.headers));
        let idle_timeout = self.worker.config.body_idle_timeout;
        let relay = Relay::new(body, idle_timeout, flight, held, tap);
        Ok(Response::from_parts(parts, AnswerBody::Relayed(Box::new(relay))))
    }

    /// The backend has agreed to an upgrade: from here on bytes, until one side ends.
    fn change_protocol(
        &mut self,
        response: Response<BackendBody>,
        held: Held,
        upgrade: Option<Upgrade>,
    ) -> Refused<Response<AnswerBody>> {
        let upgrade = upgrade.ok_or_else(|| self.unasked())?;
        let (mut parts, body) = response.into_parts();
        let BackendBody::Http1(hearing) = body else { return Err(self.unasked()) };
        let (backend, said) = hearing.into_tunnel().ok_or_else(|| self.unasked())?;
        let mut flight = self.flight.take().ok_or_else(|| self.unasked())?;
        flight.answered(parts.status);
        let agreed = parts.headers.get(header::UPGRADE).cloned().unwrap_or(upgrade.protocol);
        let tunnel = Tunnel {
            client: upgrade.client,
            backend,
            said,
            idle_timeout: self.worker.config.tunnel_idle_timeout,
            cancel: self.worker.ending.cut.clone(),
            flight,
            held,
        };
        drop(self.worker.tasks.spawn("tunnel", tunnel.run()));
        headers::strip_hop_by_hop(&mut parts.headers);
        parts.extensions.clear();
        if upgrade.extended {
            parts.status = StatusCode::OK;
            parts.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
        } else {
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(header::UPGRADE, agreed);
        }
        Ok(Response::from_parts(parts, AnswerBody::Own(None, None)))
    }

    fn unasked(&self) -> Box<Refusal> {
        let message = format!("{} changed the protocol without being asked; {}", self.key(), self.see_logs());
        Box::new(Refusal::new(StatusCode::BAD_GATEWAY, "BackendBroke", message))
    }
}
