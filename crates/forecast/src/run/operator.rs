//! Somebody types commands: sensible ones, and slips. Each passes the gate that a store's commands pass.
//!
//! 1. What the gate refuses isn't done, unless the fleet says so: nobody here repeats a code.
//! 2. Whatever is done is looked at afterwards from the drives themselves ([`World::readable_pieces`]): the gate isn't asked
//!    whether it was right.
//! 3. Its chance is its own: the same seed gives the same failures with and without an operator.

use std::collections::{BTreeMap, BTreeSet};

use base::{Demand, Domain, NodeId};
use placement::gate::{self, Change, Contents, Situation, Target};
use placement::map::{Map, State};
use placement::outcome::Faults;

use super::{Run, What, YEAR};
use crate::fleet::id;

/// Complaints that are kept with their words.
const COMPLAINTS_MAX: usize = 8;
/// One of so many nodes, but one at least, may be on its way out before a sensible operator waits.
const OUT_OF: usize = 20;
/// Kinds of slips.
const SLIPS: usize = 10;
/// What an operator's chance is mixed with.
const SALT: u64 = 0x6f70_6572_6174_6f72;

/// The operator's seed.
pub(super) fn seed(seed: u64) -> u64 {
    seed ^ SALT
}

/// What somebody wants.
enum Wish {
    /// To change something that must be asked for.
    Ask(&'static str, Change),
    /// To put new machines where some were taken out.
    Add(u32),
    /// To use again what was drained by a slip.
    Stop,
}

impl Run<'_> {
    pub(super) fn plan_command(&mut self) {
        let wait = self.whim.wait(self.fleet.operator.commands);
        self.after(wait * YEAR, What::Command);
    }

    pub(super) fn command(&mut self) {
        if self.whim.happens(self.fleet.operator.typos) {
            let (kind, change) = self.slip();
            let in_use = |run: &Self, drive: &u32| run.world.state(*drive) == State::Active;
            let before: BTreeSet<u32> = (0..self.node_of.len() as u32).filter(|drive| in_use(self, drive)).collect();
            if self.ask(kind, true, &change) && matches!(change, Change::Drain(_)) {
                let drained = before.into_iter().filter(|drive| self.world.state(*drive) == State::Draining);
                self.slipped.extend(drained.collect::<Vec<_>>());
            }
        } else {
            match self.wish() {
                Wish::Ask(kind, change) => _ = self.ask(kind, false, &change),
                Wish::Add(node) => {
                    self.count("add a machine", false, true);
                    self.join(node);
                }
                Wish::Stop => {
                    self.count("stop a drain", false, true);
                    let slipped = std::mem::take(&mut self.slipped);
                    self.world.keep(&slipped);
                    self.even();
                }
            }
        }
        self.plan_command();
    }

    fn count(&mut self, kind: &'static str, is_slip: bool, is_done: bool) -> bool {
        let asked = self.world.tally.orders.kinds.entry(kind).or_default();
        asked.is_slip = is_slip;
        asked.asked += 1;
        asked.done += u64::from(is_done);
        is_done
    }

    /// Asks the gate, and does what it permits. Whether it was done.
    pub(super) fn ask(&mut self, kind: &'static str, is_slip: bool, change: &Change) -> bool {
        let map = self.world.map(self.fleet, 1);
        let (down, away, held) = (self.world.down(), self.nodes_away(), self.world.held());
        // Where the metadata's voters are isn't simulated.
        let (voters, held) = (&[], &held);
        let situation = Situation { down: &down, away: &away, voters, held, faults: Faults::default() };
        let judged = gate::judge(&map, change, &situation);
        let is_permitted = judged.as_ref().is_ok_and(|outcome| outcome.permit(None).is_ok());
        let is_done = is_permitted || (self.fleet.operator.ignores_gate && judged.is_ok());
        let asked = self.count(kind, is_slip, is_done);
        if !is_permitted && let Some(counted) = self.world.tally.orders.kinds.get_mut(kind) {
            counted.refused += 1;
        }
        if asked {
            let before = (self.world.readable_pieces(), self.world.tally.losses.len());
            self.carry_out(&map, change);
            self.look(change, before);
        }
        asked
    }

    fn carry_out(&mut self, map: &Map, change: &Change) {
        let state = match change {
            Change::Drain(_) => State::Draining,
            Change::Remove(_) => State::Removed,
            Change::Expunge(_) => State::Gone,
            // New data isn't simulated, nor what is deleted: nothing to do but to look.
            _ => return,
        };
        let Ok(after) = gate::apply(map, change) else { return };
        let drives = self.drives_named(map, change);
        let rows = after.policies.first().map(|policy| policy.groups.as_slice()).unwrap_or_default();
        let found = self.world.order(&drives, state, rows, self.now);
        self.begin_all(found);
    }

