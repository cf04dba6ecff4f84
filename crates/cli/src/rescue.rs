//! `abide rescue`: reads everything that the root key opens from whatever nodes are left, with no service alive.

use std::io::{IsTerminal, Write as _};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crypt::RootKey;
use env::Env;
use kit::rescue::{Missing, Recovered};
use owner::restore::{Wanted, folder_of};
use owner::{Keys, Reach, Restored, Survey, restore, survey};
use serde_json::{Value, json};

use crate::args::Rescue;
use crate::ask::Done;
use crate::show::{Paint, bytes, duration, paint, table};
use crate::{absolute, up};

/// Things that are listed one by one, of each kind; JSON has all.
const SHOWN_MAX: usize = 20;
/// Between two lines of progress.
const EVERY: Duration = Duration::from_millis(500);

/// Looks what is there; with a folder restores it.
pub fn run(home: &Path, what: &Rescue) -> Result<Done, String> {
    let keys = keys(home, what)?;
    let from = addresses(&what.from)?;
    let out = what.out.as_deref().map(absolute).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("start threads: {error}"))?;
    runtime.block_on(async {
        let mut line = Line::new();
        let reach = Reach::open(Env::real(), keys.signing_key(), &from).await.map_err(|error| {
            format!("{error}\nEach node that is left must run (`abide up FOLDER…` as before); give the addresses that nodes listen on for each other, port 9400 by default; the key must be that of their store, or of a volume in it (--volume)")
        })?;
        let found = survey(&reach, keys, |now| {
            let (all, enough) = now.segments;
            line.say(&format!("{} pieces looked at; {enough} of {all} segments can be read", now.pieces));
        })
        .await
        .map_err(|error| error.to_string())?;
        let restored = match &out {
            None => None,
            Some(out) => {
                let wanted =
                    Wanted { bucket: what.bucket.clone(), prefix: what.prefix.clone(), leftovers: what.leftovers };
                let all = total(&found, &wanted);
                let began = Instant::now();
                let told = |now: &Restored| {
                    let eta = began.elapsed().as_secs() * all.saturating_sub(now.bytes) / now.bytes.max(1);
                    let (done, all) = (bytes(now.bytes), bytes(all));
                    line.say(&format!("{} objects, {done} of {all}, {} left", now.objects, duration(eta)));
                };
                Some(restore(&reach, &found, out, &wanted, told).await.map_err(|error| error.to_string())?)
            }
        };
        line.end();
        Ok(done(&reach, &found, restored.as_ref(), what))
    })
}

/// The volume's key, or the store's.
fn keys(home: &Path, what: &Rescue) -> Result<Keys, String> {
    match what.volume {
        true => Ok(Keys::Volume(crate::volumes::ask_root(false)?)),
        false => root_key(home, what).map(Keys::Store),
    }
}

/// From the words, or from the key's file.
fn root_key(home: &Path, what: &Rescue) -> Result<RootKey, String> {
    if what.words {
        return RootKey::from_words(&up::ask_words()?).map_err(|error| error.to_string());
    }
    let file = match &what.key_file {
        Some(file) => file.clone(),
        None => only_key_file(home)?,
    };
    node::key::read(&*Env::real().disk, &file).map_err(|error| error.to_string())
}

/// The one key file in the home.
pub fn only_key_file(home: &Path) -> Result<PathBuf, String> {
    let entries = std::fs::read_dir(home).into_iter().flatten().filter_map(Result::ok);
    let mut keys: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| is_key(path)).collect();
    keys.sort();
    match keys.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(format!(
            "no root key is in {}: name its file with --key-file, or type the 24 words with --words",
            home.display()
        )),
        many => Err(format!(
            "several root keys are in {}: name one with --key-file ({})",
            home.display(),
            many.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
        )),
    }
}

fn is_key(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "key")
}

/// Where nodes listen; without a port where they usually do.
pub fn addresses(texts: &[String]) -> Result<Vec<SocketAddr>, String> {
    let mut all = Vec::new();
    for text in texts {
        let with_port = if text.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_ipv6()) {
            format!("[{text}]:{}", node::settings::CLUSTER_PORT)
        } else if text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
            text.clone()
        } else {
            format!("{text}:{}", node::settings::CLUSTER_PORT)
        };
        let found = with_port.to_socket_addrs();
        all.extend(found.map_err(|error| format!("--from {text}: {error}; write HOST or HOST:PORT"))?);
    }
    Ok(all)
}

fn total(found: &Survey, wanted: &Wanted) -> u64 {
    let volumes = found.volumes.iter();
    let volumes = volumes.filter(|volume| wanted.bucket.as_ref().is_none_or(|bucket| *bucket == folder_of(volume)));
    let objects = volumes.flat_map(|volume| {
        let leftovers = volume.report.leftovers.iter().filter(|_| wanted.leftovers);
        volume.report.objects.iter().chain(leftovers)
    });
    objects.filter(|object| object.path.starts_with(&wanted.prefix)).filter_map(|object| object.size).sum()
}

/// One line that is written over, where standard error is a terminal.
pub struct Line {
    is_terminal: bool,
    last: Option<Instant>,
}

impl Line {
    pub fn new() -> Self {
        Self { is_terminal: std::io::stderr().is_terminal(), last: None }
    }

    pub fn say(&mut self, text: &str) {
        if self.is_terminal && self.last.is_none_or(|last| last.elapsed() >= EVERY) {
            self.last = Some(Instant::now());
            eprint!("\r\x1b[2K{text}");
            // Where it can't be shown nobody misses it.
            let _ = std::io::stderr().flush();
        }
    }

    pub fn end(&self) {
        if self.last.is_some() {
            eprint!("\r\x1b[2K");
        }
    }
}

