//! `cargo xtask dev-cluster N`: N real nodes on this machine, in one command.
//!
//! Knows no more of Abide than a user does: the command line, its JSON, and what lies in a home.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::run::{cargo, root};

mod member;
mod ports;

use member::Member;

pub const HELP: &str = "\
cargo xtask dev-cluster N [--drives D] [--dir DIR] [--keep] [--json] [-- UP-OPTION…]

  N             how many nodes (1 to 30)
  --drives D    folders per node (2)
  --dir DIR     where homes and folders are (data/cluster); what is there is reopened, and grows to N nodes
  --keep        leaves the nodes running and returns once all are up
  --json        prints one line of JSON once all are up
  -- …          goes to every node's `up` and `join`, for example `-- --policy 4+2`

Builds the release binary first, unless ABIDE names one. Without --keep it runs until Ctrl-C and stops all nodes.
";

/// More would not fit a machine that other work is done on.
const NODES_MAX: usize = 30;
const DRIVES_MAX: usize = 64;
/// How often it is asked whether something came true.
const ASK_EVERY: Duration = Duration::from_millis(50);

struct Options {
    nodes: usize,
    drives: usize,
    dir: PathBuf,
    keep: bool,
    json: bool,
    extra: Vec<String>,
}

fn number(what: &str, word: Option<&&str>, max: usize) -> Result<usize, String> {
    let word = word.ok_or_else(|| format!("{what} is missing"))?;
    match word.parse() {
        Ok(count) if (1..=max).contains(&count) => Ok(count),
        _ => Err(format!("{what} is a number from 1 to {max}, not `{word}`")),
    }
}

fn options(words: &[&str]) -> Result<Options, String> {
    let mut found = Options {
        nodes: 0,
        drives: 2,
        dir: PathBuf::from("data/cluster"),
        keep: false,
        json: false,
        extra: Vec::new(),
    };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--drives" => found.drives = number("--drives", words.next(), DRIVES_MAX)?,
            "--dir" => found.dir = words.next().ok_or("--dir names no folder")?.into(),
            "--keep" => found.keep = true,
            "--json" => found.json = true,
            "--" => found.extra = words.by_ref().map(|word| (*word).to_owned()).collect(),
            word if word.starts_with('-') => return Err(format!("there is no option {word}\n\n{HELP}")),
            _ if found.nodes == 0 => found.nodes = number("the number of nodes", Some(word), NODES_MAX)?,
            word => return Err(format!("`{word}` is one word too many\n\n{HELP}")),
        }
    }
    if found.nodes == 0 {
        return Err(format!("say how many nodes\n\n{HELP}"));
    }
    found.dir = std::path::absolute(&found.dir).map_err(|error| format!("--dir {}: {error}", found.dir.display()))?;
    Ok(found)
}

/// The release binary: the one that `ABIDE` names, or built now.
fn binary() -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os("ABIDE") {
        return std::path::absolute(named).map_err(|error| format!("ABIDE: {error}"));
    }
    let built = cargo(&["build", "--release", "--quiet", "-p", "cli"]).current_dir(root()).status();
    if !built.map_err(|error| format!("cargo build: {error}"))?.success() {
        return Err("the release build failed".into());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(root().join(target).join("release/abide"))
}

/// Counts Ctrl-C and SIGTERM: the first stops the nodes, the second kills them.
pub(crate) struct Stops(Arc<AtomicUsize>);

impl Stops {
    fn listen() -> Result<Stops, String> {
        let count = Arc::new(AtomicUsize::new(0));
        for signal in [SIGINT, SIGTERM] {
            let seen = Arc::clone(&count);
            let mut signals = signal_hook::iterator::Signals::new([signal]).map_err(|e| format!("signals: {e}"))?;
            std::thread::spawn(move || signals.forever().for_each(|_| _ = seen.fetch_add(1, Ordering::Relaxed)));
        }
        Ok(Stops(count))
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once somebody asked to stop, so that waiting ends.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.count() == 0 { Ok(()) } else { Err("stopped before all nodes were up".into()) }
    }
}

/// Runs a cluster as `words` say, until Ctrl-C.
pub fn dev_cluster(words: &[&str]) -> Result<(), String> {
    if words.iter().take_while(|word| **word != "--").any(|word| ["--help", "-h", "help"].contains(word)) {
        print!("{HELP}");
        return Ok(());
    }
    let options = options(words)?;
    let binary = binary()?;
    let stops = Stops::listen()?;
    let mut members = plan(&options, &binary)?;
    let served = bring_up(&mut members, &options.extra, &stops).and_then(|()| show(&members, &options));
    if served.is_ok() && options.keep {
        return Ok(());
    }
    let watched = served.and_then(|()| watch(&mut members, &stops));
    stop(&mut members, &stops);
    watched
}

