#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stderr, reason = "tests of the real world")]

use std::path::Path;

use base::kv::{Batch, Row};
use base::{UserId, Wall};
use bytes::Bytes;
use client::{Bucket, Content};
use namespace::{Body, Command, Condition, NewVersion, Part, UploadId, Version};

use super::*;
use crate::fleet::lock;
use crate::node::PAGE;
use crate::{Node, Settings};

/// Three drives; what is freed is collected at once.
async fn store(dir: &Path) -> (Node, Arc<Bucket>) {
    let drives = (0..3).map(|drive| dir.join(format!("d{drive}"))).collect();
    let mut settings = Settings::new(drives, dir.join("home"));
    settings.pieces.reserve_bytes = 1 << 20;
    (settings.undo_for, settings.garbage_after) = (Duration::ZERO, Duration::ZERO);
    let node = Node::open(env::Env::real(), settings).await.unwrap().node;
    let owner = UserId(node.access().await.unwrap().user);
    let bucket = node.client().create_bucket("bucket", &owner, "").await.unwrap();
    (node, bucket)
}

fn bytes_of(number: u64, len: usize) -> Bytes {
    (0..len as u64).map(|at| (at * 7 + number * 131 + at / 251) as u8).collect::<Vec<_>>().into()
}

struct Objects<'a> {
    node: &'a Node,
    bucket: &'a Bucket,
}

impl Objects<'_> {
    async fn write(&self, bytes: Bytes) -> Content {
        let mut writer = self.node.client().writer(self.bucket, Some(bytes.len() as u64));
        writer.write(bytes).await.unwrap();
        writer.finish().await.unwrap()
    }

    async fn commit(&self, command: Command) {
        self.node.client().commit(self.bucket, command).await.unwrap();
    }

    async fn put(&self, key: &str, size: u64, body: Body) {
        let new = NewVersion { size, etag: "e".into(), attrs: Default::default(), body };
        self.commit(Command::Put { key: key.into(), new, condition: Condition::default() }).await;
    }

    async fn head(&self, key: &str) -> Version {
        self.node.client().head(self.bucket, key, None, true).await.unwrap().into_version()
    }

    /// As S3's CopyObject does it within a bucket: the new key names the same segments.
    async fn copy(&self, from: &str, to: &str) {
        let version = self.head(from).await;
        self.put(to, version.size, version.body).await;
    }

    async fn delete(&self, key: &str) {
        self.commit(Command::Delete { key: key.into(), version: None, condition: Condition::default() }).await;
    }

    async fn upload(&self, key: &str, upload: u64, bytes: Bytes) {
        let (half, all) = (bytes.len() / 2, bytes);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&upload.to_le_bytes());
        let (upload, name) = (UploadId(id), || key.to_owned());
        self.commit(Command::BeginUpload { upload, key: name(), attrs: Default::default() }).await;
        let mut parts = Vec::new();
        for (number, range) in [(1, 0..half), (2, half..all.len())] {
            let Content { size, body } = self.write(all.slice(range)).await;
            let etag = format!("part{number}");
            parts.push((number, etag.clone()));
            let part = Part { number, modified: Wall(0), size, etag, attrs: Default::default(), body };
            self.commit(Command::PutPart { upload, key: name(), part }).await;
        }
        let (etag, attrs, condition) = ("whole".into(), Default::default(), Condition::default());
        self.commit(Command::CompleteUpload { upload, key: name(), parts, etag, attrs, condition }).await;
    }

    async fn check(&self, key: &str, bytes: &Bytes) {
        let version = self.head(key).await;
        let mut stream = self.node.client().read(self.bucket, &version, 0..version.size).unwrap();
        let mut all = Vec::new();
        while let Some(part) = stream.next().await {
            all.extend_from_slice(&part.unwrap());
        }
        assert!(all == *bytes, "{key} has other bytes");
    }
}

/// Numbers from a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }
}

