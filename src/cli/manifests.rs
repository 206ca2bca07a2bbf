//! Manifests without a daemon: those of the home, and what is only told of manifests once they are resolved together.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};

use super::input::Source;
use super::output;
use super::report::Problem;
use super::serve;
use crate::api::{Object, ObjectKey, ServiceKey};
use crate::config::{Flags, Settings};
use crate::home::Home;
use crate::manifest::{self, DecodedObject, Diagnostic, DiagnosticCode, FieldPath, Position, Severity};
use crate::plan::hosts::Hosts;
use crate::runtimes::{Catalog, builtin};
use crate::source::scan::{self, FoundFile};
use crate::workload::{self, CA_BUNDLE, Companions, Patterns, ResolveError, Workload, WorkloadConfig};

/// Returns the manifest files of a home; a folder that is not there holds none.
///
/// # Errors
/// A folder cannot be read.
pub fn folder_files(home: &Utf8Path) -> Result<Vec<FoundFile>> {
    let folders: Vec<Utf8PathBuf> =
        ["runtimes", "services"].iter().map(|name| home.join(name)).filter(|folder| folder.is_dir()).collect();
    Ok(scan::scan(&folders).map_err(|error| Problem::machine(error.to_string()).because(error.source))?)
}

/// Returns the manifests that were named, or else those of the home.
///
/// # Errors
/// A folder of the home cannot be read.
pub fn named_or_folder<'n>(home: &Utf8Path, named: impl IntoIterator<Item = &'n String>) -> Result<Vec<String>> {
    let named: Vec<String> = named.into_iter().cloned().collect();
    if !named.is_empty() {
        return Ok(named);
    }
    Ok(folder_files(home)?.into_iter().map(|file| file.path.into_string()).collect())
}

/// Returns the user's objects that can be read from the folder.
///
/// # Errors
/// A folder cannot be read.
pub fn folder_objects(home: &Utf8Path) -> Result<Vec<Object>> {
    let mut objects = Vec::new();
    for file in folder_files(home)? {
        match scan::read(&file.path) {
            Ok(text) => {
                let decoded = manifest::decode(file.path.as_str(), &text);
                objects.extend(decoded.objects.into_iter().map(|found| found.object));
            }
            Err(error) => output::note(&format!("warning: could not read `{}`: {error}", file.path)),
        }
    }
    Ok(objects)
}

/// Adds to each source what can only be told with the runtimes and companions at hand: models that none serves,
/// references that lead nowhere, what one machine cannot do.
///
/// # Errors
/// The folder cannot be read.
pub fn resolve_all(home: &Utf8Path, sources: &mut [Source]) -> Result<()> {
    // What is validated stands for itself before what the folder holds of the same name.
    let given = sources.iter().flat_map(|source| source.decoded.objects.iter().map(|found| found.object.clone()));
    let mut objects: BTreeMap<ObjectKey, Object> = BTreeMap::new();
    for object in folder_objects(home)?.into_iter().chain(given) {
        objects.insert(object.key.clone(), object);
    }
    tell_rivals(&objects, sources);
    let catalog = Catalog::new(objects.values());
    let companions = Companions::new(objects.values());
    let settings =
        Settings::load(Home::new(home), &Flags::default(), serve::environment()).map_err(serve::bad_setting)?;
    let patterns = Patterns::of(|name| settings.environment.get(name).map(String::as_str));
    let config = WorkloadConfig {
        patterns,
        ca_bundle: settings.environment.get(CA_BUNDLE).filter(|name| !name.is_empty()).cloned(),
        allowed_host_paths: settings.allowed_host_paths,
        ..WorkloadConfig::default()
    };
    let resolve = |object: &Object| resolve_parts(object, &catalog, &companions, &config);
    let parts: BTreeMap<ServiceKey, Vec<Workload>> = objects
        .values()
        .filter(|object| object.as_inference_service().is_some())
        .map(|object| (object.key.to_service_key(), resolve(object).into_iter().flatten().collect()))
        .collect();
    let hosts = Hosts::of(parts.iter().map(|(key, parts)| (key, parts.iter())));
    for source in sources {
        let mut found_out = Vec::new();
        for found in source.decoded.objects.iter().filter(|found| found.object.as_inference_service().is_some()) {
            for part in resolve(&found.object) {
                match part {
                    Ok(workload) => {
                        found_out.extend(workload.warnings.into_iter().map(|text| warning(source, found, text)));
                    }
                    Err(error) => found_out.push(diagnostic(source, found, error)),
                }
            }
            let key = found.object.key.to_service_key();
            let clashes = hosts.clashes(&key, parts.get(&key).into_iter().flatten());
            found_out.extend(clashes.into_iter().map(|text| warning(source, found, format!("metadata.name: {text}"))));
        }
        source.decoded.diagnostics.extend(found_out);
    }
    Ok(())
}

/// Resolves everything of a service that can run: its components, then its canaries.
fn resolve_parts(
    object: &Object,
    catalog: &Catalog,
    companions: &Companions<'_>,
    config: &WorkloadConfig,
) -> Vec<Result<Workload, ResolveError>> {
    let components = match workload::resolve(object, catalog, companions, config) {
        Ok(workloads) => workloads.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    };
    let canaries = workload::resolve_canaries(object, catalog, companions, config);
    components.into_iter().chain(canaries.into_iter().map(|canary| canary.workload)).collect()
}

