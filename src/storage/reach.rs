//! Where connections may go, and the HTTP client that keeps to it (promise D13).
//!
//! A manifest must not make the daemon fetch from a cloud's metadata service or from the daemon itself. Addresses are judged
//! where they cannot be swapped any more: literal ones in the URL and in every redirect, resolved ones in the client's own
//! resolver. Behind a proxy, which resolves names itself, only URLs are judged.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// What pulls may connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReachPolicy {
    /// Link-local addresses, where clouds keep instance metadata. Off by default.
    pub link_local: bool,
    /// Loopback and private networks, where emulators and in-house stores are. On by default.
    pub private: bool,
    /// Addresses the daemon listens on; never fetched from.
    pub own_listeners: Vec<SocketAddr>,
}

impl Default for ReachPolicy {
    fn default() -> Self {
        Self { link_local: false, private: true, own_listeners: Vec::new() }
    }
}

/// A place that is not fetched from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing is fetched from `{place}`: {reason}")]
pub struct Unreachable {
    /// Host or address.
    place: String,
    /// Which rule.
    reason: &'static str,
}

impl ReachPolicy {
    /// Judges a URL before it is asked for.
    ///
    /// # Errors
    /// It names a place that is not fetched from.
    pub fn check(&self, url: &Url) -> Result<(), Unreachable> {
        let refused = |reason| Err(Unreachable { place: url.host_str().unwrap_or_default().to_owned(), reason });
        let ip = match url.host() {
            Some(Host::Ipv4(ip)) => IpAddr::V4(ip),
            Some(Host::Ipv6(ip)) => IpAddr::V6(ip),
            Some(Host::Domain(name)) if is_metadata_name(name) && !self.link_local => {
                return refused("it is a cloud's metadata service");
            }
            Some(Host::Domain(_)) => return Ok(()),
            None => return refused("it names no host"),
        };
        if self.is_own_port(url) && self.is_own(ip) {
            return refused("it is this daemon");
        }
        self.judge(ip).map_or(Ok(()), refused)
    }

    /// Judges a URL and the addresses its name has now, for programs that connect by themselves.
    ///
    /// # Errors
    /// It names a place that is not fetched from. A name that has no address is left to the program.
    pub(super) async fn check_resolved(&self, url: &Url) -> Result<(), Unreachable> {
        self.check(url)?;
        let Some(Host::Domain(name)) = url.host() else { return Ok(()) };
        let Ok(found) = tokio::net::lookup_host((name, 0)).await else { return Ok(()) };
        for address in found {
            let own = self.is_own_port(url) && self.is_own(address.ip());
            if let Some(reason) = self.judge(address.ip()).or(own.then_some("it is this daemon")) {
                return Err(Unreachable { place: name.to_owned(), reason });
            }
        }
        Ok(())
    }

    /// Judges a redirect: as a URL, and never to a name at one of our own ports, which may lead back here.
    pub(super) fn check_redirect(&self, url: &Url) -> Result<(), Unreachable> {
        if matches!(url.host(), Some(Host::Domain(_))) && self.is_own_port(url) {
            let place = url.host_str().unwrap_or_default().to_owned();
            return Err(Unreachable { place, reason: "it may be this daemon" });
        }
        self.check(url)
    }

    fn is_own_port(&self, url: &Url) -> bool {
        self.own_listeners.iter().any(|own| Some(own.port()) == url.port_or_known_default())
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_loopback() || ip.is_unspecified() || self.own_listeners.iter().any(|own| own.ip().to_canonical() == ip)
    }

    /// Returns why an address is not connected to, if so.
    fn judge(&self, ip: IpAddr) -> Option<&'static str> {
        match embedded(ip) {
            IpAddr::V4(ip) if ip.octets()[0] == 0 && !ip.is_unspecified() => Some("it is no host's address"),
            ip if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) => Some("it is no host's address"),
            ip if is_link_local(ip) => (!self.link_local).then_some("it is a link-local or metadata address"),
            ip if is_private(ip) => (!self.private).then_some("it is a loopback or private address"),
            _ => None,
        }
    }
}

/// Returns the IPv4 address that an IPv6 one stands for, if so.
fn embedded(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip.to_canonical() else { return ip.to_canonical() };
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0, 0, high @ 1..=0xffff, low] => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        _ => IpAddr::V6(v6),
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip == Ipv4Addr::new(100, 100, 100, 200),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            ip.is_loopback() || ip.is_private() || ip.is_unspecified() || shared
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local(),
    }
}

