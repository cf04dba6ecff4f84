//! What a node keeps of itself, and what a machine that joins keeps until it is one.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{ClusterId, NodeId};
use codec::{Reader, Versioned, Writer};
use crypt::{PublicKey, SigningKey, StoreKeys};
use env::Disk;
use wire::{Certificate, MemberList, TicketId, Trust};
use zeroize::Zeroizing;

use super::answer::{
    Contact, LIST_BYTES_MAX, TOKENS_MAX, Tokens, few, put_contacts, put_tokens, take_certificate, take_contacts,
    take_list, take_tokens,
};
use super::rules::Membership;
use super::{Error, Result};
use crate::private;

/// Bytes of a node file at the most: nearly all of it is the list.
const BYTES_MAX: usize = LIST_BYTES_MAX + (1 << 20);
/// Tickets that a machine goes on with at the most: it rarely has a second one.
const TICKETS_MAX: usize = 4;
/// Characters of a ticket at the most.
const TICKET_BYTES_MAX: usize = 1024;

type Seed = Zeroizing<[u8; 32]>;

/// The name of the file of a cluster's node.
pub fn node_file(cluster: ClusterId) -> String {
    format!("{cluster}.node")
}

/// A node's own file: its key, what it may do and whom it knows. Readable by its owner alone.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeFile {
    seed: Seed,
    next: Option<Seed>,
    /// The root key's word for the node and its key.
    pub certificate: Certificate,
    /// The root's public key: what it signed is believed.
    pub root: PublicKey,
    /// The keys with which the node serves.
    pub keys: StoreKeys,
    /// How often it was started: its incarnation.
    pub starts: u64,
    /// The ticket with which it joined; the first node has none.
    pub ticket: Option<TicketId>,
    /// The member list that it learnt last.
    pub list: MemberList,
    /// Nodes to turn to, as learnt last.
    pub contacts: Vec<Contact>,
    /// The shard groups' tokens.
    pub tokens: Tokens,
    /// The shards of which a replica was made here, written before it is first opened, and how often one was begun
    /// anew: what an earlier turn left is never opened again.
    pub turns: Turns,
    /// How often the cluster's metadata was recovered without most of its nodes, as far as known here.
    pub round: u64,
}

/// Of each shard the turn of this node's replica.
pub type Turns = BTreeMap<u32, u32>;

impl fmt::Debug for NodeFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (node, serial, epoch) = (self.node(), self.certificate.serial, self.list.epoch);
        write!(f, "NodeFile({node}, key {serial}, started {} times, list {epoch}, …)", self.starts)
    }
}

impl NodeFile {
    /// Of a new member whose key has this seed.
    pub fn new(seed: [u8; 32], root: PublicKey, keys: StoreKeys, membership: Membership) -> Self {
        let Membership { certificate, list } = membership;
        let (seed, contacts, tokens) = (Zeroizing::new(seed), Vec::new(), Tokens::new());
        let (turns, round) = (Turns::new(), 0);
        Self {
            seed,
            next: None,
            certificate,
            root,
            keys,
            starts: 0,
            ticket: None,
            list,
            contacts,
            tokens,
            turns,
            round,
        }
    }

    /// The node.
    pub fn node(&self) -> NodeId {
        self.certificate.node
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.certificate.cluster
    }

    /// The node's key.
    pub fn signing_key(&self) -> Arc<SigningKey> {
        Arc::new(SigningKey::from_seed(&self.seed))
    }

    /// What the node shows to others.
    pub fn identity(&self) -> transport::Identity {
        transport::Identity { node: self.node(), key: self.signing_key(), certificate: Some(self.certificate.clone()) }
    }

    /// What the node believes of the membership until it learns more.
    pub fn trust(&self) -> Result<Trust> {
        Trust::new(self.root, self.cluster(), self.list.clone()).map_err(Error::Root)
    }

    /// Takes a newer list; says whether it was newer.
    pub fn learn_list(&mut self, list: MemberList) -> Result<bool> {
        list.verify(&self.root, self.cluster()).map_err(Error::Root)?;
        let is_newer = list.epoch > self.list.epoch;
        if is_newer {
            self.list = list;
        }
        Ok(is_newer)
    }

    /// Begins to replace the node's key. The public half goes to [`super::rotate_key`] once the file is
    /// written: a key that the cluster knows and the node doesn't would shut it out.
    pub fn begin_rotation(&mut self, random: [u8; 32]) -> PublicKey {
        let next = self.next.get_or_insert(Zeroizing::new(random));
        SigningKey::from_seed(next).public()
    }

