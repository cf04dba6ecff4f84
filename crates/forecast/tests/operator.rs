//! What operators do to fleets, and what nodes do that come and go.
//!
//! Every run prints its seed; `SEED=n cargo nextest run -p forecast NAME` runs that one alone.
#![allow(missing_docs, clippy::unwrap_used)]

use base::Domain;
use forecast::fleet::STRESS_PER_YEAR;
use forecast::{Event, Fleet, Growth, Machine, Operator, Strikes, Tally, run};
use placement::Labels;
use policy::Rule;

fn seeds(name: &str, these: &[u64]) -> Vec<u64> {
    let one = std::env::var("SEED").ok().and_then(|text| text.parse().ok());
    let seeds: Vec<u64> = one.map_or_else(|| these.to_vec(), |seed| vec![seed]);
    eprintln!("{name}: seeds {seeds:?}; replay one with SEED=n cargo nextest run -p forecast {name}");
    seeds
}

/// Nodes of two drives, in turn at so many sites, that die as under stress and are away for hours.
fn nodes(count: usize, sites: usize, rule: &str) -> Fleet {
    let machine = |number: usize| {
        let mut labels = Labels::default();
        labels.set(Domain::Site, &format!("s{}", number % sites)).unwrap();
        Machine { name: format!("m{number}"), labels, drives: vec![4_000_000_000_000; 2] }
    };
    Fleet {
        machines: (0..count).map(machine).collect(),
        rule: Rule::parse(rule).unwrap(),
        drive_fails: STRESS_PER_YEAR,
        outages: 24.0,
        outage_minutes: 60.0,
        outage_spread: 1.5,
        workers: 0,
        ..Fleet::default()
    }
}

fn clumsy(commands: f64) -> Operator {
    Operator { commands, typos: 0.4, ignores_gate: false }
}

/// What must be so whatever was typed.
fn check_orders(tally: &Tally, seed: u64) {
    let orders = &tally.orders;
    eprintln!("seed {seed}: {:?} {:?}", orders.sum(), orders.slips());
    for (kind, asked) in &orders.kinds {
        eprintln!("    {kind}: {} asked, {} done", asked.asked, asked.done);
    }
    assert_eq!((orders.complaints.as_slice(), orders.broken), ([].as_slice(), 0), "seed {seed}");
    assert_eq!(orders.lost_groups, 0, "seed {seed}");
    assert_eq!(tally.losses, [], "seed {seed}");
}

#[test]
fn no_command_that_passes_the_gate_costs_data_and_slips_are_refused() {
    for seed in seeds("no_command_that_passes_the_gate_costs_data_and_slips_are_refused", &[1, 2]) {
        let fleet = Fleet { operator: clumsy(160.0), ..nodes(12, 4, "4+2 surviving 1 site") };
        let tally = run(&fleet, 1.0, seed).unwrap();
        check_orders(&tally, seed);
        let (all, slips) = (tally.orders.sum(), tally.orders.slips());
        assert!(all.done > 50 && slips.refused > 30, "seed {seed}");
        let never = ["remove all but one", "drain the last site", "purge the trash", "delete a full bucket"];
        for kind in never {
            let asked = tally.orders.kinds[kind];
            assert!(asked.asked > 0 && asked.done == 0, "seed {seed}: {kind}: {asked:?}");
        }
    }
}

#[test]
fn what_is_done_in_spite_of_the_gate_loses_data_and_is_noticed() {
    let fleet = nodes(12, 4, "4+2 surviving 1 site");
    let operator = Operator { ignores_gate: true, ..clumsy(100.0) };
    let tally = run(&Fleet { operator, ..fleet }, 1.0, 1).unwrap();
    let orders = &tally.orders;
    eprintln!("{} groups lost, {} by commands; {:?}", tally.losses.len(), orders.lost_groups, orders.complaints);
    assert!(orders.broken > 0 && orders.lost_groups > 0);
    for says in ["groups have no piece to spare", "are gone", "new data has"] {
        assert!(orders.complaints.iter().any(|one| one.contains(says)), "{says}: {:?}", orders.complaints);
    }
}

