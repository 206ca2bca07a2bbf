//! Upstream's own files. Every sample ends accepted, accepted with warnings, or refused by name, never silently different
//! (the table of counts is a snapshot, so that a change of it is seen); every runtime is taken; every field of the
//! custom resource definitions is known.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use kserve_local::manifest::{Decoded, Diagnostic, DiagnosticCode, decode, decode_value, validate::validate_runtimes};
use serde_json::{Map, Value, json};

/// Returns upstream's folder; when it is not there the test is skipped, loudly.
fn upstream(test: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/kserve-upstream");
    let folder = std::env::var_os("KSERVE_UPSTREAM_DIR").map_or(beside, PathBuf::from);
    if folder.join("samples").is_dir() {
        return Some(folder);
    }
    let line = format!("SKIPPED: {test}: upstream's manifests are not at hand (set KSERVE_UPSTREAM_DIR)");
    println!("{line}");
    if let Some(list) = std::env::var_os("KSERVE_LOCAL_TEST_SKIPS") {
        let earlier = std::fs::read_to_string(&list).unwrap_or_default();
        std::fs::write(&list, format!("{earlier}{line}\n")).unwrap();
    }
    None
}

fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(yaml_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn decode_all(folder: &Path) -> Vec<(String, Decoded)> {
    let decode_one = |path: &PathBuf| {
        let name = path.strip_prefix(folder).unwrap().display().to_string();
        let decoded = decode(&name, &std::fs::read_to_string(path).unwrap());
        (name, decoded)
    };
    yaml_files(folder).iter().map(decode_one).collect()
}

/// The sorts of reasons a sample may be refused for. Anything else is a surprise, and fails the test.
fn reason(diagnostic: &Diagnostic) -> Option<String> {
    let message = &diagnostic.message;
    let help = diagnostic.help.as_deref().unwrap_or_default();
    match diagnostic.code {
        DiagnosticCode::NotServed => Some(message.clone()),
        DiagnosticCode::Syntax if help.starts_with("fill in the placeholder") => {
            Some("a placeholder such as {username} is not filled in".to_owned())
        }
        DiagnosticCode::UnknownField if !help.is_empty() => {
            Some(format!("{message} in {}: {help}", parent(diagnostic.field.as_deref().unwrap_or_default())))
        }
        DiagnosticCode::Invalid | DiagnosticCode::Denied => Some(message.clone()),
        _ => None,
    }
}

fn parent(field: &str) -> &str {
    field.rsplit_once('.').map_or("the document", |(parent, _)| parent)
}

fn table(samples: &[(String, Decoded)]) -> String {
    let mut files =
        BTreeMap::from([("accepted", 0), ("accepted with warnings", 0), ("refused", 0), ("refused in part", 0)]);
    let mut documents = BTreeMap::from([("taken", 0), ("refused", 0)]);
    let mut refusals: BTreeMap<String, usize> = BTreeMap::new();
    let mut warnings: BTreeMap<String, usize> = BTreeMap::new();
    for (name, decoded) in samples {
        let refused = decoded.diagnostics.iter().any(Diagnostic::is_error);
        let outcome = match (refused, decoded.objects.is_empty(), decoded.diagnostics.is_empty()) {
            (true, true, _) => "refused",
            (true, false, _) => "refused in part",
            (false, _, true) => "accepted",
            (false, _, false) => "accepted with warnings",
        };
        *files.entry(outcome).or_default() += 1;
        *documents.entry("taken").or_default() += decoded.objects.len();
        let mut reasons = BTreeMap::new();
        for diagnostic in &decoded.diagnostics {
            let reason = reason(diagnostic).filter(|_| diagnostic.is_error());
            assert!(reason.is_some() || !diagnostic.is_error(), "a surprise in {name}: {diagnostic:?}");
            assert!(diagnostic.position.is_some(), "no place in {name}: {diagnostic:?}");
            match reason {
                Some(reason) => *reasons.entry(reason).or_insert(0) += 1,
                None => *warnings.entry(diagnostic.message.clone()).or_default() += 1,
            }
        }
        for (reason, _) in reasons {
            *refusals.entry(reason).or_default() += 1;
        }
    }
    let foreign =
        samples.iter().flat_map(|(_, decoded)| &decoded.diagnostics).filter(|d| d.message.starts_with("kind "));
    let failed: usize = samples.iter().map(|(_, decoded)| decoded.failed.len()).sum();
    *documents.entry("refused").or_default() += failed + foreign.count();
    let section = |title: &str, rows: Vec<(String, usize)>| {
        let rows: Vec<_> = rows.into_iter().map(|(row, count)| format!("{count:>5}  {row}")).collect();
        format!("{title}\n{}", rows.join("\n"))
    };
    let named = |rows: BTreeMap<&str, usize>| rows.into_iter().map(|(row, count)| (row.to_owned(), count)).collect();
    [
        section(&format!("{} files", samples.len()), named(files)),
        section("documents", named(documents)),
        section("files refused because", refusals.into_iter().collect()),
        section("warnings", warnings.into_iter().collect()),
    ]
    .join("\n\n")
}

#[test]
fn every_sample_is_accepted_warned_about_or_refused_by_name() {
    let Some(upstream) = upstream("every_sample_is_accepted_warned_about_or_refused_by_name") else { return };
    let samples = decode_all(&upstream.join("samples"));
    assert_eq!(samples.len(), 133);
    let table = table(&samples);
    println!("{table}");
    insta::assert_snapshot!("samples", table);
}

#[test]
fn every_sample_that_is_taken_says_something() {
    let Some(upstream) = upstream("every_sample_that_is_taken_says_something") else { return };
    for (name, decoded) in decode_all(&upstream.join("samples")) {
        assert!(!decoded.objects.is_empty() || !decoded.diagnostics.is_empty(), "{name} vanished");
    }
}

#[test]
fn upstreams_runtimes_are_taken_and_do_not_collide() {
    let Some(upstream) = upstream("upstreams_runtimes_are_taken_and_do_not_collide") else { return };
    let decoded = decode_all(&upstream.join("runtimes"));
    let runtimes: Vec<_> = decoded.iter().filter(|(name, _)| name != "kustomization.yaml").collect();
    assert_eq!(runtimes.len(), 15);
    for (name, decoded) in &runtimes {
        let errors: Vec<_> = decoded.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
        assert_eq!(decoded.objects.len(), 1, "{name}");
    }
    // Upstream installs all but OpenVINO together, so these must go together.
    let installed = runtimes.iter().filter(|(name, _)| name != "kserve-openvino.yaml");
    let objects: Vec<_> = installed.flat_map(|(_, decoded)| &decoded.objects).map(|object| &object.object).collect();
    assert_eq!(validate_runtimes(&objects), []);
}

/// Returns a value with every field a schema has.
fn fill(schema: &Value) -> Value {
    if schema["x-kubernetes-int-or-string"] == true {
        return json!(1);
    }
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    match schema["type"].as_str() {
        Some("object") => {
            let named = schema["properties"].as_object().into_iter().flatten();
            let mut map: Map<_, _> = named.map(|(key, schema)| (key.clone(), fill(schema))).collect();
            if schema["additionalProperties"].is_object() {
                map.insert("key".to_owned(), fill(&schema["additionalProperties"]));
            }
            Value::Object(map)
        }
        Some("array") => json!([fill(&schema["items"])]),
        Some("integer" | "number") => json!(1),
        Some("boolean") => json!(true),
        _ => json!("text"),
    }
}

fn misfits(crd: &Path, api_version: &str, kind: &str) -> Vec<String> {
    let crd: Value = serde_yaml::from_str(&std::fs::read_to_string(crd).unwrap()).unwrap();
    let versions = crd["spec"]["versions"].as_array().unwrap();
    let version = versions.iter().find(|version| api_version.ends_with(version["name"].as_str().unwrap())).unwrap();
    let mut object = fill(&version["schema"]["openAPIV3Schema"]);
    object["apiVersion"] = json!(api_version);
    object["kind"] = json!(kind);
    object["metadata"] = json!({"name": "iris"});
    let wrong = |diagnostic: &&Diagnostic| {
        matches!(diagnostic.code, DiagnosticCode::UnknownField | DiagnosticCode::WrongType | DiagnosticCode::Required)
            || diagnostic.message.starts_with("field ")
    };
    let decoded = decode_value(&object);
    // One that is not read at all would have nothing to tell, either.
    assert!(decoded.objects.len() + decoded.diagnostics.len() > 0, "an object with every field is read");
    let told: Vec<_> = decoded.diagnostics.iter().filter(wrong).collect();
    assert!(told.len() < 100, "more may have been left untold");
    told.into_iter().map(|diagnostic| diagnostic.message.clone()).collect()
}

#[test]
fn every_field_of_upstreams_definitions_is_known() {
    let Some(upstream) = upstream("every_field_of_upstreams_definitions_is_known") else { return };
    let crds = [
        ("inferenceservices", "v1beta1", "InferenceService"),
        ("servingruntimes", "v1alpha1", "ServingRuntime"),
        ("clusterservingruntimes", "v1alpha1", "ClusterServingRuntime"),
        ("inferencegraphs", "v1alpha1", "InferenceGraph"),
        ("trainedmodels", "v1alpha1", "TrainedModel"),
        ("clusterstoragecontainers", "v1alpha1", "ClusterStorageContainer"),
        ("localmodelcaches", "v1alpha1", "LocalModelCache"),
        ("localmodelnamespacecaches", "v1alpha1", "LocalModelNamespaceCache"),
        ("localmodelnodegroups", "v1alpha1", "LocalModelNodeGroup"),
    ];
    let mut told = BTreeSet::new();
    for (plural, version, kind) in crds {
        let crd = upstream.join(format!("crds/serving.kserve.io_{plural}.yaml"));
        told.extend(misfits(&crd, &format!("serving.kserve.io/{version}"), kind));
    }
    // What Kubernetes has added since the version our types are of; refused by name.
    let newer = ["fileKeyRef", "podCertificate", "restartPolicyRules"];
    let expected = newer.map(|field| format!("field `{field}` is not served by this version"));
    assert_eq!(told.into_iter().collect::<Vec<_>>(), expected);
}
