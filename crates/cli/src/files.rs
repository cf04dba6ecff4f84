//! `abide cp`, `ls`, `rm`: files and an end-to-end volume. Everything is sealed and opened in this process.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use base::{Kind, Kinded, Wall};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use owner::names::Names;
use owner::{Attributes, Volume};
use serde_json::{Value, json};

use crate::args::{Copy, Listing, Removing};
use crate::ask::Done;
use crate::kits::read_by;
use crate::rescue::Line;
use crate::show::{Paint, bytes, duration, paint, table};
use crate::volumes::{Way, kind_of, open, place, remember, runtime, way};

/// Files that are copied at a time: small ones share packs.
const AT_ONCE: usize = 12;
/// Bytes that are read of a file at a time.
const CHUNK: usize = 1 << 20;
/// Problems that are listed one by one; JSON has all.
const SHOWN_MAX: usize = 20;

/// One file to be copied.
struct Job {
    file: PathBuf,
    path: String,
    size: u64,
    changed: Option<Wall>,
}

/// Paths, and what is to be said of each.
type Told = Vec<(String, String)>;

/// What came of it.
#[derive(Default)]
struct Copied {
    files: u64,
    bytes: u64,
    skipped: Told,
    failed: Told,
    /// Of when the kit is that was read by, if nobody led the volume's metadata.
    by_kit: Option<Wall>,
}

fn wall(time: SystemTime) -> Option<Wall> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok().map(Wall)
}

/// Whose place it is, if its keys are kept here.
fn named(way: &Way) -> Option<String> {
    match way {
        Way::Owner(name) => Some(name.clone()),
        Way::Grant(_) => None,
    }
}

/// `abide cp`.
pub fn copy(home: &Path, what: &Copy) -> Result<Done, String> {
    let (from, to) = (place(&what.source), place(&what.target));
    let (name, is_up) = match (from, to) {
        (Some((name, _)), None) => (name, false),
        (None, Some((name, _))) => (name, true),
        _ => return Err("one of the two is a place in a volume (VOLUME:PATH, or :PATH with --grant FILE), the other a file or folder here".into()),
    };
    if is_up && what.kit.is_some() {
        return Err("--kit is for reading: what is written goes by the volume's metadata, without it".into());
    }
    let way = way(name, what.grant.as_deref())?;
    let owned = named(&way);
    let began = Instant::now();
    let (copied, name) = runtime()?.block_on(async {
        let volume = open(home, way, &what.from).await?;
        if let Some(kit) = &what.kit {
            read_by(kit, &volume).await?;
        }
        let mut copied = match (from, to) {
            (_, Some((_, path))) => {
                let (jobs, skipped) = uploads(Path::new(&what.source), path, what.recursive)?;
                volume.check_led().await.map_err(|error| error.to_string())?;
                let mut copied = Copied { skipped, ..Copied::default() };
                run(&volume, jobs, true, &mut copied).await;
                copied
            }
            (Some((_, path)), None) => {
                let jobs = downloads(&volume, path, &what.target, what.recursive).await?;
                let mut copied = Copied::default();
                run(&volume, jobs, false, &mut copied).await;
                copied
            }
            _ => Copied::default(),
        };
        if what.kit.is_none() {
            remember(home, owned.as_deref(), &volume, is_up).await?;
        }
        copied.by_kit = volume.read_by_kit();
        Ok::<_, String>((copied, volume.name().to_owned()))
    })?;
    Ok(told(&copied, &name, is_up, began.elapsed()))
}

