//! Hosts that two services of a namespace would both have. Names of components and of canaries are made from names of
//! services (§0.1), so `iris-green` has the host of the canary `green` of `iris`. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::world::DesiredService;
use crate::api::ServiceKey;

/// Who has which hosts: what stands before namespace and domain.
#[derive(Debug, Default)]
pub struct Hosts<'w>(HashMap<(&'w str, String), Vec<&'w ServiceKey>>);

impl<'w> Hosts<'w> {
    /// Puts the hosts of all services in order.
    pub fn of(services: &'w BTreeMap<ServiceKey, Arc<DesiredService>>) -> Self {
        let mut hosts = Self::default();
        for service in services.values() {
            for host in hosts_of(service) {
                hosts.0.entry((service.key.namespace.as_str(), host)).or_default().push(&service.key);
            }
        }
        hosts
    }

    /// Says which hosts of a service others have, too, and who is asked there. The proxy decides the same way: a service's
    /// own name goes before the name of a component.
    pub fn clashes(&self, service: &DesiredService) -> Vec<String> {
        let name = &service.key.name;
        let said = |host: String| {
            let there = self.0.get(&(service.key.namespace.as_str(), host.clone()))?;
            let other = &there.iter().find(|other| ***other != service.key)?.name;
            Some(if host == *name {
                format!(
                    "its name is also the host `{host}` of a component of `{other}`: requests for that come here; rename one of the two"
                )
            } else if host == *other {
                format!(
                    "its host `{host}` is the name of another InferenceService: requests go there; rename one of the two"
                )
            } else {
                format!(
                    "its host `{host}` is also one of `{other}`: requests to it are refused as ambiguous; rename one of the two"
                )
            })
        };
        hosts_of(service).into_iter().filter_map(said).collect()
    }
}

/// The service's own host, and those of its components and canaries.
fn hosts_of(service: &DesiredService) -> BTreeSet<String> {
    let name = &service.key.name;
    let parts = service.workloads().flat_map(|resolved| {
        let workload = &resolved.workload;
        [format!("{name}-{}", workload.component.component), workload.service_name.clone()]
    });
    parts.chain([name.clone()]).collect()
}
