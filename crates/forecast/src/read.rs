//! A fleet from a file, or from what a living cluster says of itself.
//!
//! docs/examples/fleet.toml has every key. Every default is [`Fleet::default`]'s.

use std::collections::BTreeSet;

use base::nearest::nearest;
use base::{Domain, NodeId};
use placement::Labels;
use policy::Rule;
use serde_json::Value as Json;
use toml::{Table, Value};

use crate::fleet::{Error, Event, Fleet, Growth, Machine, NODES_MAX, Strikes};

/// Bytes of a file at the most.
pub const FILE_BYTES_MAX: usize = 16 << 20;

/// Reads a fleet's file; what is unknown or can't be is refused with what was probably meant.
pub fn parse(text: &str) -> Result<Fleet, Error> {
    if text.len() > FILE_BYTES_MAX {
        return Err(Error::Form(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    let table: Table = text.parse().map_err(|error: toml::de::Error| Error::Form(error.to_string()))?;
    let known = ["policy", "used", "drives", "nodes", "repair", "operator", "growth", "node", "event"];
    let top = Keys::new("", &table, &known)?;
    let mut fleet = Fleet::default();
    if let Some(text) = top.text("policy")? {
        fleet.rule = Rule::parse(text).map_err(|error| Error::value("policy", error.to_string()))?;
    }
    top.number("used", &mut fleet.used)?;
    let drives = top.table("drives", &["fail_per_year", "replace_days"])?;
    drives.number("fail_per_year", &mut fleet.drive_fails)?;
    drives.number("replace_days", &mut fleet.replace_days)?;
    let nodes = top.table("nodes", &["outages_per_year", "outage_minutes", "outage_spread"])?;
    nodes.number("outages_per_year", &mut fleet.outages)?;
    nodes.number("outage_minutes", &mut fleet.outage_minutes)?;
    nodes.number("outage_spread", &mut fleet.outage_spread)?;
    let repair = top.table("repair", &["after_minutes", "drive_mb_per_s", "node_mb_per_s", "nodes"])?;
    repair.number("after_minutes", &mut fleet.after_minutes)?;
    repair.number("drive_mb_per_s", &mut fleet.drive_mb_s)?;
    repair.number("node_mb_per_s", &mut fleet.node_mb_s)?;
    fleet.workers = repair.count("nodes")?.unwrap_or(fleet.workers);
    let operator = top.table("operator", &["commands_per_year", "typos"])?;
    operator.number("commands_per_year", &mut fleet.operator.commands)?;
    operator.number("typos", &mut fleet.operator.typos)?;
    for (number, table) in top.tables("node")?.into_iter().enumerate() {
        read_nodes(&format!("node {}", number + 1), table, &mut fleet.machines)?;
    }
    for (number, table) in top.tables("event")?.into_iter().enumerate() {
        fleet.events.push(read_event(&format!("event {}", number + 1), table)?);
    }
    fleet.growth = read_growth(&top, fleet.machines.len())?;
    fleet.check()?;
    Ok(fleet)
}

/// `[growth]`, if it is there; so many nodes are listed.
fn read_growth(top: &Keys<'_>, nodes: usize) -> Result<Option<Growth>, Error> {
    let keys = top.table("growth", &["first", "per_day", "left"])?;
    if keys.table.is_none() {
        return Ok(None);
    }
    let (first, left) = (keys.count("first")?.unwrap_or(nodes), keys.count("left")?.unwrap_or(nodes));
    let mut growth = Growth { first, per_day: 1.0, left };
    keys.number("per_day", &mut growth.per_day)?;
    Ok(Some(growth))
}

/// A `[[node]]`: one machine, or `count` of its kind.
fn read_nodes(at: &str, table: &Table, machines: &mut Vec<Machine>) -> Result<(), Error> {
    let known = ["name", "count", "drives", "rack", "site", "country", "owner", "model"];
    let keys = Keys::new(at, table, &known)?;
    let count = keys.count("count")?.unwrap_or(1);
    if count == 0 || machines.len() + count > NODES_MAX {
        return Err(Error::value(keys.at("count"), format!("{count} is not from 1 to {NODES_MAX} nodes in all")));
    }
    let mut texts = Vec::new();
    for label in Domain::LABELS {
        texts.extend(keys.text(label.name())?.map(|value| format!("{}={value}", label.name())));
    }
    let before: Vec<(NodeId, &Labels)> = machines.iter().map(|one| (NodeId([0; 16]), &one.labels)).collect();
    let labels = Labels::parse(texts.iter().map(String::as_str), &before);
    let labels = labels.map_err(|error| Error::value(at, error.to_string()))?;
    let drives = keys.sizes("drives")?;
    let name = keys.text("name")?.unwrap_or("node").to_owned();
    let named = |number: usize| if count == 1 { name.clone() } else { format!("{name}{number}") };
    machines.extend((1..=count).map(|number| Machine {
        name: named(number),
        labels: labels.clone(),
        drives: drives.clone(),
    }));
    Ok(())
}

/// An `[[event]]`.
fn read_event(at: &str, table: &Table) -> Result<Event, Error> {
    let keys = Keys::new(at, table, &["strikes", "per_year", "dead", "hours"])?;
    let wanted = "write \"site\" (or drive, node, rack, country, owner, model), \"all\", or \"10 % of nodes\"";
    let text =
        keys.text("strikes")?.ok_or_else(|| Error::value(keys.at("strikes"), format!("is missing: {wanted}")))?;
    let share = text.split_once('%').and_then(|(share, _)| share.trim().parse::<f64>().ok());
    let strikes = match (Domain::parse(text), share) {
        (Some(domain), _) => Strikes::One(domain),
        (None, Some(share)) => Strikes::Share(share / 100.0),
        (None, None) if text.trim() == "all" => Strikes::All,
        (None, None) => return Err(Error::value(keys.at("strikes"), format!("{text:?} is no domain: {wanted}"))),
    };
    let mut event = Event { strikes, per_year: 0.0, dead: 0.0, hours: 0.0 };
    keys.number("per_year", &mut event.per_year)?;
    keys.number("dead", &mut event.dead)?;
    keys.number("hours", &mut event.hours)?;
    Ok(event)
}

/// `4 TB`, `500GB`, `1 TiB`, or a number of bytes.
pub fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "pb" => 1e15,
        "gib" => (1u64 << 30) as f64,
        "tib" => (1u64 << 40) as f64,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * scale;
    (1.0..=1e18).contains(&bytes).then_some(bytes as u64)
}

/// A table whose keys are all known.
struct Keys<'a> {
    name: String,
    table: Option<&'a Table>,
}

impl<'a> Keys<'a> {
    fn new(name: &str, table: &'a Table, known: &[&str]) -> Result<Self, Error> {
        let known: BTreeSet<&str> = known.iter().copied().collect();
        if let Some(key) = table.keys().find(|key| !known.contains(key.as_str())) {
            let hint = match nearest(key, known.iter().copied()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("known are {}", known.into_iter().collect::<Vec<_>>().join(", ")),
            };
            let at = if name.is_empty() { "the fleet" } else { name };
            return Err(Error::value(at, format!("there is no key {key:?}: {hint}")));
        }
        Ok(Self { name: name.to_owned(), table: Some(table) })
    }

    fn at(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}: {key}", self.name) }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.table.and_then(|table| table.get(key))
    }

    fn wrong<T>(&self, key: &str, wanted: &str) -> Result<T, Error> {
        Err(Error::value(self.at(key), format!("{wanted} is wanted here")))
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => self.wrong(key, "a text in quotes"),
        }
    }

    fn number(&self, key: &str, to: &mut f64) -> Result<(), Error> {
        match self.get(key) {
            None => {}
            Some(Value::Integer(number)) => *to = *number as f64,
            Some(Value::Float(number)) => *to = *number,
            Some(_) => return self.wrong(key, "a number"),
        }
        Ok(())
    }

    fn count(&self, key: &str) -> Result<Option<usize>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Integer(number)) if *number >= 0 => Ok(Some(*number as usize)),
            Some(_) => self.wrong(key, "a whole number"),
        }
    }

    fn sizes(&self, key: &str) -> Result<Vec<u64>, Error> {
        let wanted = "a list of sizes, each above 0, like [\"4 TB\", \"500 GB\"],";
        let Some(Value::Array(list)) = self.get(key) else { return self.wrong(key, wanted) };
        let sizes: Option<Vec<u64>> = list.iter().map(|one| one.as_str().and_then(size)).collect();
        sizes.filter(|sizes| !sizes.is_empty()).map_or_else(|| self.wrong(key, wanted), Ok)
    }

    fn table(&self, key: &str, known: &[&str]) -> Result<Keys<'a>, Error> {
        match self.get(key) {
            None => Ok(Keys { name: key.to_owned(), table: None }),
            Some(Value::Table(table)) => Keys::new(key, table, known),
            Some(_) => self.wrong(key, &format!("a table [{key}]")),
        }
    }

    fn tables(&self, key: &str) -> Result<Vec<&'a Table>, Error> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => {
                let tables: Option<Vec<&Table>> = list.iter().map(Value::as_table).collect();
                tables.map_or_else(|| self.wrong(key, &format!("tables [[{key}]]")), Ok)
            }
            Some(_) => self.wrong(key, &format!("tables [[{key}]]")),
        }
    }
}

