//! Which image of a runtime's family runs: version tags, `-gpu` tags and the `-cpu` repository (§2.7).

use k8s_openapi::api::core::v1::Container;

/// Whether a container counts as using a GPU: a **limit** of `nvidia.com/gpu` or `nvidia.com/mig…`, whatever its amount.
/// Requests, and other makers' GPUs, do not count here (§0.5).
pub(super) fn is_gpu_enabled(container: &Container) -> bool {
    let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    limits.is_some_and(|limits| limits.keys().any(|key| key == "nvidia.com/gpu" || key.starts_with("nvidia.com/mig")))
}

/// Returns the image to run, from the one named, the model's `runtimeVersion`, the server type and the GPU.
pub(super) fn image(named: &str, runtime_version: Option<&str>, server_type: Option<&str>, gpu: bool) -> String {
    if named.contains("@sha256:") {
        return named.to_owned();
    }
    let (repository, tag) = split(named);
    if let Some(version) = runtime_version.filter(|version| !version.is_empty()) {
        return format!("{repository}:{version}");
    }
    let (Some(server_type), Some(tag)) = (server_type, tag) else { return named.to_owned() };
    match (server_type, gpu) {
        ("tensorflow-serving" | "torchserve" | "huggingfaceserver", true) if !tag.ends_with("-gpu") => {
            format!("{repository}:{tag}-gpu")
        }
        ("vllmserver", false) if !repository.ends_with("-cpu") => format!("{repository}-cpu:{tag}"),
        _ => named.to_owned(),
    }
}

/// Splits off the tag; a colon followed by a slash belongs to a registry's port.
fn split(image: &str) -> (&str, Option<&str>) {
    match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (image, None),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tags_follow_the_version_the_server_and_the_gpu() {
        let tf = Some("tensorflow-serving");
        let vllm = Some("vllmserver");
        let digest = "tensorflow/serving@sha256:0123";
        let cases = [
            (digest, Some("9"), tf, true, digest),
            ("tensorflow/serving:2.6.2", None, tf, false, "tensorflow/serving:2.6.2"),
            ("tensorflow/serving:2.6.2", None, tf, true, "tensorflow/serving:2.6.2-gpu"),
            ("tensorflow/serving:2.6.2-gpu", None, tf, true, "tensorflow/serving:2.6.2-gpu"),
            ("tensorflow/serving:2.6.2", Some("2.8.0"), tf, true, "tensorflow/serving:2.8.0"),
            ("tensorflow/serving", Some("2.8.0"), tf, true, "tensorflow/serving:2.8.0"),
            ("tensorflow/serving", None, tf, true, "tensorflow/serving"),
            ("tensorflow/serving:2.6.2", None, None, true, "tensorflow/serving:2.6.2"),
            ("registry:5000/tf", Some("1"), tf, false, "registry:5000/tf:1"),
            ("registry:5000/tf", None, tf, true, "registry:5000/tf"),
            ("kserve/huggingfaceserver:v1", None, Some("huggingfaceserver"), true, "kserve/huggingfaceserver:v1-gpu"),
            ("pytorch/torchserve-kfs:0.9.0", None, Some("torchserve"), true, "pytorch/torchserve-kfs:0.9.0-gpu"),
            (
                "nvcr.io/nvidia/tritonserver:23.05-py3",
                None,
                Some("tritonserver"),
                true,
                "nvcr.io/nvidia/tritonserver:23.05-py3",
            ),
            ("vllm/vllm-openai:v1", None, vllm, false, "vllm/vllm-openai-cpu:v1"),
            ("vllm/vllm-openai-cpu:v1", None, vllm, false, "vllm/vllm-openai-cpu:v1"),
            ("vllm/vllm-openai:v1", None, vllm, true, "vllm/vllm-openai:v1"),
            ("vllm/vllm-openai:v1", Some("v2"), vllm, false, "vllm/vllm-openai:v2"),
        ];
        for (named, version, server, gpu, want) in cases {
            assert_eq!(image(named, version, server, gpu), want, "{named} {version:?} {server:?} gpu={gpu}");
        }
    }

    #[test]
    fn only_nvidia_limits_count_as_a_gpu() {
        let cases = [
            (json!({ "limits": { "nvidia.com/gpu": "0" } }), true),
            (json!({ "limits": { "nvidia.com/mig-1g.5gb": "1" } }), true),
            (json!({ "requests": { "nvidia.com/gpu": "1" } }), false),
            (json!({ "limits": { "amd.com/gpu": "1" } }), false),
            (json!({}), false),
        ];
        for (resources, want) in cases {
            let container = json!({ "name": "a", "resources": resources });
            assert_eq!(is_gpu_enabled(&serde_json::from_value(container).unwrap()), want, "{resources}");
        }
    }
}
