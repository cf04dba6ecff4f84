//! Who keeps the metadata shards: chosen by the cluster itself as nodes come and go.
//!
//! Whoever leads a shard looks after its members, and computes the next step from the state of things:
//! so nothing has to be remembered when another takes over. The plan in the catalog comes first, since
//! a node opens its replica when the plan names it; it is trimmed once the change is made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base::NodeId;
use namespace::catalog::{self, DriveRow, DriveState, NodeRow, NodeState};
use placement::Labels;
use placement::map::State;
use placement::voters::{self, Seat};
use replicated::{Read, Replica};

use super::care::lost_row;
use super::plan::{Plan, plan, put_plan};
use super::shard::{Member, hand_over};
use crate::error::Result;
use crate::members::labels_of;
use crate::node::{Inner, SYSTEM};

/// How often the members are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// How soon after a change.
const NEXT: Duration = Duration::from_millis(50);
/// How long one change may take; it is begun again after that.
const CHANGE_MAX: Duration = Duration::from_secs(10);

/// Looks after a shard's members, as long as this node leads it, until the node is closed.
pub(crate) async fn keep(inner: Arc<Inner>, shard: u32, member: Arc<Member>) {
    let mut pause = EVERY;
    while inner.pause(std::mem::replace(&mut pause, EVERY)).await {
        let Some(replica) = member.replica().filter(|_| member.lead().is_some()) else { continue };
        match inner.keep_members(shard, &replica).await {
            // Two voters, between one and three, bear no loss at all: the next step follows at once.
            Ok(true) => pause = NEXT,
            Ok(false) => {}
            Err(error) => tracing::info!(shard, %error, "the shard's members can't be changed yet: trying again"),
        }
    }
}

/// What a node is there for, as placement says it.
pub(super) fn state(row: &NodeRow) -> State {
    match row.state {
        NodeState::Active => State::Active,
        NodeState::Draining => State::Draining,
        NodeState::Gone => State::Gone,
        NodeState::Removed => State::Removed,
    }
}

/// The nodes that take no data: all of their drives that are there have no size.
pub(crate) fn dataless(drives: &[DriveRow]) -> BTreeSet<NodeId> {
    let here = || drives.iter().filter(|row| matches!(row.state, DriveState::Active | DriveState::Draining));
    let with_data: BTreeSet<NodeId> = here().filter(|row| row.takes_data()).filter_map(|row| row.node).collect();
    here().filter_map(|row| row.node).filter(|node| !with_data.contains(node)).collect()
}

