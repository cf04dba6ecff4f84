//! File systems in memory whose power goes after a given number of changes. What was not synced is
//! kept, lost or torn by the seed: bytes by 512-byte sectors, names in the order of their changes.
#![allow(dead_code, clippy::unwrap_used)]

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base::{Instant, Wall};
use env::{BoxFuture, Clock, Disk, Entry, Env, File, Listener, Net, Open, Rng, Space, Spawn};

use super::Chance;

const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Len(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Len(len) => bytes.resize(*len, 0),
            Change::Write(at, data) => {
                let end = at + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*at..end].copy_from_slice(data);
            }
        }
    }
}

#[derive(Clone, Default)]
struct Data {
    now: Vec<u8>,
    safe: Vec<u8>,
    unsynced: Vec<Change>,
}

/// A directory's change: the name, and which file it is then.
type Naming = Vec<(PathBuf, Option<u64>)>;

#[derive(Default)]
struct State {
    dirs: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, u64>,
    safe_names: BTreeMap<PathBuf, u64>,
    unsynced: Vec<Naming>,
    files: BTreeMap<u64, Data>,
    locks: BTreeSet<u64>,
    next: u64,
    life: u64,
    changes: u64,
    power_ends_at: Option<u64>,
    is_off: bool,
    /// Drives whose every call fails.
    gone: BTreeSet<PathBuf>,
    /// Calls, and those that fail.
    calls: Cell<u64>,
    failing: Range<u64>,
}

/// The machine's drives. Clones are the same.
#[derive(Clone, Default)]
pub struct Drives {
    state: Arc<Mutex<State>>,
    nanos: Arc<AtomicU64>,
}

fn eio() -> io::Error {
    io::Error::other("input/output error (simulated)")
}

impl Drives {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// How many changes were asked for.
    pub fn changes(&self) -> u64 {
        self.state().changes
    }

    /// The power goes at the change with this number.
    pub fn end_power_at(&self, change: u64) {
        self.state().power_ends_at = Some(change);
    }

    /// The machine is started again: what the seed spares is there.
    pub fn restart(&self, chance: &mut Chance) {
        let mut guard = self.state();
        let state = &mut *guard;
        state.life += 1;
        state.is_off = false;
        state.power_ends_at = None;
        state.locks.clear();
        let kept = chance.below(state.unsynced.len() as u64 + 1) as usize;
        for naming in state.unsynced.drain(..).take(kept) {
            rename(&mut state.safe_names, &naming);
        }
        state.names = state.safe_names.clone();
        for data in state.files.values_mut() {
            for change in std::mem::take(&mut data.unsynced) {
                match (chance.below(3), change) {
                    (0, change) => change.apply(&mut data.safe),
                    (1, Change::Write(at, bytes)) => {
                        for (sector, part) in bytes.chunks(SECTOR).enumerate() {
                            if chance.below(2) == 0 {
                                Change::Write(at + sector * SECTOR, part.to_vec()).apply(&mut data.safe);
                            }
                        }
                    }
                    _ => {}
                }
            }
            data.now.clone_from(&data.safe);
        }
    }

    /// Everything under the path is deleted; open files go on working.
    pub fn delete(&self, path: &Path) {
        let mut state = self.state();
        state.names.retain(|name, _| !name.starts_with(path));
        state.safe_names.retain(|name, _| !name.starts_with(path));
        for naming in &mut state.unsynced {
            naming.retain(|(name, _)| !name.starts_with(path));
        }
        state.dirs.retain(|name| !name.starts_with(path));
    }

    /// Every call on the drive fails from now on, or works again.
    pub fn set_gone(&self, path: &Path, is_gone: bool) {
        let mut state = self.state();
        if is_gone {
            state.gone.insert(path.to_path_buf());
        } else {
            state.gone.remove(path);
        }
    }

