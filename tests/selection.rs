//! Which runtime serves which model: upstream's rules one by one, and the matrix of its default install.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests fail as tests do")]

use std::sync::Arc;

use kserve_local::api::ModelSpec;
use kserve_local::runtimes::select::Nodes;
use kserve_local::runtimes::{Catalog, NoRuntimeReason, Runtime, select};
use proptest::prelude::*;
use serde_json::{Value, json};

fn runtime(name: &str, spec: Value) -> Runtime {
    Runtime {
        name: name.to_owned(),
        namespace: None,
        annotations: std::collections::BTreeMap::new(),
        created: None,
        built_in: false,
        spec: Arc::new(serde_json::from_value(spec).unwrap()),
    }
}

fn serves(name: &str, priority: Option<i32>, protocols: &[&str]) -> Runtime {
    let row = json!({ "name": "sklearn", "version": "1", "autoSelect": true, "priority": priority });
    runtime(name, json!({ "supportedModelFormats": [row], "protocolVersions": protocols }))
}

fn in_namespace(namespace: &str, runtime: Runtime) -> Runtime {
    Runtime { namespace: Some(namespace.to_owned()), ..runtime }
}

fn created(at: &str, runtime: Runtime) -> Runtime {
    Runtime { created: Some(at.parse().unwrap()), ..runtime }
}

fn catalog(runtimes: impl IntoIterator<Item = Runtime>) -> Catalog {
    Catalog { runtimes: runtimes.into_iter().collect() }
}

fn model(name: &str, version: Option<&str>, protocol: Option<&str>) -> ModelSpec {
    serde_json::from_value(json!({
        "modelFormat": { "name": name, "version": version },
        "protocolVersion": protocol,
    }))
    .unwrap()
}

fn named(name: &str, model: ModelSpec) -> ModelSpec {
    ModelSpec { runtime: Some(name.to_owned()), ..model }
}

fn chosen(model: &ModelSpec, catalog: &Catalog) -> Option<String> {
    select(model, "default", Nodes::Single, catalog).ok().map(|choice| choice.runtime.name.clone())
}

fn why_not(model: &ModelSpec, catalog: &Catalog, name: &str) -> String {
    let verdicts = match select(model, "default", Nodes::Single, catalog) {
        Ok(choice) => choice.verdicts,
        Err(none) => none.verdicts,
    };
    let verdict = verdicts.into_iter().find(|verdict| verdict.runtime == name).unwrap();
    verdict.why_not.unwrap_or_else(|| "chosen".to_owned())
}

/// The matrix of a default install: format, then the choice for v1 (or unset), v2, grpc-v1, grpc-v2.
const MATRIX: &[(&str, [Option<&str>; 4])] = &[
    ("sklearn", [Some("kserve-sklearnserver"), Some("kserve-mlserver"), None, None]),
    ("xgboost", [Some("kserve-xgbserver"), Some("kserve-mlserver"), None, None]),
    ("lightgbm", [Some("kserve-lgbserver"), Some("kserve-mlserver"), None, None]),
    (
        "tensorflow",
        [
            Some("kserve-tensorflow-serving"),
            Some("kserve-tritonserver"),
            Some("kserve-tensorflow-serving"),
            Some("kserve-tritonserver"),
        ],
    ),
    ("pytorch", [Some("kserve-torchserve"), Some("kserve-torchserve"), None, Some("kserve-torchserve")]),
    ("onnx", [None, Some("kserve-tritonserver"), None, Some("kserve-tritonserver")]),
    ("tensorrt", [None, Some("kserve-tritonserver"), None, Some("kserve-tritonserver")]),
    ("triton", [None, Some("kserve-tritonserver"), None, Some("kserve-tritonserver")]),
    ("mlflow", [None, Some("kserve-mlserver"), None, None]),
    ("huggingface", [Some("kserve-huggingfaceserver"), Some("kserve-huggingfaceserver"), None, None]),
    ("paddle", [Some("kserve-paddleserver"), Some("kserve-paddleserver"), None, None]),
    ("pmml", [Some("kserve-pmmlserver"), Some("kserve-pmmlserver"), None, None]),
    ("autogluon", [Some("kserve-autogluonserver"), Some("kserve-autogluonserver"), None, None]),
    ("vLLM", [Some("kserve-vllmserver"); 4]),
    ("openvino", [None; 4]),
];

