//! Random histories of everything a volume can do, with faults, against a map of bytes.
#![allow(clippy::unwrap_used)]

use crate::common;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use client::{Content, DriveState};
use common::{Rig, bytes};
use namespace::{Body, Command, Condition, Part, UploadId, VersionId};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRng, TestRunner};

#[derive(Clone, Debug)]
enum Op {
    Put(u8, usize, u64),
    Together(u64),
    Delete(u8),
    Copy(u8, u8),
    Read(u8, u32, u32),
    Parts(u8, Vec<usize>, u64),
    Refused(usize),
    /// This drive and the one after it.
    Away(u8, u8),
    Rot(u8),
    Repair,
    Compact,
    Collect,
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        3 => 0usize..5000,
        4 => 4097usize..200_000,
        2 => prop::sample::select(vec![65_535, 65_536, 65_537, 3 * 65_536, 3 * 65_536 + 1, 1 << 20, (1 << 20) + 1]),
        1 => (1usize << 20)..(3 << 20),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0u8..8;
    prop_oneof![
        5 => (key.clone(), size(), any::<u64>()).prop_map(|(key, size, seed)| Op::Put(key, size, seed)),
        2 => any::<u64>().prop_map(Op::Together),
        2 => key.clone().prop_map(Op::Delete),
        3 => (key.clone(), 0u8..8).prop_map(|(from, to)| Op::Copy(from, to)),
        4 => (key.clone(), any::<u32>(), any::<u32>()).prop_map(|(key, a, b)| Op::Read(key, a, b)),
        1 => (key, prop::collection::vec(size(), 1..4), any::<u64>()).prop_map(|(key, sizes, seed)| Op::Parts(key, sizes, seed)),
        1 => size().prop_map(Op::Refused),
        2 => (0u8..6, 0u8..3).prop_map(|(at, how)| Op::Away(at, how)),
        1 => (0u8..6).prop_map(Op::Rot),
        1 => Just(Op::Repair),
        2 => Just(Op::Compact),
        2 => Just(Op::Collect),
    ]
}

type Oracle = BTreeMap<String, Vec<u8>>;

/// One run of a history.
struct Run {
    rig: Rig,
    oracle: Oracle,
    away: Vec<usize>,
    /// A drive was away at some time.
    lossy: bool,
    uploads: u64,
}

impl Run {
    fn name(key: u8) -> String {
        format!("folder/{key}")
    }

    async fn step(&mut self, op: Op) {
        match op {
            Op::Put(key, size, seed) => self.put(Self::name(key), bytes(seed, size)).await,
            Op::Together(seed) => {
                let all: Vec<_> = (0..8u8)
                    .map(|at| (Self::name(at), bytes(seed ^ u64::from(at), 5000 + usize::from(at) * 3333)))
                    .collect();
                futures_util::future::join_all(all.iter().map(|(key, bytes)| self.rig.put(key, bytes))).await;
                self.oracle.extend(all);
            }
            Op::Delete(key) => {
                self.rig.delete(&Self::name(key)).await;
                self.oracle.remove(&Self::name(key));
            }
            Op::Copy(from, to) => {
                let Some(bytes) = self.oracle.get(&Self::name(from)).cloned() else { return };
                self.rig.copy(&self.rig.version(&Self::name(from)).await, &Self::name(to)).await.unwrap();
                self.oracle.insert(Self::name(to), bytes);
            }
            Op::Read(key, a, b) => self.read(&Self::name(key), a, b).await,
            Op::Parts(key, sizes, seed) => self.parts(Self::name(key), sizes, seed).await,
            Op::Refused(size) => {
                let content = self.rig.write(&bytes(1, size), false).await.unwrap();
                let condition = Condition { if_match: Some(vec!["never".into()]), ..Condition::default() };
                let put = Command::Put { key: Self::name(0), new: common::new_version(content), condition };
                assert!(self.rig.client.commit(&self.rig.bucket, put).await.is_err());
            }
            Op::Away(at, how) => self.away(usize::from(at), how).await,
            Op::Rot(at) => {
                self.away(usize::from(at), 3).await;
            }
            Op::Repair => self.back().await,
            Op::Compact => self.compact().await,
            Op::Collect => self.rig.collect().await,
        }
    }

