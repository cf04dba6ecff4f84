//! What every [`ShardStore`] must do. Each function takes a factory and panics where a promise is
//! broken; run them all on every implementation: [`all`].
#![allow(clippy::unwrap_used, reason = "a broken promise is a panic here")]

use std::sync::Arc;

use async_trait::async_trait;
use base::kv::Batch;
use base::{Epoch, Seq};

use crate::Error;
use crate::store::{BATCH_BYTES_MAX, Cursor, CursorPart, Entry, ShardStore};

/// Makes stores of one implementation.
#[async_trait]
pub trait Factory: Send + Sync {
    /// An empty shard with the number 7.
    async fn fresh(&self) -> Arc<dyn ShardStore>;

    /// A new owner of the same shard. The handle of the old one is given so that it can be closed;
    /// the caller may have kept another one.
    async fn reopen(&self, old: Arc<dyn ShardStore>) -> Arc<dyn ShardStore>;
}

/// Everything.
pub async fn all(factory: &dyn Factory) {
    commits_have_one_order(factory).await;
    a_batch_is_all_or_nothing(factory).await;
    parts_of_a_batch_come_in_order(factory).await;
    a_wrong_head_changes_nothing(factory).await;
    a_batch_too_large_changes_nothing(factory).await;
    an_older_owner_is_fenced(factory).await;
    a_snapshot_stays_as_it_was(factory).await;
    ranges_go_both_ways(factory).await;
    the_tail_has_no_gaps(factory).await;
    foreign_cursors_are_refused(factory).await;
    reopening_keeps_everything(factory).await;
}

fn batch(number: u32) -> Batch {
    let mut batch = Batch::default();
    batch.put(key(number), value(number)).event(number.to_be_bytes());
    batch
}

fn key(number: u32) -> Vec<u8> {
    [b"row-".as_slice(), &number.to_be_bytes()].concat()
}

/// Small and large ones.
fn value(number: u32) -> Vec<u8> {
    let len = [3, 100, 1023, 1024, 5000, 70_000][number as usize % 6];
    (0..len).map(|at| (at as u32).wrapping_mul(number.wrapping_add(7)) as u8).collect()
}

/// Commits batches `from..to`, a few at a time.
async fn fill(store: &dyn ShardStore, from: u32, to: u32) -> Seq {
    let (epoch, mut head) = store.position();
    let numbers: Vec<u32> = (from..to).collect();
    for group in numbers.chunks(3) {
        head = store.commit(epoch, head, group.iter().map(|number| batch(*number)).collect()).await.unwrap();
    }
    head
}

fn rows(store: &dyn ShardStore) -> Vec<(Vec<u8>, Vec<u8>)> {
    store.snapshot().unwrap().range(&[][..]..&[0xff; 9][..], usize::MAX, false).unwrap()
}

/// The whole journal, `step` entries at a time, each read with the cursor that the last one gave.
fn journal(store: &dyn ShardStore, from: Cursor, step: usize) -> Vec<Entry> {
    let mut cursor = from;
    let mut entries = Vec::new();
    loop {
        let next = store.tail(&cursor, step).unwrap();
        assert!(next.len() <= step, "more entries than asked for");
        let Some(last) = next.last() else { return entries };
        cursor = store.cursor(last.seq);
        entries.extend(next);
    }
}

