//! Folders: found on the way to a key, made on demand, gone with their last child.
//!
//! A folder's row counts its children and its live children (those that a listing shows), so that
//! a listing never looks below a folder. Counts change only where a child comes, goes, or turns
//! between live and dead; that climbs only while a folder itself does so. Cost: depth of the key.

use codec::Versioned;

use crate::change::Change;
use crate::error::Error;
use crate::rows::{FileRow, FolderRow};
use crate::store::Store;

/// The inode of a volume's topmost folder, which has no row.
pub(crate) const ROOT: u64 = 1;

/// How a folder's child counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Absent,
    /// There, but no listing shows it: a delete marker, or a folder of such.
    Dead,
    Live,
}

impl Presence {
    pub fn of(file: Option<&FileRow>) -> Presence {
        match file {
            None => Presence::Absent,
            Some(file) if file.current.marker => Presence::Dead,
            Some(_) => Presence::Live,
        }
    }

    fn of_folder(row: &FolderRow) -> Presence {
        match (row.children, row.live) {
            (0, _) => Presence::Absent,
            (_, 0) => Presence::Dead,
            _ => Presence::Live,
        }
    }

    fn exists(self) -> bool {
        self != Presence::Absent
    }

    fn live(self) -> bool {
        self == Presence::Live
    }
}

/// The folders on the way to a key, as far as they are there, and the file's name in the last.
pub(crate) struct Path<'k> {
    folders: Vec<(&'k str, Option<FolderRow>)>,
    name: &'k str,
}

impl<'k> Path<'k> {
    /// Walks from the root; every component but the last ends in `/`.
    pub fn find(store: &Store<'_>, key: &'k str) -> Result<Path<'k>, Error> {
        let at = key.rfind('/').map_or(0, |slash| slash + 1);
        let (folders, name) = key.split_at(at);
        let mut parent = Some(ROOT);
        let mut found = Vec::new();
        for folder in folders.split_inclusive('/') {
            let row: Option<FolderRow> = match parent {
                Some(parent) => store.get(&store.keys.dentry(parent, folder.as_bytes()))?,
                None => None,
            };
            parent = row.as_ref().map(|row| row.inode);
            found.push((folder, row));
        }
        Ok(Path { folders: found, name })
    }

    /// The file's name and its parent's inode, if all folders are there.
    pub fn place(&self) -> Option<(u64, &'k [u8])> {
        match self.folders.last() {
            None => Some((ROOT, self.name.as_bytes())),
            Some((_, row)) => row.as_ref().map(|row| (row.inode, self.name.as_bytes())),
        }
    }

    /// The file's row, if it is there.
    pub fn file(&self, store: &Store<'_>) -> Result<Option<FileRow>, Error> {
        match self.place() {
            Some((parent, name)) => store.file(parent, name),
            None => Ok(None),
        }
    }

    /// Makes the folders that are missing (their rows are written by [`Path::count`]) and gives
    /// the file's place.
    pub fn make(&mut self, change: &mut Change<'_>) -> (u64, &'k [u8]) {
        let mut parent = ROOT;
        for (_, row) in &mut self.folders {
            parent = row
                .get_or_insert_with(|| {
                    change.head.inode = change.head.inode.max(ROOT) + 1;
                    FolderRow { inode: change.head.inode, children: 0, live: 0 }
                })
                .inode;
        }
        (parent, self.name.as_bytes())
    }

    /// Writes the counts of the folders above a file that went from `before` to `after`.
    pub fn count(self, change: &mut Change<'_>, before: Presence, after: Presence) -> Result<(), Error> {
        let (mut before, mut after) = (before, after);
        let parents: Vec<u64> = std::iter::once(ROOT)
            .chain(self.folders.iter().filter_map(|(_, row)| row.as_ref().map(|row| row.inode)))
            .collect();
        for ((name, row), parent) in self.folders.into_iter().zip(parents).rev() {
            if before == after {
                break;
            }
            let mut row = row.ok_or(Error::Broken { what: "a file's folder is not there" })?;
            let was = Presence::of_folder(&row);
            row.children = step(row.children, before.exists(), after.exists())?;
            row.live = step(row.live, before.live(), after.live())?;
            let key = change.store.keys.dentry(parent, name.as_bytes());
            (before, after) = (was, Presence::of_folder(&row));
            match after {
                Presence::Absent => change.batch.del(key),
                _ => change.batch.put(key, row.encode()),
            };
        }
        Ok(())
    }
}

fn step(count: u64, before: bool, after: bool) -> Result<u64, Error> {
    match (before, after) {
        (false, true) => count.checked_add(1),
        (true, false) => count.checked_sub(1),
        _ => Some(count),
    }
    .ok_or(Error::Broken { what: "a folder counts fewer children than it has" })
}
