//! What to repair first, and how much at once: a pure engine.
//!
//! It is told which segments lack pieces and what became of each attempt; it says what to do next:
//! fewest spare pieces first, a bounded number in flight, failures later and later. Doesn't know how
//! a piece moves.
#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::{GroupId, Instant, PolicyId, SegmentId, VolumeId};

/// The first wait after a failure; doubled with each further one.
const BACKOFF_MIN: Duration = Duration::from_secs(2);
/// The longest wait after failures.
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// Segments that are known at once; more are found again by the next look.
const KNOWN_MAX: usize = 100_000;

/// Names a segment to repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The volume that it is in.
    pub volume: VolumeId,
    /// Its policy.
    pub policy: PolicyId,
    /// Its group.
    pub group: GroupId,
    /// The segment.
    pub segment: SegmentId,
}

/// A segment that lacks pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Which.
    pub target: Target,
    /// Indices of the pieces to rebuild.
    pub missing: BTreeSet<u8>,
    /// Pieces that may be lost in all: the code's m.
    pub parity: u8,
    /// Bytes of one piece, about.
    pub piece_bytes: u64,
}

impl Need {
    /// Pieces that may still be lost; negative if data can't be had just now.
    pub fn spare(&self) -> i16 {
        i16::from(self.parity) - self.missing.len() as i16
    }
}

#[derive(Clone, Debug)]
struct Known {
    need: Need,
    failures: u32,
    not_before: Instant,
    in_flight: bool,
}

/// What is left to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Pieces to rebuild.
    pub pieces: u64,
    /// Their bytes, about.
    pub bytes: u64,
    /// Pieces rebuilt since the start.
    pub done_pieces: u64,
    /// Their bytes.
    pub done_bytes: u64,
    /// Attempts that failed since the start.
    pub failures: u64,
}

/// Decides what to repair next.
#[derive(Debug)]
pub struct Steward {
    known: BTreeMap<Target, Known>,
    /// Ready or waiting, by spare pieces, then by name.
    order: BTreeSet<(i16, Target)>,
    in_flight: usize,
    in_flight_max: usize,
    progress: Progress,
}

impl Steward {
    /// With at most `in_flight_max` segments being repaired at once.
    pub fn new(in_flight_max: usize) -> Self {
        let (known, order) = Default::default();
        Self { known, order, in_flight: 0, in_flight_max, progress: Progress::default() }
    }

    /// A segment lacks pieces. What is known of it already is joined.
    pub fn need(&mut self, need: Need) {
        if need.missing.is_empty() || (self.known.len() >= KNOWN_MAX && !self.known.contains_key(&need.target)) {
            return;
        }
        let target = need.target;
        match self.known.get_mut(&target) {
            Some(known) => {
                self.order.remove(&(known.need.spare(), target));
                known.need.missing.extend(&need.missing);
                self.order.insert((known.need.spare(), target));
            }
            None => {
                self.order.insert((need.spare(), target));
                self.known.insert(target, Known { need, failures: 0, not_before: Instant(0), in_flight: false });
            }
        }
    }

    /// What to do now, if anything; it is in flight until [`Steward::done`] or [`Steward::failed`].
    pub fn next(&mut self, now: Instant) -> Option<Need> {
        if self.in_flight >= self.in_flight_max {
            return None;
        }
        let ready =
            |target: &Target| self.known.get(target).is_some_and(|known| !known.in_flight && known.not_before <= now);
        let target = self.order.iter().map(|(_, target)| *target).find(|target| ready(target))?;
        let known = self.known.get_mut(&target)?;
        known.in_flight = true;
        self.in_flight += 1;
        Some(known.need.clone())
    }

    /// When [`Steward::next`] may have something that it doesn't have now.
    pub fn deadline(&self) -> Option<Instant> {
        self.known.values().filter(|known| !known.in_flight).map(|known| known.not_before).min()
    }

    /// These pieces are there again. What else the segment lacks stays known.
    pub fn done(&mut self, target: Target, rebuilt: &[u8], bytes: u64) {
        self.landed(target);
        self.progress.done_pieces += rebuilt.len() as u64;
        self.progress.done_bytes += bytes;
        let Some(known) = self.known.get_mut(&target) else { return };
        self.order.remove(&(known.need.spare(), target));
        rebuilt.iter().for_each(|index| _ = known.need.missing.remove(index));
        known.failures = 0;
        if known.need.missing.is_empty() {
            self.known.remove(&target);
        } else {
            self.order.insert((known.need.spare(), target));
        }
    }

