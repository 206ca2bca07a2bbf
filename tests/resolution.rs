//! From YAML to workloads: the shapes users paste, and the rules that are easy to get wrong.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use kserve_local::api::{ComponentKind, Kind, Object};
use kserve_local::manifest;
use kserve_local::runtimes::Catalog;
use kserve_local::workload::{
    Canary, Companions, ContainerSpec, Layout, MountSource, Program, PullPolicy, Readiness, Repository, ResolveError,
    RunAs, UpstreamProtocol, Workload, WorkloadConfig, fingerprint, resolve, resolve_canaries,
};
use serde_json::{Value, json};

fn objects(yaml: &str) -> Vec<Object> {
    let decoded = manifest::decode("test.yaml", yaml);
    assert!(decoded.failed.is_empty(), "{:#?}", decoded.diagnostics);
    decoded.objects.into_iter().map(|decoded| decoded.object).collect()
}

fn resolved_with(yaml: &str, config: &WorkloadConfig) -> Result<Vec<Workload>, ResolveError> {
    let objects = objects(yaml);
    let service = objects.iter().find(|object| object.key.kind == Kind::InferenceService).unwrap();
    resolve(service, &Catalog::new(&objects), &Companions::new(&objects), config)
}

fn resolved(yaml: &str) -> Vec<Workload> {
    resolved_with(yaml, &WorkloadConfig::default()).unwrap_or_else(|error| panic!("{error}\n{yaml}"))
}

/// An InferenceService named `iris` whose spec is this, indented by two.
fn service(spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!("apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: iris\nspec:\n{spec}")
}

/// The predictor of a service whose `predictor.model` has these keys besides sklearn and a storageUri.
fn model(keys: &str) -> String {
    let keys: String = keys.lines().map(|line| format!("    {line}\n")).collect();
    service(&format!(
        "predictor:\n  model:\n    modelFormat:\n      name: sklearn\n    storageUri: s3://bucket/iris\n{keys}"
    ))
}

fn predictor(yaml: &str) -> Workload {
    resolved(yaml).remove(0)
}

fn serving(yaml: &str) -> ContainerSpec {
    predictor(yaml).containers.remove(0)
}

fn refusal(yaml: &str) -> (String, String) {
    match resolved_with(yaml, &WorkloadConfig::default()) {
        Err(ResolveError::Invalid { field, message, .. }) => (field, message),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("resolved:\n{yaml}"),
    }
}

fn env<'c>(container: &'c ContainerSpec, name: &str) -> Option<&'c str> {
    container.env.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
}

/// A workload without what is empty, for snapshots.
fn shown(workload: &Workload) -> Value {
    prune(json!({
        "component": workload.component.to_string(),
        "service": workload.service_name,
        "runtime": workload.runtime,
        "protocol": workload.protocol,
        "model": workload.model_name,
        "models": workload.models.iter().map(|model| &model.written).collect::<Vec<_>>(),
        "entry": workload.entry,
        "readiness": workload.readiness,
        "init": workload.init_containers,
        "containers": workload.containers,
        "labels": workload.labels,
        "annotations": workload.annotations,
        "shm": workload.shm_size,
        "grace": workload.termination_grace.as_secs(),
        "timeout": workload.timeout.map(|timeout| timeout.as_secs()),
        "concurrency": workload.container_concurrency,
        "minReplicas": workload.scaling.min,
        "warnings": workload.warnings,
        "fingerprint": fingerprint(workload).to_string(),
    }))
}

fn prune(value: Value) -> Value {
    let empty = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Number(_) | Value::Bool(true) => false,
    };
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(key, value)| (key, prune(value)));
            Value::Object(fields.filter(|(_, value)| !empty(value)).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(prune).collect()),
        other => other,
    }
}

// ── the shapes users paste ──

#[test]
fn the_legacy_form_becomes_a_workload() {
    let workloads =
        resolved(&service("predictor:\n  sklearn:\n    storageUri: gs://kfserving-examples/models/sklearn/1.0/model"));
    insta::assert_yaml_snapshot!("legacy_sklearn", workloads.iter().map(shown).collect::<Vec<_>>());
}

#[test]
fn an_explicit_mlserver_becomes_a_workload() {
    let workloads = resolved(&model("runtime: kserve-mlserver"));
    insta::assert_yaml_snapshot!("explicit_mlserver", workloads.iter().map(shown).collect::<Vec<_>>());
}

