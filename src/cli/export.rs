//! `export`: what is served here, as a bundle for a cluster.

use std::collections::BTreeSet;

use anyhow::Result;
use camino::Utf8Path;
use clap::Args;
use serde_json::{Value, json};

use super::input::{self, InputArgs};
use super::manifests;
use super::output;
use super::parity::{self, Gap};
use super::report::{Exit, Problem};
use crate::api::component::PREDICTOR_MODELS;
use crate::api::{Kind, meta};
use crate::manifest::{self, DecodedObject, yaml};
use crate::runtimes::builtin;

/// What an API server writes itself and a bundle must not carry.
const SERVER_FIELDS: [&str; 6] =
    ["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink"];

/// Render the manifests, with the runtimes they use, as a bundle for `kubectl apply -f -` on a cluster.
///
/// What a cluster cannot serve as it is written (folders of this machine) is told on stderr; the exit code is 1 then.
#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    /// Where the manifests come from; the home folder when none are named.
    #[command(flatten)]
    pub input: InputArgs,
    /// Only these InferenceServices and what they need
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Leave out built-in runtimes: the cluster has its own
    #[arg(long)]
    pub without_runtimes: bool,
    /// Leave out Secrets
    #[arg(long)]
    pub without_secrets: bool,
}

/// Runs the verb.
///
/// # Errors
/// A manifest is invalid or cannot be read.
pub async fn run(home: &Utf8Path, args: ExportArgs) -> Result<Exit> {
    let names = manifests::named_or_folder(home, &args.input.filename)?;
    let sources = input::read(&names, args.input.recursive).await?;
    if input::tell_problems(&sources) {
        return Ok(Exit::Usage);
    }
    let mut objects = input::objects(&sources, None)?;
    if !args.names.is_empty() {
        choose(&mut objects, &args.names)?;
    }
    objects.retain(|found| !(args.without_secrets && found.object.key.kind == Kind::Secret));
    if objects.is_empty() {
        return Err(Problem::usage("nothing to export")
            .hint("name manifests with -f, or put some into the home")
            .into());
    }
    let mut bundle = namespaces(&objects);
    if !args.without_runtimes {
        bundle.extend(runtimes_used(home, &objects)?);
    }
    bundle.extend(objects.iter().map(|found| exported(&found.object.raw)));
    let documents: Vec<String> = bundle.iter().map(yaml::to_yaml).collect();
    output::print(&documents.join("---\n"))?;
    let gaps: Vec<Gap> = objects.iter().flat_map(|found| parity::cannot_be_served_elsewhere(&found.object)).collect();
    for gap in &gaps {
        output::note(&format!("warning: {gap}"));
    }
    Ok(if gaps.is_empty() { Exit::Done } else { Exit::NotSo })
}

/// Keeps the named services, and everything that is no service: which of it they need only the cluster knows.
fn choose(objects: &mut Vec<DecodedObject>, names: &[String]) -> Result<()> {
    let services: BTreeSet<&str> = objects
        .iter()
        .filter(|found| found.object.key.kind == Kind::InferenceService)
        .map(|found| found.object.key.name.as_str())
        .collect();
    if let Some(missing) = names.iter().find(|name| !services.contains(name.as_str())) {
        let known = services.into_iter().collect::<Vec<_>>().join(", ");
        return Err(Problem::not_so(format!("there is no InferenceService `{missing}`"))
            .hint(format!("there are: {known}"))
            .into());
    }
    objects.retain(|found| found.object.key.kind != Kind::InferenceService || names.contains(&found.object.key.name));
    Ok(())
}

/// Namespaces a cluster may not have.
fn namespaces(objects: &[DecodedObject]) -> Vec<Value> {
    let written: BTreeSet<&str> = objects
        .iter()
        .filter(|found| found.object.key.kind == Kind::Namespace)
        .map(|found| found.object.key.name.as_str())
        .collect();
    let used: BTreeSet<&str> = objects
        .iter()
        .filter(|found| found.object.key.kind.is_namespaced())
        .map(|found| found.object.key.namespace.as_str())
        .collect();
    let missing = used.into_iter().filter(|name| *name != meta::DEFAULT_NAMESPACE && !written.contains(name));
    missing.map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).collect()
}

/// The built-in runtimes that were chosen here: a cluster's own may be of another version.
fn runtimes_used(home: &Utf8Path, objects: &[DecodedObject]) -> Result<Vec<Value>> {
    let used = manifests::built_in_used(home, objects)?;
    let mut found = Vec::new();
    for (file, text) in builtin::FILES {
        for decoded in manifest::decode(file, text).objects {
            if used.contains(&decoded.object.key.name) {
                found.push(exported(&decoded.object.raw));
            }
        }
    }
    Ok(found)
}

/// The object without what an API server writes, and without annotations only this program reads.
fn exported(raw: &Value) -> Value {
    let mut object = raw.clone();
    let Some(fields) = object.as_object_mut() else { return object };
    fields.remove("status");
    if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|key, _| !SERVER_FIELDS.contains(&key.as_str()));
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.retain(|key, _| !key.starts_with(meta::OWN_PREFIX));
            if annotations.is_empty() {
                metadata.remove("annotations");
            }
        }
    }
    name_canaries_models(&mut object);
    object
}

/// KServe's definitions want a container's name in the models of canaries, where its webhook takes none but the empty one.
fn name_canaries_models(object: &mut Value) {
    let canaries = object.pointer_mut("/spec/canary").and_then(Value::as_array_mut);
    for canary in canaries.into_iter().flatten() {
        let predictor = canary.get_mut("predictor").and_then(Value::as_object_mut);
        let models = predictor.into_iter().flatten().filter(|(field, _)| PREDICTOR_MODELS.contains(&field.as_str()));
        for model in models.filter_map(|(_, model)| model.as_object_mut()) {
            model.entry("name").or_insert_with(|| json!(""));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exported_object_carries_what_was_written_and_nothing_of_this_machine() {
        let raw = json!({
            "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
            "metadata": {"name": "iris", "uid": "1", "resourceVersion": "7", "annotations": {"kserve-local/pin": "true"}},
            "spec": {"predictor": {"model": {"modelFormat": {"name": "sklearn"}}}},
            "status": {"url": "http://x"},
        });
        let expected = json!({
            "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
            "metadata": {"name": "iris"},
            "spec": {"predictor": {"model": {"modelFormat": {"name": "sklearn"}}}},
        });
        assert_eq!(exported(&raw), expected);
    }

    #[test]
    fn a_canarys_model_gets_the_empty_name_that_a_cluster_wants() {
        let raw = json!({"spec": {"canary": [
            {"name": "green", "predictor": {"model": {"modelFormat": {"name": "sklearn"}}}},
            {"name": "blue", "predictor": {"minReplicas": 1, "sklearn": {"name": ""}}},
        ]}});
        let exported = exported(&raw);
        assert_eq!(exported["spec"]["canary"][0]["predictor"]["model"]["name"], "");
        assert_eq!(exported["spec"]["canary"][1]["predictor"], raw["spec"]["canary"][1]["predictor"]);
    }
}
