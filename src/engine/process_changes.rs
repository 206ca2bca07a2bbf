//! "Something changed": what we did, and supervisors that end.

use std::time::Duration;

use futures::stream::{self, BoxStream, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;

use super::process::ProcessEngine;
use super::process_folder::{Found, Life};

/// A look although nothing was said, where the kernel tells of ends, and where it does not.
const SELDOM: Duration = Duration::from_secs(10);
const OFTEN: Duration = Duration::from_millis(500);

/// What is compared between two looks.
type Shape = Vec<(String, bool)>;

struct Ear {
    engine: ProcessEngine,
    seen: watch::Receiver<u64>,
    shape: Option<Shape>,
}

/// Hints at changes, for ever.
pub(super) fn changes(engine: ProcessEngine) -> BoxStream<'static, ()> {
    let seen = engine.inner.changed.subscribe();
    let ear = Ear { engine, seen, shape: None };
    let changes = stream::unfold(ear, |mut ear| async move {
        ear.next().await;
        Some(((), ear))
    });
    // The first hint says that the ear is open.
    stream::iter([()]).chain(changes).boxed()
}

impl Ear {
    async fn next(&mut self) {
        loop {
            // A folder that cannot be read now is read at the next look.
            let all = self.engine.all().await.unwrap_or_default();
            let shape = shape(&all);
            if self.shape.replace(shape.clone()).is_some_and(|before| before != shape) {
                return;
            }
            let mut ends: FuturesUnordered<_> = all.iter().filter_map(end).collect();
            let running = shape.iter().filter(|(_, runs)| *runs).count();
            let rest = if ends.len() < running { OFTEN } else { SELDOM };
            tokio::select! {
                // Whichever loses is looked for anew: this compares what is, not what was said.
                changed = self.seen.changed() => {
                    if changed.is_err() {
                        std::future::pending::<()>().await;
                    }
                    return;
                }
                Some(()) = ends.next() => {}
                () = tokio::time::sleep(rest) => {}
            }
        }
    }
}

fn shape(all: &[Found]) -> Shape {
    all.iter().map(|found| (found.record.id.clone(), matches!(found.life, Life::Running(_)))).collect()
}

/// Ends when the supervisor of a running container does; none where the kernel does not tell.
#[cfg(target_os = "linux")]
fn end(found: &Found) -> Option<futures::future::BoxFuture<'static, ()>> {
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;
    let Life::Running(Some(running)) = &found.life else { return None };
    let supervisor = pidfd_open(Pid::from_raw(running.supervisor.pid)?, PidfdFlags::empty()).ok()?;
    if !running.supervisor.is_alive() {
        return None;
    }
    #[expect(deprecated, reason = "the other way in is unsafe code; an owned descriptor keeps what it asks for")]
    let supervisor = AsyncFd::with_interest(supervisor, Interest::READABLE).ok()?;
    let ended = async move {
        // An error would say as much: look again.
        let _ = supervisor.readable().await;
    };
    Some(ended.boxed())
}

#[cfg(not(target_os = "linux"))]
fn end(_found: &Found) -> Option<futures::future::BoxFuture<'static, ()>> {
    None::<futures::future::Ready<()>>.map(FutureExt::boxed)
}
