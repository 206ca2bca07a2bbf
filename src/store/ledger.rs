//! What an object keeps across restarts of the daemon: its identity, age and generation.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Identity of one object's life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Random UUID.
    pub uid: String,
    /// When the object was first seen.
    pub creation_timestamp: Timestamp,
    /// Counts changes outside metadata and status.
    pub generation: i64,
    /// Hash of what the generation counts.
    pub digest: String,
}

/// Identities by object (`Kind namespace/name`), saved in `state/objects.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// Highest version handed out, so that versions never go back.
    pub version: u64,
    /// Identities.
    pub objects: BTreeMap<String, Identity>,
}
