//! Objects come back byte-exact, whichever drives are left.
#![allow(clippy::unwrap_used)]

use crate::common;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base::{Kind, Kinded, SegmentId};
use bytes::Bytes;
use client::{Content, DriveState, Fault};
use common::{Rig, bytes, losses, new_version};
use namespace::{Body, Command, Condition, Part, Span, UploadId};

const MIB: usize = 1024 * 1024;
const SIZES: [usize; 10] = [0, 1, 4096, 4097, 65_535, 65_536, 65_537, MIB, MIB + 1, 5 * MIB + 17];
const CODES: [(u8, u8); 5] = [(1, 0), (1, 2), (2, 2), (3, 2), (4, 2)];

#[tokio::test]
async fn objects_of_every_size_come_back_with_any_m_drives_gone() {
    for (k, m) in CODES {
        let n = usize::from(k + m);
        for lost in losses(n, m.into()) {
            // All sizes where nothing or all that may be lost is; a few in between.
            let full = lost.len() == usize::from(m) || lost.is_empty();
            let rig = Rig::new(k, m, n).await;
            let mut objects = Vec::new();
            for size in SIZES.iter().filter(|size| full || **size % 5 == 2 || **size == MIB + 1) {
                let bytes = bytes(*size as u64 + 1, *size);
                objects.push((rig.put(&format!("o{size}"), &bytes).await, bytes));
            }
            lost.iter().for_each(|at| rig.lose(*at));
            for (version, bytes) in objects {
                rig.check(&version, &bytes, &format!("{k}+{m} without {lost:?}, {} bytes", bytes.len())).await;
            }
        }
    }
}

#[tokio::test]
async fn an_object_of_more_than_one_segment_comes_back() {
    let rig = Rig::new(4, 2, 6).await;
    let bytes = bytes(9, 64 * MIB + 1);
    let version = rig.put("big", &bytes).await;
    let Body::Segments(segments) = &version.body else { panic!("{:?}", version.body) };
    assert_eq!(segments.iter().map(|segment| segment.len).collect::<Vec<_>>(), [64 << 20, 1]);
    rig.check(&version, &bytes, "healthy").await;
    rig.lose(0);
    rig.lose(3);
    rig.check(&version, &bytes, "two gone").await;
    let around = (64 * MIB as u64) - 100_000..(64 * MIB as u64) + 1;
    let got = rig.get(&version, around.clone()).await.unwrap();
    assert!(got == bytes[around.start as usize..]);
}

#[tokio::test]
async fn one_more_lost_drive_than_m_is_too_few_pieces_and_never_wrong_bytes() {
    let rig = Rig::new(4, 2, 6).await;
    let version = rig.put("o", &bytes(1, 2 * MIB)).await;
    (0..3).for_each(|at| rig.lose(at));
    let error = rig.get(&version, 0..version.size).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::TooFewPieces { need: 4, .. }), "{error}");
}

#[tokio::test]
async fn ranges_are_those_of_the_bytes() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0xab1de);
    eprintln!("SEED={seed}");
    for (k, m) in [(1, 2), (3, 2), (4, 2)] {
        let rig = Rig::new(k, m, 6).await;
        for size in [900, 5000, 200_000, MIB, 3 * MIB + 777] {
            let all = bytes(size as u64, size);
            let version = rig.put(&format!("o{size}"), &all).await;
            let mut chance = bytes(seed ^ size as u64, 400).into_iter().map(usize::from);
            let mut next = |max: usize| (0..4).fold(0usize, |all, _| all * 256 + chance.next().unwrap()) % max;
            for round in 0..20 {
                if round == 10 {
                    rig.client.drives().set_state(rig.drives[round % 6].0, DriveState::Gone);
                }
                let start = next(size);
                let end = start + 1 + next(size - start);
                let got = rig.get(&version, start as u64..end as u64).await.unwrap();
                assert!(got == all[start..end], "{k}+{m}, {size}: {start}..{end}");
            }
            rig.client.drives().set_state(rig.drives[4].0, DriveState::Up);
        }
    }
    let rig = Rig::new(1, 0, 1).await;
    let version = rig.put("o", b"abc").await;
    assert_eq!(rig.get(&version, 1..1).await.unwrap(), b"");
    assert_eq!(rig.get(&version, 0..4).await.unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test]
