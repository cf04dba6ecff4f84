//! Walks dentries in S3's byte order, from any place, with a stack instead of recursion.

use base::kv::{Row, prefix_end};
use codec::Versioned;

use crate::error::Error;
use crate::rows::{FileRow, FolderRow};
use crate::store::Store;
use crate::tree::ROOT;

/// Rows read at first in a folder that is entered on the way: small folders shouldn't cost more
/// than they hold, and what is read too much in the folders above is bounded by what is shown.
const CHUNK_MIN: usize = 16;
/// Rows read at first after a rolled-up prefix: most likely the next one ends the reading again.
const CHUNK_AFTER_PREFIX: usize = 4;
/// Rows read at a time at the most. Measured: 32 and 1,024 are slower; that many rows at once leave
/// the allocator's fast path.
const CHUNK_MAX: usize = 128;
/// Where the name begins in a dentry's key: volume, table, parent.
const NAME_AT: usize = 13;

/// What the walk came to; its key is [`Walk::path`].
pub(crate) enum Item {
    /// A [`FileRow`], not yet decoded.
    File(Vec<u8>),
    /// Only when folders aren't entered.
    Folder,
}

pub(crate) struct Walk<'a> {
    store: Store<'a>,
    prefix: Vec<u8>,
    /// The folder that holds everything with the prefix, if it is there, and its path's length.
    base: Option<(u64, usize)>,
    /// Skip what no listing shows.
    live: bool,
    /// Don't enter folders below the base.
    flat: bool,
    /// Rows to read at first in the base.
    hint: usize,
    frames: Vec<Frame>,
    path: Vec<u8>,
}

/// One folder on the way, read as far as was needed.
struct Frame {
    inode: u64,
    path_len: usize,
    start: Vec<u8>,
    end: Vec<u8>,
    rows: std::vec::IntoIter<Row>,
    chunk: usize,
    done: bool,
}

impl<'a> Walk<'a> {
    /// A walk over the keys that begin with `prefix`, before its first [`Walk::seek`].
    pub fn new(store: Store<'a>, prefix: &str, live: bool, flat: bool, hint: usize) -> Result<Self, Error> {
        let base_len = prefix.rfind('/').map_or(0, |slash| slash + 1);
        let mut inode = Some(ROOT);
        for folder in prefix[..base_len].split_inclusive('/') {
            let Some(parent) = inode else { break };
            let row: Option<FolderRow> = store.get(&store.keys.dentry(parent, folder.as_bytes()))?;
            inode = row.map(|row| row.inode);
        }
        let base = inode.map(|inode| (inode, base_len));
        let prefix = prefix.as_bytes().to_vec();
        let hint = hint.clamp(CHUNK_MIN, CHUNK_MAX);
        Ok(Walk { store, prefix, base, live, flat, hint, frames: Vec::new(), path: Vec::new() })
    }

    /// Goes to the first key that isn't less than `at`.
    pub fn seek(&mut self, at: &[u8]) -> Result<(), Error> {
        self.frames.clear();
        let Some((mut inode, base_len)) = self.base else { return Ok(()) };
        let at = if at <= self.prefix.as_slice() { self.prefix.clone() } else { at.to_vec() };
        if !at.starts_with(&self.prefix) {
            return Ok(());
        }
        let mut here = base_len;
        while let Some(slash) = at[here..].iter().position(|byte| *byte == b'/').filter(|_| !self.flat) {
            let folder = &at[here..=here + slash];
            let row: Option<FolderRow> = self.store.get(&self.store.keys.dentry(inode, folder))?;
            let Some(row) = row else { break };
            let mut after = folder.to_vec();
            after.push(0);
            self.enter(inode, here, &after);
            inode = row.inode;
            here += folder.len();
        }
        self.path = at[..here].to_vec();
        self.enter(inode, here, &at[here..]);
        Ok(())
    }

    /// Goes beyond all keys that begin with `prefix`.
    pub fn skip(&mut self, prefix: &str) -> Result<(), Error> {
        self.hint = CHUNK_AFTER_PREFIX;
        self.seek(&beyond(prefix))
    }

    /// Goes on in a folder from the name `from`.
    fn enter(&mut self, inode: u64, path_len: usize, from: &[u8]) {
        let keys = self.store.keys;
        let base = self.frames.is_empty();
        let within = if base { &self.prefix[path_len.min(self.prefix.len())..] } else { &[] };
        let end = crate::keys::end(&keys.dentry(inode, within));
        let start = keys.dentry(inode, from);
        let chunk = if base { self.hint } else { CHUNK_MIN.min(self.hint) };
        self.frames.push(Frame { inode, path_len, start, end, rows: Vec::new().into_iter(), chunk, done: false });
    }

    /// The next file, or folder if those aren't entered.
    pub fn next(&mut self) -> Result<Option<Item>, Error> {
        while let Some(frame) = self.frames.last_mut() {
            let Some((key, value)) = frame.rows.next() else {
                if frame.done {
                    self.frames.pop();
                } else {
                    frame.read(&self.store)?;
                }
                continue;
            };
            let name = key.get(NAME_AT..).unwrap_or_default();
            self.path.truncate(frame.path_len);
            self.path.extend_from_slice(name);
            if name.ends_with(b"/") {
                let folder = FolderRow::decode(&value)?;
                if self.live && folder.live == 0 {
                    continue;
                }
                if self.flat {
                    return Ok(Some(Item::Folder));
                }
                self.enter(folder.inode, self.path.len(), b"");
            } else {
                if !self.live || !FileRow::is_marker(&value)? {
                    return Ok(Some(Item::File(value)));
                }
            }
        }
        Ok(None)
    }

    /// The key (or folder) that the walk came to.
    pub fn path(&self) -> Result<&str, Error> {
        std::str::from_utf8(&self.path).map_err(|_| codec::Error::Utf8 { what: "key" }.into())
    }

    /// The parent's inode and the name of the file that the walk came to.
    pub fn place(&self) -> (u64, &[u8]) {
        self.frames.last().map_or((ROOT, &[]), |frame| (frame.inode, &self.path[frame.path_len..]))
    }
}

/// The least string above all that begin with `prefix`, which is UTF-8 and so has no byte 0xff.
pub(crate) fn beyond(prefix: &str) -> Vec<u8> {
    prefix_end(prefix.as_bytes()).unwrap_or_default()
}

impl Frame {
    fn read(&mut self, store: &Store<'_>) -> Result<(), Error> {
        let rows = store.view.range(self.start.as_slice()..self.end.as_slice(), self.chunk, false)?;
        self.done = rows.len() < self.chunk;
        if let Some((key, _)) = rows.last() {
            self.start.clone_from(key);
            self.start.push(0);
        }
        self.rows = rows.into_iter();
        self.chunk = (self.chunk * 2).min(CHUNK_MAX);
        Ok(())
    }
}
