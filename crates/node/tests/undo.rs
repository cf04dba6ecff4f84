//! What was deleted can be had back, on real folders; what would end that, or lower safety, passes the gate.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test of the real world, which is waited for")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::UserId;
use bytes::Bytes;
use client::Bucket;
use env::Env;
use namespace::{Command, Condition, NewVersion};
use node::{Error, Node, Plan, Settings, Verb};

struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn drive(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("d{number}"))
    }

    async fn open(undo_for: Duration) -> (Self, Node) {
        let world = Self { dir: tempfile::tempdir().unwrap() };
        let drives = (1..=6).map(|number| world.drive(number)).collect();
        let mut settings = Settings::new(drives, world.dir.path().join("home"));
        settings.pieces.reserve_bytes = 1 << 20;
        settings.garbage_after = Duration::ZERO;
        settings.undo_for = undo_for;
        let node = Node::open(Env::real(), settings).await.unwrap().node;
        (world, node)
    }
}

async fn make(node: &Node, name: &str) -> Arc<Bucket> {
    let owner = UserId(node.access().await.unwrap().user);
    node.client().create_bucket(name, &owner, "").await.unwrap()
}

fn bytes_of(number: usize, len: usize) -> Bytes {
    (0..len).map(|at| (at * 7 + number * 131) as u8).collect::<Vec<_>>().into()
}

async fn put(node: &Node, bucket: &Bucket, key: &str, bytes: Bytes) {
    let mut writer = node.client().writer(bucket, Some(bytes.len() as u64));
    writer.write(bytes).await.unwrap();
    let content = writer.finish().await.unwrap();
    let new = NewVersion { size: content.size, etag: "x".into(), attrs: Default::default(), body: content.body };
    let command = Command::Put { key: key.into(), new, condition: Condition::default() };
    node.client().commit(bucket, command).await.unwrap();
}

async fn delete(node: &Node, bucket: &Bucket, key: &str) {
    let command = Command::Delete { key: key.into(), version: None, condition: Condition::default() };
    node.client().commit(bucket, command).await.unwrap();
}

async fn get(node: &Node, bucket: &Bucket, key: &str) -> Option<Bytes> {
    let found = match node.client().head(bucket, key, None, true).await {
        Ok(found) => found.into_version(),
        Err(error) if base::Kinded::kind(&error) == base::Kind::Missing => return None,
        Err(error) => panic!("{error}"),
    };
    let mut stream = node.client().read(bucket, &found, 0..found.size).unwrap();
    let mut all = Vec::new();
    while let Some(bytes) = stream.next().await {
        all.extend_from_slice(&bytes.unwrap());
    }
    Some(all.into())
}

/// Inline, packed, in segments.
const SIZES: [usize; 3] = [900, 60_000, 2_500_000];
const DAY: Duration = Duration::from_secs(86_400);

async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    for _ in 0..900 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("waited in vain: {what}");
}

