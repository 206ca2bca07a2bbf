//! Services made by hand, in a line each.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use crate::api::{ComponentKind, Kind, Metadata, ServiceKey, StorageUri};
use crate::plan::world::{DesiredService, ResolvedWorkload};
use crate::scale::Policy;
use crate::workload::{
    Access, Check, ComponentKey, ContainerSpec, EntryPoint, Extras, Fingerprint, ModelRef, Probe, Readiness,
    ResolveError, RuntimeRef, UpstreamProtocol, Workload, names,
};

/// Returns the key of a service in `default`.
pub(super) fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name)
}

/// Returns the key of a service's predictor.
pub(super) fn predictor(name: &str) -> ComponentKey {
    ComponentKey { service: key(name), component: ComponentKind::Predictor }
}

/// Returns the bucket's model `path`.
pub(super) fn model(path: &str) -> ModelRef {
    let uri = StorageUri::S3 { bucket: "models".to_owned(), path: path.to_owned() };
    ModelRef { uri, written: format!("s3://models/{path}"), access: Access::default() }
}

/// Returns a container that runs `image`.
pub(super) fn container(name: &str, image: &str) -> ContainerSpec {
    ContainerSpec { name: name.to_owned(), image: image.to_owned(), ..ContainerSpec::default() }
}

/// Returns a probe of the serving port.
pub(super) fn probe(path: &str, period: u64, failure_threshold: u32) -> Probe {
    Probe {
        check: Check::Http { scheme: "http".to_owned(), path: path.to_owned(), port: 8080, headers: Vec::new() },
        initial_delay: Duration::ZERO,
        period: Duration::from_secs(period),
        timeout: Duration::from_secs(1),
        success_threshold: 1,
        failure_threshold,
        termination_grace: None,
    }
}

/// Returns a component with one container of `image` and one model.
pub(super) fn component(service: &str, kind: ComponentKind, image: &str) -> Workload {
    Workload {
        component: ComponentKey { service: key(service), component: kind },
        service_name: names::component_service_name(service, kind, None),
        init_containers: Vec::new(),
        containers: vec![container("kserve-container", image)],
        models: if kind == ComponentKind::Predictor { vec![model(service)] } else { Vec::new() },
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        entry: EntryPoint { port: 8080, protocol: UpstreamProtocol::Http1, grpc_port: None },
        protocol: "v1".to_owned(),
        extras: Extras { predict_path: Some(format!("/v1/models/{service}:predict").into()), ..Extras::default() },
        model_name: service.to_owned(),
        readiness: Readiness::ModelEndpoint { path: format!("/v1/models/{service}") },
        termination_grace: Duration::from_secs(30),
        timeout: Some(Duration::from_secs(60)),
        container_concurrency: None,
        canary_percent: None,
        canary: None,
        scaling: Policy::default(),
        shm_size: None,
        host_aliases: Vec::new(),
        callees: Vec::new(),
        image_pull_secrets: Vec::new(),
        image_access: Access::default(),
        service_account: "default".to_owned(),
        runtime: Some(RuntimeRef { name: "kserve-sklearnserver".to_owned(), cluster: true, server_type: None }),
        model_server: None,
        aliases: Vec::new(),
        memory_is_declared: true,
        priority_class: None,
        warnings: Vec::new(),
    }
}

/// Returns a predictor with one container of `image` and one model.
pub(super) fn predicting(service: &str, image: &str) -> Workload {
    component(service, ComponentKind::Predictor, image)
}

/// Returns the fingerprint of what the containers would be.
pub(super) fn fingerprint(workload: &Workload) -> Fingerprint {
    let mut hasher = DefaultHasher::new();
    format!("{:?}{:?}{:?}", workload.containers, workload.init_containers, workload.models).hash(&mut hasher);
    Fingerprint(format!("{:016x}", hasher.finish()))
}

/// Returns a service of these components.
pub(super) fn service(name: &str, workloads: Vec<Workload>) -> DesiredService {
    let resolved =
        |workload: Workload| ResolvedWorkload { fingerprint: fingerprint(&workload), workload: Arc::new(workload) };
    DesiredService {
        key: key(name),
        kind: Kind::InferenceService,
        meta: Metadata { name: name.to_owned(), namespace: "default".to_owned(), generation: 1, ..Metadata::default() },
        resolution: Ok(workloads.into_iter().map(resolved).collect()),
        canaries: Vec::new(),
    }
}

/// Returns a service whose spec cannot be resolved.
pub(super) fn unresolvable(name: &str) -> DesiredService {
    let error = ResolveError::Invalid {
        field: "spec.predictor.containers[0].image".to_owned(),
        message: "the image has no name".to_owned(),
        help: Some("write one, for example `example/server:1.0`".to_owned()),
    };
    DesiredService { resolution: Err(error), ..service(name, Vec::new()) }
}

/// Adds an annotation.
pub(super) fn annotated(mut service: DesiredService, name: &str, value: &str) -> DesiredService {
    Arc::make_mut(&mut service.meta.annotations).insert(name.to_owned(), value.to_owned());
    service
}

/// Returns the scaling of a component that wants so many replicas.
pub(super) fn at_least(replicas: u32) -> Policy {
    Policy { min: replicas, ..Policy::default() }
}
