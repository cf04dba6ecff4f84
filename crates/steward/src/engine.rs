//! Decides what to work on next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::{GroupId, Instant, PolicyId};

use crate::pace::{Dial, Limits, Pace, Press, UserLoad};
use crate::progress::{ClassProgress, Progress, Rate, eta};
use crate::{Class, Need, Target};

/// The first wait after a failure; doubled with each further one.
const BACKOFF_MIN: Duration = Duration::from_secs(2);
/// The longest wait after failures.
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// Segments that are known at once; more are found again by the next look.
const KNOWN_MAX: usize = 100_000;

/// A segment with what it waits for.
#[derive(Clone, Debug)]
struct Known {
    /// Why each of its pieces is to be made.
    wants: BTreeMap<u8, Class>,
    parity: u8,
    piece_bytes: u64,
    failures: u32,
    not_before: Instant,
    in_flight: Option<Class>,
}

impl Known {
    fn class(&self) -> Class {
        self.wants.values().min().copied().unwrap_or(Class::Upkeep)
    }

    /// Pieces that may still be lost. Those that only move are there.
    fn spare(&self) -> i16 {
        let lost = self.wants.values().filter(|class| **class == Class::Repair).count();
        i16::from(self.parity) - lost as i16
    }

    fn rank(&self, target: Target) -> (Class, i16, Target) {
        (self.class(), self.spare(), target)
    }

    fn press(&self) -> Press {
        match (self.class(), self.spare()) {
            (Class::Repair, ..=0) => Press::Now,
            (Class::Repair, _) => Press::Soon,
            _ => Press::Sometime,
        }
    }

    fn of(&self, class: Class) -> BTreeSet<u8> {
        self.wants.iter().filter(|(_, of)| **of == class).map(|(index, _)| *index).collect()
    }
}

/// What a class did and has to do beyond what is known.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    done: Progress,
    rate: Rate,
    /// Bytes left as rows tell, less what was done since.
    expected: u64,
}

/// Decides what to work on next.
#[derive(Debug)]
pub struct Steward {
    known: BTreeMap<Target, Known>,
    /// Ready or waiting: by class, by spare pieces, by name.
    order: BTreeSet<(Class, i16, Target)>,
    in_flight: usize,
    dial: Dial,
    tallies: [Tally; Class::COUNT],
    /// The latest moment that was heard of.
    now: Instant,
}

impl Steward {
    /// With at most `in_flight_max` segments being worked on at once, and no other bound.
    pub fn new(in_flight_max: usize) -> Self {
        Self::with_dial(Dial::unbound(in_flight_max))
    }

    /// Within what a dial allows.
    pub fn with_dial(dial: Dial) -> Self {
        let (known, order, tallies) = Default::default();
        Self { known, order, in_flight: 0, dial, tallies, now: Instant(0) }
    }

    /// The dial.
    pub fn dial(&self) -> &Dial {
        &self.dial
    }

    /// Turns the dial.
    pub fn set_pace(&mut self, pace: Pace) {
        self.dial.set_pace(pace);
    }

