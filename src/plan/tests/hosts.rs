//! Hosts that two services would both have.

use std::collections::BTreeMap;

use super::sample::predicting;
use crate::api::ServiceKey;
use crate::plan::hosts::Hosts;

#[test]
fn a_host_of_two_services_is_told_to_both_with_who_is_asked() {
    let named = |name: &str, service_name: &str| {
        let mut workload = predicting(name, "server:good1");
        workload.service_name = service_name.to_owned();
        (ServiceKey::new("default", name), vec![workload])
    };
    let services = BTreeMap::from([
        // `predictor.name: green`, or a canary of that name.
        named("iris", "iris-green-predictor"),
        named("iris-green", "iris-green-predictor"),
        named("wine", "wine-predictor"),
        named("wine-predictor", "wine-predictor-predictor"),
        named("alone", "alone-predictor"),
    ]);
    let hosts = Hosts::of(services.iter());
    let told = |name: &str| {
        let key = ServiceKey::new("default", name);
        hosts.clashes(&key, &services[&key])
    };
    let rename = "rename one of the two";
    assert_eq!(
        told("iris"),
        [format!(
            "its host `iris-green-predictor` is also one of `iris-green`: requests to it are refused as ambiguous; {rename}"
        )]
    );
    assert_eq!(told("iris-green").len(), 1);
    assert_eq!(
        told("wine"),
        [format!("its host `wine-predictor` is the name of another InferenceService: requests go there; {rename}")]
    );
    assert_eq!(
        told("wine-predictor"),
        [format!(
            "its name is also the host `wine-predictor` of a component of `wine`: requests for that come here; {rename}"
        )]
    );
    assert!(told("alone").is_empty());
}
