//! Drives that fail: errors, no room, flipped bits, a folder that goes.
#![allow(clippy::disallowed_methods)]

mod world;

use std::collections::BTreeSet;
use std::sync::Arc;

use base::{Kind, Kinded, Wall};
use env::Env;
use piecestore::{Condition, Options, PieceStore, State};
use world::model::{LARGE_MIN, Play, TRASH_AGE_MS, Version, id, live, open, options, put};
use world::{Chance, Fail, World, Wrong};

const IDS: u32 = 8;

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("runtime").block_on(work)
}

fn version(serial: u32, len: usize) -> Version {
    Version { serial, len, cell: 300, expiry: None }
}

/// A history during which the `from`th change and `count - 1` more go wrong; then all is well.
async fn stormy(seed: u64, fail: Fail) {
    let mut play = Play::begin(seed, IDS).await;
    play.faulty = true;
    play.world.fail(Some(fail));
    for _ in 0..25 {
        play.round().await;
    }
    play.world.fail(None);
    if fail.kind == Wrong::Eio {
        let failed = play.world.mutations() > fail.from;
        assert_eq!(play.store.health().state != State::Ok, failed, "a failed write fences, nothing else does");
    } else {
        assert_eq!(play.store.health().state, State::Ok, "no room is no reason to fence");
        for _ in 0..5 {
            play.faulty = false;
            play.round().await;
        }
    }
    play.faulty = true;
    play.reopen(false).await;
    play.faulty = false;
    for _ in 0..5 {
        play.round().await;
    }
    play.finish().await;
}

#[test]
fn any_change_may_fail_for_want_of_room_and_nothing_acknowledged_is_lost() {
    let seed = 11;
    for from in (0..150).chain((150..400).step_by(7)) {
        for count in [1, 3, 20] {
            let fail = Fail { from: from + 20, count, kind: Wrong::Full };
            eprintln!("seed {seed}, {fail:?}");
            run(stormy(seed + from as u64, fail));
        }
    }
}

#[test]
fn any_change_may_fail_with_an_error_and_nothing_acknowledged_is_lost() {
    let seed = 1100;
    for from in (0..150).chain((150..400).step_by(7)) {
        let fail = Fail { from: from + 20, count: 1, kind: Wrong::Eio };
        eprintln!("seed {seed}, {fail:?}");
        run(stormy(seed + from as u64, fail));
    }
}

#[test]
fn a_fenced_store_refuses_writes_and_goes_on_reading() {
    run(async {
        let world = World::new(1);
        let store = open(&world).await.expect("open");
        put(&store, 1, &version(1, 700)).await.expect("put");
        put(&store, 2, &version(2, 2 * LARGE_MIN)).await.expect("put");
        world.fail(Some(Fail { from: world.mutations(), count: 1, kind: Wrong::Eio }));
        assert_eq!(put(&store, 3, &version(3, 10)).await.expect_err("the write fails").kind(), Kind::Unreachable);
        for len in [10, 2 * LARGE_MIN] {
            assert_eq!(put(&store, 4, &version(4, len)).await.expect_err("fenced").kind(), Kind::Unreachable);
        }
        assert_eq!(store.delete(vec![id(1)]).await.expect_err("fenced").kind(), Kind::Unreachable);
        assert!(matches!(store.health().state, State::Failed(_)));
        assert_eq!(live(&store, 1).await.expect("still there").1, version(1, 700).body());
        assert_eq!(live(&store, 2).await.expect("still there").1, version(2, 2 * LARGE_MIN).body());
    });
}

