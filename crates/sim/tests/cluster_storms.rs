//! Storms over clusters, each from its seed: `cargo xtask sim SEED COUNT` runs others.
#![allow(clippy::print_stderr, clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::time::Instant;

use replicated::lies::Lie as Replicas;
use sim::cluster::{Always, Kind, Report, Storm, run};
use sim::disk::Lie;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Seeds that CI runs.
const SEEDS: u64 = 200;
/// Tests that share them, so that they run side by side.
const LANES: u64 = 4;

/// Lines of the store's log bear the simulated time.
struct Simulated;

impl FormatTime for Simulated {
    fn format_time(&self, to: &mut Writer<'_>) -> std::fmt::Result {
        write!(to, "{:>8} ms ", turmoil::sim_elapsed().unwrap_or_default().as_millis())
    }
}

/// What the store itself says, if somebody asks with `ABIDE_LOG=debug`.
fn listen() {
    if let Ok(filter) = std::env::var("ABIDE_LOG") {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_timer(Simulated).with_writer(std::io::stderr);
        // Another test of this process may have done so.
        let _ = log.try_init();
    }
}

/// What breaks inside the store is told with the storm in which it did.
fn weathered(storm: Storm) -> Result<Report, String> {
    catch_unwind(AssertUnwindSafe(|| run(storm))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("{storm:?}: it panicked: {}", text.unwrap_or_default()))
    })
}

/// Runs a test again in a process of its own, with this variable set; says whether it passes there. Tokio numbers the
/// tasks of all threads of a process in one row, in which order those of a crashed machine end follows from their numbers,
/// and a panic leaves a simulated runtime in pieces.
fn passes_alone(test: &str, name: &str, value: &str) -> bool {
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args([test, "--exact", "--nocapture"]).env(name, value).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = again.spawn().unwrap();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        eprintln!("{}", line.unwrap());
    }
    let told = child.wait_with_output().unwrap();
    told.status.success() && String::from_utf8_lossy(&told.stdout).contains("1 passed")
}