#[test]
fn an_implicit_runtime_becomes_a_workload() {
    let workloads = resolved(&model("resources:\n  limits: { cpu: 1500m, memory: 3Gi }\n  requests: { memory: 1Gi }"));
    insta::assert_yaml_snapshot!("implicit_sklearn", workloads.iter().map(shown).collect::<Vec<_>>());
}

#[test]
fn a_transformer_and_an_explainer_become_workloads_of_their_own() {
    let workloads = resolved(&service(
        "predictor:
  name: blue
  minReplicas: 0
  model:
    modelFormat:
      name: sklearn
    storageUri: s3://bucket/iris
transformer:
  containerConcurrency: 4
  timeout: 90
  containers:
    - name: mine
      image: example/transformer:1
      args: [--http_port=8081]
      ports:
        - containerPort: 8081
explainer:
  containers:
    - image: example/explainer:1
      name: ''
      env:
        - name: STORAGE_URI
          value: s3://bucket/explainer
",
    ));
    assert_eq!(workloads.iter().map(|w| w.component.component).collect::<Vec<_>>(), ComponentKind::ALL);
    insta::assert_yaml_snapshot!("transformer_and_explainer", workloads[1..].iter().map(shown).collect::<Vec<_>>());
}

#[test]
fn vllm_without_a_gpu_runs_the_cpu_image_and_its_own_probes() {
    let yaml = service("predictor:\n  model:\n    modelFormat:\n      name: vLLM\n    storageUri: s3://bucket/llm");
    let workloads = resolved(&yaml);
    assert_eq!(workloads[0].readiness, Readiness::Declared);
    insta::assert_yaml_snapshot!("vllm_on_cpu", workloads.iter().map(shown).collect::<Vec<_>>());
}

#[test]
fn tensorflow_with_a_gpu_runs_the_gpu_image() {
    let workloads = resolved(&service(
        "predictor:
  model:
    modelFormat:
      name: tensorflow
    storageUri: s3://bucket/flowers
    resources:
      limits:
        nvidia.com/gpu: 1",
    ));
    insta::assert_yaml_snapshot!("tensorflow_on_gpu", workloads.iter().map(shown).collect::<Vec<_>>());
}

#[test]
fn torchserve_over_v2_gets_its_envelope() {
    let workloads = resolved(&service(
        "predictor:\n  model:\n    modelFormat:\n      name: pytorch\n    protocolVersion: v2\n    storageUri: gs://bucket/mar",
    ));
    insta::assert_yaml_snapshot!("torchserve_v2", workloads.iter().map(shown).collect::<Vec<_>>());
}

#[test]
fn triton_takes_its_repository() {
    let workloads = resolved(&service("predictor:\n  triton:\n    storageUri: pvc://models/repository"));
    insta::assert_yaml_snapshot!("triton_from_a_claim", workloads.iter().map(shown).collect::<Vec<_>>());
}

// ── the rules, one by one ──

#[test]
fn arguments_are_concatenated_and_the_rest_is_merged() {
    let container = serving(&model(
        "args: [--model_name=mine, --extra]
env:
  - name: INFERENCE_SERVICE_NAME
    value: wrong
  - name: WHERE
    value: '{{.Namespace}}/{{.Name}}'
  - name: HOME_OF
    value: $(WHERE)-$(NOTHING)
imagePullPolicy: Always",
    ));
    assert_eq!(
        container.args,
        ["--model_name=iris", "--model_dir=/mnt/models", "--http_port=8080", "--model_name=mine", "--extra"]
    );
    assert_eq!(env(&container, "INFERENCE_SERVICE_NAME"), Some("iris"));
    assert_eq!(env(&container, "HOME_OF"), Some("default/iris-$(NOTHING)"));
    assert_eq!(container.pull_policy, PullPolicy::Always);
    assert_eq!(predictor(&model("args: [--model_name=mine]")).model_name, "mine");
}

#[test]
fn mlserver_is_told_the_class_of_its_model_by_the_template() {
    for (format, class) in [("sklearn", "mlserver_sklearn.SKLearnModel"), ("mlflow", "mlserver_mlflow.MLflowRuntime")] {
        let workload = predictor(&service(&format!(
            "predictor:\n  model:\n    modelFormat:\n      name: {format}\n    runtime: kserve-mlserver\n    storageUri: s3://b/m"
        )));
        assert_eq!(env(&workload.containers[0], "MLSERVER_MODEL_IMPLEMENTATION"), Some(class));
        assert_eq!(workload.protocol, "v2");
        assert_eq!(workload.labels["modelClass"], class);
    }
}

