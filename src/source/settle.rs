//! Objects that vanish are given a moment: many editors save by moving the old file away and writing a new one.

use std::collections::HashMap;
use std::time::Duration;

use crate::api::ObjectKey;

/// How long an object may be missing before it counts as deleted.
pub const GRACE: Duration = Duration::from_millis(250);

/// Remembers since when objects are missing.
#[derive(Clone, Debug, Default)]
pub struct Missing {
    since: HashMap<ObjectKey, Duration>,
}

impl Missing {
    /// Says whether an object that is not found any more counts as deleted at `tick`; otherwise for how much longer it
    /// is kept.
    pub fn is_deleted(&mut self, key: &ObjectKey, tick: Duration) -> Result<(), Duration> {
        let since = *self.since.entry(key.clone()).or_insert(tick);
        let end = since + GRACE;
        if tick >= end {
            self.since.remove(key);
            return Ok(());
        }
        Err(end - tick)
    }

    /// Forgets an object that is there.
    pub fn found(&mut self, key: &ObjectKey) {
        self.since.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ServiceKey;

    #[test]
    fn an_object_that_comes_back_in_time_was_never_gone() {
        let key = ServiceKey::new("default", "iris").to_object_key();
        let mut missing = Missing::default();
        let at = Duration::from_millis;
        assert_eq!(missing.is_deleted(&key, at(0)), Err(GRACE));
        assert_eq!(missing.is_deleted(&key, at(100)), Err(at(150)));
        missing.found(&key);
        assert_eq!(missing.is_deleted(&key, at(300)), Err(GRACE));
        assert_eq!(missing.is_deleted(&key, at(550)), Ok(()));
    }
}
