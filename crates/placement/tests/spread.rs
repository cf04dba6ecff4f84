//! Groups over failure domains: bounds, balance, growth, what survives.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

mod common;

use std::collections::BTreeSet;

use base::{Demand, Domain};
use common::{Chance, GIB, cluster, drive_id, empty, fullest, join, most_in_one, place, seeds};
use placement::gate::{Change, Situation, Target, judge};
use placement::outcome::Held;
use placement::rebalance::{self, Limits, Spread};
use placement::{Caps, Spec, spread};

const LADDER: [(u8, u8); 8] = [(8, 4), (6, 3), (5, 3), (4, 2), (3, 2), (2, 2), (1, 2), (1, 1)];

#[test]
fn a_group_is_on_distinct_nodes_where_there_are_enough() {
    for (nodes, drives, k, m) in [(3, 1, 1, 2), (3, 4, 1, 2), (5, 2, 2, 2), (6, 1, 3, 2), (8, 3, 4, 2), (13, 4, 8, 4)] {
        let mut map = cluster(nodes, drives, 0);
        place(&mut map, &Spec::new(k, m));
        assert_eq!(most_in_one(&map, Domain::Node), 1, "{k}+{m} on {nodes}");
        assert!(fullest(&map) <= 1.05, "{k}+{m} on {nodes}: {}", fullest(&map));
        assert_eq!(map.survives(&BTreeSet::new()).of(Domain::Node), usize::from(m));
    }
}

#[test]
fn what_is_not_reached_is_said_plainly() {
    let text = |nodes: usize, drives: usize, sites: usize, k: u8, m: u8| {
        let mut map = cluster(nodes, drives, sites);
        place(&mut map, &Spec::new(k, m));
        map.survives(&BTreeSet::new()).to_string()
    };
    assert_eq!(text(1, 4, 0, 1, 2), "survives the loss of: any 2 drives");
    assert_eq!(text(1, 1, 0, 1, 0), "survives no loss at all");
    assert_eq!(text(2, 4, 0, 1, 2), "survives the loss of: any 2 drives, any 1 node");
    assert_eq!(text(3, 4, 0, 4, 2), "survives the loss of: any 2 drives, any 1 node");
    assert_eq!(text(6, 2, 3, 4, 2), "survives the loss of: any 2 drives, any 2 nodes, any 1 site");
    assert_eq!(text(6, 2, 2, 4, 2), "survives the loss of: any 2 drives, any 2 nodes");
    assert_eq!(text(3, 1, 3, 1, 2), "survives the loss of: any 2 drives, any 2 nodes, any 2 sites");
    let map = cluster(3, 1, 0);
    assert_eq!(map.survives(&BTreeSet::new()).to_string(), "nothing is placed yet");
}

#[test]
fn what_survives_is_what_taking_drives_away_shows() {
    for seed in seeds("what_survives_is_what_taking_drives_away_shows", 12) {
        let mut chance = Chance(seed);
        let mut map = empty();
        for node in 0..3 + chance.below(5) as usize {
            let site = format!("site=s{}", chance.below(3));
            let sizes: Vec<u64> = (0..1 + chance.below(3)).map(|_| (500 + chance.below(1000)) * GIB).collect();
            join(&mut map, node, &sizes, &[&site]);
        }
        let (k, m) = LADDER[2 + chance.below(6) as usize];
        place(&mut map, &Spec::new(k, m));
        if map.policies[0].groups.is_empty() {
            continue;
        }
        map.policies[0].groups.truncate(40);
        let said = map.survives(&BTreeSet::new());
        for domain in [Domain::Drive, Domain::Node, Domain::Site] {
            assert_eq!(said.of(domain), tried(&map, domain, k.into()), "seed {seed}: {k}+{m}, {domain}: {said}");
        }
    }
}

