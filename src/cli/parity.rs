//! Where a cluster would do something else with a manifest than this program. No effects.

use std::fmt;

use serde_json::Value;

use crate::api::component::PREDICTOR_MODELS;
use crate::api::{Object, meta};

/// A difference between here and a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Stable name of the rule.
    pub rule: &'static str,
    /// Kind and name.
    pub object: String,
    /// Path of the field.
    pub field: String,
    /// What is different.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {} ({}; {})", self.object, self.field, self.message, self.rule, self.help)
    }
}

/// Memory a cluster gives a custom container that asks for none (`inferenceService.resource` of
/// `inferenceservice-config`; `model` predictors inherit from their runtime).
const DEFAULT_MEMORY: u64 = 2 << 30;

/// Returns what a cluster cannot serve as it is written.
pub fn cannot_be_served_elsewhere(object: &Object) -> Vec<Gap> {
    let mut gaps = Vec::new();
    each_string(&object.raw, &mut String::new(), &mut |path, text| {
        let field = path.rsplit('.').next().unwrap_or_default();
        let folder = text.strip_prefix("file://").or(text.starts_with('/').then_some(text));
        if let Some(folder) = folder.filter(|_| field == "storageUri" || field == "uri") {
            let message = format!("`{folder}` is a folder of this machine");
            let help = "upload it, for example to s3://, or put it on a volume: pvc://";
            gaps.push(gap(object, "local-folder", path, message, help));
        }
    });
    gaps
}

/// Returns everything a cluster would do differently. `peak` is the largest memory the object's containers were measured
/// to use here, in bytes.
pub fn differences(object: &Object, peak: Option<u64>) -> Vec<Gap> {
    let mut gaps = cannot_be_served_elsewhere(object);
    if object.as_inference_service().is_none() {
        return gaps;
    }
    gaps.extend(legacy_forms(object));
    gaps.extend(legacy_modes(object));
    gaps.extend(default_resources(object, peak));
    gaps.extend(no_budget(object));
    gaps.extend(moving_tags(object));
    gaps.extend(local_annotations(object));
    gaps
}

fn gap(object: &Object, rule: &'static str, field: &str, message: impl Into<String>, help: impl Into<String>) -> Gap {
    let key = &object.key;
    Gap {
        rule,
        object: format!("{} {}/{}", key.kind, key.namespace, key.name),
        field: field.to_owned(),
        message: message.into(),
        help: help.into(),
    }
}

fn legacy_forms(object: &Object) -> Vec<Gap> {
    let predictor = &object.raw["spec"]["predictor"];
    let written = PREDICTOR_MODELS.iter().filter(|name| **name != "model" && !predictor[**name].is_null());
    let legacy = |name: &&str| {
        gap(
            object,
            "deprecated-form",
            &format!("spec.predictor.{name}"),
            "the per-framework form is kept for older manifests",
            format!("write model: with modelFormat: {{name: {name}}}"),
        )
    };
    written.map(legacy).collect()
}

fn legacy_modes(object: &Object) -> Option<Gap> {
    // As it was written: the object's own annotations carry today's names.
    let written = object.raw["metadata"]["annotations"][meta::DEPLOYMENT_MODE].as_str()?;
    let now = match written {
        "Serverless" => "Knative",
        "RawDeployment" => "Standard",
        _ => return None,
    };
    let field = format!("metadata.annotations[{}]", meta::DEPLOYMENT_MODE);
    Some(gap(object, "deprecated-mode", &field, format!("`{written}` is the old name"), format!("write {now}")))
}

/// Custom containers get limits on a cluster that nothing imposes here.
fn default_resources(object: &Object, peak: Option<u64>) -> Vec<Gap> {
    let mut gaps = Vec::new();
    for component in ["predictor", "transformer", "explainer"] {
        let container = &object.raw["spec"][component]["containers"][0];
        if container.is_null() || !container["resources"]["limits"]["memory"].is_null() {
            continue;
        }
        let field = format!("spec.{component}.containers[0].resources.limits.memory");
        let mib = |bytes: u64| bytes >> 20;
        let (message, help) = match peak {
            Some(peak) if peak > DEFAULT_MEMORY => (
                format!("a cluster limits it to 2Gi, and it was measured to use {} MiB: it would be killed", mib(peak)),
                format!("write at least {}Mi", mib(peak) + mib(peak) / 5),
            ),
            Some(peak) => (
                format!("a cluster adds 1 CPU and 2Gi as request and limit; it was measured to use {} MiB", mib(peak)),
                "write the limits it needs".to_owned(),
            ),
            None => (
                "a cluster adds 1 CPU and 2Gi as request and limit; here it has none".to_owned(),
                "write the limits it needs".to_owned(),
            ),
        };
        gaps.push(gap(object, "default-resources", &field, message, help));
    }
    gaps
}

/// A server of several models has the room its memory limit says; without one a cluster loads none.
fn no_budget(object: &Object) -> Option<Gap> {
    let predictor = &object.as_inference_service()?.predictor;
    let model = predictor.model.as_ref()?;
    let own = model.storage_uri.is_some() || model.storage.is_some() || predictor.storage_uris.is_some();
    let limits = model.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    if own || model.model_format.name == "huggingface" || limits.is_some_and(|limits| limits.contains_key("memory")) {
        return None;
    }
    let message = "without a memory limit a cluster loads no TrainedModel";
    let help = "write resources.limits.memory: what its TrainedModels declare together, and more";
    Some(gap(object, "no-model-budget", "spec.predictor.model.resources.limits.memory", message, help))
}

