//! Predictors, transformers and explainers of the user's own containers, and the ART explainer (§1.8).
//!
//! The flags that are added are `--model_name`, `--predictor_host`, `--http_port` and `--workers`, and nothing else; one
//! is left out when an argument starts with it, as upstream does. A collocated transformer gets none.

use k8s_openapi::api::core::v1::Container;

use super::merge::{pod_annotations, pod_labels};
use super::model_server;
use super::model_source::{self, ModelMounts, Wanted};
use super::pod::{Placed, Pod, literal_env, model_read_only, set_env};
use super::predictor::speaks_protocol;
use super::resolve::Scope;
use super::storage_container::Fetching;
use super::{ResolveError, credentials, names};
use crate::api::component::ArtExplainerSpec;
use crate::api::{ComponentKind, ComponentSpec, meta};

/// Image of the ART explainer; the tag is `runtimeVersion`, else this one.
const ART_IMAGE: (&str, &str) = ("kserve/art-explainer", "v0.20.0");

/// Returns the pod of a predictor of the user's own containers.
pub(super) fn custom_predictor(scope: &Scope<'_>) -> Result<Pod, ResolveError> {
    let component = &scope.spec.predictor;
    let mut containers = placed(component, ComponentKind::Predictor)?;
    let mut warnings = Vec::new();
    // Upstream overwrites the first container with `kserve-container`; moving it to the front loses none.
    let main = containers.iter().position(|placed| placed.container.name == meta::KSERVE_CONTAINER).unwrap_or(0);
    let mut serving = containers.remove(main);
    if serving.container.name != meta::KSERVE_CONTAINER {
        if !containers.is_empty() && !serving.container.name.is_empty() {
            warnings.push(format!(
                "{}.name: none of the containers is named kserve-container; `{}` is taken as the one that serves",
                serving.origin.root(),
                serving.container.name
            ));
        }
        meta::KSERVE_CONTAINER.clone_into(&mut serving.container.name);
    }
    let is_multi_model = model_server::says_so(&serving.container);
    containers.sort_by_key(|placed| placed.container.name != meta::TRANSFORMER_CONTAINER);
    containers.insert(0, serving);
    let called = containers.iter().find(|placed| placed.container.name == meta::TRANSFORMER_CONTAINER);
    let called = &called.unwrap_or(&containers[0]).container;
    let (protocol, protocol_written) = (protocol(called), speaks_protocol(called));
    for placed in &mut containers {
        set_env(&mut placed.container, "INFERENCE_SERVICE_NAME", &scope.key.name);
    }
    let mut pod = finish(ComponentKind::Predictor, component, containers, protocol, protocol_written, warnings, scope)?;
    if is_multi_model && pod.models.mounts.is_empty() {
        pod.models.mounts.push(model_server::mount(model_read_only(&pod.annotations)));
        pod.loads_models = Some((model_server::layout(None), Vec::new()));
    }
    Ok(pod)
}

/// Returns the pod of a transformer.
pub(super) fn transformer(component: &ComponentSpec, scope: &Scope<'_>) -> Result<Pod, ResolveError> {
    let mut containers = placed(component, ComponentKind::Transformer)?;
    let main = &mut containers[0].container;
    meta::KSERVE_CONTAINER.clone_into(&mut main.name);
    let (protocol, protocol_written) = (protocol(main), speaks_protocol(main));
    let args = main.args.get_or_insert_default();
    add_flag(args, "--model_name", &scope.key.name);
    add_flag(args, "--predictor_host", &predictor_host(scope));
    add_flag(args, "--http_port", "8080");
    add_workers(args, component);
    set_env(main, "INFERENCE_SERVICE_NAME", &scope.key.name);
    finish(ComponentKind::Transformer, component, containers, protocol, protocol_written, Vec::new(), scope)
}

/// Returns the pod of an explainer: ART, or the user's own container.
pub(super) fn explainer(component: &ComponentSpec, scope: &Scope<'_>) -> Result<Pod, ResolveError> {
    if let Some(art) = &component.art {
        return art_explainer(component, art, scope);
    }
    let mut containers = placed(component, ComponentKind::Explainer)?;
    let main = &mut containers[0].container;
    meta::KSERVE_CONTAINER.clone_into(&mut main.name);
    let protocol_written = speaks_protocol(main);
    let args = main.args.get_or_insert_default();
    add_flag(args, "--model_name", &scope.key.name);
    add_flag(args, "--predictor_host", &predictor_host(scope));
    // Appended whatever the user wrote, so the last flag and the port requests go to agree, here as on a cluster.
    args.extend(["--http_port".to_owned(), "8080".to_owned()]);
    add_workers(args, component);
    finish(ComponentKind::Explainer, component, containers, "v1".to_owned(), protocol_written, Vec::new(), scope)
}

