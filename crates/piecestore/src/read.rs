//! Finding and reading pieces: one read for the record's beginning, one more for the body.

use std::sync::atomic::Ordering;

use base::PieceId;
use bytes::Bytes;

use crate::PieceInfo;
use crate::commit::Found;
use crate::core::Core;
use crate::error::Error;
use crate::files::Name;
use crate::record::{BLOCK_BYTES, HEAD_BYTES, Loc, Record, RecordKind, UNIT_BYTES, cells_match};

/// The first read takes so much: head, header and table of most pieces, all of a small one.
const FIRST_READ_BYTES: u64 = 8192;
/// How often a piece may be moved away under a reader before that counts as our own fault.
const LOOKS_MAX: usize = 32;

/// A piece's record with its header and table, checked.
pub(crate) struct Loaded {
    pub loc: Loc,
    pub record: Record,
    /// Head, header, table, and as much of the body as came along.
    pub bytes: Bytes,
    pub trashed: bool,
}

impl Loaded {
    pub fn header(&self) -> Bytes {
        self.bytes.slice(HEAD_BYTES..HEAD_BYTES + self.record.header_len as usize)
    }

    pub fn table(&self) -> Bytes {
        self.bytes.slice(HEAD_BYTES + self.record.header_len as usize..self.record.body_at() as usize)
    }

    pub fn found(&self) -> Found {
        let blocks = self.record.extent.map_or(0, |extent| extent.blocks);
        let target = crate::record::Target { loc: self.loc, units: self.record.units(), blocks };
        Found { target, extent: self.record.extent }
    }

    pub fn info(&self) -> PieceInfo {
        PieceInfo { len: self.record.body_len.into(), cell_bytes: self.record.cell_bytes, expiry: self.record.expiry }
    }
}

/// What a look-up of an id gave.
pub(crate) struct Resolved {
    pub found: Option<(Found, bool)>,
    pub strangers: Vec<Loc>,
}

/// Why a record can't be had.
enum Trouble {
    /// The record isn't the one that the index spoke of any more: look again.
    Moved,
    Damaged(&'static str),
    Failed(Error),
}

impl Core {
    /// Reads `len` bytes at `offset` of a log.
    fn read_log(&self, loc: Loc, from: u64, len: u64) -> Result<Vec<u8>, Trouble> {
        let log = self.log(loc.log).ok_or(Trouble::Moved)?;
        let file = match self.files.get(log.name()) {
            Ok(file) => file,
            Err(_) if self.log(loc.log).is_none() => return Err(Trouble::Moved),
            Err(error) => return Err(self.read_failed(error)),
        };
        file.read_vec_at(len as usize, loc.offset() + from)
            .map_err(|error| self.read_failed(Error::io("read", &self.files.path(log.name()), error)))
    }

    fn read_failed(&self, error: Error) -> Trouble {
        self.read_errors.fetch_add(1, Ordering::AcqRel);
        tracing::warn!(%error, "a read failed");
        Trouble::Failed(error)
    }

    /// Head, header and table of the record at `loc`.
    fn load_at(&self, loc: Loc, trashed: bool) -> Result<Loaded, Trouble> {
        let log = self.log(loc.log).ok_or(Trouble::Moved)?;
        let left = log.end.load(Ordering::Acquire).saturating_sub(loc.offset());
        let mut bytes = self.read_log(loc, 0, left.min(FIRST_READ_BYTES))?;
        let record = Record::decode(&bytes).map_err(|_| Trouble::Damaged("record head"))?;
        if record.life != log.life {
            return Err(Trouble::Damaged("record head"));
        }
        let need = record.body_at();
        if need > left {
            return Err(Trouble::Damaged("record size"));
        }
        if need > bytes.len() as u64 {
            let have = bytes.len() as u64;
            let rest = self.read_log(loc, have, need - have)?;
            bytes.extend_from_slice(&rest);
        }
        if codec::crc64(&bytes[HEAD_BYTES..need as usize]) != record.meta_crc {
            return Err(Trouble::Damaged("header"));
        }
        Ok(Loaded { loc, record, bytes: bytes.into(), trashed })
    }

    /// Whose record lies at `loc`, as the log's footer has it: for records that are damaged.
    fn owner_by_footer(&self, loc: Loc) -> Option<(PieceId, Found)> {
        let log = self.log(loc.log)?;
        let entry = self.entries_from(&log, loc.unit, 1).ok()?.pop().filter(|entry| entry.unit == loc.unit)?;
        let found = Found { target: entry.as_target(loc.log), extent: entry.extent };
        Some((entry.id, found))
    }

