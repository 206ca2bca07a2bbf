//! The runtimes there are: built-in, cluster-wide, namespaced.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::api::{Object, ServingRuntimeSpec};

/// One runtime of the catalogue.
#[derive(Clone, Debug, PartialEq)]
pub struct Runtime {
    /// Name.
    pub name: String,
    /// Namespace of a ServingRuntime; none for a ClusterServingRuntime.
    pub namespace: Option<String>,
    /// Metadata annotations; `serving.kserve.io/server-type` is among them.
    pub annotations: BTreeMap<String, String>,
    /// When it came; breaks ties, newest first.
    pub created: Option<Timestamp>,
    /// Whether it came with the binary.
    pub built_in: bool,
    /// The spec.
    pub spec: Arc<ServingRuntimeSpec>,
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
        let _ = objects.into_iter();
        todo!()
    }
}
