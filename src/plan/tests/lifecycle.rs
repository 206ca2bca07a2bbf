//! From nothing to serving, and what goes wrong on the way.

use super::sample::{predicting, service};
use super::sim::Sim;

#[test]
fn a_new_service_gets_its_model_then_its_image_then_its_container_then_its_route() {
    let mut sim = Sim::new();
    sim.apply(service("iris", vec![predicting("iris", "server:good1")]));
    sim.run(5.0);
    assert_eq!(
        sim.log,
        [
            "pull model s3://models/iris",
            "look for image server:good1",
            "pull image server:good1",
            "create kserve-local.test.iris-predictor-00001-0.default",
        ]
    );
    assert_eq!(sim.backends("iris"), ["iris-predictor-00001-0.default"]);
    assert!(sim.status("iris").is_ready());
    sim.assert_quiet(3600.0);
}