fn refused(done: node::Result<Plan>) -> String {
    match done {
        Err(Error::Refused(why)) => why,
        other => panic!("it wasn't refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_object_an_overwritten_one_and_a_deleted_bucket_come_back_whole() {
    let (_world, node) = World::open(DAY).await;
    let bucket = make(&node, "photos").await;
    for (number, size) in SIZES.into_iter().enumerate() {
        put(&node, &bucket, &format!("k{number}"), bytes_of(number, size)).await;
    }
    for number in 0..3 {
        delete(&node, &bucket, &format!("k{number}")).await;
    }
    let list = node.deleted(None, 10).await.unwrap();
    assert_eq!((list.versions, list.bytes as usize, list.keep_secs), (3, SIZES.iter().sum(), 86_400));
    assert_eq!(list.items[0].key.as_deref(), Some("k2"), "the newest first");
    let status = node.status().await.unwrap();
    assert_eq!((status.totals.objects, status.totals.deleted), (0, 3));
    // One, then all that is left, then one by its id.
    assert_eq!(node.undo("photos/k0", None).await.unwrap().objects, 1);
    assert_eq!(node.undo("photos", None).await.unwrap().objects, 2);
    for (number, size) in SIZES.into_iter().enumerate() {
        assert_eq!(get(&node, &bucket, &format!("k{number}")).await.unwrap(), bytes_of(number, size));
    }
    put(&node, &bucket, "k1", bytes_of(9, 70_000)).await;
    let id = node.deleted(Some("photos"), 10).await.unwrap().items[0].id.clone();
    node.undo(&id, None).await.unwrap();
    assert_eq!(get(&node, &bucket, "k1").await.unwrap(), bytes_of(1, SIZES[1]));
    // What it replaced can be had back in turn.
    node.undo("photos/k1", None).await.unwrap();
    assert_eq!(get(&node, &bucket, "k1").await.unwrap(), bytes_of(9, 70_000));
    assert!(node.undo("photos/nothing", None).await.is_err());

    node.client().set_config(&bucket, "s3.cors", Some(b"x".to_vec())).await.unwrap();
    assert!(refused(node.delete_bucket("photos", false, true, None).await).contains("--with-contents"));
    let why = refused(node.delete_bucket("photos", true, true, None).await);
    assert!(why.contains("3 objects") && why.contains("would be deleted with it"), "{why}");
    let plan = node.delete_bucket("photos", true, false, None).await.unwrap();
    assert!(plan.refused && !plan.applied);
    assert!(node.delete_bucket("photos", true, true, plan.code.as_deref()).await.unwrap().applied);
    assert!(node.client().bucket("photos").await.unwrap().is_none());
    // Its name is free, and whoever took it isn't disturbed.
    let other = make(&node, "photos").await;
    let id = node.deleted(Some("photos"), 1).await.unwrap().items[0].id.clone();
    assert!(node.undo(&id, None).await.unwrap_err().to_string().contains("--as"));
    let back = node.undo(&id, Some("photos-2")).await.unwrap();
    assert_eq!((back.bucket.as_str(), back.was_bucket, back.objects), ("photos-2", true, 3));
    let back = node.client().bucket("photos-2").await.unwrap().unwrap();
    assert_eq!(get(&node, &back, "k2").await.unwrap(), bytes_of(2, SIZES[2]));
    assert_eq!(node.client().config(&back, "s3.cors").await.unwrap(), Some(b"x".to_vec()));
    put(&node, &back, "new", bytes_of(4, 10)).await;
    assert!(get(&node, &other, "k2").await.is_none());
    assert!(node.verify("photos-2").await.unwrap().findings.is_empty());
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_purged_or_older_than_the_window_is_gone_for_good() {
    let (_world, node) = World::open(Duration::from_secs(5)).await;
    let bucket = make(&node, "photos").await;
    let pieces = async || node.status().await.unwrap().drives.iter().map(|drive| drive.pieces).sum::<u64>();
    let empty = pieces().await;
    for number in 0..3 {
        put(&node, &bucket, &format!("k{number}"), bytes_of(number, SIZES[2])).await;
    }
    delete(&node, &bucket, "k0").await;
    until("the window passes", || async { node.deleted(None, 10).await.unwrap().versions == 0 }).await;
    assert!(node.undo("photos/k0", None).await.is_err());
    // Longer is no harm; shorter gives up what is older.
    assert!(node.keep_deleted(DAY, true, None).await.unwrap().applied);
    delete(&node, &bucket, "k1").await;
    assert!(refused(node.keep_deleted(Duration::ZERO, true, None).await).contains("could still be had back"));
    assert!(refused(node.purge(Some("photos"), true, None).await).contains("gone for ever"));
    let code = node.purge(Some("photos"), false, None).await.unwrap().code;
    delete(&node, &bucket, "k2").await;
    assert!(node.purge(Some("photos"), true, code.as_deref()).await.is_err(), "the code is of another outcome");
    let code = node.purge(None, false, None).await.unwrap().code;
    assert!(node.purge(None, true, code.as_deref()).await.unwrap().applied);
    assert_eq!(node.deleted(None, 10).await.unwrap().items.len(), 0);
    put(&node, &bucket, "k3", bytes_of(3, SIZES[1])).await;
    let code = node.delete_bucket("photos", true, false, None).await.unwrap().code;
    node.delete_bucket("photos", true, true, code.as_deref()).await.unwrap();
    let code = node.purge(Some("photos"), false, None).await.unwrap().code;
    node.purge(Some("photos"), true, code.as_deref()).await.unwrap();
    assert!(node.undo("photos", None).await.is_err());
    until("no piece is left", || async { pieces().await <= empty }).await;
    assert!(node.trail(20).unwrap().iter().any(|plan| plan.change.contains("delete bucket photos")));
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_gated_command_refuses_what_lowers_safety_and_changes_nothing() {
    let (world, node) = World::open(DAY).await;
    let bucket = make(&node, "photos").await;
    for number in 0..6 {
        put(&node, &bucket, &format!("k{number}"), bytes_of(number, SIZES[number % 3])).await;
    }
    put(&node, &bucket, "gone", bytes_of(8, SIZES[1])).await;
    delete(&node, &bucket, "gone").await;
    let drive = |number: usize| world.drive(number).display().to_string();
    let five: Vec<String> = (1..=5).map(drive).collect();
    let all: Vec<String> = (1..=6).map(drive).collect();
    for (what, targets) in [(Verb::Drain, &five), (Verb::Drain, &all), (Verb::Remove, &five), (Verb::Expunge, &five)] {
        let shown = node.change(what, targets, false, None).await.unwrap();
        assert!(shown.refused && !shown.reasons.is_empty() && !shown.allowed.is_empty(), "{what:?}: {shown:?}");
        assert!(!shown.outcome.is_empty() && shown.code.is_some(), "{what:?}");
        let why = refused(node.change(what, targets, true, None).await);
        assert!(shown.reasons.iter().all(|reason| why.contains(reason)), "{what:?}: {why}");
        refused(node.change(what, targets, true, Some("00000000")).await);
    }
    for (what, done) in [
        ("set policy", node.set_policy("photos", "1 copy", None).await.map(drop)),
        ("default policy", node.set_default_policy("1 copy", None).await.map(drop)),
        ("bucket delete", node.delete_bucket("photos", true, true, None).await.map(drop)),
        ("bucket delete, wrong code", node.delete_bucket("photos", true, true, Some("00000000")).await.map(drop)),
        ("purge", node.purge(None, true, None).await.map(drop)),
        ("purge, wrong code", node.purge(Some("photos/gone"), true, Some("00000000")).await.map(drop)),
        ("shorter window", node.keep_deleted(Duration::ZERO, true, None).await.map(drop)),
    ] {
        let why = done.unwrap_err().to_string();
        assert!(why.contains("nothing was changed"), "{what}: {why}");
    }
    assert_eq!(node.trail(10).unwrap().len(), 0, "nothing was applied");
    assert!(node.status().await.unwrap().drives.iter().all(|drive| drive.state == "up"));
    for number in 0..6 {
        assert_eq!(get(&node, &bucket, &format!("k{number}")).await.unwrap(), bytes_of(number, SIZES[number % 3]));
    }
    assert_eq!(node.undo("photos/gone", None).await.unwrap().objects, 1);
    node.close().await;
}
