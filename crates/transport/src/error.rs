//! What can go wrong between two nodes.

use base::{Kind, Kinded, NodeId};
use wire::greet::Refused;
use wire::{Fault, TicketError};

/// The result of anything here.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed. It may have been carried out all the same, unless the kind says otherwise:
/// callers that ask again need requests that can be repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The member list doesn't have it.
    #[error("call {node}: it is no member of this cluster")]
    NoMember {
        /// Who was called.
        node: NodeId,
    },
    /// Nobody knows where it listens.
    #[error("call {node}: none of its addresses is known")]
    NoAddress {
        /// Who was called.
        node: NodeId,
    },
    /// It can't be connected to, went away, or hangs.
    #[error("call {node}: {why}")]
    Unreachable {
        /// Who was called.
        node: NodeId,
        /// What happened.
        why: String,
    },
    /// It took longer than the caller waits.
    #[error("call {node}: no answer in {ms} ms")]
    Deadline {
        /// Who was called.
        node: NodeId,
        /// What the caller was ready to wait.
        ms: u64,
    },
    /// Too many calls; ask again later.
    #[error("call {node}: too many calls at once, try again in {retry_after_ms} ms")]
    Busy {
        /// Who was called.
        node: NodeId,
        /// How long to wait.
        retry_after_ms: u32,
    },
    /// The peer's own error.
    #[error(transparent)]
    Remote(#[from] Fault),
    /// The other side doesn't let this node in, and says why.
    #[error("{address} refuses this node: {reason}")]
    Refused {
        /// Who refuses.
        address: String,
        /// Its reason.
        reason: Refused,
    },
    /// It closed without a word.
    #[error(
        "{address} closed the connection without a word: this node is no member of its cluster (or was expunged), or the \
         ticket isn't one of its cluster"
    )]
    ToldNothing {
        /// Who closed.
        address: String,
    },
    /// The connection ended before the body did.
    #[error("a body was cut off: {why}")]
    Cut {
        /// What happened.
        why: String,
    },
    /// The peer sends what the protocol doesn't have.
    #[error("a peer doesn't keep to the protocol: {0}")]
    Protocol(String),
    /// More than fits in one frame.
    #[error("{what} has {len} bytes, {max} are the limit")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// Its length.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// The ticket doesn't work.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// None of a ticket's addresses let this machine in.
    #[error("join: {0}")]
    Join(String),
    /// The port can't be had.
    #[error("listen on {address}: {why}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// What happened.
        why: String,
    },
    /// The endpoint was closed.
    #[error("this node's endpoint is closed")]
    Closed,
}

impl From<wire::Error> for Error {
    fn from(error: wire::Error) -> Self {
        Error::Protocol(error.to_string())
    }
}

impl From<codec::Error> for Error {
    fn from(error: codec::Error) -> Self {
        Error::Protocol(error.to_string())
    }
}

impl Error {
    /// A connection's failure, in a body or elsewhere.
    pub(crate) fn cut(error: &std::io::Error) -> Error {
        Error::Cut { why: error.to_string() }
    }

    /// The same, said of a call to `node`.
    pub(crate) fn of(self, node: NodeId) -> Error {
        match self {
            Error::Cut { why } => Error::Unreachable { node, why },
            Error::ToldNothing { .. } | Error::Refused { .. } => Error::Unreachable { node, why: self.to_string() },
            other => other,
        }
    }
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::NoMember { .. } => Kind::Denied,
            Error::NoAddress { .. }
            | Error::Unreachable { .. }
            | Error::Deadline { .. }
            | Error::Cut { .. }
            | Error::Closed => Kind::Unreachable,
            Error::Busy { retry_after_ms, .. } => {
                Kind::Busy { retry_after: std::time::Duration::from_millis((*retry_after_ms).into()) }
            }
            Error::Remote(fault) => fault.kind,
            Error::Refused { .. } | Error::ToldNothing { .. } | Error::Join(_) => Kind::Denied,
            Error::Protocol(_) => Kind::Damaged,
            Error::TooLong { .. } | Error::Listen { .. } => Kind::Invalid,
            Error::Ticket(error) => error.kind(),
        }
    }
}
