//! `abide volume`, `abide grant`, `abide key test`: end-to-end volumes, whose keys are made in this process and never sent.

use std::io::{BufRead, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::Wall;
use codec::Versioned;
use crypt::{Share, VolumeRoot};
use env::Env;
use grant::{Grant, Head, Succession, Verb, Verbs};
use owner::{Key, Volume};
use serde_json::{Value, json};

use crate::args::{GrantWhat, VolumeCommand};
use crate::ask::Done;
use crate::rescue::addresses;
use crate::show::{Paint, paint, table, text};
use crate::{control, up};

const FILE_HEAD: &str = "abide volume key v1";
/// Shares that are made, and how many of them it takes.
const SHARES: (usize, usize) = (3, 2);
/// Bytes of a file with a grant or a volume's key at the most.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// What this machine knows of an end-to-end volume: the root, and where nodes listen.
pub struct Known {
    pub root: VolumeRoot,
    pub addresses: Vec<SocketAddr>,
}

fn file(home: &Path, name: &str) -> PathBuf {
    home.join("volumes").join(format!("{name}.volume"))
}

/// A name that is a file's as well.
fn check_name(name: &str) -> Result<(), String> {
    namespace::catalog::check_bucket_name(name).map_err(|error| format!("{name:?}: {error}"))
}

/// Keeps the volume's root in the home, for its owner alone.
pub fn keep(home: &Path, name: &str, known: &Known) -> Result<PathBuf, String> {
    keep_at(home, file(home, name), known)
}

fn keep_at(home: &Path, path: PathBuf, known: &Known) -> Result<PathBuf, String> {
    let failed = |error: std::io::Error| format!("write {}: {error}", path.display());
    let folder = home.join("volumes");
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let nodes: Vec<String> = known.addresses.iter().map(ToString::to_string).collect();
    let check = base::ids::hex(&known.root.check());
    let body = format!("{FILE_HEAD}\n{}\ncheck {check}\nnodes {}\n", known.root.words(), nodes.join(" "));
    write_secret(&path, &body).map_err(failed)?;
    Ok(path)
}

/// Writes a file that is its owner's alone, whole or not at all, in a folder that is there.
pub fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    let part = path.with_extension("part");
    let _ = std::fs::remove_file(&part);
    let mut to = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    to.write_all(text.as_bytes())?;
    to.sync_all()?;
    std::fs::rename(&part, path)?;
    path.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all())
}

/// What this machine knows of the volume; nothing if it was never opened here.
pub fn known(home: &Path, name: &str) -> Result<Option<Known>, String> {
    check_name(name)?;
    known_at(&file(home, name))
}

fn known_at(path: &Path) -> Result<Option<Known>, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("read {}: {error}", path.display())),
    };
    let wrong =
        |why: &str| format!("{}: {why}: remove it and type the words again with `abide volume open`", path.display());
    let mut lines = text.lines();
    if lines.next() != Some(FILE_HEAD) {
        return Err(wrong("it isn't a volume's key"));
    }
    let root = VolumeRoot::from_words(lines.next().unwrap_or_default()).map_err(|error| wrong(&error.to_string()))?;
    let check = format!("check {}", base::ids::hex(&root.check()));
    if lines.next() != Some(&check) {
        return Err(wrong("its check line doesn't fit its words"));
    }
    let nodes = lines.next().and_then(|line| line.strip_prefix("nodes ")).unwrap_or_default();
    Ok(Some(Known { root, addresses: nodes.split(' ').filter_map(|one| one.parse().ok()).collect() }))
}

/// What was typed, or is in a file: of a secret it must never be an argument.
pub fn secret(path: &Path, what: &str) -> Result<String, String> {
    let mut all = String::new();
    let read = match path == Path::new("-") {
        true => std::io::stdin().lock().take(FILE_BYTES_MAX).read_to_string(&mut all),
        false => std::fs::File::open(path).and_then(|from| from.take(FILE_BYTES_MAX).read_to_string(&mut all)),
    };
    read.map_err(|error| format!("read the {what} from {}: {error}", path.display()))?;
    Ok(all)
}

