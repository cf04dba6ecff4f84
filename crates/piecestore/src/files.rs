//! Names of a store's files, and a bounded number of open ones.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use env::{Disk, File, Open};

use crate::error::Error;
use crate::lock;

/// The store's own mark: says whose directory this is and whether it is still there.
pub(crate) const MARKER: &str = "store";

/// A numbered file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    Log(u32),
    Extents(u32),
}

impl Name {
    pub fn parse(name: &str) -> Option<Self> {
        let number = |hex: &str| (hex.len() == 8).then(|| u32::from_str_radix(hex, 16).ok()).flatten();
        let parsed = match name.strip_prefix("log-") {
            Some(hex) => number(hex).filter(|n| *n > 0).map(Self::Log),
            None => name.strip_prefix("extents-").and_then(number).filter(|n| *n > 0).map(Self::Extents),
        };
        // Capitals and signs would name another file than the one listed.
        parsed.filter(|parsed| parsed.to_string() == name)
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Name::Log(number) => write!(f, "log-{number:08x}"),
            Name::Extents(number) => write!(f, "extents-{number:08x}"),
        }
    }
}

/// Open files, the least recently used closed first: a drive of small pieces has more logs than a
/// process may have open files.
pub(crate) struct Files {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    open_max: usize,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    open: BTreeMap<Name, (Arc<dyn File>, u64)>,
    /// We are removing these: that they aren't at their paths is no loss.
    removing: BTreeSet<Name>,
    uses: u64,
}

impl Files {
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf, open_max: usize) -> Self {
        Self { disk, dir, open_max: open_max.max(1), cache: Mutex::default() }
    }

    pub fn path(&self, name: Name) -> PathBuf {
        self.dir.join(name.to_string())
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file, opened if it isn't.
    pub fn get(&self, name: Name) -> Result<Arc<dyn File>, Error> {
        {
            let mut cache = lock(&self.cache);
            cache.uses += 1;
            let uses = cache.uses;
            if let Some((file, used)) = cache.open.get_mut(&name) {
                *used = uses;
                return Ok(file.clone());
            }
        }
        let path = self.path(name);
        let file = match self.disk.open(&path, Open::Write) {
            Err(error) if matches!(base::kind::of_io(&error), base::Kind::Denied) => self.disk.open(&path, Open::Read),
            other => other,
        };
        let file = file.map_err(|error| Error::io("open", &path, error))?;
        self.put(name, file.clone());
        if !file.is_at(&path) {
            // Removed while we opened it: a handle kept here would look like a lost file.
            self.forget(name);
        }
        Ok(file)
    }

    /// A new file; its name is durable on return.
    pub fn create(&self, name: Name) -> Result<Arc<dyn File>, Error> {
        let path = self.path(name);
        let file = self.disk.open(&path, Open::CreateNew).map_err(|error| Error::io("create", &path, error))?;
        self.sync_dir()?;
        self.put(name, file.clone());
        Ok(file)
    }

    /// Removes the file; its absence is durable on return.
    pub fn remove(&self, name: Name) -> Result<(), Error> {
        let path = self.path(name);
        lock(&self.cache).removing.insert(name);
        let removed = self.disk.remove_file(&path);
        let mut cache = lock(&self.cache);
        cache.open.remove(&name);
        cache.removing.remove(&name);
        drop(cache);
        removed.map_err(|error| Error::io("remove", &path, error))?;
        self.sync_dir()
    }

    pub fn sync_dir(&self) -> Result<(), Error> {
        self.disk.sync_dir(&self.dir).map_err(|error| Error::io("sync directory", &self.dir, error))
    }

    fn put(&self, name: Name, file: Arc<dyn File>) {
        let mut cache = lock(&self.cache);
        cache.uses += 1;
        let uses = cache.uses;
        cache.open.insert(name, (file, uses));
        while cache.open.len() > self.open_max {
            let oldest = cache.open.iter().min_by_key(|(_, (_, used))| *used).map(|(name, _)| *name);
            match oldest {
                Some(oldest) => cache.open.remove(&oldest),
                None => break,
            };
        }
    }

    pub fn forget(&self, name: Name) {
        lock(&self.cache).open.remove(&name);
    }

    /// Whether the file should be at its path, as far as open files go.
    pub fn is_kept(&self, name: Name) -> bool {
        let cache = lock(&self.cache);
        cache.open.contains_key(&name) && !cache.removing.contains(&name)
    }

    /// Open files with their paths.
    pub fn opened(&self) -> Vec<(PathBuf, Arc<dyn File>)> {
        lock(&self.cache).open.iter().map(|(name, (file, _))| (self.path(*name), file.clone())).collect()
    }
}
