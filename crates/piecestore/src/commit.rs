//! Group commit: what arrived while the last sync ran is written in one go, synced once, answered.
//!
//! 1. The index changes only here, after the sync, in the order of the records' sequence numbers.
//! 2. A caller reads on the drive which record is its piece's current one before it queues a
//!    change. If that isn't so any more when its turn comes, it is told to look again.
//! 3. After a failed write or sync nothing is known of what was not synced: the store is fenced.
//!    Only a write refused for want of room leaves it open, once the part written is cut off.
//! 4. A group is never written before the group ahead of it is synced: scanning relies on it.
//! 5. No record speaks of a record of its own group: what it supersedes is durable before it is
//!    written. Else a torn group, or one of two logs that has no room, could keep the later record
//!    and lose the one between, and the piece would have two current records.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::{PieceId, Wall};
use bytes::Bytes;
use env::File;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::core::{Core, Log};
use crate::error::{Error, is_out_of_space};
use crate::extents::Reservation;
use crate::files::Name;
use crate::footer::{self, Entry};
use crate::lock;
use crate::record::{Extent, HEAD_BYTES, LOG_HEAD_BYTES, Loc, LogHead, Record, RecordKind, Stream, Target, UNIT_BYTES};

/// Entries of a log at the most: they are in memory until it is sealed.
const ENTRIES_MAX: usize = 16 * 1024;
/// Logs open for appending at the most; beyond, the one of the least recent use is sealed. Enough
/// for a month of daily buckets: sealing and making logs in turns costs four syncs a record.
const ACTIVE_MAX: usize = 32;
/// Footers count sequence numbers from the log's first one in 32 bits.
const SEQ_SPAN_MAX: u64 = 1 << 31;
/// Groups below this size are worth zeros written ahead: syncing a file that needn't grow takes
/// half as long. Larger groups would only be written twice.
const SMALL_GROUP_BYTES: u64 = 64 * 1024;
/// How far zeros are written ahead.
const AHEAD_BYTES: u64 = 1024 * 1024;
/// Bytes of a group at the most: bounds how long the first of it waits for the last.
const GROUP_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// The free room is asked for again after so many bytes were written.
const SPACE_CHECK_BYTES: u64 = 16 * 1024 * 1024;

static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// A piece's current record, as its changer saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub target: Target,
    pub extent: Option<Extent>,
}

/// A piece to write.
#[derive(Clone)]
pub(crate) struct Piece {
    pub header: Bytes,
    pub table: Bytes,
    /// Empty if the body is in an extent.
    pub body: Vec<Bytes>,
    pub body_len: u32,
    pub cell_bytes: u32,
    pub expiry: Option<Wall>,
    pub extent: Option<Extent>,
    /// Holds the extent until a record names it.
    pub reservation: Option<Arc<Reservation>>,
}

/// A change.
#[derive(Clone)]
pub(crate) enum What {
    /// A piece comes, whatever was there.
    Put(Piece),
    /// Cleaning moves the piece's record: only if it still is the current one. In the trash since.
    Move(Piece, Option<Wall>),
    /// To the trash, if it isn't there.
    Delete,
    /// Out of the trash, if it is there.
    Undelete,
    /// Gone for good, if it is in the trash.
    Purge,
    /// Cleaning keeps what a record says about another log's record.
    Keep(RecordKind, Wall),
}

#[derive(Clone)]
pub(crate) struct Item {
    pub id: PieceId,
    pub what: What,
    pub found: Option<Found>,
    /// Places that share the hash but hold other pieces.
    pub strangers: Vec<Loc>,
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    Written,
    /// Nothing to do.
    Skipped,
    /// The piece's current record is another one by now: look again.
    Retry,
}

pub(crate) enum Work {
    Items(Vec<Item>),
    /// Closes the logs of pieces that have all expired by then.
    SealExpired(Wall),
    /// Index entries of a log that is gone.
    Forget(u32, Vec<Entry>),
    /// Seals all logs; nothing comes after.
    Close,
}

pub(crate) struct Op {
    pub work: Work,
    pub reply: oneshot::Sender<Result<Vec<Done>, Error>>,
    /// Gives the queue's room back when the op is answered.
    pub permit: Option<OwnedSemaphorePermit>,
}

