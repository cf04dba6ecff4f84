//! What nodes ask of each other's drives, to the byte.
//!
//! Head of a request: [`Ask`]. Head of the answer: [`Told`]. Bytes of pieces are the bodies.

use base::{DriveId, PieceId, Wall};
use bytes::Bytes;
use codec::{Crc64, Error, Reader, Versioned, Writer};

/// Bytes of a piece that one call carries at the most: what a transfer keeps in memory.
pub const PART_BYTES_MAX: u32 = 4 << 20;
/// Bytes of a piece's header at the most, as in the piece store.
pub const HEADER_BYTES_MAX: u32 = piecestore::HEADER_BYTES_MAX as u32;
/// Pieces or writes named by one call: so its head stays below 64 KiB.
pub const MANY_MAX: usize = 1024;
/// Drives whose health is told at a time, for the same reason.
pub const DRIVES_MAX: usize = 64;
/// A checksum covers at least so many bytes.
const STRETCH_BYTES_MIN: u32 = 4096;
/// The stretches of what is read.
pub const READ_STRETCH_BYTES: u32 = 64 << 10;
/// Checksums of one call.
const SUMS_MAX: usize = (PART_BYTES_MAX / STRETCH_BYTES_MIN) as usize;
/// Bytes of a reason.
const REASON_BYTES_MAX: usize = 512;

/// One write of one piece, chosen by who writes; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteId(pub [u8; 16]);

/// Some bytes of a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which write they are part of.
    pub write: WriteId,
    /// The piece.
    pub piece: PieceId,
    /// Bytes that each of the piece's checksums covers.
    pub cell_bytes: u32,
    /// The piece's body has no more bytes than this.
    pub len_max: u64,
    /// Where the bytes belong.
    pub offset: u64,
    /// How many there are.
    pub len: u32,
    /// CRC-64/NVME of each stretch of the bytes ([`stretch_bytes`]).
    pub sums: Vec<u64>,
    /// With the last part comes the piece's header, before the bytes: its length and checksum.
    pub header: Option<(u32, u64)>,
}

/// A request's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Takes bytes of a piece; with the last ones makes it durable.
    Put(DriveId, Part),
    /// Bytes of a piece's body: offset and length.
    Read(DriveId, PieceId, u64, u32),
    /// A piece's header.
    Header(DriveId, PieceId),
    /// What is known of a piece.
    Stat(DriveId, PieceId),
    /// Which of these pieces are there.
    Contains(DriveId, Vec<PieceId>),
    /// Revokes writes, then puts pieces into the trash.
    Delete(DriveId, Vec<WriteId>, Vec<PieceId>),
    /// Pieces from a place on, and how many at the most.
    List(DriveId, u64, u32),
    /// How drives do; all if none is named.
    Health(Vec<DriveId>),
}

/// Whether a drive takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It does.
    Ok,
    /// Its file system is read-only.
    ReadOnly(String),
    /// It failed.
    Failed(String),
    /// The node doesn't hold it.
    Away,
}

/// How a drive does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveHealth {
    /// Which.
    pub drive: DriveId,
    /// Whether it takes writes.
    pub state: State,
    /// Whether it has no room for new pieces.
    pub full: bool,
    /// Bytes free.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
    /// Pieces that can be read.
    pub pieces: u64,
    /// What they take.
    pub live_bytes: u64,
    /// Pieces in the trash.
    pub trash_pieces: u64,
    /// What they take.
    pub trash_bytes: u64,
    /// Reads that failed since it was opened.
    pub read_errors: u64,
    /// Logs that were found damaged when it was opened.
    pub lost_logs: u64,
}

/// What is known of a piece without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Bytes of the body.
    pub len: u64,
    /// Bytes that each checksum covers.
    pub cell_bytes: u32,
    /// When it may be dropped.
    pub expiry: Option<Wall>,
}

