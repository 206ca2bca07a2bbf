//! What the services of a history must end as.

use std::collections::BTreeSet;

use super::super::sample::{fingerprint, key, predictor};
use super::super::sim::Sim;
use super::NAMES;
use super::written::{DOES_NOT_WAKE, Shape};
use crate::api::ComponentKind;
use crate::plan::sleep::Rest;
use crate::plan::split::split;
use crate::plan::world::{ContainerFact, FactState};
use crate::workload::{ComponentKey, names};

/// What a service must end as.
pub(super) fn assert_settled(sim: &Sim, name: &str, last: Option<Shape>) {
    let Some(shape) = last else {
        assert!(!sim.containers.values().any(|fact| fact.component.service == key(name)), "{name} was deleted");
        assert!(!sim.plan.routes.services.contains_key(&key(name)));
        return;
    };
    let own = || sim.containers.values().filter(|fact| fact.component.service == key(name));
    // What rests is looked at when it is woken.
    let needs_none = |fact: &ContainerFact| !fact.is_running() || sim.resting.contains(&fact.id);
    assert!(own().all(|fact| needs_none(fact) || sim.has_network(fact)), "{name} is cut off");
    if shape.stopped {
        assert_eq!(own().count(), 0, "{name} is stopped");
    }
    for sandbox in own().filter(|fact| fact.is_sandbox()) {
        let is_lived_in = own().any(|fact| fact.replica == sandbox.replica && !fact.is_sandbox());
        assert!(is_lived_in || shape.sleeps(), "{} holds a network for nobody", sandbox.name);
    }
    assert_transformer(sim, name, shape);
    let is_predictor = |fact: &&ContainerFact| fact.component.component == ComponentKind::Predictor;
    let own: Vec<_> = own().filter(is_predictor).filter(|fact| !fact.is_sandbox()).collect();
    let (canaries, own): (Vec<_>, Vec<_>) = own.into_iter().partition(|fact| fact.record.canary.is_some());
    assert_canaries(sim, name, shape, &canaries);
    if shape.stopped {
        assert!(own.is_empty(), "{name} is stopped");
        return;
    }
    if shape.unresolvable {
        assert!(!sim.status(name).is_ready());
        return;
    }
    if let Some(back) = came_back(sim, name) {
        assert_eq!(sim.condition(name, "PredictorReady").1, "RolledBack");
        assert!(own.iter().all(|fact| fact.revision == back), "{name}: only {back} is there: {own:#?}");
        return;
    }
    let workload = shape.workload(name);
    let wanted = fingerprint(&workload).0;
    let answers = shape.image.contains("good") || shape.image.contains("slow");
    if answers && shape.sleeps() {
        let rests = |fact: &ContainerFact| match shape.rest {
            0 => fact.state == FactState::Paused || fact.container == "prepare",
            1 | DOES_NOT_WAKE => sim.resting.contains(&fact.id) || fact.container != "kserve-container",
            _ => false,
        };
        assert!(own.iter().all(|fact| rests(fact)), "{name} was not asked for and still runs: {own:#?}");
        assert!(sim.is_held(name) && sim.status(name).is_ready());
    } else if answers {
        let history = &sim.world.memory.revisions[&predictor(name)];
        let revision = history.target;
        let canary_answers = shape.named.is_some_and(|(_, answers)| answers);
        assert!(!canary_answers || canaries.iter().any(|fact| fact.is_running()), "{name}: {canaries:#?}");
        // What answers of a canary stands in for one of it.
        let replicas = shape.replicas.max(1);
        let replicas = if canary_answers { (replicas - 1).max(1) } else { replicas };
        // Beside it, at most the one that keeps a share.
        let stable = split(history, &workload).map(|split| split.stable);
        assert!(own.iter().all(|fact| fact.revision == revision || Some(fact.revision) == stable), "{own:#?}");
        let own: Vec<_> = own.into_iter().filter(|fact| fact.revision == revision).collect();
        let mut expected = BTreeSet::new();
        for ordinal in 0..replicas {
            let replica = names::replica_name("default", &workload.service_name, revision, ordinal);
            for spec in &workload.containers {
                expected.insert(names::container_name("test", &replica, &spec.name));
            }
        }
        let there: BTreeSet<_> =
            own.iter().filter(|fact| fact.container != "prepare").map(|fact| fact.name.clone()).collect();
        assert_eq!(there, expected);
        assert!(own.iter().all(|fact| fact.fingerprint == wanted));
        assert!(own.iter().all(|fact| fact.is_running() || fact.container == "prepare"));
        if stable.is_none() && shape.named.is_none() {
            assert_eq!(sim.backends(name).len(), usize::try_from(replicas).unwrap());
        }
        assert!(sim.status(name).is_ready());
    } else {
        // What never answers is kept trying, beside at most one older revision that does; of a canary, beside the stable
        // one and the canary before.
        let revisions: BTreeSet<_> = own.iter().map(|fact| fact.revision).collect();
        let most = if shape.canary.is_some_and(|percent| percent < 100) { 3 } else { 2 };
        assert!(revisions.len() <= most, "{revisions:?}");
        assert!(!sim.status(name).is_ready());
        for backend in sim.backends(name) {
            let mut all = own.iter().chain(&canaries);
            assert!(all.any(|fact| *fact.replica == *backend && fact.fingerprint != wanted), "{backend}");
        }
    }
}