fn art_explainer(component: &ComponentSpec, art: &ArtExplainerSpec, scope: &Scope<'_>) -> Result<Pod, ResolveError> {
    let path = "spec.explainer.art";
    let user_args = art.args.clone().unwrap_or_default();
    let mut args = vec!["--model_name".to_owned(), scope.key.name.clone(), "--http_port".to_owned(), "8080".to_owned()];
    let written = |flag: &str| user_args.iter().any(|arg| arg.starts_with(flag));
    if !written("--predictor_host") {
        add_flag(&mut args, "--predictor_host", &predictor_host(scope));
    }
    if !written("--workers") {
        add_workers(&mut args, component);
    }
    if art.storage_uri.is_some() {
        args.extend(["--storage_uri".to_owned(), meta::MODEL_MOUNT_PATH.to_owned()]);
    }
    args.extend(["--adversary_type".to_owned(), art.adversary_type.clone()]);
    for (key, value) in art.config.iter().flatten() {
        args.extend([format!("--{key}"), value.clone()]);
    }
    args.extend(user_args);
    if art.storage.as_ref().is_some_and(|storage| *storage != crate::api::model_spec::StorageSpec::default()) {
        return Err(ResolveError::invalid(format!("{path}.storage"), "the storage block is not served yet")
            .with_help("write storageUri"));
    }
    let (repository, tag) = ART_IMAGE;
    let tag = art.runtime_version.as_deref().filter(|version| !version.is_empty()).unwrap_or(tag);
    let image = art.image.clone().unwrap_or_else(|| format!("{repository}:{tag}"));
    let container = art_container(art, image, args);
    let mut containers = vec![Placed::new(path, container)];
    let others = component.containers().iter().enumerate();
    containers
        .extend(others.map(|(index, other)| Placed::new(format!("spec.explainer.containers[{index}]"), other.clone())));
    let mut pod = finish(ComponentKind::Explainer, component, containers, "v1".to_owned(), true, Vec::new(), scope)?;
    if let Some(uri) = &art.storage_uri {
        let read_only = model_read_only(&pod.annotations);
        let access = credentials::of_account(scope, component, &mut pod.warnings)?;
        let fetching = Fetching::of(scope, component, "spec.explainer");
        let wanted = Wanted { namespace: &scope.key.namespace, read_only, access: &access, fetching: Some(&fetching) };
        pod.models = model_source::single(uri, &format!("{path}.storageUri"), &wanted)?;
        pod.has_model = true;
    }
    Ok(pod)
}

/// The container of ART's inline fields.
fn art_container(art: &ArtExplainerSpec, image: String, args: Vec<String>) -> Container {
    Container {
        name: meta::KSERVE_CONTAINER.to_owned(),
        image: Some(image),
        command: art.command.clone(),
        args: Some(args),
        working_dir: art.working_dir.clone(),
        ports: art.ports.clone(),
        env_from: art.env_from.clone(),
        env: art.env.clone(),
        resources: art.resources.clone(),
        resize_policy: art.resize_policy.clone(),
        restart_policy: art.restart_policy.clone(),
        volume_mounts: art.volume_mounts.clone(),
        volume_devices: art.volume_devices.clone(),
        liveness_probe: art.liveness_probe.clone(),
        readiness_probe: art.readiness_probe.clone(),
        startup_probe: art.startup_probe.clone(),
        lifecycle: art.lifecycle.clone(),
        termination_message_path: art.termination_message_path.clone(),
        termination_message_policy: art.termination_message_policy.clone(),
        image_pull_policy: art.image_pull_policy.clone(),
        security_context: art.security_context.clone(),
        stdin: art.stdin,
        stdin_once: art.stdin_once,
        tty: art.tty,
    }
}

