//! File systems in memory that lose what was not synced, tear what was being written, rot, fill up
//! and vanish, all from one seed.
//!
//! What is durable, and what a power cut does to the rest:
//! 1. Bytes are durable after `sync_data` of their file. Of the writes since, each 512-byte sector
//!    is kept or lost by itself: later ones may survive where earlier ones don't.
//! 2. A name, a rename, a removal is durable after `sync_dir` of its directory. Of those since, a
//!    beginning of the list (in order, as a journalling file system commits) survives.
//! 3. Handles from before a power cut are dead: a destructor that still runs changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use env::{Disk, Entry, File, Open, Space};

use crate::chance::Chance;

const SECTOR: usize = 512;

type Inode = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Dir,
    File(Inode),
}

/// A change of a file since its last sync.
#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Clone, Debug, Default)]
struct Data {
    now: Vec<u8>,
    durable: Vec<u8>,
    changes: Vec<Change>,
}

impl Data {
    fn change(&mut self, change: Change) {
        apply(&mut self.now, &change);
        self.changes.push(change);
    }

    fn sync(&mut self) {
        for change in self.changes.drain(..) {
            apply(&mut self.durable, &change);
        }
    }

    /// The power goes: rule 1.
    fn cut(&mut self, chance: &mut Chance) {
        for change in std::mem::take(&mut self.changes) {
            match change {
                Change::Length(len) => {
                    if chance.percent(50) {
                        apply(&mut self.durable, &Change::Length(len));
                    }
                }
                Change::Write { offset, bytes } => self.cut_write(offset, &bytes, chance),
            }
        }
        self.now.clone_from(&self.durable);
    }

    fn cut_write(&mut self, offset: usize, bytes: &[u8], chance: &mut Chance) {
        // Whole, not at all, or torn.
        let fate = chance.below(3);
        let mut at = 0;
        while at < bytes.len() {
            let end = bytes.len().min(at + SECTOR - (offset + at) % SECTOR);
            if fate == 0 || (fate == 2 && chance.percent(50)) {
                apply(&mut self.durable, &Change::Write { offset: offset + at, bytes: bytes[at..end].to_vec() });
            }
            at = end;
        }
    }
}

fn apply(data: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(len) => data.resize(*len, 0),
        Change::Write { offset, bytes } => {
            let end = offset + bytes.len();
            if data.len() < end {
                data.resize(end, 0);
            }
            data[*offset..end].copy_from_slice(bytes);
        }
    }
}

/// A change of names since the last sync of their directory.
#[derive(Clone, Debug)]
enum Naming {
    Link(PathBuf, Node),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl Naming {
    fn dir(&self) -> &Path {
        let (Naming::Link(path, _) | Naming::Unlink(path) | Naming::Rename(_, path)) = self;
        path.parent().unwrap_or(path)
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Naming::Link(path, node) => _ = names.insert(path.clone(), *node),
            Naming::Unlink(path) => _ = names.remove(path),
            Naming::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
        }
    }
}

/// What a drive does wrong just now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Chance in 10,000 that a read fails with EIO.
    pub read_errors: u32,
    /// Chance in 10,000 that a write or a sync fails with EIO.
    pub write_errors: u32,
    /// Every write fails as on a read-only file system.
    pub read_only: bool,
    /// The device is gone: every call on it and on its open files fails.
    pub gone: bool,
    /// Bytes that fit; `None` for as many as one likes.
    pub capacity: Option<u64>,
}

/// What a drive claims without doing it: planted, to see whether the storms notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lie {
    /// It tells the truth.
    #[default]
    None,
    /// Files are synced, it says, and aren't.
    Sync,
    /// Directories are synced, it says, and aren't.
    SyncDir,
}

#[derive(Default)]
struct State {
    names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    namings: Vec<Naming>,
    files: BTreeMap<Inode, Data>,
    next: Inode,
    life: u64,
    locks: BTreeSet<Inode>,
    lie: Lie,
    faults: BTreeMap<PathBuf, Faults>,
    hidden: BTreeMap<PathBuf, BTreeMap<PathBuf, Node>>,
    /// How many calls were made: part of a run's fingerprint.
    calls: u64,
}

