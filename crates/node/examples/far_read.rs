//! How fast an object is read whose pieces are far away: two processes, each on a machine (or in a
//! network namespace) of its own, with whatever lies between.
//!
//! `far_read hold IP FOLDER NODES` holds drives for these nodes, one each, until it is killed.
//! `far_read read IP FOLDER NEAR FAR FAR_IP CODE MIB` is the reader, with drives of the nodes NEAR beside it
//! and the nodes FAR at the other address: it writes an object of so many MiB, waits until all
//! connections have been closed, and reads it a few times. NODES, NEAR and FAR are numbers from 2 to 14 with
//! commas, or `-` for none; CODE is k+m. Metadata is in memory.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../tests/cluster/mod.rs"]
mod cluster;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster::{Gateway, HolderNode, Holding, MIB, Town, drives};
use env::Env;
use namespace::{Command, Condition, NewVersion, Version};

const CHUNK: usize = 256 << 10;
const PORT: u16 = 7400;
/// Longer than a connection stays in the pool.
const COLD: Duration = Duration::from_secs(66);

fn nodes(list: &str) -> Vec<u8> {
    if list == "-" { Vec::new() } else { list.split(',').map(|node| node.parse().unwrap()).collect() }
}

fn address(ip: &str, node: u8) -> SocketAddr {
    SocketAddr::new(ip.parse::<IpAddr>().unwrap(), PORT + u16::from(node))
}

async fn hold(env: &Env, town: &Town, ip: &str, folder: &Path, nodes: &[u8]) -> Vec<HolderNode> {
    let mut holders = Vec::new();
    for node in nodes {
        let folder = folder.join(node.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        let mut holding = Holding::default();
        (holding.options.log_bytes, holding.options.extent_file_bytes) = (64 << 20, 512 << 20);
        holders.push(HolderNode::start(env, town, *node, address(ip, *node), &[folder], holding).await);
    }
    holders
}

/// CPU seconds of this process, all threads, to the clock tick of 10 ms.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn memory_mb(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// The object's bytes from `at` on, to the end of a chunk.
fn pattern(data: &Bytes, at: usize) -> Bytes {
    let chunk = at / CHUNK * CHUNK;
    let from = chunk % (data.len() - CHUNK);
    data.slice(from + at - chunk..from + CHUNK)
}

async fn put(gateway: &Gateway, data: &Bytes, size: usize) -> Version {
    let mut writer = gateway.client.writer(&gateway.bucket, Some(size as u64)).named("far");
    for at in (0..size).step_by(CHUNK) {
        writer.write(pattern(data, at)).await.unwrap();
    }
    let content = writer.finish().await.unwrap();
    let new = NewVersion { size: content.size, etag: "e".into(), attrs: Default::default(), body: content.body };
    let put = Command::Put { key: "far".into(), new, condition: Condition::default() };
    gateway.client.commit(&gateway.bucket, put).await.unwrap();
    gateway.client.head(&gateway.bucket, "far", None, true).await.unwrap().into_version()
}

/// Reads all of it, and says how it went; each second too, if asked.
async fn get(gateway: &Gateway, version: &Version, data: &Bytes, name: &str) {
    let (began, cpu_before) = (Instant::now(), cpu());
    let mut stream = gateway.client.read(&gateway.bucket, version, 0..version.size).unwrap();
    let (mut at, mut second, mut first) = (0, (1, 0), None);
    let mut seconds = Vec::new();
    while let Some(bytes) = stream.next().await {
        let bytes = bytes.unwrap();
        first.get_or_insert_with(|| began.elapsed());
        let mut checked = 0;
        while checked < bytes.len() {
            let expected = pattern(data, at + checked);
            let len = expected.len().min(bytes.len() - checked);
            assert!(bytes[checked..checked + len] == expected[..len], "other bytes came at {}", at + checked);
            checked += len;
        }
        at += bytes.len();
        if began.elapsed().as_secs() >= second.0 {
            seconds.push(((at - second.1) as f64 * 8e-6).round());
            second = (second.0 + 1, at);
        }
    }
    assert_eq!(at as u64, version.size);
    let (wall, bits) = (began.elapsed().as_secs_f64(), at as f64 * 8.0);
    let first = first.unwrap_or_default().as_millis();
    println!(
        "  GET {name:8} {:7.1} Mbit/s, first byte after {first} ms, {:.2} CPU-s/GB here, memory {} MB, peak {} MB",
        bits / wall / 1e6,
        (cpu() - cpu_before) / (at as f64 / 1e9),
        memory_mb("VmRSS"),
        memory_mb("VmHWM"),
    );
    println!("    by second {seconds:?}");
}

async fn read(args: &[String], data: &Bytes) {
    let [ip, folder, near, far, far_ip, code, mib] = args else { panic!("read IP FOLDER NEAR FAR FAR_IP CODE MIB") };
    let (near, far) = (nodes(near), nodes(far));
    let (k, m) = code.split_once('+').map(|(k, m)| (k.parse().unwrap(), m.parse().unwrap())).unwrap();
    let all: Vec<u8> = near.iter().chain(&far).copied().collect();
    let (env, town) = (Env::real(), town());
    near.iter().for_each(|node| town.know(*node, address(ip, *node)));
    far.iter().for_each(|node| town.know(*node, address(far_ip, *node)));
    let _holders = hold(&env, &town, ip, Path::new(folder), &near).await;
    let gateway = Gateway::start(&env, &town, 1, address(ip, 1), &drives(&all, 1), (k, m, k + m)).await;
    gateway.live(all.len()).await;
    println!("{code}, near {near:?}, far {far:?}, {mib} MiB");
    let began = Instant::now();
    let size = mib.parse::<usize>().unwrap() * MIB;
    let version = put(&gateway, data, size).await;
    println!("  PUT {:7.1} Mbit/s", size as f64 * 8e-6 / began.elapsed().as_secs_f64());
    tokio::time::sleep(COLD).await;
    for name in ["cold", "warm", "warm"] {
        get(&gateway, &version, data, name).await;
    }
    for holder in &_holders {
        holder.endpoint.close();
    }
}

fn town() -> Arc<Town> {
    Town::new(&(1..15).collect::<Vec<_>>())
}

fn main() {
    // What the nodes say to it, with `ABIDE_LOG=info`.
    if let Ok(filter) = std::env::var("ABIDE_LOG") {
        tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::new(filter)).init();
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let data =
        Bytes::from((0..4 * MIB as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<u8>>());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match args.first().map(String::as_str) {
            Some("hold") => {
                let _holders = hold(&Env::real(), &town(), &args[1], Path::new(&args[2]), &nodes(&args[3])).await;
                println!("holding");
                std::future::pending::<()>().await;
            }
            Some("read") => read(&args[1..], &data).await,
            _ => panic!("hold or read: see the file's first lines"),
        }
    });
}
