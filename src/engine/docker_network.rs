//! The instance's own bridge network: made on demand, found again, made again when somebody removed it.
//!
//! Containers on it are islands: they do not reach each other, only this machine and what lies beyond it.

use std::collections::HashMap;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use bollard::models::{EndpointSettings, Network, NetworkCreateRequest};
use bollard::query_parameters::ListNetworksOptions;

use super::docker_connection::{Connection, QUICK};
use super::docker_error::refused;
use super::docker_spec::ReachBy;
use super::{Blame, EngineError};
use crate::workload::names::INSTANCE_LABEL;

/// Makes sure the network is there and returns how its containers are reached.
pub(super) async fn ensure(connection: &Connection, name: &str, instance: &str) -> Result<ReachBy, EngineError> {
    if let Some(found) = find(connection, name, instance).await? {
        return Ok(reach_by(&found));
    }
    let created = connection.docker.create_network(request(name, instance, connection.podman));
    match connection.settle("make the network", name, QUICK, created).await {
        Ok(_) => {}
        // Somebody else made it in between, or the first reply was lost: it is looked at below like any other.
        Err(EngineError::Refused { message, .. }) if message.contains("already exists") => {}
        Err(EngineError::Refused { message, .. }) if message.contains("non-overlapping") => {
            let message = format!("{message}; remove networks that are not used with `docker network prune`");
            return Err(refused("make the network", name, message, Blame::Machine));
        }
        Err(error) => return Err(error),
    }
    match find(connection, name, instance).await? {
        Some(found) => Ok(reach_by(&found)),
        None => Err(refused("make the network", name, "it was made and is gone again", Blame::Machine)),
    }
}

/// Removes the network if it is there and ours.
pub(super) async fn remove(connection: &Connection, name: &str, instance: &str) -> Result<(), EngineError> {
    while let Some(Network { id: Some(id), .. }) = find(connection, name, instance).await? {
        let removed = connection.docker.remove_network(&id);
        connection.settle("remove the network", name, QUICK, removed).await?;
    }
    Ok(())
}

/// Finds our network by name and label. Old engines allow two of one name, after a lost reply for example; the oldest is
/// the one.
async fn find(connection: &Connection, name: &str, instance: &str) -> Result<Option<Network>, EngineError> {
    let filters = HashMap::from([("name".to_owned(), vec![name.to_owned()])]);
    let options = ListNetworksOptions { filters: Some(filters) };
    let listed = connection.docker.list_networks(Some(options));
    let listed = connection.settle("list networks like", name, QUICK, listed).await?;
    // The engine's name filter also finds names that only contain ours.
    let mut named: Vec<Network> = listed.into_iter().filter(|network| network.name.as_deref() == Some(name)).collect();
    let ours = |network: &Network| {
        network.labels.as_ref().and_then(|labels| labels.get(INSTANCE_LABEL)).is_some_and(|label| label == instance)
    };
    if !named.is_empty() && !named.iter().any(ours) {
        let message = "a network of this name exists and does not carry this instance's label";
        return Err(refused("use the network", name, message, Blame::Machine));
    }
    named.retain(ours);
    named.sort_by(|one, other| one.created.cmp(&other.created));
    Ok(named.into_iter().next())
}

fn request(name: &str, instance: &str, podman: bool) -> NetworkCreateRequest {
    let options = [
        // Containers do not reach each other.
        ("com.docker.network.bridge.enable_icc", "false"),
        // Nothing is ever published wider than loopback.
        ("com.docker.network.bridge.host_binding_ipv4", "127.0.0.1"),
    ];
    let options = options.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    NetworkCreateRequest {
        name: name.to_owned(),
        driver: Some("bridge".to_owned()),
        attachable: Some(false),
        // Podman refuses options it does not know.
        options: (!podman).then_some(options),
        labels: Some(HashMap::from([(INSTANCE_LABEL.to_owned(), instance.to_owned())])),
        ..NetworkCreateRequest::default()
    }
}

fn reach_by(network: &Network) -> ReachBy {
    let configs = network.ipam.as_ref().and_then(|ipam| ipam.config.as_deref()).unwrap_or_default();
    let gateway = configs.iter().find_map(|config| config.gateway.as_deref());
    if is_here(network.id.as_deref(), gateway) { ReachBy::Address } else { ReachBy::Loopback }
}

/// Whether a container's address on this endpoint's network leads to it from here.
pub(super) fn leads_here(endpoint: &EndpointSettings) -> bool {
    is_here(endpoint.network_id.as_deref(), endpoint.gateway.as_deref())
}

/// The network's bridge is an interface of this machine, and its gateway an address of it. Either alone may be a
/// coincidence: an engine in a virtual machine hands out the same addresses as one on the host.
fn is_here(network_id: Option<&str>, gateway: Option<&str>) -> bool {
    let Some(bridge) = network_id.and_then(|id| id.get(..12)) else { return false };
    // Docker writes the gateway with or without the prefix length.
    let gateway = gateway.and_then(|text| text.split('/').next()?.parse::<IpAddr>().ok());
    let Some(gateway) = gateway else { return false };
    Path::new("/sys/class/net").join(format!("br-{bridge}")).exists() && UdpSocket::bind((gateway, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_on_the_network_are_islands_and_it_is_labelled_as_ours() {
        insta::with_settings!({sort_maps => true}, {
            insta::assert_json_snapshot!("network", request("kserve-local-home", "home", false));
        });
        assert_eq!(request("kserve-local-home", "home", true).options, None);
    }

    #[test]
    fn a_gateway_of_another_machine_is_not_here() {
        assert!(!is_here(Some("0123456789abcdef"), Some("192.0.2.1")));
        assert!(!is_here(Some("0123456789abcdef"), Some("127.0.0.1")), "the bridge must be here too");
        assert!(!is_here(None, Some("127.0.0.1")));
    }
}
