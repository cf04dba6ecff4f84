//! A store on real folders: made, used, hurt, healed, reopened.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test of the real world, which is waited for")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use base::UserId;
use bytes::Bytes;
use client::Bucket;
use env::Env;
use namespace::{Command, Condition, NewVersion};
use node::{Node, Settings, Started, Verb};

struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn drive(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("d{number}"))
    }

    fn settings(&self, drives: impl IntoIterator<Item = usize>) -> Settings {
        let drives = drives.into_iter().map(|number| self.drive(number)).collect();
        let mut settings = Settings::new(drives, self.dir.path().join("home"));
        settings.repair_after = Duration::from_secs(2);
        settings.look_every = Duration::from_millis(100);
        settings.pieces.reserve_bytes = 1 << 20;
        settings
    }

    async fn open(&self, drives: impl IntoIterator<Item = usize>) -> node::Result<Started> {
        Node::open(Env::real(), self.settings(drives)).await
    }

    /// Opens a store that was closed: its last tasks may hold its locks for a moment.
    async fn reopen(&self, drives: std::ops::RangeInclusive<usize>) -> Started {
        for _ in 0..1200 {
            match self.open(drives.clone()).await {
                Ok(started) => return started,
                Err(error) if base::Kinded::kind(&error) == base::Kind::Conflict => {
                    tokio::time::sleep(Duration::from_millis(50)).await
                }
                Err(error) => panic!("{error}"),
            }
        }
        panic!("the locks are not given back")
    }
}

/// Waits for a condition, a minute at the most.
async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    for _ in 0..600 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("waited in vain: {what}");
}

fn bytes_of(number: usize, len: usize) -> Bytes {
    (0..len).map(|at| (at * 7 + number * 131 + at / 251) as u8).collect::<Vec<_>>().into()
}

/// Stores an object; tries again while the store says that it may work then, as every client does.
async fn put(node: &Node, bucket: &Bucket, key: &str, bytes: Bytes) {
    for tries in 0.. {
        match try_put(node, bucket, key, bytes.clone()).await {
            Ok(()) => return,
            Err(error) if base::Kinded::kind(&error).is_transient() && tries < 3 => {}
            Err(error) => panic!("{error}"),
        }
    }
}

async fn try_put(node: &Node, bucket: &Bucket, key: &str, bytes: Bytes) -> Result<(), client::Error> {
    let mut writer = node.client().writer(bucket, Some(bytes.len() as u64));
    writer.write(bytes).await?;
    let content = writer.finish().await?;
    let new = NewVersion { size: content.size, etag: "x".into(), attrs: Default::default(), body: content.body };
    let command = Command::Put { key: key.into(), new, condition: Condition::default() };
    node.client().commit(bucket, command).await.map(|_| ())
}

async fn get(node: &Node, bucket: &Bucket, key: &str) -> Bytes {
    let version = node.client().head(bucket, key, None, true).await.unwrap().into_version();
    let mut stream = node.client().read(bucket, &version, 0..version.size).unwrap();
    let mut all = Vec::new();
    while let Some(bytes) = stream.next().await {
        all.extend_from_slice(&bytes.unwrap());
    }
    all.into()
}

const SIZES: [usize; 5] = [0, 100, 5_000, 300_000, 3_000_000];

async fn fill(node: &Node, bucket: &Bucket, from: usize, count: usize) {
    for number in from..from + count {
        put(node, bucket, &format!("key/{number}"), bytes_of(number, SIZES[number % SIZES.len()])).await;
    }
}

async fn check(node: &Node, bucket: &Bucket, count: usize) {
    for number in 0..count {
        let got = get(node, bucket, &format!("key/{number}")).await;
        assert!(got == bytes_of(number, SIZES[number % SIZES.len()]), "key {number} has other bytes");
    }
}

