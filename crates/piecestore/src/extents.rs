//! Room for large pieces: runs of blocks in extent files.
//!
//! 1. Which runs are taken is what the current `Large` records say, plus reservations in memory. A
//!    crash in between leaves no trace: the run is free again at open.
//! 2. A run that is given back is punched before it can be handed out, never after: a late punch
//!    would destroy the next owner's bytes.
//! 3. A reservation lives as long as any write into it is under way, even if its caller is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crate::lock;
use crate::record::Extent;

#[derive(Default)]
struct Room {
    /// Free runs by place, and again by size.
    free: BTreeMap<(u32, u32), u32>,
    by_size: BTreeSet<(u32, u32, u32)>,
    /// Each file's blocks.
    files: BTreeMap<u32, u32>,
    /// The highest number that a file ever had, or that a record names.
    last: u32,
    /// Given back, not yet punched.
    dirty: Vec<Extent>,
    reserved_blocks: u64,
}

impl Room {
    fn add(&mut self, extent: Extent) {
        let (mut block, mut blocks) = (extent.block, extent.blocks);
        let before = self.free.range(..(extent.file, block)).next_back().map(|(at, len)| (*at, *len));
        if let Some(((file, start), len)) = before
            && file == extent.file
            && start + len == block
        {
            self.take(file, start, len);
            block = start;
            blocks += len;
        }
        if let Some(len) = self.free.get(&(extent.file, block + blocks)).copied() {
            self.take(extent.file, block + blocks, len);
            blocks += len;
        }
        self.free.insert((extent.file, block), blocks);
        self.by_size.insert((blocks, extent.file, block));
    }

    fn take(&mut self, file: u32, block: u32, blocks: u32) {
        self.free.remove(&(file, block));
        self.by_size.remove(&(blocks, file, block));
    }
}

/// Which runs of the extent files are free.
#[derive(Default)]
pub(crate) struct Extents {
    room: Mutex<Room>,
}

impl Extents {
    /// Registers a file of `blocks`, with all of it free but `used`, which is sorted.
    pub fn add_file(&self, file: u32, blocks: u32, used: &[Extent]) {
        let mut room = lock(&self.room);
        let blocks =
            used.iter().map(|extent| extent.block.saturating_add(extent.blocks)).max().unwrap_or(0).max(blocks);
        room.files.insert(file, blocks);
        room.last = room.last.max(file);
        let mut at = 0;
        for extent in used {
            if extent.block > at {
                room.add(Extent { file, block: at, blocks: extent.block - at });
            }
            at = at.max(extent.block.saturating_add(extent.blocks));
        }
        if at < blocks {
            room.add(Extent { file, block: at, blocks: blocks - at });
        }
    }

    /// The number of a file that isn't there yet.
    pub fn next_file(&self) -> u32 {
        lock(&self.room).last + 1
    }

    /// Records name the file, but it isn't there: its number isn't given to another one, or the
    /// old pieces' end would punch holes into the new ones.
    pub fn note_lost(&self, file: u32) {
        let mut room = lock(&self.room);
        room.last = room.last.max(file);
    }

    /// The smallest free run that is large enough.
    pub fn reserve(self: &Arc<Self>, blocks: u32) -> Option<Arc<Reservation>> {
        let mut room = lock(&self.room);
        let (len, file, block) = room.by_size.range((blocks, 0, 0)..).next().copied()?;
        room.take(file, block, len);
        if len > blocks {
            room.add(Extent { file, block: block + blocks, blocks: len - blocks });
        }
        room.reserved_blocks += u64::from(blocks);
        Some(Arc::new(Reservation {
            extents: self.clone(),
            file,
            block,
            blocks: AtomicU32::new(blocks),
            kept: AtomicBool::new(false),
        }))
    }

    /// Blocks promised to writers that haven't finished.
    pub fn reserved_blocks(&self) -> u64 {
        lock(&self.room).reserved_blocks
    }

    /// The run's piece is gone for good.
    pub fn give_back(&self, extent: Extent) {
        let mut room = lock(&self.room);
        // Nothing is left to give back of a file that is lost.
        if room.files.contains_key(&extent.file) {
            room.dirty.push(extent);
        }
    }

