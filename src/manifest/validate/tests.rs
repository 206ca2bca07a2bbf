use serde_json::json;

use super::*;
use crate::api::Object;
use crate::manifest::diagnostic::{Diagnostic, Severity};
use crate::manifest::{Decoded, decode};

/// Decodes an InferenceService with the given annotations and spec, both indented as they stand below their keys.
fn service(annotations: &str, spec: &str) -> Decoded {
    let annotations = match annotations {
        "" => String::new(),
        annotations => format!("  annotations:\n    {annotations}\n"),
    };
    let head = "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: iris\n";
    decode("iris.yaml", &format!("{head}{annotations}spec:\n{spec}"))
}

fn predictor(yaml: &str) -> String {
    let lines: Vec<_> = yaml.lines().map(|line| format!("    {line}\n")).collect();
    format!("  predictor:\n{}", lines.concat())
}

fn errors(decoded: &Decoded) -> Vec<String> {
    let errors = decoded.diagnostics.iter().filter(|diagnostic| diagnostic.is_error());
    errors.map(|error| format!("{}: {}", error.field.as_deref().unwrap_or("-"), error.message)).collect()
}

fn warnings(decoded: &Decoded) -> Vec<&Diagnostic> {
    decoded.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Warning).collect()
}

const MODEL: &str = "model:\n  modelFormat: {name: sklearn}\n  storageUri: s3://b/m\n";
const STANDARD: &str = "serving.kserve.io/deploymentMode: Standard";
const STANDARD_HPA: &str =
    "serving.kserve.io/deploymentMode: RawDeployment\n    serving.kserve.io/autoscalerClass: hpa";
const STANDARD_KEDA: &str = "serving.kserve.io/deploymentMode: Standard\n    serving.kserve.io/autoscalerClass: keda";
const KNATIVE_HPA: &str = "autoscaling.knative.dev/class: hpa.autoscaling.knative.dev";

fn check_table(annotations: &str, cases: &[(&str, &[&str])]) {
    for (yaml, expected) in cases {
        let decoded = service(annotations, &predictor(yaml));
        assert_eq!(errors(&decoded), *expected, "{annotations}\n{yaml}");
        assert_eq!(decoded.objects.is_empty(), !expected.is_empty(), "{yaml}");
        let placed = decoded.diagnostics.iter().all(|diagnostic| diagnostic.position.is_some_and(|at| at.line > 3));
        assert!(placed, "every diagnostic has its place: {:?}", decoded.diagnostics);
    }
}

#[test]
fn a_predictor_has_exactly_one_implementation() {
    const ONE: &str = "exactly one of [SKLearn, XGBoost, Tensorflow, PyTorch, Triton, ONNX, HuggingFace, PMML, \
                       LightGBM, Paddle, Model, PodSpec] must be specified in PredictorSpec";
    let none = format!("spec.predictor: {ONE}; there is none");
    let both = format!("spec.predictor.model: {ONE}; there are `sklearn` and `model`");
    let legacy = format!("spec.predictor.xgboost: {ONE}; there are `sklearn` and `xgboost`");
    let container = format!("spec.predictor.containers[1]: {ONE}; there are `model` and `containers[1]`");
    check_table(
        "",
        &[
            (MODEL, &[]),
            ("sklearn: {storageUri: s3://b/m, name: \"\"}", &[]),
            ("containers: [{name: mine, image: i}]", &[]),
            ("model: {modelFormat: {name: a}, storageUri: s3://b/m}\ncontainers: [{name: side}]", &[]),
            ("minReplicas: 1", &[&none]),
            ("sklearn: {storageUri: s3://b/m}\nmodel: {modelFormat: {name: a}}", &[&both]),
            ("xgboost: {storageUri: s3://b/m}\nsklearn: {storageUri: s3://b/m}", &[&legacy]),
            (
                "model: {modelFormat: {name: a}, storageUri: s3://b/m}\ncontainers: [{name: side}, {name: kserve-container}]",
                &[&container],
            ),
        ],
    );
}

#[test]
fn an_explainer_is_a_toolbox_or_a_container() {
    const ONE: &str = "spec.explainer.containers: exactly one of [ART, PodSpec] must be specified in ExplainerSpec; there are \
                       `art` and `containers`";
    let explained = |explainer: &str| service("", &format!("{}  explainer:\n{explainer}", predictor(MODEL)));
    let art = "    art: {type: SquareAttack, storageUri: s3://b/m}\n";
    let containers = "    containers: [{name: mine, image: i}]\n";
    assert_eq!(errors(&explained(art)), [] as [&str; 0]);
    assert_eq!(errors(&explained(containers)), [] as [&str; 0]);
    assert_eq!(errors(&explained(&format!("{art}{containers}"))), [ONE]);
}

