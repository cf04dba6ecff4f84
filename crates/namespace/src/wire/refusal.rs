//! What a command did, and why one was refused, as bytes.

use std::time::Duration;

use base::kv::ViewError;
use base::{Kind, Kinded, SegmentId, Wall};
use codec::{Error as Codec, Reader, Versioned, Writer};

use super::texts::known;
use super::{bounded, text};
use crate::encode::{read_etag, write_etag};
use crate::error::Error;
use crate::rows::flag;
use crate::types::{Outcome, VersionId};

/// Bytes of an error's text at the most; more are cut off.
const MESSAGE_BYTES_MAX: usize = 4096;

impl Versioned for Outcome {
    const NAME: &'static str = "outcome";
    const MARK: [u8; 4] = *b"nsOu";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.option(self.version, |to, version| {
            to.u64(version.0);
        });
        to.u8(self.marker.into()).u64(self.modified.0).u64(self.size);
        write_etag(to, &self.etag);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Codec> {
        Ok(Outcome {
            version: from.option("version", |from| from.u64("version").map(VersionId))?,
            marker: flag(from, "marker")?,
            modified: Wall(from.u64("modified")?),
            size: from.u64("size")?,
            etag: read_etag(from)?,
        })
    }
}

/// Comes back as the same variant, but for what went wrong below the rules: rows that can't be read
/// come back as [`Error::View`] with their kind and text. A text that this version doesn't know comes
/// back as another one that says so.
impl Versioned for Error {
    const NAME: &'static str = "refusal";
    const MARK: [u8; 4] = *b"nsEr";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        match self {
            Error::NoSuchBucket => to.u8(1),
            Error::NoSuchKey => to.u8(2),
            Error::NoSuchVersion => to.u8(3),
            Error::NoSuchUpload => to.u8(4),
            Error::InvalidPart { number } => to.u8(5).u16(*number),
            Error::PartOrder => to.u8(6),
            Error::Precondition { what } => to.u8(7).str(what),
            Error::IsMarker => to.u8(8),
            Error::BucketExists { yours } => to.u8(9).u8((*yours).into()),
            Error::NotEmpty => to.u8(10),
            Error::Closed => to.u8(11),
            Error::InvalidName { what, why } => to.u8(12).str(what).str(why),
            Error::InvalidValue { what, why } => to.u8(13).str(what).str(why),
            Error::SegmentGone { segment } => to.u8(14).raw(&segment.0),
            Error::Broken { what } => to.u8(15).str(what),
            Error::Stale { made } => to.u8(16).u64(made.0),
            Error::Row(error) => write_view(to.u8(17), error.kind(), &error.to_string()),
            Error::View(error) => write_view(to.u8(17), error.kind, &error.text),
        };
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Codec> {
        bounded(from, Self::NAME)?;
        Ok(match from.u8("refusal")? {
            1 => Error::NoSuchBucket,
            2 => Error::NoSuchKey,
            3 => Error::NoSuchVersion,
            4 => Error::NoSuchUpload,
            5 => Error::InvalidPart { number: from.u16("part")? },
            6 => Error::PartOrder,
            7 => Error::Precondition { what: word(from)? },
            8 => Error::IsMarker,
            9 => Error::BucketExists { yours: flag(from, "yours")? },
            10 => Error::NotEmpty,
            11 => Error::Closed,
            12 => Error::InvalidName { what: word(from)?, why: word(from)? },
            13 => Error::InvalidValue { what: word(from)?, why: word(from)? },
            14 => Error::SegmentGone { segment: SegmentId(from.array("segment")?) },
            15 => Error::Broken { what: word(from)? },
            16 => Error::Stale { made: Wall(from.u64("made")?) },
            17 => Error::View(ViewError { kind: read_kind(from)?, text: text(from, "message")? }),
            value => return Err(Codec::Value { what: "refusal", value: value.into() }),
        })
    }
}

fn word(from: &mut Reader<'_>) -> Result<&'static str, Codec> {
    from.str("reason", MESSAGE_BYTES_MAX).map(known)
}

fn write_view<'w>(to: &'w mut Writer, kind: Kind, text: &str) -> &'w mut Writer {
    let (code, first, second) = match kind {
        Kind::Missing => (0, 0, 0),
        Kind::Exists => (1, 0, 0),
        Kind::Denied => (2, 0, 0),
        Kind::Invalid => (3, 0, 0),
        Kind::Conflict => (4, 0, 0),
        Kind::Busy { retry_after } => (5, u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX), 0),
        Kind::Unreachable => (6, 0, 0),
        Kind::TooFewPieces { have, need } => (7, have.into(), need.into()),
        Kind::Damaged => (8, 0, 0),
        Kind::Bug => (9, 0, 0),
    };
    let end = (0..=text.len().min(MESSAGE_BYTES_MAX)).rev().find(|end| text.is_char_boundary(*end));
    to.u8(code).u32(first).u32(second).str(&text[..end.unwrap_or(0)])
}

fn read_kind(from: &mut Reader<'_>) -> Result<Kind, Codec> {
    let (code, first, second) = (from.u8("kind")?, from.u32("kind")?, from.u32("kind")?);
    let small = |value: u32| u16::try_from(value).map_err(|_| Codec::Value { what: "pieces", value: value.into() });
    Ok(match code {
        0 => Kind::Missing,
        1 => Kind::Exists,
        2 => Kind::Denied,
        3 => Kind::Invalid,
        4 => Kind::Conflict,
        5 => Kind::Busy { retry_after: Duration::from_millis(first.into()) },
        6 => Kind::Unreachable,
        7 => Kind::TooFewPieces { have: small(first)?, need: small(second)? },
        8 => Kind::Damaged,
        9 => Kind::Bug,
        value => return Err(Codec::Value { what: "kind", value: value.into() }),
    })
}
