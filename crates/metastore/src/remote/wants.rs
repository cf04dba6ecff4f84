//! Reads as values.

use std::collections::BTreeSet;
use std::ops::Range;

use base::kv::{Row, View, ViewError};
use codec::{Error, Reader, Versioned, Writer};

use super::{KEY_BYTES_MAX, refuse};

/// Reads in one message at the most.
pub const WANTS_MAX: usize = 65_536;
/// Bytes of encoded wants at the most.
pub const WANTS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One read of a [`View`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Read {
    /// [`View::get`].
    Get {
        /// The row's key.
        key: Vec<u8>,
    },
    /// [`View::range`].
    Range {
        /// The first key.
        start: Vec<u8>,
        /// The end, exclusive.
        end: Vec<u8>,
        /// Rows at the most.
        limit: u64,
        /// Whether from the end.
        reverse: bool,
    },
}

impl Read {
    /// A read of a range, as [`View::range`] takes it.
    pub fn range(range: Range<&[u8]>, limit: usize, reverse: bool) -> Self {
        Read::Range { start: range.start.to_vec(), end: range.end.to_vec(), limit: limit as u64, reverse }
    }

    /// What the view answers: for a get, no row or one.
    ///
    /// # Errors
    /// Those of the view.
    pub fn of(&self, view: &dyn View) -> Result<Vec<Row>, ViewError> {
        match self {
            Read::Get { key } => Ok(view.get(key)?.map(|value| (key.clone(), value)).into_iter().collect()),
            Read::Range { start, end, limit, reverse } => {
                let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
                view.range(start.as_slice()..end.as_slice(), limit, *reverse)
            }
        }
    }

    fn longest_key(&self) -> usize {
        match self {
            Read::Get { key } => key.len(),
            Read::Range { start, end, .. } => start.len().max(end.len()),
        }
    }

    /// Bytes of its encoding.
    fn size(&self) -> usize {
        match self {
            Read::Get { key } => 1 + 4 + key.len(),
            Read::Range { start, end, .. } => 1 + 8 + start.len() + end.len() + 9,
        }
    }

    pub(super) fn encode(&self, to: &mut Writer) {
        match self {
            Read::Get { key } => to.u8(0).bytes(key),
            Read::Range { start, end, limit, reverse } => {
                to.u8(if *reverse { 2 } else { 1 }).bytes(start).bytes(end).u64(*limit)
            }
        };
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, Error> {
        let kind = from.u8("read")?;
        let start = from.bytes("key", KEY_BYTES_MAX)?.to_vec();
        Ok(match kind {
            0 => Read::Get { key: start },
            1 | 2 => Read::Range {
                start,
                end: from.bytes("key", KEY_BYTES_MAX)?.to_vec(),
                limit: from.u64("limit")?,
                reverse: kind == 2,
            },
            value => return Err(Error::Value { what: "read", value: value.into() }),
        })
    }
}

/// Reads that are wanted, or were made; each once, in an order of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    reads: BTreeSet<Read>,
    size: usize,
}

impl Wants {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a read.
    ///
    /// # Errors
    /// If they are too many for a message.
    pub fn add(&mut self, read: Read) -> Result<(), ViewError> {
        if self.reads.contains(&read) {
            return Ok(());
        }
        if read.longest_key() > KEY_BYTES_MAX {
            return Err(refuse("a key is too long to be asked for: it can't be there"));
        }
        if self.reads.len() >= WANTS_MAX || self.size + read.size() > WANTS_BYTES_MAX - 16 {
            return Err(refuse("a rule reads more than one request may: ask for less"));
        }
        self.size += read.size();
        self.reads.insert(read);
        Ok(())
    }

    /// Adds the others.
    ///
    /// # Errors
    /// If they are too many for a message.
    pub fn extend(&mut self, others: Wants) -> Result<(), ViewError> {
        others.reads.into_iter().try_for_each(|read| self.add(read))
    }

    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.reads.is_empty()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.reads.len()
    }

    /// The reads.
    pub fn iter(&self) -> impl Iterator<Item = &Read> {
        self.reads.iter()
    }
}

impl Versioned for Wants {
    const NAME: &'static str = "wants";
    const MARK: [u8; 4] = *b"msWa";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u32(self.reads.len() as u32);
        self.reads.iter().for_each(|read| read.encode(to));
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        let count = counted(from, "wants", WANTS_MAX, WANTS_BYTES_MAX)?;
        let mut wants = Wants::new();
        for _ in 0..count {
            let read = Read::decode(from)?;
            if wants.reads.last().is_some_and(|last| *last >= read) {
                return Err(Error::Value { what: "order of wants", value: wants.len() as u64 });
            }
            wants.size += read.size();
            wants.reads.insert(read);
        }
        Ok(wants)
    }
}

/// A count of things in a value that has at most `bytes` bytes.
pub(super) fn counted(from: &mut Reader<'_>, what: &'static str, max: usize, bytes: usize) -> Result<usize, Error> {
    if from.left() > bytes {
        return Err(Error::TooLong { what, len: from.left(), max: bytes });
    }
    let count = from.u32(what)? as usize;
    if count > max {
        return Err(Error::TooLong { what, len: count, max });
    }
    Ok(count)
}