    /// Calls with these numbers, counted from now on, fail; how many there were since this was last said.
    pub fn fail_calls(&self, which: Range<u64>) -> u64 {
        let mut state = self.state();
        state.failing = which;
        state.calls.replace(0)
    }

    /// All files under the path whose names begin so.
    pub fn list(&self, path: &Path, prefix: &str) -> Vec<PathBuf> {
        let begins = |name: &PathBuf| name.file_name().unwrap().to_str().unwrap().starts_with(prefix);
        self.state().names.keys().filter(|name| name.starts_with(path) && begins(name)).cloned().collect()
    }

    pub fn bytes(&self, path: &Path) -> Vec<u8> {
        let state = self.state();
        state.files[&state.names[path]].now.clone()
    }

    /// Flips one bit.
    pub fn flip(&self, path: &Path, bit: usize) {
        let mut guard = self.state();
        let state = &mut *guard;
        let data = state.files.get_mut(&state.names[path]).unwrap();
        data.now[bit / 8] ^= 1 << (bit % 8);
        if let Some(byte) = data.safe.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
    }

    /// Lets time pass.
    pub fn pass(&self, time: Duration) {
        self.nanos.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// A world with these drives; blocking work is done in place, time stands still.
    pub fn env(&self, seed: u64) -> Env {
        Env {
            clock: Arc::new(Still(Arc::clone(&self.nanos))),
            rng: Arc::new(Seeded(Mutex::new(Chance(seed)))),
            disk: Arc::new(self.clone()),
            net: Arc::new(NoNet),
            spawn: Arc::new(InPlace),
        }
    }

    /// Counts a change. An error: the power is off, or the drive is gone. `Ok(false)`: it is the
    /// last one, and may or may not be there later.
    fn change(state: &mut State, path: &Path) -> io::Result<bool> {
        Self::look(state, path)?;
        state.changes += 1;
        state.is_off = state.power_ends_at.is_some_and(|end| state.changes >= end);
        Ok(!state.is_off)
    }

    fn look(state: &State, path: &Path) -> io::Result<()> {
        let is_gone = state.gone.iter().any(|gone| path.starts_with(gone));
        let call = state.calls.replace(state.calls.get() + 1);
        if state.is_off || is_gone || state.failing.contains(&call) { Err(eio()) } else { Ok(()) }
    }

    fn name(&self, path: &Path, naming: Naming) -> io::Result<()> {
        let mut state = self.state();
        let goes_on = Self::change(&mut state, path)?;
        rename(&mut state.names, &naming);
        state.unsynced.push(naming);
        if goes_on { Ok(()) } else { Err(eio()) }
    }
}

fn rename(names: &mut BTreeMap<PathBuf, u64>, naming: &Naming) {
    for (name, file) in naming {
        match file {
            Some(file) => _ = names.insert(name.clone(), *file),
            None => _ = names.remove(name),
        }
    }
}

impl Disk for Drives {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let found = {
            let state = self.state();
            Self::look(&state, path)?;
            state.names.get(path).copied()
        };
        let file = match (found, how) {
            (Some(_), Open::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(file), _) => file,
            (None, Open::Read | Open::Write) => return Err(io::ErrorKind::NotFound.into()),
            (None, Open::Create | Open::CreateNew) => {
                let file = {
                    let mut state = self.state();
                    if !path.parent().is_some_and(|dir| state.dirs.contains(dir)) {
                        return Err(io::ErrorKind::NotFound.into());
                    }
                    state.next += 1;
                    let next = state.next;
                    state.files.insert(next, Data::default());
                    next
                };
                self.name(path, vec![(path.to_path_buf(), Some(file))])?;
                file
            }
        };
        let life = self.state().life;
        Ok(Arc::new(Handle { drives: self.clone(), path: path.to_path_buf(), file, life, locked: Mutex::new(false) }))
    }

