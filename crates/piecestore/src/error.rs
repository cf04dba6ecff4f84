//! What can go wrong with pieces on one drive.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::{Kind, Kinded, PieceId};

/// Why a call on a piece store failed. Clones are cheap: one failed sync fails many calls.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The store doesn't hold the piece, or holds it only in the trash.
    #[error("no piece {id} here")]
    Missing {
        /// The piece.
        id: PieceId,
    },
    /// The piece's bytes on the drive don't match their checksums.
    #[error("piece {id} is damaged: {what}; rebuild it from the other pieces of its segment")]
    Damaged {
        /// The piece.
        id: PieceId,
        /// Which part of it.
        what: &'static str,
    },
    /// The range is not within the piece.
    #[error("read piece {id}: bytes {offset}..+{len} are not within its {have}")]
    Range {
        /// The piece.
        id: PieceId,
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// Bytes that the piece has.
        have: u64,
    },
    /// A size is over its limit, or more was written than announced.
    #[error("{what} of {len} bytes is over the limit of {max}")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// Its length.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// A parameter that has no meaning.
    #[error("{what}")]
    Invalid {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The drive has no room left above its reserve: reads and deletes still work.
    #[error("drive is full: {free} bytes are free and {reserve} are kept in reserve; delete something or add a drive")]
    Full {
        /// Bytes free now.
        free: u64,
        /// Bytes kept back.
        reserve: u64,
    },
    /// The store takes no more writes.
    #[error("the store takes no writes: {reason}; reads go on, see to the drive and reopen it")]
    Fenced {
        /// Why.
        reason: String,
    },
    /// The store was closed.
    #[error("the piece store is closed")]
    Closed,
    /// The operating system refused.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// A file of the store isn't what it should be.
    #[error("{}: {source}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: codec::Error,
    },
    /// Others changed the same piece all the time.
    #[error("piece {id} was changed by others again and again; try again")]
    Contended {
        /// The piece.
        id: PieceId,
    },
}

impl Error {
    pub(crate) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.to_path_buf(), source: Arc::new(source) }
    }

    /// Whether the system said that the file system is full.
    pub(crate) fn is_out_of_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_out_of_space(source))
    }
}

pub(crate) fn is_out_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// How long a caller waits before it tries a full drive again: about one round of cleaning.
const FULL_RETRY: Duration = Duration::from_secs(30);

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Missing { .. } => Kind::Missing,
            Error::Damaged { .. } => Kind::Damaged,
            Error::Range { .. } | Error::TooLong { .. } | Error::Invalid { .. } => Kind::Invalid,
            Error::Full { .. } => Kind::Busy { retry_after: FULL_RETRY },
            Error::Fenced { .. } | Error::Closed => Kind::Unreachable,
            // A file that can't be read isn't the absence of a piece: never report it as Missing.
            Error::Io { source, .. } => match base::kind::of_io(source) {
                busy @ Kind::Busy { .. } => busy,
                Kind::Damaged => Kind::Damaged,
                _ => Kind::Unreachable,
            },
            Error::Format { source, .. } => source.kind(),
            Error::Contended { .. } => Kind::Conflict,
        }
    }
}
