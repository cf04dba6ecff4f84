//! Giving room back: emptying the trash, dropping what expired, cleaning logs by live share.
//!
//! 1. A log is removed only after everything in it that still matters is durable elsewhere, and
//!    its absence is durable before anything relies on it.
//! 2. What still matters: current pieces, and what a record says about a record of another log
//!    that still exists. Without the latter, a replaced or purged piece would come back to life.
//! 3. A record that is damaged keeps its log: room is never worth a piece.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::Wall;

use crate::commit::{Done, Found, Item, Piece, What, Work};
use crate::core::{Core, Log};
use crate::error::Error;
use crate::footer::Entry;
use crate::read::Loaded;
use crate::record::{Loc, RecordKind, Stream};
use crate::{PieceStore, lock};

/// Pieces purged from the trash by one commit.
const PURGE_MAX: usize = 256;
/// Runs of extents punched by one cleaning step: about 0.1 ms each.
const PUNCH_MAX: usize = 32;
/// Small logs, as restarts leave them, are merged once there are so many.
const SMALL_LOGS_MAX: usize = 16;

/// Where cleaning is.
#[derive(Default)]
pub(crate) struct Upkeep {
    victim: Option<Victim>,
}

struct Victim {
    log: Arc<Log>,
    entries: Arc<Vec<Entry>>,
    next: usize,
}

/// What a step of cleaning did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Bytes that were copied to another log.
    pub moved_bytes: u64,
    /// Bytes given back to the file system.
    pub freed_bytes: u64,
    /// Whether nothing is left to do for now.
    pub is_done: bool,
}

impl PieceStore {
    /// Frees pieces that have been in the trash for [`crate::Options::trash_min_age`]; says how
    /// many.
    pub async fn empty_trash(&self, now: Wall) -> Result<u64, Error> {
        let _one = self.upkeep.lock().await;
        let age = u64::try_from(self.core.options.trash_min_age.as_millis()).unwrap_or(u64::MAX);
        let Some(until) = now.0.checked_sub(age) else { return Ok(0) };
        let mut count = 0;
        loop {
            self.core.check_open()?;
            let due: Vec<Loc> = {
                let mut trash = lock(&self.core.trash);
                std::iter::from_fn(|| trash.pop(until)).take(PURGE_MAX).collect()
            };
            if due.is_empty() {
                return Ok(count);
            }
            // Given back unless purged, even if this call is dropped.
            let mut due = Due { core: &self.core, until, locs: due };
            let (purged, again) = self.purge(due.locs.clone()).await?;
            due.locs = again;
            count += purged;
        }
    }

    /// How many went, and which to try again: others changed them meanwhile.
    async fn purge(&self, due: Vec<Loc>) -> Result<(u64, Vec<Loc>), Error> {
        let find = move |core: &Core| -> Result<Vec<Item>, Error> {
            Ok(due.into_iter().filter_map(|loc| core.purge_item(loc)).collect())
        };
        let items = self.on_disk(find).await?;
        if items.is_empty() {
            return Ok((0, Vec::new()));
        }
        let locs: Vec<Loc> = items.iter().filter_map(|item| item.found.map(|found| found.target.loc)).collect();
        let done = self.submit(Work::Items(items)).await?;
        let purged = done.iter().filter(|done| **done == Done::Written).count() as u64;
        let again = locs.into_iter().zip(done).filter(|(_, done)| *done == Done::Retry).map(|(loc, _)| loc).collect();
        Ok((purged, again))
    }

    /// Drops the logs all of whose pieces have expired; says how many pieces went. A piece stays
    /// readable for up to one [`crate::Options::expiry_bucket`] after its expiry.
    pub async fn expire(&self, now: Wall) -> Result<u64, Error> {
        let mut upkeep = self.upkeep.lock().await;
        self.submit(Work::SealExpired(now)).await?;
        let mut count = 0;
        for log in self.core.all_logs().into_iter().filter(|log| is_expired(log, now)) {
            upkeep.victim.take_if(|victim| victim.log.number == log.number);
            let entries = self.on_disk({
                let log = log.clone();
                move |core| core.entries(&log)
            });
            let entries = entries.await?;
            let core = &self.core;
            let known =
                |entry: &&Entry| entry.kind.is_piece() && core.is_current(&entry.id, loc(&log, entry)).is_some();
            count += entries.iter().filter(known).count() as u64;
            let keep: Vec<Item> = entries.iter().flat_map(|entry| core.keep_items(&log, entry)).collect();
            if !keep.is_empty() {
                self.submit(Work::Items(keep)).await?;
            }
            self.remove_log(&log, entries).await?;
        }
        Ok(count)
    }

