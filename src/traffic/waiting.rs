//! Requests that wait for a service to wake or load, counted per component, and the two bells between those who make
//! them wait and those who end the wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};

use super::TrafficBoard;
use crate::workload::ComponentKey;

type Counts = Mutex<BTreeMap<ComponentKey, u64>>;

/// Who waits for what.
#[derive(Clone, Debug)]
pub(super) struct WaitingRoom {
    counts: Arc<Counts>,
    bell: Arc<Notify>,
    table: watch::Sender<()>,
}

impl Default for WaitingRoom {
    fn default() -> Self {
        Self { counts: Arc::default(), bell: Arc::default(), table: watch::Sender::new(()) }
    }
}

/// As many wait as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl TrafficBoard {
    /// Counts a request that waits for a component, until what is returned is dropped, and rings the bell.
    ///
    /// # Errors
    /// `most` are waiting for that component already.
    pub fn wait_for(&self, component: &ComponentKey, most: u64) -> Result<Waiting, Full> {
        let room = &self.waiting;
        let mut counts = room.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(component.clone()).or_default();
        if *count >= most {
            return Err(Full);
        }
        *count += 1;
        // One is enough to be started for; the others are found beside it.
        if *count == 1 {
            room.bell.notify_one();
        }
        Ok(Waiting { counts: Arc::clone(&room.counts), component: component.clone() })
    }

    /// Returns how many requests wait, per component.
    pub fn waiting(&self) -> BTreeMap<ComponentKey, u64> {
        self.waiting.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Rings when somebody waits for a component nobody waited for.
    pub async fn bell(&self) {
        self.waiting.bell.notified().await;
    }

    /// Tells everyone who waits that there is a new route table.
    pub fn announce_table(&self) {
        self.waiting.table.send_replace(());
    }

    /// Returns what changes whenever there is a new route table; tables there are already do not count.
    pub fn tables(&self) -> watch::Receiver<()> {
        self.waiting.table.subscribe()
    }
}

/// One request that waits. Dropping it ends the wait, on every path.
#[derive(Debug)]
pub struct Waiting {
    counts: Arc<Counts>,
    component: ComponentKey,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.component) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.component);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::api::{ComponentKind, ServiceKey};

    #[test]
    fn the_first_who_waits_rings_and_no_more_than_may_wait_do() {
        let board = TrafficBoard::default();
        let key = ComponentKey { service: ServiceKey::new("default", "iris"), component: ComponentKind::Predictor };
        let rang = || board.bell().now_or_never().is_some();
        let first = board.wait_for(&key, 2).unwrap();
        assert!(rang());
        let second = board.wait_for(&key, 2).unwrap();
        assert!(!rang());
        assert_eq!(board.wait_for(&key, 2).err(), Some(Full));
        assert_eq!(board.waiting()[&key], 2);
        drop((first, second));
        assert!(board.waiting().is_empty());
        drop(board.wait_for(&key, 2));
        assert!(rang(), "somebody waited, if only for a moment");
    }
}
