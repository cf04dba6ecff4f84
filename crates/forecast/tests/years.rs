//! What years do to fleets.
#![allow(missing_docs, clippy::unwrap_used)]

use durability::Chain;
use forecast::{Fleet, run};
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

#[test]
fn independent_failures_lose_as_much_as_the_exact_chain_says() {
    for (rule, k, m, per_day, days) in [("2+1", 2, 1, 0.0005, 7.0), ("4+2", 4, 2, 0.002, 7.0)] {
        let fleet = independent(300, rule, per_day, days);
        let expected = Chain::eager(k, m, per_day, days).unwrap().loss_per_year();
        let (mut lost, mut exposure) = (0.0, 0.0);
        for seed in 1..=3 {
            let tally = run(&fleet, 1.0, seed).unwrap();
            println!(
                "{rule} seed {seed}: {} of {} in {:?} days, {} deaths",
                tally.losses.len(),
                tally.groups,
                tally.repair_days(),
                tally.deaths
            );
            lost += tally.losses.len() as f64;
            exposure += tally.groups as f64;
        }
        println!("{rule}: lost {lost}, expected {}", expected * exposure);
    }
}