fn alone(test: &str, body: impl FnOnce()) {
    const HERE: &str = "ABIDE_SIM_ALONE";
    if std::env::var_os(HERE).is_some() {
        listen();
        return body();
    }
    assert!(passes_alone(test, HERE, "1"), "{test}: see above");
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn lane(lane: u64) {
    let (first, count) = (number("ABIDE_SIM_SEED").unwrap_or(1), number("ABIDE_SIM_COUNT").unwrap_or(SEEDS));
    weather((first..first + count).filter(|seed| seed % LANES == lane).map(Storm::new));
}

/// Runs storms one after the other, and tells of all that weren't weathered.
fn weather(storms: impl Iterator<Item = Storm>) {
    let mut failed = Vec::new();
    for storm in storms {
        let (Storm { seed, nodes, kind, .. }, began) = (storm, Instant::now());
        match weathered(storm) {
            Ok(report) => {
                if std::env::var_os("ABIDE_SIM_TRACE").is_some() {
                    eprintln!("{}", report.trace.join("\n"));
                }
                let (counts, print) = (report.counts, report.fingerprint);
                eprintln!(
                    "seed {seed}: {nodes} nodes, {kind:?}: {counts:?}, drives {print:x}, took {:?}",
                    began.elapsed()
                );
            }
            Err(error) => {
                eprintln!("{error}\nseed {seed} failed\n");
                failed.push(error.lines().last().unwrap_or_default().to_owned());
            }
        }
    }
    assert!(failed.is_empty(), "not weathered:\n{}\nagain: cargo xtask sim SEED 1", failed.join("\n"));
}

#[test]
fn clusters_weather_storms_0() {
    alone("clusters_weather_storms_0", || lane(0));
}

#[test]
fn clusters_weather_storms_1() {
    alone("clusters_weather_storms_1", || lane(1));
}

#[test]
fn clusters_weather_storms_2() {
    alone("clusters_weather_storms_2", || lane(2));
}

#[test]
fn clusters_weather_storms_3() {
    alone("clusters_weather_storms_3", || lane(3));
}

/// Many machines at three sites, of which any two may be in trouble at once.
fn crowd(seed: u64, nodes: usize) -> Storm {
    Storm { nodes, sites: 3, victims: 2, joins: false, phases: 1, kind: Kind::Promised, ..Storm::new(seed) }
}

#[test]
fn fifteen_machines_at_three_sites_weather_storms_on_two_at_once() {
    alone("fifteen_machines_at_three_sites_weather_storms_on_two_at_once", || {
        let (first, count) = (number("ABIDE_SIM_SEED").unwrap_or(1), number("ABIDE_SIM_COUNT").unwrap_or(2));
        let nodes = number("ABIDE_SIM_NODES").unwrap_or(15) as usize;
        weather((first..first + count).map(|seed| crowd(seed, nodes)));
    });
}

#[test]
fn thirty_machines_at_three_sites_weather_a_storm() {
    alone("thirty_machines_at_three_sites_weather_a_storm", || weather([crowd(30, 30)].into_iter()));
}

#[test]
fn machines_come_and_go_in_storms_and_nothing_is_lost() {
    alone("machines_come_and_go_in_storms_and_nothing_is_lost", || {
        let (first, count) = (number("ABIDE_SIM_SEED").unwrap_or(1), number("ABIDE_SIM_COUNT").unwrap_or(1));
        let turnover = |seed| Storm {
            nodes: 5,
            joins: false,
            turnover: true,
            typos: true,
            phases: 3,
            kind: Kind::Promised,
            ..Storm::new(seed)
        };
        weather((first..first + count).map(turnover));
    });
}

/// A storm in which a fault has its chance, and no other one.
fn planted(seed: u64, always: Always) -> Storm {
    let fair =
        Storm { nodes: 3, joins: false, skew: false, shards: false, typos: false, clients: 4, ..Storm::new(seed) };
    Storm { kind: Kind::Anything, always: Some(always), lie: Lie::None, replicas: Replicas::None, ..fair }
}

/// The storms would be worth little if they didn't notice what is wrong; and what isn't passes.
fn is_found_out(test: &str, wrong: impl Fn(u64) -> Storm) {
    const PLANTED: &str = "ABIDE_SIM_PLANTED";
    const SOUND: u64 = 0;
    if let Some(seed) = number(PLANTED) {
        listen();
        let storm = match seed {
            SOUND => Storm { lie: Lie::None, replicas: Replicas::None, careless: false, ..wrong(1) },
            seed => wrong(seed),
        };
        weathered(storm).unwrap_or_else(|error| panic!("{error}"));
        return;
    }
    let passes = |seed: u64| passes_alone(test, PLANTED, &seed.to_string());
    assert!(passes(SOUND), "{:?} without the fault isn't weathered", wrong(1));
    assert!(!(1..=4).all(passes), "{:?} was found out by none of 4 storms", wrong(1));
}

#[test]
fn a_sync_that_is_skipped_is_found_out() {
    is_found_out("a_sync_that_is_skipped_is_found_out", |seed| Storm {
        lie: Lie::Sync,
        ..planted(seed, Always::Blackout)
    });
}

#[test]
fn a_directory_entry_that_is_lost_is_found_out() {
    is_found_out("a_directory_entry_that_is_lost_is_found_out", |seed| Storm {
        lie: Lie::SyncDir,
        ..planted(seed, Always::Blackout)
    });
}

#[test]
fn an_acknowledgement_before_a_majority_has_it_is_found_out() {
    is_found_out("an_acknowledgement_before_a_majority_has_it_is_found_out", |seed| Storm {
        replicas: Replicas::Acknowledged,
        ..planted(seed, Always::Cut)
    });
}

#[test]
fn a_read_of_a_deposed_leader_is_found_out() {
    is_found_out("a_read_of_a_deposed_leader_is_found_out", |seed| Storm {
        replicas: Replicas::StaleRead,
        ..planted(seed, Always::Cut)
    });
}

#[test]
fn codes_that_are_repeated_for_mistyped_commands_are_found_out() {
    is_found_out("codes_that_are_repeated_for_mistyped_commands_are_found_out", |seed| Storm {
        kind: Kind::Calm,
        always: None,
        typos: true,
        careless: true,
        ..planted(seed, Always::Cut)
    });
}
