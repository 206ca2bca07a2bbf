//! What a diagnosis is made from.

use std::time::Duration;

use crate::api::InferenceServiceStatus;

/// The object that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject<'e> {
    /// Kind, as the API names it.
    pub kind: &'e str,
    /// Namespace.
    pub namespace: &'e str,
    /// Name.
    pub name: &'e str,
    /// Generation of the object as it is wanted; 0 when that is not known.
    pub generation: i64,
}

/// One event about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Happened<'e> {
    /// Whether it is a warning.
    pub warning: bool,
    /// One CamelCase word.
    pub reason: &'e str,
    /// A sentence.
    pub message: &'e str,
}

/// Everything that is known of an object that is perhaps not ready. Only the subject and the status must be known.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'e> {
    /// What is asked about.
    pub subject: Subject<'e>,
    /// Its status; none when it was not looked at yet.
    pub status: Option<&'e InferenceServiceStatus>,
    /// What is wrong with its file as it is now, with the place.
    pub file: Option<&'e str>,
    /// Since when it stands as it does.
    pub since: Option<Duration>,
    /// Events about it, oldest first.
    pub events: &'e [Happened<'e>],
    /// The last lines of the container that fails, oldest first.
    pub output: &'e [String],
    /// Name of the container that fails, when it is an init container.
    pub init: Option<&'e str>,
    /// How this program is called: `kserve-local`, with the home when that must be named.
    pub program: &'e str,
}

impl<'e> Evidence<'e> {
    /// Evidence of which only the status is known.
    pub fn of(subject: Subject<'e>, status: Option<&'e InferenceServiceStatus>) -> Self {
        Self { subject, status, file: None, since: None, events: &[], output: &[], init: None, program: "kserve-local" }
    }
}
