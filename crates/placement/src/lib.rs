//! Placement groups: which drives hold the pieces of which segments.
//!
//! Per policy there is an explicit table of groups, each an ordered tuple of distinct drives; a
//! manifest names (policy, group) and never changes when the table does. Everything here is a pure
//! function of its arguments: same drives, same table, on any node. Doesn't know why it is asked.
#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::collections::BTreeMap;

use base::limits::CODE_PIECES_MAX;
use base::{DriveId, GroupId};
use codec::{Error, Reader, Versioned, Writer};

/// A drive that may hold pieces, with its weight: its capacity in any unit, not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The drive.
    pub drive: DriveId,
    /// Its capacity.
    pub weight: u64,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRow {
    /// Its number within the policy.
    pub group: GroupId,
    /// Raised with every change.
    pub version: u32,
    /// Drive i holds piece i.
    pub members: Vec<DriveId>,
    /// Where piece i still may be while it is moving; the same as `members` where settled.
    pub from: Vec<DriveId>,
}

impl GroupRow {
    /// The drives to ask for piece `index`, most likely first.
    pub fn holders(&self, index: usize) -> impl Iterator<Item = DriveId> + '_ {
        let now = self.members.get(index).copied();
        let before = self.from.get(index).copied().filter(|drive| Some(*drive) != now);
        now.into_iter().chain(before)
    }

    /// Positions whose pieces are still being moved or rebuilt.
    pub fn moving(&self) -> impl Iterator<Item = usize> + '_ {
        self.members.iter().zip(&self.from).enumerate().filter(|(_, (now, before))| now != before).map(|(at, _)| at)
    }

    /// Says that all pieces are where `members` says.
    pub fn settle(&mut self) {
        self.from.clone_from(&self.members);
        self.version += 1;
    }
}

impl Versioned for GroupRow {
    const NAME: &'static str = "placement group";
    const MARK: [u8; 4] = *b"AbGr";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u32(self.group.0).u32(self.version).u8(self.members.len() as u8);
        for drive in self.members.iter().chain(&self.from) {
            to.raw(&drive.0);
        }
    }

    fn decode_body(_version: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        let group = GroupId(from.u32("group")?);
        let version = from.u32("group version")?;
        let n = usize::from(from.u8("group size")?);
        if n == 0 || n > CODE_PIECES_MAX {
            return Err(Error::Value { what: "group size", value: n as u64 });
        }
        let mut drives = |what| (0..n).map(|_| Ok(DriveId(from.array(what)?))).collect::<Result<Vec<_>, Error>>();
        let members = drives("group member")?;
        let before = drives("group member before")?;
        Ok(Self { group, version, members, from: before })
    }
}

/// How many groups a policy of n pieces gets on so many drives: about a hundred a drive, so that a
/// lost drive's pieces are rebuilt from and onto all others; no more than that, so that the number of
/// drive tuples whose loss hurts stays small (Cidon et al., "Copysets", 2013).
pub fn group_count(drives: usize, n: usize) -> usize {
    if drives <= 1 { 1 } else { (drives * 96).div_ceil(n.max(1)).clamp(12, 4096) }
}

/// Pieces that each drive holds, in positions.
fn loads(rows: &[GroupRow]) -> BTreeMap<DriveId, u64> {
    let mut loads = BTreeMap::new();
    for drive in rows.iter().flat_map(|row| &row.members) {
        *loads.entry(*drive).or_insert(0) += 1;
    }
    loads
}

/// How full a drive would be with one more position, comparable between drives of any weight.
fn fullness(loads: &BTreeMap<DriveId, u64>, candidate: &Candidate) -> u128 {
    let load = loads.get(&candidate.drive).copied().unwrap_or(0);
    (u128::from(load + 1) << 64) / u128::from(candidate.weight.max(1))
}

/// A number that looks random but depends on its arguments only: breaks ties, so that the groups of
/// equal drives are all kinds of combinations (SplitMix64's finaliser over the parts).
fn scatter(drive: DriveId, group: u32) -> u64 {
    let mut z = u64::from(group).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for part in drive.0.chunks_exact(8) {
        let mut word = [0; 8];
        word.copy_from_slice(part);
        z = (z ^ u64::from_le_bytes(word)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^= z >> 29;
    }
    z.wrapping_mul(0x94d0_49bb_1331_11eb) ^ (z >> 31)
}

/// A table of `count` groups of `n` drives each, from group number `first` on, that evens out what
/// `existing` rows put on the drives. Empty if there are fewer than `n` drives.
pub fn build(drives: &[Candidate], n: usize, first: u32, count: usize, existing: &[GroupRow]) -> Vec<GroupRow> {
    if n == 0 || drives.len() < n {
        return Vec::new();
    }
    let mut loads = loads(existing);
    let mut rows = Vec::with_capacity(count);
    for group in (first..).take(count) {
        let mut order: Vec<&Candidate> = drives.iter().collect();
        order.sort_by_key(|one| (fullness(&loads, one), scatter(one.drive, group), one.drive));
        let mut members: Vec<DriveId> = order[..n].iter().map(|one| one.drive).collect();
        for drive in &members {
            *loads.entry(*drive).or_insert(0) += 1;
        }
        // Which of them holds which index is spread as well: data pieces are read more often.
        members.sort_by_key(|drive| (scatter(*drive, group ^ 0x5a5a_5a5a), *drive));
        rows.push(GroupRow { group: GroupId(group), version: 1, from: members.clone(), members });
    }
    rows
}

/// The rows that change when `gone` no longer holds pieces: each of its positions goes to the least
/// full drive that isn't in the group yet. A row for which there is none stays as it is.
/// `from` keeps where the pieces were, until they are moved or rebuilt.
pub fn replace(rows: &[GroupRow], gone: DriveId, drives: &[Candidate]) -> Vec<GroupRow> {
    let mut loads = loads(rows);
    let mut changed = Vec::new();
    for row in rows {
        let Some(at) = row.members.iter().position(|drive| *drive == gone) else { continue };
        let free = drives.iter().filter(|one| one.drive != gone && !row.members.contains(&one.drive));
        let Some(best) = free.min_by_key(|one| (fullness(&loads, one), scatter(one.drive, row.group.0), one.drive))
        else {
            continue;
        };
        *loads.entry(best.drive).or_insert(0) += 1;
        let mut row = row.clone();
        row.members[at] = best.drive;
        row.version += 1;
        changed.push(row);
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drives(count: u8, weight: impl Fn(u8) -> u64) -> Vec<Candidate> {
        (0..count).map(|at| Candidate { drive: DriveId([at + 1; 16]), weight: weight(at) }).collect()
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

    #[test]
    fn a_row_is_read_back_and_its_bytes_never_change() {
        let row = GroupRow {
            group: GroupId(7),
            version: 2,
            members: vec![DriveId([1; 16]), DriveId([2; 16])],
            from: vec![DriveId([1; 16]), DriveId([3; 16])],
        };
        let bytes = row.encode();
        assert_eq!(base::ids::hex(&bytes), include_str!("../tests/group.txt").trim());
        assert_eq!(GroupRow::decode(&bytes).unwrap(), row);
        assert_eq!(row.holders(1).collect::<Vec<_>>(), [DriveId([2; 16]), DriveId([3; 16])]);
        for cut in 0..bytes.len() {
            assert!(GroupRow::decode(&bytes[..cut]).is_err());
        }
    }
}
