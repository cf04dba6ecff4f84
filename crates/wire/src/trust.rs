//! What a node believes: which keys are members now.
//!
//! Invariants:
//! 1. A list or certificate that the root key didn't sign changes nothing.
//! 2. A list never gives way to an older one.
//! 3. A certificate counts only where it is newer than the list: a list that could know the node
//!    and doesn't have it has taken it back.

use std::collections::BTreeMap;

use base::{ClusterId, Epoch, NodeId};
use crypt::PublicKey;

use crate::{Certificate, Error, MemberList};

/// Certificates beyond the list that are remembered: nodes that joined since. More are looked at
/// again whenever they come.
const NEWER_MAX: usize = 1024;

/// Why a key isn't taken for a member's. For the log: the peer is told nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody ever signed it in, or the certificate is forged or another key's.
    #[error("it is no member of this cluster")]
    NotMember,
    /// Signed by another cluster's root.
    #[error("it is a member of another cluster")]
    OtherCluster,
    /// It was declared gone for ever.
    #[error("it was expunged")]
    Expunged,
    /// A newer list is without it.
    #[error("it has left the cluster")]
    Left,
    /// The node has another key by now.
    #[error("its key was replaced")]
    OldKey,
}

/// One cluster's members as a node knows them. Cheap to ask; a change makes a new one.
#[derive(Clone, Debug)]
pub struct Trust {
    cluster: ClusterId,
    root: PublicKey,
    list: MemberList,
    by_key: BTreeMap<PublicKey, NodeId>,
    newer: BTreeMap<NodeId, Certificate>,
}

impl Trust {
    /// Trust in what `root` signs, beginning with one list.
    pub fn new(root: PublicKey, cluster: ClusterId, list: MemberList) -> Result<Trust, Error> {
        list.verify(&root, cluster)?;
        let by_key = index(&list);
        Ok(Trust { cluster, root, list, by_key, newer: BTreeMap::new() })
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The key that signs.
    pub fn root(&self) -> PublicKey {
        self.root
    }

    /// The list in force.
    pub fn list(&self) -> &MemberList {
        &self.list
    }

    /// Takes a list if it is newer; says whether it was.
    pub fn install(&mut self, list: MemberList) -> Result<bool, Error> {
        list.verify(&self.root, self.cluster)?;
        if list.epoch <= self.list.epoch {
            return Ok(false);
        }
        self.by_key = index(&list);
        self.newer.retain(|node, certificate| certificate.epoch > list.epoch && !list.is_expunged(*node));
        self.list = list;
        Ok(true)
    }

    /// Whose key this is, if a member's. `certificate` is what the key's holder shows.
    pub fn admit(&self, key: &PublicKey, certificate: Option<&Certificate>) -> Result<NodeId, Refusal> {
        if let Some(node) = self.by_key.get(key) {
            return Ok(*node);
        }
        if let Some(known) = self.newer.values().find(|known| known.key == *key) {
            return self.judge(known);
        }
        let certificate = certificate.filter(|shown| shown.key == *key).ok_or(Refusal::NotMember)?;
        match certificate.verify(&self.root, self.cluster) {
            Ok(()) => self.judge(certificate),
            Err(Error::OtherCluster { .. }) => Err(Refusal::OtherCluster),
            Err(_) => Err(Refusal::NotMember),
        }
    }

    /// What a well-signed certificate is worth beside the list.
    fn judge(&self, certificate: &Certificate) -> Result<NodeId, Refusal> {
        let node = certificate.node;
        if self.list.is_expunged(node) {
            return Err(Refusal::Expunged);
        }
        let listed = self.list.get(node).map(|member| member.serial);
        if listed.is_some_and(|serial| serial >= certificate.serial) {
            return Err(Refusal::OldKey);
        }
        if certificate.epoch <= self.list.epoch {
            return Err(Refusal::Left);
        }
        match self.newer.get(&node) {
            Some(known) if known.serial > certificate.serial => Err(Refusal::OldKey),
            _ => Ok(node),
        }
    }

    /// Whether [`Trust::learn`] would change anything.
    pub fn is_news(&self, certificate: &Certificate) -> bool {
        self.newer.get(&certificate.node) != Some(certificate)
            && !self.by_key.contains_key(&certificate.key)
            && self.admit(&certificate.key, Some(certificate)).is_ok()
    }

    /// Remembers a member that the list doesn't have yet, so that it can be dialled.
    pub fn learn(&mut self, certificate: &Certificate) -> Result<NodeId, Refusal> {
        let node = self.admit(&certificate.key, Some(certificate))?;
        let room = self.newer.len() < NEWER_MAX || self.newer.contains_key(&node);
        if !self.by_key.contains_key(&certificate.key) && room {
            self.newer.insert(node, certificate.clone());
        }
        Ok(node)
    }

    /// The keys by which `node` may show itself, newest first; none if it is no member.
    pub fn keys(&self, node: NodeId) -> Vec<PublicKey> {
        let newer = self.newer.get(&node).filter(|known| self.judge(known).is_ok()).map(|known| known.key);
        let listed = self.list.get(node).into_iter().flat_map(|member| [Some(member.key), member.previous]).flatten();
        newer.into_iter().chain(listed).collect()
    }

    /// The epoch of the list in force.
    pub fn epoch(&self) -> Epoch {
        self.list.epoch
    }
}

fn index(list: &MemberList) -> BTreeMap<PublicKey, NodeId> {
    let mut keys = BTreeMap::new();
    // Expunged nodes are no members, whatever else the list says.
    for member in list.members().iter().filter(|member| !list.is_expunged(member.node)) {
        keys.extend(member.previous.map(|key| (key, member.node)));
        keys.insert(member.key, member.node);
    }
    keys
}

#[cfg(test)]
mod tests {
    use crypt::SigningKey;