impl Inner {
    /// One step; whether the voters changed.
    async fn keep_members(&self, shard: u32, replica: &Replica) -> Result<bool> {
        let Some(cluster) = self.cluster.get() else { return Ok(false) };
        let status = replica.status().borrow().clone();
        let now: BTreeSet<NodeId> = status.voters.iter().copied().collect();
        let token = replica.token();
        let (rows, planned, others, dataless) = self.look(|view| {
            let dataless = dataless(&catalog::drives(view, None, usize::from(u16::MAX))?);
            let rows = catalog::nodes(view, None, usize::from(u16::MAX))?;
            let mut others: BTreeMap<NodeId, usize> = BTreeMap::new();
            for other in self.shards.all().iter().map(|other| other.number).filter(|other| *other != shard) {
                for node in plan(view, other)?.into_iter().flat_map(|plan| plan.nodes) {
                    *others.entry(node).or_default() += 1;
                }
            }
            Ok((rows, plan(view, shard)?, others, dataless))
        })?;
        let labels: BTreeMap<NodeId, Labels> = rows.iter().map(|row| (row.id, labels_of(row))).collect();
        let seats: Vec<Seat<'_>> = rows
            .iter()
            .filter(|row| row.state != NodeState::Removed)
            .map(|row| Seat {
                node: row.id,
                state: state(row),
                standing: cluster.standing(row.id),
                labels: &labels[&row.id],
                is_dataless: dataless.contains(&row.id),
            })
            .collect();
        if self.let_lost_go(shard, replica, &rows).await? {
            return Ok(false);
        }
        // A change under way comes to its end first.
        let next = match voters::next(shard, &now, &seats, &others) {
            Ok(step) => step.map(|step| step.apply(&now)),
            Err(no_majority) => {
                tracing::warn!(%no_majority, "nothing can be changed");
                return Ok(false);
            }
        };
        let wanted: BTreeSet<NodeId> = next.iter().flatten().chain(&now).copied().collect();
        let wanted = Plan { token, nodes: wanted.into_iter().collect() };
        if planned.as_ref() != Some(&wanted) {
            let (plan, known) = (wanted.clone(), planned.clone());
            self.change(move |view| {
                let as_before = super::plan::plan(view, shard)? == known;
                Ok((if as_before { put_plan(shard, &plan) } else { Default::default() }, ()))
            })
            .await?;
        }
        if let Some(next) = next {
            if !next.contains(&cluster.me) && now.len() > 1 {
                // Whoever leads then goes on: nothing stands still until somebody misses this node.
                hand_over(replica, shard, "it is about to have no vote").await;
                return Ok(false);
            }
            tracing::info!(shard, voters = ?next, "the shard's voters change");
            replica.set_voters(next, CHANGE_MAX).await?;
            return Ok(true);
        }
        self.keep_learners(shard, replica, &rows, &status).await?;
        self.open_for_volumes(shard, &now, &rows).await?;
        Ok(false)
    }

    /// Removes nodes that lost their replica, which say so: only then they may begin anew. Whether there were any.
    async fn let_lost_go(&self, shard: u32, replica: &Replica, rows: &[NodeRow]) -> Result<bool> {
        let nodes: Vec<NodeId> = rows.iter().map(|row| row.id).collect();
        let lost = self.look(|view| {
            let mut lost = Vec::new();
            for node in nodes {
                if catalog::setting(view, &lost_row(shard, node))?.is_some() {
                    lost.push(node);
                }
            }
            Ok(lost)
        })?;
        for node in &lost {
            // What is agreed on counts, and that this node leads still.
            replica.read_barrier(Read::Index, CHANGE_MAX).await?;
            let (voters, learners) = replica.members();
            // This node leads by its copy: it isn't lost after all.
            let is_mine = self.me() == Some(*node);
            if voters.contains(node) && !is_mine {
                let left: BTreeSet<NodeId> = voters.iter().copied().filter(|voter| voter != node).collect();
                tracing::info!(shard, voters = ?left, lost = %node, "a voter lost its replica: it is removed");
                replica.set_voters(left, CHANGE_MAX).await?;
            } else if learners.contains(node) {
                replica.remove_learner(*node, CHANGE_MAX).await?;
            } else {
                let row = lost_row(shard, *node);
                self.change(|_| Ok((catalog::put_setting(&row, None), ()))).await?;
            }
        }
        Ok(!lost.is_empty())
    }

    /// Every node has a replica of the catalog; nobody follows a shard who isn't to.
    async fn keep_learners(
        &self,
        shard: u32,
        replica: &Replica,
        rows: &[NodeRow],
        status: &replicated::Status,
    ) -> Result<()> {
        let follows = |row: &&NodeRow| shard == SYSTEM && row.state != NodeState::Removed;
        let wanted: BTreeSet<NodeId> = rows.iter().filter(follows).map(|row| row.id).collect();
        let have: BTreeSet<NodeId> = status.learners.iter().chain(&status.voters).copied().collect();
        for node in wanted.difference(&have) {
            replica.add_learner(*node, CHANGE_MAX).await?;
        }
        for node in status.learners.iter().filter(|node| !wanted.contains(node) && !status.voters.contains(node)) {
            replica.remove_learner(*node, CHANGE_MAX).await?;
        }
        Ok(())
    }
}
