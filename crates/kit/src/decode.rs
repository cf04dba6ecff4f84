//! The reverse of [`crate::change::encode`]. Nothing is reserved that the bytes at hand don't pay for.

use base::limits::{CODE_PIECES_MAX, KEY_BYTES_MAX, SEGMENT_BYTES_MAX};
use base::{DriveId, GroupId, NodeId, PolicyId, SegmentId, Wall};
use codec::{Error, Reader};
use crypt::PublicKey;

use crate::change::{
    ATTRS, Change, DRIVE, DROP, GROUP, INLINE, MARKER, NODE, NULL, OLDER, ONE, PACKED, POSITION, PUT, SEGMENTS, SPANS,
};
use crate::types::{Body, Code, Group, Node, Object, Position, Segment, Slot, Span};
use crate::varint;

/// A sealed root is 64 bytes; leave room.
const OLDER_BYTES_MAX: usize = 256;

/// Reads what a frame holds.
pub fn decode(bytes: &[u8]) -> Result<Vec<Change>, Error> {
    let mut from = Reader::new(bytes);
    let mut decoder = Decoder::begin(&mut from)?;
    let count = varint::read(&mut from, "changes")?;
    let mut changes = Vec::new();
    for _ in 0..count {
        changes.push(decoder.change(&mut from)?);
    }
    from.end("kit frame")?;
    Ok(changes)
}

struct Decoder {
    codes: Vec<Code>,
    packs: Vec<Segment>,
    path: Vec<u8>,
    version: u64,
    modified: u64,
}

impl Decoder {
    fn begin(from: &mut Reader<'_>) -> Result<Self, Error> {
        let mut decoder = Self { codes: Vec::new(), packs: Vec::new(), path: Vec::new(), version: 0, modified: 0 };
        for _ in 0..varint::read(from, "codes")? {
            let code = Code { policy: PolicyId(from.u16("policy")?), k: from.u8("k")?, m: from.u8("m")? };
            if code.k == 0 || usize::from(code.k) + usize::from(code.m) > CODE_PIECES_MAX {
                return Err(Error::Value { what: "code", value: code.k.into() });
            }
            decoder.codes.push(code);
        }
        for _ in 0..varint::read(from, "packs")? {
            let code = decoder.code(from)?;
            let group = group_id(from)?;
            let len = varint::read(from, "pack bytes")?;
            let (id, root) = (SegmentId(from.array("segment")?), from.array("root")?);
            decoder.packs.push(Segment { id, code, group, len: segment_len(len)?, bare_key: [0; 32], root });
        }
        Ok(decoder)
    }

    fn code(&self, from: &mut Reader<'_>) -> Result<Code, Error> {
        pick(&self.codes, varint::read(from, "code")?, "code").copied()
    }

    fn change(&mut self, from: &mut Reader<'_>) -> Result<Change, Error> {
        let head = from.u8("change")?;
        let op = head & 7;
        if !matches!(op, PUT | MARKER) && head != op {
            return Err(Error::Value { what: "change", value: head.into() });
        }
        Ok(match op {
            PUT | MARKER => {
                let path = self.path(from)?;
                Change::Put { object: self.object(head, from)?, path }
            }
            DROP => Change::Drop { path: self.path(from)?, version: self.version(from)? },
            GROUP => Change::Group(group(from)?),
            DRIVE => {
                let drive = DriveId(from.array("drive")?);
                Change::Drive(drive, from.option("node", |from| from.array("node").map(NodeId))?)
            }
            NODE => {
                let id = NodeId(from.array("node")?);
                let node = from.option("node", |from| {
                    Ok(Node { key: PublicKey(from.array("node key")?), addresses: grant::address::read(from)? })
                })?;
                Change::Node(id, node)
            }
            POSITION => Change::Position(Position { seq: from.u64("position")?, at: Wall(from.u64("time")?) }),
            OLDER => Change::OlderRoot(from.bytes("older root", OLDER_BYTES_MAX)?.to_vec()),
            value => return Err(Error::Value { what: "change", value: value.into() }),
        })
    }

    fn object(&mut self, head: u8, from: &mut Reader<'_>) -> Result<Object, Error> {
        let version = self.version(from)?;
        self.modified = varint::stepped(self.modified, varint::read(from, "time")?);
        let attrs = if head & ATTRS != 0 { sized(from, "attributes")?.to_vec() } else { Vec::new() };
        let marker = head & 7 == MARKER;
        let (size, body) = if marker {
            (0, Body::Inline(Vec::new()))
        } else {
            let size = varint::read(from, "size")?;
            let body = if head & ONE != 0 {
                Body::Segments(vec![Segment { len: segment_len(size)?, ..self.segment(from)? }])
            } else {
                self.body(head >> 6, size, true, from)?
            };
            (size, body)
        };
        let modified = Wall(self.modified);
        Ok(Object { version, null: head & NULL != 0, marker, modified, size, attrs, body })
    }