/// A volume's root, from words or shares on standard input.
pub fn ask_root(shares: bool) -> Result<VolumeRoot, String> {
    if !shares {
        return VolumeRoot::from_words(&up::ask_words_of("the volume")?).map_err(|error| error.to_string());
    }
    eprintln!("type the shares, each of 30 words on a line of its own; then an empty line:");
    let mut all: Vec<Share> = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| format!("read the shares: {error}"))?;
        if line.trim().is_empty() {
            break;
        }
        all.push(Share::from_words(&line, all.len() + 1).map_err(|error| error.to_string())?);
        if all.len() >= usize::from(all[0].threshold()) {
            break;
        }
    }
    crypt::join(&all).map_err(|error| error.to_string())
}

/// How somebody comes to a volume.
pub enum Way {
    /// By the key that is kept here.
    Owner(String),
    /// By a grant.
    Grant(Box<Grant>),
}

/// Opens it. Addresses that are given come first.
pub async fn open(home: &Path, way: Way, from: &[String]) -> Result<Volume, String> {
    let mut at = addresses(from)?;
    let (key, hint) = match way {
        Way::Owner(name) => {
            let known = known(home, &name)?.ok_or_else(|| {
                format!("no keys of a volume {name} are in {}: bring them with `abide volume open {name} --words --from HOST`", home.display())
            })?;
            at.extend(known.addresses);
            (Key::Owner(known.root), "is one of its nodes running? name one with --from HOST:PORT")
        }
        Way::Grant(grant) => {
            at.extend(grant.addresses.iter().copied());
            (Key::Grant(grant), "the grant may have ended or been revoked, or no node of its store answers")
        }
    };
    let until = match &key {
        Key::Grant(grant) => grant.claim.until().filter(|until| *until <= now()),
        Key::Owner(_) => None,
    };
    let opened = Volume::open(Env::real(), key, &at).await;
    if let Ok(volume) = &opened {
        volume.set_kits(&home.join("kits"));
        // Whatever is done next would do it first, and say nothing; without directors it waits.
        let _ = settle(volume).await;
    }
    opened.map_err(|error| match until {
        Some(until) => format!("{error}\nthe grant ended at {}: ask its owner for a new one", until.rfc3339()),
        None => format!("{error}\n{hint}"),
    })
}

/// Goes on where the volume's keys were replaced and names are still sealed with older ones.
async fn settle(volume: &Volume) -> Result<u64, owner::Error> {
    if volume.is_settled() {
        return Ok(0);
    }
    let mut shown = std::time::Instant::now();
    let done = volume.settle(|renamed| {
        if shown.elapsed() >= Duration::from_secs(1) {
            shown = std::time::Instant::now();
            eprintln!("the volume's keys were replaced: {renamed} names are sealed with the new ones");
        }
    });
    done.await
}

/// Remembers where the volume's nodes listen now, and what is in it; or says that it was read by what was remembered.
/// With a grant there is no `name`, and a kit is begun once something was written: who fetches one file needs none.
pub async fn remember(home: &Path, name: Option<&str>, volume: &Volume, wrote: bool) -> Result<(), String> {
    if let Some(at) = volume.read_by_kit() {
        let what = "nobody leads the volume's metadata now: this was read by its kit";
        eprintln!("{what}, as of {}; writes wait until the nodes that are away are back", at.rfc3339());
        return Ok(());
    }
    let kits = home.join("kits");
    if name.is_none() && !wrote && !volume.has_kit(&kits).await {
        return Ok(());
    }
    // What was asked for is done: a kit that is behind says so, and fails nothing.
    match volume.keep_kit(&kits).await {
        Ok(kept) => {
            let behind = kept.into_iter().flat_map(|kept| kept.holders);
            let behind: Vec<String> = behind.filter_map(|(node, why)| Some(format!("{node}: {}", why?))).collect();
            if !behind.is_empty() {
                eprintln!("some copies of the volume's kit are behind: {}", behind.join("; "));
            }
            if name.is_some() {
                drill_if_due(&kits, volume).await;
            }
        }
        Err(error) => eprintln!("the volume's kit is behind: {error}"),
    }
    let Some(name) = name else { return Ok(()) };
    let Some(known) = known(home, name)? else { return Ok(()) };
    let now = listening(volume);
    match now == known.addresses || now.is_empty() {
        true => Ok(()),
        false => keep(home, name, &Known { addresses: now, ..known }).map(drop),
    }
}

