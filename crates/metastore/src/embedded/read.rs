//! What readers see.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::Seq;
use base::kv::{Row, View, ViewError};

use crate::Error;
use crate::embedded::side::{LogFile, Side};
use crate::embedded::{Layers, Shared, lock};
use crate::layer::{Cell, ValueRef};
use crate::record::record_size;
use crate::store::Snapshot;

/// A cut of the rows; while it lives no value that it points at is cleaned away.
pub(super) struct ShardSnapshot {
    shared: Arc<Shared>,
    layers: Arc<Layers>,
    at: Seq,
    cleanings: u64,
}

pub(super) fn snapshot(shared: &Arc<Shared>) -> ShardSnapshot {
    // Held first, then looked: a cleaning in between is waited for in vain, never missed.
    let cleanings = shared.hold();
    let (at, layers) = shared.layers();
    ShardSnapshot { shared: Arc::clone(shared), layers, at, cleanings }
}

impl Drop for ShardSnapshot {
    fn drop(&mut self) {
        self.shared.release(self.cleanings);
    }
}

impl ShardSnapshot {
    fn value(&self, cell: &Cell) -> Result<Vec<u8>, Error> {
        match cell {
            Cell::Inline(value) => Ok(value.to_vec()),
            Cell::Ref(place) => self.shared.value(place),
            Cell::Dropped(seq) => Err(Error::damaged(format!("a value of batch {seq} is in no log file"))),
            Cell::Gone => Err(Error::bug("a removed row was read")),
        }
    }

    /// The row as it is kept.
    pub(super) fn cell(&self, key: &[u8]) -> Result<Option<Cell>, Error> {
        self.layers.get(self.at, key)
    }
}

impl View for ShardSnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError> {
        match self.layers.get(self.at, key)? {
            Some(cell) => Ok(Some(self.value(&cell)?)),
            None => Ok(None),
        }
    }

    fn range(&self, range: Range<&[u8]>, limit: usize, reverse: bool) -> Result<Vec<Row>, ViewError> {
        let cells = self.layers.range(self.at, range, limit, reverse)?;
        let mut rows = Vec::with_capacity(cells.len());
        for (key, cell) in cells {
            let value = self.value(&cell)?;
            rows.push((key, value));
        }
        Ok(rows)
    }
}

impl Snapshot for ShardSnapshot {
    fn at(&self) -> Seq {
        self.at
    }
}

impl Shared {
    fn hold(&self) -> u64 {
        let cleanings = self.cleanings.load(Ordering::SeqCst);
        *lock(&self.held).entry(cleanings).or_default() += 1;
        cleanings
    }

    fn release(&self, cleanings: u64) {
        let mut held = lock(&self.held);
        if let Some(count) = held.get_mut(&cleanings) {
            *count -= 1;
            if *count == 0 {
                held.remove(&cleanings);
            }
        }
        let waits = self.waits.load(Ordering::SeqCst);
        if waits > cleanings && held.range(..waits).next().is_none() {
            self.due.notify_one();
        }
    }

    /// Whether a snapshot lives from before that cleaning.
    pub(super) fn is_held_before(&self, cleaning: u64) -> bool {
        lock(&self.held).range(..cleaning).next().is_some()
    }

    /// A large value, from the first mirror that has it whole; the others are put right.
    pub(super) fn value(&self, place: &ValueRef) -> Result<Vec<u8>, Error> {
        let size = record_size(place.sealed as usize);
        let plain = self.record(place.file, place.record, size)?.1;
        let from = place.at as usize;
        let value = plain.get(from..from + place.len as usize);
        value.map(<[u8]>::to_vec).ok_or_else(|| Error::bug("a row points beyond its record"))
    }

    /// The log file as any mirror has it.
    pub(super) fn any_log(&self, number: u64) -> Result<Arc<LogFile>, Error> {
        let mut last = Error::bug("a shard without a single mirror");
        for side in self.sides().iter() {
            match side.log(number) {
                Ok(log) => return Ok(log),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// A whole record of the log, as it is stored and in clear.
    pub(super) fn record(&self, file: u64, offset: u64, size: usize) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let sides = self.sides();
        let mut last = Error::bug("a shard without a single mirror");
        for (at, side) in sides.iter().enumerate() {
            match side.read_record(file, offset, size) {
                Ok((log, bytes, plain)) => {
                    for bad in &sides[..at] {
                        self.put_right(bad, file, &log, offset, &bytes);
                    }
                    return Ok((bytes, plain));
                }
                Err(error) => {
                    tracing::warn!(shard = self.shard, drive = %side.drive, %error, "failed to read the metadata's mirror");
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// Writes a record that another mirror has whole.
    fn put_right(&self, side: &Side, file: u64, good: &LogFile, offset: u64, bytes: &[u8]) {
        let write = || -> Result<(), Error> {
            let log = side.log(file)?;
            if log.head != good.head {
                return Err(Error::damaged("the file's head differs"));
            }
            side.put_right(file, offset, bytes)
        };
        let (shard, drive) = (self.shard, side.drive);
        match write() {
            Ok(()) => tracing::info!(shard, %drive, "a damaged log record was repaired from another mirror"),
            Err(error) => tracing::warn!(shard, %drive, %error, "failed to repair a log record"),
        }
    }
}
