//! Records of a log, to the byte. The layout is docs/formats/piecestore.md §3.

use base::{PieceId, Wall};
use codec::{Error, Reader};

/// Records begin at multiples of this many bytes, so that an offset fits 32 bits.
pub const UNIT_BYTES: u64 = 16;
/// Bytes of a record's fixed head.
pub const HEAD_BYTES: usize = 128;
/// A log's first block holds its [`LogHead`] twice; records begin after it.
pub const LOG_HEAD_BYTES: u64 = 4096;
/// Extents are counted in blocks of this many bytes.
pub const BLOCK_BYTES: u64 = 4096;
/// Bytes of a piece's header at the most: room for a pack's slot table.
pub const HEADER_BYTES_MAX: usize = 1024 * 1024;
/// Cells of a piece at the most: their table stays below 8 MiB.
pub const CELLS_MAX: u64 = 1 << 20;
/// Bytes of a body at the most.
pub const BODY_BYTES_MAX: u64 = u32::MAX as u64;

const RECORD_MARK: [u8; 4] = *b"ABpr";
const LOG_MARK: [u8; 4] = *b"ABpl";
const VERSION: u8 = 1;
/// The second copy of the log's head lies in another sector than the first.
const LOG_HEAD_COPY: usize = 2048;
const LOG_HEAD_LEN: usize = 48;

/// Where a record lies: log number (from 1) and offset in units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Loc {
    /// The log's number.
    pub log: u32,
    /// Offset in units of [`UNIT_BYTES`].
    pub unit: u32,
}

impl Loc {
    /// The byte offset in the log.
    pub fn offset(self) -> u64 {
        u64::from(self.unit) * UNIT_BYTES
    }
}

/// A run of blocks in an extent file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extent {
    /// The file's number, from 1.
    pub file: u32,
    /// First block.
    pub block: u32,
    /// How many.
    pub blocks: u32,
}

impl Extent {
    /// First byte in the file.
    pub fn offset(self) -> u64 {
        u64::from(self.block) * BLOCK_BYTES
    }

    /// Bytes of the run.
    pub fn bytes(self) -> u64 {
        u64::from(self.blocks) * BLOCK_BYTES
    }

    /// Whether a block belongs to both.
    pub fn overlaps(self, other: Self) -> bool {
        let end = |run: Self| u64::from(run.block) + u64::from(run.blocks);
        self.file == other.file && u64::from(self.block) < end(other) && u64::from(other.block) < end(self)
    }
}

/// The record that a record supersedes or speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where it lies.
    pub loc: Loc,
    /// Its size in the log.
    pub units: u32,
    /// Blocks of its extent; 0 without one.
    pub blocks: u32,
}

impl Target {
    /// All that it takes on the drive.
    pub fn bytes(self) -> u64 {
        u64::from(self.units) * UNIT_BYTES + u64::from(self.blocks) * BLOCK_BYTES
    }
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A piece, body within the record. Its target, if any, is the record it replaces.
    Put,
    /// A piece whose body lies in an extent.
    Large,
    /// The target goes to the trash.
    Delete,
    /// The target comes back from the trash.
    Undelete,
    /// The target is gone for good.
    Purge,
}

impl RecordKind {
    fn byte(self) -> u8 {
        match self {
            Self::Put => 1,
            Self::Large => 2,
            Self::Delete => 3,
            Self::Undelete => 4,
            Self::Purge => 5,
        }
    }

    pub(crate) fn of(byte: u8) -> Result<Self, Error> {
        Ok(match byte {
            1 => Self::Put,
            2 => Self::Large,
            3 => Self::Delete,
            4 => Self::Undelete,
            5 => Self::Purge,
            value => return Err(Error::Value { what: "record kind", value: value.into() }),
        })
    }

    /// Whether the record holds a piece, rather than speaking of another record.
    pub fn is_piece(self) -> bool {
        matches!(self, Self::Put | Self::Large)
    }
}

/// The fixed head of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it says.
    pub kind: RecordKind,
    /// A piece that was in the trash when it was copied here; `time` says since when.
    pub trashed: bool,
    /// Of which piece.
    pub id: PieceId,
    /// The life of the log that it was written in.
    pub life: u64,
    /// Its place in the order of all changes of the store.
    pub seq: u64,
    /// Where the group that it was written with begins, in units.
    pub group: u32,
    /// Bytes of the piece's header.
    pub header_len: u32,
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
    /// When it was written, or went to the trash.
    pub time: Wall,
    /// CRC of header and cell table.
    pub meta_crc: u64,
}

impl Record {
    /// Cells of the body.
    pub fn cells(&self) -> u64 {
        cells(self.body_len.into(), self.cell_bytes)
    }

    /// Bytes of header and table: what follows the head.
    pub fn meta_len(&self) -> u64 {
        u64::from(self.header_len) + 8 * self.cells()
    }

    /// Where the body begins, from the record's beginning. Only for [`RecordKind::Put`].
    pub fn body_at(&self) -> u64 {
        HEAD_BYTES as u64 + self.meta_len()
    }