/// A restore drill of each volume once a day, by whichever client comes first on this machine.
const DRILL_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Holds a restore drill if the last one on this machine is a day old; `folder` is where the client's kits are.
pub async fn drill_if_due(folder: &Path, volume: &Volume) {
    let path = folder.join(format!("{}.drill", volume.public()));
    let last = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    if last.is_some_and(|last| now() < Wall(last) + DRILL_EVERY && Wall(last) <= now()) {
        return;
    }
    match volume.drill().await {
        Ok(None) => return,
        Ok(Some(drill)) if drill.failed > 0 => {
            eprintln!(
                "a restore drill could not read {} of {} objects by kit and pieces alone: `abide status` on a node says what is wrong",
                drill.failed,
                drill.objects + drill.failed
            );
        }
        Ok(Some(_)) => {}
        // A node of before knows no drills; it is tried again tomorrow.
        Err(error) => tracing::debug!(%error, "what came of a restore drill can't be told"),
    }
    let _ = std::fs::write(&path, format!("{}\n", now().0));
}

fn listening(volume: &Volume) -> Vec<SocketAddr> {
    let nodes = volume.reach().nodes().values();
    nodes.filter_map(|node| node.addresses.first().copied()).take(grant::address::ADDRESSES_MAX).collect()
}

pub fn runtime() -> Result<tokio::runtime::Runtime, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| format!("start threads: {error}"))
}

/// Does what needs chance or a network, with threads for it.
pub fn entered<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let runtime = runtime()?;
    let _entered = runtime.enter();
    work()
}

fn now() -> Wall {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Wall(since.as_millis() as u64)
}

/// `abide volume …`.
pub fn run(home: &Path, command: &VolumeCommand) -> Result<Done, String> {
    match command {
        VolumeCommand::Create { name, e2e: _, shares } => create(home, name, *shares),
        VolumeCommand::Open { name, words: _, shares, from } => {
            check_name(name)?;
            let root = ask_root(*shares)?;
            let at = addresses(from)?;
            let volume = runtime()?.block_on(Volume::open(Env::real(), Key::Owner(root.clone()), &at));
            let volume = volume.map_err(|error| {
                format!("{error}\nthe words must be those of the volume, and an address that of a node of its store")
            })?;
            if volume.name() != name {
                return Err(format!("these are the words of the volume {}: open it by that name", volume.name()));
            }
            let path = keep(home, name, &Known { root, addresses: listening(&volume) })?;
            let shown =
                format!("{name} is open on this machine: abide ls {name}:/\nits keys are in {}", path.display());
            Ok(Done::good(json!({ "name": name, "file": path }), shown))
        }
        VolumeCommand::List => list(home),
        VolumeCommand::Rotate { name, apply, shares } => rotate(home, name, *apply, *shares),
        VolumeCommand::Revoke { name } => {
            let answer = control::ask(home, "POST", "/v1/volumes/revoke", &json!({ "name": name }));
            let answer = answer.map_err(|error| error.to_string())?;
            let shown = format!(
                "no grant of {name} that was made before opens anything any more, within a second (epoch {}); what was read stays read",
                text(&answer["epoch"])
            );
            Ok(Done::good(answer, shown))
        }
    }
}

