//! A shard on up to three drives of one machine.
//!
//! Every mirror's directory holds `log-…` files (every batch once, sealed, byte-identical on all
//! mirrors), `map` (the rows as the log left them at the last checkpoint), `members` and `lock`.
//!
//! Invariants:
//! 1. A batch is acknowledged once its record is synced on every mirror of the member set. Who has batches elsewhere
//!    as well may [stage](Embedded::stage) them: they are written at once and synced with what comes next, half a second
//!    later at the most. Nothing that outlives them (a map, a file without its old values) is made before.
//! 2. A mirror leaves the set, durably on all that stay, before anything is acknowledged without it.
//!    So every mirror that carries the newest epoch of the set has every acknowledged batch.
//! 3. A place in a log file is written once: each open begins a new file with a new salt.
//! 4. A group of records says up to where everything before it was synced (`durable`). So what doesn't parse is a torn
//!    write if nothing behind it is known to be acknowledged, and damage otherwise.
//! 5. What readers see: the map of one mirror, under it the frozen layer while a checkpoint is
//!    written, under that the active layer. Every layer holds all changes since the map's position.
//! 6. A row's large value lies in the log; the file keeps it until no row and no snapshot points
//!    there.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use async_trait::async_trait;
use base::kv::Batch;
use base::{DriveId, Epoch, Seq};
use crypt::{LogSealer, MetaKey};
use env::{BoxFuture, Env};
use tokio::sync::{Notify, watch};

use crate::Error;
use crate::layer::Layer;
use crate::memory::check_commit;
use crate::record::FileHead;
use crate::store::{Cursor, CursorPart, Entry, Position, ShardStore, Snapshot};

mod apply;
mod checkpoint;
mod clean;
mod commit;
mod map;
mod members;
mod mirrors;
mod open;
mod read;
mod replay;
mod scrub;
mod sector;
mod side;
mod tail;

pub use clean::Cleaned;
pub use members::MemberSet;
pub use scrub::Scrubbed;

use map::MapView;
use side::{Due, Side};

/// One copy of the shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The drive that it lies on.
    pub drive: DriveId,
    /// Its directory, `<drive>/meta/<shard>`; made if missing.
    pub dir: PathBuf,
}

/// Is told every new member set, before anything is acknowledged under it: it should remember the
/// set on every drive there is, within a bounded time.
pub type OnMembers = Arc<dyn Fn(MemberSet) -> BoxFuture<'static, ()> + Send + Sync>;

/// How a shard is kept.
#[derive(Clone)]
pub struct Options {
    /// Values from this size on stay in the log; the map keeps their place.
    pub value_bytes_min: usize,
    /// A log file that has reached this size is followed by a new one.
    pub file_bytes: u64,
    /// Log bytes after which a checkpoint is made: what an open after a crash has to replay.
    pub checkpoint_bytes: u64,
    /// Memory of the rows since the last checkpoint after which one is made.
    pub layer_bytes: usize,
    /// Memory for the pages of each mirror's ordered map.
    pub cache_bytes: usize,
    /// Room that is left free on the drives.
    pub reserve_bytes: u64,
    /// How many entries of the journal are kept for readers; `None` for all.
    pub retain_entries: Option<u64>,
    /// Who is told of new member sets.
    pub on_members: Option<OnMembers>,
    /// The epoch after which the member sets of a shard that is being made are counted: higher than any that drives
    /// could remember of one that was there before, under the same number.
    pub members_after: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            value_bytes_min: 1024,
            file_bytes: 64 * 1024 * 1024,
            checkpoint_bytes: 64 * 1024 * 1024,
            layer_bytes: 32 * 1024 * 1024,
            cache_bytes: 32 * 1024 * 1024,
            reserve_bytes: 16 * 1024 * 1024,
            retain_entries: None,
            on_members: None,
            members_after: 0,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("file_bytes", &self.file_bytes).finish_non_exhaustive()
    }
}

/// A shard on up to three drives of one machine. Dropping it without [`Embedded::close`] loses
/// nothing: the next open replays the log.
pub struct Embedded {
    shared: Arc<Shared>,
}

/// What readers see: see invariant 5.
#[derive(Clone)]
struct Layers {
    active: Arc<Layer>,
    frozen: Option<Arc<Layer>>,
    maps: Vec<Arc<MapView>>,
}

struct Seen {
    head: Seq,
    layers: Arc<Layers>,
}

/// One log file, as far as it is acknowledged.
#[derive(Clone, Copy, Debug)]
struct LogInfo {
    /// The last batch before it.
    after: Seq,
    generation: u32,
    end: u64,
    /// Bytes of large values in it, if they were counted.
    values: Option<u64>,
}

