//! Limits and requests of a container, as numbers.
//!
//! What is written is enforced; what is not written is not invented. A limit without a request is a request too, as in
//! Kubernetes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::origin::Origin;
use super::{ResolveError, Resources};
use crate::api::quantity;

/// What the resources of a container come to.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    pub(super) resources: Resources,
    pub(super) warnings: Vec<String>,
}

/// Reads the resources of a container. `gpu_types` are further GPU resource names.
pub(super) fn resources(
    container: &Container,
    origin: &Origin,
    gpu_types: &[String],
) -> Result<Resolved, ResolveError> {
    let mut resolved = Resolved::default();
    let Some(written) = &container.resources else { return Ok(resolved) };
    let empty = BTreeMap::new();
    let reader = Reader { origin, gpu_types };
    let limits = reader.read("limits", written.limits.as_ref().unwrap_or(&empty), &mut resolved.warnings)?;
    let requests = reader.read("requests", written.requests.as_ref().unwrap_or(&empty), &mut resolved.warnings)?;
    let exceeds = |key: &str, request: Option<u64>, limit: Option<u64>| match (request, limit) {
        (Some(request), Some(limit)) if request > limit => {
            let limit = written.limits.as_ref().and_then(|limits| limits.get(key)).map_or("", |limit| &limit.0);
            let field = origin.field(&["resources", "requests", key]);
            Err(ResolveError::invalid(field, format!("must be less than or equal to {key} limit of {limit}"))
                .with_help(format!(
                    "a runtime's requests stay when only a limit is written; add `requests: {{ {key}: {limit} }}`"
                )))
        }
        _ => Ok(()),
    };
    exceeds("cpu", requests.cpu, limits.cpu)?;
    exceeds("memory", requests.memory, limits.memory)?;
    for (name, count) in &requests.gpus {
        if limits.gpus.get(name) != Some(count) {
            let message = match limits.gpus.get(name) {
                None => format!("a request of `{name}` needs the same limit"),
                Some(limit) => format!("must be equal to {name} limit of {limit}"),
            };
            return Err(ResolveError::invalid(origin.field(&["resources", "requests", name]), message)
                .with_help(format!("write `limits: {{ {name}: {count} }}`")));
        }
    }
    resolved.resources = Resources {
        cpu_limit_milli: limits.cpu,
        cpu_request_milli: requests.cpu.or(limits.cpu),
        memory_limit: limits.memory,
        memory_request: requests.memory.or(limits.memory),
        gpus: limits.gpus,
    };
    Ok(resolved)
}

/// Whether a resource name is a GPU's (§0.5).
pub(super) fn is_gpu(name: &str, further: &[String]) -> bool {
    matches!(name, "nvidia.com/gpu" | "amd.com/gpu" | "intel.com/gpu" | "habana.ai/gaudi")
        || name.starts_with("nvidia.com/mig")
        || further.iter().any(|own| own == name)
}

#[derive(Default)]
struct Amounts {
    cpu: Option<u64>,
    memory: Option<u64>,
    gpus: BTreeMap<String, u64>,
}

struct Reader<'a> {
    origin: &'a Origin,
    gpu_types: &'a [String],
}

impl Reader<'_> {
    fn read(
        &self,
        section: &str,
        written: &BTreeMap<String, Quantity>,
        warnings: &mut Vec<String>,
    ) -> Result<Amounts, ResolveError> {
        let mut amounts = Amounts::default();
        for (name, Quantity(text)) in written {
            let field = || self.origin.field(&["resources", section, name]);
            match name.as_str() {
                "cpu" => amounts.cpu = Some(milli(text).map_err(|problem| ResolveError::invalid(field(), problem))?),
                "memory" => {
                    amounts.memory = Some(whole(text).map_err(|problem| ResolveError::invalid(field(), problem))?);
                }
                "ephemeral-storage" => {
                    whole(text).map_err(|problem| ResolveError::invalid(field(), problem))?;
                    warnings.push(format!("{}: disk space of a container is not limited on one machine", field()));
                }
                gpu if is_gpu(gpu, self.gpu_types) => {
                    let count = devices(text).map_err(|problem| ResolveError::invalid(field(), problem))?;
                    amounts.gpus.insert(name.clone(), count);
                }
                _ => {
                    return Err(ResolveError::invalid(field(), format!("this machine has no resource `{name}`"))
                        .with_help("cpu, memory and GPU resources are known; further GPU names go into the annotation serving.kserve.io/gpu-resource-types"));
                }
            }
        }
        Ok(amounts)
    }
}

