//! What decoding says of whole files, good and bad.

use kserve_local::api::{Kind, ObjectKey};
use kserve_local::manifest::{Decoded, Diagnostic, DiagnosticCode, Severity, decode, decode_value};
use serde_json::json;

const IRIS: &str = "\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: sklearn-iris
  namespace: kserve-test
  labels: {team: a}
spec:
  predictor:
    model:
      modelFormat:
        name: sklearn
      storageUri: \"gs://kfserving-examples/models/sklearn/1.0/model\"
";

fn shown(file: &str, text: &str) -> String {
    let decoded = decode(file, text);
    let lines: Vec<_> = decoded.diagnostics.iter().map(|diagnostic| diagnostic.render(Some(text))).collect();
    let objects: Vec<_> = decoded.objects.iter().map(|object| object.object.key.to_string()).collect();
    let failed: Vec<_> =
        decoded.failed.iter().map(|key| key.as_ref().map_or("any".to_owned(), ObjectKey::to_string)).collect();
    format!("{}\n\ntaken: [{}]\nfailed: [{}]", lines.join("\n\n"), objects.join(", "), failed.join(", "))
}

fn codes(decoded: &Decoded) -> Vec<DiagnosticCode> {
    decoded.diagnostics.iter().map(|diagnostic| diagnostic.code).collect()
}

#[test]
fn a_good_file_is_taken_as_written() {
    let decoded = decode("iris.yaml", IRIS);
    assert_eq!(decoded.diagnostics, []);
    let object = &decoded.objects[0].object;
    assert_eq!(object.key.to_string(), "InferenceService kserve-test/sklearn-iris");
    assert_eq!(object.meta.label("team"), Some("a"));
    assert_eq!(object.raw["spec"]["predictor"]["model"]["modelFormat"], json!({"name": "sklearn"}));
    assert_eq!(decoded.objects[0].position.line, 1);
}

#[test]
fn every_document_of_a_file_counts_for_itself() {
    let text = format!(
        "{IRIS}---\nkind: [\n---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData: {{a: b}}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata: {{a: 1}}\n"
    );
    let decoded = decode("all.yaml", &text);
    let taken: Vec<_> = decoded.objects.iter().map(|object| object.object.key.to_string()).collect();
    assert_eq!(taken, ["InferenceService kserve-test/sklearn-iris", "Secret default/s"]);
    let key = ObjectKey { kind: Kind::ConfigMap, namespace: "default".into(), name: "c".into() };
    assert_eq!(decoded.failed, [None, Some(key)]);
    assert_eq!(codes(&decoded), [DiagnosticCode::Syntax, DiagnosticCode::WrongType]);
}

#[test]
fn an_empty_file_holds_nothing_and_nothing_is_wrong_with_it() {
    for text in ["", "\n\n", "# words\n", "---\n---\n", "\u{feff}"] {
        assert_eq!(decode("f.yaml", text), Decoded::default(), "{text:?}");
    }
}

#[test]
fn lists_are_expanded() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: a}\n- apiVersion: v1\n  kind: Secret\n  metadata: {name: b}\n  typ: Opaque\n";
    let decoded = decode("list.yaml", list);
    assert_eq!(decoded.objects[0].object.key.to_string(), "Namespace a");
    assert_eq!(decoded.diagnostics[0].to_string(), "list.yaml:10:3: error: unknown field `typ`");
    assert_eq!(decoded.diagnostics[0].help.as_deref(), Some("did you mean `type`?"));
    let typed = json!({"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceServiceList", "metadata": {},
        "items": [{"metadata": {"name": "a"}, "spec": {"predictor": {"sklearn": {"storageUri": "s3://b/m"}}}}]});
    let decoded = decode("list.json", &typed.to_string());
    assert_eq!(decoded.objects[0].object.key.to_string(), "InferenceService default/a");
}

#[test]
fn quantities_may_be_numbers_and_nothing_else_may() {
    let text = IRIS.replace(
        "      storageUri",
        "      resources: {limits: {cpu: 2, memory: 2Gi, nvidia.com/gpu: 1}, requests: {cpu: 0.5}}\n      storageUri",
    );
    let decoded = decode("f.yaml", &text);
    assert_eq!(decoded.diagnostics, []);
    let object = &decoded.objects[0].object;
    let model = object.as_inference_service().unwrap().predictor.model.as_ref().unwrap();
    let resources = model.resources.as_ref().unwrap();
    assert_eq!(resources.limits.as_ref().unwrap()["cpu"].0, "2");
    assert_eq!(resources.requests.as_ref().unwrap()["cpu"].0, "0.5");
    assert_eq!(object.raw["spec"]["predictor"]["model"]["resources"]["limits"]["cpu"], 2);
    let wrong = decode("f.yaml", &text.replace("2Gi", "2Gib"));
    assert_eq!(wrong.diagnostics[0].field.as_deref(), Some("spec.predictor.model.resources.limits.memory"));
}

