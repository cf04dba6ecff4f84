//! Which drives hold the pieces of which segments: the table of placement groups follows the drives.
//!
//! One rule, [`table`], is evaluated on the catalog whenever drives come or go: the default code
//! follows the number of drives; a policy without groups gets some; positions of drives that are
//! lost, or being emptied, go to others; new drives get groups of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::kv::{Batch, View};
use base::{Domain, DriveId, GroupId, NodeId, PolicyId};
use client::POLICY_SETTING;
use codec::Versioned;
use namespace::catalog::{self, DriveState, NodeState, PolicyRow};
use placement::{Caps, GROUPS_MAX, GroupRow, Labels, Places, Spec, spread};
use policy::{Coding, Rule};

use crate::error::{Error, Result};
use crate::fleet::Mounted;
use crate::node::Inner;

/// The setting that fixes the policy of new data, if it isn't to follow the number of drives alone.
const FIXED: &str = "fixed policy";

/// A policy that a store of one machine with so many drives can meet.
pub(crate) fn parse(text: &str, drives: usize) -> Result<Rule> {
    let drive = |number: usize| (DriveId((number as u128).to_be_bytes()), 1);
    let fleet = Fleet::plain(Places::plain((0..drives).map(drive)));
    fleet.parse(text)
}

/// What a policy asks for: its name is its text.
fn rule_of(row: &PolicyRow) -> Rule {
    Rule::parse(&row.name).unwrap_or(Rule { coding: Some(coding_of(row)), ..Rule::default() })
}

fn coding_of(row: &PolicyRow) -> Coding {
    Coding { k: row.coding.k, m: row.coding.m }
}

/// What a row asks of placement.
fn spec_of(row: &PolicyRow) -> Spec {
    Spec { demands: rule_of(row).demands, ..Spec::new(row.coding.k, row.coding.m) }
}

/// The row as the cluster map has it.
pub(crate) fn in_map(row: PolicyRow, groups: Vec<GroupRow>) -> placement::map::Policy {
    let Rule { demands, within, .. } = rule_of(&row);
    let PolicyRow { id, coding, ack, name } = row;
    placement::map::Policy { id, name, k: coding.k, m: coding.m, ack, demands, within, groups }
}

/// A label's value, as people wrote it: racks are told apart by site.
fn value_of(places: &Places, label: Domain, number: u32) -> &str {
    let name = places.name(label, number);
    if label == Domain::Rack { name.rsplit_once('/').map_or(name, |(_, rack)| rack) } else { name }
}

/// The places where a policy may put pieces; the others take none of its.
fn within(places: &Places, rule: &Rule) -> Places {
    let mut places = places.clone();
    let named = |place: &placement::place::Place, label: Domain| {
        let name = value_of(&places, label, place.at[label as usize]);
        rule.within.iter().any(|(other, value)| *other == label && value == name)
    };
    let fits = |place: &placement::place::Place| rule.within.iter().all(|(label, _)| named(place, *label));
    let fit: BTreeSet<DriveId> = places.list().iter().filter(|place| fits(place)).map(|place| place.drive).collect();
    places.close_unless(|place| fit.contains(&place.drive));
    places
}

/// All policies with their groups.
pub(crate) fn load(view: &dyn View) -> std::result::Result<Vec<(PolicyRow, Vec<GroupRow>)>, namespace::Error> {
    let mut all = Vec::new();
    for policy in catalog::policies(view, None, usize::from(u16::MAX))? {
        let rows = catalog::groups(view, policy.id, None, GROUPS_MAX)?;
        let rows =
            rows.into_iter().map(|(_, bytes)| GroupRow::decode(&bytes)).collect::<std::result::Result<_, _>>()?;
        all.push((policy, rows));
    }
    Ok(all)
}

