//! Who uses which segment: reference counts, owners of pack slots, garbage.
//!
//! 1. A segment has a row in `R` exactly while a version or part names it; `refs` says how often.
//! 2. When the last one goes, the segment is in `G` exactly once, until its pieces are deleted.
//! 3. A segment in `G`, or deleted less than [`TOMB_MS`] ago, can't come back: whoever collects
//!    garbage may be deleting pieces right now. A writer that comes so late is told to write again.
//! 4. A pack's `K` rows say who owns each slot; its `L` row sorts it by live share.

use std::collections::BTreeMap;

use base::{GroupId, PolicyId, SegmentId};
use codec::Versioned;

use crate::change::{Change, less, more};
use crate::error::Error;
use crate::keys::{Table, tail};
use crate::rows::{GarbageRow, MissingRow, Owner, PackState, SegmentRow, SlotRow, TombRow};
use crate::types::{Body, SegmentRef, Slot};

/// How long a deleted segment is remembered: far longer than any write is under way.
pub const TOMB_MS: u64 = 24 * 3600 * 1000;

/// Changes of segment uses that one command makes, netted: what a command takes and gives back
/// in one go costs nothing.
#[derive(Default)]
pub(crate) struct Uses {
    segments: BTreeMap<(PolicyId, GroupId, SegmentId), SegmentUse>,
    slots: BTreeMap<(SegmentId, u32), SlotUse>,
}

struct SegmentUse {
    k: u8,
    m: u8,
    len: u64,
    pack: bool,
    delta: i64,
}

struct SlotUse {
    len: u32,
    owners: BTreeMap<u64, (i64, Owner)>,
}

impl Uses {
    pub fn add(&mut self, body: &Body, ord: u64, owner: &Owner) {
        self.each(body, ord, owner, 1);
    }

    pub fn remove(&mut self, body: &Body, ord: u64, owner: &Owner) {
        self.each(body, ord, owner, -1);
    }

    fn each(&mut self, body: &Body, ord: u64, owner: &Owner, by: i64) {
        match body {
            Body::Inline(_) | Body::Unloaded => {}
            Body::Packed(segment, slot) => {
                self.count(segment, true, by);
                self.slot(segment.id, slot, ord, owner, by);
            }
            Body::Segments(segments) => segments.iter().for_each(|segment| self.count(segment, false, by)),
            // Never nested, so one level deep.
            Body::Spans(spans) => spans.iter().for_each(|span| self.each(&span.body, ord, owner, by)),
        }
    }

    fn count(&mut self, segment: &SegmentRef, pack: bool, by: i64) {
        let (k, m, len) = (segment.k, segment.m, segment.len);
        let key = (segment.policy, segment.group, segment.id);
        self.segments.entry(key).or_insert(SegmentUse { k, m, len, pack, delta: 0 }).delta += by;
    }

    fn slot(&mut self, segment: SegmentId, slot: &Slot, ord: u64, owner: &Owner, by: i64) {
        let key = (segment, slot.index);
        let slot = self.slots.entry(key).or_insert_with(|| SlotUse { len: slot.len, owners: BTreeMap::new() });
        slot.owners.entry(ord).or_insert_with(|| (0, owner.clone())).0 += by;
    }

    /// Writes what changed.
    pub fn settle(mut self, change: &mut Change<'_>) -> Result<(), Error> {
        let segments = std::mem::take(&mut self.segments);
        for ((policy, group, id), used) in segments {
            if used.pack {
                self.settle_pack(change, policy, group, id, used)?;
            } else if used.delta != 0 {
                let key = change.store.keys.segment(policy, group, id);
                let row = Self::row(change, &key, id, &used)?;
                let refs = stepped(row.refs, used.delta)?;
                let row = SegmentRow { refs, ..row };
                write_row(change, key, (policy, group, id), &row);
            }
        }
        Ok(())
    }