/// `abide volume rotate`: the new root is durable here before directors hear of it, in the old one's place once they have, and only
/// then shown. Each step finds what the one before left, so that it can be said again after whatever happened.
fn rotate(home: &Path, name: &str, apply: bool, shares: bool) -> Result<Done, String> {
    let Some(old) = known(home, name)? else {
        return Err(format!("no keys of a volume {name} are in {}", home.display()));
    };
    let next_file = home.join("volumes").join(format!("{name}.next"));
    let next = known_at(&next_file)?;
    let volumes = control::ask(home, "GET", "/v1/volumes", &Value::Null).map_err(|error| error.to_string())?;
    let row = volumes.as_array().into_iter().flatten().find(|row| row["name"] == name);
    let row = row.ok_or_else(|| format!("the store that runs here has no volume {name}"))?;
    let number = row["volume"].as_u64().and_then(|number| u32::try_from(number).ok());
    let number = number.map(base::VolumeId).ok_or("the node's answer can't be read")?;
    let public = |root: &VolumeRoot| root.signing_key().public().to_string();
    let is = |root: &VolumeRoot| row["public"] == public(root);
    let was_done = next.as_ref().is_some_and(|next| is(&next.root));
    if !was_done && !is(&old.root) {
        return Err(format!(
            "the volume {name} has other keys than those in {}: they were replaced elsewhere; bring the new ones here with `abide volume open`",
            home.display()
        ));
    }
    if !apply && !was_done {
        let shown = format!(
            "The volume {name} would get another key, with 24 new words. From then on\n\n  - whoever has the old words or an old key file is told nothing: bring the new ones to your other machines\n    with `abide volume open {name} --words`; a gateway that runs there takes them within a minute\n  - no grant opens anything: make new ones\n  - everything in the volume stays as it is, under the new words; no content moves\n\nnothing was changed; do it with   abide volume rotate {name} --apply"
        );
        return Ok(Done::good(json!({ "name": name, "applied": false }), shown));
    }
    let env = Env::real();
    let root = match next {
        Some(next) => next.root,
        None => {
            let root = VolumeRoot::new(env.random());
            keep_at(home, next_file.clone(), &Known { root: root.clone(), addresses: old.addresses.clone() })?;
            root
        }
    };
    if !was_done {
        let said = Succession::new(number, &old.root, &root, env.random());
        let said = json!({ "name": name, "succession": base::ids::hex(&said.encode()) });
        control::ask(home, "POST", "/v1/volumes/keys", &said).map_err(|error| match error {
            control::Error::Refused { .. } | control::Error::NotRunning { .. } => error.to_string(),
            error => format!("{error}\nwhether the keys were replaced isn't known: say it again, which goes on"),
        })?;
    }
    let path = keep(home, name, &Known { root: root.clone(), addresses: old.addresses.clone() })?;
    std::fs::remove_file(&next_file).map_err(|error| format!("remove {}: {error}", next_file.display()))?;
    let settled = runtime()?.block_on(async {
        let volume = open(home, Way::Owner(name.to_owned()), &[]).await?;
        volume.settle(|_| ()).await.map_err(|error| error.to_string())?;
        remember(home, Some(name), &volume, true).await
    });
    let mut lines =
        vec![paint(Paint::Bold, &format!("The volume {name} has another key. Its 24 words are shown only now:"))];
    let shares = words_to_keep(&mut lines, &root, shares)?;
    lines.push(format!("\nkey file   {}", path.display()));
    match &settled {
        Ok(()) if old.root != root => {
            for kind in ["kit", "seen"] {
                let of_old = home.join("kits").join(format!("{}.{kind}", public(&old.root)));
                let _ = std::fs::remove_file(of_old);
            }
        }
        Ok(()) => {}
        Err(error) => lines.push(format!(
            "names are still being sealed with the new key ({error}): the next command on {name} goes on"
        )),
    }
    let told = json!({
        "name": name, "applied": true, "settled": settled.is_ok(), "public": public(&root), "words": root.words(), "shares": shares, "file": path,
    });
    Ok(Done::good(told, lines.join("\n")))
}

