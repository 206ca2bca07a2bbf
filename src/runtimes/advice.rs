//! What a user can do when no runtime serves a model: the help of [`NoRuntime`](super::NoRuntime).

use std::collections::{BTreeMap, BTreeSet};

use super::eligibility::{self, Obstacle, quoted};
use super::select::Nodes;
use super::{Catalog, Runtime};
use crate::api::ModelSpec;

/// Advises when automatic selection found nothing: by the obstacle that is easiest to remove.
pub(super) fn when_none_found(model: &ModelSpec, namespace: &str, nodes: Nodes, catalog: &Catalog) -> String {
    let mut by_protocol: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    let (mut by_name, mut disabled, mut versions) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut similar = BTreeSet::new();
    for runtime in catalog.visible_in(namespace) {
        match eligibility::automatic(runtime, model, nodes) {
            Err(Obstacle::Protocol { spoken, .. }) => {
                for protocol in spoken {
                    by_protocol.entry(protocol).or_default().insert(&runtime.name);
                }
            }
            Err(Obstacle::NotAutomatic { .. }) if eligibility::explicit(runtime, model).is_ok() => {
                by_name.insert(runtime.name.as_str());
            }
            Err(Obstacle::Version { listed, .. }) => versions.extend(listed),
            Err(Obstacle::Format { similar: Some(found), .. }) => drop(similar.insert(found)),
            Err(Obstacle::Disabled) if lists(runtime, model) => drop(disabled.insert(runtime.name.as_str())),
            _ => {}
        }
    }
    let mut advice: Vec<String> = Vec::new();
    advice.extend(by_protocol.iter().map(|(protocol, runtimes)| {
        format!("set `protocolVersion: {protocol}` ({})", runtimes.iter().copied().collect::<Vec<_>>().join(", "))
    }));
    advice.extend(by_name.iter().map(|runtime| format!("name the runtime: `runtime: {runtime}`")));
    if !versions.is_empty() {
        let versions: Vec<_> = versions.into_iter().collect();
        advice.push(format!("leave `version` out, or write one that is listed: {}", quoted(&versions)));
    }
    advice.extend(disabled.iter().map(|runtime| format!("enable `{runtime}`, which is disabled")));
    advice.extend(similar.iter().map(|found| format!("format names are case-sensitive: write `{found}`")));
    if advice.is_empty() { unknown_format(model, namespace, catalog) } else { advice.join("; or ") }
}

/// Advises when the named runtime does not exist.
pub(super) fn when_not_recognized(model: &ModelSpec, name: &str, namespace: &str, catalog: &Catalog) -> String {
    if let Some(elsewhere) = catalog.runtimes.iter().find(|runtime| runtime.name == name) {
        let owner = elsewhere.namespace.as_deref().unwrap_or_default();
        return format!(
            "`{name}` is a ServingRuntime of namespace `{owner}` and can be used there only; make it a ClusterServingRuntime to use it everywhere"
        );
    }
    let names = catalog.visible_in(namespace).map(|runtime| runtime.name.as_str());
    let close = closest(name, names);
    let meant = close.map(|close| format!("did you mean `{close}`? ")).unwrap_or_default();
    format!("{meant}{}", serving(model, namespace, catalog))
}

/// Advises when the named runtime exists and cannot serve the model.
pub(super) fn when_named_one_fails(
    model: &ModelSpec,
    runtime: &Runtime,
    obstacle: &Obstacle,
    namespace: &str,
    catalog: &Catalog,
) -> String {
    let name = &runtime.name;
    match obstacle {
        Obstacle::Disabled => {
            format!(
                "remove `disabled: true` from {}, or use another: {}",
                runtime.describe(),
                serving(model, namespace, catalog)
            )
        }
        Obstacle::Protocol { spoken, .. } => {
            format!("`{name}` speaks {}; set protocolVersion to that, or leave it out", spoken.join(", "))
        }
        _ => {
            let rows = runtime.spec.supported_model_formats.iter();
            let rows: BTreeSet<String> = rows
                .map(|row| match &row.version {
                    Some(version) => format!("{} {version}", row.name),
                    None => row.name.clone(),
                })
                .collect();
            let rows: Vec<_> = rows.into_iter().collect();
            format!("`{name}` lists {}; {}", quoted(&rows), serving(model, namespace, catalog))
        }
    }
}

fn lists(runtime: &Runtime, model: &ModelSpec) -> bool {
    runtime.spec.supported_model_formats.iter().any(|row| row.name == model.model_format.name)
}

/// Names the runtimes that could be named for the model.
fn serving(model: &ModelSpec, namespace: &str, catalog: &Catalog) -> String {
    let able = catalog.visible_in(namespace).filter(|runtime| eligibility::explicit(runtime, model).is_ok());
    let able: BTreeSet<&str> = able.map(|runtime| runtime.name.as_str()).collect();
    if able.is_empty() {
        return unknown_format(model, namespace, catalog);
    }
    let able: Vec<&str> = able.into_iter().collect();
    format!("runtimes that serve `{}`: {}", model.model_format, able.join(", "))
}

fn unknown_format(model: &ModelSpec, namespace: &str, catalog: &Catalog) -> String {
    let name = model.model_format.name.as_str();
    let rows = catalog.visible_in(namespace).flat_map(|runtime| &runtime.spec.supported_model_formats);
    let known: BTreeSet<&str> = rows.map(|row| row.name.as_str()).collect();
    if known.contains(name) {
        return known_format(model, namespace, catalog);
    }
    let meant =
        closest(name, known.iter().copied()).map(|close| format!("did you mean `{close}`? ")).unwrap_or_default();
    let known: Vec<&str> = known.into_iter().collect();
    format!("{meant}formats that are served: {}; or add a ServingRuntime that lists `{name}`", known.join(", "))
}

/// Advises when the format is listed, and no runtime that lists it can be had for the model.
fn known_format(model: &ModelSpec, namespace: &str, catalog: &Catalog) -> String {
    let name = &model.model_format.name;
    let listing = catalog.visible_in(namespace).filter(|runtime| lists(runtime, model));
    let (disabled, enabled): (Vec<_>, Vec<_>) = listing.partition(|runtime| runtime.spec.is_disabled());
    let names = |runtimes: &[&Runtime]| {
        let names: BTreeSet<&str> = runtimes.iter().map(|runtime| runtime.name.as_str()).collect();
        quoted(&names.into_iter().collect::<Vec<_>>())
    };
    if enabled.is_empty() {
        return format!("what lists `{name}` is disabled: {}; enable it, or add a ServingRuntime", names(&disabled));
    }
    if model.model_format.version.is_none() {
        return format!(
            "what lists `{name}` cannot be used for it: {}; add a ServingRuntime that can",
            names(&enabled)
        );
    }
    let rows = enabled.iter().flat_map(|runtime| &runtime.spec.supported_model_formats);
    let versions: BTreeSet<&str> =
        rows.filter(|row| row.name == *name).filter_map(|row| row.version.as_deref()).collect();
    let listed = match versions.is_empty() {
        true => String::new(),
        false => format!(", or write one that is listed: {}", quoted(&versions.into_iter().collect::<Vec<_>>())),
    };
    format!("leave `version` out{listed}; or add a ServingRuntime that lists `{}`", model.model_format)
}

fn closest<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = names.map(|name| (strsim::damerau_levenshtein(&text.to_lowercase(), &name.to_lowercase()), name));
    let allowed = (text.len() / 3).max(1);
    scored.filter(|(distance, _)| *distance <= allowed).min().map(|(_, name)| name)
}