    /// One bounded unit of cleaning: copies about `bytes` of live records out of the log with the
    /// least of them, removes the log at its end, gives freed extents back. Call it again, at the
    /// pace that users' work allows, until it is done.
    pub async fn clean_step(&self, bytes: u64) -> Result<Cleaned, Error> {
        let mut upkeep = self.upkeep.lock().await;
        self.core.check_open()?;
        let mut cleaned = Cleaned { freed_bytes: self.give_room_back().await?, ..Cleaned::default() };
        if upkeep.victim.is_none() {
            upkeep.victim = self.on_disk(|core| core.choose_victim()).await?;
        }
        let Some(victim) = &mut upkeep.victim else {
            cleaned.is_done = !self.core.extents.has_dirty();
            return Ok(cleaned);
        };
        let (log, entries, next) = (victim.log.clone(), victim.entries.clone(), victim.next);
        let part = self.on_disk(move |core| core.collect(&log, &entries, next, bytes)).await?;
        if part.is_damaged {
            victim.log.held.store(true, Ordering::Release);
            upkeep.victim = None;
            return Ok(cleaned);
        }
        cleaned.moved_bytes = part.items.iter().map(Item::bytes).sum();
        if !part.items.is_empty() {
            self.submit(Work::Items(part.items)).await?;
        }
        // Only now: what wasn't written, for want of room or because this call was dropped, comes
        // again. A record that is left out comes back to life when the log is gone.
        victim.next = part.next;
        if victim.next == victim.entries.len() {
            let (log, entries) = (victim.log.clone(), victim.entries.clone());
            upkeep.victim = None;
            if self.core.has_current(&log, &entries) {
                // Something in it was changed by others while it was copied: another round.
                return Ok(cleaned);
            }
            cleaned.freed_bytes += log.bytes();
            self.remove_log(&log, entries).await?;
        }
        Ok(cleaned)
    }

    async fn give_room_back(&self) -> Result<u64, Error> {
        self.on_disk(|core| {
            let bytes = core.punch(PUNCH_MAX).inspect_err(|error| core.write_failed(error))?;
            if let Some(file) = core.extents.take_empty_file() {
                core.files.remove(crate::files::Name::Extents(file)).inspect_err(|error| core.write_failed(error))?;
            }
            Ok(bytes)
        })
        .await
    }

    /// The file goes, durably; then its pieces, if any are left, leave the index.
    async fn remove_log(&self, log: &Arc<Log>, entries: Arc<Vec<Entry>>) -> Result<(), Error> {
        let name = log.name();
        self.on_disk(move |core| core.files.remove(name).inspect_err(|error| core.write_failed(error))).await?;
        self.submit(Work::Forget(log.number, Arc::unwrap_or_clone(entries))).await?;
        self.core.forget_log(log.number);
        Ok(())
    }
}

/// Places taken from the trash's queue, to be purged now.
struct Due<'a> {
    core: &'a Core,
    until: u64,
    locs: Vec<Loc>,
}

impl Drop for Due<'_> {
    fn drop(&mut self) {
        let mut trash = lock(&self.core.trash);
        self.locs.drain(..).rev().for_each(|loc| trash.queue.push_front((self.until, loc)));
    }
}

fn loc(log: &Log, entry: &Entry) -> Loc {
    Loc { log: log.number, unit: entry.unit }
}

fn is_expired(log: &Log, now: Wall) -> bool {
    let expiry_max = log.expiry_max.load(Ordering::Acquire);
    let is_bucket = matches!(log.stream, Stream::Expiring(_));
    is_bucket && log.is_closed() && !log.held.load(Ordering::Acquire) && expiry_max > 0 && expiry_max <= now.0
}

/// A part of a log to move.
struct Part {
    items: Vec<Item>,
    next: usize,
    is_damaged: bool,
}

impl Core {
    fn purge_item(&self, loc: Loc) -> Option<Item> {
        let log = self.log(loc.log)?;
        let entry = self.entries_from(&log, loc.unit, 1).ok()?.pop().filter(|entry| entry.unit == loc.unit)?;
        // Only what is still in the trash goes.
        self.is_current(&entry.id, loc).filter(|trashed| *trashed)?;
        let found = Found { target: entry.as_target(loc.log), extent: entry.extent };
        let mut candidates = self.index.candidates(self.index.hash(&entry.id));
        candidates.retain(|candidate| candidate.loc != loc);
        let strangers = candidates.into_iter().map(|candidate| candidate.loc).collect();
        Some(Item { id: entry.id, what: What::Purge, found: Some(found), strangers })
    }

