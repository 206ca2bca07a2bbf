//! A desk for what the driver writes down: a pass must not wait for a disk, so a task of its own does the writing.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};
use tracing::error;

use crate::tasks::Tasks;

type Order = Box<dyn FnOnce() + Send>;

/// Takes orders to write and carries them out one after the other. Of two orders under one name, the later one is carried
/// out when both still wait. Cheap to clone.
#[derive(Clone)]
pub(super) struct Desk {
    tray: Arc<Tray>,
    done: watch::Receiver<u64>,
}

#[derive(Default)]
struct Tray {
    waiting: Mutex<Waiting>,
    bell: Notify,
}

#[derive(Default)]
struct Waiting {
    orders: BTreeMap<&'static str, Order>,
    /// Counts the orders taken in.
    count: u64,
}

impl Desk {
    /// Opens a desk whose task ends with the group.
    pub(super) fn open(tasks: &Tasks) -> Self {
        let (tray, (done, seen)) = (Arc::new(Tray::default()), watch::channel(0));
        // An order that is under way goes on in its own thread.
        tasks.spawn_droppable("desk", work(Arc::clone(&tray), done));
        Self { tray, done: seen }
    }

    /// Takes an order in. It must say itself what becomes of it.
    pub(super) fn order(&self, name: &'static str, order: impl FnOnce() + Send + 'static) {
        let mut waiting = self.tray.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.orders.insert(name, Box::new(order));
        waiting.count += 1;
        self.tray.bell.notify_one();
    }

    /// Waits until everything that was ordered before this call is carried out, or the desk is closed. A disk that hangs
    /// holds it up for as long as it hangs.
    pub(super) fn settled(&self) -> impl Future<Output = ()> + Send + 'static {
        let count = self.tray.waiting.lock().unwrap_or_else(PoisonError::into_inner).count;
        let mut done = self.done.clone();
        async move {
            // An error says that the desk is closed: nothing is written any more.
            drop(done.wait_for(|done| *done >= count).await);
        }
    }
}

async fn work(tray: Arc<Tray>, done: watch::Sender<u64>) {
    loop {
        tray.bell.notified().await;
        let (orders, count) = {
            let mut waiting = tray.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            (std::mem::take(&mut waiting.orders), waiting.count)
        };
        for order in orders.into_values() {
            if let Err(error) = tokio::task::spawn_blocking(order).await {
                error!(%error, "writing something down failed");
            }
        }
        done.send_replace(count);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn orders_are_carried_out_in_turn_and_the_latest_of_a_name_counts() {
        let (desk, (told, said)) = (Desk::open(&Tasks::new()), mpsc::channel());
        let say = |word: &'static str| {
            let told = told.clone();
            move || told.send(word).unwrap()
        };
        // The desk's task has had no turn yet: all of them wait.
        desk.order("b", say("old"));
        desk.order("a", || panic!("as ordered"));
        desk.order("b", say("new"));
        desk.settled().await;
        assert_eq!(said.try_iter().collect::<Vec<_>>(), ["new"]);
        desk.order("b", say("newer"));
        desk.settled().await;
        assert_eq!(said.try_iter().collect::<Vec<_>>(), ["newer"]);
    }

    #[tokio::test]
    async fn nobody_waits_for_a_closed_desk() {
        let tasks = Tasks::new();
        let desk = Desk::open(&tasks);
        tasks.shut_down(std::time::Duration::from_secs(60)).await;
        desk.order("a", || {});
        desk.settled().await;
    }
}
