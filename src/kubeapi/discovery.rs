//! What is served, for clients that ask first: the classic documents and the aggregated one.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::failure::Failure;
use super::resource::{Resource, Target};
use super::reviews::Review;
use crate::api::Kind;
use crate::provenance::BUILD;

/// Version of Kubernetes that clients are told; recent enough that none warns.
const KUBERNETES_MINOR: &str = "34";

/// Returns the answer to `/version`.
pub fn version(ours: &str) -> Value {
    json!({
        "major": "1",
        "minor": KUBERNETES_MINOR,
        "gitVersion": format!("v1.{KUBERNETES_MINOR}.0+kserve-local.{ours}"),
        "gitCommit": BUILD.commit.unwrap_or_default(),
        "gitTreeState": if BUILD.dirty == Some(true) { "dirty" } else { "clean" },
        "buildDate": BUILD.date().unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned()),
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, platform_architecture()),
    })
}

/// Returns the version of Kubernetes that clients are told.
pub fn kubernetes_version() -> String {
    format!("v1.{KUBERNETES_MINOR}.0")
}

/// Returns this machine's architecture, in Go's words.
pub fn platform_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The media type of an aggregated document, if the caller takes one.
pub fn aggregated_version(accept: &str) -> Option<&'static str> {
    let clauses = || accept.split(',').filter(|clause| clause.contains("as=APIGroupDiscoveryList"));
    let wants = |version: &str| clauses().any(|clause| clause.split(';').any(|part| part.trim() == version));
    if wants("v=v2") {
        Some("v2")
    } else if wants("v=v2beta1") {
        Some("v2beta1")
    } else {
        None
    }
}

/// Returns a classic discovery document.
///
/// # Errors
/// The path names no document.
pub fn classic(target: &Target, address: SocketAddr) -> Result<Value, Failure> {
    match target {
        Target::CoreVersions => Ok(json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address.to_string()}],
        })),
        Target::Groups => {
            let groups: Vec<Value> = groups().into_iter().filter(|name| !name.is_empty()).map(group).collect();
            Ok(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        Target::Group(name) if !name.is_empty() && groups().contains(&name.as_str()) => {
            let mut document = json!({"kind": "APIGroup", "apiVersion": "v1"});
            super::patch::merge(&mut document, &group(name));
            Ok(document)
        }
        Target::Resources { group, version } => resources(group, version).ok_or_else(Failure::no_such_path),
        _ => Err(Failure::no_such_path()),
    }
}

/// Returns the aggregated document of the core group, or of all the others.
pub fn aggregated(target: &Target, version: &str) -> Option<Value> {
    let core = match target {
        Target::CoreVersions => true,
        Target::Groups => false,
        _ => return None,
    };
    let names = groups().into_iter().filter(|name| name.is_empty() == core);
    let items: Vec<Value> = names.map(aggregated_group).collect();
    Some(json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    }))
}

/// One thing that discovery names.
struct Entry {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: String,
    is_namespaced: bool,
    verbs: &'static [&'static str],
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    parts: &'static [Part],
}

fn entries() -> impl Iterator<Item = Entry> {
    let resources = Resource::all().map(|resource| Entry {
        group: resource.group(),
        version: resource.version(),
        kind: resource.kind(),
        plural: resource.plural(),
        singular: resource.singular(),
        is_namespaced: resource.is_namespaced(),
        verbs: resource.verbs(),
        short_names: resource.short_names(),
        categories: resource.categories(),
        parts: parts(resource),
    });
    let reviews = Review::ALL.into_iter().map(|review| Entry {
        group: review.group(),
        version: "v1",
        kind: review.kind(),
        plural: review.plural(),
        singular: review.kind().to_ascii_lowercase(),
        is_namespaced: false,
        verbs: &["create"],
        short_names: &[],
        categories: &[],
        parts: &[],
    });
    resources.chain(reviews)
}

fn groups() -> Vec<&'static str> {
    let mut names: Vec<&str> = entries().map(|entry| entry.group).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Returns the versions of a group, the preferred one first.