#[test]
fn null_is_the_same_as_absent() {
    let text = IRIS
        .replace("metadata:", "status: {url: x}\nmetadata:\n  creationTimestamp: null")
        .replace("      modelFormat:", "      env:\n      resources: ~\n      modelFormat:");
    let decoded = decode("f.yaml", &text);
    assert_eq!(decoded.diagnostics, []);
    assert_eq!(decoded.objects.len(), 1);
}

#[test]
fn what_a_cluster_gives_back_is_taken() {
    let metadata = "metadata:\n  uid: 6f2c\n  resourceVersion: \"12\"\n  generation: 2\n  creationTimestamp: \"2026-01-02T03:04:05Z\"\n  finalizers: [inferenceservice.finalizers]\n  managedFields:\n  - manager: kubectl\n    operation: Update\n    time: \"2026-01-02T03:04:05Z\"\n    fieldsType: FieldsV1\n    fieldsV1: {\"f:spec\": {\".\": {}}}";
    let text = IRIS.replace("metadata:", metadata) + "status:\n  conditions: [{type: Ready, status: \"True\"}]\n";
    let decoded = decode("exported.yaml", &text);
    assert_eq!(decoded.diagnostics, []);
    assert_eq!(decoded.objects[0].object.raw["metadata"]["uid"], "6f2c");
}

#[test]
fn an_object_that_stands_twice_is_told_once() {
    let decoded = decode("twice.yaml", &format!("{IRIS}---\n{IRIS}"));
    assert_eq!(decoded.objects.len(), 1);
    assert_eq!(
        decoded.diagnostics[0].to_string(),
        "twice.yaml:17:9: error: InferenceService kserve-test/sklearn-iris stands twice in this file; first at line 1 (metadata.name)"
    );
}

#[test]
fn cluster_wide_kinds_have_no_namespace() {
    let decoded = decode(
        "r.yaml",
        "apiVersion: serving.kserve.io/v1alpha1\nkind: ClusterServingRuntime\nmetadata: {name: r, namespace: x}\nspec: {containers: [{name: kserve-container}]}\n",
    );
    assert_eq!(decoded.objects[0].object.key.to_string(), "ClusterServingRuntime r");
    assert_eq!(decoded.diagnostics[0].severity, Severity::Warning);
    assert_eq!(codes(&decoded), [DiagnosticCode::Ignored]);
}

