//! Header maps on their way through: hop-by-hop fields stop here, forwarding fields are ours.

use base64::Engine as _;
use http::header::{self, Entry, HeaderMap, HeaderName, HeaderValue};

use super::desk::Desk;

const ISVC_NAME: HeaderName = HeaderName::from_static("kserve-isvc-name");
const ISVC_NAMESPACE: HeaderName = HeaderName::from_static("kserve-isvc-namespace");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Removes what concerns one connection only, fields named by `Connection` included.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    strip(headers, is_hop_by_hop);
}

/// Removes the same from a request, what has been answered by us, and what only we may say unless `trust` says that the
/// client is a proxy of ours.
pub(crate) fn strip_request(headers: &mut HeaderMap, trust: bool) {
    strip(headers, |name| is_hop_by_hop(name) || name == "expect" || (!trust && is_ours(name)));
}

fn strip(headers: &mut HeaderMap, goes: impl Fn(&str) -> bool + Copy) {
    // One look at each name is cheaper than a search for each of these.
    let mut found: [Option<HeaderName>; HOP_BY_HOP + EXPECT + OURS] = Default::default();
    let names = headers.keys().filter(|name| goes(name.as_str()));
    found.iter_mut().zip(names).for_each(|(place, name)| *place = Some(name.clone()));
    let is_full = found.iter().all(Option::is_some);
    let found = || found.iter().map_while(Option::as_ref);
    if found().any(|name| *name == header::CONNECTION) {
        for name in named_by_connection(headers) {
            headers.remove(name);
        }
    }
    for name in found() {
        headers.remove(name);
    }
    if is_full {
        // There may be more: some are written in several ways.
        strip(headers, goes);
    }
}

/// As many as [`is_hop_by_hop`] knows.
const HOP_BY_HOP: usize = 9;
const EXPECT: usize = 1;
/// As many as [`is_ours`] knows.
const OURS: usize = 10;

/// Whether a field says where a request came from or whose it is. Servers that make variables of headers (WSGI, CGI) do
/// not tell `X_Forwarded_For` from `X-Forwarded-For`.
fn is_ours(name: &str) -> bool {
    is_ours_as_written(name)
        || (matches!(name.len(), 9 | 15..=18 | 21) && name.contains('_') && is_ours_as_written(&name.replace('_', "-")))
}

fn is_ours_as_written(name: &str) -> bool {
    matches!(
        name,
        "forwarded"
            | "x-forwarded-for"
            | "x-forwarded-proto"
            | "x-forwarded-host"
            | "x-forwarded-port"
            | "x-forwarded-prefix"
            | "x-forwarded-server"
            | "x-real-ip"
            | "kserve-isvc-name"
            | "kserve-isvc-namespace"
    )
}

/// Whether a field may be a trailer: none that changes how a message is framed, routed or understood (RFC 9110, section
/// 6.5.1), or says what only we may say.
pub(crate) fn may_be_trailer(name: &HeaderName) -> bool {
    let name = name.as_str();
    let never = matches!(
        name,
        "authorization"
            | "cache-control"
            | "content-encoding"
            | "content-length"
            | "content-range"
            | "content-type"
            | "cookie"
            | "expect"
            | "host"
            | "max-forwards"
            | "set-cookie"
            | "trailer"
    );
    !never && !is_hop_by_hop(name) && !is_ours(name)
}

fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "te" | "upgrade"
            | "connection"
            | "keep-alive"
            | "http2-settings"
            | "proxy-connection"
            | "transfer-encoding"
            | "proxy-authenticate"
            | "proxy-authorization"
    )
}

/// `Host` and the body's length are never hop-by-hop, whoever says so.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    // What most say is no field, or one that stops here anyhow.
    let usual = |name: &&str| ["keep-alive", "close", "upgrade", "te"].iter().any(|one| name.eq_ignore_ascii_case(one));
    let names = values.flat_map(|value| value.split(',')).map(str::trim).filter(|name| !usual(name));
    let names = names.filter_map(|name| name.parse::<HeaderName>().ok());
    names.filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH).collect()
}

/// Takes away what may be no trailer.
pub(crate) fn strip_trailers(trailers: &mut HeaderMap) {
    let never: Vec<HeaderName> = trailers.keys().filter(|name| !may_be_trailer(name)).cloned().collect();
    for name in never {
        trailers.remove(name);
    }
}

