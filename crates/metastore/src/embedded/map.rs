//! The ordered map of one mirror: what the log made of the rows up to some point, in one redb file.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::Seq;
use codec::{Reader, Writer};
use crypt::MetaKey;
use env::{Disk, File};
use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};

use crate::Error;
use crate::embedded::sector::{self, SectorFile};
use crate::layer::{Cell, Layer, ValueRef};
use crate::merge::{Bounds, Ground, Known, Source};

type Rows = TableDefinition<'static, &'static [u8], &'static [u8]>;
const ROWS: Rows = TableDefinition::new("rows");
/// What the map holds, under [`APPLIED_KEY`].
const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("meta");
/// Log file → bytes of large values in it that rows point at.
const LIVE: TableDefinition<'static, u64, u64> = TableDefinition::new("live");
const APPLIED_KEY: &str = "applied";

/// How far into the log the map goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    pub seq: Seq,
    /// The log file, and the offset in it, of the first record that may not be in the map.
    pub file: u64,
    pub offset: u64,
}

pub(crate) struct Map {
    db: Database,
    file: Arc<dyn File>,
    path: PathBuf,
    /// Whether a page was found that isn't what was written.
    damaged: Arc<AtomicBool>,
}

/// A cut of a map.
pub(crate) struct MapView {
    rows: ReadOnlyTable<&'static [u8], &'static [u8]>,
    pub applied: Applied,
    path: PathBuf,
}

impl MapView {
    /// Whether it is of the map in this directory.
    pub fn is_in(&self, dir: &Path) -> bool {
        self.path == sector::path(dir)
    }
}

fn failed(what: &str, error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Io(error) => Error::io(format!("{what} the ordered map"), &error),
        error @ redb::Error::Corrupted(_) => Error::damaged(format!("{what} the ordered map: {error}")),
        error => Error::Io {
            what: format!("{what} the ordered map"),
            kind: base::Kind::Unreachable,
            text: error.to_string(),
        },
    }
}

impl Map {
    /// Opens the map in `dir`; creates an empty one under its temporary name if `new`.
    pub fn open(
        disk: &dyn Disk,
        dir: &Path,
        shard: u32,
        key: &MetaKey,
        cache_bytes: usize,
        new: Option<[u8; 16]>,
    ) -> Result<Self, Error> {
        let path = if new.is_some() { sector::path_new(dir) } else { sector::path(dir) };
        let sectors = match new {
            Some(salt) => SectorFile::create(disk, &path, shard, key, salt),
            None => SectorFile::open(disk, &path, shard, key),
        };
        let sectors = sectors.map_err(|error| Error::io(format!("open {}", path.display()), &error))?;
        let (file, damaged) = (sectors.file(), sectors.damaged());
        // The first page has no checksum of ours, and redb asserts some of what it says.
        let build = || Database::builder().set_cache_size(cache_bytes).create_with_backend(sectors);
        let db = catch_unwind(AssertUnwindSafe(build))
            .map_err(|_| Error::damaged(format!("the ordered map {}", path.display())))?;
        let map = Self { db: db.map_err(|error| failed("open", error))?, file, path, damaged };
        if new.is_some() {
            map.apply(&Layer::default(), Applied::default())?;
        }
        Ok(map)
    }

    /// Gives a new map its name.
    pub fn install(mut self, disk: &dyn Disk, dir: &Path) -> Result<Self, Error> {
        let to = sector::path(dir);
        let renamed = disk.rename(&self.path, &to).and_then(|()| disk.sync_dir(dir));
        renamed.map_err(|error| Error::io(format!("rename {}", self.path.display()), &error))?;
        self.path = to;
        Ok(self)
    }

    /// The file itself.
    pub fn file(&self) -> Arc<dyn File> {
        Arc::clone(&self.file)
    }

    /// Whether the file is still where it was opened.
    pub fn is_in_place(&self) -> bool {
        self.file.is_at(&self.path)
    }

