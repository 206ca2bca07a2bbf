//! Effects of sleeping with the memory kept: the engine pauses, or the server is told.

use std::time::Duration;

use super::execute::{Executor, Failure, Lesson};
use crate::engine::{Container, ContainerId};
use crate::plan::doze::{Call, DozeOrder};
use crate::probe;

/// Longest wait for a server that is told to rest or to wake: gigabytes may move.
const CALL: Duration = Duration::from_secs(120);

impl Executor {
    /// Puts a container to sleep. None when it is gone.
    ///
    /// # Errors
    /// The engine refuses, or the server does not do it.
    pub(super) async fn doze(&self, order: &DozeOrder) -> Result<Option<Container>, Failure> {
        let id = ContainerId(order.id.clone());
        match &order.call {
            Some(call) => tell(order, call).await?,
            None => self.engine.pause(&id).await?,
        }
        self.look(&id).await
    }

    /// Wakes a container. None when it is gone.
    ///
    /// # Errors
    /// The engine refuses, or the server does not do it.
    pub(super) async fn rouse(&self, order: &DozeOrder) -> Result<Option<Container>, Failure> {
        let id = ContainerId(order.id.clone());
        match &order.call {
            Some(call) => tell(order, call).await?,
            None => self.engine.unpause(&id).await?,
        }
        self.look(&id).await
    }
}

async fn tell(order: &DozeOrder, call: &Call) -> Result<(), Failure> {
    let failure = |words: String| Failure { message: words, permanent: false, lesson: Lesson::None };
    let address = order.reach.to(call.port).ok_or_else(|| failure(format!("port {} cannot be reached", call.port)))?;
    probe::post(address, &call.path, CALL).await.map_err(failure)
}
