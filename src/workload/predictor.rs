//! A model predictor: the chosen runtime's pod with the manifest's changes over it (§1.6, §2.5 to §2.7).

use std::sync::Arc;

use k8s_openapi::api::core::v1::Container;

use super::merge::{merge_containers, merge_pull_secrets, merge_volumes, pod_annotations, pod_labels};
use super::model_server;
use super::model_source::{self, ModelMounts, Wanted};
use super::origin::Origin;
use super::pod::{Placed, Pod, literal_env, model_read_only, set_env};
use super::resolve::Scope;
use super::storage_container::Fetching;
use super::{
    Access, ResolveError, RunAs, RuntimeRef, credentials, image, local_model, process, security, server_defaults,
    storage_spec,
};
use crate::api::storage_kinds::DOWNLOAD_JOB;
use crate::api::{ComponentKind, Metadata, ModelSpec, ProtocolVersion, meta};
use crate::runtimes::select::Nodes;
use crate::runtimes::{Runtime, select, template};

const PREDICTOR: &str = "spec.predictor";
const MODEL: &str = "spec.predictor.model";

/// Returns the pod of a predictor that has a model.
pub(super) fn pod(written: &ModelSpec, scope: &Scope<'_>) -> Result<Pod, ResolveError> {
    let runtime = select(written, &scope.key.namespace, Nodes::Single, scope.catalog)?.runtime;
    let server_type = server_defaults::server_type(runtime);
    let (model, meta) = with_server_defaults(written, runtime, server_type, scope);
    let containers = containers(runtime, server_type, &model, &meta, scope)?;
    let process = match scope.config.run_as {
        RunAs::Containers => None,
        RunAs::Processes => Some(process::of(runtime, written, &containers[0].container, scope)?),
    };

    let predictor = &scope.spec.predictor;
    let spec = &runtime.spec;
    let annotations = pod_annotations(spec.annotations.as_ref(), &meta.annotations, predictor.annotations.as_ref());
    let mut warnings = Vec::new();
    let read_only = model_read_only(&annotations);
    let mut models = models(written, read_only, scope, &mut warnings)?;
    if !models.mounts.is_empty() {
        warn_of_storage(written, server_type, &mut warnings);
    }
    let has_model = server_defaults::has_storage(written) || (!models.mounts.is_empty() && !starts_empty(server_type));
    let is_multi_model = model_server::is_multi_model(written, predictor);
    if is_multi_model {
        models.mounts.push(model_server::mount(read_only));
    }
    warn_of_grpc(&model, &containers[0].container, &mut warnings);
    let protocol = model.protocol_version.unwrap_or_default();
    let graph_protocol = graph_protocol(written, runtime, &containers, &protocol);
    Ok(Pod {
        kind: ComponentKind::Predictor,
        memory_is_declared: !runtime.built_in || asks_for_memory(written),
        protocol_written: hints_at_protocol(&containers),
        has_model,
        loads_models: is_multi_model.then(|| (model_server::layout(server_type), model_server::frameworks(runtime))),
        containers,
        volumes: volumes(runtime, scope),
        pull_secrets: merge_pull_secrets(
            spec.image_pull_secrets.as_deref().unwrap_or_default(),
            predictor.image_pull_secrets.as_deref().unwrap_or_default(),
        )
        .into_iter()
        .map(|secret| secret.name)
        .collect(),
        labels: pod_labels(
            spec.labels.as_ref(),
            &meta.labels,
            predictor.labels.as_ref(),
            &scope.key.name,
            ComponentKind::Predictor,
        ),
        annotations,
        models,
        runtime: Some(RuntimeRef {
            name: runtime.name.clone(),
            cluster: runtime.namespace.is_none(),
            server_type: server_type.map(str::to_owned),
        }),
        protocol,
        graph_protocol,
        process,
        warnings,
    })
}