    /// Whether a page was found that isn't what was written.
    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// The map as it is now.
    pub fn view(&self) -> Result<MapView, Error> {
        let read = self.db.begin_read().map_err(|error| failed("read", error))?;
        let rows = read.open_table(ROWS).map_err(|error| failed("read", error))?;
        let meta = read.open_table(META).map_err(|error| failed("read", error))?;
        let applied = meta.get(APPLIED_KEY).map_err(|error| failed("read", error))?;
        let applied = applied.ok_or_else(|| Error::damaged("the ordered map doesn't say how far it goes"))?;
        let applied = Applied::decode(applied.value())
            .map_err(|error| Error::damaged(format!("the ordered map doesn't say how far it goes: {error}")))?;
        Ok(MapView { rows, applied, path: self.path.clone() })
    }

    /// Brings the map up to `applied` with the newest version of each row of the layer.
    pub fn apply(&self, layer: &Layer, applied: Applied) -> Result<(), Error> {
        self.write(|rows, live| {
            layer.for_each(|key, versions| match versions.last() {
                Some((_, cell)) => write_cell(rows, live, key, cell),
                None => Ok(()),
            })?;
            Ok(Some(applied))
        })
    }

    /// Fills an empty map with all rows of `from`.
    pub fn copy(&self, from: &MapView) -> Result<(), Error> {
        /// Rows per transaction: bounds the memory that one takes.
        const STEP: usize = 20_000;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let start = after.as_deref().map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
            let rows: Vec<Known<Cell>> = from.chunk((start, std::ops::Bound::Unbounded), STEP, false)?;
            let done = rows.len() < STEP;
            after = rows.last().map(|(key, _)| key.clone()).or(after);
            self.write(|table, live| {
                for (key, cell) in &rows {
                    write_cell(table, live, key, cell.as_ref().unwrap_or(&Cell::Gone))?;
                }
                Ok(done.then_some(from.applied))
            })?;
            if done {
                return Ok(());
            }
        }
    }

    /// One durable transaction.
    fn write(
        &self,
        act: impl FnOnce(&mut redb::Table<'_, &'static [u8], &'static [u8]>, &mut Live) -> Result<Option<Applied>, Error>,
    ) -> Result<(), Error> {
        let mut txn = self.db.begin_write().map_err(|error| failed("write", error))?;
        // Without it a crash during redb's own repair may corrupt; with it no repair is needed.
        txn.set_two_phase_commit(true);
        txn.set_quick_repair(true);
        let mut live = Live::default();
        let applied = {
            let mut rows = txn.open_table(ROWS).map_err(|error| failed("write", error))?;
            act(&mut rows, &mut live)?
        };
        {
            let mut table = txn.open_table(LIVE).map_err(|error| failed("write", error))?;
            for (file, change) in &live.0 {
                let old = table.get(file).map_err(|error| failed("write", error))?.map_or(0, |bytes| bytes.value());
                let new = old.saturating_add_signed(*change);
                table.insert(file, new).map_err(|error| failed("write", error))?;
            }
        }
        if let Some(applied) = applied {
            let mut meta = txn.open_table(META).map_err(|error| failed("write", error))?;
            meta.insert(APPLIED_KEY, applied.encode().as_slice()).map_err(|error| failed("write", error))?;
        }
        txn.commit().map_err(|error| failed("write", error))
    }

    /// Bytes of live large values per log file, as of the last checkpoint.
    pub fn live(&self) -> Result<BTreeMap<u64, u64>, Error> {
        let read = self.db.begin_read().map_err(|error| failed("read", error))?;
        let table = read.open_table(LIVE).map_err(|error| failed("read", error))?;
        let mut live = BTreeMap::new();
        for row in table.iter().map_err(|error| failed("read", error))? {
            let (file, bytes) = row.map_err(|error| failed("read", error))?;
            live.insert(file.value(), bytes.value());
        }
        Ok(live)
    }
}

/// Changes of live bytes per file.
#[derive(Default)]
struct Live(BTreeMap<u64, i64>);

impl Live {
    fn note(&mut self, stored: &[u8], sign: i64) {
        if let Ok(Cell::Ref(place)) = decode_cell(stored) {
            *self.0.entry(place.file).or_default() += sign * i64::from(place.len);
        }
    }
}

