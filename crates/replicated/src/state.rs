//! What the agreed changes make: the rows, kept by an embedded store of this node.
//!
//! Invariants:
//! 1. The store's journal is a beginning of the group's: only agreed batches reach it, each at its
//!    place. So a copy of any replica's journal is good for every other.
//! 2. Whether a change counts depends on the changes before it alone ([`Place`]), never on how far
//!    the store is: after a restart, or after journal entries were fetched from another replica, the
//!    same log leads through the same places, and batches that are there already are passed over.
//! 3. [`Place`] is saved after the rows up to it are durable, and before its entries are forgotten. Until then the log
//!    has them, so the rows aren't synced for each change: what a crash takes of them is made again.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::kv::Batch;
use base::{Epoch, Kind, Kinded, Seq};
use env::Env;
use futures_util::{Stream, StreamExt};
use metastore::{Embedded, Entry, ShardStore};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use tokio::sync::{mpsc, watch};

use crate::Error;
use crate::digest;
use crate::ledger::{Ledger, io};
use crate::types::{
    Answer, Change, Group, LogEntry, LogId, Manifest, Payload, Place, Snapshot, SnapshotMeta, StoredMembership,
};
use crate::watched;

/// Bytes of batches that go to the store in one group.
const GROUP_BYTES: usize = 4 * 1024 * 1024;
/// How long to wait for room on a full drive before the next try.
const FULL_RETRY: Duration = Duration::from_millis(500);
/// Digests that are remembered, for verdicts that are on their way.
const DIGESTS_MAX: usize = 8;

/// A digest of the rows at a place, as this replica has them.
pub(crate) type Digested = (Seq, [u8; 32]);

/// How far the rows are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The last log entry's index that was applied.
    pub index: u64,
    pub head: Seq,
    pub epoch: Epoch,
}

/// The rows of one replica.
pub(crate) struct State {
    env: Env,
    pub store: Arc<Embedded>,
    ledger: Ledger,
    /// Who changes the store holds it.
    place: tokio::sync::Mutex<Place>,
    seen: watched::Sender<Seen>,
    /// The place from which on all rows have values.
    whole: watch::Sender<Seq>,
    digests: Mutex<Digests>,
    digested: mpsc::Sender<Digested>,
    quarantine: watch::Sender<Option<String>>,
    /// Digests are computed one at a time.
    is_digesting: AtomicBool,
}

#[derive(Default)]
struct Digests {
    own: BTreeMap<Seq, [u8; 32]>,
    verdicts: BTreeMap<Seq, [u8; 32]>,
    /// The last place at which both were the same.
    compared: Seq,
}

impl State {
    pub fn new(
        env: &Env,
        store: Arc<Embedded>,
        ledger: Ledger,
        place: Place,
        quarantine: Option<String>,
    ) -> (Arc<Self>, mpsc::Receiver<Digested>) {
        let (digested, digests) = mpsc::channel(DIGESTS_MAX);
        let seen = Seen { index: place.applied.map_or(0, |id| id.index), head: place.head, epoch: place.epoch };
        let this = Self {
            env: env.clone(),
            store,
            ledger,
            seen: watched::channel(seen).0,
            whole: watch::channel(place.whole).0,
            place: tokio::sync::Mutex::new(place),
            digests: Mutex::default(),
            digested,
            quarantine: watch::channel(quarantine).0,
            is_digesting: AtomicBool::new(false),
        };
        (Arc::new(this), digests)
    }

    /// How far the rows are.
    pub fn seen(&self) -> watched::Receiver<Seen> {
        self.seen.follow()
    }

    /// How far the rows are now.
    pub fn now(&self) -> Seen {
        *self.seen.look()
    }

    /// Why this copy must not be used any more, if so.
    pub fn quarantine(&self) -> watch::Receiver<Option<String>> {
        self.quarantine.subscribe()
    }

    /// Fails if this copy must not be used any more.
    pub fn check_quarantine(&self) -> Result<(), metastore::Error> {
        match &*self.quarantine.borrow() {
            Some(why) => Err(metastore::Error::Unfit { why: why.clone() }),
            None => Ok(()),
        }
    }

    /// Fails unless the rows may be read.
    pub fn check_fit(&self) -> Result<(), metastore::Error> {
        self.check_quarantine()?;
        let (head, whole) = (self.store.position().1, *self.whole.borrow());
        if head < whole {
            let why = format!("it is being filled: {head} of {whole} batches are here");
            return Err(metastore::Error::Unfit { why });
        }
        Ok(())
    }

