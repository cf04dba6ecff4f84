//! The log's bytes: the head of a file, records, and what is in them. docs/formats/metastore.md.

use std::collections::BTreeSet;

use base::kv::Batch;
use base::{Epoch, Seq};
use codec::{Crc64, Error, Reader};
use crypt::{LogSealer, MetaKey};

use crate::layer::ValueRef;
use crate::store::{BATCH_BYTES_MAX, Entry};

/// Bytes of a log file's head.
pub(crate) const FILE_HEAD: u64 = 128;
/// Bytes of a record's head.
pub(crate) const RECORD_HEAD: usize = 40;
/// Bytes of the seal behind a record's body.
pub(crate) const TAG: usize = 16;
/// Records begin at multiples of it, so that a search for them needn't look everywhere.
pub(crate) const ALIGN: usize = 8;
/// Bytes of a record's body at the most: a batch with the lengths of its parts.
pub(crate) const BODY_MAX: usize = 4 * BATCH_BYTES_MAX;

const FILE_MARK: [u8; 4] = *b"ALog";
const FILE_VERSION: u8 = 1;
const RECORD_MARK: [u8; 4] = *b"ARec";

/// The head of a log file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileHead {
    pub shard: u32,
    /// How often it was compacted.
    pub generation: u32,
    /// Files are ordered by it.
    pub number: u64,
    /// The last batch before this file.
    pub after: Seq,
    /// The owner that began it.
    pub epoch: Epoch,
    /// Makes the file's key its own.
    pub salt: [u8; 16],
    /// The file before, and where that one ended when this one was begun; 0 for none.
    pub previous: u64,
    pub previous_end: u64,
    /// Where this file ends, if it was compacted; 0 while it grows.
    pub end: u64,
}

impl FileHead {
    pub fn encode(&self, key: &MetaKey) -> Vec<u8> {
        let mut to = codec::Writer::new();
        to.raw(&FILE_MARK).u8(FILE_VERSION).raw(&[0; 3]).u32(self.shard).u32(self.generation).u64(self.number);
        to.u64(self.after.0).u64(self.epoch.0).raw(&self.salt).u64(self.previous).u64(self.previous_end).u64(self.end);
        let mut bytes = to.finish();
        let tag = key.log_key(self.salt).seal(0, &bytes, &mut []);
        bytes.extend_from_slice(&tag);
        bytes.extend_from_slice(&codec::crc64(&bytes).to_le_bytes());
        bytes.resize(FILE_HEAD as usize, 0);
        bytes
    }

    /// Reads the head; doesn't ask whose key it is.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        const WHAT: &str = "log file head";
        let mut from = Reader::new(bytes);
        let all = from.raw(WHAT, FILE_HEAD as usize)?;
        let found = [all[0], all[1], all[2], all[3]];
        if found != FILE_MARK {
            return Err(Error::Mark { what: WHAT, found, wanted: FILE_MARK });
        }
        if all[4] > FILE_VERSION {
            return Err(Error::Version { what: WHAT, found: all[4], known: FILE_VERSION });
        }
        if codec::crc64(&all[..96]).to_le_bytes() != all[96..104] {
            return Err(Error::Checksum { what: WHAT });
        }
        let mut from = Reader::new(&all[8..]);
        Ok(Self {
            shard: from.u32("shard")?,
            generation: from.u32("generation")?,
            number: from.u64("number")?,
            after: Seq(from.u64("after")?),
            epoch: Epoch(from.u64("epoch")?),
            salt: from.array("salt")?,
            previous: from.u64("previous")?,
            previous_end: from.u64("previous end")?,
            end: from.u64("end")?,
        })
    }

    /// The file's sealer, if the head was sealed with this key.
    pub fn sealer(&self, bytes: &[u8], key: &MetaKey) -> Result<LogSealer, crypt::Error> {
        let sealer = key.log_key(self.salt);
        let mut tag = bytes.get(80..96).unwrap_or_default().to_vec();
        sealer.open(0, bytes.get(..80).unwrap_or_default(), &mut tag)?;
        Ok(sealer)
    }
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// A batch, and so an entry of the journal.
    Batch = 1,
    /// Large values that moved here from older files.
    Moved = 2,
    /// The owner closed the shard: all before is durable.
    Closed = 3,
}

/// A record whose checksum is right; its seal was not looked at.
#[derive(Clone, Debug)]
pub(crate) struct Raw<'a> {
    pub kind: RecordKind,
    pub seq: Seq,
    /// Everything before this offset of the file was acknowledged when the record was written.
    pub durable: u64,
    /// Where the record begins in its file.
    pub offset: u64,
    /// Bytes to the next record.
    pub size: usize,
    head: [u8; 32],
    /// Body and tag.
    sealed: &'a [u8],
}

