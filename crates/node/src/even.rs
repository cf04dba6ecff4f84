//! What is stored is evened out over the drives: after a machine joined, came back larger, or many objects went.
//!
//! One node does it for all, whoever leads the catalog. It asks [`placement::rebalance`] for the next wave, a function of
//! the map and of what groups hold, and makes it the groups' target in one batch; pieces then move as they do when a drive
//! is drained, and nothing has to be remembered. Repair comes first: no wave begins while segments lack pieces.

use std::sync::Arc;
use std::time::Duration;

use base::kv::Batch;
use base::{DriveId, Instant};
use codec::Versioned;
use namespace::catalog::{self, Severity};
use placement::map::State;
use placement::rebalance::{self, Limits, Why};

use crate::error::Result;
use crate::gate::placed;
use crate::groups;
use crate::node::Inner;

/// Positions under way at a time: a piece or two for each of a few dozen drives.
const IN_FLIGHT: usize = 48;
/// How soon after a wave it is looked whether it has arrived.
const NEXT: Duration = Duration::from_secs(5);
/// A drive that holds so much more than its share, in thousandths, is a reason to begin. Waves then follow each other to the
/// tolerance of [`Limits`], which is lower: what users write and delete all the time doesn't begin one after the other.
const UNEVEN_PERMILLE: u64 = 60;
/// The same for one that holds less.
const EMPTY_PERMILLE: u64 = 100;
/// What moved less than one part in so many of all that is stored could have waited: the next time does, twice as
/// long each time.
const WORTHWHILE: u64 = 50;
/// But no longer than this.
const WAIT_MAX: Duration = Duration::from_secs(3600);
/// Of the time at most a part in so many goes into finding out what groups hold.
const LOOK_SHARE: u32 = 20;

/// Evens out until the node is closed.
pub(crate) async fn keep(inner: Arc<Inner>) {
    let every = inner.settings.even_every;
    let mut pause = every;
    let now = inner.env.clock.now();
    let mut course = Course { budget: None, moved: 0, wait: every, not_before: now, drives: Vec::new() };
    while inner.pause(pause).await {
        pause = every;
        if !inner.system.is_led_here() {
            continue;
        }
        let began = inner.env.clock.now();
        match inner.unless_closing(inner.even_out(&mut course)).await {
            // The next wave follows soon.
            Some(Ok(true)) => pause = every.min(NEXT),
            Some(Ok(false)) | None => {}
            Some(Err(error)) => tracing::debug!(%error, "nothing can be evened out now: trying again"),
        }
        pause = pause.max(inner.env.clock.now().since(began) * LOOK_SHARE);
    }
}

/// Wave after wave, from where drives are uneven to where they are not.
struct Course {
    /// Bytes of pieces that may still move, while one is under way: what was off at its beginning and a fifth. Users who write
    /// and delete meanwhile make other drives uneven, and it would never end.
    budget: Option<u64>,
    /// Bytes of pieces that it moved.
    moved: u64,
    /// How long after a small one nothing new begins, unless drives come or go.
    wait: Duration,
    not_before: Instant,
    drives: Vec<(DriveId, State)>,
}

impl Course {
    fn drives_are(&mut self, drives: Vec<(DriveId, State)>, every: Duration, now: Instant) {
        if self.drives != drives {
            (self.drives, self.wait, self.not_before) = (drives, every, now);
        }
    }

    fn end(&mut self, stored: u64, every: Duration, now: Instant) {
        // Where nothing could be done nothing was wasted.
        if self.budget.take().is_some() && self.moved > 0 {
            let is_worthwhile = self.moved >= stored / WORTHWHILE;
            self.wait = if is_worthwhile { every } else { (self.wait * 2).min(WAIT_MAX) };
            self.not_before = now + self.wait;
        }
    }
}