fn versions(group: &str) -> Vec<&'static str> {
    let mut versions: Vec<&str> = entries().filter(|e| e.group == group).map(|e| e.version).collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions.dedup();
    versions
}

fn group(name: &str) -> Value {
    let entry = |version: &&str| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let all: Vec<Value> = versions(name).iter().map(entry).collect();
    json!({"name": name, "versions": all, "preferredVersion": all.first()})
}

fn resources(group: &str, version: &str) -> Option<Value> {
    let served = || entries().filter(|e| e.group == group && e.version == version);
    served().next()?;
    let mut list = Vec::new();
    for entry in served() {
        list.push(entry.classic());
        for part in entry.parts {
            list.push(json!({
                "name": format!("{}/{}", entry.plural, part.name),
                "singularName": "",
                "namespaced": entry.is_namespaced,
                "kind": entry.kind,
                "verbs": part.verbs,
            }));
        }
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list,
    }))
}

/// A part of an object that has a path of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Last word of its path.
    pub name: &'static str,
    /// What can be done with it.
    pub verbs: &'static [&'static str],
}

/// Returns the parts of a resource's objects.
pub fn parts(resource: Resource) -> &'static [Part] {
    match resource {
        Resource::Pods => {
            const { &[Part { name: "log", verbs: &["get"] }, Part { name: "portforward", verbs: &["create", "get"] }] }
        }
        Resource::Object(Kind::ClusterStorageContainer | Kind::LocalModelNodeGroup) => &[],
        Resource::Object(kind) if !kind.group().is_empty() => {
            const { &[Part { name: "status", verbs: &["get", "patch", "update"] }] }
        }
        _ => &[],
    }
}

fn aggregated_group(name: &str) -> Value {
    let version = |version: &str| {
        let served = entries().filter(|e| e.group == name && e.version == version);
        let resources: Vec<Value> = served.map(|entry| entry.aggregated()).collect();
        json!({"version": version, "freshness": "Current", "resources": resources})
    };
    let versions: Vec<Value> = versions(name).into_iter().map(version).collect();
    let mut metadata = json!({"creationTimestamp": null});
    if !name.is_empty() {
        metadata["name"] = json!(name);
    }
    json!({"metadata": metadata, "versions": versions})
}

impl Entry {
    fn classic(&self) -> Value {
        let mut value = json!({
            "name": self.plural,
            "singularName": self.singular,
            "namespaced": self.is_namespaced,
            "kind": self.kind,
            "verbs": self.verbs,
        });
        self.add_names(&mut value);
        value
    }

    fn aggregated(&self) -> Value {
        let kind = json!({"group": self.group, "version": self.version, "kind": self.kind});
        let mut value = json!({
            "resource": self.plural,
            "responseKind": kind,
            "scope": if self.is_namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": self.singular,
            "verbs": self.verbs,
        });
        self.add_names(&mut value);
        if !self.parts.is_empty() {
            let part = |part: &Part| json!({"subresource": part.name, "responseKind": kind, "verbs": part.verbs});
            value["subresources"] = self.parts.iter().map(part).collect();
        }
        value
    }

    fn add_names(&self, value: &mut Value) {
        if !self.short_names.is_empty() {
            value["shortNames"] = json!(self.short_names);
        }
        if !self.categories.is_empty() {
            value["categories"] = json!(self.categories);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_of_a_group_comes_first() {
        assert_eq!(versions("serving.kserve.io"), ["v1beta1", "v1alpha2", "v1alpha1"]);
        let document = aggregated(&Target::Groups, "v2").unwrap();
        assert_eq!(document["items"][3]["versions"][0]["resources"][0]["resource"], "inferenceservices");
        assert_eq!(document["items"][3]["versions"][0]["resources"][0]["shortNames"], json!(["isvc"]));
    }

    #[test]
    fn aggregated_discovery_is_given_in_the_version_the_caller_takes() {
        let newest = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert_eq!(aggregated_version(newest), Some("v2"));
        assert_eq!(aggregated_version(&newest.replace("v=v2", "v=v2beta1")), Some("v2beta1"));
        assert_eq!(aggregated_version("application/json"), None);
    }
}
