//! Reading a log without its footer: after a crash, or when the footer is damaged.
//!
//! 1. A group is written after the one before it was synced. So a sound record of a later group
//!    proves that all bytes before that group were durable: a gap there is damage, and is told.
//! 2. Only the last group can be torn. Its records count if every byte of them is sound, for
//!    nobody was told yet that they are there, or they were and are whole.
//! 3. After a gap, records are found again by their marks, checksums and the log's life.

use env::File;

use crate::footer::Entry;
use crate::record::{HEAD_BYTES, LOG_HEAD_BYTES, Record, RecordKind, UNIT_BYTES, cells_match};

/// What a scan found.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// The records, by offset.
    pub entries: Vec<Entry>,
    /// Where the records end.
    pub end: u64,
    /// Ranges that held acknowledged records and can't be read any more.
    pub damaged: Vec<(u64, u64)>,
    /// Offsets of the last group's records that were torn, as far as their heads are whole.
    pub torn: Vec<u64>,
    /// Parts of the file that the drive wouldn't read.
    pub unread: u64,
}

/// A part of a log kept in memory. What can't be read is zeros.
struct Window<'a> {
    file: &'a dyn File,
    len: u64,
    at: u64,
    bytes: Vec<u8>,
    unread: u64,
}

const WINDOW_BYTES: u64 = 1024 * 1024;
const SECTOR_BYTES: u64 = 4096;

impl Window<'_> {
    /// `need` bytes at `offset`, if the file has them.
    fn get(&mut self, offset: u64, need: u64) -> Option<&[u8]> {
        let end = offset.checked_add(need)?;
        if end > self.len {
            return None;
        }
        if offset < self.at || end > self.at + self.bytes.len() as u64 {
            self.fill(offset, need.max(WINDOW_BYTES).min(self.len - offset));
        }
        let start = (offset - self.at) as usize;
        self.bytes.get(start..start + need as usize)
    }

    fn fill(&mut self, offset: u64, len: u64) {
        self.at = offset;
        self.bytes.clear();
        self.bytes.resize(len as usize, 0);
        if self.file.read_at(&mut self.bytes, offset).is_ok() {
            return;
        }
        for (i, part) in self.bytes.chunks_mut(SECTOR_BYTES as usize).enumerate() {
            if self.file.read_at(part, offset + i as u64 * SECTOR_BYTES).is_err() {
                part.fill(0);
                self.unread += 1;
            }
        }
    }

    fn head(&mut self, life: u64, offset: u64) -> Option<Record> {
        let len = self.len;
        let record = Record::decode(self.get(offset, HEAD_BYTES as u64)?).ok()?;
        let end = offset + u64::from(record.units()) * UNIT_BYTES;
        let begins = u64::from(record.group) * UNIT_BYTES;
        (record.life == life && end <= len && (LOG_HEAD_BYTES..=offset).contains(&begins)).then_some(record)
    }

    /// The next sound head at or after `offset`.
    fn search(&mut self, life: u64, mut offset: u64) -> Option<u64> {
        while self.get(offset, HEAD_BYTES as u64).is_some() {
            if self.head(life, offset).is_some() {
                return Some(offset);
            }
            offset += UNIT_BYTES;
        }
        None
    }

    fn is_whole(&mut self, offset: u64, record: &Record) -> bool {
        let Some(bytes) = self.get(offset, u64::from(record.units()) * UNIT_BYTES) else { return false };
        record_matches(record, bytes)
    }
}

/// Whether all of a record, given from its first byte, matches its checksums.
pub(crate) fn record_matches(record: &Record, bytes: &[u8]) -> bool {
    let body_at = record.body_at() as usize;
    let Some(meta) = bytes.get(HEAD_BYTES..body_at) else { return false };
    if codec::crc64(meta) != record.meta_crc {
        return false;
    }
    if record.kind != RecordKind::Put {
        return true;
    }
    let table = &meta[record.header_len as usize..];
    bytes
        .get(body_at..body_at + record.body_len as usize)
        .is_some_and(|body| cells_match(table, 0, record.cell_bytes, body))
}

/// Scans the records of a log of this life up to `len`. In a `sealed` one nothing can be torn.
pub fn scan(file: &dyn File, life: u64, len: u64, sealed: bool) -> Scan {
    let mut window = Window { file, len, at: 0, bytes: Vec::new(), unread: 0 };
    let mut records: Vec<(u64, Record)> = Vec::new();
    let mut gaps = Vec::new();
    let mut at = LOG_HEAD_BYTES;
    loop {
        if let Some(record) = window.head(life, at) {
            let next = at + u64::from(record.units()) * UNIT_BYTES;
            records.push((at, record));
            at = next;
            continue;
        }
        let Some(next) = window.search(life, at) else { break };
        gaps.push((at, next - at));
        at = next;
    }
    let last = records.iter().map(|(_, record)| u64::from(record.group) * UNIT_BYTES).max().unwrap_or(at);
    let mut scan = Scan { end: at, ..Scan::default() };
    scan.damaged = gaps.into_iter().filter(|(begin, _)| sealed || *begin < last).collect();
    if sealed && at < len {
        scan.damaged.push((at, len - at));
        scan.end = len;
    }
    for (offset, record) in records {
        if !sealed && offset >= last && !window.is_whole(offset, &record) {
            scan.torn.push(offset);
            continue;
        }
        scan.entries.push(Entry::of(&record, (offset / UNIT_BYTES) as u32));
    }
    scan.unread = window.unread;
    if !sealed && let Some(entry) = scan.entries.last() {
        // Torn records at the end are left to be written over.
        scan.end = (u64::from(entry.unit) + u64::from(entry.units)) * UNIT_BYTES;
        scan.torn.retain(|offset| *offset < scan.end);
    }
    scan
}

/// The life of a log whose head is lost: that of its first sound record. The error says that some
/// of the file couldn't be read and the rest holds no record.
pub fn life_of(file: &dyn File, len: u64) -> Result<Option<u64>, u64> {
    let mut window = Window { file, len, at: 0, bytes: Vec::new(), unread: 0 };
    let mut at = LOG_HEAD_BYTES;
    while let Some(bytes) = window.get(at, HEAD_BYTES as u64) {
        if let Ok(record) = Record::decode(bytes) {
            return Ok(Some(record.life));
        }
        at += UNIT_BYTES;
    }
    if window.unread > 0 { Err(window.unread) } else { Ok(None) }
}