#[test]
fn extension_fields_are_checked_all_at_once() {
    let bad = "sklearn: {storageUri: s3://b/m}\nminReplicas: -2\nmaxReplicas: -1\ncontainerConcurrency: -1\ntimeout: -1\ncanaryTrafficPercent: 101\nlogger: {storage: {path: p}}\nbatcher: {maxBatchSize: 0}";
    check_table(
        "",
        &[
            ("sklearn: {storageUri: s3://b/m}\nminReplicas: 0\nmaxReplicas: 0\nlogger: {mode: all}", &[]),
            (
                "sklearn: {storageUri: s3://b/m}\nminReplicas: 3\nmaxReplicas: 2",
                &["spec.predictor.minReplicas: 'MinReplicas' cannot be greater than MaxReplicas"],
            ),
            (
                bad,
                &[
                    "spec.predictor.minReplicas: 'MinReplicas' cannot be less than 0",
                    "spec.predictor.maxReplicas: 'MaxReplicas' cannot be less than 0",
                    "spec.predictor.containerConcurrency: parallelism cannot be less than 0",
                    "spec.predictor.timeout: timeout cannot be less than 0 seconds",
                    "spec.predictor.canaryTrafficPercent: canaryTrafficPercent must be between 0 and 100",
                    "spec.predictor.logger.mode: invalid logger type",
                    "spec.predictor.logger.storage: invalid logger storage configuration",
                    "spec.predictor.batcher.maxBatchSize: maxBatchSize must be greater than 0",
                ],
            ),
        ],
    );
}

#[test]
fn storage_is_checked() {
    let list = |entries: &str| format!("model: {{modelFormat: {{name: a}}}}\nstorageUris: {entries}");
    check_table(
        "",
        &[
            // A ClusterStorageContainer may take it: that is seen where the service is resolved.
            ("sklearn: {storageUri: ftp://a/b}", &[]),
            ("containers: [{name: c, env: [{name: STORAGE_URI, value: 'ftp://a/b'}]}]", &[]),
            (
                "sklearn: {storageUri: 's3://'}",
                &["spec.predictor.sklearn.storageUri: storageUri `s3://` is malformed: it names no bucket"],
            ),
            (
                "model: {modelFormat: {name: a}, storageUri: s3://b/m, storage: {path: p}}",
                &["spec.predictor.model.storage.path: must provide only one of storageUri and storage.path"],
            ),
            (&list("[{uri: s3://b/m}]"), &[]),
            (&list("[{uri: pvc://a}, {uri: s3://b/m, mountPath: /other}]"), &[]),
            (&list("[]"), &["spec.predictor.storageUris: storageUris must have at least 1 item"]),
            (&list("[{uri: ''}]"), &["spec.predictor.storageUris[0].uri: storage URI cannot be empty"]),
            (
                &list("[{mountPath: /a}]"),
                &[
                    "spec.predictor.storageUris[0].uri: field `uri` is required",
                    "spec.predictor.storageUris[0].uri: storage URI cannot be empty",
                ],
            ),
            (
                &list("[{uri: s3://b/m, mountPath: /}]"),
                &["spec.predictor.storageUris[0].mountPath: storage path cannot be empty"],
            ),
            (
                &list("[{uri: s3://b/m, mountPath: a/../b}]"),
                &[
                    "spec.predictor.storageUris[0].mountPath: storage path must be absolute: a/../b",
                    "spec.predictor.storageUris[0].mountPath: storage path cannot contain '..' for security reasons: a/../b",
                ],
            ),
            (
                &list("[{uri: s3://b/m, mountPath: /a/x}, {uri: s3://b/n, mountPath: /b/x}]"),
                &[
                    "spec.predictor.storageUris: storage paths must have a common parent directory. Current paths: [/a/x, /b/x] have no common parent beyond root",
                ],
            ),
            (
                &list("[{uri: pvc://a, mountPath: /x}, {uri: pvc://b, mountPath: /x}]"),
                &["spec.predictor.storageUris: PVC storage paths must be unique"],
            ),
            (
                "model: {modelFormat: {name: a}, storageUri: s3://b/m}\nstorageUris: [{uri: s3://b/n}]",
                &["spec.predictor.storageUris: Setting both StorageURI and StorageURIs is not supported."],
            ),
        ],
    );
}

