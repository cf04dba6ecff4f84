//! A shard in memory: for tests of what lies above, and the plainest reading of the contract.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use base::kv::{Batch, Row, View, ViewError};
use base::{Epoch, Seq};

use crate::Error;
use crate::layer::{Cell, Layer};
use crate::merge;
use crate::store::{BATCH_BYTES_MAX, Cursor, CursorPart, Entry, Position, ShardStore, Snapshot};

const GENERATION: u32 = 1;

/// What outlives a handle.
#[derive(Debug, Default)]
struct Kept {
    epoch: Epoch,
    journal: Vec<Arc<Batch>>,
}

/// A shard in memory. Opening it again makes a new owner over the same rows.
#[derive(Debug)]
pub struct MemoryStore {
    shard: u32,
    epoch: Epoch,
    kept: Arc<Mutex<Kept>>,
    layer: Arc<Layer>,
}

impl MemoryStore {
    /// An empty shard.
    pub fn new(shard: u32) -> Arc<Self> {
        let kept = Arc::new(Mutex::new(Kept { epoch: Epoch(1), journal: Vec::new() }));
        Arc::new(Self { shard, epoch: Epoch(1), kept, layer: Arc::default() })
    }

    /// A new owner of the same rows; this one is fenced.
    pub fn reopen(&self) -> Arc<Self> {
        let mut kept = self.kept();
        kept.epoch.0 += 1;
        let (kept_again, layer) = (Arc::clone(&self.kept), Arc::clone(&self.layer));
        Arc::new(Self { shard: self.shard, epoch: kept.epoch, kept: kept_again, layer })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct MemorySnapshot {
    layer: Arc<Layer>,
    at: Seq,
}

impl View for MemorySnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError> {
        Ok(merge::get(None, &[&self.layer], self.at, key)?.map(|cell| bytes(&cell)))
    }

    fn range(&self, range: Range<&[u8]>, limit: usize, reverse: bool) -> Result<Vec<Row>, ViewError> {
        let rows = merge::cells(None, &[&self.layer], self.at, range, limit, reverse)?;
        Ok(rows.into_iter().map(|(key, cell)| (key, bytes(&cell))).collect())
    }
}

impl Snapshot for MemorySnapshot {
    fn at(&self) -> Seq {
        self.at
    }
}

/// All values are inline here.
fn bytes(cell: &Cell) -> Vec<u8> {
    match cell {
        Cell::Inline(value) => value.to_vec(),
        Cell::Gone | Cell::Ref(_) | Cell::Dropped(_) => Vec::new(),
    }
}

#[async_trait]
impl ShardStore for MemoryStore {
    fn position(&self) -> (Epoch, Seq) {
        (self.epoch, Seq(self.kept().journal.len() as u64))
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>, Error> {
        let at = Seq(self.kept().journal.len() as u64);
        Ok(Box::new(MemorySnapshot { layer: Arc::clone(&self.layer), at }))
    }

    async fn commit(&self, epoch: Epoch, expected_head: Seq, batches: Vec<Batch>) -> Result<Seq, Error> {
        let mut kept = self.kept();
        let head = Seq(kept.journal.len() as u64);
        check_commit(epoch, kept.epoch, expected_head, head, &batches)?;
        for batch in batches {
            let before = Seq(kept.journal.len() as u64);
            let mut cells = Vec::new();
            for range in &batch.range_dels {
                cells.extend(merge::removed(None, &[&self.layer], before, &range.start..&range.end)?);
            }
            cells.extend(batch.dels.iter().map(|key| (key.clone(), Cell::Gone)));
            cells.extend(batch.puts.iter().map(|(key, value)| (key.clone(), Cell::Inline(value.as_slice().into()))));
            self.layer.apply(Seq(before.0 + 1), cells);
            kept.journal.push(Arc::new(batch));
        }
        Ok(Seq(kept.journal.len() as u64))
    }

    fn tail(&self, from: &Cursor, limit: usize) -> Result<Vec<Entry>, Error> {
        let kept = self.kept();
        let from = from.seq_in(self.shard, GENERATION, Seq(kept.journal.len() as u64))?;
        let after = kept.journal.iter().enumerate().skip(from.0 as usize).take(limit);
        Ok(after
            .map(|(at, batch)| Entry { seq: Seq(at as u64 + 1), batch: (**batch).clone(), dropped: Vec::new() })
            .collect())
    }

    fn cursor(&self, seq: Seq) -> Cursor {
        Cursor::start().with(CursorPart { shard: self.shard, generation: GENERATION, seq })
    }

    async fn checkpoint(&self) -> Result<Position, Error> {
        Ok(Position { seq: Seq(self.kept().journal.len() as u64) })
    }
}

/// What every store asks of a commit before it touches anything.
///
/// # Errors
/// [`Error::Fenced`], [`Error::Head`], [`Error::TooLarge`].
pub fn check_commit(asked: Epoch, current: Epoch, expected: Seq, head: Seq, batches: &[Batch]) -> Result<(), Error> {
    if asked != current {
        return Err(Error::Fenced { asked, current });
    }
    if expected != head {
        return Err(Error::Head { expected, head });
    }
    match batches.iter().map(weight).find(|size| *size > BATCH_BYTES_MAX) {
        Some(size) => Err(Error::TooLarge { size, max: BATCH_BYTES_MAX }),
        None => Ok(()),
    }
}

/// Bytes of a batch with what frames its parts.
pub fn weight(batch: &Batch) -> usize {
    let parts = batch.puts.len() + batch.dels.len() + batch.range_dels.len() + batch.events.len();
    batch.size() + 16 * parts
}