    /// The key that is to follow, if the file says so: a change that was cut short goes on with it.
    pub fn next_key(&self) -> Option<PublicKey> {
        self.next.as_ref().map(|next| SigningKey::from_seed(next).public())
    }

    /// Takes the new key for the node's own; the file must be written before it is shown.
    pub fn finish_rotation(&mut self, membership: Membership) -> Result<()> {
        let Membership { certificate, list } = membership;
        certificate.verify(&self.root, self.cluster()).map_err(Error::Root)?;
        let next = self.next.clone().filter(|next| SigningKey::from_seed(next).public() == certificate.key);
        match next {
            Some(next) if certificate.node == self.node() => {
                (self.seed, self.next, self.certificate) = (next, None, certificate);
                self.learn_list(list).map(drop)
            }
            _ => Err(Error::Answer("the new certificate isn't for this node's next key".into())),
        }
    }

    /// Reads and checks a node's file. Blocks.
    pub fn read(disk: &dyn Disk, path: &Path) -> Result<NodeFile> {
        if !disk.exists(path) {
            return Err(failed(path, "it isn't there: join with a ticket, or put it back"));
        }
        let bytes = private::read(disk, path, BYTES_MAX as u64).map_err(|why| failed(path, why))?;
        let file = NodeFile::decode(&bytes).map_err(|error| failed(path, error.to_string()))?;
        let root = |error: wire::Error| failed(path, error.to_string());
        file.certificate.verify(&file.root, file.cluster()).map_err(root)?;
        file.list.verify(&file.root, file.cluster()).map_err(root)?;
        match file.signing_key().public() == file.certificate.key {
            true => Ok(file),
            false => Err(failed(path, "its key isn't the one of its certificate")),
        }
    }

    /// Writes the file durably, for its owner alone; refuses to replace another node's. Blocks.
    pub fn write(&self, disk: &dyn Disk, path: &Path) -> Result<()> {
        if disk.exists(path)
            && let Ok(old) = NodeFile::read(disk, path)
            && old.node() != self.node()
        {
            return Err(Error::Member { node: old.node(), path: path.to_path_buf() });
        }
        let bytes = Zeroizing::new(self.encode());
        private::write(disk, path, &bytes).map_err(|why| failed(path, why))
    }

    /// Reads the file for a start of the node: the start is counted, durably, so that no two runs have
    /// the same incarnation. Blocks.
    pub fn start(disk: &dyn Disk, path: &Path) -> Result<NodeFile> {
        let mut file = NodeFile::read(disk, path)?;
        file.starts = file.starts.saturating_add(1);
        file.write(disk, path)?;
        Ok(file)
    }
}

pub(super) fn failed(path: &Path, why: impl Into<String>) -> Error {
    Error::File { path: path.to_path_buf(), why: why.into() }
}

/// A body with its checksum: damage is noticed before it is believed.
fn put_checked(to: &mut Writer, body: Writer) {
    let body = Zeroizing::new(body.finish());
    to.bytes(&body).u64(codec::crc64(&body));
}

fn take_checked<'a>(from: &mut Reader<'a>, what: &'static str) -> std::result::Result<Reader<'a>, codec::Error> {
    let body = from.bytes(what, BYTES_MAX)?;
    match from.u64("checksum")? == codec::crc64(body) {
        true => Ok(Reader::new(body)),
        false => Err(codec::Error::Checksum { what }),
    }
}

fn put_turns(to: &mut Writer, turns: &Turns) {
    let len = turns.len().min(TOKENS_MAX);
    to.u16(len as u16);
    for (shard, turn) in turns.iter().take(len) {
        to.u32(*shard).u32(*turn);
    }
}

fn take_turns(from: &mut Reader<'_>) -> std::result::Result<Turns, codec::Error> {
    let len = usize::from(from.u16("turns")?);
    if len > TOKENS_MAX {
        return Err(codec::Error::TooLong { what: "turns", len, max: TOKENS_MAX });
    }
    let mut turns = Turns::new();
    for _ in 0..len {
        let shard = from.u32("shard")?;
        // One order, so that turns have one form and no shard two.
        if turns.last_key_value().is_some_and(|(last, _)| *last >= shard) {
            return Err(codec::Error::Value { what: "order of shards", value: shard.into() });
        }
        turns.insert(shard, from.u32("turn")?);
    }
    Ok(turns)
}