/// The words of a storage error, from where they are defined.
#[test]
fn what_this_version_does_not_serve_is_refused_by_name() {
    check_table(
        "",
        &[
            (
                "sklearn: {storageUri: s3://b/m}\nworkerSpec: {pipelineParallelSize: 2}",
                &["spec.predictor.workerSpec: multi-node inference (`workerSpec`) is not served by this version"],
            ),
            (
                "sklearn: {confidential: {enabled: true, resourceId: 'kbs:///a/b'}}",
                &[
                    "spec.predictor.sklearn.confidential: encrypted models (`confidential`) are not served by this version",
                    "spec.predictor.sklearn.confidential: confidential model serving requires storageUri to be set",
                    "spec.predictor.sklearn.confidential.resourceId: must be in the format kbs:///<repo>/<type>/<tag>",
                ],
            ),
            ("sklearn: {storageUri: s3://b/m, confidential: {enabled: false}}", &[]),
            ("sklearn: {storageUri: mine://b/m}\nstorageContainerName: mine", &[]),
        ],
    );
    let decoded = service("serving.kserve.io/deploymentMode: ModelMesh", &predictor(MODEL));
    assert!(errors(&decoded)[0].contains("`ModelMesh` is not served"), "{:?}", errors(&decoded));
}

#[test]
fn containers_are_checked() {
    const PYTHONPATH: &str = "is not allowed for security reasons";
    let python = |container: &str| {
        format!(
            "the InferenceService \"iris\" is invalid: setting PYTHONPATH in container \"{container}\" {PYTHONPATH}"
        )
    };
    check_table(
        "",
        &[
            (
                "containers: [{name: c, env: [{name: A}, {name: PYTHONPATH, value: x}]}]",
                &[&format!("spec.predictor.containers[0].env[1]: {}", python("c"))],
            ),
            (
                "sklearn: {storageUri: s3://b/m, env: [{name: PYTHONPATH}]}",
                &[&format!("spec.predictor.sklearn.env[0]: {}", python("kserve-container"))],
            ),
            (
                "sklearn: {storageUri: s3://b/m}\ninitContainers: [{name: i, env: [{name: PYTHONPATH}]}]",
                &[&format!("spec.predictor.initContainers[0].env[0]: {}", python("i"))],
            ),
            (
                "containers: [{name: kserve-container}, {name: transformer-container, env: [{name: STORAGE_URI, value: x}]}]",
                &["spec.predictor.containers[1].env[0]: storage uri should not be specified in transformer container"],
            ),
            (
                "containers: [{name: c, env: [{name: PROTOCOL, value: grpc-v2}]}]",
                &["spec.predictor.containers[0].env[0].value: invalid protocol grpc-v2. Must be one of [v1, v2]"],
            ),
            (
                "sklearn: {storageUri: s3://b/m, name: mine}",
                &["spec.predictor.sklearn.name: the 'name' field is not allowed in standard predictor"],
            ),
            ("containers: [{image: i}]", &["spec.predictor.containers[0].name: field `name` is required"]),
        ],
    );
}

#[test]
fn the_autoscaling_matrix_is_upstreams() {
    let with = |yaml: &str| format!("sklearn: {{storageUri: s3://b/m}}\n{yaml}");
    let metric = |metric: &str| format!("spec.predictor.scaleMetric: [{metric}] is not a supported metric");
    let percent =
        "spec.predictor.scaleTarget: the target utilization percentage should be a [1-100] integer".to_owned();
    let strategy =
        "spec.predictor.deploymentStrategy: customizing deploymentStrategy is only supported for raw deployment mode"
            .to_owned();
    let keda = "spec.predictor.scaleMetric: ScaleMetric is not supported for KEDA".to_owned();
    let rps = "spec.predictor.scaleTarget: the target for rps should be greater than 1".to_owned();
    let memory = "spec.predictor.scaleTarget: the target memory should be greater than 1 MiB".to_owned();
    let cases = [
        ("", "scaleMetric: concurrency", None),
        ("", "scaleMetric: cpu", Some(metric("cpu"))),
        ("", "deploymentStrategy: {type: Recreate}", Some(strategy)),
        ("", "scaleMetric: rps\nscaleTarget: 0", Some(rps)),
        (KNATIVE_HPA, "scaleMetric: cpu\nscaleTarget: 100", None),
        (KNATIVE_HPA, "scaleMetric: rps", Some(metric("rps"))),
        (STANDARD, "scaleMetric: cpu\nscaleTarget: 0\ndeploymentStrategy: {type: Recreate}", None),
        (STANDARD_HPA, "scaleMetric: memory\nscaleTarget: 80", None),
        (STANDARD_HPA, "scaleMetric: concurrency", Some(metric("concurrency"))),
        (STANDARD_HPA, "scaleTarget: 101", Some(percent.clone())),
        (STANDARD_HPA, "scaleMetric: memory\nscaleTarget: 101", Some(percent)),
        (STANDARD_HPA, "scaleMetric: memory\nscaleTarget: 0", Some(memory)),
        (STANDARD_KEDA, "scaleMetric: cpu", Some(keda)),
    ];
    for (annotations, yaml, expected) in cases {
        let decoded = service(annotations, &predictor(&with(yaml)));
        assert_eq!(errors(&decoded), expected.into_iter().collect::<Vec<_>>(), "{annotations}\n{yaml}");
    }
}

