//! Container names, labels, host names and URLs; both directions.

use crate::api::{ComponentKind, ServiceKey};

/// Which instance of kserve-local a container belongs to.
pub const INSTANCE_LABEL: &str = "kserve-local/instance";
/// Namespace of the InferenceService.
pub const NAMESPACE_LABEL: &str = "kserve-local/namespace";
/// Name of the InferenceService.
pub const SERVICE_LABEL: &str = "kserve-local/service";
/// Component: `predictor`, `transformer`, `explainer`.
pub const COMPONENT_LABEL: &str = "kserve-local/component";
/// Revision number.
pub const REVISION_LABEL: &str = "kserve-local/revision";
/// Fingerprint of the workload.
pub const FINGERPRINT_LABEL: &str = "kserve-local/fingerprint";
/// Ordinal of the replica within its revision.
pub const REPLICA_LABEL: &str = "kserve-local/replica";
/// Name of the container within the replica.
pub const CONTAINER_LABEL: &str = "kserve-local/container";

/// Id of the sandbox whose network a container shares.
pub const SANDBOX_ID_LABEL: &str = "kserve-local/sandbox";

/// Name, within its replica, of the container that holds the network. No container of a manifest can have it.
pub const SANDBOX: &str = "_sandbox";

/// Begins what stands in for the image of a container that runs as a process: `process:{runtime}@{digest}`.
pub const PROCESS_IMAGE_PREFIX: &str = "process:";

/// Returns the recipe's name when an image stands for a process.
pub fn process_recipe(image: &str) -> Option<&str> {
    let rest = image.strip_prefix(PROCESS_IMAGE_PREFIX)?;
    Some(rest.rsplit_once('@').map_or(rest, |(name, _)| name))
}

/// Returns the name of a component's service and workload (§0.1).
pub fn component_service_name(service: &str, component: ComponentKind, predictor_name: Option<&str>) -> String {
    match (component, predictor_name) {
        (ComponentKind::Predictor, Some(name)) if !name.is_empty() => {
            format!("{service}-{name}-predictor")
        }
        _ => format!("{service}-{component}"),
    }
}

/// Returns the name of an LLMInferenceService's workload, as upstream has it.
pub fn llm_service_name(service: &str) -> String {
    format!("{service}-kserve")
}

/// Returns the names under which a service's own containers find its components: as a cluster's DNS has them, and as
/// older versions of KServe named predictors.
pub fn callees(service: &ServiceKey, predictor_name: Option<&str>) -> Vec<String> {
    let ServiceKey { namespace, name } = service;
    let mut bases = vec![
        component_service_name(name, ComponentKind::Predictor, predictor_name),
        component_service_name(name, ComponentKind::Predictor, None),
        format!("{name}-predictor-default"),
        component_service_name(name, ComponentKind::Transformer, None),
        component_service_name(name, ComponentKind::Explainer, None),
        name.clone(),
    ];
    bases.dedup();
    let forms = |base: String| {
        let qualified = format!("{base}.{namespace}");
        [format!("{qualified}.svc"), format!("{qualified}.svc.cluster.local"), qualified, base]
    };
    bases.into_iter().flat_map(forms).collect()
}

/// Returns a revision's name, as Knative names it: `{service_name}-{revision:05}`. It is asked for many times in every pass,
/// and so put together without the machinery of formats.
pub fn revision_name(service_name: &str, revision: u32) -> String {
    let digit = |unit: u32| char::from_digit(revision / unit % 10, 10).unwrap_or('0');
    let digits = [10_000, 1_000, 100, 10, 1].map(digit);
    if revision > 99_999 {
        return [service_name, "-", &revision.to_string()].concat();
    }
    let mut name = String::with_capacity(service_name.len() + 1 + digits.len());
    name.push_str(service_name);
    name.push('-');
    name.extend(digits);
    name
}

/// Returns the name of a replica's pod-like unit.
pub fn replica_name(namespace: &str, service_name: &str, revision: u32, ordinal: u32) -> String {
    format!("{service_name}-{revision:05}-{ordinal}.{namespace}")
}

/// Returns the engine's name of one container of a replica: unique per instance, readable in `docker ps`.
pub fn container_name(instance: &str, replica: &str, container: &str) -> String {
    match container {
        crate::api::meta::KSERVE_CONTAINER => format!("kserve-local.{instance}.{replica}"),
        other => format!("kserve-local.{instance}.{replica}.{other}"),
    }
}

/// Returns the public host of a service in Standard mode: `{isvc}-{ns}.{domain}`.
pub fn standard_host(service: &ServiceKey, domain: &str) -> String {
    [&service.name, "-", &service.namespace, ".", domain].concat()
}

/// Returns the public host of a service in Knative mode: `{isvc}.{ns}.{domain}`.
pub fn knative_host(service: &ServiceKey, domain: &str) -> String {
    [&service.name, ".", &service.namespace, ".", domain].concat()
}
