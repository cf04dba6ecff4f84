//! What a write promises while drives hang, straggle and vanish, and when its writer is cut off.
#![allow(clippy::unwrap_used)]

use crate::common;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use base::{Kind, Kinded, SegmentId};
use bytes::Bytes;
use client::{DriveState, POLICY_SETTING, UNCOMMITTED_MAX};
use common::{Rig, add_policy, bytes, new_version};
use namespace::{Body, Command, Condition, Version};

const MIB: usize = 1024 * 1024;

fn put_command(key: &str, content: client::Content) -> Command {
    Command::Put { key: key.into(), new: new_version(content), condition: Condition::default() }
}

fn segments(version: &Version) -> Vec<namespace::SegmentRef> {
    match &version.body {
        Body::Segments(segments) => segments.clone(),
        Body::Packed(segment, _) => vec![segment.clone()],
        other => panic!("{other:?}"),
    }
}

/// Polls a future so many times, letting others run in between, and drops it; its output if it ended.
async fn polled<F: Future>(times: usize, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    for _ in 0..times {
        let once = std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut future).poll(context)));
        if let Poll::Ready(output) = once.await {
            return Some(output);
        }
        tokio::task::yield_now().await;
    }
    None
}

#[tokio::test]
async fn a_writer_cut_off_anywhere_leaves_no_piece() {
    let rig = Rig::new(2, 1, 3).await;
    rig.drives.iter().for_each(|(_, drive)| drive.yields.store(3, Ordering::SeqCst));
    let mut ended = 0;
    for size in [5000, 300_000, 2 * MIB + 1] {
        let all = Bytes::from(bytes(1, size));
        for times in (0..).map(|step: usize| step * step / 4 + step) {
            let mut writer = rig.client.writer(&rig.bucket, (times % 2 == 0).then_some(size as u64));
            let whole = all.clone();
            let done = polled(times, async move {
                for at in (0..whole.len()).step_by(200_000) {
                    writer.write(whole.slice(at..(at + 200_000).min(whole.len()))).await?;
                }
                writer.finish().await
            });
            if let Some(content) = done.await {
                rig.client.discard(&content.unwrap());
                ended += 1;
                break;
            }
            // What was cut off while its answer was on the way is swept in time.
            rig.clock.jump(UNCOMMITTED_MAX);
            rig.client.sweep_uncommitted().await.unwrap();
        }
    }
    assert_eq!(ended, 3);
    rig.clock.jump(UNCOMMITTED_MAX);
    rig.until("all is given back", || {
        rig.pieces() == 0 && rig.drives.iter().all(|(_, drive)| drive.begun.load(Ordering::SeqCst) == 0)
    })
    .await;
}

