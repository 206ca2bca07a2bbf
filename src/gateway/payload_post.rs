//! Payload events by HTTP: CloudEvents in binary mode, to a URL outside or to a service of our own.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use jiff::Timestamp;
use url::Url;

use crate::plan::routes::RouteTable;

use super::forward::chain;
use super::outside::Outside;
use super::payload::Event;
use super::route::{Route, RouteIndex};

/// Marks events of ours, so that a service that takes events and is logged itself is not logged for ever.
const MARK: HeaderName = HeaderName::from_static("x-kserve-local-payload");

/// What the mark says; drawn anew by every daemon, so that no client can keep its requests out of a log.
fn mark() -> HeaderValue {
    static DRAWN: OnceLock<u64> = OnceLock::new();
    HeaderValue::from(*DRAWN.get_or_init(rand::random))
}

/// Whether a request is an event of ours.
pub(crate) fn is_marked(headers: &HeaderMap) -> bool {
    headers.get(MARK).is_some_and(|value| *value == mark())
}

/// A sink behind a URL.
#[derive(Debug)]
pub(crate) struct PayloadPost {
    url: Result<Url, String>,
    outside: Arc<Outside>,
    routes: Arc<ArcSwap<RouteTable>>,
    own: SocketAddr,
    /// Whether the host is a service here, for the table it was looked up in.
    known: Mutex<Option<(Arc<RouteTable>, bool)>>,
}

impl PayloadPost {
    pub(crate) fn new(url: &str, outside: Arc<Outside>, routes: Arc<ArcSwap<RouteTable>>, own: SocketAddr) -> Self {
        let url = Url::parse(url).map_err(|error| format!("its URL cannot be read: {error}"));
        Self { url, outside, routes, own, known: Mutex::default() }
    }

    pub(crate) async fn write(&self, event: &Event, now: Timestamp) -> Result<(), String> {
        let url = self.url.as_ref().map_err(Clone::clone)?;
        let mut headers = event.headers(now);
        headers.insert(MARK, mark());
        let status = if self.is_here(url) {
            let mut here = url.clone();
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            let host = HeaderValue::try_from(format!("{}{port}", url.host_str().unwrap_or_default()));
            headers.insert(header::HOST, host.map_err(|error| error.to_string())?);
            let moved = here.set_scheme("http").is_ok()
                && here.set_ip_host(self.own.ip()).is_ok()
                && here.set_port(Some(self.own.port())).is_ok();
            if !moved {
                return Err("its URL cannot be called".to_owned());
            }
            self.outside.send_here(&here, headers, event.body()).await
        } else {
            self.outside.send(url, headers, event.body()).await
        };
        match status.map_err(|error| chain(&error))? {
            status if status.is_success() => Ok(()),
            status => Err(format!("it answered {status}")),
        }
    }

    /// Whether the URL leads to a service of ours.
    fn is_here(&self, url: &Url) -> bool {
        let table = self.routes.load_full();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((before, here)) = &*known
            && Arc::ptr_eq(before, &table)
        {
            return *here;
        }
        let index = RouteIndex::new(Arc::clone(&table));
        let route = index.by_url(url.host_str().unwrap_or_default(), self.outside.is_own(url), url.path());
        let here = matches!(route, Some(Route::To(_) | Route::Graph(_)));
        *known = Some((table, here));
        here
    }
}
