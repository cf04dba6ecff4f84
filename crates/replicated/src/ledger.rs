//! The replica's own log: votes, entries, and where the rows stand.
//!
//! It is a shard of its own beside the rows' shard: the same sealed, mirrored files that are synced
//! before anything is acknowledged, on the same drives, with its own number. A change of the ledger
//! is a batch of it, so that each is whole or not there, and what is forgotten gives its room back
//! by the same cleaning.
//!
//! Invariants:
//! 1. Changes reach the drives in the order in which they were asked for. Whoever is told that one
//!    is durable may take all before it as durable.
//! 2. A vote is durable before anybody hears of it; an entry before it counts for a majority.
//! 3. Entries are forgotten only after the rows that they made, and [`Place`] with them, are durable.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::kv::Batch;
use base::{Epoch, Seq};
use codec::Versioned;
use env::Env;
use futures_util::Stream;
use metastore::{Embedded, ShardStore};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::{mpsc, oneshot};

use crate::Error;
use crate::parts::{EntryRow, Identity, PlaceRow, PurgedRow, VoteRow, entry_bytes};
use crate::types::{Group, LogEntry, LogId, Place, Vote};

/// The ledger of shard S is kept as shard S + this.
pub(crate) const SHARD_BIT: u32 = 0x8000_0000;
/// Bytes of an entry in one row at most; larger ones take several.
const PART_BYTES: usize = 4 * 1024 * 1024;
/// Changes that wait for the drives at most.
const QUEUE_COUNT: usize = 1024;
/// Changes, and bytes of them, that go to the drives in one group at most.
const GROUP_COUNT: usize = 256;
const GROUP_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of entries that are kept in memory.
const CACHE_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of entries in one answer to the library, and so in one message.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// How long to wait for room on a full drive before the next try.
const FULL_RETRY: Duration = Duration::from_millis(500);

const IDENTITY: &[u8] = b"\0identity";
const VOTE: &[u8] = b"\0vote";
const PURGED: &[u8] = b"\0purged";
const PLACE: &[u8] = b"\0place";
const QUARANTINE: &[u8] = b"\0quarantine";
const ENTRY: u8 = 1;

/// The replica's log. Clones are the same.
#[derive(Clone)]
pub(crate) struct Ledger {
    inner: Arc<Inner>,
    queue: mpsc::Sender<Job>,
}

struct Inner {
    env: Env,
    store: Arc<Embedded>,
    memory: Mutex<Memory>,
}

/// What was asked for, durable or not.
#[derive(Default)]
struct Memory {
    vote: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// The newest entries, without gaps up to `last`; what isn't here is durable.
    cache: BTreeMap<u64, (LogEntry, usize)>,
    cache_bytes: usize,
    /// Entries up to this index are durable.
    durable: u64,
    /// Bytes of entries since the last checkpoint.
    since: usize,
    /// No mirror had room when it was last tried.
    is_full: Option<metastore::Error>,
}

enum Done {
    Flushed(IOFlushed<Group>, u64),
    Told(oneshot::Sender<Result<(), metastore::Error>>),
}

struct Job {
    batch: Batch,
    done: Done,
}

/// What a ledger held when it was opened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    pub identity: Option<Identity>,
    pub place: Option<Place>,
    pub quarantine: Option<String>,
}

fn entry_key(index: u64, part: u16) -> Vec<u8> {
    let mut key = vec![ENTRY];
    key.extend_from_slice(&index.to_be_bytes());
    key.extend_from_slice(&part.to_be_bytes());
    key
}

fn index_of(key: &[u8]) -> Result<u64, Error> {
    let index = key.get(1..9).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
    index.ok_or_else(|| damaged("an entry's key is too short"))
}

fn damaged(what: impl std::fmt::Display) -> Error {
    Error::Store(metastore::Error::Damaged { what: format!("the replica's log: {what}") })
}

fn view(error: base::kv::ViewError) -> Error {
    Error::Store(metastore::Error::Io { what: "read the replica's log".into(), kind: error.kind, text: error.text })
}

