//! What the last plan shows, and what runs.

use super::super::sample;
use super::Sim;
use crate::api::{ComponentKind, InferenceServiceStatus};
use crate::plan::ps::{self, RoomView};
use crate::plan::routes::{Backend, RouteState};

impl Sim {
    /// Who holds what now.
    pub(in super::super) fn room(&mut self) -> RoomView {
        ps::room(&self.world, self.now(), &mut self.memo)
    }

    /// Returns the replicas requests to a service's predictor go to.
    pub(in super::super) fn backends(&self, service: &str) -> Vec<String> {
        let route = self.plan.routes.services.get(&sample::key(service));
        let open = route.and_then(|route| open_backends(route)).unwrap_or_default();
        open.iter().map(|backend| backend.replica.to_string()).collect()
    }

    /// Whether requests pass every component of a service.
    pub(super) fn is_open(&self, service: &str) -> bool {
        let route = self.plan.routes.services.get(&sample::key(service));
        route.is_some_and(|route| route.components.values().all(|one| matches!(one.state, RouteState::Open(_))))
    }

    /// Returns why requests to a service's predictor are refused: reason and message.
    pub(in super::super) fn refusal(&self, service: &str) -> Option<(String, String)> {
        let route = self.plan.routes.services.get(&sample::key(service))?;
        match &route.components.get(&ComponentKind::Predictor)?.state {
            RouteState::Open(_) => None,
            RouteState::Held(hold) => Some((hold.reason.clone(), hold.message.clone())),
            RouteState::NotReady { reason, message, .. } => Some((reason.clone(), message.clone())),
        }
    }

    /// Whether requests to a service's predictor wait.
    pub(in super::super) fn is_held(&self, service: &str) -> bool {
        let route = self.plan.routes.services.get(&sample::key(service));
        let predictor = route.and_then(|route| route.components.get(&ComponentKind::Predictor));
        predictor.is_some_and(|predictor| matches!(predictor.state, RouteState::Held(_)))
    }

    /// Returns the status of a service.
    pub(in super::super) fn status(&self, service: &str) -> &InferenceServiceStatus {
        let key = sample::key(service);
        &self.plan.statuses.iter().find(|(other, _)| *other == key).expect("the service has a status").1
    }

    /// Returns a condition of a service: status, reason and message.
    pub(in super::super) fn condition(&self, service: &str, kind: &str) -> (String, String, String) {
        let condition = self.status(service).condition(kind).expect("the condition is there");
        (condition.status.to_string(), condition.reason.clone(), condition.message.clone())
    }

    /// Returns names and states of the containers there are, in a word each.
    pub(in super::super) fn running(&self) -> Vec<String> {
        self.containers.values().filter(|fact| fact.is_running()).map(|fact| fact.name.clone()).collect()
    }
}

pub(super) fn open_backends(route: &crate::plan::routes::ServiceRoute) -> Option<&[Backend]> {
    match &route.components.get(&ComponentKind::Predictor)?.state {
        RouteState::Open(backends) => Some(backends),
        RouteState::Held(_) | RouteState::NotReady { .. } => None,
    }
}
