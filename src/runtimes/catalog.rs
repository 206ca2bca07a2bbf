//! The runtimes there are: built-in, cluster-wide, namespaced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::builtin;
use crate::api::{Kind, Object, ServingRuntimeSpec};

/// One runtime of the catalogue.
#[derive(Clone, Debug, PartialEq)]
pub struct Runtime {
    /// Name.
    pub name: String,
    /// Namespace of a ServingRuntime; none for a ClusterServingRuntime.
    pub namespace: Option<String>,
    /// Metadata annotations; `serving.kserve.io/server-type` is among them.
    pub annotations: BTreeMap<String, String>,
    /// When it came; breaks ties, newest first. Built-in ones have none and are the oldest.
    pub created: Option<Timestamp>,
    /// Whether it came with the binary.
    pub built_in: bool,
    /// The spec.
    pub spec: Arc<ServingRuntimeSpec>,
}

impl Runtime {
    /// Returns the runtime an object describes; none when it is not a runtime.
    pub fn from_object(object: &Object) -> Option<Self> {
        let spec = object.as_serving_runtime()?;
        let namespaced = object.key.kind == Kind::ServingRuntime;
        Some(Self {
            name: object.key.name.clone(),
            namespace: namespaced.then(|| object.key.namespace.clone()),
            annotations: (*object.meta.annotations).clone(),
            created: object.meta.creation_timestamp,
            built_in: false,
            spec: Arc::new(spec.clone()),
        })
    }

    /// Returns the kind and name, as messages say them.
    pub fn describe(&self) -> String {
        match &self.namespace {
            Some(_) => format!("ServingRuntime {}", self.name),
            None => format!("ClusterServingRuntime {}", self.name),
        }
    }
}

/// Every runtime there is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    /// Every runtime; a user's ClusterServingRuntime replaces the built-in one of the same name.
    pub runtimes: Vec<Runtime>,
}

impl Catalog {
    /// Builds the catalogue from the built-in runtimes and the user's objects (others are passed over).
    pub fn new<'o>(objects: impl IntoIterator<Item = &'o Object>) -> Self {
        Self::with_builtin(builtin::runtimes(), objects)
    }

    /// Builds a catalogue from given built-in runtimes and the user's objects.
    pub fn with_builtin<'o>(built_in: &[Runtime], objects: impl IntoIterator<Item = &'o Object>) -> Self {
        let users: Vec<Runtime> = objects.into_iter().filter_map(Runtime::from_object).collect();
        let replaced: BTreeSet<&str> =
            users.iter().filter(|user| user.namespace.is_none()).map(|user| user.name.as_str()).collect();
        let kept = built_in.iter().filter(|runtime| !replaced.contains(runtime.name.as_str())).cloned();
        let runtimes = kept.collect::<Vec<_>>().into_iter().chain(users.iter().cloned()).collect();
        Self { runtimes }
    }

    /// Returns the runtimes a namespace can use: its own and the cluster-wide ones.
    pub fn visible_in<'c, 'n>(&'c self, namespace: &'n str) -> impl Iterator<Item = &'c Runtime> + use<'c, 'n> {
        self.runtimes.iter().filter(move |runtime| runtime.namespace.as_deref().is_none_or(|own| own == namespace))
    }

    /// Returns the runtime of this name for a namespace: its own before the cluster-wide one.
    pub fn find(&self, name: &str, namespace: &str) -> Option<&Runtime> {
        let named = |runtime: &&Runtime| runtime.name == name;
        let own = self.visible_in(namespace).find(|runtime| named(runtime) && runtime.namespace.is_some());
        own.or_else(|| self.visible_in(namespace).find(named))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::{Metadata, ObjectKey, Typed};

    fn object(kind: Kind, namespace: &str, name: &str, spec: Value) -> Object {
        Object {
            key: ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() },
            meta: Metadata { name: name.to_owned(), namespace: namespace.to_owned(), ..Metadata::default() },
            typed: Typed::ServingRuntime(Arc::new(serde_json::from_value(spec).unwrap())),
            raw: Arc::default(),
        }
    }

    fn built_in(name: &str) -> Runtime {
        let object = object(Kind::ClusterServingRuntime, "", name, json!({}));
        Runtime { built_in: true, ..Runtime::from_object(&object).unwrap() }
    }

    #[test]
    fn a_users_cluster_runtime_replaces_the_built_in_of_its_name_and_a_namespaced_one_does_not() {
        let built_in = [built_in("a"), built_in("b")];
        let objects = [
            object(Kind::ClusterServingRuntime, "", "a", json!({ "disabled": true })),
            object(Kind::ServingRuntime, "team", "b", json!({})),
        ];
        let catalog = Catalog::with_builtin(&built_in, &objects);
        let rows: Vec<_> =
            catalog.runtimes.iter().map(|r| (r.name.as_str(), r.namespace.as_deref(), r.built_in)).collect();
        assert_eq!(rows, [("b", None, true), ("a", None, false), ("b", Some("team"), false)]);
    }

    #[test]
    fn a_namespace_finds_its_own_runtime_first_and_never_that_of_another() {
        let objects = [object(Kind::ServingRuntime, "team", "b", json!({}))];
        let catalog = Catalog::with_builtin(&[built_in("b")], &objects);
        assert_eq!(catalog.find("b", "team").unwrap().namespace.as_deref(), Some("team"));
        assert_eq!(catalog.find("b", "other").unwrap().namespace, None);
        assert_eq!(catalog.find("c", "team"), None);
    }
}