/// Says which of the given runtimes would be chosen as well as another: one of the folder's, built in, or given before.
fn tell_rivals(objects: &BTreeMap<ObjectKey, Object>, sources: &mut [Source]) {
    let given: BTreeSet<ObjectKey> =
        sources.iter().flat_map(|source| source.decoded.objects.iter().map(|found| found.object.key.clone())).collect();
    let built_in = builtin::FILES.iter().flat_map(|(name, text)| manifest::decode(name, text).objects);
    let built_in = built_in.map(|found| found.object).filter(|object| !objects.contains_key(&object.key));
    let folder = objects.values().filter(|object| !given.contains(&object.key)).cloned();
    let mut before: Vec<Object> = built_in.chain(folder).collect();
    for source in sources {
        let mut found_out = Vec::new();
        for found in source.decoded.objects.iter().filter(|found| found.object.as_serving_runtime().is_some()) {
            for rival in manifest::validate::rivals(&found.object, before.iter()) {
                let position = place(source, found, rival.field.as_deref());
                found_out.push(Diagnostic { file: source.name.clone(), position, ..rival });
            }
            before.push(found.object.clone());
        }
        source.decoded.diagnostics.extend(found_out);
    }
}

/// Returns what the services among some objects need pulled: `image NAME` and `model URI`, sorted.
///
/// # Errors
/// A service cannot be resolved.
pub fn pulls(home: &Utf8Path, given: &[DecodedObject]) -> Result<Vec<String>> {
    let mut pulls = BTreeSet::new();
    for workload in workloads(home, given)? {
        let containers = workload.init_containers.iter().chain(&workload.containers);
        pulls.extend(containers.map(|container| format!("image {}", container.image)));
        pulls.extend(workload.models.iter().map(|model| format!("model {}", model.uri)));
    }
    Ok(pulls.into_iter().collect())
}

/// Returns the names of the built-in runtimes that serve some of the objects.
///
/// # Errors
/// A service cannot be resolved.
pub fn built_in_used(home: &Utf8Path, given: &[DecodedObject]) -> Result<BTreeSet<String>> {
    let own: BTreeSet<&str> = given.iter().map(|found| found.object.key.name.as_str()).collect();
    let chosen = workloads(home, given)?.into_iter().filter_map(|workload| workload.runtime);
    Ok(chosen
        .filter(|chosen| chosen.cluster && !own.contains(chosen.name.as_str()))
        .map(|chosen| chosen.name)
        .collect())
}

/// Resolves the services among some objects, with the runtimes of the home beside theirs.
fn workloads(home: &Utf8Path, given: &[DecodedObject]) -> Result<Vec<Workload>> {
    let objects: Vec<Object> =
        folder_objects(home)?.into_iter().chain(given.iter().map(|d| d.object.clone())).collect();
    let (catalog, companions) = (Catalog::new(&objects), Companions::new(&objects));
    let mut workloads = Vec::new();
    for found in given.iter().filter(|found| found.object.as_inference_service().is_some()) {
        let key = &found.object.key;
        let resolved = workload::resolve(&found.object, &catalog, &companions, &WorkloadConfig::default());
        workloads.extend(resolved.map_err(|error| {
            Problem::usage(format!("{}/{} cannot be served", key.namespace, key.name)).because(error)
        })?);
        let canaries =
            workload::resolve_canaries(&found.object, &catalog, &companions, &WorkloadConfig::default()).into_iter();
        let canaries = canaries.map(|canary| {
            canary.workload.map_err(|error| {
                let what = format!("canary `{}` of {}/{}", canary.name, key.namespace, key.name);
                Problem::usage(format!("{what} cannot be served")).because(error)
            })
        });
        workloads.extend(canaries.collect::<Result<Vec<_>, _>>()?);
    }
    Ok(workloads)
}

/// Returns where a field stands; the document's first line when it cannot be told.
fn place(source: &Source, found: &DecodedObject, field: Option<&str>) -> Option<Position> {
    let exact = field.and_then(|field| manifest::locate(&source.text, found.position, field));
    Some(exact.unwrap_or(found.position))
}

/// Something that is taken and means nothing here; its text begins with the field's path.
fn warning(source: &Source, found: &DecodedObject, text: String) -> Diagnostic {
    let (field, message) = match text.split_once(": ") {
        Some((field, message)) if !field.contains(' ') => (Some(path_of(found, field)), message.to_owned()),
        _ => (None, text),
    };
    Diagnostic {
        severity: Severity::Warning,
        code: DiagnosticCode::Ignored,
        file: source.name.clone(),
        position: place(source, found, field.as_deref()),
        field,
        object: Some(found.object.key.clone()),
        message,
        help: None,
    }
}

/// Returns the path of a field; an annotation is told by its name alone.
fn path_of(found: &DecodedObject, field: &str) -> String {
    let is_annotation = field.contains('/') && !field.contains('[');
    let places = ["metadata", "spec.predictor", "spec.transformer", "spec.explainer"];
    let paths = places.map(|place| FieldPath::parse(place).key("annotations").key(field));
    let written = paths.iter().find(|path| is_annotation && path.find(&found.object.raw).is_some());
    written.map_or_else(|| field.to_owned(), FieldPath::to_string)
}

fn diagnostic(source: &Source, found: &DecodedObject, error: ResolveError) -> Diagnostic {
    let (field, message, help) = match error {
        ResolveError::Runtime(failure) => {
            ("spec.predictor.model".to_owned(), failure.error, Some(failure.help).filter(|help| !help.is_empty()))
        }
        ResolveError::Invalid { field, message, help } => (field, message, help),
        ResolveError::NeedsContainerEngine { message, help } => ("spec".to_owned(), message, Some(help)),
    };
    Diagnostic {
        severity: Severity::Error,
        code: DiagnosticCode::Invalid,
        file: source.name.clone(),
        position: place(source, found, Some(&field)),
        field: Some(field),
        object: Some(found.object.key.clone()),
        message,
        help,
    }
}
