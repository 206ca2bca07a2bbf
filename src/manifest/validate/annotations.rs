//! Annotations that ask for something and get nothing: each is named, with why, or with what was likely meant.

use serde_json::Value;

use crate::api::{Kind, meta};
use crate::manifest::diagnostic::DiagnosticCode;
use crate::manifest::known;
use crate::manifest::path::FieldPath;
use crate::manifest::report::Report;

const KSERVE: &str = "serving.kserve.io/";
const KNATIVE: &str = "serving.knative.dev/";

/// Annotations of a service that something follows from, without their prefix (§5.10). Fields of `s3-` are a Secret's.
const HONOURED: [(&str, &[&str]); 4] = [
    (
        KSERVE,
        &[
            "deploymentMode",
            "stop",
            "autoscalerClass",
            "enable-tag-routing",
            "disable-localmodel",
            "disable-auto-update",
            "storageSecretName",
            "gpu-resource-types",
        ],
    ),
    (
        meta::AUTOSCALING_PREFIX,
        &[
            "class",
            "metric",
            "target",
            "target-utilization-percentage",
            "initial-scale",
            "activation-scale",
            "window",
            "panic-window-percentage",
            "panic-threshold-percentage",
            "scale-down-delay",
            "scale-to-zero-pod-retention-period",
        ],
    ),
    (KNATIVE, &["progress-deadline"]),
    (
        meta::OWN_PREFIX,
        &[
            "batcher-status",
            "batcher-v2",
            "gpu-memory",
            "gpu-sharing",
            "keep-warm",
            "lift-cpu-limits",
            "logger-redact",
            "mirror",
            "mirror-percent",
            "model-versions",
            "pin",
            "preload",
            "priority",
            "process",
            "refresh",
            "rollout",
            "sleep",
            "sleep-path",
            "sleep-port",
            "wake-path",
        ],
    ),
];

const ONE_NODE: &str = "there is one machine to run on";
const NOT_READ: &str = "KServe does not read it either";
const ALWAYS_SCRAPED: &str = "the metrics of every server are at the API's /metrics without it";

/// Annotations that are known and mean nothing here.
const IGNORED: [(&str, &str); 18] = [
    ("serving.kserve.io/gke-accelerator", ONE_NODE),
    ("serving.kserve.io/nodegroup", ONE_NODE),
    ("serving.kserve.io/storage-initializer-uid", "models are fetched by the daemon, as the user it runs as"),
    ("serving.kserve.io/enable-metric-aggregation", ALWAYS_SCRAPED),
    ("serving.kserve.io/enable-prometheus-scraping", ALWAYS_SCRAPED),
    ("serving.kserve.io/logger-secret-name", NOT_READ),
    ("serving.kserve.io/logger-secret-path", NOT_READ),
    ("serving.kserve.io/logger-secret-file", NOT_READ),
    ("serving.kserve.io/metrics", "KServe does not read it either; write scaleMetric"),
    ("serving.kserve.io/targetUtilizationPercentage", "KServe does not read it either; write scaleTarget"),
    ("serving.knative.dev/rollout-duration", "traffic moves at once when the new revision is ready"),
    ("autoscaling.knative.dev/min-scale", "KServe writes it from minReplicas"),
    ("autoscaling.knative.dev/max-scale", "KServe writes it from maxReplicas"),
    ("autoscaling.knative.dev/minScale", "KServe writes it from minReplicas"),
    ("autoscaling.knative.dev/maxScale", "KServe writes it from maxReplicas"),
    ("autoscaling.knative.dev/target-burst-capacity", "the proxy is always in the path of requests"),
    ("autoscaling.knative.dev/tick-interval", "the autoscaler looks when it needs to"),
    ("autoscaling.knative.dev/max-scale-up-rate", "it is a setting of a cluster, not of a service"),
];

/// Checks the annotations of an object: those of a service one by one, those of others for misspelt ones of ours.
pub(super) fn check(kind: Kind, raw: &Value, report: &mut Report<'_>) {
    let service = kind == Kind::InferenceService;
    let mut places = vec![FieldPath::of(&["metadata", "annotations"])];
    if service {
        places.extend(
            ["predictor", "transformer", "explainer"].map(|part| FieldPath::of(&["spec", part, "annotations"])),
        );
    }
    for place in places {
        for (name, _) in place.find(raw).and_then(Value::as_object).into_iter().flatten() {
            if service || name.starts_with(meta::OWN_PREFIX) {
                check_one(name, &place.key(name), report);
            }
        }
    }
}

