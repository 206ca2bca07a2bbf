//! The file of revisions: what a restart of the daemon must not forget.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::api::{ComponentKind, ServiceKey};
use crate::home::Home;
use crate::plan::admission::Grant;
use crate::plan::memory::{Memory, Revisions};
use crate::plan::routes::ReplicaName;
use crate::reconcile::grants;
use crate::workload::ComponentKey;

/// Revisions of one component, as they are read.
#[derive(Deserialize)]
struct Line {
    namespace: String,
    name: String,
    component: ComponentKind,
    revisions: Revisions,
    #[serde(default)]
    sources: BTreeMap<u32, serde_json::Value>,
}

/// The same as it is written.
#[derive(Serialize)]
struct Known<'m> {
    namespace: &'m str,
    name: &'m str,
    component: ComponentKind,
    revisions: &'m Revisions,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    sources: BTreeMap<u32, &'m serde_json::Value>,
}

/// What of the planner's memory survives the daemon.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Revisions by component.
    pub revisions: BTreeMap<ComponentKey, Revisions>,
    /// What they were written as.
    pub sources: BTreeMap<ComponentKey, BTreeMap<u32, Arc<serde_json::Value>>>,
    /// Room granted to what was being started.
    pub granted: BTreeMap<ReplicaName, Grant>,
}

/// Writes the revisions as JSON.
pub(super) fn to_bytes(memory: &Memory) -> Vec<u8> {
    let lines: Vec<Known<'_>> = memory
        .revisions
        .iter()
        .map(|(key, revisions)| Known {
            namespace: &key.service.namespace,
            name: &key.service.name,
            component: key.component,
            revisions,
            sources: memory
                .sources
                .get(key)
                .into_iter()
                .flatten()
                .map(|(revision, source)| (*revision, &**source))
                .collect(),
        })
        .collect();
    serde_json::to_vec(&lines).unwrap_or_default()
}

/// Reads the revisions of an earlier daemon. A damaged file is as none: labels of what runs tell the rest.
pub fn load(home: &Home) -> Ledger {
    let granted = grants::load(home);
    let Ok(bytes) = std::fs::read(home.revisions()) else { return Ledger { granted, ..Ledger::default() } };
    let lines: Vec<Line> = serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        tracing::warn!(path = %home.revisions(), %error, "the record of revisions is damaged and not used");
        Vec::new()
    });
    let mut ledger = Ledger { granted, ..Ledger::default() };
    for line in lines {
        let service = ServiceKey::new(line.namespace, line.name);
        let key = ComponentKey { service, component: line.component };
        let sources = line.sources.into_iter().map(|(revision, source)| (revision, Arc::new(source)));
        ledger.sources.insert(key.clone(), sources.collect());
        ledger.revisions.insert(key, line.revisions);
    }
    ledger
}
