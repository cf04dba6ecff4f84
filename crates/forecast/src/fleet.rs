//! Machines, what befalls them, and how they are looked after.

use std::collections::BTreeSet;

use base::{Domain, DriveId, Kind, Kinded, NodeId};
use placement::place::Given;
use placement::{Caps, Labels, Places, Spec, Unmet, labels};
use policy::{Coding, Rule};

/// Nodes of a fleet at the most.
pub const NODES_MAX: usize = 20_000;
/// Drives of a fleet at the most: those that a cluster map may have.
pub const DRIVES_MAX: usize = placement::map::DRIVES_MAX;

/// Why a fleet isn't simulated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The file is no TOML.
    #[error("the fleet can't be read: {0}")]
    Form(String),
    /// Something in it can't be.
    #[error("{at}: {why}")]
    Value {
        /// Where: `repair.after_minutes`, `node 3`.
        at: String,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// Its policy can't be met by its drives.
    #[error("policy: {0}")]
    Unmet(#[from] Unmet),
}

impl Error {
    pub(crate) fn value(at: impl Into<String>, why: impl Into<String>) -> Self {
        Error::Value { at: at.into(), why: why.into() }
    }
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Its drives, in bytes.
    pub drives: Vec<u64>,
}

/// What an [`Event`] hits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Strikes {
    /// One domain of a kind, any of them.
    One(Domain),
    /// This share of the nodes, whichever: those of one version.
    Share(f64),
    /// Everything.
    All,
}

/// Something that hits many drives at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What it hits.
    pub strikes: Strikes,
    /// How often a year; for [`Strikes::One`] how often each domain is hit.
    pub per_year: f64,
    /// The share of the drives hit that never comes back.
    pub dead: f64,
    /// How long the others are away, in hours.
    pub hours: f64,
}

/// Who types commands: sensible ones, and slips.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Operator {
    /// Commands in a year; 0: there is nobody.
    pub commands: f64,
    /// The share of them that are slips: eleven nodes instead of one, the wrong policy, the last site.
    pub typos: f64,
    /// Whether what the gate refuses is done all the same. No file says so: it is there to show that the years'
    /// own check notices what comes of it.
    pub ignores_gate: bool,
}

/// Nodes that come, and perhaps go, by and by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// Nodes on the first day: the first ones of the list. The others join in its order.
    pub first: usize,
    /// How many join, and later leave, in a day.
    pub per_day: f64,
    /// Nodes that are left in the end. Once all have joined the first ones of the list leave by being drained and removed,
    /// each when the gate permits it. As many as there are: none leaves.
    pub left: usize,
}

/// Machines, hazards and upkeep. Rates are per year of 365 days.
#[derive(Clone, Debug, PartialEq)]
pub struct Fleet {
    /// The nodes.
    pub machines: Vec<Machine>,
    /// How data is coded and spread.
    pub rule: Rule,
    /// The share of the usable room that is taken.
    pub used: f64,
    /// How many of a drive die in a year.
    pub drive_fails: f64,
    /// Days between the days on which dead drives are replaced by new ones.
    pub replace_days: f64,
    /// How often a node is away in a year.
    pub outages: f64,
    /// For how many minutes: half of the outages are shorter.
    pub outage_minutes: f64,
    /// The standard deviation of the logarithm of that (log-normal).
    pub outage_spread: f64,
    /// Minutes that a drive is waited for before its pieces are rebuilt.
    pub after_minutes: f64,
    /// What a drive reads or writes for repair, in MB/s.
    pub drive_mb_s: f64,
    /// What a node's network moves for repair, in MB/s.
    pub node_mb_s: f64,
    /// Nodes that rebuild at once; 0 for all.
    pub workers: usize,
    /// What hits many at once.
    pub events: Vec<Event>,
    /// Who types commands.
    pub operator: Operator,
    /// Nodes that aren't there from the first day.
    pub growth: Option<Growth>,
    /// After so many days nothing fails any more and nobody types: to see how soon all is whole again. No file says so.
    pub calm_after_days: Option<f64>,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            machines: Vec::new(),
            rule: Rule::default(),
            used: 0.5,
            // Backblaze's drives, 2013 to 2025: 1.3 to 1.5 % a year.
            drive_fails: 0.015,
            replace_days: 7.0,
            outages: 12.0,
            outage_minutes: 10.0,
            outage_spread: 1.0,
            // A node counts as gone after an hour (`liveness`).
            after_minutes: 60.0,
            drive_mb_s: 50.0,
            node_mb_s: 100.0,
            // Each node rebuilds what it gets.
            workers: 0,
            events: Vec::new(),
            operator: Operator::default(),
            growth: None,
            calm_after_days: None,
        }
    }
}