async fn a_range_of_one_cell_reads_one_cell() {
    let rig = Rig::new(4, 2, 6).await;
    let version = rig.put("o", &bytes(1, 8 * MIB)).await;
    rig.get(&version, 65_536 * 5..65_536 * 6).await.unwrap();
    let read: u64 = rig.drives.iter().map(|(_, drive)| drive.read_bytes.load(Ordering::SeqCst)).sum();
    assert_eq!(read, 65_536 + 16);
}

#[tokio::test]
async fn flipped_bits_are_never_given_and_are_reported() {
    for (k, m) in [(1, 2), (2, 2), (4, 2)] {
        for size in [4097, 100_000, 3 * MIB + 5] {
            for spoiled in losses(usize::from(k + m), m.into()) {
                let rig = Rig::new(k, m, usize::from(k + m)).await;
                let mut findings = rig.client.findings().unwrap();
                let all = bytes(3, size);
                let version = rig.put("o", &all).await;
                spoiled.iter().for_each(|at| rig.drives[*at].1.flip());
                rig.check(&version, &all, &format!("{k}+{m}, {size}, {spoiled:?} spoiled")).await;
                let faults = rig.client.verify(&rig.bucket, &version).await.unwrap();
                let wrong: std::collections::BTreeSet<_> = faults.iter().map(|found| found.drive.unwrap()).collect();
                assert_eq!(wrong, spoiled.iter().map(|at| rig.drives[*at].0).collect());
                assert!(faults.iter().all(|found| found.fault == Fault::Damaged));
                while let Ok(found) = findings.try_recv() {
                    assert!(wrong.contains(&found.drive.unwrap()), "{found:?} was blamed");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_wrong_data_piece_that_is_read_is_reported() {
    let rig = Rig::new(2, 2, 4).await;
    let mut findings = rig.client.findings().unwrap();
    let all = bytes(3, 3 * MIB);
    let version = rig.put("o", &all).await;
    rig.drives.iter().for_each(|(_, drive)| {
        // Data piece 0 alone, wherever it is.
        for (id, (_, body)) in drive.pieces.lock().unwrap().iter_mut().filter(|(id, _)| id.index == 0) {
            assert_eq!(id.index, 0);
            body[1000] ^= 1;
        }
    });
    rig.check(&version, &all, "one flipped").await;
    let found = findings.try_recv().unwrap();
    assert_eq!((found.piece.index, found.fault), (0, Fault::Damaged));
}

#[tokio::test]
async fn a_hung_drive_delays_neither_reads_nor_writes_for_long() {
    let rig = Rig::new(2, 2, 4).await;
    let (small, large) = (bytes(5, 50_000), bytes(6, 3 * MIB));
    let (one, two) = (rig.put("small", &small).await, rig.put("large", &large).await);
    rig.drives[1].1.hung.store(true, Ordering::SeqCst);
    let work = async {
        rig.check(&one, &small, "small").await;
        rig.check(&two, &large, "large").await;
        let three = rig.put("new small", &small).await;
        let four = rig.put("new large", &large).await;
        rig.check(&three, &small, "new small").await;
        rig.check(&four, &large, "new large").await;
    };
    rig.env.timeout(Duration::from_secs(20), work).await.expect("it hangs");
}

#[tokio::test]
async fn a_dropped_writer_leaves_no_piece() {
    let rig = Rig::new(4, 2, 6).await;
    for size in [100_000, 2 * MIB, 70 * MIB] {
        let mut writer = rig.client.writer(&rig.bucket, None);
        for _ in 0..size / 100_000 {
            writer.write(Bytes::from(vec![7; 100_000])).await.unwrap();
        }
        drop(writer);
    }
    gone(&rig).await;
}

/// Waits until no piece is left.
async fn gone(rig: &Rig) {
    let wait = async {
        while rig.pieces() > 0 {
            tokio::task::yield_now().await;
        }
    };
    rig.env.timeout(Duration::from_secs(10), wait).await.expect("pieces are left");
}

#[tokio::test]
async fn content_that_the_rules_refuse_or_nobody_wants_is_given_back() {
    let rig = Rig::new(2, 1, 3).await;
    for size in [50_000, 2 * MIB] {
        let content = rig.write(&bytes(1, size), true).await.unwrap();
        let condition = Condition { if_match: Some(vec!["*".into()]), ..Condition::default() };
        let command = Command::Put { key: "k".into(), new: new_version(content), condition };
        assert_eq!(rig.client.commit(&rig.bucket, command).await.unwrap_err().kind(), Kind::Missing);
        gone(&rig).await;
        let content = rig.write(&bytes(1, size), true).await.unwrap();
        rig.client.discard(&content);
        gone(&rig).await;
    }
}

#[tokio::test]
async fn a_drive_that_fails_in_mid_stream_costs_nothing_while_enough_are_left() {
    let rig = Rig::new(2, 2, 4).await;
    let all = bytes(4, 6 * MIB);
    rig.drives[2].1.fail_after.store(MIB as i64, Ordering::SeqCst);
    let version = rig.put("o", &all).await;
    rig.check(&version, &all, "one failed").await;
    let volume = rig.bucket.volume;
    let noted = namespace::read::missing(&*rig.volumes.read().unwrap(), volume, None, 10).unwrap();
    let Body::Segments(segments) = &version.body else { panic!() };
    assert_eq!(noted.len(), 1);
    assert_eq!((noted[0].segment, noted[0].note.missing.len()), (segments[0].id, 1));

    // One more than the ack margin allows: an error, and nothing is left behind.
    let before = rig.pieces();
    rig.drives[2].1.fail_after.store(-1, Ordering::SeqCst);
    let rig2 = Rig::new(2, 2, 4).await;
    rig2.drives[0].1.fail_after.store(MIB as i64, Ordering::SeqCst);
    rig2.drives[1].1.fail_after.store(2 * MIB as i64, Ordering::SeqCst);
    let error = rig2.write(&all, true).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::TooFewPieces { have: 2, need: 3 }), "{error}");
    gone(&rig2).await;
    assert_eq!(rig.pieces(), before);
}

#[tokio::test]
async fn lost_pieces_are_rebuilt_as_they_were() {
    for (k, m) in [(1, 2), (3, 2), (4, 2)] {
        for size in [300_000, 5 * MIB + 17] {
            let n = usize::from(k + m);
            let rig = Rig::new(k, m, n).await;
            let all = bytes(8, size);
            let version = rig.put("o", &all).await;
            let (segment, pack) = match &version.body {
                Body::Packed(segment, _) => (segment.clone(), true),
                Body::Segments(segments) => (segments[0].clone(), false),
                other => panic!("{other:?}"),
            };
            let row = namespace::catalog::group(&*rig.system.read().unwrap(), segment.policy, segment.group);
            let row = <placement::GroupRow as codec::Versioned>::decode(&row.unwrap().unwrap()).unwrap();
            let before: Vec<_> = rig.drives.iter().map(|(_, drive)| drive.pieces.lock().unwrap().clone()).collect();
            let missing: Vec<u8> = (0..m).collect();
            for index in &missing {
                let drive = row.members[usize::from(*index)];
                let (_, drive) = rig.drives.iter().find(|(id, _)| *id == drive).unwrap();
                drive.pieces.lock().unwrap().clear();
            }
            let done = rig.client.rebuild(rig.bucket.volume, segment.id, (segment.policy, &row), &missing).await;
            assert_eq!(done.unwrap().pieces, missing, "{k}+{m} {size} pack: {pack}");
            let after: Vec<_> = rig.drives.iter().map(|(_, drive)| drive.pieces.lock().unwrap().clone()).collect();
            assert!(before == after, "{k}+{m} {size}: rebuilt pieces differ");
        }
    }
}

#[tokio::test]
async fn a_piece_that_moves_is_read_where_it_was_and_rebuilt_if_it_is_damaged_there() {
    for damaged in [false, true] {
        let rig = Rig::new(3, 1, 5).await;
        let version = rig.put("o", &bytes(9, 4 * MIB + 11)).await;
        let Body::Segments(segments) = &version.body else { panic!() };
        let segment = &segments[0];
        let row = namespace::catalog::group(&*rig.system.read().unwrap(), segment.policy, segment.group);
        let mut row = <placement::GroupRow as codec::Versioned>::decode(&row.unwrap().unwrap()).unwrap();
        let drive = |id: base::DriveId| rig.drives.iter().find(|(other, _)| *other == id).unwrap().1.clone();
        let (old, (new, _)) = (row.members[2], rig.drives.iter().find(|(id, _)| !row.members.contains(id)).unwrap());
        row.members[2] = *new;
        let good = drive(old).pieces.lock().unwrap().clone();
        let piece = good.values().next().unwrap().1.len() as u64;
        if damaged {
            drive(old).flip();
        }
        let read = |id: base::DriveId| drive(id).read_bytes.swap(0, std::sync::atomic::Ordering::SeqCst);
        rig.drives.iter().for_each(|(id, _)| _ = read(*id));
        let done = rig.client.rebuild(rig.bucket.volume, segment.id, (segment.policy, &row), &[2]).await.unwrap();
        assert_eq!(done.pieces, [2]);
        assert!(*drive(*new).pieces.lock().unwrap() == good, "it is as it was");
        let others: u64 = rig.drives.iter().map(|(id, _)| *id).filter(|id| *id != old).map(read).sum();
        assert_eq!((read(old), others), (piece, if damaged { 3 * piece } else { 0 }));
    }
}

#[tokio::test]
async fn a_rebuild_never_trusts_a_damaged_piece() {
    let rig = Rig::new(2, 2, 4).await;
    let all = bytes(8, 3 * MIB);
    let version = rig.put("o", &all).await;
    let Body::Segments(segments) = &version.body else { panic!() };
    let segment = &segments[0];
    let row = namespace::catalog::group(&*rig.system.read().unwrap(), segment.policy, segment.group);
    let row = <placement::GroupRow as codec::Versioned>::decode(&row.unwrap().unwrap()).unwrap();
    let drive = |index: usize| &rig.drives.iter().find(|(id, _)| *id == row.members[index]).unwrap().1;
    let good = drive(0).pieces.lock().unwrap().clone();
    drive(0).pieces.lock().unwrap().clear();
    drive(1).flip();
    let done = rig.client.rebuild(rig.bucket.volume, segment.id, (segment.policy, &row), &[0]).await.unwrap();
    assert_eq!((done.pieces, done.damaged), (vec![0], vec![1]));
    assert!(*drive(0).pieces.lock().unwrap() == good);
    // With too few good pieces left nothing is written.
    drive(0).pieces.lock().unwrap().clear();
    drive(2).flip();
    let error = rig.client.rebuild(rig.bucket.volume, segment.id, (segment.policy, &row), &[0]).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::TooFewPieces { .. }), "{error}");
    assert_eq!(drive(0).count(), 0);
}

#[tokio::test]
async fn small_objects_that_come_together_share_a_pack() {
    let rig = Rig::new(2, 1, 3).await;
    let all: Vec<_> = (0..40usize).map(|at| bytes(at as u64, 5000 + 997 * at)).collect();
    let keys: Vec<_> = (0..40).map(|at| format!("o{at}")).collect();
    let puts = all.iter().zip(&keys).map(|(bytes, key)| rig.put(key, bytes));
    let versions = futures_util::future::join_all(puts).await;
    let packs: std::collections::BTreeSet<SegmentId> = versions
        .iter()
        .map(|version| match &version.body {
            Body::Packed(segment, _) => segment.id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(packs.len() < 10, "{} packs for 40 objects", packs.len());
    rig.lose(1);
    for (version, bytes) in versions.iter().zip(&all) {
        rig.check(version, bytes, "packed").await;
    }
}

#[tokio::test]
async fn a_pack_is_compacted_without_a_byte_lost() {
    let rig = Rig::new(2, 1, 3).await;
    let all: Vec<_> = (0..30usize).map(|at| bytes(at as u64, 9000 + 997 * at)).collect();
    let keys: Vec<_> = (0..30).map(|at| format!("o{at}")).collect();
    let versions = futures_util::future::join_all(all.iter().zip(&keys).map(|(bytes, key)| rig.put(key, bytes))).await;
    let Body::Packed(segment, _) = &versions[29].body else { panic!() };
    let pack = segment.id;
    for key in &keys[..20] {
        let delete = Command::Delete { key: key.clone(), version: None, condition: Condition::default() };
        rig.client.commit(&rig.bucket, delete).await.unwrap();
    }
    let done = rig.client.compact_pack(rig.bucket.volume, pack).await.unwrap();
    assert!(done.moved > 0 && done.left == 0, "{done:?}");
    let garbage = namespace::read::garbage(&*rig.volumes.read().unwrap(), rig.bucket.volume, None, 100).unwrap();
    assert!(garbage.iter().any(|garbage| garbage.segment == pack));
    rig.client.delete_pieces(pack, (segment.policy, segment.group), None).await.unwrap();
    for (key, bytes) in keys.iter().zip(&all).skip(20) {
        rig.check(&rig.version(key).await, bytes, key).await;
    }
}

#[tokio::test]
async fn rows_of_one_volume_delete_no_piece_of_another() {
    let rig = Rig::new(2, 1, 3).await;
    let content = bytes(7, 3 * MIB);
    let version = rig.put("own", &content).await;
    let Body::Segments(segments) = &version.body else { panic!() };
    let (segment, place) = (segments[0].id, (segments[0].policy, segments[0].group));
    let other = base::VolumeId(rig.bucket.volume.0 + 1);
    rig.client.delete_pieces(segment, place, Some(other)).await.unwrap();
    rig.check(&version, &content, "own").await;
    rig.client.delete_pieces(segment, place, Some(rig.bucket.volume)).await.unwrap();
    let found = rig.client.verify(&rig.bucket, &version).await.unwrap();
    assert_eq!(found.len(), 3, "its own are deleted: {found:?}");
}

#[tokio::test]
async fn an_upload_of_mixed_parts_is_read_as_one() {
    let rig = Rig::new(2, 1, 3).await;
    let upload = UploadId([5; 16]);
    let begin = Command::BeginUpload { upload, key: "k".into(), attrs: Default::default() };
    rig.client.commit(&rig.bucket, begin).await.unwrap();
    let parts: Vec<_> = [3 * MIB, 70_000, 2 * MIB, 100].iter().map(|size| bytes(*size as u64, *size)).collect();
    for (number, bytes) in (1..).zip(&parts) {
        let Content { size, body } = rig.write(bytes, number % 2 == 0).await.unwrap();
        let part = Part { number, modified: common::wall(), size, etag: "p".into(), attrs: Default::default(), body };
        rig.client.commit(&rig.bucket, Command::PutPart { upload, key: "k".into(), part }).await.unwrap();
    }
    let complete = Command::CompleteUpload {
        upload,
        key: "k".into(),
        parts: (1..=4).map(|number| (number, "p".into())).collect(),
        etag: "done".into(),
        attrs: Default::default(),
        condition: Condition::default(),
    };
    let pieces = rig.pieces();
    rig.client.commit(&rig.bucket, complete).await.unwrap();
    assert_eq!(rig.pieces(), pieces, "completion moves no data");
    let version = rig.version("k").await;
    assert!(matches!(&version.body, Body::Spans(spans) if matches!(spans[0], Span { .. })));
    let all = parts.concat();
    rig.check(&version, &all, "whole").await;
    for range in [0..10, 3 * MIB - 1..3 * MIB + 70_001, all.len() - 101..all.len(), 100..all.len() - 50] {
        let got = rig.get(&version, range.start as u64..range.end as u64).await.unwrap();
        assert!(got == all[range.clone()], "{range:?}");
    }
    // A copy within the bucket shares the bytes.
    let new = new_version(Content { size: version.size, body: version.body.clone() });
    let copy = Command::Put { key: "copy".into(), new, condition: Condition::default() };
    rig.client.commit(&rig.bucket, copy).await.unwrap();
    let delete = Command::Delete { key: "k".into(), version: None, condition: Condition::default() };
    rig.client.commit(&rig.bucket, delete).await.unwrap();
    assert_eq!(rig.pieces(), pieces);
    rig.check(&rig.version("copy").await, &all, "copy").await;
}

#[tokio::test]
async fn buckets_are_seen_at_once_and_forgotten_at_once() {
    let rig = Rig::new(1, 0, 1).await;
    let me = base::UserId("me".into());
    assert!(rig.client.bucket("music").await.unwrap().is_none());
    let made = rig.client.create_bucket("music", &me, "").await.unwrap();
    assert_eq!(rig.client.bucket("music").await.unwrap().unwrap(), made);
    assert_eq!(rig.client.create_bucket("music", &me, "").await.unwrap_err().kind(), Kind::Exists);
    assert_eq!(rig.client.buckets(&me, "", "", 10).await.unwrap().len(), 2);
    rig.put("o", b"abc").await;
    assert_eq!(rig.client.delete_bucket("photos").await.unwrap_err().kind(), Kind::Conflict);
    rig.client.delete_bucket("music").await.unwrap();
    assert!(rig.client.bucket("music").await.unwrap().is_none());
    assert!(rig.client.commit(&made, Command::SetConfig { name: "x".into(), value: None }).await.is_err());
    // Who looked it up before is told that it is gone, not that it is empty.
    let gone = rig.client.find(&made, "o", None, false).await.unwrap_err();
    assert!(matches!(gone, client::Error::Namespace(namespace::Error::Closed)), "{gone}");
    assert!(rig.client.is_closed(&made).await.unwrap());
    assert!(!rig.client.is_closed(&rig.bucket).await.unwrap());
    let missing = rig.client.find(&rig.bucket, "nothing", None, false).await.unwrap_err();
    assert!(matches!(missing, client::Error::Namespace(namespace::Error::NoSuchKey)), "{missing}");
}
