//! What a kit knows.

use std::net::SocketAddr;

use base::{DriveId, GroupId, PolicyId, SegmentId, Wall};
use crypt::{PublicKey, VolumeKey};
use namespace::SegmentRef;

/// How a segment is coded, under which policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Code {
    /// The policy whose groups hold it.
    pub policy: PolicyId,
    /// Data pieces.
    pub k: u8,
    /// Parity pieces.
    pub m: u8,
}

/// A segment, as much as its reader needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The segment.
    pub id: SegmentId,
    /// Its code.
    pub code: Code,
    /// Its placement group.
    pub group: GroupId,
    /// Bytes of the whole segment.
    pub len: u64,
    /// The wrapped key (in a pack: the object's) without its tag, which follows from it.
    pub bare_key: [u8; 32],
    /// The first bytes of its root: tell a header that was changed. What is read is proven by its seals besides.
    pub root: [u8; 8],
}

impl Segment {
    /// From a manifest's reference.
    pub fn of(reference: &SegmentRef) -> Self {
        let mut bare_key = [0; 32];
        bare_key.copy_from_slice(&reference.wrapped_key[..32]);
        let mut root = [0; 8];
        root.copy_from_slice(&reference.root[..8]);
        let code = Code { policy: reference.policy, k: reference.k, m: reference.m };
        Self { id: reference.id, code, group: reference.group, len: reference.len, bare_key, root }
    }

    /// The whole wrapped key. `key` is what wrapped it; `slot` 0, or 1 + the object's place in a pack.
    pub fn wrapped_key(&self, key: &VolumeKey, slot: u32) -> [u8; 48] {
        key.with_tag(&self.bare_key, self.id, slot)
    }

    /// The manifest's reference, with the root that a header says: `None` if it is not this segment's.
    pub fn reference(&self, key: &VolumeKey, slot: u32, root: [u8; 32]) -> Option<SegmentRef> {
        root.starts_with(&self.root).then(|| SegmentRef {
            id: self.id,
            policy: self.code.policy,
            group: self.group,
            k: self.code.k,
            m: self.code.m,
            len: self.len,
            root,
            wrapped_key: self.wrapped_key(key, slot),
        })
    }
}

/// Where an object lies in a pack.
pub use namespace::Slot;

/// Where an object's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Here.
    Inline(Vec<u8>),
    /// In a pack.
    Packed(Segment, Slot),
    /// In segments of its own, in order.
    Segments(Vec<Segment>),
    /// One after the other in several of these.
    Spans(Vec<Span>),
}

/// A part of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Bytes of it.
    pub size: u64,
    /// Inline, packed or segments.
    pub body: Body,
}

impl Body {
    /// From a version's body; `None` if it wasn't loaded.
    pub fn of(body: &namespace::Body) -> Option<Self> {
        Some(match body {
            namespace::Body::Inline(bytes) => Body::Inline(bytes.clone()),
            namespace::Body::Packed(segment, slot) => Body::Packed(Segment::of(segment), *slot),
            namespace::Body::Segments(segments) => Body::Segments(segments.iter().map(Segment::of).collect()),
            namespace::Body::Spans(spans) => {
                let span = |span: &namespace::Span| Some(Span { size: span.size, body: Body::of(&span.body)? });
                Body::Spans(spans.iter().map(span).collect::<Option<_>>()?)
            }
            namespace::Body::Unloaded => return None,
        })
    }

    fn outline(&mut self) {
        match self {
            Body::Inline(bytes) if !bytes.is_empty() => *bytes = crypt::hash(bytes).to_vec(),
            Body::Spans(spans) => spans.iter_mut().for_each(|span| span.body.outline()),
            _ => {}
        }
    }

    /// Whether this lacks bytes if it is of an outline.
    pub(crate) fn lacks_bytes(&self) -> bool {
        match self {
            Body::Inline(bytes) => !bytes.is_empty(),
            Body::Spans(spans) => spans.iter().any(|span| span.body.lacks_bytes()),
            _ => false,
        }
    }

    /// All segments in it, in order; a pack's with where the object lies.
    pub fn segments(&self) -> Vec<(&Segment, Option<Slot>)> {
        match self {
            Body::Inline(_) => Vec::new(),
            Body::Packed(segment, slot) => vec![(segment, Some(*slot))],
            Body::Segments(segments) => segments.iter().map(|segment| (segment, None)).collect(),
            Body::Spans(spans) => spans.iter().flat_map(|span| span.body.segments()).collect(),
        }
    }
}

/// One version of an object, or a delete marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Greater ones of a path are later (the namespace's ord).
    pub version: u64,
    /// Written while versions weren't kept: a path has one such at the most.
    pub null: bool,
    /// Says that the path is gone.
    pub marker: bool,
    /// When it was written.
    pub modified: Wall,
    /// Bytes.
    pub size: u64,
    /// What only its reader understands: entity tag, headers. May be empty; sealed in an end-to-end volume.
    pub attrs: Vec<u8>,
    /// Where the bytes are.
    pub body: Body,
}

impl Object {
    /// With hashes in the place of bytes that are inline: tells it from others, and takes little memory.
    pub fn outline(mut self) -> Self {
        self.body.outline();
        self
    }
}

/// Whose drives hold a group's pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its policy.
    pub policy: PolicyId,
    /// The group.
    pub group: GroupId,
    /// Later ones of a group are greater.
    pub version: u32,
    /// Who holds piece 0, 1, …
    pub members: Vec<DriveId>,
    /// Where those pieces may still be.
    pub from: Vec<DriveId>,
}

/// A node, and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its key.
    pub key: PublicKey,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
}

/// Up to where the kit follows the volume's journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The last change that it has.
    pub seq: u64,
    /// When that was.
    pub at: Wall,
}
