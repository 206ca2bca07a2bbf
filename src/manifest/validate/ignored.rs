//! Fields that are taken and mean nothing on one machine: each is named, with one clause why.

use serde_json::Value;

use crate::api::InferenceServiceSpec;
use crate::api::component::PREDICTOR_MODELS;
use crate::manifest::diagnostic::DiagnosticCode;
use crate::manifest::path::FieldPath;
use crate::manifest::report::Report;

const ONE_NODE: &str = "there is one machine to run on";
const NO_SCHEDULER: &str = "there is no scheduler to ask";
const NO_POD_DNS: &str = "containers are not pods with names of their own";
const NO_ROUTER: &str = "graphs run inside the proxy, without a router container";
const MODEL_MESH: &str = "only ModelMesh reads it";

/// Pod fields (§1.5).
const POD: [(&str, &str); 25] = [
    ("nodeSelector", ONE_NODE),
    ("nodeName", ONE_NODE),
    ("affinity", ONE_NODE),
    ("tolerations", ONE_NODE),
    ("topologySpreadConstraints", ONE_NODE),
    ("schedulerName", NO_SCHEDULER),
    ("schedulingGates", NO_SCHEDULER),
    (
        "priority",
        "who stays when memory is short is decided by priorityClassName, or the annotation kserve-local/priority",
    ),
    ("preemptionPolicy", NO_SCHEDULER),
    ("overhead", NO_SCHEDULER),
    ("readinessGates", "nothing sets conditions on pods here"),
    ("resourceClaims", "there is no resource driver to ask"),
    ("ephemeralContainers", "debug containers cannot be part of a manifest"),
    ("activeDeadlineSeconds", "a service has no deadline"),
    ("restartPolicy", "a serving container is always restarted"),
    ("dnsPolicy", "names are resolved by the container engine"),
    ("automountServiceAccountToken", "there is no API server token to mount"),
    ("enableServiceLinks", "no service variables are set"),
    ("hostname", NO_POD_DNS),
    ("subdomain", NO_POD_DNS),
    ("setHostnameAsFQDN", NO_POD_DNS),
    ("hostnameOverride", NO_POD_DNS),
    ("os", ONE_NODE),
    ("hostUsers", "user namespaces are set in the container engine"),
    ("resources", "resources are taken from each container"),
];

/// Extension fields (§1.4).
const EXTENSION: [(&str, &str); 3] = [
    ("autoScaling", "replicas follow scaleMetric and scaleTarget only"),
    ("scaleMetricType", "KServe does not read it either"),
    ("deploymentStrategy", "a new revision always proves itself ready before the old one stops"),
];

/// Container fields.
const CONTAINER: [(&str, &str); 5] = [
    ("resizePolicy", "containers are not resized in place"),
    ("terminationMessagePath", "last words are taken from the log"),
    ("terminationMessagePolicy", "last words are taken from the log"),
    ("volumeDevices", "raw block devices are not passed on"),
    ("stdinOnce", "nobody attaches to a serving container"),
];

/// Runtime fields (§2.1).
const RUNTIME: [(&str, &str); 12] = [
    ("nodeSelector", ONE_NODE),
    ("affinity", ONE_NODE),
    ("tolerations", ONE_NODE),
    ("schedulerName", NO_SCHEDULER),
    ("resourceClaims", "there is no resource driver to ask"),
    ("workerSpec", "it marks the runtime as multi-node, so it is never chosen on one machine"),
    ("grpcEndpoint", MODEL_MESH),
    ("grpcDataEndpoint", MODEL_MESH),
    ("httpDataEndpoint", MODEL_MESH),
    ("replicas", MODEL_MESH),
    ("storageHelper", MODEL_MESH),
    ("builtInAdapter", MODEL_MESH),
];

pub(super) fn check_service(spec: &InferenceServiceSpec, raw: &Value, report: &mut Report<'_>) {
    let mut places: Vec<_> = spec.components().map(|(kind, _)| FieldPath::of(&["spec", kind.as_str()])).collect();
    let canary = FieldPath::of(&["spec", "canary"]);
    places.extend((0..spec.canary.len()).map(|index| canary.index(index).key("predictor")));
    for place in places {
        warn(&POD, &place, raw, report);
        warn(&EXTENSION, &place, raw, report);
        for (field, _) in place.find(raw).and_then(Value::as_object).into_iter().flatten() {
            warn_of_model(&place.key(field), raw, report);
        }
        warn_of_containers(&place, raw, report);
    }
}

/// Fields of a graph (§6.1): the router is a part of the proxy.
const GRAPH: [(&str, &str); 10] = [
    ("resources", NO_ROUTER),
    ("affinity", ONE_NODE),
    ("tolerations", ONE_NODE),
    ("nodeSelector", ONE_NODE),
    ("nodeName", ONE_NODE),
    ("serviceAccountName", NO_ROUTER),
    ("minReplicas", NO_ROUTER),
    ("maxReplicas", NO_ROUTER),
    ("scaleTarget", NO_ROUTER),
    ("scaleMetric", NO_ROUTER),
];

pub(super) fn check_graph(raw: &Value, report: &mut Report<'_>) {
    let place = FieldPath::of(&["spec"]);
    warn(&GRAPH, &place, raw, report);
    warn(
        &[("serverIdle", "the proxy's own limit on idle connections applies")],
        &place.key("routerTimeouts"),
        raw,
        report,
    );
}

/// The pod of an LLMInferenceService.
pub(super) fn check_llm(raw: &Value, report: &mut Report<'_>) {
    let place = FieldPath::of(&["spec", "template"]);
    warn(&POD, &place, raw, report);
    warn_of_containers(&place, raw, report);
}

pub(super) fn check_runtime(raw: &Value, report: &mut Report<'_>) {
    let place = FieldPath::of(&["spec"]);
    warn(&RUNTIME, &place, raw, report);
    warn_of_containers(&place, raw, report);
}

fn warn_of_model(place: &FieldPath, raw: &Value, report: &mut Report<'_>) {
    if place.last_key().is_some_and(|key| key == "art" || PREDICTOR_MODELS.contains(&key)) {
        warn(&CONTAINER, place, raw, report);
        warn(&[("schemaPath", MODEL_MESH)], &place.key("storage"), raw, report);
    }
}

fn warn_of_containers(place: &FieldPath, raw: &Value, report: &mut Report<'_>) {
    for list in ["containers", "initContainers"] {
        let path = place.key(list);
        let length = path.find(raw).and_then(Value::as_array).map_or(0, Vec::len);
        for index in 0..length {
            warn(&CONTAINER, &path.index(index), raw, report);
        }
    }
}

fn warn(fields: &[(&str, &str)], place: &FieldPath, raw: &Value, report: &mut Report<'_>) {
    let Some(Value::Object(map)) = place.find(raw) else { return };
    for (field, why) in fields {
        if map.get(*field).is_some_and(|value| says_something(field, value)) {
            report.warning(&place.key(field), DiagnosticCode::Ignored, format!("`{field}` is ignored: {why}"));
        }
    }
}

/// Whether the field asks for something else than what happens anyway.
fn says_something(field: &str, value: &Value) -> bool {
    match (field, value) {
        (_, Value::Null) => false,
        (_, Value::Object(map)) => !map.is_empty(),
        (_, Value::Array(list)) => !list.is_empty(),
        ("automountServiceAccountToken" | "enableServiceLinks" | "setHostnameAsFQDN" | "stdinOnce", value) => {
            value == &Value::Bool(true)
        }
        ("restartPolicy", Value::String(policy)) => policy != "Always",
        _ => true,
    }
}
