//! The cluster map: all that members must agree on to find pieces and each other.
//!
//! 1. Each change raises the epoch by one and names the hash of the map before: two maps of one epoch, or
//!    a gap, are noticed.
//! 2. A map counts only if the cluster's root signing key signed it. The signature covers the hash of its bytes.
//! 3. One map has one encoding: everything in it is sorted and without doubles, and the decoder
//!    refuses what isn't.
//! 4. Rows of one machine's store (drives, policies, groups) go into a map as they are.
//!
//! docs/formats/map.md has every byte.

mod encode;

use std::collections::{BTreeMap, BTreeSet};

use base::{ClusterId, Demand, Domain, DriveId, Epoch, Kind, Kinded, NodeId, PolicyId, Wall};
use codec::Versioned;
use crypt::{SIGNATURE_BYTES, SigningKey};

use crate::caps::{Caps, Spec, Unmet};
use crate::group::GroupRow;
use crate::labels::{self, Labels};
use crate::place::{Given, Places};
use crate::survive::{self, Survival};

pub use crypt::PublicKey;
pub use encode::{ADDRESSES_MAX, DRIVES_MAX, MAP_BYTES_MAX, NODES_MAX, POLICIES_MAX};

/// What a map's signature is bound to; it is over the map's hash.
pub const CONTEXT: &str = "abide 2026 cluster map v1";

/// Why a map isn't taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Its bytes can't be read.
    #[error("the cluster map can't be read: {0}")]
    Codec(#[from] codec::Error),
    /// Its signature isn't one by the key that it names.
    #[error("the cluster map isn't signed by this cluster's key: it was changed; ask another node for it")]
    Signature,
    /// Another key than the one of this cluster signed it.
    #[error("the cluster map is signed by {signer}, not by this cluster's key {wanted}: it is another cluster's")]
    Signer {
        /// Who signed.
        signer: PublicKey,
        /// Who should have.
        wanted: PublicKey,
    },
    /// It is of another cluster.
    #[error("the map is of cluster {found}, and this is cluster {wanted}")]
    Cluster {
        /// As the map says.
        found: ClusterId,
        /// This one.
        wanted: ClusterId,
    },
    /// It is older than what is known.
    #[error("the map has epoch {found}, and epoch {known} is known already")]
    Stale {
        /// As the map says.
        found: Epoch,
        /// What is known.
        known: Epoch,
    },
    /// Two different maps of one epoch, or one that doesn't follow.
    #[error(
        "the map of epoch {epoch} doesn't follow the one known: the cluster was forked; keep this node's data and ask for help"
    )]
    Forked {
        /// As the map says.
        epoch: Epoch,
    },
    /// It contradicts itself.
    #[error("the map is not consistent: {0}")]
    Inconsistent(String),
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Codec(error) => error.kind(),
            Error::Signature | Error::Signer { .. } | Error::Cluster { .. } => Kind::Denied,
            Error::Stale { .. } | Error::Forked { .. } => Kind::Conflict,
            Error::Inconsistent(_) => Kind::Damaged,
        }
    }
}

/// What a node, or a drive, is there for. Whether it answers just now is no matter of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// Holds pieces and takes new ones.
    Active = 0,
    /// Is being emptied.
    Draining = 1,
    /// Lost: its pieces don't count, and are rebuilt elsewhere. It may come back.
    Gone = 2,
    /// Taken out for good: it is told nothing any more.
    Removed = 3,
}

/// A node that holds data, did, or may. Whether it may speak is said by the signed member list
/// (`wire`), not here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id: stays when its key is replaced, so drives and voters name it.
    pub id: NodeId,
    /// Its public key as of this map. While the key is being replaced the member list has two.
    pub key: PublicKey,
    /// What it is there for.
    pub state: State,
    /// Its name, for people.
    pub name: String,
    /// Where to reach it, `host:port`, the best first.
    pub addresses: Vec<String>,
    /// Its labels.
    pub labels: Labels,
    /// When it joined.
    pub joined: Wall,
}

/// A drive of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drive {
    /// Its id.
    pub id: DriveId,
    /// The node it is on.
    pub node: NodeId,
    /// What it is there for.
    pub state: State,
    /// Bytes that it can hold; 0 on a node that takes no data.
    pub size: u64,
}

/// A durability policy and its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its number, by which manifests name it.
    pub id: PolicyId,
    /// Its name.
    pub name: String,
    /// Pieces that suffice.
    pub k: u8,
    /// Pieces that may be lost.
    pub m: u8,
    /// Pieces that must be durable before a write is acknowledged.
    pub ack: u8,
    /// Losses to survive.
    pub demands: Vec<Demand>,
    /// Labels that its drives' nodes must have: for each kind that is named, one of its values.
    pub within: Vec<(Domain, String)>,
    /// Its groups, by number.
    pub groups: Vec<GroupRow>,
}

impl Policy {
    /// What it asks of placement.
    pub fn spec(&self) -> Spec {
        Spec { k: self.k, m: self.m, demands: self.demands.clone() }
    }

