//! Tables of groups over failure domains.
//!
//! One rule for all of them: a position goes to the least full drive that keeps within the caps.
//! With caps on domains that lie within each other (drive, node, rack, site, country) this always
//! completes a group if any choice does (the sets that keep within the caps are the independent
//! sets of a laminar matroid: whoever takes greedily ends with a largest one). Owners and models cut
//! across; where the caps together can't be kept, the least important gives way first.

use std::collections::{BTreeMap, BTreeSet};

use base::{Domain, DriveId, GroupId};

use crate::caps::{Caps, Spec, Unmet};
use crate::group::GroupRow;
use crate::place::Places;
use crate::table::{GROUPS_MAX, group_count};

/// Caps give way in this order where they can't all be kept.
const GIVE_WAY: [Domain; 6] = [Domain::Model, Domain::Owner, Domain::Country, Domain::Rack, Domain::Site, Domain::Node];
/// By how many positions a drive may be fuller than the emptiest to be taken for the sake of the goal.
const GOAL_POSITIONS: u64 = 2;
/// How many times its even share of what has to be rebuilt a drive takes, while others are free: pieces that are
/// missing go to many drives at once, or one empty drive would have to write them all. Evenness can wait.
const REBUILD_SHARES: usize = 4;

/// A number that looks random but depends on its arguments only: breaks ties, so that the groups of
/// equal drives are all kinds of combinations (SplitMix64's finaliser over the parts).
pub(crate) fn scatter(id: &[u8], salt: u64) -> u64 {
    let mut z = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for part in id.chunks(8) {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        z = (z ^ u64::from_le_bytes(word)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^= z >> 29;
    }
    z.wrapping_mul(0x94d0_49bb_1331_11eb) ^ (z >> 31)
}

/// A whole new table. Empty if there are fewer open drives than pieces.
pub fn build(places: &Places, spec: &Spec, caps: &Caps) -> Vec<GroupRow> {
    let mut filler = Filler::new(places, caps, &[]);
    filler.add(spec.n(), 0, group_count(places.open().count(), spec.n()))
}

/// Groups that a table gets when drives joined that are in none of its groups; what exists stays.
/// Each new group holds as many of the new drives as the caps allow.
pub fn grow(places: &Places, spec: &Spec, caps: &Caps, rows: &[GroupRow]) -> Vec<GroupRow> {
    let n = spec.n();
    let mut is_named = vec![false; places.list().len()];
    for index in rows.iter().flat_map(|row| &row.members).filter_map(|drive| places.index(*drive)) {
        is_named[index] = true;
    }
    let drives = places.open().count();
    let new = places.open().filter(|(index, _)| !is_named[*index]).count();
    if drives < n || (new == 0 && !rows.is_empty()) {
        return Vec::new();
    }
    let whole = group_count(drives, n);
    let share = (whole * new).div_ceil(drives.max(1));
    let count = whole.saturating_sub(rows.len()).max(share).min(GROUPS_MAX.saturating_sub(rows.len()));
    let first = rows.iter().map(|row| row.group.0.saturating_add(1)).max().unwrap_or(0);
    Filler::new(places, caps, rows).add(n, first, count)
}

/// The rows that change when the drives in `gone` no longer hold pieces: each of their positions goes
/// to another. A row for which there is none stays as it is. `from` keeps where the pieces were, until
/// they are moved or rebuilt.
pub fn replace(places: &Places, caps: &Caps, rows: &[GroupRow], gone: &BTreeSet<DriveId>) -> Vec<GroupRow> {
    replace_among(places, caps, loads(places, rows), rows, gone)
}

/// Positions that each place holds in a table, in the order of [`Places::list`].
pub fn loads(places: &Places, rows: &[GroupRow]) -> Vec<u64> {
    let mut loads = vec![0; places.list().len()];
    for index in rows.iter().flat_map(|row| &row.members).filter_map(|drive| places.index(*drive)) {
        loads[index] += 1;
    }
    loads
}

/// The same as [`replace`] for whoever keeps the [`loads`] of a large table and knows which of its rows name
/// the drives: the others needn't be looked at.
pub fn replace_among<'r>(
    places: &Places,
    caps: &Caps,
    loads: Vec<u64>,
    rows: impl IntoIterator<Item = &'r GroupRow>,
    gone: &BTreeSet<DriveId>,
) -> Vec<GroupRow> {
    let mut filler = Filler::with_loads(places, caps, loads);
    let rows: Vec<&GroupRow> =
        rows.into_iter().filter(|row| row.members.iter().any(|drive| gone.contains(drive))).collect();
    let positions = rows.iter().flat_map(|row| &row.members).filter(|drive| gone.contains(drive)).count();
    let each = (positions * REBUILD_SHARES).div_ceil(places.open().count().max(1));
    let mut taken: BTreeMap<usize, usize> = BTreeMap::new();
    let mut changed = Vec::new();
    for row in rows {
        let mut now = row.clone();
        for at in (0..row.members.len()).filter(|at| gone.contains(&row.members[*at])) {
            // Where the other pieces are, or are about to be.
            let mut held = filler.indices(&now.members);
            held.retain(|index| !gone.contains(&places.list()[*index].drive));
            let barred: Vec<usize> = filler.indices(&now.members);
            let is_gone = |index: usize| gone.contains(&places.list()[index].drive);
            let free = |index: usize| !is_gone(index) && !barred.contains(&index);
            let has_share = |index: usize| taken.get(&index).is_none_or(|count| *count < each);
            let mut picked = filler.pick(&held, 1, |index| free(index) && has_share(index));
            if !filler.keeps(&held, &picked) {
                picked = filler.pick(&held, 1, free);
            }
            if let Some(index) = picked.first() {
                filler.take(*index);
                *taken.entry(*index).or_insert(0) += 1;
                now.members[at] = places.list()[*index].drive;
            }
        }
        if now.members != row.members {
            now.version += 1;
            changed.push(now);
        }
    }
    changed
}

