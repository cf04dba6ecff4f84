//! Room is given back, and nothing goes with it that somebody needs.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use crate::common;
use std::collections::BTreeMap;
use std::path::Path;

use base::Seq;
use base::kv::Batch;
use common::{Chance, journal, mirror, open_in, open_when_free, small};
use env::Env;
use metastore::{Cursor, Embedded, Error, Options, ShardStore};

fn log_bytes(root: &Path, number: u8) -> u64 {
    let entries = std::fs::read_dir(mirror(root, number).dir).unwrap().map(Result::unwrap);
    let logs = entries.filter(|entry| entry.file_name().to_str().unwrap().starts_with("log-"));
    logs.map(|entry| entry.metadata().unwrap().len()).sum()
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Writes `count` rows drawn from `keys`, mostly large.
async fn churn(store: &Embedded, chance: &mut Chance, model: &mut Model, keys: u64, count: usize) {
    let (epoch, mut head) = store.position();
    for _ in 0..count {
        let mut batch = Batch::default();
        let key = chance.below(keys).to_be_bytes().to_vec();
        let len = if chance.below(4) == 0 { 20 } else { 2000 };
        let value = chance.bytes(len);
        if chance.below(8) == 0 {
            batch.del(key.clone());
            model.remove(&key);
        } else {
            batch.put(key.clone(), value.clone());
            model.insert(key, value);
        }
        head = store.commit(epoch, head, vec![batch]).await.unwrap();
    }
}

fn check(store: &Embedded, model: &Model) {
    let rows = store.snapshot().unwrap().range(&[][..]..&[0xff; 9][..], usize::MAX, false).unwrap();
    assert!(rows.into_iter().eq(model.clone()), "rows differ");
}

/// Following the journal to its end gives the rows, whatever was cleaned.
fn check_journal(store: &Embedded, model: &Model) {
    let mut rows = Model::new();
    for (at, entry) in journal(store).into_iter().enumerate() {
        assert_eq!(entry.seq, Seq(at as u64 + 1));
        entry.batch.dels.iter().for_each(|key| _ = rows.remove(key));
        rows.extend(entry.batch.puts);
    }
    assert!(rows == *model, "the journal doesn't lead to the rows");
}

async fn clean(store: &Embedded) -> u64 {
    let mut freed = 0;
    loop {
        let step = store.clean_step(10_000).await.unwrap();
        freed += step.freed_bytes;
        if step.is_done {
            return freed;
        }
    }
}

#[tokio::test]
async fn room_of_dead_values_is_given_back_and_the_journal_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut chance = Chance(1);
    let mut model = Model::new();
    let mut store = open_in(&Env::real(), dir.path(), &[1, 2], None, small()).await.unwrap();
    for round in 0..6 {
        churn(&store, &mut chance, &mut model, 40, 120).await;
        store.checkpoint().await.unwrap();
        let before = log_bytes(dir.path(), 1);
        let freed = clean(&store).await;
        let after = log_bytes(dir.path(), 1);
        assert!(freed > 50_000, "only {freed} bytes were given back in round {round}");
        // Values that were moved were written again.
        assert!(after < before && before - after <= freed, "{before} {after} {freed}");
        assert_eq!(after, log_bytes(dir.path(), 2));
        check(&store, &model);
        check_journal(&store, &model);
        if round % 2 == 0 {
            drop(store);
        } else {
            store.close().await.unwrap();
        }
        store = open_when_free(&Env::real(), dir.path(), &[1, 2], small()).await;
        check(&store, &model);
        check_journal(&store, &model);
    }
    let live: usize = model.values().map(Vec::len).sum();
    let all = log_bytes(dir.path(), 1);
    assert!(all < 4 * live as u64 + 200_000, "{all} bytes of log for {live} of rows");
    // The log alone has it all.
    store.close().await.unwrap();
    for number in [1, 2] {
        std::fs::remove_file(mirror(dir.path(), number).dir.join("map")).unwrap();
    }
    let store = open_in(&Env::real(), dir.path(), &[1, 2], None, small()).await.unwrap();
    check(&store, &model);
    check_journal(&store, &model);
}

#[tokio::test]
async fn a_snapshot_keeps_its_values_until_it_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let mut chance = Chance(2);
    let mut model = Model::new();
    let store = open_in(&Env::real(), dir.path(), &[1], None, small()).await.unwrap();
    churn(&store, &mut chance, &mut model, 40, 100).await;
    store.checkpoint().await.unwrap();
    let (snapshot, old) = (store.snapshot().unwrap(), model.clone());
    churn(&store, &mut chance, &mut model, 40, 300).await;
    store.checkpoint().await.unwrap();
    clean(&store).await;
    let rows = snapshot.range(&[][..]..&[0xff; 9][..], usize::MAX, false).unwrap();
    assert!(rows.into_iter().eq(old), "a snapshot changed");
    drop(snapshot);
    assert!(clean(&store).await > 50_000);
    check(&store, &model);
    // A new mirror gets the shrunk files as they are.
    store.add_mirror(mirror(dir.path(), 2)).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(log_bytes(dir.path(), 1), log_bytes(dir.path(), 2));
    std::fs::remove_dir_all(dir.path().join("d1")).unwrap();
    let store = open_in(&Env::real(), dir.path(), &[2], None, small()).await.unwrap();
    check(&store, &model);
    check_journal(&store, &model);
}

#[tokio::test]
async fn a_journal_that_nobody_needs_is_cut_at_its_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let mut chance = Chance(3);
    let mut model = Model::new();
    let options = Options { retain_entries: Some(50), ..small() };
    let mut store = open_in(&Env::real(), dir.path(), &[1, 2], None, options.clone()).await.unwrap();
    for _ in 0..4 {
        churn(&store, &mut chance, &mut model, 10, 200).await;
        store.checkpoint().await.unwrap();
        clean(&store).await;
        check(&store, &model);
        let trimmed = store.tail(&Cursor::start(), 10);
        let Err(Error::Trimmed { oldest }) = trimmed else { panic!("{trimmed:?}") };
        let head = store.position().1;
        assert!(oldest.0 + 50 <= head.0, "{oldest} of {head}");
        let entries = store.tail(&store.cursor(oldest), 1000).unwrap();
        assert_eq!(entries.first().unwrap().seq.0, oldest.0 + 1);
        assert_eq!(entries.last().unwrap().seq, head);
        store.close().await.unwrap();
        store = open_in(&Env::real(), dir.path(), &[1, 2], None, options.clone()).await.unwrap();
        check(&store, &model);
    }
    assert!(log_bytes(dir.path(), 1) < 300_000);
}
