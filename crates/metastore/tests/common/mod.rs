//! What the tests of the embedded store share.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use base::DriveId;
use crypt::MetaKey;
use env::Env;
use metastore::{Cursor, Embedded, Entry, Error, MemberSet, Mirror, Options, ShardStore};

/// A shard of this number is what all tests make.
pub const SHARD: u32 = 7;

pub fn drive(number: u8) -> DriveId {
    DriveId([number; 16])
}

pub fn mirror(root: &Path, number: u8) -> Mirror {
    Mirror { drive: drive(number), dir: root.join(format!("d{number}/meta/{SHARD}")) }
}

pub fn key() -> MetaKey {
    MetaKey::new([9; 32])
}

/// Options under which a little data makes files roll and checkpoints come.
pub fn small() -> Options {
    Options {
        value_bytes_min: 256,
        file_bytes: 32 * 1024,
        checkpoint_bytes: 1 << 40,
        layer_bytes: 1 << 40,
        cache_bytes: 1024 * 1024,
        reserve_bytes: 0,
        ..Options::default()
    }
}

pub async fn open_in(
    env: &Env,
    root: &Path,
    numbers: &[u8],
    expected: Option<MemberSet>,
    options: Options,
) -> Result<Arc<Embedded>, Error> {
    let mirrors = numbers.iter().map(|number| mirror(root, *number)).collect();
    Embedded::open(env, SHARD, mirrors, &key(), expected, options).await
}

/// As [`open_in`], once an owner that was dropped in the middle of something has let go.
pub async fn open_when_free(env: &Env, root: &Path, numbers: &[u8], options: Options) -> Arc<Embedded> {
    let began = env.clock.now();
    loop {
        match open_in(env, root, numbers, None, options.clone()).await {
            Err(Error::Locked { .. }) if env.clock.now().since(began).as_secs() < 20 => tokio::task::yield_now().await,
            other => return other.unwrap(),
        }
    }
}

/// The whole journal.
pub fn journal(store: &dyn ShardStore) -> Vec<Entry> {
    let mut cursor = Cursor::start();
    let mut entries = Vec::new();
    loop {
        let next = store.tail(&cursor, 100).unwrap();
        let Some(last) = next.last() else { return entries };
        cursor = store.cursor(last.seq);
        entries.extend(next);
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): chance from a seed.
#[derive(Clone, Debug)]
pub struct Chance(pub u64);

impl Chance {
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.word() % bound
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend(self.word().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

pub mod disk;

/// Rows as they should be.
pub type Rows = std::collections::BTreeMap<Vec<u8>, Vec<u8>>;

/// What a batch does to rows, by the words of its definition.
pub fn apply(rows: &mut Rows, batch: &base::kv::Batch) {
    for range in &batch.range_dels {
        rows.retain(|key, _| !range.contains(key));
    }
    batch.dels.iter().for_each(|key| _ = rows.remove(key));
    rows.extend(batch.puts.iter().cloned());
}

/// A batch of a few changes on few keys; its event is its number.
pub fn random_batch(chance: &mut Chance, number: u64) -> base::kv::Batch {
    let mut batch = base::kv::Batch::default();
    let key = |chance: &mut Chance| vec![b'a' + chance.below(24) as u8; 1 + chance.below(3) as usize];
    for _ in 0..=chance.below(4) {
        let key_of = key(chance);
        match chance.below(10) {
            0 => _ = batch.del(key_of),
            1 => {
                let to = vec![key_of[0] + chance.below(3) as u8 + 1];
                batch.range_dels.push(key_of..to);
            }
            2..6 => {
                let len = 300 + chance.below(1500) as usize;
                let value = chance.bytes(len);
                batch.put(key_of, value);
            }
            _ => {
                let len = chance.below(40) as usize;
                let value = chance.bytes(len);
                batch.put(key_of, value);
            }
        }
    }
    batch.event(number.to_be_bytes());
    batch
}

/// All rows.
pub fn rows(store: &dyn ShardStore) -> Rows {
    store.snapshot().unwrap().range(&[][..]..&[0xff; 9][..], usize::MAX, false).unwrap().into_iter().collect()
}
