//! The YAML in `/runtimes`, compiled in and parsed once.
//!
//! The files are ordinary manifests: they go through [`manifest::decode()`] like anything a user
//! writes. A test decodes each of them, so a mistake in one never reaches a user.

use std::sync::{Arc, LazyLock};

use super::Runtime;
use crate::api::Kind;
use crate::manifest;

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../runtimes/", $name, ".yaml")))),*]
    };
}

/// Name and text of every built-in runtime, by name.
pub const FILES: &[(&str, &str)] = files![
    "kserve-autogluonserver",
    "kserve-huggingfaceserver",
    "kserve-lgbserver",
    "kserve-local-llamacpp",
    "kserve-mlserver",
    "kserve-openvino",
    "kserve-paddleserver",
    "kserve-pmmlserver",
    "kserve-predictiveserver",
    "kserve-sklearnserver",
    "kserve-tensorflow-serving",
    "kserve-torchserve",
    "kserve-tritonserver",
    "kserve-vllmserver",
    "kserve-xgbserver",
];

static RUNTIMES: LazyLock<Vec<Runtime>> =
    LazyLock::new(|| FILES.iter().map(|(name, text)| parse(name, text)).collect());

/// Returns the built-in ClusterServingRuntimes, by name.
pub fn runtimes() -> &'static [Runtime] {
    &RUNTIMES
}

fn parse(name: &str, text: &str) -> Runtime {
    let decoded = manifest::decode(&format!("{name}.yaml"), text);
    let object = decoded.objects.into_iter().next().map(|decoded| decoded.object);
    object
        .filter(|object| object.key.kind == Kind::ClusterServingRuntime && object.key.name == name)
        .and_then(|object| {
            let spec = object.as_serving_runtime()?.clone();
            let annotations = Arc::unwrap_or_clone(object.meta.annotations);
            Some(Runtime {
                name: object.key.name,
                namespace: None,
                annotations,
                created: None,
                built_in: true,
                spec: Arc::new(spec),
            })
        })
        .expect("every file in /runtimes holds one ClusterServingRuntime of its own name; a test decodes them all")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::meta;

    #[test]
    fn every_file_decodes_without_a_word_and_is_named_for_its_runtime() {
        for (name, text) in FILES {
            let decoded = manifest::decode(&format!("{name}.yaml"), text);
            assert_eq!(decoded.diagnostics, [], "{name}");
            assert_eq!(decoded.objects.len(), 1, "{name}");
            assert_eq!(decoded.objects[0].object.key.name, *name);
        }
    }

    #[test]
    fn every_built_in_has_a_server_type_a_pinned_image_and_no_limits() {
        for runtime in runtimes() {
            assert!(runtime.annotations.contains_key(meta::SERVER_TYPE), "{}", runtime.name);
            let container = &runtime.spec.containers[0];
            assert_eq!(container.name, meta::KSERVE_CONTAINER);
            let image = container.image.as_deref().unwrap();
            let tag = image.rsplit_once(':').map(|(_, tag)| tag).unwrap();
            assert!(tag != "latest" && !tag.is_empty(), "{image}");
            let resources = container.resources.as_ref().unwrap();
            assert_eq!(resources.limits, None, "{}: no invented limits", runtime.name);
            assert!(resources.requests.is_some(), "{}", runtime.name);
        }
    }
}
