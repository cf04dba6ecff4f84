//! The consensus library's types, filled in for shards. None of them leaves this crate.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use base::kv::Batch;
use base::{Epoch, NodeId, Seq};

use crate::runtime::Runtime;

openraft::declare_raft_types!(
    /// A shard's group.
    pub(crate) Group:
        D = Change,
        R = Answer,
        NodeId = NodeId,
        Node = openraft::EmptyNode,
        Term = u64,
        AsyncRuntime = Runtime,
);

pub(crate) type LogId = openraft::type_config::alias::LogIdOf<Group>;
pub(crate) type LeaderId = openraft::type_config::alias::LeaderIdOf<Group>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<Group>;
pub(crate) type LogEntry = openraft::type_config::alias::EntryOf<Group>;
pub(crate) type Payload = openraft::type_config::alias::PayloadOf<Group>;
pub(crate) type Membership = openraft::Membership<NodeId, openraft::EmptyNode>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Group>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Group>;
pub(crate) type Snapshot = openraft::type_config::alias::SnapshotOf<Group, Manifest>;

/// What is agreed on, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A node that leads takes the shard: the epoch goes up, owners before it are fenced.
    Claim,
    /// Batches of the owner of that epoch, if the journal ends where it thinks.
    Commit {
        /// The owner's.
        epoch: Epoch,
        /// The place before the first batch.
        after: Seq,
        /// In order.
        batches: Arc<Vec<Batch>>,
    },
    /// Everybody computes the digest of the rows as they are at this place.
    Check,
    /// What most voters have as digest of the rows at that place.
    Verdict {
        /// The place.
        seq: Seq,
        /// The digest.
        digest: [u8; 32],
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Claim => f.write_str("claim"),
            Change::Commit { epoch, after, batches } => {
                write!(f, "{} batches after {after} under epoch {epoch}", batches.len())
            }
            Change::Check => f.write_str("check"),
            Change::Verdict { seq, .. } => write!(f, "verdict at {seq}"),
        }
    }
}

/// What a change came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing to say.
    Done,
    /// The new epoch, and where the journal ends.
    Claimed(Epoch, Seq),
    /// The last batch's place.
    Committed(Seq),
    /// Another epoch counts.
    Fenced(Epoch),
    /// The journal ends elsewhere.
    Head(Seq),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// What a snapshot is made of: where the journal ends. The journal itself is fetched from whoever
/// offers the snapshot, from where one's own ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The journal's end.
    pub head: Seq,
    /// The shard's epoch there.
    pub epoch: Epoch,
}

/// Where the rows stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Place {
    /// The last log entry that was applied.
    pub applied: Option<LogId>,
    /// The journal's end as of that entry. The store may be ahead of it after a restart or while a
    /// snapshot is fetched.
    pub head: Seq,
    /// The owner's epoch as of that entry.
    pub epoch: Epoch,
    /// The members as of that entry.
    pub membership: StoredMembership,
    /// Before the journal reaches this place some rows have no value: see [`metastore::Embedded::follow`].
    pub whole: Seq,
}

/// One set of voters, and learners.
pub(crate) fn membership(voters: BTreeSet<NodeId>) -> Membership {
    Membership::new_with_defaults(vec![voters], [])
}
