//! Where each piece's record lies: sixteen bytes a slot, at most 24 bytes a piece.
//!
//! Open addressing with linear probing in 256 shards that grow by a quarter, so that a table is
//! between 70 % and 87.5 % full and growing holds up writers for one shard's copy only. A slot
//! holds 63 bits of a keyed hash of the id and the record's place; whoever looks up a piece
//! verifies the full id in the record. Two pieces may share a hash: slots are told apart by place.

use std::hash::Hasher;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use base::PieceId;

use crate::record::Loc;

const SHARDS: usize = 256;
const SLOTS_MIN: usize = 8;
const TRASH: u64 = 1;

#[derive(Clone, Copy)]
struct Slot {
    /// Hash, with the lowest bit replaced by the trash flag.
    key: u64,
    /// 0 in an empty slot.
    log: u32,
    unit: u32,
}

const EMPTY: Slot = Slot { key: 0, log: 0, unit: 0 };

impl Slot {
    fn is(&self, hash: u64, loc: Loc) -> bool {
        self.log == loc.log && self.unit == loc.unit && (self.key ^ hash) & !TRASH == 0
    }
}

/// What the index knows of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub loc: Loc,
    pub trashed: bool,
}

/// A keyed hash of a piece's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hash(u64);

#[derive(Default)]
struct Shard {
    slots: Vec<Slot>,
    used: usize,
}

impl Shard {
    /// Slots are filled in the order of their hashes, so that growing copies front to back.
    fn home(&self, key: u64) -> usize {
        // The shard's number was the top byte; the rest spreads within the shard.
        ((u128::from(key << 8) * self.slots.len() as u128) >> 64) as usize
    }

    fn next(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() { 0 } else { at + 1 }
    }

    fn place(&mut self, slot: Slot) {
        let mut at = self.home(slot.key & !TRASH);
        while self.slots[at].log != 0 {
            at = self.next(at);
        }
        self.slots[at] = slot;
        self.used += 1;
    }

    fn insert(&mut self, slot: Slot) {
        if (self.used + 1) * 8 > self.slots.len() * 7 {
            self.grow();
        }
        self.place(slot);
    }

    fn grow(&mut self) {
        let len = (self.slots.len() * 5 / 4 + 1).max(SLOTS_MIN);
        let old = std::mem::replace(&mut self.slots, vec![EMPTY; len]);
        self.used = 0;
        for slot in old.into_iter().filter(|slot| slot.log != 0) {
            self.place(slot);
        }
    }