fn write_cell(
    rows: &mut redb::Table<'_, &'static [u8], &'static [u8]>,
    live: &mut Live,
    key: &[u8],
    cell: &Cell,
) -> Result<(), Error> {
    let old = match encode_cell(cell) {
        Some(stored) => {
            live.note(&stored, 1);
            rows.insert(key, stored.as_slice())
        }
        None => rows.remove(key),
    };
    if let Some(old) = old.map_err(|error| failed("write", error))? {
        live.note(old.value(), -1);
    }
    Ok(())
}

/// A row's stored form: 0 and the value, or 1 and where a large value lies, or 2 and the batch of
/// one whose place a later record tells.
fn encode_cell(cell: &Cell) -> Option<Vec<u8>> {
    let mut to = Writer::new();
    match cell {
        Cell::Gone => return None,
        Cell::Inline(value) => to.u8(0).raw(value),
        Cell::Ref(place) => {
            to.u8(1).u64(place.seq.0).u64(place.file).u64(place.record).u32(place.sealed).u32(place.at).u32(place.len)
        }
        Cell::Dropped(seq) => to.u8(2).u64(seq.0),
    };
    Some(to.finish())
}

fn decode_cell(stored: &[u8]) -> Result<Cell, codec::Error> {
    let mut from = Reader::new(stored);
    let cell = match from.u8("row's form")? {
        0 => Cell::Inline(from.raw("row", from.left())?.into()),
        1 => Cell::Ref(ValueRef {
            seq: Seq(from.u64("row's seq")?),
            file: from.u64("row's file")?,
            record: from.u64("row's record")?,
            sealed: from.u32("row's record size")?,
            at: from.u32("row's place")?,
            len: from.u32("row's size")?,
        }),
        2 => Cell::Dropped(Seq(from.u64("row's seq")?)),
        form => return Err(codec::Error::Value { what: "row's form", value: form.into() }),
    };
    from.end("row")?;
    Ok(cell)
}

fn cell(stored: &[u8]) -> Result<Cell, Error> {
    decode_cell(stored).map_err(|error| Error::damaged(format!("a row of the ordered map: {error}")))
}

impl Applied {
    fn encode(self) -> Vec<u8> {
        let mut to = Writer::new();
        to.u64(self.seq.0).u64(self.file).u64(self.offset);
        to.finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self, codec::Error> {
        let mut from = Reader::new(bytes);
        let this = Self {
            seq: Seq(from.u64("applied seq")?),
            file: from.u64("applied file")?,
            offset: from.u64("applied offset")?,
        };
        from.end("applied")?;
        Ok(this)
    }
}

impl Source<Cell, Error> for MapView {
    fn chunk(&self, range: Bounds<'_>, count: usize, reverse: bool) -> Result<Vec<Known<Cell>>, Error> {
        let mut walk = self.rows.range::<&[u8]>(range).map_err(|error| failed("read", error))?;
        let mut rows = Vec::new();
        while rows.len() < count {
            let next = if reverse { walk.next_back() } else { walk.next() };
            let Some(row) = next else { break };
            let (key, stored) = row.map_err(|error| failed("read", error))?;
            rows.push((key.value().to_vec(), Some(cell(stored.value())?)));
        }
        Ok(rows)
    }
}

impl Ground for MapView {
    fn get(&self, key: &[u8]) -> Result<Option<Cell>, Error> {
        let stored = self.rows.get(key).map_err(|error| failed("read", error))?;
        stored.map(|stored| cell(stored.value())).transpose()
    }
}

/// All maps at the same point; the first that can be read answers.
pub(crate) struct AnyMap<'a>(pub &'a [Arc<MapView>]);

impl AnyMap<'_> {
    fn first<T>(&self, act: impl Fn(&MapView) -> Result<T, Error>) -> Result<T, Error> {
        let mut last = Error::bug("a shard without a single map");
        for map in self.0 {
            match act(map) {
                Ok(value) => return Ok(value),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl Source<Cell, Error> for AnyMap<'_> {
    fn chunk(&self, range: Bounds<'_>, count: usize, reverse: bool) -> Result<Vec<Known<Cell>>, Error> {
        self.first(|map| map.chunk(range, count, reverse))
    }
}

impl Ground for AnyMap<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Cell>, Error> {
        self.first(|map| map.get(key))
    }
}
