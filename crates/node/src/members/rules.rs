//! Who comes, goes and changes its key: rows in, a batch out. Each rule may be repeated.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use base::kv::{Batch, View};
use base::{ClusterId, Domain, NodeId, Wall};
use crypt::{PublicKey, RootKey};
use namespace::catalog::{self, DriveRow, DriveState, NodeRow, NodeState, TicketRow};
use placement::labels::Labels;
use wire::greet::{VERSIONS, agree};
use wire::{Certificate, Claim, Member, MemberList, Ticket, TicketError, TicketId, node_id};

use super::answer::{JoinAnswer, JoinAsk, Tokens};
use super::file::node_file;
use super::list::{Draft, add, all_nodes, contacts, member_list};
use super::{Error, Result};

/// How long a used ticket is remembered after it expired, so that a join whose answer was lost can
/// be repeated.
const TICKET_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long a ticket can be good: it lies around in mails and shells' histories meanwhile.
const TICKET_VALID_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Rows of drives read in one step.
const STEP: usize = 1000;

/// What makes a node a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The root key's word for it.
    pub certificate: Certificate,
    /// All members.
    pub list: MemberList,
}

/// Makes this machine, which has the root key, the first member of the store; all drives that are on
/// no node yet are its own. Repeated with the same key it changes nothing.
pub fn found(
    view: &dyn View,
    root: &RootKey,
    cluster: ClusterId,
    key: PublicKey,
    ask: &JoinAsk,
    now: Wall,
) -> Result<(Batch, Membership)> {
    if let Some(list) = member_list(view, &root.signing_key().public())? {
        let Some(node) = member_of(&list, &key) else {
            let node_file = node_file(cluster);
            return Err(Error::Founded { members: list.members().len(), node_file });
        };
        let certificate = certificate(root, cluster, &row(view, node)?);
        return Ok((Batch::default(), Membership { certificate, list }));
    }
    let labels = Labels::parse(ask.labels.iter().map(String::as_str), &[])?;
    let mut draft = Draft::first(cluster);
    let new = new_row(&key, 1, &draft, ask, &labels, now);
    draft.members.push(Member { node: new.id, serial: new.serial, key, previous: None });
    let mut batch = catalog::put_node(&new)?;
    for drive in all_drives(view)?.into_iter().filter(|drive| drive.node.is_none()) {
        add(&mut batch, catalog::put_drive(&DriveRow { node: Some(new.id), ..drive }));
    }
    let list = draft.sign(root, &mut batch)?;
    Ok((batch, Membership { certificate: certificate(root, cluster, &new), list }))
}

/// A ticket that lets one machine join within `valid`. `random` names it.
pub fn invite(
    root: &RootKey,
    cluster: ClusterId,
    addresses: &[SocketAddr],
    valid: Duration,
    now: Wall,
    random: [u8; 8],
) -> Result<Ticket> {
    let addresses: Vec<SocketAddr> =
        addresses.iter().filter(|address| !address.ip().is_unspecified() && address.port() != 0).copied().collect();
    if addresses.is_empty() {
        return Err(Error::Invite(
            "a ticket needs an address at which other machines reach this node: name one with --advertise".into(),
        ));
    }
    if valid < Duration::from_secs(1) || valid > TICKET_VALID_MAX {
        return Err(Error::Invite("a ticket can be good for 1 second to 366 days".into()));
    }
    Ok(Ticket::issue(root, cluster, TicketId(random), now + valid, &addresses))
}