/// From 11 nodes to 80, three a day, and then to so many, while sites lose power, upgrades take nodes away, and somebody types.
/// After so many days nothing fails any more.
fn storm(left: usize, calm_after_days: f64) -> Fleet {
    let hit = |strikes, per_year, dead, hours| Event { strikes, per_year, dead, hours };
    Fleet {
        growth: Some(Growth { first: 11, per_day: 3.0, left }),
        operator: clumsy(300.0),
        events: vec![
            hit(Strikes::One(Domain::Site), 6.0, 0.0, 4.0),
            hit(Strikes::Share(0.1), 24.0, 0.0, 3.0),
            hit(Strikes::All, 12.0, 0.002, 0.5),
        ],
        calm_after_days: Some(calm_after_days),
        ..nodes(80, 4, "4+2 surviving 1 site")
    }
}

/// What must be so after a storm, and that it was one.
fn check_storm(tally: &Tally, seed: u64) {
    check_orders(tally, seed);
    let moved = tally.evened_positions as f64 / tally.evened_least;
    eprintln!(
        "    {} deaths, {} outages, {} missing beside others; {} pieces moved to even out, {moved:.2} of the least; whole after {:?} h",
        tally.deaths, tally.outages, tally.lost_meanwhile, tally.evened_positions, tally.whole_hours
    );
    assert!(tally.deaths > 0 && tally.lost_meanwhile > 100, "seed {seed}: no repair during repair");
    assert!(tally.orders.slips().refused > 0, "seed {seed}");
    assert!(tally.whole_hours.is_some_and(|hours| hours < 48.0), "seed {seed}: {:?}", tally.whole_hours);
    assert!(moved < 1.2, "seed {seed}: {moved} of the least");
    assert_eq!((tally.broken_rules, tally.crowded_groups), (0, 0), "seed {seed}");
}

#[test]
fn a_fleet_that_grows_sevenfold_in_storms_loses_nothing_and_is_whole_within_two_days() {
    for seed in seeds("a_fleet_that_grows_sevenfold_in_storms_loses_nothing_and_is_whole_within_two_days", &[1, 2]) {
        // The 69th joins on day 23: then it is calm.
        let tally = run(&storm(80, 23.0), 30.0 / 365.0, seed).unwrap();
        check_storm(&tally, seed);
        assert_eq!((tally.joined, tally.left), (69, 0), "seed {seed}");
    }
}

#[test]
fn a_fleet_that_shrinks_again_in_storms_loses_nothing_and_breaks_no_rule() {
    for seed in seeds("a_fleet_that_shrinks_again_in_storms_loses_nothing_and_breaks_no_rule", &[1]) {
        let tally = run(&storm(30, 60.0), 65.0 / 365.0, seed).unwrap();
        check_storm(&tally, seed);
        assert_eq!((tally.joined, tally.left), (69, 50), "seed {seed}");
    }
}

#[test]
fn ten_thousand_drives_ask_the_production_gate() {
    // Half a day each: to judge a command takes seconds at this size. A year of it is in docs/durability.md.
    let operator = Operator { commands: 4.0 * 365.0, typos: 0.5, ignores_gate: false };
    let (mut done, mut refused) = (0, 0);
    for seed in seeds("ten_thousand_drives_ask_the_production_gate", &[4, 10]) {
        let tally = run(&Fleet { operator, ..Fleet::ten_thousand(false) }, 0.5 / 365.0, seed).unwrap();
        check_orders(&tally, seed);
        assert_eq!(tally.drives, 10_000);
        done += tally.orders.sum().done;
        refused += tally.orders.slips().refused;
    }
    assert!((done > 1 && refused > 0) || std::env::var("SEED").is_ok(), "{done} done, {refused} refused");
}

#[test]
fn the_same_seed_has_the_same_commands_and_nobody_types_unless_asked() {
    let quiet = nodes(12, 4, "4+2 surviving 1 site");
    let fleet = Fleet { operator: clumsy(200.0), ..quiet.clone() };
    let first = run(&fleet, 0.05, 5).unwrap();
    assert_eq!(first, run(&fleet, 0.05, 5).unwrap());
    assert_ne!(first.orders, run(&fleet, 0.05, 6).unwrap().orders);
    assert!(run(&quiet, 0.05, 5).unwrap().orders.kinds.is_empty(), "nobody types unless asked for");
}
