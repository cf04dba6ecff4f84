//! What was evaluated but is not committed yet, and how the next change sees it.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use base::Seq;
use base::kv::{Batch, Row, View, ViewError};

use crate::merge::{self, Bounds, Known, Source};
use crate::store::Snapshot;

/// Rows as the pending batches leave them.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    rows: BTreeMap<Vec<u8>, (Seq, Option<Vec<u8>>)>,
    /// Which rows each pending batch touched, oldest first.
    touched: VecDeque<(Seq, Vec<Vec<u8>>)>,
}

impl Overlay {
    /// Forgets what `committed` and everything before it left: a snapshot has it.
    pub fn prune(&mut self, committed: Seq) {
        while self.touched.front().is_some_and(|(seq, _)| *seq <= committed) {
            let (_, keys) = self.touched.pop_front().unwrap_or_default();
            for key in keys {
                if self.rows.get(&key).is_some_and(|(seq, _)| *seq <= committed) {
                    self.rows.remove(&key);
                }
            }
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.touched.clear();
    }

    /// Adds what `batch` does on top of `snapshot` and itself.
    pub fn apply(&mut self, seq: Seq, batch: &Batch, snapshot: &dyn Snapshot) -> Result<(), ViewError> {
        let mut keys = Vec::with_capacity(batch.puts.len() + batch.dels.len());
        for range in &batch.range_dels {
            let view = PendingView::new(self, snapshot);
            let there = view.range(&range.start..&range.end, usize::MAX, false)?;
            keys.extend(there.into_iter().map(|(key, _)| key));
        }
        keys.extend(batch.dels.iter().cloned());
        for key in &keys {
            self.rows.insert(key.clone(), (seq, None));
        }
        for (key, value) in &batch.puts {
            self.rows.insert(key.clone(), (seq, Some(value.clone())));
            keys.push(key.clone());
        }
        self.touched.push_back((seq, keys));
        Ok(())
    }
}

/// Committed rows under pending ones, noting which pending ones were seen.
pub(crate) struct PendingView<'a> {
    overlay: &'a Overlay,
    snapshot: &'a dyn Snapshot,
    seen: Cell<Seq>,
}

impl<'a> PendingView<'a> {
    pub fn new(overlay: &'a Overlay, snapshot: &'a dyn Snapshot) -> Self {
        Self { overlay, snapshot, seen: Cell::default() }
    }

    /// The youngest pending batch whose effects were seen; 0 if none was.
    pub fn seen(&self) -> Seq {
        self.seen.get()
    }

    fn see(&self, seq: Seq) {
        self.seen.set(self.seen.get().max(seq));
    }
}

impl View for PendingView<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError> {
        match self.overlay.rows.get(key) {
            Some((seq, value)) => {
                self.see(*seq);
                Ok(value.clone())
            }
            None => self.snapshot.get(key),
        }
    }

    fn range(&self, range: Range<&[u8]>, limit: usize, reverse: bool) -> Result<Vec<Row>, ViewError> {
        merge::range(&[&Committed(self.snapshot), self], range, limit, reverse)
    }
}

struct Committed<'a>(&'a dyn Snapshot);

impl Source<Vec<u8>, ViewError> for Committed<'_> {
    fn chunk(&self, range: Bounds<'_>, count: usize, reverse: bool) -> Result<Vec<Known<Vec<u8>>>, ViewError> {
        let (from, to) = half_open(range);
        let rows = self.0.range(&from..&to, count, reverse)?;
        Ok(rows.into_iter().map(|(key, value)| (key, Some(value))).collect())
    }
}

/// Bounds as a half-open range: a key's successor is itself and a zero byte.
fn half_open((from, to): Bounds<'_>) -> (Vec<u8>, Vec<u8>) {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let after = |key: &[u8]| [key, &[0]].concat();
    let from = match from {
        Included(key) => key.to_vec(),
        Excluded(key) => after(key),
        Unbounded => Vec::new(),
    };
    let to = match to {
        Excluded(key) => key.to_vec(),
        Included(key) => after(key),
        // Walks always have an end: see `merge::range`.
        Unbounded => Vec::new(),
    };
    (from, to)
}

impl Source<Vec<u8>, ViewError> for PendingView<'_> {
    fn chunk(&self, range: Bounds<'_>, count: usize, reverse: bool) -> Result<Vec<Known<Vec<u8>>>, ViewError> {
        let own = |(key, (seq, value)): (&Vec<u8>, &(Seq, Option<Vec<u8>>))| {
            self.see(*seq);
            (key.clone(), value.clone())
        };
        let walk = self.overlay.rows.range::<[u8], _>(range);
        Ok(if reverse { walk.rev().take(count).map(own).collect() } else { walk.take(count).map(own).collect() })
    }
}