fn milli(text: &str) -> Result<u64, String> {
    let milli = quantity::parse_milli(text).map_err(|error| error.to_string())?;
    u64::try_from(milli).map_err(|_| negative(text))
}

fn whole(text: &str) -> Result<u64, String> {
    if quantity::parse_milli(text).is_ok_and(|milli| milli < 0) {
        return Err(negative(text));
    }
    quantity::parse_whole(text).map_err(|error| error.to_string())
}

fn devices(text: &str) -> Result<u64, String> {
    let milli = milli(text)?;
    if milli % 1000 == 0 { Ok(milli / 1000) } else { Err(format!("`{text}` is not a whole number of devices")) }
}

fn negative(text: &str) -> String {
    format!("`{text}` is negative or too large")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: Value) -> Result<Resolved, ResolveError> {
        let container = serde_json::from_value(json!({ "name": "c", "resources": value })).unwrap();
        resources(&container, &Origin::new("spec.predictor.model", &container), &["vendor.io/npu".to_owned()])
    }

    #[test]
    fn what_is_written_is_what_there_is() {
        let none = Resources::default();
        let cases = [
            (json!({}), none.clone()),
            (
                json!({ "requests": { "cpu": "500m", "memory": "2Gi" } }),
                Resources { cpu_request_milli: Some(500), memory_request: Some(2 << 30), ..none.clone() },
            ),
            (
                json!({ "limits": { "cpu": "1.5", "memory": "1e9" } }),
                Resources {
                    cpu_limit_milli: Some(1500),
                    cpu_request_milli: Some(1500),
                    memory_limit: Some(1_000_000_000),
                    memory_request: Some(1_000_000_000),
                    ..none.clone()
                },
            ),
            (
                json!({ "limits": { "nvidia.com/gpu": "2", "vendor.io/npu": 1 }, "requests": { "nvidia.com/gpu": "2" } }),
                Resources { gpus: [("nvidia.com/gpu".to_owned(), 2), ("vendor.io/npu".to_owned(), 1)].into(), ..none },
            ),
        ];
        for (written, want) in cases {
            assert_eq!(read(written.clone()).unwrap().resources, want, "{written}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_path() {
        let cases = [
            (json!({ "limits": { "cpu": "-1" } }), "limits.cpu", "negative"),
            (json!({ "limits": { "memory": "2gi" } }), "limits.memory", "is not a quantity"),
            (json!({ "limits": { "cpu": "1" }, "requests": { "cpu": "2" } }), "requests.cpu", "cpu limit of 1"),
            (
                json!({ "limits": { "memory": "1Gi" }, "requests": { "memory": "2Gi" } }),
                "requests.memory",
                "memory limit of 1Gi",
            ),
            (json!({ "limits": { "nvidia.com/gpu": "0.5" } }), "limits.nvidia.com/gpu", "whole number"),
            (json!({ "requests": { "nvidia.com/gpu": "1" } }), "requests.nvidia.com/gpu", "needs the same limit"),
            (json!({ "limits": { "rdma/roce": "1" } }), "limits.rdma/roce", "no resource"),
        ];
        for (written, field, message) in cases {
            let error = read(written).unwrap_err();
            let ResolveError::Invalid { field: path, message: text, .. } = &error else { panic!("{error}") };
            assert_eq!(path, &format!("spec.predictor.model.resources.{field}"));
            assert!(text.contains(message), "{text}");
        }
    }
}
