//! LocalModelCache and LocalModelNamespaceCache: models that are fetched before they are needed, and kept (§3.9).

use super::resolve::Scope;
use super::storage_container::Fetching;
use super::{Access, Companions, ModelRef, ResolveError, WorkloadConfig, credentials, model_source, storage_spec};
use crate::api::meta::DISABLE_LOCAL_MODEL;
use crate::api::model_spec::StorageSpec;
use crate::api::storage_kinds::{DOWNLOAD_JOB, LocalModelCacheSpec};
use crate::api::{ComponentSpec, InferenceServiceSpec, Object, ServiceKey, Typed};
use crate::runtimes::Catalog;

/// Resolves what such an object wants fetched. Secrets of the cluster-scoped kind are looked for in `default`.
///
/// # Errors
/// The URI, the key or a Secret is wrong.
pub fn local_model(
    object: &Object,
    companions: &Companions<'_>,
    config: &WorkloadConfig,
) -> Result<Option<ModelRef>, ResolveError> {
    let Typed::LocalModelCache(spec) = &object.typed else { return Ok(None) };
    let namespace = if object.key.namespace.is_empty() { "default" } else { &object.key.namespace };
    let key = ServiceKey::new(namespace, &object.key.name);
    let component =
        ComponentSpec { service_account_name: spec.service_account_name.clone(), ..ComponentSpec::default() };
    let (nothing, catalog) = (InferenceServiceSpec::default(), Catalog::with_builtin(&[], []));
    let scope = Scope { key, meta: &object.meta, spec: &nothing, catalog: &catalog, companions, config };
    // Nobody reads warnings of these objects; what is wrong is an error of the download.
    let mut unread = Vec::new();
    let stored = match &spec.storage {
        Some(storage) => {
            let storage = StorageSpec {
                key: storage.key.clone(),
                parameters: storage.parameters.clone(),
                ..StorageSpec::default()
            };
            storage_spec::resolve(&storage, "spec.storage", &component, &scope)?.access
        }
        None => None,
    };
    let access = match stored {
        Some(access) => access,
        None => credentials::of_account(&scope, &component, &mut unread)?,
    };
    let names = credentials::pull_secrets(&[], &component, &scope);
    let access = Access { registries: credentials::registries(&names, &scope, &mut unread), ..access };
    let fetching = Fetching { workload_type: DOWNLOAD_JOB, ..Fetching::of(&scope, &component, "spec") };
    let wanted = model_source::Wanted { namespace, read_only: true, access: &access, fetching: Some(&fetching) };
    let whole = spec.source_model_uri.strip_suffix('/').unwrap_or(&spec.source_model_uri);
    let found = model_source::single(whole, "spec.sourceModelUri", &wanted)?;
    Ok(found.models.into_iter().next())
}

/// Splits a URI at the model an object keeps, when it is that or something below it: the kept model's URI, and the rest.
/// Objects of the namespace go before those of the cluster.
pub(super) fn kept<'u>(uri: &'u str, scope: &Scope<'_>) -> Option<(&'u str, &'u str)> {
    if scope.meta.annotations.contains_key(DISABLE_LOCAL_MODEL) {
        return None;
    }
    let split = |spec: &LocalModelCacheSpec| {
        let source = spec.source_model_uri.strip_suffix('/').unwrap_or(&spec.source_model_uri);
        let rest = uri.strip_suffix('/').unwrap_or(uri).strip_prefix(source)?;
        match rest.strip_prefix('/') {
            Some(below) if !below.is_empty() => Some((&uri[..source.len()], below)),
            None if rest.is_empty() => Some((&uri[..source.len()], "")),
            _ => None,
        }
    };
    let own = |namespace: &str| namespace == scope.key.namespace;
    let local = scope.companions.local_models.iter();
    let mut of_namespace = local.clone().filter(|(namespace, _)| own(namespace));
    let mut of_cluster = local.filter(|(namespace, _)| namespace.is_empty());
    of_namespace.find_map(|(_, spec)| split(spec)).or_else(|| of_cluster.find_map(|(_, spec)| split(spec)))
}
