//! Changes of a kit, and their packed form: what a frame holds.
//!
//! Codes and packs are told once a frame; paths, versions and times by their difference to the one
//! before. Each frame begins anew, so it is read without those before it.

use base::limits::SEGMENT_BYTES_MAX;
use base::{DriveId, NodeId};
use codec::Writer;

use crate::types::{Body, Code, Group, Node, Object, Position, Segment};
use crate::varint;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A version was written. A null one takes the place of the null one before.
    Put {
        /// As directors see it.
        path: String,
        /// The version.
        object: Object,
    },
    /// A version is no more.
    Drop {
        /// As directors see it.
        path: String,
        /// The version.
        version: u64,
    },
    /// A group's row.
    Group(Group),
    /// Where a drive is; nowhere: it is gone.
    Drive(DriveId, Option<NodeId>),
    /// A node; nothing: it is gone.
    Node(NodeId, Option<Node>),
    /// All before is up to here.
    Position(Position),
    /// An older root of the volume, sealed under the one that is in force.
    OlderRoot(Vec<u8>),
}

pub(crate) const PUT: u8 = 0;
pub(crate) const MARKER: u8 = 1;
pub(crate) const DROP: u8 = 2;
pub(crate) const GROUP: u8 = 3;
pub(crate) const DRIVE: u8 = 4;
pub(crate) const NODE: u8 = 5;
pub(crate) const POSITION: u8 = 6;
pub(crate) const OLDER: u8 = 7;
/// Flags of a put beside its number.
pub(crate) const ONE: u8 = 0x08;
pub(crate) const NULL: u8 = 0x10;
pub(crate) const ATTRS: u8 = 0x20;
/// Bits 6 and 7: which body.
pub(crate) const INLINE: u8 = 0;
pub(crate) const PACKED: u8 = 1;
pub(crate) const SEGMENTS: u8 = 2;
pub(crate) const SPANS: u8 = 3;

/// Packs changes.
#[derive(Default)]
pub(crate) struct Encoder {
    codes: Vec<Code>,
    packs: Vec<Segment>,
    count: u64,
    body: Writer,
    path: String,
    version: u64,
    modified: u64,
    /// Bytes of names among what was written.
    pub names: usize,
}

impl Encoder {
    pub fn add(&mut self, change: &Change) {
        match change {
            Change::Put { path, object } => return self.put(path, object),
            Change::Drop { path, version } => {
                self.body.u8(DROP);
                self.path(path);
                self.version(*version);
            }
            Change::Group(group) => self.group(group),
            Change::Drive(drive, node) => {
                self.body.u8(DRIVE).raw(&drive.0).option(*node, |to, node| {
                    to.raw(&node.0);
                });
            }
            Change::Node(id, node) => {
                self.body.u8(NODE).raw(&id.0).option(node.as_ref(), |to, node| {
                    to.raw(&node.key.0);
                    grant::address::write(to, &node.addresses);
                });
            }
            Change::Position(position) => {
                self.body.u8(POSITION).u64(position.seq).u64(position.at.0);
            }
            Change::OlderRoot(sealed) => {
                self.body.u8(OLDER).bytes(sealed);
            }
        }
        self.count += 1;
    }

    pub fn put(&mut self, path: &str, object: &Object) {
        let one = matches!(&object.body, Body::Segments(all) if all.len() == 1 && all[0].len == object.size);
        let kind = if object.marker { INLINE } else { kind(&object.body) };
        let mut head = if object.marker { MARKER } else { PUT } | kind << 6;
        for (flag, holds) in [(ONE, one), (NULL, object.null), (ATTRS, !object.attrs.is_empty())] {
            head |= if holds { flag } else { 0 };
        }
        self.body.u8(head);
        self.path(path);
        self.version(object.version);
        varint::write(&mut self.body, varint::step(self.modified, object.modified.0));
        self.modified = object.modified.0;
        if !object.attrs.is_empty() {
            self.sized(&object.attrs);
        }
        if !object.marker {
            varint::write(&mut self.body, object.size);
            match &object.body {
                Body::Segments(all) if one => self.segment(&all[0]),
                body => self.body(body, object.size),
            }
        }
        self.count += 1;
    }

