//! Opening: which mirrors count, what the log holds, what the maps lack.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};

use base::{DriveId, Epoch, Kind, Kinded, Seq};
use crypt::MetaKey;
use env::Env;
use tokio::sync::{Notify, watch};

use crate::Error;
use crate::embedded::map::{Applied, Map};
use crate::embedded::replay::Replay;
use crate::embedded::side::Side;
use crate::embedded::{
    Embedded, Layers, LogInfo, MemberSet, Mirror, Options, Seen, Shared, Writer, checkpoint, members,
};
use crate::layer::Layer;
use crate::record::{FILE_HEAD, FileHead};

/// The shard's first incarnation.
const GENERATION: u32 = 1;

/// What the directories hold.
struct Found {
    sides: Vec<Arc<Side>>,
    members: MemberSet,
    epoch: Epoch,
    layers: Layers,
    head: Seq,
    logs: BTreeMap<u64, LogInfo>,
    last: (u64, u64),
    /// Whether the member set was written anew.
    changed: bool,
}

struct Asked {
    env: Env,
    shard: u32,
    mirrors: Vec<Mirror>,
    key: MetaKey,
    options: Options,
    expected: Option<MemberSet>,
    salts: Vec<[u8; 16]>,
}

impl Embedded {
    /// Opens a shard, or makes it if none of the directories holds one. `expected` is the newest
    /// member set that any drive of the store remembers. Mirrors that are not in the newest set are
    /// left as they are: see [`Embedded::add_mirror`]. Members that are not at hand leave the set.
    ///
    /// # Errors
    /// [`Error::Stale`] if every mirror at hand is older than `expected`; [`Error::Split`],
    /// [`Error::Locked`], [`Error::Foreign`], [`Error::Damaged`]; [`Error::Io`] if no drive works.
    pub async fn open(
        env: &Env,
        shard: u32,
        mirrors: Vec<Mirror>,
        key: &MetaKey,
        expected: Option<MemberSet>,
        options: Options,
    ) -> Result<Arc<Self>, Error> {
        let salts = mirrors.iter().map(|_| env.random()).collect();
        let asked =
            Asked { env: env.clone(), shard, mirrors, key: key.clone(), options: options.clone(), expected, salts };
        let found = env.blocking(move || find(asked)).await??;
        if found.changed
            && let Some(tell) = &options.on_members
        {
            tell(found.members.clone()).await;
        }
        let shared = Arc::new(shared(env, key, shard, options, found));
        env.spawn("metastore checkpoints", checkpoint::checkpoints(Arc::downgrade(&shared), Arc::clone(&shared.due)));
        env.spawn("metastore mirrors", checkpoint::watch(Arc::downgrade(&shared)));
        Ok(Arc::new(Self { shared }))
    }
}

fn shared(env: &Env, key: &MetaKey, shard: u32, options: Options, found: Found) -> Shared {
    let writer = Writer {
        head: found.head,
        current: None,
        file: found.last.0,
        end: found.last.1,
        durable: found.last.1,
        ahead: found.last.1,
        since: 0,
        room: None,
        broken: None,
    };
    Shared {
        env: env.clone(),
        shard,
        generation: found.members.generation,
        epoch: found.epoch,
        key: key.clone(),
        options,
        writer: tokio::sync::Mutex::new(writer),
        upkeep: tokio::sync::Mutex::default(),
        seen: RwLock::new(Seen { head: found.head, layers: Arc::new(found.layers) }),
        sides: RwLock::new(Arc::new(found.sides)),
        members: watch::channel(found.members).0,
        logs: RwLock::new(found.logs),
        hints: Mutex::default(),
        held: Mutex::default(),
        due: Arc::new(Notify::new()),
        made: Notify::new(),
        gone: AtomicBool::new(false),
        joining: AtomicBool::new(false),
        cleanings: AtomicU64::new(0),
        waits: AtomicU64::new(0),
        files: RwLock::new(()),
    }
}