fn moving_tags(object: &Object) -> Vec<Gap> {
    let mut gaps = Vec::new();
    each_string(&object.raw["spec"], &mut "spec".to_owned(), &mut |path, text| {
        let is_image = path.ends_with(".image");
        let name = text.rsplit('/').next().unwrap_or(text);
        let moves = !text.contains('@') && (!name.contains(':') || name.ends_with(":latest"));
        if is_image && moves {
            gaps.push(gap(
                object,
                "moving-tag",
                path,
                format!("`{text}` is another image tomorrow"),
                "name a version or a digest: a cluster may pull it anew on every node",
            ));
        }
    });
    gaps
}

fn local_annotations(object: &Object) -> Vec<Gap> {
    let annotations = object.raw["metadata"]["annotations"].as_object().into_iter().flatten();
    let own = annotations.filter(|(key, _)| key.starts_with(meta::OWN_PREFIX));
    own.map(|(key, _)| {
        gap(
            object,
            "local-annotation",
            &format!("metadata.annotations[{key}]"),
            "means nothing on a cluster",
            "nothing to do; export leaves it out",
        )
    })
    .collect()
}

/// Calls back for every string with its path.
fn each_string(value: &Value, path: &mut String, found: &mut impl FnMut(&str, &str)) {
    match value {
        Value::String(text) => found(path, text),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| within(path, &format!("[{index}]"), item, found));
        }
        Value::Object(fields) => fields.iter().for_each(|(key, item)| {
            let step = if path.is_empty() { key.clone() } else { format!(".{key}") };
            within(path, &step, item, found);
        }),
        _ => {}
    }
}

fn within(path: &mut String, step: &str, value: &Value, found: &mut impl FnMut(&str, &str)) {
    let length = path.len();
    path.push_str(step);
    each_string(value, path, found);
    path.truncate(length);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(spec: &str, annotations: &str) -> Object {
        let text = format!(
            "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: iris\n  annotations: {{{annotations}}}\nspec:\n  predictor: {spec}\n"
        );
        let decoded = crate::manifest::decode("iris.yaml", &text);
        assert!(decoded.diagnostics.iter().all(|d| !d.is_error()), "{:?}", decoded.diagnostics);
        decoded.objects[0].object.clone()
    }

    fn rules(object: &Object, peak: Option<u64>) -> Vec<(&'static str, String)> {
        differences(object, peak).into_iter().map(|gap| (gap.rule, gap.field)).collect()
    }

    #[test]
    fn what_a_cluster_does_differently_is_named_with_its_field() {
        let legacy =
            object("{sklearn: {storageUri: 'file:///models/iris'}}", "serving.kserve.io/deploymentMode: RawDeployment");
        assert_eq!(
            rules(&legacy, None),
            [
                ("local-folder", "spec.predictor.sklearn.storageUri".to_owned()),
                ("deprecated-form", "spec.predictor.sklearn".to_owned()),
                ("deprecated-mode", "metadata.annotations[serving.kserve.io/deploymentMode]".to_owned()),
            ]
        );
        let custom = object("{containers: [{name: kserve-container, image: 'me/model'}]}", "kserve-local/pin: 'true'");
        assert_eq!(
            rules(&custom, None),
            [
                ("default-resources", "spec.predictor.containers[0].resources.limits.memory".to_owned()),
                ("moving-tag", "spec.predictor.containers[0].image".to_owned()),
                ("local-annotation", "metadata.annotations[kserve-local/pin]".to_owned()),
            ]
        );
    }

    #[test]
    fn every_per_framework_form_is_deprecated_and_the_new_one_is_not() {
        for form in PREDICTOR_MODELS.iter().filter(|form| **form != "model") {
            let gaps = rules(&object(&format!("{{{form}: {{storageUri: 's3://bucket/iris'}}}}"), ""), None);
            assert_eq!(gaps, [("deprecated-form", format!("spec.predictor.{form}"))]);
        }
    }

    #[test]
    fn a_measured_footprint_over_the_default_limit_is_said_to_be_killed() {
        let custom = object("{containers: [{name: kserve-container, image: 'me/model:1'}]}", "");
        let said = |peak| differences(&custom, Some(peak))[0].message.clone();
        assert!(said(3 << 30).contains("measured to use 3072 MiB: it would be killed"));
        assert!(!said(1 << 30).contains("killed"));
    }

    #[test]
    fn a_server_of_several_models_needs_a_memory_limit_on_a_cluster() {
        let shelf = |more: &str| object(&format!("{{model: {{modelFormat: {{name: sklearn}}{more}}}}}"), "");
        let field = "spec.predictor.model.resources.limits.memory".to_owned();
        assert_eq!(rules(&shelf(""), None), [("no-model-budget", field)]);
        assert_eq!(rules(&shelf(", resources: {limits: {memory: 1Gi}}"), None), []);
    }

    #[test]
    fn a_manifest_that_is_ready_for_a_cluster_has_no_gaps() {
        let ready = object("{model: {modelFormat: {name: sklearn}, storageUri: 's3://bucket/iris'}}", "");
        assert_eq!(differences(&ready, Some(8 << 30)), []);
    }
}
