//! Calls from inside a replica: a transformer's or an explainer's way to the predictor of its service, and to nothing
//! else. Which component is meant is said by the host as in a cluster; every other host means the predictor, because
//! there a Service's address does not care for the name it was found by.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use crate::api::{ComponentKind, ServiceKey};

use super::address::{self, Place};
use super::route::{Head, Miss, MissReason, Route, RouteIndex, select_component};

/// A connection made inside a replica.
#[derive(Debug)]
pub struct Call {
    /// The connection.
    pub socket: TcpStream,
    /// Its other end, in the replica's own network.
    pub peer: SocketAddr,
    /// The service the replica belongs to.
    pub service: Arc<ServiceKey>,
}

impl RouteIndex {
    /// Decides where a request from inside a service goes.
    pub(crate) fn find_inside(&self, service: &ServiceKey, head: Head<'_>) -> Route {
        let Some(own) = self.service(service) else {
            return Route::Miss(Miss::new(MissReason::UnknownService, &service.to_string()));
        };
        let label = match address::place(head.host, &[]) {
            Place::Bare => None,
            Place::Below(label) | Place::Elsewhere(label) => Some(label),
        };
        let bare = label.as_deref().map(|label| {
            let spelled = [format!(".{}", service.namespace), format!("-{}", service.namespace)];
            spelled.iter().find_map(|end| label.strip_suffix(end.as_str())).unwrap_or(label)
        });
        if bare == Some(service.name.as_str()) {
            return select_component(own, None, head.path, 0);
        }
        let is_named = |kind: &ComponentKind| bare == Some(format!("{}-{kind}", service.name).as_str());
        let named = ComponentKind::ALL.into_iter().find(is_named).unwrap_or(ComponentKind::Predictor);
        select_component(own, Some(named), head.path, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::routes::{ComponentRoute, RouteState, RouteTable, ServiceRoute};
    use crate::workload::Extras;
    use http::Method;
    use std::collections::BTreeMap;

    fn index() -> RouteIndex {
        let key = ServiceKey::new("default", "iris");
        let component = |kind: ComponentKind| {
            let route = ComponentRoute {
                service_name: format!("iris-{kind}"),
                state: RouteState::Open(Vec::new()),
                tags: BTreeMap::new(),
                closed: BTreeMap::new(),
                timeout: None,
                extras: Extras::default(),
            };
            (kind, route)
        };
        let components = ComponentKind::ALL.map(component).into();
        let route = ServiceRoute::new(key.clone(), components, vec!["iris".to_owned()]);
        let mut table = RouteTable::default();
        table.services.insert(key, Arc::new(route));
        RouteIndex::new(Arc::new(table))
    }

    #[test]
    fn every_name_upstream_documents_leads_to_its_component_and_any_other_to_the_predictor() {
        use ComponentKind::{Explainer, Predictor, Transformer};
        let index = index();
        let found = |host: Option<&str>, path: &str| {
            let head = Head { method: &Method::POST, host, path, grpc: false };
            match index.find_inside(&ServiceKey::new("default", "iris"), head) {
                Route::To(target) => target.component,
                other => panic!("{other:?}"),
            }
        };
        let predict = "/v1/models/iris:predict";
        for (host, component) in [
            ("iris-predictor.default", Predictor),
            ("iris-predictor.default:80", Predictor),
            ("iris-predictor.default.svc", Predictor),
            ("IRIS-predictor.default.svc.cluster.local.", Predictor),
            ("iris-predictor", Predictor),
            ("iris-predictor-default.default.svc.cluster.local", Predictor),
            ("iris-predictor-default.example.com", Predictor),
            ("iris-transformer.default.svc.cluster.local", Transformer),
            ("iris-explainer.default", Explainer),
            ("iris.default", Transformer),
            ("iris", Transformer),
            ("127.0.0.80", Predictor),
            ("wine-predictor.default", Predictor),
        ] {
            assert_eq!(found(Some(host), predict), component, "{host}");
        }
        assert_eq!(found(None, predict), Predictor);
        assert_eq!(found(Some("iris.default"), "/v1/models/iris:explain"), Explainer);
        assert_eq!(found(Some("iris-predictor.default"), "/v1/models/iris:explain"), Predictor);
    }

    #[test]
    fn a_service_that_is_gone_leads_nowhere() {
        let head = Head { method: &Method::GET, host: None, path: "/", grpc: false };
        let route = index().find_inside(&ServiceKey::new("default", "wine"), head);
        assert!(matches!(route, Route::Miss(_)), "{route:?}");
    }
}