#[test]
fn metrics_of_an_autoscaler_are_read_strictly() {
    let path = "spec.predictor.autoScaling.metrics[0]";
    let cases = [
        (
            STANDARD_HPA,
            "{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}",
            vec![],
        ),
        (
            STANDARD_HPA,
            "{type: External}",
            vec![".type: [External] is not a supported metric type; hpa takes Resource"],
        ),
        (
            STANDARD_HPA,
            "{type: Resource, resource: {name: cpu, targets: {}}}",
            vec![".resource.targets: unknown field `targets`"],
        ),
        (
            STANDARD_KEDA,
            "{type: Resource, resource: {name: cpu, target: {type: Value}}}",
            vec![".resource.target.type: the cpu target value type should be Utilization"],
        ),
        (
            STANDARD_KEDA,
            "{type: Resource, resource: {name: memory, target: {type: AverageValue, averageValue: 1Ki}}}",
            vec![".resource.target.averageValue: the target memory should be greater than 1 MiB"],
        ),
        (
            STANDARD_KEDA,
            "{type: External, external: {metric: {backend: prometheus}, target: {type: Value, value: 1}}}",
            vec![".external.metric.query: the query should not be empty"],
        ),
        (STANDARD_KEDA, "{type: Odd}", vec![".type: unknown KEDA metric type [Odd]"]),
    ];
    for (annotations, metric, expected) in cases {
        let yaml = format!("sklearn: {{storageUri: s3://b/m}}\nautoScaling:\n  metrics:\n  - {metric}");
        let expected: Vec<_> = expected.into_iter().map(|message| format!("{path}{message}")).collect();
        assert_eq!(errors(&service(annotations, &predictor(&yaml))), expected, "{metric}");
    }
}

#[test]
fn names_and_annotations_are_checked() {
    let head = |name: &str| {
        format!(
            "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {{name: {name}}}\nspec: {{predictor: {{sklearn: {{storageUri: s3://b/m}}}}}}\n"
        )
    };
    for name in ["Iris", "1iris", "iris-", "a.b", "a_b", &"a".repeat(64)] {
        let decoded = decode("f", &head(name));
        assert_eq!(decoded.objects, [], "{name}");
        assert_eq!(decoded.failed[0].as_ref().unwrap().name, name);
    }
    assert!(errors(&decode("f", &head("Iris")))[0].contains("a lowercase RFC 1123 subdomain"));
    assert!(errors(&decode("f", &head("1iris")))[0].contains("a InferenceService name must consist of lower case"));
    let kpa = service("serving.kserve.io/autoscalerClass: kpa", &predictor(MODEL));
    assert_eq!(
        errors(&kpa),
        ["metadata.annotations[serving.kserve.io/autoscalerClass]: [kpa] is not a supported autoscaler class type"]
    );
    assert_eq!(kpa.diagnostics[0].position.unwrap().to_string(), "6:40");
}

