//! A shard on real directories: mirrors that vanish, return, join.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use crate::common;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::Seq;
use base::kv::Batch;
use common::{drive, key, mirror};
use crypt::MetaKey;
use env::Env;
use metastore::{Embedded, Error, MemberSet, Options, ShardStore};

fn options() -> Options {
    Options { reserve_bytes: 0, ..Options::default() }
}

async fn open(root: &Path, numbers: &[u8], expected: Option<MemberSet>) -> Result<Arc<Embedded>, Error> {
    common::open_in(&Env::real(), root, numbers, expected, options()).await
}

fn value(number: u64) -> Vec<u8> {
    let len = if number.is_multiple_of(2) { 40 } else { 5000 };
    number.to_le_bytes().into_iter().cycle().take(len).collect()
}

/// Commits rows `from..to`, each a batch, in groups.
async fn fill(store: &Embedded, from: u64, to: u64) {
    let (epoch, mut head) = store.position();
    for group in (from..to).collect::<Vec<_>>().chunks(7) {
        let mut batches = Vec::new();
        for number in group {
            let mut batch = Batch::default();
            batch.put(number.to_be_bytes(), value(*number)).event(number.to_be_bytes());
            batches.push(batch);
        }
        head = store.commit(epoch, head, batches).await.unwrap();
    }
}

/// Every row `0..to` is there, and so is every entry of the journal.
fn check(store: &Embedded, to: u64) {
    let snapshot = store.snapshot().unwrap();
    assert_eq!(snapshot.at(), Seq(to));
    let rows = snapshot.range(&[0][..]..&[255][..], usize::MAX, false).unwrap();
    assert_eq!(rows.len() as u64, to);
    for (number, (key, found)) in rows.into_iter().enumerate() {
        assert_eq!(key, (number as u64).to_be_bytes());
        assert_eq!(found, value(number as u64));
        assert_eq!(snapshot.get(&key).unwrap(), Some(found));
    }
    let entries = store.tail(&metastore::Cursor::start(), usize::MAX).unwrap();
    assert_eq!(entries.iter().map(|entry| entry.seq.0).collect::<Vec<_>>(), (1..=to).collect::<Vec<_>>());
}

#[tokio::test]
async fn rows_outlive_closing_and_dropping() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &[1, 2, 3], None).await.unwrap();
    fill(&store, 0, 50).await;
    check(&store, 50);
    store.checkpoint().await.unwrap();
    check(&store, 50);
    fill(&store, 50, 80).await;
    drop(store);
    let store = common::open_when_free(&Env::real(), dir.path(), &[1, 2, 3], options()).await;
    check(&store, 80);
    fill(&store, 80, 100).await;
    store.close().await.unwrap();
    let (epoch, head) = store.position();
    let refused = store.commit(epoch, head, vec![Batch::default()]).await;
    assert!(matches!(refused, Err(Error::Fenced { .. })), "{refused:?}");
    let store = open(dir.path(), &[1, 2, 3], None).await.unwrap();
    check(&store, 100);
    for name in ["log-0000000000000001", "log-0000000000000002"] {
        let copies: Vec<Vec<u8>> =
            (1..=3).map(|at| std::fs::read(mirror(dir.path(), at).dir.join(name)).unwrap()).collect();
        assert!(copies[0] == copies[1] && copies[1] == copies[2], "{name} differs between mirrors");
    }
}

#[tokio::test]
async fn a_second_owner_is_locked_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &[1, 2], None).await.unwrap();
    assert!(matches!(open(dir.path(), &[1, 2], None).await, Err(Error::Locked { .. })));
    drop(store);
    common::open_when_free(&Env::real(), dir.path(), &[1, 2], options()).await;
}

#[tokio::test]
async fn commits_go_on_when_the_first_mirror_is_deleted_and_a_new_one_joins() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &[1, 2, 3], None).await.unwrap();
    let mut members = store.watch_members();
    fill(&store, 0, 30).await;
    store.checkpoint().await.unwrap();
    fill(&store, 30, 40).await;
    std::fs::remove_dir_all(dir.path().join("d1")).unwrap();
    fill(&store, 40, 60).await;
    members.wait_for(|set| set.drives == [drive(2), drive(3)]).await.unwrap();
    check(&store, 60);
    store.checkpoint().await.unwrap();
    fill(&store, 60, 70).await;
    let expected = store.members();
    store.close().await.unwrap();

    let store = open(dir.path(), &[2, 3], Some(expected)).await.unwrap();
    check(&store, 70);
    store.add_mirror(mirror(dir.path(), 4)).await.unwrap();
    assert_eq!(store.members().drives, [drive(2), drive(3), drive(4)]);
    fill(&store, 70, 90).await;
    check(&store, 90);
    store.close().await.unwrap();

    let expected = store.members();
    let alone = open(dir.path(), &[4], Some(expected.clone())).await.unwrap();
    check(&alone, 90);
    fill(&alone, 90, 95).await;
    let newer = alone.members();
    alone.close().await.unwrap();
    // The others missed that.
    let stale = open(dir.path(), &[2, 3], Some(newer.clone())).await;
    assert!(matches!(stale, Err(Error::Stale { .. })), "{:?}", stale.err());
    // With the one that has it all they are left out, and brought up when asked.
    let store = open(dir.path(), &[2, 3, 4], Some(newer)).await.unwrap();
    assert_eq!(store.members().drives, [drive(4)]);
    check(&store, 95);
    store.add_mirror(mirror(dir.path(), 2)).await.unwrap();
    fill(&store, 95, 99).await;
    store.close().await.unwrap();
    let newest = store.members();
    std::fs::remove_dir_all(dir.path().join("d4")).unwrap();
    let store = open(dir.path(), &[2], Some(newest)).await.unwrap();
    check(&store, 99);
}

