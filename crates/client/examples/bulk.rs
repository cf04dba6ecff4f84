//! What the data engine costs: CPU seconds per GB of writes and reads on real folders, healthy and
//! with two drives gone; CPU per 64 KiB range; memory of 32 writers at a time.
//!
//! `cargo run --release -p client --example bulk -- [FOLDER] [only a part, by name]`
//! Metadata is in memory, and no face is in front: the server adds hashing and the network.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use base::{DriveId, PolicyId, UserId};
use bytes::Bytes;
use client::{Bucket, Client, Drives};
use crypt::RootKey;
use env::Env;
use futures_util::StreamExt;
use metastore::{MemoryStore, Sequencer};
use namespace::catalog::{self, Coding, PolicyRow};
use namespace::{Command, Condition, NewVersion, Version};
use piecestore::{Options, PieceStore};

const MIB: usize = 1 << 20;
const CHUNK: usize = 256 * 1024;

struct Store {
    client: Client,
    bucket: Arc<Bucket>,
    drives: Vec<DriveId>,
}

impl Store {
    async fn open(folder: &Path, k: u8, m: u8) -> Self {
        let env = Env::real();
        let shard = |number| Arc::new(Sequencer::new(&env, MemoryStore::new(number)));
        let (system, volumes) = (shard(0), shard(1));
        let registry = Drives::new(env.clock.clone());
        let mut drives = Vec::new();
        for at in 0..k + m {
            let (id, path) = (DriveId([at + 1; 16]), folder.join(format!("d{at}")));
            std::fs::create_dir_all(&path).unwrap();
            let store = PieceStore::open(env.clone(), path, Options::default()).await.unwrap();
            registry.set(id, Arc::new(store));
            drives.push(id);
        }
        let ack = policy::Coding { k, m }.ack() as u8;
        let row = PolicyRow { id: PolicyId(1), coding: Coding { k, m }, ack, name: format!("{k}+{m}") };
        let candidates: Vec<_> = drives.iter().map(|drive| placement::Candidate { drive: *drive, weight: 1 }).collect();
        let n = usize::from(k + m);
        let mut batch = catalog::put_policy(&row);
        for group in placement::build(&candidates, n, 0, placement::group_count(n, n), &[]) {
            batch.puts.extend(catalog::put_group(row.id, group.group, &codec::Versioned::encode(&group)).puts);
        }
        system.execute::<(), client::Error>(move |_| Ok((batch, ()))).await.unwrap();
        let client = Client::new(
            env,
            system,
            Arc::new(client::shard::One(volumes)),
            registry,
            RootKey::new([7; 32]).store_keys(),
        );
        let bucket = client.create_bucket("b", &UserId("me".into()), "").await.unwrap();
        Self { client, bucket, drives }
    }

    async fn put(&self, key: String, data: Bytes, size: usize) -> Version {
        let mut writer = self.client.writer(&self.bucket, Some(size as u64)).named(&key);
        let mut at = 0;
        while at < size {
            let part = CHUNK.min(size - at);
            let from = at % (data.len() - CHUNK);
            writer.write(data.slice(from..from + part)).await.unwrap();
            at += part;
        }
        let content = writer.finish().await.unwrap();
        let new = NewVersion { size: content.size, etag: "e".into(), attrs: Default::default(), body: content.body };
        let put = Command::Put { key: key.clone(), new, condition: Condition::default() };
        self.client.commit(&self.bucket, put).await.unwrap();
        self.client.head(&self.bucket, &key, None, true).await.unwrap().into_version()
    }

    async fn put_all(&self, name: &str, count: usize, size: usize, at_a_time: usize, data: &Bytes) -> Vec<Version> {
        let meter = Meter::start();
        let puts = (0..count).map(|at| self.put(format!("{name}{at}"), data.clone(), size));
        let all: Vec<_> = futures_util::stream::iter(puts).buffer_unordered(at_a_time).collect().await;
        meter.end(&format!("PUT {name}"), count, count * size);
        all
    }

