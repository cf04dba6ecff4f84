//! What years do to fleets.
#![allow(missing_docs, clippy::unwrap_used)]

use base::Domain;
use durability::Chain;
use forecast::{Event, Fleet, Strikes, run};
use policy::Rule;

/// Independent drives, each on a node of its own, that die at `per_day`; what is lost is rebuilt `days` later.
fn independent(drives: usize, rule: &str, per_day: f64, days: f64) -> Fleet {
    Fleet {
        rule: Rule::parse(rule).unwrap(),
        drive_fails: per_day * 365.0,
        replace_days: 1.0,
        outages: 0.0,
        after_minutes: days * 1440.0,
        drive_mb_s: 1e6,
        node_mb_s: 1e7,
        ..Fleet::grid([1, 1, drives, 1], false)
    }
}

/// Sites of equal nodes with two drives each.
fn sites(sites: usize, nodes: usize, rule: &str) -> Fleet {
    Fleet { rule: Rule::parse(rule).unwrap(), drive_fails: 0.18, ..Fleet::grid([sites, 1, nodes, 2], false) }
}

#[test]
fn independent_failures_lose_as_much_as_the_exact_chain_says() {
    for (rule, k, m, per_day, days) in [("2+1", 2, 1, 0.0005, 7.0), ("4+2", 4, 2, 0.002, 7.0)] {
        let expected = Chain::eager(k, m, per_day, days).unwrap().loss_per_year();
        let (mut lost, mut exposure, mut waits) = (0.0, 0.0, 0.0);
        let seeds = 1..=6;
        for seed in seeds.clone() {
            let tally = run(&independent(300, rule, per_day, days), 1.0, seed).unwrap();
            (lost, exposure) = (lost + tally.losses.len() as f64, exposure + tally.groups as f64);
            waits += tally.repair_days() / f64::from(seeds.clone().count() as u32);
            assert!((tally.deaths as f64 / (300.0 * per_day * 365.0) - 1.0).abs() < 0.5, "{}", tally.deaths);
        }
        eprintln!("{rule}, seeds {seeds:?}: {lost} groups lost, the chain says {}", expected * exposure);
        assert!((waits / days - 1.0).abs() < 0.01, "{waits} days to repair");
        // A lost group is lost once: at most 4 % of them are. Its drives are shared, so the spread is wider than Poisson's.
        let off = lost / (expected * exposure) - 1.0;
        assert!(off.abs() < 0.2, "{rule}: off by {off}");
    }
}

#[test]
fn known_bad_set_ups_lose_data_and_good_ones_do_not() {
    let fire = Event { strikes: Strikes::One(Domain::Site), per_year: 1.0, dead: 1.0, hours: 0.0 };
    // A site holds all four spare pieces: after a fire any drive that dies takes data with it.
    let bad = Fleet { events: vec![fire.clone()], after_minutes: 1440.0, ..sites(3, 8, "8+4") };
    let lost = run(&bad, 2.0, 1).unwrap().losses.len();
    assert!(lost > 0, "8+4 over three sites of four pieces each");
    // Three of each group's eight in a site, one to spare after a fire, rebuilt within the day.
    let good = Fleet {
        drive_fails: 0.02,
        events: vec![Event { per_year: 0.3, ..fire }],
        ..sites(5, 8, "8+4 surviving 1 site")
    };
    let tally = run(&Fleet { drive_mb_s: 1000.0, node_mb_s: 5000.0, ..good }, 2.0, 1).unwrap();
    assert_eq!(tally.losses, [], "8+4 over five sites");
    assert!(tally.deaths > 16, "no site burnt");

    let slow = run(&independent(100, "2+1", 0.0005, 7.0), 2.0, 1).unwrap();
    assert!(!slow.losses.is_empty(), "2+1 with a week to repair");
    let quick = run(&independent(100, "4+2", 0.0005, 0.1), 2.0, 1).unwrap();
    assert!(quick.losses.is_empty() && quick.deaths > 10, "4+2 with two hours to repair");
}

#[test]
fn one_node_that_rebuilds_for_all_is_too_slow_for_many() {
    let fleet = |workers| Fleet { workers, drive_fails: 0.18, ..Fleet::grid([5, 2, 5, 4], false) };
    let (one, all) = (run(&fleet(1), 0.5, 3).unwrap(), run(&fleet(0), 0.5, 3).unwrap());
    assert!(one.repair_days() > 3.0 * all.repair_days(), "{} and {} days", one.repair_days(), all.repair_days());
    assert!(one.backlog_bytes_max > all.backlog_bytes_max);
}

#[test]
fn short_outages_cost_no_reads_and_long_ones_do() {
    let fleet = |minutes| Fleet {
        drive_fails: 0.0,
        outages: 50.0,
        outage_minutes: minutes,
        outage_spread: 0.1,
        workers: 0,
        ..Fleet::grid([4, 2, 4, 2], false)
    };
    let short = run(&fleet(20.0), 0.2, 1).unwrap();
    assert!(short.outages > 100 && short.read_positions == 0.0 && short.rebuilt_positions == 0);
    let long = run(&fleet(60_000.0), 0.2, 1).unwrap();
    assert!(long.rebuilt_in_vain > 0 && long.rebuilt_in_vain == long.rebuilt_positions);
    assert!(long.losses.is_empty(), "nothing died");
}

#[test]
fn each_rebuilt_piece_takes_k_reads_and_less_where_several_are_rebuilt_at_once() {
    let tally = run(&independent(200, "8+4", 0.0005, 0.1), 1.0, 1).unwrap();
    let reads = tally.reads_per_rebuilt();
    assert!((7.5..=8.0).contains(&reads), "{reads}");
    assert_eq!(tally.rebuilt_positions, tally.waits);
}

#[test]
fn what_nothing_can_be_read_of_is_counted_by_the_minute() {
    let dark = Event { strikes: Strikes::All, per_year: 20.0, dead: 0.0, hours: 0.5 };
    let fleet = Fleet { drive_fails: 0.0, outages: 0.0, events: vec![dark], ..Fleet::grid([2, 1, 8, 1], false) };
    let fleet = Fleet { rule: Rule::parse("4+2").unwrap(), ..fleet };
    let tally = run(&fleet, 1.0, 1).unwrap();
    // Half an hour each; two that overlap are less than an hour.
    let whole = tally.outages as f64 * 30.0;
    assert!(tally.outages > 8 && tally.unreadable_minutes_per_year() <= whole + 1e-6);
    assert!(tally.unreadable_minutes_per_year() > 0.8 * whole, "{}", tally.unreadable_minutes_per_year());
}

#[test]
fn the_same_seed_gives_the_same_years_and_another_others() {
    let fleet = Fleet::grid([4, 2, 3, 2], true);
    let first = run(&fleet, 0.5, 11).unwrap();
    assert_eq!(first, run(&fleet, 0.5, 11).unwrap());
    assert_ne!(first, run(&fleet, 0.5, 12).unwrap());
    assert!(first.days.len() == 182 && first.outages > 0);
    assert!(run(&fleet, 0.0, 1).is_err() && run(&fleet, f64::NAN, 1).is_err());
}
