//! How much of an object is under way ahead of its reader.
//!
//! Near drives need little: a unit that is opened while the next one is read. From far away as many
//! bytes must be under way as the link carries in a round trip, and TCP's windows, all of which
//! begin small, have to grow at the same time. So
//! 1. a stream from far away begins with what fills a usual link, in small units, so that the windows of many
//!    connections grow at once and nothing waits long for the first of them;
//! 2. then twice as much is on its way as the rate and the round trip call for, whatever they become: holders
//!    need time too, and a link that isn't full must show as one that could carry more. Still more would only
//!    stand in the link's queue, and be dropped there. Twice as much may have come and wait for what is before it;
//! 3. what is asked for is asked for at a pace: after a wait for something late a whole window at once would be
//!    more than queues on the way hold, and the losses the next wait;
//! 4. all streams of a process share a budget for what is beyond a near reader's share.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::Instant;
use tokio::sync::Semaphore;

/// Units of a stream that are always under way at a time, the one the caller waits for among them.
pub(crate) const UNITS_MIN: usize = 2;
/// From this round trip on a link holds more than the near share.
const FAR: Duration = Duration::from_millis(5);
/// What a near stream has under way, about.
const NEAR_BYTES: usize = 4 << 20;
/// Bytes a second that a link from far away is thought to carry at first: 1 Gbit/s.
const LINK_RATE: u64 = 125_000_000;
/// No link is thought to be slower than that: what was slow was something else.
const RATE_MIN: u64 = 4_000_000;
/// What a stream has under way at most.
const STREAM_BYTES_MAX: usize = 64 << 20;
/// So many bytes of a far stream come in small units.
pub(crate) const START_BYTES: u64 = 24 << 20;
/// What all streams of a process have under way beyond their first units.
const ALL_BYTES_MAX: usize = 192 << 20;
/// Rounds in a row without gain after which the link is full.
const STALE_ROUNDS_MAX: u32 = 3;
/// Units begin at so many eighths of the rate that the link is thought to carry.
const PACE_EIGHTHS: u64 = 10;

/// When units may begin.
pub(crate) struct Turns {
    /// KiB that may be on the wire.
    pub wire: Semaphore,
    /// Bytes a second, and when the next unit may begin.
    pace: AtomicU64,
    next: Mutex<Instant>,
    /// Bytes that have come, in whatever order.
    arrived: AtomicU64,
}

impl Turns {
    pub fn new() -> Self {
        let (pace, arrived) = (AtomicU64::new(LINK_RATE), AtomicU64::new(0));
        Self { wire: Semaphore::new(0), pace, next: Mutex::new(Instant(0)), arrived }
    }

    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    pub fn came(&self, bytes: usize) {
        self.arrived.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn set_pace(&self, rate: u64) {
        self.pace.store(rate, Ordering::Relaxed);
    }

    /// How long the next unit, of so many bytes, has to wait.
    pub fn wait(&self, bytes: usize, now: Instant) -> Duration {
        let pace = self.pace.load(Ordering::Relaxed) * PACE_EIGHTHS / 8;
        let takes = Duration::from_micros(bytes as u64 * 1_000_000 / pace.max(1));
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = (*next).max(now);
        *next = begins + takes;
        begins.since(now)
    }
}

/// Bytes that are read ahead by all streams of a process.
#[derive(Default)]
pub(crate) struct Budget(AtomicUsize);

/// A part of the budget; given back when it is dropped.
pub(crate) struct Room {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub fn take(self: &Arc<Self>, bytes: usize) -> Option<Room> {
        let fits = |used: usize| used.checked_add(bytes).filter(|used| *used <= ALL_BYTES_MAX);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Room { budget: self.clone(), bytes })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// How many bytes of one stream may be under way, on the wire and waiting to be taken.
pub(crate) struct Window {
    wire: usize,
    /// To the farthest of the holders that must be asked.
    round_trip: Duration,
    /// Whether it still gets quicker.
    growing: bool,
    stale: u32,
    /// Bytes a second in the best round of late.
    best: u64,
    began: Instant,
    /// Bytes that had come when the round began.
    arrived: u64,
    waited: bool,
}

impl Window {
    pub fn new(now: Instant) -> Self {
        let (wire, round_trip, growing) = (NEAR_BYTES, Duration::ZERO, false);
        Self { wire, round_trip, growing, stale: 0, best: 0, began: now, arrived: 0, waited: false }
    }

    /// The next bytes are on holders so far away.
    pub fn far(&mut self, round_trip: Duration) {
        let was_far = self.is_far();
        self.round_trip = self.round_trip.max(round_trip);
        if self.is_far() && !was_far {
            self.growing = true;
            self.wire = self.filling(LINK_RATE);
        }
    }

    /// Twice what a link of this rate holds.
    fn filling(&self, rate: u64) -> usize {
        let held = u128::from(rate) * self.round_trip.as_micros() * 2 / 1_000_000;
        held.clamp(NEAR_BYTES as u128, STREAM_BYTES_MAX as u128 / 2) as usize
    }

    /// Whether more than the first units may be under way.
    pub fn is_far(&self) -> bool {
        self.round_trip >= FAR
    }

    /// How many bytes may be asked for and not have come.
    pub fn wire(&self) -> usize {
        self.wire
    }

