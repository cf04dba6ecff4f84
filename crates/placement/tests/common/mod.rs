//! Clusters to try the rules on.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use base::{ClusterId, Domain, DriveId, Epoch, NodeId, PolicyId, Wall};
use crypt::PublicKey;
use placement::map::{Drive, Map, Node, Policy, State};
use placement::{Labels, Spec};

/// SplitMix64 (Steele, Lea, Flood 2014): the tests' own chance.
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

/// A seed to run, from the environment if one is to be replayed.
pub fn seeds(name: &str, count: u64) -> Vec<u64> {
    let one = std::env::var("SEED").ok().and_then(|text| text.parse().ok());
    let seeds: Vec<u64> = one.map_or_else(|| (1..=count).collect(), |seed| vec![seed]);
    eprintln!(
        "{name}: seeds {:?} to {:?}; replay one with SEED=n cargo nextest run -p placement {name}",
        seeds.first(),
        seeds.last()
    );
    seeds
}

pub fn node_id(number: usize) -> NodeId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(number as u64).to_be_bytes());
    NodeId(id)
}

/// The key of a node, told apart from its id: nothing may take one for the other.
pub fn node_key(number: usize) -> PublicKey {
    let mut key = [0xee; 32];
    key[..8].copy_from_slice(&(number as u64).to_be_bytes());
    PublicKey(key)
}

pub fn drive_id(node: usize, drive: usize) -> DriveId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(node as u64).to_be_bytes());
    id[8..].copy_from_slice(&(drive as u64).to_be_bytes());
    DriveId(id)
}

pub const GIB: u64 = 1 << 30;

pub fn empty() -> Map {
    let (nodes, drives, policies) = Default::default();
    Map { cluster: ClusterId([9; 16]), epoch: Epoch(1), previous: [0; 32], made: Wall(1), nodes, drives, policies }
}

/// Adds a node with drives of these sizes and labels like `site=a`.
pub fn join(map: &mut Map, number: usize, sizes: &[u64], labels: &[&str]) {
    let id = node_id(number);
    let labels = Labels::parse(labels.iter().copied(), &[]).unwrap();
    let name = format!("n{number}");
    let (key, addresses) = (node_key(number), Vec::new());
    map.nodes.push(Node { id, key, state: State::Active, name, addresses, labels, joined: Wall(0) });
    for (at, size) in sizes.iter().enumerate() {
        map.drives.push(Drive { id: drive_id(number, at), node: id, state: State::Active, size: *size });
    }
}

/// So many nodes of so many equal drives, in turn in so many sites (0: without labels).
pub fn cluster(nodes: usize, drives: usize, sites: usize) -> Map {
    let mut map = empty();
    for node in 0..nodes {
        let site = format!("site=s{}", node % sites.max(1));
        let labels: &[&str] = if sites == 0 { &[] } else { &[&site] };
        join(&mut map, node, &vec![1000 * GIB; drives], labels);
    }
    map
}

pub fn policy(id: u16, spec: &Spec) -> Policy {
    Policy {
        id: PolicyId(id),
        name: spec.text(),
        k: spec.k,
        m: spec.m,
        ack: spec.k + spec.m.div_ceil(2),
        demands: spec.demands.clone(),
        within: Vec::new(),
        groups: Vec::new(),
    }
}

/// Gives the map one policy with a whole table.
pub fn place(map: &mut Map, spec: &Spec) {
    let mut policy = policy(1, spec);
    let places = map.places(Some(&policy));
    let (caps, _) = placement::Caps::best(&places, spec);
    policy.groups = placement::spread::build(&places, spec, &caps);
    map.policies = vec![policy];
}

/// The most pieces of any group in one domain, counted from labels, not by the code under test.
pub fn most_in_one(map: &Map, domain: Domain) -> usize {
    let name = |drive: &DriveId| {
        let drive = map.drives.iter().find(|one| one.id == *drive).unwrap();
        let node = map.nodes.iter().find(|one| one.id == drive.node).unwrap();
        match domain {
            Domain::Drive => drive.id.to_string(),
            Domain::Node => node.id.to_string(),
            label => node.labels.get(label).to_owned(),
        }
    };
    let rows = map.policies.iter().flat_map(|policy| &policy.groups);
    let most = |row: &placement::GroupRow| {
        let names: Vec<String> = row.members.iter().map(name).collect();
        names.iter().map(|one| names.iter().filter(|other| *other == one).count()).max().unwrap_or(0)
    };
    rows.map(most).max().unwrap_or(0)
}

/// How full the fullest drive is, as a share of what is fair by weight.
pub fn fullest(map: &Map) -> f64 {
    let positions = placement::map::positions(map);
    let all: u64 = positions.values().sum();
    let weight: u64 = map.drives.iter().map(|drive| drive.size >> 20).sum();
    let share = |drive: &Drive| {
        let held = positions.get(&drive.id).copied().unwrap_or(0) as f64;
        held / all as f64 / ((drive.size >> 20) as f64 / weight as f64)
    };
    map.drives.iter().map(share).fold(0.0, f64::max)
}