    fn body(&self, kind: u8, size: u64, spans: bool, from: &mut Reader<'_>) -> Result<Body, Error> {
        match kind {
            INLINE => Ok(Body::Inline(sized(from, "inline bytes")?.to_vec())),
            PACKED => {
                let row = pick(&self.packs, varint::read(from, "pack")?, "pack")?;
                let (index, offset, len) = (small(from, "slot")?, small(from, "offset")?, small(from, "length")?);
                let segment = Segment { bare_key: from.array("key")?, ..row.clone() };
                Ok(Body::Packed(segment, Slot { index, offset, len }))
            }
            SEGMENTS => {
                let head = varint::read(from, "segments")?;
                let (count, even) = (head >> 1, head & 1 == 1);
                let mut segments = Vec::new();
                let mut left = size;
                for at in 0..count {
                    let segment = self.segment(from)?;
                    let len = match even {
                        true if at + 1 == count => left,
                        true => SEGMENT_BYTES_MAX,
                        false => varint::read(from, "segment bytes")?,
                    };
                    left = left.saturating_sub(len);
                    segments.push(Segment { len: segment_len(len)?, ..segment });
                }
                Ok(Body::Segments(segments))
            }
            SPANS if spans => {
                let mut all = Vec::new();
                for _ in 0..varint::read(from, "spans")? {
                    let (kind, size) = (from.u8("body")?, varint::read(from, "span bytes")?);
                    all.push(Span { size, body: self.body(kind, size, false, from)? });
                }
                Ok(Body::Spans(all))
            }
            value => Err(Error::Value { what: "body", value: value.into() }),
        }
    }

    /// A segment whose length is told elsewhere.
    fn segment(&self, from: &mut Reader<'_>) -> Result<Segment, Error> {
        let (code, group) = (self.code(from)?, group_id(from)?);
        let id = SegmentId(from.array("segment")?);
        Ok(Segment { id, code, group, len: 0, bare_key: from.array("key")?, root: from.array("root")? })
    }

    fn path(&mut self, from: &mut Reader<'_>) -> Result<String, Error> {
        let shared = varint::read(from, "path")?;
        let rest = sized(from, "path")?;
        let shared = usize::try_from(shared).ok().filter(|shared| *shared <= self.path.len());
        let Some(shared) = shared else { return Err(Error::Value { what: "path", value: u64::MAX }) };
        if shared + rest.len() > KEY_BYTES_MAX {
            return Err(Error::TooLong { what: "path", len: shared + rest.len(), max: KEY_BYTES_MAX });
        }
        self.path.truncate(shared);
        self.path.extend_from_slice(rest);
        std::str::from_utf8(&self.path).map(str::to_owned).map_err(|_| Error::Utf8 { what: "path" })
    }

    fn version(&mut self, from: &mut Reader<'_>) -> Result<u64, Error> {
        self.version = varint::stepped(self.version, varint::read(from, "version")?);
        Ok(self.version)
    }
}

fn pick<'a, T>(rows: &'a [T], at: u64, what: &'static str) -> Result<&'a T, Error> {
    usize::try_from(at).ok().and_then(|at| rows.get(at)).ok_or(Error::Value { what, value: at })
}

fn small(from: &mut Reader<'_>, what: &'static str) -> Result<u32, Error> {
    let value = varint::read(from, what)?;
    u32::try_from(value).map_err(|_| Error::Value { what, value })
}

fn group_id(from: &mut Reader<'_>) -> Result<GroupId, Error> {
    small(from, "group").map(GroupId)
}

fn segment_len(len: u64) -> Result<u64, Error> {
    if len == 0 || len > SEGMENT_BYTES_MAX {
        return Err(Error::Value { what: "segment bytes", value: len });
    }
    Ok(len)
}

fn sized<'a>(from: &mut Reader<'a>, what: &'static str) -> Result<&'a [u8], Error> {
    let len = varint::read(from, what)?;
    let len = usize::try_from(len).map_err(|_| Error::Value { what, value: len })?;
    from.raw(what, len)
}

fn group(from: &mut Reader<'_>) -> Result<Group, Error> {
    let (policy, group) = (PolicyId(from.u16("policy")?), GroupId(from.u32("group")?));
    let version = from.u32("version")?;
    let drives = |from: &mut Reader<'_>| {
        let count = usize::from(from.u8("drives")?);
        if count > CODE_PIECES_MAX {
            return Err(Error::TooLong { what: "drives", len: count, max: CODE_PIECES_MAX });
        }
        (0..count).map(|_| from.array("drive").map(DriveId)).collect::<Result<Vec<_>, _>>()
    };
    Ok(Group { policy, group, version, members: drives(from)?, from: drives(from)? })
}
