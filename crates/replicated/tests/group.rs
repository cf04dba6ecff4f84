//! What a group does, one thing at a time.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use crate::world;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::kv::Batch;
use base::{Epoch, Seq};
use bytes::Bytes;
use crypt::MetaKey;
use metastore::{Embedded, ShardStore};
use replicated::{Begin, Error, Read, Replica, Who, examine, read_checkpoint, recover, survey};
use world::{PATIENCE, SECOND, SHARD, World, journal, node, rows, run, small};

fn batch(serial: u32, len: usize) -> Batch {
    let mut batch = Batch::default();
    // Few keys, so that values are replaced and their room is given back.
    batch.put(vec![b'k', (serial % 10) as u8], vec![serial as u8; len]).event(serial.to_be_bytes());
    batch
}

async fn fill(store: &dyn ShardStore, serials: std::ops::Range<u32>, len: usize) -> Seq {
    let (epoch, mut head) = store.position();
    for serial in serials {
        head = store.commit(epoch, head, vec![batch(serial, len)]).await.unwrap();
    }
    head
}

fn serials(store: &dyn ShardStore) -> Vec<u32> {
    let events = journal(store).into_iter().flat_map(|entry| entry.batch.events);
    events.map(|event| u32::from_be_bytes(event.try_into().unwrap())).collect()
}

#[test]
fn a_follower_names_the_leader() {
    run(async {
        let world = World::with_group(1, &[1, 2, 3]).await;
        let leader = world.leader().await;
        let follower = leader % 3 + 1;
        let refused = world.replica(follower).lead().await.err().unwrap();
        assert_eq!(refused, Error::Store(metastore::Error::Elsewhere { leader: Some(node(leader)) }));
        // An owner whose lead went elsewhere says so, and has changed nothing.
        let leading = world.lead().await;
        let head = fill(&*leading, 0..3, 10).await;
        world.replica(leader).transfer(node(follower), PATIENCE).await.unwrap();
        let refused = leading.commit(leading.position().0, head, vec![batch(9, 10)]).await.unwrap_err();
        assert!(matches!(refused, metastore::Error::Elsewhere { .. }) && refused.is_clean(), "{refused:?}");
        // And is an owner again when the lead comes back and nobody claimed the shard meanwhile.
        world.replica(follower).transfer(node(leader), PATIENCE).await.unwrap();
        world.leader().await;
        assert_eq!(fill(&*leading, 3..5, 10).await, Seq(5));
    });
}

#[test]
fn the_next_write_comes_soon_after_a_leader_died() {
    let mut longest = Duration::ZERO;
    for seed in 0..10 {
        let took = run(async {
            let mut world = World::with_group(seed, &[1, 2, 3]).await;
            let leading = world.lead().await;
            fill(&*leading, 0..5, 100).await;
            let leader = world.leader().await;
            drop(leading);
            world.kill(leader);
            let began = tokio::time::Instant::now();
            let leading = world.lead().await;
            fill(&*leading, 5..6, 100).await;
            let took = began.elapsed();
            assert_eq!(serials(&*leading), (0..6).collect::<Vec<_>>());
            took
        });
        longest = longest.max(took);
    }
    assert!(longest <= Duration::from_millis(1500), "{longest:?}");
}

#[test]
fn replicas_that_are_far_apart_read_within_a_round_trip() {
    for way in [20, 60, 120] {
        let (seed, way) = (way, Duration::from_millis(way));
        run(async {
            let mut world = World::with_group(seed, &[1, 2, 3]).await;
            world.network.wire().delay = way;
            let leading = world.lead().await;
            fill(&*leading, 0..3, 100).await;
            // Nothing is written: only heartbeats say that it leads still.
            tokio::time::sleep(SECOND * 3).await;
            for _ in 0..10 {
                let began = tokio::time::Instant::now();
                leading.read_barrier(Read::Index, PATIENCE).await.unwrap();
                let took = began.elapsed();
                assert!(took <= way * 2 + Duration::from_millis(20), "{took:?}, {way:?} away");
                tokio::time::sleep(Duration::from_millis(730)).await;
            }
            let leader = world.leader().await;
            drop(leading);
            world.kill(leader);
            let began = tokio::time::Instant::now();
            let leading = world.lead().await;
            fill(&*leading, 3..4, 100).await;
            let took = began.elapsed();
            assert!(took <= Duration::from_millis(1500) + way * 16, "{took:?}, {way:?} away");
        });
    }
}

