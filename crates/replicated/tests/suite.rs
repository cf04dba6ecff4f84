//! The contract of every shard store, on a group of three nodes.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use crate::world;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use metastore::ShardStore;
use metastore::suite::{self, Factory};
use world::{PATIENCE, World, node, run};

/// Makes groups; every new owner is another node.
#[derive(Default)]
struct Groups {
    made: AtomicU64,
    world: tokio::sync::Mutex<Option<World>>,
}

#[async_trait]
impl Factory for Groups {
    async fn fresh(&self) -> Arc<dyn ShardStore> {
        let world = World::with_group(self.made.fetch_add(1, Ordering::Relaxed), &[1, 2, 3]).await;
        let store = world.lead().await;
        *self.world.lock().await = Some(world);
        store
    }

    async fn reopen(&self, _old: Arc<dyn ShardStore>) -> Arc<dyn ShardStore> {
        let world = self.world.lock().await;
        let world = world.as_ref().unwrap();
        let old = world.leader().await;
        let next = old % 3 + 1;
        world.replica(old).transfer(node(next), PATIENCE).await.unwrap();
        world.lead().await
    }
}

#[test]
fn a_group_of_three_keeps_the_contract() {
    run(suite::all(&Groups::default()));
}