#[test]
fn the_model_is_read_only_unless_the_annotation_says_false() {
    let read_only = |value: &str| {
        let yaml = model("").replace(
            "metadata:\n",
            &format!("metadata:\n  annotations:\n    storage.kserve.io/readonly: \"{value}\"\n"),
        );
        serving(&yaml).mounts[0].read_only
    };
    assert!(serving(&model("")).mounts[0].read_only);
    assert!(!read_only("false"));
    assert!(read_only("False"));
}

#[test]
fn a_collocated_transformer_is_called_and_sees_the_model_and_gets_no_flags() {
    let workload = predictor(&service(
        "predictor:
  containers:
    - name: transformer-container
      image: example/transformer:1
      args: [--model_name=cats, --predictor_host=localhost:8085]
      ports:
        - containerPort: 8081
    - name: kserve-container
      image: example/server:1
      env:
        - name: STORAGE_URI
          value: s3://bucket/cats
      ports:
        - containerPort: 8085",
    ));
    let names: Vec<_> = workload.containers.iter().map(|container| container.name.as_str()).collect();
    assert_eq!(names, ["kserve-container", "transformer-container"]);
    assert_eq!(workload.entry.port, 8081);
    assert_eq!(workload.model_name, "cats");
    assert_eq!(env(&workload.containers[0], "STORAGE_URI"), Some("/mnt/models"));
    for container in &workload.containers {
        assert_eq!(container.mounts[0].source, MountSource::Model(0));
        assert_eq!(env(container, "INFERENCE_SERVICE_NAME"), Some("iris"));
    }
    assert_eq!(workload.containers[1].args.len(), 2, "nothing is injected");
    let paths = ["/v1/models/cats", "/v2/models/cats/ready"].map(str::to_owned).to_vec();
    assert_eq!(workload.readiness, Readiness::AnyOf { paths });
}

#[test]
fn a_model_keeps_its_sidecars_behind_it() {
    let workload = predictor(&service(
        "predictor:
  containers:
    - name: side
      image: example/side:1
    - name: transformer-container
      image: example/transformer:1
  initContainers:
    - name: first
      image: example/init:1
  model:
    modelFormat:
      name: sklearn
    storageUri: s3://bucket/iris",
    ));
    let names: Vec<_> = workload.containers.iter().map(|container| container.name.as_str()).collect();
    assert_eq!(names, ["kserve-container", "transformer-container", "side"]);
    assert_eq!(workload.init_containers[0].name, "first");
    assert_eq!(workload.containers[2].mounts, [], "only the serving containers see the model");
}

#[test]
fn a_custom_predictor_serves_whatever_its_container_is_called() {
    let workload = predictor(&service("predictor:\n  containers:\n    - name: mine\n      image: example/server:1"));
    assert_eq!(workload.containers[0].name, "kserve-container");
    assert_eq!((workload.readiness, workload.models.len()), (Readiness::PortOpen, 0));
    assert_eq!(workload.containers[0].resources.cpu_limit_milli, None, "no invented limits");
    let workload = predictor(&service(
        "predictor:\n  containers:\n    - name: kserve-container\n      image: example/server:1\n      env:\n        - name: PROTOCOL\n          value: v2",
    ));
    assert_eq!(workload.protocol, "v2");
    assert!(matches!(workload.readiness, Readiness::AnyOf { .. }));
}

#[test]
fn a_transformers_flags_are_suppressed_by_prefix() {
    let args = |written: &str| {
        let yaml = service(&format!(
            "predictor:\n  model:\n    modelFormat:\n      name: sklearn\n    storageUri: s3://b/m\ntransformer:\n  containers:\n    - image: x:1\n      name: t\n      args: [{written}]"
        ));
        resolved(&yaml)[1].containers[0].args.join(" ")
    };
    assert_eq!(args("''"), " --model_name iris --predictor_host iris-predictor.default --http_port 8080");
    assert_eq!(
        args("--model_name_or_path=x, --http_port=9"),
        "--model_name_or_path=x --http_port=9 --predictor_host iris-predictor.default"
    );
    assert_eq!(args("--predictor_host=h, --model_name, m"), "--predictor_host=h --model_name m --http_port 8080");
}

