//! What is refused whatever it asks for: methods, expectations and hosts that there are not here, and over HTTP/2 what
//! HTTP/1 could not carry or what is over a limit. Over HTTP/1 the [guard](super::guard) sees to the latter. Pure.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode, Version};
use hyper::ext::Protocol;

use super::address;
use super::config::GatewayConfig;
use super::refusal::Refusal;

/// Refuses what we do not do.
pub(super) fn check<B>(request: &Request<B>, config: &GatewayConfig) -> Result<(), Box<Refusal>> {
    // With a protocol it is WebSocket's over HTTP/2 (RFC 8441), else it asks for a proxy to anywhere.
    let protocol = request.extensions().get::<Protocol>();
    let connect = request.method() == Method::CONNECT && protocol.is_none_or(|protocol| is_h2c(protocol.as_str()));
    if connect || request.method() == Method::TRACE {
        let message = format!("{} is not supported; send the request itself", request.method());
        return Err(Box::new(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)));
    }
    let is_known = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if !request.headers().get_all(header::EXPECT).iter().all(is_known) {
        let message = "only `100-continue` can be expected; leave other expectations out";
        return Err(Box::new(Refusal::new(StatusCode::EXPECTATION_FAILED, "ExpectationFailed", message)));
    }
    if request.version() == Version::HTTP_2 { check_http2(request, config) } else { Ok(()) }
}

/// HTTP/2 within another connection would not be looked at by anyone.
fn is_h2c(protocol: &str) -> bool {
    protocol.eq_ignore_ascii_case("h2c")
}

fn check_http2<B>(request: &Request<B>, config: &GatewayConfig) -> Result<(), Box<Refusal>> {
    let target = request.uri().path_and_query().map_or("", |target| target.as_str());
    if target.len() > config.max_uri_bytes {
        return Err(Box::new(Refusal::uri_too_long()));
    }
    if request.headers().len() > config.max_header_count {
        return Err(Box::new(Refusal::headers_too_large()));
    }
    if !target.is_ascii() {
        let message = "the path has bytes that no path has; percent-encode them";
        return Err(Box::new(Refusal::bad_request("BadPath", message)));
    }
    if target == "*" && request.method() != Method::OPTIONS {
        let message = "`*` is a target of OPTIONS only; send a path that begins with /";
        return Err(Box::new(Refusal::bad_request("BadPath", message)));
    }
    if is_said_twice(request.headers(), &header::CONTENT_LENGTH) {
        return Err(Box::new(Refusal::bad_request("BadContentLength", "Content-Length is repeated; send it once")));
    }
    if is_said_twice(request.headers(), &header::HOST) {
        return Err(Box::new(Refusal::bad_request("BadHost", "Host is repeated; send it once")));
    }
    Ok(())
}

fn is_said_twice(headers: &HeaderMap, name: &header::HeaderName) -> bool {
    headers.get_all(name).iter().nth(1).is_some()
}

/// Returns the host that is addressed: an authority in the request's target wins over `Host`, as RFC 9112 wants; over
/// HTTP/2 the two must agree.
pub(super) fn host_of<B>(request: &Request<B>) -> Result<Option<HeaderValue>, Box<Refusal>> {
    let host = request.headers().get(header::HOST);
    let Some(authority) = request.uri().authority() else { return valid_host(host.cloned()) };
    if request.version() == Version::HTTP_2
        && host.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()))
    {
        let message = "`host` and `:authority` differ; send `:authority` alone";
        return Err(Box::new(Refusal::bad_request("HostMismatch", message)));
    }
    valid_host(HeaderValue::from_str(authority.as_str()).ok())
}

fn valid_host(host: Option<HeaderValue>) -> Result<Option<HeaderValue>, Box<Refusal>> {
    let valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(byte);
    match host {
        Some(host) if !host.as_bytes().iter().all(valid) || !address::is_possible(as_str(&host)) => {
            let message =
                "the host is no name, IPv4 address or [IPv6 address] with a port or without; send one of these";
            Err(Box::new(Refusal::bad_request("BadHost", message)))
        }
        host => Ok(host),
    }
}

/// A value that may be a name of ours; those that are no ASCII are none.
pub(super) fn as_str(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(build: http::request::Builder) -> Option<(u16, String)> {
        let request = build.body(()).unwrap();
        let config = GatewayConfig { max_uri_bytes: 20, max_header_count: 3, ..GatewayConfig::default() };
        let refused = check(&request, &config).and_then(|()| host_of(&request).map(drop)).err();
        refused.map(|refusal| (refusal.status.as_u16(), refusal.reason.into_owned()))
    }

    #[test]
    fn over_http2_limits_hold_and_nothing_passes_that_http1_cannot_carry() {
        let http2 = |uri: &str| Request::get(format!("http://localhost{uri}")).version(Version::HTTP_2);
        let said = |status, reason: &str| Some((status, reason.to_owned()));
        let long = format!("/{}", "a".repeat(20));
        for (name, request, wanted) in [
            ("plain", http2("/a?b"), None),
            ("a long path", http2(&long), said(414, "UriTooLong")),
            ("many lines", (0..4).fold(http2("/"), |all, _| all.header("x", "y")), said(431, "HeadersTooLarge")),
            ("as many as may", (0..3).fold(http2("/"), |all, _| all.header("x", "y")), None),
            ("bytes of UTF-8", http2("/\u{e9}"), said(400, "BadPath")),
            ("and in a query", http2("/?\u{e9}"), said(400, "BadPath")),
            ("an asterisk", Request::get("*").version(Version::HTTP_2), said(400, "BadPath")),
            ("for OPTIONS", Request::options("*").version(Version::HTTP_2), None),
            (
                "two lengths",
                http2("/").header("content-length", "0").header("content-length", "0"),
                said(400, "BadContentLength"),
            ),
            ("two hosts", http2("/").header("host", "localhost").header("host", "b"), said(400, "BadHost")),
            ("another host", http2("/").header("host", "b"), said(400, "HostMismatch")),
            (
                "HTTP/2 inside",
                {
                    let connect = Request::connect("http://localhost/").version(Version::HTTP_2);
                    connect.extension(Protocol::from_static("h2c"))
                },
                said(405, "MethodNotAllowed"),
            ),
            (
                "a WebSocket",
                {
                    let connect = Request::connect("http://localhost/").version(Version::HTTP_2);
                    connect.extension(Protocol::from_static("websocket"))
                },
                None,
            ),
        ] {
            assert_eq!(reason(request), wanted, "{name}");
        }
    }

    #[test]
    fn every_expectation_must_be_one_that_we_know() {
        let two = Request::post("/").header("expect", "100-Continue").header("expect", "something");
        assert_eq!(reason(two), Some((417, "ExpectationFailed".to_owned())));
    }
}