fn check_one(name: &str, path: &FieldPath, report: &mut Report<'_>) {
    if let Some((_, why)) = IGNORED.iter().find(|(ignored, _)| *ignored == name) {
        report.warning(path, DiagnosticCode::Ignored, format!("annotation `{name}` is ignored: {why}"));
        return;
    }
    let Some((prefix, honoured)) = HONOURED.iter().find(|(prefix, _)| name.starts_with(prefix)) else { return };
    let rest = &name[prefix.len()..];
    // What Knative does with its own beside those that KServe names is not ours to know.
    if honoured.contains(&rest) || *prefix == KNATIVE {
        return;
    }
    report.warning(path, DiagnosticCode::Ignored, format!("annotation `{name}` is ignored: nothing reads it"));
    if let Some(meant) = meant(rest, honoured) {
        report.help(format!("did you mean `{prefix}{meant}`?"));
    }
}

/// Returns what was likely meant: older spellings are in camel case.
fn meant<'a>(written: &str, honoured: &[&'a str]) -> Option<&'a str> {
    let mut kebab = String::new();
    for letter in written.chars() {
        if letter.is_ascii_uppercase() {
            kebab.push('-');
        }
        kebab.push(letter.to_ascii_lowercase());
    }
    known::nearest(written, honoured).or_else(|| known::nearest(&kebab, honoured))
}

#[cfg(test)]
mod tests {
    use crate::manifest::{Diagnostic, decode};

    fn told(text: &str) -> Vec<String> {
        let words = |found: &Diagnostic| {
            let help = found.help.as_deref().unwrap_or("-");
            format!("{} {} | {help}", found.position.unwrap_or_default(), found.message)
        };
        decode("iris.yaml", text).diagnostics.iter().map(words).collect()
    }

    fn service(annotation: &str) -> Vec<String> {
        told(&format!(
            "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: iris\n  annotations:\n    \
             {annotation}\nspec:\n  predictor:\n    model: {{modelFormat: {{name: sklearn}}, storageUri: s3://b/m}}\n"
        ))
    }

    #[test]
    fn annotations_that_mean_nothing_are_named_where_they_stand() {
        for (annotation, wanted) in [
            ("serving.knative.dev/rollout-duration: 5m", "traffic moves at once when the new revision is ready | -"),
            ("serving.kserve.io/gke-accelerator: t4", "there is one machine to run on | -"),
            ("serving.kserve.io/nodegroup: a", "there is one machine to run on | -"),
            (
                "serving.kserve.io/storage-initializer-uid: \"7\"",
                "models are fetched by the daemon, as the user it runs as | -",
            ),
            (
                "autoscaling.knative.dev/metrics: rps",
                "nothing reads it | did you mean `autoscaling.knative.dev/metric`?",
            ),
            (
                "autoscaling.knative.dev/targetUtilizationPercentage: \"70\"",
                "nothing reads it | did you mean `autoscaling.knative.dev/target-utilization-percentage`?",
            ),
            ("autoscaling.knative.dev/colour: red", "nothing reads it | -"),
            ("serving.kserve.io/stopp: \"true\"", "nothing reads it | did you mean `serving.kserve.io/stop`?"),
            ("serving.kserve.io/foo: a", "nothing reads it | -"),
            ("kserve-local/pinn: \"true\"", "nothing reads it | did you mean `kserve-local/pin`?"),
            ("kserve-local/foo: a", "nothing reads it | -"),
        ] {
            let name = annotation.split_once(": ").unwrap().0;
            assert_eq!(service(annotation), [format!("6:5 annotation `{name}` is ignored: {wanted}")]);
        }
    }

    #[test]
    fn annotations_that_are_honoured_or_of_others_are_not_spoken_of() {
        for annotation in [
            "serving.kserve.io/stop: \"true\"",
            "autoscaling.knative.dev/window: 60s",
            "serving.knative.dev/creator: me",
            "kserve-local/pin: \"true\"",
            "prometheus.io/scrape: \"true\"",
            "example.com/owner: me",
        ] {
            assert_eq!(service(annotation), [] as [&str; 0], "{annotation}");
        }
    }

    #[test]
    fn components_and_other_kinds_are_looked_at_as_well() {
        let component = "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: iris}\nspec:\n  predictor:\n    \
                         annotations: {kserve-local/pinn: a}\n    model: {modelFormat: {name: a}, storageUri: s3://b/m}\n";
        assert_eq!(told(component).len(), 1);
        let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, annotations: {kserve-local/x: b, serving.kserve.io/x: c}}\n";
        assert_eq!(told(namespace), ["3:35 annotation `kserve-local/x` is ignored: nothing reads it | -"]);
    }
}