impl Versioned for NodeFile {
    const NAME: &'static str = "node file";
    const MARK: [u8; 4] = *b"AbNf";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        let mut body = Writer::new();
        body.raw(&self.seed[..]).option(self.next.as_ref(), |to, next| {
            to.raw(&next[..]);
        });
        body.bytes(&self.certificate.encode()).raw(&self.root.0).raw(&self.keys.to_bytes()[..]).u64(self.starts);
        body.option(self.ticket, |to, ticket| {
            to.raw(&ticket.0);
        });
        body.bytes(&self.list.encode());
        put_contacts(&mut body, &self.contacts);
        put_tokens(&mut body, &self.tokens);
        put_turns(&mut body, &self.turns);
        body.u64(self.round);
        put_checked(to, body);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> std::result::Result<Self, codec::Error> {
        let mut from = take_checked(from, Self::NAME)?;
        let file = NodeFile {
            seed: Zeroizing::new(from.array("seed")?),
            next: from.option("next seed", |from| Ok(Zeroizing::new(from.array("next seed")?)))?,
            certificate: take_certificate(&mut from)?,
            root: PublicKey(from.array("root key")?),
            keys: StoreKeys::from_bytes(&from.array("store keys")?),
            starts: from.u64("starts")?,
            ticket: from.option("ticket", |from| Ok(TicketId(from.array("ticket")?)))?,
            list: take_list(&mut from)?,
            contacts: take_contacts(&mut from)?,
            tokens: take_tokens(&mut from)?,
            turns: take_turns(&mut from)?,
            round: from.u64("round")?,
        };
        from.end(Self::NAME)?;
        Ok(file)
    }
}

/// What a machine keeps before it says anything to the cluster: its key, and the tickets that it was
/// given, newest last. A join that was cut short goes on with them.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct JoinFile {
    pub seed: Seed,
    pub tickets: Vec<String>,
}

impl JoinFile {
    /// Where it is kept.
    pub fn path(home: &Path, cluster: ClusterId) -> PathBuf {
        home.join(format!("{cluster}.joining"))
    }

    pub fn key(&self) -> Arc<SigningKey> {
        Arc::new(SigningKey::from_seed(&self.seed))
    }

    /// Adds a ticket, as the newest one; the oldest are forgotten.
    pub fn add(&mut self, ticket: String) {
        self.tickets.retain(|old| *old != ticket);
        self.tickets.push(ticket);
        let more = self.tickets.len().saturating_sub(TICKETS_MAX);
        self.tickets.drain(..more);
    }

    pub fn read(disk: &dyn Disk, path: &Path) -> Result<JoinFile> {
        let bytes = private::read(disk, path, BYTES_MAX as u64).map_err(|why| failed(path, why))?;
        JoinFile::decode(&bytes).map_err(|error| {
            failed(path, format!("{error}; remove it, and the machine joins with another key and a new ticket"))
        })
    }

    pub fn write(&self, disk: &dyn Disk, path: &Path) -> Result<()> {
        let bytes = Zeroizing::new(self.encode());
        private::write(disk, path, &bytes).map_err(|why| failed(path, why))
    }
}

impl Versioned for JoinFile {
    const NAME: &'static str = "file of a join";
    const MARK: [u8; 4] = *b"AbJf";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        let mut body = Writer::new();
        body.raw(&self.seed[..]).u8(self.tickets.len() as u8);
        for ticket in &self.tickets {
            body.str(ticket);
        }
        put_checked(to, body);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> std::result::Result<Self, codec::Error> {
        let mut from = take_checked(from, Self::NAME)?;
        let seed = Zeroizing::new(from.array("seed")?);
        let ticket = |from: &mut Reader<'_>| from.str("ticket", TICKET_BYTES_MAX).map(str::to_owned);
        let tickets = few(&mut from, "tickets", TICKETS_MAX, ticket)?;
        from.end(Self::NAME)?;
        Ok(JoinFile { seed, tickets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_join_reads_back_and_keeps_the_newest_tickets() {
        let tickets = vec!["abide-join-one".to_owned(), "abide-join-two".to_owned()];
        let mut file = JoinFile { seed: Zeroizing::new([1; 32]), tickets };
        let bytes = file.encode();
        assert_eq!(base::ids::hex(&bytes), include_str!("../../tests/join-file-v1.txt").trim());
        assert!(JoinFile::decode(&bytes).unwrap() == file);
        for at in 0..bytes.len() {
            assert!(JoinFile::decode(&bytes[..at]).is_err(), "cut at {at}");
            let mut wrong = bytes.clone();
            wrong[at] ^= 0x20;
            assert!(JoinFile::decode(&wrong).is_err(), "changed at {at}");
        }
        for ticket in ["a", "b", "c", "abide-join-two"] {
            file.add(ticket.to_owned());
        }
        assert_eq!(file.tickets, ["a", "b", "c", "abide-join-two"]);
    }
}
