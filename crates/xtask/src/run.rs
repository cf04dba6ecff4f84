//! Runs the tests: cargo's, and those in which real processes and real clients take part.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::clients;

/// The workspace's folder.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Runs a command in the workspace's folder; its failure is an error that names it.
pub fn step(what: &str, command: &mut Command) -> Result<(), String> {
    println!("\n== {what}");
    let status = command.current_dir(root()).status().map_err(|error| format!("{what}: can't be started: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{what}: failed ({status})")) }
}

/// Cargo's own command with arguments.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

fn has_nextest() -> bool {
    cargo(&["nextest", "--version"]).output().is_ok_and(|output| output.status.success())
}

/// Every test that cargo knows, the 200 simulated seeds among them.
pub fn cargo_tests() -> Result<(), String> {
    if has_nextest() {
        // Not the examples: they are measuring tools, which `check` compiles.
        step("tests", &mut cargo(&["nextest", "run", "--workspace", "--lib", "--bins", "--tests"]))?;
        step("documentation's tests", &mut cargo(&["test", "--workspace", "--doc", "--quiet"]))
    } else {
        step("tests", &mut cargo(&["test", "--workspace", "--lib", "--bins", "--tests", "--quiet"]))
    }
}

/// What is run, and the script that runs it.
const OUTSIDE: &[(&str, &str)] = &[
    ("erasure code by a stranger's hand", "tests/formats/erasure_golden.py"),
    ("the command line as a person uses it", "tests/cli/test_cli.py"),
    ("bad input", "tests/clients/bad_input.py"),
    ("volumes, grants and kits by a stranger's hand", "tests/reader/test_volumes.py"),
    ("the independent reader", "tests/reader/test_reader.py"),
    ("kill -9 under load", "tests/crash/kill_nine.py"),
    ("real clients while two drives vanish", "tests/clients/run.py"),
    ("real clients while nodes are killed, hung, cut off and restarted", "tests/cluster/run.py --parts spread"),
    ("everything read by the root key's words alone", "tests/cluster/rescue.py"),
    ("volumes whose keys stay with their owner", "tests/cluster/endtoend.py"),
];

/// Tests with the real binary, real clients and the independent reader. The binary is the one that the other tests
/// built: with their assertions and the features that they ask for, less optimised than what ships. With `release` it is
/// what ships; that build took a sixth of CI's time.
pub fn outside_tests(release: bool) -> Result<(), String> {
    // Asked for as the tests were, or cargo would build half of it again with other features.
    let build: &[&str] = if release {
        &["build", "--release", "-p", "cli"]
    } else {
        &["test", "--workspace", "--lib", "--bins", "--tests", "--no-run", "--quiet"]
    };
    step("the binary", &mut cargo(build))?;
    let folder = root().join("target").join(if release { "release" } else { "debug" });
    let abide = folder.join("abide");
    let bin = clients::install()?;
    let python = bin.join("python");
    let path = std::env::join_paths(
        std::iter::once(bin.clone())
            .chain(std::iter::once(folder))
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    )
    .map_err(|error| format!("PATH: {error}"))?;
    for (what, line) in OUTSIDE {
        let mut words = line.split(' ');
        let script = words.next().unwrap_or_default();
        if !root().join(script).exists() {
            return Err(format!("{what}: {script} is missing"));
        }
        // Once: a byte that is lost only now and then is lost.
        let began = Instant::now();
        step(what, Command::new(&python).arg(script).args(words).env("PATH", &path).env("ABIDE", &abide))?;
        println!("({:.0} s)", began.elapsed().as_secs_f64());
    }
    s3tests(&python, &path, &abide)
}

/// The ratchet over ceph/s3-tests, where a clone is at hand: one machine, then a cluster that lacks a node.
fn s3tests(python: &Path, path: &std::ffi::OsStr, abide: &Path) -> Result<(), String> {
    let Some(clone) = std::env::var_os("S3TESTS") else {
        println!("\n== ceph/s3-tests: S3TESTS names no clone, so the ratchet is not run here");
        return Ok(());
    };
    step(
        "ceph/s3-tests ratchet",
        Command::new("tests/s3tests/run").env("S3TESTS", &clone).env("PATH", path).env("ABIDE", abide),
    )?;
    let mut cluster = Command::new(python);
    cluster.arg("tests/cluster/ratchet.py").env("S3TESTS", &clone).env("PATH", path).env("ABIDE", abide);
    step("ceph/s3-tests ratchet, five nodes of which one is down", &mut cluster)
}

/// Simulated storms: `sim [SEED [COUNT]]`.
pub fn sim(words: &[&str]) -> Result<(), String> {
    let seed = words.first().copied().unwrap_or("1");
    let count = words.get(1).copied().unwrap_or("1000");
    step(
        "simulated storms",
        cargo(&[
            "test",
            "--profile",
            "storm",
            "-p",
            "sim",
            "--test",
            "storms",
            "--test",
            "cluster_storms",
            "--test",
            "without_directors",
            "--",
            "--nocapture",
        ])
        .env("ABIDE_SIM_SEED", seed)
        .env("ABIDE_SIM_COUNT", count),
    )
}