    /// The piece's current record, live or in the trash.
    pub fn load(&self, id: PieceId) -> Result<Loaded, Error> {
        'look: for _ in 0..LOOKS_MAX {
            let mut unknown = None;
            for candidate in self.index.candidates(self.index.hash(&id)) {
                match self.load_at(candidate.loc, candidate.trashed) {
                    Ok(loaded) if loaded.record.id == id && loaded.record.kind.is_piece() => return Ok(loaded),
                    Ok(_) => {}
                    Err(Trouble::Moved) => continue 'look,
                    Err(trouble) => {
                        if self.is_current(&id, candidate.loc).is_none() {
                            continue 'look;
                        }
                        match self.owner_by_footer(candidate.loc) {
                            Some((owner, _)) if owner == id => return Err(trouble.of(id)),
                            Some(_) => {}
                            None => unknown = Some(trouble),
                        }
                    }
                }
            }
            // What can't be read may well be this piece: that isn't the same as having none.
            return Err(unknown.map_or(Error::Missing { id }, |trouble| trouble.of(id)));
        }
        Err(Error::Contended { id })
    }

    /// As [`Core::load`], but not from the trash.
    pub fn load_live(&self, id: PieceId) -> Result<Loaded, Error> {
        self.load(id).and_then(|loaded| if loaded.trashed { Err(Error::Missing { id }) } else { Ok(loaded) })
    }

    /// What a change of the piece must know. A damaged record is found by the log's footer, so
    /// that a damaged piece can be replaced and deleted.
    pub fn resolve(&self, id: PieceId) -> Result<Resolved, Error> {
        'look: for _ in 0..LOOKS_MAX {
            let mut resolved = Resolved { found: None, strangers: Vec::new() };
            let mut unknown = None;
            for candidate in self.index.candidates(self.index.hash(&id)) {
                let owner = match self.load_at(candidate.loc, candidate.trashed) {
                    Ok(loaded) => Some((loaded.record.id, loaded.found())),
                    Err(Trouble::Moved) => continue 'look,
                    Err(trouble) => {
                        let owner = self.owner_by_footer(candidate.loc);
                        if owner.is_none() {
                            unknown = Some(trouble);
                        }
                        owner
                    }
                };
                match owner {
                    Some((owner, found)) if owner == id && resolved.found.is_none() => {
                        resolved.found = Some((found, candidate.trashed));
                    }
                    _ => resolved.strangers.push(candidate.loc),
                }
            }
            // Without knowing the record in the way, a change might leave the piece with two.
            return match unknown {
                Some(trouble) if resolved.found.is_none() => Err(trouble.of(id)),
                _ => Ok(resolved),
            };
        }
        Err(Error::Contended { id })
    }

    /// A range of the body; every cell that it touches is checked.
    pub fn read_range(&self, id: PieceId, offset: u64, len: u64) -> Result<Bytes, Error> {
        for _ in 0..LOOKS_MAX {
            let loaded = self.load_live(id)?;
            match self.read_body(&loaded, offset, len) {
                Ok(bytes) => return Ok(bytes),
                // Its room may have been given back since: only what is still current is damaged.
                Err(_) if self.is_current(&id, loaded.loc) != Some(false) => {}
                Err(trouble) => return Err(trouble.of(id)),
            }
        }
        Err(Error::Contended { id })
    }

    pub(crate) fn read_body_of(&self, loaded: &Loaded, offset: u64, len: u64) -> Result<Bytes, Error> {
        self.read_body(loaded, offset, len).map_err(|trouble| trouble.of(loaded.record.id))
    }

    fn read_body(&self, loaded: &Loaded, offset: u64, len: u64) -> Result<Bytes, Trouble> {
        let record = &loaded.record;
        let have = u64::from(record.body_len);
        if offset.checked_add(len).is_none_or(|end| end > have) {
            return Err(Trouble::Failed(Error::Range { id: record.id, offset, len, have }));
        }
        if len == 0 {
            return Ok(Bytes::new());
        }
        let cell = u64::from(record.cell_bytes);
        let first = offset / cell;
        let from = first * cell;
        let to = ((offset + len).div_ceil(cell) * cell).min(have);
        let cells = self.body_bytes(loaded, from, to - from)?;
        if !cells_match(&loaded.table(), first, record.cell_bytes, &cells) {
            return Err(Trouble::Damaged("body"));
        }
        let start = (offset - from) as usize;
        Ok(cells.slice(start..start + len as usize))
    }

    fn body_bytes(&self, loaded: &Loaded, from: u64, len: u64) -> Result<Bytes, Trouble> {
        let record = &loaded.record;
        if let Some(extent) = record.extent {
            let name = Name::Extents(extent.file);
            let file = self.files.get(name).map_err(|error| self.read_failed(error))?;
            let bytes = file
                .read_vec_at(len as usize, extent.offset() + BLOCK_BYTES + from)
                .map_err(|error| self.read_failed(Error::io("read", &self.files.path(name), error)))?;
            return Ok(bytes.into());
        }
        let at = record.body_at() + from;
        if at + len <= loaded.bytes.len() as u64 {
            return Ok(loaded.bytes.slice(at as usize..(at + len) as usize));
        }
        debug_assert!(record.kind == RecordKind::Put && at + len <= u64::from(record.units()) * UNIT_BYTES);
        self.read_log(loaded.loc, at, len).map(Bytes::from)
    }
}

impl Trouble {
    fn of(self, id: PieceId) -> Error {
        match self {
            Trouble::Moved => Error::Contended { id },
            Trouble::Damaged(what) => Error::Damaged { id, what },
            Trouble::Failed(error) => error,
        }
    }
}