/// The name of the default policy, if its owner fixed it.
pub(crate) fn fixed_default(view: &dyn View) -> std::result::Result<Option<String>, namespace::Error> {
    if catalog::setting(view, FIXED)?.is_none() {
        return Ok(None);
    }
    Ok(catalog::setting(view, POLICY_SETTING)?.and_then(|name| String::from_utf8(name).ok()))
}

/// Adds this policy if there is none like it; gives its row.
pub(crate) fn ensure_policy(
    view: &dyn View,
    (coding, rule): &(Coding, Rule),
    batch: &mut Batch,
) -> std::result::Result<PolicyRow, namespace::Error> {
    let name = Rule { coding: Some(*coding), ..rule.clone() }.to_string();
    let rows = catalog::policies(view, None, usize::from(u16::MAX))?;
    if let Some(row) = rows.iter().find(|row| row.name == name) {
        return Ok(row.clone());
    }
    let id = PolicyId(rows.iter().map(|row| row.id.0).max().unwrap_or(0) + 1);
    let row = PolicyRow { id, coding: catalog::Coding { k: coding.k, m: coding.m }, ack: coding.ack() as u8, name };
    batch.puts.extend(catalog::put_policy(&row).puts);
    Ok(row)
}

/// The drives as the table sees them.
pub(crate) struct Fleet {
    /// Those that hold data, or will.
    all: Places,
    /// The same, of which only those that work take positions of lost ones.
    working: Places,
    /// Those whose positions go to others.
    leaving: BTreeSet<DriveId>,
    /// Nodes and drives that count for the default code.
    nodes: usize,
    drives: usize,
}

impl Fleet {
    pub fn load(view: &dyn View, up: &BTreeSet<DriveId>) -> std::result::Result<Self, namespace::Error> {
        let rows = catalog::drives(view, None, usize::from(u16::MAX))?;
        let nodes = catalog::nodes(view, None, usize::from(u16::MAX))?;
        let labels: BTreeMap<NodeId, Labels> = nodes.iter().map(|node| (node.id, labels(&node.labels))).collect();
        let stays = |row: &&catalog::DriveRow| {
            let node = row.node.and_then(|id| nodes.iter().find(|node| node.id == id));
            row.state == DriveState::Active && node.is_none_or(|node| node.state == NodeState::Active)
        };
        let active: Vec<&catalog::DriveRow> = rows.iter().filter(stays).collect();
        let leaving = rows.iter().filter(|row| !stays(row)).map(|row| row.id).collect();
        let weight = |row: &catalog::DriveRow| (row.size >> 20).max(1);
        let all = if nodes.is_empty() {
            Places::plain(active.iter().filter(|row| row.takes_data()).map(|row| (row.id, weight(row))))
        } else {
            let none = Labels::default();
            Places::new(active.iter().map(|row| {
                let node = row.node.unwrap_or(NodeId([0; 16]));
                let labels = labels.get(&node).unwrap_or(&none);
                placement::place::Given { drive: row.id, weight: weight(row), open: row.takes_data(), node, labels }
            }))
        };
        let mut working = all.clone();
        working.close_unless(|place| up.contains(&place.drive));
        // Of several drives that are known at one place all but one are gone, even if they don't count as lost yet.
        let mut places: BTreeMap<(Option<NodeId>, &str), bool> = BTreeMap::new();
        for row in active.iter().filter(|row| row.takes_data()) {
            *places.entry((row.node, &row.path)).or_default() |= up.contains(&row.id);
        }
        let nodes = active.iter().filter(|row| row.takes_data()).map(|row| row.node).collect::<BTreeSet<_>>().len();
        Ok(Self { all, working, leaving, nodes, drives: places.len() })
    }

    /// Drives of which nothing else is known.
    fn plain(all: Places) -> Self {
        let drives = all.list().len();
        Self { working: all.clone(), all, leaving: BTreeSet::new(), nodes: 1, drives }
    }

