//! hyper's own tasks, spawned as ours are.

use std::future::Future;

use hyper::rt::Executor;

use crate::tasks::Tasks;

/// Spawns hyper's HTTP/2 streams through [`Tasks`].
#[derive(Clone, Debug)]
pub(crate) struct TaskExecutor(pub(crate) Tasks);

impl<F> Executor<F> for TaskExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn_short(future);
    }
}
