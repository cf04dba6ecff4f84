//! Why a replica could not do what it was asked.

use std::time::Duration;

use base::{Kind, Kinded, NodeId};

/// Why a replica could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The store below, or a refusal that every store knows.
    #[error(transparent)]
    Store(#[from] metastore::Error),
    /// Nobody who counts answered in time; what was asked for may still happen.
    #[error("no majority answered within {} ms: see that most voters are up and reach each other", waited.as_millis())]
    NoMajority {
        /// How long it was waited for.
        waited: Duration,
    },
    /// The members can't be changed like that now.
    #[error("failed to change the members: {why}")]
    Members {
        /// Why not.
        why: String,
        /// Whether it may work later.
        is_transient: bool,
    },
    /// The directory belongs to something else, or to nothing yet.
    #[error("{what}")]
    Foreign {
        /// What doesn't fit.
        what: String,
    },
    /// Bytes from another node that make no sense.
    #[error("{from} sent garbage: {why}")]
    Garbage {
        /// The other node.
        from: NodeId,
        /// What is wrong with them.
        why: String,
    },
    /// Another node doesn't answer, or refuses.
    #[error("failed to ask {node}: {why}")]
    Peer {
        /// The other node.
        node: NodeId,
        /// What happened.
        why: String,
    },
    /// The replica was closed, or one of its drives failed.
    #[error("the replica has stopped ({why}): reopen it")]
    Stopped {
        /// Why.
        why: String,
    },
    /// What is to be recovered doesn't fit what the checkpoint says.
    #[error("failed to recover: {why}")]
    Recover {
        /// What doesn't fit.
        why: String,
    },
}

impl Error {
    /// Another node leads.
    pub(crate) fn elsewhere(leader: Option<NodeId>) -> Self {
        Error::Store(metastore::Error::Elsewhere { leader })
    }

    pub(crate) fn stopped(why: impl ToString) -> Self {
        Error::Stopped { why: why.to_string() }
    }
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Store(error) => error.kind(),
            Error::NoMajority { .. } | Error::Peer { .. } | Error::Stopped { .. } => Kind::Unreachable,
            Error::Members { is_transient: true, .. } => Kind::Busy { retry_after: Duration::from_secs(1) },
            Error::Members { .. } | Error::Foreign { .. } => Kind::Invalid,
            Error::Garbage { .. } => Kind::Damaged,
            Error::Recover { .. } => Kind::Conflict,
        }
    }
}

/// For [`metastore::ShardStore`], whose errors are the store's.
impl From<Error> for metastore::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Store(error) => error,
            other => metastore::Error::Broken { why: other.to_string() },
        }
    }
}