impl Op {
    /// Bytes that it adds to a group.
    pub fn bytes(&self) -> u64 {
        match &self.work {
            Work::Items(items) => items.iter().map(Item::bytes).sum(),
            _ => 0,
        }
    }
}

impl Item {
    pub fn bytes(&self) -> u64 {
        let (What::Put(piece) | What::Move(piece, _)) = &self.what else { return HEAD_BYTES as u64 };
        let body: usize = piece.body.iter().map(Bytes::len).sum();
        (HEAD_BYTES + piece.header.len() + piece.table.len() + body) as u64
    }
}

/// A log that takes records.
struct Active {
    log: Arc<Log>,
    file: Arc<dyn File>,
    /// Where the next group begins.
    at: u64,
    /// Up to here the file's blocks were written before, with zeros.
    ahead: u64,
    count: usize,
    used: u64,
    first_seq: u64,
}

/// What only the committer touches.
#[derive(Default)]
pub(crate) struct Commit {
    active: BTreeMap<Stream, Active>,
    pub next_seq: u64,
    pub next_log: u32,
    uses: u64,
    full: bool,
    since_check: u64,
    checked: bool,
}

/// The current record of a piece.
#[derive(Clone, Copy)]
struct Current {
    found: Found,
    trashed: bool,
}

#[derive(Default)]
struct Batch {
    parts: Vec<Bytes>,
    bytes: u64,
    ops: BTreeSet<usize>,
}

#[derive(Default)]
struct Group {
    /// Pieces that the group changes: rule 5.
    touched: BTreeSet<PieceId>,
    batches: BTreeMap<Stream, Batch>,
    staged: Vec<Staged>,
}

struct Staged {
    stream: Stream,
    log: Arc<Log>,
    entry: Entry,
    frees: Option<Extent>,
    reservation: Option<Arc<Reservation>>,
}

/// Whether an op's group can still grow by one more.
pub(crate) fn fits(bytes: u64, more: u64) -> bool {
    bytes + more <= GROUP_BYTES_MAX
}

impl Core {
    /// Carries the ops out as one group (or more, where a log ends in between) and answers them.
    pub fn commit(&self, ops: Vec<Op>) {
        let mut commit = lock(&self.commit);
        let mut group = Group::default();
        let mut results: Vec<Result<Vec<Done>, Error>> = Vec::new();
        let mut waiting = Vec::new();
        for (number, Op { work, reply, permit }) in ops.into_iter().enumerate() {
            results.push(Ok(Vec::new()));
            let result = self.work(&mut commit, &mut group, &mut results, number, work);
            if let Err(error) = result {
                results[number] = Err(error);
            }
            waiting.push((reply, permit));
        }
        self.flush(&mut commit, &mut group, &mut results);
        drop(commit);
        for ((reply, permit), result) in waiting.into_iter().zip(results) {
            drop(permit);
            // The caller may have gone: what it asked for is done all the same.
            let _ = reply.send(result);
        }
    }

    fn work(
        &self,
        commit: &mut Commit,
        group: &mut Group,
        results: &mut [Result<Vec<Done>, Error>],
        number: usize,
        work: Work,
    ) -> Result<(), Error> {
        match work {
            Work::Items(items) => {
                for item in items {
                    self.check_open()?;
                    let done = self.stage(commit, group, results, number, item)?;
                    match &mut results[number] {
                        Ok(all) => all.push(done),
                        Err(error) => return Err(error.clone()),
                    }
                }
            }
            Work::SealExpired(now) => {
                self.flush(commit, group, results);
                self.check_open()?;
                let over = |stream: &Stream| matches!(stream, Stream::Expiring(bucket) if self.options.bucket_end(*bucket) <= now);
                let streams: Vec<Stream> = commit.active.keys().copied().filter(over).collect();
                streams.into_iter().try_for_each(|stream| self.seal(commit, stream))?;
            }
            Work::Forget(number, entries) => {
                self.flush(commit, group, results);
                for entry in entries.iter().filter(|entry| entry.kind.is_piece()) {
                    let known = self.unlink(self.index.hash(&entry.id), entry.as_target(number));
                    if let (true, Some(extent)) = (known, entry.extent) {
                        self.extents.give_back(extent);
                    }
                }
            }
            Work::Close => {
                self.flush(commit, group, results);
                self.check_open()?;
                let streams: Vec<Stream> = commit.active.keys().copied().collect();
                streams.into_iter().try_for_each(|stream| self.seal(commit, stream))?;
            }
        }
        Ok(())
    }

