//! What a caller may rely on, on real files.

use std::sync::Arc;
use std::time::Duration;

use base::{Kind, Kinded, PieceId, SegmentId, Wall};
use bytes::Bytes;
use env::Env;
use piecestore::{Options, PieceStore};

fn id(n: u32) -> PieceId {
    let mut segment = [0xa5; 16];
    segment[..4].copy_from_slice(&n.to_le_bytes());
    PieceId { segment: SegmentId(segment), index: (n % 7) as u8 }
}

fn body(n: u32, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u32).wrapping_mul(2_654_435_761).wrapping_add(n * 97).to_le_bytes()[3]).collect()
}

fn options() -> Options {
    Options {
        log_bytes: 64 * 1024,
        extent_file_bytes: 1024 * 1024,
        large_min: 16 * 1024,
        reserve_bytes: 0,
        trash_min_age: Duration::from_secs(60),
        expiry_bucket: Duration::from_secs(3600),
        ..Options::default()
    }
}

async fn open(dir: &std::path::Path) -> Arc<PieceStore> {
    PieceStore::open(Env::real(), dir.join("pieces"), options()).await.expect("open")
}

async fn put(store: &Arc<PieceStore>, n: u32, len: usize) {
    let header = Bytes::from(format!("header of {n}"));
    store.put(id(n), header, vec![body(n, len).into()], 1000, None).await.expect("put");
}

async fn check(store: &Arc<PieceStore>, n: u32, len: usize) {
    let whole = store.read(id(n), 0, len as u64).await.expect("read");
    assert!(whole == body(n, len), "piece {n}");
    assert_eq!(store.header(id(n)).await.expect("header"), format!("header of {n}"));
    if len > 1500 {
        let part = store.read(id(n), 999, 502).await.expect("read range");
        assert_eq!(part[..], body(n, len)[999..1501]);
    }
}

#[tokio::test]
async fn what_was_put_is_read_back_now_and_after_reopen() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path()).await;
    let sizes = [0, 1, 999, 1000, 1001, 5000, 16 * 1024, 100_000, 300_000];
    for (n, len) in sizes.into_iter().enumerate() {
        put(&store, n as u32, len).await;
        check(&store, n as u32, len).await;
    }
    drop(store);
    for _ in 0..2 {
        let store = open(dir.path()).await;
        for (n, len) in sizes.into_iter().enumerate() {
            check(&store, n as u32, len).await;
        }
        assert_eq!(store.health().pieces, sizes.len() as u64);
        store.close().await.expect("close");
    }
}

#[tokio::test]
async fn a_large_piece_comes_in_parts_and_a_dropped_one_leaves_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path()).await;
    let bytes = body(9, 200_000);
    let mut writer = store.create(id(9), 1000, 500_000, None).await.expect("create");
    for part in bytes.chunks(7_777) {
        let (a, b) = part.split_at(part.len() / 3);
        writer.write(vec![Bytes::copy_from_slice(a), Bytes::copy_from_slice(b)]).await.expect("write");
    }
    let mut dropped = store.create(id(10), 1000, 500_000, None).await.expect("create");
    dropped.write(vec![bytes.clone().into()]).await.expect("write");
    drop(dropped);
    writer.finish(Bytes::from_static(b"header of 9")).await.expect("finish");
    check(&store, 9, 200_000).await;
    assert_eq!(store.stat(id(10)).await.expect_err("dropped").kind(), Kind::Missing);
    let store = {
        drop(store);
        open(dir.path()).await
    };
    check(&store, 9, 200_000).await;
    let too_much = store.create(id(11), 1000, 10, None).await.expect("create").write(vec![bytes.into()]).await;
    assert_eq!(too_much.expect_err("too long").kind(), Kind::Invalid);
}

#[tokio::test]
async fn deleted_pieces_can_be_taken_back_until_the_trash_is_emptied() {
    let dir = tempfile::tempdir().expect("dir");
    let mut store = open(dir.path()).await;
    for n in 0..4 {
        put(&store, n, 20_000 * n as usize).await;
    }
    assert_eq!(store.delete((0..9).map(id).collect()).await.expect("delete"), 4);
    assert_eq!(store.delete(vec![id(0)]).await.expect("delete again"), 0);
    for reopen in [false, true] {
        if reopen {
            drop(store);
            store = open(dir.path()).await;
        }
        assert_eq!(store.read(id(1), 0, 1).await.expect_err("deleted").kind(), Kind::Missing);
        assert_eq!(store.undelete(vec![id(1), id(8)]).await.expect("undelete"), 1);
        check(&store, 1, 20_000).await;
        assert_eq!(store.delete(vec![id(1)]).await.expect("delete"), 1);
    }
    assert_eq!(store.undelete(vec![id(2)]).await.expect("undelete"), 1);
    let now = Env::real().clock.wall();
    assert_eq!(store.empty_trash(now).await.expect("too young"), 0);
    assert_eq!(store.empty_trash(now + Duration::from_secs(61)).await.expect("empty"), 3);
    assert_eq!(store.undelete((0..4).map(id).collect()).await.expect("gone"), 0);
    for reopen in [false, true] {
        if reopen {
            drop(store);
            store = open(dir.path()).await;
        }
        check(&store, 2, 40_000).await;
        let health = store.health();
        assert_eq!((health.pieces, health.trash_pieces, health.trash_bytes), (1, 0, 0));
    }
}

