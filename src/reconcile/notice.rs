//! What the notice board says, put into the world; and whose quiet the driver wants to hear of.
//!
//! Three want to know when a replica has no request in flight any more: one on its way out, which is stopped then; a server
//! of several models that unloads one then; and a service that may sleep, whose idle clock begins then. Of all others nothing is heard, however many requests they answer,
//! so that steady load costs no pass.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::plan::World;
use crate::traffic::TrafficBoard;

use super::driver::Urgency;

/// Reads the board.
pub(super) fn read(board: &TrafficBoard, world: &mut World, now: Duration) {
    let sleepers = sleepers(world);
    let quiet = quiet(world);
    let awaited =
        |name: &str| world.memory.draining.contains_key(name) || sleepers.contains(name) || quiet.contains(name);
    let traffic = board.snapshot(awaited);
    world.waiting = board.waiting();
    world.leases.clear();
    world.wanted.clear();
    for fact in world.containers.values() {
        let Some(seen) = traffic.get(&fact.replica) else { continue };
        let last = seen.idle_for.map(|idle_for| now.saturating_sub(idle_for));
        if let Some(last) = last.filter(|_| world.memory.activity.contains_key(&fact.component.service)) {
            world.memory.note_activity(&fact.component.service, last);
        }
    }
    for (name, seen) in traffic {
        if seen.wanted > 0 {
            world.wanted.insert(Arc::clone(&name));
        }
        world.leases.insert(name, seen.in_flight);
    }
}

/// Replicas of services that may sleep.
fn sleepers(world: &World) -> HashSet<Arc<str>> {
    let sleeps = |service| world.memory.activity.contains_key(service);
    let facts = world.containers.values().filter(|fact| sleeps(&fact.component.service));
    facts.map(|fact| Arc::clone(&fact.replica)).collect()
}

/// Replicas that unload a model, or are started anew, when their requests are answered.
fn quiet(world: &World) -> HashSet<Arc<str>> {
    let facts = world.containers.values().filter(|fact| world.memory.awaits_quiet(&fact.name));
    facts.map(|fact| Arc::clone(&fact.replica)).collect()
}

/// Says how soon a replica that became idle must be looked at. The board knows since when it is idle, so an idle clock
/// loses nothing by a late look; one on its way out holds up others.
pub(super) fn urgency(world: &World) -> Urgency {
    if world.memory.draining.is_empty() { Urgency::Some } else { Urgency::Gather }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn replicas_that_only_answer_requests_are_not_heard_of_however_often_they_fall_idle() {
        let (board, mut world) = (TrafficBoard::default(), World::default());
        let replica: Arc<str> = "iris-predictor-00001-0.default".into();
        let serve = |world: &mut World| {
            let lease = board.lease(&replica);
            read(&board, world, Duration::ZERO);
            assert_eq!(world.leases[&replica], 1);
            drop(lease);
            board.became_idle().now_or_never().is_some()
        };
        assert!(!(0..100).any(|_| serve(&mut world)));
        assert_eq!(urgency(&world), Urgency::Some);
        world.memory.draining.insert(replica.to_string(), Duration::ZERO);
        assert!(serve(&mut world), "its stop waits for that");
        assert_eq!(urgency(&world), Urgency::Gather);
    }
}