    /// The default policy as it should be now: its code, and the rest.
    pub fn default_policy(&self, view: &dyn View) -> std::result::Result<(Coding, Rule), namespace::Error> {
        let fixed = catalog::setting(view, FIXED)?.and_then(|text| String::from_utf8(text).ok());
        let rule = fixed.and_then(|text| Rule::parse(&text).ok()).unwrap_or_default();
        Ok((self.coding(&rule), rule))
    }

    /// The code of a rule; with too few drives left for it writes go on, with the code that fits.
    pub fn coding(&self, rule: &Rule) -> Coding {
        let (nodes, drives) = if rule.within.is_empty() {
            (self.nodes, self.drives)
        } else {
            let places = within(&self.all, rule);
            let nodes: BTreeSet<u32> = places.open().map(|(_, place)| place.at[Domain::Node as usize]).collect();
            (nodes.len(), places.open().count())
        };
        rule.coding.filter(|fixed| fixed.n() <= drives).unwrap_or_else(|| Coding::for_cluster(nodes, drives))
    }

    /// Reads a policy, and sees that these drives can meet it.
    ///
    /// # Errors
    /// What is wrong with it, or what there are too few of, with what would work.
    pub fn parse(&self, text: &str) -> Result<Rule> {
        let rule = Rule::parse(text).map_err(|error| Error::Invalid(error.to_string()))?;
        let coding = rule.coding.unwrap_or_else(|| self.coding(&rule));
        let spec = Spec { demands: rule.demands.clone(), ..Spec::new(coding.k, coding.m) };
        let codes = Coding::LADDER.map(|coding| (coding.k, coding.m));
        let met = Caps::check(&within(&self.all, &rule), &spec, &codes);
        met.map_err(|unmet| Error::Invalid(format!("{unmet}{}", self.nearest_label(&rule))))?;
        Ok(rule)
    }

    /// A word on labels that no node has.
    fn nearest_label(&self, rule: &Rule) -> String {
        let unknown = rule.within.iter().find(|(label, value)| {
            let alone = Rule { within: vec![(*label, value.clone())], ..Rule::default() };
            within(&self.all, &alone).open().next().is_none()
        });
        let Some((label, value)) = unknown else { return String::new() };
        let names = (0..self.all.count(*label)).map(|number| value_of(&self.all, *label, number as u32));
        let names: Vec<&str> = names.collect();
        match base::nearest::nearest(value, names.iter().copied().filter(|name| !name.is_empty())) {
            Some(near) => format!("; no node is labelled {label}={value}: did you mean {label}={near}?"),
            None => format!("; no node is labelled {label}={value}"),
        }
    }

    /// What a policy demands that these drives can't meet, if anything.
    pub fn unmet(&self, row: &PolicyRow) -> Option<String> {
        let (_, unmet) = Caps::best(&within(&self.all, &rule_of(row)), &spec_of(row));
        unmet.map(|unmet| unmet.to_string())
    }
}

/// What the default policy demands and doesn't get. A code that is too wide is narrowed: that is no demand.
pub(crate) fn unmet(view: &dyn View, up: &BTreeSet<DriveId>) -> std::result::Result<Option<String>, namespace::Error> {
    let (fleet, name) = (Fleet::load(view, up)?, catalog::setting(view, POLICY_SETTING)?.unwrap_or_default());
    let rows = catalog::policies(view, None, usize::from(u16::MAX))?;
    let default = rows.iter().find(|row| row.name.as_bytes() == name && !rule_of(row).demands.is_empty());
    Ok(default.and_then(|row| fleet.unmet(row)))
}

fn labels(pairs: &[(String, String)]) -> Labels {
    let mut labels = Labels::default();
    for (name, value) in pairs {
        if let Some(label) = Domain::LABELS.into_iter().find(|label| label.to_string() == *name) {
            // What was stored had the right form.
            let _ = labels.set(label, value);
        }
    }
    labels
}

