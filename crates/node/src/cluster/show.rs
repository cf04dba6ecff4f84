//! The nodes, for people.

use base::kv::View;
use base::{DriveId, NodeId};
use namespace::catalog::{self, NodeRow, NodeState};
use placement::map::{self, Map};
use placement::restart::restart_plan;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::groups;
use crate::members::labels_of;
use crate::node::{Inner, Node};

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeShown {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `active`, `draining`, `gone`.
    pub state: &'static str,
    /// How it stands, as this node sees it: `alive`, `suspected`, `down`, `gone`.
    pub standing: String,
    /// Whether it is the one that says this.
    pub here: bool,
    /// Where it listens for other nodes.
    pub addresses: Vec<String>,
    /// `name=value`.
    pub labels: Vec<String>,
    /// Its drives that count.
    pub drives: usize,
    /// Metadata shards in which it has a vote.
    pub voter: Vec<u32>,
    /// Metadata shards that it leads, as far as known here.
    pub leader: Vec<u32>,
}

/// The one machine of a store that never invited another.
const ALONE: NodeId = NodeId([0; 16]);

impl Inner {
    fn node_rows(&self) -> Result<Vec<NodeRow>> {
        self.look(|view| catalog::nodes(view, None, usize::from(u16::MAX)))
    }

    /// The members, by name.
    pub fn nodes_shown(&self) -> Result<Vec<NodeShown>> {
        let Some(cluster) = self.cluster.get() else { return Ok(Vec::new()) };
        let (drives, shards) = (self.drive_rows()?, self.shards.all());
        let mut shown: Vec<NodeShown> = Vec::new();
        for row in self.node_rows()?.into_iter().filter(|row| row.state != NodeState::Removed) {
            // By the replica here, if there is one that is kept: the plan names those that are about to be voters as well. One that was
            // left when others came to vote hears nothing any more.
            let is_kept = |number| number == crate::node::SYSTEM || cluster.holds(number, cluster.me);
            let kept = |shard: &super::shard::MetaShard| shard.replica().filter(|_| is_kept(shard.number));
            let voter = |shard: &&std::sync::Arc<super::shard::MetaShard>| match kept(shard) {
                Some(replica) => replica.status().borrow().voters.contains(&row.id),
                None => cluster.holds(shard.number, row.id),
            };
            let leads = |shard: &&std::sync::Arc<super::shard::MetaShard>| {
                shard.member().is_some_and(|member| member.leads() == Some(row.id))
            };
            let counts =
                |drive: &&catalog::DriveRow| drive.node == Some(row.id) && drive.state == catalog::DriveState::Active;
            shown.push(NodeShown {
                id: row.id.to_string(),
                state: match row.state {
                    NodeState::Active => "active",
                    NodeState::Draining => "draining",
                    NodeState::Gone => "gone",
                    NodeState::Removed => "removed",
                },
                standing: cluster.standing(row.id).to_string(),
                here: row.id == cluster.me,
                addresses: row.addresses.iter().map(ToString::to_string).collect(),
                labels: row.labels.iter().map(|(name, value)| format!("{name}={value}")).collect(),
                drives: drives.iter().filter(counts).count(),
                voter: shards.iter().filter(voter).map(|shard| shard.number).collect(),
                leader: shards.iter().filter(leads).map(|shard| shard.number).collect(),
                name: row.name,
            });
        }
        shown.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Ok(shown)
    }

    /// What all data survives by kinds of loss, if there are several nodes.
    pub async fn survives(&self) -> Result<Option<String>> {
        if self.cluster.get().is_none() {
            return Ok(None);
        }
        let map = self.map_of_data().await?;
        let up = self.up();
        let down = map.drives.iter().map(|drive| drive.id).filter(|drive| !up.contains(drive)).collect();
        Ok(Some(map.survives(&down).to_string()))
    }

