//! Following the journal.

use std::sync::{Arc, PoisonError};

use base::Seq;

use crate::Error;
use crate::embedded::{LogInfo, Shared, lock, read};
use crate::layer::Cell;
use crate::record::{BatchBody, FILE_HEAD, RECORD_HEAD, Raw, RecordKind, record_size};
use crate::store::{Cursor, Entry};

/// Places that are remembered for readers who come back.
const HINTS_MAX: usize = 64;
/// Bytes of entries in one answer, after which no further one is added.
pub(super) const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes per read of a log file.
const STEP: usize = 256 * 1024;

pub(super) fn tail(shared: &Arc<Shared>, from: &Cursor, limit: usize, bytes_max: usize) -> Result<Vec<Entry>, Error> {
    let _files = shared.files.read().unwrap_or_else(PoisonError::into_inner);
    // Holds back cleaning, and is asked which values are still alive.
    let snapshot = read::snapshot(shared);
    let head = base_head(shared);
    let after = from.seq_in(shared.shard, shared.generation, head)?;
    let mut entries = Vec::new();
    if after >= head || limit == 0 {
        return Ok(entries);
    }
    let mut walk = shared.walk_from(after)?;
    let (mut bytes, mut behind) = (0, None);
    while entries.len() < limit && bytes < bytes_max {
        let Some(record) = walk.next(shared)? else { break };
        if record.kind != RecordKind::Batch || record.seq <= after {
            continue;
        }
        if record.seq > head {
            break;
        }
        let entry = entry(shared, &snapshot, &record)?;
        bytes += entry.batch.size();
        // Not where the walk ends: it may have passed a batch that is in the log, but not in the rows yet.
        behind = Some((entry.seq, walk.file, walk.offset));
        entries.push(entry);
    }
    if let Some((seq, file, offset)) = behind {
        shared.remember(seq, file, offset);
    }
    Ok(entries)
}

fn base_head(shared: &Shared) -> Seq {
    shared.layers().0
}

fn entry(shared: &Shared, snapshot: &read::ShardSnapshot, record: &Record) -> Result<Entry, Error> {
    let body = BatchBody::decode(&record.plain)
        .map_err(|error| Error::damaged(format!("batch {} in the log: {error}", record.seq)))?;
    let mut batch = body.to_batch();
    let mut dropped = Vec::new();
    for (index, put) in body.puts.iter().enumerate().filter(|(_, put)| put.value.is_none()) {
        // The file was compacted: a value that is still alive has moved. Of puts of one key the row
        // has the last.
        let is_last = || body.puts[index + 1..].iter().all(|later| later.key != put.key);
        match snapshot.cell(put.key)? {
            Some(Cell::Ref(place)) if place.seq == record.seq && is_last() => {
                batch.puts[index].1 = shared.value(&place)?
            }
            _ => dropped.push(index as u32),
        }
    }
    Ok(Entry { seq: record.seq, batch, dropped })
}

/// A record read while walking.
pub(super) struct Record {
    pub kind: RecordKind,
    pub seq: Seq,
    /// Where it begins in its file.
    pub offset: u64,
    pub plain: Vec<u8>,
    /// As it is stored, if the walk was asked for that.
    pub stored: Vec<u8>,
}

/// A walk through the acknowledged records of the log, file after file.
pub(super) struct Walk {
    pub file: u64,
    pub offset: u64,
    /// Whether it stays in its file.
    one_file: bool,
    /// Whether records come with their stored bytes.
    stored: bool,
    /// Bytes read ahead, from `ahead_at` of the file.
    ahead: Vec<u8>,
    ahead_at: u64,
}

impl Walk {
    pub fn new(file: u64, offset: u64) -> Self {
        Self { file, offset, one_file: false, stored: false, ahead: Vec::new(), ahead_at: 0 }
    }

    /// A walk that ends where the file ends.
    pub fn within(file: u64, offset: u64) -> Self {
        Self { one_file: true, ..Self::new(file, offset) }
    }

    /// As [`Walk::within`]; records come with their stored bytes.
    pub fn to_copy(file: u64, offset: u64) -> Self {
        Self { stored: true, ..Self::within(file, offset) }
    }

    /// The next record, in clear.
    pub fn next(&mut self, shared: &Shared) -> Result<Option<Record>, Error> {
        loop {
            let Some(info) = shared.log_info(self.file) else {
                return Err(Error::bug(format!("log file {:x} vanished under a reader", self.file)));
            };
            if self.offset < info.end {
                return self.record(shared, info).map(Some);
            }
            match shared.next_log(self.file) {
                Some(next) if !self.one_file => *self = Self::new(next, FILE_HEAD),
                _ => return Ok(None),
            }
        }
    }

