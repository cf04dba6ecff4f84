//! Why a command or a read of a volume was refused.

use std::time::Duration;

use base::{Kind, Kinded, SegmentId, Wall};

/// Why a command or a read was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bucket isn't there.
    #[error("no bucket has this name")]
    NoSuchBucket,
    /// The key has no current version.
    #[error("no object has this key")]
    NoSuchKey,
    /// The key doesn't have this version.
    #[error("the object has no such version")]
    NoSuchVersion,
    /// The upload was never begun, or is completed or aborted.
    #[error("no upload has this id: it was completed, aborted, or never begun")]
    NoSuchUpload,
    /// A part named in a completion isn't stored with that etag.
    #[error("part {number} is not stored with the given etag: upload it again")]
    InvalidPart {
        /// The part's number.
        number: u16,
    },
    /// Parts of a completion aren't ascending.
    #[error("part numbers must ascend")]
    PartOrder,
    /// A condition on the current version didn't hold.
    #[error("the condition {what} does not hold")]
    Precondition {
        /// Which.
        what: &'static str,
    },
    /// The operation doesn't fit a delete marker.
    #[error("the version is a delete marker")]
    IsMarker,
    /// The bucket name is taken.
    #[error("the bucket exists already")]
    BucketExists {
        /// Whether the one who asks owns it.
        yours: bool,
    },
    /// The bucket holds versions or uploads.
    #[error("the bucket is not empty: delete its objects, versions and uploads first")]
    NotEmpty,
    /// The bucket is being deleted.
    #[error("the bucket is being deleted")]
    Closed,
    /// A key or name that can't be.
    #[error("{what} is not valid: {why}")]
    InvalidName {
        /// Key, bucket name, …
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A value that can't be: a body that doesn't fit its size, an attribute too large, …
    #[error("{what} is not valid: {why}")]
    InvalidValue {
        /// Body, part number, …
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A segment that a new version names was freed in the meantime: its last owner is gone. Write
    /// the bytes again.
    #[error("segment {segment} was freed in the meantime: write the bytes again")]
    SegmentGone {
        /// The segment.
        segment: SegmentId,
    },
    /// A work that was made at another time than the shard takes: see [`crate::work::evaluate_once`].
    #[error("the request was made too long ago, or by a clock that is wrong: make it anew")]
    Stale {
        /// The time to make it at.
        made: Wall,
    },
    /// Rows contradict each other: a broken invariant of ours.
    #[error("rows of the volume contradict each other: {what}")]
    Broken {
        /// What doesn't fit.
        what: &'static str,
    },
    /// A row can't be read.
    #[error(transparent)]
    Row(#[from] codec::Error),
    /// The store failed.
    #[error(transparent)]
    View(#[from] base::kv::ViewError),
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::NoSuchBucket | Error::NoSuchKey | Error::NoSuchVersion | Error::NoSuchUpload => Kind::Missing,
            Error::InvalidPart { .. } | Error::PartOrder | Error::IsMarker | Error::InvalidName { .. } => Kind::Invalid,
            Error::Precondition { .. } | Error::NotEmpty | Error::Closed => Kind::Conflict,
            Error::BucketExists { .. } => Kind::Exists,
            Error::InvalidValue { .. } => Kind::Invalid,
            Error::SegmentGone { .. } | Error::Stale { .. } => Kind::Busy { retry_after: Duration::from_millis(10) },
            Error::Broken { .. } => Kind::Bug,
            Error::Row(error) => error.kind(),
            Error::View(error) => error.kind(),
        }
    }
}
