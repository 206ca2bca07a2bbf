//! Engine's words to facts, and labels in both directions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::api::{ComponentKind, ServiceKey, meta};
use crate::engine::{Container, ContainerState, Reach};
use crate::plan::action::CreateOrder;
use crate::plan::record::{RECORD_LABEL, ReplicaRecord};
use crate::plan::world::{ContainerFact, ExitFact, FactReach, FactState};
use crate::plan::{Now, World};
use crate::workload::{ComponentKey, names};

/// Label with KServe's name of the component's service.
const SERVICE_NAME_LABEL: &str = "kserve-local/service-name";

/// Label with the UUIDs of the GPUs its replica was given.
const GPUS_LABEL: &str = "kserve-local/gpus";

/// Returns the labels of a container to be made.
pub fn labels(instance: &str, order: &CreateOrder, container: &str) -> BTreeMap<String, String> {
    let workload = &order.workload;
    let record = ReplicaRecord::of(workload).with_sandbox(order.sandboxed).with_memory(order.memory);
    let record = if order.lift_cpu { record.lifting_cpu(workload) } else { record };
    let record = serde_json::to_string(&record).unwrap_or_default();
    let component = &workload.component;
    let joined = order.join.clone().filter(|_| order.sandboxed).map(|id| (names::SANDBOX_ID_LABEL, id));
    let gpus = (!order.gpus.is_empty()).then(|| (GPUS_LABEL, order.gpus.join(",")));
    let labels = [
        (names::INSTANCE_LABEL, instance.to_owned()),
        (names::NAMESPACE_LABEL, component.service.namespace.clone()),
        (names::SERVICE_LABEL, component.service.name.clone()),
        (names::COMPONENT_LABEL, component.component.to_string()),
        (names::REVISION_LABEL, order.revision.to_string()),
        (names::FINGERPRINT_LABEL, order.fingerprint.clone()),
        (names::REPLICA_LABEL, order.ordinal.to_string()),
        (names::CONTAINER_LABEL, container.to_owned()),
        (SERVICE_NAME_LABEL, workload.service_name.clone()),
        (meta::INFERENCE_SERVICE_LABEL, component.service.name.clone()),
        (RECORD_LABEL, record),
    ];
    labels.into_iter().chain(joined).chain(gpus).map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Reads a container of ours; none when its labels are not what we write.
pub fn fact(container: &Container) -> Option<ContainerFact> {
    let label = |name: &str| container.labels.get(name).map(String::as_str);
    let component = match label(names::COMPONENT_LABEL)? {
        "predictor" => ComponentKind::Predictor,
        "transformer" => ComponentKind::Transformer,
        "explainer" => ComponentKind::Explainer,
        _ => return None,
    };
    let service = ServiceKey::new(label(names::NAMESPACE_LABEL)?, label(names::SERVICE_LABEL)?);
    let service_name = label(SERVICE_NAME_LABEL)?.to_owned();
    let revision = label(names::REVISION_LABEL)?.parse().ok()?;
    let ordinal = label(names::REPLICA_LABEL)?.parse().ok()?;
    let record: ReplicaRecord = serde_json::from_str(label(RECORD_LABEL)?).ok()?;
    let replica = names::replica_name(&service.namespace, &service_name, revision, ordinal);
    Some(ContainerFact {
        id: container.id.0.clone(),
        name: container.name.clone(),
        component: ComponentKey { service, component },
        replica: replica.into(),
        service_name,
        revision,
        ordinal,
        fingerprint: label(names::FINGERPRINT_LABEL)?.to_owned(),
        container: label(names::CONTAINER_LABEL)?.to_owned(),
        image: container.image.clone(),
        state: state(container),
        reach: reach(&container.reach),
        gpus: label(GPUS_LABEL).map(|text| text.split(',').map(str::to_owned).collect()).unwrap_or_default(),
        created_at: container.created_at,
        record: Arc::new(record),
        sandbox: label(names::SANDBOX_ID_LABEL).map(str::to_owned),
    })
}

/// Whether a list tells of a container what is known: its labels are not read again, since those of a container never
/// change.
pub(super) fn says_the_same(container: &Container, known: &ContainerFact) -> bool {
    let state = match (state(container), &known.state) {
        // A list tells less than a look.
        (FactState::Running { started_at: None }, FactState::Running { .. }) => true,
        (now, before) => now == *before,
    };
    let same = (&container.id.0, &container.name, &container.image) == (&known.id, &known.name, &known.image);
    state && same && container.created_at == known.created_at && reach(&container.reach) == known.reach
}

/// Notes what a list tells of a container besides what it does: how long one has run that was there before us, and that
/// one which ended while the engine was away did so with the engine.
pub(super) fn find(world: &mut World, container: &Container, fact: &ContainerFact, was_away: bool, now: Now) {
    let known = world.containers.get(&fact.name);
    match &fact.state {
        FactState::Running { .. } if known.is_none() => {
            let since = container.started_at.and_then(|at| Duration::try_from(now.wall.duration_since(at)).ok());
            world.memory.note_found_running(&fact.name, container.up_for.or(since).unwrap_or_default(), now);
        }
        FactState::Exited(_) if was_away && known.is_some_and(ContainerFact::is_running) => {
            world.memory.note_stop(&fact.name);
        }
        _ => {}
    }
}

fn state(container: &Container) -> FactState {
    match &container.state {
        ContainerState::Created => FactState::Created,
        ContainerState::Running => FactState::Running { started_at: container.started_at },
        ContainerState::Paused => FactState::Paused,
        ContainerState::Removing => FactState::Removing,
        ContainerState::Exited(exit) => FactState::Exited(ExitFact {
            code: exit.code,
            out_of_memory: exit.out_of_memory,
            killed_under_limit: exit.killed_under_limit,
            error: exit.error.clone(),
            finished_at: container.finished_at,
        }),
    }
}

fn reach(reach: &Reach) -> FactReach {
    match reach {
        Reach::None => FactReach::None,
        Reach::Address(address) => FactReach::Address(*address),
        Reach::Published(ports) => FactReach::Published(ports.clone()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::engine::{ContainerId, Exit};

    /// Returns a container named `new`, as an engine lists it.
    pub(in crate::reconcile) fn listed(state: ContainerState) -> Container {
        Container {
            id: ContainerId("1".to_owned()),
            name: "new".to_owned(),
            labels: [
                ("kserve-local/namespace", "default"),
                ("kserve-local/service", "iris"),
                ("kserve-local/component", "predictor"),
                ("kserve-local/service-name", "iris-predictor"),
                ("kserve-local/revision", "1"),
                ("kserve-local/replica", "0"),
                ("kserve-local/fingerprint", "aaaa"),
                ("kserve-local/container", "kserve-container"),
                (
                    "kserve-local/record",
                    r#"{"entry":{"port":8080,"protocol":"Http1","grpc_port":null},"readiness":"Declared",
                        "grace":{"secs":1,"nanos":0},"concurrency":null,"timeout":null,"containers":[],"init":[],"models":[]}"#,
                ),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
            image: String::new(),
            state,
            created_at: None,
            up_for: None,
            started_at: None,
            finished_at: None,
            reach: Reach::None,
        }
    }

    #[test]
    fn what_ended_while_the_engine_was_away_did_not_fail() {
        let exit = Exit { code: 137, ..Exit::default() };
        let ended = listed(ContainerState::Exited(exit));
        let running = fact(&listed(ContainerState::Running)).unwrap();
        for (was_away, failures) in [(true, 0), (false, 1)] {
            let mut world = World::default();
            world.memory.note_running("new", Now::at(1.0));
            world.containers.insert("new".to_owned(), running.clone());
            let found = fact(&ended).unwrap();
            find(&mut world, &ended, &found, was_away, Now::at(9.0));
            let FactState::Exited(exit) = &found.state else { panic!("{found:?}") };
            assert!(world.memory.note_exit("new", exit, Now::at(9.0)));
            assert_eq!(world.memory.containers["new"].failures, failures);
            assert_eq!(world.memory.was_stopped("new"), was_away);
        }
    }

    #[test]
    fn how_long_a_container_runs_is_taken_from_the_list_when_it_is_first_seen() {
        let mut world = World::default();
        let up = |seconds| Container { up_for: Some(Duration::from_secs(seconds)), ..listed(ContainerState::Running) };
        let found = fact(&up(90)).unwrap();
        find(&mut world, &up(90), &found, false, Now::at(1.0));
        assert_eq!(world.memory.containers["new"].ran_before, Duration::from_secs(90));
        world.containers.insert("new".to_owned(), found.clone());
        find(&mut world, &up(120), &found, false, Now::at(31.0));
        assert_eq!(world.memory.containers["new"].ran_before, Duration::from_secs(90));
    }
    #[test]
    fn a_container_of_which_a_list_says_nothing_new_is_not_read_again() {
        let at = Some(Timestamp::UNIX_EPOCH);
        let seen = Container { started_at: at, ..listed(ContainerState::Running) };
        let known = fact(&seen).unwrap();
        let other = |change: fn(&mut Container)| {
            let mut other = seen.clone();
            change(&mut other);
            says_the_same(&other, &known)
        };
        assert!(other(|_| {}));
        assert!(other(|one| one.started_at = None), "a list tells less than a look");
        assert!(!other(|one| one.state = ContainerState::Paused));
        assert!(!other(|one| one.id = ContainerId("2".to_owned())), "another one of its name has labels of its own");
        assert!(!other(|one| one.reach = Reach::Address([127, 0, 0, 1].into())));
    }
}
