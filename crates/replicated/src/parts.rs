//! The parts that rows on disk and messages on the wire are made of. docs/formats/replicated.md.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base::{Epoch, NodeId, Seq};
use codec::{Error, Reader, Versioned, Writer};
use openraft::EmptyNode;
use openraft::vote::RaftLeaderId;

use crate::types::{Change, LeaderId, LogEntry, LogId, Manifest, Membership, Payload, Place, StoredMembership, Vote};

/// Bytes of one batch at most, encoded: [`metastore::BATCH_BYTES_MAX`] and what frames its parts.
pub(crate) const BATCH_BYTES_MAX: usize = metastore::BATCH_BYTES_MAX + 4096;
/// Nodes of one group at most, learners included.
pub(crate) const NODES_MAX: u32 = 64;

pub(crate) fn put_log_id(to: &mut Writer, id: &LogId) {
    to.u64(id.leader_id.term).raw(&id.leader_id.node_id.0).u64(id.index);
}

pub(crate) fn log_id(from: &mut Reader<'_>) -> Result<LogId, Error> {
    let leader_id = LeaderId::new(from.u64("log term")?, NodeId(from.array("log leader")?));
    Ok(LogId { leader_id, index: from.u64("log index")? })
}

pub(crate) fn put_maybe(to: &mut Writer, id: Option<&LogId>) {
    to.option(id, put_log_id);
}

pub(crate) fn maybe_log_id(from: &mut Reader<'_>) -> Result<Option<LogId>, Error> {
    from.option("log id", log_id)
}

pub(crate) fn put_vote(to: &mut Writer, vote: &Vote) {
    to.u64(vote.leader_id.term).raw(&vote.leader_id.node_id.0).u8(vote.committed.into());
}

pub(crate) fn vote(from: &mut Reader<'_>) -> Result<Vote, Error> {
    let leader_id = LeaderId::new(from.u64("vote term")?, NodeId(from.array("voted for")?));
    Ok(Vote { leader_id, committed: flag(from, "vote granted")? })
}

pub(crate) fn flag(from: &mut Reader<'_>, what: &'static str) -> Result<bool, Error> {
    match from.u8(what)? {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(Error::Value { what, value: value.into() }),
    }
}

fn put_nodes<'a>(to: &mut Writer, nodes: impl Iterator<Item = &'a NodeId>) {
    let nodes: BTreeSet<&NodeId> = nodes.collect();
    to.u32(nodes.len() as u32);
    nodes.iter().for_each(|node| _ = to.raw(&node.0));
}

fn nodes(from: &mut Reader<'_>, what: &'static str) -> Result<BTreeSet<NodeId>, Error> {
    let count = count(from, what, NODES_MAX)?;
    (0..count).map(|_| Ok(NodeId(from.array(what)?))).collect()
}

fn count(from: &mut Reader<'_>, what: &'static str, max: u32) -> Result<u32, Error> {
    let count = from.u32(what)?;
    if count > max {
        return Err(Error::TooLong { what, len: count as usize, max: max as usize });
    }
    Ok(count)
}

pub(crate) fn put_membership(to: &mut Writer, membership: &Membership) {
    let configs = membership.get_joint_config();
    to.u32(configs.len() as u32);
    configs.iter().for_each(|voters| put_nodes(to, voters.iter()));
    put_nodes(to, membership.nodes().map(|(node, _)| node));
}

pub(crate) fn membership(from: &mut Reader<'_>) -> Result<Membership, Error> {
    let mut configs = Vec::new();
    for _ in 0..count(from, "voter sets", 2)? {
        configs.push(nodes(from, "voters")?);
    }
    let nodes: BTreeMap<NodeId, EmptyNode> =
        nodes(from, "members")?.into_iter().map(|node| (node, EmptyNode {})).collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    let voters = configs.len() as u64;
    Membership::new(configs, nodes).map_err(|_| Error::Value { what: "voter sets", value: voters })
}

pub(crate) fn put_stored_membership(to: &mut Writer, stored: &StoredMembership) {
    put_maybe(to, stored.log_id().as_ref());
    put_membership(to, stored.membership());
}

pub(crate) fn stored_membership(from: &mut Reader<'_>) -> Result<StoredMembership, Error> {
    let id = maybe_log_id(from)?;
    Ok(StoredMembership::new(id, membership(from)?))
}

pub(crate) fn put_manifest(to: &mut Writer, manifest: &Manifest) {
    to.u64(manifest.head.0).u64(manifest.epoch.0);
}

pub(crate) fn manifest(from: &mut Reader<'_>) -> Result<Manifest, Error> {
    Ok(Manifest { head: Seq(from.u64("snapshot head")?), epoch: Epoch(from.u64("snapshot epoch")?) })
}