#[test]
fn the_built_in_runtimes_choose_as_a_default_install_does() {
    let catalog = Catalog::new([]);
    for (format, row) in MATRIX {
        assert_eq!(chosen(&model(format, None, None), &catalog).as_deref(), row[0], "{format}, protocol not set");
        for (protocol, want) in ["v1", "v2", "grpc-v1", "grpc-v2"].into_iter().zip(row) {
            let got = chosen(&model(format, None, Some(protocol)), &catalog);
            assert_eq!(got.as_deref(), *want, "{format} over {protocol}");
        }
    }
}

#[test]
fn versions_of_the_built_in_runtimes_choose_exactly() {
    let catalog = Catalog::new([]);
    let cases = [
        ("sklearn", "1", None, Some("kserve-sklearnserver")),
        ("sklearn", "0", None, None),
        ("sklearn", "0", Some("v2"), Some("kserve-mlserver")),
        ("sklearn", "1.3", None, None),
        ("xgboost", "1", None, None),
        ("xgboost", "1", Some("v2"), Some("kserve-mlserver")),
        ("lightgbm", "3", Some("v2"), Some("kserve-mlserver")),
        ("lightgbm", "3", None, None),
        ("vllm", "1", Some("v2"), None),
    ];
    for (format, version, protocol, want) in cases {
        let got = chosen(&model(format, Some(version), protocol), &catalog);
        assert_eq!(got.as_deref(), want, "{format} {version} {protocol:?}");
    }
}

#[test]
fn a_built_in_runtime_can_be_named_where_it_is_never_chosen() {
    let catalog = Catalog::new([]);
    for (format, name) in [
        ("mlflow", "kserve-mlserver"),
        ("sklearn", "kserve-mlserver"),
        ("sklearn", "kserve-predictiveserver"),
        ("onnx", "kserve-tritonserver"),
        ("pytorch", "kserve-tritonserver"),
        ("openvino", "kserve-openvino"),
    ] {
        assert_eq!(chosen(&named(name, model(format, None, None)), &catalog).as_deref(), Some(name), "{format}");
    }
}

#[test]
fn the_choice_follows_scope_priority_protocol_age_and_name_in_this_order() {
    let two = |a: Runtime, b: Runtime| catalog([a, b]);
    let old = "2026-01-01T00:00:00Z";
    let new = "2026-02-01T00:00:00Z";
    let cases = [
        (
            two(in_namespace("default", serves("x", None, &["v1"])), serves("y", Some(99), &["v1"])),
            "x",
            "a ServingRuntime of namespace `default` goes before any ClusterServingRuntime",
        ),
        (two(serves("y", Some(1), &["v1"]), serves("x", Some(2), &["v1"])), "x", "lower priority (1 < 2)"),
        (two(serves("y", None, &["v1"]), serves("x", Some(1), &["v1"])), "x", "no priority for `sklearn`, `x` has 1"),
        (
            two(created(new, serves("y", Some(1), &[])), created(old, serves("x", Some(1), &["v2", "v1"]))),
            "x",
            "same priority; it lists no known protocol, `x` speaks v1, which goes first",
        ),
        (
            two(created(old, serves("y", Some(1), &["v1"])), created(new, serves("z", Some(1), &["v1"]))),
            "z",
            "same priority and protocol; it is older than `z`",
        ),
        (
            two(serves("y", Some(1), &["v1"]), created(old, serves("z", Some(1), &["v1"]))),
            "z",
            "same priority and protocol; it is older than `z`",
        ),
        (
            two(serves("y", Some(1), &["v1"]), serves("x", Some(1), &["v1"])),
            "x",
            "same priority, protocol and age; `x` comes first by name",
        ),
    ];
    for (catalog, winner, why) in cases {
        let model = model("sklearn", None, None);
        assert_eq!(chosen(&model, &catalog).as_deref(), Some(winner), "{why}");
        assert_eq!(why_not(&model, &catalog, "y"), why);
    }
}

#[test]
fn a_runtime_of_another_namespace_is_not_looked_at() {
    let catalog = catalog([in_namespace("other", serves("x", Some(1), &["v1"]))]);
    let none = select(&model("sklearn", None, None), "default", Nodes::Single, &catalog).unwrap_err();
    assert_eq!(none.verdicts, []);
    let none = select(&named("x", model("sklearn", None, None)), "default", Nodes::Single, &catalog).unwrap_err();
    assert_eq!(none.reason, NoRuntimeReason::RuntimeNotRecognized);
    assert!(none.help.contains("namespace `other`"), "{}", none.help);
}

