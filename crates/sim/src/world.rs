//! A world made of simulated drives, turmoil's network and virtual time.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::{Instant, Wall};
use env::{BoxFuture, Clock, Env, Listener, Net, Rng, Spawn, Stream};

use crate::chance::Chance;
use crate::disk::SimDisk;

/// Simulated time begins here: 2026-01-01T00:00:00Z.
const EPOCH_MS: u64 = 1_767_225_600_000;

/// The world of one simulated machine. Call inside a turmoil host.
pub fn env(seed: u64, disk: &SimDisk) -> Env {
    Env {
        clock: Arc::new(SimClock),
        rng: Arc::new(SimRng(Mutex::new(Chance::new(seed)))),
        disk: Arc::new(disk.clone()),
        net: Arc::new(SimNet),
        spawn: Arc::new(SimSpawn(Mutex::new(Chance::new(seed ^ 1)))),
    }
}

/// What every clock of the simulated world shows.
pub fn wall() -> Wall {
    Wall(EPOCH_MS + turmoil::sim_elapsed().unwrap_or_default().as_millis() as u64)
}

struct SimClock;

impl Clock for SimClock {
    fn now(&self) -> Instant {
        Instant(turmoil::sim_elapsed().unwrap_or_default().as_nanos() as u64)
    }

    fn wall(&self) -> Wall {
        wall()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

struct SimRng(Mutex<Chance>);

impl Rng for SimRng {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).fill(bytes);
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

struct SimSpawn(Mutex<Chance>);

impl Spawn for SimSpawn {
    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }

    /// In place, but not at once: a drive takes up to a few milliseconds, and other tasks go on
    /// meanwhile.
    fn blocking(&self, work: Box<dyn FnOnce() + Send + 'static>) {
        let micros = {
            let mut chance = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if chance.percent(2) { chance.below(20_000) } else { chance.below(1_000) }
        };
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_micros(micros)).await;
            work();
        });
    }
}
