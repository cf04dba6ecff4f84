//! What is left, what was done, how fast it goes.

use std::time::Duration;

use base::Instant;

/// How far back a rate looks.
const RATE_SPAN: Duration = Duration::from_secs(60);

/// What is left to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Pieces to rebuild or move.
    pub pieces: u64,
    /// Their bytes, about.
    pub bytes: u64,
    /// Pieces rebuilt or moved since the start.
    pub done_pieces: u64,
    /// Their bytes.
    pub done_bytes: u64,
    /// Attempts that failed since the start.
    pub failures: u64,
}

/// The same of one class of work, with how fast it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClassProgress {
    /// What is left and what was done.
    pub sum: Progress,
    /// Bytes a second in the last minute.
    pub bytes_per_s: f64,
    /// Time left at that rate; none while nothing moves, zero when nothing is left.
    pub eta: Option<Duration>,
}

/// A rate of bytes that forgets: each byte counts e times less a minute later. (An exponentially weighted average,
/// divided by the weight of the time seen so far, so that its first minute isn't too low.)
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rate {
    sum: f64,
    begun: Option<Instant>,
    last: Instant,
}

impl Rate {
    pub fn add(&mut self, now: Instant, bytes: u64) {
        self.sum = self.sum * fades(now.since(self.last)) + bytes as f64;
        self.begun.get_or_insert(now);
        self.last = self.last.max(now);
    }

    /// Says that work begins, if none was seen yet: the time until it is done counts.
    pub fn begin(&mut self, now: Instant) {
        if self.begun.is_none() {
            self.begun = Some(now);
            self.last = now;
        }
    }

    /// Bytes a second.
    pub fn per_s(&self, now: Instant) -> f64 {
        let Some(begun) = self.begun else { return 0.0 };
        let seen = (1.0 - fades(now.since(begun))) * RATE_SPAN.as_secs_f64();
        if seen > 0.0 { self.sum * fades(now.since(self.last)) / seen } else { 0.0 }
    }
}

fn fades(time: Duration) -> f64 {
    (-time.as_secs_f64() / RATE_SPAN.as_secs_f64()).exp()
}

/// Time for so many bytes at that rate.
pub(crate) fn eta(bytes: u64, per_s: f64) -> Option<Duration> {
    if bytes == 0 {
        return Some(Duration::ZERO);
    }
    // Less than a byte a second is standing still.
    if per_s < 1.0 { None } else { Duration::try_from_secs_f64(bytes as f64 / per_s).ok() }
}