#[test]
fn the_priority_is_that_of_the_first_row_of_the_name() {
    let rows = json!([
        { "name": "sklearn", "version": "0", "priority": 5 },
        { "name": "sklearn", "version": "1", "autoSelect": true, "priority": 1 },
    ]);
    let first = runtime("first", json!({ "supportedModelFormats": rows, "protocolVersions": ["v1"] }));
    let catalog = catalog([first, serves("second", Some(3), &["v1"])]);
    assert_eq!(chosen(&model("sklearn", Some("1"), None), &catalog).as_deref(), Some("first"));
}

#[test]
fn every_loser_says_why() {
    let spec = |change: Value| {
        let mut spec = json!({
            "supportedModelFormats": [{ "name": "sklearn", "version": "1", "autoSelect": true }],
            "protocolVersions": ["v1"],
        });
        spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        spec
    };
    let formats = |rows: Value| spec(json!({ "supportedModelFormats": rows }));
    let cases = [
        (spec(json!({ "disabled": true })), "disabled"),
        (spec(json!({ "multiModel": true })), "serves several models in one process (multiModel)"),
        (formats(json!([{ "name": "onnx" }])), "does not list format `sklearn`"),
        (
            formats(json!([{ "name": "SKLearn", "autoSelect": true }])),
            "does not list format `sklearn`; it lists `SKLearn`, and case matters",
        ),
        (formats(json!([{ "name": "sklearn", "version": "1" }])), "autoSelect is not set for `sklearn` version `1`"),
        (
            formats(json!([{ "name": "sklearn", "version": "0", "autoSelect": true }])),
            "does not list format `sklearn` version `1`; it lists `0`",
        ),
        (
            formats(json!([{ "name": "sklearn", "autoSelect": true }])),
            "lists format `sklearn` without a version; the model asks for `1`",
        ),
        (
            spec(json!({ "protocolVersions": ["v2"] })),
            "speaks v2 only; the model asks for v1 (the default when protocolVersion is not set)",
        ),
        (spec(json!({ "workerSpec": {} })), "needs several nodes (workerSpec)"),
    ];
    for (spec, why) in cases {
        let catalog = catalog([runtime("loser", spec), serves("winner", None, &["v1"])]);
        assert_eq!(why_not(&model("sklearn", Some("1"), None), &catalog, "loser"), why);
    }
    let catalog = catalog([serves("loser", None, &["v2"])]);
    let explicit = model("sklearn", None, Some("v1"));
    assert_eq!(why_not(&explicit, &catalog, "loser"), "speaks v2 only; the model asks for v1");
}

#[test]
fn several_nodes_take_only_runtimes_with_a_worker() {
    let with_worker = runtime(
        "multinode",
        json!({
            "supportedModelFormats": [{ "name": "sklearn", "autoSelect": true }],
            "workerSpec": { "pipelineParallelSize": 1 },
        }),
    );
    let catalog = catalog([serves("single", Some(9), &[]), with_worker]);
    let choice = select(&model("sklearn", None, None), "default", Nodes::Multi, &catalog).unwrap();
    assert_eq!(choice.runtime.name, "multinode");
}

#[test]
fn a_named_runtime_fails_in_four_ways_and_in_this_order() {
    let broken = runtime(
        "broken",
        json!({
            "disabled": true,
            "protocolVersions": ["v2"],
            "supportedModelFormats": [{ "name": "onnx", "version": "1" }],
        }),
    );
    let enabled = Runtime { spec: Arc::new(json_spec(&broken, "disabled", json!(false))), ..broken.clone() };
    let speaking =
        Runtime { spec: Arc::new(json_spec(&enabled, "protocolVersions", json!(["v1"]))), ..enabled.clone() };
    let ask = named("broken", model("sklearn", None, Some("v1")));
    let cases = [
        (
            catalog([]),
            NoRuntimeReason::RuntimeNotRecognized,
            "RuntimeNotRecognized",
            "Waiting for runtime to become available",
            "No ServingRuntimes or ClusterServingRuntimes with the name: broken",
        ),
        (
            catalog([broken]),
            NoRuntimeReason::RuntimeDisabled,
            "RuntimeDisabled",
            "Specified runtime is disabled",
            "specified runtime broken is disabled",
        ),
        (
            catalog([enabled]),
            NoRuntimeReason::UnsupportedProtocol,
            "NoSupportingRuntime",
            "Specified runtime does not support specified protocol version",
            "specified runtime broken does not support specified protocol version",
        ),
        (
            catalog([speaking]),
            NoRuntimeReason::UnsupportedFormat,
            "NoSupportingRuntime",
            "Specified runtime does not support specified framework/version",
            "specified runtime broken does not support specified framework/version",
        ),
    ];
    for (catalog, reason, word, message, error) in cases {
        let none = select(&ask, "default", Nodes::Single, &catalog).unwrap_err();
        assert_eq!((none.reason, none.reason.as_str()), (reason, word));
        assert_eq!((none.message.as_str(), none.error.as_str()), (message, error));
        assert!(!none.help.is_empty());
    }
}

