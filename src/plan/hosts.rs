//! Hosts that two services of a namespace would both have. Names of components and of canaries are made from names of
//! services (§0.1), so `iris-green` has the host of the canary `green` of `iris`. Pure.

use std::collections::{BTreeSet, HashMap};

use crate::api::ServiceKey;
use crate::workload::Workload;

/// Who has which hosts: what stands before namespace and domain.
#[derive(Debug, Default)]
pub struct Hosts<'w>(HashMap<(&'w str, String), Vec<&'w ServiceKey>>);

impl<'w> Hosts<'w> {
    /// Puts the hosts of all services in order; each comes with everything of it that can run.
    pub fn of<P>(services: impl IntoIterator<Item = (&'w ServiceKey, P)>) -> Self
    where
        P: IntoIterator<Item = &'w Workload>,
    {
        let mut hosts = Self::default();
        for (key, parts) in services {
            for host in hosts_of(key, parts) {
                hosts.0.entry((key.namespace.as_str(), host)).or_default().push(key);
            }
        }
        hosts
    }

    /// Says which hosts of a service others have, too, and who is asked there. The proxy decides the same way: a service's
    /// own name goes before the name of a component.
    pub fn clashes<'p>(&self, key: &ServiceKey, parts: impl IntoIterator<Item = &'p Workload>) -> Vec<String> {
        let name = &key.name;
        let said = |host: String| {
            let there = self.0.get(&(key.namespace.as_str(), host.clone()))?;
            let other = &there.iter().find(|other| **other != key)?.name;
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
        hosts_of(key, parts).into_iter().filter_map(said).collect()
    }
}

/// The service's own host, and those of its components and canaries.
fn hosts_of<'p>(key: &ServiceKey, parts: impl IntoIterator<Item = &'p Workload>) -> BTreeSet<String> {
    let name = &key.name;
    let parts =
        parts.into_iter().flat_map(|part| [format!("{name}-{}", part.component.component), part.service_name.clone()]);
    parts.chain([name.clone()]).collect()
}