    /// A cut of the rows with its place.
    pub async fn cut(&self) -> Result<(Place, Box<dyn metastore::Snapshot>), Error> {
        let place = self.place.lock().await;
        self.check_fit()?;
        let snapshot = self.store.snapshot()?;
        if snapshot.at() != place.head {
            let why = format!("it is being filled: {} of {} changes were agreed on here", place.head, snapshot.at());
            return Err(metastore::Error::Unfit { why }.into());
        }
        Ok((place.clone(), snapshot))
    }

    /// The last place at which the rows were found to be those of the majority.
    pub fn compared(&self) -> Seq {
        self.digests().compared
    }

    /// Makes the rows durable by themselves, and remembers how far they are.
    pub async fn checkpoint(&self) -> Result<Place, Error> {
        self.store.checkpoint().await?;
        let place = self.place.lock().await.clone();
        // More came meanwhile.
        self.store.sync().await?;
        self.ledger.save_place(&place).await?;
        Ok(place)
    }

    /// Entries that another replica gave from its journal, which ends at `end`. Gives where it ends
    /// here now.
    pub async fn fill(&self, end: Seq, entries: Vec<Entry>) -> Result<Seq, Error> {
        let mut place = self.place.lock().await;
        let head = self.store.position().1;
        let mut entries = entries;
        entries.retain(|entry| entry.seq > head);
        let Some(first) = entries.first() else { return Ok(head) };
        if first.seq.0 != head.0 + 1 {
            return Err(metastore::Error::Head { expected: Seq(first.seq.0.saturating_sub(1)), head }.into());
        }
        // Remembered before: with rows without values nobody may read until the end is reached.
        if entries.iter().any(|entry| !entry.dropped.is_empty()) && place.whole < end {
            place.whole = end;
            self.store.sync().await?;
            self.ledger.save_place(&place).await?;
            self.whole.send_replace(end);
        }
        loop {
            match self.store.follow(entries.clone()).await {
                Err(metastore::Error::Full { .. }) => self.env.clock.sleep(FULL_RETRY).await,
                other => return Ok(other?),
            }
        }
    }

    fn digests(&self) -> MutexGuard<'_, Digests> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to compute the digest of the rows as they are, if the store is exactly there.
    fn digest(self: &Arc<Self>, at: Seq) {
        if self.store.position().1 != at || self.check_fit().is_err() || self.is_digesting.swap(true, Ordering::SeqCst)
        {
            return;
        }
        let (state, snapshot) = (Arc::clone(self), self.store.snapshot());
        self.env.spawn("replica digest", async move {
            let done = match snapshot {
                Ok(snapshot) => {
                    let rows = state.env.blocking(move || digest::of(&*snapshot)).await;
                    rows.map_err(Error::stopped).and_then(|digest| Ok(digest?))
                }
                Err(error) => Err(error.into()),
            };
            state.is_digesting.store(false, Ordering::SeqCst);
            match done {
                Ok(digest) => state.digested(at, digest).await,
                Err(error) if error.kind() == Kind::Damaged => {
                    state.reject(format!("its rows can't be read: {error}")).await
                }
                Err(error) => tracing::warn!(%error, seq = %at, "failed to compute the digest of a shard's rows"),
            }
        });
    }

    async fn digested(&self, at: Seq, digest: [u8; 32]) {
        {
            let mut digests = self.digests();
            digests.own.insert(at, digest);
            while digests.own.len() > DIGESTS_MAX {
                digests.own.pop_first();
            }
        }
        self.compare(at).await;
        // Who reports may have gone, or be behind: the next digest will do.
        let _ = self.digested.try_send((at, digest));
    }

    /// What most voters have at that place.
    async fn verdict(&self, at: Seq, digest: [u8; 32]) {
        {
            let mut digests = self.digests();
            digests.verdicts.insert(at, digest);
            while digests.verdicts.len() > DIGESTS_MAX {
                digests.verdicts.pop_first();
            }
        }
        self.compare(at).await;
    }

    async fn compare(&self, at: Seq) {
        let same = {
            let mut digests = self.digests();
            let (Some(own), Some(most)) = (digests.own.get(&at), digests.verdicts.get(&at)) else { return };
            let same = own == most;
            if same {
                digests.compared = digests.compared.max(at);
            }
            same
        };
        if !same {
            self.reject(format!("at batch {at} its rows are not those of the majority")).await;
        }
    }