    fn settle_pack(
        &self,
        change: &mut Change<'_>,
        policy: PolicyId,
        group: GroupId,
        id: SegmentId,
        used: SegmentUse,
    ) -> Result<(), Error> {
        let changed = self.slots.range((id, 0)..=(id, u32::MAX));
        if used.delta == 0 && changed.clone().all(|(_, slot)| slot.owners.values().all(|(by, _)| *by == 0)) {
            return Ok(());
        }
        let key = change.store.keys.segment(policy, group, id);
        let row = Self::row(change, &key, id, &used)?;
        let Some(mut pack) = row.pack else {
            return Err(Error::InvalidValue { what: "body", why: "the segment is not a pack" });
        };
        let share_before = (row.refs > 0).then(|| share(pack.live_bytes, row.len));
        for ((_, index), slot) in changed {
            settle_slot(change, &mut pack, id, *index, slot)?;
        }
        let row = SegmentRow { refs: stepped(row.refs, used.delta)?, pack: Some(pack), ..row };
        let share_after = (row.refs > 0).then(|| share(pack.live_bytes, row.len));
        if share_before != share_after {
            if let Some(before) = share_before {
                change.batch.del(change.store.keys.pack_share(before, id));
            }
            if let Some(after) = share_after {
                change.batch.put(change.store.keys.pack_share(after, id), pack_place(policy, group));
            }
        }
        write_row(change, key, (policy, group, id), &row);
        Ok(())
    }

    /// The segment's row, or a new one if the segment may come into use.
    fn row(change: &Change<'_>, key: &[u8], id: SegmentId, used: &SegmentUse) -> Result<SegmentRow, Error> {
        if let Some(row) = change.store.get::<SegmentRow>(key)? {
            let same = (row.k, row.m, row.len, row.pack.is_some()) == (used.k, used.m, used.len, used.pack);
            return if same { Ok(row) } else { Err(unlike()) };
        }
        if used.delta <= 0 {
            return Err(Error::Broken { what: "a segment in use has no row" });
        }
        let store = change.store;
        let garbage = store.view.get(&store.keys.by_segment(Table::Garbage, id))?;
        let tomb = store.view.get(&store.keys.by_segment(Table::Tomb, id))?;
        if garbage.is_some() || tomb.is_some() {
            return Err(Error::SegmentGone { segment: id });
        }
        let pack = used.pack.then_some(PackState { created: change.now, live_slots: 0, live_bytes: 0 });
        Ok(SegmentRow { k: used.k, m: used.m, len: used.len, refs: 0, pack })
    }
}

fn unlike() -> Error {
    Error::InvalidValue { what: "body", why: "a segment in it is known with another coding or length" }
}

fn stepped(count: u64, by: i64) -> Result<u64, Error> {
    count.checked_add_signed(by).ok_or(Error::Broken { what: "a segment is named more often than it is counted" })
}

/// Live share of a pack in sixteenths, rounded down.
fn share(live: u64, len: u64) -> u8 {
    (live.saturating_mul(16) / len.max(1)).min(16) as u8
}

/// The value of an `L` row: policy u16, group u32, little-endian.
pub(crate) fn pack_place(policy: PolicyId, group: GroupId) -> Vec<u8> {
    let mut value = policy.0.to_le_bytes().to_vec();
    value.extend_from_slice(&group.0.to_le_bytes());
    value
}

fn write_row(change: &mut Change<'_>, key: Vec<u8>, at: (PolicyId, GroupId, SegmentId), row: &SegmentRow) {
    let (policy, group, id) = at;
    if row.refs > 0 {
        change.batch.put(key, row.encode());
        return;
    }
    let garbage = GarbageRow { policy, group, k: row.k, m: row.m, len: row.len, freed: change.now };
    let keys = change.store.keys;
    change.batch.del(key).del(keys.by_segment(Table::Missing, id));
    change.batch.put(keys.by_segment(Table::Garbage, id), garbage.encode());
}

