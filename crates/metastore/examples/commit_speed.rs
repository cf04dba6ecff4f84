//! Commits per second, and what the drive writes for each: `commit_speed [DIR] [SECONDS] [MIRRORS]`.
//! 32 writers, rows of 4.3 KiB, group commit, every group synced on every mirror.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::DriveId;
use base::kv::Batch;
use crypt::MetaKey;
use env::Env;
use metastore::{Embedded, Error, Mirror, Options, Sequencer};

const WRITERS: u64 = 32;
const ROW: usize = 4300;

/// A counter of this process from the kernel.
fn io(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

/// CPU time of this process so far, in ticks of 10 ms.
fn ticks() -> u64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split(' ').collect();
    [12, 13].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum()
}

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let root = args.next().map_or_else(|| std::env::temp_dir().join("abide-commit-speed"), PathBuf::from);
    let seconds = args.next().and_then(|text| text.parse().ok()).unwrap_or(5);
    let count: u8 = args.next().and_then(|text| text.parse().ok()).unwrap_or(1);
    let _ = std::fs::remove_dir_all(&root);
    let env = Env::real();
    let mirrors = (1..=count).map(|at| Mirror { drive: DriveId([at; 16]), dir: root.join(format!("d{at}/meta/1")) });
    let store =
        Embedded::open(&env, 1, mirrors.collect(), &MetaKey::new([1; 32]), None, Options::default()).await.unwrap();
    let sequencer = Arc::new(Sequencer::new(&env, Arc::clone(&store) as Arc<dyn metastore::ShardStore>));
    let done = Arc::new(AtomicU64::new(0));
    let (began, written, calls, cpu) = (Instant::now(), io("write_bytes"), io("syscw"), ticks());
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let (sequencer, done) = (Arc::clone(&sequencer), Arc::clone(&done));
        writers.push(tokio::spawn(async move {
            let mut number = 0_u64;
            while began.elapsed() < Duration::from_secs(seconds) {
                let key = [b"object/".as_slice(), &writer.to_be_bytes(), &number.to_be_bytes()].concat();
                let change = |rows: &dyn base::kv::View| {
                    assert_eq!(rows.get(&key)?, None);
                    let mut batch = Batch::default();
                    batch.put(key.clone(), vec![number as u8; ROW]).event(key.clone());
                    Ok((batch, ()))
                };
                sequencer.execute::<_, Failed>(change).await.unwrap();
                number += 1;
                done.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let (took, commits) = (began.elapsed().as_secs_f64(), done.load(Ordering::Relaxed) as f64);
    let written = (io("write_bytes") - written) as f64;
    println!("{count} mirror(s), {WRITERS} writers, rows of {ROW} bytes, {seconds} s");
    println!("  {:.0} commits/s", commits / took);
    println!(
        "  {:.0} bytes written per commit, {:.2} per byte of row and mirror",
        written / commits,
        written / commits / ROW as f64 / f64::from(count)
    );
    println!("  {:.2} write calls per commit", (io("syscw") - calls) as f64 / commits);
    println!("  {:.3} ms of CPU per commit", (ticks() - cpu) as f64 * 10.0 / commits);
    println!("  {:?}", store.stats());
    store.close().await.unwrap();
    let _ = std::fs::remove_dir_all(&root);
}

/// Any error: the example stops there.
#[derive(Debug)]
struct Failed(#[allow(dead_code)] String);

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self(error.to_string())
    }
}

impl From<base::kv::ViewError> for Failed {
    fn from(error: base::kv::ViewError) -> Self {
        Self(error.to_string())
    }
}
