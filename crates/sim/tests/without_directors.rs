//! All directors are gone with their drives, and as many others as a code bears: each loss from its seed. `cargo xtask sim SEED COUNT` runs
//! others.
#![allow(clippy::print_stderr, clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::time::Instant;

use sim::cluster::loss::{Besides, Loss, run};

/// Seeds that CI runs of losses with nothing wrong besides, and of each kind of those with something.
const SEEDS: u64 = 8;
const SEEDS_BESIDES: u64 = 2;
/// Tests that share the first ones, so that they run side by side.
const LANES: u64 = 2;
/// Set in the process that runs a test's seeds.
const ALONE: &str = "ABIDE_SIM_ALONE";

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Runs a test's seeds in a process of its own: in one that runs others a seed isn't the same twice.
fn alone(test: &str, losses: impl Iterator<Item = Loss>) {
    if std::env::var_os(ALONE).is_some() {
        return survive(losses);
    }
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args([test, "--exact", "--nocapture"]).env(ALONE, "1").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = again.spawn().unwrap();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        eprintln!("{}", line.unwrap());
    }
    let told = child.wait_with_output().unwrap();
    let passed = told.status.success() && String::from_utf8_lossy(&told.stdout).contains("1 passed");
    assert!(passed, "{test}: see above");
}

fn survive(losses: impl Iterator<Item = Loss>) {
    if let Ok(filter) = std::env::var("ABIDE_LOG") {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    }
    let mut failed = Vec::new();
    for loss in losses {
        let began = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(|| run(loss)));
        match done.unwrap_or_else(|_| Err(format!("{loss:?}: it panicked, see above"))) {
            Ok(report) => {
                if std::env::var_os("ABIDE_SIM_TRACE").is_some() {
                    eprintln!("{}", report.trace.join("\n"));
                }
                let (seconds, took) = (report.counts.seconds, began.elapsed());
                eprintln!("{loss:?}: {seconds} simulated s, drives {:x}, took {took:?}", report.fingerprint);
            }
            Err(error) => {
                eprintln!("{error}\n");
                failed.push(error.lines().last().unwrap_or_default().to_owned());
            }
        }
    }
    assert!(failed.is_empty(), "not survived:\n{}\nagain: cargo xtask sim SEED 1", failed.join("\n"));
}

fn seeds(count: u64) -> std::ops::Range<u64> {
    let (first, count) = (number("ABIDE_SIM_SEED").unwrap_or(1), number("ABIDE_SIM_COUNT").unwrap_or(count));
    first..first + count
}

fn lane(lane: u64) -> impl Iterator<Item = Loss> {
    seeds(SEEDS).filter(move |seed| seed % LANES == lane).map(|seed| Loss::new(seed, Besides::Nothing))
}

fn besides(what: Besides) -> impl Iterator<Item = Loss> {
    seeds(SEEDS_BESIDES).map(move |seed| Loss::new(seed, what))
}

#[test]
fn everything_stays_readable_without_directors_0() {
    alone("everything_stays_readable_without_directors_0", lane(0));
}

#[test]
fn everything_stays_readable_without_directors_1() {
    alone("everything_stays_readable_without_directors_1", lane(1));
}

#[test]
fn what_has_too_few_pieces_is_said_exactly_and_everything_else_comes_back() {
    alone("what_has_too_few_pieces_is_said_exactly_and_everything_else_comes_back", besides(Besides::Drive));
}

#[test]
fn bits_that_flip_on_what_is_left_never_become_wrong_bytes() {
    alone("bits_that_flip_on_what_is_left_never_become_wrong_bytes", besides(Besides::Bits));
}