/// Signs a machine in that showed the secret of a ticket of this `claim`. The answer has no tokens:
/// they are no rows. The same key with the same ticket gets the same certificate again.
pub fn admit(
    view: &dyn View,
    root: &RootKey,
    key: PublicKey,
    claim: &Claim,
    ask: &JoinAsk,
    now: Wall,
) -> Result<(Batch, JoinAnswer)> {
    let list = member_list(view, &root.signing_key().public())?.ok_or(Error::NotFounded)?;
    if claim.cluster != list.cluster {
        return Err(TicketError::OtherCluster { cluster: claim.cluster }.into());
    }
    let nodes = all_nodes(view)?;
    match catalog::ticket(view, claim.id.0)? {
        Some(used) if used.key != key.0 => return Err(TicketError::Used.into()),
        Some(_) => return admit_again(view, root, &list, &nodes, &key),
        None => {}
    }
    let horizon = catalog::tickets_forgotten(view)?;
    claim.check(list.cluster, now, false)?;
    if claim.expires <= horizon {
        return Err(Error::Forgotten { expires: claim.expires, horizon });
    }
    if agree(&VERSIONS, &ask.versions).is_none() {
        return Err(Error::Versions { theirs: ask.versions.clone(), ours: VERSIONS });
    }
    refuse_known(&list, &nodes, &key)?;
    let labels = parse_labels(&nodes, None, &ask.labels)?;
    let mut draft = Draft::after(&list);
    // It may come back with the key with which it left.
    let serial = nodes.iter().find(|row| row.id == node_id(&key)).map_or(1, |old| old.serial.saturating_add(1));
    let mut new = new_row(&key, serial, &draft, ask, &labels, now);
    new.name = free_name(&nodes, new.id, &ask.name);
    draft.members.push(Member { node: new.id, serial, key, previous: None });
    let mut batch = catalog::put_node(&new)?;
    let kept = Wall(now.0.saturating_sub(TICKET_KEPT.as_millis() as u64));
    add(&mut batch, catalog::forget_tickets(view, kept)?);
    add(&mut batch, catalog::put_ticket(&TicketRow { id: claim.id.0, key: key.0, expires: claim.expires }));
    let list = draft.sign(root, &mut batch)?;
    Ok((batch, answer(view, root, list, &new)?))
}

/// The answer for one whose first answer may have been lost.
fn admit_again(
    view: &dyn View,
    root: &RootKey,
    list: &MemberList,
    nodes: &[NodeRow],
    key: &PublicKey,
) -> Result<(Batch, JoinAnswer)> {
    let node = node_id(key);
    if list.is_expunged(node) {
        return Err(Error::Expunged { node, node_file: node_file(list.cluster) });
    }
    match (list.get(node), nodes.iter().find(|row| row.id == node)) {
        (Some(member), Some(row)) if member.key == *key => {
            Ok((Batch::default(), answer(view, root, list.clone(), row)?))
        }
        (Some(_), _) => Err(Error::OldKey { node }),
        (None, _) => Err(Error::Left { node }),
    }
}

fn answer(view: &dyn View, root: &RootKey, list: MemberList, row: &NodeRow) -> Result<JoinAnswer> {
    Ok(JoinAnswer {
        certificate: certificate(root, list.cluster, row),
        list,
        keys: root.store_keys(),
        contacts: contacts(view, row.id)?,
        tokens: Tokens::new(),
    })
}

/// A key belongs to one node, for ever.
fn refuse_known(list: &MemberList, nodes: &[NodeRow], key: &PublicKey) -> Result<()> {
    let node = node_id(key);
    let expunged = nodes.iter().filter(|row| row.key == key.0).map(|row| row.id).chain([node]);
    if let Some(node) = expunged.into_iter().find(|node| list.is_expunged(*node)) {
        return Err(Error::Expunged { node, node_file: node_file(list.cluster) });
    }
    // By any of a member's keys, its first one included: the id comes from that.
    if let Some(node) = member_of(list, key).or(list.get(node).map(|member| member.node)) {
        let name = nodes.iter().find(|row| row.id == node).map_or(String::new(), |row| row.name.clone());
        return Err(Error::KeyTaken { node, name, node_file: node_file(list.cluster) });
    }
    Ok(())
}

/// Gives a node another key: from now on it may show either, until [`retire_key`]. The node must
/// have the new key on its drive before, and show it once all have heard of it.
pub fn rotate_key(view: &dyn View, root: &RootKey, node: NodeId, key: PublicKey) -> Result<(Batch, Membership)> {
    change_key(view, root, node, key, true)
}

/// Gives a node whose key was lost another one at once: the old one opens nothing any more.
pub fn replace_key(view: &dyn View, root: &RootKey, node: NodeId, key: PublicKey) -> Result<(Batch, Membership)> {
    change_key(view, root, node, key, false)
}

