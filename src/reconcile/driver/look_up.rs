//! Which models are here. Their folders are looked at in tasks of their own: one on a file system that hangs keeps its own
//! services waiting, and nobody else.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::facts::Fact;
use super::{Driver, Urgency};
use crate::api::StorageUri;
use crate::plan::ActionKey;
use crate::plan::world::ModelState;
use crate::storage::Cache;

/// Folders of the user's that are looked at at once.
pub(super) const LOOKS_AT_ONCE: usize = 64;
/// Longest wait for the claims to be written, so that nobody removes what is found here.
const CLAIMED_WITHIN: Duration = Duration::from_secs(2);

impl Driver {
    /// Looks for models of which nothing is known. Until that is done they are as if they were being fetched.
    pub(super) fn look_for(&mut self, uris: impl Iterator<Item = StorageUri>) -> Urgency {
        let is_unknown = |uri: &StorageUri| {
            matches!(self.world.models.get(uri), None | Some(ModelState::Absent))
                && !self.world.in_flight.contains(&ActionKey::Model(uri.clone()))
        };
        let (own, cached): (Vec<_>, Vec<_>) =
            uris.filter(is_unknown).partition(|uri| matches!(uri, StorageUri::Local(_)));
        if own.is_empty() && cached.is_empty() {
            return Urgency::Now;
        }
        self.world.in_flight.extend(own.iter().chain(&cached).cloned().map(ActionKey::Model));
        // The cache is one folder, and answers for all or none.
        let turn = |turns: Arc<Semaphore>| async move { turns.acquire_owned().await.ok() };
        own.into_iter().for_each(|uri| self.look_for_group(vec![uri], turn(Arc::clone(&self.looks))));
        if !cached.is_empty() {
            self.look_for_group(cached, std::future::ready(None));
        }
        // What is found comes back before that, unless something hangs.
        Urgency::Soon
    }

    /// Looks for models once it is their turn.
    fn look_for_group(
        &self,
        group: Vec<StorageUri>,
        turn: impl Future<Output = Option<OwnedSemaphorePermit>> + Send + 'static,
    ) {
        let (cache, sender) = (self.parts.cache.clone(), self.sender.clone());
        let claimed = self.claimed.settled();
        self.parts.tasks.spawn_droppable("look-up", async move {
            // Late claims are no reason not to look.
            let _ = tokio::time::timeout(CLAIMED_WITHIN, claimed).await;
            let _turn = turn.await;
            let unseen: Vec<_> = group.iter().map(|uri| (uri.clone(), ModelState::Absent)).collect();
            let looked = tokio::task::spawn_blocking(move || look(&cache, group)).await;
            // The driver is gone: nobody needs to know.
            let _ = sender.send(Fact::LookedFor(looked.unwrap_or(unseen))).await;
        });
    }

    pub(super) fn take_looks(&mut self, found: Vec<(StorageUri, ModelState)>) -> Urgency {
        for (uri, state) in found {
            self.world.in_flight.remove(&ActionKey::Model(uri.clone()));
            self.world.models.insert(uri, state);
        }
        Urgency::Now
    }
}

fn look(cache: &Cache, uris: Vec<StorageUri>) -> Vec<(StorageUri, ModelState)> {
    let state = |uri: &StorageUri| match cache.lookup(uri) {
        Some(model) => ModelState::Present { size: model.size },
        None => ModelState::Absent,
    };
    uris.into_iter().map(|uri| (uri.clone(), state(&uri))).collect()
}