/// All drives of a simulated machine. Clones are the same machine.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    chance: Arc<Mutex<Chance>>,
}

fn eio(what: &str) -> io::Error {
    io::Error::other(format!("input/output error ({what}, simulated)"))
}

impl SimDisk {
    /// An empty machine.
    pub fn new(seed: u64) -> Self {
        let state = State::default();
        Self { state: Arc::new(Mutex::new(state)), chance: Arc::new(Mutex::new(Chance::new(seed))) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn chance(&self) -> MutexGuard<'_, Chance> {
        self.chance.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// From now on syncs are as true as this.
    pub fn plant(&self, lie: Lie) {
        self.state().lie = lie;
    }

    /// The process ends without a word (`kill -9`): files stay as they are, handles die.
    pub fn kill(&self) {
        let mut state = self.state();
        state.life += 1;
        state.locks.clear();
    }

    /// The power goes: what was not synced is lost or torn, open handles die.
    pub fn power_cut(&self) {
        let mut guard = self.state();
        let state = &mut *guard;
        let mut chance = self.chance();
        state.life += 1;
        state.locks.clear();
        let namings = std::mem::take(&mut state.namings);
        let survive = chance.below(namings.len() as u64 + 1) as usize;
        for naming in &namings[..survive] {
            naming.apply(&mut state.durable_names);
        }
        state.names = state.durable_names.clone();
        for data in state.files.values_mut() {
            data.cut(&mut chance);
        }
        let hidden = state.hidden.values().flat_map(BTreeMap::values);
        let linked: BTreeSet<Inode> = state
            .names
            .values()
            .chain(hidden)
            .filter_map(|node| match node {
                Node::File(inode) => Some(*inode),
                Node::Dir => None,
            })
            .collect();
        state.files.retain(|inode, _| linked.contains(inode));
    }

    /// `rm -rf path`: names go, open handles go on working.
    pub fn remove_tree(&self, path: &Path) {
        let mut state = self.state();
        state.names.retain(|name, _| !name.starts_with(path));
        state.durable_names.retain(|name, _| !name.starts_with(path));
        state.namings.retain(|naming| !naming.dir().starts_with(path));
    }

    /// The device under `path` is pulled out: it comes back as it was with [`SimDisk::attach`].
    pub fn detach(&self, path: &Path) {
        let mut state = self.state();
        // What was not synced stays in doubt no longer: the device keeps it, as a good one would.
        let namings = std::mem::take(&mut state.namings);
        let (under, others): (Vec<_>, Vec<_>) = namings.into_iter().partition(|naming| naming.dir().starts_with(path));
        state.namings = others;
        for naming in under {
            naming.apply(&mut state.durable_names);
        }
        let names: BTreeMap<_, _> =
            state.names.iter().filter(|(name, _)| name.starts_with(path)).map(|(n, o)| (n.clone(), *o)).collect();
        state.names.retain(|name, _| !name.starts_with(path));
        state.durable_names.retain(|name, _| !name.starts_with(path));
        state.hidden.insert(path.to_path_buf(), names);
        state.faults.entry(path.to_path_buf()).or_default().gone = true;
    }

    /// The device is back.
    pub fn attach(&self, path: &Path) {
        let mut state = self.state();
        if let Some(names) = state.hidden.remove(path) {
            state.names.extend(names.clone());
            state.durable_names.extend(names);
        }
        state.faults.entry(path.to_path_buf()).or_default().gone = false;
    }

    /// Everything goes, to give its room back: what a run leaves behind may hold the machine for ever.
    pub fn wipe(&self) {
        let mut state = self.state();
        let life = state.life + 1;
        *state = State { life, ..State::default() };
    }

    /// Whether the device under `path` is pulled out.
    pub fn is_detached(&self, path: &Path) -> bool {
        self.state().hidden.contains_key(path)
    }

    /// Sets what the drive under `path` does wrong.
    pub fn set_faults(&self, path: &Path, faults: Faults) {
        self.state().faults.insert(path.to_path_buf(), faults);
    }

    /// Flips a bit in `count` places of the files under `path`; says how many were flipped.
    pub fn rot(&self, path: &Path, count: usize) -> usize {
        let mut guard = self.state();
        let state = &mut *guard;
        let mut chance = self.chance();
        let files: Vec<Inode> = state
            .names
            .iter()
            .filter(|(name, _)| name.starts_with(path))
            .filter_map(|(_, node)| match node {
                Node::File(inode) if state.files.get(inode).is_some_and(|data| !data.durable.is_empty()) => {
                    Some(*inode)
                }
                _ => None,
            })
            .collect();
        let mut flipped = 0;
        for _ in 0..count {
            if files.is_empty() {
                break;
            }
            let inode = files[chance.below(files.len() as u64) as usize];
            if let Some(data) = state.files.get_mut(&inode) {
                let at = chance.below(data.durable.len() as u64) as usize;
                let bit = 1 << chance.below(8);
                data.durable[at] ^= bit;
                if let Some(byte) = data.now.get_mut(at) {
                    *byte ^= bit;
                }
                flipped += 1;
            }
        }
        flipped
    }

    /// Bytes under `path`, as they are now.
    pub fn used(&self, path: &Path) -> u64 {
        self.state().used(path)
    }

    /// A number that two runs share only if they did the same to these disks.
    pub fn fingerprint(&self) -> u64 {
        let state = self.state();
        let mut crc = codec::Crc64::default();
        crc.update(&state.calls.to_le_bytes());
        for (name, node) in &state.names {
            crc.update(name.to_string_lossy().as_bytes());
            if let Node::File(inode) = node
                && let Some(data) = state.files.get(inode)
            {
                crc.update(&data.now);
            }
        }
        crc.value()
    }

    /// Fails as the drive that `path` lies on is told to.
    fn fault(&self, path: &Path, writes: bool) -> io::Result<()> {
        let faults = {
            let mut state = self.state();
            state.calls += 1;
            state.faults_of(path)
        };
        let Some(faults) = faults else { return Ok(()) };
        if faults.gone {
            return Err(eio("the device is gone"));
        }
        if writes && faults.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let odds = if writes { faults.write_errors } else { faults.read_errors };
        if odds > 0 && self.chance().below(10_000) < u64::from(odds) {
            return Err(eio(if writes { "write" } else { "read" }));
        }
        Ok(())
    }
}

impl State {
    fn faults_of(&self, path: &Path) -> Option<Faults> {
        self.faults.iter().find(|(drive, _)| path.starts_with(drive)).map(|(_, faults)| *faults)
    }

    fn drive_of(&self, path: &Path) -> Option<&PathBuf> {
        self.faults.keys().find(|drive| path.starts_with(drive))
    }

    fn used(&self, path: &Path) -> u64 {
        let under = self.names.iter().filter(|(name, _)| name.starts_with(path));
        under
            .filter_map(|(_, node)| match node {
                Node::File(inode) => self.files.get(inode).map(|data| data.now.len() as u64),
                Node::Dir => None,
            })
            .sum()
    }

    fn naming(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.namings.push(naming);
    }

    /// Whether `more` bytes still fit on the drive of `path`.
    fn fits(&self, path: &Path, more: u64) -> bool {
        match (self.faults_of(path).and_then(|faults| faults.capacity), self.drive_of(path)) {
            (Some(capacity), Some(drive)) => self.used(drive) + more <= capacity,
            _ => true,
        }
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        self.fault(path, false)?;
        let mut state = self.state();
        let found = state.names.get(path).copied();
        let inode = match (found, how) {
            (Some(Node::Dir), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (Some(Node::File(_)), Open::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(Node::File(inode)), _) => inode,
            (None, Open::Read | Open::Write) => return Err(io::ErrorKind::NotFound.into()),
            (None, Open::Create | Open::CreateNew) => {
                if !path.parent().is_some_and(|dir| state.names.get(dir) == Some(&Node::Dir)) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                state.next += 1;
                let inode = state.next;
                state.files.insert(inode, Data::default());
                state.naming(Naming::Link(path.to_path_buf(), Node::File(inode)));
                inode
            }
        };
        let life = state.life;
        drop(state);
        Ok(Arc::new(SimFile { disk: self.clone(), path: path.to_path_buf(), inode, life, locked: Mutex::new(false) }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.fault(path, true)?;
        let mut state = self.state();
        let mut missing: Vec<&Path> = path.ancestors().filter(|dir| !state.names.contains_key(*dir)).collect();
        missing.reverse();
        for dir in missing {
            state.naming(Naming::Link(dir.to_path_buf(), Node::Dir));
        }
        Ok(())
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.fault(path, false)?;
        let state = self.state();
        if state.names.get(path) != Some(&Node::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let children = state.names.iter().filter(|(name, _)| name.parent() == Some(path));
        Ok(children
            .filter_map(|(name, node)| {
                let name = name.file_name()?.to_str()?.to_owned();
                Some(Entry { name, is_dir: *node == Node::Dir })
            })
            .collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.fault(from, true)?;
        let mut state = self.state();
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.naming(Naming::Rename(from.to_path_buf(), to.to_path_buf()));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.fault(path, true)?;
        let mut state = self.state();
        match state.names.get(path) {
            Some(Node::File(_)) => state.naming(Naming::Unlink(path.to_path_buf())),
            Some(Node::Dir) => return Err(io::ErrorKind::IsADirectory.into()),
            None => return Err(io::ErrorKind::NotFound.into()),
        }
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.fault(path, true)?;
        let mut guard = self.state();
        let state = &mut *guard;
        if state.names.get(path) != Some(&Node::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.lie == Lie::SyncDir {
            return Ok(());
        }
        let namings = std::mem::take(&mut state.namings);
        for naming in namings {
            // A directory that can be synced has a name: its own entry is journalled before.
            let is_parent = matches!(&naming, Naming::Link(name, Node::Dir) if path.starts_with(name));
            if naming.dir() == path || is_parent {
                naming.apply(&mut state.durable_names);
            } else {
                state.namings.push(naming);
            }
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        self.state().names.contains_key(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.fault(path, false)?;
        let state = self.state();
        let total = state.faults_of(path).and_then(|faults| faults.capacity).unwrap_or(1 << 50);
        let used = state.drive_of(path).map_or(0, |drive| state.used(drive));
        Ok(Space { total, free: total.saturating_sub(used) })
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        if self.exists(path) { Ok(path.to_path_buf()) } else { Err(io::ErrorKind::NotFound.into()) }
    }
}

struct SimFile {
    disk: SimDisk,
    path: PathBuf,
    inode: Inode,
    life: u64,
    locked: Mutex<bool>,
}

impl SimFile {
    fn with<T>(&self, writes: bool, act: impl FnOnce(&mut Data) -> io::Result<T>) -> io::Result<T> {
        self.disk.fault(&self.path, writes)?;
        let mut state = self.disk.state();
        if state.life != self.life {
            return Err(eio("the handle is from before a power cut"));
        }
        match state.files.get_mut(&self.inode) {
            Some(data) => act(data),
            None => Err(eio("no such file")),
        }
    }
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(false, |data| {
            let from = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
            let end = from.checked_add(buffer.len()).filter(|end| *end <= data.now.len());
            let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(&data.now[from..end]);
            Ok(())
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let len = self.len()?;
        let more = (offset + bytes.len() as u64).saturating_sub(len);
        if more > 0 && !self.disk.state().fits(&self.path, more) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.with(true, |data| {
            data.change(Change::Write { offset: offset as usize, bytes: bytes.to_vec() });
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(false, |data| Ok(data.now.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let more = len.saturating_sub(self.len()?);
        if more > 0 && !self.disk.state().fits(&self.path, more) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.with(true, |data| {
            data.change(Change::Length(len as usize));
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.disk.state().lie == Lie::Sync {
            return self.with(true, |_| Ok(()));
        }
        self.with(true, |data| {
            data.sync();
            Ok(())
        })
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.with(true, |data| {
            let from = (offset as usize).min(data.now.len());
            let end = (offset.saturating_add(len) as usize).min(data.now.len());
            data.change(Change::Write { offset: from, bytes: vec![0; end - from] });
            Ok(())
        })
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut state = self.disk.state();
        let free = state.locks.insert(self.inode);
        if free && let Ok(mut locked) = self.locked.lock() {
            *locked = true;
        }
        Ok(free)
    }

    fn is_at(&self, path: &Path) -> bool {
        let state = self.disk.state();
        state.life == self.life && state.names.get(path) == Some(&Node::File(self.inode))
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let held = self.locked.lock().is_ok_and(|locked| *locked);
        let mut state = self.disk.state();
        if held && state.life == self.life {
            state.locks.remove(&self.inode);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive() -> (SimDisk, PathBuf) {
        let disk = SimDisk::new(7);
        let dir = PathBuf::from("/d");
        disk.create_dir_all(&dir).unwrap();
        disk.set_faults(&dir, Faults::default());
        (disk, dir)
    }

    #[test]
    fn a_power_cut_keeps_what_was_synced_and_kills_old_handles() {
        for seed in 0..50 {
            let (_, dir) = drive();
            let disk = SimDisk::new(seed);
            disk.create_dir_all(&dir).unwrap();
            let path = dir.join("a");
            let file = disk.open(&path, Open::Create).unwrap();
            file.write_at(&[1; 2000], 0).unwrap();
            file.sync_data().unwrap();
            disk.sync_dir(&dir).unwrap();
            file.write_at(&[2; 2000], 2000).unwrap();
            disk.power_cut();
            assert!(file.write_at(&[3], 0).is_err(), "a dead handle wrote");
            let file = disk.open(&path, Open::Read).unwrap();
            let mut bytes = vec![0; 2000];
            file.read_at(&mut bytes, 0).unwrap();
            assert!(bytes.iter().all(|byte| *byte == 1), "seed {seed}");
        }
    }

    #[test]
    fn a_name_that_was_not_synced_can_be_lost() {
        let lost = (0..50).filter(|seed| {
            let disk = SimDisk::new(*seed);
            disk.create_dir_all(Path::new("/d")).unwrap();
            disk.sync_dir(Path::new("/d")).unwrap();
            let file = disk.open(Path::new("/d/a"), Open::Create).unwrap();
            file.sync_data().unwrap();
            disk.power_cut();
            !disk.exists(Path::new("/d/a"))
        });
        assert!((5..45).contains(&lost.count()));
    }

    #[test]
    fn a_removed_tree_leaves_handles_working_and_is_noticed() {
        let (disk, dir) = drive();
        let file = disk.open(&dir.join("a"), Open::Create).unwrap();
        assert!(file.is_at(&dir.join("a")));
        disk.remove_tree(&dir);
        file.write_at(b"x", 0).unwrap();
        assert!(!file.is_at(&dir.join("a")));
    }

    #[test]
    fn a_full_drive_says_so_and_a_detached_one_fails_until_it_is_back() {
        let (disk, dir) = drive();
        disk.set_faults(&dir, Faults { capacity: Some(1000), ..Faults::default() });
        let file = disk.open(&dir.join("a"), Open::Create).unwrap();
        file.write_at(&[0; 900], 0).unwrap();
        assert_eq!(file.write_at(&[0; 200], 900).unwrap_err().kind(), io::ErrorKind::StorageFull);
        disk.detach(&dir);
        assert!(file.read_at(&mut [0; 1], 0).is_err());
        assert!(!disk.exists(&dir.join("a")));
        disk.attach(&dir);
        file.read_at(&mut [0; 1], 0).unwrap();
        assert!(file.is_at(&dir.join("a")));
    }
}