    /// What a command did to groups, by where their pieces are. Promised is that no data is deleted, that new data is as safe
    /// as the old, and that what has fewer pieces than before has one to spare still.
    fn look(&mut self, change: &Change, (before, lost): (Vec<u8>, usize)) {
        let (k, m) = self.world.code();
        let floor = k + m.min(1);
        let after = self.world.readable_pieces();
        let both = before.iter().zip(&after).enumerate();
        let bare = both.filter(|(_, (was, is))| is < was && **is < floor).count();
        let lost = self.world.tally.losses.len() - lost;
        let why = match change {
            Change::DeleteBucket { contents, .. } | Change::PurgeTrash { contents } if contents.objects > 0 => {
                Some(format!("{contents} are gone"))
            }
            Change::SetPolicy { k: new_k, m: new_m, ack, .. }
                if *new_m < m || ack - new_k < self.fleet.coding().ack() as u8 - k =>
            {
                Some(format!("new data has {new_m} spare pieces rather than {m}"))
            }
            _ if bare > 0 => Some(format!("{bare} groups have no piece to spare, {lost} of them are lost")),
            _ => None,
        };
        if let Some(why) = why {
            let orders = &mut self.world.tally.orders;
            orders.broken += 1;
            if orders.complaints.len() < COMPLAINTS_MAX {
                orders.complaints.push(format!("{}: {why}", shortened(&change.to_string())));
            }
        }
    }

    fn drives_named(&self, map: &Map, change: &Change) -> Vec<u32> {
        let Ok((nodes, mut drives)) = gate::named_by(map, change) else { return Vec::new() };
        drives.extend(map.drives_of(&nodes));
        drives.into_iter().filter_map(|drive| self.world.drive_number(drive)).collect()
    }

    fn nodes_away(&self) -> BTreeSet<NodeId> {
        let is_away = |node: &usize| {
            let mut drives = self.drives_of[*node].iter();
            self.is_member(*node) && drives.all(|drive| !self.world.answers(*drive))
        };
        (0..self.drives_of.len()).filter(is_away).map(|node| NodeId(id(node, b"node"))).collect()
    }

    /// Whether a node has drives that weren't taken out.
    pub(super) fn is_member(&self, node: usize) -> bool {
        self.drives_of[node].iter().any(|drive| self.world.state(*drive) < State::Gone)
    }

    fn members(&self) -> Vec<usize> {
        (0..self.drives_of.len()).filter(|node| self.is_member(*node)).collect()
    }

    pub(super) fn node(&self, node: usize) -> Target {
        Target::Node(self.fleet.machines[node].name.clone())
    }

    fn any_node(&mut self, of: &[usize]) -> Option<usize> {
        (!of.is_empty()).then(|| of[self.whim.below(of.len())])
    }

    /// Something that a sensible operator does next.
    fn wish(&mut self) -> Wish {
        if !self.slipped.is_empty() {
            return Wish::Stop;
        }
        let mut wishes = vec![
            Wish::Ask("delete an empty bucket", delete(Contents::default())),
            Wish::Ask("take a stronger policy", self.policy(1, 1, Vec::new())),
        ];
        if let Some(target) = self.emptied() {
            wishes = vec![Wish::Ask("remove what is empty or dead", Change::Remove(vec![target]))];
        }
        let members = self.members();
        let taken_out = |node: &usize| {
            let is_out = |drive: &u32| self.world.state(*drive) >= State::Gone;
            !self.apart.contains(&(*node as u32)) && self.drives_of[*node].iter().any(is_out)
        };
        let out: Vec<usize> = (0..self.drives_of.len()).filter(taken_out).collect();
        if let Some(node) = self.any_node(&out) {
            wishes.push(Wish::Add(node as u32));
        }
        if out.len() < (members.len() / OUT_OF).max(1)
            && let Some(node) = self.any_node(&members)
        {
            let drive = self.drives_of[node][self.whim.below(self.drives_of[node].len())];
            wishes.push(match self.whim.below(2) {
                0 => Wish::Ask("drain a node", Change::Drain(vec![self.node(node)])),
                _ => Wish::Ask("drain a drive", Change::Drain(vec![self.drive(drive)])),
            });
        }
        let one = self.whim.below(wishes.len());
        wishes.swap_remove(one)
    }

