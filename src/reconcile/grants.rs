//! The file of granted room: what the next daemon must know of orders that outlive this one.
//!
//! A daemon that ends may have told the engine to start something that no list shows yet. What was granted for that is
//! written before it is ordered, so that the room is not given away a second time. It is not forced to the disk: after a
//! crash of the machine nothing is being started any more.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::desk::Desk;
use crate::api::{ComponentKind, ServiceKey};
use crate::home::{Home, write_unsynced};
use crate::plan::admission::Grant;
use crate::plan::gpus::GpuNeed;
use crate::plan::ledger::Basis;
use crate::plan::routes::ReplicaName;
use crate::workload::ComponentKey;

/// Longest an engine is thought to take over an order whose daemon has ended: a list that is asked for later shows it.
const LANDS_WITHIN: Duration = Duration::from_secs(10);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    replica: String,
    namespace: String,
    name: String,
    component: ComponentKind,
    revision: u32,
    memory: u64,
    basis: Basis,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gpus: Vec<String>,
    #[serde(default)]
    gpu_count: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gpu_memory: Option<u64>,
    #[serde(default)]
    exclusive: bool,
}

/// Writes what is granted, when that is not what the file says.
#[derive(Debug, Default)]
pub(super) struct Grants {
    written: BTreeMap<ReplicaName, Grant>,
}

impl Grants {
    /// Brings the file up to date.
    pub(super) fn save(&mut self, desk: &Desk, home: &Home, granted: &BTreeMap<ReplicaName, Grant>) {
        if says_the_same(granted, &self.written) {
            return;
        }
        let lines: Vec<Line> = granted.iter().map(|(replica, grant)| line(replica, grant)).collect();
        let bytes = serde_json::to_vec(&lines).unwrap_or_default();
        self.written.clone_from(granted);
        let path = home.grants();
        desk.order("grants", move || {
            if let Err(error) = write_unsynced(&path, &bytes, 0o600) {
                warn!(%path, %error, "could not save what room is granted");
            }
        });
    }
}

/// Whether a file of one would be a file of the other: when something was granted is not written.
fn says_the_same(granted: &BTreeMap<ReplicaName, Grant>, written: &BTreeMap<ReplicaName, Grant>) -> bool {
    let same = |one: &Grant, other: &Grant| {
        let Grant { component, revision, memory, basis, gpus, need, at: _ } = one;
        (component, revision, memory, basis) == (&other.component, &other.revision, &other.memory, &other.basis)
            && (gpus, need) == (&other.gpus, &other.need)
    };
    let both = || granted.iter().zip(written);
    granted.len() == written.len() && both().all(|(one, other)| one.0 == other.0 && same(one.1, other.1))
}

fn line(replica: &ReplicaName, grant: &Grant) -> Line {
    let ComponentKey { service, component } = &grant.component;
    Line {
        replica: replica.to_string(),
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        component: *component,
        revision: grant.revision,
        memory: grant.memory,
        basis: grant.basis,
        gpus: grant.gpus.clone(),
        gpu_count: grant.need.count,
        gpu_memory: grant.need.memory,
        exclusive: grant.need.exclusive,
    }
}

/// Reads what an earlier daemon granted; it holds until a list shows what became of it. A damaged file is as none.
pub fn load(home: &Home) -> BTreeMap<ReplicaName, Grant> {
    let Ok(bytes) = std::fs::read(home.grants()) else { return BTreeMap::new() };
    let lines: Vec<Line> = serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        warn!(path = %home.grants(), %error, "the record of granted room is damaged and not used");
        Vec::new()
    });
    let grant = |line: Line| {
        let service = ServiceKey::new(line.namespace, line.name);
        let grant = Grant {
            component: ComponentKey { service, component: line.component },
            revision: line.revision,
            memory: line.memory,
            basis: line.basis,
            gpus: line.gpus,
            need: GpuNeed { count: line.gpu_count, unknown: None, memory: line.gpu_memory, exclusive: line.exclusive },
            at: LANDS_WITHIN,
        };
        (line.replica.into(), grant)
    };
    lines.into_iter().map(grant).collect()
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;

    use super::*;
    use crate::tasks::Tasks;

    #[tokio::test]
    async fn what_is_granted_is_read_by_the_next_daemon_and_holds_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(Utf8Path::from_path(folder.path()).unwrap());
        let component =
            ComponentKey { service: ServiceKey::new("team", "iris"), component: ComponentKind::Transformer };
        let need = GpuNeed { count: 2, unknown: None, memory: Some(7), exclusive: true };
        let gpus = vec!["GPU-a".to_owned(), "GPU-b".to_owned()];
        let grant = Grant {
            component,
            revision: 3,
            memory: 42,
            basis: Basis::Measured,
            gpus,
            need,
            at: Duration::from_secs(99),
        };
        let mut granted = BTreeMap::from([(ReplicaName::from("iris-transformer-00003-0.team"), grant.clone())]);
        let (mut grants, desk) = (Grants::default(), Desk::open(&Tasks::new()));
        assert_eq!(load(&home), BTreeMap::new());
        grants.save(&desk, &home, &granted);
        desk.settled().await;
        let read = load(&home);
        assert_eq!(read["iris-transformer-00003-0.team"], Grant { at: LANDS_WITHIN, ..grant });
        granted.clear();
        grants.save(&desk, &home, &granted);
        desk.settled().await;
        assert_eq!(load(&home), BTreeMap::new());
        std::fs::write(home.grants(), "nonsense").unwrap();
        assert_eq!(load(&home), BTreeMap::new(), "a damaged file is as none");
    }
}