/// Places are given one after the other, in the order of the commits, and position, snapshot and
/// journal agree on them.
pub async fn commits_have_one_order(factory: &dyn Factory) {
    let store = factory.fresh().await;
    let (epoch, head) = store.position();
    assert_eq!(head, Seq(0), "a fresh shard has a journal");
    assert!(rows(&*store).is_empty());
    let seq = store.commit(epoch, head, vec![batch(1), batch(2), batch(3)]).await.unwrap();
    assert_eq!(seq, Seq(3));
    assert_eq!(store.commit(epoch, seq, Vec::new()).await.unwrap(), seq, "no batch is no entry");
    let mut last = Batch::default();
    last.put(key(1), "newer");
    assert_eq!(store.commit(epoch, seq, vec![last]).await.unwrap(), Seq(4));
    assert_eq!(store.position(), (epoch, Seq(4)));
    assert_eq!(store.snapshot().unwrap().at(), Seq(4));
    assert_eq!(rows(&*store), [(key(1), b"newer".to_vec()), (key(2), value(2)), (key(3), value(3))]);
    let entries = journal(&*store, Cursor::start(), 2);
    assert_eq!(entries.iter().map(|entry| entry.seq.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(entries[1], Entry { seq: Seq(2), batch: batch(2), dropped: Vec::new() });
}

/// A reader sees all of a batch or nothing of it, also while it is being committed.
pub async fn a_batch_is_all_or_nothing(factory: &dyn Factory) {
    let store = factory.fresh().await;
    let (epoch, mut head) = store.position();
    for round in 0..20_u32 {
        let mut wide = Batch::default();
        for at in 0..30 {
            wide.put(key(at), round.to_be_bytes());
        }
        let commit = store.commit(epoch, head, vec![wide]);
        let mut commit = std::pin::pin!(commit);
        // Looks between the steps of the commit.
        head = std::future::poll_fn(|context| {
            let found = rows(&*store);
            assert!(found.is_empty() || found.len() == 30, "a part of a batch is seen");
            assert!(found.windows(2).all(|pair| pair[0].1 == pair[1].1), "a part of a batch is seen");
            commit.as_mut().poll(context)
        })
        .await
        .unwrap();
        assert!(rows(&*store).iter().all(|(_, value)| *value == round.to_be_bytes()));
    }
}

/// Within a batch ranges go first, then keys, then rows are written, the last of a key wins.
pub async fn parts_of_a_batch_come_in_order(factory: &dyn Factory) {
    let store = factory.fresh().await;
    let head = fill(&*store, 0, 10).await;
    let mut mixed = Batch::default();
    mixed.put(key(3), "first").put(key(3), value(4)).put(key(5), "kept").del(key(5)).del(key(8)).del(key(99));
    mixed.range_dels.push(key(2)..key(7));
    mixed.range_dels.push(key(9)..key(9));
    mixed.range_dels.push(key(9)..key(1));
    store.commit(store.position().0, head, vec![mixed]).await.unwrap();
    let left = [(0, value(0)), (1, value(1)), (3, value(4)), (5, b"kept".to_vec()), (7, value(7)), (9, value(9))];
    assert_eq!(rows(&*store), left.map(|(number, value)| (key(number), value)));
    store.checkpoint().await.unwrap();
    assert_eq!(rows(&*store).len(), 6);
}

/// Who expects another end of the journal is told, and nothing happens.
pub async fn a_wrong_head_changes_nothing(factory: &dyn Factory) {
    let store = factory.fresh().await;
    let (epoch, _) = store.position();
    let head = fill(&*store, 0, 4).await;
    for wrong in [Seq(0), Seq(head.0 - 1), Seq(head.0 + 1)] {
        let refused = store.commit(epoch, wrong, vec![batch(9)]).await;
        assert_eq!(refused, Err(Error::Head { expected: wrong, head }));
        assert!(refused.unwrap_err().is_clean());
    }
    assert_eq!(rows(&*store).len(), 4);
    assert_eq!(fill(&*store, 4, 5).await, Seq(5));
}

/// A batch over the limit is refused with the whole call.
pub async fn a_batch_too_large_changes_nothing(factory: &dyn Factory) {
    let store = factory.fresh().await;
    let (epoch, head) = store.position();
    let mut large = Batch::default();
    large.put("large", vec![1; BATCH_BYTES_MAX + 1]);
    let refused = store.commit(epoch, head, vec![batch(1), large]).await;
    assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
    assert_eq!((rows(&*store).len(), store.position().1), (0, head));
    fill(&*store, 0, 2).await;
}

/// Once there is a newer owner the older one's commits fail, also with its epoch forged.
pub async fn an_older_owner_is_fenced(factory: &dyn Factory) {
    let old = factory.fresh().await;
    let head = fill(&*old, 0, 5).await;
    let (old_epoch, _) = old.position();
    let new = factory.reopen(Arc::clone(&old)).await;
    let (epoch, new_head) = new.position();
    assert!(epoch > old_epoch, "a new owner has no newer epoch");
    assert_eq!(new_head, head);
    // An owner on another node may know that node before it knows the epoch.
    let refused = old.commit(old_epoch, head, vec![batch(9)]).await;
    assert!(matches!(refused, Err(Error::Fenced { .. } | Error::Elsewhere { .. })), "{refused:?}");
    assert!(matches!(new.commit(old_epoch, head, vec![batch(9)]).await, Err(Error::Fenced { .. })));
    assert!(matches!(new.commit(Epoch(epoch.0 + 1), head, vec![batch(9)]).await, Err(Error::Fenced { .. })));
    assert_eq!(rows(&*new).len(), 5);
    assert_eq!(fill(&*new, 5, 7).await, Seq(7));
}

/// What comes after a snapshot doesn't show in it, checkpoints included.
pub async fn a_snapshot_stays_as_it_was(factory: &dyn Factory) {
    let store = factory.fresh().await;
    let head = fill(&*store, 0, 12).await;
    let snapshot = store.snapshot().unwrap();
    let before = rows(&*store);
    let mut change = Batch::default();
    change.put(key(0), "changed").del(key(1)).put(key(100), value(5));
    change.range_dels.push(key(4)..key(9));
    store.commit(store.position().0, head, vec![change]).await.unwrap();
    for _ in 0..2 {
        assert_eq!(snapshot.at(), head);
        assert_eq!(snapshot.range(&[][..]..&[0xff; 9][..], usize::MAX, false).unwrap(), before);
        assert_eq!(snapshot.get(&key(1)).unwrap(), Some(value(1)));
        assert_eq!(snapshot.get(&key(100)).unwrap(), None);
        assert_eq!(rows(&*store).len(), 12 - 1 - 5 + 1);
        store.checkpoint().await.unwrap();
    }
}

/// Ranges are half-open, limited, and the same backward.
pub async fn ranges_go_both_ways(factory: &dyn Factory) {
    let store = factory.fresh().await;
    fill(&*store, 0, 20).await;
    store.checkpoint().await.unwrap();
    let head = fill(&*store, 20, 40).await;
    let mut gone = Batch::default();
    (0..40).filter(|number| number % 3 == 0).for_each(|number| _ = gone.del(key(number)));
    store.commit(store.position().0, head, vec![gone]).await.unwrap();
    let all: Vec<u32> = (0..40).filter(|number| number % 3 != 0).collect();
    let snapshot = store.snapshot().unwrap();
    for (from, to) in [(0, 40), (5, 5), (6, 3), (1, 2), (3, 4), (10, 31)] {
        for limit in [0, 1, 2, 7, 100] {
            let mut want: Vec<u32> = all.iter().copied().filter(|number| (from..to).contains(number)).collect();
            for reverse in [false, true] {
                let found = snapshot.range(&key(from)..&key(to), limit, reverse).unwrap();
                let wanted: Vec<_> = want.iter().take(limit).map(|number| (key(*number), value(*number))).collect();
                assert!(found == wanted, "{from}..{to}, at most {limit}, reverse {reverse}");
                want.reverse();
            }
        }
    }
}

/// Whatever cursor one starts from, every entry after it comes once, in order.
pub async fn the_tail_has_no_gaps(factory: &dyn Factory) {
    let mut store = factory.fresh().await;
    let mut made = 0;
    for _ in 0..3 {
        fill(&*store, made, made + 11).await;
        made += 11;
        for from in [0, 1, 5, made - 1, made] {
            for step in [1, 4, 1000] {
                let found: Vec<u64> =
                    journal(&*store, store.cursor(Seq(from.into())), step).iter().map(|entry| entry.seq.0).collect();
                assert_eq!(found, (u64::from(from) + 1..=made.into()).collect::<Vec<_>>(), "{step} at a time");
            }
        }
        store.checkpoint().await.unwrap();
        store = factory.reopen(store).await;
    }
    let events: Vec<_> =
        journal(&*store, Cursor::start(), 5).into_iter().flat_map(|entry| entry.batch.events).collect();
    assert_eq!(events, (0..made).map(|number| number.to_be_bytes().to_vec()).collect::<Vec<_>>());
    assert!(store.tail(&Cursor::start(), 0).unwrap().is_empty());
}

/// A cursor of another incarnation, or from a future that never was, is no place here.
pub async fn foreign_cursors_are_refused(factory: &dyn Factory) {
    let store = factory.fresh().await;
    let head = fill(&*store, 0, 3).await;
    let ahead = store.tail(&store.cursor(Seq(head.0 + 1)), 10);
    assert!(matches!(ahead, Err(Error::ForeignCursor { .. })), "{ahead:?}");
    let own = store.cursor(head).part(7).unwrap();
    let other = Cursor::start().with(CursorPart { generation: own.generation + 1, ..own });
    assert!(matches!(store.tail(&other, 10), Err(Error::ForeignCursor { .. })));
    // Parts of other shards are none of this one's business.
    let elsewhere = store.cursor(Seq(1)).with(CursorPart { shard: 900, generation: 3, seq: Seq(77) });
    assert_eq!(store.tail(&elsewhere, 10).unwrap().len(), 2);
}

/// Rows, places and journal are the same after a new owner came.
pub async fn reopening_keeps_everything(factory: &dyn Factory) {
    let mut store = factory.fresh().await;
    for round in 0..4_u32 {
        fill(&*store, round * 8, round * 8 + 8).await;
        if round % 2 == 1 {
            store.checkpoint().await.unwrap();
        }
        let (head, kept) = (store.position().1, rows(&*store));
        let entries = journal(&*store, Cursor::start(), 9);
        store = factory.reopen(store).await;
        assert_eq!(store.position().1, head);
        assert!(rows(&*store) == kept, "rows changed");
        assert!(journal(&*store, Cursor::start(), 9) == entries, "the journal changed");
    }
    assert_eq!(rows(&*store).len(), 32);
}