#[test]
fn canaries_are_checked() {
    let canary =
        |entries: &str| format!("{}  canary: {entries}\n", predictor("name: stable\nsklearn: {storageUri: s3://b/m}"));
    let model = "model: {modelFormat: {name: sklearn}, storageUri: s3://b/n}";
    let good = canary(&format!("[{{predictor: {{name: next, {model}}}, trafficPercent: 10}}]"));
    assert_eq!(errors(&service(STANDARD, &good)), [""; 0]);
    assert_eq!(errors(&service("", &good)), ["spec.canary: canary is only supported in Standard deployment mode"]);
    let own = format!(
        "{}  canary: [{{predictor: {{name: next, {model}}}, trafficPercent: 10}}]\n",
        predictor("containers: [{name: a, image: b}]")
    );
    assert_eq!(errors(&service(STANDARD, &own)), ["spec.canary: canary requires a stable predictor with a model"]);
    // What is not written follows the share of traffic: 0 percent is a dark launch, and a stable predictor may sleep.
    let sleeper = predictor("minReplicas: 0\nsklearn: {storageUri: s3://b/m}");
    let dark = format!("{sleeper}  canary: [{{predictor: {{name: next, {model}}}, trafficPercent: 0}}]\n");
    assert_eq!(errors(&service(STANDARD, &dark)), [""; 0]);
    let twice = canary(&format!(
        "[{{predictor: {{name: a, {model}}}, trafficPercent: 50}}, {{predictor: {{name: a, {model}}}, trafficPercent: 50}}]"
    ));
    assert_eq!(
        errors(&service(STANDARD, &twice)),
        ["spec.canary[1].predictor.name: canary predictor.name \"a\" is duplicated"]
    );
    let bad = canary(&format!(
        "[{{predictor: {{name: stable, {model}, maxReplicas: 2, minReplicas: 3}}, trafficPercent: 60}}, {{predictor: {{{model}}}, trafficPercent: 60}}]"
    ));
    assert_eq!(
        errors(&service(STANDARD, &bad)),
        [
            "spec.canary: sum of canary trafficPercent must be <= 100, and is 120",
            "spec.canary[0].predictor.name: canary predictor.name \"stable\" conflicts with stable predictor.name",
            "spec.canary[0].predictor.maxReplicas: canary \"stable\" must not set maxReplicas",
            "spec.canary[0].predictor.minReplicas: canary \"stable\" minReplicas (3) must not exceed stable minReplicas (1)",
            "spec.canary[0].predictor.minReplicas: 'MinReplicas' cannot be greater than MaxReplicas",
            "spec.canary[1].predictor.name: canary predictor.name is required",
        ]
    );
}

#[test]
fn a_priority_class_is_honoured_and_its_number_is_not() {
    let decoded = service(STANDARD, &predictor("sklearn: {storageUri: s3://o/m}\npriorityClassName: gold"));
    assert_eq!(warnings(&decoded).len(), 0);
    let decoded = service(STANDARD, &predictor("sklearn: {storageUri: s3://o/m}\npriority: 7"));
    assert!(warnings(&decoded)[0].message.contains("priorityClassName"), "{}", warnings(&decoded)[0].message);
}

#[test]
fn fields_that_mean_nothing_on_one_machine_are_warned_of_by_name() {
    let yaml = "sklearn: {storageUri: s3://o/m, protocolVersion: v3, terminationMessagePath: /x}\nnodeSelector: {a: b}\ntolerations: [{key: a}]\naffinity: {}\nautomountServiceAccountToken: false\npriority: 1\nautoScaling: {metrics: []}";
    let decoded = service(STANDARD, &predictor(yaml));
    assert_eq!(errors(&decoded), [""; 0]);
    let told: Vec<_> = warnings(&decoded).iter().map(|warning| warning.field.clone().unwrap()).collect();
    assert_eq!(
        told,
        [
            "spec.predictor.sklearn.protocolVersion",
            "spec.predictor.sklearn.terminationMessagePath",
            "spec.predictor.nodeSelector",
            "spec.predictor.tolerations",
            "spec.predictor.priority",
            "spec.predictor.autoScaling",
        ]
    );
    assert_eq!(warnings(&decoded)[2].message, "`nodeSelector` is ignored: there is one machine to run on");
}

fn runtime(kind: &str, name: &str, spec: &str) -> Decoded {
    let head = format!("apiVersion: serving.kserve.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\n");
    decode("runtime.yaml", &format!("{head}spec: {spec}\n"))
}

fn object(decoded: Decoded) -> Object {
    assert_eq!(decoded.diagnostics, []);
    decoded.objects.into_iter().next().unwrap().object
}

