//! The narrow contract between the sequencer and whatever keeps a shard's rows.

use async_trait::async_trait;
use base::kv::{Batch, View};
use base::{Epoch, Seq};
use codec::{Reader, Versioned, Writer};

use crate::Error;

/// Bytes of one batch at the most ([`Batch::size`]): a batch is one record, read back in one go.
pub const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A consistent cut of the committed rows. Cheap to take, cheap to keep for seconds; one that is
/// kept for hours holds back cleaning.
pub trait Snapshot: View + Send + Sync {
    /// Everything up to this is in the cut, nothing after.
    fn at(&self) -> Seq;
}

/// One record of the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub seq: Seq,
    /// Events and effects as committed.
    pub batch: Batch,
    /// Indices into `batch.puts` (ascending) whose values are gone, here empty: a later entry
    /// replaces or removes the row, so that who follows to the end has every row right.
    pub dropped: Vec<u32>,
}

/// What a checkpoint holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Everything up to this is in the checkpoint.
    pub seq: Seq,
}

/// What keeps one shard: its journal and the ordered map that it makes. Whoever opened it last owns
/// it; commits of earlier owners fail.
#[async_trait]
pub trait ShardStore: Send + Sync {
    /// The epoch under which this handle owns the shard, and the end of the journal.
    fn position(&self) -> (Epoch, Seq);

    /// The committed rows as they are now.
    ///
    /// # Errors
    /// If the store is broken.
    fn snapshot(&self) -> Result<Box<dyn Snapshot>, Error>;

    /// Appends the batches in order, each all or nothing, a beginning of them all if it fails
    /// half-way; gives the last one's place once all are durable. One call is one group: it costs
    /// one sync. Calls don't overlap; whoever wants to queue uses a [`crate::Sequencer`].
    ///
    /// # Errors
    /// [`Error::Fenced`], [`Error::Head`], [`Error::TooLarge`] and [`Error::Full`] changed nothing.
    /// After any other the fate of the batches is open and the store refuses until it is reopened.
    async fn commit(&self, epoch: Epoch, expected_head: Seq, batches: Vec<Batch>) -> Result<Seq, Error>;

    /// At most `limit` committed entries after the cursor, gap-free; none if it is at the end.
    /// Blocks on the drive: call it inside [`env::Env::blocking`].
    ///
    /// # Errors
    /// [`Error::Trimmed`] if the journal doesn't reach back that far.
    fn tail(&self, from: &Cursor, limit: usize) -> Result<Vec<Entry>, Error>;

    /// The cursor behind the entry at `seq` of this shard.
    fn cursor(&self, seq: Seq) -> Cursor;

    /// Makes the map durable by itself up to now, so that a later open replays little.
    ///
    /// # Errors
    /// If no mirror could be written.
    async fn checkpoint(&self) -> Result<Position, Error>;
}

/// One shard's part of a [`Cursor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CursorPart {
    /// The shard.
    pub shard: u32,
    /// Its incarnation.
    pub generation: u32,
    /// The last entry that was seen.
    pub seq: Seq,
}

/// How far a reader has followed the journals of one or more shards. Opaque to readers: they store
/// its encoding and hand it back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// At most one per shard, shards ascending.
    parts: Vec<CursorPart>,
}

impl Cursor {
    /// Before everything.
    pub fn start() -> Self {
        Self::default()
    }

    /// This cursor with the shard's part replaced.
    pub fn with(mut self, part: CursorPart) -> Self {
        match self.parts.binary_search_by_key(&part.shard, |part| part.shard) {
            Ok(at) => self.parts[at] = part,
            Err(at) => self.parts.insert(at, part),
        }
        self
    }

    /// The shard's part, if the cursor has one.
    pub fn part(&self, shard: u32) -> Option<CursorPart> {
        self.parts.iter().find(|part| part.shard == shard).copied()
    }

    /// Where to go on in the shard; checks that the cursor belongs to this incarnation and that it
    /// doesn't lie ahead.
    pub(crate) fn seq_in(&self, shard: u32, generation: u32, head: Seq) -> Result<Seq, Error> {
        let Some(part) = self.part(shard) else { return Ok(Seq(0)) };
        if part.generation != generation {
            return Err(Error::ForeignCursor { why: "it was made by another incarnation of the shard" });
        }
        if part.seq > head {
            return Err(Error::ForeignCursor { why: "it lies ahead of the journal's end" });
        }
        Ok(part.seq)
    }
}

impl Versioned for Cursor {
    const NAME: &'static str = "cursor";
    const MARK: [u8; 4] = *b"ACur";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u32(self.parts.len() as u32);
        for part in &self.parts {
            to.u32(part.shard).u32(part.generation).u64(part.seq.0);
        }
    }

    fn decode_body(_version: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        let count = from.u32("cursor parts")?;
        let mut cursor = Cursor::start();
        for _ in 0..count {
            let part = CursorPart {
                shard: from.u32("cursor shard")?,
                generation: from.u32("cursor generation")?,
                seq: Seq(from.u64("cursor seq")?),
            };
            if cursor.parts.last().is_some_and(|last| last.shard >= part.shard) {
                return Err(codec::Error::Value { what: "cursor shard", value: part.shard.into() });
            }
            cursor.parts.push(part);
        }
        Ok(cursor)
    }
}