#[test]
fn the_art_explainers_arguments_come_in_order_and_the_users_once() {
    let workload = resolved(&service(
        "predictor:
  model: { modelFormat: { name: sklearn }, storageUri: 's3://b/m' }
explainer:
  containerConcurrency: 2
  art:
    type: SquareAttack
    storageUri: s3://b/art
    runtimeVersion: v1
    config: { nb_classes: '10', eps: '0.1' }
    args: [--mine]
    workingDir: /work",
    ))
    .remove(1);
    let container = &workload.containers[0];
    assert_eq!(
        (container.image.as_str(), container.working_dir.as_deref()),
        ("kserve/art-explainer:v1", Some("/work"))
    );
    assert_eq!(
        container.args.join(" "),
        "--model_name iris --http_port 8080 --predictor_host iris-predictor.default --workers 2 --storage_uri /mnt/models \
         --adversary_type SquareAttack --eps 0.1 --nb_classes 10 --mine"
    );
    assert_eq!(container.mounts[0].path, "/mnt/models");
    assert_eq!(env(container, "INFERENCE_SERVICE_NAME"), None, "not set on explainers");
}

#[test]
fn the_first_port_says_how_requests_travel() {
    let workload = predictor(&model(
        "runtime: kserve-mlserver\nprotocolVersion: v2\nports:\n  - name: h2c\n    containerPort: 9000\n    protocol: TCP",
    ));
    assert_eq!((workload.entry.port, workload.entry.protocol), (9000, UpstreamProtocol::H2c));
    assert_eq!(workload.readiness, Readiness::GrpcModelReady { model: "iris".to_owned() });
}

#[test]
fn a_user_runtime_is_taken_from_the_namespace_with_its_labels_and_volumes() {
    let runtime = "apiVersion: serving.kserve.io/v1alpha1
kind: ServingRuntime
metadata:
  name: mine
spec:
  labels: { from: runtime, app: runtime }
  supportedModelFormats:
    - { name: sklearn, autoSelect: true }
  volumes:
    - name: shm
      emptyDir: { medium: Memory, sizeLimit: 1Gi }
  imagePullSecrets:
    - name: registry
  containers:
    - name: side
      image: example/side:1
    - name: kserve-container
      image: example/server:1
      volumeMounts:
        - { name: shm, mountPath: /dev/shm }
---
";
    let workload = predictor(&format!("{runtime}{}", model("")));
    let chosen = workload.runtime.unwrap();
    assert_eq!((chosen.name.as_str(), chosen.cluster, chosen.server_type), ("mine", false, None));
    assert_eq!(workload.labels["from"], "runtime");
    assert_eq!(workload.shm_size, Some(1 << 30));
    assert_eq!(workload.image_pull_secrets, ["registry"]);
    assert_eq!(workload.containers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["kserve-container", "side"]);
    assert_eq!(workload.readiness, Readiness::PortOpen);
}

#[test]
fn a_runtime_without_a_serving_container_or_with_a_bad_placeholder_is_refused_in_upstreams_words() {
    let with = |containers: &str| {
        let runtime = format!(
            "apiVersion: serving.kserve.io/v1alpha1\nkind: ClusterServingRuntime\nmetadata:\n  name: mine\nspec:\n  supportedModelFormats:\n    - name: sklearn\n  containers: {containers}\n---\n"
        );
        refusal(&format!("{runtime}{}", model("runtime: mine")))
    };
    let path = "ClusterServingRuntime mine spec.containers".to_owned();
    assert_eq!(
        with("[{ name: other, image: x }]"),
        (path, "failed to find kserve-container in ServingRuntime containers".to_owned())
    );
    let (field, message) = with("[{ name: kserve-container, image: x, args: ['{{.Nmae}}'] }]");
    assert_eq!(field, "ClusterServingRuntime mine spec.containers[0].args[0]");
    assert!(message.starts_with("failed to replace placeholders in serving runtime mine Container kserve-container"));
}

#[test]
fn a_model_without_storage_waits_for_trained_models() {
    let workload = predictor(&service(
        "predictor:\n  model:\n    modelFormat:\n      name: sklearn\n    protocolVersion: v2\n    resources:\n      limits: {memory: 3Gi}",
    ));
    assert_eq!(workload.models, []);
    let server = workload.model_server.expect("it loads models while it runs");
    assert_eq!(server.repository, Repository { port: 8080, layout: Layout::MlServer, read_only: true });
    assert_eq!((server.memory_limit, server.frameworks.contains(&"xgboost".to_owned())), (Some(3 << 30), true));
    let mount = workload.containers[0].mounts.iter().find(|mount| mount.path == "/mnt/models").expect("a folder");
    assert!(mount.read_only && matches!(mount.source, MountSource::EmptyDir { .. }));
    let own = predictor(&service(
        "predictor:\n  containers:\n    - {name: mine, image: x, env: [{name: MULTI_MODEL_SERVER, value: 'true'}]}",
    ));
    assert_eq!(own.model_server.expect("it says so").frameworks, Vec::<String>::new());
    let workload = predictor(&service(
        "predictor:\n  model:\n    modelFormat:\n      name: huggingface\n    args: [--model_id=x/y]",
    ));
    assert_eq!((workload.warnings, workload.model_server), (Vec::new(), None));
}

