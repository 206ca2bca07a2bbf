//! Which lists are maps in disguise: merged element by element, by the keys that name an element.
//!
//! The same for strategic merge, server-side apply and the published schemas. A list that is not here is one value.

/// How the elements of a list are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    /// Not at all: the list is one value.
    Atomic,
    /// Each element is its own key.
    Set,
    /// By these fields.
    Map(&'static [&'static str]),
}

/// Returns how the elements of the list in a field are told apart. KServe publishes the lists of a component itself
/// (`containers`, `volumes`, …) as one value, and those of a container by name.
pub fn list_type(field: &str) -> ListType {
    match field {
        "env" | "resourceClaims" | "claims" | "schedulingGates" | "secrets" => ListType::Map(&["name"]),
        "ports" => ListType::Map(&["containerPort", "protocol"]),
        "volumeMounts" => ListType::Map(&["mountPath"]),
        "volumeDevices" => ListType::Map(&["devicePath"]),
        "topologySpreadConstraints" => ListType::Map(&["topologyKey", "whenUnsatisfiable"]),
        "conditions" => ListType::Map(&["type"]),
        "ownerReferences" => ListType::Map(&["uid"]),
        "finalizers" => ListType::Set,
        _ => ListType::Atomic,
    }
}

/// Returns how a strategic merge patch tells the elements of a list apart.
pub fn strategic_list_type(field: &str) -> ListType {
    match field {
        "imagePullSecrets" => ListType::Map(&["name"]),
        other => list_type(other),
    }
}

/// Returns what a key field means when it is left out.
pub fn default_key(field: &str) -> Option<&'static str> {
    (field == "protocol").then_some("TCP")
}