fn json_spec(runtime: &Runtime, key: &str, value: Value) -> kserve_local::api::ServingRuntimeSpec {
    let mut spec = serde_json::to_value(runtime.spec.as_ref()).unwrap();
    spec[key] = value;
    serde_json::from_value(spec).unwrap()
}

#[test]
fn a_named_runtime_is_not_held_to_auto_select_multi_model_worker_or_an_unset_protocol() {
    let spec = json!({
        "supportedModelFormats": [{ "name": "sklearn", "version": "1" }],
        "protocolVersions": ["v2"],
        "multiModel": true,
        "workerSpec": {},
    });
    let catalog = catalog([runtime("odd", spec), serves("other", Some(1), &["v1"])]);
    let ask = named("odd", model("sklearn", Some("1"), None));
    assert_eq!(chosen(&ask, &catalog).as_deref(), Some("odd"));
    assert_eq!(why_not(&ask, &catalog, "other"), "the manifest names `odd`");
}

#[test]
fn when_nothing_is_found_the_error_says_so_in_upstreams_words_and_what_to_do() {
    let builtin = Catalog::new([]);
    let help = |model: ModelSpec| {
        let none = select(&model, "default", Nodes::Single, &builtin).unwrap_err();
        (none.error.clone(), none.help.clone())
    };
    let none = select(&model("mlflow", Some("9"), None), "default", Nodes::Single, &builtin).unwrap_err();
    assert_eq!(none.reason, NoRuntimeReason::UnsupportedFormat);
    assert_eq!(none.message, "No runtime found to support specified framework/version");
    assert_eq!(none.error, "no runtime found to support predictor with model type: mlflow 9");

    let cases = [
        (model("mlflow", None, None), "set `protocolVersion: v2` (kserve-mlserver)"),
        (model("vllm", None, None), "format names are case-sensitive: write `vLLM`"),
        (model("sklearn", Some("1.3"), None), "leave `version` out, or write one that is listed: `0`, `1`"),
        (model("openvino", None, None), "name the runtime: `runtime: kserve-openvino`"),
        (model("sklaern", None, None), "did you mean `sklearn`?"),
        (model("pmml", Some("9"), None), "leave `version` out, or write one that is listed: `3`, `4`"),
        (named("kserve-mlsever", model("sklearn", None, None)), "did you mean `kserve-mlserver`? runtimes that serve"),
        (
            named("kserve-mlserver", model("sklearn", None, Some("v1"))),
            "`kserve-mlserver` speaks v2; set protocolVersion to that, or leave it out",
        ),
        (named("kserve-pmmlserver", model("sklearn", None, None)), "`kserve-pmmlserver` lists `pmml 3`, `pmml 4`"),
    ];
    for (model, want) in cases {
        let (error, got) = help(model);
        assert!(got.contains(want), "{error}: {got}");
    }
}

#[test]
fn nobody_is_asked_whether_they_mean_what_they_wrote() {
    let stub = |extra: Value| {
        let mut spec = json!({ "supportedModelFormats": [{ "name": "stub", "autoSelect": true }] });
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        catalog([runtime("hh", spec)])
    };
    let help =
        |model: ModelSpec, catalog: &Catalog| select(&model, "default", Nodes::Single, catalog).unwrap_err().help;
    assert_eq!(
        help(model("stub", Some("2"), None), &stub(json!({}))),
        "leave `version` out; or add a ServingRuntime that lists `stub 2`"
    );
    let disabled = stub(json!({ "disabled": true }));
    for wanted in [model("stub", None, None), named("hh", model("stub", None, None))] {
        let help = help(wanted, &disabled);
        assert!(!help.contains("did you mean") && help.contains("disabled"), "{help}");
    }
}