#[test]
fn a_runtime_is_checked_for_itself() {
    let cases = [
        ("{}", "spec.containers: field `containers` is required"),
        ("{containers: []}", "spec.containers: a runtime needs at least one container"),
        (
            "{containers: [{name: kserve-container, env: [{name: PYTHONPATH}]}]}",
            "spec.containers[0].env[0]: the ClusterServingRuntime \"mine\" is invalid: setting PYTHONPATH in container \"kserve-container\" is not allowed for security reasons",
        ),
        (
            "{containers: [{name: c}], supportedModelFormats: [{name: a, autoSelect: true, priority: 1}, {name: a, version: '2', autoSelect: true, priority: 2}]}",
            "spec.supportedModelFormats[1].priority: different priorities assigned for the model format a under the clusterservingruntime mine",
        ),
        (
            "{containers: [{name: c}], supportedModelFormats: [{name: a, priority: 0}]}",
            "spec.supportedModelFormats[0].priority: priority must be 1 or more",
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(errors(&runtime("ClusterServingRuntime", "mine", spec))[0], expected, "{spec}");
    }
    let disabled = "{disabled: true, containers: [{name: c, env: [{name: PYTHONPATH}]}]}";
    assert_eq!(errors(&runtime("ServingRuntime", "mine", disabled)), [""; 0]);
}

#[test]
fn runtimes_with_the_same_priority_for_a_format_are_told() {
    let spec = |format: &str| {
        format!(
            "{{protocolVersions: [v1], containers: [{{name: kserve-container}}], supportedModelFormats: [{{{format}}}]}}"
        )
    };
    let one =
        object(runtime("ServingRuntime", "one", &spec("name: sklearn, version: '1', autoSelect: true, priority: 1")));
    let two =
        object(runtime("ServingRuntime", "two", &spec("name: SKLearn, version: '1', autoSelect: true, priority: 1")));
    let found = validate_runtimes(&[&one, &two]);
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].message,
        "same priority assigned for the model format SKLearn in the servingruntimes two and one in namespace default"
    );
    for other in [
        "name: sklearn, version: '1', autoSelect: true, priority: 2",
        "name: sklearn, version: '2', autoSelect: true, priority: 1",
        "name: sklearn, version: '1', priority: 1",
        "name: sklearn, version: '1', autoSelect: true",
    ] {
        let other = object(runtime("ServingRuntime", "two", &spec(other)));
        assert_eq!(validate_runtimes(&[&one, &other]), [], "{other:?}");
    }
    let cluster = object(runtime(
        "ClusterServingRuntime",
        "two",
        &spec("name: sklearn, version: '1', autoSelect: true, priority: 1"),
    ));
    assert_eq!(validate_runtimes(&[&one, &cluster]), [], "never across scopes");
}

#[test]
fn an_update_may_not_change_the_mode_or_only_the_variants_name() {
    let object = |annotations: &str, yaml: &str| service(annotations, &predictor(yaml)).objects.remove(0).object;
    let knative = object("", MODEL);
    let standard = object(STANDARD, MODEL);
    assert_eq!(
        validate_update(&knative, &standard)[0].message,
        "update rejected: deploymentMode cannot be changed from 'Knative' to 'Standard'"
    );
    assert_eq!(validate_update(&standard, &knative), []);
    assert_eq!(validate_update(&knative, &object("serving.kserve.io/deploymentMode: Serverless", MODEL)), []);
    let renamed = object("", &format!("name: next\n{MODEL}"));
    assert_eq!(
        validate_update(&knative, &renamed)[0].message,
        "predictor.name change requires a model change (e.g. storageUri)"
    );
    assert_eq!(
        validate_update(&knative, &object("", &format!("name: next\n{}", MODEL.replace("s3://b/m", "s3://b/n")))),
        []
    );
}

#[test]
fn a_runtime_that_had_workers_keeps_them() {
    let with = "{containers: [{name: kserve-container}], workerSpec: {containers: [{name: worker-container}]}}";
    let before = runtime("ServingRuntime", "mine", with).objects.remove(0).object;
    let after = object(runtime("ServingRuntime", "mine", "{containers: [{name: kserve-container}]}"));
    assert_eq!(
        validate_update(&before, &after)[0].message,
        "the ServingRuntime mine is invalid: removing workerSpec where it already exists is not allowed"
    );
}

#[test]
fn rules_hold_for_bodies_without_positions_too() {
    let body = json!({"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "iris"},
        "spec": {"predictor": {"sklearn": {"storageURI": "s3://b/m"}}}});
    let decoded = crate::manifest::decode_value(&body);
    assert_eq!(decoded.diagnostics[0].position, None);
    assert_eq!(
        decoded.diagnostics[0].strict_decoding_text().unwrap(),
        "unknown field \"spec.predictor.sklearn.storageURI\""
    );
}
