//! Who leads how many shards: who leads a shard evaluates all of its changes, so no node should lead two more than
//! another one that could lead them.
//!
//! The lead goes only to a voter of the same site: from another one each change would take longer. Each node looks by
//! itself, gives one shard away at a time, and asks before; two that give to the same node at once put that right later.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::{Domain, NodeId, Standing};
use namespace::catalog;

use super::rounds::ask_leads;
use super::shard::hand_over_to;
use crate::error::Result;
use crate::members::labels_of;
use crate::node::{Inner, SYSTEM};

/// How long a node may take to say how many it leads.
const SAY_MAX: Duration = Duration::from_secs(1);

/// Entries of the log that a node may lack to be given the lead.
const BEHIND_MAX: u64 = 64;

/// Gives shards to nodes that lead fewer, until the node is closed.
pub(crate) async fn keep(inner: Arc<Inner>) {
    let every = inner.settings.even_every;
    loop {
        // Not all nodes at once.
        let chance = u32::from(inner.env.random::<1>()[0]);
        if !inner.pause(every + every * chance / 256).await {
            return;
        }
        if let Some(Err(error)) = inner.unless_closing(inner.even_leads()).await {
            tracing::debug!(%error, "no shard is given away now");
        }
    }
}

impl Inner {
    /// How many shards of volumes this node leads.
    pub(crate) fn leads(&self) -> usize {
        self.shards
            .all()
            .iter()
            .filter(|shard| shard.number != SYSTEM && client::Metadata::is_led_here(&***shard))
            .count()
    }

    async fn even_leads(&self) -> Result<()> {
        let (Some(cluster), mine) = (self.cluster.get(), self.leads()) else { return Ok(()) };
        if mine < 2 {
            return Ok(());
        }
        let rows = self.look(|view| catalog::nodes(view, None, usize::from(u16::MAX)))?;
        let sites: BTreeMap<NodeId, String> =
            rows.iter().map(|row| (row.id, labels_of(row).get(Domain::Site).to_owned())).collect();
        let mut led: BTreeMap<NodeId, Option<usize>> = BTreeMap::new();
        let mut best: Option<(usize, u32, NodeId)> = None;
        for shard in self.shards.all().iter().filter(|shard| shard.number != SYSTEM) {
            let Some(member) = shard.member().filter(|member| member.lead().is_some()) else { continue };
            let Some(replica) = member.replica() else { continue };
            let status = replica.status().borrow().clone();
            // Who has most of the log still to come would keep all changes waiting.
            let behind =
                |node: &NodeId| status.applied_index.saturating_sub(status.matched.get(node).copied().unwrap_or(0));
            for node in status.voters.iter().copied().filter(|node| *node != cluster.me && behind(node) <= BEHIND_MAX) {
                if cluster.standing(node) != Standing::Alive || sites.get(&node) != sites.get(&cluster.me) {
                    continue;
                }
                let theirs = match led.get(&node) {
                    Some(known) => *known,
                    None => *led.entry(node).or_insert(ask_leads(&cluster.endpoint, node, SAY_MAX).await.ok()),
                };
                let Some(theirs) = theirs.filter(|theirs| theirs + 2 <= mine) else { continue };
                if best.is_none_or(|(least, ..)| theirs < least) {
                    best = Some((theirs, shard.number, node));
                }
            }
        }
        let Some((_, number, to)) = best else { return Ok(()) };
        let replica = self.shards.get(number).and_then(|shard| shard.replica());
        if let Some(replica) = replica {
            hand_over_to(&replica, number, to, "it leads fewer").await;
        }
        Ok(())
    }
}
