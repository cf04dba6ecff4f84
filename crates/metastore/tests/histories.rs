//! Random histories, beside SQLite.
#![allow(clippy::unwrap_used)]

use crate::common;
use base::kv::Batch;
use common::disk::Drives;
use common::{Chance, journal, open_in, random_batch, small};
use metastore::{Options, ShardStore};
use rusqlite::{Connection, params};

/// The same rows, as SQLite keeps them.
struct Oracle(Connection);

impl Oracle {
    fn new() -> Self {
        let sqlite = Connection::open_in_memory().unwrap();
        sqlite.execute_batch("CREATE TABLE rows (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID").unwrap();
        Self(sqlite)
    }

    fn apply(&self, batch: &Batch) {
        for range in &batch.range_dels {
            let mut delete = self.0.prepare_cached("DELETE FROM rows WHERE key >= ? AND key < ?").unwrap();
            delete.execute(params![range.start, range.end]).unwrap();
        }
        for key in &batch.dels {
            self.0.prepare_cached("DELETE FROM rows WHERE key = ?").unwrap().execute(params![key]).unwrap();
        }
        for (key, value) in &batch.puts {
            let mut put = self.0.prepare_cached("INSERT OR REPLACE INTO rows VALUES (?, ?)").unwrap();
            put.execute(params![key, value]).unwrap();
        }
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
        let order = if reverse { "DESC" } else { "ASC" };
        let text = format!("SELECT key, value FROM rows WHERE key >= ? AND key < ? ORDER BY key {order} LIMIT ?");
        let mut select = self.0.prepare_cached(&text).unwrap();
        let limit = i64::try_from(limit).unwrap();
        let rows = select.query_map(params![from, to, limit], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    }
}

fn random_key(chance: &mut Chance) -> Vec<u8> {
    vec![b'a' + chance.below(26) as u8; chance.below(4) as usize]
}

async fn history(seed: u64, steps: usize) {
    eprintln!("seed {seed}");
    let mut chance = Chance(seed);
    let drives = Drives::default();
    let root = std::path::Path::new("/");
    let all: &[u8] = if seed.is_multiple_of(2) { &[1] } else { &[1, 2, 3] };
    // Some histories make their own checkpoints in the middle.
    let busy = Options { checkpoint_bytes: 20_000, layer_bytes: 3000, ..small() };
    let options = if seed.is_multiple_of(3) { busy } else { small() };
    let oracle = Oracle::new();
    let mut store = open_in(&drives.env(seed), root, all, None, options.clone()).await.unwrap();
    let mut number = 0;
    let mut made: Vec<Batch> = Vec::new();
    for step in 0..steps {
        match chance.below(20) {
            0 => _ = store.checkpoint().await.unwrap(),
            1 => _ = store.clean_step(5000).await.unwrap(),
            2 => {
                if chance.below(2) == 0 {
                    store.close().await.unwrap();
                }
                drop(store);
                store = open_in(&drives.env(seed + step as u64), root, all, None, options.clone()).await.unwrap();
            }
            3..10 => {
                let mut group = Vec::new();
                for _ in 0..=chance.below(3) {
                    group.push(random_batch(&mut chance, number));
                    number += 1;
                }
                let (epoch, head) = store.position();
                group.iter().for_each(|batch| oracle.apply(batch));
                made.extend(group.iter().cloned());
                store.commit(epoch, head, group).await.unwrap();
            }
            10..13 => {
                let key = random_key(&mut chance);
                let found = store.snapshot().unwrap().get(&key).unwrap();
                let next = [key.as_slice(), &[0]].concat();
                let wanted = oracle.range(&key, &next, 1, false).pop().map(|(_, value)| value);
                assert!(found == wanted, "seed {seed}, step {step}: get {key:?}");
            }
            _ => {
                let (from, to) = (random_key(&mut chance), random_key(&mut chance));
                let (limit, reverse) = (chance.below(30) as usize, chance.below(2) == 0);
                let found = store.snapshot().unwrap().range(&from..&to, limit, reverse).unwrap();
                let wanted = oracle.range(&from, &to, limit, reverse);
                assert!(found == wanted, "seed {seed}, step {step}: {from:?}..{to:?}, {limit}, reverse {reverse}");
            }
        }
    }
    assert!(common::rows(&*store).into_iter().eq(oracle.range(&[], &[0xff], 1 << 40, false)), "seed {seed}: rows");
    let entries = journal(&*store);
    assert_eq!(entries.len(), made.len(), "seed {seed}: journal");
    for (entry, mut batch) in entries.into_iter().zip(made) {
        for index in &entry.dropped {
            batch.puts[*index as usize].1.clear();
        }
        assert!(entry.batch == batch, "seed {seed}: entry {}", entry.seq);
    }
}

#[tokio::test]
async fn random_histories_give_the_rows_that_sqlite_has() {
    for seed in 0..60 {
        history(seed, 150).await;
    }
}
