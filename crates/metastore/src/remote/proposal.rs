//! Changes that were decided elsewhere, on rows that may be old.

use base::Seq;
use base::kv::{Batch, Row, View, ViewError};
use codec::{Error, Reader, Versioned, Writer};

use super::wants::{WANTS_BYTES_MAX, counted};
use super::{Read, WANTS_MAX, Wants, refuse};
use crate::record::{read_entry, write_entry};
use crate::store::BATCH_BYTES_MAX;

/// Rows that the reads of one set may have found at the most: they are read again while no other change is
/// evaluated.
pub const READ_ROWS_MAX: u64 = 65_536;
/// Bytes of an encoded set at the most: wants, and what each came to.
const SET_BYTES_MAX: usize = WANTS_BYTES_MAX + WANTS_MAX * 36;
/// Bytes of a batch's encoding at the most.
const ENTRY_BYTES_MAX: usize = 4 * BATCH_BYTES_MAX;

/// One read, how many rows it found, and a digest of them.
///
/// BLAKE3 and no CRC: who stores objects chooses bytes that lie in rows, and could choose them so that
/// another row has the same CRC; then a change that should be refused would be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    read: Read,
    count: u32,
    digest: [u8; 32],
}

/// What a rule had read when it decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadSet {
    seen: Vec<Seen>,
}

fn digest(rows: &[Row]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for (key, value) in rows {
        for bytes in [key, value] {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        }
    }
    *hasher.finalize().as_bytes()
}

impl Seen {
    /// The same read again, but never more than one row beyond what it found: that one more is enough
    /// to see that it finds something else now.
    fn again(&self) -> Read {
        match self.read.clone() {
            Read::Range { start, end, limit, reverse } => {
                Read::Range { start, end, limit: limit.min(u64::from(self.count) + 1), reverse }
            }
            get => get,
        }
    }
}

impl ReadSet {
    /// Makes the reads and notes what they come to.
    ///
    /// # Errors
    /// Those of the view; and if they find too many rows.
    pub fn of(view: &dyn View, reads: &Wants) -> Result<Self, ViewError> {
        let (mut seen, mut total) = (Vec::with_capacity(reads.len()), 0);
        for read in reads.iter() {
            let rows = read.of(view)?;
            total += rows.len() as u64;
            if total > READ_ROWS_MAX {
                return Err(refuse("a change depends on too many rows to be made from here"));
            }
            seen.push(Seen { read: read.clone(), count: rows.len() as u32, digest: digest(&rows) });
        }
        Ok(Self { seen })
    }

    /// Whether every read finds the same in this view.
    ///
    /// # Errors
    /// Those of the view.
    pub fn holds(&self, view: &dyn View) -> Result<bool, ViewError> {
        for seen in &self.seen {
            let rows = seen.again().of(view)?;
            if rows.len() != seen.count as usize || digest(&rows) != seen.digest {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How many reads.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether nothing was read.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }
}

impl Versioned for ReadSet {
    const NAME: &'static str = "read set";
    const MARK: [u8; 4] = *b"msRs";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u32(self.seen.len() as u32);
        for Seen { read, count, digest } in &self.seen {
            read.encode(to);
            to.u32(*count).raw(digest);
        }
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        let mut seen: Vec<Seen> = Vec::new();
        let mut total = 0;
        for at in 0..counted(from, "read set", WANTS_MAX, SET_BYTES_MAX)? {
            let one = Seen { read: Read::decode(from)?, count: from.u32("rows found")?, digest: from.array("digest")? };
            if seen.last().is_some_and(|last| last.read >= one.read) {
                return Err(Error::Value { what: "order of reads", value: at as u64 });
            }
            total += u64::from(one.count);
            if total > READ_ROWS_MAX {
                return Err(Error::Value { what: "rows found", value: total });
            }
            seen.push(one);
        }
        Ok(ReadSet { seen })
    }
}

/// A change, and what it depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proposal {
    /// What was read.
    pub reads: ReadSet,
    /// What is to be written if the reads hold.
    pub batch: Batch,
}

impl Versioned for Proposal {
    const NAME: &'static str = "proposal";
    const MARK: [u8; 4] = *b"msPr";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        let (reads, mut batch) = (self.reads.encode(), Vec::new());
        write_entry(&mut batch, &self.batch, &[]);
        to.bytes(&reads).bytes(&batch);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        let reads = ReadSet::decode(from.bytes("read set", SET_BYTES_MAX)?)?;
        let entry = read_entry(Seq(0), from.bytes("batch", ENTRY_BYTES_MAX)?)?;
        let size = entry.batch.size();
        if size > BATCH_BYTES_MAX {
            return Err(Error::TooLong { what: "batch", len: size, max: BATCH_BYTES_MAX });
        }
        if let Some(dropped) = entry.dropped.first() {
            return Err(Error::Value { what: "value left out", value: (*dropped).into() });
        }
        Ok(Proposal { reads, batch: entry.batch })
    }
}
