//! Power cuts, splits, one-way cuts, losses, slowness, handed-over leads: whatever was acknowledged
//! is there afterwards, once, in one order, on everybody; and reads never go back.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use crate::world;
use world::run;
use world::story::Storm;

/// All that a storm leaves behind.
fn traces(seed: u64) -> impl PartialEq + std::fmt::Debug {
    let history = run(Storm::new(seed).rage()).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    (history.trace, history.reads, history.acknowledged)
}

#[test]
fn the_same_seed_is_the_same_storm() {
    for seed in 0..8 {
        assert!(traces(seed) == traces(seed), "seed {seed}");
    }
}

fn storms(seeds: std::ops::Range<u64>) {
    let (mut acknowledged, mut reads) = (0, 0);
    for seed in seeds {
        let history = run(Storm::new(seed).rage()).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        acknowledged += history.acknowledged.len();
        reads += history.reads;
    }
    assert!(acknowledged > 500 && reads > 100, "only {acknowledged} commits and {reads} reads in all");
}

fn number_of(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(otherwise)
}

/// One storm, or more: `STORM_SEED=17 STORM_COUNT=1000 cargo nextest run -p replicated these_storms`;
/// with `STORM_LOG=replicated=debug` it says what happens.
#[test]
fn these_storms() {
    let first = number_of("STORM_SEED", 1000);
    for seed in first..first + number_of("STORM_COUNT", 1) {
        run(Storm::new(seed).rage()).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    }
}

#[test]
fn acknowledged_batches_survive_storms_1() {
    storms(0..14);
}

#[test]
fn acknowledged_batches_survive_storms_2() {
    storms(14..28);
}

#[test]
fn acknowledged_batches_survive_storms_3() {
    storms(28..42);
}

#[test]
fn acknowledged_batches_survive_storms_4() {
    storms(42..56);
}
