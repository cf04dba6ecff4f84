//! Why the client refused or failed.

use base::{Kind, Kinded, PieceId};

/// What went wrong.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The rules of the volume or of the catalog say no.
    #[error(transparent)]
    Namespace(#[from] namespace::Error),
    /// The metadata can't be read or written.
    #[error("metadata: {text}")]
    Metadata {
        /// What the caller can do about it.
        kind: Kind,
        /// What failed, why, what to do.
        text: String,
    },
    /// A drive failed at something.
    #[error("piece {piece}: {text}")]
    Drive {
        /// The piece.
        piece: PieceId,
        /// What the caller can do about it.
        kind: Kind,
        /// What failed, why, what to do.
        text: String,
    },
    /// Fewer pieces than needed can be read or written.
    #[error("{what}: {have} pieces can be had, {need} are needed; bring back drives, or wait for repair")]
    TooFewPieces {
        /// Read or write.
        what: &'static str,
        /// Pieces at hand.
        have: usize,
        /// Pieces needed.
        need: usize,
    },
    /// No policy of this name or number is there.
    #[error("no policy {name:?} is there: see `abide policy list`")]
    NoPolicy {
        /// As asked for.
        name: String,
    },
    /// Sealed bytes don't open, whichever pieces they are taken from.
    #[error("{what} can't be opened, whichever pieces it is taken from: run `abide verify`")]
    Damaged {
        /// What.
        what: &'static str,
    },
    /// The caller asked for something that can't be.
    #[error("{what}")]
    Invalid {
        /// What is wrong.
        what: &'static str,
    },
    /// A key doesn't fit.
    #[error(transparent)]
    Crypt(#[from] crypt::Error),
    /// Bytes that can't be parsed.
    #[error(transparent)]
    Codec(#[from] codec::Error),
    /// Coding failed.
    #[error(transparent)]
    Erasure(#[from] erasure::Error),
    /// The process is ending.
    #[error(transparent)]
    Cut(#[from] env::Cut),
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Namespace(error) => error.kind(),
            Error::Metadata { kind, .. } | Error::Drive { kind, .. } => *kind,
            Error::TooFewPieces { have, need, .. } => Kind::TooFewPieces { have: *have as u16, need: *need as u16 },
            Error::NoPolicy { .. } | Error::Invalid { .. } => Kind::Invalid,
            Error::Damaged { .. } => Kind::Damaged,
            Error::Crypt(error) => error.kind(),
            Error::Codec(error) => error.kind(),
            Error::Erasure(error) => error.kind(),
            Error::Cut(_) => Kind::Unreachable,
        }
    }
}

impl From<base::kv::ViewError> for Error {
    fn from(error: base::kv::ViewError) -> Self {
        Error::Metadata { kind: error.kind, text: error.text }
    }
}