    async fn put(&mut self, key: String, bytes: Vec<u8>) {
        self.rig.put(&key, &bytes).await;
        self.oracle.insert(key, bytes);
    }

    async fn read(&self, key: &str, a: u32, b: u32) {
        let found = self.rig.client.head(&self.rig.bucket, key, None, true).await;
        let Some(want) = self.oracle.get(key) else {
            assert!(found.is_err());
            return;
        };
        let version = found.unwrap().into_version();
        let at = |x: u32| (u64::from(x) * (want.len() as u64 + 1)) >> 32;
        let range = at(a).min(at(b))..at(a).max(at(b));
        let got = self.rig.get(&version, range.clone()).await.unwrap();
        assert!(got == want[range.start as usize..range.end as usize], "{key} {range:?}");
    }

    async fn parts(&mut self, key: String, sizes: Vec<usize>, seed: u64) {
        self.uploads += 1;
        let upload = UploadId(u128::from(self.uploads).to_be_bytes());
        let (client, bucket) = (&self.rig.client, &self.rig.bucket);
        let begin = Command::BeginUpload { upload, key: key.clone(), attrs: Default::default() };
        client.commit(bucket, begin).await.unwrap();
        let mut all = Vec::new();
        for (number, size) in (1..).zip(&sizes) {
            let bytes = bytes(seed + u64::from(number), *size);
            let Content { size, body } = self.rig.write(&bytes, true).await.unwrap();
            let part =
                Part { number, modified: common::wall(), size, etag: "p".into(), attrs: Default::default(), body };
            client.commit(bucket, Command::PutPart { upload, key: key.clone(), part }).await.unwrap();
            all.extend(bytes);
        }
        let complete = Command::CompleteUpload {
            upload,
            key: key.clone(),
            parts: (1..=sizes.len() as u16).map(|number| (number, "p".into())).collect(),
            etag: "e".into(),
            attrs: Default::default(),
            condition: Condition::default(),
        };
        client.commit(bucket, complete).await.unwrap();
        self.oracle.insert(key, all);
    }

    /// At most one drive is away or wrong at a time: with 3+2, writes need four of five.
    async fn away(&mut self, at: usize, how: u8) {
        self.back().await;
        self.lossy = true;
        let (id, drive) = &self.rig.drives[at];
        match how {
            0 => self.rig.client.drives().set_state(*id, DriveState::Gone),
            1 => drive.dead.store(true, Ordering::SeqCst),
            2 => drive.pieces.lock().unwrap().clear(),
            _ => drive.flip(),
        }
        self.away.push(at);
    }

    /// All drives are back, and every segment is whole again.
    async fn back(&mut self) {
        for at in self.away.drain(..) {
            let (id, drive) = &self.rig.drives[at];
            drive.dead.store(false, Ordering::SeqCst);
            self.rig.client.drives().set_state(*id, DriveState::Up);
        }
        // Nobody is suspect any more.
        self.rig.clock.jump(Duration::from_secs(60));
        for key in self.oracle.keys() {
            let version = self.rig.version(key).await;
            for found in self.rig.client.verify(&self.rig.bucket, &version).await.unwrap() {
                let row = self.rig.client.group(found.policy, found.group).await.unwrap();
                let (segment, index) = (found.piece.segment, found.piece.index);
                let done =
                    self.rig.client.rebuild(found.volume, segment, (found.policy, &row), &[index]).await.unwrap();
                assert_eq!(done.pieces, [index]);
            }
            assert!(self.rig.client.verify(&self.rig.bucket, &version).await.unwrap().is_empty());
        }
    }

    async fn compact(&self) {
        let mut packs = std::collections::BTreeSet::new();
        for key in self.oracle.keys() {
            let body = self.rig.version(key).await.body;
            let bodies = match body {
                Body::Spans(spans) => spans.into_iter().map(|span| span.body).collect(),
                body => vec![body],
            };
            packs.extend(bodies.iter().filter_map(|body| match body {
                Body::Packed(segment, _) => Some(segment.id),
                _ => None,
            }));
        }
        for pack in packs {
            let done = self.rig.client.compact_pack(self.rig.bucket.volume, pack).await.unwrap();
            assert!(done.moved > 0 && done.left == 0);
        }
    }