    /// The closed log with the least live share, if it is worth it.
    fn choose_victim(&self) -> Result<Option<Victim>, Error> {
        let logs: Vec<Arc<Log>> =
            self.all_logs().into_iter().filter(|log| log.is_closed() && !log.held.load(Ordering::Acquire)).collect();
        let small = self.options.log_bytes / 8;
        let is_small = |log: &&Arc<Log>| log.bytes() < small && !matches!(log.stream, Stream::Expiring(_));
        let many_small = logs.iter().filter(is_small).count() >= SMALL_LOGS_MAX;
        let victim = logs
            .iter()
            .filter(|log| log.share() < u64::from(self.options.clean_below_percent) || (many_small && is_small(log)))
            .min_by_key(|log| (log.share(), log.number));
        let Some(log) = victim else { return Ok(None) };
        let entries = self.entries(log)?;
        Ok(Some(Victim { log: log.clone(), entries, next: 0 }))
    }

    fn has_current(&self, log: &Log, entries: &[Entry]) -> bool {
        entries.iter().any(|entry| entry.kind.is_piece() && self.is_current(&entry.id, loc(log, entry)).is_some())
    }

    fn collect(&self, log: &Log, entries: &[Entry], mut next: usize, bytes: u64) -> Result<Part, Error> {
        let mut trashed = None;
        let mut items = Vec::new();
        let mut size = 0;
        while let Some(entry) = entries.get(next)
            && size < bytes.max(1)
        {
            match self.move_item(log, entry, &mut trashed) {
                Ok(Some(item)) => items.push(item),
                Ok(None) => {}
                Err(Error::Damaged { id, what }) => {
                    tracing::error!(%id, what, log = %log.name(), "damaged piece keeps its log from being cleaned");
                    return Ok(Part { items: Vec::new(), next, is_damaged: true });
                }
                Err(error) => return Err(error),
            }
            items.extend(self.keep_items(log, entry));
            size = items.iter().map(Item::bytes).sum();
            next += 1;
        }
        Ok(Part { items, next, is_damaged: false })
    }

    /// Since when which of a log's pieces are in the trash: their own records don't say.
    fn trashed_in(&self, log: u32) -> BTreeMap<Loc, Wall> {
        let trash = lock(&self.trash);
        trash.queue.iter().filter(|(_, loc)| loc.log == log).map(|(time, loc)| (*loc, Wall(*time))).collect()
    }

    /// A copy of the piece, if the entry is its current record.
    fn move_item(
        &self,
        log: &Log,
        entry: &Entry,
        times: &mut Option<BTreeMap<Loc, Wall>>,
    ) -> Result<Option<Item>, Error> {
        let at = loc(log, entry);
        let Some(trashed) = entry.kind.is_piece().then(|| self.is_current(&entry.id, at)).flatten() else {
            return Ok(None);
        };
        let loaded = match self.load(entry.id) {
            Ok(loaded) if loaded.loc == at => loaded,
            // Replaced just now.
            Ok(_) | Err(Error::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        // The trash may be long: it is gone through only if something of it is met.
        let mut since_of = || times.get_or_insert_with(|| self.trashed_in(log.number)).get(&at).copied();
        let since = trashed.then(|| since_of().unwrap_or(self.env.clock.wall()));
        let piece = self.copy_of(&loaded)?;
        let strangers = self.index.candidates(self.index.hash(&entry.id)).into_iter();
        let strangers = strangers.map(|candidate| candidate.loc).filter(|other| *other != at).collect();
        Ok(Some(Item { id: entry.id, what: What::Move(piece, since), found: Some(loaded.found()), strangers }))
    }

    fn copy_of(&self, loaded: &Loaded) -> Result<Piece, Error> {
        let record = &loaded.record;
        let body = match record.extent {
            Some(_) => Vec::new(),
            None => vec![self.read_body_of(loaded, 0, record.body_len.into())?],
        };
        Ok(Piece {
            header: loaded.header(),
            table: loaded.table(),
            body,
            body_len: record.body_len,
            cell_bytes: record.cell_bytes,
            expiry: record.expiry,
            extent: record.extent,
            reservation: None,
        })
    }

    /// What a record says about another log's record, if that log is still there.
    fn keep_items(&self, log: &Log, entry: &Entry) -> Option<Item> {
        let target = entry.target.filter(|target| target.loc.log != log.number)?;
        self.log(target.loc.log)?;
        let kind = if entry.kind.is_piece() { RecordKind::Purge } else { entry.kind };
        let found = Found { target, extent: None };
        Some(Item { id: entry.id, what: What::Keep(kind, entry.time), found: Some(found), strangers: Vec::new() })
    }
}
