//! Tells the cache which models services need, so that nobody removes them.

use std::collections::BTreeSet;
use std::time::Duration;

use tracing::warn;

use crate::api::StorageUri;
use crate::home::Home;
use crate::storage::Cache;

/// What has been claimed of the cache.
#[derive(Debug, Default)]
pub(super) struct ModelClaims {
    claimed: BTreeSet<StorageUri>,
    /// What is claimed only because containers that end may still read it, until then.
    lingering: Option<(BTreeSet<StorageUri>, Duration)>,
}

impl ModelClaims {
    /// Claims what is wanted, before it is looked up. What is wanted no more stays claimed for `linger`, while containers
    /// that had it drain.
    pub(super) fn want(
        &mut self,
        cache: &Cache,
        owner: (&str, &Home),
        wanted: BTreeSet<StorageUri>,
        now: Duration,
        linger: Duration,
    ) {
        let gone: BTreeSet<StorageUri> = self.claimed.difference(&wanted).cloned().collect();
        if !gone.is_empty() {
            let earlier = self.lingering.take().map(|(uris, _)| uris).unwrap_or_default();
            self.lingering = Some((earlier.into_iter().chain(gone).collect(), now + linger));
        }
        self.claimed = wanted;
        self.write(cache, owner);
    }

    /// Lets go of what has lingered long enough. Returns when to look again.
    pub(super) fn let_go(&mut self, cache: &Cache, owner: (&str, &Home), now: Duration) -> Option<Duration> {
        match &self.lingering {
            Some((_, until)) if *until <= now => {
                self.lingering = None;
                self.write(cache, owner);
                None
            }
            lingering => lingering.as_ref().map(|(_, until)| *until),
        }
    }

    fn write(&self, cache: &Cache, (instance, home): (&str, &Home)) {
        let lingering = self.lingering.iter().flat_map(|(uris, _)| uris);
        if let Err(error) = cache.claim(instance, home.root(), self.claimed.iter().chain(lingering)) {
            warn!(%error, "could not note which models are in use");
        }
    }
}
