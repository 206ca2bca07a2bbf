//! Rules about where models come from and where they go (§1.7, §3.1, §3.7).

use std::collections::HashSet;

use crate::api::component::{ComponentSpec, StorageUriEntry};
use crate::api::model_spec::ConfidentialSpec;
use crate::api::storage_uri::StorageUriError;
use crate::api::{StorageUri, meta};
use crate::manifest::diagnostic::DiagnosticCode;
use crate::manifest::path::{FieldPath, Step};
use crate::manifest::report::Report;

use super::component::{Written, models_of};

/// Formats whose server can fetch its model by an argument, without a storageUri.
const FETCHED_BY_SERVER: [&str; 2] = ["huggingface", "vLLM"];

/// Most images whose folders a pod can have.
const MOST_IMAGES: usize = 10;

pub(super) fn check(component: &ComponentSpec, path: &FieldPath, report: &mut Report<'_>) {
    for written in models_of(component) {
        check_model(&written, component, path, report);
    }
    check_environment(component, path, report);
    if let Some(entries) = &component.storage_uris {
        check_entries(entries, component, &path.key("storageUris"), report);
        if has_single_uri(component) {
            let message = "Setting both StorageURI and StorageURIs is not supported.";
            report.denied(&path.key("storageUris"), message);
            report.help("list every artifact under storageUris, or none");
        }
    }
    if let Some(art) = &component.art
        && let Some(uri) = &art.storage_uri
    {
        check_uri(uri, component, &path.key("art").key("storageUri"), report);
    }
}

fn has_single_uri(component: &ComponentSpec) -> bool {
    let model = models_of(component).iter().any(|written| written.model.storage_uri.is_some());
    let art = component.art.as_ref().is_some_and(|art| art.storage_uri.is_some());
    let env = component.containers().iter().flat_map(|container| container.env.iter().flatten());
    model || art || env.into_iter().any(|env| env.name == "STORAGE_URI")
}

fn check_model(written: &Written<'_>, component: &ComponentSpec, component_path: &FieldPath, report: &mut Report<'_>) {
    let path = component_path.key(written.field);
    let model = written.model;
    if let Some(uri) = &model.storage_uri {
        check_uri(uri, component, &path.key("storageUri"), report);
        if model.storage.as_ref().is_some_and(|storage| storage.path.is_some()) {
            let message = "must provide only one of storageUri and storage.path";
            report.invalid(&path.key("storage").key("path"), message);
        }
    }
    if let Some(confidential) = &model.confidential {
        check_confidential(confidential, model.storage_uri.as_deref(), &path, report);
    }
    let nowhere = model.storage_uri.is_none() && model.storage.is_none() && component.storage_uris.is_none();
    // What is written wrong there may have been the place; a canary has the place of the stable predictor.
    let told = report.has_error_below(&path) || path.steps().get(1) == Some(&Step::Key("canary".to_owned()));
    if nowhere && !told && !FETCHED_BY_SERVER.contains(&written.format()) {
        let message = "no storageUri: the server starts without a model and waits for TrainedModels, as on a cluster";
        report.warning(&path, DiagnosticCode::Suspicious, message);
        report.help("write storageUri, unless TrainedModels name this service");
    }
}

/// Custom containers name their model by an environment variable.
fn check_environment(component: &ComponentSpec, path: &FieldPath, report: &mut Report<'_>) {
    for (index, container) in component.containers().iter().enumerate() {
        for (env_index, env) in container.env.iter().flatten().enumerate() {
            if env.name == "STORAGE_URI"
                && container.name != meta::TRANSFORMER_CONTAINER
                && let Some(uri) = &env.value
            {
                let path = path.key("containers").index(index).key("env").index(env_index).key("value");
                check_uri(uri, component, &path, report);
            }
        }
    }
}

/// A scheme that is none of KServe's may be one that a ClusterStorageContainer takes; whether one does is seen where the
/// service is resolved, as upstream's controller does it.
fn check_uri(uri: &str, component: &ComponentSpec, path: &FieldPath, report: &mut Report<'_>) {
    match StorageUri::parse(uri) {
        _ if component.storage_container_name.is_some() => {}
        Ok(_) => {}
        Err(StorageUriError::UnknownScheme(uri)) => {
            let message = format!(
                "`{uri}` is fetched only when a ClusterStorageContainer takes it: its scheme is none of KServe's"
            );
            report.warning(path, DiagnosticCode::Suspicious, message);
        }
        Err(error) => {
            report.invalid(path, error.to_string());
        }
    }
}