/// An answer's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The write has bytes up to here; whether the piece is durable.
    Put(u64, bool),
    /// Checksums of the body's stretches of [`READ_STRETCH_BYTES`].
    Read(Vec<u64>),
    /// Checksum of the body, which is the header.
    Header(u64),
    /// What is known.
    Stat(Info),
    /// For each piece whether it is there.
    Contains(Vec<bool>),
    /// How many were there.
    Delete(u64),
    /// Pieces, and where to go on.
    List(Vec<(PieceId, Info)>, Option<u64>),
    /// One for each drive.
    Health(Vec<DriveHealth>),
}

/// Bytes that each checksum of a part covers: whole cells, but at least 4 KiB.
pub fn stretch_bytes(cell_bytes: u32) -> u32 {
    let cell = cell_bytes.max(1);
    cell.saturating_mul(STRETCH_BYTES_MIN.div_ceil(cell))
}

/// The checksum of each stretch of some bytes.
pub fn sums(parts: &[Bytes], stretch: u32) -> Vec<u64> {
    let (stretch, mut sums, mut left, mut sum) = (stretch as usize, Vec::new(), stretch as usize, Crc64::default());
    for part in parts {
        let mut part = &part[..];
        while !part.is_empty() {
            let (now, rest) = part.split_at(part.len().min(left));
            sum.update(now);
            (part, left) = (rest, left - now.len());
            if left == 0 {
                sums.push(std::mem::take(&mut sum).value());
                left = stretch;
            }
        }
    }
    if left < stretch {
        sums.push(sum.value());
    }
    sums
}

fn many<T>(to: &mut Writer, all: &[T], write: impl Fn(&mut Writer, &T)) {
    to.u32(all.len() as u32);
    all.iter().for_each(|one| write(to, one));
}