/// Storj's collector made a list of what to keep from rows that changed while it read them: a copy that sorted behind
/// the cursor, whose original was deleted ahead of it, was on no list, and nodes deleted pieces that were in use (its
/// commit d6feadb8dd). Here everything is renamed, copied, completed and deleted between any two steps of the walks.
#[tokio::test(flavor = "multi_thread")]
async fn no_live_piece_goes_though_copies_renames_completions_and_deletes_pass_the_walk() {
    const SEED: u64 = 0x5706;
    eprintln!("seed {SEED:#x}");
    let dir = tempfile::tempdir().unwrap();
    let (node, bucket) = store(dir.path()).await;
    let objects = Objects { node: &node, bucket: &bucket };
    let mut chance = Chance(SEED);
    let mut model: BTreeMap<String, Bytes> = BTreeMap::new();
    let mut serial = 0;
    let mut fresh = |chance: &mut Chance| {
        serial += 1;
        (serial, bytes_of(serial, [6_000, 90_000, 1_200_000][chance.below(3)] + serial as usize))
    };
    for _ in 0..20 {
        let (number, bytes) = fresh(&mut chance);
        let key = format!("m/{number}");
        let content = objects.write(bytes.clone()).await;
        objects.put(&key, content.size, content.body).await;
        model.insert(key, bytes);
    }
    for round in 0..6 {
        for drive in node.0.fleet.up() {
            let mut at = Orphans::default();
            while matches!(at, Orphans::Walk(_)) {
                at = node.0.look_for_orphans(&drive, at, 3).await;
                let (number, bytes) = fresh(&mut chance);
                let from = model.keys().nth(chance.below(model.len())).unwrap().clone();
                // Behind the cursor of whoever reads keys in order, or ahead of it.
                let to = format!("{}/{number}", ["a", "z"][chance.below(2)]);
                match chance.below(8) {
                    0..4 => {
                        objects.copy(&from, &to).await;
                        objects.delete(&from).await;
                        let moved = model.remove(&from).unwrap();
                        model.insert(to, moved);
                    }
                    4 => {
                        objects.copy(&from, &to).await;
                        model.insert(to, model[&from].clone());
                    }
                    5 => {
                        objects.upload(&to, number, bytes.clone()).await;
                        model.insert(to, bytes);
                    }
                    6 => {
                        let content = objects.write(bytes.clone()).await;
                        objects.put(&from, content.size, content.body).await;
                        model.insert(from, bytes);
                    }
                    _ if model.len() > 10 => {
                        objects.delete(&from).await;
                        model.remove(&from);
                    }
                    _ => {}
                }
                if chance.below(4) == 0 {
                    node.0.keep_volumes().await.unwrap();
                }
            }
            assert_eq!(at, Orphans::Done, "round {round}");
        }
    }
    for (key, bytes) in &model {
        objects.check(key, bytes).await;
    }
    let verified = node.verify("bucket").await.unwrap();
    assert!(verified.findings.is_empty(), "{:?}", verified.findings);
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_collected_lies_in_the_drives_trash_and_comes_back_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let (node, bucket) = store(dir.path()).await;
    let objects = Objects { node: &node, bucket: &bucket };
    let bytes = bytes_of(1, 1_500_000);
    let content = objects.write(bytes.clone()).await;
    objects.put("a", content.size, content.body).await;
    let Body::Segments(segments) = objects.head("a").await.body else { panic!("an object of its own segments") };
    let held = || {
        let ids = segments.iter().flat_map(|one| (0..one.k + one.m).map(|index| PieceId { segment: one.id, index }));
        let ids: Vec<PieceId> = ids.collect();
        let drives = node.0.fleet.up();
        async move {
            let mut held = Vec::new();
            for drive in drives {
                for piece in &ids {
                    if drive.store.contains(*piece).await.unwrap() {
                        held.push((drive.clone(), *piece));
                    }
                }
            }
            held
        }
    };
    let before = held().await;
    assert_eq!(before.len(), 3 * segments.len());
    objects.delete("a").await;
    // Freed at this millisecond it is collected from the next one on.
    while !held().await.is_empty() {
        node.0.keep_volumes().await.unwrap();
    }
    for (drive, piece) in &before {
        assert_eq!(drive.store.undelete(vec![*piece]).await.unwrap(), 1, "{piece} is in the trash of {}", drive.id);
    }
    assert_eq!(held().await.len(), before.len());
    node.close().await;
}

/// Takes rows that name these segments away, or puts them back.
struct Rows(Vec<Row>);

impl Rows {
    async fn take(node: &Node, volume: VolumeId, segments: &[SegmentId]) -> Self {
        let shard = node.0.shards.get(catalog::shard_of(volume)).unwrap();
        let shard = client::Shard::new(node.0.env.clone(), shard);
        let names = |key: &[u8]| segments.iter().any(|one| key.windows(16).any(|part| part == one.0));
        let taken = shard.execute(|view| {
            let rows = view.range(&[][..]..&[0xff; 16][..], usize::MAX, false)?;
            let taken: Vec<Row> = rows.into_iter().filter(|(key, _)| names(key)).collect();
            let dels = taken.iter().map(|(key, _)| key.clone()).collect();
            Ok((Batch { dels, ..Batch::default() }, taken))
        });
        Self(taken.await.unwrap())
    }