fn check_confidential(confidential: &ConfidentialSpec, uri: Option<&str>, path: &FieldPath, report: &mut Report<'_>) {
    if !confidential.enabled.unwrap_or(false) {
        return;
    }
    let path = path.key("confidential");
    let message = "encrypted models (`confidential`) are not served by this version";
    report.error(&path, DiagnosticCode::NotServed, message);
    if uri.is_none() {
        report.denied(&path, "confidential model serving requires storageUri to be set");
    }
    if let Some(id) = &confidential.resource_id
        && !is_resource_id(id)
    {
        report.denied(&path.key("resourceId"), "must be in the format kbs:///<repo>/<type>/<tag>");
    }
}

fn is_resource_id(id: &str) -> bool {
    let parts: Option<Vec<_>> = id.strip_prefix("kbs:///").map(|rest| rest.split('/').collect());
    parts.is_some_and(|parts| parts.len() == 3 && parts.iter().all(|part| !part.is_empty()))
}

fn check_entries(entries: &[StorageUriEntry], component: &ComponentSpec, path: &FieldPath, report: &mut Report<'_>) {
    if entries.is_empty() {
        report.invalid(path, "storageUris must have at least 1 item");
    }
    for (index, entry) in entries.iter().enumerate() {
        check_entry(entry, component, &path.index(index), report);
    }
    let is_claim = |entry: &&StorageUriEntry| entry.uri.starts_with("pvc://");
    let mut claimed = HashSet::new();
    if !entries.iter().filter(is_claim).all(|entry| claimed.insert(mount_path(entry))) {
        report.denied(path, "PVC storage paths must be unique");
    }
    let images = entries.iter().filter(|entry| entry.uri.starts_with("oci"));
    if images.clone().count() > MOST_IMAGES {
        let count = images.clone().count();
        report.denied(path, format!("too many OCI sources ({count}); maximum is {MOST_IMAGES} per pod"));
    }
    let parent = |entry: &StorageUriEntry| {
        mount_path(entry).trim_end_matches('/').rsplit_once('/').map(|(above, _)| above.to_owned())
    };
    let mut parents = HashSet::new();
    if !images.filter(|entry| entry.uri.starts_with("oci://")).all(|entry| parents.insert(parent(entry))) {
        let message = "several oci:// artifacts share a parent folder; on a cluster whose images are modelcars each needs one of its own";
        report.warning(path, DiagnosticCode::Suspicious, message);
    }
    let paths: Vec<_> = entries.iter().filter(|entry| !is_claim(entry)).map(mount_path).collect();
    if paths.len() > 1 && !have_common_parent(&paths) {
        let listed = paths.join(", ");
        let message = format!(
            "storage paths must have a common parent directory. Current paths: [{listed}] have no common parent beyond root"
        );
        report.denied(path, message);
    }
}

fn check_entry(entry: &StorageUriEntry, component: &ComponentSpec, path: &FieldPath, report: &mut Report<'_>) {
    if entry.uri.is_empty() {
        report.invalid(&path.key("uri"), "storage URI cannot be empty");
    } else {
        check_uri(&entry.uri, component, &path.key("uri"), report);
    }
    let at = path.key("mountPath");
    let mount = mount_path(entry);
    if mount == "/" {
        report.denied(&at, "storage path cannot be empty");
    } else if !mount.starts_with('/') {
        report.invalid(&at, format!("storage path must be absolute: {mount}"));
    }
    if mount.contains("..") {
        report.denied(&at, format!("storage path cannot contain '..' for security reasons: {mount}"));
    }
    if mount.len() > 255 {
        report.invalid(&at, "storage path cannot be longer than 255 characters");
    }
}

fn mount_path(entry: &StorageUriEntry) -> &str {
    entry.mount_path.as_deref().filter(|path| !path.is_empty()).unwrap_or(meta::MODEL_MOUNT_PATH)
}

fn have_common_parent(paths: &[&str]) -> bool {
    let first = |path: &&str| path.split('/').find(|part| !part.is_empty()).map(str::to_owned);
    let heads: HashSet<_> = paths.iter().map(first).collect();
    heads.len() == 1
}