/// Returns the protocol in which a graph calls the component (§6.3, `GetPredictorEndpoint`): that of a collocated
/// transformer; of a runtime that is named, its first that graphs speak, whatever the service asks for; else the service's.
fn graph_protocol(written: &ModelSpec, runtime: &Runtime, containers: &[Placed], protocol: &str) -> String {
    if let Some(transformer) = find(containers, meta::TRANSFORMER_CONTAINER) {
        return literal_env(&transformer.container, "PROTOCOL").unwrap_or("v1").to_owned();
    }
    let spoken = &runtime.spec.protocol_versions;
    if written.runtime.is_some() && !spoken.is_empty() {
        return spoken.iter().find(|one| matches!(one.as_str(), "v1" | "v2")).cloned().unwrap_or_default();
    }
    written.protocol_version.clone().unwrap_or_else(|| if protocol.is_empty() { "v1" } else { protocol }.to_owned())
}

/// Applies what the server needs; a protocol that is still unset becomes the runtime's most preferred one.
fn with_server_defaults(
    written: &ModelSpec,
    runtime: &Runtime,
    server_type: Option<&str>,
    scope: &Scope<'_>,
) -> (ModelSpec, Metadata) {
    let (mut model, mut meta) = (written.clone(), scope.meta.clone());
    if let Some(server_type) = server_type {
        server_defaults::apply(server_type, &scope.key.name, &mut model, Arc::make_mut(&mut meta.labels));
    }
    if model.protocol_version.is_none() {
        let spoken = runtime.spec.protocol_versions.iter();
        let best = spoken.map(|text| ProtocolVersion::parse(text)).min().unwrap_or(ProtocolVersion::Unknown);
        model.protocol_version = Some(best.as_str().to_owned());
    }
    (model, meta)
}

/// The serving container, the collocated transformer, the runtime's other containers, the manifest's other containers.
fn containers(
    runtime: &Runtime,
    server_type: Option<&str>,
    model: &ModelSpec,
    meta: &Metadata,
    scope: &Scope<'_>,
) -> Result<Vec<Placed>, ResolveError> {
    let of_runtime = runtime_containers(runtime)?;
    let of_manifest: Vec<Placed> = scope
        .spec
        .predictor
        .containers()
        .iter()
        .enumerate()
        .map(|(index, container)| Placed::new(format!("{PREDICTOR}.containers[{index}]"), container.clone()))
        .collect();
    let serving = find(&of_runtime, meta::KSERVE_CONTAINER).ok_or_else(|| {
        ResolveError::invalid(
            format!("{} spec.containers", runtime.describe()),
            "failed to find kserve-container in ServingRuntime containers",
        )
    })?;
    let serving = merged(serving, MODEL, &model.to_container())?;
    let mut serving = rendered(serving, runtime, meta)?;
    serving.container.image = serving.container.image.as_deref().map(|named| {
        let gpu = image::is_gpu_enabled(&serving.container);
        image::image(named, model.runtime_version.as_deref(), server_type, gpu)
    });
    let mut containers = vec![serving];
    let transformer = (find(&of_runtime, meta::TRANSFORMER_CONTAINER), find(&of_manifest, meta::TRANSFORMER_CONTAINER));
    match transformer {
        (Some(base), Some(own)) => {
            let path = own.origin.root().to_owned();
            containers.push(rendered(merged(base, &path, &own.container)?, runtime, meta)?);
        }
        (Some(one), None) | (None, Some(one)) => containers.push(rendered(one.clone(), runtime, meta)?),
        (None, None) => {}
    }
    let named = |placed: &Placed| {
        matches!(placed.container.name.as_str(), meta::KSERVE_CONTAINER | meta::TRANSFORMER_CONTAINER)
    };
    containers.extend(of_runtime.into_iter().chain(of_manifest).filter(|placed| !named(placed)));
    for placed in &mut containers {
        set_env(&mut placed.container, "INFERENCE_SERVICE_NAME", &scope.key.name);
    }
    Ok(containers)
}

fn runtime_containers(runtime: &Runtime) -> Result<Vec<Placed>, ResolveError> {
    let path = |index: usize| format!("{} spec.containers[{index}]", runtime.describe());
    if runtime.spec.host_ipc == Some(true) {
        return Err(ResolveError::invalid(
            format!("{} spec.hostIPC", runtime.describe()),
            "containers do not share the shared memory of this machine",
        )
        .with_help("mount an emptyDir with `medium: Memory` at /dev/shm"));
    }
    if runtime.spec.containers.is_empty() {
        return Err(ResolveError::invalid(
            format!("{} spec.containers", runtime.describe()),
            "no container configuration found in selected serving runtime",
        ));
    }
    let containers = runtime.spec.containers.iter().enumerate();
    Ok(containers.map(|(index, container)| Placed::new(path(index), container.clone())).collect())
}

