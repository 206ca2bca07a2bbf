//! The file of revisions: what a restart of the daemon must not forget.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::api::{ComponentKind, ServiceKey};
use crate::home::Home;
use crate::plan::memory::Revisions;
use crate::workload::ComponentKey;

#[derive(Serialize, Deserialize)]
struct Line {
    namespace: String,
    name: String,
    component: ComponentKind,
    revisions: Revisions,
}

/// Writes the revisions as JSON.
pub(super) fn to_bytes(revisions: &BTreeMap<ComponentKey, Revisions>) -> Vec<u8> {
    let lines: Vec<Line> = revisions
        .iter()
        .map(|(key, revisions)| Line {
            namespace: key.service.namespace.clone(),
            name: key.service.name.clone(),
            component: key.component,
            revisions: revisions.clone(),
        })
        .collect();
    serde_json::to_vec_pretty(&lines).unwrap_or_default()
}

/// Reads the revisions of an earlier daemon. A damaged file is as none: labels of what runs tell the rest.
pub fn load(home: &Home) -> BTreeMap<ComponentKey, Revisions> {
    let Ok(bytes) = std::fs::read(home.revisions()) else { return BTreeMap::new() };
    let lines: Vec<Line> = serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        tracing::warn!(path = %home.revisions(), %error, "the record of revisions is damaged and not used");
        Vec::new()
    });
    let entry = |line: Line| {
        let service = ServiceKey::new(line.namespace, line.name);
        (ComponentKey { service, component: line.component }, line.revisions)
    };
    lines.into_iter().map(entry).collect()
}
