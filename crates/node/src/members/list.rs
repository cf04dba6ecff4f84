//! The member list in the rows, and the one place where its epoch is raised.

use base::kv::{Batch, View};
use base::{ClusterId, Epoch, NodeId};
use codec::Versioned;
use crypt::{PublicKey, RootKey};
use namespace::catalog::{self, NodeRow, NodeState};
use wire::{MEMBERS_MAX, Member, MemberList};

use super::answer::{CONTACTS_MAX, Contact};
use super::{Error, Result};

/// Nodes that a list remembers as expunged at the most: what its decoder takes (`wire`).
const EXPUNGED_MAX: usize = 100_000;
/// Rows read in one step.
const STEP: usize = 1000;

/// The member list in force, if the store has one; checked against the root's public key.
pub fn member_list(view: &dyn View, root: &PublicKey) -> Result<Option<MemberList>> {
    let Some(bytes) = catalog::member_list(view)? else { return Ok(None) };
    let list = MemberList::decode(&bytes)?;
    list.verify(root, list.cluster).map_err(Error::Root)?;
    Ok(Some(list))
}

/// The list to be, as a rule changes it.
pub(super) struct Draft {
    cluster: ClusterId,
    pub epoch: Epoch,
    pub members: Vec<Member>,
    pub expunged: Vec<NodeId>,
}

impl Draft {
    /// The first list of a store.
    pub fn first(cluster: ClusterId) -> Self {
        Self { cluster, epoch: Epoch(1), members: Vec::new(), expunged: Vec::new() }
    }

    /// The list that follows this one. Nowhere else an epoch is raised.
    pub fn after(list: &MemberList) -> Self {
        let (members, expunged) = (list.members().to_vec(), list.expunged().to_vec());
        Self { cluster: list.cluster, epoch: Epoch(list.epoch.0 + 1), members, expunged }
    }

    /// The member of this id.
    pub fn member(&mut self, node: NodeId) -> Result<&mut Member> {
        self.members.iter_mut().find(|member| member.node == node).ok_or(Error::NoNode { node })
    }

    /// Takes a node off the list.
    pub fn remove(&mut self, node: NodeId) {
        self.members.retain(|member| member.node != node);
    }

    /// Signs the list and writes its row.
    pub fn sign(self, root: &RootKey, batch: &mut Batch) -> Result<MemberList> {
        for (what, count, max) in
            [("members", self.members.len(), MEMBERS_MAX), ("expunged nodes", self.expunged.len(), EXPUNGED_MAX)]
        {
            if count > max {
                return Err(Error::Full { what, count: max });
            }
        }
        let list = MemberList::sign(&root.signing_key(), self.cluster, self.epoch, self.members, self.expunged);
        add(batch, catalog::put_member_list(&list.encode()));
        Ok(list)
    }
}

/// Adds to a batch what touches other rows.
pub(super) fn add(batch: &mut Batch, more: Batch) {
    batch.puts.extend(more.puts);
    batch.dels.extend(more.dels);
    batch.range_dels.extend(more.range_dels);
    batch.events.extend(more.events);
}

/// All nodes' rows by id, whatever their state.
pub fn all_nodes(view: &dyn View) -> Result<Vec<NodeRow>> {
    let mut all: Vec<NodeRow> = Vec::new();
    loop {
        let some = catalog::nodes(view, all.last().map(|row| row.id), STEP)?;
        let is_end = some.len() < STEP;
        all.extend(some);
        if is_end {
            return Ok(all);
        }
    }
}

/// Members to turn to, for `node`: those whose ids follow its own, so that not all turn to the same.
pub fn contacts(view: &dyn View, node: NodeId) -> Result<Vec<Contact>> {
    let mut rows = all_nodes(view)?;
    let first = rows.partition_point(|row| row.id <= node);
    rows.rotate_left(first);
    let wanted = |row: &NodeRow| row.id != node && row.state != NodeState::Removed && !row.addresses.is_empty();
    let contact = |row: NodeRow| Contact { node: row.id, addresses: row.addresses };
    Ok(rows.into_iter().filter(wanted).take(CONTACTS_MAX).map(contact).collect())
}