    /// Whether runs wait to be punched.
    pub fn has_dirty(&self) -> bool {
        !lock(&self.room).dirty.is_empty()
    }

    /// Runs to punch; return each with [`Extents::punched`].
    pub fn to_punch(&self, max: usize) -> Vec<Extent> {
        let mut room = lock(&self.room);
        let keep = room.dirty.len().saturating_sub(max);
        room.dirty.split_off(keep)
    }

    /// The run may be handed out again.
    pub fn punched(&self, extent: Extent) {
        lock(&self.room).add(extent);
    }

    /// Takes all free runs out, to be punched: after open nobody knows what a crash left in them.
    pub fn distrust_free(&self) {
        let mut room = lock(&self.room);
        let free: Vec<Extent> = room
            .free
            .iter()
            .map(|((file, block), blocks)| Extent { file: *file, block: *block, blocks: *blocks })
            .collect();
        room.free.clear();
        room.by_size.clear();
        room.dirty.extend(free);
    }

    /// Takes all free runs out of use until the next open: a log that can't be read now may name
    /// pieces that lie there.
    pub fn withhold_free(&self) {
        let mut room = lock(&self.room);
        room.free.clear();
        room.by_size.clear();
    }

    /// A file of which every block is free, taken out of use; the newest stays.
    pub fn take_empty_file(&self) -> Option<u32> {
        let mut room = lock(&self.room);
        let newest = room.files.last_key_value().map(|(file, _)| *file)?;
        let (file, blocks) = room
            .files
            .iter()
            .map(|(file, blocks)| (*file, *blocks))
            .find(|(file, blocks)| *file != newest && room.free.get(&(*file, 0)) == Some(blocks))?;
        room.take(file, 0, blocks);
        room.files.remove(&file);
        Some(file)
    }
}

/// A run promised to one writer. Given back when the last holder is gone, unless kept.
pub(crate) struct Reservation {
    extents: Arc<Extents>,
    file: u32,
    block: u32,
    blocks: AtomicU32,
    kept: AtomicBool,
}

impl Reservation {
    pub fn extent(&self) -> Extent {
        Extent { file: self.file, block: self.block, blocks: self.blocks.load(Ordering::Acquire) }
    }

    /// Keeps the first `blocks` and frees the rest, which nobody has written.
    pub fn trim(&self, blocks: u32) {
        let had = self.blocks.swap(blocks, Ordering::AcqRel);
        let mut room = lock(&self.extents.room);
        room.reserved_blocks = room.reserved_blocks.saturating_sub(u64::from(had - blocks));
        if had > blocks {
            room.add(Extent { file: self.file, block: self.block + blocks, blocks: had - blocks });
        }
    }

    /// A record is about to name the run: from here on only that record's end frees it.
    pub fn keep(&self, kept: bool) {
        self.kept.store(kept, Ordering::Release);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let extent = self.extent();
        let mut room = lock(&self.extents.room);
        room.reserved_blocks = room.reserved_blocks.saturating_sub(extent.blocks.into());
        if !self.kept.load(Ordering::Acquire) {
            room.dirty.push(extent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_given_back_is_not_handed_out_before_it_is_punched() {
        let extents = Arc::new(Extents::default());
        extents.add_file(1, 10, &[]);
        let all = extents.reserve(10).expect("room");
        assert!(extents.reserve(1).is_none());
        drop(all);
        assert!(extents.reserve(1).is_none());
        for run in extents.to_punch(9) {
            extents.punched(run);
        }
        assert!(extents.reserve(10).is_some());
    }

    #[test]
    fn what_pieces_use_is_not_free_after_reopen() {
        let extents = Arc::new(Extents::default());
        extents.add_file(1, 10, &[Extent { file: 1, block: 2, blocks: 3 }, Extent { file: 1, block: 7, blocks: 1 }]);
        let runs: Vec<Extent> = std::iter::from_fn(|| {
            let run = extents.reserve(1)?;
            run.keep(true);
            Some(run.extent())
        })
        .collect();
        let mut blocks: Vec<u32> = runs.iter().map(|run| run.block).collect();
        blocks.sort_unstable();
        assert_eq!(blocks, [0, 1, 5, 6, 8, 9]);
    }
}