    /// Whether a node with these labels may hold its pieces.
    pub fn admits(&self, labels: &Labels) -> bool {
        self.within
            .iter()
            .all(|(label, _)| self.within.iter().any(|(other, value)| other == label && labels.get(*label) == value))
    }
}

/// The cluster map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// The cluster it is of.
    pub cluster: ClusterId,
    /// Its version, from 1.
    pub epoch: Epoch,
    /// The hash of the map before; zero for the first.
    pub previous: [u8; 32],
    /// When it was made.
    pub made: Wall,
    /// Members by id.
    pub nodes: Vec<Node>,
    /// Drives by id.
    pub drives: Vec<Drive>,
    /// Policies by number.
    pub policies: Vec<Policy>,
}

impl Map {
    /// The content's hash: BLAKE3 of its encoding.
    pub fn hash(&self) -> [u8; 32] {
        crypt::hash(&self.encode())
    }

    /// A member.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.binary_search_by_key(&id, |node| node.id).ok().map(|at| &self.nodes[at])
    }

    /// A drive.
    pub fn drive(&self, id: DriveId) -> Option<&Drive> {
        self.drives.binary_search_by_key(&id, |drive| drive.id).ok().map(|at| &self.drives[at])
    }

    /// A policy.
    pub fn policy(&self, id: PolicyId) -> Option<&Policy> {
        self.policies.binary_search_by_key(&id, |policy| policy.id).ok().map(|at| &self.policies[at])
    }

    /// The state of a drive with regard to its node's: a drive is no better than its node.
    pub fn drive_state(&self, drive: &Drive) -> State {
        let node = self.node(drive.node).map_or(State::Removed, |node| node.state);
        drive.state.max(node)
    }

    /// Whether a node takes no data, and keeps metadata alone: its drives have no size.
    pub fn is_dataless(&self, node: NodeId) -> bool {
        let here = self.drives.iter().filter(|drive| drive.node == node && drive.state < State::Gone);
        let mut sizes = here.map(|drive| drive.size).peekable();
        sizes.peek().is_some() && sizes.all(|size| size == 0)
    }

    /// Members with their labels, as [`Labels::parse`] wants them.
    pub fn labels(&self) -> Vec<(NodeId, &Labels)> {
        let here = self.nodes.iter().filter(|node| node.state != State::Removed);
        here.map(|node| (node.id, &node.labels)).collect()
    }

    /// All drives with their domains; open are those that take pieces of `policy`, or of any policy.
    /// Drives that were removed are not among them.
    pub fn places(&self, policy: Option<&Policy>) -> Places {
        let none = Labels::default();
        let given = self.drives.iter().filter_map(|drive| {
            let state = self.drive_state(drive);
            let labels = self.node(drive.node).map_or(&none, |node| &node.labels);
            let open = state == State::Active && drive.size > 0 && policy.is_none_or(|policy| policy.admits(labels));
            let given = Given { drive: drive.id, weight: (drive.size >> 20).max(1), open, node: drive.node, labels };
            (state != State::Removed).then_some(given)
        });
        Places::new(given)
    }

    /// Drives whose pieces don't count: gone or removed, or those of nodes that are.
    pub fn lost(&self) -> BTreeSet<DriveId> {
        let lost = self.drives.iter().filter(|drive| self.drive_state(drive) >= State::Gone);
        lost.map(|drive| drive.id).collect()
    }

    /// Drives of these nodes.
    pub fn drives_of(&self, nodes: &BTreeSet<NodeId>) -> BTreeSet<DriveId> {
        self.drives.iter().filter(|drive| nodes.contains(&drive.node)).map(|drive| drive.id).collect()
    }

    /// What all data survives, if besides those lost the drives in `down` hold nothing now.
    pub fn survives(&self, down: &BTreeSet<DriveId>) -> Survival {
        let mut lost = self.lost();
        lost.extend(down);
        let tables = self.policies.iter().map(|policy| (policy.m, policy.groups.as_slice()));
        survive::survives(tables, &self.places(None), &lost)
    }

    /// Whether a policy could be met by this cluster, or what would work.
    pub fn check_policy(&self, policy: &Policy, codes: &[(u8, u8)]) -> Result<Caps, PolicyError> {
        let here = self.nodes.iter().filter(|node| node.state == State::Active);
        let here: Vec<&Labels> = here.map(|node| &node.labels).collect();
        for (label, value) in &policy.within {
            labels::known_value(*label, value, here.iter().copied()).map_err(PolicyError::Label)?;
        }
        Ok(Caps::check(&self.places(Some(policy)), &policy.spec(), codes)?)
    }

    /// Whether everything in it fits together. The decoder demands it; whoever builds a map should too.
    pub fn check(&self) -> Result<(), Error> {
        let fail = |what: String| Err(Error::Inconsistent(what));
        if !self.nodes.is_sorted_by(|a, b| a.id < b.id) {
            return fail("its nodes are not sorted, or one is there twice".into());
        }
        let mut keys = BTreeMap::new();
        for node in &self.nodes {
            if let Some(other) = keys.insert(node.key, node.id) {
                return fail(format!("nodes {other} and {} have the same key", node.id));
            }
        }
        if !self.drives.is_sorted_by(|a, b| a.id < b.id) {
            return fail("its drives are not sorted, or one is there twice".into());
        }
        if !self.policies.is_sorted_by(|a, b| a.id < b.id) {
            return fail("its policies are not sorted, or one is there twice".into());
        }
        if let Some(drive) = self.drives.iter().find(|drive| self.node(drive.node).is_none()) {
            return fail(format!("drive {} is on node {}, which is not in it", drive.id, drive.node));
        }
        self.policies.iter().try_for_each(check_policy_rows)
    }

    /// Whether this map may replace `known`.
    pub fn follows(&self, known: &Map) -> Result<(), Error> {
        if self.cluster != known.cluster {
            return Err(Error::Cluster { found: self.cluster, wanted: known.cluster });
        }
        if self == known {
            return Ok(());
        }
        let forked = self.epoch == known.epoch
            || (self.epoch.0 == known.epoch.0.saturating_add(1) && self.previous != known.hash());
        match self.epoch.cmp(&known.epoch) {
            std::cmp::Ordering::Less => Err(Error::Stale { found: self.epoch, known: known.epoch }),
            _ if forked => Err(Error::Forked { epoch: self.epoch }),
            _ => Ok(()),
        }
    }

    /// A copy to change, as the next epoch.
    pub fn next(&self, now: Wall) -> Map {
        let epoch = Epoch(self.epoch.0.saturating_add(1));
        Map { epoch, previous: self.hash(), made: now, ..self.clone() }
    }

    /// Signs it, if others will be able to read it: what is handed out can't be taken back.
    pub fn sign(&self, key: &SigningKey) -> Result<SignedMap, Error> {
        self.check()?;
        let bytes = self.encode();
        if bytes.len() > MAP_BYTES_MAX {
            return Err(Error::Inconsistent(format!("it has {} bytes, more than {MAP_BYTES_MAX}", bytes.len())));
        }
        if Map::decode(&bytes)? != *self {
            return Err(Error::Inconsistent("it isn't read back as it was written".into()));
        }
        let signature = key.sign_as(CONTEXT, &crypt::hash(&bytes));
        Ok(SignedMap { signer: key.public(), signature, bytes })
    }
}

