//! HTTP/2 frames that only make work. h2 limits streams that are reset, and heads that never end; pings, settings,
//! priorities and empty pieces of data are answered or read for ever. Pure but for the clock.

use std::time::Duration;

use tokio::time::Instant;

/// Weighs what a client sends of them against what could be a reason for it.
#[derive(Debug)]
pub(crate) struct Flood {
    head: [u8; HEAD],
    seen: usize,
    /// Bytes of the frame under way, or of the preface.
    left: usize,
    debt: u32,
    since: Instant,
}

const HEAD: usize = 9;
const PREFACE: usize = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;

/// Frames that may come for no reason: at once, and each second.
const BURST: u32 = 1000;
const EACH_SECOND: u32 = 100;
/// Frames for which a request, a piece of a body, and anything we send is a reason: windows, pings that measure, resets.
const FOR_HEADERS: u32 = 4;
const FOR_DATA: u32 = 2;
const FOR_AN_ANSWER: u32 = 4;

impl Default for Flood {
    fn default() -> Self {
        Self { head: [0; HEAD], seen: 0, left: PREFACE, debt: 0, since: Instant::now() }
    }
}

impl Flood {
    /// Reads on. Returns whether this is a flood.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.left > 0 {
                let take = self.left.min(bytes.len());
                self.left -= take;
                bytes = &bytes[take..];
                continue;
            }
            let take = (HEAD - self.seen).min(bytes.len());
            self.head[self.seen..self.seen + take].copy_from_slice(&bytes[..take]);
            self.seen += take;
            bytes = &bytes[take..];
            if self.seen == HEAD {
                self.seen = 0;
                self.left =
                    usize::from(self.head[0]) << 16 | usize::from(self.head[1]) << 8 | usize::from(self.head[2]);
                self.weigh(self.head[3], self.head[4]);
            }
        }
        self.debt > BURST && !self.had_time()
    }

    /// Something was sent to the client, which may be a reason for what it sends.
    pub(crate) fn wrote(&mut self) {
        self.debt = self.debt.saturating_sub(FOR_AN_ANSWER);
    }

    fn weigh(&mut self, kind: u8, flags: u8) {
        self.debt = match kind {
            HEADERS => self.debt.saturating_sub(FOR_HEADERS),
            DATA if self.left > 0 || flags & END_STREAM != 0 => self.debt.saturating_sub(FOR_DATA),
            _ => self.debt.saturating_add(1),
        };
    }

    fn had_time(&mut self) -> bool {
        let seconds = self.since.elapsed().as_secs();
        self.since += Duration::from_secs(seconds);
        let earned = u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(EACH_SECOND);
        self.debt = self.debt.saturating_sub(earned);
        self.debt <= BURST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, len: u8) -> Vec<u8> {
        [&[0, 0, len, kind, flags, 0, 0, 0, 1], vec![0; usize::from(len)].as_slice()].concat()
    }

    fn begun() -> Flood {
        let mut flood = Flood::default();
        assert!(!flood.read(&[0; PREFACE]));
        flood
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_only_make_work_are_a_flood_however_they_are_cut() {
        for (name, noise) in [("ping", frame(6, 0, 8)), ("settings", frame(4, 0, 0)), ("empty data", frame(0, 0, 0))] {
            let mut flood = begun();
            assert!(!noise.repeat(1000).chunks(7).any(|piece| flood.read(piece)), "{name}");
            assert!(noise.chunks(7).any(|piece| flood.read(piece)), "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_a_reason_or_takes_its_time_is_none() {
        let mut flood = begun();
        let call = [frame(1, 4, 9), frame(0, 1, 5), frame(8, 0, 4), frame(6, 0, 8), frame(6, 1, 8), frame(3, 0, 4)];
        assert!(!(0..10_000).any(|_| flood.read(&call.concat())), "calls");
        let token = [frame(8, 0, 4), frame(8, 0, 4), frame(6, 0, 8)].concat();
        let stream = |flood: &mut Flood| {
            flood.wrote();
            flood.read(&token)
        };
        assert!(!(0..10_000).any(|_| stream(&mut flood)), "an answer in small pieces");
        for _ in 0..100 {
            assert!(!flood.read(&frame(6, 0, 8).repeat(100)), "one ping every 10 ms");
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }
}