#[test]
fn a_piece_that_cannot_be_read_is_not_told_as_missing() {
    run(async {
        for sealed in [false, true] {
            let world = World::new(1);
            let mut store = open(&world).await.expect("open");
            put(&store, 1, &version(1, 700)).await.expect("put");
            put(&store, 2, &version(2, 2 * LARGE_MIN)).await.expect("put");
            if sealed {
                store.close().await.expect("close");
                store = open(&world).await.expect("open");
            }
            world.fail_reads(true);
            for n in [1, 2] {
                assert_eq!(store.read(id(n), 0, 10).await.expect_err("eio").kind(), Kind::Unreachable);
                assert_eq!(store.stat(id(n)).await.expect_err("eio").kind(), Kind::Unreachable);
                if sealed {
                    // Nobody knows whose record it is: saying that it isn't there would be a lie.
                    assert_eq!(store.delete(vec![id(n)]).await.expect_err("eio").kind(), Kind::Unreachable);
                    assert_eq!(put(&store, n, &version(9, 9)).await.expect_err("eio").kind(), Kind::Unreachable);
                }
            }
            assert_eq!(store.stat(id(3)).await.expect_err("never was").kind(), Kind::Missing);
            assert!(store.health().read_errors > 0);
            world.fail_reads(false);
            assert_eq!(store.health().state, State::Ok);
            assert!(live(&store, 1).await.is_some() && live(&store, 2).await.is_some());
        }
    });
}

#[test]
fn a_full_drive_keeps_its_reserve_and_still_reads_and_deletes() {
    run(async {
        let world = World::new(5);
        let settings = Options { reserve_bytes: 100_000, ..options() };
        let store = PieceStore::open(world.env(), "/d/pieces".into(), settings).await.expect("open");
        // Drives report their room; nothing says no but the reserve.
        world.set_capacity(Some(400_000));
        let mut stored = 0;
        let full = loop {
            let len = if stored % 3 == 0 { 9_000 } else { 2_000 };
            match put(&store, stored, &version(stored, len)).await {
                Ok(()) => stored += 1,
                Err(error) => break error,
            }
            assert!(stored < 1000, "the drive never fills");
        };
        assert!(matches!(full.kind(), Kind::Busy { .. }), "{full}");
        assert!(full.to_string().contains("drive is full"), "{full}");
        assert!(400_000 - world.used() >= 80_000, "the reserve was eaten: {} used", world.used());
        for n in 0..stored {
            assert!(live(&store, n).await.is_some(), "{n} of {stored}");
        }
        assert_eq!(store.delete((0..stored).filter(|n| n % 4 != 0).map(id).collect()).await.expect("delete"), {
            (0..stored).filter(|n| n % 4 != 0).count() as u64
        });
        let later = Wall(world.wall() + TRASH_AGE_MS);
        store.empty_trash(later).await.expect("empty the trash");
        let mut steps = 0;
        while !store.clean_step(10_000).await.expect("clean on a full drive").is_done {
            steps += 1;
            assert!(steps < 1000, "cleaning never ends");
        }
        for n in 0..20 {
            put(&store, 5000 + n, &version(7, 500)).await.expect("there is room again");
        }
        assert_eq!(store.health().state, State::Ok);
    });
}

/// Which pieces a byte of a log belongs to: those of the record, and what it speaks of.
fn owners(log: &[u8], at: usize) -> BTreeSet<u32> {
    let report = piecestore::inspect::log(log).expect("a whole log");
    let record = report.records.iter().find(|r| (r.offset..r.offset + r.bytes).contains(&(at as u64)));
    let number = |id: &[u8; 16]| u32::from_le_bytes([id[0], id[1], id[2], id[3]]);
    record.map(|record| number(&record.id.segment.0)).into_iter().collect()
}

const ROTTING: u32 = 9;

/// Pieces of all sorts: small and large, replaced, deleted, taken back.
async fn rotting(world: &Arc<World>) -> Arc<PieceStore> {
    let store = open(world).await.expect("open");
    for n in 0..ROTTING {
        let len = if n % 4 == 3 { LARGE_MIN + 100 } else { 150 + n as usize };
        put(&store, n, &version(n, len)).await.expect("put");
    }
    put(&store, 4, &version(104, 222)).await.expect("replace");
    store.delete(vec![id(5)]).await.expect("delete");
    store.delete(vec![id(6)]).await.expect("delete");
    store.undelete(vec![id(6)]).await.expect("undelete");
    put(&store, 8, &version(108, 99)).await.expect("replace");
    store
}