/// The containers as written; there must be one.
fn placed(component: &ComponentSpec, kind: ComponentKind) -> Result<Vec<Placed>, ResolveError> {
    let path = format!("spec.{kind}.containers");
    let containers: Vec<Placed> = component
        .containers()
        .iter()
        .enumerate()
        .map(|(index, container)| Placed::new(format!("{path}[{index}]"), container.clone()))
        .collect();
    if containers.is_empty() {
        return Err(ResolveError::invalid(path, format!("the {kind} has no container")));
    }
    Ok(containers)
}

fn finish(
    kind: ComponentKind,
    component: &ComponentSpec,
    mut containers: Vec<Placed>,
    protocol: String,
    protocol_written: bool,
    mut warnings: Vec<String>,
    scope: &Scope<'_>,
) -> Result<Pod, ResolveError> {
    let annotations = pod_annotations(None, &scope.meta.annotations, component.annotations.as_ref());
    let read_only = model_read_only(&annotations);
    let models = models(&mut containers[0], kind, component, read_only, &mut warnings, scope)?;
    let volumes = component.volumes.iter().flatten().enumerate();
    let secrets = component.image_pull_secrets.iter().flatten();
    Ok(Pod {
        kind,
        memory_is_declared: true,
        volumes: volumes.map(|(index, volume)| (format!("spec.{kind}.volumes[{index}]"), volume.clone())).collect(),
        pull_secrets: secrets.map(|secret| secret.name.clone()).collect(),
        labels: pod_labels(None, &scope.meta.labels, component.labels.as_ref(), &scope.key.name, kind),
        annotations,
        has_model: !models.mounts.is_empty(),
        models,
        containers,
        runtime: None,
        loads_models: None,
        graph_protocol: protocol.clone(),
        protocol,
        protocol_written,
        process: None,
        warnings,
    })
}

/// The artifact of a custom container: `STORAGE_URI`, which becomes the mount path, or the predictor's `storageUris`.
fn models(
    serving: &mut Placed,
    kind: ComponentKind,
    component: &ComponentSpec,
    read_only: bool,
    warnings: &mut Vec<String>,
    scope: &Scope<'_>,
) -> Result<ModelMounts, ResolveError> {
    let path = format!("spec.{kind}");
    let uri = literal_env(&serving.container, "STORAGE_URI").map(str::to_owned);
    if uri.is_none() && component.storage_uris.is_none() {
        return Ok(ModelMounts::default());
    }
    let mut access = credentials::of_account(scope, component, warnings)?;
    let own: Vec<String> = component.image_pull_secrets.iter().flatten().map(|secret| secret.name.clone()).collect();
    let mut unsaid = Vec::new(); // Warned of where images are resolved.
    access.registries = credentials::registries(&credentials::pull_secrets(&own, component, scope), scope, &mut unsaid);
    let fetching = Fetching::of(scope, component, &path);
    let wanted = Wanted { namespace: &scope.key.namespace, read_only, access: &access, fetching: Some(&fetching) };
    match (uri, component.storage_uris.as_deref()) {
        (Some(_), Some(_)) => Err(ResolveError::invalid(
            format!("{path}.storageUris"),
            "Setting both StorageURI and StorageURIs is not supported.",
        )),
        (Some(uri), None) => {
            let field = serving.origin.item("env", "name", &serde_json::Value::from("STORAGE_URI"));
            set_env(&mut serving.container, "STORAGE_URI", meta::MODEL_MOUNT_PATH);
            model_source::single(&uri, &format!("{field}.value"), &wanted)
        }
        (None, Some(entries)) => {
            let (models, said) = model_source::several(entries, &path, &wanted)?;
            warnings.extend(said);
            Ok(models)
        }
        (None, None) => Ok(ModelMounts::default()),
    }
}

fn protocol(container: &Container) -> String {
    literal_env(container, "PROTOCOL").unwrap_or("v1").to_owned()
}

/// Adds a flag unless an argument starts with it.
fn add_flag(args: &mut Vec<String>, flag: &str, value: &str) {
    if !args.iter().any(|arg| arg.starts_with(flag)) {
        args.extend([flag.to_owned(), value.to_owned()]);
    }
}

fn add_workers(args: &mut Vec<String>, component: &ComponentSpec) {
    if let Some(concurrency) = component.container_concurrency {
        add_flag(args, "--workers", &concurrency.to_string());
    }
}

fn predictor_host(scope: &Scope<'_>) -> String {
    let name = scope.spec.predictor.name.as_deref();
    let service = names::component_service_name(&scope.key.name, ComponentKind::Predictor, name);
    format!("{service}.{}", scope.key.namespace)
}
