//! What the engine says of a container, in our words. Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use bollard::models::{
    ContainerInspectResponse, ContainerState as DockerState, ContainerStateStatusEnum, ContainerSummary,
    ContainerSummaryStateEnum, EndpointSettings, PortMap, PortSummary, PortSummaryTypeEnum,
};
use jiff::Timestamp;

use super::{Container, ContainerId, ContainerState, Exit, Reach};

/// Translates one entry of the list; how it ended must be asked apart (see [`Ending`]).
pub(super) fn from_summary(
    summary: ContainerSummary,
    network: &str,
    direct: impl Fn(&EndpointSettings) -> bool,
) -> Container {
    let state = match summary.state {
        Some(ContainerSummaryStateEnum::RUNNING | ContainerSummaryStateEnum::RESTARTING) => ContainerState::Running,
        Some(ContainerSummaryStateEnum::PAUSED) => ContainerState::Paused,
        Some(ContainerSummaryStateEnum::EXITED) => ContainerState::Exited(Exit::default()),
        Some(ContainerSummaryStateEnum::REMOVING | ContainerSummaryStateEnum::DEAD) => ContainerState::Removing,
        Some(ContainerSummaryStateEnum::STOPPING) => ContainerState::Running,
        Some(ContainerSummaryStateEnum::CREATED | ContainerSummaryStateEnum::EMPTY) | None => ContainerState::Created,
    };
    let networks = summary.network_settings.and_then(|settings| settings.networks);
    let published = listed_ports(summary.ports.unwrap_or_default());
    Container {
        id: ContainerId(summary.id.unwrap_or_default()),
        name: plain_name(summary.names.unwrap_or_default().into_iter().next().unwrap_or_default()),
        labels: sorted(summary.labels),
        image: summary.image.unwrap_or_default(),
        reach: reach(&state, networks.as_ref(), network, published, direct),
        state,
        created_at: summary.created.and_then(|second| Timestamp::from_second(second).ok()),
        up_for: summary.status.as_deref().and_then(up_for),
        started_at: None,
        finished_at: None,
    }
}

/// Translates the answer about one container.
pub(super) fn from_inspect(
    inspected: ContainerInspectResponse,
    network: &str,
    direct: impl Fn(&EndpointSettings) -> bool,
) -> Container {
    let docker_state = inspected.state.unwrap_or_default();
    let config = inspected.config.unwrap_or_default();
    let settings = inspected.network_settings.unwrap_or_default();
    let state = state(&docker_state);
    let published = inspected_ports(settings.ports.unwrap_or_default());
    Container {
        id: ContainerId(inspected.id.unwrap_or_default()),
        name: plain_name(inspected.name.unwrap_or_default()),
        labels: sorted(config.labels),
        image: config.image.unwrap_or_default(),
        reach: reach(&state, settings.networks.as_ref(), network, published, direct),
        started_at: time(docker_state.started_at.as_deref()),
        // A running container keeps the time its previous run ended; it says nothing about this one.
        finished_at: match state {
            ContainerState::Exited(_) => time(docker_state.finished_at.as_deref()),
            _ => None,
        },
        state,
        created_at: time(inspected.created.as_deref()),
        up_for: None,
    }
}

/// Reads the list's words for how long a container runs, `Up About an hour (Paused)`. They are rounded; what is returned is
/// never more than the truth.
fn up_for(status: &str) -> Option<Duration> {
    let words: Vec<&str> = status.strip_prefix("Up ")?.split(' ').collect();
    let (count, unit) = match words.as_slice() {
        ["Less", ..] => (0, "second"),
        ["About", _, unit, ..] => (1, *unit),
        [count, unit, ..] => (count.parse::<u64>().ok()?, *unit),
        _ => return None,
    };
    let seconds = match unit.trim_end_matches('s') {
        "second" => count,
        "minute" => count * 60,
        // From an hour on, hours are rounded to the nearest.
        "hour" => count * 3600 - if count > 1 { 1800 } else { 0 },
        "day" => count * 86_400,
        "week" => count * 7 * 86_400,
        "month" => count * 30 * 86_400,
        "year" => count * 365 * 86_400,
        _ => return None,
    };
    Some(Duration::from_secs(seconds))
}