/// Question 9: does it follow still?
fn is_question(message: &Bytes) -> bool {
    message.starts_with(b"ARrq") && message.get(25) == Some(&9)
}

#[test]
fn replicas_of_a_release_that_is_not_asked_whether_they_follow_are_read_all_the_same() {
    run(async {
        let world = World::with_group(4, &[1, 2, 3]).await;
        let leading = world.lead().await;
        let head = fill(&*leading, 0..3, 100).await;
        let mut refused = codec::Writer::new();
        refused.raw(b"ARrp").u8(1).u8(0).str("question: 9 makes no sense");
        let refused = refused.finish();
        let sum = codec::crc64(&refused).to_le_bytes();
        let refused = Bytes::from([refused, sum.to_vec()].concat());
        let older = move |_: u8, _: u8, message: &Bytes| is_question(message).then(|| refused.clone());
        world.network.wire().forger = Some(Arc::new(older));
        for number in 1..=3 {
            world.replica(number).read_barrier(Read::Index, SECOND).await.unwrap();
            assert_eq!(world.replica(number).position().1, head);
        }
    });
}

#[test]
fn reads_that_come_together_share_their_questions() {
    run(async {
        let world = World::with_group(5, &[1, 2, 3]).await;
        let leading = world.lead().await;
        fill(&*leading, 0..3, 100).await;
        let asked = Arc::new(AtomicU64::new(0));
        let count = asked.clone();
        let counting = move |_: u8, _: u8, message: &Bytes| {
            count.fetch_add(is_question(message).into(), Ordering::Relaxed);
            None
        };
        world.network.wire().forger = Some(Arc::new(counting));
        world.network.wire().delay = Duration::from_millis(50);
        let reads = (0..500u64).map(|at| {
            let leading = leading.clone();
            async move {
                tokio::time::sleep(Duration::from_micros(at * 200)).await;
                leading.read_barrier(Read::Index, PATIENCE).await
            }
        });
        futures_util::future::try_join_all(reads).await.unwrap();
        let asked = asked.load(Ordering::Relaxed);
        // 100 ms, a poll each 10 ms at the most, two others.
        assert!((2..=2 * 12).contains(&asked), "{asked} questions");
    });
}

