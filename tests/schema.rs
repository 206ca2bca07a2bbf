//! The schemas we publish against those of KServe's own CRDs: same fields, same types, same named lists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kserve_local::api::Kind;
use kserve_local::kubeapi::lists::{ListType, list_type};
use kserve_local::manifest::decode;
use kserve_local::manifest::schema::{Definitions, REFERENCE};
use kserve_local::manifest::yaml;
use serde_json::{Value, json};

/// What Kubernetes has added since the version our types are of; refused by name.
const NEWER: [&str; 3] = ["fileKeyRef", "podCertificate", "restartPolicyRules"];

fn upstream() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/kserve-upstream");
    let folder = std::env::var_os("KSERVE_UPSTREAM_DIR").map_or(beside, PathBuf::from);
    folder.join("crds").is_dir().then_some(folder)
}

#[expect(clippy::print_stdout, reason = "a skipped test is named where people look")]
fn skip(test: &str) {
    let line = format!("SKIPPED: {test}: upstream's definitions are not at hand (set KSERVE_UPSTREAM_DIR)");
    println!("{line}");
    if let Some(list) = std::env::var_os("KSERVE_LOCAL_TEST_SKIPS") {
        let earlier = std::fs::read_to_string(&list).unwrap_or_default();
        std::fs::write(&list, format!("{earlier}{line}\n")).expect("a list of skips");
    }
}

/// Follows a reference to the schema it stands for.
fn resolved<'v>(schema: &'v Value, definitions: &'v Definitions) -> &'v Value {
    let reference = schema["allOf"][0]["$ref"].as_str().and_then(|reference| reference.strip_prefix(REFERENCE));
    reference.map_or(schema, |name| &definitions[name])
}

struct Comparison<'a> {
    definitions: &'a Definitions,
    differences: BTreeSet<String>,
}

impl Comparison<'_> {
    fn compare(&mut self, path: &str, theirs: &Value, ours: &Value) {
        let ours = resolved(ours, self.definitions);
        if ours["x-kubernetes-preserve-unknown-fields"] == true
            || theirs["x-kubernetes-preserve-unknown-fields"] == true
        {
            return;
        }
        let either = |schema: &Value| schema["x-kubernetes-int-or-string"] == true;
        // A quantity is text here: clients write it as text.
        if either(theirs) {
            if !either(ours) && ours["type"] != "string" {
                self.differences.insert(format!("{path}: int or string, here {}", ours["type"]));
            }
            return;
        }
        if theirs["type"] != ours["type"] {
            self.differences.insert(format!("{path}: {}, here {}", theirs["type"], ours["type"]));
            return;
        }
        for (field, theirs) in theirs["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{field}");
            match ours["properties"].get(field) {
                Some(ours) => self.compare(&path, theirs, ours),
                None => drop(self.differences.insert(format!("{path}: not here"))),
            }
            self.compare_list(&path, field, theirs);
        }
        for inside in ["items", "additionalProperties"] {
            if theirs[inside].is_object() {
                self.compare(&format!("{path}[]"), &theirs[inside], &ours[inside]);
            }
        }
    }

    fn compare_list(&mut self, path: &str, field: &str, theirs: &Value) {
        let here = match list_type(field) {
            ListType::Map(keys) => json!(keys),
            _ => Value::Null,
        };
        if theirs["type"] == "array" && theirs["x-kubernetes-list-map-keys"] != here {
            let keys = &theirs["x-kubernetes-list-map-keys"];
            self.differences.insert(format!("{path}: elements by {keys}, here by {here}"));
        }
    }
}

#[test]
fn what_is_published_is_what_kserve_publishes() {
    let Some(upstream) = upstream() else {
        skip("what_is_published_is_what_kserve_publishes");
        return;
    };
    let mut found = BTreeSet::new();
    let kinds = [
        Kind::InferenceService,
        Kind::ServingRuntime,
        Kind::ClusterServingRuntime,
        Kind::InferenceGraph,
        Kind::TrainedModel,
        Kind::ClusterStorageContainer,
        Kind::LocalModelCache,
        Kind::LocalModelNamespaceCache,
        Kind::LocalModelNodeGroup,
    ];
    for kind in kinds {
        let file = upstream.join(format!("crds/serving.kserve.io_{}.yaml", kind.plural()));
        let crd: Value =
            yaml::from_yaml(&std::fs::read_to_string(file).expect("the CRD is there")).expect("it is YAML");
        let versions = crd["spec"]["versions"].as_array().expect("versions");
        let version = versions.iter().find(|version| version["name"] == kind.version()).expect("our version");
        let mut definitions = Definitions::new();
        let name = decode::schema(kind, &mut definitions).expect("a schema");
        let mut comparison = Comparison { definitions: &definitions, differences: BTreeSet::new() };
        let theirs = &version["schema"]["openAPIV3Schema"]["properties"]["spec"];
        comparison.compare(&format!("{kind}.spec"), theirs, &definitions[&name]["properties"]["spec"]);
        found.extend(comparison.differences);
    }
    found.retain(|difference| !NEWER.iter().any(|field| difference.ends_with(&format!(".{field}: not here"))));
    assert_eq!(found, BTreeSet::new());
}