    fn probe(&self, hash: u64) -> impl Iterator<Item = usize> + '_ {
        let start = if self.slots.is_empty() { 0 } else { self.home(hash & !TRASH) };
        (0..self.slots.len())
            .map(move |step| {
                let at = start + step;
                if at >= self.slots.len() { at - self.slots.len() } else { at }
            })
            .take_while(|at| self.slots[*at].log != 0)
    }

    fn find(&self, hash: u64, loc: Loc) -> Option<usize> {
        self.probe(hash).find(|at| self.slots[*at].is(hash, loc))
    }

    /// Empties the slot and moves later ones of the same run up, so that no search ends early.
    fn remove(&mut self, mut hole: usize) {
        let len = self.slots.len();
        let mut at = hole;
        loop {
            at = self.next(at);
            let slot = self.slots[at];
            if slot.log == 0 {
                break;
            }
            // It may move into the hole unless its home lies between the hole and itself.
            let home = self.home(slot.key & !TRASH);
            if (at + len - home) % len >= (at + len - hole) % len {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = EMPTY;
        self.used -= 1;
    }
}

pub(crate) struct Index {
    key: [u8; 32],
    shards: Vec<RwLock<Shard>>,
}

impl Index {
    /// An empty index. The key is random, so that nobody can choose ids that collide.
    pub fn new(key: [u8; 32]) -> Self {
        Self { key, shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }

    pub fn hash(&self, id: &PieceId) -> Hash {
        // SipHash with a key ahead of the id: what std gives today may change with its release, for
        // the hash never leaves memory.
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write(&self.key);
        hasher.write(&id.to_bytes());
        Hash(hasher.finish())
    }

    fn read(&self, hash: Hash) -> RwLockReadGuard<'_, Shard> {
        self.shards[(hash.0 >> 56) as usize].read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, hash: Hash) -> RwLockWriteGuard<'_, Shard> {
        self.shards[(hash.0 >> 56) as usize].write().unwrap_or_else(PoisonError::into_inner)
    }

    /// All records that may be this piece's: one, as good as always.
    pub fn candidates(&self, hash: Hash) -> Vec<Candidate> {
        let shard = self.read(hash);
        shard
            .probe(hash.0)
            .map(|at| shard.slots[at])
            .filter(|slot| (slot.key ^ hash.0) & !TRASH == 0)
            .map(|slot| Candidate { loc: Loc { log: slot.log, unit: slot.unit }, trashed: slot.key & TRASH != 0 })
            .collect()
    }

    /// Whether the record at `loc` is a piece's current one, and whether it is in the trash.
    pub fn get(&self, hash: Hash, loc: Loc) -> Option<bool> {
        let shard = self.read(hash);
        shard.find(hash.0, loc).map(|at| shard.slots[at].key & TRASH != 0)
    }

    pub fn insert(&self, hash: Hash, loc: Loc, trashed: bool) {
        let key = (hash.0 & !TRASH) | u64::from(trashed);
        self.write(hash).insert(Slot { key, log: loc.log, unit: loc.unit });
    }

    /// Says whether it was in the trash, if it was there.
    pub fn remove(&self, hash: Hash, loc: Loc) -> Option<bool> {
        let mut shard = self.write(hash);
        let at = shard.find(hash.0, loc)?;
        let trashed = shard.slots[at].key & TRASH != 0;
        shard.remove(at);
        Some(trashed)
    }

    /// Sets the trash flag; false if it was so before or the record isn't there.
    pub fn set_trashed(&self, hash: Hash, loc: Loc, trashed: bool) -> bool {
        let mut shard = self.write(hash);
        let Some(at) = shard.find(hash.0, loc) else { return false };
        let key = &mut shard.slots[at].key;
        let changed = (*key & TRASH != 0) != trashed;
        *key = (*key & !TRASH) | u64::from(trashed);
        changed
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> u64 {
        let slots: usize =
            self.shards.iter().map(|s| s.read().unwrap_or_else(PoisonError::into_inner).slots.capacity()).sum();
        (slots * size_of::<Slot>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use base::SegmentId;
    use proptest::prelude::*;

    use super::*;

    fn id(n: u16) -> PieceId {
        let mut segment = [0; 16];
        segment[..2].copy_from_slice(&n.to_le_bytes());
        PieceId { segment: SegmentId(segment), index: 0 }
    }

    #[test]
    fn a_million_pieces_take_at_most_24_bytes_each() {
        let index = Index::new([7; 32]);
        let mut worst = 0.0f64;
        for n in 0..1_000_000u32 {
            let mut segment = [0; 16];
            segment[..4].copy_from_slice(&n.to_le_bytes());
            let hash = index.hash(&PieceId { segment: SegmentId(segment), index: 1 });
            index.insert(hash, Loc { log: 1, unit: n }, false);
            if n > 100_000 && n % 10_000 == 0 {
                worst = worst.max(index.bytes() as f64 / f64::from(n));
            }
        }
        assert!(worst <= 24.0, "{worst} bytes a piece");
    }

    proptest! {
        #[test]
        fn the_index_agrees_with_a_map(ops in prop::collection::vec((0u16..400, 0u8..4), 0..2000)) {
            let index = Index::new([3; 32]);
            let mut model: BTreeMap<u16, (u32, bool)> = BTreeMap::new();
            for (at, (n, op)) in ops.into_iter().enumerate() {
                let hash = index.hash(&id(n));
                match (op, model.get(&n).copied()) {
                    (0, None) => {
                        index.insert(hash, Loc { log: 1, unit: at as u32 }, false);
                        model.insert(n, (at as u32, false));
                    }
                    (1, Some((unit, trashed))) => {
                        prop_assert_eq!(index.remove(hash, Loc { log: 1, unit }), Some(trashed));
                        model.remove(&n);
                    }
                    (2, Some((unit, trashed))) => {
                        prop_assert_eq!(index.set_trashed(hash, Loc { log: 1, unit }, true), !trashed);
                        model.insert(n, (unit, true));
                    }
                    _ => {}
                }
            }
            for n in 0..400 {
                let found = index.candidates(index.hash(&id(n)));
                let want: Vec<Candidate> = model.get(&n)
                    .map(|(unit, trashed)| Candidate { loc: Loc { log: 1, unit: *unit }, trashed: *trashed })
                    .into_iter().collect();
                prop_assert_eq!(found, want);
            }
        }
    }
}
