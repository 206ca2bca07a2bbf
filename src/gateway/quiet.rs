//! Wake-ups that say nothing new.
//!
//! hyper hands a request's body over a channel. Whoever takes a piece out of it wakes whoever might send another: over
//! HTTP/1 that is the connection's task, which is taking the piece itself and would be polled once more for nothing after
//! the last one. So a connection is polled with a waker of its own. What is said to it while a piece is taken is held back,
//! and passed on unless the body has ended with that piece: hyper has no more to send then, and has seen that already.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use http_body::{Body, Frame};

thread_local! {
    /// Whether a piece is being taken on this thread.
    static TAKING: Cell<bool> = const { Cell::new(false) };
    /// Who was woken by that.
    static HELD: RefCell<Option<Arc<Quiet>>> = const { RefCell::new(None) };
}

/// Wakes a task, but not while a piece of a body is taken.
struct Quiet {
    task: Waker,
}

impl Wake for Quiet {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if TAKING.get() {
            HELD.set(Some(Arc::clone(self)));
        } else {
            self.task.wake_by_ref();
        }
    }
}

/// A connection that is polled with such a waker.
pub(crate) struct Quietly<'a, C> {
    connection: Pin<&'a mut C>,
    waker: QuietWaker,
}

impl<'a, C> Quietly<'a, C> {
    pub(crate) fn new(connection: Pin<&'a mut C>) -> Self {
        Self { connection, waker: QuietWaker::default() }
    }

    pub(crate) fn inner(&mut self) -> Pin<&mut C> {
        self.connection.as_mut()
    }
}

impl<C: Future> Future for Quietly<'_, C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let this = &mut *self;
        this.connection.as_mut().poll(&mut Context::from_waker(this.waker.of(cx)))
    }
}

/// The waker of a task, and the one that stands for it.
#[derive(Default)]
struct QuietWaker(Option<(Waker, Waker)>);

impl QuietWaker {
    /// Returns the one that stands for the task of `cx`; the same as long as that is the same.
    fn of(&mut self, cx: &Context<'_>) -> &Waker {
        if self.0.as_ref().is_some_and(|(task, _)| !task.will_wake(cx.waker())) {
            self.0 = None;
        }
        let fresh = || (cx.waker().clone(), Waker::from(Arc::new(Quiet { task: cx.waker().clone() })));
        &self.0.get_or_insert_with(fresh).1
    }
}

/// Ends the taking, also by a panic.
struct Taking;

impl Drop for Taking {
    fn drop(&mut self) {
        TAKING.set(false);
    }
}

/// What comes of that; none at the end.
type Taken<B> = Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>;

/// Takes the next piece of a body.
pub(crate) fn take<B>(body: &mut B, cx: &mut Context<'_>) -> Poll<Taken<B>>
where
    B: Body + Unpin,
{
    TAKING.set(true);
    let taking = Taking;
    let taken = Pin::new(&mut *body).poll_frame(cx);
    drop(taking);
    if let Some(held) = HELD.take()
        && !body.is_end_stream()
    {
        held.task.wake_by_ref();
    }
    taken
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Wakes somebody whenever a piece of it is taken.
    struct Rousing(Waker, usize);

    impl Body for Rousing {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            self.0.wake_by_ref();
            self.1 -= 1;
            Poll::Ready(Some(Ok(Frame::data(Bytes::new()))))
        }

        fn is_end_stream(&self) -> bool {
            self.1 == 0
        }
    }

    #[test]
    fn only_the_last_piece_of_a_body_wakes_nobody() {
        let count = Arc::new(Count::default());
        let task = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&task);
        let mut quiet = QuietWaker::default();
        let waker = quiet.of(&cx).clone();
        assert!(waker.will_wake(quiet.of(&cx)), "made once");
        let mut body = Rousing(waker.clone(), 2);
        for woken in [1, 1] {
            assert!(take(&mut body, &mut cx).is_ready());
            assert_eq!(count.0.load(Ordering::Relaxed), woken);
        }
        waker.wake();
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    }
}
