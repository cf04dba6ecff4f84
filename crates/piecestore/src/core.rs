//! The state that all parts of a store share, and what a record does to it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use base::{PieceId, Wall};
use env::{Env, File, Space};

use crate::commit::Commit;
use crate::error::Error;
use crate::extents::Extents;
use crate::files::{Files, Name};
use crate::footer::{self, Entry};
use crate::index::{Hash, Index};
use crate::record::{Extent, LOG_HEAD_BYTES, Loc, RecordKind, Stream, Target, UNIT_BYTES};
use crate::{Options, State, lock};

/// A log as the store knows it.
pub(crate) struct Log {
    pub number: u32,
    pub life: u64,
    pub stream: Stream,
    /// Where the records end: nothing is read beyond.
    pub end: AtomicU64,
    /// Bytes of records that are pieces' current ones.
    pub live: AtomicU64,
    /// Bytes of records that speak of another log's records, by that log: they matter as long as
    /// it exists, and count as live, or cleaning would copy them round and round.
    pub speaks: Mutex<BTreeMap<u32, u64>>,
    /// Whether it has its footer.
    pub sealed: AtomicBool,
    /// Whether it takes no more records, sealed or not.
    pub closed: AtomicBool,
    /// Whether cleaning found damage in it that keeps it from being cleaned.
    pub held: AtomicBool,
    /// The latest expiry of its pieces; zero if one has none. Known once it is closed.
    pub expiry_max: AtomicU64,
    /// What its records say, as long as it has no footer.
    pub entries: Mutex<Vec<Entry>>,
}

impl Log {
    pub fn new(number: u32, life: u64, stream: Stream) -> Self {
        Self {
            number,
            life,
            stream,
            end: AtomicU64::new(LOG_HEAD_BYTES),
            live: AtomicU64::new(0),
            speaks: Mutex::default(),
            sealed: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            held: AtomicBool::new(false),
            expiry_max: AtomicU64::new(0),
            entries: Mutex::default(),
        }
    }

    pub fn name(&self) -> Name {
        Name::Log(self.number)
    }

    /// Bytes of its records.
    pub fn bytes(&self) -> u64 {
        self.end.load(Ordering::Acquire) - LOG_HEAD_BYTES
    }

    /// Bytes that cleaning would have to copy, in percent.
    pub fn share(&self) -> u64 {
        let speaks: u64 = lock(&self.speaks).values().sum();
        (self.live.load(Ordering::Acquire) + speaks) * 100 / self.bytes().max(1)
    }

    pub fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

/// How many pieces, how many bytes with all that they take on the drive.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub pieces: u64,
    pub live_bytes: u64,
    pub trash_pieces: u64,
    pub trash_bytes: u64,
}

impl Tally {
    fn add(&mut self, trashed: bool, bytes: u64) {
        let (pieces, sum) = self.of(trashed);
        *pieces += 1;
        *sum += bytes;
    }

    fn sub(&mut self, trashed: bool, bytes: u64) {
        let (pieces, sum) = self.of(trashed);
        *pieces = pieces.saturating_sub(1);
        *sum = sum.saturating_sub(bytes);
    }

    fn of(&mut self, trashed: bool) -> (&mut u64, &mut u64) {
        if trashed { (&mut self.trash_pieces, &mut self.trash_bytes) } else { (&mut self.pieces, &mut self.live_bytes) }
    }
}

/// What lies in the trash, oldest first.
#[derive(Default)]
pub(crate) struct Trash {
    pub queue: VecDeque<(u64, Loc)>,
    /// Queued places that came back: so many of their turns don't count.
    pub voided: BTreeMap<Loc, u32>,
}

impl Trash {
    fn push(&mut self, time: Wall, loc: Loc) {
        // The calendar may jump back; the queue stays in order, and a piece stays longer.
        let latest = self.queue.back().map_or(0, |(at, _)| *at);
        self.queue.push_back((time.0.max(latest), loc));
    }

    /// The next place whose time in the trash began at or before `until`.
    pub fn pop(&mut self, until: u64) -> Option<Loc> {
        while self.queue.front().is_some_and(|(at, _)| *at <= until) {
            let (_, loc) = self.queue.pop_front()?;
            match self.voided.get_mut(&loc) {
                None => return Some(loc),
                Some(1) => _ = self.voided.remove(&loc),
                Some(turns) => *turns -= 1,
            }
        }
        None
    }
}