/// Gives positions to drives, least full first.
pub(crate) struct Filler<'a> {
    places: &'a Places,
    caps: &'a Caps,
    /// Positions that each place holds.
    loads: Vec<u64>,
    /// Open places, the least full first.
    order: BTreeSet<(u128, u64, usize)>,
}

impl<'a> Filler<'a> {
    pub(crate) fn new(places: &'a Places, caps: &'a Caps, rows: &[GroupRow]) -> Self {
        Self::with_loads(places, caps, loads(places, rows))
    }

    fn with_loads(places: &'a Places, caps: &'a Caps, loads: Vec<u64>) -> Self {
        let mut filler = Self { places, caps, loads, order: BTreeSet::new() };
        filler.order = places.open().map(|(index, _)| filler.key(index)).collect();
        filler
    }

    /// How full a place would be with one more position, comparable between drives of any weight.
    fn key(&self, index: usize) -> (u128, u64, usize) {
        let load = self.loads[index];
        let full = (u128::from(load + 1) << 64) / u128::from(self.caps.weights[index].max(1));
        (full, scatter(&self.places.list()[index].drive.0, load), index)
    }

    fn change(&mut self, index: usize, change: impl Fn(u64) -> u64) {
        let was = self.order.remove(&self.key(index));
        self.loads[index] = change(self.loads[index]);
        if was {
            self.order.insert(self.key(index));
        }
    }

    fn take(&mut self, index: usize) {
        self.change(index, |load| load + 1);
    }

    fn indices(&self, drives: &[DriveId]) -> Vec<usize> {
        drives.iter().filter_map(|drive| self.places.index(*drive)).collect()
    }

    /// `count` groups of `n` from group number `first` on.
    pub(crate) fn add(&mut self, n: usize, first: u32, count: usize) -> Vec<GroupRow> {
        let mut rows = Vec::with_capacity(count);
        for group in (first..=u32::MAX).take(count) {
            let picked = self.pick(&[], n, |_| true);
            if n == 0 || picked.len() < n {
                break;
            }
            for index in &picked {
                self.take(*index);
            }
            let mut members: Vec<DriveId> = picked.iter().map(|index| self.places.list()[*index].drive).collect();
            // Which of them holds which index is spread as well: data pieces are read more often.
            members.sort_by_key(|drive| (scatter(&drive.0, u64::from(group) ^ 0x5a5a_5a5a), *drive));
            rows.push(GroupRow { group: GroupId(group), version: 1, from: members.clone(), members });
        }
        rows
    }

