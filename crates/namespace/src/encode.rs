//! Bodies, attributes and etags as bytes: parts of several rows. Layouts: docs/formats/namespace.md.

use base::{GroupId, PolicyId, SegmentId};
use codec::{Error, Reader, Writer};

use crate::types::{Attrs, Body, SegmentRef, Slot, Span};

/// Bytes of an etag at the most; S3's own have 32 and, for uploads, up to 38.
pub const ETAG_BYTES_MAX: usize = 255;
/// Bytes of an attribute's name at the most: S3 allows 2 KiB of user metadata, names included.
pub const ATTR_NAME_BYTES_MAX: usize = 4096;
/// Bytes of an attribute at the most: the table of 10,000 parts with checksums needs 0.9 MB.
pub const ATTR_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Attributes of one version at the most: S3's 2 KiB of metadata can't hold more.
pub const ATTRS_MAX: usize = 2048;
/// Bytes of a stored segment reference.
pub const SEGMENT_REF_BYTES: usize = 112;
/// Segments of one version at the most: 5 TiB in segments of 64 MiB, in parts that don't fill
/// theirs, with room.
pub const SEGMENTS_MAX: usize = 262_144;
/// Spans of one version at the most: the parts of an upload, some of which copy such a version.
pub const SPANS_MAX: usize = 65_536;
/// Inline bytes in one body at the most, so that a version can't blow up a batch.
pub const INLINE_TOTAL_BYTES_MAX: usize = 64 * 1024 * 1024;

pub(crate) fn write_etag(to: &mut Writer, etag: &str) {
    let bytes = &etag.as_bytes()[..etag.len().min(ETAG_BYTES_MAX)];
    to.u8(bytes.len() as u8).raw(bytes);
}

pub(crate) fn read_etag(from: &mut Reader<'_>) -> Result<String, Error> {
    let len = from.u8("etag")?;
    let bytes = from.raw("etag", len.into())?;
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Error::Utf8 { what: "etag" })
}

pub(crate) fn write_attrs(to: &mut Writer, attrs: &Attrs) {
    to.u16(attrs.len() as u16);
    for (name, value) in attrs {
        to.u16(name.len() as u16).raw(name.as_bytes()).bytes(value);
    }
}

pub(crate) fn read_attrs(from: &mut Reader<'_>) -> Result<Attrs, Error> {
    read_attrs_of(from, None)
}

/// Takes all attributes, keeps those that are wanted.
pub(crate) fn read_attrs_of(from: &mut Reader<'_>, wanted: Option<&[&str]>) -> Result<Attrs, Error> {
    let count = from.u16("attributes")?;
    let mut attrs = Attrs::new();
    for _ in 0..count {
        let len = from.u16("attribute name")?;
        let name = from.raw("attribute name", len.into())?;
        let name = std::str::from_utf8(name).map_err(|_| Error::Utf8 { what: "attribute name" })?;
        let value = from.bytes("attribute", ATTR_BYTES_MAX)?;
        if wanted.is_none_or(|wanted| wanted.contains(&name)) {
            attrs.insert(name.to_owned(), value.to_vec());
        }
    }
    Ok(attrs)
}

fn write_ref(to: &mut Writer, segment: &SegmentRef) {
    to.raw(&segment.id.0).u16(segment.policy.0).u32(segment.group.0).u8(segment.k).u8(segment.m);
    to.u64(segment.len).raw(&segment.root).raw(&segment.wrapped_key);
}

fn read_ref(from: &mut Reader<'_>) -> Result<SegmentRef, Error> {
    Ok(SegmentRef {
        id: SegmentId(from.array("segment")?),
        policy: PolicyId(from.u16("policy")?),
        group: GroupId(from.u32("group")?),
        k: from.u8("k")?,
        m: from.u8("m")?,
        len: from.u64("segment bytes")?,
        root: from.array("segment root")?,
        wrapped_key: from.array("wrapped key")?,
    })
}

const INLINE: u8 = 0;
const PACKED: u8 = 1;
const SEGMENTS: u8 = 2;
const SPANS: u8 = 3;
/// No reader of rows takes it: commands with such a body are refused before they could be written.
pub(crate) const UNLOADED: u8 = 255;

pub(crate) fn write_body(to: &mut Writer, body: &Body) {
    match body {
        Body::Inline(bytes) => {
            to.u8(INLINE).bytes(bytes);
        }
        Body::Packed(segment, slot) => {
            to.u8(PACKED);
            write_ref(to, segment);
            to.u32(slot.index).u32(slot.offset).u32(slot.len);
        }
        Body::Segments(segments) => {
            to.u8(SEGMENTS).u32(segments.len() as u32);
            segments.iter().for_each(|segment| write_ref(to, segment));
        }
        Body::Spans(spans) => {
            to.u8(SPANS).u32(spans.len() as u32);
            for span in spans {
                to.u64(span.size);
                write_body(to, &span.body);
            }
        }
        Body::Unloaded => {
            to.u8(UNLOADED);
        }
    }
}

/// Bytes that [`write_body`] writes.
pub(crate) fn body_len(body: &Body) -> usize {
    match body {
        Body::Inline(bytes) => 5 + bytes.len(),
        Body::Packed(..) => 1 + SEGMENT_REF_BYTES + 12,
        Body::Segments(segments) => 5 + segments.len() * SEGMENT_REF_BYTES,
        Body::Spans(spans) => 5 + spans.iter().map(|span| 8 + body_len(&span.body)).sum::<usize>(),
        Body::Unloaded => 1,
    }
}

pub(crate) fn read_body(from: &mut Reader<'_>) -> Result<Body, Error> {
    match from.u8("body")? {
        SPANS => {
            let count = counted(from, "spans", SPANS_MAX, 9)?;
            let span = |from: &mut Reader<'_>| {
                let size = from.u64("span bytes")?;
                let kind = from.u8("body")?;
                Ok(Span { size, body: read_simple(kind, from)? })
            };
            (0..count).map(|_| span(from)).collect::<Result<_, _>>().map(Body::Spans)
        }
        kind => read_simple(kind, from),
    }
}

fn read_simple(kind: u8, from: &mut Reader<'_>) -> Result<Body, Error> {
    match kind {
        INLINE => Ok(Body::Inline(from.bytes("inline bytes", INLINE_TOTAL_BYTES_MAX)?.to_vec())),
        PACKED => {
            let segment = read_ref(from)?;
            let slot =
                Slot { index: from.u32("slot")?, offset: from.u32("slot offset")?, len: from.u32("slot bytes")? };
            Ok(Body::Packed(segment, slot))
        }
        SEGMENTS => {
            let count = counted(from, "segments", SEGMENTS_MAX, SEGMENT_REF_BYTES)?;
            (0..count).map(|_| read_ref(from)).collect::<Result<_, _>>().map(Body::Segments)
        }
        value => Err(Error::Value { what: "body", value: value.into() }),
    }
}

/// A count of things of at least `each` bytes: more than the bytes at hand could hold is refused
/// before anything is reserved for them.
fn counted(from: &mut Reader<'_>, what: &'static str, max: usize, each: usize) -> Result<usize, Error> {
    let count = from.u32(what)? as usize;
    if count > max {
        return Err(Error::TooLong { what, len: count, max });
    }
    if count * each > from.left() {
        return Err(Error::Short { what, need: count * each, have: from.left() });
    }
    Ok(count)
}