/// Writes the owners of one slot that changed, and what that means for the pack's live share.
fn settle_slot(
    change: &mut Change<'_>,
    pack: &mut PackState,
    segment: SegmentId,
    index: u32,
    slot: &SlotUse,
) -> Result<(), Error> {
    let store = change.store;
    // One more than ours: if somebody else owns the slot too, he is among them.
    let rows = store.scan(&store.keys.pack_slot(segment, index), slot.owners.len() + 1)?;
    let mut others = false;
    for (key, _) in &rows {
        others |= !slot.owners.contains_key(&u64::from_be_bytes(tail(key, "pack slot key")?));
    }
    let (mut before, mut after) = (others, others);
    for (ord, (by, owner)) in &slot.owners {
        let key = store.keys.pack_owner(segment, index, *ord);
        let refs = store.get::<SlotRow>(&key)?.map_or(0, |row| row.refs);
        let now = u64::from(refs).checked_add_signed(*by).and_then(|refs| u32::try_from(refs).ok());
        let now = now.ok_or(Error::Broken { what: "a pack slot is named more often than it is counted" })?;
        before |= refs > 0;
        after |= now > 0;
        match now {
            _ if now == refs => {}
            0 => {
                change.batch.del(key);
            }
            refs => {
                change.batch.put(key, SlotRow { len: slot.len, refs, owner: owner.clone() }.encode());
            }
        }
    }
    match (before, after) {
        (false, true) => {
            pack.live_slots += 1;
            more(&mut pack.live_bytes, slot.len.into())
        }
        (true, false) => {
            pack.live_slots = pack.live_slots.saturating_sub(1);
            less(&mut pack.live_bytes, slot.len.into())
        }
        _ => Ok(()),
    }
}

/// Forgets garbage whose pieces are deleted, remembers for a while that they were, and forgets
/// some that were long ago.
pub(crate) fn collected(change: &mut Change<'_>, segments: &[SegmentId]) -> Result<(), Error> {
    let store = change.store;
    for segment in segments {
        let key = store.keys.by_segment(Table::Garbage, *segment);
        if store.view.get(&key)?.is_some() {
            change.batch.del(key).del(store.keys.by_segment(Table::Missing, *segment));
            let tomb = TombRow { collected: change.now };
            change.batch.put(store.keys.by_segment(Table::Tomb, *segment), tomb.encode());
        }
    }
    forget_tombs(change, 2 * segments.len() + 16)
}

/// Walks round and round through the tombs, so that each is looked at again as new ones come.
fn forget_tombs(change: &mut Change<'_>, limit: usize) -> Result<(), Error> {
    let store = change.store;
    let start = store.keys.by_segment(Table::Tomb, SegmentId(change.head.tomb_cursor));
    let end = crate::keys::end(&store.keys.table(Table::Tomb, 0));
    let rows = store.view.range(start.as_slice()..end.as_slice(), limit, false)?;
    let more = rows.len() == limit;
    for (key, value) in rows {
        change.head.tomb_cursor = tail(&key, "tomb key")?;
        if TombRow::decode(&value)?.collected.0.saturating_add(TOMB_MS) < change.now.0 {
            change.batch.del(key);
        }
    }
    if !more {
        change.head.tomb_cursor = [0; 16];
    }
    Ok(())
}

/// Notes or forgets missing pieces.
pub(crate) fn note_missing(
    change: &mut Change<'_>,
    segment: SegmentId,
    policy: PolicyId,
    group: GroupId,
    missing: &[u8],
) -> Result<(), Error> {
    let key = change.store.keys.by_segment(Table::Missing, segment);
    let old: Option<MissingRow> = change.store.get(&key)?;
    let mut missing = missing.to_vec();
    missing.sort_unstable();
    missing.dedup();
    match old {
        Some(_) if missing.is_empty() => {
            change.batch.del(key);
        }
        None if missing.is_empty() => {}
        Some(old) if (old.policy, old.group, &old.missing) == (policy, group, &missing) => {}
        _ => {
            let row = MissingRow { policy, group, noted: change.now, missing };
            change.batch.put(key, row.encode());
        }
    }
    Ok(())
}