fn find<'p>(containers: &'p [Placed], name: &str) -> Option<&'p Placed> {
    containers.iter().find(|placed| placed.container.name == name)
}

/// Merges the manifest's container over the runtime's; each is refused by its own path when it asks for too much.
fn merged(base: &Placed, path: &str, overlay: &Container) -> Result<Placed, ResolveError> {
    security::refuse(&base.container, &base.origin)?;
    security::refuse(overlay, &Origin::new(path, overlay))?;
    let container = merge_containers(&base.container, overlay);
    Ok(Placed { container, origin: base.origin.clone().over(path, overlay) })
}

fn rendered(placed: Placed, runtime: &Runtime, meta: &Metadata) -> Result<Placed, ResolveError> {
    let container = template::render_container(&placed.container, meta).map_err(|mut error| {
        let (layer, field) = placed.origin.text(&error.placeholder, &error.field);
        error.field = field;
        let message = format!(
            "failed to replace placeholders in serving runtime {} Container {}: {error}",
            runtime.name, placed.container.name
        );
        ResolveError::invalid(format!("{layer}.{}", error.field), message)
    })?;
    Ok(Placed { container, origin: placed.origin })
}

fn volumes(runtime: &Runtime, scope: &Scope<'_>) -> Vec<(String, k8s_openapi::api::core::v1::Volume)> {
    let base = runtime.spec.volumes.as_deref().unwrap_or_default();
    let own = scope.spec.predictor.volumes.as_deref().unwrap_or_default();
    let path = |name: &str| match own.iter().position(|volume| volume.name == name) {
        Some(index) => format!("{PREDICTOR}.volumes[{index}]"),
        None => {
            let index = base.iter().position(|volume| volume.name == name).unwrap_or_default();
            format!("{} spec.volumes[{index}]", runtime.describe())
        }
    };
    merge_volumes(base, own).into_iter().map(|volume| (path(&volume.name), volume)).collect()
}

fn models(
    model: &ModelSpec,
    read_only: bool,
    scope: &Scope<'_>,
    warnings: &mut Vec<String>,
) -> Result<ModelMounts, ResolveError> {
    model_source::refuse_unserved(model, MODEL)?;
    let several = scope.spec.predictor.storage_uris.as_deref();
    let (stored, access, configuration) = access(model, several.is_some(), scope, warnings)?;
    let mut fetching = Fetching { stored: &configuration, ..Fetching::of(scope, &scope.spec.predictor, PREDICTOR) };
    let wanted =
        |fetching| Wanted { namespace: &scope.key.namespace, read_only, access: &access, fetching: Some(fetching) };
    match (stored.as_ref().or(model.storage_uri.as_ref()), several) {
        (Some(_), Some(_)) => Err(ResolveError::invalid(
            format!("{PREDICTOR}.storageUris"),
            "Setting both StorageURI and StorageURIs is not supported.",
        )),
        (Some(uri), None) => {
            let field = if stored.is_some() { format!("{MODEL}.storage.path") } else { format!("{MODEL}.storageUri") };
            // A model that is kept whole is fetched once, whatever part of it a service wants.
            let kept = local_model::kept(uri, scope);
            if kept.is_some() {
                fetching.workload_type = DOWNLOAD_JOB;
            }
            let wanted = wanted(&fetching);
            let (whole, below) = kept.unwrap_or((uri, ""));
            let mut models = model_source::single(whole, &field, &wanted)?;
            if let (false, Some(mount)) = (below.is_empty(), models.mounts.first_mut()) {
                mount.sub_path = Some(below.to_owned());
            }
            Ok(models)
        }
        (None, Some(entries)) => {
            let (models, said) = model_source::several(entries, PREDICTOR, &wanted(&fetching))?;
            warnings.extend(said);
            Ok(models)
        }
        // It waits for TrainedModels, or its server finds the model itself.
        (None, None) => Ok(ModelMounts::default()),
    }
}

