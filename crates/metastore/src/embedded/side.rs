//! One mirror's directory: its log files and its ordered map.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base::{DriveId, Instant};
use crypt::{LogSealer, MetaKey};
use env::{Disk, File, Open};

use crate::Error;
use crate::embedded::map::Map;
use crate::record::{FILE_HEAD, FileHead, Raw};

/// Log files that a mirror keeps open at most.
const OPEN_MAX: usize = 256;
/// How long a mirror is trusted to be where it was. A directory that was deleted goes on taking
/// writes and syncs, so that success alone says nothing.
pub(crate) const TRUST_MS: u64 = 500;

/// When what is written has to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Before anybody hears of it.
    Now,
    /// With the next sync.
    Soon,
}

/// A log file of one mirror.
pub(crate) struct LogFile {
    pub file: Arc<dyn File>,
    pub head: FileHead,
    pub sealer: LogSealer,
}

/// One mirror.
pub(crate) struct Side {
    pub drive: DriveId,
    pub dir: PathBuf,
    pub disk: Arc<dyn Disk>,
    pub shard: u32,
    key: MetaKey,
    map: Mutex<Option<Arc<Map>>>,
    logs: Mutex<BTreeMap<u64, Arc<LogFile>>>,
    /// When the files were last seen at their paths.
    seen: AtomicU64,
    lock: Mutex<Option<Arc<dyn File>>>,
}

/// A log file that has not got its name yet.
pub(crate) struct NewLog {
    file: Arc<dyn File>,
    path: PathBuf,
}

impl NewLog {
    pub fn write(&self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        let done = self.file.write_at(bytes, offset);
        done.map_err(|error| Error::io(format!("write {}", self.path.display()), &error))
    }

    pub fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(|error| Error::io(format!("write {}", self.path.display()), &error))
    }
}

pub(crate) fn log_name(number: u64) -> String {
    format!("log-{number:016x}")
}

pub(crate) fn log_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("log-")?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

/// A log file, one of its records as it is stored, and in clear.
pub(super) type ReadRecord = (Arc<LogFile>, Vec<u8>, Vec<u8>);

impl Side {
    /// Takes the directory for this process.
    pub fn attach(
        disk: &Arc<dyn Disk>,
        drive: DriveId,
        dir: &Path,
        shard: u32,
        key: &MetaKey,
    ) -> Result<Arc<Self>, Error> {
        let what = |error: &io::Error| Error::io(format!("open the metadata in {}", dir.display()), error);
        disk.create_dir_all(dir).map_err(|error| what(&error))?;
        for dir in dir.ancestors().take(3).filter(|dir| disk.exists(dir)) {
            disk.sync_dir(dir).map_err(|error| what(&error))?;
        }
        let lock = disk.open(&dir.join("lock"), Open::Create).map_err(|error| what(&error))?;
        if !lock.try_lock().map_err(|error| what(&error))? {
            return Err(Error::Locked { dir: dir.to_path_buf() });
        }
        Ok(Arc::new(Self {
            drive,
            dir: dir.to_path_buf(),
            disk: Arc::clone(disk),
            shard,
            key: key.clone(),
            map: Mutex::default(),
            logs: Mutex::default(),
            seen: AtomicU64::new(0),
            lock: Mutex::new(Some(lock)),
        }))
    }

    /// Lets the next owner have the directory. The map is closed before: a late close would write
    /// over what the next owner wrote.
    pub fn release(&self) {
        drop(self.map.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub fn path(&self, number: u64) -> PathBuf {
        self.dir.join(log_name(number))
    }

    pub fn set_map(&self, map: Map) {
        *self.map.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(map));
    }

    pub fn map(&self) -> Result<Arc<Map>, Error> {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner).clone();
        map.ok_or_else(|| Error::bug("a mirror without an ordered map"))
    }