/// Takes away every combination of domains, one more at a time, until something can't be read.
fn tried(map: &placement::Map, domain: Domain, k: usize) -> usize {
    let name = |drive: &placement::map::Drive| match domain {
        Domain::Drive => drive.id.to_string(),
        Domain::Node => drive.node.to_string(),
        label => map.nodes.iter().find(|node| node.id == drive.node).unwrap().labels.get(label).to_owned(),
    };
    let names: Vec<String> = map.drives.iter().map(&name).collect::<BTreeSet<_>>().into_iter().collect();
    let of: std::collections::BTreeMap<_, _> = map.drives.iter().map(|drive| (drive.id, name(drive))).collect();
    let reads = |gone: &[&String]| {
        let row = |row: &placement::GroupRow| row.members.iter().filter(|one| !gone.contains(&&of[one])).count() >= k;
        map.policies[0].groups.iter().all(row)
    };
    let mut sets: Vec<Vec<usize>> = vec![Vec::new()];
    for count in 0..=names.len() {
        if !sets.iter().all(|set| reads(&set.iter().map(|at| &names[*at]).collect::<Vec<_>>())) {
            return count - 1;
        }
        sets = sets
            .iter()
            .flat_map(|set| {
                (set.last().map_or(0, |last| last + 1)..names.len()).map(|at| [set.as_slice(), &[at]].concat())
            })
            .collect();
    }
    names.len()
}

#[test]
fn bounds_and_balance_hold_for_any_cluster() {
    let mut checked = 0;
    for seed in seeds("bounds_and_balance_hold_for_any_cluster", 60) {
        let mut chance = Chance(seed);
        let mut map = empty();
        let (nodes, sites) = (3 + chance.below(30) as usize, 1 + chance.below(5));
        let like = chance.below(2) == 0;
        for node in 0..nodes {
            let site = format!("site=s{}", chance.below(sites));
            let sizes: Vec<u64> =
                (0..1 + chance.below(4)).map(|_| if like { 1000 } else { 500 + chance.below(1500) } * GIB).collect();
            join(&mut map, node, &sizes, &[&site]);
        }
        let (k, m) = LADDER[chance.below(8) as usize];
        let spec = Spec::new(k, m);
        let (caps, unmet) = Caps::best(&map.places(None), &spec);
        place(&mut map, &spec);
        assert_eq!(unmet.is_some(), map.policies[0].groups.is_empty(), "seed {seed}");
        if unmet.is_some() {
            continue;
        }
        map.check().unwrap();
        for domain in [Domain::Drive, Domain::Node, Domain::Site] {
            let most = most_in_one(&map, domain);
            assert!(most <= caps.of(domain), "seed {seed}: {most} in one {domain}, {} allowed", caps.of(domain));
        }
        let needed = usize::from(m).saturating_sub(1).max(1).max(spec.n().div_ceil(nodes));
        let two_suffice = map
            .nodes
            .iter()
            .map(|node| map.drives.iter().filter(|one| one.node == node.id).count().min(needed))
            .sum::<usize>()
            >= spec.n();
        assert!(!two_suffice || caps.of(Domain::Node) <= needed, "seed {seed}: {caps:?}");
        // Where all capacity can be used, the fullest drive is close to fair; else fair is by what can be.
        let fair: f64 = 1.05 / (f64::from(caps.usable_permille) / 1000.0);
        assert!(
            fullest(&map) <= fair,
            "seed {seed}: {k}+{m} on {nodes}: {} with {} usable",
            fullest(&map),
            caps.usable_permille
        );
        checked += usize::from(caps.usable_permille >= 990);
        assert_eq!(
            map,
            {
                let mut again = map.clone();
                place(&mut again, &spec);
                again
            },
            "deterministic"
        );
    }
    assert!(checked > 10 || std::env::var("SEED").is_ok(), "{checked} clusters could use all their capacity");
}

/// Moves what must be moved, and says how many positions that was.
fn even_out(map: &mut placement::Map) -> usize {
    let mut moved = 0;
    let limits = Limits { in_flight: 2000, spread: Spread::Capped, ..Limits::default() };
    loop {
        let moves = rebalance::next(map, &BTreeSet::new(), limits, &|_, _| Held::default());
        if moves.is_empty() {
            return moved;
        }
        moved += moves.len();
        rebalance::apply(map.policies[0].id, &mut map.policies[0].groups, &moves);
        map.policies[0].groups.iter_mut().for_each(placement::GroupRow::settle);
    }
}