fn told(copied: &Copied, name: &str, is_up: bool, took: Duration) -> Done {
    let Copied { files, bytes: count, skipped, failed, by_kit } = copied;
    let speed = *count as f64 / took.as_secs_f64().max(0.001);
    let way = if is_up { "to" } else { "from" };
    let paint_it = if failed.is_empty() { Paint::Green } else { Paint::Yellow };
    let sum = format!(
        "{files} files, {}, {way} {name} in {:.1} s ({}/s)",
        bytes(*count),
        took.as_secs_f64(),
        bytes(speed as u64)
    );
    let mut lines = Vec::new();
    for (all, color) in [(skipped, Paint::Dim), (failed, Paint::Red)] {
        lines.extend(all.iter().take(SHOWN_MAX).map(|(path, why)| paint(color, &format!("{path}: {why}"))));
        if all.len() > SHOWN_MAX {
            lines.push(paint(Paint::Dim, &format!("… and {} more: --json has all", all.len() - SHOWN_MAX)));
        }
    }
    lines.push(paint(paint_it, &sum));
    let list = |all: &[(String, String)]| -> Vec<Value> {
        all.iter().map(|(path, why)| json!({ "path": path, "why": why })).collect()
    };
    let answer = json!({
        "volume": name,
        "files": files,
        "bytes": count,
        "seconds": took.as_secs_f64(),
        "skipped": list(skipped),
        "failed": list(failed),
        "read_by_kit": by_kit.map(|at| at.rfc3339()),
    });
    Done { good: failed.is_empty(), answer, shown: lines.join("\n") }
}

/// Runs the jobs, some at a time, with a line of progress.
async fn run(volume: &Volume, jobs: Vec<Job>, is_up: bool, copied: &mut Copied) {
    let (all, began) = (jobs.iter().map(|job| job.size).sum::<u64>(), Instant::now());
    let count = jobs.len();
    let mut line = Line::new();
    let done = std::sync::atomic::AtomicU64::new(0);
    let counted = &done;
    let mut running = stream::iter(jobs)
        .map(async |job| {
            let one = if is_up { upload(volume, &job, counted).await } else { download(volume, &job, counted).await };
            (job, one)
        })
        .buffer_unordered(AT_ONCE);
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            next = running.next() => match next {
                None => break,
                Some((_, Ok(size))) => (copied.files, copied.bytes) = (copied.files + 1, copied.bytes + size),
                Some((job, Err(why))) => copied.failed.push((job.path, why)),
            },
            _ = tick.tick() => {}
        }
        let now = done.load(std::sync::atomic::Ordering::Relaxed);
        let left = began.elapsed().as_secs() * all.saturating_sub(now) / now.max(1);
        let files = copied.files;
        line.say(&format!("{files} of {count} files, {} of {}, {} left", bytes(now), bytes(all), duration(left)));
    }
    line.end();
}

/// What a source here comes to, below a path of the volume.
fn uploads(source: &Path, path: &str, recursive: bool) -> Result<(Vec<Job>, Told), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", source.display());
    let meta = std::fs::metadata(source).map_err(failed)?;
    // A path that ends in / takes what is copied by its own name.
    let target = match path.is_empty() && !meta.is_dir() || path.ends_with('/') {
        true => {
            let whole = source.canonicalize().map_err(failed)?;
            let name = whole.file_name().and_then(|name| name.to_str());
            format!("{path}{}", name.ok_or_else(|| format!("{}: it has no name in UTF-8", source.display()))?)
        }
        false => path.to_owned(),
    };
    if meta.is_file() {
        let changed = meta.modified().ok().and_then(wall);
        return Ok((vec![Job { file: source.into(), path: target, size: meta.len(), changed }], Vec::new()));
    }
    if !recursive {
        return Err(format!("{} is a folder: copy it with -r", source.display()));
    }
    let (mut jobs, mut skipped) = (Vec::new(), Vec::new());
    let mut folders = vec![(source.to_path_buf(), if target.is_empty() { target } else { target + "/" })];
    while let Some((folder, below)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))? {
            let entry = entry.map_err(|error| format!("{}: {error}", folder.display()))?;
            let shown = entry.path().display().to_string();
            let (Ok(kind), Some(name)) = (entry.file_type(), entry.file_name().to_str().map(str::to_owned)) else {
                skipped.push((shown, "its name isn't UTF-8".into()));
                continue;
            };
            let path = format!("{below}{name}");
            if kind.is_dir() {
                folders.push((entry.path(), path + "/"));
            } else if let (true, Ok(meta)) = (kind.is_file(), entry.metadata()) {
                let changed = meta.modified().ok().and_then(wall);
                jobs.push(Job { file: entry.path(), path, size: meta.len(), changed });
            } else {
                skipped.push((shown, "it is neither a file nor a folder".into()));
            }
        }
    }
    jobs.sort_by(|a, b| a.path.cmp(&b.path));
    Ok((jobs, skipped))
}