fn read_many<T>(
    from: &mut Reader<'_>,
    what: &'static str,
    max: usize,
    mut read: impl FnMut(&mut Reader<'_>) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    let len = from.u32(what)? as usize;
    if len > max {
        return Err(Error::TooLong { what, len, max });
    }
    // Nothing is reserved on a peer's word: it must have sent a byte for each.
    let mut all = Vec::with_capacity(len.min(from.left()));
    for _ in 0..len {
        all.push(read(from)?);
    }
    Ok(all)
}

fn piece(from: &mut Reader<'_>) -> Result<PieceId, Error> {
    Ok(PieceId::from_bytes(from.array("piece")?))
}

fn drive(from: &mut Reader<'_>) -> Result<DriveId, Error> {
    Ok(DriveId(from.array("drive")?))
}

fn flag(from: &mut Reader<'_>, what: &'static str) -> Result<bool, Error> {
    match from.u8(what)? {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(Error::Value { what, value: value.into() }),
    }
}

fn put_sums(to: &mut Writer, sums: &[u64]) {
    many(to, sums, |to, sum| _ = to.u64(*sum));
}

fn read_sums(from: &mut Reader<'_>) -> Result<Vec<u64>, Error> {
    read_many(from, "checksums", SUMS_MAX, |from| from.u64("checksum"))
}

fn limited(what: &'static str, len: u32, max: u32) -> Result<u32, Error> {
    if len > max { Err(Error::TooLong { what, len: len as usize, max: max as usize }) } else { Ok(len) }
}

/// There is only one yet.
fn known(version: u8) -> Result<(), Error> {
    if version == 1 { Ok(()) } else { Err(Error::Value { what: "version", value: version.into() }) }
}

impl Part {
    fn encode(&self, to: &mut Writer) {
        to.raw(&self.write.0).raw(&self.piece.to_bytes()).u32(self.cell_bytes).u64(self.len_max);
        to.u64(self.offset).u32(self.len);
        put_sums(to, &self.sums);
        to.option(self.header, |to, (len, sum)| _ = to.u32(len).u64(sum));
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, Error> {
        let write = WriteId(from.array("write")?);
        let piece = piece(from)?;
        let cell_bytes = from.u32("cell bytes")?;
        let len_max = from.u64("length limit")?;
        let offset = from.u64("offset")?;
        let len = limited("part of a piece", from.u32("length")?, PART_BYTES_MAX)?;
        let sums = read_sums(from)?;
        let header = from.option("header", |from| {
            let len = limited("piece header", from.u32("header length")?, HEADER_BYTES_MAX)?;
            Ok((len, from.u64("header checksum")?))
        })?;
        let part = Self { write, piece, cell_bytes, len_max, offset, len, sums, header };
        if cell_bytes == 0 {
            return Err(Error::Value { what: "cell bytes", value: 0 });
        }
        if part.sums.len() as u32 != len.div_ceil(stretch_bytes(cell_bytes)) {
            return Err(Error::Value { what: "count of checksums", value: part.sums.len() as u64 });
        }
        if offset.checked_add(len.into()).is_none_or(|end| end > len_max) {
            return Err(Error::Value { what: "offset of a part", value: offset });
        }
        Ok(part)
    }
}

impl Info {
    fn encode(&self, to: &mut Writer) {
        to.u64(self.len).u32(self.cell_bytes).option(self.expiry, |to, wall| _ = to.u64(wall.0));
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, Error> {
        let (len, cell_bytes) = (from.u64("length")?, from.u32("cell bytes")?);
        Ok(Self { len, cell_bytes, expiry: from.option("expiry", |from| from.u64("expiry"))?.map(Wall) })
    }
}

impl DriveHealth {
    /// Of a drive that the node doesn't hold.
    pub fn away(drive: DriveId) -> Self {
        let (free, total, pieces, live_bytes, trash_pieces, trash_bytes, read_errors, lost_logs) = Default::default();
        let (state, full) = (State::Away, false);
        Self { drive, state, full, free, total, pieces, live_bytes, trash_pieces, trash_bytes, read_errors, lost_logs }
    }

    fn encode(&self, to: &mut Writer) {
        let (state, why) = match &self.state {
            State::Ok => (0, ""),
            State::ReadOnly(why) => (1, why.as_str()),
            State::Failed(why) => (2, why.as_str()),
            State::Away => (3, ""),
        };
        let why = &why[..why.floor_char_boundary(REASON_BYTES_MAX)];
        to.raw(&self.drive.0).u8(state).str(why).u8(self.full.into()).u64(self.free).u64(self.total);
        to.u64(self.pieces).u64(self.live_bytes).u64(self.trash_pieces).u64(self.trash_bytes);
        to.u64(self.read_errors).u64(self.lost_logs);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, Error> {
        let drive = drive(from)?;
        let (state, why) = (from.u8("state")?, from.str("reason", REASON_BYTES_MAX)?.to_owned());
        let state = match state {
            0 => State::Ok,
            1 => State::ReadOnly(why),
            2 => State::Failed(why),
            3 => State::Away,
            value => return Err(Error::Value { what: "state", value: value.into() }),
        };
        Ok(Self {
            drive,
            state,
            full: flag(from, "full")?,
            free: from.u64("free")?,
            total: from.u64("total")?,
            pieces: from.u64("pieces")?,
            live_bytes: from.u64("live bytes")?,
            trash_pieces: from.u64("trash pieces")?,
            trash_bytes: from.u64("trash bytes")?,
            read_errors: from.u64("read errors")?,
            lost_logs: from.u64("lost logs")?,
        })
    }
}

impl Versioned for Ask {
    const NAME: &'static str = "request for pieces";
    const MARK: [u8; 4] = *b"AbPq";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        let pieces = |to: &mut Writer, all: &[PieceId]| many(to, all, |to, piece| _ = to.raw(&piece.to_bytes()));
        match self {
            Ask::Put(drive, part) => part.encode(to.u8(1).raw(&drive.0)),
            Ask::Read(drive, piece, offset, len) => {
                to.u8(2).raw(&drive.0).raw(&piece.to_bytes()).u64(*offset).u32(*len);
            }
            Ask::Header(drive, piece) => _ = to.u8(3).raw(&drive.0).raw(&piece.to_bytes()),
            Ask::Stat(drive, piece) => _ = to.u8(4).raw(&drive.0).raw(&piece.to_bytes()),
            Ask::Contains(drive, all) => pieces(to.u8(5).raw(&drive.0), all),
            Ask::Delete(drive, writes, all) => {
                many(to.u8(6).raw(&drive.0), writes, |to, write| _ = to.raw(&write.0));
                pieces(to, all);
            }
            Ask::List(drive, from, limit) => _ = to.u8(7).raw(&drive.0).u64(*from).u32(*limit),
            Ask::Health(drives) => many(to.u8(8), drives, |to, drive| _ = to.raw(&drive.0)),
        }
    }

    fn decode_body(version: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        known(version)?;
        let pieces = |from: &mut Reader<'_>| read_many(from, "pieces", MANY_MAX, piece);
        Ok(match from.u8("request")? {
            1 => Ask::Put(drive(from)?, Part::decode(from)?),
            2 => {
                let (drive, piece, offset) = (drive(from)?, piece(from)?, from.u64("offset")?);
                Ask::Read(drive, piece, offset, limited("range of a piece", from.u32("length")?, PART_BYTES_MAX)?)
            }
            3 => Ask::Header(drive(from)?, piece(from)?),
            4 => Ask::Stat(drive(from)?, piece(from)?),
            5 => Ask::Contains(drive(from)?, pieces(from)?),
            6 => {
                let drive = drive(from)?;
                let writes = read_many(from, "writes", MANY_MAX, |from| Ok(WriteId(from.array("write")?)))?;
                Ask::Delete(drive, writes, pieces(from)?)
            }
            7 => Ask::List(drive(from)?, from.u64("place")?, limited("listing", from.u32("limit")?, MANY_MAX as u32)?),
            8 => Ask::Health(read_many(from, "drives", DRIVES_MAX, drive)?),
            value => return Err(Error::Value { what: "request", value: value.into() }),
        })
    }
}

impl Versioned for Told {
    const NAME: &'static str = "answer about pieces";
    const MARK: [u8; 4] = *b"AbPa";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        match self {
            Told::Put(have, durable) => _ = to.u8(1).u64(*have).u8((*durable).into()),
            Told::Read(sums) => put_sums(to.u8(2), sums),
            Told::Header(sum) => _ = to.u8(3).u64(*sum),
            Told::Stat(info) => info.encode(to.u8(4)),
            Told::Contains(all) => many(to.u8(5), all, |to, there| _ = to.u8((*there).into())),
            Told::Delete(count) => _ = to.u8(6).u64(*count),
            Told::List(all, next) => {
                many(to.u8(7), all, |to, (piece, info)| info.encode(to.raw(&piece.to_bytes())));
                to.option(*next, |to, next| _ = to.u64(next));
            }
            Told::Health(all) => many(to.u8(8), all, |to, health| health.encode(to)),
        }
    }

    fn decode_body(version: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        known(version)?;
        Ok(match from.u8("answer")? {
            1 => Told::Put(from.u64("bytes")?, flag(from, "durable")?),
            2 => Told::Read(read_sums(from)?),
            3 => Told::Header(from.u64("checksum")?),
            4 => Told::Stat(Info::decode(from)?),
            5 => Told::Contains(read_many(from, "pieces", MANY_MAX, |from| flag(from, "there"))?),
            6 => Told::Delete(from.u64("count")?),
            7 => {
                let all = read_many(from, "pieces", MANY_MAX, |from| Ok((piece(from)?, Info::decode(from)?)))?;
                Told::List(all, from.option("place", |from| from.u64("place"))?)
            }
            8 => Told::Health(read_many(from, "drives", DRIVES_MAX, DriveHealth::decode)?),
            value => return Err(Error::Value { what: "answer", value: value.into() }),
        })
    }
}