/// Why a policy is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It names a label that nobody has.
    #[error("{0}")]
    Label(String),
    /// It needs more than there is.
    #[error(transparent)]
    Unmet(#[from] Unmet),
}

impl Kinded for PolicyError {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

fn check_policy_rows(policy: &Policy) -> Result<(), Error> {
    let n = usize::from(policy.k) + usize::from(policy.m);
    let fail = |what: String| Err(Error::Inconsistent(format!("policy {}: {what}", policy.id)));
    if policy.k == 0 || n > base::limits::CODE_PIECES_MAX || policy.ack < policy.k || usize::from(policy.ack) > n {
        return fail(format!("{}+{} with {} to acknowledge is no code", policy.k, policy.m, policy.ack));
    }
    if !policy.groups.is_sorted_by(|a, b| a.group < b.group) {
        return fail("its groups are not sorted, or one is there twice".into());
    }
    for row in &policy.groups {
        if row.members.len() != n || row.from.len() != n {
            return fail(format!("group {} has {} drives, not {n}", row.group, row.members.len()));
        }
        let mut sorted = row.members.clone();
        sorted.sort_unstable();
        if !sorted.is_sorted_by(|a, b| a < b) {
            return fail(format!("group {} has a drive twice", row.group));
        }
    }
    Ok(())
}

/// A map as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedMap {
    /// Who signed: the public half of the cluster's root signing key.
    pub signer: PublicKey,
    /// Over the hash of the bytes.
    pub signature: [u8; SIGNATURE_BYTES],
    /// The map's encoding.
    pub bytes: Vec<u8>,
}

impl SignedMap {
    /// The map, if `trusted` signed it and it is sound. Nothing of it is looked at before.
    pub fn open(&self, trusted: PublicKey) -> Result<Map, Error> {
        if self.signer != trusted {
            return Err(Error::Signer { signer: self.signer, wanted: trusted });
        }
        if !trusted.verify_as(CONTEXT, &crypt::hash(&self.bytes), &self.signature) {
            return Err(Error::Signature);
        }
        let map = Map::decode(&self.bytes)?;
        map.check()?;
        Ok(map)
    }
}

/// By drive, how many groups of all policies it is in.
pub fn positions(map: &Map) -> BTreeMap<DriveId, u64> {
    let mut positions = BTreeMap::new();
    for drive in map.policies.iter().flat_map(|policy| &policy.groups).flat_map(|row| &row.members) {
        *positions.entry(*drive).or_insert(0) += 1;
    }
    positions
}
