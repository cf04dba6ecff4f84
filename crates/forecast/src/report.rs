//! What a fleet's owner wants to know, as a table and as JSON.

use base::Domain;
use durability::{Chain, any_of};
use placement::{GroupRow, Places, Survival, spread, survive};
use serde_json::{Value, json};

use crate::fleet::{Error, Fleet, Machine};
use crate::run::run;
use crate::tally::{Asked, Orders, Tally};

/// Fleets with more nodes aren't asked what one more would change: next to nothing.
const MORE_NODES_MAX: usize = 200;
/// Places for one more machine that are tried at the most.
const MORE_TRIES_MAX: usize = 12;
/// Domains of a kind that are shown in the table, the worst first.
const SHOWN_MAX: usize = 3;

/// What the loss of one domain would cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// What kind of domain.
    pub kind: Domain,
    /// Its name.
    pub name: String,
    /// Groups that couldn't be read any more.
    pub unreadable: usize,
    /// Groups that could be read and would have nothing to spare.
    pub bare: usize,
    /// Bytes to rebuild.
    pub rebuild_bytes: f64,
    /// Days that takes, if all nodes that rebuild are busy with it.
    pub rebuild_days: f64,
}

/// What one more machine would change.
#[derive(Clone, Debug, PartialEq)]
pub struct More {
    /// Like which one, and where.
    pub what: String,
    /// Bytes of data that could be stored then.
    pub data_bytes: f64,
    /// The code then.
    pub code: String,
    /// What would be survived.
    pub survival: Survival,
}

/// All of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The code.
    pub code: String,
    /// Nodes.
    pub nodes: usize,
    /// Bytes of data that could be stored.
    pub data_bytes: f64,
    /// What is survived at full strength.
    pub survival: Survival,
    /// The run.
    pub tally: Tally,
    /// Its seed.
    pub seed: u64,
    /// A group's probability of loss in a year by the exact chain, failures being independent and repairs taking as
    /// long as they did in the run.
    pub chain_per_group: f64,
    /// Days to repair that the chain was given.
    pub chain_days: f64,
    /// What the loss of each domain would cost, the worst of each kind first.
    pub costs: Vec<Cost>,
    /// The best place for one more machine.
    pub more: Option<More>,
}

/// Simulates a fleet and says what comes of it.
pub fn report(fleet: &Fleet, years: f64, seed: u64) -> Result<Report, Error> {
    let tally = run(fleet, years, seed)?;
    let (code, table) = (fleet.coding(), Table::of(fleet)?);
    let chain_days = if tally.waits > 0 { tally.repair_days() } else { estimated_days(fleet, &tally) };
    let chain = Chain::eager(code.k, code.m, fleet.drive_fails / durability::YEAR_DAYS, chain_days);
    Ok(Report {
        code: fleet.spec().text(),
        nodes: fleet.machines.len(),
        data_bytes: table.data_bytes,
        survival: table.survival(code.m),
        chain_per_group: chain.map_err(|error| Error::value("drives", error.to_string()))?.loss_per_year(),
        chain_days,
        costs: costs(fleet, &table, &tally),
        more: more(fleet, &table),
        tally,
        seed,
    })
}

/// Days from a loss to its repair, if no drive died in the run: the wait, and half the time that a drive's pieces take.
fn estimated_days(fleet: &Fleet, tally: &Tally) -> f64 {
    let drive = tally.stored_bytes / tally.drives.max(1) as f64;
    fleet.after_minutes / 1440.0 + rebuild_days(fleet, drive) / 2.0
}

/// Days to rebuild so many bytes: every piece is made of k others that pass through a node that rebuilds.
fn rebuild_days(fleet: &Fleet, bytes: f64) -> f64 {
    let workers = if fleet.workers == 0 { fleet.machines.len() } else { fleet.workers.min(fleet.machines.len()) };
    bytes * f64::from(fleet.coding().k + 1) / (workers as f64 * fleet.node_mb_s * 1e6) / 86_400.0
}

/// A fleet's groups at full strength.
struct Table {
    places: Places,
    rows: Vec<GroupRow>,
    data_bytes: f64,
}

