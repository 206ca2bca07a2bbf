//! Who may ask: the token, and where a browser's request came from.
//!
//! A web page can make a browser send requests to loopback. Two checks stop it: the `Host` must be a name of this
//! listener (a page's own host name that was re-bound to 127.0.0.1 is not), and an `Origin`, when there is one, must be
//! this listener itself.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, Uri, header};
use sha2::{Digest, Sha256};

use super::failure::Failure;

/// Paths that answer without the token.
pub fn is_open(path: &str) -> bool {
    matches!(path, "/healthz" | "/livez" | "/readyz" | "/metrics" | "/version")
}

/// Checks the bearer token, in a time that does not depend on how much of it is right.
///
/// # Errors
/// It is missing or wrong.
pub fn check_token(headers: &HeaderMap, token: &str) -> Result<(), Failure> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|text| text.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let Some((_, given)) = given else { return Err(Failure::unauthorized()) };
    let (expected, given) = (Sha256::digest(token), Sha256::digest(given.trim()));
    let difference = expected.iter().zip(given.iter()).fold(0, |sum, (a, b)| sum | (a ^ b));
    if difference == 0 && !token.is_empty() { Ok(()) } else { Err(Failure::unauthorized()) }
}

/// Checks that the request was meant for this listener and not made by another site's page.
///
/// # Errors
/// The host is not ours, or the origin is another.
pub fn check_site(headers: &HeaderMap, uri: &Uri, local: SocketAddr) -> Result<(), Failure> {
    let text = |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    let authority = uri.authority().map(|authority| authority.as_str()).or_else(|| text(header::HOST));
    let Some(authority) = authority else {
        return Err(Failure::bad_request("the request names no host"));
    };
    if headers.get_all(header::HOST).iter().count() > 1 || !is_own_host(authority, local.ip()) {
        return Err(Failure::forbidden(format!(
            "host \"{authority}\" is not this listener: use {local} or localhost:{}",
            local.port()
        )));
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let own = origin
            .to_str()
            .is_ok_and(|origin| origin.split_once("://").is_some_and(|(_, host)| host.eq_ignore_ascii_case(authority)));
        if !own {
            return Err(Failure::forbidden("requests from other web sites are refused"));
        }
    }
    let site = text(header::HeaderName::from_static("sec-fetch-site"));
    if site.is_some_and(|site| !matches!(site, "same-origin" | "none")) {
        return Err(Failure::forbidden("requests from other web sites are refused"));
    }
    Ok(())
}

fn is_own_host(authority: &str, local: IpAddr) -> bool {
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.split(':').next().unwrap_or_default(),
    };
    let host = host.trim_end_matches('.');
    match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || address == local.to_canonical(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_the_right_token_is_let_in() {
        let with = |value: &str| check_token(&headers(&[("authorization", value)]), "secret").is_ok();
        assert!(with("Bearer secret") && with("bearer secret"));
        assert!(!with("Bearer secre") && !with("Bearer secret2") && !with("Basic secret") && !with("secret"));
        assert!(check_token(&HeaderMap::new(), "secret").is_err());
        assert!(check_token(&headers(&[("authorization", "Bearer ")]), "").is_err());
    }

    #[test]
    fn a_web_page_of_another_site_is_not_served() {
        let local: SocketAddr = "127.0.0.1:8090".parse().unwrap();
        let check =
            |pairs: &[(&'static str, &str)]| check_site(&headers(pairs), &Uri::from_static("/x"), local).is_ok();
        for host in ["127.0.0.1:8090", "localhost:8090", "LOCALHOST", "[::1]:8090", "127.0.0.1"] {
            assert!(check(&[("host", host)]), "{host}");
        }
        for host in ["evil.example:8090", "iris.localhost:8090", "10.1.2.3:8090", "localhost.evil.example", ""] {
            assert!(!check(&[("host", host)]), "{host}");
        }
        assert!(!check(&[]));
        assert!(check(&[("host", "localhost:8090"), ("origin", "http://localhost:8090")]));
        for origin in ["http://evil.example", "null", "http://localhost:8080"] {
            assert!(!check(&[("host", "localhost:8090"), ("origin", origin)]), "{origin}");
        }
        for (site, expected) in [("cross-site", false), ("same-site", false), ("same-origin", true), ("none", true)] {
            assert_eq!(check(&[("host", "localhost:8090"), ("sec-fetch-site", site)]), expected, "{site}");
        }
    }

    #[test]
    fn the_listeners_own_address_is_a_host_of_ours() {
        let local: SocketAddr = "10.1.2.3:8090".parse().unwrap();
        assert!(check_site(&headers(&[("host", "10.1.2.3:8090")]), &Uri::from_static("/"), local).is_ok());
        assert!(check_site(&headers(&[("host", "10.1.2.4:8090")]), &Uri::from_static("/"), local).is_err());
    }
}