/// As the library wants its errors.
pub(crate) fn io(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

fn read_row<T: Versioned>(view_of: &dyn metastore::Snapshot, key: &[u8]) -> Result<Option<T>, Error> {
    let row = view_of.get(key).map_err(view)?;
    row.map(|bytes| T::decode(&bytes)).transpose().map_err(damaged)
}

impl Ledger {
    /// Takes up what the store holds.
    pub async fn open(env: &Env, store: Arc<Embedded>) -> Result<(Self, Held), Error> {
        let snapshot = store.snapshot()?;
        let (memory, held) = env
            .blocking(move || -> Result<_, Error> {
                let snapshot = &*snapshot;
                let held = Held {
                    identity: read_row(snapshot, IDENTITY)?,
                    place: read_row(snapshot, PLACE)?.map(|PlaceRow(place)| place),
                    quarantine: snapshot.get(QUARANTINE).map_err(view)?.map(|why| String::from_utf8_lossy(&why).into()),
                };
                let purged = read_row(snapshot, PURGED)?.map(|PurgedRow(id)| id);
                let last = snapshot.range(&[ENTRY]..&[ENTRY + 1], 1, true).map_err(view)?;
                let last = match last.first() {
                    Some((key, _)) => {
                        let index = index_of(key)?;
                        read_entries(snapshot, index, index + 1, usize::MAX)?.pop().map(|entry| entry.log_id)
                    }
                    None => None,
                };
                let vote = read_row(snapshot, VOTE)?.map(|VoteRow(vote)| vote);
                let last = last.max(purged);
                let durable = last.map_or(0, |last| last.index);
                Ok((Memory { vote, purged, last, durable, ..Memory::default() }, held))
            })
            .await
            .map_err(metastore::Error::from)??;
        let inner = Arc::new(Inner { env: env.clone(), store, memory: Mutex::new(memory) });
        let (queue, jobs) = mpsc::channel(QUEUE_COUNT);
        env.spawn("replica log", write_loop(Arc::clone(&inner), jobs));
        Ok((Self { inner, queue }, held))
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.inner.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ledger's own store.
    pub fn store(&self) -> &Arc<Embedded> {
        &self.inner.store
    }

    /// The last entry, and the vote.
    pub fn ends(&self) -> (Option<LogId>, Option<Vote>) {
        let memory = self.memory();
        (memory.last, memory.vote)
    }

    /// Bytes of entries since this was last asked with `reset`.
    pub fn since(&self, reset: bool) -> usize {
        let mut memory = self.memory();
        if reset { std::mem::take(&mut memory.since) } else { memory.since }
    }

    /// Why nothing can be written, if no mirror has room.
    pub fn full(&self) -> Option<metastore::Error> {
        self.memory().is_full.clone()
    }

    async fn push(&self, batch: Batch, done: Done) -> Result<(), Error> {
        let sent = self.queue.send(Job { batch, done }).await;
        sent.map_err(|_| Error::stopped("its log can't be written"))
    }

    /// Writes and waits until it is durable.
    async fn write(&self, batch: Batch) -> Result<(), Error> {
        let (send, receive) = oneshot::channel();
        self.push(batch, Done::Told(send)).await?;
        let told = receive.await.map_err(|_| Error::stopped("its log can't be written"))?;
        Ok(told?)
    }

    /// Makes the ledger somebody's, at a place.
    pub async fn found(&self, identity: Identity, place: Option<&Place>, vote: Option<Vote>) -> Result<(), Error> {
        let mut batch = Batch::default();
        batch.put(IDENTITY, identity.encode());
        batch.range_dels.push(vec![ENTRY]..vec![ENTRY + 1]);
        if let Some(vote) = vote {
            batch.put(VOTE, VoteRow(vote).encode());
        }
        if let Some(place) = place {
            batch.put(PLACE, PlaceRow(place.clone()).encode());
            if let Some(applied) = place.applied {
                batch.put(PURGED, PurgedRow(applied).encode());
            }
        }
        {
            let mut memory = self.memory();
            let applied = place.and_then(|place| place.applied);
            *memory = Memory { vote: vote.or(memory.vote), purged: applied, last: applied, ..Memory::default() };
            memory.durable = applied.map_or(0, |applied| applied.index);
        }
        self.write(batch).await
    }

    /// Remembers where the rows stand; they are durable that far.
    pub async fn save_place(&self, place: &Place) -> Result<(), Error> {
        let mut batch = Batch::default();
        batch.put(PLACE, PlaceRow(place.clone()).encode());
        self.write(batch).await
    }

    /// Remembers that this copy must not be used.
    pub async fn save_quarantine(&self, why: &str) -> Result<(), Error> {
        let mut batch = Batch::default();
        batch.put(QUARANTINE, why);
        self.write(batch).await
    }

    /// Entries `from..to`, fewer if there are more than `bytes` of them, but one at least.
    pub async fn entries(&self, from: u64, to: u64, bytes: usize) -> Result<Vec<LogEntry>, Error> {
        let (older_to, mut entries) = {
            let memory = self.memory();
            let to = to.min(memory.last.map_or(0, |last| last.index + 1));
            if from >= to {
                return Ok(Vec::new());
            }
            let first = memory.cache.keys().next().copied().unwrap_or(to);
            let mut left = bytes;
            let mut cached = Vec::new();
            if first <= from {
                for (_, (entry, size)) in memory.cache.range(from..to) {
                    if *size > left && !cached.is_empty() {
                        break;
                    }
                    left = left.saturating_sub(*size);
                    cached.push(entry.clone());
                }
            }
            (first.min(to), cached)
        };
        if entries.is_empty() {
            let snapshot = self.inner.store.snapshot()?;
            let read = move || read_entries(&*snapshot, from, older_to, bytes);
            entries = self.inner.env.blocking(read).await.map_err(metastore::Error::from)??;
        }
        Ok(entries)
    }
}

/// Entries `from..to` as the drives have them, about `bytes` of them, but one at least.
fn read_entries(view_of: &dyn metastore::Snapshot, from: u64, to: u64, bytes: usize) -> Result<Vec<LogEntry>, Error> {
    let mut entries = Vec::new();
    let mut left = bytes;
    for index in from..to {
        // An entry has few parts, most have one.
        let rows = view_of.range(&entry_key(index, 0)..&entry_key(index, u16::MAX), usize::MAX, false).map_err(view)?;
        let bytes: Vec<u8> = rows.into_iter().flat_map(|(_, part)| part).collect();
        if bytes.is_empty() {
            return Err(damaged(format!("entry {index} is missing")));
        }
        if bytes.len() > left && !entries.is_empty() {
            break;
        }
        left = left.saturating_sub(bytes.len());
        let EntryRow(entry) = EntryRow::decode(&bytes).map_err(damaged)?;
        if entry.log_id.index != index {
            return Err(damaged(format!("entry {} lies at {index}", entry.log_id.index)));
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Waits for a first change, then takes what came meanwhile, and makes it durable with one sync.
async fn write_loop(inner: Arc<Inner>, mut jobs: mpsc::Receiver<Job>) {
    let (epoch, mut head) = inner.store.position();
    while let Some(first) = jobs.recv().await {
        let mut bytes = first.batch.size();
        let mut group = vec![first];
        while group.len() < GROUP_COUNT && bytes < GROUP_BYTES {
            let Ok(job) = jobs.try_recv() else { break };
            bytes += job.batch.size();
            group.push(job);
        }
        let (batches, done): (Vec<Batch>, Vec<Done>) = group.into_iter().map(|job| (job.batch, job.done)).unzip();
        match inner.commit(epoch, head, batches).await {
            Ok(seq) => {
                head = seq;
                done.into_iter().for_each(|done| inner.tell(done));
            }
            Err(error) => {
                tracing::error!(%error, "failed to write a replica's log: it stops");
                for done in done {
                    match done {
                        Done::Flushed(flushed, _) => flushed.io_completed(Err(io(error.clone()))),
                        // Who asked may have gone.
                        Done::Told(send) => _ = send.send(Err(error.clone())),
                    }
                }
                return;
            }
        }
    }
}

impl Inner {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the drives are full: the others go on without this one meanwhile.
    async fn commit(&self, epoch: Epoch, head: Seq, batches: Vec<Batch>) -> Result<Seq, metastore::Error> {
        loop {
            match self.store.commit(epoch, head, batches.clone()).await {
                Err(error @ metastore::Error::Full { .. }) => {
                    self.memory().is_full = Some(error);
                    self.env.clock.sleep(FULL_RETRY).await;
                }
                other => {
                    self.memory().is_full = None;
                    return other;
                }
            }
        }
    }

    fn tell(&self, done: Done) {
        match done {
            Done::Flushed(flushed, last) => {
                let mut memory = self.memory();
                // A truncation may have come after this append.
                memory.durable = last.min(memory.last.map_or(0, |last| last.index));
                memory.shrink();
                drop(memory);
                flushed.io_completed(Ok(()));
            }
            // Who asked may have gone.
            Done::Told(send) => _ = send.send(Ok(())),
        }
    }
}

impl Memory {
    fn add(&mut self, entry: LogEntry) {
        let size = entry_bytes(&entry);
        self.last = Some(entry.log_id);
        self.cache_bytes += size;
        self.since += size;
        self.cache.insert(entry.log_id.index, (entry, size));
    }

    /// Lets go of old entries that are durable.
    fn shrink(&mut self) {
        while self.cache_bytes > CACHE_BYTES {
            let Some(first) = self.cache.first_entry().filter(|first| *first.key() <= self.durable) else { return };
            self.cache_bytes -= first.remove().1;
        }
    }

    /// Lets go of entries outside.
    fn keep(&mut self, indices: impl RangeBounds<u64>) {
        self.cache.retain(|index, _| indices.contains(index));
        self.cache_bytes = self.cache.values().map(|(_, size)| size).sum();
    }
}

fn bounds(range: impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<Group> for Ledger {
    async fn try_get_log_entries<R>(&mut self, range: R) -> Result<Vec<LogEntry>, io::Error>
    where
        R: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (from, to) = bounds(range);
        let mut entries = Vec::new();
        let mut next = from;
        while next < to {
            let more = self.entries(next, to, ANSWER_BYTES).await.map_err(io)?;
            let Some(last) = more.last() else { break };
            next = last.log_id.index + 1;
            entries.extend(more);
        }
        Ok(entries)
    }

    async fn entries_stream<R>(&mut self, range: R) -> impl Stream<Item = Result<LogEntry, io::Error>> + Send
    where
        R: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (from, to) = bounds(range);
        let ledger = self.clone();
        // A few at a time: after a restart there may be more than memory should hold.
        let chunks = futures_util::stream::unfold(from, move |next| {
            let ledger = ledger.clone();
            async move {
                if next >= to {
                    return None;
                }
                match ledger.entries(next, to, ANSWER_BYTES).await {
                    Ok(entries) => {
                        let next = entries.last()?.log_id.index + 1;
                        Some((entries.into_iter().map(Ok).collect::<Vec<_>>(), next))
                    }
                    Err(error) => Some((vec![Err(io(error))], to)),
                }
            }
        });
        Box::pin(futures_util::StreamExt::flat_map(chunks, futures_util::stream::iter))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.memory().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<LogEntry>, io::Error> {
        self.entries(start, end, ANSWER_BYTES).await.map_err(io)
    }
}

impl RaftLogStorage<Group> for Ledger {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Group>, io::Error> {
        let memory = self.memory();
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: memory.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let mut batch = Batch::default();
        batch.put(VOTE, VoteRow(*vote).encode());
        self.write(batch).await.map_err(io)?;
        self.memory().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Group>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        let mut batches = vec![Batch::default()];
        for entry in &entries {
            for (part, bytes) in EntryRow(entry.clone()).encode().chunks(PART_BYTES).enumerate() {
                let is_large = batches.last().is_some_and(|batch| batch.size() + bytes.len() > GROUP_BYTES);
                if is_large {
                    batches.push(Batch::default());
                }
                if let Some(batch) = batches.last_mut() {
                    batch.put(entry_key(entry.log_id.index, part as u16), bytes);
                }
            }
        }
        {
            let mut memory = self.memory();
            entries.into_iter().for_each(|entry| memory.add(entry));
        }
        let last = self.memory().last.map_or(0, |last| last.index);
        let count = batches.len();
        let mut callback = Some(callback);
        for (at, batch) in batches.into_iter().enumerate() {
            // The last part tells of all: they reach the drives in order.
            let done = match if at + 1 == count { callback.take() } else { None } {
                Some(flushed) => Done::Flushed(flushed, last),
                None => Done::Told(oneshot::channel().0),
            };
            self.push(batch, done).await.map_err(io)?;
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |last| last.index + 1);
        {
            let mut memory = self.memory();
            memory.keep(..from);
            memory.last = last.max(memory.purged);
            memory.durable = memory.durable.min(memory.last.map_or(0, |last| last.index));
        }
        let mut batch = Batch::default();
        batch.range_dels.push(entry_key(from, 0)..vec![ENTRY + 1]);
        self.write(batch).await.map_err(io)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let mut batch = Batch::default();
        batch.range_dels.push(entry_key(0, 0)..entry_key(upto.index + 1, 0));
        batch.put(PURGED, PurgedRow(upto).encode());
        {
            let mut memory = self.memory();
            memory.keep(upto.index + 1..);
            memory.purged = Some(upto);
            memory.last = memory.last.max(Some(upto));
            memory.durable = memory.durable.max(upto.index);
        }
        self.write(batch).await.map_err(io)
    }
}