    /// Bytes a second that the link is thought to carry.
    pub fn rate(&self) -> u64 {
        if self.growing { self.best.max(LINK_RATE) } else { self.best.max(RATE_MIN) }
    }

    /// How many bytes may be under way, those that wait for others included.
    pub fn bytes(&self) -> usize {
        if self.is_far() { (self.wire * 3).min(STREAM_BYTES_MAX) } else { NEAR_BYTES }
    }

    /// The reader took something; whether it had to wait, and how many bytes have come in all. What comes is
    /// the link's rate: what is taken comes in bursts, when something late lets go what is behind it.
    pub fn took(&mut self, waited: bool, arrived: u64, now: Instant) {
        self.waited |= waited;
        let (took, came) = (now.since(self.began), arrived - self.arrived);
        // A round: the answers to what was asked after its beginning are here.
        if came < self.wire as u64 || took < self.round_trip || took.is_zero() {
            return;
        }
        let rate = (u128::from(came) * 1_000_000 / took.as_micros().max(1)) as u64;
        if self.is_far() {
            self.adapt(rate);
        }
        (self.began, self.arrived, self.waited) = (now, arrived, false);
    }

    fn adapt(&mut self, rate: u64) {
        let gained = rate > self.best + self.best / 4;
        self.best = rate.max(self.best - self.best / 8);
        if self.growing {
            self.stale = if gained { 0 } else { self.stale + 1 };
            // A reader that never waits is the slower one: more wouldn't help it.
            self.growing = self.waited && self.stale < STALE_ROUNDS_MAX;
        }
        // At first windows are small, and what comes says nothing yet of what the link can carry.
        let least = if self.growing { self.wire } else { 0 };
        self.wire = self.filling(self.best).max(least);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `total` bytes over a link of so many bytes a second, as much at a time as the window
    /// allows; the reader takes at most `reader` bytes a second. Gives the mean rate and the window.
    fn read(round_trip: Duration, link: u64, reader: u64, total: usize) -> (u64, usize, usize) {
        let mut window = Window::new(Instant(0));
        window.far(round_trip);
        let (mut now, mut left, mut most, mut arrived) = (0.0, total, 0, 0);
        const UNIT: usize = 2 << 20;
        while left > 0 {
            // By Little's law.
            let rate =
                (window.bytes() as f64 / (round_trip.as_secs_f64() + UNIT as f64 / link as f64)).min(link as f64);
            let waits = rate < reader as f64;
            now += UNIT as f64 / rate.min(reader as f64);
            left -= UNIT.min(left);
            arrived += UNIT as u64;
            window.took(waits, arrived, Instant((now * 1e9) as u64));
            most = most.max(window.bytes());
        }
        ((total as f64 / now) as u64, window.bytes(), most)
    }

    #[test]
    fn a_far_stream_fills_its_link_and_takes_no_more_than_it_needs() {
        let ocean = Duration::from_millis(100);
        let (rate, end, most) = read(ocean, 125_000_000, u64::MAX, 1 << 30);
        assert!(rate > 115_000_000, "{rate}");
        assert!((33 << 20..=STREAM_BYTES_MAX).contains(&end), "{end}");
        assert!(most <= STREAM_BYTES_MAX);
        // Ten times the link: as much as may be.
        assert_eq!(read(ocean, 1_250_000_000, u64::MAX, 1 << 30).1, STREAM_BYTES_MAX);
        // A slow link.
        assert!(read(ocean, 5_000_000, u64::MAX, 1 << 28).1 <= 3 * NEAR_BYTES);
    }

    #[test]
    fn units_begin_at_the_pace_of_the_link_and_a_rest_saves_nothing_up() {
        let turns = Turns::new();
        turns.set_pace(8_000_000);
        let ms = |ms: u64| Instant(ms * 1_000_000);
        let waits: Vec<u128> = (0..3).map(|_| turns.wait(1_000_000, ms(1000)).as_millis()).collect();
        assert_eq!(waits, [0, 100, 200]);
        let waits: Vec<u128> = (0..2).map(|_| turns.wait(1_000_000, ms(9000)).as_millis()).collect();
        assert_eq!(waits, [0, 100]);
    }

    #[test]
    fn a_slow_reader_gets_little() {
        let (_, end, most) = read(Duration::from_millis(100), 125_000_000, 1_000_000, 1 << 28);
        assert!(end <= 3 * NEAR_BYTES && most <= STREAM_BYTES_MAX, "{end} {most}");
    }

    #[test]
    fn a_near_stream_stays_as_it_is() {
        let (_, end, most) = read(Duration::from_micros(300), 1_250_000_000, u64::MAX, 1 << 30);
        assert_eq!((end, most), (NEAR_BYTES, NEAR_BYTES));
    }

    #[test]
    fn what_all_read_ahead_is_limited_and_given_back() {
        let budget = Arc::<Budget>::default();
        let rooms: Vec<_> = std::iter::from_fn(|| budget.take(50 << 20)).collect();
        assert_eq!(rooms.len(), 3);
        assert!(budget.take(usize::MAX).is_none());
        drop(rooms);
        assert!(budget.take(ALL_BYTES_MAX).is_some());
    }
}
