//! Shares of traffic: who gets how much, what is written down of it, and how to go back.

use super::sample::{annotated, at_least, predicting, predictor, service};
use super::sim::{Ledger, Orders, Sim};
use crate::api::{ComponentKind, meta};
use crate::plan::routes::RouteState;
use crate::workload::Workload;

fn iris(image: &str, percent: Option<u32>) -> Workload {
    Workload { canary_percent: percent, ..predicting("iris", image) }
}

fn edit(sim: &mut Sim, image: &str, percent: Option<u32>) {
    sim.apply(service("iris", vec![iris(image, percent)]));
    sim.run(5.0);
}

/// Returns the percents of the revisions that get requests.
fn split(sim: &Sim) -> Vec<(u32, u32)> {
    let route = &sim.plan.routes.services[&super::sample::key("iris")].components[&ComponentKind::Predictor];
    let RouteState::Open(backends) = &route.state else { panic!("{route:?}") };
    let total: u32 = backends.iter().map(|one| one.weight).sum();
    let mut shares = std::collections::BTreeMap::new();
    for one in backends {
        let revision: u32 = one.revision.rsplit('-').next().unwrap().parse().unwrap();
        *shares.entry(revision).or_insert(0) += one.weight;
    }
    shares.into_iter().map(|(revision, weight)| (revision, weight * 100 / total)).collect()
}

/// Returns what the status says of traffic: revision, percent, whether it is the latest, tag.
fn told(sim: &Sim) -> Vec<(String, i64, bool, String)> {
    let part = &sim.status("iris").components[&ComponentKind::Predictor];
    let told = part.traffic.iter();
    told.map(|one| (short(&one.revision_name), one.percent, one.latest_revision, one.tag.clone())).collect()
}

/// Returns created, ready, rolled out and previous.
fn revisions(sim: &Sim) -> [String; 4] {
    let part = &sim.status("iris").components[&ComponentKind::Predictor];
    [
        &part.latest_created_revision,
        &part.latest_ready_revision,
        &part.latest_rolledout_revision,
        &part.previous_rolledout_revision,
    ]
    .map(|name| short(name))
}

fn short(revision: &str) -> String {
    revision.strip_prefix("iris-predictor-0000").unwrap_or(revision).to_owned()
}

/// A machine on which revision 2 has `percent` of the traffic and revision 1 the rest.
fn canary(percent: u32) -> Sim {
    let mut sim = Sim::serving();
    edit(&mut sim, "server:good2", Some(percent));
    sim
}

#[test]
fn the_first_deployment_has_all_traffic_whatever_is_asked() {
    let mut sim = Sim::new();
    edit(&mut sim, "server:good1", Some(10));
    assert_eq!(split(&sim), [(1, 100)]);
    assert_eq!(told(&sim), [("1".to_owned(), 100, true, String::new())]);
    assert_eq!(revisions(&sim), ["1", "1", "1", ""]);
    sim.assert_quiet(60.0);
}

#[test]
fn a_canary_gets_its_share_and_promotion_gives_it_all() {
    let mut sim = canary(10);
    assert_eq!(split(&sim), [(1, 90), (2, 10)]);
    let expected = [("2".to_owned(), 10, true, String::new()), ("1".to_owned(), 90, false, "prev".to_owned())];
    assert_eq!(told(&sim), expected);
    assert_eq!(revisions(&sim), ["2", "2", "1", ""]);
    assert!(sim.status("iris").is_ready());
    let part = &sim.status("iris").components[&ComponentKind::Predictor];
    assert_eq!(part.traffic[1].url.as_deref(), Some("http://prev-iris-predictor.default.example.com:8080"));
    sim.assert_still(60.0);
    sim.log.clear();
    edit(&mut sim, "server:good2", Some(50));
    assert_eq!((split(&sim), sim.log.len()), (vec![(1, 50), (2, 50)], 0), "only the shares change");
    edit(&mut sim, "server:good2", None);
    assert_eq!(split(&sim), [(2, 100)]);
    assert_eq!(revisions(&sim), ["2", "2", "2", "1"]);
    assert_eq!(sim.running().len(), 1, "the old one is gone");
}

#[test]
fn nought_percent_pins_the_stable_revision_and_the_tags_still_lead_to_both() {
    let mut sim = Sim::serving();
    let service = service(
        "iris",
        vec![Workload {
            annotations: [(meta::ENABLE_TAG_ROUTING.to_owned(), "true".to_owned())].into(),
            ..iris("server:good2", Some(0))
        }],
    );
    sim.apply(annotated(service, meta::ENABLE_TAG_ROUTING, "true"));
    sim.run(5.0);
    assert_eq!(split(&sim), [(1, 100)]);
    let route = &sim.plan.routes.services[&super::sample::key("iris")].components[&ComponentKind::Predictor];
    let tags: Vec<_> = route.tags.iter().map(|(tag, to)| (tag.as_str(), to[0].replica.as_ref())).collect();
    let expected = [("latest", "iris-predictor-00002-0.default"), ("prev", "iris-predictor-00001-0.default")];
    assert_eq!(tags, expected);
    assert_eq!(told(&sim)[0], ("2".to_owned(), 0, true, "latest".to_owned()));
}

