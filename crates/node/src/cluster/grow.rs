//! More metadata shards as nodes come: one node evaluates all changes of a shard, and keeps all its rows.
//!
//! 1. Whoever leads the catalog names the founder of a new shard in a row ([`founder_row`]), the only one that this
//!    number will ever have: two groups of one number would contradict each other.
//! 2. The founder makes a group of one, then takes that row's place with the plan, in one batch. As long as there is no
//!    plan nobody else has anything of the shard, so an attempt that was cut short is put aside and made again.
//! 3. Who leads the shard finds it voters, as for any other ([`super::voters`]); once it has them, new volumes go there.
//!
//! A founder that is gone for good before the second step leaves a number that is never used.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base::kv::View;
use base::{NodeId, Standing};
use namespace::catalog::{self, FIRST_SHARD, NodeRow, NodeState, SHARDS_MAX, Severity};
use replicated::Begin;

use super::plan::{Plan, plan, put_plan};
use super::shard::{Member, MetaShard, Role};
use crate::error::{self, Error};
use crate::node::Inner;
use crate::shards::can_be;

/// How often it is looked whether another shard is wanted.
const EVERY: Duration = Duration::from_secs(5);
/// Voters that a shard has before volumes go there.
const VOTERS_MIN: usize = 3;

/// The row that names a new shard's founder.
fn founder_row(shard: u32) -> String {
    format!("founder of shard {shard}")
}

fn founder(view: &dyn View, shard: u32) -> Result<Option<NodeId>, namespace::Error> {
    let row = catalog::setting(view, &founder_row(shard))?;
    let id = row.map(|row| <[u8; 16]>::try_from(row.as_slice()));
    id.transpose().map(|id| id.map(NodeId)).map_err(|_| namespace::Error::Broken { what: "a founder's id is damaged" })
}

/// The shards that the catalog knows of, in use or not.
pub(super) fn shards(view: &dyn View) -> Result<Vec<u32>, namespace::Error> {
    let mut all = vec![crate::node::SYSTEM, FIRST_SHARD];
    for shard in FIRST_SHARD + 1..FIRST_SHARD + SHARDS_MAX {
        if plan(view, shard)?.is_none() && founder(view, shard)?.is_none() {
            break;
        }
        all.push(shard);
    }
    Ok(all)
}

/// How many volume shards so many nodes are to have.
pub(crate) fn wanted(nodes: usize, nodes_per_shard: usize) -> usize {
    (nodes / nodes_per_shard.max(1)).clamp(1, SHARDS_MAX as usize)
}

/// Makes shards as long as this node leads the catalog, until it is closed.
pub(crate) async fn keep(inner: Arc<Inner>) {
    while inner.pause(EVERY).await {
        if !inner.system.is_led_here() {
            continue;
        }
        if let Err(error) = inner.make_shard().await {
            tracing::info!(%error, "no metadata shard can be made yet: trying again");
        }
    }
}

/// What the catalog says that matters for a new shard.
struct Seen {
    nodes: Vec<NodeRow>,
    in_use: Vec<u32>,
    all: Vec<u32>,
    founders: BTreeMap<u32, NodeId>,
    seats: BTreeMap<NodeId, usize>,
}

impl Seen {
    fn read(view: &dyn View) -> Result<Self, namespace::Error> {
        let (all, mut founders, mut seats) = (shards(view)?, BTreeMap::new(), BTreeMap::new());
        for shard in &all {
            if let Some(node) = founder(view, *shard)? {
                founders.insert(*shard, node);
            }
            for node in plan(view, *shard)?.into_iter().flat_map(|plan| plan.nodes) {
                *seats.entry(node).or_default() += 1;
            }
        }
        let nodes = catalog::nodes(view, None, usize::from(u16::MAX))?;
        Ok(Self { nodes, in_use: catalog::volume_shards(view)?, all, founders, seats })
    }

    fn is_there(&self, node: NodeId) -> bool {
        self.nodes.iter().any(|row| row.id == node && matches!(row.state, NodeState::Active | NodeState::Draining))
    }

    /// The next shard's number, if one is wanted and none is being made.
    fn next(&self, nodes_per_shard: usize) -> Option<u32> {
        let active = self.nodes.iter().filter(|row| row.state == NodeState::Active).count();
        // One whose founder is gone will never be.
        let is_given_up = |shard: &u32| self.founders.get(shard).is_some_and(|node| !self.is_there(*node));
        let coming = self.all[2..].iter().filter(|shard| !self.in_use.contains(shard) && !is_given_up(shard)).count();
        let next = self.all.last()? + 1;
        (coming == 0 && self.in_use.len() < wanted(active, nodes_per_shard) && can_be(next)).then_some(next)
    }
}