async fn upload(volume: &Volume, job: &Job, counted: &std::sync::atomic::AtomicU64) -> Result<u64, String> {
    let text = |error: std::io::Error| error.to_string();
    let failed = |error: owner::Error| error.to_string();
    let mut file = std::fs::File::open(&job.file).map_err(text)?;
    let mut to = volume.write(&job.path, Some(job.size)).map_err(failed)?;
    let mut size = 0;
    loop {
        let mut chunk = vec![0; CHUNK.min(job.size as usize + 1)];
        let mut have = 0;
        while have < chunk.len() {
            match file.read(&mut chunk[have..]).map_err(text)? {
                0 => break,
                count => have += count,
            }
        }
        if have == 0 {
            break;
        }
        chunk.truncate(have);
        size += have as u64;
        to.write(Bytes::from(chunk)).await.map_err(failed)?;
        counted.fetch_add(have as u64, std::sync::atomic::Ordering::Relaxed);
    }
    to.finish(Attributes { changed: job.changed, content_type: String::new() }).await.map_err(failed)?;
    Ok(size)
}

/// What a place in the volume comes to here.
async fn downloads(volume: &Volume, path: &str, target: &str, recursive: bool) -> Result<Vec<Job>, String> {
    let failed = |error: owner::Error| error.to_string();
    let path = kind_of(volume, path).await?;
    let to = Path::new(target);
    let own = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let within = |name: &str| to.join(Names::default().path(name));
    let is_folder = path.is_empty() || path.ends_with('/');
    let single = match is_folder && path.is_empty() {
        // A grant may be for one file alone, which is the whole of it.
        true => volume.list("").await.map_err(failed)?.into_iter().find(|entry| entry.name.is_empty()),
        false => None,
    };
    if !is_folder || single.is_some() {
        let entry = match single {
            Some(entry) => entry,
            None => volume.stat(&path).await.map_err(failed)?,
        };
        let into = target.ends_with('/') || to.is_dir();
        if into && own.is_empty() {
            return Err("the grant is for one file, whose name it doesn't say: name the file to write".into());
        }
        let file = if into { within(own) } else { to.to_path_buf() };
        return Ok(vec![Job { file, path, size: entry.size, changed: entry.attributes.changed }]);
    }
    if !recursive {
        return Err(format!("{}:/{path} is a folder: copy it with -r", volume.name()));
    }
    let to = if target.ends_with('/') && !own.is_empty() { within(own) } else { to.to_path_buf() };
    std::fs::create_dir_all(&to).map_err(|error| format!("{}: {error}", to.display()))?;
    // Paths are what somebody wrote: none leads out of the folder.
    let mut names = Names::default();
    let all = volume.walk(&path).await.map_err(failed)?;
    let job = |(below, entry): (String, owner::Entry)| Job {
        file: to.join(names.path(&below)),
        path: format!("{path}{below}"),
        size: entry.size,
        changed: entry.attributes.changed,
    };
    Ok(all.into_iter().map(job).collect())
}

async fn download(volume: &Volume, job: &Job, counted: &std::sync::atomic::AtomicU64) -> Result<u64, String> {
    let text = |error: std::io::Error| format!("{}: {error}", job.file.display());
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let (entry, mut bytes) = volume.read(&job.path, 0..u64::MAX).await.map_err(|error| failed(&error))?;
    if let Some(folder) = job.file.parent() {
        std::fs::create_dir_all(folder).map_err(text)?;
    }
    // Whole, or not there: what is there stays until the new one is complete.
    let mut part = job.file.clone().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut file = std::fs::File::create(&part).map_err(text)?;
    let mut size = 0;
    let done = async {
        while let Some(some) = bytes.next().await {
            let some = some.map_err(|error| failed(&error))?;
            std::io::Write::write_all(&mut file, &some).map_err(text)?;
            size += some.len() as u64;
            counted.fetch_add(some.len() as u64, std::sync::atomic::Ordering::Relaxed);
        }
        if size != entry.size {
            return Err(format!("{size} bytes came of {}", entry.size));
        }
        if let Some(changed) = entry.attributes.changed {
            // What a file system can't keep isn't worth failing for.
            let _ = file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_millis(changed.0));
        }
        std::fs::rename(&part, &job.file).map_err(text)
    };
    let done: Result<(), String> = done.await;
    if done.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    done.map(|()| size)
}

