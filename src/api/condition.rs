//! Conditions of an object's status.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// True, False or Unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// It is so.
    True,
    /// It is not so.
    False,
    /// Not known yet.
    #[default]
    Unknown,
}

impl ConditionStatus {
    /// Returns the text used in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl fmt::Display for ConditionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One condition, in the Knative shape KServe uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// For example `Ready`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it is so.
    pub status: ConditionStatus,
    /// `Info` for conditions that do not feed Ready.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub severity: String,
    /// When `status` last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Timestamp>,
    /// One CamelCase word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// A sentence for a person.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl Condition {
    /// Returns a condition without a transition time; the store stamps it.
    pub fn new(kind: &str, status: ConditionStatus, reason: &str, message: impl Into<String>) -> Self {
        Self { kind: kind.to_owned(), status, reason: reason.to_owned(), message: message.into(), ..Self::default() }
    }
}

/// Stamps `next`: a condition whose status did not change keeps its transition time.
pub fn stamp(previous: &[Condition], next: &mut [Condition], now: Timestamp) {
    // Kubernetes' times have whole seconds.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    for condition in next {
        let before = previous.iter().find(|old| old.kind == condition.kind && old.status == condition.status);
        condition.last_transition_time = Some(before.and_then(|old| old.last_transition_time).unwrap_or(now));
    }
}