async fn bucket(node: &Node) -> std::sync::Arc<Bucket> {
    let owner = UserId(node.access().await.unwrap().user);
    match node.client().bucket("bucket").await.unwrap() {
        Some(bucket) => bucket,
        None => node.client().create_bucket("bucket", &owner, "").await.unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_is_there_after_reopening() {
    let world = World::new();
    let started = world.open(1..=6).await.unwrap();
    assert_eq!(started.words.as_ref().unwrap().split(' ').count(), 24);
    let node = started.node;
    let made = bucket(&node).await;
    fill(&node, &made, 0, 10).await;
    let status = node.status().await.unwrap();
    assert_eq!((status.health, status.spare_losses), (node::Health::Green, 2), "{status:?}");
    assert_eq!((status.totals.objects, status.policy.as_str()), (10, "3+2"));
    node.close().await;
    drop(node);

    let started = world.reopen(1..=6).await;
    assert!(started.words.is_none() && started.notes.is_empty(), "{:?}", started.notes);
    check(&started.node, &made, 10).await;
    fill(&started.node, &made, 10, 10).await;
    check(&started.node, &made, 20).await;
    started.node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_two_of_six_drives_may_vanish_and_new_ones_are_filled() {
    let world = World::new();
    let node = world.open(1..=6).await.unwrap().node;
    let made = bucket(&node).await;
    fill(&node, &made, 0, 15).await;
    for gone in [1, 5] {
        std::fs::remove_dir_all(world.drive(gone)).unwrap();
    }
    fill(&node, &made, 15, 5).await;
    check(&node, &made, 20).await;
    until("two drives are seen as down", || async {
        let drives = node.status().await.unwrap().drives;
        drives.iter().filter(|drive| drive.state != "up").count() == 2
    })
    .await;
    fill(&node, &made, 20, 5).await;
    for new in [7, 8] {
        node.add_drive(world.drive(new)).await.unwrap();
    }
    until("everything is repaired", || async {
        let status = node.status().await.unwrap();
        status.repair.pieces == 0 && status.spare_losses >= 2
    })
    .await;
    check(&node, &made, 25).await;
    let verified = node.verify("bucket").await.unwrap();
    assert!(verified.findings.is_empty() && verified.objects == 25, "{verified:?}");
    // The first drives may go as well now.
    for gone in [2, 3] {
        std::fs::remove_dir_all(world.drive(gone)).unwrap();
    }
    check(&node, &made, 25).await;
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_opens_with_two_drives_missing_and_they_may_return() {
    let world = World::new();
    let node = world.open(1..=6).await.unwrap().node;
    let made = bucket(&node).await;
    fill(&node, &made, 0, 10).await;
    node.close().await;
    drop(node);
    let aside = |number: usize| world.dir.path().join(format!("aside{number}"));
    for away in [1, 2] {
        std::fs::rename(world.drive(away), aside(away)).unwrap();
    }
    let started = world.reopen(3..=6).await;
    assert_eq!(started.notes.len(), 2, "{:?}", started.notes);
    let node = started.node;
    check(&node, &made, 10).await;
    fill(&node, &made, 10, 5).await;
    for away in [1, 2] {
        std::fs::rename(aside(away), world.drive(away)).unwrap();
    }
    until("they are back and everything is whole", || async {
        let status = node.status().await.unwrap();
        status.drives.iter().all(|drive| drive.state == "up") && status.spare_losses == 2 && status.repair.pieces == 0
    })
    .await;
    check(&node, &made, 15).await;
    assert!(node.verify("bucket").await.unwrap().findings.is_empty());
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_of_others_are_refused_and_not_touched() {
    let world = World::new();
    let node = world.open(1..=3).await.unwrap().node;
    let error = world.open(1..=3).await.err().unwrap().to_string();
    assert!(error.contains("locked"), "{error}");
    node.close().await;
    drop(node);
    let other = World::new();
    other.open(1..=1).await.unwrap().node.close().await;
    let mut settings = world.settings(1..=3);
    settings.drives.push(other.drive(1));
    let error = Node::open(Env::real(), settings).await.err().unwrap().to_string();
    assert!(error.contains("another store"), "{error}");
    std::fs::create_dir(world.drive(9)).unwrap();
    std::fs::write(world.drive(9).join("thesis.tex"), "text").unwrap();
    let error = world.open([1, 2, 3, 9]).await.err().unwrap().to_string();
    assert!(error.contains("thesis.tex"), "{error}");
    assert_eq!(names(&world.drive(9)), ["thesis.tex"]);
    let error = world.open([1, 2, 2]).await.err().unwrap().to_string();
    assert!(error.contains("twice"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_drive_without_room_is_refused_and_a_store_goes_on_without_it() {
    let world = World::new();
    let full = |drives: &[usize]| {
        let mut settings = world.settings(drives.iter().copied());
        settings.pieces.reserve_bytes = u64::MAX / 2;
        Node::open(Env::real(), settings)
    };
    let error = full(&[1, 2, 3]).await.err().unwrap().to_string();
    assert!(error.contains("no room") && error.contains("name another folder"), "{error}");
    assert!(names(world.dir.path()).is_empty(), "nothing was made");
    let node = world.open(1..=3).await.unwrap().node;
    let made = bucket(&node).await;
    fill(&node, &made, 0, 5).await;
    node.close().await;
    drop(node);
    // Where a drive was mounted there may be an empty folder of a full disk.
    let mut started = full(&[1, 2, 3, 9]).await;
    for _ in 0..1200 {
        let Err(error) = &started else { break };
        assert_eq!(base::Kinded::kind(error), base::Kind::Conflict, "only locks are waited for: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        started = full(&[1, 2, 3, 9]).await;
    }
    let started = started.unwrap();
    assert!(started.notes.iter().any(|note| note.contains("no room")), "{:?}", started.notes);
    check(&started.node, &made, 5).await;
    let error = started.node.add_drive(world.drive(9)).await.unwrap_err().to_string();
    assert!(error.contains("no room"), "{error}");
    assert_eq!(started.node.status().await.unwrap().drives.len(), 3);
    started.node.close().await;
}

fn names(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drive_that_is_needed_is_not_removed_and_a_drained_one_is() {
    let world = World::new();
    let node = world.open(1..=6).await.unwrap().node;
    let made = bucket(&node).await;
    fill(&node, &made, 0, 10).await;
    let path = world.drive(3).display().to_string();
    let error = node.change(Verb::Remove, std::slice::from_ref(&path), true, None).await.unwrap_err().to_string();
    assert!(error.contains("still have pieces there") && error.contains("drain"), "{error}");
    let plan = node.change(Verb::Drain, std::slice::from_ref(&path), false, None).await.unwrap();
    assert!(!plan.applied && node.status().await.unwrap().drives.iter().all(|drive| drive.state == "up"));
    node.change(Verb::Drain, std::slice::from_ref(&path), true, None).await.unwrap();
    until("the drained drive can be removed", || async {
        node.change(Verb::Remove, std::slice::from_ref(&path), true, None).await.is_ok()
    })
    .await;
    let status = node.status().await.unwrap();
    assert_eq!((status.drives.len(), status.spare_losses), (5, 2), "{status:?}");
    check(&node, &made, 10).await;
    assert!(node.verify("bucket").await.unwrap().findings.is_empty());
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_are_found_by_a_scrub_and_repaired() {
    let world = World::new();
    let node = world.open(1..=6).await.unwrap().node;
    let made = bucket(&node).await;
    fill(&node, &made, 0, 10).await;
    let mut flipped = 0;
    for entry in walk(&world.drive(2).join("pieces")) {
        let mut bytes = std::fs::read(&entry).unwrap();
        if bytes.len() > 100_000 {
            let at = bytes.len() / 2;
            bytes[at] ^= 0x10;
            // In place: the store has the file open.
            use std::os::unix::fs::FileExt;
            std::fs::OpenOptions::new()
                .write(true)
                .open(&entry)
                .unwrap()
                .write_all_at(&bytes[at..=at], at as u64)
                .unwrap();
            flipped += 1;
        }
    }
    assert!(flipped > 0);
    check(&node, &made, 10).await;
    let scrubbed = node.scrub().await.unwrap();
    until("damage is repaired", || async {
        node.status().await.unwrap().repair.pieces == 0 && node.verify("bucket").await.unwrap().findings.is_empty()
    })
    .await;
    let again = node.scrub().await.unwrap();
    assert_eq!((again.damaged, again.missing), (0, 0), "after {scrubbed:?}");
    node.close().await;
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_whose_code_needs_more_drives_than_are_left_still_takes_writes() {
    let world = World::new();
    let node = world.open(1..=6).await.unwrap().node;
    let made = bucket(&node).await;
    node.set_policy("bucket", "4+2", None).await.unwrap();
    fill(&node, &made, 0, 5).await;
    assert!(node.manifest("bucket/key/4").await.unwrap().segments.iter().all(|segment| segment.drives.len() == 6));
    for number in [2, 5] {
        std::fs::remove_dir_all(world.drive(number)).unwrap();
    }
    until("both drives are missed", || async {
        node.status().await.unwrap().drives.iter().filter(|drive| drive.state != "up").count() == 2
    })
    .await;
    fill(&node, &made, 5, 5).await;
    check(&node, &made, 10).await;
    assert!(node.manifest("bucket/key/9").await.unwrap().segments.iter().all(|segment| segment.drives.len() < 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn older_data_takes_the_code_of_new_data_and_a_weaker_one_is_refused() {
    const COUNT: usize = 15;
    let world = World::new();
    let settings = Settings { recode_after: Duration::from_millis(300), ..world.settings(1..=6) };
    let node = Node::open(Env::real(), settings).await.unwrap().node;
    let made = bucket(&node).await;
    fill(&node, &made, 0, COUNT).await;
    let codes = async || {
        let mut all = Vec::new();
        for number in 0..COUNT {
            all.extend(node.manifest(&format!("bucket/key/{number}")).await.unwrap().segments);
        }
        all.into_iter().map(|segment| segment.code).collect::<Vec<_>>()
    };
    assert!(codes().await.iter().all(|code| code == "3+2"), "{:?}", codes().await);
    node.set_policy("bucket", "4+2", None).await.unwrap();
    until("all of it has the new code", || async { codes().await.iter().all(|code| code == "4+2") }).await;
    check(&node, &made, COUNT).await;
    assert!(node.verify("bucket").await.unwrap().findings.is_empty());

    let refused = node.set_policy("bucket", "2 copies", None).await.unwrap_err().to_string();
    assert!(refused.contains("would survive the loss of") && refused.contains("nothing was changed"), "{refused}");
    assert!(node.set_policy("bucket", "2 copies", Some("00000000")).await.is_err());
    assert_eq!(node.policies().await.unwrap()[1].code, "4+2");
    let code = refused.rsplit(' ').next().unwrap();
    let again = node.set_policy("bucket", "2 copies", None).await.unwrap_err().to_string();
    if again == refused {
        node.set_policy("bucket", "2 copies", Some(code)).await.unwrap();
    } else {
        // Its code is worth nothing once anything changed: then there is another one.
        node.set_policy("bucket", "2 copies", again.rsplit(' ').next()).await.unwrap();
    }
    until("it has that code", || async { codes().await.iter().all(|code| code == "2 copies") }).await;
    check(&node, &made, COUNT).await;
    let trail = node.trail(10).unwrap();
    assert_eq!(trail.len(), 2);
    assert!(trail[0].overridden.is_empty() && !trail[1].overridden.is_empty(), "{trail:?}");
    node.close().await;
}
