//! The one binary: `abide up` runs a store, every other command asks it.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
mod ask;
mod control;
mod files;
mod gateway;
mod inspect;
mod kits;
mod metrics;
mod recover;
mod rescue;
mod show;
mod simulate;
mod tls;
mod undo;
mod up;
mod volumes;
mod watch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser;
use serde_json::json;
use show::{Paint, paint_error};

fn main() -> ExitCode {
    let Cli { home, json, command } = Cli::parse();
    let named = home.is_some();
    let home = match home.map_or_else(default_home, |home| absolute(&home)) {
        Ok(home) => home,
        Err(why) => return failed(json, &why),
    };
    let done = match command {
        Command::Up(up) => {
            return up::run(&home, named, *up).map_or_else(|why| failed(json, &why), |()| ExitCode::SUCCESS);
        }
        Command::Join(join) => {
            let args::Join { ticket, up } = *join;
            return up::join(&home, named, &ticket, up).map_or_else(|why| failed(json, &why), |()| ExitCode::SUCCESS);
        }
        Command::Gateway(what) => {
            return gateway::run(&home, &what).map_or_else(|why| failed(json, &why), |()| ExitCode::SUCCESS);
        }
        Command::Watch(what) => {
            return watch::run(&home, json, &what).map_or_else(|why| failed(json, &why), |()| ExitCode::SUCCESS);
        }
        Command::Rescue(what) => rescue::run(&home, &what).map_err(|why| (why, None)),
        Command::Volume(what) => volumes::entered(|| volumes::run(&home, &what)).map_err(|why| (why, None)),
        Command::Grant(what) => volumes::entered(|| volumes::grant(&home, &what)).map_err(|why| (why, None)),
        Command::Key(args::Key::Test { volume, shares, from }) => {
            volumes::entered(|| volumes::test(&home, &volume, shares, &from)).map_err(|why| (why, None))
        }
        Command::Cp(what) => files::copy(&home, &what).map_err(|why| (why, None)),
        Command::Ls(what) => files::list(&home, &what).map_err(|why| (why, None)),
        Command::Rm(what) => files::remove(&home, &what).map_err(|why| (why, None)),
        Command::Kit(args::Kit::Export { volume, file, from }) => {
            kits::export(&home, &volume, &file, &from).map_err(|why| (why, None))
        }
        Command::Kit(args::Kit::Verify { volume, file, from }) => {
            kits::verify(&home, &volume, file.as_deref(), &from).map_err(|why| (why, None))
        }
        Command::Recover(what) => recover::run(&home, &what).map_err(|why| (why, None)),
        Command::Simulate(what) => simulate::run(&home, &what).map_err(|why| (why, None)),
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
        Err((_, Some(answer))) if json => {
            eprintln!("{answer:#}");
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
        return absolute(Path::new(&home));
    }
    match std::env::var_os("HOME").filter(|home| !home.is_empty()) {
        Some(home) => Ok(PathBuf::from(home).join(".config").join("abide")),
        None => Err("neither $ABIDE_HOME nor $HOME is set: name a folder for keys with --home".into()),
    }
}

/// The whole path, without the slash that a shell's completion puts at its end: folders are told
/// apart by their text.
fn absolute(path: &Path) -> Result<PathBuf, String> {
    let whole = std::path::absolute(path).map_err(|error| format!("the path {}: {error}", path.display()))?;
    Ok(whole.components().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_name() {
        let here = std::env::current_dir().unwrap();
        for name in ["data/d1", "data/d1/", "./data/d1", "data//d1/./"] {
            assert_eq!(absolute(Path::new(name)).unwrap().into_os_string(), here.join("data/d1").into_os_string());
        }
        assert!(absolute(Path::new("")).is_err());
    }
}
