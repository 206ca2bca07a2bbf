//! What people ask the loop: who holds what, and what became of one service. The answers are put together when somebody
//! asks, so that no pass pays for them.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::api::ServiceKey;
use crate::plan::admission::Explanation;
use crate::plan::ps::{HistoryLine, RoomView};

/// Questions that wait at once; who asks when there are more waits for the next answer.
const WAITING: usize = 64;

/// A question, and where its answer goes.
#[derive(Debug)]
pub enum Question {
    /// Who holds what?
    Room(oneshot::Sender<RoomView>),
    /// What became of a service?
    Past(ServiceKey, oneshot::Sender<Past>),
}

/// What became of a service.
#[derive(Debug, Default)]
pub struct Past {
    /// The last decision about its room.
    pub decision: Option<Arc<Explanation>>,
    /// Its revisions, newest first; none of a service that is not known.
    pub revisions: Vec<HistoryLine>,
}

/// Where questions are asked; cheap to clone.
#[derive(Clone, Debug)]
pub struct Questions(mpsc::Sender<Question>);

impl Questions {
    /// Makes it, with the end that the loop takes them from.
    pub fn channel() -> (Self, mpsc::Receiver<Question>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), receiver)
    }

    /// Asks who holds what; none when the loop has ended.
    pub async fn room(&self) -> Option<RoomView> {
        self.ask(Question::Room).await
    }

    /// Asks what became of a service; none when the loop has ended.
    pub async fn past(&self, service: ServiceKey) -> Option<Past> {
        self.ask(|answer| Question::Past(service, answer)).await
    }

    /// The loop answers between two passes, and lets go of what it has not answered when it ends.
    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Option<T> {
        let (sender, answer) = oneshot::channel();
        self.0.send(question(sender)).await.ok()?;
        answer.await.ok()
    }
}