impl LogInfo {
    /// A file as it was found.
    fn found(head: &FileHead, end: u64) -> Self {
        let values = (head.generation > 0).then_some(0);
        Self { after: head.after, generation: head.generation, end, values }
    }
}

/// What only one task at a time does.
#[derive(Default)]
struct Upkeep {
    /// The log file that is being given back.
    victim: Option<clean::Victim>,
}

/// Who may append.
struct Writer {
    head: Seq,
    /// The file that is being written, once there is one.
    current: Option<(u64, Arc<LogSealer>)>,
    /// The last file, and its end.
    file: u64,
    end: u64,
    /// Up to where that file is synced.
    durable: u64,
    /// Up to where zeros were written behind its end.
    ahead: u64,
    /// Log bytes since the last checkpoint was begun.
    since: u64,
    /// When room was last looked for, and how much there was then.
    room: Option<(base::Instant, u64)>,
    broken: Option<Error>,
}

struct Shared {
    env: Env,
    shard: u32,
    generation: u32,
    epoch: Epoch,
    key: MetaKey,
    options: Options,
    writer: tokio::sync::Mutex<Writer>,
    /// Checkpoints, cleaning and new mirrors come one at a time.
    upkeep: tokio::sync::Mutex<Upkeep>,
    seen: RwLock<Seen>,
    sides: RwLock<Arc<Vec<Arc<Side>>>>,
    members: watch::Sender<MemberSet>,
    logs: RwLock<BTreeMap<u64, LogInfo>>,
    /// Where readers of the journal were last: seq → file and offset behind it.
    hints: Mutex<BTreeMap<Seq, (u64, u64)>>,
    /// Snapshots that are held, by how many cleanings had been made when they were taken.
    held: Mutex<BTreeMap<u64, usize>>,
    /// A checkpoint is due, or the store was dropped.
    due: Arc<Notify>,
    /// A checkpoint was made.
    made: Notify,
    gone: std::sync::atomic::AtomicBool,
    /// A mirror is joining.
    joining: std::sync::atomic::AtomicBool,
    /// How often values were moved away from old files.
    cleanings: std::sync::atomic::AtomicU64,
    /// The cleaning that waits for older snapshots to go; 0 for none.
    waits: std::sync::atomic::AtomicU64,
    /// Whoever walks through log files keeps them from being replaced meanwhile.
    files: RwLock<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn sides(&self) -> Arc<Vec<Arc<Side>>> {
        Arc::clone(&self.sides.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn layers(&self) -> (Seq, Arc<Layers>) {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        (seen.head, Arc::clone(&seen.layers))
    }

    /// Runs what must not end half-way beside the caller, who may go.
    async fn detached<T, F>(self: &Arc<Self>, work: impl FnOnce(Arc<Shared>) -> F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let (send, receive) = tokio::sync::oneshot::channel();
        let work = work(Arc::clone(self));
        self.env.spawn("metastore upkeep", async move {
            // Who asked may have gone.
            let _ = send.send(work.await);
        });
        receive.await.unwrap_or_else(|_| Err(env::Cut.into()))
    }

    fn see(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// How much a shard holds, for those who watch it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The journal's end.
    pub head: Seq,
    /// The last batch that every map has: what comes after would be replayed.
    pub checkpoint: Seq,
    /// Memory of the rows that no map has yet, roughly.
    pub memory_bytes: usize,
    /// Bytes of log on each mirror.
    pub log_bytes: u64,
    /// Log files.
    pub log_files: usize,
}

impl Embedded {
    /// The drives that hold every acknowledged change.
    pub fn members(&self) -> MemberSet {
        self.shared.members.borrow().clone()
    }

    /// Changes with every new member set.
    pub fn watch_members(&self) -> watch::Receiver<MemberSet> {
        self.shared.members.subscribe()
    }

    /// How much there is.
    pub fn stats(&self) -> Stats {
        let (head, layers) = self.shared.layers();
        let logs = self.shared.logs.read().unwrap_or_else(PoisonError::into_inner);
        Stats {
            head,
            checkpoint: layers.maps.iter().map(|map| map.applied.seq).min().unwrap_or_default(),
            memory_bytes: layers.stack().iter().map(|layer| layer.bytes()).sum(),
            log_bytes: logs.values().map(|info| info.end).sum(),
            log_files: logs.len(),
        }
    }

    /// As [`ShardStore::tail`]; no further entry is added once there are `bytes` of them.
    ///
    /// # Errors
    /// As [`ShardStore::tail`].
    pub fn tail_bytes(&self, from: &Cursor, limit: usize, bytes: usize) -> Result<Vec<Entry>, Error> {
        tail::tail(&self.shared, from, limit, bytes.min(tail::ANSWER_BYTES_MAX))
    }

    /// Appends entries that another store of the same shard gave from its journal, as they are: the
    /// way to fill a copy. Values that were dropped there are missing here until the entry that
    /// replaces them has come too; until then their rows can't be read.
    ///
    /// # Errors
    /// As [`ShardStore::commit`]; [`Error::Head`] if the first is not the next one here.
    pub async fn follow(&self, entries: Vec<Entry>) -> Result<Seq, Error> {
        let expected = entries.first().map_or(self.position().1, |entry| Seq(entry.seq.0.saturating_sub(1)));
        let in_order = entries.iter().enumerate().all(|(at, entry)| entry.seq.0 == expected.0 + 1 + at as u64);
        if !in_order {
            return Err(Error::bug("entries of a journal that do not follow each other"));
        }
        let (batches, dropped) = entries.into_iter().map(|entry| (entry.batch, entry.dropped)).unzip();
        self.append(self.shared.epoch, expected, batches, dropped, Due::Now).await
    }

    /// As [`ShardStore::commit`], for who has the batches elsewhere too: a crash may take them back, the last first, until
    /// [`Embedded::sync`], a checkpoint, or half a second.
    ///
    /// # Errors
    /// As [`ShardStore::commit`].
    pub async fn stage(&self, epoch: Epoch, expected_head: Seq, batches: Vec<Batch>) -> Result<Seq, Error> {
        self.append(epoch, expected_head, batches, Vec::new(), Due::Soon).await
    }

    /// Makes everything durable that was [staged](Embedded::stage).
    ///
    /// # Errors
    /// If no mirror could be written: reopen the shard.
    pub async fn sync(&self) -> Result<(), Error> {
        let mut writer = self.shared.writer.lock().await;
        if let Some(error) = &writer.broken {
            return Err(error.clone());
        }
        self.shared.sync(&mut writer).await
    }

    /// `dropped` has the puts without a value of each batch, or nothing at all if there are none.
    async fn append(
        &self,
        epoch: Epoch,
        expected_head: Seq,
        batches: Vec<Batch>,
        dropped: Vec<Vec<u32>>,
        due: Due,
    ) -> Result<Seq, Error> {
        let shared = &self.shared;
        shared.wait_for_room_in_memory().await;
        let mut writer = shared.writer.lock().await;
        if let Some(error) = &writer.broken {
            return Err(error.clone());
        }
        check_commit(epoch, shared.epoch, expected_head, writer.head, &batches)?;
        if batches.is_empty() {
            return Ok(writer.head);
        }
        shared.check_space(&mut writer).await?;
        // If this future is dropped half-way nobody knows what was written: that must not go on.
        writer.broken = Some(Error::Broken { why: "it was cut short".into() });
        match shared.commit_group(&mut writer, batches, dropped, due).await {
            Ok(seq) => {
                writer.broken = None;
                Ok(seq)
            }
            Err(error) => {
                writer.broken = Some(Error::Broken { why: error.to_string() });
                Err(error)
            }
        }
    }

    /// The shard's number.
    pub fn shard(&self) -> u32 {
        self.shared.shard
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.shared.gone.store(true, std::sync::atomic::Ordering::Relaxed);
        self.shared.due.notify_one();
    }
}

#[async_trait]
impl ShardStore for Embedded {
    fn position(&self) -> (Epoch, Seq) {
        (self.shared.epoch, self.shared.layers().0)
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>, Error> {
        Ok(Box::new(read::snapshot(&self.shared)))
    }

    async fn commit(&self, epoch: Epoch, expected_head: Seq, batches: Vec<Batch>) -> Result<Seq, Error> {
        self.append(epoch, expected_head, batches, Vec::new(), Due::Now).await
    }

    fn tail(&self, from: &Cursor, limit: usize) -> Result<Vec<Entry>, Error> {
        tail::tail(&self.shared, from, limit, tail::ANSWER_BYTES_MAX)
    }

    fn cursor(&self, seq: Seq) -> Cursor {
        let (shard, generation) = (self.shared.shard, self.shared.generation);
        Cursor::start().with(CursorPart { shard, generation, seq })
    }

    async fn checkpoint(&self) -> Result<Position, Error> {
        self.shared.detached(|shared| async move { shared.checkpoint().await }).await
    }
}