    fn body(&mut self, body: &Body, size: u64) {
        match body {
            Body::Inline(bytes) => self.sized(bytes),
            Body::Packed(segment, slot) => {
                let pack = self.pack(segment);
                for number in [pack, slot.index.into(), slot.offset.into(), slot.len.into()] {
                    varint::write(&mut self.body, number);
                }
                self.body.raw(&segment.bare_key);
            }
            Body::Segments(segments) => {
                let even = even(segments, size);
                varint::write(&mut self.body, (segments.len() as u64) << 1 | u64::from(even));
                for segment in segments {
                    self.segment(segment);
                    if !even {
                        varint::write(&mut self.body, segment.len);
                    }
                }
            }
            Body::Spans(spans) => {
                varint::write(&mut self.body, spans.len() as u64);
                for span in spans {
                    self.body.u8(kind(&span.body));
                    varint::write(&mut self.body, span.size);
                    self.body(&span.body, span.size);
                }
            }
        }
    }

    /// A segment but its length.
    fn segment(&mut self, segment: &Segment) {
        let code = self.code(segment.code);
        varint::write(&mut self.body, code);
        varint::write(&mut self.body, segment.group.0.into());
        self.body.raw(&segment.id.0).raw(&segment.bare_key).raw(&segment.root);
    }

    fn group(&mut self, group: &Group) {
        self.body.u8(GROUP).u16(group.policy.0).u32(group.group.0).u32(group.version);
        for drives in [&group.members, &group.from] {
            self.body.u8(drives.len() as u8);
            for drive in drives {
                self.body.raw(&drive.0);
            }
        }
    }

    fn path(&mut self, path: &str) {
        let shared = path.bytes().zip(self.path.bytes()).take_while(|(a, b)| a == b).count();
        varint::write(&mut self.body, shared as u64);
        let rest = &path.as_bytes()[shared..];
        self.sized(rest);
        self.names += rest.len();
        self.path = path.to_owned();
    }

    fn version(&mut self, version: u64) {
        varint::write(&mut self.body, varint::step(self.version, version));
        self.version = version;
    }

    fn sized(&mut self, bytes: &[u8]) {
        varint::write(&mut self.body, bytes.len() as u64);
        self.body.raw(bytes);
    }

    fn code(&mut self, code: Code) -> u64 {
        // The last ones are looked at first: neighbours are alike. A store has a handful.
        let at = self.codes.iter().rposition(|known| *known == code).unwrap_or_else(|| {
            self.codes.push(code);
            self.codes.len() - 1
        });
        at as u64
    }

    fn pack(&mut self, pack: &Segment) -> u64 {
        let row = Segment { bare_key: [0; 32], ..pack.clone() };
        let near = self.packs.len().saturating_sub(64);
        let at = self.packs[near..].iter().rposition(|known| *known == row).map(|at| near + at).unwrap_or_else(|| {
            self.packs.push(row);
            self.packs.len() - 1
        });
        self.code(pack.code);
        at as u64
    }

    /// Bytes so far, about.
    pub fn len(&self) -> usize {
        self.body.len() + 4 * self.codes.len() + 36 * self.packs.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn finish(mut self) -> Vec<u8> {
        let mut to = Writer::new();
        varint::write(&mut to, self.codes.len() as u64);
        for code in &self.codes {
            to.u16(code.policy.0).u8(code.k).u8(code.m);
        }
        varint::write(&mut to, self.packs.len() as u64);
        for pack in std::mem::take(&mut self.packs) {
            let code = self.code(pack.code);
            for number in [code, pack.group.0.into(), pack.len] {
                varint::write(&mut to, number);
            }
            to.raw(&pack.id.0).raw(&pack.root);
        }
        varint::write(&mut to, self.count);
        to.raw(&self.body.finish());
        to.finish()
    }
}

/// Changes as a frame holds them, and how many of the bytes are names.
pub fn encode(changes: &[Change]) -> (Vec<u8>, usize) {
    let mut encoder = Encoder::default();
    changes.iter().for_each(|change| encoder.add(change));
    let names = encoder.names;
    (encoder.finish(), names)
}

pub use crate::decode::decode;

pub(crate) fn kind(body: &Body) -> u8 {
    match body {
        Body::Inline(_) => INLINE,
        Body::Packed(..) => PACKED,
        Body::Segments(_) => SEGMENTS,
        Body::Spans(_) => SPANS,
    }
}

/// Whether all segments are full but the last, so that their lengths follow from the size.
fn even(segments: &[Segment], size: u64) -> bool {
    let full = |count: usize| count as u64 * SEGMENT_BYTES_MAX;
    match segments.split_last() {
        Some((last, rest)) => {
            rest.iter().all(|segment| segment.len == SEGMENT_BYTES_MAX)
                && last.len > 0
                && last.len <= SEGMENT_BYTES_MAX
                && full(rest.len()).checked_add(last.len) == Some(size)
        }
        None => false,
    }
}