    /// The piece's current record; `None` if the caller must look again.
    fn current(&self, item: &Item) -> Option<Option<Current>> {
        let mut candidates = self.index.candidates(self.index.hash(&item.id));
        candidates.retain(|candidate| !item.strangers.contains(&candidate.loc));
        match (&item.found, candidates.as_slice()) {
            (None, []) => Some(None),
            (Some(found), [one]) if one.loc == found.target.loc => {
                Some(Some(Current { found: *found, trashed: one.trashed }))
            }
            _ => None,
        }
    }

    fn stage(
        &self,
        commit: &mut Commit,
        group: &mut Group,
        results: &mut [Result<Vec<Done>, Error>],
        number: usize,
        item: Item,
    ) -> Result<Done, Error> {
        // What a kept purge says stays true whatever comes: it waits for nobody.
        if group.touched.contains(&item.id) && !matches!(item.what, What::Keep(RecordKind::Purge, _)) {
            self.flush(commit, group, results);
            self.check_open()?;
        }
        if let What::Keep(kind, time) = item.what {
            return self.stage_keep(commit, group, results, number, &item, kind, time);
        }
        let Some(current) = self.current(&item) else { return Ok(Done::Retry) };
        let same = |current: &Current| item.found.is_some_and(|found| found.target.loc == current.found.target.loc);
        match item.what {
            What::Put(piece) => {
                self.check_room(commit, &piece)?;
                self.stage_piece(commit, group, results, number, item.id, piece, current, None)
            }
            What::Move(piece, trashed) => match current {
                Some(now) if same(&now) && now.trashed == trashed.is_some() => {
                    self.stage_piece(commit, group, results, number, item.id, piece, Some(now), Some(trashed))
                }
                _ => Ok(Done::Skipped),
            },
            What::Delete => match current {
                Some(now) if !now.trashed => {
                    let time = self.env.clock.wall();
                    self.stage_mark(commit, group, results, number, item.id, RecordKind::Delete, now, time)
                }
                _ => Ok(Done::Skipped),
            },
            What::Undelete => match current {
                Some(now) if now.trashed => {
                    let time = self.env.clock.wall();
                    self.stage_mark(commit, group, results, number, item.id, RecordKind::Undelete, now, time)
                }
                _ => Ok(Done::Skipped),
            },
            What::Purge => match current {
                Some(now) if now.trashed && same(&now) => {
                    let time = self.env.clock.wall();
                    self.stage_mark(commit, group, results, number, item.id, RecordKind::Purge, now, time)
                }
                _ => Ok(Done::Skipped),
            },
            What::Keep(..) => Ok(Done::Skipped),
        }
    }

    /// A kept `Delete` or `Undelete` must still be true; a `Purge` always is.
    #[expect(clippy::too_many_arguments, reason = "the committer's state and one item")]
    fn stage_keep(
        &self,
        commit: &mut Commit,
        group: &mut Group,
        results: &mut [Result<Vec<Done>, Error>],
        number: usize,
        item: &Item,
        kind: RecordKind,
        time: Wall,
    ) -> Result<Done, Error> {
        let Some(found) = item.found else { return Ok(Done::Skipped) };
        let trashed = self.is_current(&item.id, found.target.loc);
        let holds = match kind {
            RecordKind::Delete => trashed == Some(true),
            RecordKind::Undelete => trashed == Some(false),
            _ => trashed.is_none(),
        };
        if !holds {
            return Ok(Done::Skipped);
        }
        let record = self.mark_record(item.id, kind, found.target, time);
        self.push(commit, group, results, number, Stream::Moved, record, Vec::new(), None, None)?;
        Ok(Done::Written)
    }

