//! Rules about an LLMInferenceService and its configs (§7.3): what needs more than one machine is refused by its path, what a
//! cluster's gateway and scheduler do is the proxy's business here and is named.

use serde_json::Value;

use crate::api::llm_inference_service::{KvCacheOffloading, LlmInferenceServiceSpec, LlmModel, Parallelism};
use crate::api::{Kind, Metadata, StorageUri, quantity};
use crate::manifest::diagnostic::DiagnosticCode;
use crate::manifest::path::FieldPath;
use crate::manifest::report::Report;

/// Asks for devices that a cluster's drivers hand out.
const DEVICE_CLASS: &str = "serving.kserve.io/exp-dra-device-class";

pub(super) fn check(
    kind: Kind,
    metadata: &Metadata,
    spec: &LlmInferenceServiceSpec,
    raw: &Value,
    report: &mut Report<'_>,
) {
    let path = FieldPath::of(&["spec"]);
    check_model(kind, spec, &path, report);
    refuse_clusters(spec, &path, report);
    name_ignored(metadata, raw, report);
    if spec.replicas.is_some() && spec.scaling.is_some() {
        let message = "replicas and scaling are mutually exclusive; use scaling for autoscaled deployments or replicas \
                       for static deployments";
        report.invalid(&path, message);
    }
    if spec.replicas.is_some_and(|replicas| replicas < 0) {
        report.invalid(&path.key("replicas"), "must be greater than or equal to 0");
    }
    if let Some(offloading) = &spec.kv_cache_offloading {
        check_offloading(offloading, &path.key("kvCacheOffloading"), report);
    }
}

fn check_model(kind: Kind, spec: &LlmInferenceServiceSpec, path: &FieldPath, report: &mut Report<'_>) {
    let path = path.key("model");
    let builds_on = spec.base_refs.as_ref().is_some_and(|refs| !refs.is_empty());
    let uri = spec.model.as_ref().and_then(|model| model.uri.as_deref()).unwrap_or_default();
    if kind == Kind::LlmInferenceService && uri.is_empty() && !builds_on && !report.has_error_below(&path) {
        report.error(&path.key("uri"), DiagnosticCode::Required, "field `spec.model.uri` is required");
        report.help("for example uri: hf://Qwen/Qwen2.5-0.5B-Instruct");
    }
    let Some(model) = &spec.model else { return };
    if !uri.is_empty() {
        check_uri(uri, &path.key("uri"), report);
    }
    check_name(model.name.as_deref(), &path.key("name"), report);
    check_adapters(model, &path, report);
    if model.confidential.as_ref().is_some_and(|value| value["enabled"] == true) {
        let message = "encrypted model artifacts are not served: one machine has no key broker";
        report.error(&path.key("confidential"), DiagnosticCode::NotServed, message);
    }
}

fn check_adapters(model: &LlmModel, path: &FieldPath, report: &mut Report<'_>) {
    let Some(lora) = &model.lora else { return };
    for (index, adapter) in lora.adapters.iter().flatten().enumerate() {
        let path = path.key("lora").key("adapters").index(index);
        check_uri(&adapter.uri, &path.key("uri"), report);
        check_name(Some(&adapter.name), &path.key("name"), report);
    }
}

fn check_uri(uri: &str, path: &FieldPath, report: &mut Report<'_>) {
    if let Err(error) = StorageUri::parse(uri) {
        report.invalid(path, error.to_string());
    }
}

/// Names become words of a command line.
fn check_name(name: Option<&str>, path: &FieldPath, report: &mut Report<'_>) {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@+".contains(&byte);
    if let Some(name) = name.filter(|name| name.is_empty() || !name.bytes().all(fits)) {
        report.invalid(path, format!("`{name}` is no name of a model: letters, digits and `. _ - / : @ +` make one"));
    }
}

fn refuse_clusters(spec: &LlmInferenceServiceSpec, path: &FieldPath, report: &mut Report<'_>) {
    let mut refuse = |field: &str, message: &str, help: &str| {
        let at = field.split('.').fold(path.clone(), |at, part| at.key(part));
        report.error(&at, DiagnosticCode::NotServed, message.to_owned());
        report.help(help);
    };
    let one = "leave it out: one machine serves the whole model";
    if spec.worker.is_some() {
        refuse("worker", "one machine has no second node to work on", one);
    }
    if spec.prefill.is_some() {
        refuse("prefill", "prompts and answers are not processed in different places on one machine", one);
    }
    let Some(Parallelism { data, data_local, expert, .. }) = &spec.parallelism else { return };
    let gpus = "several GPUs of this machine are used by `parallelism.tensor` with a `nvidia.com/gpu` limit; for copies of \
                the model write `replicas`";
    if data.is_some_and(|data| data > 1) || data_local.is_some_and(|data| data > 1) {
        refuse("parallelism.data", "data parallelism coordinates servers on several nodes", gpus);
    }
    if *expert == Some(true) {
        refuse("parallelism.expert", "expert parallelism coordinates servers on several nodes", gpus);
    }
}

