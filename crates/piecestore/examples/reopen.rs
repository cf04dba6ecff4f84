//! How long a store of many small pieces takes to open, and what memory its index needs.
//!
//! `cargo run --release -p piecestore --example reopen -- [PIECES] [DIR]`
//!
//! Two processes' worth in one: the program starts itself again for the opening, so that nothing
//! of the building counts as memory of the store.
#![allow(clippy::print_stdout)]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a measurement of the real world")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use base::{PieceId, SegmentId};
use bytes::Bytes;
use env::Env;
use piecestore::{Options, PieceStore};

const PIECES: u64 = 10_000_000;
const WRITERS: u64 = 1024;
const BODY_BYTES: usize = 64;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if args.first().is_some_and(|word| word == "open") {
        return runtime.block_on(open(Path::new(&args[1]), args[2].parse().unwrap()));
    }
    let pieces = args.first().map_or(PIECES, |count| count.parse().unwrap());
    let place = args.get(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = place.join(format!("piecestore-reopen-{}", std::process::id()));
    runtime.block_on(build(&dir, pieces));
    let me = std::env::current_exe().unwrap();
    // The first opening after a crash scans the last log; the second finds only footers.
    for _ in 0..2 {
        let status = Command::new(&me).arg("open").arg(&dir).arg(pieces.to_string()).status().unwrap();
        assert!(status.success());
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

fn id(n: u64) -> PieceId {
    let mut segment = [0; 16];
    // Spread, as random ids are.
    segment[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    segment[8..].copy_from_slice(&n.to_le_bytes());
    PieceId { segment: SegmentId(segment), index: 0 }
}

async fn build(dir: &Path, pieces: u64) {
    let began = Instant::now();
    let store = PieceStore::open(Env::real(), dir.to_path_buf(), Options::default()).await.unwrap();
    let body = Bytes::from(vec![7; BODY_BYTES]);
    let tasks: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (store, body) = (store.clone(), body.clone());
            tokio::spawn(async move {
                for n in (writer..pieces).step_by(WRITERS as usize) {
                    store.put(id(n), Bytes::new(), vec![body.clone()], 65536, None).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    println!("built {pieces} pieces of {BODY_BYTES} bytes in {:.1} s", began.elapsed().as_secs_f64());
}

async fn open(dir: &Path, pieces: u64) {
    let before = rss();
    let began = Instant::now();
    let store: Arc<PieceStore> = PieceStore::open(Env::real(), dir.to_path_buf(), Options::default()).await.unwrap();
    let seconds = began.elapsed().as_secs_f64();
    let used = rss() - before;
    let health = store.health();
    assert_eq!((health.pieces, health.lost_logs), (pieces, 0));
    for n in (0..pieces).step_by((pieces / 100).max(1) as usize) {
        assert_eq!(store.read(id(n), 0, BODY_BYTES as u64).await.unwrap(), [7; BODY_BYTES][..]);
    }
    println!(
        "opened {pieces} pieces in {seconds:.2} s; index {:.1} bytes a piece, resident memory {:.1}, peak {:.1}",
        health.index_bytes as f64 / pieces as f64,
        used as f64 / pieces as f64,
        (memory("VmHWM:") - before) as f64 / pieces as f64
    );
}

fn rss() -> u64 {
    memory("VmRSS:")
}

/// Bytes, as Linux tells.
fn memory(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}