    async fn end(mut self) {
        self.back().await;
        for (key, bytes) in &self.oracle {
            self.rig.check(&self.rig.version(key).await, bytes, key).await;
        }
        // All that is deleted goes, and nothing else ever was.
        self.rig.clock.jump(client::UNCOMMITTED_MAX);
        self.rig.client.sweep_uncommitted().await.unwrap();
        for key in self.oracle.keys() {
            self.rig.delete(key).await;
        }
        self.rig.collect().await;
        if !self.lossy {
            return self.rig.gone().await;
        }
        // Pieces on a drive that was away when its segment was collected: the node's search for
        // orphans takes those that nobody is writing.
        let ids = |drive: &common::Memory| drive.pieces.lock().unwrap().keys().copied().collect::<Vec<_>>();
        for (_, drive) in &self.rig.drives {
            assert_eq!(drive.begun.load(Ordering::SeqCst), 0);
            assert!(ids(drive).into_iter().all(|piece| !self.rig.client.is_fresh(piece.segment)));
        }
    }
}

async fn history(ops: Vec<Op>) {
    let run = Run { rig: Rig::new(3, 2, 6).await, oracle: Oracle::new(), away: Vec::new(), lossy: false, uploads: 0 };
    let mut run = run;
    for op in ops {
        run.step(op).await;
    }
    run.end().await;
}

#[test]
fn random_histories_give_the_bytes_that_were_put() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        let mut seed = [0; 8];
        tokio::runtime::Runtime::new().unwrap().block_on(async { env::Env::real().rng.fill(&mut seed) });
        u64::from_le_bytes(seed)
    });
    eprintln!("SEED={seed} cargo test -p client --test histories");
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases: 100, max_shrink_iters: 12, failure_persistence: None, ..Config::default() };
    let rng = TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &key);
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    TestRunner::new_with_rng(config, rng)
        .run(&prop::collection::vec(op(), 1..40), |ops| {
            runtime().block_on(history(ops));
            Ok(())
        })
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_are_compacted_while_their_objects_are_deleted_copied_and_replaced() {
    let rig = Rig::new(2, 1, 3).await;
    for round in 0..15u64 {
        let all: Vec<_> =
            (0..30usize).map(|at| (format!("o{at}"), bytes(round * 100 + at as u64, 5000 + at * 500))).collect();
        futures_util::future::join_all(all.iter().map(|(key, bytes)| rig.put(key, bytes))).await;
        let mut oracle: Oracle = all.into_iter().collect();
        let versions: BTreeMap<String, _> =
            futures_util::future::join_all(oracle.keys().map(|key| async { (key.clone(), rig.version(key).await) }))
                .await
                .into_iter()
                .collect();
        let packs: std::collections::BTreeSet<_> = versions
            .values()
            .filter_map(|version| match &version.body {
                Body::Packed(segment, _) => Some(segment.id),
                _ => None,
            })
            .collect();
        let compact = async {
            for pack in packs {
                rig.client.compact_pack(rig.bucket.volume, pack).await.unwrap();
            }
        };
        let fresh = bytes(round + 7, 6000);
        let change = async {
            for at in 0..30usize {
                let key = format!("o{at}");
                match at % 4 {
                    0 => {
                        rig.delete(&key).await;
                        oracle.remove(&key);
                    }
                    1 => {
                        // The copy may come too late for the old place: then it is made of the new one.
                        let copy = format!("copy{at}");
                        if rig.copy(&versions[&key], &copy).await.is_err() {
                            rig.copy(&rig.version(&key).await, &copy).await.unwrap();
                        }
                        oracle.insert(copy, oracle[&key].clone());
                    }
                    2 => {
                        rig.put(&key, &fresh).await;
                        oracle.insert(key, fresh.clone());
                    }
                    _ => {}
                }
            }
        };
        futures_util::future::join(compact, change).await;
        rig.collect().await;
        for (key, bytes) in &oracle {
            let version = rig.version(key).await;
            assert_eq!(version.id, VersionId::NULL);
            rig.check(&version, bytes, &format!("round {round}, {key}")).await;
            rig.delete(key).await;
        }
        rig.collect().await;
    }
    rig.clock.jump(client::UNCOMMITTED_MAX);
    rig.client.sweep_uncommitted().await.unwrap();
    rig.gone().await;
}