fn change_key(
    view: &dyn View,
    root: &RootKey,
    node: NodeId,
    key: PublicKey,
    keep: bool,
) -> Result<(Batch, Membership)> {
    let list = member_list(view, &root.signing_key().public())?.ok_or(Error::NotFounded)?;
    let cluster = list.cluster;
    let member = list.get(node).ok_or(Error::NoNode { node })?.clone();
    let old = row(view, node)?;
    if member.key == key && (keep || member.previous.is_none()) {
        return Ok((Batch::default(), Membership { certificate: certificate(root, cluster, &old), list }));
    }
    if keep && member.previous.is_some() {
        return Err(Error::Rotating { node });
    }
    if member.key != key {
        refuse_known(&list, &all_nodes(view)?, &key)?;
    }
    let mut draft = Draft::after(&list);
    let serial = member.serial.saturating_add(1);
    let new = NodeRow { key: key.0, serial, since: draft.epoch, ..old };
    *draft.member(node)? = Member { node, serial, key, previous: keep.then_some(member.key) };
    let mut batch = catalog::put_node(&new)?;
    let list = draft.sign(root, &mut batch)?;
    Ok((batch, Membership { certificate: certificate(root, cluster, &new), list }))
}

/// Ends what [`rotate_key`] began: the old key opens nothing any more.
pub fn retire_key(view: &dyn View, root: &RootKey, node: NodeId) -> Result<(Batch, MemberList)> {
    let list = member_list(view, &root.signing_key().public())?.ok_or(Error::NotFounded)?;
    if list.get(node).ok_or(Error::NoNode { node })?.previous.is_none() {
        return Ok((Batch::default(), list));
    }
    let mut draft = Draft::after(&list);
    draft.member(node)?.previous = None;
    let mut batch = Batch::default();
    let list = draft.sign(root, &mut batch)?;
    Ok((batch, list))
}

/// Shuts a node out for ever, and gives up its drives: their pieces are rebuilt elsewhere.
pub fn expunge(view: &dyn View, root: &RootKey, node: NodeId) -> Result<(Batch, MemberList)> {
    let list = member_list(view, &root.signing_key().public())?.ok_or(Error::NotFounded)?;
    let row = row(view, node)?;
    if list.is_expunged(node) {
        return Ok((Batch::default(), list));
    }
    not_the_last(&list, node)?;
    let mut draft = Draft::after(&list);
    draft.remove(node);
    draft.expunged.push(node);
    let mut batch = catalog::put_node(&NodeRow { state: NodeState::Removed, ..row })?;
    for drive in drives_of(view, node)?.into_iter().filter(holds_data) {
        add(&mut batch, catalog::put_drive(&DriveRow { state: DriveState::Gone, ..drive }));
    }
    let list = draft.sign(root, &mut batch)?;
    Ok((batch, list))
}

/// Lets a node go whose drives hold nothing any more. It may join again.
pub fn leave(view: &dyn View, root: &RootKey, node: NodeId) -> Result<(Batch, MemberList)> {
    let list = member_list(view, &root.signing_key().public())?.ok_or(Error::NotFounded)?;
    let row = row(view, node)?;
    if list.get(node).is_none() {
        return Ok((Batch::default(), list));
    }
    not_the_last(&list, node)?;
    let drives = drives_of(view, node)?.iter().filter(|drive| holds_data(drive)).count();
    if drives > 0 {
        return Err(Error::HasDrives { node, drives });
    }
    let mut draft = Draft::after(&list);
    draft.remove(node);
    let mut batch = catalog::put_node(&NodeRow { state: NodeState::Removed, ..row })?;
    let list = draft.sign(root, &mut batch)?;
    Ok((batch, list))
}

/// Notes where a node listens now, and its name. Without a change the batch is empty.
pub fn moved(view: &dyn View, node: NodeId, addresses: &[SocketAddr], name: &str) -> Result<Batch> {
    let old = row(view, node)?;
    let name = free_name(&all_nodes(view)?, node, name);
    let new = NodeRow { addresses: addresses.to_vec(), name, ..old.clone() };
    Ok(if new == old { Batch::default() } else { catalog::put_node(&new)? })
}

/// Gives a node other labels, as its owner wrote them.
pub fn relabel(view: &dyn View, node: NodeId, texts: &[String]) -> Result<Batch> {
    let old = row(view, node)?;
    let labels = parse_labels(&all_nodes(view)?, Some(node), texts)?;
    let new = NodeRow { labels: pairs(&labels), ..old.clone() };
    Ok(if new == old { Batch::default() } else { catalog::put_node(&new)? })
}

