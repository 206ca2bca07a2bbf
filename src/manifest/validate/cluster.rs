//! What a cluster takes from KServe and refuses when it makes pods of it. It is served here, so it is a warning.

use k8s_openapi::api::core::v1 as core;

use crate::api::{ComponentSpec, Metadata, meta};
use crate::manifest::diagnostic::DiagnosticCode;
use crate::manifest::path::FieldPath;
use crate::manifest::report::Report;

use super::component::models_of;

/// Most requests at a time that Knative lets a container ask for.
const MOST_CONCURRENCY: i64 = 1000;
/// Longest name of a port.
const PORT_NAME: usize = 15;

/// Checks a component of a service.
pub(super) fn check(metadata: &Metadata, component: &ComponentSpec, path: &FieldPath, report: &mut Report<'_>) {
    let knative = metadata.annotation(meta::DEPLOYMENT_MODE) != Some("Standard");
    let containers = containers(component, path);
    for container in &containers {
        check_container(container, report);
    }
    if !knative {
        return;
    }
    let mut ports = containers
        .iter()
        .flat_map(|container| (0..container.ports.len()).map(move |index| container.path.key("ports").index(index)));
    if let Some(second) = ports.nth(1) {
        warn(&second, "Knative takes one container port of a component at most", report)
            .help("keep one, or annotate serving.kserve.io/deploymentMode: Standard");
    }
    if component.container_concurrency.is_some_and(|limit| limit > MOST_CONCURRENCY) {
        let message = format!("Knative takes a containerConcurrency of {MOST_CONCURRENCY} at most");
        warn(&path.key("containerConcurrency"), &message, report).help("0 is no limit");
    }
    let hpa = metadata.annotation(meta::KNATIVE_AUTOSCALER_CLASS).is_some_and(|class| class.starts_with("hpa"));
    if !hpa
        && component.scale_target.is_some_and(|target| target < 1)
        && component.scale_metric.as_deref() != Some("rps")
    {
        warn(&path.key("scaleTarget"), "Knative's autoscaler takes a target of more than 0 only", report)
            .help("remove it to have the default");
    }
}

/// A container as far as it matters here.
#[derive(Debug)]
struct Container<'a> {
    path: FieldPath,
    ports: &'a [core::ContainerPort],
    env: &'a [core::EnvVar],
}

fn containers<'a>(component: &'a ComponentSpec, path: &FieldPath) -> Vec<Container<'a>> {
    let listed = component.containers().iter().enumerate().map(|(index, container)| Container {
        path: path.key("containers").index(index),
        ports: container.ports.as_deref().unwrap_or_default(),
        env: container.env.as_deref().unwrap_or_default(),
    });
    let models = models_of(component).into_iter().map(|written| Container {
        path: path.key(written.field),
        ports: written.model.ports.as_deref().unwrap_or_default(),
        env: written.model.env.as_deref().unwrap_or_default(),
    });
    models.chain(listed).collect()
}

fn check_container(container: &Container<'_>, report: &mut Report<'_>) {
    for (index, port) in container.ports.iter().enumerate() {
        if let Some(name) = port.name.as_deref().filter(|name| !is_port_name(name)) {
            let path = container.path.key("ports").index(index).key("name");
            let message = format!("a cluster refuses the port name `{name}`");
            warn(&path, &message, report).help(format!(
                "at most {PORT_NAME} lower case letters, digits and single '-', with a letter among them"
            ));
        }
    }
    for (index, variable) in container.env.iter().enumerate() {
        let written = variable.value.as_deref().is_some_and(|value| !value.is_empty());
        if written && variable.value_from.is_some() {
            let path = container.path.key("env").index(index).key("valueFrom");
            report.invalid(&path, "may not be specified when `value` is not empty").help("keep one of the two");
        }
    }
}

fn warn<'r, 'a>(path: &FieldPath, message: &str, report: &'r mut Report<'a>) -> &'r mut Report<'a> {
    report.warning(path, DiagnosticCode::Suspicious, message)
}

/// Whether a text is an IANA service name, as names of ports are.
fn is_port_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| *byte != b'-');
    name.len() <= PORT_NAME
        && bytes.iter().all(plain)
        && bytes.iter().any(u8::is_ascii_lowercase)
        && edge(bytes.first())
        && edge(bytes.last())
        && !name.contains("--")
}

#[cfg(test)]
mod tests {
    use crate::manifest::decode;

    fn told(annotations: &str, predictor: &str) -> Vec<String> {
        let text = format!(
            "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {{name: iris, annotations: {{{annotations}}}}}\nspec:\n  \
             predictor: {{{predictor}}}\n"
        );
        let found = decode("iris.yaml", &text).diagnostics.into_iter();
        found.map(|found| format!("{}: {}", found.field.unwrap_or_default(), found.message)).collect()
    }

    const STANDARD: &str = "serving.kserve.io/deploymentMode: Standard";
    const MODEL: &str = "sklearn: {storageUri: s3://b/m}";

    #[test]
    fn what_knative_refuses_is_told_in_its_mode_only() {
        let ports = "containers: [{name: a, image: i, ports: [{containerPort: 1}, {containerPort: 2}]}]";
        for (predictor, wanted) in [
            (
                ports.to_owned(),
                "spec.predictor.containers[0].ports[1]: Knative takes one container port of a component at most",
            ),
            (
                format!("{MODEL}, containerConcurrency: 5000"),
                "spec.predictor.containerConcurrency: Knative takes a containerConcurrency of 1000 at most",
            ),
            (
                format!("{MODEL}, scaleTarget: 0"),
                "spec.predictor.scaleTarget: Knative's autoscaler takes a target of more than 0 only",
            ),
        ] {
            assert_eq!(told("", &predictor), [wanted]);
            assert_eq!(told(STANDARD, &predictor), [] as [&str; 0]);
        }
        assert_eq!(told("", &format!("{MODEL}, containerConcurrency: 1000, scaleTarget: 1")), [] as [&str; 0]);
    }

    #[test]
    fn names_of_ports_are_what_an_api_server_takes() {
        for (name, good) in [
            ("h2c", true),
            ("http1", true),
            ("a-b", true),
            ("Http", false),
            ("a-name-of-sixteen", false),
            ("1", false),
            ("-a", false),
            ("a--b", false),
        ] {
            let predictor =
                format!("containers: [{{name: a, image: i, ports: [{{containerPort: 1, name: '{name}'}}]}}]");
            assert_eq!(told("", &predictor).is_empty(), good, "{name}");
        }
    }

    #[test]
    fn a_variable_has_a_value_or_a_source_of_one() {
        let env = "env: [{name: A, value: b, valueFrom: {secretKeyRef: {name: s, key: k}}}]";
        let wanted = "env[0].valueFrom: may not be specified when `value` is not empty";
        let model = format!("sklearn: {{storageUri: s3://b/m, {env}}}");
        assert_eq!(told("", &model), [format!("spec.predictor.sklearn.{wanted}")]);
        let custom = format!("containers: [{{name: a, image: i, {env}}}]");
        assert_eq!(told(STANDARD, &custom), [format!("spec.predictor.containers[0].{wanted}")]);
    }
}
