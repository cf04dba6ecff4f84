//! What a machine that joins says, and is told: docs/formats/node.md.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use base::{ClusterId, NodeId};
use codec::{Error, Reader, Versioned, Writer};
use crypt::StoreKeys;
use namespace::catalog::NODE_ADDRESSES_MAX;
use wire::{Certificate, MemberList};

/// Labels that a machine may give at the most; there are five kinds.
const LABELS_MAX: usize = 16;
/// Bytes of a label, a name or an address at the most.
const TEXT_BYTES_MAX: usize = 255;
/// Nodes at the most that a new one is told of: enough to find one that lives.
pub const CONTACTS_MAX: usize = 32;
/// Shard groups at the most: few groups serve many volumes.
pub const TOKENS_MAX: usize = 4096;
const CERTIFICATE_BYTES_MAX: usize = 512;
/// Bytes of a member list at the most: 10,000 members and 100,000 expunged nodes.
pub(crate) const LIST_BYTES_MAX: usize = 3 << 20;

/// The tokens of the shards' groups: who doesn't know a group's token isn't listened to there.
pub type Tokens = BTreeMap<u32, [u8; 16]>;

/// What a machine says of itself when it joins. Its key is known from TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinAsk {
    /// The versions of the protocol that it speaks.
    pub versions: RangeInclusive<u16>,
    /// Where it listens, the best first. An unspecified IP (`0.0.0.0`) stands for the one that it
    /// is seen to come from.
    pub addresses: Vec<SocketAddr>,
    /// Its labels as its owner wrote them: `site=office`, `site=ofice!`.
    pub labels: Vec<String>,
    /// Its name, for people.
    pub name: String,
}

impl JoinAsk {
    /// Puts the address that the machine comes from in the place of unspecified ones; each address
    /// stays once.
    pub fn seen_from(&mut self, ip: IpAddr) {
        let mut known = Vec::new();
        for mut address in std::mem::take(&mut self.addresses) {
            if address.ip().is_unspecified() {
                address.set_ip(ip.to_canonical());
            }
            if !known.contains(&address) {
                known.push(address);
            }
        }
        self.addresses = known;
    }

    /// Whether it can be said: it would not be understood otherwise.
    pub fn check(&self) -> Result<(), Error> {
        let (len, max) = (self.addresses.len().max(self.labels.len()), NODE_ADDRESSES_MAX.min(LABELS_MAX));
        // A count that doesn't fit its byte would be read as another one.
        if len > max {
            return Err(Error::TooLong { what: "addresses or labels", len, max });
        }
        JoinAsk::decode(&self.encode()).map(drop)
    }
}

/// A node, and where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// The node.
    pub node: NodeId,
    /// Its addresses, the best first.
    pub addresses: Vec<SocketAddr>,
}

/// All that a new member needs to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinAnswer {
    /// The root key's word for it.
    pub certificate: Certificate,
    /// All members.
    pub list: MemberList,
    /// The keys of the store: secret.
    pub keys: StoreKeys,
    /// Nodes to turn to.
    pub contacts: Vec<Contact>,
    /// The shard groups' tokens.
    pub tokens: Tokens,
}

impl JoinAnswer {
    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.certificate.cluster
    }
}

pub(super) fn put_addresses(to: &mut Writer, addresses: &[SocketAddr]) {
    // What could not be read back is left out: the best come first.
    let addresses = &addresses[..addresses.len().min(NODE_ADDRESSES_MAX)];
    to.u8(addresses.len() as u8);
    for address in addresses {
        to.str(&address.to_string());
    }
}

fn take_addresses(from: &mut Reader<'_>) -> Result<Vec<SocketAddr>, Error> {
    let one = |from: &mut Reader<'_>| {
        let text = from.str("address", TEXT_BYTES_MAX)?;
        text.parse().map_err(|_| Error::Value { what: "address", value: text.len() as u64 })
    };
    few(from, "addresses", NODE_ADDRESSES_MAX, one)
}