/// How an ended container ended: kept between lists, because it does not change until the next start.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ending {
    pub(super) exit: Exit,
    pub(super) started_at: Option<Timestamp>,
    pub(super) finished_at: Option<Timestamp>,
}

impl Ending {
    /// Takes the ending out of an inspected container, if it has ended.
    pub(super) fn of(container: &Container) -> Option<Self> {
        match &container.state {
            ContainerState::Exited(exit) => {
                Some(Self { exit: exit.clone(), started_at: container.started_at, finished_at: container.finished_at })
            }
            _ => None,
        }
    }

    /// Completes a listed container.
    pub(super) fn complete(&self, container: &mut Container) {
        container.state = ContainerState::Exited(self.exit.clone());
        container.started_at = self.started_at;
        container.finished_at = self.finished_at;
    }
}

fn state(state: &DockerState) -> ContainerState {
    match state.status {
        Some(ContainerStateStatusEnum::RUNNING | ContainerStateStatusEnum::RESTARTING) => ContainerState::Running,
        Some(ContainerStateStatusEnum::PAUSED) => ContainerState::Paused,
        Some(ContainerStateStatusEnum::EXITED) => ContainerState::Exited(Exit {
            code: state.exit_code.unwrap_or_default(),
            out_of_memory: state.oom_killed.unwrap_or_default(),
            error: state.error.clone().unwrap_or_default(),
            killed_under_limit: None,
        }),
        Some(ContainerStateStatusEnum::REMOVING | ContainerStateStatusEnum::DEAD) => ContainerState::Removing,
        _ => ContainerState::Created,
    }
}

fn reach(
    state: &ContainerState,
    networks: Option<&HashMap<String, EndpointSettings>>,
    network: &str,
    published: BTreeMap<u16, u16>,
    direct: impl Fn(&EndpointSettings) -> bool,
) -> Reach {
    if !matches!(state, ContainerState::Running | ContainerState::Paused) {
        return Reach::None;
    }
    if let Some(endpoint) = networks.and_then(|networks| networks.get(network)) {
        let address = endpoint.ip_address.as_deref().and_then(|text| text.parse::<IpAddr>().ok());
        if let Some(address) = address.filter(|_| direct(endpoint)) {
            return Reach::Address(address);
        }
    }
    if published.is_empty() { Reach::None } else { Reach::Published(published) }
}

fn listed_ports(ports: Vec<PortSummary>) -> BTreeMap<u16, u16> {
    let tcp = ports.into_iter().filter(|port| port.typ.is_none_or(|typ| typ == PortSummaryTypeEnum::TCP));
    tcp.filter_map(|port| port.public_port.map(|public| (port.private_port, public))).collect()
}

fn inspected_ports(ports: PortMap) -> BTreeMap<u16, u16> {
    let published = |(port, bindings): (String, Option<Vec<bollard::models::PortBinding>>)| {
        let container_port = port.strip_suffix("/tcp")?.parse().ok()?;
        let host_port = bindings?.into_iter().find_map(|binding| binding.host_port?.parse().ok())?;
        Some((container_port, host_port))
    };
    ports.into_iter().filter_map(published).collect()
}

fn plain_name(name: String) -> String {
    match name.strip_prefix('/') {
        Some(plain) => plain.to_owned(),
        None => name,
    }
}

fn sorted(labels: Option<HashMap<String, String>>) -> BTreeMap<String, String> {
    labels.unwrap_or_default().into_iter().collect()
}