/// The words, and shares if wanted, with what it means to lose them.
fn words_to_keep(lines: &mut Vec<String>, root: &VolumeRoot, shares: bool) -> Result<Vec<String>, String> {
    lines.extend([
        String::new(),
        root.words(),
        String::new(),
        "Write them down and keep them away from this machine. Whoever has them reads everything in the volume; if they and the key file"
            .into(),
        "are lost, with all but one of the shares, everything in it is lost, and nobody can help.".into(),
    ]);
    let shares: Vec<String> = match shares {
        false => Vec::new(),
        true => {
            let random = Env::real().random();
            let all = crypt::split(root, SHARES.1, SHARES.0, random).map_err(|error| error.to_string())?;
            all.iter().map(Share::words).collect()
        }
    };
    for (at, share) in shares.iter().enumerate() {
        lines.push(format!("\nshare {} of {}, any {} give the key back:\n{share}", at + 1, SHARES.0, SHARES.1));
    }
    Ok(shares)
}

fn create(home: &Path, name: &str, shares: bool) -> Result<Done, String> {
    check_name(name)?;
    if known(home, name)?.is_some() {
        return Err(format!("the keys of a volume {name} are in {} already", home.display()));
    }
    let env = Env::real();
    let root = VolumeRoot::new(env.random());
    // Before anything is made: a volume without its keys would be worth nothing.
    let path = keep(home, name, &Known { root: root.clone(), addresses: Vec::new() })?;
    let wish = json!({
        "name": name,
        "public": root.signing_key().public().to_string(),
        "check": base::ids::hex(&root.check()),
        "grant_key": base::ids::hex(&root.grant_key()[..]),
    });
    let answer = match control::ask(home, "POST", "/v1/volumes/create", &wish) {
        Ok(answer) => answer,
        Err(error @ (control::Error::Refused { .. } | control::Error::NotRunning { .. })) => {
            // Nothing was made, so nothing is lost with its keys.
            let _ = std::fs::remove_file(&path);
            return Err(error.to_string());
        }
        Err(error) => {
            return Err(format!(
                "{error}\nwhether the volume was made isn't known (see `abide volume list`); its keys are in {}",
                path.display()
            ));
        }
    };
    let nodes = answer["addresses"].as_array().into_iter().flatten();
    let addresses = nodes.filter_map(|one| one.as_str()?.parse().ok()).collect();
    keep(home, name, &Known { root: root.clone(), addresses })?;
    let mut lines =
        vec![paint(Paint::Bold, &format!("The volume {name} was made. Its key, as 24 words, is shown only now:"))];
    let shares = words_to_keep(&mut lines, &root, shares)?;
    lines.push(format!("\nkey file   {}", path.display()));
    lines.push(paint(Paint::Dim, &format!("next       abide key test {name}; abide cp -r ./FOLDER {name}:/FOLDER")));
    let told = json!({
        "name": name,
        "volume": answer["volume"],
        "public": answer["public"],
        "words": root.words(),
        "shares": shares,
        "file": path,
    });
    Ok(Done::good(told, lines.join("\n")))
}

/// Volumes of the store that runs here, and those whose keys are here.
fn list(home: &Path) -> Result<Done, String> {
    let mut rows: Vec<Value> = match control::ask(home, "GET", "/v1/volumes", &Value::Null) {
        Ok(answer) => answer.as_array().cloned().unwrap_or_default(),
        Err(control::Error::NotRunning { .. }) => Vec::new(),
        Err(error) => return Err(error.to_string()),
    };
    let entries = std::fs::read_dir(home.join("volumes")).into_iter().flatten().filter_map(Result::ok);
    let files = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = files.filter_map(|name| name.strip_suffix(".volume").map(str::to_owned)).collect();
    names.sort();
    for row in &mut rows {
        row["keys_here"] = json!(row["name"].as_str().is_some_and(|name| names.iter().any(|one| one == name)));
    }
    for name in names {
        if !rows.iter().any(|row| row["name"] == *name) {
            rows.push(json!({ "name": name, "mode": "end-to-end", "keys_here": true }));
        }
    }
    let cells = rows.iter().map(|row| {
        let keys = if row["keys_here"] == true { "here" } else { "" };
        vec![text(&row["name"]), text(&row["mode"]), keys.into(), row["public"].as_str().unwrap_or("").into()]
    });
    let shown = table(&["volume", "mode", "keys", "public key"], &cells.collect::<Vec<_>>());
    Ok(Done::good(json!(rows), shown))
}

