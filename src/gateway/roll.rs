//! A roll call of the workers: whether the data path turns, for a watchdog nobody answers because every place is taken.

use tokio::sync::watch;

/// Numbered questions, and the last one each worker answered. Costs nothing while nobody asks.
#[derive(Debug)]
pub(crate) struct Roll {
    asked: watch::Sender<u64>,
    answered: watch::Sender<Vec<u64>>,
}

impl Roll {
    /// Makes the roll of `workers` workers, none of which has been asked.
    pub(crate) fn new(workers: usize) -> Self {
        Self { asked: watch::Sender::new(0), answered: watch::Sender::new(vec![0; workers]) }
    }

    /// Asks every worker and returns when all have answered; the caller gives up when that takes too long.
    pub(crate) async fn call(&self) {
        let mut number = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        let mut answered = self.answered.subscribe();
        // The sender lives as long as this borrow.
        let _ = answered.wait_for(|all| all.iter().all(|last| *last >= number)).await;
    }

    /// Answers for one worker, on its own thread. Never ends.
    pub(crate) async fn answer(&self, worker: usize) {
        let mut asked = self.asked.subscribe();
        loop {
            let number = *asked.borrow_and_update();
            self.answered.send_modify(|all| {
                if let Some(last) = all.get_mut(worker) {
                    *last = number;
                }
            });
            // The sender lives as long as this borrow.
            let _ = asked.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_roll_is_complete_when_every_worker_has_answered() {
        let roll = Roll::new(2);
        let patient = Duration::from_secs(1);
        let one = tokio::select! {
            () = roll.answer(0) => unreachable!(),
            called = tokio::time::timeout(patient, roll.call()) => called,
        };
        assert!(one.is_err(), "the other is stuck");
        let both = tokio::select! {
            () = roll.answer(0) => unreachable!(),
            () = roll.answer(1) => unreachable!(),
            called = tokio::time::timeout(patient, roll.call()) => called,
        };
        assert!(both.is_ok());
    }
}