#[tokio::test]
async fn another_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &[1], None).await.unwrap();
    fill(&store, 0, 3).await;
    store.close().await.unwrap();
    let mirrors = vec![mirror(dir.path(), 1)];
    let other = Embedded::open(&Env::real(), 7, mirrors, &MetaKey::new([8; 32]), None, Options::default()).await;
    assert!(matches!(other, Err(Error::Foreign { .. })), "{:?}", other.err());
    let mirrors = vec![mirror(dir.path(), 1)];
    let other = Embedded::open(&Env::real(), 8, mirrors, &key(), None, Options::default()).await;
    assert!(matches!(other, Err(Error::Foreign { .. })), "{:?}", other.err());
    let store = open(dir.path(), &[1], None).await.unwrap();
    check(&store, 3);
}

/// Flips a bit of the last byte of a file that was ever written.
fn rot(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[at] ^= 4;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_mirror_whose_member_set_rotted_is_a_mirror_still() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &[1, 2, 3], None).await.unwrap();
    fill(&store, 0, 60).await;
    store.close().await.unwrap();
    rot(&mirror(dir.path(), 1).dir.join("members"));
    rot(&mirror(dir.path(), 2).dir.join("members"));
    let store = open(dir.path(), &[1, 2, 3], None).await.unwrap();
    assert_eq!(store.members().drives, [drive(1), drive(2), drive(3)]);
    let remembered = store.members();
    store.close().await.unwrap();
    // With no mirror's own word left, what the drives remember counts.
    rot(&mirror(dir.path(), 2).dir.join("members"));
    let store = open(dir.path(), &[2], Some(remembered)).await.unwrap();
    check(&store, 60);
    let newer = store.members();
    assert_eq!(newer.drives, [drive(2)]);
    store.close().await.unwrap();
    // One that the newest set doesn't name is none, rotten or not.
    rot(&mirror(dir.path(), 1).dir.join("members"));
    let stale = open(dir.path(), &[1, 3], Some(newer)).await;
    assert!(matches!(stale, Err(Error::Stale { .. })), "{:?}", stale.err());
}

#[tokio::test]
async fn what_rots_on_mirrors_is_put_right_by_a_scrub() {
    let dir = tempfile::tempdir().unwrap();
    let store = common::open_in(&Env::real(), dir.path(), &[1, 2, 3], None, common::small()).await.unwrap();
    fill(&store, 0, 60).await;
    store.checkpoint().await.unwrap();
    fill(&store, 60, 90).await;
    let clean = store.scrub(Duration::ZERO).await.unwrap();
    assert!(clean.bytes > 0 && clean.damaged == 0, "{clean:?}");
    // Each file of which there is one in another mirror, in every mirror another one.
    let mut logs: Vec<_> =
        std::fs::read_dir(mirror(dir.path(), 2).dir).unwrap().map(|one| one.unwrap().path()).collect();
    logs.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("log-"));
    logs.sort();
    assert!(logs.len() > 2, "sealed files and the one that is written: {logs:?}");
    rot(&mirror(dir.path(), 1).dir.join("members"));
    rot(&mirror(dir.path(), 1).dir.join("map"));
    rot(&logs[0]);
    rot(logs.last().unwrap());
    let found = store.scrub(Duration::ZERO).await.unwrap();
    assert_eq!((found.damaged, found.left), (4, 0), "{found:?}");
    let clean = store.scrub(Duration::ZERO).await.unwrap();
    assert_eq!(clean.damaged, 0, "{clean:?}");
    assert_eq!(store.members().drives.len(), 3, "a mirror was given up for what could be mended");
    check(&store, 90);
    fill(&store, 90, 120).await;
    store.checkpoint().await.unwrap();
    store.close().await.unwrap();
    // Each has everything by itself.
    for number in 1..=3 {
        let copy = tempfile::tempdir().unwrap();
        let (from, to) = (mirror(dir.path(), number).dir, mirror(copy.path(), number).dir);
        std::fs::create_dir_all(&to).unwrap();
        for file in std::fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
        let alone = common::open_in(&Env::real(), copy.path(), &[number], None, common::small()).await.unwrap();
        check(&alone, 120);
    }
}
