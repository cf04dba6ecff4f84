//! `abide kit export`, `abide kit verify`: copies of a volume's kit, taken along and checked.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crypt::VolumeRoot;
use env::Env;
use owner::copies::{At, Behind, Copy, Found, Newest, Search, Standing};
use owner::survey::bucket_root;
use owner::{Reach, Volume};
use serde_json::{Value, json};

use crate::absolute;
use crate::ask::Done;
use crate::rescue::{addresses, only_key_file};
use crate::show::{Paint, bytes, paint, table};
use crate::volumes::{Way, known, open, remember, runtime};

/// Whose kit it is, and the way to nodes.
struct Whose {
    root: VolumeRoot,
    nodes: Nodes,
}

enum Nodes {
    /// An end-to-end volume's.
    Volume(Box<Volume>),
    /// A bucket's, by the store's key.
    Store(Box<Reach>),
    /// None answers: why.
    Silent(String),
}

impl Whose {
    /// The volume whose keys are here, or else the bucket of the store whose root key is.
    async fn open(home: &Path, name: &str, from: &[String]) -> Result<Self, String> {
        if let Some(known) = known(home, name)? {
            let nodes = match open(home, Way::Owner(name.to_owned()), from).await {
                Ok(volume) => Nodes::Volume(Box::new(volume)),
                Err(why) => Nodes::Silent(why),
            };
            return Ok(Self { root: known.root, nodes });
        }
        let neither = |why: &str| {
            format!(
                "no keys of a volume {name} are in {} (`abide volume open {name} --words --from HOST` brings them); the kit of a store's bucket is read on the node that made the store, with --from HOST of any node: {why}",
                home.display()
            )
        };
        let file = only_key_file(home).map_err(|_| neither("no root key is here, or several are"))?;
        let key = node::key::read(&*Env::real().disk, &file).map_err(|error| error.to_string())?;
        if from.is_empty() {
            return Err(neither("name a node with --from HOST"));
        }
        let reach = Reach::open(Env::real(), key.signing_key(), &addresses(from)?).await;
        let reach = reach.map_err(|error| format!("{error}\nis a node of the store running there?"))?;
        let root = bucket_root(&reach, &key, name).await;
        let root = root.ok_or_else(|| neither("no kit of the store names such a bucket"))?;
        Ok(Self { root, nodes: Nodes::Store(Box::new(reach)) })
    }

    /// Looks at all copies that can be had.
    async fn search(&self, home: &Path) -> Result<Found, String> {
        let mut search = Search::new(Env::real(), &self.root);
        for folder in folders(home) {
            search.here(&folder, true).await.map_err(|error| error.to_string())?;
        }
        match &self.nodes {
            Nodes::Volume(volume) => search.nodes(volume.reach()).await,
            Nodes::Store(reach) => search.nodes(reach).await,
            Nodes::Silent(why) => eprintln!("no node was asked: {why}"),
        }
        Ok(search.finish())
    }

    /// Looks at a file, as far as what this machine has seen tells; whether it is of the time before the volume's keys
    /// were replaced.
    async fn search_file(&self, home: &Path, file: &Path) -> Result<(Found, bool), String> {
        let older = match &self.nodes {
            Nodes::Volume(volume) => volume.older_roots().collect(),
            Nodes::Store(_) | Nodes::Silent(_) => Vec::new(),
        };
        let mut now = None;
        for root in std::iter::once(&self.root).chain(older) {
            let mut search = Search::new(Env::real(), root);
            // One of before is older than what this machine has seen, as a rule: that is said of it anyway.
            for folder in folders(home).iter().filter(|_| now.is_none()) {
                search.here(folder, false).await.map_err(|error| error.to_string())?;
            }
            search.file(file).await.map_err(|error| error.to_string())?;
            let found = search.finish();
            if found.newest.is_some() {
                return Ok((found, now.is_some()));
            }
            now.get_or_insert(found);
        }
        Ok((now.unwrap_or_default(), false))
    }

    /// How the kit differs from the listing, or why that isn't known.
    async fn compare(&self, newest: &Newest) -> Result<Behind, String> {
        match &self.nodes {
            Nodes::Volume(volume) => volume.compare(newest.log.state()).await.map_err(|error| error.to_string()),
            Nodes::Store(_) => Err("who leads a bucket's metadata keeps its kit itself, a second behind".into()),
            Nodes::Silent(_) => Err("no node was asked".into()),
        }
    }
}

/// Where clients of this machine keep their kits.
fn folders(home: &Path) -> [PathBuf; 2] {
    [home.join("kits"), home.join("gateway").join("kits")]
}