fn lacks(object: &Recovered) -> String {
    let one = |missing: &Missing| match missing {
        Missing::Pieces { offset, len, have, need, lacking, .. } => {
            format!(
                "bytes {offset} to {}: {have} pieces were found, {need} are needed; nobody has {lacking:?}",
                offset + len
            )
        }
        Missing::Bytes { offset, len } => format!("bytes {offset} to {}: no piece was found", offset + len),
        Missing::Tail { offset } => format!("everything from byte {offset} on"),
    };
    object.missing.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn done(reach: &Reach, found: &Survey, restored: Option<&Restored>, what: &Rescue) -> Done {
    let whole = |object: &&Recovered| object.missing.is_empty();
    let volumes: Vec<Value> = found
        .volumes
        .iter()
        .map(|volume| {
            let report = &volume.report;
            let object = |object: &Recovered| {
                json!({ "key": object.path, "bytes": object.size, "written": object.written.rfc3339(), "lacks": lacks(object) })
            };
            json!({
                "volume": volume.id.0,
                "bucket": volume.name,
                "kit": volume.kit.map(base::Wall::rfc3339),
                "bad_kits": volume.bad_kits.iter().map(|(node, why)| json!({ "node": node.to_string(), "why": why })).collect::<Vec<_>>(),
                "objects": report.objects.len(),
                "whole": report.objects.iter().filter(whole).count(),
                "bytes": report.objects.iter().filter_map(|object| object.size).sum::<u64>(),
                "incomplete": report.incomplete().map(object).collect::<Vec<_>>(),
                "leftovers": report.leftovers.len(),
                "refused_headers": report.refused.len(),
            })
        })
        .collect();
    let answer = json!({
        "nodes": reach.nodes().keys().map(ToString::to_string).collect::<Vec<_>>(),
        "silent": reach.silent.iter().map(|(of, why)| json!({ "node": of, "why": why })).collect::<Vec<_>>(),
        "broken": found.broken.iter().map(|(node, why)| json!({ "node": node.to_string(), "why": why })).collect::<Vec<_>>(),
        "headers": found.headers,
        "volumes": volumes,
        "restored": restored.map(|done| json!({
            "objects": done.objects,
            "bytes": done.bytes,
            "there_before": done.known,
            "renamed": done.renamed.iter().map(|(key, file)| json!({ "key": key, "file": file })).collect::<Vec<_>>(),
            "failed": done.failed.iter().map(|(key, why)| json!({ "key": key, "why": why })).collect::<Vec<_>>(),
            "liars": done.liars,
        })),
    });
    let incomplete: usize = found.volumes.iter().map(|volume| volume.report.incomplete().count()).sum();
    let good = incomplete == 0 && found.broken.is_empty() && restored.is_none_or(|done| done.failed.is_empty());
    Done { answer, shown: shown(reach, found, restored, what), good }
}

fn shown(reach: &Reach, found: &Survey, restored: Option<&Restored>, what: &Rescue) -> String {
    let mut lines = vec![format!(
        "read from {} nodes, {} headers of pieces, without asking any service",
        reach.nodes().len(),
        found.headers
    )];
    let few = |lines: &mut Vec<String>, all: Vec<String>| {
        let more = all.len().saturating_sub(SHOWN_MAX);
        lines.extend(all.into_iter().take(SHOWN_MAX));
        if more > 0 {
            lines.push(paint(Paint::Dim, &format!("… and {more} more: --json has all")));
        }
    };
    few(&mut lines, reach.silent.iter().map(|(of, why)| format!("no answer from {of}: {why}")).collect());
    few(
        &mut lines,
        found.broken.iter().map(|(node, why)| format!("{node} could not be read to its end: {why}")).collect(),
    );
    let rows: Vec<Vec<String>> = found
        .volumes
        .iter()
        .map(|volume| {
            let report = &volume.report;
            vec![
                folder_of(volume),
                report.objects.len().to_string(),
                bytes(report.objects.iter().filter_map(|object| object.size).sum()),
                report.incomplete().count().to_string(),
                report.leftovers.len().to_string(),
                volume.kit.map_or_else(|| "none: headers only".into(), base::Wall::rfc3339),
            ]
        })
        .collect();
    lines.push(table(&["bucket", "objects", "bytes", "incomplete", "replaced or deleted", "kit up to"], &rows));
    for volume in &found.volumes {
        let name = folder_of(volume);
        let lacking = volume.report.incomplete().map(|object| format!("{name}/{}: {}", object.path, lacks(object)));
        few(&mut lines, lacking.map(|line| paint(Paint::Red, &line)).collect());
    }
    match restored {
        None => lines.push(paint(Paint::Dim, "nothing was written; name a folder to restore it into")),
        Some(done) => {
            few(
                &mut lines,
                done.renamed.iter().map(|(key, file)| format!("{key} is the file {}", file.display())).collect(),
            );
            few(&mut lines, done.failed.iter().map(|(key, why)| paint(Paint::Red, &format!("{key}: {why}"))).collect());
            few(
                &mut lines,
                done.liars
                    .iter()
                    .map(|node| paint(Paint::Yellow, &format!("{node} served bytes that aren't what was stored")))
                    .collect(),
            );
            let out = what.out.as_deref().unwrap_or(Path::new(".")).display();
            let there = if done.known > 0 { format!(" ({} were there already)", done.known) } else { String::new() };
            let text = format!("{} objects, {}{there}, are in {out}", done.objects, bytes(done.bytes));
            lines.push(paint(if done.failed.is_empty() { Paint::Green } else { Paint::Yellow }, &text));
        }
    }
    lines.join("\n")
}