impl<'a> Raw<'a> {
    /// The record at the front of `bytes`, which lie at `offset` of a file; `None` if there is no
    /// whole, right one.
    pub fn parse(bytes: &'a [u8], offset: u64) -> Option<Self> {
        let head: [u8; 32] = bytes.get(..32)?.try_into().ok()?;
        if head[..4] != RECORD_MARK {
            return None;
        }
        let kind = match head[4] {
            1 => RecordKind::Batch,
            2 => RecordKind::Moved,
            3 => RecordKind::Closed,
            _ => return None,
        };
        let body = u32::from_le_bytes(head[8..12].try_into().ok()?) as usize;
        if body > BODY_MAX {
            return None;
        }
        let size = record_size(body);
        let sealed = bytes.get(..size)?.get(RECORD_HEAD..RECORD_HEAD + body + TAG)?;
        let mut crc = Crc64::default();
        crc.update(&head);
        crc.update(sealed);
        if crc.value().to_le_bytes() != bytes[32..RECORD_HEAD] {
            return None;
        }
        let seq = Seq(u64::from_le_bytes(head[16..24].try_into().ok()?));
        let durable = u64::from_le_bytes(head[24..32].try_into().ok()?);
        Some(Self { kind, seq, durable, offset, size, head, sealed })
    }

    /// Bytes of the body.
    pub fn body_len(&self) -> usize {
        self.sealed.len() - TAG
    }

    /// The body in clear.
    pub fn open(&self, sealer: &LogSealer) -> Result<Vec<u8>, crypt::Error> {
        let mut bytes = self.sealed.to_vec();
        let len = sealer.open(self.offset, &self.head, &mut bytes)?.len();
        bytes.truncate(len);
        Ok(bytes)
    }
}

/// Bytes that a record with such a body takes.
pub(crate) fn record_size(body: usize) -> usize {
    (RECORD_HEAD + body + TAG).next_multiple_of(ALIGN)
}

/// Whether anything in `bytes` (the rest of a file from `offset`) shows that the file was good and
/// acknowledged beyond `end`: then what is wrong there is damage, no torn write.
pub(crate) fn acknowledged_beyond(bytes: &[u8], offset: u64, end: u64) -> bool {
    let aligned = (0..bytes.len()).step_by(ALIGN);
    aligned
        .filter(|at| bytes[*at..].starts_with(&RECORD_MARK))
        .filter_map(|at| Raw::parse(&bytes[at..], offset + at as u64))
        .any(|raw| raw.durable > end)
}

/// Where a record was put.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub record: u64,
    pub sealed: u32,
}

impl Placed {
    /// A moved value whose bytes begin at `at` of this record.
    pub fn moved(self, one: Move<Vec<u8>>, at: u32, file: u64) -> Move<ValueRef> {
        let Placed { record, sealed } = self;
        let value = ValueRef { seq: one.seq, file, record, sealed, at, len: one.value.len() as u32 };
        Move { key: one.key, seq: one.seq, value }
    }
}

/// Appends a record to `to`, whose first byte will lie at `base` of the file.
pub(crate) fn append(
    to: &mut Vec<u8>,
    base: u64,
    sealer: &LogSealer,
    (kind, seq, durable): (RecordKind, Seq, u64),
    body: impl FnOnce(&mut Vec<u8>),
) -> Placed {
    let start = to.len();
    let record = base + start as u64;
    to.extend_from_slice(&RECORD_MARK);
    to.extend_from_slice(&[kind as u8, 0, 0, 0]);
    to.extend_from_slice(&[0; 8]);
    to.extend_from_slice(&seq.0.to_le_bytes());
    to.extend_from_slice(&durable.to_le_bytes());
    to.extend_from_slice(&[0; 8]);
    body(to);
    let (head, plain) = to[start..].split_at_mut(RECORD_HEAD);
    let len = plain.len() as u32;
    head[8..12].copy_from_slice(&len.to_le_bytes());
    let tag = sealer.seal(record, &head[..32], plain);
    let mut crc = Crc64::default();
    crc.update(&head[..32]);
    crc.update(plain);
    crc.update(&tag);
    head[32..].copy_from_slice(&crc.value().to_le_bytes());
    to.extend_from_slice(&tag);
    to.resize(start + record_size(len as usize), 0);
    Placed { record, sealed: len }
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    to.extend_from_slice(bytes);
}

fn put_count(to: &mut Vec<u8>, count: usize) {
    to.extend_from_slice(&(count as u32).to_le_bytes());
}

/// Writes a batch's body. Values for which `keep` is false are left out, their lengths stay.
/// Gives where in the body each value begins.
pub(crate) fn write_batch(to: &mut Vec<u8>, batch: &Batch, keep: impl Fn(usize) -> bool) -> Vec<u32> {
    let start = to.len();
    put_count(to, batch.events.len());
    batch.events.iter().for_each(|event| put_bytes(to, event));
    put_count(to, batch.range_dels.len());
    for range in &batch.range_dels {
        put_bytes(to, &range.start);
        put_bytes(to, &range.end);
    }
    put_count(to, batch.dels.len());
    batch.dels.iter().for_each(|key| put_bytes(to, key));
    put_count(to, batch.puts.len());
    let mut places = Vec::with_capacity(batch.puts.len());
    for (index, (key, value)) in batch.puts.iter().enumerate() {
        put_bytes(to, key);
        let kept = keep(index);
        to.push(u8::from(!kept));
        put_count(to, value.len());
        places.push((to.len() - start) as u32);
        if kept {
            to.extend_from_slice(value);
        }
    }
    places
}

