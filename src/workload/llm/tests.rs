use super::*;
use crate::manifest::decode;
use crate::workload::{ContainerSpec, MountSource, Readiness};

/// Resolves the first document of a text; the others are configs.
fn resolved(text: &str) -> Result<Workload, ResolveError> {
    let decoded = decode("f.yaml", text);
    assert_eq!(decoded.failed, [], "{:?}", decoded.diagnostics);
    let objects: Vec<Object> = decoded.objects.into_iter().map(|found| found.object).collect();
    let companions = Companions::new(&objects[1..]);
    resolve_llm(&objects[0], &companions, &WorkloadConfig::default()).map(|mut all| all.remove(0))
}

fn service(spec: &str) -> String {
    format!(
        "apiVersion: serving.kserve.io/v1alpha2\nkind: LLMInferenceService\nmetadata: {{name: chat, namespace: team}}\nspec: {spec}\n"
    )
}

fn config(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: serving.kserve.io/v1alpha2\nkind: LLMInferenceServiceConfig\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn main_of(workload: &Workload) -> &ContainerSpec {
    workload.serving_container()
}

fn field_of(error: ResolveError) -> (String, String) {
    match error {
        ResolveError::Invalid { field, message, .. } => (field, message),
        other => panic!("{other}"),
    }
}

#[test]
fn a_model_alone_is_served_by_the_preset() {
    let workload = resolved(&service("{model: {uri: 'hf://Qwen/Qwen2.5-0.5B-Instruct', name: qwen}}")).unwrap();
    let main = main_of(&workload);
    assert_eq!((main.name.as_str(), main.image.as_str()), ("main", "ghcr.io/llm-d/llm-d-cuda:v0.9.0"));
    assert_eq!(
        main.command,
        [
            "/bin/sh",
            "-c",
            "exec vllm serve /mnt/models --served-model-name 'qwen' 'publishers/team/models/chat' --port 8000 \
             ${VLLM_ADDITIONAL_ARGS} \"$@\"",
            "vllm",
        ]
    );
    assert_eq!((workload.entry.port, &workload.readiness), (8000, &Readiness::Declared));
    assert_eq!((workload.service_name.as_str(), workload.model_name.as_str()), ("chat-kserve", "qwen"));
    assert_eq!(workload.aliases, ["publishers/team/models/chat"]);
    assert_eq!(workload.models[0].written, "hf://Qwen/Qwen2.5-0.5B-Instruct");
    assert!(main.mounts.iter().any(|mount| mount.path == "/mnt/models" && mount.source == MountSource::Model(0)));
    assert_eq!(workload.shm_size, Some(1 << 30));
    assert_eq!(workload.termination_grace.as_secs(), 60);
}

#[test]
fn the_services_own_template_goes_over_the_preset_and_its_arguments_come_last() {
    let workload = resolved(&service(
        "{model: {uri: 'pvc://weights/opt'}, replicas: 2, parallelism: {tensor: 2}, template: {containers: [\
         {name: main, image: mine:1, args: [--max-model-len, '64'], env: [{name: VLLM_LOGGING_LEVEL, value: DEBUG}, {name: A, value: b}],\
          livenessProbe: {httpGet: {path: /health, port: 8000, scheme: HTTPS}, initialDelaySeconds: 120}}, {name: side, image: s:1}]}}",
    ))
    .unwrap();
    let main = main_of(&workload);
    assert_eq!(
        (main.image.as_str(), main.args.as_slice()),
        ("mine:1", &["--max-model-len".to_owned(), "64".to_owned()][..])
    );
    assert!(main.command[2].contains("'chat' 'publishers/team/models/chat' --port 8000 --tensor-parallel-size 2"));
    let env = |name: &str| main.env.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!((env("VLLM_LOGGING_LEVEL"), env("A"), env("HOME")), (Some("DEBUG"), Some("b"), Some("/home")));
    let liveness = main.probes.liveness.as_ref().unwrap();
    assert_eq!((liveness.initial_delay.as_secs(), liveness.period.as_secs()), (120, 10));
    assert!(format!("{:?}", liveness.check).contains("\"http\""), "no certificates, no TLS: {:?}", liveness.check);
    assert_eq!(workload.containers[1].name, "side");
    assert_eq!(workload.scaling.min, 2);
    let claim = MountSource::Claim { namespace: "team".to_owned(), claim: "weights".to_owned() };
    let mount = main.mounts.iter().find(|mount| mount.path == "/mnt/models").unwrap();
    assert_eq!((&mount.source, mount.sub_path.as_deref()), (&claim, Some("opt")));
}

#[test]
fn configs_are_found_merged_in_order_and_rendered() {
    let first =
        config("small", "team", "{model: {uri: 'hf://a/b'}, template: {containers: [{name: main, image: first:1}]}}");
    let second = config(
        "own-server",
        "kserve",
        "{template: {containers: [{name: main, image: second:1, command: [serve], args: [--model, '{{ .Spec.Model.Name }}', \
         '{{ChildName .ObjectMeta.Name `-epp`}}.{{- .ObjectMeta.Namespace -}}']}]}}",
    );
    let text = service("{baseRefs: [{name: small}, {name: own-server}]}");
    let workload = resolved(&format!("{text}{first}{second}")).unwrap();
    let main = main_of(&workload);
    assert_eq!((main.image.as_str(), main.command.as_slice()), ("second:1", &["serve".to_owned()][..]));
    assert_eq!(main.args, ["--model", "chat", "chat-epp.team"]);
    assert_eq!(workload.models[0].written, "hf://a/b");
    let (field, message) = field_of(resolved(&text).unwrap_err());
    assert_eq!(field, "spec.baseRefs[0].name");
    assert!(message.starts_with("there is no LLMInferenceServiceConfig `small`"), "{message}");
}

#[test]
fn adapters_and_the_cache_become_flags_and_mounts() {
    let workload = resolved(&service(
        "{model: {uri: 'hf://a/b', lora: {adapters: [{name: sql, uri: 'hf://c/d'}, {name: law, uri: 'pvc://p/e'}], maxRank: 32}}, \
         kvCacheOffloading: {cpu: 1Gi, evictionPolicy: arc}}",
    ))
    .unwrap();
    let command = &main_of(&workload).command[2];
    assert!(command.contains(
        "--enable-lora --max-lora-rank 32 --max-loras 2 --max-cpu-loras 2 --lora-modules \
         '{\"name\":\"sql\",\"path\":\"/mnt/lora/sql\"}' '{\"name\":\"law\",\"path\":\"/mnt/lora/law\"}'"
    ));
    assert!(command.contains("\"cpu_bytes_to_use\":1073741824"), "{command}");
    let mounted =
        |path: &str| main_of(&workload).mounts.iter().find(|mount| mount.path == path).map(|mount| &mount.source);
    assert_eq!(mounted("/mnt/lora/sql"), Some(&MountSource::Model(1)));
    assert!(matches!(mounted("/mnt/lora/law"), Some(MountSource::Claim { .. })));
    assert_eq!(workload.aliases, ["sql", "law", "publishers/team/models/chat"]);
}

#[test]
fn what_cannot_be_done_is_refused_by_its_path() {
    let cases = [
        (
            "{model: {uri: 'hf://a/b'}, template: {containers: [{name: main, args: ['{{ if .Spec }}']}]}}",
            "spec.template.containers[0].args[0]",
        ),
        (
            "{model: {uri: 'hf://a/b'}, template: {containers: [{name: main, args: ['{{ .Spec.Nothing }}']}]}}",
            "spec.template.containers[0].args[0]",
        ),
        ("{model: {uri: 'hf://a/b'}, template: {hostNetwork: true}}", "spec.template.hostNetwork"),
    ];
    for (spec, field) in cases {
        assert_eq!(field_of(resolved(&service(spec)).unwrap_err()).0, field, "{spec}");
    }
}

#[test]
fn replicas_are_fixed_or_follow_the_load() {
    let scaling = |spec: &str| resolved(&service(&format!("{{model: {{uri: 'hf://a/b'}}, {spec}}}"))).unwrap().scaling;
    assert_eq!(scaling("replicas: 3").min, 3);
    assert_eq!(scaling("storageInitializer: {}").min, 1);
    assert!(scaling("scaling: {minReplicas: 0, maxReplicas: 2}").sleeps());
    assert!(scaling("replicas: 0").sleeps());
}
