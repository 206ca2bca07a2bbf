//! The ring of user-visible events, in Kubernetes' shape: repeated ones are counted, not repeated.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

use crate::api::ObjectKey;

/// Events kept.
const LIMIT: usize = 2_000;

/// Normal, or something to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum EventType {
    /// As it should be.
    Normal,
    /// Something to look at.
    Warning,
}

/// One event about one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Unique name.
    pub name: String,
    /// About which object.
    pub object: ObjectKey,
    /// Normal or Warning.
    pub event_type: EventType,
    /// One CamelCase word.
    pub reason: String,
    /// A sentence for a person.
    pub message: String,
    /// How often it was said.
    pub count: u32,
    /// First time.
    pub first: Timestamp,
    /// Last time.
    pub last: Timestamp,
}

/// The ring; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct EventLog {
    ring: Arc<Mutex<Ring>>,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Event>,
    next: u64,
}

impl EventLog {
    /// Adds an event; an equal one that is still known is counted instead. Says whether it was new.
    pub fn record(
        &self,
        object: &ObjectKey,
        event_type: EventType,
        reason: &str,
        message: &str,
        now: Timestamp,
    ) -> bool {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |event: &&mut Event| event.object == *object && event.reason == reason && event.message == message;
        if let Some(event) = ring.events.iter_mut().rev().find(same) {
            event.count += 1;
            event.last = now;
            return false;
        }
        ring.next += 1;
        let name = format!("{}.{:x}", object.name, ring.next);
        ring.events.push_back(Event {
            name,
            object: object.clone(),
            event_type,
            reason: reason.to_owned(),
            message: message.to_owned(),
            count: 1,
            first: now,
            last: now,
        });
        while ring.events.len() > LIMIT {
            ring.events.pop_front();
        }
        true
    }

    /// Returns the events, oldest first.
    pub fn list(&self) -> Vec<Event> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.events.iter().cloned().collect()
    }
}
