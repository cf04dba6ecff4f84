//! Why a shard could not do what it was asked.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use base::kv::ViewError;
use base::{DriveId, Epoch, Kind, Kinded, NodeId, Seq};

/// Why a shard could not do what it was asked. Cheap to clone: one failure is told to many callers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A newer owner opened the shard, or this one was closed.
    #[error("the shard is owned under epoch {current}, not {asked}: reopen it")]
    Fenced {
        /// The caller's epoch.
        asked: Epoch,
        /// The epoch that counts.
        current: Epoch,
    },
    /// The caller's idea of the journal's end is wrong.
    #[error("the journal ends at {head}, not at {expected}: look again")]
    Head {
        /// What the caller expected.
        expected: Seq,
        /// Where it ends.
        head: Seq,
    },
    /// Another node leads the shard; nothing was done here.
    #[error("another node leads the shard: {}", leader.map_or_else(|| "nobody knows yet which, ask again".into(), |leader| format!("ask {leader}")))]
    Elsewhere {
        /// Which, if this one knows.
        leader: Option<NodeId>,
    },
    /// This copy of the shard contradicted the majority's, or is being filled, and is not read.
    #[error("this copy of the shard must not be read ({why}): ask another node")]
    Unfit {
        /// Why not.
        why: String,
    },
    /// A commit failed half-way, so that nobody knows what of it is durable; reopening finds out.
    #[error("a commit failed and its fate is unknown ({why}): reopen the shard")]
    Broken {
        /// What failed.
        why: String,
    },
    /// One batch is larger than a record may be.
    #[error("a batch of {size} bytes is more than the limit of {max}: split it")]
    TooLarge {
        /// Its bytes.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// Nothing was written: too little room is left on every mirror.
    #[error("{free} bytes are free where the metadata is, {reserve} are kept in reserve: make room")]
    Full {
        /// Bytes free on the mirror with the most room.
        free: u64,
        /// Bytes kept in reserve.
        reserve: u64,
    },
    /// The journal doesn't reach back to the cursor.
    #[error("the journal begins after {oldest}: take a snapshot, then follow from there")]
    Trimmed {
        /// The oldest position from which it can be followed.
        oldest: Seq,
    },
    /// The cursor belongs to another incarnation of the shard, or lies ahead of its journal.
    #[error("the cursor does not fit this journal ({why}): take a snapshot, then follow from there")]
    ForeignCursor {
        /// What doesn't fit.
        why: &'static str,
    },
    /// Another process, or another handle of this one, has the shard open.
    #[error("the metadata in {dir} is in use by another process: stop that one first")]
    Locked {
        /// The mirror's directory.
        dir: PathBuf,
    },
    /// Every mirror at hand misses changes that were acknowledged elsewhere.
    #[error(
        "the mirrors at hand know epoch {found} of the shard's members, the drives remember epoch {expected}: \
         attach one of {wanted:?}"
    )]
    Stale {
        /// The newest epoch at hand.
        found: Epoch,
        /// The epoch that the other drives remember.
        expected: Epoch,
        /// The drives that have it all.
        wanted: Vec<DriveId>,
    },
    /// Two mirrors went on separately: one of them was opened alone, without the other's knowledge.
    #[error("mirrors contradict each other: {what}; choose one by moving the other away")]
    Split {
        /// How.
        what: String,
    },
    /// The mirrors belong to something else: another shard, another key.
    #[error("{what}")]
    Foreign {
        /// What doesn't fit.
        what: String,
    },
    /// No mirror has readable bytes where some must be.
    #[error("{what}: no mirror has it whole; attach the other drives or restore the metadata")]
    Damaged {
        /// What is damaged.
        what: String,
    },
    /// A drive failed.
    #[error("failed to {what}: {text}")]
    Io {
        /// What was done.
        what: String,
        /// What can be done about it.
        kind: Kind,
        /// The system's own words.
        text: String,
    },
    /// A broken invariant of ours.
    #[error("{what}: please report this")]
    Bug {
        /// What broke.
        what: String,
    },
}

impl Error {
    /// An error of the drive while doing `what`.
    pub(crate) fn io(what: impl Into<String>, error: &io::Error) -> Self {
        Error::Io { what: what.into(), kind: base::kind::of_io(error), text: error.to_string() }
    }

    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Error::Damaged { what: what.into() }
    }

    pub(crate) fn bug(what: impl Into<String>) -> Self {
        Error::Bug { what: what.into() }
    }

    /// Whether a drive failed to say what it holds: that it holds nothing, or damage, must not be concluded from it.
    pub(crate) fn is_untold(&self) -> bool {
        matches!(self, Error::Io { kind, .. } if !matches!(kind, Kind::Missing | Kind::Damaged))
    }

    /// Whether the store is as it was before the call that failed, and ready for another.
    pub fn is_clean(&self) -> bool {
        matches!(self, Error::TooLarge { .. } | Error::Full { .. } | Error::Head { .. } | Error::Elsewhere { .. })
    }
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Fenced { .. } | Error::Head { .. } | Error::Locked { .. } | Error::Split { .. } => Kind::Conflict,
            Error::Broken { .. } | Error::Elsewhere { .. } | Error::Unfit { .. } => Kind::Unreachable,
            Error::TooLarge { .. } | Error::ForeignCursor { .. } | Error::Foreign { .. } => Kind::Invalid,
            Error::Full { .. } => Kind::Busy { retry_after: Duration::from_secs(30) },
            Error::Trimmed { .. } => Kind::Missing,
            Error::Stale { wanted, .. } => Kind::TooFewPieces { have: 0, need: u16::from(!wanted.is_empty()) },
            Error::Damaged { .. } => Kind::Damaged,
            Error::Io { kind, .. } => *kind,
            Error::Bug { .. } => Kind::Bug,
        }
    }
}

impl From<Error> for ViewError {
    fn from(error: Error) -> Self {
        ViewError { kind: error.kind(), text: error.to_string() }
    }
}

impl From<env::Cut> for Error {
    fn from(cut: env::Cut) -> Self {
        Error::Broken { why: cut.to_string() }
    }
}