impl Inner {
    async fn make_shard(&self) -> error::Result<()> {
        let Some(cluster) = self.cluster.get() else { return Ok(()) };
        let seen = self.look(Seen::read)?;
        let Some(shard) = seen.next(self.settings.nodes_per_shard) else { return Ok(()) };
        let alive = seen.nodes.iter().filter(|row| row.state == NodeState::Active);
        let alive = alive.filter(|row| cluster.standing(row.id) == Standing::Alive);
        let Some(founder) = alive.min_by_key(|row| (seen.seats.get(&row.id).copied().unwrap_or(0), row.id)) else {
            return Ok(());
        };
        let (known, name, id) = (seen.all.clone(), founder.name.clone(), founder.id);
        let made = self.change(move |view| {
            // Another leader may have named somebody.
            if shards(view)? != known {
                return Ok((Default::default(), false));
            }
            Ok((catalog::put_setting(&founder_row(shard), Some(&id.0)), true))
        });
        if made.await? {
            let text = format!("metadata shard {shard} is being made: node {name} begins it");
            self.tell(Severity::Info, "metadata", &shard.to_string(), text);
        }
        Ok(())
    }

    /// The shard of this number, known from now on; `None` if the catalog, as this node has it, knows none.
    pub(crate) fn learn_shard(self: &Arc<Self>, number: u32) -> Option<Arc<MetaShard>> {
        if let Some(shard) = self.shards.get(number) {
            return Some(shard);
        }
        let cluster = self.cluster.get().filter(|_| can_be(number))?;
        // A damaged number must not have this node ask for a shard for ever that nobody will ever found.
        let is_known = number <= FIRST_SHARD
            || self.look(|view| Ok(plan(view, number)?.is_some() || founder(view, number)?.is_some())).ok()?;
        if !is_known {
            return None;
        }
        let member = Member::new(cluster.asker(number), None);
        let shard = MetaShard::new(&self.env, number, Role::Member(member.clone()));
        if let Some(known) = self.shards.add(shard.clone()) {
            return Some(known);
        }
        cluster.answer_as(&shard);
        self.run_member(&shard, &member);
        Some(shard)
    }

    /// Whether this node is to found the shard.
    pub(super) fn is_to_found(&self, shard: u32) -> bool {
        // Without a catalog nobody founds anything.
        let named = || self.look(|view| founder(view, shard)).unwrap_or(None);
        shard > FIRST_SHARD && named().is_some_and(|node| Some(node) == self.me())
    }

    /// Makes the group of a new shard, with this node alone.
    pub(super) async fn found_shard(self: &Arc<Self>, shard: u32, member: &Arc<Member>) -> error::Result<()> {
        let cluster = self.cluster.get().ok_or_else(|| Error::Refused("this node is alone".into()))?;
        let row = founder_row(shard);
        // What is agreed on counts, not what this node heard last: the group may be there already.
        let is_open = self.system.read(None, |view| Ok::<_, Error>(catalog::setting(view, &row)?.is_some())).await?;
        if !is_open {
            return Ok(());
        }
        // What an attempt before this one left.
        self.put_aside(shard, |_| true).await?;
        self.keep(|kept| _ = kept.turns.entry(shard).and_modify(|turn| *turn += 1).or_default()).await?;
        let replica = self.open_replica(shard, Begin::Found).await?;
        let (token, me) = (replica.token(), cluster.me);
        self.keep(|kept| _ = kept.tokens.insert(shard, token)).await?;
        let written = self.change(|view| {
            let mut batch = put_plan(shard, &Plan { token, nodes: vec![me] });
            let gone = catalog::put_setting(&row, None);
            batch.dels.extend(gone.dels);
            // The plan of an attempt before this one may have come late: it is this node's as well.
            let is_mine = plan(view, shard)?.is_none_or(|plan| plan.nodes == [me]);
            Ok((if is_mine { batch } else { Default::default() }, ()))
        });
        match written.await {
            Ok(()) => {
                cluster.set_holders(shard, vec![me]);
                member.set_replica(Some(replica));
                Ok(())
            }
            // Whether the plan has it is open: nothing may be led by it before that is known.
            Err(error) => {
                let _ = replica.close().await;
                Err(error)
            }
        }
    }

    /// New volumes go to a shard that has its voters.
    pub(super) async fn open_for_volumes(
        &self,
        shard: u32,
        voters: &BTreeSet<NodeId>,
        rows: &[NodeRow],
    ) -> error::Result<()> {
        let active = rows.iter().filter(|row| row.state == NodeState::Active).count();
        if shard <= FIRST_SHARD || voters.len() < VOTERS_MIN.min(active) {
            return Ok(());
        }
        if self.look(catalog::volume_shards)?.contains(&shard) {
            return Ok(());
        }
        self.change(|view| Ok((catalog::add_volume_shard(view, shard)?, ()))).await?;
        let text = format!("metadata shard {shard} takes new buckets now");
        self.tell(Severity::Info, "metadata", &shard.to_string(), text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_shards_as_nodes_want() {
        let all: Vec<usize> = [0, 1, 3, 4, 7, 8, 12, 30, 80, 10_000].map(|nodes| wanted(nodes, 4)).into();
        assert_eq!(all, [1, 1, 1, 1, 1, 2, 3, 7, 20, 64]);
        assert_eq!(wanted(5, 0), 5);
    }
}