    fn logs(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<LogFile>>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers of the log files here; leftovers of interrupted work are removed.
    pub fn numbers(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in self.disk.read_dir(&self.dir)? {
            if entry.name.ends_with(".new") {
                self.disk.remove_file(&self.dir.join(&entry.name))?;
            }
            numbers.extend(log_number(&entry.name));
        }
        Ok(numbers)
    }

    /// A log file; opened once.
    pub fn log(&self, number: u64) -> Result<Arc<LogFile>, Error> {
        if let Some(log) = self.logs().get(&number) {
            return Ok(Arc::clone(log));
        }
        let path = self.path(number);
        let what = |error: &io::Error| Error::io(format!("open {}", path.display()), error);
        let file = self.disk.open(&path, Open::Write).map_err(|error| what(&error))?;
        let mut bytes = vec![0; FILE_HEAD as usize];
        file.read_at(&mut bytes, 0).map_err(|error| what(&error))?;
        let bad = |error: String| Error::damaged(format!("{}: {error}", path.display()));
        let head = FileHead::decode(&bytes).map_err(|error| bad(error.to_string()))?;
        if head.shard != self.shard || head.number != number {
            return Err(Error::Foreign { what: format!("{} belongs to another shard", path.display()) });
        }
        let sealer = head.sealer(&bytes, &self.key).map_err(|_| Error::Foreign {
            what: format!("{} is sealed with another key: give this store's own key", path.display()),
        })?;
        Ok(self.keep(number, LogFile { file, head, sealer }))
    }

    fn keep(&self, number: u64, log: LogFile) -> Arc<LogFile> {
        let log = Arc::new(log);
        let mut logs = self.logs();
        while logs.len() >= OPEN_MAX {
            // The oldest is the least read, and never the one that is written.
            logs.pop_first();
        }
        logs.insert(number, Arc::clone(&log));
        log
    }

    /// Forgets an open file: another one has its name now, or none.
    pub fn forget(&self, number: u64) {
        self.logs().remove(&number);
    }

    /// A new log file with nothing but its head, durable with its name.
    pub fn create_log(&self, head: &FileHead) -> io::Result<()> {
        let file = self.disk.open(&self.path(head.number), Open::CreateNew)?;
        file.write_at(&head.encode(&self.key), 0)?;
        file.sync_data()?;
        self.disk.sync_dir(&self.dir)?;
        self.keep(head.number, LogFile { file, head: head.clone(), sealer: self.key.log_key(head.salt) });
        Ok(())
    }

    /// Writes `bytes` of a log file; fails if the file isn't there any more.
    pub fn append(&self, number: u64, offset: u64, bytes: &[u8], due: Due, now: Instant) -> Result<(), Error> {
        let log = self.log(number)?;
        let done = log.file.write_at(bytes, offset).and_then(|()| match due {
            Due::Now => log.file.sync_data(),
            Due::Soon => Ok(()),
        });
        done.map_err(|error| Error::io(format!("write {}", self.path(number).display()), &error))?;
        if now.0.saturating_sub(self.seen.load(Ordering::Relaxed)) >= TRUST_MS * 1_000_000 {
            self.look(Some(number), now)?;
        }
        Ok(())
    }

    /// Makes a log file durable.
    pub fn sync(&self, number: u64) -> Result<(), Error> {
        let done = self.log(number)?.file.sync_data();
        done.map_err(|error| Error::io(format!("write {}", self.path(number).display()), &error))
    }

    /// Looks whether the files are still where they were.
    pub fn look(&self, number: Option<u64>, now: Instant) -> Result<(), Error> {
        let gone = |what: PathBuf| Error::Io {
            what: format!("write {}", what.display()),
            kind: base::Kind::Missing,
            text: "it was deleted or replaced while it was open".into(),
        };
        if let Some(number) = number {
            let path = self.path(number);
            if !self.log(number)?.file.is_at(&path) {
                return Err(gone(path));
            }
        }
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if lock.is_some_and(|lock| !lock.is_at(&self.dir.join("lock"))) {
            return Err(gone(self.dir.clone()));
        }
        if self.map().is_ok_and(|map| !map.is_in_place()) {
            return Err(gone(self.dir.join("map")));
        }
        if self.map().is_ok_and(|map| map.is_damaged()) {
            let what = format!("read the ordered map in {}", self.dir.display());
            let text = "a page of it isn't what was written: the mirror has to be made anew".into();
            return Err(Error::Io { what, kind: base::Kind::Damaged, text });
        }
        self.seen.store(now.0, Ordering::Relaxed);
        Ok(())
    }

    /// Takes the name from a damaged map, so that the next open makes it anew from the log.
    pub fn give_up_map(&self) -> io::Result<()> {
        let path = crate::embedded::sector::path(&self.dir);
        self.disk.rename(&path, &crate::embedded::sector::path_new(&self.dir))?;
        self.disk.sync_dir(&self.dir)
    }

    /// The record at `offset`, if it is whole: as it is stored, and in clear.
    pub fn read_record(&self, number: u64, offset: u64, size: usize) -> Result<ReadRecord, Error> {
        let log = self.log(number)?;
        let mut bytes = vec![0; size];
        let path = || self.path(number).display().to_string();
        log.file.read_at(&mut bytes, offset).map_err(|error| Error::io(format!("read {}", path()), &error))?;
        let raw = Raw::parse(&bytes, offset).filter(|raw| raw.size == size);
        let plain = raw.and_then(|raw| raw.open(&log.sealer).ok());
        let plain = plain.ok_or_else(|| Error::damaged(format!("the record at {offset} of {}", path())))?;
        Ok((log, bytes, plain))
    }

    /// All bytes of a log file from `offset`.
    pub fn read_from(&self, number: u64, offset: u64) -> Result<Vec<u8>, Error> {
        let log = self.log(number)?;
        let what = |error: &io::Error| Error::io(format!("read {}", self.path(number).display()), error);
        let len = log.file.len().map_err(|error| what(&error))?;
        let mut bytes = vec![0; len.saturating_sub(offset) as usize];
        log.file.read_at(&mut bytes, offset).map_err(|error| what(&error))?;
        Ok(bytes)
    }

    /// Whether a log file's bytes from `offset` are exactly these.
    pub fn holds(&self, number: u64, offset: u64, bytes: &[u8]) -> Result<bool, Error> {
        /// Bytes per read.
        const STEP: usize = 1024 * 1024;
        let log = self.log(number)?;
        let what = |error: &io::Error| Error::io(format!("read {}", self.path(number).display()), error);
        if log.file.len().map_err(|error| what(&error))? != offset + bytes.len() as u64 {
            return Ok(false);
        }
        let mut found = vec![0; STEP.min(bytes.len())];
        for (at, part) in bytes.chunks(STEP).enumerate() {
            let found = &mut found[..part.len()];
            log.file.read_at(found, offset + (at * STEP) as u64).map_err(|error| what(&error))?;
            if found != part {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a log file has these bytes at `offset`, as the file with its name says: one that is open may be another.
    pub fn has(&self, number: u64, offset: u64, bytes: &[u8]) -> bool {
        let mut found = vec![0; bytes.len()];
        let read = self.disk.open(&self.path(number), Open::Read).and_then(|file| file.read_at(&mut found, offset));
        read.is_ok() && found == bytes
    }

    /// Writes bytes of a log file again that another mirror has whole.
    pub fn put_right(&self, number: u64, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let write = || {
            let file = self.disk.open(&self.path(number), Open::Write)?;
            file.write_at(bytes, offset)?;
            file.sync_data()
        };
        write().map_err(|error| Error::io(format!("repair {}", self.path(number).display()), &error))
    }

    /// Puts right what lies from `offset` to the end of a log file.
    pub fn rewrite_from(&self, number: u64, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let log = self.log(number)?;
        let write = || {
            log.file.write_at(bytes, offset)?;
            log.file.set_len(offset + bytes.len() as u64)?;
            log.file.sync_data()
        };
        write().map_err(|error| Error::io(format!("repair {}", self.path(number).display()), &error))
    }

    /// Writes a whole file under a new name, durably, and puts it in the place of what is there.
    pub fn replace(&self, number: u64, fill: impl FnOnce(&NewLog) -> Result<(), Error>) -> Result<(), Error> {
        let new = self.begin_new(number)?;
        fill(&new)?;
        new.sync()?;
        self.install_new(number)
    }

    /// A file that will take the place of a log file.
    pub fn begin_new(&self, number: u64) -> Result<NewLog, Error> {
        let path = self.path_new(number);
        let open = || {
            let file = self.disk.open(&path, Open::Create)?;
            file.set_len(0)?;
            Ok(file)
        };
        let file = open().map_err(|error: io::Error| Error::io(format!("write {}", path.display()), &error))?;
        Ok(NewLog { file, path })
    }

    /// Puts a synced [`NewLog`] in its place, durably.
    pub fn install_new(&self, number: u64) -> Result<(), Error> {
        let new = self.path_new(number);
        let done = self.disk.rename(&new, &self.path(number)).and_then(|()| self.disk.sync_dir(&self.dir));
        self.forget(number);
        done.map_err(|error| Error::io(format!("rename {}", new.display()), &error))
    }

    /// Removes a log file, durably.
    pub fn remove(&self, number: u64) -> Result<(), Error> {
        let path = self.path(number);
        self.forget(number);
        let done = self.disk.remove_file(&path).and_then(|()| self.disk.sync_dir(&self.dir));
        done.map_err(|error| Error::io(format!("remove {}", path.display()), &error))
    }

    fn path_new(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{}.new", log_name(number)))
    }

    /// Copies a whole log file from another mirror, at most `len` bytes of it.
    pub fn copy_log(&self, from: &Side, number: u64, len: u64) -> Result<(), Error> {
        /// Bytes per read.
        const STEP: u64 = 1024 * 1024;
        let log = from.log(number)?;
        let read = |error: &io::Error| Error::io(format!("read {}", from.path(number).display()), error);
        self.replace(number, |new| {
            let mut at = 0;
            while at < len {
                let mut bytes = vec![0; STEP.min(len - at) as usize];
                log.file.read_at(&mut bytes, at).map_err(|error| read(&error))?;
                new.write(&bytes, at)?;
                at += bytes.len() as u64;
            }
            Ok(())
        })
    }
}
