//! When a majority is lost for good: signed checkpoints, and founding the group anew on a survivor.
//!
//! A group without a majority can't know what it acknowledged last. Founding it anew on a survivor
//! keeps everything that this survivor has, agreed on or not: more rather than less. A checkpoint,
//! signed while the group was well, proves that the survivor isn't older than that. Old members
//! never take part again: the token is another one, so that nobody listens to them.

use std::collections::BTreeSet;

use base::{Epoch, NodeId, Seq};
use codec::{Reader, Versioned, Writer};
use crypt::MetaKey;
use env::Env;
use metastore::ShardStore;

use crate::Error;
use crate::digest;
use crate::ledger::Held;
use crate::parts::{Identity, NODES_MAX};
use crate::replica::{Opened, Replica, Who, open_stores};
use crate::settings::{Places, Settings};
use crate::state::{Machine, State};
use crate::types::{LeaderId, LogId, Payload, Place, StoredMembership, Vote, membership};

/// Bytes of entries that are read at once.
const GROUP_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of a signature.
const SIGNATURE: usize = 64;
/// Terms that are skipped, so that no leader of the old group has ever used the new one's.
const TERMS_SKIPPED: u64 = 1000;

/// What a group had at some point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The group's token.
    pub token: [u8; 16],
    /// The shard.
    pub shard: u32,
    /// The node that made it.
    pub node: NodeId,
    /// Where the journal ended.
    pub seq: Seq,
    /// The epoch there.
    pub epoch: Epoch,
    /// The log entry there.
    pub index: u64,
    /// The digest of all rows.
    pub digest: [u8; 32],
    /// Who voted.
    pub voters: Vec<NodeId>,
}

impl Checkpoint {
    /// Its bytes, and after them the signature that `sign` makes of them.
    pub fn signed(&self, sign: impl FnOnce(&[u8]) -> [u8; SIGNATURE]) -> Vec<u8> {
        let mut bytes = self.encode();
        let signature = sign(&bytes);
        bytes.extend_from_slice(&signature);
        bytes
    }
}

impl Versioned for Checkpoint {
    const NAME: &'static str = "shard checkpoint";
    const MARK: [u8; 4] = *b"ARck";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.raw(&self.token).u32(self.shard).raw(&self.node.0).u64(self.seq.0).u64(self.epoch.0).u64(self.index);
        to.raw(&self.digest).u32(self.voters.len() as u32);
        self.voters.iter().for_each(|voter| _ = to.raw(&voter.0));
    }

    fn decode_body(_version: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        let mut this = Self {
            token: from.array("token")?,
            shard: from.u32("shard")?,
            node: NodeId(from.array("node")?),
            seq: Seq(from.u64("seq")?),
            epoch: Epoch(from.u64("epoch")?),
            index: from.u64("index")?,
            digest: from.array("digest")?,
            voters: Vec::new(),
        };
        let count = from.u32("voters")?;
        if count > NODES_MAX {
            return Err(codec::Error::TooLong { what: "voters", len: count as usize, max: NODES_MAX as usize });
        }
        for _ in 0..count {
            this.voters.push(NodeId(from.array("voter")?));
        }
        Ok(this)
    }
}

/// How far a survivor's replica is: to choose the one that has most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standing {
    /// The round of its last log entry: the first thing to compare.
    pub term: u64,
    /// Its last log entry: the second.
    pub index: u64,
    /// Where its journal ends; entries of the log may lengthen it.
    pub head: Seq,
}

/// What a survivor's directories hold: whether its group can be founded anew on them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// How far it is.
    pub standing: Standing,
    /// Where its journal ends with all entries of the log.
    pub end: Seq,
    /// The group's token.
    pub token: [u8; 16],
    /// The members of which each may count, oldest first: the last ones in the log, which may not have been agreed on,
    /// and those before them, which were. During a change of voters a majority of several sets is needed.
    pub members: Vec<Vec<BTreeSet<NodeId>>>,
    /// Why the copy must not be used, if it contradicted the majority's.
    pub quarantine: Option<String>,
    /// Whether it was being filled, so that some of it is missing.
    pub is_partial: bool,
}