#[test]
fn a_leader_that_was_replaced_unheard_reads_nothing() {
    for seed in 0..10 {
        run(async {
            let world = World::with_group(seed, &[1, 2, 3]).await;
            let leading = world.lead().await;
            fill(&*leading, 0..3, 100).await;
            let leader = world.leader().await;
            let others: Vec<u8> = (1..=3).filter(|number| *number != leader).collect();
            world.network.split(&[leader], &others);
            let (next, new) = tokio::time::timeout(PATIENCE, async {
                loop {
                    for number in &others {
                        if let Ok(leading) = world.replica(*number).lead().await {
                            return (*number, leading);
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
            .await
            .unwrap();
            fill(&*new, 3..5, 10).await;
            // It reaches the one that follows the other now, and hears nothing from the other itself.
            world.network.heal();
            world.network.split(&[leader], &[next]);
            leading.read_barrier(Read::Index, SECOND).await.unwrap_err();
        });
    }
}

#[test]
fn a_minority_neither_commits_nor_reads() {
    run(async {
        let world = World::with_group(2, &[1, 2, 3]).await;
        let leading = world.lead().await;
        let head = fill(&*leading, 0..5, 100).await;
        let leader = world.leader().await;
        let others: Vec<u8> = (1..=3).filter(|number| *number != leader).collect();
        world.network.split(&[leader], &others);
        let lost = leading.commit(leading.position().0, head, vec![batch(77, 10)]).await.unwrap_err();
        assert!(!lost.is_clean(), "{lost}");
        for how in [Read::Index, Read::Lease] {
            world.replica(leader).read_barrier(how, SECOND).await.unwrap_err();
        }
        let next = async {
            loop {
                for number in &others {
                    if let Ok(leading) = world.replica(*number).lead().await {
                        return leading;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let next = tokio::time::timeout(PATIENCE, next).await.unwrap();
        fill(&*next, 5..8, 10).await;
        world.network.heal();
        world.until("the old leader", |world| world.replica(leader).position().1 == Seq(8)).await;
        assert_eq!(serials(&**world.replica(leader).rows()), (0..8).collect::<Vec<_>>());
    });
}

#[test]
fn a_shard_that_was_used_alone_becomes_a_group_in_place() {
    run(async {
        let mut world = World::new(3);
        let env = world.env(1);
        let key = MetaKey::new([9; 32]);
        let alone = Embedded::open(&env, SHARD, World::places().rows, &key, None, small().rows).await.unwrap();
        fill(&*alone, 0..120, 600).await;
        alone.checkpoint().await.unwrap();
        while !alone.clean_step(1 << 20).await.unwrap().is_done {}
        let (old_epoch, _) = alone.position();
        let (kept, cursor) = (rows(&*alone), alone.cursor(Seq(100)));
        alone.close().await.unwrap();
        drop(alone);
        let before: usize = world.machines[&1].drives.list("/d1/meta/7".as_ref(), "log-").len();
        world.grow(&[1, 2, 3]).await;
        let leading = world.lead().await;
        assert!(leading.position().0 > old_epoch);
        assert!(rows(&*leading) == kept, "rows changed");
        assert!(world.machines[&1].drives.list("/d1/meta/7".as_ref(), "log-").len() <= before + 1, "it was copied");
        fill(&*leading, 120..130, 600).await;
        world
            .until("everybody", |world| world.up().iter().all(|one| world.replica(*one).position().1 == Seq(130)))
            .await;
        for number in [1, 2, 3] {
            let replica = world.replica(number);
            assert_eq!(serials(&**replica.rows()), (0..130).collect::<Vec<_>>(), "node {number}");
            assert!(rows(&**replica.rows()) == rows(&*leading), "node {number}");
            // Readers of the journal go on where they were.
            assert_eq!(replica.tail(&cursor, 1000).unwrap().len(), 30);
        }
    });
}

#[test]
fn a_late_replica_is_filled_and_goes_on_where_it_was_cut_off() {
    run(async {
        let mut world = World::with_group(4, &[1]).await;
        let leading = world.lead().await;
        fill(&*leading, 0..400, 700).await;
        leading.checkpoint().await.unwrap();
        world.until("purging", |world| world.replica(1).log().stats().head > Seq(0)).await;
        world.boot(2, Begin::Join { token: world.token }).await.unwrap();
        world.replica(1).add_learner(node(2), PATIENCE).await.unwrap();
        world.until("a beginning", |world| world.replica(2).rows().position().1 > Seq(50)).await;
        // While values are missing nobody reads here.
        world.kill(2);
        let half = world.network.wire().bulk_bytes;
        world.restart(2).await;
        let there = world.replica(2).rows().position().1;
        assert!(there > Seq(40) && there < Seq(400), "{there}");
        world.until("the rest", |world| world.replica(2).position().1 == Seq(400)).await;
        let all = world.network.wire().bulk_bytes;
        let rest = u64::from(400 - there.0 as u32);
        assert!((all - half) < (half * rest / there.0) * 2 + 50_000, "it began anew: {half} of {all} bytes before");
        assert!(rows(&**world.replica(2).rows()) == rows(&*leading));
        world.replica(2).read_barrier(Read::Index, SECOND).await.unwrap();
    });
}

#[test]
fn members_come_and_go() {
    run(async {
        let mut world = World::with_group(5, &[1, 2, 3]).await;
        let leading = world.lead().await;
        fill(&*leading, 0..150, 300).await;
        for number in [4, 5] {
            world.boot(number, Begin::Join { token: world.token }).await.unwrap();
        }
        let leader = world.leader().await;
        let many = world.replica(leader).set_voters([1, 2, 3, 4, 5, 6].map(node).into(), PATIENCE).await.unwrap_err();
        assert!(matches!(many, Error::Members { is_transient: false, .. }), "{many}");
        world.replica(leader).set_voters([1, 2, 3, 4, 5].map(node).into(), PATIENCE).await.unwrap();
        // Two of five may go.
        let gone: Vec<u8> = (1..=5).filter(|number| *number != leader).take(2).collect();
        gone.iter().for_each(|number| world.kill(*number));
        fill(&*leading, 150..160, 300).await;
        let left: Vec<u8> = (1..=5).filter(|number| !gone.contains(number)).collect();
        let voters = left.iter().map(|number| node(*number)).collect();
        world.replica(leader).set_voters(voters, PATIENCE).await.unwrap();
        // And the leader itself, by handing over first.
        let next = *left.iter().find(|number| **number != leader).unwrap();
        world.replica(leader).transfer(node(next), PATIENCE).await.unwrap();
        world.leader().await;
        world.replica(next).set_voters([node(next)].into(), PATIENCE).await.unwrap();
        let leading = world.lead().await;
        fill(&*leading, 160..165, 300).await;
        assert_eq!(serials(&*leading), (0..165).collect::<Vec<_>>());
    });
}

#[test]
fn a_leader_that_left_the_group_leads_nothing_and_knows_it() {
    run(async {
        let mut world = World::with_group(4, &[1, 2, 3]).await;
        world.boot(4, Begin::Join { token: world.token }).await.unwrap();
        let leader = world.leader().await;
        let others = (1..=4).filter(|number| *number != leader).map(node).collect();
        world.replica(leader).set_voters(others, PATIENCE).await.unwrap();
        let mut status = world.replica(leader).status();
        let knows =
            tokio::time::timeout(PATIENCE, status.wait_for(|status| !status.is_leader && status.leader.is_none()));
        knows.await.expect("it goes on as if it led").unwrap();
        let next = world.leader().await;
        assert_ne!(next, leader);
        fill(&*world.lead().await, 0..5, 300).await;
    });
}

#[test]
fn a_stranger_is_told_nothing() {
    run(async {
        let mut world = World::with_group(6, &[1, 2, 3]).await;
        let leader = world.leader().await;
        let foreign = world.boot(4, Begin::Join { token: [3; 16] }).await.unwrap();
        let _ = world.replica(leader).add_learner(node(4), SECOND).await;
        tokio::time::sleep(SECOND * 3).await;
        assert_eq!(foreign.position(), (Epoch(0), Seq(0)));
        assert_eq!(foreign.status().borrow().leader, None);
        world.replica(leader).remove_learner(node(4), PATIENCE).await.unwrap();
        // Nobody speaks for another, and garbage is refused.
        for message in [&b""[..], b"ARrq", &[0; 100]] {
            let answer = world.replica(1).handle(node(2), message).await;
            assert_eq!(&answer[..6], b"ARrp\x01\x00");
        }
        // The directories know whose they are.
        world.kill(4);
        world.machines[&4].drives.restart(&mut world.chance);
        let token = world.token;
        assert!(matches!(world.boot(4, Begin::Join { token }).await, Err(Error::Foreign { .. })));
    });
}

#[test]
fn a_copy_that_was_written_to_behind_the_groups_back_is_put_in_quarantine() {
    run(async {
        let mut world = World::with_group(7, &[1, 2, 3]).await;
        let leading = world.lead().await;
        fill(&*leading, 0..10, 100).await;
        let leader = world.leader().await;
        let bad = leader % 3 + 1;
        world.until("everybody", |world| world.replica(bad).position().1 == Seq(10)).await;
        let store = std::sync::Arc::clone(world.replica(bad).rows());
        let (epoch, head) = store.position();
        store.commit(epoch, head, vec![batch(666, 10)]).await.unwrap();
        drop(store);
        fill(&*leading, 10..20, 100).await;
        world.until("quarantine", |world| world.replica(bad).quarantine().is_some()).await;
        let unfit = world.replica(bad).snapshot().err().unwrap();
        assert!(matches!(unfit, Error::Store(metastore::Error::Unfit { .. })), "{unfit}");
        // For good.
        world.kill(bad);
        world.restart(bad).await;
        assert!(world.replica(bad).quarantine().is_some());
        // The others go on; it comes back empty, as a new one.
        fill(&*leading, 20..25, 100).await;
        let others = (1..=3).filter(|number| *number != bad).map(node);
        let one = others.clone().next().unwrap();
        let keep: std::collections::BTreeSet<_> = [one, node(leader)].into_iter().chain(others).collect();
        assert_eq!(keep.len(), 2);
        world.kill(bad);
        world.machines.remove(&bad);
        // One spare voter first: a group of two is none.
        world.boot(4, Begin::Join { token: world.token }).await.unwrap();
        let voters = keep.iter().copied().chain([node(4)]).collect();
        world.replica(leader).set_voters(voters, PATIENCE).await.unwrap();
        fill(&*leading, 25..30, 100).await;
        world.until("the new one", |world| world.replica(4).position().1 == Seq(30)).await;
        assert_eq!(serials(&**world.replica(4).rows()), (0..30).collect::<Vec<_>>());
    });
}

#[test]
fn replicas_compare_their_rows() {
    run(async {
        let world = World::with_group(8, &[1, 2, 3]).await;
        let leading = world.lead().await;
        fill(&*leading, 0..60, 400).await;
        let compared = |world: &World| (1..=3).all(|one| world.replica(one).status().borrow().compared > Seq(0));
        for serial in 60..200 {
            if compared(&world) {
                return;
            }
            fill(&*leading, serial..serial + 1, 400).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("rows were never compared: {:#?}", world.statuses());
    });
}

#[test]
fn a_lost_majority_is_recovered_from_a_survivor() {
    run(async {
        let mut world = World::with_group(9, &[1, 2, 3]).await;
        let leading = world.lead().await;
        fill(&*leading, 0..40, 300).await;
        let leader = world.leader().await;
        let survivor = leader % 3 + 1;
        world.until("the survivor", |world| world.replica(survivor).position().1 == Seq(40)).await;
        let signed = world.replica(survivor).checkpoint_to_sign().await.unwrap().signed(|_| [5; 64]);
        fill(&*leading, 40..45, 300).await;
        world.until("the survivor", |world| world.replica(survivor).position().1 == Seq(45)).await;
        drop(leading);
        for number in [1, 2, 3] {
            world.kill(number);
        }
        world.machines[&survivor].drives.restart(&mut world.chance);
        let who = Who { node: node(survivor), shard: SHARD };
        let (env, key) = (world.env(survivor), MetaKey::new([9; 32]));
        let standing = survey(&env, who, &key, World::places(), &small()).await.unwrap();
        assert!(standing.term > 0 && standing.head <= Seq(45), "{standing:?}");
        let examined = examine(&env, who, &key, World::places(), &small()).await.unwrap();
        assert_eq!((examined.standing, examined.end, examined.token), (standing, Seq(45), world.token));
        assert_eq!(examined.members.last(), Some(&vec![[1, 2, 3].map(node).into()]));
        assert!(!examined.is_partial && examined.quarantine.is_none());
        assert!(read_checkpoint(&signed, |_, _| false).is_err());
        let checkpoint = read_checkpoint(&signed, |_, signature| *signature == [5; 64]).unwrap();
        let newer = replicated::Checkpoint { seq: Seq(46), ..checkpoint.clone() };
        let other = replicated::Checkpoint { token: [0; 16], ..checkpoint.clone() };
        for wrong in [newer, other] {
            let refused = recover(&env, who, &key, World::places(), &small(), &wrong).await.unwrap_err();
            assert!(matches!(refused, Error::Recover { .. }), "{refused}");
        }
        let recovered = recover(&env, who, &key, World::places(), &small(), &checkpoint).await.unwrap();
        assert_eq!(recovered.head, Seq(45));
        world.token = recovered.token;
        world.boot(survivor, Begin::Existing).await.unwrap();
        let leading = world.lead().await;
        fill(&*leading, 45..50, 300).await;
        // One of the old group comes back: nobody listens to it, it leads nobody.
        let old = survivor % 3 + 1;
        world.restart(old).await;
        tokio::time::sleep(SECOND * 3).await;
        assert!(world.replica(old).lead().await.is_err());
        assert_eq!(world.replica(old).position().1, Seq(45).min(world.replica(old).position().1));
        for number in [4, 5] {
            world.boot(number, Begin::Join { token: world.token }).await.unwrap();
        }
        world.replica(survivor).set_voters([survivor, 4, 5].map(node).into(), PATIENCE).await.unwrap();
        fill(&*leading, 50..55, 300).await;
        world.until("everybody", |world| world.replica(5).position().1 == Seq(55)).await;
        assert_eq!(serials(&**world.replica(5).rows()), (0..55).collect::<Vec<_>>());
    });
}

#[test]
fn large_batches_and_large_groups_arrive() {
    run(async {
        let world = World::with_group(10, &[1, 2, 3]).await;
        let leading = world.lead().await;
        let mut large = Batch::default();
        large.put("large", vec![1; metastore::BATCH_BYTES_MAX - 100]).event(0_u32.to_be_bytes());
        let group: Vec<Batch> = (1..12).map(|serial| batch(serial, 1024 * 1024)).collect();
        let (epoch, head) = leading.position();
        let head = leading.commit(epoch, head, vec![large]).await.unwrap();
        let head = leading.commit(epoch, head, group).await.unwrap();
        assert_eq!(head, Seq(12));
        world.until("everybody", |world| world.up().iter().all(|one| world.replica(*one).position().1 == head)).await;
        for number in [1, 2, 3] {
            let replica = world.replica(number);
            assert_eq!(
                replica.snapshot().unwrap().get(b"large").unwrap().unwrap().len(),
                metastore::BATCH_BYTES_MAX - 100
            );
            assert_eq!(serials(&**replica.rows()), (0..12).collect::<Vec<_>>());
        }
    });
}

#[test]
fn forgotten_entries_give_their_room_back() {
    run(async {
        let world = World::with_group(11, &[1, 2, 3]).await;
        let leading = world.lead().await;
        for round in 0..20 {
            fill(&*leading, round * 50..round * 50 + 50, 2000).await;
            tokio::time::sleep(SECOND).await;
        }
        for number in [1, 2, 3] {
            let stats = world.replica(number).log().stats();
            assert!(stats.log_bytes < 1_000_000, "node {number}: {stats:?}");
            world.replica(number).close().await.unwrap();
        }
    });
}

#[test]
fn a_closed_replica_comes_back_where_it_was() {
    run(async {
        let mut world = World::with_group(12, &[1]).await;
        let leading = world.lead().await;
        fill(&*leading, 0..30, 500).await;
        let epoch = leading.position().0;
        world.replica(1).close().await.unwrap();
        assert!(leading.commit(epoch, Seq(30), vec![batch(99, 1)]).await.is_err());
        drop(leading);
        world.machines.get_mut(&1).unwrap().replica = None;
        let replica: std::sync::Arc<Replica> = world.boot(1, Begin::Existing).await.unwrap();
        assert_eq!(replica.position().1, Seq(30));
        let leading = world.lead().await;
        assert!(leading.position().0 > epoch);
        fill(&*leading, 30..33, 500).await;
        assert_eq!(serials(&*leading), (0..33).collect::<Vec<_>>());
    });
}