    /// [`Inner::map`] with those placement groups only that hold data, or would get new data.
    pub async fn map_of_data(&self) -> Result<Map> {
        let mut map = self.map()?;
        let volumes = self.volumes()?;
        let default = self.look(|view| catalog::setting(view, client::POLICY_SETTING))?.unwrap_or_default();
        let groups = map.policies.iter().flat_map(|policy| policy.groups.iter().map(|row| (policy.id, row.group)));
        let with_data = self.with_data(&volumes, groups.collect()).await?;
        for policy in &mut map.policies {
            let is_default = policy.name.as_bytes() == default;
            let most = policy.groups.iter().map(|row| nodes_in(row, &map.drives)).max().unwrap_or(0);
            let (id, drives) = (policy.id, &map.drives);
            policy
                .groups
                .retain(|row| with_data.contains(&(id, row.group)) || (is_default && nodes_in(row, drives) == most));
        }
        Ok(map)
    }

    /// The cluster as placement sees it, made of the rows of the catalog.
    pub fn map(&self) -> Result<Map> {
        self.look(|view| self.map_of(view))
    }

    /// The same of these rows. A store of one machine is one node, which has no id yet.
    pub fn map_of(&self, view: &dyn View) -> std::result::Result<Map, namespace::Error> {
        let nodes = catalog::nodes(view, None, usize::from(u16::MAX))?;
        let drives = catalog::drives(view, None, usize::from(u16::MAX))?;
        let tables = groups::load(view)?;
        let node = |row: &NodeRow| map::Node {
            id: row.id,
            key: crypt::PublicKey(row.key),
            state: super::voters::state(row),
            name: row.name.clone(),
            addresses: row.addresses.iter().map(ToString::to_string).collect(),
            labels: labels_of(row),
            joined: row.joined,
        };
        let drive = |row: &catalog::DriveRow| map::Drive {
            id: row.id,
            node: row.node.unwrap_or(ALONE),
            state: match row.state {
                catalog::DriveState::Active => map::State::Active,
                catalog::DriveState::Draining => map::State::Draining,
                catalog::DriveState::Gone => map::State::Gone,
                catalog::DriveState::Removed => map::State::Removed,
            },
            size: row.size,
        };
        let policies = tables.into_iter().map(|(row, groups)| groups::in_map(row, groups));
        let mut nodes: Vec<map::Node> = nodes.iter().map(node).collect();
        let state = if nodes.is_empty() { map::State::Active } else { map::State::Gone };
        // What it lost before it was among others is nobody's.
        if nodes.is_empty() || drives.iter().any(|row| row.node.is_none()) {
            nodes.insert(
                0,
                map::Node {
                    id: ALONE,
                    key: crypt::PublicKey([0; 32]),
                    state,
                    name: self.settings.name.clone(),
                    addresses: Vec::new(),
                    labels: placement::Labels::default(),
                    joined: base::Wall(0),
                },
            );
        }
        Ok(Map {
            cluster: self.id,
            epoch: base::Epoch(0),
            previous: [0; 32],
            made: self.env.clock.wall(),
            nodes,
            drives: drives.iter().map(drive).collect(),
            policies: policies.collect(),
        })
    }
}

/// On how many nodes a group's drives are.
fn nodes_in(row: &placement::GroupRow, drives: &[map::Drive]) -> usize {
    let node = |id: &DriveId| drives.iter().find(|drive| drive.id == *id).map(|drive| drive.node);
    row.members.iter().filter_map(node).collect::<std::collections::BTreeSet<_>>().len()
}

impl Node {
    /// The members.
    pub fn nodes(&self) -> Result<Vec<NodeShown>> {
        self.0.nodes_shown()
    }

    /// In which order the nodes can be restarted without anybody noticing.
    pub async fn restart_plan(&self) -> Result<Vec<Vec<String>>> {
        let inner = &self.0;
        let cluster = inner
            .cluster
            .get()
            .ok_or_else(|| Error::Refused("there is one node: while it restarts nothing is served".into()))?;
        let map = inner.map_of_data().await?;
        let voters = inner.voters(cluster)?;
        let waves = restart_plan(&map, &voters, |node| cluster.standing(node));
        let waves = waves.map_err(|why| Error::Refused(why.to_string()))?;
        let name = |node: NodeId| map.node(node).map_or(node.to_string(), |row| row.name.clone());
        Ok(waves.into_iter().map(|wave| wave.nodes.into_iter().map(name).collect()).collect())
    }
}