fn put_change(to: &mut Writer, change: &Change) {
    match change {
        Change::Claim => _ = to.u8(1),
        Change::Commit { epoch, after, batches } => {
            to.u8(2).u64(epoch.0).u64(after.0).u32(batches.len() as u32);
            for batch in batches.iter() {
                let mut bytes = Vec::with_capacity(metastore::weight(batch) + 16);
                metastore::write_entry(&mut bytes, batch, &[]);
                to.bytes(&bytes);
            }
        }
        Change::Check => _ = to.u8(3),
        Change::Verdict { seq, digest } => _ = to.u8(4).u64(seq.0).raw(digest),
    }
}

fn change(from: &mut Reader<'_>) -> Result<Change, Error> {
    Ok(match from.u8("change")? {
        1 => Change::Claim,
        2 => {
            let (epoch, after) = (Epoch(from.u64("epoch")?), Seq(from.u64("after")?));
            let mut batches = Vec::new();
            for at in 0..from.u32("batches")? {
                let seq = Seq(after.0.wrapping_add(1).wrapping_add(at.into()));
                let entry = metastore::read_entry(seq, from.bytes("batch", BATCH_BYTES_MAX)?)?;
                if !entry.dropped.is_empty() {
                    return Err(Error::Value { what: "batch without its values", value: seq.0 });
                }
                batches.push(entry.batch);
            }
            Change::Commit { epoch, after, batches: Arc::new(batches) }
        }
        3 => Change::Check,
        4 => Change::Verdict { seq: Seq(from.u64("verdict's seq")?), digest: from.array("digest")? },
        value => return Err(Error::Value { what: "change", value: value.into() }),
    })
}

pub(crate) fn put_entry(to: &mut Writer, entry: &LogEntry) {
    put_log_id(to, &entry.log_id);
    match &entry.payload {
        Payload::Blank => _ = to.u8(0),
        Payload::Normal(change) => {
            to.u8(1);
            put_change(to, change);
        }
        Payload::Membership(members) => {
            to.u8(2);
            put_membership(to, members);
        }
    }
}

pub(crate) fn entry(from: &mut Reader<'_>) -> Result<LogEntry, Error> {
    let log_id = log_id(from)?;
    let payload = match from.u8("payload")? {
        0 => Payload::Blank,
        1 => Payload::Normal(change(from)?),
        2 => Payload::Membership(membership(from)?),
        value => return Err(Error::Value { what: "payload", value: value.into() }),
    };
    Ok(LogEntry { log_id, payload })
}

/// Bytes that the entry takes, roughly.
pub(crate) fn entry_bytes(entry: &LogEntry) -> usize {
    let batches = match &entry.payload {
        Payload::Normal(Change::Commit { batches, .. }) => batches.iter().map(metastore::weight).sum(),
        _ => 0,
    };
    batches + 128
}

/// A type with a mark and a version whose body is written by two functions.
macro_rules! versioned {
    ($(#[$doc:meta])* $name:ident($inner:ty), $what:literal, $mark:literal, $put:expr, $get:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub(crate) struct $name(pub $inner);

        impl Versioned for $name {
            const NAME: &'static str = $what;
            const MARK: [u8; 4] = *$mark;
            const VERSION: u8 = 1;

            fn encode_body(&self, to: &mut Writer) {
                let put: fn(&mut Writer, &$inner) = $put;
                put(to, &self.0);
            }

            fn decode_body(_version: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
                let get: fn(&mut Reader<'_>) -> Result<$inner, Error> = $get;
                get(from).map(Self)
            }
        }
    };
}

versioned!(/// An entry in the log.
    EntryRow(LogEntry), "log entry", b"ARle", put_entry, entry);
versioned!(/// The vote.
    VoteRow(Vote), "vote", b"ARvo", put_vote, vote);
versioned!(/// The last log entry that was forgotten.
    PurgedRow(LogId), "purged log id", b"ARpu", put_log_id, log_id);
versioned!(/// Where the rows stood at the last checkpoint.
    PlaceRow(Place), "place", b"ARpl", put_place, place);

fn put_place(to: &mut Writer, place: &Place) {
    put_maybe(to, place.applied.as_ref());
    to.u64(place.head.0).u64(place.epoch.0).u64(place.whole.0);
    put_stored_membership(to, &place.membership);
}

fn place(from: &mut Reader<'_>) -> Result<Place, Error> {
    Ok(Place {
        applied: maybe_log_id(from)?,
        head: Seq(from.u64("place's head")?),
        epoch: Epoch(from.u64("place's epoch")?),
        whole: Seq(from.u64("place's end")?),
        membership: stored_membership(from)?,
    })
}

/// Whose the ledger is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Made when the group was founded.
    pub token: [u8; 16],
    /// The node that this replica is.
    pub node: NodeId,
    /// The shard.
    pub shard: u32,
}

impl Versioned for Identity {
    const NAME: &'static str = "replica identity";
    const MARK: [u8; 4] = *b"ARid";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.raw(&self.token).raw(&self.node.0).u32(self.shard);
    }

    fn decode_body(_version: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self { token: from.array("token")?, node: NodeId(from.array("node")?), shard: from.u32("shard")? })
    }
}