fn is_metadata_name(name: &str) -> bool {
    name.trim_end_matches('.').eq_ignore_ascii_case("metadata.google.internal")
}

/// How a client should behave.
#[derive(Clone, Debug)]
pub(super) struct ClientWish<'a> {
    /// Where it goes first.
    pub(super) url: &'a Url,
    /// Whether it follows redirects by itself.
    pub(super) follow: bool,
    /// Whether certificates are verified.
    pub(super) verify_tls: bool,
    /// Certificate authorities besides the system's, PEM.
    pub(super) authorities: Option<Vec<u8>>,
    /// Client certificate and key, PEM.
    pub(super) identity: Option<Vec<u8>>,
    /// Longest silence.
    pub(super) stall: Duration,
}

/// Makes an HTTP client that keeps to the policy. Blocking: reads the system's certificates.
pub(super) fn client(
    policy: &ReachPolicy,
    wish: ClientWish<'_>,
    environment: &BTreeMap<String, String>,
) -> Result<reqwest::Client, reqwest::Error> {
    let resolver = Judge { policy: policy.clone(), never_here: policy.is_own_port(wish.url) };
    let redirects = policy.clone();
    let redirect = reqwest::redirect::Policy::custom(move |attempt| match redirects.check_redirect(attempt.url()) {
        Err(refused) => attempt.error(refused),
        Ok(()) if attempt.previous().len() > MOST_REDIRECTS => attempt.stop(),
        Ok(()) => attempt.follow(),
    });
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("kserve-local/", env!("CARGO_PKG_VERSION")))
        // Parallel ranges over one HTTP/2 connection would share its window.
        .http1_only()
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT.min(wish.stall))
        // A little later than the pull's own watch, which says more; this one is for listings.
        .read_timeout(wish.stall + Duration::from_secs(1))
        .redirect(if wish.follow { redirect } else { reqwest::redirect::Policy::none() })
        .dns_resolver(Arc::new(resolver))
        .tls_danger_accept_invalid_certs(!wish.verify_tls)
        .no_proxy();
    if let Some(pem) = wish.authorities {
        builder = builder.tls_certs_merge(reqwest::Certificate::from_pem_bundle(&pem)?);
    }
    if let Some(pem) = wish.identity {
        builder = builder.identity(reqwest::Identity::from_pem(&pem)?);
    }
    for proxy in proxies(environment)? {
        builder = builder.proxy(proxy);
    }
    builder.build()
}

/// Makes a client for calls that are no pulls. It follows no redirect.
///
/// # Errors
/// TLS cannot be set up.
pub fn caller(policy: &ReachPolicy) -> Result<reqwest::Client, reqwest::Error> {
    let resolver = Judge { policy: policy.clone(), never_here: false };
    let builder = reqwest::Client::builder()
        .user_agent(concat!("kserve-local/", env!("CARGO_PKG_VERSION")))
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .dns_resolver(Arc::new(resolver))
        .no_proxy();
    builder.build()
}

/// Most redirects followed.
pub(super) const MOST_REDIRECTS: usize = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

fn proxies(environment: &BTreeMap<String, String>) -> Result<Vec<reqwest::Proxy>, reqwest::Error> {
    let set = |names: [&str; 2]| names.iter().find_map(|name| environment.get(*name)).filter(|value| !value.is_empty());
    let except = set(["NO_PROXY", "no_proxy"]).and_then(|list| reqwest::NoProxy::from_string(list));
    let all = set(["ALL_PROXY", "all_proxy"]);
    let mut proxies = Vec::new();
    // Upper-case HTTP_PROXY is not read, as curl does not: a CGI caller could set it.
    if let Some(url) = environment.get("http_proxy").or(all) {
        proxies.push(reqwest::Proxy::http(url)?.no_proxy(except.clone()));
    }
    if let Some(url) = set(["HTTPS_PROXY", "https_proxy"]).or(all) {
        proxies.push(reqwest::Proxy::https(url)?.no_proxy(except));
    }
    Ok(proxies)
}

/// Resolves names to the addresses that may be connected to.
#[derive(Debug)]
struct Judge {
    policy: ReachPolicy,
    /// Whether addresses of this machine are refused, because the port is one of our own.
    never_here: bool,
}

