//! Desired InferenceGraphs: compiled once per change.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::{Kind, ServiceKey};
use crate::graph::compile;
use crate::plan::world::DesiredGraph;
use crate::store::Snapshot;

/// Compiles the graphs of a snapshot; those of `known` that did not change are taken over.
pub(super) fn desired(
    snapshot: &Snapshot,
    known: &BTreeMap<ServiceKey, Arc<DesiredGraph>>,
) -> BTreeMap<ServiceKey, Arc<DesiredGraph>> {
    let graphs = snapshot.list(Kind::InferenceGraph, None).filter_map(|stored| {
        let object = &stored.object;
        let spec = object.as_inference_graph()?;
        let key = object.key.to_service_key();
        // The generation counts every change of a spec.
        let same = known.get(&key).filter(|known| known.meta == object.meta);
        let make = || DesiredGraph { key: key.clone(), meta: object.meta.clone(), graph: compile(spec) };
        Some((key.clone(), same.cloned().unwrap_or_else(|| Arc::new(make()))))
    });
    graphs.collect()
}