#[test]
fn nothing_of_a_secret_is_shown() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData:\n  password: 31337\n  pin: yes\ndata:\n  token: hunter2!\n";
    let shown = shown("s.yaml", text);
    for word in ["31337", "hunter2", "pin: yes", "`yes`"] {
        assert!(!shown.contains(word), "{shown}");
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn an_api_body_is_decoded_without_positions() {
    let body = json!({"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "a"},
        "spec": {"predictor": {"model": {"modelFormat": {"name": "sklearn"}, "storageURI": "s3://b/m"}}}});
    let decoded = decode_value(&body);
    let unknown: Vec<_> = decoded.diagnostics.iter().filter_map(Diagnostic::strict_decoding_text).collect();
    assert_eq!(unknown, ["unknown field \"spec.predictor.model.storageURI\""]);
    assert_eq!(
        decoded.diagnostics.iter().find(|diagnostic| diagnostic.is_error()).unwrap().to_string(),
        "error: unknown field `storageURI` (spec.predictor.model.storageURI)"
    );
    assert_eq!(decoded.failed.len(), 1);
}

/// Files as users get them wrong; every violation is told at once.
const BAD: [(&str, &str); 16] = [
    (
        "typo",
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: iris\nspec:\n  predictor:\n    minReplica: 1\n    model:\n      modelFormat:\n        name: sklearn\n        versoin: \"1\"\n      storageURI: s3://bucket/iris\n      env:\n      - name: A\n        valueFrom:\n          secretKeyRef: {name: s, kei: k}\n",
    ),
    (
        "wrong_types",
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: iris\n  labels: {version: 2}\nspec:\n  predictor:\n    minReplicas: \"1\"\n    timeout: soon\n    model:\n      modelFormat: {name: sklearn, version: 1.10}\n      storageUri: s3://bucket/iris\n      args: --flag\n      env: {A: b}\n      ports: [{containerPort: http}]\n      tty: yes\n      resources: {limits: {memory: 2GB}}\n  transformer:\n  - containers: []\n",
    ),
    (
        "env_values",
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: iris\nspec:\n  predictor:\n    containers:\n    - name: kserve-container\n      image: mine\n      env:\n      - name: A\n        value: 1\n      - name: B\n        value: on\n      - name: C\n        value: 0644\n      - name: D\n        value: \"1\"\n",
    ),
    (
        "syntax",
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: iris\n   namespace: x\nspec: {}\n",
    ),
    ("tab", "apiVersion: v1\nkind: Secret\nmetadata:\n\tname: s\n"),
    (
        "duplicate_key",
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: iris\nspec:\n  predictor:\n    sklearn:\n      storageUri: s3://bucket/one\n      storageUri: s3://bucket/two\n",
    ),
    (
        "old_version",
        "apiVersion: serving.kubeflow.org/v1alpha2\nkind: InferenceService\nmetadata:\n  name: iris\nspec:\n  default:\n    predictor:\n      sklearn:\n        storageUri: s3://bucket/iris\n",
    ),
    (
        "not_served",
        "apiVersion: serving.kserve.io/v1alpha1\nkind: LocalModelNode\nmetadata:\n  name: graph\nspec: {}\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: d\n---\napiVersion: serving.kserve.io/v1beta1\nkind: InferenceServce\nmetadata:\n  name: iris\n---\napiVersion: v1beta1\nkind: InferenceService\nmetadata:\n  name: iris\n",
    ),
    (
        "headless",
        "metadata:\n  name: iris\n---\napiVersion: v1\nkind: Secret\n---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  generateName: c-\n---\n- a\n- b\n",
    ),
    (
        "misplaced",
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nname: iris\nmetadata:\n  name: iris\nspec:\n  minReplicas: 1\n  predictor:\n    storageUri: s3://bucket/iris\n    art: {type: SquareAttack}\n    sklearn:\n      runtime: kserve-mlserver\n      containerConcurrency: 2\n      storageUri: s3://bucket/iris\n  transformer:\n    workerSpec: {}\n    custom: {}\n",
    ),
    (
        "placeholder",
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: iris\nspec:\n  predictor:\n    containers:\n    - name: kserve-container\n      image: {username}/iris:latest\n",
    ),
    ("template", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}\n"),
    (
        "rules",
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: Iris\nspec:\n  predictor:\n    minReplicas: 3\n    maxReplicas: 1\n    scaleMetric: cpu\n    nodeSelector: {gpu: \"yes\"}\n    logger: {url: http://x}\n    sklearn:\n      storageUri: ftp://bucket/iris\n    xgboost:\n      storageUri: hf://owner/model\n",
    ),
    ("wide_characters", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: größe\n  \u{65e5}\u{672c}: {名: 1}\n"),
    ("broken_json", "{\n  \"apiVersion\": \"v1\",\n  \"kind\": \"ConfigMap\"\n  \"metadata\": {\"name\": \"c\"}\n}\n"),
    (
        "newer",
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: iris\nspec:\n  predictor:\n    containers:\n    - name: kserve-container\n      image: mine\n      restartPolicyRules: [{action: Restart}]\n",
    ),
];

#[test]
fn what_is_kept_of_a_document_has_no_spare_room() {
    let text = "\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: iris}
spec:
  predictor:
    containers: [{name: kserve-container, image: mine, env: [{name: A, value: b}, {name: C, value: d}]}]
";
    let decoded = decode("iris.yaml", text);
    assert_eq!((decoded.objects.len(), decoded.objects.capacity()), (1, 1));
    let spec = decoded.objects[0].object.as_inference_service().unwrap();
    let containers = spec.predictor.containers.as_ref().unwrap();
    assert_eq!(containers.capacity(), 1);
    assert_eq!(containers[0].env.as_ref().unwrap().capacity(), 2);
    let size = std::mem::size_of_val(spec);
    assert!(size <= 2048, "a service takes {size} bytes before anything is written in it");
}

#[test]
fn bad_files_are_explained() {
    for (name, text) in BAD {
        insta::assert_snapshot!(name, shown(&format!("{name}.yaml"), text));
    }
}
