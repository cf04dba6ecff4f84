//! In which order all nodes of a cluster can be restarted without anybody noticing.
//!
//! A wave is a set of nodes that may be away together: all in one failure domain, so that a fault
//! elsewhere meets a cluster that lacks no more than its policies allow for. Between waves everything is
//! back. A wave of several nodes leaves every group enough drives to acknowledge writes and every
//! shard a majority; a wave of one node leaves at least every group readable and every policy a group
//! that takes writes. If even that can't be had, or something is missing already, there is no
//! plan, and the reasons are given.

use std::collections::{BTreeMap, BTreeSet};

use base::{Domain, DriveId, Kind, Kinded, NodeId, Standing};

use crate::group::GroupRow;
use crate::map::{Map, Policy, State};

/// Reasons that are told at the most.
const REASONS_MAX: usize = 10;

/// Nodes that may be restarted together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wave {
    /// The kind of failure domain that all of them are in.
    pub domain: Domain,
    /// Its name.
    pub name: String,
    /// The nodes, by id.
    pub nodes: Vec<NodeId>,
}

/// Why nothing should be restarted now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no node should be restarted now: {}", .reasons.join("; "))]
pub struct Refused {
    /// All that stands against it, the first ten.
    pub reasons: Vec<String>,
}

impl Kinded for Refused {
    fn kind(&self) -> Kind {
        Kind::Conflict
    }
}

/// The waves, in order: nodes without voters before those with. `voters`: by shard.
pub fn restart_plan(
    map: &Map,
    voters: &[BTreeSet<NodeId>],
    standing: impl Fn(NodeId) -> Standing,
) -> Result<Vec<Wave>, Refused> {
    let members: BTreeSet<NodeId> =
        map.nodes.iter().filter(|node| node.state <= State::Draining).map(|node| node.id).collect();
    let plan = Plan::new(map, voters, &members);
    let mut reasons = plan.missing(standing);
    if reasons.is_empty() {
        reasons = members.iter().filter_map(|node| plan.alone(*node).err()).take(REASONS_MAX).collect();
    }
    if !reasons.is_empty() {
        return Err(Refused { reasons });
    }
    Ok(plan.waves())
}

struct Plan<'a> {
    map: &'a Map,
    voters: &'a [BTreeSet<NodeId>],
    members: &'a BTreeSet<NodeId>,
    node_of: BTreeMap<DriveId, NodeId>,
    /// By node, its groups: (policy, row) as positions in the map.
    groups_of: BTreeMap<NodeId, Vec<(usize, usize)>>,
}

impl<'a> Plan<'a> {
    fn new(map: &'a Map, voters: &'a [BTreeSet<NodeId>], members: &'a BTreeSet<NodeId>) -> Self {
        let node_of: BTreeMap<DriveId, NodeId> = map.drives.iter().map(|drive| (drive.id, drive.node)).collect();
        let mut groups_of: BTreeMap<NodeId, Vec<(usize, usize)>> = BTreeMap::new();
        for (policy, table) in map.policies.iter().enumerate() {
            for (row, group) in table.groups.iter().enumerate() {
                let nodes: BTreeSet<NodeId> =
                    group.members.iter().filter_map(|drive| node_of.get(drive).copied()).collect();
                nodes.into_iter().for_each(|node| groups_of.entry(node).or_default().push((policy, row)));
            }
        }
        Self { map, voters, members, node_of, groups_of }
    }

    /// What is missing already.
    fn missing(&self, standing: impl Fn(NodeId) -> Standing) -> Vec<String> {
        let mut reasons = Vec::new();
        for node in self.members.iter().filter(|node| standing(**node) != Standing::Alive) {
            reasons.push(format!("node {} is {}", self.name(*node), standing(*node)));
        }
        let lost = self.map.lost();
        for policy in &self.map.policies {
            let is_moving = |row: &&GroupRow| row.moving().next().is_some();
            let moving = policy.groups.iter().filter(is_moving).count();
            if moving > 0 {
                reasons.push(format!("pieces of {moving} groups coded {} are being moved or rebuilt", policy.name));
            }
            let lacks =
                |row: &&GroupRow| row.members.iter().any(|one| lost.contains(one) || !self.node_of.contains_key(one));
            let lacking = policy.groups.iter().filter(lacks).count();
            if lacking > 0 {
                reasons.push(format!("{lacking} groups coded {} have lost drives", policy.name));
            }
        }
        for (shard, voters) in self.voters.iter().enumerate() {
            for voter in voters.iter().filter(|voter| !self.members.contains(voter)) {
                reasons.push(format!("shard {shard} has a voter on {}, which is no member", self.name(*voter)));
            }
        }
        reasons.truncate(REASONS_MAX);
        reasons
    }