/// A URI, what it is fetched with, and the variables of a container that fetches it.
type Stored = (Option<String>, Access, Vec<(String, String)>);

/// The URI the `storage` block makes, what models are fetched with (what the block gives, else the account), and the block
/// as a container that fetches reads it (§3.5).
fn access(
    model: &ModelSpec,
    several: bool,
    scope: &Scope<'_>,
    warnings: &mut Vec<String>,
) -> Result<Stored, ResolveError> {
    let predictor = &scope.spec.predictor;
    let own: Vec<String> = predictor.image_pull_secrets.iter().flatten().map(|secret| secret.name.clone()).collect();
    let names = credentials::pull_secrets(&own, predictor, scope);
    let mut unsaid = Vec::new(); // The pod's own pull Secrets are warned of where images are resolved.
    let registries = credentials::registries(&names, scope, &mut unsaid);
    let block =
        model.storage.as_ref().filter(|storage| !several || (storage.key.is_some() && storage.parameters.is_some()));
    let stored = match block {
        Some(storage) => storage_spec::resolve(storage, &format!("{MODEL}.storage"), predictor, scope)?,
        None => storage_spec::Stored::default(),
    };
    if model.storage.as_ref().is_some_and(|storage| storage.schema_path.is_some()) {
        warnings.push(format!("{MODEL}.storage.schemaPath: ignored, it is for ModelMesh only"));
    }
    let access = match stored.access {
        Some(access) => access,
        None => credentials::of_account(scope, predictor, warnings)?,
    };
    Ok((stored.uri, Access { registries, ..access }, stored.configuration))
}

/// Whether a manifest says itself what memory its model needs.
fn asks_for_memory(model: &ModelSpec) -> bool {
    let resources = model.resources.as_ref();
    let written = resources.map(|resources| [resources.requests.as_ref(), resources.limits.as_ref()]);
    written.into_iter().flatten().flatten().any(|amounts| amounts.contains_key("memory"))
}

/// Servers that load nothing when only `storageUris` is set.
fn starts_empty(server_type: Option<&str>) -> bool {
    matches!(server_type, Some("mlserver" | "tritonserver"))
}

fn warn_of_storage(model: &ModelSpec, server_type: Option<&str>, warnings: &mut Vec<String>) {
    if starts_empty(server_type) && !server_defaults::has_storage(model) {
        warnings.push(format!(
            "{MODEL}.storageUri: not set, so {} is told to load no model at the start, here as on a cluster (storageUris does not count)",
            server_type.unwrap_or_default()
        ));
    }
}

fn warn_of_grpc(model: &ModelSpec, serving: &Container, warnings: &mut Vec<String>) {
    let grpc = model.protocol_version.as_deref().is_some_and(|text| ProtocolVersion::parse(text).is_grpc());
    let declared = serving
        .ports
        .iter()
        .flatten()
        .any(|port| port.name.as_deref().is_some_and(|name| name.contains("grpc") || name.contains("h2c")));
    if grpc && !declared {
        warnings.push(format!(
            "{MODEL}.protocolVersion: gRPC is asked for and no port is declared for it; without `ports: [{{ name: h2c, containerPort: 9000 }}]` requests go to port 8080 over HTTP/1.1, here as on a cluster"
        ));
    }
}

/// Whether the container that is called hints that it speaks a model protocol.
fn hints_at_protocol(containers: &[Placed]) -> bool {
    let transformer = find(containers, meta::TRANSFORMER_CONTAINER);
    transformer.is_none_or(|placed| speaks_protocol(&placed.container))
}

/// Whether a manifest's own container hints that it speaks a model protocol: `PROTOCOL`, or the model server's flag
/// `--model_name`.
pub(super) fn speaks_protocol(container: &Container) -> bool {
    literal_env(container, "PROTOCOL").is_some()
        || container.args.iter().flatten().any(|arg| arg == "--model_name" || arg.starts_with("--model_name="))
}