/// `abide key test VOLUME`.
pub fn test(home: &Path, name: &str, shares: bool, from: &[String]) -> Result<Done, String> {
    let root = ask_root(shares)?;
    let check = match known(home, name)? {
        Some(known) if from.is_empty() => known.root.check(),
        known => {
            let mut at = addresses(from)?;
            at.extend(known.into_iter().flat_map(|known| known.addresses));
            let opened = runtime()?.block_on(Volume::open(Env::real(), Key::Owner(root.clone()), &at));
            let opened = opened.map_err(|error| {
                format!("{error}\nno volume of these words is known where it was asked (name a node with --from HOST)")
            })?;
            if opened.name() != name {
                return Err(format!("these are the words of the volume {}, not of {name}", opened.name()));
            }
            opened.about().check
        }
    };
    root.prove(&check).map_err(|error| error.to_string())?;
    let what = if shares { "shares" } else { "words" };
    Ok(Done::good(json!({ "name": name, "opens": true }), paint(Paint::Green, &format!("these {what} open {name}"))))
}

/// `VOLUME:PATH`, or `:PATH` with a grant: the volume's name, and the path without a slash before it.
pub fn place(what: &str) -> Option<(&str, &str)> {
    let (name, path) = what.split_once(':')?;
    (!name.contains('/')).then(|| (name, path.trim_start_matches('/')))
}

/// Who comes to the place that was named.
pub fn way(name: &str, grant: Option<&Path>) -> Result<Way, String> {
    match grant {
        Some(file) => {
            let grant = Grant::parse(&secret(file, "grant")?).map_err(|error| error.to_string())?;
            Ok(Way::Grant(Box::new(grant)))
        }
        None if name.is_empty() => Err("a place is VOLUME:PATH, or :PATH with --grant FILE".into()),
        None => Ok(Way::Owner(name.to_owned())),
    }
}

/// `2027-01-01`, at midnight UTC, or `30d` from now.
pub fn moment(text: &str) -> Result<Wall, String> {
    let wrong = || format!("{text:?} is no time: write 2027-01-01 or 30d");
    if let Ok(span) = crate::args::span(text) {
        return Ok(now() + span);
    }
    let parts: Vec<u64> = text.split('-').map(|part| part.parse().map_err(|_| wrong())).collect::<Result<_, _>>()?;
    match parts.as_slice() {
        [year @ 1970..=9999, month @ 1..=12, day @ 1..=31] => {
            let days = base::time::days(*year, *month, *day);
            match base::time::civil(days) == (*year, *month, *day) {
                true => Ok(Wall(days * 86_400_000)),
                false => Err(wrong()),
            }
        }
        _ => Err(wrong()),
    }
}

