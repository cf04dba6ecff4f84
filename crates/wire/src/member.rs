//! Membership: what the root key signs.

use base::{ClusterId, Epoch, NodeId};
use codec::{Reader, Versioned, Writer};
use crypt::{PublicKey, SIGNATURE_BYTES, SigningKey};

use crate::Error;

/// Nodes of one cluster at the most: one list is then about a megabyte.
pub const MEMBERS_MAX: usize = 10_000;
/// Expunged nodes that a list remembers.
const EXPUNGED_MAX: usize = 100_000;
/// What a certificate's signature is bound to.
const CERTIFICATE_CONTEXT: &str = "abide 2026 membership v1";
/// What a list's signature is bound to.
const LIST_CONTEXT: &str = "abide 2026 member list v1";

/// The root key's word that a node belongs to the cluster. It never expires: clocks may be years
/// off; a newer [`MemberList`] without the node takes it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// Its key.
    pub key: PublicKey,
    /// Which of the node's keys this is, counted from 1.
    pub serial: u32,
    /// The first member list that has the node with this key.
    pub epoch: Epoch,
    signature: [u8; SIGNATURE_BYTES],
}

impl Certificate {
    /// Signs a node in.
    pub fn sign(
        root: &SigningKey,
        cluster: ClusterId,
        node: NodeId,
        key: PublicKey,
        serial: u32,
        epoch: Epoch,
    ) -> Certificate {
        let mut certificate = Certificate { cluster, node, key, serial, epoch, signature: [0; SIGNATURE_BYTES] };
        certificate.signature = root.sign_as(CERTIFICATE_CONTEXT, &certificate.signed());
        certificate
    }

    /// Succeeds if `root` signed it for `cluster`.
    pub fn verify(&self, root: &PublicKey, cluster: ClusterId) -> Result<(), Error> {
        if self.cluster != cluster {
            return Err(Error::OtherCluster { what: "the membership certificate" });
        }
        if !root.verify_as(CERTIFICATE_CONTEXT, &self.signed(), &self.signature) {
            return Err(Error::Signature { what: "the membership certificate" });
        }
        Ok(())
    }

    fn signed(&self) -> Vec<u8> {
        let mut to = Writer::new();
        self.fields(&mut to);
        to.finish()
    }

    fn fields(&self, to: &mut Writer) {
        to.raw(&self.cluster.0).raw(&self.node.0).raw(&self.key.0).u32(self.serial).u64(self.epoch.0);
    }
}

impl Versioned for Certificate {
    const NAME: &'static str = "membership certificate";
    const MARK: [u8; 4] = *b"AbMc";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        self.fields(to);
        to.raw(&self.signature);
    }

    fn decode_body(_version: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        Ok(Certificate {
            cluster: ClusterId(from.array("cluster")?),
            node: NodeId(from.array("node")?),
            key: PublicKey(from.array("key")?),
            serial: from.u32("serial")?,
            epoch: Epoch(from.u64("epoch")?),
            signature: from.array("signature")?,
        })
    }
}

/// A node in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Which of its keys `key` is, counted from 1.
    pub serial: u32,
    /// Its key.
    pub key: PublicKey,
    /// The key before, for as long as the node may still use it.
    pub previous: Option<PublicKey>,
}

/// All members at one epoch, signed. The highest epoch that a node has heard of counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberList {
    /// The cluster.
    pub cluster: ClusterId,
    /// Raised with every change.
    pub epoch: Epoch,
    members: Vec<Member>,
    expunged: Vec<NodeId>,
    signature: [u8; SIGNATURE_BYTES],
}

impl MemberList {
    /// Signs a list; sorts it by node. A node given twice stays once.
    pub fn sign(
        root: &SigningKey,
        cluster: ClusterId,
        epoch: Epoch,
        mut members: Vec<Member>,
        mut expunged: Vec<NodeId>,
    ) -> MemberList {
        members.sort_by_key(|member| member.node);
        members.dedup_by_key(|member| member.node);
        expunged.sort();
        expunged.dedup();
        let mut list = MemberList { cluster, epoch, members, expunged, signature: [0; SIGNATURE_BYTES] };
        list.signature = root.sign_as(LIST_CONTEXT, &list.signed());
        list
    }