#[test]
fn storage_uris_alone_leave_mlserver_empty_here_as_on_a_cluster() {
    let workload = predictor(&service(
        "predictor:
  storageUris:
    - uri: s3://bucket/a
  model:
    modelFormat:
      name: sklearn
    runtime: kserve-mlserver",
    ));
    assert_eq!(env(&workload.containers[0], "MLSERVER_LOAD_MODELS_AT_STARTUP"), Some("false"));
    assert_eq!(workload.containers[0].mounts[0].path, "/mnt/models");
    assert_eq!(workload.readiness, Readiness::ModelEndpoint { path: "/v2/health/ready".to_owned() });
    assert_eq!(workload.warnings.len(), 1);
}

#[test]
fn secrets_and_config_maps_become_variables_and_files() {
    let companions = "apiVersion: v1
kind: Secret
metadata: { name: creds }
stringData: { token: s3cr3t }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: settings }
data: { a.conf: text }
---
";
    let spec = "predictor:
  volumes:
    - name: conf
      configMap: { name: settings }
    - name: pvc
      persistentVolumeClaim: { claimName: data }
  model:
    modelFormat: { name: sklearn }
    storageUri: s3://bucket/iris
    env:
      - name: TOKEN
        valueFrom: { secretKeyRef: { name: creds, key: token } }
    volumeMounts:
      - { name: conf, mountPath: /etc/conf }
      - { name: pvc, mountPath: /data/, readOnly: true, subPath: deep }";
    let container = serving(&format!("{companions}{}", service(spec)));
    assert_eq!(env(&container, "TOKEN"), Some("s3cr3t"));
    let paths: Vec<_> =
        container.mounts.iter().map(|m| (m.path.as_str(), m.read_only, m.sub_path.as_deref())).collect();
    assert_eq!(paths, [("/etc/conf", true, None), ("/data", true, Some("deep")), ("/mnt/models", true, None)]);
    let MountSource::Files { files, mode, .. } = &container.mounts[0].source else { panic!() };
    assert_eq!((files["a.conf"].as_slice(), *mode), (b"text".as_slice(), 0o644));
}

#[test]
fn a_folder_of_the_machine_needs_the_operators_leave() {
    let yaml = service(
        "predictor:
  volumes:
    - name: host
      hostPath: { path: /srv/models/x }
  model:
    modelFormat: { name: sklearn }
    storageUri: s3://bucket/iris",
    );
    assert_eq!(refusal(&yaml).0, "spec.predictor.volumes[0].hostPath.path");
    let allowed = |path: &str| {
        let config = WorkloadConfig { allowed_host_paths: vec![path.to_owned()], ..WorkloadConfig::default() };
        resolved_with(&yaml, &config).is_ok()
    };
    assert!(allowed("/srv/models") && allowed("/srv/models/") && allowed("/"));
    assert!(!allowed("/srv/mod"));
}