impl Resolve for Judge {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, never_here) = (self.policy.clone(), self.never_here);
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let judged = found.iter().map(|address| match policy.judge(address.ip()) {
                None if never_here && policy.is_own(address.ip()) => Err("it is this daemon"),
                None => Ok(*address),
                Some(reason) => Err(reason),
            });
            let (good, bad): (Vec<_>, Vec<_>) = judged.partition(Result::is_ok);
            match bad.into_iter().find_map(Result::err) {
                Some(reason) if good.is_empty() => {
                    Err(Box::new(Unreachable { place: name.as_str().to_owned(), reason }) as Box<_>)
                }
                _ => Ok(Box::new(good.into_iter().flatten()) as Addrs),
            }
        })
    }
}

/// Walks an error and its causes.
pub(super) fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

/// Finds a cause of a type in a chain of errors.
pub(super) fn cause<'a, E: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a E> {
    chain(error).find_map(|error| error.downcast_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> ReachPolicy {
        ReachPolicy { own_listeners: vec!["127.0.0.1:8090".parse().unwrap()], ..ReachPolicy::default() }
    }

    #[test]
    fn metadata_addresses_and_the_daemon_itself_are_out_of_reach_in_every_spelling() {
        let table = [
            ("http://169.254.169.254/latest/meta-data", false),
            ("http://169.254.170.2/creds", false),
            ("http://2852039166/latest", false),
            ("http://0xa9fea9fe/latest", false),
            ("http://0251.0376.0251.0376/latest", false),
            ("http://[::ffff:169.254.169.254]/x", false),
            ("http://[64:ff9b::a9fe:a9fe]/x", false),
            ("http://[fe80::1]/x", false),
            ("http://[fd00:ec2::254]/x", false),
            ("http://100.100.100.200/x", false),
            ("http://metadata.google.internal/x", false),
            ("http://METADATA.google.internal./x", false),
            ("http://224.0.0.1/x", false),
            ("http://255.255.255.255/x", false),
            ("http://127.0.0.1:8090/apis", false),
            ("http://127.9.9.9:8090/apis", false),
            ("http://0.0.0.0:8090/apis", false),
            ("http://[::1]:8090/apis", false),
            ("http://[::ffff:127.0.0.1]:8090/apis", false),
            ("http://127.0.0.1:9000/bucket/m", true),
            ("http://192.168.1.5/m", true),
            ("http://10.0.0.5/m", true),
            ("https://example.com/m", true),
            ("http://example.com:8090/m", true),
            ("https://93.184.216.34/m", true),
        ];
        for (url, reachable) in table {
            let judged = policy().check(&Url::parse(url).unwrap());
            assert_eq!(judged.is_ok(), reachable, "{url}: {judged:?}");
        }
    }

    #[test]
    fn the_operator_opens_and_closes_private_and_link_local_places() {
        let closed = ReachPolicy { private: false, ..policy() };
        let open = ReachPolicy { link_local: true, ..policy() };
        let table = [
            ("http://127.0.0.1/m", false, true),
            ("http://10.1.2.3/m", false, true),
            ("http://[fd12::1]/m", false, true),
            ("http://100.64.0.1/m", false, true),
            ("http://169.254.169.254/m", false, true),
            ("http://127.0.0.1:8090/m", false, false),
            ("https://93.184.216.34/m", true, true),
        ];
        for (url, when_closed, when_open) in table {
            let url = Url::parse(url).unwrap();
            assert_eq!((closed.check(&url).is_ok(), open.check(&url).is_ok()), (when_closed, when_open), "{url}");
        }
    }

    #[test]
    fn a_redirect_to_a_name_at_our_own_port_is_not_followed() {
        let url = Url::parse("http://rebound.example:8090/apis").unwrap();
        assert!(policy().check_redirect(&url).is_err());
        assert!(policy().check_redirect(&Url::parse("http://rebound.example/m").unwrap()).is_ok());
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_a_place_out_of_reach_is_not_connected_to() {
        let url = Url::parse("http://localhost:8090/m").unwrap();
        let wish = ClientWish {
            url: &url,
            follow: false,
            verify_tls: true,
            authorities: None,
            identity: None,
            stall: Duration::from_secs(5),
        };
        let client = client(&policy(), wish, &BTreeMap::new()).unwrap();
        let error = client.get(url.clone()).send().await.unwrap_err();
        let refused = cause::<Unreachable>(&error).expect("the reason is in the chain");
        assert_eq!(refused.to_string(), "nothing is fetched from `localhost`: it is this daemon");
    }
}
