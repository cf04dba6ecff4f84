//! Which drives there are, how they do, and how fast they answer.
//!
//! The client knows a drive as a [`Holder`] of pieces: today a piece store in this process, one day
//! a node far away. The node tells [`Drives`] what comes and goes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use base::{DriveId, Instant, PieceId};
use bytes::Bytes;
use env::{BoxFuture, Clock};

use crate::Error;

/// A read is called slow after at least this long: shorter hedges cost more than they win.
const HEDGE_MIN: Duration = Duration::from_millis(20);
/// … and at most this long: a hung drive must not raise its own limit for ever.
const HEDGE_MAX: Duration = Duration::from_millis(500);
/// A drive this many times slower than the fastest is asked last.
const SLUGGISH: u64 = 8;
/// Below this latency no drive is called sluggish.
const SLUGGISH_US_MIN: u64 = 100_000;
/// One read in so many goes to a sluggish drive all the same, to notice that it recovered.
const PROBE_EACH: u32 = 16;

/// A drive that erred on a write, or straggled, gets no new pieces for this long.
const SUSPECT: Duration = Duration::from_secs(10);

/// Holds pieces: what the client needs of a drive. Every answer says that it is durable.
pub trait Holder: Send + Sync {
    /// Stores a piece in one go.
    fn put(&self, piece: PieceId, header: Bytes, body: Vec<Bytes>, cell_bytes: u32)
    -> BoxFuture<'_, Result<(), Error>>;
    /// Begins a piece that comes in parts; at most `len_max` bytes.
    fn create(
        &self,
        piece: PieceId,
        cell_bytes: u32,
        len_max: u64,
    ) -> BoxFuture<'_, Result<Box<dyn HolderWriter>, Error>>;
    /// Bytes of a piece's body, checked.
    fn read(&self, piece: PieceId, offset: u64, len: u64) -> BoxFuture<'_, Result<Bytes, Error>>;
    /// A piece's header.
    fn header(&self, piece: PieceId) -> BoxFuture<'_, Result<Bytes, Error>>;
    /// Deletes pieces; those that aren't there are no error.
    fn delete(&self, pieces: Vec<PieceId>) -> BoxFuture<'_, Result<(), Error>>;
    /// Whether new pieces may come: not fenced, not full.
    fn writable(&self) -> bool;
}

/// A piece under way. Dropping it gives everything back.
pub trait HolderWriter: Send {
    /// Takes the next bytes of the body.
    fn write(&mut self, bytes: Vec<Bytes>) -> BoxFuture<'_, Result<(), Error>>;
    /// The body is whole: makes the piece durable.
    fn finish(self: Box<Self>, header: Bytes) -> BoxFuture<'static, Result<(), Error>>;
}

/// How a drive does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DriveState {
    /// Reads and writes.
    Up,
    /// Erred or straggled lately: no new pieces, read last.
    Suspect,
    /// Not there.
    Gone,
}

struct Drive {
    holder: Arc<dyn Holder>,
    state: DriveState,
    suspect_until: Instant,
    speed: Speed,
}

/// Moving average of how long reads take, in microseconds.
#[derive(Default)]
struct Speed {
    read_us: AtomicU64,
    probes: AtomicU32,
}

/// The drives of this process, kept up to date by the node.
pub struct Drives {
    clock: Arc<dyn Clock>,
    map: RwLock<BTreeMap<DriveId, Drive>>,
}

impl Drives {
    /// No drive yet.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { clock, map: RwLock::default() })
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<DriveId, Drive>> {
        self.map.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<DriveId, Drive>> {
        self.map.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Adds a drive, or replaces its holder; it is up.
    pub fn set(&self, id: DriveId, holder: Arc<dyn Holder>) {
        self.write()
            .insert(id, Drive { holder, state: DriveState::Up, suspect_until: Instant(0), speed: Speed::default() });
    }

    /// Says how the drive does. Unknown ones are gone anyway.
    pub fn set_state(&self, id: DriveId, state: DriveState) {
        if let Some(drive) = self.write().get_mut(&id) {
            drive.state = state;
        }
    }

    /// The drive erred or straggled: no new pieces for a while, so that not each of them is cut.
    pub(crate) fn suspect(&self, id: DriveId) {
        let until = self.clock.now() + SUSPECT;
        if let Some(drive) = self.write().get_mut(&id) {
            drive.suspect_until = until;
        }
    }

    /// Forgets the drive.
    pub fn remove(&self, id: DriveId) {
        self.write().remove(&id);
    }

    /// The drive's holder, if the drive is there.
    pub fn get(&self, id: DriveId) -> Option<Arc<dyn Holder>> {
        self.read().get(&id).filter(|drive| drive.state != DriveState::Gone).map(|drive| drive.holder.clone())
    }

    /// How the drive does.
    pub fn state(&self, id: DriveId) -> DriveState {
        let now = self.clock.now();
        self.read().get(&id).map_or(DriveState::Gone, |drive| drive.state(now))
    }

    /// Drives that take new pieces.
    pub fn live(&self) -> Vec<DriveId> {
        let now = self.clock.now();
        self.read().iter().filter(|(_, drive)| drive.takes(now)).map(|(id, _)| *id).collect()
    }

    /// The drive's holder, if it takes new pieces.
    pub(crate) fn writable(&self, id: DriveId) -> Option<Arc<dyn Holder>> {
        let now = self.clock.now();
        self.read().get(&id).filter(|drive| drive.takes(now)).map(|drive| drive.holder.clone())
    }

    /// How long a read of the drive may take before others are asked too.
    pub fn hedge_after(&self, id: DriveId) -> Duration {
        let us = self.read().get(&id).map_or(0, |drive| drive.speed.read_us.load(Ordering::Relaxed));
        Duration::from_micros(us.saturating_mul(3)).clamp(HEDGE_MIN, HEDGE_MAX)
    }

    /// Tells how long a read of the drive took, or has taken so far when it was called slow.
    pub(crate) fn note_read(&self, id: DriveId, took: Duration) {
        if let Some(drive) = self.read().get(&id) {
            let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min(10_000_000);
            let old = drive.speed.read_us.load(Ordering::Relaxed);
            let new = if old == 0 { us } else { (old * 7 + us) / 8 };
            drive.speed.read_us.store(new.max(1), Ordering::Relaxed);
        }
    }

    /// Whether to ask others first: gone, suspect, or far slower than the fastest.
    pub(crate) fn ask_last(&self, id: DriveId) -> bool {
        let now = self.clock.now();
        let map = self.read();
        let Some(drive) = map.get(&id) else { return true };
        if drive.state(now) != DriveState::Up {
            return true;
        }
        let us = drive.speed.read_us.load(Ordering::Relaxed);
        if us < SLUGGISH_US_MIN {
            return false;
        }
        let fastest = map.values().filter(|other| other.state == DriveState::Up);
        let fastest = fastest.map(|other| other.speed.read_us.load(Ordering::Relaxed)).filter(|us| *us > 0).min();
        us > fastest.unwrap_or(us).saturating_mul(SLUGGISH)
            && !drive.speed.probes.fetch_add(1, Ordering::Relaxed).is_multiple_of(PROBE_EACH)
    }
}

impl Drive {
    fn state(&self, now: Instant) -> DriveState {
        if now < self.suspect_until { self.state.max(DriveState::Suspect) } else { self.state }
    }

    fn takes(&self, now: Instant) -> bool {
        self.state(now) == DriveState::Up && self.holder.writable()
    }
}
