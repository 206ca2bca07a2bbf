//! What a worker keeps at hand for each service, made once per change of the route table instead of once per request.

use std::sync::Arc;

use http::HeaderValue;

use crate::api::ServiceKey;
use crate::plan::routes::{ReplicaName, RouteState, RouteTable, ServiceRoute};
use crate::traffic::{BoardEntry, Lease, TrafficBoard};

use super::metrics::{Metrics, ServiceMetrics};
use super::route::{Route, RouteIndex, Target};

/// One service, ready to be served.
#[derive(Debug)]
pub(crate) struct Desk {
    /// This worker's counters of it.
    pub(crate) metrics: Arc<ServiceMetrics>,
    /// Value of `KServe-Isvc-Name`.
    pub(crate) name: Option<HeaderValue>,
    /// Value of `KServe-Isvc-Namespace`.
    pub(crate) namespace: Option<HeaderValue>,
    entries: Vec<(ReplicaName, BoardEntry)>,
}

impl Desk {
    fn new(route: &ServiceRoute, metrics: Arc<ServiceMetrics>, board: &TrafficBoard) -> Self {
        let backends = route.components.values().flat_map(|component| match &component.state {
            RouteState::Open(backends) => backends.as_slice(),
            RouteState::Held(_) | RouteState::NotReady { .. } => &[],
        });
        Self {
            metrics,
            name: HeaderValue::from_str(&route.key.name).ok(),
            namespace: HeaderValue::from_str(&route.key.namespace).ok(),
            entries: backends.map(|one| (Arc::clone(&one.replica), board.entry(&one.replica))).collect(),
        }
    }

    /// Takes a lease on a replica.
    pub(crate) fn lease(&self, replica: &ReplicaName, board: &TrafficBoard) -> Lease {
        let known = self.entries.iter().find(|(name, _)| Arc::ptr_eq(name, replica));
        known.map_or_else(|| board.lease(replica), |(_, entry)| entry.lease())
    }
}

#[cfg(test)]
impl Desk {
    /// A service without backends.
    pub(crate) fn sample(namespace: &str, name: &str) -> Self {
        let value = |text: &str| HeaderValue::from_str(text).ok();
        Self { metrics: Arc::default(), name: value(name), namespace: value(namespace), entries: Vec::new() }
    }
}

/// A route table, turned over for lookups by one worker.
#[derive(Debug)]
pub(crate) struct Desks {
    /// Finds services.
    pub(crate) index: RouteIndex,
    /// In the order of the table.
    desks: Vec<Arc<Desk>>,
}

impl Desks {
    pub(crate) fn new(table: Arc<RouteTable>, metrics: &Metrics, worker: usize, board: &TrafficBoard) -> Self {
        let desk = |route: &Arc<ServiceRoute>| Arc::new(Desk::new(route, metrics.service(worker, &route.key), board));
        Self { desks: table.services.values().map(desk).collect(), index: RouteIndex::new(table) }
    }

    /// Finds what answers for a service, and its desk.
    pub(crate) fn of_service(&self, key: &ServiceKey) -> Option<(Target, Arc<Desk>)> {
        let target = self.index.by_key(key)?;
        let desk = self.desks.get(target.number).cloned()?;
        Some((target, desk))
    }

    /// Returns the desk of a route that this index has found.
    pub(crate) fn of(&self, route: &Route) -> Option<Arc<Desk>> {
        let Route::To(target) = route else { return None };
        self.desks.get(target.number).cloned()
    }
}