impl Table {
    fn of(fleet: &Fleet) -> Result<Self, Error> {
        let (caps, places, spec) = (fleet.check()?, fleet.places(), fleet.spec());
        let rows = spread::build(&places, &spec, &caps);
        let usable = fleet.bytes() as f64 * f64::from(caps.usable_permille) / 1000.0;
        Ok(Self { places, rows, data_bytes: usable * f64::from(spec.k) / spec.n() as f64 })
    }

    fn survival(&self, parity: u8) -> Survival {
        survive::survives([(parity, self.rows.as_slice())], &self.places, &Default::default())
    }
}

/// For each domain of each kind that is told apart.
fn costs(fleet: &Fleet, table: &Table, tally: &Tally) -> Vec<Cost> {
    let (places, coding) = (&table.places, fleet.coding());
    let mut costs = Vec::new();
    let told_apart = |kind: &Domain| places.knows(*kind) && places.count(*kind) > 1;
    for kind in [Domain::Site, Domain::Rack, Domain::Node].into_iter().filter(told_apart) {
        let mut counted = vec![(0, 0, 0); places.count(kind)];
        for row in &table.rows {
            let mut numbers: Vec<u32> = (row.members.iter())
                .filter_map(|drive| places.get(*drive).map(|place| place.at[kind as usize]))
                .collect();
            numbers.sort_unstable();
            for same in numbers.chunk_by(|a, b| a == b) {
                let (unreadable, bare, pieces) = &mut counted[same[0] as usize];
                *unreadable += usize::from(same.len() > coding.m.into());
                *bare += usize::from(same.len() == usize::from(coding.m));
                *pieces += same.len();
            }
        }
        let mut of_kind: Vec<Cost> = (counted.into_iter().enumerate())
            .map(|(number, (unreadable, bare, pieces))| {
                let rebuild_bytes = pieces as f64 * tally.position_bytes;
                let name = name(fleet, places, kind, number as u32);
                Cost { kind, name, unreadable, bare, rebuild_bytes, rebuild_days: rebuild_days(fleet, rebuild_bytes) }
            })
            .collect();
        of_kind.sort_by(|a, b| {
            let worse = (b.unreadable, b.bare).cmp(&(a.unreadable, a.bare));
            worse.then(b.rebuild_bytes.total_cmp(&a.rebuild_bytes)).then_with(|| a.name.cmp(&b.name))
        });
        costs.extend(of_kind);
    }
    costs
}

fn name(fleet: &Fleet, places: &Places, kind: Domain, number: u32) -> String {
    if kind == Domain::Node {
        return fleet.machines.get(number as usize).map_or_else(String::new, |machine| machine.name.clone());
    }
    match places.name(kind, number).trim_start_matches('/') {
        "" => "(no label)".to_owned(),
        name => name.to_owned(),
    }
}

/// One more machine, like the middle one in size, wherever it helps most: what it would change.
fn more(fleet: &Fleet, table: &Table) -> Option<More> {
    if fleet.machines.len() > MORE_NODES_MAX {
        return None;
    }
    let mut by_size: Vec<&Machine> = fleet.machines.iter().collect();
    by_size.sort_by_key(|machine| machine.drives.iter().sum::<u64>());
    let middle = by_size[by_size.len() / 2];
    let mut labels: Vec<_> = fleet.machines.iter().map(|machine| machine.labels.clone()).collect();
    labels.sort();
    labels.dedup();
    labels.truncate(MORE_TRIES_MAX - 1);
    let mut elsewhere = middle.labels.clone();
    if table.places.knows(Domain::Site) && elsewhere.set(Domain::Site, "somewhere-new").is_ok() {
        labels.push(elsewhere);
    }
    let tried = labels.into_iter().filter_map(|labels| {
        let what = format!("a machine like {} ({})", middle.name, bytes(middle.drives.iter().sum::<u64>() as f64));
        let what = if labels == Default::default() { what } else { format!("{what} with {labels}") };
        let mut bigger = fleet.clone();
        bigger.machines.push(Machine { name: "one-more".into(), labels, drives: middle.drives.clone() });
        let table = Table::of(&bigger).ok()?;
        let (survival, code) = (table.survival(bigger.coding().m), bigger.spec().text());
        Some(More { what, data_bytes: table.data_bytes, code, survival })
    });
    let key = |more: &More| {
        let survives = [Domain::Site, Domain::Node, Domain::Drive].map(|domain| more.survival.of(domain));
        (survives, more.data_bytes as u64)
    };
    tried.max_by_key(key)
}