#[test]
fn a_cluster_grows_from_three_nodes_to_thirty() {
    for (k, m) in [(1, 2), (2, 1)] {
        let spec = Spec::new(k, m);
        let mut map = cluster(3, 2, 3);
        place(&mut map, &spec);
        let mut moved = 0;
        let mut least = 0.0;
        for node in 3..30 {
            let site = format!("site=s{}", node % 3);
            join(&mut map, node, &[1000 * GIB, 1000 * GIB], &[&site]);
            let places = map.places(None);
            let (caps, unmet) = Caps::best(&places, &spec);
            assert_eq!(unmet, None);
            let rows = &map.policies[0].groups;
            let added = spread::grow(&places, &spec, &caps, rows);
            assert!(added.iter().all(|row| row.group.0 as usize >= rows.len()), "what exists stays");
            for drive in [drive_id(node, 0), drive_id(node, 1)] {
                let groups = added.iter().filter(|row| row.members.contains(&drive)).count();
                assert!(groups >= 20, "a new drive is in {groups} groups at once");
            }
            map.policies[0].groups.extend(added);
            // What the steward will do later: even out, with as few moves as that takes.
            let positions = placement::map::positions(&map);
            let fair = positions.values().sum::<u64>() as f64 / (2 * (node + 1)) as f64;
            let held = |drive| positions.get(&drive).copied().unwrap_or(0) as f64;
            least += (0..=node)
                .flat_map(|n| [drive_id(n, 0), drive_id(n, 1)])
                .map(|drive| (fair - held(drive)).max(0.0))
                .sum::<f64>();
            moved += even_out(&mut map);
            assert!(fullest(&map) <= 1.05, "{} nodes: {}", node + 1, fullest(&map));
            assert_eq!(most_in_one(&map, Domain::Node), 1);
            map.check().unwrap();
        }
        let groups = map.policies[0].groups.len();
        println!("{k}+{m}: {groups} groups, {moved} positions moved, {least:.0} is the least possible");
        assert!(moved as f64 <= least * 1.1 + 1.0, "{moved} positions moved, {least} would do");
        assert!(groups * 3 / 60 <= 200, "{groups} groups are {} a drive", groups * 3 / 60);
        assert_eq!(even_out(&mut map), 0, "an even table moves nothing");
    }
}

#[test]
fn lost_nodes_are_replaced_within_the_bounds_and_nothing_else_moves() {
    for (k, m, sites) in [(4, 2, 3), (1, 2, 3), (2, 2, 0)] {
        let mut map = cluster(9, 2, sites);
        let spec = Spec::new(k, m);
        place(&mut map, &spec);
        let gone = BTreeSet::from([drive_id(4, 0), drive_id(4, 1)]);
        map.nodes[4].state = placement::map::State::Gone;
        let before = map.policies[0].groups.clone();
        let (changed, unmet) = spread::follow(&map.places(None), &spec, &before, &map.lost());
        assert_eq!(unmet, None);
        assert_eq!(map.lost(), gone);
        let touched = before.iter().filter(|row| row.members.iter().any(|drive| gone.contains(drive))).count();
        assert_eq!(changed.len(), touched);
        for row in &changed {
            let old = &before[row.group.0 as usize];
            assert_eq!(row.from, old.members);
            let moved = (0..row.members.len()).filter(|at| row.members[*at] != old.members[*at]);
            assert!(moved.clone().all(|at| gone.contains(&old.members[at])) && moved.count() == 1);
        }
        for row in changed {
            let at = row.group.0 as usize;
            map.policies[0].groups[at] = row;
        }
        map.policies[0].groups.iter_mut().for_each(placement::GroupRow::settle);
        assert_eq!(most_in_one(&map, Domain::Node), 1);
        let (caps, _) = Caps::best(&map.places(None), &spec);
        assert!(sites == 0 || most_in_one(&map, Domain::Site) <= caps.of(Domain::Site), "{k}+{m}");
        assert!(map.survives(&BTreeSet::new()).is_readable());
    }
}

