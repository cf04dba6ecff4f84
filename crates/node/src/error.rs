//! Why the node refused or failed: what failed, why, what to do.

use std::path::PathBuf;

use base::{Kind, Kinded};

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder can't be used as it is. Nothing was touched.
    #[error("{path}: {why}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        why: String,
        /// What the caller can do.
        kind: Kind,
    },
    /// The folders don't make a store.
    #[error("{0}")]
    Folders(String),
    /// The key file, or the words.
    #[error("key file {path}: {why}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// Membership.
    #[error(transparent)]
    Members(#[from] crate::members::Error),
    /// A command that would lower safety, or can't be done; the computed outcome says why.
    #[error("{0}")]
    Refused(String),
    /// It can't be said yet; trying again in a moment is enough.
    #[error("{0}: try again in a moment")]
    NotYet(String),
    /// What is named isn't there.
    #[error("{0}")]
    Missing(String),
    /// What was asked makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The system said no.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// Other nodes, or the way to them.
    #[error(transparent)]
    Transport(#[from] transport::Error),
    /// A replica of the metadata failed.
    #[error("metadata: {0}")]
    Replica(#[from] replicated::Error),
    /// The metadata failed.
    #[error("metadata: {0}")]
    Meta(#[from] metastore::Error),
    /// The rules said no.
    #[error(transparent)]
    Namespace(#[from] namespace::Error),
    /// The data engine failed.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// A drive's piece store failed.
    #[error("piece store: {0}")]
    Pieces(#[from] piecestore::Error),
    /// A kit can't be made.
    #[error(transparent)]
    Kit(#[from] kit::Error),
    /// A stored row can't be read.
    #[error(transparent)]
    Decode(#[from] codec::Error),
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Folder { kind, .. } => *kind,
            Error::Folders(_) | Error::Key { .. } | Error::Invalid(_) => Kind::Invalid,
            Error::Refused(_) => Kind::Conflict,
            Error::NotYet(_) => Kind::Busy { retry_after: std::time::Duration::from_secs(1) },
            Error::Missing(_) => Kind::Missing,
            Error::Io { source, .. } => base::kind::of_io(source),
            Error::Transport(error) => error.kind(),
            Error::Members(error) => error.kind(),
            Error::Replica(error) => error.kind(),
            Error::Meta(error) => error.kind(),
            Error::Namespace(error) => error.kind(),
            Error::Client(error) => error.kind(),
            Error::Pieces(error) => error.kind(),
            Error::Kit(error) => error.kind(),
            Error::Decode(error) => error.kind(),
        }
    }
}

/// What every call gives.
pub type Result<T> = std::result::Result<T, Error>;
