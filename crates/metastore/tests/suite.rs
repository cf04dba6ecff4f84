//! The contract, on every implementation.
#![allow(clippy::unwrap_used)]

use crate::common;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use common::{open_in, small};
use env::Env;
use metastore::suite::{self, Factory};
use metastore::{Embedded, MemoryStore, Options, ShardStore};

/// Makes stores in memory.
#[derive(Default)]
struct InMemory(Mutex<Option<Arc<MemoryStore>>>);

#[async_trait]
impl Factory for InMemory {
    async fn fresh(&self) -> Arc<dyn ShardStore> {
        let store = MemoryStore::new(common::SHARD);
        *self.0.lock().unwrap() = Some(Arc::clone(&store));
        store
    }

    async fn reopen(&self, _old: Arc<dyn ShardStore>) -> Arc<dyn ShardStore> {
        let mut last = self.0.lock().unwrap();
        let store = last.as_ref().unwrap().reopen();
        *last = Some(Arc::clone(&store));
        store
    }
}

#[tokio::test]
async fn the_store_in_memory_keeps_the_contract() {
    suite::all(&InMemory::default()).await;
}

/// Makes stores in directories.
struct OnDrives {
    dir: tempfile::TempDir,
    made: AtomicU32,
    last: Mutex<Option<Arc<Embedded>>>,
    mirrors: &'static [u8],
    options: Options,
}

impl OnDrives {
    fn new(mirrors: &'static [u8], options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, made: AtomicU32::new(0), last: Mutex::default(), mirrors, options }
    }

    async fn open(&self, made: u32) -> Arc<dyn ShardStore> {
        let root = self.dir.path().join(made.to_string());
        let store = open_in(&Env::real(), &root, self.mirrors, None, self.options.clone()).await.unwrap();
        *self.last.lock().unwrap() = Some(Arc::clone(&store));
        store
    }
}

#[async_trait]
impl Factory for OnDrives {
    async fn fresh(&self) -> Arc<dyn ShardStore> {
        let made = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        self.open(made).await
    }

    async fn reopen(&self, _old: Arc<dyn ShardStore>) -> Arc<dyn ShardStore> {
        let last = self.last.lock().unwrap().take().unwrap();
        last.close().await.unwrap();
        self.open(self.made.load(Ordering::Relaxed)).await
    }
}

#[tokio::test]
async fn the_store_on_one_drive_keeps_the_contract() {
    suite::all(&OnDrives::new(&[1], small())).await;
}

#[tokio::test]
async fn the_store_on_three_drives_keeps_the_contract() {
    // Checkpoints come by themselves in the middle of everything.
    let options = Options { checkpoint_bytes: 64 * 1024, layer_bytes: 4096, ..small() };
    suite::all(&OnDrives::new(&[1, 2, 3], options)).await;
}
