//! Frames: twelve bytes of header, then the payload.
//!
//! On a connection of class *control* many calls go on at once and each of their frames is whole;
//! on the others one call has the connection, and bodies of any length follow their head in
//! [`Kind::Data`] frames up to [`Kind::End`].

use std::time::Duration;

use base::Kind as Blame;
use codec::{Reader, Writer};

use crate::Error;
use crate::greet::GREETING_BYTES_MAX;

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 12;
/// Bytes of the head of a request or response: ids, ranges, a few names.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
/// Bytes of a body that comes in one frame with its head. A batch of consensus entries fits.
pub const INLINE_BYTES_MAX: usize = 4 << 20;
/// Bytes of one data frame.
pub const DATA_BYTES_MAX: usize = 1 << 20;
/// Bytes of a fault's message.
pub const MESSAGE_BYTES_MAX: usize = 1024;
/// A body whose length isn't known when it begins.
pub const LEN_UNKNOWN: u64 = u64::MAX;
/// Bytes of a request's or response's fields before its head.
const FIELDS_MAX: usize = 32;
/// Bytes of a frame that this release doesn't know and skips.
const UNKNOWN_BYTES_MAX: u32 = 64 << 10;
/// Kinds from here on may be skipped by who doesn't know them.
const SKIPPABLE: u8 = 128;
const MORE: u8 = 1;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`crate::greet::Hello`].
    Hello,
    /// [`crate::greet::Welcome`].
    Welcome,
    /// [`crate::greet::Refused`].
    Refused,
    /// Are you there? Up to eight bytes, which come back.
    Ping,
    /// The answer.
    Pong,
    /// [`RequestHead`], then the body or its beginning.
    Request,
    /// [`ResponseHead`], then the body or its beginning.
    Response,
    /// The next bytes of a body.
    Data,
    /// The body is whole.
    End,
    /// Nobody wants the answer any more.
    Cancel,
    /// Too much at once; milliseconds to wait as u32.
    Busy,
    /// [`Fault`]; ends a call at any point.
    Error,
    /// Of a later release; to be skipped.
    Unknown(u8),
}

impl Kind {
    const TABLE: [(Kind, u8, u32); 12] = [
        (Kind::Hello, 1, GREETING_BYTES_MAX),
        (Kind::Welcome, 2, GREETING_BYTES_MAX),
        (Kind::Refused, 3, GREETING_BYTES_MAX),
        (Kind::Ping, 4, 8),
        (Kind::Pong, 5, 8),
        (Kind::Request, 16, (FIELDS_MAX + HEAD_BYTES_MAX + INLINE_BYTES_MAX) as u32),
        (Kind::Response, 17, (FIELDS_MAX + HEAD_BYTES_MAX + INLINE_BYTES_MAX) as u32),
        (Kind::Data, 18, DATA_BYTES_MAX as u32),
        (Kind::End, 19, 0),
        (Kind::Cancel, 20, 0),
        (Kind::Busy, 21, 4),
        (Kind::Error, 22, (FIELDS_MAX + MESSAGE_BYTES_MAX) as u32),
    ];

    /// The byte on the wire.
    pub fn code(self) -> u8 {
        match self {
            Kind::Unknown(code) => code,
            known => Kind::TABLE.iter().find(|row| row.0 == known).map_or(0, |row| row.1),
        }
    }

    fn of(code: u8) -> Result<(Kind, u32), Error> {
        match Kind::TABLE.iter().find(|row| row.1 == code) {
            Some((kind, _, max)) => Ok((*kind, *max)),
            None if code >= SKIPPABLE => Ok((Kind::Unknown(code), UNKNOWN_BYTES_MAX)),
            None => Err(Error::UnknownFrame { kind: code }),
        }
    }
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// Whether data frames follow: only of requests and responses.
    pub more: bool,
    /// The call it belongs to; chosen by who asks, 0 for none.
    pub call: u32,
    /// Bytes of the payload.
    pub len: u32,
}

impl Header {
    /// Kind, flags, two zero bytes, call, length.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = self.kind.code();
        bytes[1] = if self.more { MORE } else { 0 };
        bytes[4..8].copy_from_slice(&self.call.to_le_bytes());
        bytes[8..].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    /// Reads a header; one that claims more than its kind may have is an error.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, Error> {
        let mut from = Reader::new(bytes);
        let (code, flags) = (from.u8("kind")?, from.u8("flags")?);
        // Reserved: skipped, so that a later release may use them.
        from.u16("reserved")?;
        let (call, len) = (from.u32("call")?, from.u32("length")?);
        let (kind, max) = Kind::of(code)?;
        if len > max {
            return Err(Error::Oversized { kind: code, len, max });
        }
        Ok(Header { kind, more: flags & MORE != 0, call, len })
    }
}

