//! A world made of simulated drives, turmoil's network and virtual time.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use base::{Instant, Wall};
use env::{BoxFuture, Clock, Env, Listener, Net, Rng, Spawn, Stream};

use crate::chance::Chance;
use crate::disk::SimDisk;

/// Simulated time begins here: 2026-01-01T00:00:00Z.
const EPOCH_MS: u64 = 1_767_225_600_000;

/// What is peculiar to one simulated machine: its clock, its pace. Clones are the same machine.
#[derive(Clone, Default)]
pub struct Machine(Arc<Peculiar>);

#[derive(Default)]
struct Peculiar {
    /// Its calendar is so many milliseconds ahead.
    ahead_ms: AtomicI64,
    /// Its clocks gain so many parts per million.
    gains_ppm: AtomicI64,
    /// Its drives take so many times as long, in percent more.
    slower: AtomicU64,
    /// It stands still: nothing that it runs is polled.
    stands: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

impl Machine {
    /// Sets how far its calendar is ahead (or behind).
    pub fn set_ahead(&self, ms: i64) {
        self.0.ahead_ms.store(ms, Relaxed);
    }

    /// Sets how much its clocks gain (or lose); only before it runs, or its monotonic clock would jump.
    pub fn set_gain(&self, ppm: i64) {
        self.0.gains_ppm.store(ppm.clamp(-500_000, 500_000), Relaxed);
    }

    /// Sets how much longer its drives take: 0 for not at all, 100 for twice as long.
    pub fn set_slower(&self, percent: u64) {
        self.0.slower.store(percent, Relaxed);
    }

    /// It stands still, as under SIGSTOP.
    pub fn freeze(&self) {
        self.0.stands.store(true, Relaxed);
    }

    /// It goes on where it stood. Also to be called when its process ends.
    pub fn thaw(&self) {
        self.0.stands.store(false, Relaxed);
        let waiting = std::mem::take(&mut *self.waiting());
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether it stands still.
    pub fn stands(&self) -> bool {
        self.0.stands.load(Relaxed)
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nanoseconds that its monotonic clock shows.
    fn nanos(&self) -> u64 {
        let true_ones = turmoil::sim_elapsed().unwrap_or_default().as_nanos() as i128;
        let gained = true_ones * i128::from(self.0.gains_ppm.load(Relaxed)) / 1_000_000;
        u64::try_from(true_ones + gained).unwrap_or(0)
    }

    /// What its calendar shows.
    pub fn wall(&self) -> Wall {
        let ms =
            i128::from(EPOCH_MS) + i128::from(self.nanos() / 1_000_000) + i128::from(self.0.ahead_ms.load(Relaxed));
        Wall(u64::try_from(ms).unwrap_or(0))
    }

    /// True time that passes while its clocks show this much.
    fn true_span(&self, shown: Duration) -> Duration {
        let gains = self.0.gains_ppm.load(Relaxed);
        if gains == 0 {
            return shown;
        }
        let nanos = shown.as_nanos().saturating_mul(1_000_000) / (1_000_000 + i128::from(gains)).unsigned_abs() + 1000;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Runs a future of this machine: while the machine stands still it does, too.
    pub fn run<F: Future>(&self, work: F) -> Standing<F> {
        Standing { machine: self.clone(), work: Box::pin(work) }
    }
}

/// A future that stands still with its machine.
pub struct Standing<F> {
    machine: Machine,
    work: Pin<Box<F>>,
}

impl<F: Future> Future for Standing<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if self.machine.stands() {
            let mut waiting = self.machine.waiting();
            if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                waiting.push(context.waker().clone());
            }
            return Poll::Pending;
        }
        self.work.as_mut().poll(context)
    }
}

/// The world of one simulated machine. Call inside a turmoil host.
pub fn env(seed: u64, disk: &SimDisk) -> Env {
    env_of(seed, disk, &Machine::default())
}

/// The world of a simulated machine with peculiarities. Call inside a turmoil host.
pub fn env_of(seed: u64, disk: &SimDisk, machine: &Machine) -> Env {
    Env {
        clock: Arc::new(SimClock(machine.clone())),
        rng: Arc::new(SimRng(Mutex::new(Chance::new(seed)))),
        disk: Arc::new(disk.clone()),
        net: Arc::new(SimNet),
        spawn: Arc::new(SimSpawn { machine: machine.clone(), chance: Mutex::new(Chance::new(seed ^ 1)) }),
    }
}

/// The clock of every simulated machine.
pub fn clock() -> Arc<dyn Clock> {
    Arc::new(SimClock(Machine::default()))
}

/// What every clock of the simulated world shows.
pub fn wall() -> Wall {
    Wall(EPOCH_MS + turmoil::sim_elapsed().unwrap_or_default().as_millis() as u64)
}

struct SimClock(Machine);

impl Clock for SimClock {
    fn now(&self) -> Instant {
        Instant(self.0.nanos())
    }

    fn wall(&self) -> Wall {
        self.0.wall()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(self.0.true_span(duration)))
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

struct SimSpawn {
    machine: Machine,
    chance: Mutex<Chance>,
}

impl Spawn for SimSpawn {
    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        tokio::spawn(self.machine.run(task));
    }

    /// In place, but not at once: a drive takes up to a few milliseconds, and other tasks go on
    /// meanwhile.
    fn blocking(&self, work: Box<dyn FnOnce() + Send + 'static>) {
        let micros = {
            let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
            if chance.percent(2) { chance.below(20_000) } else { chance.below(1_000) }
        };
        let micros = micros * (100 + self.machine.0.slower.load(Relaxed)) / 100;
        tokio::spawn(self.machine.run(async move {
            tokio::time::sleep(Duration::from_micros(micros)).await;
            work();
        }));
    }
}
