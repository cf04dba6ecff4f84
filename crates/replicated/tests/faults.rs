//! Faults that are planted on purpose: the tests that should catch them do.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use crate::world;
use std::sync::Arc;

use base::kv::Batch;
use bytes::Bytes;
use metastore::ShardStore;
use replicated::Begin;
use world::story::{Reading, Storm};
use world::{PATIENCE, World, journal, run};

fn batch(serial: u32) -> Batch {
    let mut batch = Batch::default();
    batch.put(serial.to_be_bytes(), vec![7; 20]).event(serial.to_be_bytes());
    batch
}

/// Commits a few batches, has something happen to the nodes, and looks for the batches.
async fn acknowledged_after(
    world: &mut World,
    count: u32,
    happens: impl AsyncFnOnce(&mut World) -> Result<(), replicated::Error>,
) -> Result<(), String> {
    let leading = world.lead().await;
    for serial in 0..count {
        let (epoch, head) = leading.position();
        leading.commit(epoch, head, vec![batch(serial)]).await.map_err(|error| error.to_string())?;
    }
    drop(leading);
    happens(world).await.map_err(|error| error.to_string())?;
    let leader = tokio::time::timeout(PATIENCE, world.lead()).await.map_err(|error| error.to_string())?;
    let found: Vec<_> = journal(&*leader).into_iter().flat_map(|entry| entry.batch.events).collect();
    let wanted: Vec<_> = (0..count).map(|serial| serial.to_be_bytes().to_vec()).collect();
    if found == wanted { Ok(()) } else { Err(format!("{} of {count} batches are there", found.len())) }
}

async fn power_cut_everywhere(world: &mut World) -> Result<(), replicated::Error> {
    world.up().into_iter().for_each(|number| world.kill(number));
    for number in [1, 2, 3] {
        world.machines[&number].drives.restart(&mut world.chance);
        world.boot(number, Begin::Existing).await?;
    }
    Ok(())
}

async fn after_power_cut(seed: u64, lies: bool) -> Result<(), String> {
    let mut world = World::with_group(seed, &[1, 2, 3]).await;
    if lies {
        // From a sound beginning on.
        world.lies = true;
        power_cut_everywhere(&mut world).await.map_err(|error| error.to_string())?;
    }
    let caught = tokio::spawn(async move { acknowledged_after(&mut world, 12, power_cut_everywhere).await });
    caught.await.unwrap_or_else(|panic| Err(panic.to_string()))
}

#[test]
fn a_skipped_sync_is_caught() {
    for seed in 0..8 {
        run(after_power_cut(seed, false)).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    }
    let caught = (0..8).filter(|seed| run(after_power_cut(*seed, true)).is_err()).count();
    assert!(caught > 0, "drives that don't sync go unnoticed");
}

/// The answer to an append: all of it is durable. docs/formats/replicated.md.
fn all_of_it() -> Bytes {
    let mut bytes = b"ARrp\x01\x02\x00".to_vec();
    bytes.extend_from_slice(&codec::crc64(&bytes).to_le_bytes());
    bytes.into()
}

async fn after_the_leader_died(seed: u64, forges: bool) -> Result<(), String> {
    let mut world = World::with_group(seed, &[1, 2, 3]).await;
    let leader = world.leader().await;
    if forges {
        // Appends are acknowledged before anybody has them. Question 1 is an append.
        let forger =
            move |from: u8, _: u8, message: &Bytes| (from == leader && message.get(25) == Some(&1)).then(all_of_it);
        world.network.wire().forger = Some(Arc::new(forger));
    }
    acknowledged_after(&mut world, 5, async |world: &mut World| {
        world.kill(leader);
        world.network.wire().forger = None;
        Ok(())
    })
    .await
}

#[test]
fn acknowledging_before_a_majority_has_it_is_caught() {
    run(after_the_leader_died(1, false)).unwrap();
    let caught = (0..4).filter(|seed| run(after_the_leader_died(*seed, true)).is_err()).count();
    assert!(caught > 0, "acknowledgements out of nowhere go unnoticed");
}

#[test]
fn reads_without_a_barrier_are_caught() {
    let stale = |seed| Storm { reading: Reading::Whatever, ..Storm::new(seed) };
    let caught = (0..6).find_map(|seed| run(stale(seed).rage()).err());
    assert!(caught.is_some_and(|wrong| wrong.contains("a read saw")), "stale reads go unnoticed");
}