fn current(n: u32) -> Option<Version> {
    match n {
        5 => None,
        4 => Some(version(104, 222)),
        8 => Some(version(108, 99)),
        _ => Some(version(n, if n % 4 == 3 { LARGE_MIN + 100 } else { 150 + n as usize })),
    }
}

/// Reads piece `n` and says whether it has its right bytes; wrong ones are never given.
async fn is_right(store: &Arc<PieceStore>, n: u32, missing_is_fine: bool, what: &str) -> bool {
    let wanted = current(n);
    let len = match store.stat(id(n)).await {
        Ok(info) => info.len,
        Err(error) => {
            let told = error.kind() == Kind::Damaged || (missing_is_fine && error.kind() == Kind::Missing);
            assert!(told || wanted.is_none(), "{what}: stat of {n}: {error}");
            return wanted.is_none() && error.kind() == Kind::Missing;
        }
    };
    match store.read(id(n), 0, len).await {
        Ok(body) => {
            let header = store.header(id(n)).await.expect("header");
            let is_any = wanted.is_some_and(|v| v.body() == body[..] && v.header() == header);
            let is_old = missing_is_fine && version(n, body.len()).body() == body[..];
            assert!(is_any || is_old, "{what}: wrong bytes of {n}");
            is_any
        }
        Err(error) => {
            assert_eq!(error.kind(), Kind::Damaged, "{what}: read of {n}: {error}");
            false
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_is_told_and_costs_no_other_piece() {
    run(async {
        for sealed in [false, true] {
            let world = World::new(77);
            let store = rotting(&world).await;
            if sealed {
                store.close().await.expect("close");
            }
            drop(store);
            let image = world.image();
            let mut chance = Chance(5);
            for (path, inode, len) in world.files() {
                let bytes = image.files[&inode].clone();
                let is_log = path.to_string_lossy().contains("/log-");
                // Of the zeros written ahead, and of large bodies, samples do.
                let filled = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                let dense = |at: &usize| if is_log { *at >= 4096 && *at < filled } else { *at < 32 };
                for at in (0..len).filter(|at| dense(at) || at % 97 == 0) {
                    let bit = chance.below(8) as u8;
                    let what = format!("sealed {sealed}, {}, bit {bit} of byte {at}", path.display());
                    let hit = if is_log { owners(&bytes, at) } else { BTreeSet::new() };
                    rot(&image, inode, at, bit, is_log.then_some(hit), sealed, &what).await;
                }
            }
        }
    });
}

async fn rot(
    image: &world::Image,
    inode: u64,
    at: usize,
    bit: u8,
    hit: Option<BTreeSet<u32>>,
    sealed: bool,
    what: &str,
) {
    let world = World::from(image.clone(), 9, 2_000_000);
    world.flip(inode, at, bit);
    let store = open(&world).await.expect(what);
    let mut wrong = BTreeSet::new();
    for n in 0..ROTTING {
        if !is_right(&store, n, !sealed && hit.is_some(), what).await {
            wrong.insert(n);
        }
    }
    match hit {
        Some(hit) => assert!(wrong.is_subset(&hit), "{what} hit {hit:?}, but {wrong:?} are lost"),
        None => assert!(wrong.len() <= 1, "{what} cost {wrong:?}"),
    }
    let mut cursor = None;
    let mut found = BTreeSet::new();
    loop {
        let step = store.scrub_step(cursor, 1_000_000).await.expect("scrub");
        found.extend(step.findings.iter().filter(|f| f.condition == Condition::Damaged).map(|f| f.id));
        match step.next {
            None => break,
            next => cursor = next,
        }
    }
    // What is damaged is found by scrubbing, and can be replaced.
    for n in wrong {
        if store.contains(id(n)).await.expect("contains") && current(n).is_some() {
            let read = store.read(id(n), 0, 0).await.and(match store.stat(id(n)).await {
                Ok(info) => store.read(id(n), 0, info.len).await,
                Err(error) => Err(error),
            });
            assert!(read.is_ok() || found.contains(&id(n)), "{what}: scrubbing didn't find {n}");
        }
        put(&store, n, &version(500 + n, 300)).await.expect("replace a damaged piece");
        assert_eq!(live(&store, n).await.expect("replaced").1, version(500 + n, 300).body(), "{what}");
    }
}

#[tokio::test]
async fn a_folder_deleted_under_the_store_is_noticed() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("drive").join("pieces");
    let store = PieceStore::open(Env::real(), path.clone(), options()).await.expect("open");
    put(&store, 1, &version(1, 500)).await.expect("put");
    store.check_path().await.expect("all is well");
    std::fs::remove_dir_all(dir.path().join("drive")).expect("rm -rf");
    put(&store, 2, &version(2, 500)).await.expect("open files still take writes");
    assert_eq!(store.check_path().await.expect_err("noticed").kind(), Kind::Unreachable);
    assert!(matches!(store.health().state, State::Failed(_)));
    assert_eq!(put(&store, 3, &version(3, 500)).await.expect_err("fenced").kind(), Kind::Unreachable);
    // A new folder at the same place is another store.
    std::fs::create_dir_all(&path).expect("mkdir");
    assert!(store.check_path().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cleaning_never_looks_like_a_folder_that_went() {
    let dir = tempfile::tempdir().expect("dir");
    let store = PieceStore::open(Env::real(), dir.path().join("pieces"), options()).await.expect("open");
    let checks = {
        let store = store.clone();
        tokio::spawn(async move {
            loop {
                store.check_path().await.expect("the folder is there");
                if let Err(error) = store.scrub_step(None, 100_000).await {
                    panic!("{error}");
                }
                tokio::task::yield_now().await;
            }
        })
    };
    for round in 0..40u32 {
        for n in 0..30 {
            put(&store, n, &version(round * 100 + n, 900)).await.expect("put");
        }
        while !store.clean_step(100_000).await.expect("clean").is_done {}
    }
    checks.abort();
    assert!(checks.await.expect_err("aborted").is_cancelled(), "a check failed");
    assert_eq!(store.health().state, State::Ok);
}

#[test]
fn a_log_that_cannot_be_opened_keeps_large_pieces_where_they_are() {
    run(async {
        let mut play = Play::begin(21, IDS).await;
        for n in 0..4 {
            put(&play.store, n, &version(n, LARGE_MIN * 2)).await.expect("put");
        }
        play.store.close().await.expect("close");
        let whole = play.world.image();
        let log =
            play.world.files().into_iter().find(|file| file.0.to_string_lossy().contains("/log-")).expect("a log");
        // The log is unreadable for one run of the store: head, footer and records.
        let mut broken = whole.clone();
        broken.files.insert(log.1, vec![0xff; log.2]);
        play.world = World::from(broken, 3, 2_000_000);
        play.store = open(&play.world).await.expect("open");
        assert_eq!(play.store.health().lost_logs, 1);
        for n in 10..20 {
            put(&play.store, n, &version(n, LARGE_MIN * 2)).await.expect("put");
        }
        while !play.store.clean_step(1_000_000).await.expect("clean").is_done {}
        drop(play.store);
        // It can be read again.
        let mut healed = play.world.image();
        healed.files.insert(log.1, whole.files[&log.1].clone());
        let world = World::from(healed, 4, 3_000_000);
        let store = open(&world).await.expect("open");
        for n in (0..4).chain(10..20) {
            let (_, body) = live(&store, n).await.expect("there");
            assert_eq!(body, version(n, LARGE_MIN * 2).body());
        }
        assert_eq!(store.health().pieces, 14);
    });
}