/// 0.05 % a day.
pub const STRESS_PER_YEAR: f64 = 0.0005 * 365.0;

impl Fleet {
    /// 10,000 drives of 16 TB in 20 sites of 5 racks of 10 nodes of 10 drives, 8+4, 80 % full, 100 owners, of which 0.05 %
    /// die a day: five a day. `correlated`: besides, racks lose power, sites burn, owners leave, an upgrade takes a tenth of
    /// the nodes away, and once a month everything loses power and 1 % stays dead.
    pub fn ten_thousand(correlated: bool) -> Self {
        Self::grid([20, 5, 10, 10], correlated)
    }

    /// The same in another size: sites, racks of each, nodes of each, drives of each.
    pub fn grid([sites, racks, nodes, drives]: [usize; 4], correlated: bool) -> Self {
        let machine = |number: usize| {
            let (rack, site) = (number / nodes, number / nodes / racks);
            let owner = number % 100;
            let mut labels = Labels::default();
            for (label, value) in [
                (Domain::Site, format!("s{site}")),
                (Domain::Rack, format!("r{}", rack % racks)),
                (Domain::Owner, format!("o{owner}")),
            ] {
                // These have the form of a label.
                let _ = labels.set(label, &value);
            }
            Machine { name: format!("n{number}"), labels, drives: vec![16_000_000_000_000; drives] }
        };
        let hit = |strikes, per_year, dead, hours| Event { strikes, per_year, dead, hours };
        let events = vec![
            hit(Strikes::One(Domain::Rack), 0.5, 0.0, 2.0),
            hit(Strikes::One(Domain::Site), 0.5, 0.0, 4.0),
            hit(Strikes::One(Domain::Site), 0.05, 1.0, 0.0),
            hit(Strikes::One(Domain::Owner), 0.02, 1.0, 0.0),
            hit(Strikes::Share(0.1), 4.0, 0.0, 3.0),
            hit(Strikes::All, 12.0, 0.01, 0.5),
        ];
        Self {
            machines: (0..sites * racks * nodes).map(machine).collect(),
            rule: Rule { coding: Coding::new(8, 4), ..Rule::default() },
            used: 0.8,
            drive_fails: STRESS_PER_YEAR,
            node_mb_s: 500.0,
            workers: 0,
            events: if correlated { events } else { Vec::new() },
            ..Self::default()
        }
    }

