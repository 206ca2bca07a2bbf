//! When images are looked for and pulled.

use super::sample::{predicting, service};
use super::sim::Sim;
use crate::plan::world::ImageState;
use crate::workload::{PullPolicy, Workload};

fn with(policy: PullPolicy) -> Workload {
    let mut workload = predicting("iris", "server:good1");
    workload.models.clear();
    workload.containers[0].pull_policy = policy;
    workload
}

/// Runs a service with this policy, with and without the image being here; returns what was ordered.
fn orders(policy: PullPolicy, is_here: bool) -> Vec<String> {
    let mut sim = Sim::new();
    if is_here {
        sim.faults.local_images.insert("server:good1".to_owned());
    }
    sim.apply(service("iris", vec![with(policy)]));
    sim.run(5.0);
    sim.log
}

#[test]
fn the_pull_policy_decides_whether_an_image_is_pulled() {
    let look = "look for image server:good1";
    let pull = "pull image server:good1";
    let create = "create kserve-local.test.iris-predictor-00001-0.default";
    assert_eq!(orders(PullPolicy::IfNotPresent, true), [look, create]);
    assert_eq!(orders(PullPolicy::IfNotPresent, false), [look, pull, create]);
    assert_eq!(orders(PullPolicy::Always, true), [look, pull, create]);
    assert_eq!(orders(PullPolicy::Always, false), [look, pull, create]);
    assert_eq!(orders(PullPolicy::Never, true), [look, create]);
    assert_eq!(orders(PullPolicy::Never, false), [look]);
}

#[test]
fn an_image_that_must_not_be_pulled_is_found_when_someone_brings_it() {
    let mut sim = Sim::new();
    sim.apply(service("iris", vec![with(PullPolicy::Never)]));
    sim.run(5.0);
    let (status, reason, message) = sim.condition("iris", "PredictorReady");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "ImagePullFailed"));
    assert_eq!(message, "image `server:good1` is not on this machine and imagePullPolicy is Never");
    sim.faults.local_images.insert("server:good1".to_owned());
    sim.run(20.0);
    assert!(sim.status("iris").is_ready());
}

#[test]
fn a_pull_that_fails_is_tried_again_with_back_off_and_says_why() {
    let mut sim = Sim::new();
    sim.faults.lost_images.insert("server:good1".to_owned());
    sim.apply(service("iris", vec![with(PullPolicy::IfNotPresent)]));
    sim.run(60.0);
    // 10, 20 and 40 seconds after each failure, as the kubelet does.
    assert_eq!(sim.log.iter().filter(|line| line.starts_with("pull")).count(), 3);
    let (_, reason, message) = sim.condition("iris", "PredictorReady");
    assert_eq!(reason, "ImagePullFailed");
    assert_eq!(message, "manifest for server:good1 not found; it is tried again");
    assert_eq!(sim.refusal("iris").unwrap().0, "ImagePullFailed");
    sim.faults.lost_images.clear();
    sim.run(30.0);
    assert!(sim.status("iris").is_ready());
}

#[test]
fn an_image_that_cannot_be_looked_for_is_looked_for_again_with_back_off_and_says_why() {
    let mut sim = Sim::new();
    sim.faults.unseen_images.insert("server:good1".to_owned());
    sim.faults.local_images.insert("server:good1".to_owned());
    sim.apply(service("iris", vec![with(PullPolicy::IfNotPresent)]));
    sim.run(60.0);
    // At once, and 10, 20 and 40 seconds after each failure.
    assert_eq!(sim.log, vec!["look for image server:good1"; 3]);
    let (_, reason, message) = sim.condition("iris", "PredictorReady");
    assert_eq!((reason.as_str(), message.as_str()), ("ImagePullFailed", "layer is damaged; it is tried again"));
    sim.faults.unseen_images.clear();
    sim.run(30.0);
    assert!(sim.status("iris").is_ready());
}

#[test]
fn what_is_no_name_of_an_image_is_told_and_never_asked_for() {
    for image in ["my image", "repo//x", "Repo/Image", "https://host/x", "x:"] {
        let mut sim = Sim::new();
        let mut workload = with(PullPolicy::IfNotPresent);
        workload.containers[0].image = image.to_owned();
        sim.apply(service("iris", vec![workload]));
        sim.assert_quiet(600.0);
        let (status, reason, message) = sim.condition("iris", "PredictorReady");
        assert_eq!((status.as_str(), reason.as_str()), ("False", "InvalidImageName"));
        assert_eq!(message, format!("`{image}` is not the name of an image: invalid reference format"));
    }
}

#[test]
fn an_older_copy_serves_when_a_pull_by_policy_always_fails() {
    let mut sim = Sim::new();
    sim.faults.local_images.insert("server:good1".to_owned());
    sim.faults.lost_images.insert("server:good1".to_owned());
    sim.apply(service("iris", vec![with(PullPolicy::Always)]));
    sim.run(5.0);
    assert!(sim.status("iris").is_ready());
}

#[test]
fn policy_always_pulls_again_for_a_replica_made_later_and_once_for_those_made_together() {
    let mut sim = Sim::new();
    let mut workload = with(PullPolicy::Always);
    workload.scaling.min = 3;
    sim.apply(service("iris", vec![workload.clone()]));
    sim.run(120.0);
    let pulls = |sim: &Sim| sim.log.iter().filter(|line| line.starts_with("pull")).count();
    assert_eq!((pulls(&sim), sim.running().len()), (1, 3));
    workload.scaling.min = 4;
    sim.apply(service("iris", vec![workload]));
    sim.run(120.0);
    assert_eq!((pulls(&sim), sim.running().len()), (2, 4));
}

#[test]
fn a_running_container_does_not_need_its_image_or_model_any_more() {
    let mut sim = Sim::serving();
    sim.world.images.clear();
    sim.world.models.clear();
    sim.assert_quiet(60.0);
    let state = sim.world.images.get("server:good1");
    assert!(state.is_none_or(|state| *state == ImageState::Absent { at: std::time::Duration::ZERO }));
}
