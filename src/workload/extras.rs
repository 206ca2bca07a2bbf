//! What the proxy does for a component besides forwarding: on a cluster, the work of sidecars and routers. None of it is
//! part of a container, so none of it makes a revision.

use std::sync::Arc;

use super::pod::Pod;

/// What the proxy knows of a component beyond where it is. Empty for most; cheap to clone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extras {
    /// Path under which a graph calls the component (§6.3); none when its protocol has none.
    pub predict_path: Option<Arc<str>>,
}

/// Returns the extras of a component.
pub(super) fn extras(pod: &Pod, model: &str) -> Extras {
    Extras { predict_path: predict_path(&pod.graph_protocol, model).map(Arc::from) }
}

/// `PredictPath` of upstream: nothing for gRPC, and nothing for what is unheard of.
fn predict_path(protocol: &str, model: &str) -> Option<String> {
    match protocol {
        "v1" => Some(format!("/v1/models/{model}:predict")),
        "v2" => Some(format!("/v2/models/{model}/infer")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_calls_what_the_protocol_has() {
        assert_eq!(predict_path("v1", "iris").as_deref(), Some("/v1/models/iris:predict"));
        assert_eq!(predict_path("v2", "iris").as_deref(), Some("/v2/models/iris/infer"));
        assert_eq!(predict_path("grpc-v2", "iris"), None);
    }
}
