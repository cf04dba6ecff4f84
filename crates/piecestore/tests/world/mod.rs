//! A machine for tests: a disk that records every change, so that a crash can be played at each
//! of them; a clock set by hand; chance from a seed; disk work in place.

#![allow(dead_code, reason = "each test uses its part")]

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base::{Instant, Wall};
use env::{BoxFuture, Clock, Disk, Entry, Env, File, Open, Rng, Space, Spawn};

pub mod model;

pub type Inode = u64;
const SECTOR: usize = 512;

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn half(&mut self) -> bool {
        self.below(2) == 0
    }
}

/// A change that the store made.
#[derive(Clone, Debug)]
pub enum Op {
    Write {
        inode: Inode,
        offset: usize,
        bytes: Vec<u8>,
    },
    Len {
        inode: Inode,
        len: usize,
    },
    Sync(Inode),
    /// `None` is a directory.
    Link(PathBuf, Option<Inode>),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
    SyncDir(PathBuf),
}

/// All that a disk holds.
#[derive(Clone, Debug, Default)]
pub struct Image {
    pub names: BTreeMap<PathBuf, Option<Inode>>,
    pub files: BTreeMap<Inode, Vec<u8>>,
}

impl Image {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Write { inode, offset, bytes } => {
                let file = self.files.entry(*inode).or_default();
                let end = offset + bytes.len();
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[*offset..end].copy_from_slice(bytes);
            }
            Op::Len { inode, len } => self.files.entry(*inode).or_default().resize(*len, 0),
            Op::Link(path, node) => {
                self.names.insert(path.clone(), *node);
                if let Some(inode) = node {
                    self.files.entry(*inode).or_default();
                }
            }
            Op::Unlink(path) => _ = self.names.remove(path),
            Op::Rename(from, to) => {
                if let Some(node) = self.names.remove(from) {
                    self.names.insert(to.clone(), node);
                }
            }
            Op::Sync(_) | Op::SyncDir(_) => {}
        }
    }

    /// Bytes of the files that have names.
    pub fn used(&self) -> u64 {
        self.names.values().flatten().map(|inode| self.files.get(inode).map_or(0, |file| file.len() as u64)).sum()
    }
}

/// What becomes of the writes, and of the names, that weren't synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Lost,
    Kept,
    /// Each sector of a write for itself; of names, a beginning of the list.
    Torn,
    /// Each write, each name for itself.
    Reordered,
}

pub const FATES: [(Fate, Fate); 6] = [
    (Fate::Lost, Fate::Lost),
    (Fate::Lost, Fate::Kept),
    (Fate::Kept, Fate::Lost),
    (Fate::Kept, Fate::Kept),
    (Fate::Torn, Fate::Torn),
    (Fate::Reordered, Fate::Reordered),
];

/// Goes through the recorded changes and knows at each what is durable.
#[derive(Default)]
pub struct Walk {
    durable: Image,
    writes: BTreeMap<Inode, Vec<Op>>,
    namings: Vec<Op>,
}

impl Walk {
    pub fn from(image: Image) -> Self {
        Self { durable: image, ..Self::default() }
    }

    pub fn step(&mut self, op: &Op) {
        match op {
            Op::Write { inode, .. } | Op::Len { inode, .. } => self.writes.entry(*inode).or_default().push(op.clone()),
            Op::Sync(inode) => {
                for op in self.writes.remove(inode).unwrap_or_default() {
                    self.durable.apply(&op);
                }
            }
            Op::Link(..) | Op::Unlink(_) | Op::Rename(..) => self.namings.push(op.clone()),
            Op::SyncDir(dir) => {
                let (now, later): (Vec<Op>, Vec<Op>) = std::mem::take(&mut self.namings).into_iter().partition(
                    |op| matches!(op, Op::Link(p, _) | Op::Unlink(p) | Op::Rename(_, p) if p.parent() == Some(dir)),
                );
                now.iter().for_each(|op| self.durable.apply(op));
                self.namings = later;
            }
        }
    }

    /// Whether a crash here can have only one outcome.
    pub fn is_settled(&self) -> bool {
        self.writes.is_empty() && self.namings.is_empty()
    }