/// All of opening that touches drives.
fn find(asked: Asked) -> Result<Found, Error> {
    let mut sides = attach(&asked)?;
    let (known, fresh) = choose(&asked, &mut sides)?;
    let logs = logs(&sides)?;
    let start = open_maps(&asked, &sides)?;
    let oldest = start.iter().map(|applied| (applied.file, applied.offset, applied.seq)).min().unwrap_or_default();
    let maps = sides.iter().map(|side| side.map()?.view().map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
    let layers = Layers { active: Arc::new(Layer::default()), frozen: None, maps };
    let mut replay = Replay {
        sides: &sides,
        layers,
        head: oldest.2,
        applied: oldest.2,
        value_bytes_min: asked.options.value_bytes_min,
        layer_bytes: asked.options.layer_bytes.saturating_mul(2),
    };
    if oldest.0 == 0 && logs.first().is_some_and(|log| log.head.after > Seq(0)) {
        return Err(Error::damaged("every ordered map is gone, and the journal doesn't reach back to its beginning"));
    }
    let mut infos = BTreeMap::new();
    let mut last = (0, 0);
    for log in &logs {
        let number = log.head.number;
        let end = if number < oldest.0 {
            log.end.unwrap_or(FILE_HEAD)
        } else {
            let compacted = log.head.generation > 0;
            let from = if number == oldest.0 && !compacted { oldest.1 } else { FILE_HEAD };
            replay.file(number, from, log.end)?
        };
        infos.insert(number, LogInfo::found(&log.head, end));
        last = (number, end);
    }
    let (layers, head) = (replay.layers.clone(), replay.head);
    let epoch = Epoch(logs.iter().map(|log| log.head.epoch.0).max().unwrap_or(0) + 1);
    let (members, sides, changed) = settle(&asked, known, fresh, sides)?;
    Ok(Found { sides, members, epoch, layers, head, logs: infos, last, changed })
}

/// Takes every directory that can be had.
fn attach(asked: &Asked) -> Result<Vec<Arc<Side>>, Error> {
    let mut sides = Vec::new();
    let mut last = Error::Foreign { what: format!("no directory was given for metadata shard {}", asked.shard) };
    for mirror in &asked.mirrors {
        match Side::attach(&asked.env.disk, mirror.drive, &mirror.dir, asked.shard, &asked.key) {
            Ok(side) => sides.push(side),
            Err(error @ Error::Locked { .. }) => return Err(error),
            Err(error) => {
                tracing::warn!(shard = asked.shard, drive = %mirror.drive, %error, "failed to open a mirror of the metadata");
                last = error;
            }
        }
    }
    if sides.is_empty() { Err(last) } else { Ok(sides) }
}

/// Keeps the mirrors of the newest member set. Gives that set, and whether the shard is new.
fn choose(asked: &Asked, sides: &mut Vec<Arc<Side>>) -> Result<(MemberSet, bool), Error> {
    let mut known = Vec::new();
    let mut rotten = Vec::new();
    let mut any_log = false;
    let mut last = None;
    for side in sides.iter() {
        match side.numbers().map_err(|error| Error::io(format!("list {}", side.dir.display()), &error)) {
            Ok(numbers) => any_log |= !numbers.is_empty(),
            Err(error) => {
                tracing::warn!(shard = asked.shard, drive = %side.drive, %error, "failed to open a mirror of the metadata");
                last = Some(error);
                continue;
            }
        }
        match members::read(&*side.disk, &side.dir) {
            Ok(Some(set)) if set.shard != asked.shard => {
                return Err(Error::Foreign {
                    what: format!("{} holds metadata shard {}, not {}", side.dir.display(), set.shard, asked.shard),
                });
            }
            Ok(set) => known.push((Arc::clone(side), set)),
            Err(error) => {
                tracing::warn!(shard = asked.shard, drive = %side.drive, %error, "failed to read a mirror's member set");
                if matches!(error, Error::Damaged { .. }) {
                    rotten.push(Arc::clone(side));
                }
                last = Some(error);
            }
        }
    }
    // What rotted is that one small file: a drive that the newest set names holds everything, whatever its own copy
    // of the set says.
    let told = asked.expected.iter().filter(|set| rotten.iter().any(|side| set.drives.contains(&side.drive)));
    if known.is_empty() && told.clone().next().is_none() {
        return Err(last.unwrap_or_else(|| Error::bug("no mirror and no error")));
    }
    let sets = || known.iter().filter_map(|(_, set)| set.as_ref()).chain(told.clone());
    // A change that the power cut short can leave another set of the same epoch on a mirror. Where
    // the drives remember one, it is the one under which commits went on.
    let remembered = asked.expected.as_ref().filter(|expected| sets().any(|set| set == *expected));
    let newest = sets().max_by_key(|set| (set.epoch, Some(*set) == remembered)).cloned();
    let found = newest.as_ref().map_or(Epoch(0), |set| set.epoch);
    if let Some(expected) = asked.expected.as_ref().filter(|expected| expected.epoch > found) {
        return Err(Error::Stale { found, expected: expected.epoch, wanted: expected.drives.clone() });
    }
    // Logs come after the member set: where there is none nothing was ever acknowledged.
    let fresh = !any_log;
    let Some(newest) = newest else {
        if !fresh {
            return Err(Error::damaged("the directories hold logs but no member set"));
        }
        *sides = known.into_iter().map(|(side, _)| side).collect();
        let epoch = Epoch(asked.options.members_after);
        let none = MemberSet { shard: asked.shard, generation: GENERATION, epoch, ..MemberSet::default() };
        return Ok((none, true));
    };
    if let Some((side, set)) = known.iter().find_map(|(side, set)| {
        let set = set.as_ref()?;
        let contradicts = set.epoch == newest.epoch && *set != newest && remembered != Some(&newest);
        contradicts.then_some((side, set))
    }) {
        let what = format!("{} has {set:?}, another has {newest:?}", side.dir.display());
        return Err(Error::Split { what });
    }
    let live = known.into_iter().filter(|(side, set)| {
        fresh || set.as_ref().is_some_and(|set| *set == newest && set.drives.contains(&side.drive))
    });
    *sides = live.map(|(side, _)| side).collect();
    for side in rotten.into_iter().filter(|side| newest.drives.contains(&side.drive)) {
        match members::write(&*side.disk, &side.dir, &newest) {
            Ok(()) => sides.push(side),
            Err(error) => {
                tracing::warn!(shard = asked.shard, drive = %side.drive, %error, "failed to write a mirror of the metadata");
            }
        }
    }
    if sides.is_empty() {
        return Err(Error::Stale { found, expected: newest.epoch, wanted: newest.drives });
    }
    Ok((newest, fresh))
}

/// One log file of the shard.
struct Log {
    head: FileHead,
    /// Where it ends; unknown for the last.
    end: Option<u64>,
}

/// The log files in order, present on every side up to the last one's tail.
fn logs(sides: &[Arc<Side>]) -> Result<Vec<Log>, Error> {
    let mut numbers = BTreeSet::new();
    for side in sides {
        numbers.extend(side.numbers().map_err(|error| Error::io(format!("list {}", side.dir.display()), &error))?);
    }
    let mut logs: Vec<Log> = Vec::new();
    let last = numbers.last().copied();
    for number in numbers {
        match best_head(sides, number)? {
            Some(head) => {
                let end = (head.end > 0).then_some(head.end);
                if let Some(before) = logs.last_mut() {
                    if before.head.number != head.previous {
                        return Err(Error::damaged(format!("log file {:x} is missing", head.previous)));
                    }
                    before.end.get_or_insert(head.previous_end);
                }
                logs.push(Log { head, end });
            }
            // It was being made when the power went: nothing was ever written to it.
            None if Some(number) == last => remove_log(sides, number)?,
            None => return Err(Error::damaged(format!("the head of log file {number:x}"))),
        }
    }
    for log in &logs {
        complete(sides, log)?;
    }
    Ok(logs)
}

/// The head that counts: of the latest generation, with records rather than without; none if no side has a whole one.
///
/// # Errors
/// If none is had because a drive fails: the file may be whole.
fn best_head(sides: &[Arc<Side>], number: u64) -> Result<Option<FileHead>, Error> {
    let mut best: Option<(u32, u64, FileHead)> = None;
    let mut untold = None;
    for side in sides {
        match side.log(number) {
            Ok(log) => {
                let len = log.file.len().unwrap_or(0);
                let rank = (log.head.generation, len.min(FILE_HEAD + 1));
                if best.as_ref().is_none_or(|(generation, len, _)| rank > (*generation, *len)) {
                    best = Some((rank.0, rank.1, log.head.clone()));
                }
            }
            Err(error @ Error::Foreign { .. }) => return Err(error),
            Err(error) if error.kind() == Kind::Missing => {}
            Err(error) => {
                tracing::warn!(drive = %side.drive, %error, "failed to open a log file: asking the other mirrors");
                untold = Some(error).filter(Error::is_untold).or(untold);
            }
        }
    }
    match (best, untold) {
        (None, Some(error)) => Err(error),
        (best, _) => Ok(best.map(|(_, _, head)| head)),
    }
}

fn remove_log(sides: &[Arc<Side>], number: u64) -> Result<(), Error> {
    for side in sides.iter().filter(|side| side.disk.exists(&side.path(number))) {
        let removed = side.disk.remove_file(&side.path(number)).and_then(|()| side.disk.sync_dir(&side.dir));
        removed.map_err(|error| Error::io(format!("remove {}", side.path(number).display()), &error))?;
    }
    Ok(())
}

/// Copies the file to mirrors that have none, another one, or too little of it.
fn complete(sides: &[Arc<Side>], log: &Log) -> Result<(), Error> {
    let number = log.head.number;
    let has = |side: &Arc<Side>| {
        let file = side.log(number).ok()?;
        let len = file.file.len().ok()?;
        (file.head == log.head && len >= log.end.unwrap_or(FILE_HEAD)).then_some(len)
    };
    let from = sides.iter().filter_map(|side| Some((has(side)?, side))).max_by_key(|(len, _)| *len);
    for side in sides.iter().filter(|side| has(side).is_none()) {
        let Some((len, from)) = &from else {
            // The last file's tail is looked at record by record; of the others some may still be
            // whole together: replaying or reading them will tell.
            continue;
        };
        tracing::info!(drive = %side.drive, number, "a log file is missing or short here: copying it from another mirror");
        side.copy_log(from, number, log.end.unwrap_or(*len))?;
    }
    Ok(())
}

/// Opens every mirror's map; copies one from another mirror where there is none, or begins anew.
fn open_maps(asked: &Asked, sides: &[Arc<Side>]) -> Result<Vec<Applied>, Error> {
    let cache = asked.options.cache_bytes;
    let mut opened: Vec<Option<Map>> = Vec::new();
    let mut best: Option<(Applied, usize)> = None;
    let mut untold = None;
    for (at, side) in sides.iter().enumerate() {
        let map = Map::open(&*side.disk, &side.dir, asked.shard, &asked.key, cache, None);
        let map = map.and_then(|map| map.view().map(|view| (map, view.applied)));
        match map {
            Ok((map, applied)) => {
                if best.as_ref().is_none_or(|(found, _)| applied.seq > found.seq) {
                    best = Some((applied, at));
                }
                opened.push(Some(map));
            }
            Err(error) => {
                if side.disk.exists(&crate::embedded::sector::path(&side.dir)) {
                    tracing::warn!(shard = asked.shard, drive = %side.drive, %error, "failed to open an ordered map: making it anew");
                }
                opened.push(None);
                untold = Some(error).filter(Error::is_untold).or(untold);
            }
        }
    }
    // The one that can't be read now may be all there is of what the journal doesn't reach back to.
    if let (None, Some(error)) = (&best, untold) {
        return Err(error);
    }
    let view = match best {
        Some((_, at)) => opened[at].as_ref().map(Map::view).transpose()?,
        None => None,
    };
    let mut applied = Vec::new();
    for ((side, map), salt) in sides.iter().zip(opened).zip(&asked.salts) {
        let map = match map {
            Some(map) => map,
            None => {
                let map = Map::open(&*side.disk, &side.dir, asked.shard, &asked.key, cache, Some(*salt))?;
                if let Some(view) = &view {
                    map.copy(view)?;
                }
                map.install(&*side.disk, &side.dir)?
            }
        };
        applied.push(map.view()?.applied);
        side.set_map(map);
    }
    Ok(applied)
}

/// Makes the mirrors at hand the member set, if they aren't.
fn settle(
    asked: &Asked,
    known: MemberSet,
    fresh: bool,
    mut sides: Vec<Arc<Side>>,
) -> Result<(MemberSet, Vec<Arc<Side>>, bool), Error> {
    let mut set = known;
    let mut changed = false;
    loop {
        let mut drives: Vec<DriveId> = sides.iter().map(|side| side.drive).collect();
        drives.sort();
        let written = fresh && !changed;
        if set.drives == drives && !written {
            return Ok((set, sides, changed));
        }
        set = MemberSet { epoch: Epoch(set.epoch.0 + 1), drives, ..set };
        changed = true;
        let mut last = None;
        sides.retain(|side| match members::write(&*side.disk, &side.dir, &set) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(shard = asked.shard, drive = %side.drive, %error, "failed to write a mirror of the metadata");
                last = Some(error);
                false
            }
        });
        match last {
            Some(error) if sides.is_empty() => return Err(Error::io("write the metadata's members", &error)),
            _ => {}
        }
    }
}
