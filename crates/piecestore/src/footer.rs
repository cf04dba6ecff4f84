//! The footer of a sealed log: what its records say, without their bytes, so that a store of ten
//! million pieces is open in seconds. The layout is docs/formats/piecestore.md §4.

use base::{PieceId, Wall};
use codec::{Error, Reader, Writer};

use crate::record::{Extent, Loc, Record, RecordKind, Target};

/// Bytes of the trailer: the last ones of a sealed log.
pub const TRAILER_BYTES: usize = 80;

const MARK: [u8; 4] = *b"ABpf";
const VERSION: u8 = 1;

const TRASHED: u16 = 1;
const HAS_TARGET: u16 = 2;
const HAS_EXTENT: u16 = 4;
const HAS_EXPIRY: u16 = 8;
const HAS_TIME: u16 = 16;
const NEW_CELL: u16 = 32;

/// One record of a log, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it says.
    pub kind: RecordKind,
    /// In the trash since `time` when it was written.
    pub trashed: bool,
    /// Of which piece.
    pub id: PieceId,
    /// Offset in units.
    pub unit: u32,
    /// Size in units.
    pub units: u32,
    /// Its place in the order of all changes.
    pub seq: u64,
    /// Bytes of the body.
    pub body_len: u32,
    /// Bytes that each checksum covers.
    pub cell_bytes: u32,
    /// The record superseded or spoken of.
    pub target: Option<Target>,
    /// The body's place, for [`RecordKind::Large`].
    pub extent: Option<Extent>,
    /// When the piece may be dropped.
    pub expiry: Option<Wall>,
    /// When a piece went to the trash; zero for others.
    pub time: Wall,
}

impl Entry {
    /// What the footer keeps of a record at `unit`.
    pub fn of(record: &Record, unit: u32) -> Self {
        let timed = record.trashed || record.kind == RecordKind::Delete;
        Self {
            kind: record.kind,
            trashed: record.trashed,
            id: record.id,
            unit,
            units: record.units(),
            seq: record.seq,
            body_len: record.body_len,
            cell_bytes: record.cell_bytes,
            target: record.target,
            extent: record.extent,
            expiry: record.expiry,
            time: if timed { record.time } else { Wall(0) },
        }
    }

    /// The record as the target of another one.
    pub fn as_target(&self, log: u32) -> Target {
        let blocks = self.extent.map_or(0, |extent| extent.blocks);
        Target { loc: Loc { log, unit: self.unit }, units: self.units, blocks }
    }

    fn flags(&self, cell_before: u32) -> u16 {
        let mut flags = 0;
        let mut set = |on: bool, flag: u16| flags |= if on { flag } else { 0 };
        set(self.trashed, TRASHED);
        set(self.target.is_some(), HAS_TARGET);
        set(self.extent.is_some(), HAS_EXTENT);
        set(self.expiry.is_some(), HAS_EXPIRY);
        set(self.time != Wall(0), HAS_TIME);
        set(self.kind.is_piece() && self.cell_bytes != cell_before, NEW_CELL);
        flags
    }

    fn encode(&self, to: &mut Writer, base_seq: u64, cell_before: &mut u32) {
        let flags = self.flags(*cell_before);
        to.raw(&self.id.to_bytes()).u8(kind_byte(self.kind)).u16(flags).u32(self.unit).u32(self.units);
        to.u32((self.seq - base_seq) as u32);
        if self.kind.is_piece() {
            to.u32(self.body_len);
            if flags & NEW_CELL != 0 {
                to.u32(self.cell_bytes);
            }
            *cell_before = self.cell_bytes;
        }
        if let Some(target) = self.target {
            to.u32(target.loc.log).u32(target.loc.unit).u32(target.units).u32(target.blocks);
        }
        if let Some(extent) = self.extent {
            to.u32(extent.file).u32(extent.block).u32(extent.blocks);
        }
        if let Some(expiry) = self.expiry {
            to.u64(expiry.0);
        }
        if flags & HAS_TIME != 0 {
            to.u64(self.time.0);
        }
    }

    fn decode(from: &mut Reader<'_>, base_seq: u64, cell_before: &mut u32) -> Result<Self, Error> {
        const WHAT: &str = "footer entry";
        let id = PieceId::from_bytes(from.array(WHAT)?);
        let kind = RecordKind::of(from.u8(WHAT)?)?;
        let flags = from.u16(WHAT)?;
        let (unit, units) = (from.u32(WHAT)?, from.u32(WHAT)?);
        let seq = base_seq.saturating_add(from.u32(WHAT)?.into());
        let mut body_len = 0;
        let mut cell_bytes = 0;
        if kind.is_piece() {
            body_len = from.u32(WHAT)?;
            if flags & NEW_CELL != 0 {
                *cell_before = from.u32(WHAT)?;
            }
            cell_bytes = *cell_before;
        }
        let target = (flags & HAS_TARGET != 0).then(|| read_target(from)).transpose()?;
        let extent = (flags & HAS_EXTENT != 0).then(|| read_extent(from)).transpose()?;
        let expiry = (flags & HAS_EXPIRY != 0).then(|| from.u64(WHAT)).transpose()?.map(Wall);
        let time = Wall((flags & HAS_TIME != 0).then(|| from.u64(WHAT)).transpose()?.unwrap_or(0));
        let trashed = flags & TRASHED != 0;
        Ok(Self { kind, trashed, id, unit, units, seq, body_len, cell_bytes, target, extent, expiry, time })
    }
}