/// Everything.
pub(crate) struct Core {
    pub env: Env,
    pub options: Options,
    pub files: Files,
    pub index: Index,
    pub logs: RwLock<BTreeMap<u32, Arc<Log>>>,
    pub extents: Arc<Extents>,
    pub tally: Mutex<Tally>,
    pub trash: Mutex<Trash>,
    pub state: Mutex<State>,
    pub space: Mutex<Space>,
    pub read_errors: AtomicU64,
    /// Logs that couldn't be read, wholly or in part, at open.
    pub lost_logs: AtomicU64,
    pub marker: Arc<dyn File>,
    pub commit: Mutex<Commit>,
    /// Held while an extent file is made, so that two writers don't make two.
    pub new_extents: Mutex<()>,
    /// The footer that was read last: listing, scrubbing and cleaning go through one log at a time.
    pub footers: Mutex<Option<(u32, Arc<Vec<Entry>>)>>,
}

impl Core {
    pub fn log(&self, number: u32) -> Option<Arc<Log>> {
        self.logs.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    /// The first log after `number`.
    pub fn log_after(&self, number: u32) -> Option<Arc<Log>> {
        let logs = self.logs.read().unwrap_or_else(PoisonError::into_inner);
        logs.range(number.checked_add(1)?..).next().map(|(_, log)| log.clone())
    }

    pub fn all_logs(&self) -> Vec<Arc<Log>> {
        self.logs.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn add_log(&self, log: Arc<Log>) {
        self.logs.write().unwrap_or_else(PoisonError::into_inner).insert(log.number, log);
    }

    pub fn forget_log(&self, number: u32) {
        self.logs.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
        for log in self.all_logs() {
            lock(&log.speaks).remove(&number);
        }
        lock(&self.footers).take_if(|(cached, _)| *cached == number);
    }

    /// No writes from here on. The first reason stays.
    pub fn fence(&self, state: State) {
        let mut now = lock(&self.state);
        if *now == State::Ok {
            tracing::error!(dir = %self.files.dir().display(), state = ?state, "piece store fenced");
            *now = state;
        }
    }

    /// Fails if the store takes no writes.
    pub fn check_open(&self) -> Result<(), Error> {
        match &*lock(&self.state) {
            State::Ok => Ok(()),
            State::ReadOnly(reason) | State::Failed(reason) => Err(Error::Fenced { reason: reason.clone() }),
        }
    }

    /// A write failed: fences, unless there was only no room.
    pub fn write_failed(&self, error: &Error) {
        if error.is_out_of_space() {
            return;
        }
        let reason = error.to_string();
        let denied = matches!(error, Error::Io { source, .. } if base::kind::of_io(source) == base::Kind::Denied);
        self.fence(if denied { State::ReadOnly(reason) } else { State::Failed(reason) });
    }

    /// What a durable record does to the index and the sums. Replay at open and commit both end
    /// here, so that they can't disagree.
    pub fn apply(&self, log: &Log, entry: &Entry) {
        let hash = self.index.hash(&entry.id);
        let loc = Loc { log: log.number, unit: entry.unit };
        match entry.kind {
            RecordKind::Put | RecordKind::Large => {
                if let Some(target) = entry.target {
                    self.unlink(hash, target);
                }
                let own = entry.as_target(log.number);
                self.index.insert(hash, loc, entry.trashed);
                log.live.fetch_add(u64::from(own.units) * UNIT_BYTES, Ordering::AcqRel);
                lock(&self.tally).add(entry.trashed, own.bytes());
                if entry.trashed {
                    lock(&self.trash).push(entry.time, loc);
                }
            }
            RecordKind::Delete | RecordKind::Undelete => self.mark(hash, entry),
            RecordKind::Purge => {
                if let Some(target) = entry.target {
                    self.unlink(hash, target);
                }
            }
        }
        if !entry.kind.is_piece() {
            self.note_speaks(log, entry);
        }
    }

    fn note_speaks(&self, log: &Log, entry: &Entry) {
        let Some(target) = entry.target.filter(|target| target.loc.log != log.number) else { return };
        if self.log(target.loc.log).is_some() {
            *lock(&log.speaks).entry(target.loc.log).or_default() += u64::from(entry.units) * UNIT_BYTES;
        }
    }

    fn mark(&self, hash: Hash, entry: &Entry) {
        let trashed = entry.kind == RecordKind::Delete;
        let Some(target) = entry.target else { return };
        if !self.index.set_trashed(hash, target.loc, trashed) {
            return;
        }
        let mut tally = lock(&self.tally);
        tally.sub(!trashed, target.bytes());
        tally.add(trashed, target.bytes());
        drop(tally);
        let mut trash = lock(&self.trash);
        if trashed {
            trash.push(entry.time, target.loc);
        } else {
            *trash.voided.entry(target.loc).or_default() += 1;
        }
    }

    /// The record is no piece's current one any more; whether it was.
    pub fn unlink(&self, hash: Hash, target: Target) -> bool {
        let Some(trashed) = self.index.remove(hash, target.loc) else { return false };
        lock(&self.tally).sub(trashed, target.bytes());
        if let Some(log) = self.log(target.loc.log) {
            let bytes = u64::from(target.units) * UNIT_BYTES;
            let _ = log.live.fetch_update(Ordering::AcqRel, Ordering::Acquire, |live| Some(live.saturating_sub(bytes)));
        }
        true
    }

    /// What a closed log's records say.
    pub fn entries(&self, log: &Log) -> Result<Arc<Vec<Entry>>, Error> {
        if !log.is_sealed() {
            return Ok(Arc::new(lock(&log.entries).clone()));
        }
        if let Some((number, entries)) = &*lock(&self.footers)
            && *number == log.number
        {
            return Ok(entries.clone());
        }
        let entries = Arc::new(self.read_entries(log)?);
        *lock(&self.footers) = Some((log.number, entries.clone()));
        Ok(entries)
    }

    /// At most `max` of the entries from `unit` on.
    pub fn entries_from(&self, log: &Log, unit: u32, max: usize) -> Result<Vec<Entry>, Error> {
        let part = |entries: &[Entry]| {
            let from = entries.partition_point(|entry| entry.unit < unit);
            entries[from..entries.len().min(from.saturating_add(max))].to_vec()
        };
        if !log.is_sealed() {
            return Ok(part(&lock(&log.entries)));
        }
        Ok(part(&self.entries(log)?))
    }

    fn read_entries(&self, log: &Log) -> Result<Vec<Entry>, Error> {
        let file = self.files.get(log.name())?;
        match crate::open::read_footer(&*file, &self.files.path(log.name())) {
            Ok(Some((trailer, bytes))) if trailer.life == log.life => match footer::decode(&trailer, &bytes) {
                Ok(entries) => return Ok(entries),
                Err(error) => tracing::warn!(log = %log.name(), %error, "footer is damaged: the log is scanned"),
            },
            Ok(_) => tracing::warn!(log = %log.name(), "footer is lost: the log is scanned"),
            Err(error) => tracing::warn!(log = %log.name(), %error, "footer can't be read: the log is scanned"),
        }
        let scan = crate::scan::scan(&*file, log.life, log.end.load(Ordering::Acquire), true);
        let is_sound = scan.damaged.is_empty() && scan.unread == 0;
        if !is_sound && !log.held.swap(true, Ordering::AcqRel) {
            self.lost_logs.fetch_add(1, Ordering::AcqRel);
            tracing::error!(log = %log.name(), "footer and records are damaged: pieces may be missing");
        }
        Ok(scan.entries)
    }

    /// Looks how much room there is.
    pub fn refresh_space(&self) -> Result<Space, Error> {
        let dir = self.files.dir();
        let space = self.env.disk.space(dir).map_err(|error| Error::io("ask for the free room of", dir, error))?;
        *lock(&self.space) = space;
        Ok(space)
    }

    /// Gives room back to the file system, then to writers. At most `max` runs.
    pub fn punch(&self, max: usize) -> Result<u64, Error> {
        let mut bytes = 0;
        let mut failed = None;
        for extent in self.extents.to_punch(max) {
            if failed.is_some() {
                self.extents.give_back(extent);
                continue;
            }
            match self.punch_one(extent) {
                Ok(punched) => {
                    self.extents.punched(extent);
                    bytes += punched;
                }
                Err(error) => {
                    self.extents.give_back(extent);
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(bytes), Err)
    }

    fn punch_one(&self, extent: Extent) -> Result<u64, Error> {
        let name = Name::Extents(extent.file);
        let file = self.files.get(name)?;
        let failed = |error| Error::io("give room back in", &self.files.path(name), error);
        let len = file.len().map_err(failed)?;
        let bytes = extent.bytes().min(len.saturating_sub(extent.offset()));
        if bytes > 0 {
            file.punch_hole(extent.offset(), bytes).map_err(failed)?;
        }
        Ok(bytes)
    }

    pub fn is_current(&self, id: &PieceId, loc: Loc) -> Option<bool> {
        self.index.get(self.index.hash(id), loc)
    }
}