    /// It didn't work: it is tried again later.
    pub fn failed(&mut self, target: Target, now: Instant) {
        self.landed(target);
        self.progress.failures += 1;
        if let Some(known) = self.known.get_mut(&target) {
            known.failures += 1;
            let wait = BACKOFF_MIN.saturating_mul(1 << known.failures.min(10)).min(BACKOFF_MAX);
            known.not_before = now + wait;
        }
    }

    /// The segment needs nothing any more: it was deleted, or its pieces came back.
    pub fn forget(&mut self, target: Target) {
        self.landed(target);
        if let Some(known) = self.known.remove(&target) {
            self.order.remove(&(known.need.spare(), target));
        }
    }

    /// Something changed for the better (a drive came): failures are tried again at once.
    pub fn retry(&mut self) {
        self.known.values_mut().for_each(|known| known.not_before = Instant(0));
    }

    fn landed(&mut self, target: Target) {
        if let Some(known) = self.known.get_mut(&target)
            && known.in_flight
        {
            known.in_flight = false;
            self.in_flight -= 1;
        }
    }

    /// Whether a segment of this group still lacks a piece.
    pub fn is_open(&self, policy: PolicyId, group: GroupId) -> bool {
        self.known.keys().any(|target| (target.policy, target.group) == (policy, group))
    }

    /// Spare pieces of the worst segment known here.
    pub fn worst(&self) -> Option<i16> {
        self.order.first().map(|(spare, _)| *spare)
    }

    /// What is left and what was done.
    pub fn progress(&self) -> Progress {
        let mut progress = self.progress;
        for known in self.known.values() {
            progress.pieces += known.need.missing.len() as u64;
            progress.bytes += known.need.missing.len() as u64 * known.need.piece_bytes;
        }
        progress
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(segment: u8, missing: &[u8], parity: u8) -> Need {
        let target =
            Target { volume: VolumeId(1), policy: PolicyId(1), group: GroupId(1), segment: SegmentId([segment; 16]) };
        Need { target, missing: missing.iter().copied().collect(), parity, piece_bytes: 10 }
    }

    #[test]
    fn the_segment_with_the_fewest_spare_pieces_comes_first() {
        let mut steward = Steward::new(10);
        steward.need(need(1, &[0], 2));
        steward.need(need(2, &[0, 1], 2));
        steward.need(need(3, &[0], 4));
        steward.need(need(3, &[1, 2, 3, 4], 4));
        let order: Vec<u8> = std::iter::from_fn(|| steward.next(Instant(0))).map(|n| n.target.segment.0[0]).collect();
        assert_eq!(order, [3, 2, 1]);
        assert_eq!(steward.worst(), Some(-1));
    }

    #[test]
    fn no_more_than_the_limit_are_in_flight_and_failures_wait() {
        let mut steward = Steward::new(1);
        steward.need(need(1, &[0], 1));
        steward.need(need(2, &[0], 2));
        let first = steward.next(Instant(0)).unwrap();
        assert_eq!(steward.next(Instant(0)), None);
        steward.failed(first.target, Instant(0));
        assert_eq!(steward.next(Instant(0)).unwrap().target.segment.0[0], 2);
        steward.failed(need(2, &[], 1).target, Instant(0));
        assert_eq!(steward.next(Instant(0)), None);
        let later = steward.deadline().unwrap();
        assert!(later > Instant(0));
        assert!(steward.next(later).is_some());
        steward.failed(first.target, later);
        steward.retry();
        assert!(steward.next(Instant(0)).is_some());
    }

    #[test]
    fn what_is_rebuilt_is_counted_and_what_is_left_stays() {
        let mut steward = Steward::new(2);
        steward.need(need(1, &[0, 3], 2));
        let taken = steward.next(Instant(0)).unwrap();
        steward.done(taken.target, &[3], 10);
        assert_eq!(steward.progress(), Progress { pieces: 1, bytes: 10, done_pieces: 1, done_bytes: 10, failures: 0 });
        assert_eq!(steward.next(Instant(0)).unwrap().missing, BTreeSet::from([0]));
        steward.done(taken.target, &[0], 10);
        assert_eq!((steward.progress().pieces, steward.worst(), steward.deadline()), (0, None, None));
        assert!(!steward.is_open(PolicyId(1), GroupId(1)));
    }
}