fn kind_byte(kind: RecordKind) -> u8 {
    match kind {
        RecordKind::Put => 1,
        RecordKind::Large => 2,
        RecordKind::Delete => 3,
        RecordKind::Undelete => 4,
        RecordKind::Purge => 5,
    }
}

fn read_target(from: &mut Reader<'_>) -> Result<Target, Error> {
    const WHAT: &str = "footer target";
    let loc = Loc { log: from.u32(WHAT)?, unit: from.u32(WHAT)? };
    Ok(Target { loc, units: from.u32(WHAT)?, blocks: from.u32(WHAT)? })
}

fn read_extent(from: &mut Reader<'_>) -> Result<Extent, Error> {
    const WHAT: &str = "footer extent";
    Ok(Extent { file: from.u32(WHAT)?, block: from.u32(WHAT)?, blocks: from.u32(WHAT)? })
}

/// The last bytes of a sealed log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// The log's life.
    pub life: u64,
    /// Entries of the footer.
    pub count: u32,
    /// Where the records end and the entries begin.
    pub records_end: u64,
    /// Bytes of the entries.
    pub entries_len: u64,
    /// The first record's place in the order of all changes; the others count from it.
    pub base_seq: u64,
    /// The last record's.
    pub last_seq: u64,
    /// The latest expiry of the pieces; zero if one of them has none.
    pub expiry_max: Wall,
    entries_crc: u64,
}

impl Trailer {
    /// Reads the trailer.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        const WHAT: &str = "log footer";
        if bytes.len() != TRAILER_BYTES {
            return Err(Error::Short { what: WHAT, need: TRAILER_BYTES, have: bytes.len() });
        }
        let mut from = Reader::new(bytes);
        let found = from.array(WHAT)?;
        if found != MARK {
            return Err(Error::Mark { what: WHAT, found, wanted: MARK });
        }
        if codec::crc64(&bytes[..TRAILER_BYTES - 8]).to_le_bytes() != bytes[TRAILER_BYTES - 8..] {
            return Err(Error::Checksum { what: WHAT });
        }
        let version = from.u8(WHAT)?;
        if version > VERSION {
            return Err(Error::Version { what: WHAT, found: version, known: VERSION });
        }
        from.raw(WHAT, 3)?;
        let (life, count) = (from.u64(WHAT)?, from.u32(WHAT)?);
        from.raw(WHAT, 4)?;
        Ok(Self {
            life,
            count,
            records_end: from.u64(WHAT)?,
            entries_len: from.u64(WHAT)?,
            base_seq: from.u64(WHAT)?,
            last_seq: from.u64(WHAT)?,
            expiry_max: Wall(from.u64(WHAT)?),
            entries_crc: from.u64(WHAT)?,
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.raw(&MARK).u8(VERSION).raw(&[0; 3]).u64(self.life).u32(self.count).raw(&[0; 4]);
        to.u64(self.records_end).u64(self.entries_len).u64(self.base_seq).u64(self.last_seq);
        to.u64(self.expiry_max.0).u64(self.entries_crc);
        let mut bytes = to.finish();
        let crc = codec::crc64(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }
}

/// The latest expiry, or zero if one piece has none or there is no piece.
pub fn expiry_max(entries: &[Entry]) -> Wall {
    let mut pieces = entries.iter().filter(|entry| entry.kind.is_piece()).peekable();
    if pieces.peek().is_none() {
        return Wall(0);
    }
    pieces.map(|entry| entry.expiry).try_fold(Wall(0), |max, expiry| expiry.map(|e| e.max(max))).unwrap_or(Wall(0))
}

/// The footer's bytes, trailer included, for records that end at `records_end`.
pub fn encode(life: u64, records_end: u64, entries: &[Entry]) -> Vec<u8> {
    let base_seq = entries.first().map_or(0, |entry| entry.seq);
    let last_seq = entries.last().map_or(0, |entry| entry.seq);
    let mut to = Writer::new();
    let mut cell_before = 0;
    for entry in entries {
        entry.encode(&mut to, base_seq, &mut cell_before);
    }
    let mut bytes = to.finish();
    let trailer = Trailer {
        life,
        count: entries.len() as u32,
        records_end,
        entries_len: bytes.len() as u64,
        base_seq,
        last_seq,
        expiry_max: expiry_max(entries),
        entries_crc: codec::crc64(&bytes),
    };
    bytes.extend_from_slice(&trailer.encode());
    bytes
}

/// The entries that `trailer` speaks of.
pub fn decode(trailer: &Trailer, bytes: &[u8]) -> Result<Vec<Entry>, Error> {
    const WHAT: &str = "footer entries";
    if codec::crc64(bytes) != trailer.entries_crc {
        return Err(Error::Checksum { what: WHAT });
    }
    let mut from = Reader::new(bytes);
    // An entry takes at least 36 bytes: a false count can't make us take more memory than that.
    let mut entries = Vec::with_capacity((trailer.count as usize).min(bytes.len() / 32 + 1));
    let mut cell_before = 0;
    for _ in 0..trailer.count {
        entries.push(Entry::decode(&mut from, trailer.base_seq, &mut cell_before)?);
    }
    from.end(WHAT)?;
    Ok(entries)
}