/// `abide ls`.
pub fn list(home: &Path, what: &Listing) -> Result<Done, String> {
    let (name, path) =
        place(what.place.as_deref().unwrap_or(":")).ok_or("a place is VOLUME:PATH, or :PATH with --grant FILE")?;
    let way = way(name, what.grant.as_deref())?;
    let owned = named(&way);
    let entries = runtime()?.block_on(async {
        let volume = open(home, way, &what.from).await?;
        if let Some(kit) = &what.kit {
            read_by(kit, &volume).await?;
        }
        let failed = |error: owner::Error| error.to_string();
        let path = kind_of(&volume, path).await?;
        let entries = if !(path.is_empty() || path.ends_with('/')) {
            let entry = volume.stat(&path).await.map_err(failed)?;
            vec![(entry.name.clone(), entry)]
        } else if what.recursive {
            volume.walk(&path).await.map_err(failed)?
        } else {
            volume.list(&path).await.map_err(failed)?.into_iter().map(|entry| (entry.name.clone(), entry)).collect()
        };
        if what.kit.is_none() {
            remember(home, owned.as_deref(), &volume, false).await?;
        }
        Ok::<_, String>(entries)
    })?;
    let at = |entry: &owner::Entry| entry.attributes.changed.unwrap_or(entry.written).rfc3339();
    let answer: Vec<Value> = entries
        .iter()
        .map(|(path, entry)| match entry.is_folder() {
            true => json!({ "path": path, "folder": true }),
            false => json!({ "path": path, "folder": false, "bytes": entry.size, "changed": at(entry) }),
        })
        .collect();
    let row = |(path, entry): &(String, owner::Entry)| match entry.is_folder() {
        true => vec![String::new(), String::new(), path.clone()],
        false => vec![bytes(entry.size), at(entry), path.clone()],
    };
    let shown = match entries.is_empty() {
        true => "nothing is there".into(),
        false => table(&["bytes", "changed", "name"], &entries.iter().map(row).collect::<Vec<_>>()),
    };
    Ok(Done::good(json!(answer), shown))
}

/// `abide rm`.
pub fn remove(home: &Path, what: &Removing) -> Result<Done, String> {
    let (name, path) = place(&what.place).ok_or("a place is VOLUME:PATH, or :PATH with --grant FILE")?;
    let way = way(name, what.grant.as_deref())?;
    let owned = named(&way);
    let (count, name) = runtime()?.block_on(async {
        let volume = open(home, way, &what.from).await?;
        let failed = |error: owner::Error| error.to_string();
        volume.check_led().await.map_err(failed)?;
        let path = match kind_of(&volume, path).await {
            Ok(path) => path,
            // Who may delete may not be allowed to look.
            Err(_) if what.grant.is_some() && !what.recursive => path.to_owned(),
            Err(why) => return Err(why),
        };
        if !(path.is_empty() || path.ends_with('/')) {
            volume.delete(&path).await.map_err(failed)?;
            remember(home, owned.as_deref(), &volume, true).await?;
            return Ok((1, volume.name().to_owned()));
        }
        if !what.recursive {
            return Err(format!("{}:/{path} is a folder: remove all in it with -r", volume.name()));
        }
        let all = volume.walk(&path).await.map_err(failed)?;
        let count = all.len();
        let gone = stream::iter(all).map(async |(below, _)| volume.delete(&format!("{path}{below}")).await);
        let gone: Vec<_> = gone.buffer_unordered(AT_ONCE).collect().await;
        for one in gone {
            match one {
                Err(error) if error.kind() != Kind::Missing => return Err(error.to_string()),
                _ => {}
            }
        }
        remember(home, owned.as_deref(), &volume, true).await?;
        Ok((count, volume.name().to_owned()))
    })?;
    Ok(Done::good(json!({ "volume": name, "removed": count }), format!("{count} files are no more in {name}")))
}
