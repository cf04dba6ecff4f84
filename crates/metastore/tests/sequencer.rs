//! One order of changes, each on everything before it.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use crate::common;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use base::kv::{Batch, View};
use base::{Epoch, Seq};
use common::{open_in, rows, small};
use env::Env;
use metastore::{Cursor, Entry, Error, MemoryStore, Options, Position, Sequencer, ShardStore, Snapshot};
use tokio::sync::Semaphore;

fn count(view: &dyn View) -> u64 {
    let found = view.get(b"count").unwrap();
    found.map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()))
}

/// Raises the counter by one and gives its old value.
fn raise(view: &dyn View) -> Result<(Batch, u64), Error> {
    let old = count(view);
    let mut batch = Batch::default();
    batch.put("count", (old + 1).to_be_bytes()).put(old.to_be_bytes(), vec![7; 300]);
    Ok((batch, old))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_changes_see_each_other_in_one_order() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::real();
    let options = Options { layer_bytes: 20_000, ..small() };
    let store = open_in(&env, dir.path(), &[1, 2], None, options).await.unwrap();
    let sequencer = Arc::new(Sequencer::new(&env, Arc::clone(&store) as Arc<dyn ShardStore>));
    let mut writers = Vec::new();
    for _ in 0..16 {
        let sequencer = Arc::clone(&sequencer);
        writers.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            for _ in 0..40 {
                let (seq, old) = sequencer.execute(raise).await.unwrap();
                assert_eq!(seq.0, old + 1, "a change was not evaluated at its place");
                assert!(count(&*sequencer.read().unwrap()) > old, "an answered change is not to be read");
                seen.push(old);
            }
            seen
        }));
    }
    let mut seen = Vec::new();
    for writer in writers {
        seen.extend(writer.await.unwrap());
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..640).collect::<Vec<_>>());
    assert_eq!(*sequencer.head().borrow(), Seq(640));
    assert_eq!(rows(&*store).len(), 641);
}

/// A store whose commits wait for a permit, and fail when told.
struct Gate {
    inner: Arc<MemoryStore>,
    permits: Semaphore,
    groups: AtomicUsize,
    fails: AtomicBool,
    is_full: AtomicBool,
}

impl Gate {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new(7),
            permits: Semaphore::new(0),
            groups: AtomicUsize::new(0),
            fails: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
        })
    }
}

#[async_trait]
impl ShardStore for Gate {
    fn position(&self) -> (Epoch, Seq) {
        self.inner.position()
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>, Error> {
        self.inner.snapshot()
    }

    async fn commit(&self, epoch: Epoch, head: Seq, batches: Vec<Batch>) -> Result<Seq, Error> {
        self.permits.acquire().await.unwrap().forget();
        self.groups.fetch_add(1, Ordering::SeqCst);
        if self.fails.load(Ordering::SeqCst) {
            return Err(Error::Broken { why: "told so".into() });
        }
        if self.is_full.swap(false, Ordering::SeqCst) {
            return Err(Error::Full { free: 0, reserve: 1 });
        }
        self.inner.commit(epoch, head, batches).await
    }

    fn tail(&self, from: &Cursor, limit: usize) -> Result<Vec<Entry>, Error> {
        self.inner.tail(from, limit)
    }

    fn cursor(&self, seq: Seq) -> Cursor {
        self.inner.cursor(seq)
    }

    async fn checkpoint(&self) -> Result<Position, Error> {
        self.inner.checkpoint().await
    }
}

/// Starts a change and lets it get as far as it can.
async fn begin<T: Send + 'static>(
    sequencer: &Arc<Sequencer>,
    change: impl FnOnce(&dyn View) -> Result<(Batch, T), Error> + Send + 'static,
) -> tokio::task::JoinHandle<Result<(Seq, T), Error>> {
    let sequencer = Arc::clone(sequencer);
    let task = tokio::spawn(async move { sequencer.execute(change).await });
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    task
}

#[tokio::test]
async fn waiting_changes_share_one_group_and_who_saw_them_waits_too() {
    let gate = Gate::new();
    let sequencer = Arc::new(Sequencer::new(&Env::real(), Arc::clone(&gate) as Arc<dyn ShardStore>));
    let first = begin(&sequencer, raise).await;
    let second = begin(&sequencer, raise).await;
    let third = begin(&sequencer, raise).await;
    let saw = begin(&sequencer, |view| Ok((Batch::default(), count(view)))).await;
    let refused = begin(&sequencer, |view| -> Result<(Batch, ()), Error> {
        assert_eq!(count(view), 3);
        Err(Error::Head { expected: Seq(1), head: Seq(2) })
    })
    .await;
    let elsewhere = begin(&sequencer, |view| Ok((Batch::default(), view.get(b"other").unwrap()))).await;
    assert!(elsewhere.is_finished(), "who saw nothing pending had to wait");
    assert!([first.is_finished(), saw.is_finished(), refused.is_finished()] == [false; 3]);
    assert_eq!(count(&*sequencer.read().unwrap()), 0, "a reader saw what is not durable");
    gate.permits.add_permits(10);
    assert_eq!(first.await.unwrap().unwrap(), (Seq(1), 0));
    assert_eq!(second.await.unwrap().unwrap(), (Seq(2), 1));
    assert_eq!(third.await.unwrap().unwrap(), (Seq(3), 2));
    assert_eq!(saw.await.unwrap().unwrap(), (Seq(3), 3));
    assert!(matches!(refused.await.unwrap(), Err(Error::Head { .. })));
    assert!(gate.groups.load(Ordering::SeqCst) <= 2, "waiting changes were not grouped");
}