#[test]
fn a_demand_is_met_or_refused_with_what_would_work() {
    let one_site = |k, m| Spec { k, m, demands: vec![Demand { count: 1, domain: Domain::Site }] };
    let mut map = cluster(8, 2, 2);
    let text = Caps::check(&map.places(None), &one_site(4, 2), &LADDER).unwrap_err().to_string();
    assert_eq!(
        text,
        "4+2 surviving 1 site needs 3 sites (at most 2 of its 6 pieces in one), and there are 2; label nodes of 1 more site, or take \"2+2 surviving 1 site\", which would work"
    );
    place(&mut map, &one_site(2, 2));
    assert_eq!(map.survives(&BTreeSet::new()).of(Domain::Site), 1);
    let few = cluster(3, 1, 0);
    let text = Caps::check(&few.places(None), &Spec::new(4, 2), &LADDER).unwrap_err().to_string();
    assert_eq!(text, "4+2 needs 6 drives, and there are 3; add 3 more drives, or take \"3 copies\", which would work");
    let too_much = Spec { k: 4, m: 1, demands: vec![Demand { count: 2, domain: Domain::Node }] };
    let text = Caps::check(&map.places(None), &too_much, &LADDER).unwrap_err().to_string();
    assert!(text.contains("not possible") && text.contains("surviving 2 nodes"), "{text}");
    // Nobody labelled racks: there is one of them.
    let racks = Spec { k: 2, m: 2, demands: vec![Demand { count: 1, domain: Domain::Rack }] };
    let text = Caps::check(&few.places(None), &racks, &LADDER).unwrap_err().to_string();
    assert!(text.contains("rack") || text.contains("drives"), "{text}");
}

#[test]
fn a_small_second_site_makes_a_large_one_no_less_useful() {
    let mut map = cluster(9, 4, 0);
    for node in &mut map.nodes {
        node.labels.set(Domain::Site, "hall").unwrap();
    }
    join(&mut map, 9, &[1000 * GIB], &["site=shed"]);
    let (caps, unmet) = Caps::best(&map.places(None), &Spec::new(4, 2));
    assert_eq!(unmet, None);
    assert!(caps.usable_permille > 900, "{caps:?}");
    // Who demands it gets it, and is told what it costs.
    let demanding = Spec { k: 1, m: 1, demands: vec![Demand { count: 1, domain: Domain::Site }] };
    let (caps, unmet) = Caps::best(&map.places(None), &demanding);
    assert_eq!(unmet, None);
    assert!(caps.usable_permille < 100, "{caps:?}");
}

#[test]
fn ten_thousand_drives_are_placed_and_judged_in_seconds() {
    let mut map = empty();
    for node in 0..500 {
        let labels =
            [format!("site=s{}", node % 10), format!("rack=r{}", node / 10 % 10), format!("owner=o{}", node % 7)];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let sizes: Vec<u64> = (0..20).map(|drive| (1000 + (node as u64 + drive) % 3 * 500) * GIB).collect();
        join(&mut map, node, &sizes, &labels);
    }
    let started = std::time::Instant::now();
    place(&mut map, &Spec::new(8, 4));
    let placed = started.elapsed();
    let groups = map.policies[0].groups.len();
    assert!((100..=200).contains(&(groups * 12 / 10_000 + 5)), "{groups} groups");
    let started = std::time::Instant::now();
    let said = map.survives(&BTreeSet::new());
    let judged = started.elapsed();
    let started = std::time::Instant::now();
    let bytes = codec::Versioned::encode(&map);
    let encoded = started.elapsed();
    println!(
        "10,000 drives: {groups} groups placed in {placed:?}, judged in {judged:?}, map of {} bytes encoded in {encoded:?}; {said}; fullest {}",
        bytes.len(),
        fullest(&map)
    );
    let started = std::time::Instant::now();
    let change = Change::Drain(vec![Target::Node("n7".into())]);
    let held = |_, _| Held { segments: 100, bytes: 1 << 30 };
    let (down, away, voters) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    let situation = Situation { down: &down, away: &away, voters: &voters, held: &held, faults: Default::default() };
    let outcome = judge(&map, &change, &situation).unwrap();
    println!("draining one node of 500 judged in {:?}: {outcome}", started.elapsed());
    outcome.permit(None).unwrap();
    assert_eq!(said.of(Domain::Node), 4);
    assert!(said.of(Domain::Site) >= 2, "{said}");
    assert!(fullest(&map) <= 1.05, "{}", fullest(&map));
    assert!(bytes.len() < placement::map::MAP_BYTES_MAX);
}