/// `abide kit export`.
pub fn export(home: &Path, name: &str, file: &Path, from: &[String]) -> Result<Done, String> {
    let file = absolute(file)?;
    refuse_existing(&file)?;
    let newest = runtime()?.block_on(async {
        let whose = Whose::open(home, name, from).await?;
        if let Nodes::Volume(volume) = &whose.nodes {
            remember(home, Some(name), volume, false).await?;
        }
        let found = whose.search(home).await?;
        found.newest.ok_or_else(|| none(name, &found.copies))
    })?;
    write_new(&file, &newest.bytes)?;
    let (state, at) = (newest.log.state(), file.display());
    let (files, position) = (state.objects(), state.position());
    let size = newest.bytes.len() as u64;
    let shown = format!(
        "the kit of {name}, as of {}, with {files} files, is in {at} ({})\nonly the volume's keys open it: keep it with them, and it reads what was in the volume then from whatever nodes are left\n{}",
        position.at.rfc3339(),
        bytes(size),
        paint(Paint::Dim, &format!("next       abide kit verify {name} {at}"))
    );
    let answer = json!({
        "volume": name,
        "file": file,
        "bytes": size,
        "files": files,
        "up_to": position.at.rfc3339(),
        "position": position.seq,
        "generation": newest.log.seen().generation,
        "from": place(&newest.at),
    });
    Ok(Done::good(answer, shown))
}

fn none(name: &str, copies: &[Copy]) -> String {
    let bad = copies.iter().filter_map(|copy| Some(format!("\n{}: {}", place(&copy.at), why(&copy.standing)?)));
    let bad: String = bad.collect();
    format!(
        "no sound kit of {name} was found, here or at nodes: `abide ls {name}:/` makes one, once somebody leads its metadata{bad}"
    )
}

fn refuse_existing(file: &Path) -> Result<(), String> {
    match file.symlink_metadata() {
        Ok(_) => Err(format!("{} is there already: name a new file; nothing was written", file.display())),
        Err(_) => Ok(()),
    }
}

/// Writes a new file, whole or not at all, that outlives a power cut. Nobody's file is written over: its name is taken first, and so is
/// that of the file beside it.
fn write_new(file: &Path, bytes: &[u8]) -> Result<(), String> {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                format!("{} is there already: name a new file; nothing was written", path.display())
            }
            _ => format!("write {}: {error}", path.display()),
        }
    };
    File::create_new(file).map_err(failed(file))?;
    let done = File::create_new(&part).map_err(failed(&part)).and_then(|mut to| {
        let wrote = to.write_all(bytes).and_then(|()| to.sync_all()).and_then(|()| std::fs::rename(&part, file));
        wrote.map_err(|error| {
            let _ = std::fs::remove_file(&part);
            failed(&part)(error)
        })
    });
    if done.is_err() {
        let _ = std::fs::remove_file(file);
        return done;
    }
    let folder = file.parent().unwrap_or(Path::new("/"));
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| format!("sync {}: {error}: the file may not outlive a power cut", folder.display()))
}

/// `abide kit verify`.
pub fn verify(home: &Path, name: &str, file: Option<&Path>, from: &[String]) -> Result<Done, String> {
    let file = file.map(absolute).transpose()?;
    let (found, listing) = runtime()?.block_on(async {
        let whose = Whose::open(home, name, from).await?;
        let (found, is_of_before) = match &file {
            Some(file) => whose.search_file(home, file).await?,
            None => (whose.search(home).await?, false),
        };
        let listing = match &found.newest {
            Some(_) if is_of_before => Some(Err(format!(
                "it was made before the keys of {name} were replaced; it reads what was in the volume then (`abide kit export` makes one of now)"
            ))),
            Some(newest) => Some(whose.compare(newest).await),
            None => None,
        };
        Ok::<_, String>((found, listing))
    })?;
    if found.copies.is_empty() {
        return Err(none(name, &[]));
    }
    Ok(told(name, &found, listing.as_ref()))
}

/// Reads the volume by the kit in a file from now on. It may be of the time before the volume's keys were replaced.
pub async fn read_by(file: &Path, volume: &Volume) -> Result<(), String> {
    let mut why_not = None;
    for root in volume.roots() {
        let mut search = Search::new(Env::real(), root);
        search.file(file).await.map_err(|error| error.to_string())?;
        let found = search.finish();
        if let Some(newest) = found.newest {
            let at = newest.log.state().position().at.rfc3339();
            eprintln!("this is read by the kit in {}, as of {at}", file.display());
            volume.read_by(&newest.log);
            return Ok(());
        }
        let why = found.copies.first().and_then(|copy| why(&copy.standing)).unwrap_or("it is no kit").to_owned();
        why_not.get_or_insert(why);
    }
    Err(format!("{}: {}", file.display(), why_not.unwrap_or_else(|| "only the volume's owner opens its kit".into())))
}

fn place(at: &At) -> String {
    match at {
        At::Here(path) | At::File(path) => path.display().to_string(),
        At::Node(node) => format!("node {node}"),
    }
}

fn word(standing: &Standing) -> &'static str {
    match standing {
        Standing::Sound => "sound",
        Standing::Older => "older",
        Standing::Missing => "missing",
        Standing::RolledBack(_) => "rolled back",
        Standing::Damaged(_) => "damaged",
    }
}

fn why(standing: &Standing) -> Option<&str> {
    match standing {
        Standing::RolledBack(why) | Standing::Damaged(why) => Some(why),
        Standing::Older => Some(
            "another copy is newer: the next command by the volume's key brings it up to date, if its node is to keep one",
        ),
        Standing::Missing => Some("too few nodes have a copy: the next command by the volume's key brings one"),
        Standing::Sound => None,
    }
}