/// `abide grant PLACE`.
pub fn grant(home: &Path, what: &GrantWhat) -> Result<Done, String> {
    let (name, path) = place(&what.place).ok_or_else(|| format!("{:?} is no VOLUME:PATH", what.place))?;
    let until = what.until.as_deref().map(moment).transpose()?;
    let given = way(name, what.grant.as_deref())?;
    let parent = match &given {
        Way::Grant(grant) => Some((**grant).clone()),
        Way::Owner(_) => None,
    };
    let env = Env::real();
    let (volume, path) = runtime()?.block_on(async {
        let volume = open(home, given, &what.from).await?;
        let path = kind_of(&volume, path).await?;
        Ok::<_, String>((volume, path))
    })?;
    let salt = env.random();
    let made = match (parent, known(home, volume.name())?) {
        (Some(parent), _) => parent.narrow_to(&path, salt),
        (None, Some(known)) => {
            let about = volume.about();
            let head = Head { number: about.number, volume: volume.public(), epoch: about.epoch, id: env.random() };
            Grant::sealed(&known.root, head, &path, salt)
        }
        (None, None) => return Err(format!("no keys of {name} are here")),
    };
    let wanted = [
        (what.read || !(what.write || what.delete), [Verb::Read, Verb::List].as_slice()),
        (what.write, [Verb::Write].as_slice()),
        (what.delete, [Verb::Delete].as_slice()),
    ];
    let verbs: Vec<Verb> = wanted.iter().filter(|(on, _)| *on).flat_map(|(_, verbs)| verbs.iter().copied()).collect();
    let made = made.and_then(|grant| grant.only(Verbs::new(&verbs)));
    let made = made.and_then(|grant| match until {
        Some(until) => grant.until(until),
        None => Ok(grant),
    });
    let made = made.map_err(|error| error.to_string())?.with_addresses(&listening(&volume));
    let line = made.text().to_string();
    let shown: Vec<String> = verbs.iter().map(ToString::to_string).collect();
    eprintln!(
        "whoever has this line may {} what is in {}:/{path}{}; keep it as you keep a key",
        shown.join(", "),
        volume.name(),
        until.map_or_else(|| ", until it is revoked".into(), |until| format!(", until {}", until.rfc3339()))
    );
    let answer = json!({
        "grant": line, "volume": volume.name(), "path": path, "verbs": shown, "until": until.map(Wall::rfc3339),
    });
    Ok(Done::good(answer, line))
}

/// The path as the volume has it: a folder's ends in `/`.
pub async fn kind_of(volume: &Volume, path: &str) -> Result<String, String> {
    if path.is_empty() || path.ends_with('/') {
        return Ok(path.to_owned());
    }
    let missing = |error: &owner::Error| base::Kinded::kind(error) == base::Kind::Missing;
    match volume.stat(path).await {
        Ok(_) => return Ok(path.to_owned()),
        Err(error) if missing(&error) => {}
        Err(error) => return Err(error.to_string()),
    }
    let folder = format!("{path}/");
    match volume.list(&folder).await.map_err(|error| error.to_string())?.is_empty() {
        true => Err(format!("nothing is at {}:/{path}", volume.name())),
        false => Ok(folder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_told_from_a_file() {
        assert_eq!(place("family:/photos/a"), Some(("family", "photos/a")));
        assert_eq!(place("family:photos"), Some(("family", "photos")));
        assert_eq!(place("family:"), Some(("family", "")));
        assert_eq!(place(":/x"), Some(("", "x")));
        for file in ["photos", "./a:b", "/tmp/a:b", "."] {
            assert_eq!(place(file), None, "{file}");
        }
    }

    #[test]
    fn a_moment_is_a_day_or_a_span() {
        assert_eq!(moment("2027-01-01").unwrap().rfc3339(), "2027-01-01T00:00:00.000Z");
        assert!(moment("30d").is_ok());
        for wrong in ["2027-02-30", "2027-13-01", "tomorrow", "", "2027-01", "1-1-1"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_key_file_comes_back_and_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let root = VolumeRoot::new([7; 32]);
        let addresses = vec!["192.0.2.1:9400".parse().unwrap()];
        let path = keep(home.path(), "family", &Known { root: root.clone(), addresses: addresses.clone() }).unwrap();
        let back = known(home.path(), "family").unwrap().unwrap();
        assert_eq!((back.root, back.addresses), (root, addresses));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(known(home.path(), "other").unwrap().is_none());
        assert!(known(home.path(), "../family").is_err());
        std::fs::write(&path, "abide volume key v1\nnonsense\n").unwrap();
        assert!(known(home.path(), "family").is_err());
    }
}