/// What must change in the table, given which drives work just now.
fn table(view: &dyn View, up: &BTreeSet<DriveId>) -> std::result::Result<(Batch, bool), namespace::Error> {
    let fleet = Fleet::load(view, up)?;
    let mut batch = Batch::default();
    let default = ensure_policy(view, &fleet.default_policy(view)?, &mut batch)?;
    if catalog::setting(view, POLICY_SETTING)?.as_deref() != Some(default.name.as_bytes()) {
        batch.puts.extend(catalog::put_setting(POLICY_SETTING, Some(default.name.as_bytes())).puts);
    }
    let mut policies = load(view)?;
    if !policies.iter().any(|(row, _)| row.id == default.id) {
        policies.push((default, Vec::new()));
    }
    for (policy, rows) in policies {
        for row in changed(&policy, &rows, &fleet) {
            batch.puts.extend(catalog::put_group(policy.id, row.group, &row.encode()).puts);
        }
    }
    let changed = !batch.is_empty();
    Ok((batch, changed))
}

/// Rows of a policy that are new or change.
fn changed(policy: &PolicyRow, rows: &[GroupRow], fleet: &Fleet) -> Vec<GroupRow> {
    let (rule, spec) = (rule_of(policy), spec_of(policy));
    let (all, working) = (within(&fleet.all, &rule), within(&fleet.working, &rule));
    let (caps, _) = Caps::best(&all, &spec);
    let mut now: BTreeMap<GroupId, GroupRow> = rows.iter().map(|row| (row.group, row.clone())).collect();
    for row in spread::replace(&working, &caps, rows, &fleet.leaving) {
        now.insert(row.group, row);
    }
    let mut now: Vec<GroupRow> = now.into_values().collect();
    now.extend(spread::grow(&all, &spec, &caps, &now));
    now.into_iter().filter(|row| !rows.contains(row)).collect()
}

impl Inner {
    /// Drives that take new pieces: those here that have room, and those of other nodes that say so.
    pub fn with_room(&self) -> BTreeSet<DriveId> {
        let has_room = |drive: &&Arc<Mounted>| !drive.full.load(Ordering::Relaxed);
        let mut room: BTreeSet<DriveId> = self.fleet.up().iter().filter(has_room).map(|drive| drive.id).collect();
        if let Some(cluster) = self.cluster.get() {
            room.extend(cluster.remotes.with_room());
        }
        room
    }

    /// Makes the table follow the drives.
    pub async fn settle_groups(&self) -> Result<()> {
        // One does it for all.
        if !self.system.is_led_here() {
            return Ok(());
        }
        self.settle_groups_now().await
    }