/// A group that was founded anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Its token: whoever joins needs it.
    pub token: [u8; 16],
    /// Where its journal begins to go on.
    pub head: Seq,
}

impl Replica {
    /// What this replica has now: to be signed, and kept where it survives the group.
    ///
    /// # Errors
    /// [`metastore::Error::Unfit`] if this copy must not be read; those of the store.
    pub async fn checkpoint_to_sign(&self) -> Result<Checkpoint, Error> {
        let (place, snapshot) = self.shared.state.cut().await?;
        let rows = self.shared.env.blocking(move || digest::of(&*snapshot)).await.map_err(metastore::Error::from)?;
        Ok(Checkpoint {
            token: self.token(),
            shard: self.shared.who.shard,
            node: self.shared.who.node,
            seq: place.head,
            epoch: place.epoch,
            index: place.applied.map_or(0, |id| id.index),
            digest: rows?,
            voters: place.membership.voter_ids().collect(),
        })
    }
}

/// Reads a signed checkpoint; `verify` gets the signed bytes and the signature.
///
/// # Errors
/// [`Error::Recover`] if it isn't one, or isn't signed by who should.
pub fn read_checkpoint(
    signed: &[u8],
    verify: impl FnOnce(&[u8], &[u8; SIGNATURE]) -> bool,
) -> Result<Checkpoint, Error> {
    let bad = |why: String| Error::Recover { why };
    let (bytes, signature) =
        signed.split_last_chunk::<SIGNATURE>().ok_or_else(|| bad("the checkpoint is too short".into()))?;
    if !verify(bytes, signature) {
        return Err(bad("the checkpoint's signature is wrong: it was not made by this cluster".into()));
    }
    Checkpoint::decode(bytes).map_err(|error| bad(error.to_string()))
}

/// How far the replica in these directories is. It must not be open.
///
/// # Errors
/// Those of the stores; [`Error::Foreign`] if there is none.
pub async fn survey(
    env: &Env,
    who: Who,
    key: &MetaKey,
    places: Places,
    settings: &Settings,
) -> Result<Standing, Error> {
    Ok(examine(env, who, key, places, settings).await?.standing)
}

/// What the replica in these directories has, and who its group was. It must not be open.
///
/// # Errors
/// Those of the stores; [`Error::Foreign`] if there is none.
pub async fn examine(
    env: &Env,
    who: Who,
    key: &MetaKey,
    places: Places,
    settings: &Settings,
) -> Result<Examined, Error> {
    let opened = open_stores(env, who.shard, key, places, settings).await?;
    let examined = look_into(env, who, &opened).await;
    let rows = opened.rows.close().await;
    let log = opened.ledger.store().close().await;
    let examined = examined?;
    rows?;
    log?;
    Ok(examined)
}

async fn look_into(env: &Env, who: Who, opened: &Opened) -> Result<Examined, Error> {
    let identity = known(opened, who)?;
    let Held { place, quarantine, .. } = opened.held.clone();
    let place = place.unwrap_or_default();
    let mut members = vec![place.membership.get_joint_config().clone()];
    let (last, _) = opened.ledger.ends();
    let mut next = place.applied.map_or(0, |id| id.index + 1);
    while let Some(to) = last.map(|last| last.index + 1).filter(|to| next < *to) {
        let entries = opened.ledger.entries(next, to, GROUP_BYTES).await?;
        let Some(end) = entries.last().map(|entry| entry.log_id.index + 1) else { break };
        for entry in entries {
            if let Payload::Membership(change) = entry.payload {
                members.push(change.get_joint_config().clone());
            }
        }
        next = end;
    }
    // A change of members begins once the one before it was agreed on.
    members.drain(..members.len().saturating_sub(2));
    let whole = place.whole;
    let (state, _digests) = State::new(env, opened.rows.clone(), opened.ledger.clone(), place, None);
    let end = Machine(state).foresee(last).await?.head;
    let standing = Standing {
        term: last.map_or(0, |last| last.leader_id.term),
        index: last.map_or(0, |last| last.index),
        head: opened.rows.position().1,
    };
    Ok(Examined { standing, end, token: identity.token, members, quarantine, is_partial: end < whole })
}