/// A u8 count of at most `max`, then so many.
pub(super) fn few<T>(
    from: &mut Reader<'_>,
    what: &'static str,
    max: usize,
    mut read: impl FnMut(&mut Reader<'_>) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    let len = usize::from(from.u8(what)?);
    if len > max {
        return Err(Error::TooLong { what, len, max });
    }
    (0..len).map(|_| read(from)).collect()
}

pub(super) fn put_contacts(to: &mut Writer, contacts: &[Contact]) {
    let contacts = &contacts[..contacts.len().min(CONTACTS_MAX)];
    to.u8(contacts.len() as u8);
    for contact in contacts {
        put_addresses(to.raw(&contact.node.0), &contact.addresses);
    }
}

pub(super) fn take_contacts(from: &mut Reader<'_>) -> Result<Vec<Contact>, Error> {
    few(from, "contacts", CONTACTS_MAX, |from| {
        Ok(Contact { node: NodeId(from.array("contact")?), addresses: take_addresses(from)? })
    })
}

pub(crate) fn put_tokens(to: &mut Writer, tokens: &Tokens) {
    let len = tokens.len().min(TOKENS_MAX);
    to.u16(len as u16);
    for (shard, token) in tokens.iter().take(len) {
        to.u32(*shard).raw(token);
    }
}

pub(crate) fn take_tokens(from: &mut Reader<'_>) -> Result<Tokens, Error> {
    let len = usize::from(from.u16("tokens")?);
    if len > TOKENS_MAX {
        return Err(Error::TooLong { what: "tokens", len, max: TOKENS_MAX });
    }
    let mut tokens = Tokens::new();
    for _ in 0..len {
        let shard = from.u32("shard")?;
        // One order, so that tokens have one form and no shard two.
        if tokens.last_key_value().is_some_and(|(last, _)| *last >= shard) {
            return Err(Error::Value { what: "order of shards", value: shard.into() });
        }
        tokens.insert(shard, from.array("token")?);
    }
    Ok(tokens)
}

pub(crate) fn take_certificate(from: &mut Reader<'_>) -> Result<Certificate, Error> {
    Certificate::decode(from.bytes("certificate", CERTIFICATE_BYTES_MAX)?)
}

pub(crate) fn take_list(from: &mut Reader<'_>) -> Result<MemberList, Error> {
    MemberList::decode(from.bytes("member list", LIST_BYTES_MAX)?)
}

impl Versioned for JoinAsk {
    const NAME: &'static str = "question of a machine that joins";
    const MARK: [u8; 4] = *b"AbJk";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u16(*self.versions.start()).u16(*self.versions.end());
        put_addresses(to, &self.addresses);
        to.u8(self.labels.len() as u8);
        for label in &self.labels {
            to.str(label);
        }
        to.str(&self.name);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        let (oldest, newest) = (from.u16("oldest version")?, from.u16("newest version")?);
        if oldest > newest {
            return Err(Error::Value { what: "newest version", value: newest.into() });
        }
        let addresses = take_addresses(from)?;
        let labels = few(from, "labels", LABELS_MAX, |from| from.str("label", TEXT_BYTES_MAX).map(str::to_owned))?;
        Ok(JoinAsk { versions: oldest..=newest, addresses, labels, name: from.str("name", TEXT_BYTES_MAX)?.to_owned() })
    }
}

impl Versioned for JoinAnswer {
    const NAME: &'static str = "answer to a machine that joins";
    const MARK: [u8; 4] = *b"AbJa";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.bytes(&self.certificate.encode()).bytes(&self.list.encode()).raw(&self.keys.to_bytes()[..]);
        put_contacts(to, &self.contacts);
        put_tokens(to, &self.tokens);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(JoinAnswer {
            certificate: take_certificate(from)?,
            list: take_list(from)?,
            keys: StoreKeys::from_bytes(&from.array("store keys")?),
            contacts: take_contacts(from)?,
            tokens: take_tokens(from)?,
        })
    }
}
