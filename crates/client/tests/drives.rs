//! The same promises on real drives: piece stores in directories.
#![allow(clippy::unwrap_used)]

use crate::common;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base::{DriveId, UserId};
use bytes::Bytes;
use client::{Bucket, Client, Drives};
use common::{Rig, bytes, get, put};
use crypt::RootKey;
use env::Env;
use namespace::Version;
use piecestore::{Options, PieceStore};

const MIB: usize = 1024 * 1024;

struct Real {
    client: Client,
    bucket: Arc<Bucket>,
    stores: Vec<(DriveId, PathBuf, Arc<PieceStore>)>,
    _dir: tempfile::TempDir,
}

impl Real {
    async fn new(k: u8, m: u8, drives: usize) -> Self {
        let env = Env::real();
        let dir = tempfile::tempdir().unwrap();
        let (system, volumes) = common::shards(&env).await;
        let registry = Drives::new(env.clock.clone());
        let mut stores = Vec::new();
        for at in 0..drives {
            let (id, path) = (DriveId([at as u8 + 1; 16]), dir.path().join(format!("d{at}")));
            std::fs::create_dir_all(&path).unwrap();
            let options =
                Options { log_bytes: 4 << 20, extent_file_bytes: 64 << 20, reserve_bytes: 0, ..Options::default() };
            let store = PieceStore::open(env.clone(), path.clone(), options).await.unwrap();
            registry.set(id, Arc::new(store.clone()));
            stores.push((id, path, store));
        }
        common::policy(&system, k, m, &stores.iter().map(|(id, ..)| *id).collect::<Vec<_>>()).await;
        let client = Client::new(
            env,
            system,
            Arc::new(client::shard::One(volumes)),
            registry,
            RootKey::new([7; 32]).store_keys(),
        );
        let bucket = client.create_bucket("photos", &UserId("me".into()), "").await.unwrap();
        Self { client, bucket, stores, _dir: dir }
    }

    async fn put_all(&self) -> Vec<(Version, Vec<u8>)> {
        let mut all = Vec::new();
        for size in [0, 1, 4096, 4097, 65_535, 65_537, MIB, MIB + 1, 5 * MIB + 17] {
            let bytes = bytes(size as u64, size);
            all.push((put(&self.client, &self.bucket, &format!("o{size}"), &bytes).await, bytes));
        }
        all
    }

    async fn check_all(&self, all: &[(Version, Vec<u8>)], what: &str) {
        for (version, bytes) in all {
            let got = get(&self.client, &self.bucket, version, 0..version.size).await;
            assert!(got.unwrap() == *bytes, "{what}: {} bytes", bytes.len());
        }
    }
}

/// Flips a bit in every 10,000 bytes of every file of a drive, behind the store's back.
fn spoil(dir: &Path) -> usize {
    let mut flipped = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            flipped += spoil(&path);
            continue;
        }
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let len = file.metadata().unwrap().len();
        for at in (5000..len).step_by(10_000) {
            let mut byte = [0];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, at).unwrap();
            if byte[0] != 0 {
                std::os::unix::fs::FileExt::write_all_at(&file, &[byte[0] ^ 0x10], at).unwrap();
                flipped += 1;
            }
        }
    }
    flipped
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_on_real_drives_survive_what_their_code_promises() {
    for (k, m) in [(1, 0), (1, 2), (2, 2), (3, 2), (4, 2)] {
        let real = Real::new(k, m, usize::from(k + m)).await;
        let all = real.put_all().await;
        real.check_all(&all, "healthy").await;
        // Rot on as many drives as may fail …
        for (_, path, _) in real.stores.iter().take(m.into()) {
            assert!(spoil(path) > 0);
        }
        real.check_all(&all, &format!("{k}+{m}, rotten")).await;
        // … which then vanish.
        for (id, ..) in real.stores.iter().take(m.into()) {
            real.client.drives().remove(*id);
        }
        real.check_all(&all, &format!("{k}+{m}, gone")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rot_is_found_by_verify_and_healed_by_rebuild() {
    let real = Real::new(2, 2, 4).await;
    let bytes = bytes(1, 3 * MIB);
    let version = put(&real.client, &real.bucket, "o", &bytes).await;
    assert!(real.client.verify(&real.bucket, &version).await.unwrap().is_empty());
    spoil(&real.stores[1].1);
    let found = real.client.verify(&real.bucket, &version).await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].drive, Some(real.stores[1].0));
    let map = real.client.group(found[0].policy, found[0].group).await.unwrap();
    let missing = [found[0].piece.index];
    let done = real.client.rebuild(found[0].volume, found[0].piece.segment, (found[0].policy, &map), &missing).await;
    assert_eq!(done.unwrap().pieces, missing);
    assert!(real.client.verify(&real.bucket, &version).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_whose_drives_stand_still_takes_only_so_much() {
    let rig = Rig::new(4, 2, 6).await;
    rig.drives.iter().for_each(|(_, drive)| drive.hung.store(true, Ordering::SeqCst));
    let mut writer = rig.client.writer(&rig.bucket, Some(64 * MIB as u64));
    let part = Bytes::from(vec![1; 64 * 1024]);
    let mut taken = 0;
    while rig.env.timeout(Duration::from_secs(1), writer.write(part.clone())).await.is_some() {
        taken += part.len();
    }
    // With parity, half as much again.
    let under_way = taken * 6 / 4;
    assert!((MIB..=4 * MIB).contains(&under_way), "{under_way} bytes are under way");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_at_a_time_all_finish() {
    let real = Real::new(4, 2, 6).await;
    let puts = (0..16u64).map(|at| {
        let (client, bucket) = (real.client.clone(), real.bucket.clone());
        async move {
            let bytes = bytes(at, 4 * MIB + at as usize * 1000);
            (put(&client, &bucket, &format!("o{at}"), &bytes).await, bytes)
        }
    });
    let all = futures_util::future::join_all(puts).await;
    real.check_all(&all, "many").await;
}