/// A transformer runs whenever its service is awake, whatever becomes of the predictor.
fn assert_transformer(sim: &Sim, name: &str, shape: Shape) {
    let transformer = ComponentKey { component: ComponentKind::Transformer, ..predictor(name) };
    let own = || sim.containers.values().filter(|fact| fact.component == transformer && !fact.is_sandbox());
    let is_asleep = sim.plan.rests.contains(&(key(name), Rest::Asleep));
    // What cannot be resolved may be kept.
    if shape.unresolvable {
        return;
    }
    if !shape.transformer || shape.stopped || is_asleep {
        assert_eq!(own().count(), 0, "{name} has a transformer: {:#?}", own().collect::<Vec<_>>());
        return;
    }
    let revision = sim.world.memory.revisions[&transformer].target;
    let is_wanted = |fact: &ContainerFact| fact.is_running() && fact.revision == revision;
    assert!(own().all(is_wanted), "{name} has another transformer: {:#?}", own().collect::<Vec<_>>());
    let there: BTreeSet<u32> = own().map(|fact| fact.ordinal).collect();
    let wanted: BTreeSet<u32> = (0..shape.replicas.max(1)).collect();
    assert_eq!(there, wanted, "transformers of {name}");
}

/// The revision that is back because the one that took its place failed and was given up.
fn came_back(sim: &Sim, name: &str) -> Option<u32> {
    let history = sim.world.memory.revisions.get(&predictor(name))?;
    history.given_up.as_ref().filter(|given_up| given_up.revision == history.target)?;
    history.rolled_out
}

/// Of a canary there is what is wanted and, as long as that does not answer, the one before, which must.
fn assert_canaries(sim: &Sim, name: &str, shape: Shape, canaries: &[&ContainerFact]) {
    let wanted = shape.named.map(|(percent, answers)| shape.canary(name, percent, answers));
    let wanted = wanted.and_then(|canary| canary.resolution.ok());
    let is_wanted = |fact: &&&ContainerFact| wanted.as_ref().is_some_and(|one| one.fingerprint.0 == fact.fingerprint);
    let (new, old): (Vec<_>, Vec<_>) = canaries.iter().partition(is_wanted);
    assert!(new.len() <= 1 && old.len() <= 1, "{name} has more canaries than it should: {canaries:#?}");
    let never = wanted.is_some_and(|one| one.workload.containers[0].image == "canary:never");
    let stands_in = |fact: &&ContainerFact| never && fact.is_running() && fact.image == "canary:good1";
    assert!(old.iter().all(stands_in) && sim.sick.is_empty(), "{name} has no such canary: {old:#?}");
}

/// Whatever sleeps answers when it is asked.
pub(super) fn assert_wakes(sim: &mut Sim, last: &[Option<Shape>]) {
    let awaited: Vec<&str> = NAMES.into_iter().filter(|name| sim.is_held(name)).collect();
    let sleepers = NAMES.iter().zip(last).filter(|(_, last)| {
        last.is_some_and(|shape| shape.sleeps() && !shape.stopped && !shape.unresolvable)
            && last.is_some_and(|shape| shape.image.contains("good") || shape.image.contains("slow"))
    });
    for (name, last) in sleepers {
        assert!(awaited.contains(name), "{name} is held");
        if last.is_some_and(|shape| shape.rest == DOES_NOT_WAKE) {
            // Whoever finds that out may be refused; the server is started anew for the next.
            sim.ask(name);
            sim.run(45.0);
        }
        let (answered, refused) = (sim.answered, sim.refused);
        sim.ask(name);
        sim.run(45.0);
        assert_eq!((sim.answered, sim.refused), (answered + 1, refused), "{name}: {:?}", sim.refusal(name));
    }
}
