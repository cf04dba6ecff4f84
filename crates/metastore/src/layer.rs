//! Rows in memory, every version since the layer was begun, so that a snapshot is a number.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use base::Seq;

/// A large value's place in the log: it is not copied into the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ValueRef {
    /// The batch that wrote the row: names the value whatever file it moves to.
    pub seq: Seq,
    /// The log file's number.
    pub file: u64,
    /// Where its record begins there.
    pub record: u64,
    /// The record's sealed bytes, without header and tag.
    pub sealed: u32,
    /// Where the value begins in the record's plaintext.
    pub at: u32,
    /// Bytes of the value.
    pub len: u32,
}

/// What a row is after some batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// Not there.
    Gone,
    /// A small value.
    Inline(Arc<[u8]>),
    /// A large one.
    Ref(ValueRef),
    /// A large value that a compacted file no longer has: a later record moves or replaces it.
    /// Only while replaying.
    Dropped(Seq),
}

impl Cell {
    fn bytes(&self) -> usize {
        match self {
            Cell::Inline(value) => value.len() + 16,
            _ => 0,
        }
    }
}

type Versions = Vec<(Seq, Cell)>;
pub(crate) type CellRow = (Vec<u8>, Cell);
/// The ends of a walk over rows.
pub(crate) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// Bytes that a version takes beside its value, roughly: its place in a vector on the heap.
const VERSION_BYTES: usize = 72;
/// Bytes that a row takes beside its key and versions, roughly: its share of a tree's node, and
/// what the heap adds.
const ROW_BYTES: usize = 96;

/// All versions of the rows that changed since the layer was begun.
#[derive(Debug, Default)]
pub(crate) struct Layer {
    rows: RwLock<BTreeMap<Vec<u8>, Versions>>,
    bytes: AtomicUsize,
}

impl Layer {
    fn rows(&self) -> RwLockReadGuard<'_, BTreeMap<Vec<u8>, Versions>> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory that it takes, roughly.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Adds versions. They are unseen until the reader's seq reaches theirs.
    pub fn apply(&self, seq: Seq, cells: Vec<CellRow>) {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = 0;
        for (key, cell) in cells {
            bytes += VERSION_BYTES + cell.bytes();
            match rows.get_mut(&key) {
                Some(versions) => versions.push((seq, cell)),
                None => {
                    bytes += ROW_BYTES + key.len();
                    rows.insert(key, vec![(seq, cell)]);
                }
            }
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The row as of `at`, if the layer knows it.
    pub fn get(&self, key: &[u8], at: Seq) -> Option<Cell> {
        visible(self.rows().get(key)?, at).cloned()
    }

    /// Up to `count` known rows of the range, in the order of the walk.
    pub fn chunk(&self, range: (Bound<&[u8]>, Bound<&[u8]>), at: Seq, count: usize, reverse: bool) -> Vec<CellRow> {
        let rows = self.rows();
        let walk = rows.range::<[u8], _>(range);
        let own = |(key, versions): (&Vec<u8>, &Versions)| Some((key.clone(), visible(versions, at)?.clone()));
        if reverse {
            walk.rev().filter_map(own).take(count).collect()
        } else {
            walk.filter_map(own).take(count).collect()
        }
    }

    /// Every row's versions, oldest first, in the order of the keys.
    pub fn for_each<E>(&self, mut act: impl FnMut(&[u8], &[(Seq, Cell)]) -> Result<(), E>) -> Result<(), E> {
        self.rows().iter().try_for_each(|(key, versions)| act(key, versions))
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.rows().is_empty()
    }
}

fn visible(versions: &Versions, at: Seq) -> Option<&Cell> {
    versions.iter().rev().find(|(seq, _)| *seq <= at).map(|(_, cell)| cell)
}

/// The bounds of a half-open range, empty if it is upside down.
pub(crate) fn bounds<'a>(range: &Range<&'a [u8]>) -> Option<Bounds<'a>> {
    (range.start < range.end).then_some((Bound::Included(range.start), Bound::Excluded(range.end)))
}
