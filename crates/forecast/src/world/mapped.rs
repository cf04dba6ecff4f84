//! The cluster map that the nodes of a simulated fleet would have at this moment.
//!
//! A new drive in the place of a dead one has the same number here, and another id in a store. So where a row's piece died
//! on a drive that was replaced since, the map has the old one as well, given up, on the same node.

use std::collections::BTreeSet;

use base::{ClusterId, DriveId, Epoch, GroupId, NodeId, PolicyId, Wall};
use placement::GroupRow;
use placement::map::{self, Map, Policy, PublicKey, State};
use placement::outcome::Held;

use super::{NOWHERE, World};
use crate::fleet::{Fleet, id};

/// The number of the one policy.
pub(crate) const POLICY: PolicyId = PolicyId(1);

impl World {
    /// The map. Groups that are lost are left out: nobody waits for them.
    pub fn map(&self, fleet: &Fleet, epoch: u64) -> Map {
        let groups: Vec<GroupRow> = (0..self.rows.len() as u32)
            .filter(|group| !self.lost[*group as usize])
            .map(|group| self.row(group))
            .collect();
        let buried = self.replaced();
        let node_of = fleet.node_of_drives();
        let mut drives = Vec::with_capacity(self.drives.len() + buried.len());
        for (number, drive) in self.drives.iter().enumerate() {
            let node = NodeId(id(node_of[number] as usize, b"node"));
            let state = if drive.gone { drive.state.max(State::Gone) } else { drive.state };
            let size = drive.size as u64;
            drives.push(map::Drive { id: DriveId(id(number, b"drive")), node, state, size });
            if buried.contains(&(number as u32)) {
                drives.push(map::Drive { id: ghost(number as u32), node, state: State::Gone, size });
            }
        }
        let (code, spec) = (fleet.coding(), &self.spec);
        let policy = Policy {
            id: POLICY,
            name: spec.text(),
            k: spec.k,
            m: spec.m,
            ack: code.ack() as u8,
            demands: spec.demands.clone(),
            within: fleet.rule.within.clone(),
            groups,
        };
        let nodes = self.map_nodes(fleet, &node_of);
        let (cluster, epoch, previous) = (ClusterId([1; 16]), Epoch(epoch), [0; 32]);
        Map { cluster, epoch, previous, made: Wall(0), nodes, drives, policies: vec![policy] }
    }

    fn map_nodes(&self, fleet: &Fleet, node_of: &[u32]) -> Vec<map::Node> {
        let mut has_drives = vec![false; fleet.machines.len()];
        for (drive, node) in self.drives.iter().zip(node_of) {
            has_drives[*node as usize] |= drive.state < State::Gone;
        }
        let node = |(number, machine): (usize, &crate::fleet::Machine)| {
            let id = NodeId(id(number, b"node"));
            let mut key = [0; 32];
            key[..16].copy_from_slice(&id.0);
            map::Node {
                id,
                key: PublicKey(key),
                state: if has_drives[number] { State::Active } else { State::Removed },
                name: machine.name.clone(),
                addresses: Vec::new(),
                labels: machine.labels.clone(),
                joined: Wall(0),
            }
        };
        fleet.machines.iter().enumerate().map(node).collect()
    }

    /// A group's row, with where its pieces really are, or were.
    fn row(&self, group: u32) -> GroupRow {
        let mut row = self.rows[group as usize].clone();
        for at in 0..self.n {
            if let Some(drive) = self.replaced_at(group, at) {
                row.from[at] = ghost(drive);
            }
        }
        row
    }

    /// Where a piece was that died, if there is a new drive in that place by now.
    fn replaced_at(&self, group: u32, at: usize) -> Option<u32> {
        if self.holder[self.position(group, at) as usize] != NOWHERE {
            return None;
        }
        let drive = self.places.index(self.rows[group as usize].from[at])? as u32;
        (!self.drives[drive as usize].dead).then_some(drive)
    }

    fn replaced(&self) -> BTreeSet<u32> {
        let groups = (0..self.rows.len() as u32).filter(|group| !self.lost[*group as usize]);
        groups.flat_map(|group| (0..self.n).filter_map(move |at| self.replaced_at(group, at))).collect()
    }

    /// Drives that don't answer and aren't given up.
    pub fn down(&self) -> BTreeSet<DriveId> {
        let silent = |drive: &usize| {
            let is_member = self.drives[*drive].state < State::Gone && !self.drives[*drive].gone;
            is_member && !self.answers(*drive as u32)
        };
        (0..self.drives.len()).filter(silent).map(|drive| DriveId(id(drive, b"drive"))).collect()
    }

    /// What each group holds: one segment.
    pub fn held(&self) -> impl Fn(PolicyId, GroupId) -> Held + use<> {
        let held = Held { segments: 1, bytes: self.tally.position_bytes as u64 * u64::from(self.k) };
        move |policy, _| if policy == POLICY { held } else { Held::default() }
    }
}

fn ghost(drive: u32) -> DriveId {
    DriveId(id(drive as usize, b"ghost"))
}