    /// Directories are durable at once: what is under test makes them only when it begins.
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        Self::look(&state, path)?;
        state.dirs.extend(path.ancestors().map(Path::to_path_buf));
        Ok(())
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let state = self.state();
        Self::look(&state, path)?;
        if !state.dirs.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let here = state.names.keys().filter(|name| name.parent() == Some(path));
        let entry = |name: &PathBuf| Entry { name: name.file_name().unwrap().to_str().unwrap().into(), is_dir: false };
        Ok(here.map(entry).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let file = self.state().names.get(from).copied().ok_or(io::ErrorKind::NotFound)?;
        self.name(from, vec![(from.to_path_buf(), None), (to.to_path_buf(), Some(file))])
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        if !self.exists(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.name(path, vec![(path.to_path_buf(), None)])
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut guard = self.state();
        let state = &mut *guard;
        if !Self::change(state, path)? {
            return Err(eio());
        }
        if !state.dirs.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        for naming in std::mem::take(&mut state.unsynced) {
            if naming.first().is_some_and(|(name, _)| name.parent() == Some(path)) {
                rename(&mut state.safe_names, &naming);
            } else {
                state.unsynced.push(naming);
            }
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        let state = self.state();
        state.names.contains_key(path) || state.dirs.contains(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        Self::look(&self.state(), path)?;
        Ok(Space { total: 1 << 50, free: 1 << 49 })
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_path_buf())
    }
}

struct Handle {
    drives: Drives,
    path: PathBuf,
    file: u64,
    life: u64,
    locked: Mutex<bool>,
}

impl Handle {
    fn read<T>(&self, act: impl FnOnce(&Data) -> io::Result<T>) -> io::Result<T> {
        let state = self.drives.state();
        Drives::look(&state, &self.path)?;
        if state.life == self.life { act(&state.files[&self.file]) } else { Err(eio()) }
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.drives.state();
        if state.life != self.life {
            return Err(eio());
        }
        let goes_on = Drives::change(&mut state, &self.path)?;
        let data = state.files.get_mut(&self.file).unwrap();
        change.apply(&mut data.now);
        data.unsynced.push(change);
        if goes_on { Ok(()) } else { Err(eio()) }
    }
}

impl File for Handle {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read(|data| {
            let from = offset as usize;
            let part = data.now.get(from..from + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(part);
            Ok(())
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(Change::Write(offset as usize, bytes.to_vec()))
    }

    fn len(&self) -> io::Result<u64> {
        self.read(|data| Ok(data.now.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Len(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.drives.state();
        if state.life != self.life || !Drives::change(&mut state, &self.path)? {
            return Err(eio());
        }
        let data = state.files.get_mut(&self.file).unwrap();
        for change in data.unsynced.drain(..) {
            change.apply(&mut data.safe);
        }
        Ok(())
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.change(Change::Write(offset as usize, vec![0; len as usize]))
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut state = self.drives.state();
        Drives::look(&state, &self.path)?;
        let is_free = state.locks.insert(self.file);
        *self.locked.lock().unwrap() |= is_free;
        Ok(is_free)
    }

    fn is_at(&self, path: &Path) -> bool {
        let state = self.drives.state();
        Drives::look(&state, path).is_ok() && state.life == self.life && state.names.get(path) == Some(&self.file)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.drives.state();
        if *self.locked.lock().unwrap() && state.life == self.life {
            state.locks.remove(&self.file);
        }
    }
}

struct Still(Arc<AtomicU64>);

impl Clock for Still {
    fn now(&self) -> Instant {
        Instant(self.0.load(Ordering::Relaxed))
    }

    fn wall(&self) -> Wall {
        Wall(0)
    }

    fn sleep(&self, _duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

struct Seeded(Mutex<Chance>);

impl Rng for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        let len = bytes.len();
        bytes.copy_from_slice(&self.0.lock().unwrap().bytes(len));
    }
}

struct NoNet;

impl Net for NoNet {
    fn bind(&self, _address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

struct InPlace;

impl Spawn for InPlace {
    #[allow(clippy::disallowed_methods)]
    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send + 'static>) {
        work();
    }
}
