//! Storms over a whole store, each from its seed: `cargo xtask sim SEED COUNT` runs others.
#![allow(clippy::print_stderr, clippy::unwrap_used)]

use sim::disk::Lie;
use sim::storm::{Storm, run};

/// Seeds that CI runs.
const SEEDS: u64 = 200;
/// Tests that share them, so that they run side by side.
const LANES: u64 = 4;

fn weather(seeds: impl Iterator<Item = u64>) {
    for seed in seeds {
        match run(Storm::new(seed)) {
            Ok(report) => eprintln!("seed {seed}: {:?}", report.counts),
            Err(error) => panic!("{error}\nagain: cargo xtask sim {seed} 1"),
        }
    }
}

/// What the store itself says, if somebody asks with `ABIDE_LOG=debug`.
fn listen() {
    if let Ok(filter) = std::env::var("ABIDE_LOG") {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        let log = tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr);
        // Another test of this process may have done so.
        let _ = log.try_init();
    }
}

fn lane(lane: u64) {
    listen();
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("ABIDE_SIM_SEED").unwrap_or(1);
    let count = number("ABIDE_SIM_COUNT").unwrap_or(SEEDS);
    weather((first..first + count).filter(|seed| seed % LANES == lane));
}

#[test]
fn nothing_acknowledged_is_lost_in_storms_0() {
    lane(0);
}

#[test]
fn nothing_acknowledged_is_lost_in_storms_1() {
    lane(1);
}

#[test]
fn nothing_acknowledged_is_lost_in_storms_2() {
    lane(2);
}

#[test]
fn nothing_acknowledged_is_lost_in_storms_3() {
    lane(3);
}

#[test]
fn the_same_seed_is_the_same_storm() {
    for seed in [1, 2] {
        let (one, two) = (run(Storm::new(seed)).unwrap(), run(Storm::new(seed)).unwrap());
        let differs = one.trace.iter().zip(&two.trace).position(|(one, two)| one != two);
        if let Some(at) = differs {
            panic!("seed {seed}: the traces part at line {at}:\n{}\n{}", one.trace[at], two.trace[at]);
        }
        assert_eq!((one.trace.len(), one.counts), (two.trace.len(), two.counts), "seed {seed}");
        assert_eq!(one.fingerprint, two.fingerprint, "seed {seed}: the drives differ");
    }
}

/// The storms would be worth little if they didn't notice drives that lie.
fn is_found_out(lie: Lie) {
    let caught = (1..=6).filter(|seed| run(Storm { lie, ..Storm::new(*seed) }).is_err()).count();
    assert!(caught >= 3, "{lie:?} was found out by {caught} of 6 storms");
}

#[test]
fn a_sync_that_is_skipped_is_found_out() {
    is_found_out(Lie::Sync);
}

#[test]
fn a_directory_entry_that_is_lost_is_found_out() {
    is_found_out(Lie::SyncDir);
}
