//! What is served, and which path names what.

use super::reviews::Review;
use crate::api::Kind;

/// One kind of thing under the Kubernetes paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Something desired: it lives in the folder and can be written.
    Object(Kind),
    /// What runs. Read-only.
    Pods,
    /// What happened. Read-only.
    Events,
    /// One per component of an InferenceService. Read-only.
    Deployments,
    /// One per revision that runs. Read-only.
    ReplicaSets,
    /// Where a component answers inside a cluster. Read-only.
    Services,
    /// This machine. Read-only.
    Nodes,
}

impl Resource {
    /// What is not desired but follows: views of what others own.
    pub const VIEWS: [Self; 6] =
        [Self::Pods, Self::Events, Self::Services, Self::Nodes, Self::Deployments, Self::ReplicaSets];

    /// Returns everything that is served, in the order discovery shows it.
    pub fn all() -> impl Iterator<Item = Self> {
        Kind::ALL.into_iter().map(Self::Object).chain(Self::VIEWS)
    }

    /// Finds a resource by its place in a path.
    pub fn find(group: &str, version: &str, plural: &str) -> Option<Self> {
        Self::all().find(|r| r.group() == group && r.version() == version && r.plural() == plural)
    }

    /// Returns the API group, empty for the core group.
    pub fn group(self) -> &'static str {
        match self {
            Self::Object(kind) => kind.group(),
            Self::Deployments | Self::ReplicaSets => "apps",
            _ => "",
        }
    }

    /// Returns the version served.
    pub fn version(self) -> &'static str {
        match self {
            Self::Object(kind) => kind.version(),
            _ => "v1",
        }
    }

    /// Returns `group/version`, or the version alone for the core group.
    pub fn api_version(self) -> String {
        match self.group() {
            "" => self.version().to_owned(),
            group => format!("{group}/{}", self.version()),
        }
    }

    /// Returns the kind.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Object(kind) => kind.as_str(),
            Self::Pods => "Pod",
            Self::Events => "Event",
            Self::Deployments => "Deployment",
            Self::ReplicaSets => "ReplicaSet",
            Self::Services => "Service",
            Self::Nodes => "Node",
        }
    }

    /// Returns the plural name used in paths.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Object(kind) => kind.plural(),
            Self::Pods => "pods",
            Self::Events => "events",
            Self::Deployments => "deployments",
            Self::ReplicaSets => "replicasets",
            Self::Services => "services",
            Self::Nodes => "nodes",
        }
    }

    /// Returns the singular name.
    pub fn singular(self) -> String {
        self.kind().to_ascii_lowercase()
    }

    /// Returns the short names.
    pub fn short_names(self) -> &'static [&'static str] {
        match self {
            Self::Object(kind) => kind.short_names(),
            Self::Pods => &["po"],
            Self::Events => &["ev"],
            Self::Deployments => &["deploy"],
            Self::ReplicaSets => &["rs"],
            Self::Services => &["svc"],
            Self::Nodes => &["no"],
        }
    }

    /// Whether it lives in a namespace.
    pub fn is_namespaced(self) -> bool {
        match self {
            Self::Object(kind) => kind.is_namespaced(),
            other => other != Self::Nodes,
        }
    }

    /// Returns the categories it is listed with; `all` is what `kubectl get all` asks for.
    pub fn categories(self) -> &'static [&'static str] {
        match self {
            Self::Object(Kind::InferenceService) | Self::Pods | Self::Services | Self::Deployments => &["all"],
            _ => &[],
        }
    }

    /// Returns what can be done with it, as discovery names it.
    pub fn verbs(self) -> &'static [&'static str] {
        match self {
            Self::Object(_) => &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
            _ => &["get", "list", "watch"],
        }
    }

    /// Returns `plural.group`, the name used in messages.
    pub fn qualified(self) -> String {
        match self.group() {
            "" => self.plural().to_owned(),
            group => format!("{}.{group}", self.plural()),
        }
    }

    /// Returns `singular.group`, the name before a slash and an object's name.
    pub fn qualified_singular(self) -> String {
        match self.group() {
            "" => self.singular(),
            group => format!("{}.{group}", self.singular()),
        }
    }

    /// Returns the path of the collection, in one namespace or in all.
    pub fn path(self, namespace: Option<&str>) -> String {
        let root = match self.group() {
            "" => "/api/v1".to_owned(),
            group => format!("/apis/{group}/{}", self.version()),
        };
        match namespace {
            Some(namespace) if self.is_namespaced() => format!("{root}/namespaces/{namespace}/{}", self.plural()),
            _ => format!("{root}/{}", self.plural()),
        }
    }
}

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/{group}`.
    Group(String),
    /// `/api/v1` or `/apis/{group}/{version}`.
    Resources {
        /// Group, empty for the core group.
        group: String,
        /// Version.
        version: String,
    },
    /// `/openapi/v3`, or a document below it.
    OpenApi(String),
    /// A question about the caller.
    Review(Review),
    /// A collection.
    Collection {
        /// Of what.
        resource: Resource,
        /// In which namespace; all when absent.
        namespace: Option<String>,
    },
    /// One object, or a part of it.
    Item {
        /// Of what kind.
        resource: Resource,
        /// Namespace, empty for cluster-scoped kinds.
        namespace: String,
        /// Name.
        name: String,
        /// `status`, `log`, ….
        subresource: Option<String>,
    },
}

impl Target {
    /// Reads a decoded path; `None` when nothing is served there.
    pub fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts.as_slice() {
            ["api"] => Some(Self::CoreVersions),
            ["apis"] => Some(Self::Groups),
            ["openapi", "v3", rest @ ..] => Some(Self::OpenApi(rest.join("/"))),
            ["apis", group] => Some(Self::Group((*group).to_owned())),
            ["api", version] => Some(Self::Resources { group: String::new(), version: (*version).to_owned() }),
            ["apis", group, version] => {
                Some(Self::Resources { group: (*group).to_owned(), version: (*version).to_owned() })
            }
            ["api", version, rest @ ..] => Self::within("", version, rest),
            ["apis", group, version, rest @ ..] => Self::within(group, version, rest),
            _ => None,
        }
    }

    fn within(group: &str, version: &str, rest: &[&str]) -> Option<Self> {
        let find = |plural| Resource::find(group, version, plural);
        if let [plural] = rest
            && let Some(review) = Review::find(group, version, plural)
        {
            return Some(Self::Review(review));
        }
        match rest {
            ["namespaces", namespace, plural] if find(plural).is_some_and(Resource::is_namespaced) => {
                Some(Self::Collection { resource: find(plural)?, namespace: Some((*namespace).to_owned()) })
            }
            ["namespaces", namespace, plural, name, sub @ ..]
                if sub.len() < 2 && find(plural).is_some_and(Resource::is_namespaced) =>
            {
                Some(Self::item(find(plural)?, namespace, name, sub.first().copied()))
            }
            [plural] => Some(Self::Collection { resource: find(plural)?, namespace: None }),
            [plural, name, sub @ ..] if sub.len() < 2 => {
                let resource = find(plural).filter(|resource| !resource.is_namespaced())?;
                Some(Self::item(resource, "", name, sub.first().copied()))
            }
            _ => None,
        }
    }

    fn item(resource: Resource, namespace: &str, name: &str, subresource: Option<&str>) -> Self {
        Self::Item {
            resource,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collection(kind: Kind, namespace: Option<&str>) -> Option<Target> {
        Some(Target::Collection { resource: Resource::Object(kind), namespace: namespace.map(str::to_owned) })
    }

    fn item(resource: Resource, namespace: &str, name: &str, subresource: Option<&str>) -> Option<Target> {
        Some(Target::item(resource, namespace, name, subresource))
    }

    #[test]
    fn a_path_names_one_thing_or_nothing() {
        let isvc = Resource::Object(Kind::InferenceService);
        let namespace = Resource::Object(Kind::Namespace);
        let beta = "/apis/serving.kserve.io/v1beta1";
        let table = [
            ("/api".to_owned(), Some(Target::CoreVersions)),
            ("/apis/".to_owned(), Some(Target::Groups)),
            ("/api/v1".to_owned(), Some(Target::Resources { group: String::new(), version: "v1".to_owned() })),
            (format!("{beta}/inferenceservices"), collection(Kind::InferenceService, None)),
            (format!("{beta}/namespaces/a/inferenceservices"), collection(Kind::InferenceService, Some("a"))),
            (format!("{beta}/namespaces/a/inferenceservices/b"), item(isvc, "a", "b", None)),
            (format!("{beta}/namespaces/a/inferenceservices/b/status"), item(isvc, "a", "b", Some("status"))),
            (format!("{beta}/namespaces/a/inferenceservices/b/status/c"), None),
            (format!("{beta}/inferenceservices/b"), None),
            (format!("{beta}/servingruntimes"), None),
            ("/api/v1/namespaces".to_owned(), collection(Kind::Namespace, None)),
            ("/api/v1/namespaces/a".to_owned(), item(namespace, "", "a", None)),
            ("/api/v1/namespaces/a/finalize".to_owned(), item(namespace, "", "a", Some("finalize"))),
            ("/api/v1/namespaces/a/secrets".to_owned(), collection(Kind::Secret, Some("a"))),
            ("/api/v1/namespaces/a/pods/p/log".to_owned(), item(Resource::Pods, "a", "p", Some("log"))),
            ("/api/v1/nodes".to_owned(), Some(Target::Collection { resource: Resource::Nodes, namespace: None })),
            ("/api/v1/persistentvolumes".to_owned(), None),
            ("/".to_owned(), None),
        ];
        for (path, expected) in table {
            assert_eq!(Target::parse(&path), expected, "{path}");
        }
    }
}