/// One put of a batch as it lies in its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PutPart<'a> {
    pub key: &'a [u8],
    /// Where the value begins in the body.
    pub at: u32,
    /// Its length, also if it was left out.
    pub len: u32,
    /// The value, unless it was left out.
    pub value: Option<&'a [u8]>,
}

/// A batch's body taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BatchBody<'a> {
    pub events: Vec<&'a [u8]>,
    pub range_dels: Vec<(&'a [u8], &'a [u8])>,
    pub dels: Vec<&'a [u8]>,
    pub puts: Vec<PutPart<'a>>,
}

impl<'a> BatchBody<'a> {
    pub fn decode(body: &'a [u8]) -> Result<Self, Error> {
        let mut from = Reader::new(body);
        let mut this = Self::default();
        for _ in 0..from.u32("events")? {
            this.events.push(from.bytes("event", BODY_MAX)?);
        }
        for _ in 0..from.u32("range dels")? {
            this.range_dels.push((from.bytes("range start", BODY_MAX)?, from.bytes("range end", BODY_MAX)?));
        }
        for _ in 0..from.u32("dels")? {
            this.dels.push(from.bytes("del", BODY_MAX)?);
        }
        for _ in 0..from.u32("puts")? {
            let key = from.bytes("key", BODY_MAX)?;
            let form = from.u8("value's form")?;
            let len = from.u32("value")?;
            let at = (body.len() - from.left()) as u32;
            let value = match form {
                0 => Some(from.raw("value", len as usize)?),
                1 => None,
                value => return Err(Error::Value { what: "value's form", value: value.into() }),
            };
            this.puts.push(PutPart { key, at, len, value });
        }
        from.end("batch")?;
        Ok(this)
    }

    /// The batch in its own memory; values that were left out are empty.
    pub fn to_batch(&self) -> Batch {
        Batch {
            puts: self.puts.iter().map(|put| (put.key.to_vec(), put.value.unwrap_or_default().to_vec())).collect(),
            dels: self.dels.iter().map(|key| key.to_vec()).collect(),
            range_dels: self.range_dels.iter().map(|(from, end)| from.to_vec()..end.to_vec()).collect(),
            events: self.events.iter().map(|event| event.to_vec()).collect(),
        }
    }
}

/// A large value on its way to another file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Move<V> {
    pub key: Vec<u8>,
    /// The batch that wrote it.
    pub seq: Seq,
    pub value: V,
}

/// Writes the body of a [`RecordKind::Moved`]; gives where each value begins.
pub(crate) fn write_moves(to: &mut Vec<u8>, moves: &[Move<Vec<u8>>]) -> Vec<u32> {
    let start = to.len();
    put_count(to, moves.len());
    let mut places = Vec::with_capacity(moves.len());
    for one in moves {
        put_bytes(to, &one.key);
        to.extend_from_slice(&one.seq.0.to_le_bytes());
        put_count(to, one.value.len());
        places.push((to.len() - start) as u32);
        to.extend_from_slice(&one.value);
    }
    places
}

/// The values of a [`RecordKind::Moved`] at their new place.
pub(crate) fn read_moves(body: &[u8], file: u64, placed: Placed) -> Result<Vec<Move<ValueRef>>, Error> {
    let mut from = Reader::new(body);
    let mut moves = Vec::new();
    for _ in 0..from.u32("moves")? {
        let key = from.bytes("key", BODY_MAX)?.to_vec();
        let seq = Seq(from.u64("moved seq")?);
        let len = from.u32("value")?;
        let at = (body.len() - from.left()) as u32;
        from.raw("value", len as usize)?;
        let value = ValueRef { seq, file, record: placed.record, sealed: placed.sealed, at, len };
        moves.push(Move { key, seq, value });
    }
    from.end("moves")?;
    Ok(moves)
}

/// Writes a batch as it lies in a log record; the values of `dropped` puts are left out.
pub fn write_entry(to: &mut Vec<u8>, batch: &Batch, dropped: &[u32]) {
    let dropped: BTreeSet<u32> = dropped.iter().copied().collect();
    write_batch(to, batch, |index| !dropped.contains(&(index as u32)));
}

/// The reverse of [`write_entry`].
///
/// # Errors
/// If the bytes are something else.
pub fn read_entry(seq: Seq, body: &[u8]) -> Result<Entry, Error> {
    let body = BatchBody::decode(body)?;
    let gone = body.puts.iter().enumerate().filter(|(_, put)| put.value.is_none());
    let dropped = gone.map(|(index, _)| index as u32).collect();
    Ok(Entry { seq, batch: body.to_batch(), dropped })
}
