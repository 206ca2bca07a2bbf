//! What a host name says about the service it addresses. Pure.

use std::borrow::Cow;

/// Where a host name is in relation to the domains we know.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// No host, an IP address, or a known domain itself: nothing is said about a service.
    Bare,
    /// Below a known domain; this is the part before it, in lower case: `iris-default`, `iris.default`.
    Below(Cow<'a, str>),
    /// Not below any domain we know; the whole host, in lower case.
    Elsewhere(Cow<'a, str>),
}

/// Domains under which Kubernetes knows services within a cluster.
const CLUSTER_DOMAINS: [&str; 2] = ["svc.cluster.local", "svc"];

/// Places a `Host` header or `:authority`. Case, port and a trailing dot mean nothing.
pub(crate) fn place<'a>(host: Option<&'a str>, domains: &[String]) -> Place<'a> {
    let name = match host.map(host_name) {
        None | Some("") => return Place::Bare,
        Some(name) if name.starts_with('[') || name.parse::<std::net::Ipv4Addr>().is_ok() => return Place::Bare,
        Some(name) => lower(name),
    };
    let mut best: Option<usize> = None;
    for domain in domains.iter().map(String::as_str).chain(CLUSTER_DOMAINS) {
        if domain == name {
            return Place::Bare;
        }
        if let Some(left) = name.strip_suffix(domain).and_then(|left| left.strip_suffix('.')) {
            best = Some(best.map_or(left.len(), |len: usize| len.min(left.len())));
        }
    }
    match best {
        Some(len) => Place::Below(cut(name, len)),
        None => Place::Elsewhere(name),
    }
}

/// Whether what is in brackets is an IPv6 address, and what follows the name no port, an empty one, which RFC 9110 allows,
/// or a number a port can have.
pub(crate) fn is_possible(host: &str) -> bool {
    let after_name = match host.strip_prefix('[') {
        Some(bracketed) => match bracketed.split_once(']') {
            Some((address, rest)) if address.parse::<std::net::Ipv6Addr>().is_ok() => rest,
            _ => return false,
        },
        None => host.find([':', '[', ']']).map_or("", |end| &host[end..]),
    };
    let Some(port) = after_name.strip_prefix(':') else { return after_name.is_empty() };
    port.is_empty() || (port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

/// Whether a host is one of those under which services know each other: below a domain of the cluster, or of no domain.
pub(crate) fn is_internal(host: Option<&str>, domains: &[String]) -> bool {
    match place(host, domains) {
        Place::Bare => false,
        Place::Elsewhere(_) => true,
        Place::Below(label) => {
            let name = host.map(host_name).unwrap_or_default();
            let domain = name.get(label.len() + 1..).unwrap_or_default();
            CLUSTER_DOMAINS.iter().any(|cluster| domain.eq_ignore_ascii_case(cluster))
        }
    }
}

/// Returns the host without port and trailing dot; an IPv6 literal keeps its brackets.
fn host_name(host: &str) -> &str {
    if host.starts_with('[') {
        return host;
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    name.strip_suffix('.').unwrap_or(name)
}

fn lower(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

fn cut(name: Cow<'_, str>, len: usize) -> Cow<'_, str> {
    match name {
        Cow::Borrowed(name) => Cow::Borrowed(&name[..len]),
        Cow::Owned(mut name) => {
            name.truncate(len);
            Cow::Owned(name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_a_port_that_ports_can_have_or_none_and_an_address_in_its_brackets() {
        for host in ["a.b", "a.b:", "a.b:80", "a.b:65535", "[::1]", "[::1]:", "[::1]:8080", "", ":80"] {
            assert!(is_possible(host), "{host}");
        }
        for host in ["a.b:abc", "a.b:65536", "a.b:99999", "a.b:-1", "a.b:80:80", "::1", "[::1]8080", "[::1]:x", "a:8_0"]
            .into_iter()
            .chain(["[", "[::1", "[zzz]", "[127.0.0.1]", "[]", "a]b", "a[b"])
        {
            assert!(!is_possible(host), "{host}");
        }
    }

    #[test]
    fn hosts_are_placed_whatever_their_case_port_or_trailing_dot() {
        let domains = ["example.com".to_owned(), "localhost".to_owned(), "models.example.com".to_owned()];
        let below = |label: &str| Place::Below(Cow::Owned(label.to_owned()));
        let elsewhere = |label: &str| Place::Elsewhere(Cow::Owned(label.to_owned()));
        let table = [
            (None, Place::Bare),
            (Some(""), Place::Bare),
            (Some("localhost:8080"), Place::Bare),
            (Some("LOCALHOST."), Place::Bare),
            (Some("127.0.0.1:1"), Place::Bare),
            (Some("[::1]:8080"), Place::Bare),
            (Some("iris-default.example.com"), below("iris-default")),
            (Some("Iris.Default.EXAMPLE.com.:80"), below("iris.default")),
            (Some("iris-default.models.example.com"), below("iris-default")),
            (Some("iris.default.svc.cluster.local"), below("iris.default")),
            (Some("iris.default.svc"), below("iris.default")),
            (Some("iris-predictor.default"), elsewhere("iris-predictor.default")),
            (Some("xexample.com"), elsewhere("xexample.com")),
            (Some(":80"), Place::Bare),
        ];
        for (host, wanted) in table {
            assert_eq!(place(host, &domains), wanted, "{host:?}");
        }
    }
}
