//! Small puts side by side, each durable before it is answered.
//!
//! `cargo run --release -p piecestore --example put_speed -- [DIR] [WRITERS] [PUTS] [BYTES]`
//!
//! Syncs are counted at the disk trait; bytes written to the device are the kernel's count for
//! this process and, where its name is found, the block device's own (other processes' too).
#![allow(clippy::print_stdout)]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a measurement of the real world")]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use base::{PieceId, SegmentId};
use bytes::Bytes;
use env::{Disk, Entry, Env, File, Open, Space};
use piecestore::{Options, PieceStore};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let place = args.first().map_or_else(std::env::temp_dir, PathBuf::from);
    let number = |at: usize, default: u64| args.get(at).map_or(default, |word| word.parse().unwrap());
    let (writers, puts, size) = (number(1, 32), number(2, 50_000), number(3, 4096));
    let dir = place.join(format!("piecestore-put-{}", std::process::id()));
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(run(&dir, writers, puts, size));
    std::fs::remove_dir_all(&dir).unwrap();
}

fn id(n: u64) -> PieceId {
    let mut segment = [0; 16];
    segment[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    segment[8..].copy_from_slice(&n.to_le_bytes());
    PieceId { segment: SegmentId(segment), index: 0 }
}

async fn run(dir: &Path, writers: u64, puts: u64, size: u64) {
    let mut env = Env::real();
    let count = Arc::new(Count { disk: env.disk.clone(), syncs: AtomicU64::new(0), written: AtomicU64::new(0) });
    env.disk = Arc::new(Counted(count.clone()));
    let store = PieceStore::open(env, dir.to_path_buf(), Options::default()).await.unwrap();
    let body = Bytes::from((0..size).map(|i| i as u8).collect::<Vec<_>>());
    let device = device_of(dir);
    let before = (cpu_seconds(), count.syncs.load(Ordering::SeqCst), io_bytes(), device_bytes(&device));
    let began = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let (store, body) = (store.clone(), body.clone());
            tokio::spawn(async move {
                for n in (writer..puts).step_by(writers as usize) {
                    store.put(id(n), Bytes::from_static(&[1; 200]), vec![body.clone()], 65552, None).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let seconds = began.elapsed().as_secs_f64();
    let syncs = count.syncs.load(Ordering::SeqCst) - before.1;
    let stored = (puts * size) as f64;
    println!("{writers} writers, {puts} puts of {size} bytes: {:.0} puts/s", puts as f64 / seconds);
    println!(
        "  {syncs} syncs, {:.1} puts a sync, {:.0} us a sync",
        puts as f64 / syncs as f64,
        seconds * 1e6 / syncs as f64
    );
    println!("  {:.1} us of CPU a put", (cpu_seconds() - before.0) * 1e6 / puts as f64);
    println!("  written per stored byte: {:.2} by the store", count.written.load(Ordering::SeqCst) as f64 / stored);
    println!("  {:.2} by the kernel's count for this process", (io_bytes() - before.2) as f64 / stored);
    if let Some(after) = device_bytes(&device) {
        println!("  {:.2} by the device's count", (after - before.3.unwrap_or(0)) as f64 / stored);
    }
    store.close().await.unwrap();
    let entries = std::fs::read_dir(dir).unwrap();
    let used: u64 =
        entries.map(|e| std::os::unix::fs::MetadataExt::blocks(&e.unwrap().metadata().unwrap()) * 512).sum();
    println!("  room taken per stored byte: {:.3}", used as f64 / stored);
}

/// User and system time of this process, in the kernel's ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn io_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0)
}

/// `major:minor` of the device that the store lies on.
fn device_of(dir: &Path) -> String {
    let dev = std::os::unix::fs::MetadataExt::dev(&std::fs::metadata(dir).unwrap());
    format!("{}:{}", (dev >> 8) & 0xfff, (dev & 0xff) | ((dev >> 12) & 0xfff00))
}

fn device_bytes(device: &str) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/sys/dev/block/{device}/stat")).ok()?;
    stat.split_whitespace().nth(6)?.parse::<u64>().ok().map(|sectors| sectors * 512)
}

struct Count {
    disk: Arc<dyn Disk>,
    syncs: AtomicU64,
    written: AtomicU64,
}

struct Counted(Arc<Count>);

struct CountedFile {
    file: Arc<dyn File>,
    count: Arc<Count>,
}

impl Disk for Counted {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(CountedFile { file: self.0.disk.open(path, how)?, count: self.0.clone() }))
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.disk.create_dir_all(path)
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.0.disk.read_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.disk.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.disk.remove_file(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.syncs.fetch_add(1, Ordering::SeqCst);
        self.0.disk.sync_dir(path)
    }
    fn exists(&self, path: &Path) -> bool {
        self.0.disk.exists(path)
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        self.0.disk.space(path)
    }
    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        self.0.disk.canonical(path)
    }
}

impl File for CountedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.count.written.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        self.file.write_at(bytes, offset)
    }
    fn write_parts_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        self.count.written.fetch_add(bytes as u64, Ordering::SeqCst);
        self.file.write_parts_at(parts, offset)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.count.syncs.fetch_add(1, Ordering::SeqCst);
        self.file.sync_data()
    }
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.punch_hole(offset, len)
    }
    fn try_lock(&self) -> io::Result<bool> {
        self.file.try_lock()
    }
    fn is_at(&self, path: &Path) -> bool {
        self.file.is_at(path)
    }
}
