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

/// Whether a text can be the name of an image, by the grammar of the distribution project's references: an optional
/// registry, a repository in lower case, an optional tag and digest.
pub fn is_image_name(image: &str) -> bool {
    const LONGEST_TAG: usize = 128;
    let is_registry = |first: &str| {
        first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|byte| byte.is_ascii_uppercase())
    };
    let (registry, rest) = match image.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first, rest),
        _ => ("localhost", image),
    };
    let (rest, digest) = rest.split_once('@').map_or((rest, None), |(rest, digest)| (rest, Some(digest)));
    let (repository, tag) = rest.rsplit_once(':').map_or((rest, None), |(path, tag)| (path, Some(tag)));
    let all = |text: &str, more: &[u8]| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte));
    let is_part = |part: &str| {
        let ends = |end: Option<u8>| end.is_some_and(|byte| byte.is_ascii_alphanumeric());
        let lower = !part.bytes().any(|byte| byte.is_ascii_uppercase());
        lower && all(part, b"._-") && ends(part.bytes().next()) && ends(part.bytes().last())
    };
    let is_tag = |tag: &str| (1..=LONGEST_TAG).contains(&tag.len()) && all(tag, b"_.-") && !tag.starts_with(['.', '-']);
    let is_digest = |digest: &str| {
        let hex = |hex: &str| hex.len() >= 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        digest.split_once(':').is_some_and(|(kind, rest)| is_part(kind) && hex(rest))
    };
    registry.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '[')
        && all(registry, b"._-:[]")
        && repository.split('/').all(is_part)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest)
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

/// Returns the name of a replica's pod, unique within its namespace.
pub fn pod_name(service_name: &str, revision: u32, ordinal: u32) -> String {
    format!("{}-{ordinal}", revision_name(service_name, revision))
}

/// Returns the name of a replica's pod-like unit.
pub fn replica_name(namespace: &str, service_name: &str, revision: u32, ordinal: u32) -> String {
    format!("{}.{namespace}", pod_name(service_name, revision, ordinal))
}

/// Returns the engine's name of one container of a replica: unique per instance, readable in `docker ps`.
pub fn container_name(instance: &str, replica: &str, container: &str) -> String {
    match container {
        crate::api::meta::KSERVE_CONTAINER => format!("kserve-local.{instance}.{replica}"),
        other => format!("kserve-local.{instance}.{replica}.{other}"),
    }
}

/// Whether the engine's name of a container is that of one of a component's, whatever its revision and replica.
pub fn is_container_of(name: &str, instance: &str, namespace: &str, service_name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let replica = || {
        let rest = name.strip_prefix("kserve-local.")?.strip_prefix(instance)?.strip_prefix('.')?;
        let (numbers, rest) = rest.strip_prefix(service_name)?.strip_prefix('-')?.split_once('.')?;
        let (revision, ordinal) = numbers.split_once('-')?;
        let after = rest.strip_prefix(namespace)?;
        Some(is_number(revision) && is_number(ordinal) && (after.is_empty() || after.starts_with('.')))
    };
    replica().unwrap_or(false)
}

/// Returns the public host of a service in Standard mode: `{isvc}-{ns}.{domain}`.
pub fn standard_host(service: &ServiceKey, domain: &str) -> String {
    [service.name.as_str(), "-", &service.namespace, ".", domain].concat()
}

/// Returns the public host of a service in Knative mode: `{isvc}.{ns}.{domain}`.
pub fn knative_host(service: &ServiceKey, domain: &str) -> String {
    [service.name.as_str(), ".", &service.namespace, ".", domain].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_images_follow_the_grammar_of_references() {
        let digest = format!("busybox@sha256:{}", "a".repeat(64));
        for good in [
            "busybox",
            "busybox:1.36",
            "kserve/sklearnserver:v0.20.0",
            "localhost/x",
            "host:5000/team/x_y-z.w:Tag_1.0-b",
            "Registry.example/x",
            "[::1]:5000/x",
            digest.as_str(),
        ] {
            assert!(is_image_name(good), "{good}");
        }
        let long = format!("x:{}", "a".repeat(129));
        for bad in [
            "",
            "my image",
            "repo//x",
            "/x",
            "x/",
            "Repo/Image",
            "Image",
            "https://host/x",
            "x:",
            "x:-a",
            "x@sha256:a",
            ".x",
            "x:1:2",
            "../x",
            long.as_str(),
        ] {
            assert!(!is_image_name(bad), "{bad}");
        }
    }

    #[test]
    fn containers_are_told_apart_by_service_and_namespace() {
        let name = |namespace: &str, service: &str, container: &str| {
            container_name("box", &replica_name(namespace, service, 3, 0), container)
        };
        let own = |name: &str| is_container_of(name, "box", "default", "iris-predictor");
        assert!(own(&name("default", "iris-predictor", "kserve-container")));
        assert!(own(&name("default", "iris-predictor", "agent")));
        for other in [
            name("default-2", "iris-v2-predictor", "kserve-container"),
            name("default-2", "iris-predictor", "kserve-container"),
            name("default", "iris-predictor-2", "kserve-container"),
            name("other", "iris-predictor", "default"),
            name("default", "my.iris-predictor", "kserve-container"),
        ] {
            assert!(!own(&other), "{other}");
        }
    }
}