/// What a cluster's own parts would do.
fn name_ignored(metadata: &Metadata, raw: &Value, report: &mut Report<'_>) {
    let ignored = [
        ("router.scheduler", "requests go to the replica that has the fewest, by the proxy"),
        ("router.gateway.refs", "the proxy is the gateway"),
        ("router.ingress", "the proxy is the ingress"),
        ("router.route.http", "the proxy's own routes lead here"),
        ("router.route.group", "traffic is not shared among services"),
        ("scaling.wva", "replicas follow the requests in flight"),
        ("scaling.keda", "replicas follow the requests in flight"),
        ("tracing", "no spans are sent"),
        ("rolloutStrategy", "a new revision always proves itself ready before the old one stops"),
        ("model.criticality", "all requests are of the same importance"),
    ];
    for (field, why) in ignored {
        let (mut at, mut value) = (FieldPath::of(&["spec"]), &raw["spec"]);
        for part in field.split('.') {
            (at, value) = (at.key(part), &value[part]);
        }
        if !value.is_null() {
            report.warning(&at, DiagnosticCode::Ignored, format!("`{field}` is ignored: {why}"));
        }
    }
    if metadata.annotations.contains_key(DEVICE_CLASS) {
        let path = FieldPath::of(&["metadata", "annotations", DEVICE_CLASS]);
        let message = format!("`{DEVICE_CLASS}` is ignored: there are no device classes on one machine");
        report.warning(&path, DiagnosticCode::Ignored, message);
        report.help("ask for GPUs with a `nvidia.com/gpu` limit");
    }
}

fn check_offloading(offloading: &KvCacheOffloading, path: &FieldPath, report: &mut Report<'_>) {
    if let Some(cpu) = &offloading.cpu
        && quantity::parse_whole(&cpu.0).is_err()
    {
        report.invalid(&path.key("cpu"), format!("`{}` is no amount of memory", cpu.0));
    }
    if offloading.eviction_policy.as_deref().is_some_and(|policy| !matches!(policy, "lru" | "arc")) {
        report.invalid(&path.key("evictionPolicy"), "it is none of lru and arc");
    }
    if offloading.secondary.as_ref().is_some_and(|tiers| !tiers.is_empty()) {
        report.error(&path.key("secondary"), DiagnosticCode::NotServed, "tiers on disk are not served".to_owned());
        report.help("leave them out; `cpu` is served");
    }
}

#[cfg(test)]
mod tests {
    use crate::manifest::decode;

    /// Fields of errors and of warnings.
    fn told(kind: &str, spec: &str) -> (Vec<String>, Vec<String>) {
        let text =
            format!("apiVersion: serving.kserve.io/v1alpha2\nkind: {kind}\nmetadata: {{name: chat}}\nspec: {spec}\n");
        let decoded = decode("f.yaml", &text);
        let of = |errors: bool| {
            let found = decoded.diagnostics.iter().filter(|found| found.is_error() == errors);
            found.map(|found| found.field.clone().unwrap_or_default()).collect()
        };
        (of(true), of(false))
    }

    fn fields(spec: &str) -> (Vec<String>, Vec<String>) {
        told("LLMInferenceService", spec)
    }

    #[test]
    fn what_needs_a_cluster_is_refused_and_what_the_proxy_does_is_named() {
        let model = "model: {uri: 'hf://a/b'}";
        let none: [String; 0] = [];
        assert_eq!(fields(&format!("{{{model}}}")), (Vec::new(), Vec::new()));
        for (more, field) in [
            ("worker: {containers: [{name: main}]}", "spec.worker"),
            ("prefill: {replicas: 1}", "spec.prefill"),
            ("parallelism: {data: 2}", "spec.parallelism.data"),
            ("parallelism: {expert: true}", "spec.parallelism.expert"),
            ("kvCacheOffloading: {secondary: [{}]}", "spec.kvCacheOffloading.secondary"),
            ("replicas: 1, scaling: {minReplicas: 1}", "spec"),
            ("workload: {}", "spec.workload"),
        ] {
            assert_eq!(fields(&format!("{{{model}, {more}}}")).0, [field], "{more}");
        }
        for (more, field) in [
            ("router: {scheduler: {}}", "spec.router.scheduler"),
            ("router: {gateway: {refs: [{name: x}]}}", "spec.router.gateway.refs"),
            ("template: {nodeSelector: {a: b}}", "spec.template.nodeSelector"),
        ] {
            assert_eq!(fields(&format!("{{{model}, {more}}}")), (none.to_vec(), vec![field.to_owned()]), "{more}");
        }
        assert_eq!(fields(&format!("{{{model}, router: {{route: {{}}, gateway: {{}}}}}}")).1, none);
    }

    #[test]
    fn a_service_names_its_model_itself_or_through_configs() {
        assert_eq!(fields("{replicas: 1}").0, ["spec.model.uri"]);
        assert_eq!(fields("{baseRefs: [{name: x}]}").0, [""; 0]);
        assert_eq!(told("LLMInferenceServiceConfig", "{replicas: 1}").0, [""; 0]);
        assert_eq!(fields("{model: {uri: 'ftp://x'}}").0, ["spec.model.uri"]);
        assert_eq!(fields("{model: {uri: 'hf://a/b', name: \"it's\"}}").0, ["spec.model.name"]);
    }
}
