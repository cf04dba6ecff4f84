//! The one binary: `abide up` runs a store, every other command asks it.

mod args;
mod ask;
mod control;
mod inspect;
mod metrics;
mod show;
mod tls;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser;
use serde_json::json;
use show::{Paint, paint_error};

fn main() -> ExitCode {
    let Cli { home, json, command } = Cli::parse();
    let home = match home.map_or_else(default_home, Ok) {
        Ok(home) => home,
        Err(why) => return failed(json, &why),
    };
    let done = match command {
        Command::Up(up) => return up::run(&home, *up).map_or_else(|why| failed(json, &why), |()| ExitCode::SUCCESS),
        Command::Inspect(what) if !what.asks_the_store() => inspect::run(&what).map_err(|why| (why, None)),
        command => ask::run(&home, &command).map_err(|error| {
            let answer = match &error {
                control::Error::Refused { answer, .. } => Some(answer.clone()),
                _ => None,
            };
            (error.to_string(), answer)
        }),
    };
    match done {
        Ok(done) => {
            let shown = if json { format!("{:#}", done.answer) } else { done.shown };
            // A reader that went away (`| head`) is no error.
            use std::io::Write;
            let _ = writeln!(std::io::stdout(), "{shown}");
            if done.good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err((why, Some(answer))) if json => {
            eprintln!("{answer:#}");
            let _ = why;
            ExitCode::FAILURE
        }
        Err((why, _)) => failed(json, &why),
    }
}

fn failed(json: bool, why: &str) -> ExitCode {
    if json {
        eprintln!("{:#}", json!({ "error": why }));
    } else {
        eprintln!("{} {why}", paint_error(Paint::Red, "abide:"));
    }
    ExitCode::FAILURE
}

/// `$ABIDE_HOME`, else `~/.config/abide`.
fn default_home() -> Result<PathBuf, String> {
    if let Some(home) = std::env::var_os("ABIDE_HOME").filter(|home| !home.is_empty()) {
        return std::path::absolute(home).map_err(|error| format!("$ABIDE_HOME: {error}"));
    }
    match std::env::var_os("HOME").filter(|home| !home.is_empty()) {
        Some(home) => Ok(PathBuf::from(home).join(".config").join("abide")),
        None => Err("neither $ABIDE_HOME nor $HOME is set: name a folder for keys with --home".into()),
    }
}