    async fn put_back(self, node: &Node, volume: VolumeId) {
        let shard = node.0.shards.get(catalog::shard_of(volume)).unwrap();
        let shard = client::Shard::new(node.0.env.clone(), shard);
        let put = |_: &dyn base::kv::View| Ok((Batch { puts: self.0.clone(), ..Batch::default() }, ()));
        shard.execute(put).await.unwrap();
    }
}

async fn search(node: &Node, drive: &Arc<Mounted>) -> Orphans {
    let mut at = Orphans::default();
    while matches!(at, Orphans::Walk(_)) {
        at = node.0.look_for_orphans(drive, at, 50).await;
    }
    at
}

async fn pieces(drive: &Mounted) -> usize {
    drive.store.list(None, 10_000).await.unwrap().0.len()
}

async fn reasons(node: &Node) -> Vec<String> {
    let reasons = node.status().await.unwrap().reasons;
    reasons.into_iter().filter(|why| why.contains("named by nothing")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_vanished_or_shrank_cost_no_piece_and_the_store_says_so_for_a_week() {
    let dir = tempfile::tempdir().unwrap();
    let (node, bucket) = store(dir.path()).await;
    let (inner, volume) = (&node.0, bucket.volume);
    let objects = Objects { node: &node, bucket: &bucket };
    for number in 0..120 {
        let content = objects.write(bytes_of(number, 6_000)).await;
        objects.put(&format!("{number}"), content.size, content.body).await;
    }
    // The node's own walks are over: nobody else looks while rows are gone.
    while !lock(&inner.upkeep).rests(3, inner.env.clock.now()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let segments = inner.scan(volume, move |view| namespace::read::segments(view, volume, None, PAGE)).await.unwrap();
    let segments: Vec<SegmentId> = segments.into_iter().map(|one| one.segment).collect();
    let drive = inner.fleet.up().swap_remove(0);
    let all = pieces(&drive).await;
    assert!(segments.len() >= 120 && all >= 120, "a piece of each segment is on each of three drives: {all}");

    // All of them, and two thirds.
    for gone in [&segments[..], &segments[..80]] {
        let rows = Rows::take(&node, volume, gone).await;
        assert!(matches!(search(&node, &drive).await, Orphans::Rest(_)));
        assert_eq!(pieces(&drive).await, all, "nothing went");
        let told = reasons(&node).await;
        assert!(told.len() == 1 && told[0].contains(&format!("{} of {all} pieces", gone.len())), "{told:?}");
        assert!(told[0].contains("7 more days") && told[0].contains("recover"), "{told:?}");
        // Another task may be writing it down just now.
        while !node.events(50).await.unwrap().iter().any(|event| event.area == "garbage" && event.severity == "warning")
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        rows.put_back(&node, volume).await;
        assert_eq!(search(&node, &drive).await, Orphans::Done);
        assert!(reasons(&node).await.is_empty(), "the rows are back");
    }
    for number in 0..120 {
        objects.check(&format!("{number}"), &bytes_of(number, 6_000)).await;
    }

    // A week later it is believed.
    let gone = &segments[..80];
    Rows::take(&node, volume, gone).await;
    assert!(matches!(search(&node, &drive).await, Orphans::Rest(_)));
    inner.lives_until(inner.age().unwrap() + KEPT_FOR).await;
    assert_eq!(search(&node, &drive).await, Orphans::Done);
    assert_eq!(pieces(&drive).await, all - gone.len());
    assert!(reasons(&node).await.is_empty());

    // Little is garbage as ever.
    Rows::take(&node, volume, &segments[80..90]).await;
    assert_eq!(search(&node, &drive).await, Orphans::Done);
    assert_eq!(pieces(&drive).await, all - gone.len() - 10);
    node.close().await;
}

#[test]
fn what_is_kept_is_read_back() {
    let kept = Kept { since: Duration::from_secs(5), nameless: 70, seen: 100 };
    assert_eq!(Kept::read(kept.text().as_bytes()), Some(kept));
    for text in ["", "1 2", "x 1 2", "1 2 -3"] {
        assert_eq!(Kept::read(text.as_bytes()), None, "{text}");
    }
    assert!(
        !is_too_much(64, 64)
            && !is_too_much(100, 400)
            && is_too_much(101, 400)
            && is_too_much(u64::MAX / 2, u64::MAX / 2)
    );
}
