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
    use crate::engine::ContainerState;
    use crate::plan::Now;
    use crate::reconcile::observe;

    #[test]
    fn what_is_remembered_of_a_container_goes_with_it() {
        let mut world = World::default();
        world.memory.note_running("old", Now::at(5.0));
        let listed = observe::tests::listed(ContainerState::Running);
        let fact = observe::fact(&listed).unwrap();
        world.containers.insert("old".to_owned(), crate::plan::world::ContainerFact { name: "old".to_owned(), ..fact });
        follow(&mut world, &[listed]);
        assert_eq!(world.containers.keys().collect::<Vec<_>>(), ["new"]);
        assert_eq!(world.containers["new"].name, "new");
        assert!(world.memory.containers["new"].started.is_some());
        assert!(!world.memory.containers.contains_key("old"));
    }
}