    /// The same, whoever leads: before the table is relied on.
    pub async fn settle_groups_now(&self) -> Result<()> {
        let up = self.with_room();
        // Looked at first without taking a place in the journal's order: mostly nothing changes.
        if self.look(|view| table(view, &up))?.1 {
            self.change(move |view| table(view, &up)).await?;
            self.client.map_changed();
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Whether some group of the default policy has enough drives for a write.
    pub fn can_write(&self) -> Result<bool> {
        let up = self.with_room();
        self.look(|view| {
            let name = catalog::setting(view, POLICY_SETTING)?.unwrap_or_default();
            let policies = load(view)?;
            let default = policies.iter().find(|(policy, _)| policy.name.as_bytes() == name);
            Ok(default.is_some_and(|(policy, rows)| {
                let taking = |row: &GroupRow| row.members.iter().filter(|drive| up.contains(drive)).count();
                rows.iter().any(|row| taking(row) >= usize::from(policy.ack))
            }))
        })
    }

    /// Fixes how new data is coded; without a code it follows the number of drives.
    pub async fn fix_policy(&self, rule: &Rule) -> Result<()> {
        let text = Some(rule).filter(|rule| **rule != Rule::default()).map(Rule::to_string);
        self.change(move |view| {
            let same = catalog::setting(view, FIXED)? == text.as_ref().map(|text| text.as_bytes().to_vec());
            let batch =
                if same { Batch::default() } else { catalog::put_setting(FIXED, text.as_ref().map(String::as_bytes)) };
            Ok((batch, ()))
        })
        .await
    }

    /// Says that all pieces of a group are where its row says, if the row is still that one.
    pub async fn settle_group(&self, policy: PolicyId, row: &GroupRow) -> Result<()> {
        let seen = row.clone();
        self.change(|view| {
            let now = catalog::group(view, policy, seen.group)?.map(|bytes| GroupRow::decode(&bytes)).transpose()?;
            let batch = match now {
                Some(mut now) if now == seen => {
                    now.settle();
                    catalog::put_group(policy, now.group, &now.encode())
                }
                _ => Batch::default(),
            };
            Ok((batch, ()))
        })
        .await?;
        self.client.map_changed();
        Ok(())
    }

    /// A group's row as everybody has it.
    pub async fn newest_group(&self, policy: PolicyId, group: GroupId) -> Result<Option<GroupRow>> {
        let read = |view: &dyn View| Ok::<_, client::Error>(catalog::group(view, policy, group)?);
        let bytes = self.system.read(None, read).await?;
        Ok(bytes.map(|bytes| GroupRow::decode(&bytes)).transpose()?)
    }

    /// A group's row as the catalog here has it.
    pub fn group(&self, policy: PolicyId, group: GroupId) -> Result<Option<GroupRow>> {
        let bytes = self.look(|view| catalog::group(view, policy, group))?;
        Ok(bytes.map(|bytes| GroupRow::decode(&bytes)).transpose()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(k: u8, m: u8) -> PolicyRow {
        let name = Coding { k, m }.to_string();
        PolicyRow { id: PolicyId(1), coding: catalog::Coding { k, m }, ack: k, name }
    }

    fn fleet(ids: std::ops::RangeInclusive<u8>, leaving: &[u8]) -> Fleet {
        let drives = ids.clone().count();
        let all = Places::plain(ids.map(|id| (DriveId([id; 16]), 1)));
        let leaving = leaving.iter().map(|id| DriveId([*id; 16])).collect();
        Fleet { working: all.clone(), all, leaving, nodes: 1, drives }
    }

    #[test]
    fn a_lost_drive_leaves_every_group_that_another_drive_can_join() {
        let rows = changed(&policy(3, 2), &[], &fleet(1..=6, &[]));
        assert!(rows.len() >= 12);
        let five = fleet(1..=5, &[6]);
        let moved = changed(&policy(3, 2), &rows, &five);
        assert!(!moved.is_empty());
        for row in &moved {
            assert!(!row.members.contains(&DriveId([6; 16])) && row.moving().count() == 1);
        }
        let mut now: BTreeMap<GroupId, GroupRow> = rows.into_iter().map(|row| (row.group, row)).collect();
        now.extend(moved.into_iter().map(|row| (row.group, row)));
        let now: Vec<GroupRow> = now.into_values().collect();
        assert!(changed(&policy(3, 2), &now, &five).is_empty(), "a settled table changes nothing");
    }

    #[test]
    fn a_new_drive_gets_groups_and_old_ones_stay() {
        let rows = changed(&policy(3, 2), &[], &fleet(1..=6, &[]));
        let more = changed(&policy(3, 2), &rows, &fleet(1..=7, &[]));
        assert!(more.iter().any(|row| row.members.contains(&DriveId([7; 16]))));
        assert!(more.iter().all(|row| row.group.0 as usize >= rows.len()));
    }

    #[test]
    fn a_code_for_more_drives_than_there_are_is_refused_with_what_would_work() {
        let text = parse("4+2", 5).unwrap_err().to_string();
        assert!(text.contains("needs 6 drives, and there are 5") && text.contains("which would work"), "{text}");
        assert_eq!(parse("default", 1).unwrap(), Rule::default());
    }

    /// Six nodes with two drives each, half of them at each of two sites.
    fn two_sites() -> Fleet {
        let node = |number: u8| {
            let mut labels = Labels::default();
            labels.set(Domain::Site, if number <= 3 { "office" } else { "attic" }).unwrap();
            (NodeId([number; 16]), labels)
        };
        let nodes: Vec<_> = (1..=6).map(node).collect();
        let drives = (0..12_u8).map(|drive| {
            let (node, labels) = &nodes[usize::from(drive / 2)];
            placement::place::Given { drive: DriveId([drive; 16]), weight: 1, open: true, node: *node, labels }
        });
        Fleet { nodes: 6, ..Fleet::plain(Places::new(drives)) }
    }

    fn sites_of(row: &GroupRow) -> [usize; 2] {
        let office = row.members.iter().filter(|drive| drive.0[0] < 6).count();
        [office, row.members.len() - office]
    }

    #[test]
    fn groups_keep_what_a_policy_demands_and_where_it_may_be() {
        let fleet = two_sites();
        let groups = |text: &str| {
            let rule = fleet.parse(text).unwrap();
            let mut row = policy(rule.coding.unwrap().k, rule.coding.unwrap().m);
            row.name = rule.to_string();
            assert_eq!(fleet.unmet(&row), None);
            changed(&row, &[], &fleet)
        };
        assert!(groups("2+2 surviving 1 site").iter().all(|row| sites_of(row) == [2, 2]));
        assert!(groups("2+1 in site=attic").iter().all(|row| sites_of(row) == [0, 3]));
        assert!(!groups("3 copies surviving 2 nodes").is_empty());
    }

    #[test]
    fn drives_of_no_size_take_no_positions_and_don_t_count() {
        let mut view: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for number in 1..=9_u8 {
            let (id, node) = (DriveId([number; 16]), NodeId([number; 16]));
            let size = if number > 6 { 0 } else { 1 << 40 };
            let drive = catalog::DriveRow {
                id,
                path: "/d".into(),
                state: DriveState::Active,
                size,
                added: base::Wall(0),
                node: Some(node),
            };
            let row = catalog::NodeRow {
                id: node,
                key: [number; 32],
                serial: 1,
                since: base::Epoch(1),
                state: NodeState::Active,
                name: format!("n{number}"),
                addresses: Vec::new(),
                labels: Vec::new(),
                joined: base::Wall(0),
            };
            view.extend(catalog::put_drive(&drive).puts.into_iter().chain(catalog::put_node(&row).unwrap().puts));
        }
        let up = (1..=9).map(|number| DriveId([number; 16])).collect();
        let fleet = Fleet::load(&view, &up).unwrap();
        assert_eq!((fleet.nodes, fleet.drives, fleet.coding(&Rule::default())), (6, 6, Coding::for_cluster(6, 6)));
        let rows = changed(&policy(4, 2), &[], &fleet);
        assert!(!rows.is_empty() && rows.iter().all(|row| row.members.iter().all(|drive| drive.0[0] <= 6)));
        let text = fleet.parse("6+3").unwrap_err().to_string();
        assert!(text.contains("there are 6"), "{text}");
    }

    #[test]
    fn a_policy_that_needs_more_domains_than_there_are_is_refused_with_what_would_work() {
        let fleet = two_sites();
        for (text, says) in [
            ("4+2 surviving 1 site", ["needs 3 sites", "there are 2"]),
            ("3 copies surviving 1 country", ["needs 2 countries", "label nodes of"]),
            ("4+2 in site=atic", ["needs 6 drives", "did you mean site=attic?"]),
            ("4+2 surviving 1 siet", ["did you mean", "site"]),
            ("2+2 surviving 1 site in site=office", ["needs 2 sites", "there is 1"]),
            ("3 copies surviving 1 node and 2 nodes", ["said twice", "node"]),
        ] {
            let error = fleet.parse(text).unwrap_err().to_string();
            assert!(says.iter().all(|word| error.contains(word)), "{text}: {error}");
        }
    }
}