fn told(name: &str, found: &Found, listing: Option<&Result<Behind, String>>) -> Done {
    let good = !found.copies.iter().any(|copy| copy.standing.is_bad());
    let dash = || "-".to_owned();
    let row = |copy: &Copy| {
        let facts = |shown: &dyn Fn(&owner::copies::Facts) -> String| copy.facts.as_ref().map_or_else(dash, shown);
        vec![
            place(&copy.at),
            word(&copy.standing).into(),
            facts(&|facts| facts.position.at.rfc3339()),
            facts(&|facts| facts.files.to_string()),
            facts(&|facts| facts.position.seq.to_string()),
            facts(&|facts| format!("{}/{}", facts.generation, facts.frame)),
            facts(&|facts| bytes(facts.bytes)),
        ]
    };
    let rows: Vec<_> = found.copies.iter().map(row).collect();
    let mut lines = vec![table(&["copy", "state", "up to", "files", "position", "generation/frame", "size"], &rows)];
    for copy in &found.copies {
        let color = if copy.standing.is_bad() { Paint::Red } else { Paint::Dim };
        lines.extend(why(&copy.standing).map(|why| paint(color, &format!("{}: {why}", place(&copy.at)))));
    }
    let silent = found.silent.iter();
    lines.extend(silent.map(|(node, why)| paint(Paint::Yellow, &format!("{node} could not be asked: {why}"))));
    lines.extend(listing.map(|listing| compared(name, listing)));
    let answer = json!({
        "volume": name,
        "good": good,
        "copies": found.copies.iter().map(shown).collect::<Vec<_>>(),
        "unreachable": found.silent.iter().map(|(node, why)| json!({ "node": node, "why": why })).collect::<Vec<_>>(),
        "listing": match listing {
            Some(Ok(Behind { lacks, gone })) => json!({ "lacks": lacks, "gone": gone }),
            Some(Err(why)) => json!({ "not_compared": why }),
            None => Value::Null,
        },
    });
    Done { good, answer, shown: lines.join("\n") }
}

fn compared(name: &str, listing: &Result<Behind, String>) -> String {
    match listing {
        Ok(Behind { lacks: 0, gone: 0 }) => {
            paint(Paint::Green, &format!("the newest says what the listing of {name} says now"))
        }
        Ok(Behind { lacks, gone }) => paint(
            Paint::Yellow,
            &format!(
                "since the newest was made {lacks} files of {name} were written or changed, {gone} replaced or removed"
            ),
        ),
        Err(why) => paint(Paint::Dim, &format!("the newest was not compared with the listing: {why}")),
    }
}

fn shown(copy: &Copy) -> Value {
    let facts = copy.facts.as_ref();
    let kind = match copy.at {
        At::Here(_) => "here",
        At::File(_) => "file",
        At::Node(_) => "node",
    };
    let at = match &copy.at {
        At::Here(path) | At::File(path) => json!(path),
        At::Node(node) => json!(node.to_string()),
    };
    json!({
        "kind": kind,
        "at": at,
        "state": word(&copy.standing),
        "why": why(&copy.standing),
        "generation": facts.map(|facts| facts.generation),
        "frame": facts.map(|facts| facts.frame),
        "position": facts.map(|facts| facts.position.seq),
        "up_to": facts.map(|facts| facts.position.at.rfc3339()),
        "files": facts.map(|facts| facts.files),
        "bytes": facts.map(|facts| facts.bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_whole_and_takes_no_files_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("family.kit");
        write_new(&file, b"kit").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"kit");
        let refused = write_new(&file, b"other").unwrap_err();
        assert!(refused.contains("is there already"), "{refused}");
        assert_eq!(std::fs::read(&file).unwrap(), b"kit", "what was there is as it was");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        assert!(write_new(&folder.path().join("none/family.kit"), b"kit").is_err());
        std::fs::write(folder.path().join("other.kit.part"), "mine").unwrap();
        assert!(write_new(&folder.path().join("other.kit"), b"kit").unwrap_err().contains("is there already"));
        assert_eq!(std::fs::read(folder.path().join("other.kit.part")).unwrap(), b"mine");
        assert!(!folder.path().join("other.kit").exists());
    }

    #[test]
    fn a_bad_copy_fails_the_command_and_says_why() {
        let copy = |standing| Copy { at: At::File("/stick/family.kit".into()), facts: None, standing };
        let of = |standing| Found { copies: vec![copy(standing)], newest: None, silent: Vec::new() };
        for (standing, good) in [
            (Standing::Sound, true),
            (Standing::Older, true),
            (Standing::Missing, true),
            (Standing::RolledBack("it is older".into()), false),
            (Standing::Damaged("byte 7".into()), false),
        ] {
            let done = told("family", &of(standing.clone()), None);
            assert_eq!(done.good, good, "{standing:?}");
            assert!(done.shown.contains(why(&standing).unwrap_or("sound")), "{}", done.shown);
            assert_eq!(done.answer["copies"][0]["state"], word(&standing));
        }
    }
}