/// What comes first in a request's frame; the head and the body follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead<'a> {
    /// Who is asked.
    pub service: u16,
    /// Milliseconds after which nobody waits for the answer any more; 0 for no limit.
    pub deadline_ms: u32,
    /// Bytes of the whole body, or [`LEN_UNKNOWN`].
    pub body_len: u64,
    /// What is asked; the service's own encoding.
    pub head: &'a [u8],
}

impl<'a> RequestHead<'a> {
    /// The bytes up to the body.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.u16(self.service).u16(0).u32(self.deadline_ms).u64(self.body_len).bytes(self.head);
        to.finish()
    }

    /// Reads them; gives also where the body begins.
    pub fn decode(bytes: &'a [u8]) -> Result<(RequestHead<'a>, usize), Error> {
        let mut from = Reader::new(bytes);
        let service = from.u16("service")?;
        from.u16("reserved")?;
        let deadline_ms = from.u32("deadline")?;
        let body_len = from.u64("body length")?;
        let head = from.bytes("request head", HEAD_BYTES_MAX)?;
        Ok((RequestHead { service, deadline_ms, body_len, head }, bytes.len() - from.left()))
    }
}

/// What comes first in a response's frame; the head and the body follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead<'a> {
    /// Bytes of the whole body, or [`LEN_UNKNOWN`].
    pub body_len: u64,
    /// The answer; the service's own encoding.
    pub head: &'a [u8],
}

impl<'a> ResponseHead<'a> {
    /// The bytes up to the body.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.u64(self.body_len).bytes(self.head);
        to.finish()
    }

    /// Reads them; gives also where the body begins.
    pub fn decode(bytes: &'a [u8]) -> Result<(ResponseHead<'a>, usize), Error> {
        let mut from = Reader::new(bytes);
        let body_len = from.u64("body length")?;
        let head = from.bytes("response head", HEAD_BYTES_MAX)?;
        Ok((ResponseHead { body_len, head }, bytes.len() - from.left()))
    }
}

/// An error as it crosses the wire: what to do about it, and what to tell people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// What the caller can do.
    pub kind: Blame,
    /// What failed and why.
    pub message: String,
}

impl Fault {
    /// A fault; a message that is too long is cut.
    pub fn new(kind: Blame, message: impl Into<String>) -> Fault {
        let mut message = message.into();
        let end = message.floor_char_boundary(MESSAGE_BYTES_MAX);
        message.truncate(end);
        Fault { kind, message }
    }

    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        let (code, wait, have, need) = match self.kind {
            Blame::Missing => (1, 0, 0, 0),
            Blame::Exists => (2, 0, 0, 0),
            Blame::Denied => (3, 0, 0, 0),
            Blame::Invalid => (4, 0, 0, 0),
            Blame::Conflict => (5, 0, 0, 0),
            Blame::Busy { retry_after } => (6, millis(retry_after), 0, 0),
            Blame::Unreachable => (7, 0, 0, 0),
            Blame::TooFewPieces { have, need } => (8, 0, have, need),
            Blame::Damaged => (9, 0, 0, 0),
            Blame::Bug => (10, 0, 0, 0),
        };
        to.u8(code).u32(wait).u16(have).u16(need).str(&self.message);
        to.finish()
    }

    /// Reads them. A kind of a later release is taken for [`base::Kind::Bug`]: nothing to be done
    /// about it here.
    pub fn decode(bytes: &[u8]) -> Result<Fault, Error> {
        let mut from = Reader::new(bytes);
        let code = from.u8("kind")?;
        let (wait, have, need) = (from.u32("retry after")?, from.u16("have")?, from.u16("need")?);
        let kind = match code {
            1 => Blame::Missing,
            2 => Blame::Exists,
            3 => Blame::Denied,
            4 => Blame::Invalid,
            5 => Blame::Conflict,
            6 => Blame::Busy { retry_after: Duration::from_millis(wait.into()) },
            7 => Blame::Unreachable,
            8 => Blame::TooFewPieces { have, need },
            9 => Blame::Damaged,
            _ => Blame::Bug,
        };
        Ok(Fault { kind, message: from.str("message", MESSAGE_BYTES_MAX)?.to_owned() })
    }
}

impl base::Kinded for Fault {
    fn kind(&self) -> Blame {
        self.kind
    }
}

/// Whole milliseconds that fit a u32, rounded up: half a millisecond must not become none.
pub fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u32::MAX)
}