fn known(opened: &Opened, who: Who) -> Result<Identity, Error> {
    match opened.held.identity {
        Some(identity) if (identity.node, identity.shard) == (who.node, who.shard) => Ok(identity),
        Some(other) => Err(Error::Foreign {
            what: format!("the directories hold node {}'s replica of shard {}", other.node, other.shard),
        }),
        None => Err(Error::Foreign { what: format!("no replica of shard {} is here", who.shard) }),
    }
}

/// Founds the group anew on this node's replica alone, with everything that it has. The replica must
/// not be open; afterwards it is opened with [`crate::Begin::Existing`], and others join with empty
/// directories and the new token. Before, make sure that no majority of the old group can come back,
/// and that of the survivors this one stands best ([`survey`]).
///
/// # Errors
/// [`Error::Recover`] if the checkpoint is of another group, or newer than the replica: nothing has
/// changed then. Or if the rows contradict it: then all entries of the log were made rows, agreed on
/// or not, and the copy is good for nothing but looking at it.
pub async fn recover(
    env: &Env,
    who: Who,
    key: &MetaKey,
    places: Places,
    settings: &Settings,
    checkpoint: &Checkpoint,
) -> Result<Recovered, Error> {
    let opened = open_stores(env, who.shard, key, places, settings).await?;
    let done = found_anew(env, who, &opened, checkpoint).await;
    let rows = opened.rows.close().await;
    let log = opened.ledger.store().close().await;
    let done = done?;
    rows?;
    log?;
    Ok(done)
}

async fn found_anew(env: &Env, who: Who, opened: &Opened, checkpoint: &Checkpoint) -> Result<Recovered, Error> {
    let refuse = |why: String| Err(Error::Recover { why });
    let identity = known(opened, who)?;
    if (checkpoint.token, checkpoint.shard) != (identity.token, identity.shard) {
        return refuse("the checkpoint is of another group".into());
    }
    let Held { place, quarantine, .. } = opened.held.clone();
    if let Some(why) = quarantine {
        return refuse(format!("this copy is in quarantine: {why}; take another one"));
    }
    let (state, _digests) =
        State::new(env, opened.rows.clone(), opened.ledger.clone(), place.unwrap_or_default(), None);
    let (last, vote) = opened.ledger.ends();
    let machine = Machine(state.clone());
    let place = machine.foresee(last).await?;
    if place.head < checkpoint.seq {
        return refuse(format!("the checkpoint is at batch {}, this copy ends at {}", checkpoint.seq, place.head));
    }
    if place.head < place.whole {
        return refuse(format!("this copy was being filled: it ends at {} of {} batches", place.head, place.whole));
    }
    let place = machine.replay(last).await?;
    state.check_fit()?;
    if place.head == checkpoint.seq {
        let snapshot = opened.rows.snapshot()?;
        let rows = env.blocking(move || digest::of(&*snapshot)).await.map_err(metastore::Error::from)??;
        if rows != checkpoint.digest {
            return refuse("the rows are not those of the checkpoint".into());
        }
    }
    opened.rows.checkpoint().await?;
    let term = vote.map_or(0, |vote| vote.leader_id.term).max(last.map_or(0, |last| last.leader_id.term));
    let leader_id = LeaderId { term: term + TERMS_SKIPPED, node_id: who.node };
    let first = LogId { leader_id, index: last.map_or(0, |last| last.index) + 1 };
    let members = StoredMembership::new(Some(first), membership([who.node].into()));
    let epoch = Epoch(place.epoch.0 + 1);
    let place = Place { applied: Some(first), epoch, membership: members, ..place };
    let token = env.random();
    let vote = Vote { leader_id, committed: false };
    opened.ledger.found(Identity { token, ..identity }, Some(&place), Some(vote)).await?;
    Ok(Recovered { token, head: place.head })
}
