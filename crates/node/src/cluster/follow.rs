//! What this node does when the catalog changes, whoever changed it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::{DriveId, Epoch, NodeId, Seq};
use codec::Versioned;
use metastore::ShardStore;
use namespace::catalog::{self, DriveRow, DriveState, NodeRow, NodeState};
use wire::MemberList;

use super::Cluster;
use super::grow::shards;
use super::plan::{Plan, plan};
use crate::error::Result;
use crate::members::{self, Contact};
use crate::node::{Inner, SYSTEM};

/// How often it is looked whether the catalog changed.
const EVERY: Duration = Duration::from_millis(100);
/// What failed is tried again after this long, even if nothing changed.
const AGAIN: Duration = Duration::from_secs(2);

/// What the catalog says that concerns this.
struct Seen {
    nodes: Vec<NodeRow>,
    drives: Vec<DriveRow>,
    list: Option<Vec<u8>>,
    plans: Vec<(u32, Option<Plan>)>,
}

/// Follows the catalog until the node is closed.
pub(crate) async fn follow(inner: Arc<Inner>) {
    let mut at: Option<(Epoch, Seq)> = None;
    let mut again = inner.env.clock.now();
    while inner.pause(EVERY).await {
        let now = inner.env.clock.now();
        let position =
            inner.shards.get(SYSTEM).and_then(|shard| shard.replica()).map(|replica| replica.rows().position());
        if position.is_none() || (position == at && now < again) {
            continue;
        }
        match inner.take_catalog(position != at).await {
            Ok(()) => (at, again) = (position, now + AGAIN * 30),
            Err(error) => {
                tracing::debug!(%error, "the catalog can't be followed: trying again");
                (at, again) = (position, now + AGAIN);
            }
        }
    }
}

impl Inner {
    /// Makes this node what the catalog says.
    async fn take_catalog(self: &Arc<Self>, is_new: bool) -> Result<()> {
        let Some(cluster) = self.cluster.get() else { return Ok(()) };
        let seen = self.look(|view| {
            Ok(Seen {
                nodes: catalog::nodes(view, None, usize::from(u16::MAX))?,
                drives: catalog::drives(view, None, usize::from(u16::MAX))?,
                list: catalog::member_list(view)?,
                plans: shards(view)?
                    .into_iter()
                    .map(|shard| Ok((shard, plan(view, shard)?)))
                    .collect::<std::result::Result<_, namespace::Error>>()?,
            })
        })?;
        if is_new {
            self.client.catalog_changed();
            self.learn_owners();
            self.wake.notify_one();
        }
        self.take_list(cluster, &seen).await?;
        take_nodes(cluster, &seen).await;
        self.take_drives(cluster, &seen.drives);
        let known = cluster.kept().tokens;
        for (number, plan) in seen.plans {
            self.learn_shard(number);
            let Some(plan) = plan else { continue };
            // A founder that is alone may begin again, with another token.
            let is_founded = plan.nodes.len() > 1;
            cluster.set_holders(number, plan.nodes);
            if is_founded && !known.contains_key(&number) {
                self.keep(|kept| _ = kept.tokens.entry(number).or_insert(plan.token)).await?;
            }
        }
        Ok(())
    }

    /// Believes the newest member list, and remembers it for the next start.
    async fn take_list(&self, cluster: &Cluster, seen: &Seen) -> Result<()> {
        let Some(bytes) = &seen.list else { return Ok(()) };
        let list = MemberList::decode(bytes)?;
        let contacts: Vec<Contact> = seen
            .nodes
            .iter()
            .filter(|row| row.id != cluster.me && row.state != NodeState::Removed)
            .map(|row| Contact { node: row.id, addresses: row.addresses.clone() })
            .take(members::CONTACTS_MAX)
            .collect();
        cluster.endpoint.install(list.clone()).map_err(members::Error::Root)?;
        self.change_file(move |file| {
            // It was verified a moment ago.
            let _ = file.learn_list(list);
            if !contacts.is_empty() {
                file.contacts = contacts;
            }
        })
        .await
    }

    /// Knows the drives of other nodes by what the catalog says of them.
    fn take_drives(&self, cluster: &Cluster, rows: &[DriveRow]) {
        let there: BTreeMap<DriveId, NodeId> = rows
            .iter()
            .filter(|row| row.state != DriveState::Removed && !self.is_mine(row))
            .filter_map(|row| Some((row.id, row.node?)))
            .collect();
        for (drive, _) in cluster.remotes.all() {
            if !there.contains_key(&drive) {
                cluster.remotes.remove(drive);
            }
        }
        there.into_iter().for_each(|(drive, node)| cluster.remotes.set(drive, node));
    }
}

/// Knows where nodes are, and which of them count.
async fn take_nodes(cluster: &Cluster, seen: &Seen) {
    let mut alive = BTreeMap::new();
    for row in &seen.nodes {
        if row.id == cluster.me || row.state == NodeState::Removed {
            continue;
        }
        alive.insert(row.id, row.state == NodeState::Gone);
        if !row.addresses.is_empty() {
            cluster.directory.set(row.id, row.addresses.clone());
        }
    }
    cluster.liveness.set_nodes(alive).await;
}