/// Returns whether the client takes trailers.
pub(crate) fn wants_trailers(headers: &HeaderMap) -> bool {
    has_token(headers, &header::TE, "trailers")
}

/// Returns the protocol an HTTP/1.1 client asks to change to. `h2c` is not one: we speak it only with prior knowledge.
pub(crate) fn wanted_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let upgrade = headers.get(header::UPGRADE)?;
    let several = headers.get_all(header::UPGRADE).iter().nth(1).is_some();
    let refused = upgrade.is_empty() || several || has_token(headers, &header::UPGRADE, "h2c");
    (!refused && has_token(headers, &header::CONNECTION, "upgrade")).then(|| upgrade.clone())
}

/// Adds what HTTP/1 wants of the client of a WebSocket and HTTP/2 does not have: 16 random bytes in base64.
pub(crate) fn add_websocket_key(headers: &mut HeaderMap) {
    let key = base64::engine::general_purpose::STANDARD.encode(rand::random::<u128>().to_ne_bytes());
    if let Ok(key) = HeaderValue::from_str(&key) {
        headers.insert(header::SEC_WEBSOCKET_KEY, key);
    }
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|one| one.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(token))
}

/// Joins the `Cookie` lines that HTTP/2 splits; HTTP/1 has one.
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Where a request came from, and what it addressed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    /// The client's IP address.
    pub(crate) client: &'a HeaderValue,
    /// The host the client addressed.
    pub(crate) host: Option<&'a HeaderValue>,
}

/// What we say about a request. It is written behind the client's own lines: making room for it in their map would cost
/// more than writing it.
#[derive(Debug, Default)]
pub(crate) struct Said([Option<HeaderValue>; SAID.len()]);

static SAID: [HeaderName; 6] =
    [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST, ISVC_NAME, ISVC_NAMESPACE, X_REQUEST_ID];

impl Said {
    /// Says honestly where a request came from and whose it is. What the client claims about that has been taken away,
    /// unless `trust` says that it is a proxy of ours.
    pub(crate) fn new(headers: &mut HeaderMap, from: Origin<'_>, desk: &Desk, trust: bool) -> Self {
        let client = if trust { chain(headers, from.client) } else { from.client.clone() };
        let said = |name: HeaderName| trust && headers.contains_key(name);
        let proto = (!said(X_FORWARDED_PROTO)).then(|| HeaderValue::from_static("http"));
        let host = from.host.filter(|_| !said(X_FORWARDED_HOST)).cloned();
        // Whoever it is, nobody but us says whose request it is.
        if trust {
            headers.remove(ISVC_NAME);
            headers.remove(ISVC_NAMESPACE);
        }
        Self([Some(client), proto, host, desk.name.clone(), desk.namespace.clone(), fresh_id(headers)])
    }

    /// Returns the lines.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        SAID.iter().zip(&self.0).filter_map(|(name, value)| Some((name, value.as_ref()?)))
    }

    /// Returns the request's id, if the client has given none.
    pub(crate) fn id(&self) -> Option<&HeaderValue> {
        self.0.last()?.as_ref()
    }

    /// Moves the lines into the client's.
    pub(crate) fn move_into(&mut self, headers: &mut HeaderMap) {
        for (name, value) in SAID.iter().zip(&mut self.0) {
            if let Some(value) = value.take() {
                headers.insert(name, value);
            }
        }
    }
}

/// Several lines are one list (RFC 9110, section 5.3), and the last of them is what our proxy said.
fn chain(headers: &mut HeaderMap, client: &HeaderValue) -> HeaderValue {
    let before = headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
    let chain: Vec<&[u8]> = before.chain([client.as_bytes()]).collect();
    let chain = HeaderValue::from_bytes(&chain.join(&b", "[..])).ok();
    headers.remove(X_FORWARDED_FOR);
    chain.unwrap_or_else(|| client.clone())
}

/// Makes a request's id if it has none.
fn fresh_id(headers: &mut HeaderMap) -> Option<HeaderValue> {
    if headers.contains_key(X_REQUEST_ID) {
        if let Entry::Occupied(mut given) = headers.entry(X_REQUEST_ID) {
            given.iter_mut().for_each(said_once);
        }
        return None;
    }
    let mut id = HeaderValue::from_bytes(&request_id()).ok()?;
    said_once(&mut id);
    Some(id)
}

