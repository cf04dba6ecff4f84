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
/// … and at most this long, or three times what is usual: a hung drive must not raise its own limit
/// for ever.
const HEDGE_MAX: Duration = Duration::from_millis(500);
/// Round trips of a drive's first small read, over a connection that is made for it …
const SMALL_TRIPS: u32 = 5;
/// … and of a large one, for which TCP's window must grow.
const BULK_TRIPS: u32 = 10;
/// Reads up to this size are timed apart from larger ones.
const SMALL_BYTES: u64 = 128 << 10;
/// A drive this many times slower than the fastest is asked last.
const SLUGGISH: u64 = 8;
/// Below this latency no drive is called sluggish.
const SLUGGISH_US_MIN: u64 = 100_000;
/// After so many reads in a row that were called slow a drive is asked last.
const LATE_MAX: u32 = 2;
/// A slow drive is tried this often, beside the reads that do without it.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// While it is being tried.
const PROBING: u64 = u64::MAX;

/// A drive that erred on a write, or straggled, gets no new pieces for this long, if others take
/// enough.
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
    /// How far away it is; nothing for a drive of this machine.
    fn round_trip(&self) -> Duration {
        Duration::ZERO
    }
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
    /// Erred or straggled lately: new pieces only where too few others take any, read last.
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

/// How quickly a drive answers.
#[derive(Default)]
struct Speed {
    /// Moving averages of how long small and large reads take, in microseconds; 0: unknown.
    read_us: [AtomicU64; 2],
    /// Reads in a row that were called slow.
    late: AtomicU32,
    /// When it may be tried again.
    probe_at: AtomicU64,
}

impl Speed {
    fn us(&self, class: usize) -> u64 {
        self.read_us[class].load(Ordering::Relaxed)
    }

    fn note(&self, class: usize, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min(10_000_000);
        let new = match self.us(class) {
            0 => us,
            // Much quicker than it was: what held it up is over.
            old if us < old / 4 => (old + us) / 2,
            old => (old * 7 + us) / 8,
        };
        self.read_us[class].store(new.max(1), Ordering::Relaxed);
    }
}

fn class(bytes: u64) -> usize {
    usize::from(bytes > SMALL_BYTES)
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

    /// The drive erred or straggled: it is spared for a while, so that not each new piece is cut.
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
        self.taking(DriveState::Up)
    }

    /// Drives that take new pieces, those up to this state.
    pub(crate) fn taking(&self, worst: DriveState) -> Vec<DriveId> {
        let now = self.clock.now();
        self.read().iter().filter(|(_, drive)| drive.takes(worst, now)).map(|(id, _)| *id).collect()
    }

    /// The drive's holder, if it is up and takes new pieces.
    pub(crate) fn writable(&self, id: DriveId) -> Option<Arc<dyn Holder>> {
        let now = self.clock.now();
        self.read().get(&id).filter(|drive| drive.takes(DriveState::Up, now)).map(|drive| drive.holder.clone())
    }

    /// How far away the drive is.
    pub(crate) fn round_trip(&self, id: DriveId) -> Duration {
        self.get(id).map_or(Duration::ZERO, |holder| holder.round_trip())
    }

    /// How long a read of so many bytes of the drive may take before others are asked too.
    pub(crate) fn hedge_after(&self, id: DriveId, bytes: u64) -> Duration {
        let (map, class) = (self.read(), class(bytes));
        let Some(drive) = map.get(&id) else { return HEDGE_MIN };
        let us = drive.speed.us(class);
        if us == 0 {
            let trips = if class == 0 { SMALL_TRIPS } else { BULK_TRIPS };
            return HEDGE_MIN + drive.holder.round_trip().saturating_mul(trips).min(HEDGE_MAX * 4);
        }
        let patience = Duration::from_micros(us.saturating_mul(3)).max(HEDGE_MIN);
        if patience <= HEDGE_MAX {
            return patience;
        }
        // Where all are slow, as behind a long thin line, that is no fault of this one.
        let mut usual: Vec<u64> = map.values().map(|other| other.speed.us(class)).filter(|us| *us > 0).collect();
        usual.sort_unstable();
        let median = usual.get(usual.len() / 2).copied().unwrap_or(0);
        patience.min(HEDGE_MAX.max(Duration::from_micros(median.saturating_mul(3))))
    }

    /// Tells how long a read of so many bytes of the drive took.
    pub(crate) fn note_read(&self, id: DriveId, bytes: u64, took: Duration) {
        let in_time = took <= self.hedge_after(id, bytes);
        if let Some(drive) = self.read().get(&id) {
            drive.speed.note(class(bytes), took);
            if in_time {
                drive.speed.late.store(0, Ordering::Relaxed);
            }
        }
    }

    /// A read of the drive is called slow.
    pub(crate) fn note_late(&self, id: DriveId, bytes: u64) {
        let patience = self.hedge_after(id, bytes);
        if let Some(drive) = self.read().get(&id) {
            drive.speed.note(class(bytes), patience);
            let later = |late: u32| Some(late.saturating_add(1));
            let _ = drive.speed.late.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
        }
    }

    /// Whether to ask others first: gone, suspect, late again and again, or far slower than the
    /// fastest.
    pub(crate) fn ask_last(&self, id: DriveId) -> bool {
        let map = self.read();
        let Some(drive) = map.get(&id) else { return true };
        drive.state(self.clock.now()) != DriveState::Up || is_slow(&map, drive)
    }

    /// Whether it is time to try a drive that is there and slow; [`Drives::probed`] ends it.
    pub(crate) fn probe(&self, id: DriveId) -> bool {
        let (map, now) = (self.read(), self.clock.now());
        let Some(drive) = map.get(&id) else { return false };
        if drive.state(now) != DriveState::Up || !is_slow(&map, drive) {
            return false;
        }
        let due = |at: u64| (at <= now.0 && at != PROBING).then_some(PROBING);
        drive.speed.probe_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok()
    }

    /// What was tried, a small read, has ended.
    pub(crate) fn probed(&self, id: DriveId) {
        let map = self.read();
        let Some(drive) = map.get(&id) else { return };
        drive.speed.probe_at.store((self.clock.now() + PROBE_EVERY).0, Ordering::Relaxed);
        if drive.speed.late.load(Ordering::Relaxed) == 0 && !is_sluggish(&map, drive, 0) {
            // Large reads may be quick again as well: what they took is forgotten by and by.
            let bulk = drive.speed.us(1);
            drive.speed.read_us[1].store(bulk - bulk / 2, Ordering::Relaxed);
        }
    }
}

fn is_slow(map: &BTreeMap<DriveId, Drive>, drive: &Drive) -> bool {
    let late = drive.speed.late.load(Ordering::Relaxed) >= LATE_MAX;
    late || (0..2).any(|class| is_sluggish(map, drive, class))
}

fn is_sluggish(map: &BTreeMap<DriveId, Drive>, drive: &Drive, class: usize) -> bool {
    let us = drive.speed.us(class);
    if us < SLUGGISH_US_MIN {
        return false;
    }
    let fastest = map.values().filter(|other| other.state == DriveState::Up);
    let fastest = fastest.map(|other| other.speed.us(class)).filter(|us| *us > 0).min();
    us > fastest.unwrap_or(us).saturating_mul(SLUGGISH)
}

impl Drive {
    fn state(&self, now: Instant) -> DriveState {
        if now < self.suspect_until { self.state.max(DriveState::Suspect) } else { self.state }
    }

    fn takes(&self, worst: DriveState, now: Instant) -> bool {
        self.state(now) <= worst && self.holder.writable()
    }
}
