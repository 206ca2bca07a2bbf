//! One try at one backend: the request in the form its protocol wants, an answer in time, and what is said when there is
//! none.

use std::pin::pin;
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri, Version};

use crate::plan::routes::Backend;
use crate::workload::UpstreamProtocol;

use super::backend_body::BackendBody;
use super::balance::NoPlace;
use super::body::{BodyError, RequestBody};
use super::forward::{Exchange, Refused, chain};
use super::metrics::UpstreamError;
use super::multiplex::Unanswered;
use super::patience::Limits;
use super::place::no_place;
use super::refusal::Refusal;
use super::talk::{self, AskError, TalkError};
use super::upstream::{ConnectError, Sender};
use super::worker::RETRY_SOON;

/// Times a request that was not sent is offered to the same backend on another connection.
const MAX_RESENDS: usize = 3;

/// Where and how a backend is spoken to for this request.
#[derive(Clone, Copy)]
pub(super) struct Endpoint {
    address: std::net::SocketAddr,
    protocol: UpstreamProtocol,
}

/// What came of one try.
pub(super) enum Attempt {
    Answered(Response<BackendBody>),
    /// Nothing was sent; the request is as it was.
    Unsent(Box<Refusal>),
}

impl Exchange<'_> {
    pub(super) fn endpoint(&self, backend: &Backend) -> Refused<Endpoint> {
        match (self.grpc, backend.grpc_address, backend.protocol) {
            (true, Some(address), _) => Ok(Endpoint { address, protocol: UpstreamProtocol::H2c }),
            (true, None, UpstreamProtocol::Http1) => {
                let key = &self.target.service.key;
                let message = format!(
                    "InferenceService `{key}` has no gRPC port; call it over HTTP, or name a port of its container `h2c` or \
                     `grpc`"
                );
                Err(Box::new(Refusal::new(StatusCode::NOT_IMPLEMENTED, "NoGrpcPort", message)))
            }
            (_, _, protocol) => Ok(Endpoint { address: backend.address, protocol }),
        }
    }

    /// Puts the request into the form the protocol wants.
    fn address(&mut self, request: &mut Request<RequestBody>, endpoint: Endpoint, path: &PathAndQuery) -> Refused<()> {
        let host = match &self.host {
            Some(host) if !host.is_empty() => host.clone(),
            _ => HeaderValue::try_from(endpoint.address.to_string()).unwrap_or(HeaderValue::from_static("localhost")),
        };
        let mut uri = http::uri::Parts::default();
        uri.path_and_query = Some(path.clone());
        match endpoint.protocol {
            UpstreamProtocol::Http1 => {
                *request.version_mut() = Version::HTTP_11;
                if request.headers().contains_key(header::TE) && !request.headers().contains_key(header::CONNECTION) {
                    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("te"));
                }
                request.headers_mut().insert(header::HOST, host);
            }
            UpstreamProtocol::H2c => {
                *request.version_mut() = Version::HTTP_2;
                request.headers_mut().remove(header::CONNECTION);
                request.headers_mut().remove(header::UPGRADE);
                request.headers_mut().remove(header::HOST);
                self.said.move_into(request.headers_mut());
                uri.scheme = Some(Scheme::HTTP);
                uri.authority = Authority::try_from(host.as_bytes()).ok();
            }
        }
        *request.uri_mut() = Uri::from_parts(uri).map_err(|_| {
            Box::new(Refusal::bad_request("BadPath", "the path cannot be forwarded; percent-encode what no path has"))
        })?;
        Ok(())
    }

    pub(super) async fn attempt(
        &mut self,
        endpoint: Endpoint,
        path: &PathAndQuery,
        outgoing: &mut Option<Request<RequestBody>>,
    ) -> Refused<Attempt> {
        if let Some(request) = outgoing {
            self.address(request, endpoint, path)?;
        }
        let mut why = None;
        for _ in 0..MAX_RESENDS {
            let Endpoint { address, protocol } = endpoint;
            let sender = match self.worker.pool.ready(address, protocol) {
                Some(sender) => sender,
                None => match Box::pin(self.worker.pool.connect(address, protocol)).await {
                    Ok(sender) => sender,
                    Err(error) => return Ok(Attempt::Unsent(self.no_connection(&error))),
                },
            };
            let limits = self.limits();
            let Some(request) = outgoing.take() else { break };
            match sender {
                Sender::Http1(checkout) => {
                    let asked = pin!(talk::ask(checkout, request, &self.said, limits)).await;
                    return match asked {
                        Ok(response) => Ok(Attempt::Answered(response.map(BackendBody::Http1))),
                        Err(error) => Err(self.unanswered(&error, limits)),
                    };
                }
                Sender::H2c(mut shared) => {
                    let asked = pin!(shared.ask(request, limits)).await;
                    match asked {
                        Ok(response) => return Ok(Attempt::Answered(response.map(BackendBody::H2c))),
                        Err(Unanswered::Asked(error)) => return Err(self.unanswered(&error, limits)),
                        Err(Unanswered::Unsent(unsent, error)) => {
                            self.worker.pool.forget(address, &shared);
                            why = Some(self.cut(&error));
                            *outgoing = Some(*unsent);
                        }
                    }
                }
            }
        }
        let why = why.unwrap_or_else(|| Box::new(no_place(NoPlace::Nobody, &self.key())));
        Ok(Attempt::Unsent(why))
    }

    fn limits(&self) -> Limits {
        let config = &self.worker.config;
        let route = self.target.service.components.get(&self.target.component);
        let answer = route.and_then(|route| route.timeout).or(config.default_request_timeout);
        Limits { answer, stall: config.stall_timeout }
    }

    fn no_connection(&self, error: &ConnectError) -> Box<Refusal> {
        self.count(UpstreamError::Connect);
        self.worker.backend_refused.notify_one();
        tracing::debug!(service = %self.target.service.key, error = %chain(error), "no connection to backend");
        let message = format!("{} does not accept connections; it is being checked", self.key());
        Box::new(Refusal::unavailable("BackendRefused", message, RETRY_SOON))
    }

    /// Of what goes wrong while a request is sent, only a body that could not be read is the client's doing.
    fn unanswered(&self, error: &AskError, limits: Limits) -> Box<Refusal> {
        match error {
            AskError::TooLate => self.too_late(limits.answer),
            AskError::Body(body) => self.unreadable(body),
            AskError::Backend(TalkError::Nonsense(_)) => self.broke(error, "answered with what is no HTTP/1.1"),
            AskError::Backend(_) => self.cut(error),
        }
    }

    fn unreadable(&self, error: &BodyError) -> Box<Refusal> {
        self.count(UpstreamError::Broken);
        tracing::debug!(service = %self.target.service.key, error = %chain(error), "request was not sent");
        if let BodyError::TooSlow = error {
            let message = "the request's body came too slowly (`stallTimeout`, `minUploadRate`)";
            return Box::new(Refusal::new(StatusCode::REQUEST_TIMEOUT, "RequestTimeout", message).closing());
        }
        Box::new(Refusal::broken_body("the request's body could not be read; send it whole"))
    }

    fn cut(&self, error: &dyn std::error::Error) -> Box<Refusal> {
        self.broke(error, "ended the connection before it answered")
    }

    fn broke(&self, error: &dyn std::error::Error, what: &str) -> Box<Refusal> {
        self.count(UpstreamError::Broken);
        tracing::debug!(service = %self.target.service.key, error = %chain(error), "backend did not answer");
        let message = format!("{} {what}; {}", self.key(), self.see_logs());
        Box::new(Refusal::new(StatusCode::BAD_GATEWAY, "BackendBroke", message))
    }

    fn too_late(&self, limit: Option<Duration>) -> Box<Refusal> {
        self.count(UpstreamError::Timeout);
        let seconds = limit.map_or(0.0, |limit| limit.as_secs_f64());
        let message = format!(
            "{} did not begin to answer within {seconds} s; raise the component's `timeout` if it needs longer",
            self.key()
        );
        Box::new(Refusal::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message))
    }

    pub(super) fn see_logs(&self) -> String {
        let key = &self.target.service.key;
        format!("its output may say why: `kserve-local logs {} -n {}`", key.name, key.namespace)
    }

    fn count(&self, error: UpstreamError) {
        if let Some(flight) = self.flight.as_ref() {
            flight.metrics().upstream_error(error);
        }
    }
}