#[test]
fn what_a_manifest_may_not_ask_for_is_refused_with_its_path() {
    let on_predictor = |keys: &str| {
        service(&format!(
            "predictor:\n  {keys}\n  model:\n    modelFormat: {{ name: sklearn }}\n    storageUri: s3://b/m"
        ))
    };
    let cases = [
        (on_predictor("hostNetwork: true"), "spec.predictor.hostNetwork"),
        (on_predictor("hostPID: true"), "spec.predictor.hostPID"),
        (on_predictor("hostIPC: true"), "spec.predictor.hostIPC"),
        (on_predictor("volumes: [{ name: a, nfs: { server: s, path: /p } }]"), "spec.predictor.volumes[0].nfs"),
        (on_predictor("volumes: [{ name: a }]"), "spec.predictor.volumes[0]"),
        (on_predictor("volumes: [{ name: a, configMap: { name: absent } }]"), "spec.predictor.volumes[0].configMap"),
        (model("securityContext: { privileged: true }"), "spec.predictor.model.securityContext.privileged"),
        (
            model("securityContext: { capabilities: { add: [A] } }"),
            "spec.predictor.model.securityContext.capabilities.add",
        ),
        (model("volumeMounts: [{ name: absent, mountPath: /x }]"), "spec.predictor.model.volumeMounts[0].name"),
        (model("ports: [{ containerPort: 8080, hostPort: 80 }]"), "spec.predictor.model.ports[0].hostPort"),
        (
            model("env: [{ name: A, value: x }, { name: B, valueFrom: { secretKeyRef: { name: absent, key: k } } }]"),
            "spec.predictor.model.env[1].valueFrom.secretKeyRef",
        ),
        (model("resources: { limits: { cpu: 100m } }"), ""),
        (
            model("resources: { requests: { cpu: 2 }, limits: { cpu: 1 } }"),
            "spec.predictor.model.resources.requests.cpu",
        ),
        (model("storage: { key: k }"), "spec.predictor.model.storage.key"),
    ];
    for (yaml, want) in cases {
        match resolved_with(&yaml, &WorkloadConfig::default()) {
            Err(ResolveError::Invalid { field, .. }) if want.is_empty() => {
                // The runtime's own request is larger than the manifest's limit, as on a cluster.
                assert_eq!(
                    field,
                    "ClusterServingRuntime kserve-sklearnserver spec.containers[0].resources.requests.cpu"
                );
            }
            Err(ResolveError::Invalid { field, .. }) => assert_eq!(field, want),
            other => panic!("{want}: {other:?}"),
        }
    }
}

#[test]
fn what_has_no_effect_yet_is_named() {
    let workload = predictor(&service(
        "predictor:
  canaryTrafficPercent: 10
  shareProcessNamespace: true
  logger: { mode: all }
  batcher: { maxBatchSize: 4 }
  model: { modelFormat: { name: sklearn }, storageUri: 's3://b/m' }",
    ));
    let fields: Vec<_> = workload.warnings.iter().map(|warning| warning.split(':').next().unwrap()).collect();
    let want = ["shareProcessNamespace"];
    assert_eq!(fields, want.map(|field| format!("spec.predictor.{field}")));
    assert_eq!(workload.canary_percent, Some(10));
}

#[test]
fn no_runtime_is_an_error_that_lists_them_all() {
    let yaml = service("predictor:\n  model:\n    modelFormat:\n      name: mlflow\n    storageUri: s3://b/m");
    let Err(ResolveError::Runtime(none)) = resolved_with(&yaml, &WorkloadConfig::default()) else { panic!() };
    assert!(none.help.contains("protocolVersion: v2"), "{}", none.help);
    assert!(none.verdicts.len() >= 14);
}

fn as_process(yaml: &str) -> Result<Workload, ResolveError> {
    let config = WorkloadConfig { run_as: RunAs::Processes, ..WorkloadConfig::default() };
    resolved_with(yaml, &config).map(|mut workloads| workloads.remove(0))
}

#[test]
fn a_runtime_with_a_recipe_becomes_a_process_with_the_recipes_command_and_the_runtimes_arguments() {
    let workload = as_process(&model("")).unwrap();
    let spec = &workload.containers[0];
    assert!(spec.image.starts_with("process:kserve-sklearnserver@"), "{}", spec.image);
    assert_eq!(spec.command, ["python", "-m", "kserve_servers", "sklearn"]);
    assert_eq!(spec.args, ["--model_name=iris", "--model_dir=/mnt/models", "--http_port=8080"]);
    assert_eq!(env(spec, "KSERVE_LOCAL_BIND"), Some("127.0.0.1"));
    let process = spec.process.as_ref().unwrap();
    assert!(matches!(&process.program, Program::Python(python) if python.lock.is_some() && python.module.is_some()));
    assert_ne!(fingerprint(&workload), fingerprint(&predictor(&model(""))), "a container is not a process");
}

#[test]
fn mlserver_gets_the_packages_of_the_models_format_and_the_manifests_environment_wins() {
    let lock = |yaml: &str| match as_process(yaml).unwrap().containers.remove(0).process.unwrap().program {
        Program::Python(python) => python.lock.unwrap().0,
        other @ Program::Executable { .. } => panic!("{other:?}"),
    };
    let format = |name: &str| {
        service(&format!(
            "predictor:\n  model:\n    modelFormat:\n      name: {name}\n    runtime: kserve-mlserver\n    storageUri: s3://b/m\n    protocolVersion: v2\n"
        ))
    };
    for (name, want) in [
        ("sklearn", "mlserver-sklearn"),
        ("xgboost", "mlserver-xgboost"),
        ("lightgbm", "mlserver-lightgbm"),
        ("mlflow", "mlserver-mlflow"),
    ] {
        assert_eq!(lock(&format(name)), want);
    }
    let mine = format("sklearn") + "      env:\n      - name: MLSERVER_HOST\n        value: 127.0.0.2\n";
    assert_eq!(env(&as_process(&mine).unwrap().containers[0], "MLSERVER_HOST"), Some("127.0.0.2"));
}

