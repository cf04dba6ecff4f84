//! What a log holds, for people: reads one file, changes nothing.

use base::{PieceId, Wall};

use crate::footer::{self, TRAILER_BYTES, Trailer};
pub use crate::record::{Extent, RecordKind, Stream, Target};
use crate::record::{HEAD_BYTES, LOG_HEAD_BYTES, LogHead, Record, UNIT_BYTES};

/// A record of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Byte offset in the file.
    pub offset: u64,
    /// Bytes in the file.
    pub bytes: u64,
    /// What it says.
    pub kind: RecordKind,
    /// Of which piece.
    pub id: PieceId,
    /// Its place in the order of all changes of the store.
    pub seq: u64,
    /// Bytes of the piece's header.
    pub header_len: u32,
    /// Bytes of the body.
    pub body_len: u32,
    /// Bytes that each checksum covers.
    pub cell_bytes: u32,
    /// The record that it replaces or speaks of.
    pub target: Option<Target>,
    /// The body's place, for a large piece.
    pub extent: Option<Extent>,
    /// When the piece may be dropped.
    pub expiry: Option<Wall>,
    /// When it was written, or went to the trash.
    pub time: Wall,
    /// Whether all its bytes match their checksums.
    pub is_sound: bool,
}

/// A whole log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogReport {
    /// The log's number and stream, if its head is sound.
    pub number: Option<u32>,
    /// Which records it takes.
    pub stream: Option<Stream>,
    /// Whether it ends in a footer, and how many entries that has.
    pub footer_entries: Option<u32>,
    /// The records, by offset.
    pub records: Vec<LogRecord>,
    /// Byte ranges (offset, length) between records that are no record.
    pub gaps: Vec<(u64, u64)>,
}

/// Lists the records of a log file, given all its bytes. Records after damage are found again.
pub fn log(bytes: &[u8]) -> Result<LogReport, codec::Error> {
    let head = LogHead::decode(bytes);
    if let Err(error @ codec::Error::Version { .. }) = head {
        return Err(error);
    }
    let head = head.ok();
    let trailer = trailer_of(bytes);
    let end = trailer.map_or(bytes.len(), |trailer| trailer.records_end as usize);
    let mut report = LogReport {
        number: head.map(|head| head.number),
        stream: head.map(|head| head.stream),
        footer_entries: trailer.map(|trailer| trailer.count),
        records: Vec::new(),
        gaps: Vec::new(),
    };
    let mut life = head.map(|head| head.life);
    let mut at = LOG_HEAD_BYTES as usize;
    let mut expected = at;
    while at + HEAD_BYTES <= end {
        let record = Record::decode(&bytes[at..]).ok().filter(|record| life.is_none_or(|life| life == record.life));
        let Some(record) = record else {
            at += UNIT_BYTES as usize;
            continue;
        };
        life = Some(record.life);
        if at > expected {
            report.gaps.push((expected as u64, (at - expected) as u64));
        }
        report.records.push(describe(&record, at, bytes));
        at += record.units() as usize * UNIT_BYTES as usize;
        expected = at;
    }
    // Zeros at the end were written ahead of the records: no gap.
    let rest = bytes.get(expected..end).unwrap_or_default();
    if rest.iter().any(|byte| *byte != 0) {
        report.gaps.push((expected as u64, rest.len() as u64));
    }
    Ok(report)
}

fn trailer_of(bytes: &[u8]) -> Option<Trailer> {
    let at = bytes.len().checked_sub(TRAILER_BYTES)?;
    let trailer = Trailer::decode(&bytes[at..]).ok()?;
    let (from, to) = (usize::try_from(trailer.records_end).ok()?, at);
    let entries = bytes.get(from..to)?;
    footer::decode(&trailer, entries).ok().map(|_| trailer)
}

fn describe(record: &Record, at: usize, bytes: &[u8]) -> LogRecord {
    let size = record.units() as usize * UNIT_BYTES as usize;
    let whole = bytes.get(at..at + size);
    LogRecord {
        offset: at as u64,
        bytes: size as u64,
        kind: record.kind,
        id: record.id,
        seq: record.seq,
        header_len: record.header_len,
        body_len: record.body_len,
        cell_bytes: record.cell_bytes,
        target: record.target,
        extent: record.extent,
        expiry: record.expiry,
        time: record.time,
        is_sound: whole.is_some_and(|whole| crate::scan::record_matches(record, whole)),
    }
}

/// A piece as one log has it: header and body of the record at `offset`, checked. Bodies of large
/// pieces lie in extent files; `None` stands for theirs.
pub fn piece(bytes: &[u8], offset: u64) -> Result<(Vec<u8>, Option<Vec<u8>>), codec::Error> {
    const WHAT: &str = "piece record";
    let at = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let rest = &bytes[at..];
    let record = Record::decode(rest)?;
    let size = record.units() as usize * UNIT_BYTES as usize;
    let whole = rest.get(..size).ok_or(codec::Error::Short { what: WHAT, need: size, have: rest.len() })?;
    if !crate::scan::record_matches(&record, whole) {
        return Err(codec::Error::Checksum { what: WHAT });
    }
    let header = whole[HEAD_BYTES..HEAD_BYTES + record.header_len as usize].to_vec();
    let body_at = record.body_at() as usize;
    let body = whole.get(body_at..body_at + record.body_len as usize).map(<[u8]>::to_vec);
    Ok((header, body.filter(|_| record.kind == RecordKind::Put)))
}