    /// The whole record's size in units.
    pub fn units(&self) -> u32 {
        let body = if self.kind == RecordKind::Put { u64::from(self.body_len) } else { 0 };
        // Within 32 bits by the limits on header, cells and body.
        (self.body_at() + body).div_ceil(UNIT_BYTES) as u32
    }

    /// The head's bytes.
    pub fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut to = [0; HEAD_BYTES];
        to[..4].copy_from_slice(&RECORD_MARK);
        to[4] = VERSION;
        to[5] = self.kind.byte();
        to[6] = u8::from(self.trashed);
        to[7..24].copy_from_slice(&self.id.to_bytes());
        put64(&mut to, 24, self.life);
        put64(&mut to, 32, self.seq);
        put32(&mut to, 40, self.group);
        put32(&mut to, 44, self.header_len);
        put32(&mut to, 48, self.body_len);
        put32(&mut to, 52, self.cell_bytes);
        if let Some(target) = self.target {
            put32(&mut to, 56, target.loc.log);
            put32(&mut to, 60, target.loc.unit);
            put32(&mut to, 64, target.units);
            put32(&mut to, 68, target.blocks);
        }
        if let Some(extent) = self.extent {
            put32(&mut to, 72, extent.file);
            put32(&mut to, 76, extent.block);
            put32(&mut to, 80, extent.blocks);
        }
        put64(&mut to, 88, self.expiry.map_or(0, |wall| wall.0));
        put64(&mut to, 96, self.time.0);
        put64(&mut to, 104, self.meta_crc);
        let crc = codec::crc64(&to[..120]);
        put64(&mut to, 120, crc);
        to
    }

    /// Reads a head and checks all that can be checked without the rest.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        const WHAT: &str = "record head";
        let bytes = bytes.get(..HEAD_BYTES).ok_or(Error::Short { what: WHAT, need: HEAD_BYTES, have: bytes.len() })?;
        let mut from = Reader::new(bytes);
        let found = from.array(WHAT)?;
        if found != RECORD_MARK {
            return Err(Error::Mark { what: WHAT, found, wanted: RECORD_MARK });
        }
        if get64(bytes, 120) != codec::crc64(&bytes[..120]) {
            return Err(Error::Checksum { what: WHAT });
        }
        let version = from.u8(WHAT)?;
        if version > VERSION {
            return Err(Error::Version { what: WHAT, found: version, known: VERSION });
        }
        let kind = RecordKind::of(from.u8(WHAT)?)?;
        let trashed = from.u8(WHAT)? & 1 != 0;
        let id = PieceId::from_bytes(from.array(WHAT)?);
        let record = Self {
            kind,
            trashed,
            id,
            life: get64(bytes, 24),
            seq: get64(bytes, 32),
            group: get32(bytes, 40),
            header_len: get32(bytes, 44),
            body_len: get32(bytes, 48),
            cell_bytes: get32(bytes, 52),
            target: target(bytes),
            extent: extent(bytes),
            expiry: Some(get64(bytes, 88)).filter(|ms| *ms != 0).map(Wall),
            time: Wall(get64(bytes, 96)),
            meta_crc: get64(bytes, 104),
        };
        record.check()?;
        Ok(record)
    }

    fn check(&self) -> Result<(), Error> {
        check_sizes(self.header_len.into(), self.body_len.into(), self.cell_bytes)?;
        let wants_target = !self.kind.is_piece();
        if (wants_target && self.target.is_none()) || (self.kind == RecordKind::Large) != self.extent.is_some() {
            return Err(Error::Value { what: "record target or extent", value: self.kind.byte().into() });
        }
        Ok(())
    }
}

/// Cells of a body.
pub fn cells(body_len: u64, cell_bytes: u32) -> u64 {
    if cell_bytes == 0 { 0 } else { body_len.div_ceil(cell_bytes.into()) }
}

/// The limits on a piece's sizes.
pub fn check_sizes(header_len: u64, body_len: u64, cell_bytes: u32) -> Result<(), Error> {
    let over = |what, len: u64, max: u64| Error::TooLong { what, len: len as usize, max: max as usize };
    if header_len > HEADER_BYTES_MAX as u64 {
        return Err(over("piece header", header_len, HEADER_BYTES_MAX as u64));
    }
    if body_len > BODY_BYTES_MAX {
        return Err(over("piece body", body_len, BODY_BYTES_MAX));
    }
    if body_len > 0 && cell_bytes == 0 {
        return Err(Error::Value { what: "cell size", value: 0 });
    }
    match cells(body_len, cell_bytes) {
        count if count > CELLS_MAX => Err(over("cells of a piece", count, CELLS_MAX)),
        _ => Ok(()),
    }
}

fn target(bytes: &[u8]) -> Option<Target> {
    let loc = Loc { log: get32(bytes, 56), unit: get32(bytes, 60) };
    (loc.log != 0).then(|| Target { loc, units: get32(bytes, 64), blocks: get32(bytes, 68) })
}