/// Docker writes the year 1 for "never".
fn time(text: Option<&str>) -> Option<Timestamp> {
    text?.parse::<Timestamp>().ok().filter(|time| time.as_second() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(json: serde_json::Value) -> ContainerSummary {
        serde_json::from_value(json).unwrap()
    }

    fn running() -> serde_json::Value {
        serde_json::json!({
            "Id": "abc", "Names": ["/kserve-local.home.iris"], "Image": "stub", "Created": 1_700_000_000, "State": "running",
            "Labels": {"kserve-local/instance": "home"},
            "Ports": [{"PrivatePort": 8080, "PublicPort": 49153, "IP": "127.0.0.1", "Type": "tcp"}, {"PrivatePort": 9000, "Type": "tcp"}],
            "NetworkSettings": {"Networks": {"kserve-local-home": {"IPAddress": "172.18.0.2", "Gateway": "172.18.0.1"}}}
        })
    }

    #[test]
    fn a_running_container_is_reached_at_its_address_where_that_leads_to_it_and_at_its_published_port_elsewhere() {
        let here = from_summary(summary(running()), "kserve-local-home", |_| true);
        assert_eq!(here.reach, Reach::Address("172.18.0.2".parse().unwrap()));
        assert_eq!((here.name.as_str(), here.state), ("kserve-local.home.iris", ContainerState::Running));
        let in_a_vm = from_summary(summary(running()), "kserve-local-home", |_| false);
        assert_eq!(in_a_vm.reach, Reach::Published(BTreeMap::from([(8080, 49153)])));
        let other_network = from_summary(summary(running()), "another", |_| true);
        assert_eq!(other_network.reach, Reach::Published(BTreeMap::from([(8080, 49153)])));
    }

    #[test]
    fn every_state_of_the_list_means_something() {
        let state = |word: &str| {
            let mut json = running();
            json["State"] = word.into();
            from_summary(summary(json), "n", |_| true).state
        };
        for (word, wanted) in [
            ("created", ContainerState::Created),
            ("running", ContainerState::Running),
            ("restarting", ContainerState::Running),
            ("paused", ContainerState::Paused),
            ("exited", ContainerState::Exited(Exit::default())),
            ("removing", ContainerState::Removing),
            ("dead", ContainerState::Removing),
        ] {
            assert_eq!(state(word), wanted, "{word}");
        }
    }

    #[test]
    fn the_list_tells_how_long_a_container_runs_in_rounded_words() {
        for (words, seconds) in [
            ("Up Less than a second", Some(0)),
            ("Up 1 second", Some(1)),
            ("Up 42 seconds", Some(42)),
            ("Up About a minute", Some(60)),
            ("Up 9 minutes (Paused)", Some(540)),
            ("Up About an hour", Some(3600)),
            ("Up 3 hours (healthy)", Some(9000)),
            ("Up 2 days", Some(172_800)),
            ("Up 3 weeks", Some(1_814_400)),
            ("Exited (137) 5 minutes ago", None),
            ("Created", None),
            ("Up for ever", None),
        ] {
            assert_eq!(up_for(words), seconds.map(Duration::from_secs), "{words}");
        }
    }

    #[test]
    fn an_ended_container_tells_how_and_when_and_is_not_reachable() {
        let inspected: ContainerInspectResponse = serde_json::from_value(serde_json::json!({
            "Id": "abc", "Name": "/iris", "Created": "2026-11-22T10:00:00.5Z",
            "State": {"Status": "exited", "ExitCode": 137, "OOMKilled": true, "Error": "",
                      "StartedAt": "2026-11-22T10:00:01Z", "FinishedAt": "2026-11-22T10:00:09.25Z"},
            "Config": {"Image": "stub", "Labels": {}},
            "NetworkSettings": {"Ports": {}, "Networks": {"n": {"IPAddress": ""}}}
        }))
        .unwrap();
        let container = from_inspect(inspected, "n", |_| true);
        let exit = Exit { code: 137, out_of_memory: true, ..Exit::default() };
        assert_eq!(container.state, ContainerState::Exited(exit));
        assert_eq!(container.finished_at.unwrap().to_string(), "2026-11-22T10:00:09.25Z");
        assert_eq!(container.reach, Reach::None);
    }

    #[test]
    fn a_container_that_never_started_has_no_start_time() {
        let inspected: ContainerInspectResponse = serde_json::from_value(serde_json::json!({
            "Id": "abc", "Name": "/iris",
            "State": {"Status": "created", "StartedAt": "0001-01-01T00:00:00Z", "FinishedAt": "0001-01-01T00:00:00Z"}
        }))
        .unwrap();
        let container = from_inspect(inspected, "n", |_| true);
        assert_eq!((container.started_at, container.finished_at), (None, None));
    }
}