#[test]
fn what_has_no_recipe_is_refused_with_what_has_one_and_never_replaced() {
    let refused = |yaml: &str| match as_process(yaml) {
        Err(ResolveError::NeedsContainerEngine { message, help }) => (message, help),
        other => panic!("{other:?}"),
    };
    let named = service(
        "predictor:\n  model:\n    modelFormat:\n      name: sklearn\n    runtime: kserve-predictiveserver\n    storageUri: s3://b/m\n",
    );
    let (message, help) = refused(&named);
    assert!(message.contains("`kserve-predictiveserver`"), "{message}");
    assert!(help.contains("kserve-mlserver, kserve-sklearnserver"), "{help}");
    let tensorflow =
        service("predictor:\n  model:\n    modelFormat:\n      name: tensorflow\n    storageUri: s3://b/m\n");
    assert!(refused(&tensorflow).1.contains("no runtime for `tensorflow`"));
    let custom = service("predictor:\n  containers:\n  - name: kserve-container\n    image: mine:1\n");
    assert!(refused(&custom).0.contains("needs a container engine"));
    let sidecar = service(
        "predictor:\n  model:\n    modelFormat:\n      name: sklearn\n    storageUri: s3://b/m\n  containers:\n  - name: helper\n    image: mine:1\n",
    );
    assert!(refused(&sidecar).0.contains("`helper`"));
    let transformed = service(
        "transformer:\n  containers:\n  - name: kserve-container\n    image: mine:1\npredictor:\n  model:\n    modelFormat:\n      name: sklearn\n    storageUri: s3://b/m\n",
    );
    let (message, help) = refused(&transformed);
    assert!(message.contains("the transformer") && help.contains("InferenceGraph"), "{message}; {help}");
}

#[test]
fn a_wrong_recipe_is_refused_at_the_runtimes_annotation() {
    let yaml = format!(
        "apiVersion: serving.kserve.io/v1alpha1\nkind: ClusterServingRuntime\nmetadata:\n  name: mine\n  annotations:\n    kserve-local/process: '{{executable: x, ports: [{{port: 1}}]}}'\nspec:\n  supportedModelFormats:\n  - name: sklearn\n  containers:\n  - name: kserve-container\n    image: x:1\n---\n{}",
        model("runtime: mine")
    );
    let Err(ResolveError::Invalid { field, message, .. }) = as_process(&yaml) else { panic!("it is wrong") };
    assert_eq!(field, "ClusterServingRuntime mine metadata.annotations[kserve-local/process]");
    assert!(message.contains("one of `arg` and `env`"), "{message}");
}

/// Resolves the named canaries of a manifest.
fn canaries(yaml: &str) -> Vec<Canary> {
    let decoded = manifest::decode("f.yaml", yaml);
    assert_eq!(decoded.failed, [], "{:?}", decoded.diagnostics);
    let objects: Vec<Object> = decoded.objects.into_iter().map(|one| one.object).collect();
    let object = objects.iter().find(|object| object.as_inference_service().is_some()).unwrap();
    resolve_canaries(object, &Catalog::new(&objects), &Companions::new(&objects), &WorkloadConfig::default())
}

fn with_canary(stable: &str, canary: &str) -> String {
    format!(
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: iris\n  annotations: {{serving.kserve.io/deploymentMode: Standard}}\nspec:\n  predictor: {stable}\n  canary: [{{trafficPercent: 30, predictor: {canary}}}]\n"
    )
}

#[test]
fn times_that_no_clock_can_add_are_a_year() {
    let workloads = resolved(&service(
        "predictor:
  timeout: 9223372036854775807
  terminationGracePeriodSeconds: 9223372036854775807
  model:
    modelFormat:
      name: sklearn
    storageUri: s3://bucket/iris",
    ));
    let year = std::time::Duration::from_secs(365 * 24 * 3600);
    assert_eq!((workloads[0].timeout, workloads[0].termination_grace), (Some(year), year));
}