/// The nodes that there will be: those that the folder holds, and new ones up to the wanted number.
fn plan(options: &Options, binary: &Path) -> Result<Vec<Member>, String> {
    let held = (1..=NODES_MAX).filter(|number| Member::is_set_up(&options.dir, *number)).max().unwrap_or(0);
    if held > options.nodes {
        return Err(format!(
            "{} holds a cluster of {held} nodes: ask for {held} or more, or name another --dir",
            options.dir.display()
        ));
    }
    let mut taken = ports::Taken::default();
    (1..=options.nodes)
        .map(|number| {
            let member = Member::new(binary, &options.dir, number, options.drives)?;
            let ports = ports::choose(&options.dir.join(format!("n{number}/ports")), number, &mut taken)?;
            Ok(member.at(ports))
        })
        .collect()
}

/// Starts what is set up all at once (a majority has to be there before any of them serves), then
/// the first node if there is none, then lets the others join one after the other.
fn bring_up(members: &mut [Member], extra: &[String], stops: &Stops) -> Result<(), String> {
    let held = members.iter().take_while(|member| member.set_up).count().max(1);
    let (old, new) = members.split_at_mut(held);
    for member in old.iter_mut() {
        member.up(extra)?;
    }
    for member in old.iter_mut() {
        member.wait_until_ready(stops)?;
    }
    agree(old, stops)?;
    for (member, count) in new.iter_mut().zip(held + 1..) {
        let ticket = old[0].invite()?;
        member.join(&ticket, extra)?;
        member.wait_for_nodes(count, stops)?;
        old[0].wait_for_nodes(count, stops)?;
    }
    agree(members, stops)
}

/// Waits until each node knows all the others to be there. One that is alone knows of no nodes.
fn agree(members: &mut [Member], stops: &Stops) -> Result<(), String> {
    let count = if members.len() > 1 { members.len() } else { 0 };
    members.iter_mut().try_for_each(|member| member.wait_for_nodes(count, stops))
}

fn show(members: &[Member], options: &Options) -> Result<(), String> {
    let env = members[0].env()?;
    if options.json {
        let nodes: Vec<Value> = members.iter().map(Member::to_json).collect();
        let pairs: serde_json::Map<_, _> = env.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        println!("{}", json!({"dir": options.dir, "nodes": nodes, "env": pairs}));
        return Ok(());
    }
    println!("{:<5} {:<24} {:<22} {:>8}  folders", "node", "S3", "cluster", "pid");
    for member in members {
        println!("{}", member.row());
    }
    println!();
    for (name, value) in &env {
        println!("export {name}='{value}'");
    }
    if options.keep {
        let pids: Vec<String> = members.iter().filter_map(Member::pid).map(|pid| pid.to_string()).collect();
        println!("\nThe nodes run on. Stop them: kill {}", pids.join(" "));
    } else {
        println!("\nCtrl-C stops all nodes; the same command opens them again.");
    }
    Ok(())
}

/// Until Ctrl-C; says when a node ends by itself.
fn watch(members: &mut [Member], stops: &Stops) -> Result<(), String> {
    while stops.count() == 0 {
        for member in members.iter_mut() {
            if let Some(how) = member.ended() {
                eprintln!(
                    "{} ended by itself ({how}); the end of {}:\n{}",
                    member.name,
                    member.log.display(),
                    member.log_end()
                );
            }
        }
        if members.iter().all(|member| member.pid().is_none()) {
            return Err("no node runs any more".into());
        }
        std::thread::sleep(ASK_EVERY);
    }
    Ok(())
}

/// Ctrl-C for all at once; a second one, or half a minute, kills those that are left.
fn stop(members: &mut [Member], stops: &Stops) {
    let before = stops.count();
    for member in members.iter() {
        member.interrupt();
    }
    let mut rounds = 0;
    while members.iter_mut().any(|member| member.running()) {
        rounds += 1;
        if stops.count() > before.max(1) || ASK_EVERY * rounds > Duration::from_secs(30) {
            for member in members.iter_mut().filter_map(|member| member.kill().then_some(member)) {
                eprintln!("{} did not stop and was killed", member.name);
            }
            return;
        }
        std::thread::sleep(ASK_EVERY);
    }
    eprintln!("all nodes stopped");
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::options;

    #[test]
    fn options_are_read_and_mistakes_are_named() {
        let found = options(&["5", "--drives", "3", "--json", "--", "--policy", "4+2"]).unwrap();
        assert_eq!((found.nodes, found.drives, found.json, found.keep), (5, 3, true, false));
        assert_eq!(found.extra, ["--policy", "4+2"]);
        assert!(found.dir.is_absolute() && found.dir.ends_with("data/cluster"));
        for (words, reason) in [
            (&[] as &[&str], "how many nodes"),
            (&["0"], "1 to 30"),
            (&["31"], "1 to 30"),
            (&["3", "--drives"], "--drives is missing"),
            (&["3", "--drives", "x"], "not `x`"),
            (&["3", "--dri"], "no option --dri"),
            (&["3", "4"], "`4` is one word too many"),
        ] {
            let said = options(words).err().unwrap_or_default();
            assert!(said.contains(reason), "{words:?}: {said}");
        }
    }
}
