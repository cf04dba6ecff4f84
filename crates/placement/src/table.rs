//! Tables of one machine, whose drives are all that can fail alone.

use std::collections::BTreeSet;

use base::DriveId;

use crate::caps::{Caps, Spec};
use crate::group::GroupRow;
use crate::place::Places;
use crate::spread::{self, Filler};

/// Positions that a drive should have: about a hundred, so that a lost drive's pieces are rebuilt from
/// and onto all others; no more than that, so that the number of drive tuples whose loss hurts
/// stays small (Cidon et al., "Copysets", 2013).
const POSITIONS_PER_DRIVE: usize = 96;
/// Groups of a policy at the most: 10,000 drives in pairs would fill it, and its row is 50 bytes.
pub const GROUPS_MAX: usize = 1 << 19;

/// A drive that may hold pieces, with its weight: its capacity in any unit, not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The drive.
    pub drive: DriveId,
    /// Its capacity.
    pub weight: u64,
}

/// How many groups a policy of n pieces gets on so many drives.
pub fn group_count(drives: usize, n: usize) -> usize {
    if drives <= 1 { 1 } else { (drives * POSITIONS_PER_DRIVE).div_ceil(n.max(1)).clamp(12, GROUPS_MAX) }
}

fn plain(drives: &[Candidate], n: usize) -> (Places, Caps) {
    let places = Places::plain(drives.iter().map(|one| (one.drive, one.weight)));
    let (caps, _) = Caps::best(&places, &Spec::new(n.min(usize::from(u8::MAX)) as u8, 0));
    (places, caps)
}

/// A table of `count` groups of `n` drives each, from group number `first` on, that evens out what
/// `existing` rows put on the drives. Empty if there are fewer than `n` drives.
pub fn build(drives: &[Candidate], n: usize, first: u32, count: usize, existing: &[GroupRow]) -> Vec<GroupRow> {
    let (places, caps) = plain(drives, n);
    Filler::new(&places, &caps, existing).add(n, first, count)
}

/// The rows that change when `gone` no longer holds pieces: each of its positions goes to the least
/// full drive that isn't in the group yet. A row for which there is none stays as it is.
/// `from` keeps where the pieces were, until they are moved or rebuilt.
pub fn replace(rows: &[GroupRow], gone: DriveId, drives: &[Candidate]) -> Vec<GroupRow> {
    let n = rows.first().map_or(1, |row| row.members.len());
    let (places, caps) = plain(drives, n);
    spread::replace(&places, &caps, rows, &BTreeSet::from([gone]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drives(count: u8, weight: impl Fn(u8) -> u64) -> Vec<Candidate> {
        (0..count).map(|at| Candidate { drive: DriveId([at + 1; 16]), weight: weight(at) }).collect()
    }

    fn loads(rows: &[GroupRow]) -> std::collections::BTreeMap<DriveId, u64> {
        let mut loads = std::collections::BTreeMap::new();
        for drive in rows.iter().flat_map(|row| &row.members) {
            *loads.entry(*drive).or_insert(0) += 1;
        }
        loads
    }

    fn fullest(rows: &[GroupRow], drives: &[Candidate]) -> f64 {
        let loads = loads(rows);
        let weight: u64 = drives.iter().map(|one| one.weight).sum();
        let pieces: u64 = loads.values().sum();
        let share = |one: &Candidate| {
            let load = loads.get(&one.drive).copied().unwrap_or(0) as f64;
            load / pieces as f64 / (one.weight as f64 / weight as f64)
        };
        drives.iter().map(share).fold(0.0, f64::max)
    }

    #[test]
    fn groups_are_distinct_drives_and_even() {
        for (count, n) in [(6, 5), (7, 6), (12, 9), (13, 12), (30, 12)] {
            for weight in [(|_| 100) as fn(u8) -> u64, |at| 100 + u64::from(at % 3) * 20] {
                let drives = drives(count, weight);
                let rows = build(&drives, n, 0, group_count(drives.len(), n), &[]);
                for row in &rows {
                    let mut members = row.members.clone();
                    members.sort();
                    members.dedup();
                    assert_eq!(members.len(), n);
                    assert_eq!(row.moving().count(), 0);
                }
                // With nearly as many positions as drives, unequal weights can't be met.
                if weight(0) == weight(1) || count >= 30 {
                    assert!(fullest(&rows, &drives) <= 1.05, "{count} drives, {n}: {}", fullest(&rows, &drives));
                }
                assert_eq!(rows, build(&drives, n, 0, group_count(drives.len(), n), &[]));
            }
        }
        assert!(build(&drives(3, |_| 1), 4, 0, 10, &[]).is_empty());
    }

    #[test]
    fn every_position_is_spread_over_the_drives() {
        let drives = drives(6, |_| 1);
        let rows = build(&drives, 5, 0, 120, &[]);
        for position in 0..5 {
            for one in &drives {
                let held = rows.iter().filter(|row| row.members[position] == one.drive).count();
                assert!((8..=36).contains(&held), "position {position}: {held} of 120");
            }
        }
    }

    #[test]
    fn a_gone_drive_is_replaced_where_another_is_free_and_nothing_else_moves() {
        let drives = drives(8, |_| 1);
        let rows = build(&drives, 6, 0, 128, &[]);
        let gone = drives[2].drive;
        let changed = replace(&rows, gone, &drives);
        assert_eq!(changed.len(), rows.iter().filter(|row| row.members.contains(&gone)).count());
        for row in &changed {
            let before = &rows[row.group.0 as usize];
            assert_eq!(row.moving().count(), 1);
            assert_eq!(row.from, before.members);
            assert!(!row.members.contains(&gone));
            assert_eq!(row.version, before.version + 1);
        }
        let few = &drives[..6];
        let rows = build(few, 6, 0, 12, &[]);
        assert!(replace(&rows, gone, few).is_empty(), "no drive is free");
    }
}