#[test]
fn a_canary_is_the_stable_predictor_with_its_own_fields_over_it() {
    let yaml = with_canary(
        "{minReplicas: 4, timeout: 7, canaryTrafficPercent: 50, model: {modelFormat: {name: sklearn}, storageUri: 's3://b/m', args: [--a], env: [{name: A, value: '1'}], resources: {limits: {memory: 1Gi, cpu: '2'}}}}",
        "{name: green, model: {modelFormat: {name: sklearn}, storageUri: 's3://b/next', env: [{name: B, value: '2'}], resources: {limits: {memory: 2Gi}}}}",
    );
    let [canary] = canaries(&yaml).try_into().unwrap();
    let workload = canary.workload.unwrap();
    assert_eq!((canary.name.as_str(), canary.percent), ("green", 30));
    assert_eq!(workload.service_name, "iris-green-predictor");
    assert_eq!((workload.canary.as_deref(), workload.canary_percent), (Some("green"), None));
    assert_eq!(workload.models[0].written, "s3://b/next");
    assert_eq!(
        workload.timeout,
        Some(std::time::Duration::from_secs(7)),
        "what it does not say is as in the stable one"
    );
    let container = workload.serving_container();
    assert!(container.args.contains(&"--a".to_owned()), "{:?}", container.args);
    assert!(container.env.iter().any(|(name, _)| name == "B") && !container.env.iter().any(|(name, _)| name == "A"));
    assert_eq!((container.resources.memory_limit, container.resources.cpu_limit_milli), (Some(2 << 30), Some(2000)));
    // Thirty percent of four, rounded up; and nothing changes that.
    assert_eq!((workload.scaling.least(), workload.scaling.max, workload.scaling.follows_load()), (2, None, false));
}

#[test]
fn a_canary_is_not_bound_to_what_was_chosen_for_the_stable_predictor() {
    let of = |stable: &str, canary: &str| {
        let [canary] = canaries(&with_canary(stable, canary)).try_into().unwrap();
        canary.workload
    };
    let runtime = |workload: &Workload| workload.runtime.as_ref().unwrap().name.clone();
    let stable =
        "{model: {modelFormat: {name: sklearn, version: '1'}, runtime: kserve-sklearnserver, storageUri: 's3://b/m'}}";
    let other = of(stable, "{name: green, model: {modelFormat: {name: xgboost}, storageUri: 's3://b/x'}}").unwrap();
    assert_eq!(runtime(&other), "kserve-xgbserver");
    let same = of(stable, "{name: green, model: {modelFormat: {name: sklearn}, storageUri: 's3://b/x'}}").unwrap();
    assert_eq!(runtime(&same), "kserve-sklearnserver");
    // Its artifacts are its own, however either names them.
    let several = "{storageUris: [{uri: 's3://b/one'}], model: {modelFormat: {name: sklearn}}}";
    let one = of(several, "{name: green, model: {modelFormat: {name: sklearn}, storageUri: 's3://b/x'}}").unwrap();
    assert_eq!(one.models.iter().map(|model| model.written.as_str()).collect::<Vec<_>>(), ["s3://b/x"]);
    let listed = of(stable, "{name: green, storageUris: [{uri: 's3://b/one'}], model: {modelFormat: {name: sklearn}}}");
    assert_eq!(listed.unwrap().models[0].written, "s3://b/one");
    let inherited = of(several, "{name: green, model: {modelFormat: {name: sklearn}, args: [--b]}}").unwrap();
    assert_eq!(inherited.models[0].written, "s3://b/one");
    let own = of(stable, "{name: green, containers: [{name: kserve-container, image: 'mine:1'}]}").unwrap();
    assert_eq!((own.serving_container().image.as_str(), own.models.len()), ("mine:1", 0));
}

#[test]
fn what_is_wrong_with_a_canary_is_said_of_its_own_fields_and_leaves_the_others() {
    let yaml = "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: iris\n  annotations: {serving.kserve.io/deploymentMode: Standard}\nspec:\n  predictor: {model: {modelFormat: {name: sklearn}, storageUri: 's3://b/m'}}\n  canary:\n  - {trafficPercent: 10, predictor: {name: a, model: {modelFormat: {name: sklearn}, storageUri: 's3://b/x'}, hostNetwork: true}}\n  - {trafficPercent: 0, predictor: {name: b, model: {modelFormat: {name: sklearn}, storageUri: 's3://b/y'}}}\n";
    let [a, b] = canaries(yaml).try_into().unwrap();
    match a.workload {
        Err(ResolveError::Invalid { field, .. }) => assert_eq!(field, "spec.canary[0].predictor.hostNetwork"),
        other => panic!("{other:?}"),
    }
    assert_eq!(b.workload.unwrap().scaling.least(), 1, "one that gets no traffic runs all the same");
}
