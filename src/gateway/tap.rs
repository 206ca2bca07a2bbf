//! Copies of what passes: for payload logs and mirrored requests. A tap takes references to pieces as they go by; it
//! delays nothing, and what is too large is let go.

use std::fmt;

use bytes::Bytes;

/// What a tap has seen when the body ended.
#[derive(Debug, Default)]
pub(crate) struct Copy {
    /// The pieces, up to the limit.
    pub(crate) pieces: Vec<Bytes>,
    /// Whether there was more than that.
    pub(crate) is_cut: bool,
}

impl Copy {
    /// Returns a copy of a body that is all there.
    pub(crate) fn of(body: Bytes) -> Self {
        Self { pieces: vec![body], is_cut: false }
    }

    /// Returns the bytes of a body that is not cut.
    pub(crate) fn concat(&self) -> Bytes {
        match self.pieces.as_slice() {
            [one] => one.clone(),
            several => several.concat().into(),
        }
    }

    /// Bytes held.
    pub(crate) fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }
}

/// Gets a body as it passes.
pub(crate) struct Tap {
    copy: Copy,
    len: usize,
    limit: usize,
    done: Box<dyn FnOnce(Copy) + Send + Sync>,
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tap").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Tap {
    /// Makes a tap that keeps up to `limit` bytes and gives them to `done` when the body has passed to its end.
    pub(crate) fn new(limit: usize, done: impl FnOnce(Copy) + Send + Sync + 'static) -> Box<Self> {
        Box::new(Self { copy: Copy::default(), len: 0, limit, done: Box::new(done) })
    }

    /// Sees a piece.
    pub(crate) fn see(&mut self, piece: &Bytes) {
        self.len += piece.len();
        if self.len > self.limit {
            self.copy.is_cut = true;
            self.copy.pieces.clear();
        } else {
            self.copy.pieces.push(piece.clone());
        }
    }

    /// The body has passed to its end.
    pub(crate) fn end(self) {
        (self.done)(self.copy);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_tap_keeps_what_passes_and_lets_go_of_what_is_too_large() {
        let seen: Arc<Mutex<Vec<Copy>>> = Arc::default();
        for limit in [10, 3] {
            let seen = Arc::clone(&seen);
            let mut tap = Tap::new(limit, move |copy| seen.lock().unwrap().push(copy));
            tap.see(&Bytes::from_static(b"ab"));
            tap.see(&Bytes::from_static(b"cd"));
            tap.end();
        }
        let seen = seen.lock().unwrap();
        assert_eq!((seen[0].concat(), seen[0].is_cut), (Bytes::from_static(b"abcd"), false));
        assert_eq!((seen[1].len(), seen[1].is_cut), (0, true));
    }
}