#[tokio::test]
async fn a_group_that_changed_nothing_fails_with_all_that_saw_it_and_work_goes_on() {
    let gate = Gate::new();
    let sequencer = Arc::new(Sequencer::new(&Env::real(), Arc::clone(&gate) as Arc<dyn ShardStore>));
    gate.is_full.store(true, Ordering::SeqCst);
    let first = begin(&sequencer, raise).await;
    let second = begin(&sequencer, raise).await;
    let saw = begin(&sequencer, |view| Ok((Batch::default(), count(view)))).await;
    gate.permits.add_permits(1);
    for failed in [first, second, saw] {
        assert!(matches!(failed.await.unwrap(), Err(Error::Full { .. })));
    }
    gate.permits.add_permits(10);
    assert_eq!(sequencer.execute(raise).await.unwrap(), (Seq(1), 0), "what failed was seen");
}

#[tokio::test]
async fn after_a_commit_of_unknown_fate_the_shard_stays_shut() {
    let gate = Gate::new();
    let sequencer = Arc::new(Sequencer::new(&Env::real(), Arc::clone(&gate) as Arc<dyn ShardStore>));
    gate.fails.store(true, Ordering::SeqCst);
    let first = begin(&sequencer, raise).await;
    let second = begin(&sequencer, raise).await;
    gate.permits.add_permits(10);
    assert!(matches!(first.await.unwrap(), Err(Error::Broken { .. })));
    assert!(matches!(second.await.unwrap(), Err(Error::Broken { .. })));
    gate.fails.store(false, Ordering::SeqCst);
    assert!(matches!(sequencer.execute(raise).await, Err(Error::Broken { .. })));
    assert_eq!(gate.inner.position().1, Seq(0));
}

#[tokio::test]
async fn a_range_in_a_change_sees_pending_rows_and_removals() {
    let gate = Gate::new();
    let sequencer = Arc::new(Sequencer::new(&Env::real(), Arc::clone(&gate) as Arc<dyn ShardStore>));
    gate.permits.add_permits(1);
    let fill = |_: &dyn View| {
        let mut batch = Batch::default();
        (0..100_u8).for_each(|at| _ = batch.put([at], [at]));
        Ok::<_, Error>((batch, ()))
    };
    sequencer.execute(fill).await.unwrap();
    let pending = begin(&sequencer, |_| {
        let mut batch = Batch::default();
        batch.range_dels.push(vec![10]..vec![90]);
        batch.del([95]).put([50], "new").put([200], "last");
        Ok((batch, ()))
    })
    .await;
    let look = begin(&sequencer, |view| {
        let keys = |rows: Vec<(Vec<u8>, Vec<u8>)>| rows.into_iter().map(|(key, _)| key[0]).collect::<Vec<_>>();
        let forward = keys(view.range(&[5][..]..&[255][..], 8, false).unwrap());
        let backward = keys(view.range(&[5][..]..&[255][..], 12, true).unwrap());
        Ok((Batch::default(), (forward, backward)))
    })
    .await;
    gate.permits.add_permits(10);
    pending.await.unwrap().unwrap();
    let (_, (forward, backward)) = look.await.unwrap().unwrap();
    assert_eq!(forward, [5, 6, 7, 8, 9, 50, 90, 91]);
    assert_eq!(backward, [200, 99, 98, 97, 96, 94, 93, 92, 91, 90, 50, 9]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_insert_takes_two_layers_of_memory_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::real();
    let layer_bytes = 1 << 20;
    let options = Options { layer_bytes, reserve_bytes: 0, ..Options::default() };
    let store = open_in(&env, dir.path(), &[1], None, options).await.unwrap();
    let (epoch, mut head) = store.position();
    let mut most = 0;
    for group in 0..150_u32 {
        let mut batch = Batch::default();
        for row in 0..400_u32 {
            batch.put((group * 400 + row).wrapping_mul(2_654_435_761).to_be_bytes(), [3; 60]);
        }
        head = store.commit(epoch, head, vec![batch]).await.unwrap();
        most = most.max(store.stats().memory_bytes);
    }
    let group = 400 * 300;
    assert!(most <= 2 * layer_bytes + group, "{most} bytes of rows in memory");
    assert!(store.stats().checkpoint > Seq(0), "no checkpoint was made");
    assert_eq!(rows(&*store).len(), 60_000);
}