    /// Puts this copy in quarantine, for good.
    async fn reject(&self, why: String) {
        tracing::error!(%why, "a replica is put in quarantine");
        if let Err(error) = self.ledger.save_quarantine(&why).await {
            tracing::error!(%error, "failed to remember the quarantine");
        }
        self.quarantine.send_replace(Some(why));
    }

    /// Fails if the journal has other batches from `first` on than these, as far as it has any: then
    /// something wrote to it that nobody agreed on.
    async fn check_same(&self, first: Seq, batches: &[Batch]) -> Result<(), metastore::Error> {
        let mut at = first;
        let mut rest = batches;
        while !rest.is_empty() {
            let (store, count) = (Arc::clone(&self.store), rest.len());
            let entries = self.env.blocking(move || store.tail(&store.cursor(at), count)).await??;
            if entries.is_empty() {
                break;
            }
            for (entry, batch) in entries.iter().zip(rest) {
                if !is_same(entry, batch) {
                    let what = format!("batch {} of the journal is not the one that was agreed on", entry.seq);
                    self.reject(what.clone()).await;
                    return Err(metastore::Error::Damaged { what });
                }
            }
            rest = rest.get(entries.len()..).unwrap_or_default();
            at = Seq(at.0 + entries.len() as u64);
        }
        Ok(())
    }

    /// Brings the store to `head` with the last batches before it.
    async fn commit(&self, head: Seq, mut batches: Vec<Batch>) -> Result<(), metastore::Error> {
        let (epoch, there) = self.store.position();
        let first = head.0 - batches.len() as u64;
        let missing = head.0.saturating_sub(there.0) as usize;
        if there.0 < first {
            let what = format!("the journal ends at {there}, the log goes on after {first}");
            return Err(metastore::Error::Damaged { what });
        }
        let there_already = batches.len().saturating_sub(missing);
        if there_already > 0 {
            self.check_same(Seq(first), &batches[..there_already]).await?;
        }
        if missing == 0 {
            return Ok(());
        }
        batches.drain(..there_already);
        loop {
            match self.store.stage(epoch, there, batches.clone()).await {
                Err(metastore::Error::Full { .. }) => self.env.clock.sleep(FULL_RETRY).await,
                other => return other.map(|_| ()),
            }
        }
    }
}

/// What a change does to the place; the batches that count.
fn decide(place: &mut Place, change: &Change) -> (Answer, Option<Arc<Vec<Batch>>>) {
    match change {
        Change::Claim => {
            place.epoch = Epoch(place.epoch.0 + 1);
            (Answer::Claimed(place.epoch, place.head), None)
        }
        Change::Commit { epoch, .. } if *epoch != place.epoch => (Answer::Fenced(place.epoch), None),
        Change::Commit { after, .. } if *after != place.head => (Answer::Head(place.head), None),
        Change::Commit { batches, .. } => {
            place.head = Seq(place.head.0 + batches.len() as u64);
            (Answer::Committed(place.head), Some(Arc::clone(batches)))
        }
        Change::Check | Change::Verdict { .. } => (Answer::Done, None),
    }
}

/// Whether a journal's entry is that batch, as far as its values were not dropped.
fn is_same(entry: &Entry, batch: &Batch) -> bool {
    let puts = entry
        .batch
        .puts
        .iter()
        .zip(&batch.puts)
        .enumerate()
        .all(|(at, (found, put))| found.0 == put.0 && (found.1 == put.1 || entry.dropped.contains(&(at as u32))));
    let counts = entry.batch.puts.len() == batch.puts.len();
    let rest = entry.batch.dels == batch.dels
        && entry.batch.range_dels == batch.range_dels
        && entry.batch.events == batch.events;
    counts && puts && rest
}

/// Entries on their way into the store.
#[derive(Default)]
struct Run {
    batches: Vec<Batch>,
    bytes: usize,
    answers: Vec<(openraft::storage::ApplyResponder<Group>, Answer)>,
}

/// The library's view of [`State`].
#[derive(Clone)]
pub(crate) struct Machine(pub Arc<State>);

impl Machine {
    /// Where [`Machine::replay`] would lead. Changes nothing.
    pub async fn foresee(&self, last: Option<LogId>) -> Result<Place, Error> {
        let mut place = self.0.place.lock().await.clone();
        let mut next = place.applied.map_or(0, |id| id.index + 1);
        while let Some(to) = last.map(|last| last.index + 1).filter(|to| next < *to) {
            let entries = self.0.ledger.entries(next, to, GROUP_BYTES).await?;
            let Some(end) = entries.last().map(|entry| entry.log_id.index + 1) else { break };
            for entry in &entries {
                if let Payload::Normal(change) = &entry.payload {
                    decide(&mut place, change);
                }
            }
            next = end;
        }
        Ok(place)
    }