    /// What all work may take at the most from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.dial.set_limits(limits);
    }

    /// How users fare.
    pub fn hear(&mut self, load: UserLoad) {
        self.dial.hear(load);
    }

    /// A segment lacks pieces. What is known of it already is joined.
    pub fn need(&mut self, need: Need) {
        self.need_for(Class::Repair, need);
    }

    /// A segment has pieces to make for some reason. A piece that is wanted for several is made for the most urgent.
    pub fn need_for(&mut self, class: Class, need: Need) {
        let Need { target, missing, parity, piece_bytes } = need;
        if missing.is_empty() {
            return;
        }
        let fresh = || Known {
            wants: BTreeMap::new(),
            parity,
            piece_bytes,
            failures: 0,
            not_before: Instant(0),
            in_flight: None,
        };
        let mut known = self.take_out(target).unwrap_or_else(fresh);
        for index in missing {
            let of = known.wants.entry(index).or_insert(class);
            *of = class.min(*of);
        }
        if self.known.len() >= KNOWN_MAX && !self.gives_way(&known.rank(target)) {
            return;
        }
        self.put_in(target, known);
    }

    /// Bytes of a class that are left in all as rows tell: more than what is known here at once, for progress.
    pub fn expect(&mut self, class: Class, bytes_left: u64) {
        self.tallies[class as usize].expected = bytes_left;
    }

    /// Makes room by forgetting the least urgent, if that is less urgent than this.
    fn gives_way(&mut self, rank: &(Class, i16, Target)) -> bool {
        let idle =
            |last: &&(Class, i16, Target)| self.known.get(&last.2).is_some_and(|known| known.in_flight.is_none());
        let Some(last) = self.order.iter().rev().find(idle).copied().filter(|last| last > rank) else { return false };
        self.take_out(last.2);
        true
    }

    fn take_out(&mut self, target: Target) -> Option<Known> {
        let known = self.known.remove(&target)?;
        self.order.remove(&known.rank(target));
        Some(known)
    }

    fn put_in(&mut self, target: Target, known: Known) {
        self.order.insert(known.rank(target));
        self.known.insert(target, known);
    }

    /// What to do now, if anything; it is in flight until [`Steward::done`] or [`Steward::failed`].
    pub fn next(&mut self, now: Instant) -> Option<Need> {
        Some(self.next_of(now)?.1)
    }

    /// The same, with why. Of a segment that waits for several reasons the most urgent pieces come alone.
    pub fn next_of(&mut self, now: Instant) -> Option<(Class, Need)> {
        self.now = self.now.max(now);
        let mut filled = None;
        let mut found = None;
        for (class, _, target) in &self.order {
            let Some(known) = self.known.get(target) else { continue };
            let press = known.press();
            // Whatever comes later in order may have less.
            if self.in_flight >= self.dial.slots(press) {
                return None;
            }
            if known.in_flight.is_some() || known.not_before > now {
                continue;
            }
            if filled.replace(press).is_none() {
                self.dial.fill(now, press);
            }
            if self.dial.opens(press).is_none_or(|opens| opens > now) {
                return None;
            }
            found = Some((*class, *target));
            break;
        }
        let (class, target) = found?;
        let known = self.known.get_mut(&target)?;
        known.in_flight = Some(class);
        self.in_flight += 1;
        let missing = known.of(class);
        self.dial.spend(known.press(), known.piece_bytes.saturating_mul(missing.len() as u64));
        self.tallies[class as usize].rate.begin(now);
        Some((class, Need { target, missing, parity: known.parity, piece_bytes: known.piece_bytes }))
    }

    /// When [`Steward::next`] may have something that it doesn't have now.
    pub fn deadline(&self) -> Option<Instant> {
        let waits = self.known.values().filter(|known| known.in_flight.is_none());
        waits.filter_map(|known| Some(known.not_before.max(self.dial.opens(known.press())?))).min()
    }

    /// These pieces are there again. What else the segment lacks stays known.
    pub fn done(&mut self, target: Target, rebuilt: &[u8], bytes: u64) {
        let class = self.landed(target).unwrap_or(Class::Repair);
        let tally = &mut self.tallies[class as usize];
        tally.done.done_pieces += rebuilt.len() as u64;
        tally.done.done_bytes += bytes;
        tally.expected = tally.expected.saturating_sub(bytes);
        tally.rate.add(self.now, bytes);
        let Some(mut known) = self.take_out(target) else { return };
        rebuilt.iter().for_each(|index| _ = known.wants.remove(index));
        known.failures = 0;
        if !known.wants.is_empty() {
            self.put_in(target, known);
        }
    }

    /// It didn't work: it is tried again later.
    pub fn failed(&mut self, target: Target, now: Instant) {
        self.now = self.now.max(now);
        let class = self.landed(target).unwrap_or(Class::Repair);
        self.tallies[class as usize].done.failures += 1;
        if let Some(known) = self.known.get_mut(&target) {
            known.failures += 1;
            let wait = BACKOFF_MIN.saturating_mul(1 << known.failures.min(10)).min(BACKOFF_MAX);
            known.not_before = now + wait;
        }
    }

    /// The segment needs nothing any more: it was deleted, or its pieces came back.
    pub fn forget(&mut self, target: Target) {
        self.landed(target);
        self.take_out(target);
    }

    /// Something changed for the better (a drive came): failures are tried again at once.
    pub fn retry(&mut self) {
        self.known.values_mut().for_each(|known| known.not_before = Instant(0));
    }

    fn landed(&mut self, target: Target) -> Option<Class> {
        let class = self.known.get_mut(&target)?.in_flight.take()?;
        self.in_flight -= 1;
        Some(class)
    }

    /// Whether a segment of this group still has a piece to make.
    pub fn is_open(&self, policy: PolicyId, group: GroupId) -> bool {
        self.known.keys().any(|target| (target.policy, target.group) == (policy, group))
    }

    /// Spare pieces of the worst segment known here; of those that lack any, if there are such.
    pub fn worst(&self) -> Option<i16> {
        self.order.first().map(|(_, spare, _)| *spare)
    }

    /// What is left and what was done, of all classes together.
    pub fn progress(&self) -> Progress {
        let mut all = Progress::default();
        for class in Class::ALL {
            let one = self.tallies[class as usize].done;
            all.done_pieces += one.done_pieces;
            all.done_bytes += one.done_bytes;
            all.failures += one.failures;
        }
        for known in self.known.values() {
            all.pieces += known.wants.len() as u64;
            all.bytes += known.wants.len() as u64 * known.piece_bytes;
        }
        all
    }

    /// What is left of one class, what was done, how fast it goes and how long it takes.
    pub fn progress_of(&self, class: Class, now: Instant) -> ClassProgress {
        let tally = &self.tallies[class as usize];
        let mut sum = tally.done;
        for known in self.known.values() {
            let pieces = known.wants.values().filter(|of| **of == class).count() as u64;
            sum.pieces += pieces;
            sum.bytes += pieces * known.piece_bytes;
        }
        sum.bytes = sum.bytes.max(tally.expected);
        let bytes_per_s = tally.rate.per_s(now);
        ClassProgress { sum, bytes_per_s, eta: eta(sum.bytes, bytes_per_s) }
    }
}

#[cfg(test)]
mod tests {
    use base::{SegmentId, VolumeId};

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