#[tokio::test]
async fn a_replaced_piece_has_the_new_bytes_for_ever() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path()).await;
    for len in [500, 30_000, 40_000, 700] {
        put(&store, 1, len).await;
        check(&store, 1, len).await;
        assert_eq!(store.stat(id(1)).await.expect("stat").len, len as u64);
    }
    drop(store);
    let store = open(dir.path()).await;
    check(&store, 1, 700).await;
    assert_eq!(store.health().pieces, 1);
}

#[tokio::test]
async fn cleaning_gives_room_back_and_loses_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let mut store = open(dir.path()).await;
    for n in 0..200 {
        put(&store, n, 3000 + n as usize).await;
    }
    let doomed: Vec<PieceId> = (0..200).filter(|n| n % 5 != 0).map(id).collect();
    store.delete(doomed).await.expect("delete");
    store.undelete(vec![id(1)]).await.expect("undelete");
    let later = Env::real().clock.wall() + Duration::from_secs(61);
    store.empty_trash(later).await.expect("empty");
    store.delete(vec![id(5)]).await.expect("delete");
    let before = used(dir.path());
    let mut steps = 0;
    while !store.clean_step(10_000).await.expect("clean").is_done {
        steps += 1;
        assert!(steps < 1000, "cleaning never ends");
    }
    let after = used(dir.path());
    assert!(after < before / 2, "{before} bytes before, {after} after");
    for reopen in [false, true] {
        if reopen {
            drop(store);
            store = open(dir.path()).await;
        }
        for n in (0..200).filter(|n| (n % 5 == 0 && *n != 5) || *n == 1) {
            check(&store, n, 3000 + n as usize).await;
        }
        let health = store.health();
        assert_eq!((health.pieces, health.trash_pieces), (40, 1));
    }
    assert_eq!(store.undelete(vec![id(5)]).await.expect("undelete"), 1);
    check(&store, 5, 3005).await;
}

fn used(dir: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(dir.join("pieces")).expect("list");
    entries.map(|entry| entry.expect("entry").metadata().expect("metadata").len()).sum()
}

#[tokio::test]
async fn expired_pieces_go_with_their_logs() {
    let dir = tempfile::tempdir().expect("dir");
    let mut store = open(dir.path()).await;
    let hour = 3_600_000;
    for n in 0..6u32 {
        let expiry = Some(Wall(hour * (1 + u64::from(n) / 2) + 5));
        let len = if n % 2 == 0 { 100 } else { 20_000 };
        store.put(id(n), Bytes::new(), vec![body(n, len).into()], 1000, expiry).await.expect("put");
    }
    put(&store, 9, 100).await;
    assert_eq!(store.expire(Wall(hour + 10)).await.expect("bucket not over"), 0);
    assert_eq!(store.expire(Wall(2 * hour)).await.expect("expire"), 2);
    for reopen in [false, true] {
        if reopen {
            drop(store);
            store = open(dir.path()).await;
        }
        assert_eq!(store.stat(id(0)).await.expect_err("expired").kind(), Kind::Missing);
        assert_eq!(store.stat(id(1)).await.expect_err("expired").kind(), Kind::Missing);
        assert_eq!(store.stat(id(2)).await.expect("still there").expiry, Some(Wall(2 * hour + 5)));
        assert_eq!(store.read(id(5), 0, 20_000).await.expect("still there"), body(5, 20_000));
        assert_eq!(store.health().pieces, 5);
    }
    assert_eq!(store.expire(Wall(9 * hour)).await.expect("expire"), 4);
    check(&store, 9, 100).await;
}

#[tokio::test]
async fn a_listing_names_each_live_piece_once() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path()).await;
    for n in 0..100 {
        put(&store, n, 1000 * (n as usize % 20)).await;
    }
    put(&store, 3, 77).await;
    store.delete(vec![id(4)]).await.expect("delete");
    let mut seen = std::collections::BTreeMap::new();
    let mut cursor = None;
    loop {
        let (page, next) = store.list(cursor, 7).await.expect("list");
        assert!(page.len() <= 7);
        for (id, info) in page {
            assert_eq!(seen.insert(id, info.len), None);
        }
        cursor = next;
        if next.is_none() {
            break;
        }
    }
    let want: Vec<(PieceId, u64)> =
        (0..100).filter(|n| *n != 4).map(|n| (id(n), if n == 3 { 77 } else { 1000 * u64::from(n % 20) })).collect();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), {
        let mut want = want;
        want.sort();
        want
    });
}
