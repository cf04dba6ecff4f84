//! The project's chores, in Rust: `cargo xtask check` is the read-only gate, `cargo xtask test`
//! runs everything. Both are what CI runs.

#![allow(clippy::print_stdout, reason = "a command for people")]

use std::process::ExitCode;

mod check;
mod clients;
mod cluster;
mod run;

const HELP: &str = "\
cargo xtask COMMAND

  check                the gate: formatting, lints, floors, licences; writes nothing
  test                 check, every test, real third-party clients, the independent reader
  test --fast          only what cargo runs: no third-party clients, no real processes
  test --outside       only real processes and clients, with the release build
  sim [SEED [COUNT]]   simulated storms from SEED on, COUNT of them (default: 1 1000)
  dev-cluster N        N real nodes on this machine until Ctrl-C (`dev-cluster --help`)
  clients              installs the third-party clients that the tests use into target/clients
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["check"] => check::all(),
        ["test"] => check::all().and_then(|()| run::cargo_tests()).and_then(|()| run::outside_tests(false)),
        ["test", "--outside"] => run::outside_tests(true),
        ["test", "--fast"] => check::all().and_then(|()| run::cargo_tests()),
        ["sim", rest @ ..] => run::sim(rest),
        ["dev-cluster", rest @ ..] => cluster::dev_cluster(rest),
        ["clients"] => clients::install().map(|_| ()),
        _ => {
            print!("{HELP}");
            return if words.is_empty() || words == ["help"] || words == ["--help"] {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(2)
            };
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