fn extent(bytes: &[u8]) -> Option<Extent> {
    let extent = Extent { file: get32(bytes, 72), block: get32(bytes, 76), blocks: get32(bytes, 80) };
    (extent.blocks != 0).then_some(extent)
}

pub(crate) fn put32(to: &mut [u8], at: usize, value: u32) {
    to[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put64(to: &mut [u8], at: usize, value: u64) {
    to[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn get32(from: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&from[at..at + 4]);
    u32::from_le_bytes(bytes)
}

pub(crate) fn get64(from: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&from[at..at + 8]);
    u64::from_le_bytes(bytes)
}

/// Which records share a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    /// What users write.
    Fresh,
    /// What cleaning moved: it is likely to stay.
    Moved,
    /// Pieces that expire in the same bucket of time; its number.
    Expiring(u64),
}

/// The beginning of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogHead {
    /// The log's number, as in its name.
    pub number: u32,
    /// Random: bytes of an earlier life of the file are never taken for records.
    pub life: u64,
    /// Which records it takes.
    pub stream: Stream,
}

impl LogHead {
    /// The log's first block.
    pub fn encode(&self) -> Vec<u8> {
        let mut head = [0; LOG_HEAD_LEN];
        head[..4].copy_from_slice(&LOG_MARK);
        head[4] = VERSION;
        let (kind, bucket) = match self.stream {
            Stream::Fresh => (0, 0),
            Stream::Moved => (1, 0),
            Stream::Expiring(bucket) => (2, bucket),
        };
        head[5] = kind;
        put32(&mut head, 8, self.number);
        put64(&mut head, 16, self.life);
        put64(&mut head, 24, bucket);
        let crc = codec::crc64(&head[..40]);
        put64(&mut head, 40, crc);
        let mut block = vec![0; LOG_HEAD_BYTES as usize];
        block[..LOG_HEAD_LEN].copy_from_slice(&head);
        block[LOG_HEAD_COPY..LOG_HEAD_COPY + LOG_HEAD_LEN].copy_from_slice(&head);
        block
    }

    /// Reads the first block; one of the two copies is enough.
    pub fn decode(block: &[u8]) -> Result<Self, Error> {
        Self::decode_copy(block).or_else(|error| match block.get(LOG_HEAD_COPY..) {
            Some(copy) => Self::decode_copy(copy).map_err(|_| error),
            None => Err(error),
        })
    }

    fn decode_copy(bytes: &[u8]) -> Result<Self, Error> {
        const WHAT: &str = "log head";
        let bytes =
            bytes.get(..LOG_HEAD_LEN).ok_or(Error::Short { what: WHAT, need: LOG_HEAD_LEN, have: bytes.len() })?;
        let mut found = [0; 4];
        found.copy_from_slice(&bytes[..4]);
        if found != LOG_MARK {
            return Err(Error::Mark { what: WHAT, found, wanted: LOG_MARK });
        }
        if get64(bytes, 40) != codec::crc64(&bytes[..40]) {
            return Err(Error::Checksum { what: WHAT });
        }
        if bytes[4] > VERSION {
            return Err(Error::Version { what: WHAT, found: bytes[4], known: VERSION });
        }
        let stream = match bytes[5] {
            0 => Stream::Fresh,
            1 => Stream::Moved,
            2 => Stream::Expiring(get64(bytes, 24)),
            value => return Err(Error::Value { what: "log stream", value: value.into() }),
        };
        Ok(Self { number: get32(bytes, 8), life: get64(bytes, 16), stream })
    }
}

/// The checksums of a body's cells, taken as its bytes pass by.
pub struct CellSums {
    cell_bytes: u64,
    filled: u64,
    crc: codec::Crc64,
    table: Vec<u8>,
}

impl CellSums {
    /// None yet.
    pub fn new(cell_bytes: u32) -> Self {
        Self { cell_bytes: cell_bytes.into(), filled: 0, crc: codec::Crc64::default(), table: Vec::new() }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = (self.cell_bytes - self.filled).min(bytes.len() as u64);
            let (now, rest) = bytes.split_at(room as usize);
            self.crc.update(now);
            self.filled += room;
            bytes = rest;
            if self.filled == self.cell_bytes {
                self.close();
            }
        }
    }

    fn close(&mut self) {
        let crc = std::mem::take(&mut self.crc);
        self.table.extend_from_slice(&crc.value().to_le_bytes());
        self.filled = 0;
    }

    /// The table: eight bytes a cell.
    pub fn finish(mut self) -> Vec<u8> {
        if self.filled > 0 {
            self.close();
        }
        self.table
    }
}

/// Whether cells `first..` of a body match their table. `bytes` begins at cell `first`; its last
/// cell may be short if the body ends there.
pub fn cells_match(table: &[u8], first: u64, cell_bytes: u32, bytes: &[u8]) -> bool {
    let cell = cell_bytes as usize;
    cell > 0
        && bytes.chunks(cell).enumerate().all(|(i, bytes)| {
            let at = (first as usize + i) * 8;
            table.get(at..at + 8).is_some_and(|sum| get64(sum, 0) == codec::crc64(bytes))
        })
        || bytes.is_empty()
}
