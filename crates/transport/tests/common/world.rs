//! turmoil as an `Env`.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::{Instant, Wall};
use env::{BoxFuture, Clock, Disk, Entry, Env, File, Listener, Net, Open, Rng, Space, Spawn, Stream};

/// When a host is crashed tokio drops its tasks in an order that follows from their numbers, and those of all
/// runtimes of a process are in one row: both runs of a seed begin at a round one. Call inside a turmoil host.
pub fn number_tasks_anew() {
    const ROUND: u64 = 64;
    // Tasks that only take numbers, and are never run.
    let idle = tokio::task::LocalSet::new();
    while !idle.spawn_local(std::future::ready(())).id().to_string().parse::<u64>().unwrap().is_multiple_of(ROUND) {}
}

/// The world of one simulated machine. Call inside a turmoil host.
pub fn sim(seed: u64) -> Env {
    Env {
        clock: Arc::new(SimClock),
        rng: Arc::new(SimRng(Mutex::new(seed))),
        disk: Arc::new(NoDisk),
        net: Arc::new(SimNet),
        spawn: Arc::new(SimSpawn),
    }
}

struct SimClock;

impl Clock for SimClock {
    fn now(&self) -> Instant {
        Instant(turmoil::sim_elapsed().unwrap_or_default().as_nanos() as u64)
    }
    fn wall(&self) -> Wall {
        Wall(1_767_225_600_000 + turmoil::sim_elapsed().unwrap_or_default().as_millis() as u64)
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

struct SimRng(Mutex<u64>);

impl Rng for SimRng {
    fn fill(&self, bytes: &mut [u8]) {
        let mut state = self.0.lock().unwrap();
        for byte in bytes {
            *byte = super::next(&mut state) as u8;
        }
    }
}

struct SimNet;

impl Net for SimNet {
    fn bind(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = turmoil::net::TcpListener::bind(address).await?;
            Ok(Box::new(SimListener(listener)) as Box<dyn Listener>)
        })
    }
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let stream = turmoil::net::TcpStream::connect(address).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

struct SimListener(turmoil::net::TcpListener);

impl Listener for SimListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = self.0.accept().await?;
            Ok((Box::new(stream) as Box<dyn Stream>, peer))
        })
    }
    fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

struct SimSpawn;

impl Spawn for SimSpawn {
    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }
    fn blocking(&self, work: Box<dyn FnOnce() + Send + 'static>) {
        work();
    }
}

/// The transport has no files.
struct NoDisk;

fn none<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Disk for NoDisk {
    fn open(&self, _: &Path, _: Open) -> io::Result<Arc<dyn File>> {
        none()
    }
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        none()
    }
    fn read_dir(&self, _: &Path) -> io::Result<Vec<Entry>> {
        none()
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        none()
    }
    fn remove_file(&self, _: &Path) -> io::Result<()> {
        none()
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        none()
    }
    fn exists(&self, _: &Path) -> bool {
        false
    }
    fn space(&self, _: &Path) -> io::Result<Space> {
        none()
    }
    fn canonical(&self, _: &Path) -> io::Result<PathBuf> {
        none()
    }
}