    use super::*;
    use crate::{Member, node_id};

    const CLUSTER: ClusterId = ClusterId([7; 16]);

    fn key(seed: u8) -> PublicKey {
        SigningKey::from_seed(&[seed; 32]).public()
    }

    fn root() -> SigningKey {
        SigningKey::from_seed(&[200; 32])
    }

    fn member(seed: u8) -> Member {
        Member { node: node_id(&key(seed)), serial: 1, key: key(seed), previous: None }
    }

    fn list(epoch: u64, members: &[u8], expunged: &[u8]) -> MemberList {
        let members = members.iter().map(|seed| member(*seed)).collect();
        let expunged = expunged.iter().map(|seed| node_id(&key(*seed))).collect();
        MemberList::sign(&root(), CLUSTER, Epoch(epoch), members, expunged)
    }

    fn trust(list: MemberList) -> Trust {
        Trust::new(root().public(), CLUSTER, list).unwrap()
    }

    fn certificate(seed: u8, epoch: u64) -> Certificate {
        Certificate::sign(&root(), CLUSTER, node_id(&key(seed)), key(seed), 1, Epoch(epoch))
    }

    #[test]
    fn members_are_known_by_the_list_and_newer_ones_by_their_certificate() {
        let mut trust = trust(list(3, &[1, 2], &[]));
        assert_eq!(trust.admit(&key(1), None), Ok(node_id(&key(1))));
        assert_eq!(trust.admit(&key(3), None), Err(Refusal::NotMember));
        let newer = certificate(3, 4);
        assert_eq!(trust.admit(&key(3), Some(&newer)), Ok(node_id(&key(3))));
        assert_eq!(trust.keys(node_id(&key(3))), vec![]);
        assert!(trust.is_news(&newer));
        trust.learn(&newer).unwrap();
        assert!(!trust.is_news(&newer));
        assert_eq!(trust.keys(node_id(&key(3))), vec![key(3)]);
        assert_eq!(trust.admit(&key(4), Some(&newer)), Err(Refusal::NotMember), "another's certificate");
    }

    #[test]
    fn a_list_takes_back_what_it_could_know() {
        let mut trust = trust(list(3, &[1, 2], &[]));
        trust.learn(&certificate(3, 4)).unwrap();
        assert_eq!(trust.install(list(4, &[1], &[2])), Ok(true));
        assert_eq!(trust.admit(&key(3), Some(&certificate(3, 4))), Err(Refusal::Left));
        assert_eq!(trust.admit(&key(2), Some(&certificate(2, 1))), Err(Refusal::Expunged));
        assert_eq!(trust.admit(&key(2), Some(&certificate(2, 9))), Err(Refusal::Expunged), "for ever");
        assert_eq!(trust.keys(node_id(&key(2))), vec![]);
        assert_eq!(trust.install(list(3, &[1, 2], &[])), Ok(false), "never an older one");
        assert_eq!(trust.admit(&key(2), None), Err(Refusal::NotMember));
    }

    #[test]
    fn another_root_or_cluster_changes_nothing() {
        let other = SigningKey::from_seed(&[201; 32]);
        let mut trust = trust(list(3, &[1], &[]));
        let forged = MemberList::sign(&other, CLUSTER, Epoch(9), vec![member(9)], vec![]);
        assert!(matches!(trust.install(forged), Err(Error::Signature { .. })));
        let elsewhere = MemberList::sign(&root(), ClusterId([8; 16]), Epoch(9), vec![member(9)], vec![]);
        assert!(matches!(trust.install(elsewhere), Err(Error::OtherCluster { .. })));
        let forged = Certificate::sign(&other, CLUSTER, node_id(&key(9)), key(9), 1, Epoch(9));
        assert_eq!(trust.admit(&key(9), Some(&forged)), Err(Refusal::NotMember));
        let forged = Certificate::sign(&other, ClusterId([8; 16]), node_id(&key(9)), key(9), 1, Epoch(9));
        assert_eq!(trust.admit(&key(9), Some(&forged)), Err(Refusal::OtherCluster));
    }

    #[test]
    fn a_key_is_replaced_without_a_gap() {
        let node = node_id(&key(1));
        let mut trust = trust(list(1, &[1], &[]));
        let rotated = Certificate::sign(&root(), CLUSTER, node, key(5), 2, Epoch(2));
        assert_eq!(trust.admit(&key(5), Some(&rotated)), Ok(node), "before the list says it");
        let both = Member { node, serial: 2, key: key(5), previous: Some(key(1)) };
        trust.install(MemberList::sign(&root(), CLUSTER, Epoch(2), vec![both], vec![])).unwrap();
        assert_eq!(trust.keys(node), vec![key(5), key(1)]);
        assert_eq!((trust.admit(&key(1), None), trust.admit(&key(5), None)), (Ok(node), Ok(node)));
        let new = Member { node, serial: 2, key: key(5), previous: None };
        trust.install(MemberList::sign(&root(), CLUSTER, Epoch(3), vec![new], vec![])).unwrap();
        assert_eq!(trust.admit(&key(1), Some(&certificate(1, 1))), Err(Refusal::OldKey));
    }
}