    fn drive(&self, drive: u32) -> Target {
        Target::Drive(self.world.drive_id(drive).to_string())
    }

    /// A node, or else a drive, that was emptied or is dead, and that nothing is left to hope from.
    fn emptied(&mut self) -> Option<Target> {
        let is_out = |drive: &u32| {
            let state = self.world.state(*drive);
            let is_over = state == State::Draining || (state == State::Active && self.world.is_known_dead(*drive));
            is_over && self.world.is_empty(*drive)
        };
        let found: Vec<u32> = (0..self.node_of.len() as u32).filter(is_out).collect();
        if found.is_empty() {
            return None;
        }
        let drive = found[self.whim.below(found.len())];
        let node = self.node_of[drive as usize] as usize;
        let is_whole = self.drives_of[node].iter().all(|drive| found.contains(drive));
        Some(if is_whole { self.node(node) } else { self.drive(drive) })
    }

    /// The policy with another code and other demands.
    fn policy(&self, k_less: u8, m_more: u8, demands: Vec<Demand>) -> Change {
        let (k, m) = self.world.code();
        let code = policy::Coding { k: k.saturating_sub(k_less).max(1), m: m + m_more };
        let (whose, from, within) = ("all".into(), crate::world::POLICY, self.fleet.rule.within.clone());
        let demands = if demands.is_empty() { self.fleet.rule.demands.clone() } else { demands };
        Change::SetPolicy { whose, from, k: code.k, m: code.m, ack: code.ack() as u8, demands, within }
    }

    /// Something that nobody would want.
    fn slip(&mut self) -> (&'static str, Change) {
        let [kind, any_site, any_node] = [(); 3].map(|_| self.whim.below(usize::MAX));
        let members = self.members();
        let all = |nodes: &[usize]| nodes.iter().map(|node| self.node(*node)).collect::<Vec<_>>();
        let contents = {
            let (k, groups) = (f64::from(self.world.code().0), self.world.tally.groups);
            Contents { objects: groups as u64, bytes: (self.world.tally.position_bytes * k) as u64 * groups as u64 }
        };
        let sites: BTreeMap<&str, Vec<usize>> = members.iter().fold(BTreeMap::new(), |mut sites, node| {
            let site = self.fleet.machines[*node].labels.get(Domain::Site);
            sites.entry(site).or_insert_with(Vec::new).push(*node);
            sites
        });
        let site = sites.iter().nth(any_site % sites.len().max(1));
        let site: Vec<Target> = match site {
            Some((name, _)) if !name.is_empty() => vec![Target::Domain(Domain::Site, (*name).to_owned())],
            _ => all(&members),
        };
        let one = members.get(any_node % members.len().max(1)).copied().unwrap_or_default();
        let unmet = vec![Demand { count: self.world.code().1 + 1, domain: Domain::Node }];
        match kind % SLIPS {
            0 => ("remove all but one", Change::Remove(all(&members[members.len().min(1)..]))),
            1 => ("drain a whole site", Change::Drain(site)),
            2 => ("drain the last site", Change::Drain(all(&members))),
            3 => ("take a policy of less parity", self.weaker_policy()),
            4 => ("take a policy that can't be met", self.policy(0, 0, unmet)),
            5 => ("purge the trash", Change::PurgeTrash { contents }),
            6 => ("delete a full bucket", delete(contents)),
            7 => ("declare a node lost that isn't", Change::Expunge(vec![self.node(one)])),
            8 => ("declare a site lost that isn't", Change::Expunge(site)),
            _ => {
                let name = format!("{}-of-nobody", self.fleet.machines[one].name);
                ("remove what isn't there", Change::Remove(vec![Target::Node(name)]))
            }
        }
    }

    /// The same pieces that suffice, half as many to spare, and demands that this could meet.
    fn weaker_policy(&self) -> Change {
        let (k, m) = self.world.code();
        let code = policy::Coding { k, m: m / 2 };
        let (whose, from, within) = ("all".into(), crate::world::POLICY, self.fleet.rule.within.clone());
        Change::SetPolicy { whose, from, k, m: code.m, ack: code.ack() as u8, demands: Vec::new(), within }
    }
}

fn delete(contents: Contents) -> Change {
    Change::DeleteBucket { bucket: "photos".into(), contents }
}

/// Eleven names of a thousand are enough to know a command by.
fn shortened(text: &str) -> String {
    let many = text.split(", ").count();
    let first: Vec<&str> = text.split(", ").take(3).collect();
    if many > 3 { format!("{} and {} more", first.join(", "), many - 3) } else { text.to_owned() }
}