#[test]
fn a_canary_that_fails_gets_nothing_and_the_next_one_takes_its_share() {
    let mut sim = canary(20);
    edit(&mut sim, "server:never", Some(30));
    assert_eq!(split(&sim), [(1, 70), (2, 30)], "the newest that answers stands in");
    assert_eq!(revisions(&sim), ["3", "2", "1", ""]);
    assert!(!sim.status("iris").is_ready());
    edit(&mut sim, "server:good3", Some(30));
    assert_eq!(split(&sim), [(1, 70), (4, 30)]);
    assert_eq!(sim.running().len(), 2);
    sim.crash("kserve-local.test.iris-predictor-00004-0.default");
    sim.pass();
    sim.pass();
    assert_eq!(split(&sim), [(1, 100)], "a share of which nothing answers goes to the other");
    sim.run(5.0);
    assert_eq!(split(&sim), [(1, 70), (4, 30)]);
}

#[test]
fn asking_less_than_all_for_a_revision_that_has_all_takes_it_back() {
    let mut sim = canary(100);
    assert_eq!(revisions(&sim), ["2", "2", "2", "1"]);
    assert_eq!(sim.running().len(), 1);
    edit(&mut sim, "server:good2", Some(0));
    assert_eq!(split(&sim), [(1, 100)], "the one before was made again");
    assert_eq!(revisions(&sim), ["2", "2", "1", "1"]);
    edit(&mut sim, "server:good2", Some(30));
    assert_eq!(split(&sim), [(1, 70), (2, 30)]);
    edit(&mut sim, "server:good2", None);
    assert_eq!(split(&sim), [(2, 100)]);
}

#[test]
fn while_the_one_before_is_made_again_the_newest_keeps_the_traffic() {
    let mut sim = canary(100);
    sim.apply(service("iris", vec![iris("server:good2", Some(0))]));
    for _ in 0..300 {
        sim.run(0.01);
        assert_eq!(sim.backends("iris").len(), 1, "somebody always answers");
    }
    assert_eq!(split(&sim), [(1, 100)]);
}

#[test]
fn undoing_a_canary_goes_no_further_back_than_that() {
    let mut sim = canary(100);
    edit(&mut sim, "server:good3", Some(10));
    assert_eq!(split(&sim), [(2, 90), (3, 10)]);
    edit(&mut sim, "server:good2", Some(10));
    assert_eq!(split(&sim), [(2, 100)]);
    assert_eq!(sim.running().len(), 1);
}

#[test]
fn a_split_survives_restarts_of_the_daemon_and_the_loss_of_either_replica() {
    let mut sim = canary(25);
    sim.restart_daemon(Orders::Dropped, Ledger::Kept);
    sim.run(5.0);
    assert_eq!(split(&sim), [(1, 75), (2, 25)]);
    for revision in 1..3 {
        let name = format!("kserve-local.test.iris-predictor-0000{revision}-0.default");
        sim.containers.remove(&name);
        sim.run(5.0);
        assert_eq!(split(&sim), [(1, 75), (2, 25)], "it was made again");
    }
}

#[test]
fn replicas_share_equally_what_their_revision_has() {
    let mut sim = Sim::new();
    let with = |image: &str, percent, replicas| {
        service("iris", vec![Workload { scaling: at_least(replicas), ..iris(image, percent) }])
    };
    sim.apply(with("server:good1", None, 3));
    sim.run(5.0);
    sim.apply(with("server:good2", Some(40), 2));
    sim.run(5.0);
    assert_eq!(split(&sim), [(1, 60), (2, 40)]);
    assert_eq!(sim.backends("iris").len(), 5);
}

#[test]
fn both_sleep_and_both_wake() {
    let mut sim = Sim::new();
    let sleepy =
        |image: &str, percent| service("iris", vec![Workload { scaling: at_least(0), ..iris(image, percent) }]);
    sim.apply(sleepy("server:good1", None));
    sim.run(5.0);
    sim.apply(sleepy("server:good2", Some(50)));
    sim.run(5.0);
    assert_eq!(split(&sim), [(1, 50), (2, 50)]);
    sim.run(95.0);
    assert!(sim.containers.is_empty());
    assert_eq!(told(&sim).len(), 2);
    sim.ask("iris");
    sim.run(5.0);
    assert_eq!((sim.answered, split(&sim)), (1, vec![(1, 50), (2, 50)]));
    assert!(sim.world.memory.revisions[&predictor("iris")].is_proven(2));
}