    /// `want` places to join those `held`, within the caps as far as that is possible.
    fn pick(&self, held: &[usize], want: usize, free: impl Fn(usize) -> bool) -> Vec<usize> {
        let free = &free;
        // The goal only among drives that are about as empty as the emptiest: balance comes first.
        let most_full = self.order.iter().find(|(_, _, index)| free(*index)).map_or(0, |(full, _, index)| {
            full + u128::from(GOAL_POSITIONS) * (1u128 << 64) / u128::from(self.caps.weights[*index].max(1))
        });
        let mut picked = Vec::new();
        self.add_within(&mut picked, held, want, &self.caps.goal, most_full, free);
        let mut most = self.caps.most;
        self.add_within(&mut picked, held, want, &most, u128::MAX, free);
        for domain in GIVE_WAY {
            if picked.len() >= want {
                break;
            }
            most[domain as usize] = usize::MAX;
            self.add_within(&mut picked, held, want, &most, u128::MAX, free);
        }
        picked
    }

    /// Whether something was picked, and it keeps the caps together with those held.
    fn keeps(&self, held: &[usize], picked: &[usize]) -> bool {
        let mut counts = Counts::default();
        held.iter().for_each(|index| counts.add(&self.places.list()[*index].at));
        picked.iter().any(|index| counts.fits(&self.places.list()[*index].at, &self.caps.most))
    }

    /// Adds places in order until there are `want`, all of them within `most` together with `held`.
    fn add_within(
        &self,
        picked: &mut Vec<usize>,
        held: &[usize],
        want: usize,
        most: &[usize; Domain::COUNT],
        fullest: u128,
        free: &impl Fn(usize) -> bool,
    ) {
        if picked.len() >= want {
            return;
        }
        let mut counts = Counts::default();
        for index in held.iter().chain(picked.iter()) {
            counts.add(&self.places.list()[*index].at);
        }
        for (_, _, index) in self.order.iter().take_while(|(full, ..)| *full <= fullest) {
            let at = &self.places.list()[*index].at;
            if counts.fits(at, most) && free(*index) {
                counts.add(at);
                picked.push(*index);
                if picked.len() >= want {
                    break;
                }
            }
        }
    }
}

/// Domains of one group's pieces. A group is small: going over it is faster than any map.
#[derive(Default)]
struct Counts(Vec<[u32; Domain::COUNT]>);

impl Counts {
    fn add(&mut self, at: &[u32; Domain::COUNT]) {
        self.0.push(*at);
    }

    fn fits(&self, at: &[u32; Domain::COUNT], most: &[usize; Domain::COUNT]) -> bool {
        (0..Domain::COUNT).all(|kind| self.0.iter().filter(|other| other[kind] == at[kind]).count() < most[kind])
    }
}

/// The table of a policy as the drives ask for it: rows that are new or changed. Drives that leave are
/// replaced, drives that joined get groups.
pub fn follow(
    places: &Places,
    spec: &Spec,
    rows: &[GroupRow],
    leaving: &BTreeSet<DriveId>,
) -> (Vec<GroupRow>, Option<Unmet>) {
    let (caps, unmet) = Caps::best(places, spec);
    let mut now: BTreeMap<GroupId, GroupRow> = rows.iter().map(|row| (row.group, row.clone())).collect();
    for row in replace(places, &caps, rows, leaving) {
        now.insert(row.group, row);
    }
    let all: Vec<GroupRow> = now.into_values().collect();
    let added = grow(places, spec, &caps, &all);
    let old: BTreeMap<GroupId, &GroupRow> = rows.iter().map(|row| (row.group, row)).collect();
    let changed = all.into_iter().chain(added).filter(|row| old.get(&row.group) != Some(&row)).collect();
    (changed, unmet)
}