    fn mark_record(&self, id: PieceId, kind: RecordKind, target: Target, time: Wall) -> Record {
        Record {
            kind,
            trashed: false,
            id,
            life: 0,
            seq: 0,
            group: 0,
            header_len: 0,
            body_len: 0,
            cell_bytes: 0,
            target: Some(target),
            extent: None,
            expiry: None,
            time,
            meta_crc: codec::crc64(&[]),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the committer's state and one item")]
    fn stage_mark(
        &self,
        commit: &mut Commit,
        group: &mut Group,
        results: &mut [Result<Vec<Done>, Error>],
        number: usize,
        id: PieceId,
        kind: RecordKind,
        now: Current,
        time: Wall,
    ) -> Result<Done, Error> {
        let record = self.mark_record(id, kind, now.found.target, time);
        let frees = if kind == RecordKind::Purge { now.found.extent } else { None };
        self.push(commit, group, results, number, Stream::Fresh, record, Vec::new(), frees, None)?;
        Ok(Done::Written)
    }

    /// `moved` is set for cleaning's copies, with the time in the trash of one that is there.
    #[expect(clippy::too_many_arguments, reason = "the committer's state and one item")]
    fn stage_piece(
        &self,
        commit: &mut Commit,
        group: &mut Group,
        results: &mut [Result<Vec<Done>, Error>],
        number: usize,
        id: PieceId,
        piece: Piece,
        current: Option<Current>,
        moved: Option<Option<Wall>>,
    ) -> Result<Done, Error> {
        let trashed_at = moved.flatten();
        let stream = match (piece.expiry, moved) {
            (Some(expiry), _) => Stream::Expiring(self.options.bucket(expiry)),
            (None, Some(_)) => Stream::Moved,
            (None, None) => Stream::Fresh,
        };
        let mut meta = codec::Crc64::default();
        meta.update(&piece.header);
        meta.update(&piece.table);
        let record = Record {
            kind: if piece.extent.is_some() { RecordKind::Large } else { RecordKind::Put },
            trashed: trashed_at.is_some(),
            id,
            life: 0,
            seq: 0,
            group: 0,
            header_len: piece.header.len() as u32,
            body_len: piece.body_len,
            cell_bytes: piece.cell_bytes,
            target: current.map(|current| current.found.target),
            extent: piece.extent,
            // Zero stands for none.
            expiry: piece.expiry.map(|expiry| expiry.max(Wall(1))),
            time: trashed_at.unwrap_or_else(|| self.env.clock.wall()),
            meta_crc: meta.value(),
        };
        let frees = current.and_then(|now| now.found.extent).filter(|extent| Some(*extent) != piece.extent);
        let mut parts = vec![piece.header, piece.table];
        parts.extend(piece.body);
        self.push(commit, group, results, number, stream, record, parts, frees, piece.reservation)?;
        Ok(Done::Written)
    }

    /// Appends a record to the group. `record` lacks what only its place decides.
    #[expect(clippy::too_many_arguments, reason = "the committer's state and one record")]
    fn push(
        &self,
        commit: &mut Commit,
        group: &mut Group,
        results: &mut [Result<Vec<Done>, Error>],
        number: usize,
        stream: Stream,
        mut record: Record,
        parts: Vec<Bytes>,
        frees: Option<Extent>,
        reservation: Option<Arc<Reservation>>,
    ) -> Result<(), Error> {
        let size = u64::from(record.units()) * UNIT_BYTES;
        self.make_room(commit, group, results, stream, size)?;
        commit.uses += 1;
        let uses = commit.uses;
        record.seq = commit.next_seq;
        commit.next_seq += 1;
        let Some(active) = commit.active.get_mut(&stream) else { return Err(Error::Closed) };
        active.used = uses;
        active.count += 1;
        let batch = group.batches.entry(stream).or_default();
        record.life = active.log.life;
        record.group = (active.at / UNIT_BYTES) as u32;
        let unit = ((active.at + batch.bytes) / UNIT_BYTES) as u32;
        let entry = Entry::of(&record, unit);
        let written: usize = HEAD_BYTES + parts.iter().map(Bytes::len).sum::<usize>();
        let pad = size as usize - written;
        batch.parts.push(Bytes::copy_from_slice(&record.encode()));
        batch.parts.extend(parts.into_iter().filter(|part| !part.is_empty()));
        if pad > 0 {
            batch.parts.push(Bytes::from_static(&ZEROS[..pad]));
        }
        batch.bytes += size;
        batch.ops.insert(number);
        group.touched.insert(entry.id);
        group.staged.push(Staged { stream, log: active.log.clone(), entry, frees, reservation });
        Ok(())
    }

    /// Sees to it that the stream has a log with room for `size` more bytes.
    fn make_room(
        &self,
        commit: &mut Commit,
        group: &mut Group,
        results: &mut [Result<Vec<Done>, Error>],
        stream: Stream,
        size: u64,
    ) -> Result<(), Error> {
        let staged = group.batches.get(&stream).map_or(0, |batch| batch.bytes);
        if let Some(active) = commit.active.get(&stream) {
            let end = active.at + staged;
            let is_full = end > LOG_HEAD_BYTES && end + size > self.options.log_bytes;
            let is_long = active.count >= ENTRIES_MAX || commit.next_seq - active.first_seq >= SEQ_SPAN_MAX;
            if !is_full && !is_long {
                return Ok(());
            }
            self.flush(commit, group, results);
            self.check_open()?;
            self.seal(commit, stream)?;
        }
        if commit.active.len() >= ACTIVE_MAX {
            let oldest = commit.active.iter().min_by_key(|(_, active)| active.used).map(|(stream, _)| *stream);
            if let Some(oldest) = oldest {
                self.flush(commit, group, results);
                self.check_open()?;
                self.seal(commit, oldest)?;
            }
        }
        self.create_log(commit, stream)
    }

    fn create_log(&self, commit: &mut Commit, stream: Stream) -> Result<(), Error> {
        let number = commit.next_log;
        let life = u64::from_le_bytes(self.env.random());
        let name = Name::Log(number);
        let create = || {
            let file = self.files.create(name)?;
            let head = LogHead { number, life, stream }.encode();
            let written = file.write_at(&head, 0).and_then(|()| file.sync_data());
            written.map_err(|error| Error::io("write the head of", &self.files.path(name), error))?;
            Ok(file)
        };
        // The number is used up even if this fails: a half-made file may lie there.
        commit.next_log += 1;
        let file = create().map_err(|error| {
            self.write_failed(&error);
            // Nothing is in it; the next open drops it if this fails.
            let _ = self.files.remove(name);
            self.full_or(error)
        })?;
        let log = Arc::new(Log::new(number, life, stream));
        self.add_log(log.clone());
        let active = Active {
            log,
            file,
            at: LOG_HEAD_BYTES,
            ahead: LOG_HEAD_BYTES,
            count: 0,
            used: commit.uses,
            first_seq: commit.next_seq,
        };
        commit.active.insert(stream, active);
        Ok(())
    }

    /// Writes the footer. Without room for it the log stays as it is: the next open scans it.
    fn seal(&self, commit: &mut Commit, stream: Stream) -> Result<(), Error> {
        let Some(active) = commit.active.remove(&stream) else { return Ok(()) };
        match seal_log(&active.log, &*active.file, self.files.path(active.log.name())) {
            Err(error) if error.is_out_of_space() => {
                tracing::warn!(log = %active.log.name(), "no room for a footer");
                Ok(())
            }
            Err(error) => {
                self.write_failed(&error);
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Makes the group durable and lets its records count.
    fn flush(&self, commit: &mut Commit, group: &mut Group, results: &mut [Result<Vec<Done>, Error>]) {
        let Group { batches, staged, .. } = std::mem::take(group);
        let mut failed: BTreeMap<Stream, Error> = BTreeMap::new();
        for one in &staged {
            if let Some(reservation) = &one.reservation {
                reservation.keep(true);
            }
        }
        for (stream, batch) in batches {
            let result = self.check_open().and_then(|()| self.write_batch(commit, stream, &batch));
            if let Err(error) = result {
                for number in batch.ops {
                    results[number] = Err(error.clone());
                }
                failed.insert(stream, error);
            }
        }
        for one in staged {
            match failed.get(&one.stream) {
                None => self.take_effect(one),
                // Cut off again: nothing names the extent.
                Some(error) if error.is_out_of_space() || matches!(error, Error::Full { .. }) => {
                    if let Some(reservation) = &one.reservation {
                        reservation.keep(false);
                    }
                }
                Some(_) => {}
            }
        }
    }

    fn take_effect(&self, one: Staged) {
        let end = (u64::from(one.entry.unit) + u64::from(one.entry.units)) * UNIT_BYTES;
        one.log.end.store(end, Ordering::Release);
        self.apply(&one.log, &one.entry);
        lock(&one.log.entries).push(one.entry);
        if let Some(extent) = one.frees {
            self.extents.give_back(extent);
        }
    }

    fn write_batch(&self, commit: &mut Commit, stream: Stream, batch: &Batch) -> Result<(), Error> {
        let Some(active) = commit.active.get_mut(&stream) else { return Err(Error::Closed) };
        let end = active.at + batch.bytes;
        let mut parts: Vec<&[u8]> = batch.parts.iter().map(|part| &part[..]).collect();
        let mut ahead = active.ahead.max(end);
        if end > active.ahead && batch.bytes < SMALL_GROUP_BYTES {
            ahead = end.next_multiple_of(AHEAD_BYTES).min(self.options.log_bytes.max(end));
            let mut more = ahead - end;
            while more > 0 {
                let now = more.min(ZEROS.len() as u64);
                parts.push(&ZEROS[..now as usize]);
                more -= now;
            }
        }
        let written = active.file.write_parts_at(&parts, active.at).and_then(|()| active.file.sync_data());
        if let Err(error) = written {
            return Err(self.cut_off(active, error));
        }
        commit.since_check += ahead - active.at;
        active.at = end;
        active.ahead = ahead;
        Ok(())
    }

    /// Invariant 3.
    fn cut_off(&self, active: &mut Active, error: std::io::Error) -> Error {
        let path = self.files.path(active.log.name());
        let full = is_out_of_space(&error);
        let error = Error::io("write", &path, error);
        if full && active.file.set_len(active.at).and_then(|()| active.file.sync_data()).is_ok() {
            active.ahead = active.at;
            return self.full_or(error);
        }
        self.fence(crate::State::Failed(error.to_string()));
        error
    }

    /// [`Error::Full`] if the system said that there is no room.
    pub(crate) fn full_or(&self, error: Error) -> Error {
        if !error.is_out_of_space() {
            return error;
        }
        let free = self.refresh_space().map_or(0, |space| space.free);
        Error::Full { free, reserve: self.options.reserve_bytes }
    }

    fn check_room(&self, commit: &mut Commit, piece: &Piece) -> Result<(), Error> {
        // The extent's room was checked when it was reserved.
        let body = if piece.extent.is_some() { 0 } else { u64::from(piece.body_len) };
        let reserve = self.options.reserve_bytes;
        // Once full, it stays so until an eighth of the reserve is free above it.
        let wanted = (if commit.full { reserve + reserve / 8 } else { reserve }).saturating_add(body);
        let mut free = lock(&self.space).free.saturating_sub(commit.since_check);
        let is_stale = !commit.checked || commit.since_check + body > SPACE_CHECK_BYTES;
        if is_stale || free < wanted {
            free = self.refresh_space()?.free;
            commit.since_check = 0;
            commit.checked = true;
        }
        commit.full = free < wanted;
        if commit.full { Err(Error::Full { free, reserve }) } else { Ok(()) }
    }
}

/// Writes the footer after the records and cuts the file there.
pub(crate) fn seal_log(log: &Log, file: &dyn File, path: PathBuf) -> Result<(), Error> {
    log.closed.store(true, Ordering::Release);
    let mut entries = lock(&log.entries);
    let at = log.end.load(Ordering::Acquire);
    log.expiry_max.store(footer::expiry_max(&entries).0, Ordering::Release);
    let bytes = footer::encode(log.life, at, &entries);
    let end = at + bytes.len() as u64;
    let written = file.write_at(&bytes, at).and_then(|()| file.set_len(end)).and_then(|()| file.sync_data());
    written.map_err(|error| Error::io("seal", &path, error))?;
    log.sealed.store(true, Ordering::Release);
    *entries = Vec::new();
    Ok(())
}