/// The fleet of a running store, from the JSON that `abide status --json` prints. Rates are the defaults: a store
/// doesn't know how often its drives will fail.
pub fn live(status: &Json) -> Result<Fleet, Error> {
    let list = |value: &Json| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    let mut fleet = Fleet::default();
    for node in list(&status["nodes"]) {
        let mut labels = Labels::default();
        for pair in list(&node["labels"]) {
            let pair = text(&pair);
            let Some((name, value)) = pair.split_once('=') else { continue };
            if let Some(label) = Domain::parse(name) {
                labels.set(label, value).map_err(|error| Error::value("labels", error.to_string()))?;
            }
        }
        fleet.machines.push(Machine { name: text(&node["name"]), labels, drives: Vec::new() });
    }
    if fleet.machines.is_empty() {
        fleet.machines.push(Machine { name: "this".into(), labels: Labels::default(), drives: Vec::new() });
    }
    let (mut used, mut all) = (0.0, 0.0);
    let counts = |drive: &&Json| drive["state"] != "lost" && drive["data"] != false;
    for drive in list(&status["drives"]).iter().filter(counts) {
        let (taken, free) = (drive["used"].as_u64().unwrap_or(0), drive["free"].as_u64().unwrap_or(0));
        let node = drive["node"].as_str().unwrap_or_default();
        let at = fleet.machines.iter().position(|machine| machine.name == node).unwrap_or(0);
        fleet.machines[at].drives.push((taken + free).max(1));
        (used, all) = (used + taken as f64, all + (taken + free) as f64);
    }
    fleet.machines.retain(|machine| !machine.drives.is_empty());
    // An empty store is judged as if it were a tenth full.
    fleet.used = (used / f64::max(all, 1.0)).clamp(0.1, 0.95);
    let policy = text(&status["policy"]);
    fleet.rule = Rule::parse(&policy).map_err(|error| Error::value("policy", error.to_string()))?;
    fleet.check()?;
    Ok(fleet)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SMALL: &str = "[[node]]\nname = \"n\"\ncount = 5\ndrives = [\"4 TB\"]\nsite = \"office\"\n";

    #[test]
    fn the_example_in_the_docs_is_read() {
        let fleet = parse(include_str!("../../../docs/examples/fleet.toml")).unwrap();
        assert!(fleet.machines.len() >= 6 && !fleet.events.is_empty());
        assert_eq!(fleet.machines[0].name, "office1");
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        for (add, says) in [
            ("polcy = \"4+2\"\n", "did you mean \"policy\"?"),
            ("colour = 1\n", "known are drives, event"),
            ("policy = \"4-2\"\n", "neither k+m nor a number of copies"),
            ("policy = \"4+2\"\n", "policy: 4+2 needs 6 drives, and there are 5"),
            ("policy = \"2+2 surviving 1 site\"\n", "sites"),
            ("policy = \"2+2 in site=offise\"\n", "did you mean \"office\"?"),
            ("used = 2\n", "used: 2 is not from 0 to 0.95"),
            ("used = \"much\"\n", "a number is wanted"),
            ("used = nan\n", "is not from"),
            ("drives = { fail_per_year = -1 }\n", "drives.fail_per_year: -1"),
            ("drives = { fail_per_yaer = 1 }\n", "did you mean \"fail_per_year\"?"),
            ("repair = { nodes = -1 }\n", "a whole number"),
            ("operator = { comands_per_year = 1 }\n", "did you mean \"commands_per_year\"?"),
            ("operator = { typos = 2 }\n", "operator.typos: 2"),
            ("growth = { first = 9 }\n", "growth.first: 9 is not from 1 to 5"),
            ("event = [{ strikes = \"siet\" }]\n", "\"siet\" is no domain"),
            ("event = [{ strikes = \"site\", dead = 2 }]\n", "event 1: dead: 2"),
            ("event = [{ per_year = 2 }]\n", "strikes: is missing"),
            ("node = 1\n#", "tables [[node]]"),
            ("x = \n", "can't be read"),
        ] {
            let text = if add.contains('#') { add.to_owned() } else { format!("{add}{SMALL}") };
            let error = parse(&text).map_or_else(|error| error.to_string(), |_| "taken".into());
            assert!(error.contains(says), "{add:?}: {error}");
        }
        for (node, says) in [
            ("drives = []", "a list of sizes"),
            ("drives = [\"0 TB\"]", "each above 0"),
            ("drives = [\"4 XB\"]", "a list of sizes"),
            ("", "a list of sizes"),
            ("drives = [\"1 TB\"]\nsiet = \"a\"", "did you mean \"site\"?"),
            ("drives = [\"1 TB\"]\nsite = \"ofice\"", "did you mean that?"),
            ("drives = [\"1 TB\"]\nsite = \"a b\"", "no spaces"),
            ("drives = [\"1 TB\"]\ncount = 0", "0 is not from 1"),
            ("drives = [\"1 TB\"]\nname = \"n1\"", "the same name"),
        ] {
            let error = parse(&format!("{SMALL}[[node]]\n{node}\n")).unwrap_err().to_string();
            assert!(error.contains(says), "{node:?}: {error}");
        }
        assert!(parse("").unwrap_err().to_string().contains("[[node]]"));
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [("4 TB", 4_000_000_000_000), ("1.5GB", 1_500_000_000), ("1 TiB", 1 << 40), ("7", 7)] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "TB", "-1 TB", "1 XB", "1e30 TB", "0"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn a_running_store_is_a_fleet() {
        let drive = |node: &str| json!({ "node": node, "used": 30, "free": 70, "state": "up" });
        let node = |name: &str| json!({ "name": name, "labels": [format!("site=s-{name}")] });
        let status = json!({ "policy": "2+1", "nodes": [node("a"), node("b"), node("c")],
            "drives": [drive("a"), drive("b"), drive("c"), drive("c"), { "state": "lost", "node": "a" }] });
        let fleet = live(&status).unwrap();
        assert_eq!(fleet.drives(), 4);
        assert_eq!(fleet.machines[2].labels.get(Domain::Site), "s-c");
        assert!((fleet.used - 0.3).abs() < 1e-9);
        assert_eq!(live(&json!({ "policy": "1 copy", "drives": [{ "used": 1, "free": 9 }] })).unwrap().drives(), 1);
        assert!(live(&json!({})).is_err());
    }
}