    /// Whether one node can be away by itself.
    fn alone(&self, node: NodeId) -> Result<(), String> {
        let away = BTreeSet::from([node]);
        let name = self.name(node);
        for (shard, voters) in self.voters.iter().enumerate() {
            if !keeps_majority(voters, &away) {
                return Err(format!(
                    "without {name}, shard {shard} has no majority of its {} voters: add nodes",
                    voters.len()
                ));
            }
        }
        for policy in &self.map.policies {
            if policy.groups.is_empty() {
                continue;
            }
            let held = |row: &GroupRow| self.held(row, &away);
            let most = policy.groups.iter().map(held).max().unwrap_or(0);
            if most > usize::from(policy.m) {
                return Err(format!(
                    "node {name} holds {most} of {} pieces of some groups coded {}, and only {} may be missing: add nodes, or accept an interruption",
                    usize::from(policy.k) + usize::from(policy.m),
                    policy.name,
                    policy.m
                ));
            }
            if !policy.groups.iter().any(|row| takes_writes(policy, held(row))) {
                return Err(format!("without {name}, no group coded {} takes writes: add nodes", policy.name));
            }
        }
        Ok(())
    }

    fn held(&self, row: &GroupRow, away: &BTreeSet<NodeId>) -> usize {
        row.members.iter().filter(|drive| self.node_of.get(drive).is_some_and(|node| away.contains(node))).count()
    }

    fn waves(&self) -> Vec<Wave> {
        let domain = self.domain();
        let mut domains: BTreeMap<(usize, String), Vec<NodeId>> = BTreeMap::new();
        for node in self.members {
            // Voters last: the fewest changes of leaders, and the plan is seen to work before.
            let votes = usize::from(self.voters.iter().any(|voters| voters.contains(node)));
            domains.entry((votes, self.domain_name(*node, domain))).or_default().push(*node);
        }
        let mut waves = Vec::new();
        for ((_, name), mut left) in domains {
            while !left.is_empty() {
                let (nodes, rest) = self.wave(&left);
                waves.push(Wave { domain, name: name.clone(), nodes });
                left = rest;
            }
        }
        waves
    }

    /// As many of these nodes as may be away together, and the rest. Never empty: each may be alone.
    fn wave(&self, nodes: &[NodeId]) -> (Vec<NodeId>, Vec<NodeId>) {
        let (mut together, mut rest) = (Vec::new(), Vec::new());
        let mut away: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        let mut gone = BTreeSet::new();
        for node in nodes {
            let one = BTreeSet::from([*node]);
            let groups = self.groups_of.get(node).map(Vec::as_slice).unwrap_or_default();
            let after: Vec<((usize, usize), usize)> = groups
                .iter()
                .map(|at| (*at, away.get(at).unwrap_or(&0) + self.held(&self.map.policies[at.0].groups[at.1], &one)))
                .collect();
            let goes_on =
                |((policy, _), held): &((usize, usize), usize)| takes_writes(&self.map.policies[*policy], *held);
            let with: BTreeSet<NodeId> = gone.union(&one).copied().collect();
            let majorities = self.voters.iter().all(|voters| keeps_majority(voters, &with));
            if together.is_empty() || (majorities && after.iter().all(goes_on)) {
                together.push(*node);
                away.extend(after);
                gone = with;
            } else {
                rest.push(*node);
            }
        }
        (together, rest)
    }

    /// The smallest kind of domain above a node that is labelled.
    fn domain(&self) -> Domain {
        let labelled = |label: &Domain| {
            let nodes = self.map.nodes.iter().filter(|node| self.members.contains(&node.id));
            let mut labels = nodes.map(|node| node.labels.get(*label));
            labels.all(|label| !label.is_empty())
        };
        [Domain::Rack, Domain::Site].into_iter().find(labelled).unwrap_or(Domain::Node)
    }

    fn domain_name(&self, node: NodeId, domain: Domain) -> String {
        match (self.map.node(node), domain) {
            (Some(node), Domain::Rack) => {
                format!("{}/{}", node.labels.get(Domain::Site), node.labels.get(Domain::Rack))
            }
            (Some(node), Domain::Site) => node.labels.get(Domain::Site).to_owned(),
            _ => self.name(node),
        }
    }

    fn name(&self, node: NodeId) -> String {
        let name = self.map.node(node).map(|node| node.name.as_str()).filter(|name| !name.is_empty());
        name.map_or_else(|| node.to_string()[..8].to_owned(), str::to_owned)
    }
}

fn takes_writes(policy: &Policy, away: usize) -> bool {
    usize::from(policy.k) + usize::from(policy.m) - away.min(usize::from(policy.m)) >= usize::from(policy.ack)
        && away <= usize::from(policy.m)
}

fn keeps_majority(voters: &BTreeSet<NodeId>, away: &BTreeSet<NodeId>) -> bool {
    voters.is_empty() || voters.difference(away).count() > voters.len() / 2
}