    pub fn crash(&self, (writes, names): (Fate, Fate), chance: &mut Chance) -> Image {
        let mut image = self.durable.clone();
        let prefix = chance.below(self.namings.len() as u64 + 1) as usize;
        for (i, op) in self.namings.iter().enumerate() {
            let is_kept = match names {
                Fate::Lost => false,
                Fate::Kept => true,
                Fate::Torn => i < prefix,
                Fate::Reordered => chance.half(),
            };
            if is_kept {
                image.apply(op);
            }
        }
        for op in self.writes.values().flatten() {
            match (writes, op) {
                (Fate::Lost, _) => {}
                (Fate::Kept, op) => image.apply(op),
                (Fate::Torn, Op::Write { inode, offset, bytes }) => {
                    let mut at = 0;
                    while at < bytes.len() {
                        let end = bytes.len().min(at + SECTOR - (offset + at) % SECTOR);
                        if chance.half() {
                            image.apply(&Op::Write {
                                inode: *inode,
                                offset: offset + at,
                                bytes: bytes[at..end].to_vec(),
                            });
                        }
                        at = end;
                    }
                }
                (_, op) => {
                    if chance.half() {
                        image.apply(op);
                    }
                }
            }
        }
        image
    }
}

/// What goes wrong, from which change on, and for how many.
#[derive(Clone, Copy, Debug)]
pub struct Fail {
    pub from: usize,
    pub count: usize,
    pub kind: Wrong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Writes, syncs and names fail.
    Eio,
    /// What needs more room fails, half written.
    Full,
}

#[derive(Default)]
struct State {
    now: Image,
    ops: Vec<Op>,
    next: Inode,
    fail: Option<Fail>,
    capacity: Option<u64>,
    reads_fail: bool,
    mutations: usize,
}

pub struct World {
    state: Mutex<State>,
    clock: AtomicU64,
    chance: Mutex<Chance>,
}

impl World {
    pub fn new(seed: u64) -> Arc<Self> {
        let mut image = Image::default();
        image.names.insert("/d".into(), None);
        Self::from(image, seed, 1_000_000)
    }