    /// All drives.
    pub fn drives(&self) -> usize {
        self.machines.iter().map(|machine| machine.drives.len()).sum()
    }

    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.machines.iter().flat_map(|machine| &machine.drives).sum()
    }

    /// The code: as the rule says, or what the ladder takes.
    pub fn coding(&self) -> Coding {
        self.rule.coding.unwrap_or_else(|| Coding::for_cluster(self.machines.len(), self.drives()))
    }

    /// What it asks of placement.
    pub fn spec(&self) -> Spec {
        let coding = self.coding();
        Spec { k: coding.k, m: coding.m, demands: self.rule.demands.clone() }
    }

    /// The drives as placement sees them; number i of the list is drive i of the fleet, in the order of its nodes.
    pub fn places(&self) -> Places {
        let mut given = Vec::with_capacity(self.drives());
        for (number, machine) in self.machines.iter().enumerate() {
            let open = self.admits(&machine.labels);
            for size in &machine.drives {
                let drive = DriveId(id(given.len(), b"drive"));
                let node = NodeId(id(number, b"node"));
                given.push(Given { drive, weight: (size >> 20).max(1), open, node, labels: &machine.labels });
            }
        }
        Places::new(given)
    }

    /// By drive, the node it is on.
    pub fn node_of_drives(&self) -> Vec<u32> {
        let each = self.machines.iter().enumerate();
        each.flat_map(|(number, machine)| machine.drives.iter().map(move |_| number as u32)).collect()
    }

    fn admits(&self, labels: &Labels) -> bool {
        let within = &self.rule.within;
        within
            .iter()
            .all(|(label, _)| within.iter().any(|(other, value)| other == label && labels.get(*label) == value))
    }

    /// Whether its numbers can be, and its policy can be met.
    pub fn check(&self) -> Result<Caps, Error> {
        self.check_numbers()?;
        for (label, value) in &self.rule.within {
            let known = self.machines.iter().map(|machine| &machine.labels);
            labels::known_value(*label, value, known).map_err(|why| Error::value("policy", why))?;
        }
        let codes: Vec<(u8, u8)> = Coding::LADDER.iter().rev().map(|code| (code.k, code.m)).collect();
        Ok(Caps::check(&self.places(), &self.spec(), &codes)?)
    }

    fn check_numbers(&self) -> Result<(), Error> {
        if self.machines.is_empty() || self.machines.len() > NODES_MAX || self.drives() > DRIVES_MAX {
            let why =
                format!("a fleet has 1 to {NODES_MAX} nodes and up to {DRIVES_MAX} drives; write [[node]] tables");
            return Err(Error::value("node", why));
        }
        for machine in &self.machines {
            if machine.drives.is_empty() || machine.drives.contains(&0) {
                let why = "a node needs drives, each larger than 0: drives = [\"4 TB\", \"4 TB\"]";
                return Err(Error::value(format!("node {:?}", machine.name), why));
            }
        }
        let names: BTreeSet<&str> = self.machines.iter().map(|machine| machine.name.as_str()).collect();
        if names.len() < self.machines.len() {
            return Err(Error::value("node", "two nodes have the same name"));
        }
        let rate = 0.0..=1e6;
        let some = 1e-6..=1e9;
        let mut numbers = vec![
            ("used".to_owned(), self.used, 0.0..=0.95),
            ("drives.fail_per_year".to_owned(), self.drive_fails, rate.clone()),
            ("drives.replace_days".to_owned(), self.replace_days, 0.01..=36_500.0),
            ("nodes.outages_per_year".to_owned(), self.outages, rate.clone()),
            ("nodes.outage_minutes".to_owned(), self.outage_minutes, some.clone()),
            ("nodes.outage_spread".to_owned(), self.outage_spread, 0.0..=10.0),
            ("repair.after_minutes".to_owned(), self.after_minutes, 0.0..=1e6),
            ("repair.drive_mb_per_s".to_owned(), self.drive_mb_s, some.clone()),
            ("repair.node_mb_per_s".to_owned(), self.node_mb_s, some),
            ("operator.commands_per_year".to_owned(), self.operator.commands, rate.clone()),
            ("operator.typos".to_owned(), self.operator.typos, 0.0..=1.0),
        ];
        if let Some(growth) = self.growth {
            let nodes = self.machines.len() as f64;
            numbers.push(("growth.first".to_owned(), growth.first as f64, 1.0..=nodes));
            numbers.push(("growth.per_day".to_owned(), growth.per_day, 0.01..=1e4));
            numbers.push(("growth.left".to_owned(), growth.left as f64, 1.0..=nodes));
        }
        for (number, event) in self.events.iter().enumerate() {
            let at = |what| format!("event {}: {what}", number + 1);
            numbers.push((at("per_year"), event.per_year, rate.clone()));
            numbers.push((at("dead"), event.dead, 0.0..=1.0));
            numbers.push((at("hours"), event.hours, 0.0..=1e6));
            if let Strikes::Share(share) = event.strikes {
                numbers.push((at("strikes"), share, 0.0..=1.0));
            }
        }
        match numbers.into_iter().find(|(_, value, range)| !range.contains(value)) {
            Some((at, value, range)) => {
                Err(Error::value(at, format!("{value} is not from {} to {}", range.start(), range.end())))
            }
            None => Ok(()),
        }
    }
}

/// An id that depends on a number alone.
pub(crate) fn id(number: usize, kind: &[u8]) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(number as u64 + 1).to_be_bytes());
    id[8..8 + kind.len()].copy_from_slice(kind);
    id
}
