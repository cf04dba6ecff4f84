//! The cluster's policies and groups, as this client last saw them.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::kv::View;
use base::{DriveId, GroupId, PolicyId};
use codec::Versioned;
use namespace::catalog::{self, PolicyRow};
use placement::GroupRow;

use crate::Error;
use crate::drives::{DriveState, Drives};

/// Rows read at a time.
const PAGE: usize = 1024;
/// The setting of the cluster, and of a volume, that names the policy of new segments.
pub const POLICY_SETTING: &str = "policy";

/// Reads what a client keeps of the catalog to place segments, and nothing else: over a view that records it.
///
/// # Errors
/// If the rows can't be read.
pub fn touch_map(view: &dyn View) -> Result<(), Error> {
    Map::load(view).map(drop)
}

/// One policy and its groups.
pub(crate) struct Policy {
    pub row: PolicyRow,
    pub groups: BTreeMap<GroupId, Arc<GroupRow>>,
    /// Of each group, how many of its drives are on one node, and at one site, at the most. Groups of a time
    /// when there were fewer nodes are more crowded than others.
    crowds: BTreeMap<GroupId, [usize; 2]>,
}

/// Where drives are: their node, and its site.
type Homes = BTreeMap<DriveId, [String; 2]>;

fn homes(view: &dyn View) -> Result<Homes, namespace::Error> {
    let nodes = catalog::nodes(view, None, usize::from(u16::MAX))?;
    let sites: BTreeMap<_, _> = nodes.iter().map(|row| (row.id, row.site().to_owned())).collect();
    let drives = catalog::drives(view, None, usize::from(u16::MAX))?;
    let home = |row: catalog::DriveRow| {
        let node = row.node?;
        Some((row.id, [node.to_string(), sites.get(&node).cloned().unwrap_or_default()]))
    };
    // A store of one machine knows of no nodes: all of it is equally crowded.
    Ok(drives.into_iter().filter_map(home).collect())
}

/// How many of the group's drives are at the same place, at the most, for each kind of place.
fn crowd(row: &GroupRow, homes: &Homes) -> [usize; 2] {
    [0, 1].map(|kind| {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for home in row.members.iter().filter_map(|drive| homes.get(drive)) {
            *counts.entry(home[kind].as_str()).or_default() += 1;
        }
        counts.into_values().max().unwrap_or(0)
    })
}

/// Policies and groups in one consistent cut.
#[derive(Default)]
pub(crate) struct Map {
    pub policies: BTreeMap<PolicyId, Policy>,
    /// The name of the store's policy.
    pub default: Option<String>,
}

/// Where a new segment goes.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub policy: PolicyRow,
    pub group: Arc<GroupRow>,
}

impl Target {
    pub fn k(&self) -> u8 {
        self.policy.coding.k
    }

    pub fn m(&self) -> u8 {
        self.policy.coding.m
    }

    pub fn n(&self) -> usize {
        usize::from(self.k()) + usize::from(self.m())
    }

    /// Pieces that must be durable; never fewer than k.
    pub fn ack(&self) -> usize {
        usize::from(self.policy.ack).clamp(usize::from(self.k()), self.n())
    }
}

impl Map {
    pub fn load(view: &dyn View) -> Result<Self, Error> {
        let mut policies = BTreeMap::new();
        let homes = homes(view)?;
        for row in catalog::policies(view, None, usize::from(u16::MAX))? {
            let mut groups = BTreeMap::new();
            let mut after = None;
            loop {
                let page = catalog::groups(view, row.id, after, PAGE)?;
                after = page.last().map(|(group, _)| *group);
                let full = page.len() == PAGE;
                for (group, bytes) in page {
                    groups.insert(group, Arc::new(GroupRow::decode(&bytes)?));
                }
                if !full {
                    break;
                }
            }
            let crowds = groups.iter().map(|(group, row)| (*group, crowd(row, &homes))).collect();
            policies.insert(row.id, Policy { row, groups, crowds });
        }
        let default = catalog::setting(view, POLICY_SETTING)?;
        Ok(Self { policies, default: default.and_then(|name| String::from_utf8(name).ok()) })
    }

    pub fn group(&self, policy: PolicyId, group: GroupId) -> Option<Arc<GroupRow>> {
        self.policies.get(&policy)?.groups.get(&group).cloned()
    }

    /// The policy of this name, or the store's, or else the first.
    fn policy(&self, name: Option<&str>) -> Result<&Policy, Error> {
        match name.or(self.default.as_deref()) {
            Some(name) => self.policies.values().find(|policy| policy.row.name == name),
            None => self.policies.values().next(),
        }
        .ok_or_else(|| Error::NoPolicy { name: name.or(self.default.as_deref()).unwrap_or("default").to_owned() })
    }

    /// A group for a new segment: any of those with the most drives that take pieces; of these, one whose
    /// drives are spread over nodes and sites well enough, if there is one, or else as well as any.
    /// Drives that are suspect count where too few others take any: if they are slow, so is the write,
    /// which is better than none.
    pub fn choose(&self, name: Option<&str>, drives: &Drives, chance: u64) -> Result<Target, Error> {
        let policy = self.policy(name)?;
        policy
            .choose(&drives.taking(DriveState::Up), chance)
            .or_else(|_| policy.choose(&drives.taking(DriveState::Suspect), chance))
    }
}

impl Policy {
    fn choose(&self, live: &[DriveId], chance: u64) -> Result<Target, Error> {
        let taking = |row: &GroupRow| row.members.iter().filter(|drive| live.binary_search(drive).is_ok()).count();
        let most = self.groups.values().map(|row| taking(row)).max().unwrap_or(0);
        let mut best: Vec<_> = self.groups.values().filter(|row| taking(row) == most).collect();
        let crowd = |row: &GroupRow, kind: usize| self.crowds.get(&row.group).map_or(0, |crowd| crowd[kind]);
        let enough = usize::from(self.row.coding.m).saturating_sub(1).max(1);
        for kind in [0, 1] {
            let least = best.iter().map(|row| crowd(row, kind)).min().unwrap_or(0);
            best.retain(|row| crowd(row, kind) <= least.max(enough));
        }
        let n = usize::from(self.row.coding.k) + usize::from(self.row.coding.m);
        let need = usize::from(self.row.ack).clamp(usize::from(self.row.coding.k), n.max(1));
        let chosen = best.get((chance % best.len().max(1) as u64) as usize);
        match chosen {
            Some(group) if most >= need && group.members.len() == n => {
                Ok(Target { policy: self.row.clone(), group: (*group).clone() })
            }
            _ => Err(Error::TooFewPieces { what: "write", have: most, need }),
        }
    }
}