/// A node's labels as placement wants them. What no label can be is left out: a later release may
/// know more kinds.
pub fn labels_of(row: &NodeRow) -> Labels {
    let mut labels = Labels::default();
    for (name, value) in &row.labels {
        let label = Domain::LABELS.into_iter().find(|label| label.name() == name);
        if let Some(label) = label {
            let _ = labels.set(label, value);
        }
    }
    labels
}

/// The wanted name, with a number if another node has it: many machines are called alike. A number that a node
/// has it keeps.
fn free_name(nodes: &[NodeRow], own: NodeId, wanted: &str) -> String {
    let others = nodes.iter().filter(|row| row.state != NodeState::Removed && row.id != own);
    let taken: BTreeSet<&str> = others.map(|row| row.name.as_str()).collect();
    let kept = nodes.iter().find(|row| row.id == own).map(|row| row.name.as_str());
    let is_numbered = |name: &str| {
        name.strip_prefix(wanted)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|rest| rest.parse::<u16>().is_ok())
    };
    if let Some(kept) = kept.filter(|name| is_numbered(name) && !taken.contains(name)) {
        return kept.to_owned();
    }
    let numbered = (2..=u16::MAX).map(|number| format!("{wanted}-{number}"));
    let mut names = std::iter::once(wanted.to_owned()).chain(numbered);
    names.find(|name| !taken.contains(name.as_str())).unwrap_or_else(|| wanted.to_owned())
}

fn pairs(labels: &Labels) -> Vec<(String, String)> {
    let pair = |label: Domain| (label.name().to_owned(), labels.get(label).to_owned());
    Domain::LABELS.into_iter().map(pair).filter(|(_, value)| !value.is_empty()).collect()
}

/// The labels that somebody wrote, unless they look like slips beside those of the other nodes.
fn parse_labels(nodes: &[NodeRow], own: Option<NodeId>, texts: &[String]) -> Result<Labels> {
    let others = nodes.iter().filter(|row| row.state != NodeState::Removed && Some(row.id) != own);
    let known: Vec<(NodeId, Labels)> = others.map(|row| (row.id, labels_of(row))).collect();
    let known: Vec<(NodeId, &Labels)> = known.iter().map(|(node, labels)| (*node, labels)).collect();
    Ok(Labels::parse(texts.iter().map(String::as_str), &known)?)
}

fn new_row(key: &PublicKey, serial: u32, draft: &Draft, ask: &JoinAsk, labels: &Labels, now: Wall) -> NodeRow {
    NodeRow {
        id: node_id(key),
        key: key.0,
        serial,
        since: draft.epoch,
        state: NodeState::Active,
        joined: now,
        name: ask.name.clone(),
        addresses: ask.addresses.clone(),
        labels: pairs(labels),
    }
}

fn certificate(root: &RootKey, cluster: ClusterId, row: &NodeRow) -> Certificate {
    Certificate::sign(&root.signing_key(), cluster, row.id, PublicKey(row.key), row.serial, row.since)
}

/// The member with this key, be it the one before.
fn member_of(list: &MemberList, key: &PublicKey) -> Option<NodeId> {
    let has = |member: &&Member| member.key == *key || member.previous == Some(*key);
    list.members().iter().find(has).map(|member| member.node)
}

fn row(view: &dyn View, node: NodeId) -> Result<NodeRow> {
    catalog::node(view, node)?.ok_or(Error::NoNode { node })
}

fn not_the_last(list: &MemberList, node: NodeId) -> Result<()> {
    match list.members() {
        [only] if only.node == node => Err(Error::Last { node }),
        _ => Ok(()),
    }
}

fn holds_data(drive: &DriveRow) -> bool {
    matches!(drive.state, DriveState::Active | DriveState::Draining)
}

fn drives_of(view: &dyn View, node: NodeId) -> Result<Vec<DriveRow>> {
    Ok(all_drives(view)?.into_iter().filter(|drive| drive.node == Some(node)).collect())
}

fn all_drives(view: &dyn View) -> Result<Vec<DriveRow>> {
    let mut all: Vec<DriveRow> = Vec::new();
    loop {
        let some = catalog::drives(view, all.last().map(|drive| drive.id), STEP)?;
        let is_end = some.len() < STEP;
        all.extend(some);
        if is_end {
            return Ok(all);
        }
    }
}