    pub fn from(image: Image, seed: u64, wall: u64) -> Arc<Self> {
        let next = image.files.keys().max().copied().unwrap_or(0) + 1;
        let state = State { now: image, next, ..State::default() };
        Arc::new(Self { state: Mutex::new(state), clock: wall.into(), chance: Mutex::new(Chance(seed)) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic holds it")
    }

    pub fn env(self: &Arc<Self>) -> Env {
        let net = Env::real().net;
        let world = Part(self.clone());
        Env {
            clock: Arc::new(world.clone()),
            rng: Arc::new(world.clone()),
            disk: Arc::new(world.clone()),
            net,
            spawn: Arc::new(world),
        }
    }

    /// How many changes were recorded.
    pub fn count(&self) -> usize {
        self.state().ops.len()
    }

    pub fn ops(&self) -> Vec<Op> {
        self.state().ops.clone()
    }

    pub fn image(&self) -> Image {
        self.state().now.clone()
    }

    pub fn used(&self) -> u64 {
        self.state().now.used()
    }

    pub fn wall(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }

    pub fn pass(&self, ms: u64) {
        self.clock.fetch_add(ms, Ordering::SeqCst);
    }

    pub fn fail(&self, fail: Option<Fail>) {
        self.state().fail = fail;
    }

    /// Changes attempted since the beginning: what [`Fail::from`] counts.
    pub fn mutations(&self) -> usize {
        self.state().mutations
    }

    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    pub fn fail_reads(&self, fail: bool) {
        self.state().reads_fail = fail;
    }

    /// Files by name, as they are.
    pub fn files(&self) -> Vec<(PathBuf, Inode, usize)> {
        let state = self.state();
        let files = state.now.names.iter().filter_map(|(name, node)| Some((name.clone(), (*node)?)));
        files.map(|(name, inode)| (name, inode, state.now.files[&inode].len())).collect()
    }

    /// Flips one bit.
    pub fn flip(&self, inode: Inode, at: usize, bit: u8) {
        let mut state = self.state();
        let file = state.now.files.get_mut(&inode).expect("file");
        file[at] ^= 1 << bit;
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl State {
    /// Counts a change; fails it if it is its turn.
    fn change(&mut self, grows: u64, is_write: bool) -> io::Result<()> {
        let number = self.mutations;
        self.mutations += 1;
        if let Some(fail) = self.fail
            && (fail.from..fail.from.saturating_add(fail.count)).contains(&number)
        {
            match fail.kind {
                Wrong::Eio => return Err(eio()),
                Wrong::Full if is_write => return Err(io::ErrorKind::StorageFull.into()),
                Wrong::Full => {}
            }
        }
        match self.capacity {
            Some(capacity) if grows > 0 && self.now.used() + grows > capacity => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn record(&mut self, op: Op) {
        self.now.apply(&op);
        self.ops.push(op);
    }
}

#[derive(Clone)]
struct Part(Arc<World>);

impl Clock for Part {
    fn now(&self) -> Instant {
        Instant(self.0.wall() * 1_000_000)
    }

    fn wall(&self) -> Wall {
        Wall(self.0.wall())
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

impl Rng for Part {
    fn fill(&self, bytes: &mut [u8]) {
        let mut chance = self.0.chance.lock().expect("no panic holds it");
        bytes.iter_mut().for_each(|byte| *byte = chance.next() as u8);
    }
}

impl Spawn for Part {
    #[allow(clippy::disallowed_methods)]
    fn spawn(&self, _: &'static str, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send + 'static>) {
        work();
    }
}

impl Disk for Part {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut state = self.0.state();
        let inode = match (state.now.names.get(path).copied(), how) {
            (Some(None), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (Some(_), Open::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(Some(inode)), _) => inode,
            (None, Open::Read | Open::Write) => return Err(io::ErrorKind::NotFound.into()),
            (None, _) => {
                state.change(0, true)?;
                if path.parent().is_none_or(|dir| state.now.names.get(dir) != Some(&None)) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                let inode = state.next;
                state.next += 1;
                state.record(Op::Link(path.into(), Some(inode)));
                inode
            }
        };
        Ok(Arc::new(Handle { world: self.0.clone(), inode }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.state();
        let mut missing: Vec<PathBuf> =
            path.ancestors().filter(|dir| !state.now.names.contains_key(*dir)).map(Path::to_path_buf).collect();
        missing.reverse();
        for dir in missing {
            state.change(0, true)?;
            state.record(Op::Link(dir, None));
        }
        Ok(())
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let state = self.0.state();
        let children = state.now.names.iter().filter(|(name, _)| name.parent() == Some(path));
        let entry = |(name, node): (&PathBuf, &Option<Inode>)| {
            Some(Entry { name: name.file_name()?.to_str()?.into(), is_dir: node.is_none() })
        };
        Ok(children.filter_map(entry).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.state();
        state.change(0, false)?;
        state.record(Op::Rename(from.into(), to.into()));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.state();
        state.change(0, false)?;
        if !state.now.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.record(Op::Unlink(path.into()));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.state();
        state.change(0, false)?;
        state.record(Op::SyncDir(path.into()));
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        self.0.state().now.names.contains_key(path)
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        let state = self.0.state();
        let total = state.capacity.unwrap_or(1 << 40);
        Ok(Space { total, free: total.saturating_sub(state.now.used()) })
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.into())
    }
}

struct Handle {
    world: Arc<World>,
    inode: Inode,
}

impl File for Handle {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.world.state();
        if state.reads_fail {
            return Err(eio());
        }
        let file = &state.now.files[&self.inode];
        let from = offset as usize;
        let bytes = from.checked_add(buffer.len()).and_then(|end| file.get(from..end));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.world.state();
        let len = state.now.files[&self.inode].len();
        let grows = (offset as usize + bytes.len()).saturating_sub(len) as u64;
        if let Err(error) = state.change(grows, true) {
            // A write that is refused may have begun.
            let half = bytes[..bytes.len() / 2].to_vec();
            state.record(Op::Write { inode: self.inode, offset: offset as usize, bytes: half });
            return Err(error);
        }
        state.record(Op::Write { inode: self.inode, offset: offset as usize, bytes: bytes.to_vec() });
        Ok(())
    }

    fn write_parts_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        self.write_at(&parts.concat(), offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.world.state().now.files[&self.inode].len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.world.state();
        let have = state.now.files[&self.inode].len() as u64;
        state.change(len.saturating_sub(have), false)?;
        state.record(Op::Len { inode: self.inode, len: len as usize });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.world.state();
        state.change(0, false)?;
        state.record(Op::Sync(self.inode));
        Ok(())
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut state = self.world.state();
        state.change(0, false)?;
        let size = state.now.files[&self.inode].len() as u64;
        let (from, end) = (offset.min(size) as usize, (offset + len).min(size) as usize);
        state.record(Op::Write { inode: self.inode, offset: from, bytes: vec![0; end - from] });
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        Ok(true)
    }

    fn is_at(&self, path: &Path) -> bool {
        self.world.state().now.names.get(path) == Some(&Some(self.inode))
    }
}
