//! A first deployment that never gets ready says so after its deadline, and is tried on.

use super::sample::{predicting, service};
use super::sim::Sim;
use crate::plan::world::DesiredService;

/// A machine that was given a service of `image` with so many seconds to come further.
fn deployed(image: &str, deadline: Option<&str>) -> Sim {
    let mut sim = Sim::new();
    sim.apply(iris(image, deadline));
    sim
}

fn iris(image: &str, deadline: Option<&str>) -> DesiredService {
    let mut workload = predicting("iris", image);
    let deadline = deadline.map(|text| ("serving.knative.dev/progress-deadline".to_owned(), text.to_owned()));
    workload.annotations.extend(deadline);
    service("iris", vec![workload])
}

#[test]
fn a_deployment_that_comes_no_further_says_so_after_ten_minutes() {
    let mut sim = deployed("server:never", None);
    sim.run(590.0);
    let (status, reason, _) = sim.condition("iris", "PredictorReady");
    assert_eq!((status.as_str(), reason.as_str()), ("Unknown", "ModelLoading"));
    sim.run(30.0);
    for kind in ["PredictorReady", "Ready"] {
        let (status, reason, message) = sim.condition("iris", kind);
        assert_eq!((status.as_str(), reason.as_str()), ("False", "ProgressDeadlineExceeded"));
        assert!(message.starts_with("it came no further within 600 s: the container runs"), "{message}");
    }
    assert_eq!(sim.refusal("iris").unwrap().0, "ProgressDeadlineExceeded", "nobody waits for it");
    assert_eq!(sim.running().len(), 1, "it may still come up");
    sim.assert_still(60.0);
}

#[test]
fn what_answers_after_its_deadline_serves() {
    let mut sim = deployed("server:slow", Some("10s"));
    sim.run(20.0);
    assert_eq!(sim.condition("iris", "PredictorReady").1, "ProgressDeadlineExceeded");
    sim.run(20.0);
    assert!(sim.status("iris").is_ready());
    assert_eq!(sim.backends("iris").len(), 1);
    // It has answered: what happens to it later is no rollout.
    sim.crash("kserve-local.test.iris-predictor-00001-0.default");
    sim.run(20.0);
    assert_eq!(sim.condition("iris", "PredictorReady").1, "ModelLoading");
}

#[test]
fn what_crashes_is_started_again_on_its_schedule_and_fails_all_the_time() {
    let mut sim = deployed("server:crash", Some("30s"));
    sim.run(60.0);
    let before = sim.log.len();
    for _ in 0..600 {
        sim.run(1.0);
        let (status, reason, _) = sim.condition("iris", "PredictorReady");
        assert_eq!(status, "False");
        assert!(["CrashLoopBackOff", "ProgressDeadlineExceeded"].contains(&reason.as_str()), "{reason}");
    }
    assert!(sim.log[before..].iter().any(|line| line.starts_with("start")), "{:#?}", sim.log);
}

#[test]
fn an_edit_begins_anew() {
    let mut sim = deployed("server:never", Some("60s"));
    sim.run(50.0);
    sim.apply(iris("server:slow", Some("60s")));
    sim.run(20.0);
    assert_eq!(sim.condition("iris", "PredictorReady").1, "ModelLoading");
    sim.run(20.0);
    assert!(sim.status("iris").is_ready());
}