impl Inner {
    /// Begins the next wave, if there is something to even out and nothing more urgent. Whether one is under way then.
    async fn even_out(&self, course: &mut Course) -> Result<bool> {
        let map = self.map()?;
        let is_moving = map.policies.iter().flat_map(|policy| &policy.groups).any(|row| row.moving().next().is_some());
        if map.drives.len() < 2 || is_moving || self.lacking().await?.any() {
            return Ok(is_moving);
        }
        let (held, up) = (self.held().await?, self.up());
        let down = map.drives.iter().map(|drive| drive.id).filter(|id| !up.contains(id)).collect();
        let stored: u64 = held.values().map(|held| held.bytes).sum();
        let held = |policy, group| held.get(&(policy, group)).copied().unwrap_or_default();
        let limits = Limits { in_flight: IN_FLIGHT, ..Limits::default() };
        let mut moves = rebalance::next(&map, &down, limits, &held);
        let (now, every) = (self.env.clock.now(), self.settings.even_every);
        course.drives_are(map.drives.iter().map(|drive| (drive.id, map.drive_state(drive))).collect(), every, now);
        if course.budget.is_none() && now >= course.not_before {
            let tables = rebalance::evenness(&map, &down, limits, &held);
            let is_uneven = tables.iter().any(|(_, even)| {
                even.fullest_permille > 1000 + UNEVEN_PERMILLE || even.emptiest_permille < 1000 - EMPTY_PERMILLE
            });
            let off: u64 = tables.iter().map(|(_, even)| even.bytes_left).sum();
            if is_uneven {
                (course.budget, course.moved) = (Some(off + off / 5), 0);
            }
        }
        // Positions are whole: the last one may take more than is left.
        let mut left = course.budget;
        moves.retain(|one| match one.why {
            Why::Spread | Why::Leave => true,
            Why::Free => left.is_some(),
            Why::Load => {
                let may = left.is_some_and(|left| left > 0);
                left = left.map(|left| left.saturating_sub(one.bytes));
                may
            }
        });
        if moves.is_empty() {
            course.end(stored, every, now);
            return Ok(false);
        }
        let bytes: u64 = moves.iter().map(|one| one.bytes).sum();
        let seen = placed(&map);
        let begun = self.change(|view| {
            let mut batch = Batch::default();
            // Whatever else changed comes first.
            if placed(&self.map_of(view)?) != seen {
                return Ok((batch, false));
            }
            for (policy, rows) in groups::load(view)? {
                let mut next = rows.clone();
                rebalance::apply(policy.id, &mut next, &moves);
                for row in next.into_iter().filter(|row| !rows.contains(row)) {
                    batch.puts.extend(catalog::put_group(policy.id, row.group, &row.encode()).puts);
                }
            }
            Ok((batch, true))
        });
        if begun.await? {
            (course.budget, course.moved) = (left, course.moved + bytes);
            self.client.map_changed();
            self.wake.notify_one();
            let count = moves.iter().filter(|one| one.why != Why::Free).count();
            if count > 0 {
                let text =
                    format!("{count} positions of placement groups with {bytes} bytes move, to even out the drives");
                self.tell(Severity::Info, "rebalance", "", text);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(60);

    fn at(secs: u64) -> Instant {
        Instant(0) + Duration::from_secs(secs)
    }

    fn course() -> Course {
        Course { budget: None, moved: 0, wait: EVERY, not_before: at(0), drives: Vec::new() }
    }

    #[test]
    fn what_was_hardly_worth_it_waits_twice_as_long_each_time_and_new_drives_end_that() {
        let mut course = course();
        for (moved, wait) in [(19, 120), (1, 240), (20, 60), (5, 120), (0, 120)] {
            (course.budget, course.moved) = (Some(0), moved);
            course.end(1000, EVERY, at(500));
            assert_eq!((course.budget, course.wait), (None, Duration::from_secs(wait)), "{moved} of 1000 moved");
        }
        for _ in 0..20 {
            (course.budget, course.moved) = (Some(0), 1);
            course.end(1000, EVERY, at(500));
        }
        assert_eq!((course.wait, course.not_before), (WAIT_MAX, at(500) + WAIT_MAX));
        let drives = vec![(DriveId([1; 16]), State::Active)];
        course.drives_are(drives.clone(), EVERY, at(600));
        assert_eq!((course.wait, course.not_before), (EVERY, at(600)));
        course.drives_are(drives, EVERY, at(700));
        assert_eq!(course.not_before, at(600), "nothing came and nothing went");
    }

    #[test]
    fn who_finds_nothing_to_do_may_look_again_at_once() {
        let mut course = course();
        course.end(1000, EVERY, at(5));
        (course.budget, course.moved) = (Some(7), 0);
        course.end(1000, EVERY, at(5));
        assert_eq!((course.budget, course.not_before), (None, at(0)));
    }
}