#[tokio::test]
async fn a_write_that_was_cut_short_cannot_be_finished() {
    let rig = Rig::new(2, 1, 3).await;
    rig.drives.iter().for_each(|(_, drive)| drive.hung.store(true, Ordering::SeqCst));
    let mut writer = rig.client.writer(&rig.bucket, None);
    assert!(polled(50, writer.write(Bytes::from(vec![1; 64 * MIB]))).await.is_none());
    assert_eq!(writer.write(Bytes::from_static(b"more")).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(writer.finish().await.unwrap_err().kind(), Kind::Invalid);
    rig.gone().await;
}

#[tokio::test]
async fn what_is_being_written_is_no_orphan_at_any_moment() {
    let rig = Rig::new(2, 1, 3).await;
    let on_drives = || -> BTreeSet<SegmentId> {
        let pieces =
            rig.drives.iter().flat_map(|(_, drive)| drive.pieces.lock().unwrap().keys().copied().collect::<Vec<_>>());
        pieces.map(|piece| piece.segment).collect()
    };
    let mut writer = rig.client.writer(&rig.bucket, None);
    for _ in 0..65 {
        writer.write(Bytes::from(vec![7; MIB])).await.unwrap();
    }
    rig.until("the first segment is durable", || !on_drives().is_empty()).await;
    assert!(on_drives().into_iter().all(|segment| rig.client.is_fresh(segment)));
    let content = writer.finish().await.unwrap();
    let small = rig.write(&bytes(1, 10_000), true).await.unwrap();
    assert_eq!(on_drives().len(), 3);
    assert!(on_drives().into_iter().all(|segment| rig.client.is_fresh(segment)));
    rig.client.commit(&rig.bucket, put_command("o", content)).await.unwrap();
    rig.client.discard(&small);
    assert!(!on_drives().into_iter().any(|segment| rig.client.is_fresh(segment)), "committed, or given back");
}

#[tokio::test]
async fn an_acknowledged_object_has_as_many_durable_pieces_as_its_policy_asks() {
    for (k, m) in [(1, 0), (1, 2), (3, 2), (4, 2)] {
        let n = usize::from(k + m);
        let rig = Rig::fast(k, m, n, 50).await;
        let ack = policy::Coding { k, m }.ack();
        for size in [10_000, 3 * MIB] {
            let all = bytes(5, size);
            for hung in 0..=n - ack {
                for (_, drive) in rig.drives.iter().take(hung) {
                    drive.closed.send_replace(true);
                }
                let version = rig.put("o", &all).await;
                let durable = |id: SegmentId| {
                    let holds =
                        |drive: &common::Memory| drive.pieces.lock().unwrap().keys().any(|piece| piece.segment == id);
                    rig.drives.iter().filter(|(_, drive)| holds(drive)).count()
                };
                let id = segments(&version)[0].id;
                assert!(durable(id) >= ack, "{k}+{m}, {hung} late: {} durable", durable(id));
                assert_eq!(rig.noted().len(), hung, "late pieces are noted");
                // They arrive after all: the note goes.
                rig.drives.iter().for_each(|(_, drive)| _ = drive.closed.send_replace(false));
                rig.until("all pieces arrived", || durable(id) == n && rig.noted().is_empty()).await;
                rig.clock.jump(Duration::from_secs(60));
                rig.check(&version, &all, "late").await;
            }
            // One more: no acknowledgement, and it doesn't take for ever to say so.
            for (_, drive) in rig.drives.iter().take(n - ack + 1) {
                drive.closed.send_replace(true);
            }
            let error = rig.write(&all, true).await.unwrap_err();
            assert!(matches!(error.kind(), Kind::TooFewPieces { .. }), "{error}");
            rig.drives.iter().for_each(|(_, drive)| _ = drive.closed.send_replace(false));
            rig.delete("o").await;
            rig.collect().await;
            rig.gone().await;
            rig.clock.jump(Duration::from_secs(60));
        }
    }
}

#[tokio::test]
async fn drives_that_hang_in_mid_stream_end_a_write_or_are_gone_without() {
    let all = bytes(6, 16 * MIB);
    for hung in [1usize, 2, 3] {
        let rig = Rig::fast(4, 2, 6, 50).await;
        let mut writer = rig.client.writer(&rig.bucket, Some(all.len() as u64));
        let whole = Bytes::from(all.clone());
        writer.write(whole.slice(..5 * MIB)).await.unwrap();
        rig.drives.iter().take(hung).for_each(|(_, drive)| drive.hung.store(true, Ordering::SeqCst));
        let rest = async {
            writer.write(whole.slice(5 * MIB..)).await?;
            writer.finish().await
        };
        let content = common_timeout(rest).await;
        if hung == 1 {
            rig.client.commit(&rig.bucket, put_command("o", content.unwrap())).await.unwrap();
            rig.check(&rig.version("o").await, &all, "one hung").await;
        } else {
            assert!(matches!(content.unwrap_err().kind(), Kind::TooFewPieces { .. }));
        }
    }
    // As soon as the node calls a drive gone, nobody waits for it.
    let rig = Rig::new(4, 2, 6).await;
    let mut writer = rig.client.writer(&rig.bucket, Some(all.len() as u64));
    writer.write(Bytes::from(all.clone()).slice(..5 * MIB)).await.unwrap();
    rig.drives[0].1.hung.store(true, Ordering::SeqCst);
    rig.client.drives().set_state(rig.drives[0].0, DriveState::Gone);
    common_timeout(writer.write(Bytes::from(all.clone()).slice(5 * MIB..))).await.unwrap();
    common_timeout(writer.finish()).await.unwrap();
}

#[tokio::test]
async fn suspect_drives_are_written_to_where_the_others_are_too_few() {
    for (k, m) in [(1, 2), (4, 2)] {
        let n = usize::from(k + m);
        let stalled = n - policy::Coding { k, m }.ack() + 1;
        for size in [10_000, 3 * MIB] {
            let (rig, all) = (Rig::new(k, m, n).await, bytes(9, size));
            // As folders of one disk do while it stalls: too many err at the same time.
            let stall = |bytes| {
                let drives = rig.drives.iter().take(stalled);
                drives.for_each(|(_, drive)| drive.fail_after.store(bytes, Ordering::SeqCst));
            };
            stall(0);
            let error = rig.write(&all, true).await.unwrap_err();
            assert!(matches!(error.kind(), Kind::TooFewPieces { .. }), "{error}");
            stall(-1);
            for (id, _) in rig.drives.iter().take(stalled) {
                assert_eq!(rig.client.drives().state(*id), DriveState::Suspect, "{k}+{m}");
            }
            let version = rig.put("o", &all).await;
            rig.check(&version, &all, "all answer again").await;
            assert!(rig.noted().is_empty(), "{k}+{m}, {size} B: every drive got its piece");
        }
    }
}

#[tokio::test]
async fn a_small_object_that_loses_its_drives_on_the_way_goes_to_others() {
    let (rig, all) = (Rig::new(1, 2, 6).await, bytes(11, 10_000));
    let mut failed = 0;
    // As a site does that is cut off: two drives err, whatever they were sent. Which group is taken is chance.
    for pair in common::losses(6, 2).into_iter().filter(|pair| pair.len() == 2).cycle().take(60) {
        // Nobody is suspect any more.
        rig.clock.jump(Duration::from_secs(60));
        pair.iter().for_each(|at| rig.drives[*at].1.fail_after.store(0, Ordering::SeqCst));
        let version = rig.put("o", &all).await;
        let suspects = pair.iter().filter(|at| rig.client.drives().state(rig.drives[**at].0) == DriveState::Suspect);
        failed += usize::from(suspects.count() == 2);
        rig.check(&version, &all, "its other drives").await;
        pair.iter().for_each(|at| rig.drives[*at].1.fail_after.store(-1, Ordering::SeqCst));
    }
    assert!(failed > 0, "no group had both: nothing was shown");
}

async fn common_timeout<T>(work: impl Future<Output = T>) -> T {
    env::Env::real().timeout(Duration::from_secs(15), work).await.expect("it hangs")
}

#[tokio::test]
async fn any_two_hung_drives_do_not_stop_a_read() {
    let all = bytes(6, 3 * MIB);
    for hung in common::losses(6, 2).into_iter().filter(|hung| hung.len() == 2) {
        let rig = Rig::new(4, 2, 6).await;
        let (small, large) = (rig.put("small", &all[..9000]).await, rig.put("large", &all).await);
        hung.iter().for_each(|at| rig.drives[*at].1.hung.store(true, Ordering::SeqCst));
        common_timeout(rig.check(&small, &all[..9000], "small")).await;
        common_timeout(rig.check(&large, &all, "large")).await;
    }
    // Three are too many: told in the end, not waited for.
    let rig = Rig::fast(4, 2, 6, 50).await;
    let version = rig.put("large", &all).await;
    (0..3).for_each(|at| rig.drives[at].1.hung.store(true, Ordering::SeqCst));
    let error = common_timeout(rig.get(&version, 0..version.size)).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::TooFewPieces { .. }), "{error}");
}

