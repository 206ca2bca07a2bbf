//! Containers somebody gave another name: they are the same containers, and what is known of them goes with them.

use std::collections::HashMap;

use crate::engine::Container;
use crate::plan::World;

/// Takes over new names, so that a rename is neither an end nor a beginning.
pub(super) fn follow(world: &mut World, listed: &[Container]) {
    let names: HashMap<&str, &str> = listed.iter().map(|one| (one.id.0.as_str(), one.name.as_str())).collect();
    let renamed = world.containers.values().filter_map(|fact| {
        let name = names.get(fact.id.as_str()).filter(|name| **name != fact.name)?;
        Some((fact.name.clone(), (*name).to_owned()))
    });
    for (old, new) in renamed.collect::<Vec<_>>() {
        if let Some(fact) = world.containers.remove(&old) {
            world.containers.insert(new.clone(), crate::plan::world::ContainerFact { name: new.clone(), ..fact });
        }
        world.memory.rename_container(&old, &new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{ContainerId, ContainerState, Reach};
    use crate::plan::Now;

    #[test]
    fn what_is_remembered_of_a_container_goes_with_it() {
        let mut world = World::default();
        world.memory.note_running("old", Now::at(5.0));
        let listed = Container {
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
            state: ContainerState::Running,
            created_at: None,
            started_at: None,
            finished_at: None,
            reach: Reach::None,
        };
        let fact = super::super::observe::fact(&listed).unwrap();
        world.containers.insert("old".to_owned(), crate::plan::world::ContainerFact { name: "old".to_owned(), ..fact });
        follow(&mut world, &[listed]);
        assert_eq!(world.containers.keys().collect::<Vec<_>>(), ["new"]);
        assert_eq!(world.containers["new"].name, "new");
        assert!(world.memory.containers["new"].started.is_some());
        assert!(!world.memory.containers.contains_key("old"));
    }
}