    /// Succeeds if `root` signed it for `cluster`.
    pub fn verify(&self, root: &PublicKey, cluster: ClusterId) -> Result<(), Error> {
        if self.cluster != cluster {
            return Err(Error::OtherCluster { what: "the member list" });
        }
        if !root.verify_as(LIST_CONTEXT, &self.signed(), &self.signature) {
            return Err(Error::Signature { what: "the member list" });
        }
        Ok(())
    }

    /// The members in the order of their ids.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The nodes that were declared gone for ever, in the order of their ids.
    pub fn expunged(&self) -> &[NodeId] {
        &self.expunged
    }

    /// A member.
    pub fn get(&self, node: NodeId) -> Option<&Member> {
        self.members.binary_search_by_key(&node, |member| member.node).ok().map(|at| &self.members[at])
    }

    /// Whether the node was declared gone for ever.
    pub fn is_expunged(&self, node: NodeId) -> bool {
        self.expunged.binary_search(&node).is_ok()
    }

    fn signed(&self) -> Vec<u8> {
        let mut to = Writer::new();
        self.fields(&mut to);
        to.finish()
    }

    fn fields(&self, to: &mut Writer) {
        to.raw(&self.cluster.0).u64(self.epoch.0).u32(self.members.len() as u32);
        for member in &self.members {
            to.raw(&member.node.0).u32(member.serial).raw(&member.key.0).option(member.previous, |to, key| {
                to.raw(&key.0);
            });
        }
        to.u32(self.expunged.len() as u32);
        for node in &self.expunged {
            to.raw(&node.0);
        }
    }
}

/// A count of at most `max` things of at least `each` bytes, so many as can be there at all.
fn count(from: &mut Reader<'_>, what: &'static str, max: usize, each: usize) -> Result<usize, codec::Error> {
    let len = from.u32(what)? as usize;
    if len > max {
        return Err(codec::Error::TooLong { what, len, max });
    }
    match len.saturating_mul(each) {
        need if need > from.left() => Err(codec::Error::Short { what, need, have: from.left() }),
        _ => Ok(len),
    }
}

fn ascending<T: Ord>(what: &'static str, items: &[T]) -> Result<(), codec::Error> {
    match items.windows(2).position(|pair| pair[0] >= pair[1]) {
        None => Ok(()),
        // One order, so that a list has one form and a node can't be in it twice.
        Some(at) => Err(codec::Error::Value { what, value: at as u64 + 1 }),
    }
}

impl Versioned for MemberList {
    const NAME: &'static str = "member list";
    const MARK: [u8; 4] = *b"AbMl";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        self.fields(to);
        to.raw(&self.signature);
    }

    fn decode_body(_version: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        let cluster = ClusterId(from.array("cluster")?);
        let epoch = Epoch(from.u64("epoch")?);
        let len = count(from, "members", MEMBERS_MAX, 53)?;
        let mut members = Vec::with_capacity(len);
        for _ in 0..len {
            members.push(Member {
                node: NodeId(from.array("node")?),
                serial: from.u32("serial")?,
                key: PublicKey(from.array("key")?),
                previous: from.option("previous key", |from| Ok(PublicKey(from.array("previous key")?)))?,
            });
        }
        ascending("order of members", &members.iter().map(|member| member.node).collect::<Vec<_>>())?;
        let len = count(from, "expunged", EXPUNGED_MAX, 16)?;
        let mut expunged = Vec::with_capacity(len);
        for _ in 0..len {
            expunged.push(NodeId(from.array("node")?));
        }
        ascending("order of expunged", &expunged)?;
        Ok(MemberList { cluster, epoch, members, expunged, signature: from.array("signature")? })
    }
}