/// Keeps a value out of the tables in which HTTP/2 remembers headers: they would fill up with what never comes again.
fn said_once(value: &mut HeaderValue) {
    value.set_sensitive(true);
}

/// 32 random hexadecimal digits.
fn request_id() -> [u8; 32] {
    let number = rand::random::<u128>();
    std::array::from_fn(|at| b"0123456789abcdef"[(number >> (4 * at)) as usize & 15])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_forwarding(headers: &mut HeaderMap, from: Origin<'_>, desk: &Desk, trust: bool) {
        strip_request(headers, trust);
        let mut said = Said::new(headers, from, desk, trust);
        assert!(said.lines().all(|(name, _)| !headers.contains_key(name)), "said once");
        said.move_into(headers);
    }

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        lines.iter().map(pair).collect()
    }

    #[test]
    fn hop_by_hop_fields_and_those_named_by_connection_stop_here() {
        let mut map = headers(&[
            ("connection", "keep-alive, X-Private"),
            ("connection", "host, content-length, bad name"),
            ("keep-alive", "timeout=5"),
            ("x-private", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("proxy-authorization", "secret"),
            ("host", "a"),
            ("content-length", "3"),
            ("trailer", "x-sum"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut map);
        let mut left: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "content-length", "host", "trailer"]);
    }

    #[test]
    fn forwarding_fields_say_the_truth_whatever_the_client_claims() {
        let mut map = headers(&[
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=6.6.6.6"),
            ("kserve-isvc-name", "other"),
            ("x-request-id", "mine"),
        ]);
        let host = HeaderValue::from_static("iris-default.localhost");
        let client = HeaderValue::from_static("127.0.0.1");
        let from = Origin { client: &client, host: Some(&host) };
        let desk = Desk::sample("default", "iris");
        let mut trusted = map.clone();
        set_forwarding(&mut map, from, &desk, false);
        assert_eq!(map["x-forwarded-for"], "127.0.0.1");
        assert_eq!(map["x-forwarded-proto"], "http");
        assert_eq!(map["x-forwarded-host"], "iris-default.localhost");
        assert_eq!(map["kserve-isvc-name"], "iris");
        assert_eq!(map["kserve-isvc-namespace"], "default");
        assert_eq!(map["x-request-id"], "mine");
        assert!(!map.contains_key("forwarded"));
        let mut disguised = headers(&[
            ("x_forwarded_for", "6.6.6.6"),
            ("x-forwarded_for", "6.6.6.6"),
            ("kserve_isvc_name", "other"),
            ("x-real-ip", "6.6.6.6"),
            ("x_real_ip", "6.6.6.6"),
            ("x-forwarded-port", "1"),
            ("x-forwarded-prefix", "/other"),
            ("x_request_id", "mine"),
        ]);
        strip_request(&mut disguised, false);
        assert_eq!(disguised.keys().collect::<Vec<_>>(), ["x_request_id"]);
        set_forwarding(&mut trusted, from, &desk, true);
        assert_eq!(trusted["x-forwarded-for"], "6.6.6.6, 127.0.0.1");
        assert_eq!(trusted["x-forwarded-proto"], "https");
        // A proxy that adds a line of its own.
        let mut lines = headers(&[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "10.0.0.7")]);
        set_forwarding(&mut lines, from, &desk, true);
        let lines: Vec<_> = lines.get_all("x-forwarded-for").iter().collect();
        assert_eq!(lines, ["6.6.6.6, 10.0.0.7, 127.0.0.1"]);
    }

    #[test]
    fn cookies_split_by_http2_are_one_again() {
        let mut map = headers(&[("cookie", "a=1"), ("cookie", "b=2")]);
        join_cookies(&mut map);
        assert_eq!(map.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn upgrades_need_both_headers_and_are_not_h2c() {
        assert!(wanted_upgrade(&headers(&[("connection", "Upgrade"), ("upgrade", "websocket")])).is_some());
        assert!(wanted_upgrade(&headers(&[("connection", "keep-alive, upgrade"), ("upgrade", "x")])).is_some());
        assert!(wanted_upgrade(&headers(&[("upgrade", "websocket")])).is_none());
        assert!(wanted_upgrade(&headers(&[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c")])).is_none());
        assert!(wanted_upgrade(&headers(&[("connection", "upgrade"), ("upgrade", "websocket, H2C")])).is_none());
        let lines = [("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")];
        assert!(wanted_upgrade(&headers(&lines)).is_none());
    }
}