    /// Makes rows of every entry that the log has up to there; gives the place then.
    pub async fn replay(&self, last: Option<LogId>) -> Result<Place, Error> {
        let mut place = self.0.place.lock().await;
        let mut run = Run::default();
        let mut next = place.applied.map_or(0, |id| id.index + 1);
        while let Some(to) = last.map(|last| last.index + 1).filter(|to| next < *to) {
            let entries = self.0.ledger.entries(next, to, GROUP_BYTES).await?;
            let Some(end) = entries.last().map(|entry| entry.log_id.index + 1) else { break };
            for entry in entries {
                self.step(&mut place, &mut run, entry).await?;
            }
            self.flush(&place, &mut run).await?;
            next = end;
        }
        Ok(place.clone())
    }

    async fn step(&self, place: &mut Place, run: &mut Run, entry: LogEntry) -> Result<Answer, metastore::Error> {
        place.applied = Some(entry.log_id);
        let change = match entry.payload {
            Payload::Blank => return Ok(Answer::Done),
            Payload::Membership(members) => {
                place.membership = StoredMembership::new(Some(entry.log_id), members);
                return Ok(Answer::Done);
            }
            Payload::Normal(change) => change,
        };
        let (answer, batches) = decide(place, &change);
        for batch in batches.iter().flat_map(|batches| batches.iter()) {
            run.bytes += metastore::weight(batch);
            run.batches.push(batch.clone());
        }
        match change {
            Change::Check => {
                self.flush(place, run).await?;
                self.0.digest(place.head);
            }
            Change::Verdict { seq, digest } => self.0.verdict(seq, digest).await,
            Change::Claim | Change::Commit { .. } => {}
        }
        Ok(answer)
    }

    async fn flush(&self, place: &Place, run: &mut Run) -> Result<(), metastore::Error> {
        let run = std::mem::take(run);
        if !run.batches.is_empty() {
            self.0.commit(place.head, run.batches).await?;
        }
        let index = place.applied.map_or(0, |id| id.index);
        self.0.seen.set(Seen { index, head: place.head, epoch: place.epoch });
        run.answers.into_iter().for_each(|(responder, answer)| responder.send(answer));
        Ok(())
    }
}

impl RaftStateMachine<Group> for Machine {
    type SnapshotData = Manifest;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let place = self.0.place.lock().await;
        Ok((place.applied, place.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Group>, io::Error>> + Unpin + Send,
    {
        let mut place = self.0.place.lock().await;
        let mut run = Run::default();
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let answer = self.step(&mut place, &mut run, entry).await.map_err(io)?;
            run.answers.extend(responder.map(|responder| (responder, answer)));
            if run.bytes >= GROUP_BYTES {
                self.flush(&place, &mut run).await.map_err(io)?;
            }
        }
        self.flush(&place, &mut run).await.map_err(io)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Manifest) -> Result<(), io::Error> {
        let mut place = self.0.place.lock().await;
        let there = self.0.store.position().1;
        if there < snapshot.head {
            let what = format!("a snapshot at {} was installed on a journal that ends at {there}", snapshot.head);
            return Err(io(metastore::Error::Bug { what }));
        }
        place.applied = meta.last_log_id;
        place.head = snapshot.head;
        place.epoch = snapshot.epoch;
        place.membership = meta.last_membership.clone();
        self.0.store.sync().await.map_err(io)?;
        self.0.ledger.save_place(&place).await.map_err(io)?;
        self.flush(&place, &mut Run::default()).await.map_err(io)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let place = self.0.place.lock().await;
        Ok(place.applied.is_some().then(|| snapshot_at(&place)))
    }
}

fn snapshot_at(place: &Place) -> Snapshot {
    let meta = SnapshotMeta { last_log_id: place.applied, last_membership: place.membership.clone() };
    Snapshot { meta, snapshot: Manifest { head: place.head, epoch: place.epoch } }
}

impl RaftSnapshotBuilder<Group> for Machine {
    type SnapshotData = Manifest;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let place = self.0.checkpoint().await.map_err(io)?;
        Ok(snapshot_at(&place))
    }
}