impl Report {
    /// Groups that the chain expects to be lost in a year.
    pub fn chain_groups(&self) -> f64 {
        self.chain_per_group * self.tally.groups as f64
    }

    /// As JSON: rates per group and year, bytes, minutes, days.
    pub fn json(&self) -> Value {
        let tally = &self.tally;
        let (low, high) = tally.loss_interval();
        let costs: Vec<Value> = (self.costs.iter())
            .map(|cost| {
                json!({ "kind": cost.kind.name(), "name": cost.name, "groups_unreadable": cost.unreadable,
                    "groups_without_spare": cost.bare, "rebuild_bytes": cost.rebuild_bytes,
                    "rebuild_days": cost.rebuild_days })
            })
            .collect();
        let more = self.more.as_ref().map(|more| {
            json!({ "what": more.what, "data_bytes": more.data_bytes, "code": more.code,
                "survives": more.survival.to_string() })
        });
        json!({
            "code": self.code, "nodes": self.nodes, "drives": tally.drives, "groups": tally.groups,
            "data_bytes_max": self.data_bytes, "survives": self.survival.to_string(),
            "years": tally.years, "seed": self.seed,
            "chain": { "loss_per_group_year": self.chain_per_group, "groups_per_year": self.chain_groups(),
                "any_loss_per_year": any_of(self.chain_per_group, tally.groups as f64), "repair_days": self.chain_days },
            "simulated": {
                "groups_lost": tally.losses.len(), "loss_per_group_year": tally.loss_rate(),
                "loss_low": low, "loss_high": high, "drives_died": tally.deaths, "outages": tally.outages,
                "unreadable_minutes_per_year": tally.unreadable_minutes_per_year(),
                "reads_per_rebuilt_piece": tally.reads_per_rebuilt(), "reads_per_lost_piece": tally.reads_per_lost(),
                "rebuilt_in_vain": tally.rebuilt_in_vain, "rebuilt": tally.rebuilt_positions,
                "repair_days_mean": tally.repair_days(), "oldest_hours": tally.oldest_hours,
                "backlog_bytes_max": tally.backlog_bytes_max,
                "read_bytes": tally.read_positions * tally.position_bytes,
                "moved_bytes": tally.moved_positions as f64 * tally.position_bytes,
                "group_days_by_spare": tally.by_spare, "group_days_by_spare_after_worst": tally.after_worst,
                "group_days_lost_with_worst": tally.after_worst_lost, "worst_domain": tally.worst_domain,
            },
            "operator": orders_json(&tally.orders), "growth": growth_json(tally),
            "losses_of": costs, "one_more_machine": more,
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let tally = &self.tally;
        let mut lines = vec![
            format!(
                "{} nodes, {} drives, {}: room for {} of data in {} groups",
                self.nodes,
                tally.drives,
                self.code,
                bytes(self.data_bytes),
                tally.groups
            ),
            self.survival.to_string(),
            String::new(),
        ];
        lines.extend(self.figures().into_iter().map(|(name, value)| format!("{name:<34}{value}")));
        lines.push(String::new());
        lines.push(format!(
            "{:<28}{:>12}{:>14}{:>12}{:>10}",
            "the loss of", "unreadable", "none to spare", "to rebuild", "days"
        ));
        for kind in [Domain::Site, Domain::Rack, Domain::Node] {
            let of_kind: Vec<&Cost> = self.costs.iter().filter(|cost| cost.kind == kind).collect();
            lines.extend(of_kind.iter().take(SHOWN_MAX).map(|cost| self.cost_line(cost)));
            if of_kind.len() > SHOWN_MAX {
                lines.push(format!("  and {} more", kind.count(of_kind.len() - SHOWN_MAX)));
            }
        }
        if let Some(more) = &self.more {
            lines.push(String::new());
            lines.push(format!("one more machine helps most as: {}", more.what));
            lines.push(format!("  then {}, room for {} of data, {}", more.code, bytes(more.data_bytes), more.survival));
        }
        lines.join("\n")
    }

    fn cost_line(&self, cost: &Cost) -> String {
        let share = |groups: usize| format!("{:.1} %", groups as f64 * 100.0 / self.tally.groups.max(1) as f64);
        format!(
            "{:<28}{:>12}{:>14}{:>12}{:>10.1}",
            format!("{} {}", cost.kind, cost.name),
            share(cost.unreadable),
            share(cost.bare),
            bytes(cost.rebuild_bytes),
            cost.rebuild_days
        )
    }

    fn figures(&self) -> Vec<(String, String)> {
        let tally = &self.tally;
        let (low, high) = tally.loss_interval();
        let position = tally.position_bytes;
        let row = |name: &str, value: String| (name.to_owned(), value);
        let mut figures = vec![
            row(
                "expected loss a year, chain",
                format!(
                    "{:.1e} of all data (failures independent, {:.2} days to repair)",
                    self.chain_per_group, self.chain_days
                ),
            ),
            row(
                &format!("simulated, {}, seed {}", years(tally.years), self.seed),
                format!(
                    "{} groups lost: {:.1e} of all data a year (95 %: {low:.1e} to {high:.1e})",
                    tally.losses.len(),
                    tally.loss_rate()
                ),
            ),
            row("died, away for a while", format!("{} drives; {} outages", tally.deaths, tally.outages)),
            row("couldn't be read", format!("{:.2} minutes a year of any object", tally.unreadable_minutes_per_year())),
            row(
                "repair",
                format!(
                    "{} read, {} pieces for each rebuilt, {} for each that died; {} rebuilt in vain",
                    bytes(tally.read_positions * position),
                    ratio(tally.reads_per_rebuilt(), tally.rebuilt_positions),
                    ratio(tally.reads_per_lost(), tally.lost_positions),
                    bytes(tally.rebuilt_in_vain as f64 * position)
                ),
            ),
            row("moved to new drives", bytes(tally.moved_positions as f64 * position)),
            row("most to rebuild at any time", bytes(tally.backlog_bytes_max)),
            row(
                "waited to be rebuilt",
                format!("{:.1} hours on average, {:.1} at most", tally.repair_days() * 24.0, tally.oldest_hours),
            ),
        ];
        figures.extend(orders_rows(&tally.orders));
        if tally.joined + tally.left > 0 {
            figures.push(row("joined, left", growth_text(tally)));
        }
        figures
    }
}

/// What an operator asked for, if there was one.
fn orders_rows(orders: &Orders) -> Vec<(String, String)> {
    let (all, slips) = (orders.sum(), orders.slips());
    if all.asked == 0 {
        return Vec::new();
    }
    let asked = format!(
        "{} commands: {} done, {} refused; {} of them slips: {} done, {} refused",
        all.asked, all.done, all.refused, slips.asked, slips.done, slips.refused
    );
    let by_it = format!(
        "{} groups; {} commands broke what the gate promises; {} pieces given up",
        orders.lost_groups, orders.broken, orders.given_up_positions
    );
    let mut rows = vec![("operator".to_owned(), asked), ("lost by commands".to_owned(), by_it)];
    rows.extend(orders.complaints.iter().map(|one| ("  broken".to_owned(), one.clone())));
    rows
}

/// The same, or nothing.
fn orders_json(orders: &Orders) -> Value {
    if orders.kinds.is_empty() {
        return Value::Null;
    }
    let asked = |one: &Asked| json!({ "asked": one.asked, "done": one.done, "refused": one.refused });
    let kinds = orders.kinds.iter().map(|(kind, one)| {
        let mut value = asked(one);
        value["what"] = json!(kind);
        value["slip"] = json!(one.is_slip);
        value
    });
    json!({
        "commands": asked(&orders.sum()), "slips": asked(&orders.slips()), "kinds": kinds.collect::<Vec<_>>(),
        "groups_lost": orders.lost_groups, "broken": orders.broken, "complaints": orders.complaints,
        "given_up": orders.given_up_positions,
    })
}

fn growth_text(tally: &Tally) -> String {
    let whole = match tally.whole_hours {
        Some(hours) => format!("all pieces in their place {hours:.1} hours after the last"),
        None => "not all pieces in their place since".to_owned(),
    };
    let least = tally.evened_positions as f64 / tally.evened_least.max(1.0);
    format!(
        "{}, {} nodes; {} pieces moved to even out, {least:.2} of the least; {} missing beside others; {whole}",
        tally.joined, tally.left, tally.evened_positions, tally.lost_meanwhile
    )
}

fn growth_json(tally: &Tally) -> Value {
    if tally.joined + tally.left == 0 {
        return Value::Null;
    }
    json!({
        "joined": tally.joined, "left": tally.left, "evened": tally.evened_positions,
        "evened_least": tally.evened_least, "lost_meanwhile": tally.lost_meanwhile,
        "rules_broken": tally.broken_rules, "groups_crowded": tally.crowded_groups, "whole_after_hours": tally.whole_hours,
    })
}

/// `1 year`, `2.5 years`.
pub fn years(years: f64) -> String {
    if years == 1.0 { "1 year".to_owned() } else { format!("{years} years") }
}

/// A figure for each of some things, if there were any.
fn ratio(each: f64, count: u64) -> String {
    if count == 0 { "-".to_owned() } else { format!("{each:.1}") }
}

/// `1.5 GB`: powers of ten, as drives are sold.
pub fn bytes(count: f64) -> String {
    let mut value = count;
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            return format!("{value:.1} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1} PB")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn small() -> Fleet {
        crate::read::parse(include_str!("../../../docs/examples/fleet.toml")).unwrap()
    }

    #[test]
    fn the_cost_of_a_domain_is_what_placement_says_of_its_loss() {
        let fleet = small();
        let (table, tally) = (Table::of(&fleet).unwrap(), run(&fleet, 0.1, 1).unwrap());
        for cost in costs(&fleet, &table, &tally) {
            let lost: BTreeSet<_> = (table.places.list().iter())
                .filter(|place| name(&fleet, &table.places, cost.kind, place.at[cost.kind as usize]) == cost.name)
                .map(|place| place.drive)
                .collect();
            let after = survive::survives([(2, table.rows.as_slice())], &table.places, &lost);
            assert_eq!(after.unreadable, cost.unreadable, "{} {}", cost.kind, cost.name);
            let bare = after.by_spare.first().copied().unwrap_or(0);
            assert_eq!(bare, cost.bare, "{} {}", cost.kind, cost.name);
        }
    }

    #[test]
    fn an_owner_reads_what_was_asked_for_refused_and_done() {
        let quiet = report(&small(), 0.1, 1).unwrap();
        assert!(!quiet.text().contains("operator") && quiet.json()["operator"].is_null(), "{}", quiet.text());
        let operator = crate::Operator { commands: 300.0, typos: 0.5, ..Default::default() };
        let report = report(&Fleet { operator, ..small() }, 0.1, 1).unwrap();
        let (all, text, json) = (report.tally.orders.sum(), report.text(), report.json());
        assert!(all.done > 0 && all.refused > 0, "{text}");
        assert!(
            text.contains(&format!("{} commands: {} done, {} refused", all.asked, all.done, all.refused)),
            "{text}"
        );
        assert_eq!(json["operator"]["commands"]["refused"], all.refused);
        assert_eq!(json["operator"]["kinds"].as_array().unwrap().len(), report.tally.orders.kinds.len());
    }

    #[test]
    fn an_owner_reads_what_is_survived_lost_and_recommended() {
        let report = report(&small(), 1.0, 1).unwrap();
        let text = report.text();
        for says in
            ["8 nodes, 13 drives", "survives the loss of", "95 %", "site office", "node home1", "one more machine"]
        {
            assert!(text.contains(says), "{says}: {text}");
        }
        let json = report.json();
        assert_eq!(json["simulated"]["groups_lost"], report.tally.losses.len());
        assert_eq!(json["losses_of"].as_array().unwrap().len(), report.costs.len());
        assert!(report.more.unwrap().data_bytes > report.data_bytes);
        assert!(report.costs.is_sorted_by(|a, b| a.kind != b.kind || a.unreadable >= b.unreadable));
    }
}