#[tokio::test]
async fn content_that_waits_too_long_is_swept_and_can_not_be_committed_any_more() {
    let rig = Rig::new(2, 1, 3).await;
    for size in [10_000, 2 * MIB] {
        let content = rig.write(&bytes(1, size), true).await.unwrap();
        rig.client.sweep_uncommitted().await.unwrap();
        assert!(rig.pieces() > 0, "not yet");
        rig.clock.jump(UNCOMMITTED_MAX);
        rig.client.sweep_uncommitted().await.unwrap();
        rig.gone().await;
        let error = rig.client.commit(&rig.bucket, put_command("o", content)).await.unwrap_err();
        assert!(matches!(error, client::Error::Namespace(namespace::Error::SegmentGone { .. })), "{error}");
    }
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_never_swept() {
    let rig = Rig::new(2, 1, 3).await;
    for (size, times) in (0..6).flat_map(|times| [(10_000, times), (2 * MIB, times)]) {
        let (key, all) = (format!("{size} {times}"), bytes(times as u64 + 1, size));
        let content = rig.write(&all, true).await.unwrap();
        let done = polled(times, rig.client.commit(&rig.bucket, put_command(&key, content.clone()))).await;
        if done.is_none() {
            // The caller can't know: its giving up must not take the bytes of what is committed.
            rig.client.discard(&content);
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        rig.clock.jump(2 * UNCOMMITTED_MAX);
        rig.client.sweep_uncommitted().await.unwrap();
        match rig.client.head(&rig.bucket, &key, None, true).await {
            Ok(found) => rig.check(&found.into_version(), &all, &key).await,
            Err(error) => assert!(times < 3 && error.kind() == Kind::Missing, "{times}: {error}"),
        }
    }
}

#[tokio::test]
async fn policies_are_those_of_the_bucket_or_of_the_store() {
    let rig = Rig::new(3, 2, 6).await;
    let drives: Vec<_> = rig.drives.iter().map(|(id, _)| *id).collect();
    add_policy(&rig.system, 2, (1, 2), &drives).await;
    add_policy(&rig.system, 3, (4, 2), &drives).await;
    rig.client.map_changed();
    let all = bytes(1, 2 * MIB);
    for (name, (k, m)) in [(None, (3, 2)), (Some("1+2"), (1, 2)), (Some("4+2"), (4, 2)), (None, (3, 2))] {
        let value = name.map(|name: &str| name.as_bytes().to_vec());
        rig.client.set_config(&rig.bucket, POLICY_SETTING, value).await.unwrap();
        for size in [10_000, 2 * MIB] {
            let version = rig.put("o", &all[..size]).await;
            let segment = &segments(&version)[0];
            assert_eq!((segment.k, segment.m), (k, m));
            rig.check(&version, &all[..size], "policy").await;
        }
    }
    rig.client.set_config(&rig.bucket, POLICY_SETTING, Some(b"9+9".to_vec())).await.unwrap();
    for size in [10_000, 2 * MIB] {
        let error = rig.write(&all[..size], true).await.unwrap_err();
        assert!(matches!(error, client::Error::NoPolicy { .. }), "{error}");
    }
    assert_eq!(rig.write(&all[..100], true).await.unwrap().size, 100, "inline bytes need no drive");
}

#[tokio::test]
async fn a_lone_small_object_waits_for_no_companion() {
    let rig = Rig::new(2, 2, 4).await;
    let all = bytes(1, 100_000);
    rig.put("warm", &all).await;
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..20 {
        let began = rig.env.clock.now();
        rig.put("o", &all).await;
        times.push(rig.env.clock.now() - began);
    }
    times.sort();
    // A timer would show in every one of them.
    assert!(times[4] < Duration::from_millis(10), "{times:?}");
}

#[tokio::test]
async fn coding_anew_that_is_cut_off_anywhere_discards_nothing_that_its_commit_made_live() {
    let rig = Rig::new(2, 1, 6).await;
    let drives: Vec<_> = rig.drives.iter().map(|(id, _)| *id).collect();
    add_policy(&rig.system, 2, (3, 2), &drives).await;
    rig.client.catalog_changed();
    let data = bytes(3, 3 * MIB + 17);
    rig.put("key", &data).await;
    rig.client.set_config(&rig.bucket, POLICY_SETTING, Some(b"3+2".to_vec())).await.unwrap();
    rig.drives.iter().for_each(|(_, drive)| drive.yields.store(2, Ordering::SeqCst));
    let (mut moved, mut ended) = (0, false);
    for times in (0..).map(|step: usize| step * step / 8 + step) {
        let before = rig.version("key").await;
        ended = matches!(polled(times, rig.client.recode(rig.bucket.volume, "key", &before)).await, Some(Ok(bytes)) if bytes > 0);
        // What was cut off may still be on its way; whoever keeps the store looks at what nobody named.
        rig.clock.jump(UNCOMMITTED_MAX + Duration::from_secs(1));
        rig.client.sweep_uncommitted().await.unwrap();
        rig.collect().await;
        let after = rig.version("key").await;
        rig.check(&after, &data, &format!("cut off after {times} polls")).await;
        if after.body != before.body {
            moved += 1;
            if ended {
                break;
            }
            // It was named although nobody waited for the answer: back to the older code.
            rig.client.set_config(&rig.bucket, POLICY_SETTING, Some(b"2+1".to_vec())).await.unwrap();
            rig.delete("key").await;
            rig.put("key", &data).await;
            rig.client.set_config(&rig.bucket, POLICY_SETTING, Some(b"3+2".to_vec())).await.unwrap();
        }
        assert!(times < 100_000, "it never ended");
    }
    assert!(ended && moved > 0);
}
