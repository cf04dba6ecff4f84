//! Looking into the files without opening the shard.

use base::kv::Batch;
use base::{Epoch, Kind, Kinded, Seq};
use crypt::MetaKey;

use crate::record::{BatchBody, FILE_HEAD, FileHead, Placed, Raw, RecordKind, acknowledged_beyond, read_moves};

/// What a log file's head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogHead {
    /// The metadata shard.
    pub shard: u32,
    /// The file's number.
    pub number: u64,
    /// How often it was compacted.
    pub generation: u32,
    /// The last batch before it.
    pub after: Seq,
    /// The owner that began it.
    pub epoch: Epoch,
}

/// One record of a log file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Where it begins.
    pub offset: u64,
    /// Bytes to the next.
    pub size: usize,
    /// The batch, or the last one before it.
    pub seq: Seq,
    /// What it says.
    pub content: Content,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// An entry of the journal; `dropped` are the puts whose values were compacted away.
    Batch {
        /// Events and effects.
        batch: Batch,
        /// Indices into its puts.
        dropped: Vec<u32>,
    },
    /// Large values that came from older files: key, the batch that wrote it, bytes.
    Moved(Vec<(Vec<u8>, Seq, u32)>),
    /// The shard was closed here.
    Closed,
}

/// A log file as far as it can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Its head.
    pub head: LogHead,
    /// Its records in order.
    pub records: Vec<LogRecord>,
    /// Bytes behind the last whole record, zeros written ahead aside: 0 unless the end was torn, or something is damaged.
    pub rest: usize,
    /// Whether something is missing that was acknowledged: then the rest is no torn end.
    pub is_damaged: bool,
}

/// Why a file can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// Its head, or a record, isn't one.
    #[error(transparent)]
    Codec(#[from] codec::Error),
    /// It is sealed with another key.
    #[error(transparent)]
    Seal(#[from] crypt::Error),
}

impl Kinded for InspectError {
    fn kind(&self) -> Kind {
        match self {
            InspectError::Codec(error) => error.kind(),
            InspectError::Seal(error) => error.kind(),
        }
    }
}

/// Reads a whole log file.
///
/// # Errors
/// If it isn't one, or is sealed with another key.
pub fn log(bytes: &[u8], key: &MetaKey) -> Result<Log, InspectError> {
    let head = FileHead::decode(bytes)?;
    let sealer = head.sealer(bytes, key)?;
    let mut records = Vec::new();
    let mut at = FILE_HEAD as usize;
    while let Some(raw) = bytes.get(at..).and_then(|rest| Raw::parse(rest, at as u64)) {
        let plain = raw.open(&sealer)?;
        records.push(LogRecord {
            offset: raw.offset,
            size: raw.size,
            seq: raw.seq,
            content: content(&raw, &plain, &head)?,
        });
        at += raw.size;
    }
    let FileHead { shard, number, generation, after, epoch, .. } = head;
    let is_damaged = head.end > at as u64 || acknowledged_beyond(&bytes[at.min(bytes.len())..], at as u64, at as u64);
    let rest = bytes[at.min(bytes.len())..].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    Ok(Log { head: LogHead { shard, number, generation, after, epoch }, records, rest, is_damaged })
}

fn content(raw: &Raw<'_>, plain: &[u8], head: &FileHead) -> Result<Content, codec::Error> {
    Ok(match raw.kind {
        RecordKind::Batch => {
            let body = BatchBody::decode(plain)?;
            let puts = body.puts.iter().enumerate();
            let dropped = puts.filter(|(_, put)| put.value.is_none()).map(|(index, _)| index as u32).collect();
            Content::Batch { batch: body.to_batch(), dropped }
        }
        RecordKind::Moved => {
            let placed = Placed { record: raw.offset, sealed: raw.body_len() as u32 };
            let moves = read_moves(plain, head.number, placed)?;
            Content::Moved(moves.into_iter().map(|one| (one.key, one.seq, one.value.len)).collect())
        }
        RecordKind::Closed => Content::Closed,
    })
}