    async fn get(&self, version: &Version, range: std::ops::Range<u64>) -> u64 {
        let mut stream = self.client.read(&self.bucket, version, range).unwrap();
        let mut len = 0;
        while let Some(bytes) = stream.next().await {
            len += bytes.unwrap().len() as u64;
        }
        len
    }

    async fn get_all(&self, name: &str, versions: &[Version], at_a_time: usize) {
        let meter = Meter::start();
        let gets = versions.iter().map(|version| self.get(version, 0..version.size));
        let lens: Vec<u64> = futures_util::stream::iter(gets).buffer_unordered(at_a_time).collect().await;
        assert_eq!(lens.iter().sum::<u64>(), versions.iter().map(|version| version.size).sum::<u64>());
        meter.end(&format!("GET {name}"), versions.len(), lens.iter().sum::<u64>() as usize);
    }

    async fn ranges(&self, version: &Version, count: u64) {
        let meter = Meter::start();
        for at in 0..count {
            let cell = (at * 7919) % (version.size / 65_536);
            assert_eq!(self.get(version, cell * 65_536..(cell + 1) * 65_536).await, 65_536);
        }
        meter.end("64 KiB ranges of 1 GiB", count as usize, count as usize * 65_536);
    }
}

struct Meter {
    began: Instant,
    cpu: f64,
}

impl Meter {
    fn start() -> Self {
        Self { began: Instant::now(), cpu: cpu() }
    }

    fn end(self, name: &str, count: usize, bytes: usize) {
        let (wall, cpu, gb) = (self.began.elapsed().as_secs_f64(), cpu() - self.cpu, bytes as f64 / 1e9);
        println!(
            "  {name:32} {:6.2} CPU-s/GB {:8.3} CPU-ms each {:8.1} MB/s, peak memory {} MB",
            cpu / gb,
            cpu * 1e3 / count as f64,
            gb * 1e3 / wall,
            peak_mb()
        );
    }
}

/// CPU seconds of this process, all threads, to the clock tick of 10 ms.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn peak_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

async fn run(folder: &Path, k: u8, m: u8, only: &str, data: &Bytes) {
    println!("{k}+{m}");
    let store = Store::open(&folder.join(format!("{k}+{m}")), k, m).await;
    if only.is_empty() || only == "put" || only == "get" {
        store.put_all("warm", 2, 64 * MIB, 2, data).await;
        let large = store.put_all("64 MiB", 16, 64 * MIB, 2, data).await;
        store.put_all("1 MiB", 512, MIB, 8, data).await;
        if only != "put" {
            store.get_all("64 MiB", &large, 2).await;
            if only == "get" {
                store.get_all("64 MiB", &large, 2).await;
                store.get_all("64 MiB", &large, 2).await;
            }
        }
        if k > 1 && only != "put" {
            store.drives[..2].iter().for_each(|drive| store.client.drives().remove(*drive));
            store.get_all("64 MiB, two gone", &large, 2).await;
            return;
        }
    }
    if only.is_empty() || only == "small" {
        let mid = store.put_all("100 KiB", 2000, 100 * 1024, 32, data).await;
        store.get_all("100 KiB", &mid, 8).await;
        store.put_all("100 KiB alone", 200, 100 * 1024, 1, data).await;
        let inline = store.put_all("4 KiB", 20_000, 4096, 32, data).await;
        store.get_all("4 KiB", &inline, 8).await;
    }
    if only.is_empty() || only == "range" {
        let huge = store.put("huge".into(), data.clone(), 1024 * MIB).await;
        store.ranges(&huge, 5000).await;
    }
    if only.is_empty() || only == "memory" {
        store.put_all("32 at a time", 32, 64 * MIB, 32, data).await;
    }
}

fn main() {
    let folder = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let only = std::env::args().nth(2).unwrap_or_default();
    let temp = tempfile::tempdir_in(folder).unwrap();
    // Nothing here compresses or repeats within a cell: coding and sealing don't care.
    let data =
        Bytes::from((0..4 * MIB as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<u8>>());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for (k, m) in [(1, 0), (4, 2)] {
        runtime.block_on(run(temp.path(), k, m, &only, &data));
    }
}