#[test]
fn every_yaml_file_in_runtimes_is_compiled_in() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/runtimes");
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut found: Vec<String> = entries.filter_map(|name| name.strip_suffix(".yaml").map(str::to_owned)).collect();
    found.sort();
    let compiled: Vec<_> = kserve_local::runtimes::builtin::FILES.iter().map(|(name, _)| *name).collect();
    assert_eq!(found, compiled);
}

/// Our runtimes against upstream's files, where those are at hand: formats, protocols, commands, arguments, environment.
#[test]
fn the_built_in_runtimes_say_what_upstreams_say() {
    let Some(directory) = upstream("runtimes", "the_built_in_runtimes_say_what_upstreams_say") else { return };
    for (name, text) in kserve_local::runtimes::builtin::FILES {
        // Upstream has no runtime of this name; ours adds one for what needs no container.
        let Ok(theirs) = std::fs::read_to_string(directory.join(format!("{name}.yaml"))) else {
            assert!(name.starts_with("kserve-local-"), "{name}");
            continue;
        };
        let spec = |text: &str| {
            let decoded = kserve_local::manifest::decode(name, text);
            decoded.objects[0].object.as_serving_runtime().unwrap().clone()
        };
        let (mut theirs, mut ours) = (spec(&theirs), spec(text));
        // Kept out of automatic selection because a default install does not have it.
        let formats = theirs.supported_model_formats.iter_mut().filter(|_| *name == "kserve-openvino");
        formats.for_each(|row| row.auto_select = Some(false));
        for spec in [&mut theirs, &mut ours] {
            spec.multi_model = Some(spec.is_multi_model());
            let container = &mut spec.containers[0];
            container.image = None;
            container.resources = None;
            for probe in [&mut container.readiness_probe, &mut container.startup_probe].into_iter().flatten() {
                probe.success_threshold = None;
            }
        }
        assert_eq!(ours, theirs, "{name}");
    }
}

fn upstream(folder: &str, test: &str) -> Option<std::path::PathBuf> {
    let root = std::env::var("KSERVE_UPSTREAM_DIR").map_or_else(
        |_| concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/kserve-upstream").into(),
        std::path::PathBuf::from,
    );
    let directory = root.join(folder);
    if directory.is_dir() {
        return Some(directory);
    }
    let line = format!("SKIPPED: {test}: no upstream data at {} (set KSERVE_UPSTREAM_DIR)", root.display());
    println!("{line}");
    if let Ok(list) = std::env::var("KSERVE_LOCAL_TEST_SKIPS") {
        use std::io::Write as _;
        let mut list = std::fs::OpenOptions::new().create(true).append(true).open(list).unwrap();
        writeln!(list, "{line}").unwrap();
    }
    None
}

proptest! {
    #[test]
    fn the_order_of_files_does_not_matter(
        rows in proptest::collection::vec((any::<bool>(), proptest::option::of(1..4_i32), 0..4_usize, 0..3_u8), 1..8),
        seed in any::<u64>(),
    ) {
        let protocols: [&[&str]; 4] = [&[], &["v1"], &["v2"], &["v2", "v1"]];
        let runtimes: Vec<Runtime> = rows
            .iter()
            .enumerate()
            .map(|(index, (namespaced, priority, protocol, age))| {
                let runtime = serves(&format!("r{index}"), *priority, protocols[*protocol]);
                let runtime = created(&format!("2026-01-0{}T00:00:00Z", age + 1), runtime);
                if *namespaced { in_namespace("default", runtime) } else { runtime }
            })
            .collect();
        let mut shuffled = runtimes.clone();
        let length = shuffled.len() as u64;
        for index in 0..shuffled.len() {
            let other = (seed.rotate_left(index as u32 * 7) % length) as usize;
            shuffled.swap(index, other);
        }
        let model = model("sklearn", None, None);
        let verdicts = |runtimes: Vec<Runtime>| match select(&model, "default", Nodes::Single, &catalog(runtimes)) {
            Ok(choice) => (Some(choice.runtime.name.clone()), choice.verdicts),
            Err(none) => (None, none.verdicts),
        };
        prop_assert_eq!(verdicts(runtimes), verdicts(shuffled));
    }
}