    fn record(&mut self, shared: &Shared, info: LogInfo) -> Result<Record, Error> {
        let (file, offset) = (self.file, self.offset);
        let size = self.size(shared, info)?;
        let cached = self.slice(offset, size).and_then(|bytes| {
            let raw = Raw::parse(bytes, offset)?;
            let sides = shared.sides();
            let plain = raw.open(&sides.first()?.log(file).ok()?.sealer).ok()?;
            let stored = if self.stored { bytes.to_vec() } else { Vec::new() };
            Some(Record { kind: raw.kind, seq: raw.seq, offset, plain, stored })
        });
        let record = match cached {
            Some(record) => record,
            None => {
                let (bytes, plain) = shared.record(file, offset, size)?;
                let raw = Raw::parse(&bytes, offset).ok_or_else(|| Error::bug("a checked record doesn't parse"))?;
                let raw = (raw.kind, raw.seq);
                Record { kind: raw.0, seq: raw.1, offset, plain, stored: bytes }
            }
        };
        self.offset += size as u64;
        Ok(record)
    }

    fn slice(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let at = offset.checked_sub(self.ahead_at)? as usize;
        self.ahead.get(at..at + len)
    }

    /// Bytes of the record at the offset; reads ahead.
    fn size(&mut self, shared: &Shared, info: LogInfo) -> Result<usize, Error> {
        if self.slice(self.offset, RECORD_HEAD).is_none() {
            self.read_ahead(shared, info)?;
        }
        if let Some(size) = self.slice(self.offset, RECORD_HEAD).and_then(size_of)
            && (self.slice(self.offset, size).is_some_and(|bytes| Raw::parse(bytes, self.offset).is_some())
                || self.offset - self.ahead_at + size as u64 > self.ahead.len() as u64)
        {
            return Ok(size);
        }
        // What was read ahead is damaged: ask each mirror.
        for side in shared.sides().iter() {
            let Ok(log) = side.log(self.file) else { continue };
            let mut head = [0; RECORD_HEAD];
            if log.file.read_at(&mut head, self.offset).is_err() {
                continue;
            }
            if let Some(size) = size_of(&head)
                && self.offset + size as u64 <= info.end
                && side.read_record(self.file, self.offset, size).is_ok()
            {
                return Ok(size);
            }
        }
        Err(Error::damaged(format!("the record at {} of log file {:x}", self.offset, self.file)))
    }

    fn read_ahead(&mut self, shared: &Shared, info: LogInfo) -> Result<(), Error> {
        let len = (info.end - self.offset).min(STEP as u64) as usize;
        self.ahead_at = self.offset;
        for side in shared.sides().iter() {
            self.ahead.resize(len, 0);
            if let Ok(log) = side.log(self.file)
                && log.file.read_at(&mut self.ahead, self.offset).is_ok()
            {
                return Ok(());
            }
        }
        self.ahead.clear();
        Ok(())
    }
}

/// What a record's head says about its size.
fn size_of(head: &[u8]) -> Option<usize> {
    let body = u32::from_le_bytes(head.get(8..12)?.try_into().ok()?) as usize;
    (body <= crate::record::BODY_MAX).then(|| record_size(body))
}

impl Shared {
    fn log_info(&self, number: u64) -> Option<LogInfo> {
        self.logs.read().unwrap_or_else(PoisonError::into_inner).get(&number).copied()
    }

    fn next_log(&self, number: u64) -> Option<u64> {
        let logs = self.logs.read().unwrap_or_else(PoisonError::into_inner);
        logs.range(number + 1..).next().map(|(number, _)| *number)
    }

    /// A walk whose first batches may be older than wanted, but none is missing.
    fn walk_from(&self, after: Seq) -> Result<Walk, Error> {
        if let Some((file, offset)) = lock(&self.hints).get(&after).copied() {
            return Ok(Walk::new(file, offset));
        }
        let logs = self.logs.read().unwrap_or_else(PoisonError::into_inner);
        match logs.iter().rev().find(|(_, info)| info.after <= after) {
            Some((number, _)) => Ok(Walk::new(*number, FILE_HEAD)),
            None => {
                let oldest = logs.values().next().map_or(Seq(0), |info| info.after);
                Err(Error::Trimmed { oldest })
            }
        }
    }

    fn remember(&self, seq: Seq, file: u64, offset: u64) {
        let mut hints = lock(&self.hints);
        hints.insert(seq, (file, offset));
        while hints.len() > HINTS_MAX {
            hints.pop_first();
        }
    }
}
