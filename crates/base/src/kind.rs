//! The one small error kind that survives every border and tells the caller what to do.

use std::fmt;
use std::time::Duration;

/// What a caller can do about an error. Each face has one table from here to its own codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It isn't there. Asking again won't help.
    Missing,
    /// It is there already.
    Exists,
    /// The caller may not.
    Denied,
    /// The request makes no sense as it stands; change it.
    Invalid,
    /// A precondition didn't hold, or somebody else was first; look again, then decide.
    Conflict,
    /// Too much at once, or not possible right now; the same request may pass after a while.
    Busy {
        /// How long to wait before the next try.
        retry_after: Duration,
    },
    /// Somebody who is needed doesn't answer.
    Unreachable,
    /// Fewer pieces than k can be had: what is asked for can't be read or safely written now.
    TooFewPieces {
        /// Pieces at hand.
        have: u16,
        /// Pieces needed.
        need: u16,
    },
    /// Bytes don't match their checksum, or a structure can't be parsed.
    Damaged,
    /// A broken invariant of ours.
    Bug,
}

impl Kind {
    /// Whether the same request may pass later without any change.
    pub fn is_transient(self) -> bool {
        matches!(self, Kind::Busy { .. } | Kind::Unreachable | Kind::TooFewPieces { .. })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Missing => f.write_str("missing"),
            Kind::Exists => f.write_str("exists"),
            Kind::Denied => f.write_str("denied"),
            Kind::Invalid => f.write_str("invalid"),
            Kind::Conflict => f.write_str("conflict"),
            Kind::Busy { retry_after } => write!(f, "busy, retry after {} ms", retry_after.as_millis()),
            Kind::Unreachable => f.write_str("unreachable"),
            Kind::TooFewPieces { have, need } => write!(f, "too few pieces: {have} of {need}"),
            Kind::Damaged => f.write_str("damaged"),
            Kind::Bug => f.write_str("bug"),
        }
    }
}

/// An error that knows its [`Kind`]. Every crate's `Error` has an exhaustive match here.
pub trait Kinded: std::error::Error {
    /// What the caller can do about it.
    fn kind(&self) -> Kind;
}

/// The kind of an operating system's error on a drive's files.
pub fn of_io(error: &std::io::Error) -> Kind {
    use std::io::ErrorKind as E;
    match error.kind() {
        E::NotFound => Kind::Missing,
        E::AlreadyExists => Kind::Exists,
        E::PermissionDenied | E::ReadOnlyFilesystem => Kind::Denied,
        E::StorageFull | E::QuotaExceeded => Kind::Busy { retry_after: Duration::from_secs(30) },
        E::InvalidData | E::UnexpectedEof => Kind::Damaged,
        _ => Kind::Unreachable,
    }
}
