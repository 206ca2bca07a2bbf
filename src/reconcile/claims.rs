//! Tells the cache which models services need, so that nobody removes them.

use std::collections::BTreeSet;
use std::time::Duration;

use camino::Utf8PathBuf;
use tracing::warn;

use super::desk::Desk;
use crate::api::StorageUri;
use crate::storage::Cache;

/// What has been claimed of the cache.
pub(super) struct ModelClaims {
    cache: Cache,
    /// Name and home of this instance.
    owner: (String, Utf8PathBuf),
    /// Which of the user's own files a claim is of is found out by looking, which may hang.
    desk: Desk,
    claimed: BTreeSet<StorageUri>,
    /// What is claimed only because containers that end may still read it, until then.
    lingering: Option<(BTreeSet<StorageUri>, Duration)>,
}

impl ModelClaims {
    pub(super) fn new(cache: Cache, owner: (String, Utf8PathBuf), desk: Desk) -> Self {
        Self { cache, owner, desk, claimed: BTreeSet::new(), lingering: None }
    }

    /// Claims what is wanted, before it is looked up. What is wanted no more stays claimed for `linger`, while containers
    /// that had it drain.
    pub(super) fn want(&mut self, wanted: BTreeSet<StorageUri>, now: Duration, linger: Duration) {
        let gone: BTreeSet<StorageUri> = self.claimed.difference(&wanted).cloned().collect();
        if !gone.is_empty() {
            let earlier = self.lingering.take().map(|(uris, _)| uris).unwrap_or_default();
            self.lingering = Some((earlier.into_iter().chain(gone).collect(), now + linger));
        }
        self.claimed = wanted;
        self.write();
    }

    /// Lets go of what has lingered long enough. Returns when to look again.
    pub(super) fn let_go(&mut self, now: Duration) -> Option<Duration> {
        match &self.lingering {
            Some((_, until)) if *until <= now => {
                self.lingering = None;
                self.write();
                None
            }
            lingering => lingering.as_ref().map(|(_, until)| *until),
        }
    }

    fn write(&self) {
        let lingering = self.lingering.iter().flat_map(|(uris, _)| uris);
        let uris: Vec<StorageUri> = self.claimed.iter().chain(lingering).cloned().collect();
        let (cache, (instance, home)) = (self.cache.clone(), self.owner.clone());
        self.desk.order("claims", move || {
            if let Err(error) = cache.claim(&instance, &home, &uris) {
                warn!(%error, "could not note which models are in use");
            }
        });
    }
}
