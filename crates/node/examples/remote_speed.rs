//! What drives of other nodes cost: objects of 1 MiB and 64 MiB put and got by a client engine all of
//! whose drives are on three other nodes, over loopback, everything in one process (so CPU seconds
//! are those of all nodes together); beside it the same engine on the same drives without a network.
//!
//! `cargo run --release -p node --example remote_speed -- [FOLDER] [PART]`; PART: local, remote,
//! copies, or nothing for all. Metadata is in memory.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../tests/cluster/mod.rs"]
mod cluster;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use cluster::{Code, Gateway, HolderNode, Holding, MIB, Town, drives};
use env::Env;
use futures_util::StreamExt;
use namespace::{Command, Condition, NewVersion, Version};

const CHUNK: usize = 256 << 10;

struct Meter {
    began: Instant,
    cpu: f64,
}

impl Meter {
    fn start() -> Self {
        Self { began: Instant::now(), cpu: cpu() }
    }

    fn end(self, name: &str, bytes: usize) {
        let (wall, cpu, gb) = (self.began.elapsed().as_secs_f64(), cpu() - self.cpu, bytes as f64 / 1e9);
        println!("  {name:24} {:6.2} CPU-s/GB {:8.1} MB/s, peak memory {} MB", cpu / gb, gb * 1e3 / wall, peak_mb());
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

async fn put(gateway: &Gateway, key: String, data: Bytes, size: usize) -> Version {
    let mut writer = gateway.client.writer(&gateway.bucket, Some(size as u64)).named(&key);
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
    gateway.client.commit(&gateway.bucket, put).await.unwrap();
    gateway.client.head(&gateway.bucket, &key, None, true).await.unwrap().into_version()
}

async fn put_all(gateway: &Gateway, name: &str, count: usize, size: usize, many: usize, data: &Bytes) -> Vec<Version> {
    let meter = Meter::start();
    let puts = (0..count).map(|at| put(gateway, format!("{name}{at}"), data.clone(), size));
    let all = futures_util::stream::iter(puts).buffer_unordered(many).collect().await;
    meter.end(&format!("PUT {name}, {many} at a time"), count * size);
    all
}

async fn get(gateway: &Gateway, version: &Version) -> u64 {
    let mut stream = gateway.client.read(&gateway.bucket, version, 0..version.size).unwrap();
    let mut len = 0;
    while let Some(bytes) = stream.next().await {
        len += bytes.unwrap().len() as u64;
    }
    len
}

async fn get_all(gateway: &Gateway, name: &str, versions: &[Version], many: usize) {
    let meter = Meter::start();
    let gets = versions.iter().map(|version| get(gateway, version));
    let lens: Vec<u64> = futures_util::stream::iter(gets).buffer_unordered(many).collect().await;
    assert_eq!(lens.iter().sum::<u64>(), versions.iter().map(|version| version.size).sum::<u64>());
    meter.end(&format!("GET {name}, {many} at a time"), lens.iter().sum::<u64>() as usize);
}

async fn run(folder: &Path, code: Code, remote: bool, data: &Bytes) {
    let temp = tempfile::tempdir_in(folder).unwrap();
    let (k, m, _) = code;
    println!("{k}+{m}, {}", if remote { "drives on three other nodes" } else { "drives of this process" });
    let (env, town) = (Env::real(), Town::new(&[1, 2, 3, 4]));
    let anywhere = "127.0.0.1:0".parse().unwrap();
    let mut holders = Vec::new();
    for seed in [2, 3, 4] {
        let folders: Vec<_> = (0..2).map(|at| temp.path().join(format!("{seed}-{at}"))).collect();
        folders.iter().for_each(|folder| std::fs::create_dir_all(folder).unwrap());
        let mut holding = Holding::default();
        (holding.options.log_bytes, holding.options.extent_file_bytes) = (64 << 20, 512 << 20);
        let holder = HolderNode::start(&env, &town, seed, anywhere, &folders, holding).await;
        town.know(seed, holder.endpoint.address().unwrap());
        holders.push(holder);
    }
    let gateway = Gateway::start(&env, &town, 1, anywhere, &drives(&[2, 3, 4], 2), code).await;
    gateway.live(6).await;
    if !remote {
        for (drive, store) in holders.iter().flat_map(|holder| &holder.stores) {
            gateway.remotes.remove(*drive);
            gateway.client.drives().set(*drive, Arc::new(store.clone()));
        }
    }
    put_all(&gateway, "warm", 2, 64 * MIB, 2, data).await;
    let large = put_all(&gateway, "64 MiB", 12, 64 * MIB, 2, data).await;
    let small = put_all(&gateway, "1 MiB", 512, MIB, 8, data).await;
    get_all(&gateway, "64 MiB", &large, 2).await;
    get_all(&gateway, "1 MiB", &small, 8).await;
    get_all(&gateway, "1 MiB alone", &small[..64], 1).await;
    if remote {
        holders[1].endpoint.close();
        get_all(&gateway, "64 MiB, a node gone", &large, 2).await;
    }
}

fn main() {
    // What the nodes say to it, with `ABIDE_LOG=info`.
    if let Ok(filter) = std::env::var("ABIDE_LOG") {
        tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::new(filter)).init();
    }
    let folder = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let part = std::env::args().nth(2).unwrap_or_default();
    let data =
        Bytes::from((0..4 * MIB as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<u8>>());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let codes = if part == "copies" { vec![(1, 2, 2)] } else { vec![(4, 2, 5), (1, 2, 2)] };
    for code in codes {
        for (name, remote) in [("local", false), ("remote", true)] {
            if matches!(part.as_str(), "" | "copies") || part == name {
                runtime.block_on(run(&folder, code, remote, &data));
            }
        }
    }
}
