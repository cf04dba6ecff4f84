//! What was deleted or overwritten, kept for a while so that it can be had back.
//!
//! 1. A shard keeps it while its row `W` says for how long; without that row what is deleted is freed at once.
//! 2. A version that is kept has a row in `X` by its key and one in `Y` by when it went, and holds its segments as it did:
//!    nothing of it is garbage, so it is repaired, moved and emptied out of packs like anything else. Its rows in `A`, `B`
//!    and `M` stay where they are. No read of S3 sees any of this.
//! 3. Of each key the newest [`KEPT_PER_KEY_MAX`] are kept, so that a key written once a second costs no more than these.
//! 4. Bringing one back writes it like a put: what it replaces is kept in turn.
//! 5. A volume that was shut with all that is in it is reopened, or emptied, as a whole.

use base::kv::{Batch, View};
use base::{VolumeId, Wall};
use codec::{Reader, Versioned, Writer};

use crate::apply::{Content, write};
use crate::change::{Change, less, more};
use crate::error::Error;
use crate::journal::What;
use crate::keys::{Keys, Table, tail};
use crate::rows::{FileRow, Owner, VersionRow};
use crate::store::{Store, brief};
use crate::tree::Path;
use crate::types::{Outcome, Version};

/// Deleted or overwritten versions of one key that are kept at the most.
pub const KEPT_PER_KEY_MAX: usize = 16;
/// Rows that one command frees at the most.
pub const FREED_MAX: u32 = 256;

/// A version that was deleted or overwritten, as a row of table `X` holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndoRow {
    /// When.
    pub deleted: Wall,
    /// What it was.
    pub version: VersionRow,
}

impl Versioned for UndoRow {
    const NAME: &'static str = "deleted version";
    const MARK: [u8; 4] = *b"nsUd";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u64(self.deleted.0);
        self.version.encode_body(to);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        // Laid out as in a version row of version 1; a change there raises this row's version too.
        Ok(Self { deleted: Wall(from.u64("deleted")?), version: VersionRow::decode_body(1, from)? })
    }
}

/// How much of a volume is kept though it was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UndoHead {
    /// Versions.
    pub versions: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Versioned for UndoHead {
    const NAME: &'static str = "undo counters";
    const MARK: [u8; 4] = *b"nsUh";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u64(self.versions).u64(self.bytes);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        Ok(Self { versions: from.u64("versions")?, bytes: from.u64("bytes")? })
    }
}

/// A version that can be had back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// Its key.
    pub key: String,
    /// Names it among all of the volume.
    pub ord: u64,
    /// When it was deleted or overwritten.
    pub deleted: Wall,
    /// What it was, without its body.
    pub version: Version,
}

/// For how long the shard keeps what is deleted, in milliseconds; 0: it doesn't.
///
/// # Errors
/// If the row can't be read.
pub fn window(view: &dyn View) -> Result<u64, Error> {
    let Some(row) = view.get(&window_key())? else { return Ok(0) };
    let mut reader = Reader::new(&row);
    let window = reader.u64("undo window")?;
    reader.end("undo window")?;
    Ok(window)
}

/// Sets [`window`].
///
/// # Errors
/// If the row can't be read.
pub fn set_window(view: &dyn View, millis: u64) -> Result<Batch, Error> {
    let mut batch = Batch::default();
    match millis {
        _ if window(view)? == millis => {}
        0 => _ = batch.del(window_key()),
        millis => _ = batch.put(window_key(), millis.to_le_bytes()),
    }
    Ok(batch)
}

/// It is of volume 0, which is the shard's own.
fn window_key() -> Vec<u8> {
    Keys(VolumeId(0)).table(Table::Window, 0)
}

/// How much of a volume is kept though it was deleted.
///
/// # Errors
/// If the row can't be read.
pub fn stats(view: &dyn View, volume: VolumeId) -> Result<UndoHead, Error> {
    let store = Store::new(view, volume);
    Ok(store.get(&store.keys.table(Table::UndoHead, 0))?.unwrap_or_default())
}

/// What can be had back of a volume, what went last first; `before`: only what comes after this one.
///
/// # Errors
/// If a row can't be read.
pub fn list(
    view: &dyn View,
    volume: VolumeId,
    before: Option<(Wall, u64)>,
    limit: usize,
) -> Result<Vec<Deleted>, Error> {
    let store = Store::new(view, volume);
    let table = store.keys.table(Table::UndoTime, 0);
    let end = match before {
        Some((deleted, ord)) => store.keys.undo_time(deleted, ord),
        None => crate::keys::end(&table),
    };
    let rows = view.range(table.as_slice()..end.as_slice(), limit, true)?;
    rows.into_iter().map(|(key, value)| of_time(&store, &key, &value)).collect()
}

/// What can be had back of a key, what was written first first.
///
/// # Errors
/// If a row can't be read.
pub fn list_key(view: &dyn View, volume: VolumeId, key: &str) -> Result<Vec<Deleted>, Error> {
    let store = Store::new(view, volume);
    let rows = store.scan(&store.keys.undos_of(key), KEPT_PER_KEY_MAX + 1)?;
    let deleted = |(_, value): (Vec<u8>, Vec<u8>)| {
        let row = UndoRow::decode(&value)?;
        Ok(Deleted { key: key.to_owned(), ord: row.version.ord, deleted: row.deleted, version: brief(row.version) })
    };
    rows.into_iter().map(deleted).collect()
}

/// One of them, with its body.
///
/// # Errors
/// If a row can't be read.
pub fn deleted(view: &dyn View, volume: VolumeId, key: &str, ord: u64) -> Result<Option<Version>, Error> {
    let store = Store::new(view, volume);
    let row: Option<UndoRow> = store.get(&store.keys.undo(key, ord))?;
    row.map(|row| store.version(row.version, true)).transpose()
}

/// Whether the volume keeps something that was deleted by then.
///
/// # Errors
/// If a row can't be read.
pub fn is_due(view: &dyn View, volume: VolumeId, by: Wall) -> Result<bool, Error> {
    let keys = Keys(volume);
    let (from, end) = (keys.table(Table::UndoTime, 0), keys.undo_time(Wall(by.0.saturating_add(1)), 0));
    Ok(!view.range(from.as_slice()..end.as_slice(), 1, false)?.is_empty())
}

/// Whether the volume holds nothing any more but what is freed.
///
/// # Errors
/// If a row can't be read.
pub fn is_empty(view: &dyn View, volume: VolumeId) -> Result<bool, Error> {
    let store = Store::new(view, volume);
    for table in [Table::Version, Table::Dentry, Table::Part, Table::Upload, Table::UndoTime, Table::Config] {
        if !store.scan(&store.keys.table(table, 0), 1)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn of_time(store: &Store<'_>, row_key: &[u8], value: &[u8]) -> Result<Deleted, Error> {
    let (key, ord) = (text(value)?, u64::from_be_bytes(tail(row_key, "undo time key")?));
    let row: Option<UndoRow> = store.get(&store.keys.undo(&key, ord))?;
    let row = row.ok_or(Error::Broken { what: "a deleted version is known by its time but not there" })?;
    Ok(Deleted { key, ord, deleted: row.deleted, version: brief(row.version) })
}

fn text(bytes: &[u8]) -> Result<String, Error> {
    Ok(std::str::from_utf8(bytes).map_err(|_| codec::Error::Utf8 { what: "undo key" })?.to_owned())
}

/// A version goes: it is kept if the shard says so, else what it held is given back. Its own row is the caller's.
pub(crate) fn let_go(change: &mut Change<'_>, key: &str, row: &VersionRow) -> Result<(), Error> {
    // A marker holds nothing.
    if row.marker || window(change.store.view)? == 0 {
        let owner = Owner::Version { key: key.to_owned(), version: row.id() };
        return change.release(row, &owner);
    }
    let keys = change.store.keys;
    let mut kept = change.store.scan(&keys.undos_of(key), KEPT_PER_KEY_MAX + 1)?;
    // The one that is being brought back makes room itself.
    let coming = change.coming_back.map(|ord| keys.undo(key, ord));
    kept.retain(|(row_key, _)| Some(row_key) != coming.as_ref());
    if let Some((_, oldest)) = kept.first().filter(|_| kept.len() >= KEPT_PER_KEY_MAX) {
        free(change, key, &UndoRow::decode(oldest)?)?;
    }
    let deleted = change.now;
    change.batch.put(keys.undo(key, row.ord), UndoRow { deleted, version: row.clone() }.encode());
    change.batch.put(keys.undo_time(deleted, row.ord), key.as_bytes());
    let kept = change.undo()?;
    more(&mut kept.versions, 1)?;
    more(&mut kept.bytes, row.size)
}

/// One that was kept is given back for good.
fn free(change: &mut Change<'_>, key: &str, row: &UndoRow) -> Result<(), Error> {
    let version = &row.version;
    change.release(version, &Owner::Version { key: key.to_owned(), version: version.id() })?;
    forget(change, key, row)
}

fn forget(change: &mut Change<'_>, key: &str, row: &UndoRow) -> Result<(), Error> {
    let (keys, ord) = (change.store.keys, row.version.ord);
    change.batch.del(keys.undo(key, ord)).del(keys.undo_time(row.deleted, ord));
    let kept = change.undo()?;
    less(&mut kept.versions, 1)?;
    less(&mut kept.bytes, row.version.size)
}

/// Brings one back: it is the key's current version from now on.
pub(crate) fn undelete(change: &mut Change<'_>, key: &str, ord: u64) -> Result<Outcome, Error> {
    crate::check::key(key)?;
    let row: Option<UndoRow> = change.store.get(&change.store.keys.undo(key, ord))?;
    let row = row.ok_or(Error::NoSuchVersion)?;
    let (attrs, body) = (change.store.attrs(&row.version)?, change.store.body(&row.version)?);
    free(change, key, &row)?;
    change.coming_back = Some(ord);
    let VersionRow { size, etag, upload, .. } = &row.version;
    let path = Path::find(&change.store, key)?;
    let file = path.file(&change.store)?;
    write(change, key, path, file, Some(Content { size: *size, etag, attrs, body, upload: *upload, modified: None }))
}

/// Gives back what was deleted by then, of one key or of all; the outcome's size says how many. Those are [`FREED_MAX`]
/// while there is more.
pub(crate) fn expire(change: &mut Change<'_>, by: Option<Wall>, key: Option<&str>) -> Result<Outcome, Error> {
    let (store, mut freed) = (change.store, 0);
    let due = match window(store.view)? {
        // What was kept before isn't any more.
        0 => Wall(u64::MAX - 1),
        window => Wall(change.now.0.saturating_sub(window)),
    };
    let by = by.unwrap_or(due);
    if let Some(key) = key {
        for (_, value) in store.scan(&store.keys.undos_of(key), KEPT_PER_KEY_MAX + 1)? {
            let row = UndoRow::decode(&value)?;
            if row.deleted <= by {
                free(change, key, &row)?;
                freed += 1;
            }
        }
        return Ok(Outcome { size: freed, ..Outcome::default() });
    }
    let (from, end) = (store.keys.table(Table::UndoTime, 0), store.keys.undo_time(Wall(by.0.saturating_add(1)), 0));
    for (row_key, value) in store.view.range(from.as_slice()..end.as_slice(), FREED_MAX as usize, false)? {
        let (key, ord) = (text(&value)?, u64::from_be_bytes(tail(&row_key, "undo time key")?));
        let row: Option<UndoRow> = store.get(&store.keys.undo(&key, ord))?;
        let row = row.ok_or(Error::Broken { what: "a deleted version is known by its time but not there" })?;
        free(change, &key, &row)?;
        freed += 1;
    }
    Ok(Outcome { size: freed, ..Outcome::default() })
}

/// A version that was kept has its bytes elsewhere now.
pub(crate) fn rebody(
    change: &mut Change<'_>,
    key: &str,
    from: &crate::types::Body,
    to: &crate::types::Body,
) -> Result<Option<Outcome>, Error> {
    let store = change.store;
    for (row_key, value) in store.scan(&store.keys.undos_of(key), KEPT_PER_KEY_MAX + 1)? {
        let mut row = UndoRow::decode(&value)?;
        if from == to || store.body(&row.version)? != *from {
            continue;
        }
        crate::check::body(to, row.version.size)?;
        let owner = Owner::Version { key: key.to_owned(), version: row.version.id() };
        change.uses.remove(from, row.version.ord, &owner);
        change.uses.add(to, row.version.ord, &owner);
        change.unplace_body(&row.version);
        change.place_body(&mut row.version, to.clone());
        change.batch.put(row_key, row.encode());
        let VersionRow { modified, size, ref etag, .. } = row.version;
        return Ok(Some(Outcome {
            version: Some(row.version.id()),
            marker: false,
            modified,
            size,
            etag: etag.clone(),
        }));
    }
    Ok(None)
}

/// Takes no more commands, whatever is in it.
pub(crate) fn shut(change: &mut Change<'_>) -> Outcome {
    if !std::mem::replace(&mut change.head.closed, true) {
        change.event(What::Closed);
    }
    Outcome::default()
}

/// Takes commands again. What was in it is as it was.
pub(crate) fn reopen(change: &mut Change<'_>) -> Outcome {
    change.head.closed = false;
    Outcome::default()
}

/// Frees what is in a volume that was shut; the outcome's size says how many rows. None once it is empty.
pub(crate) fn empty(change: &mut Change<'_>) -> Result<Outcome, Error> {
    if !change.head.closed {
        return Err(Error::NotEmpty);
    }
    let (store, mut left) = (change.store, FREED_MAX as usize);
    let nobody = Owner::Version { key: String::new(), version: crate::types::VersionId::NULL };
    for (row_key, value) in store.scan(&store.keys.table(Table::Version, 0), left)? {
        drop_row(change, &VersionRow::decode(&value)?, &nobody)?;
        change.batch.del(row_key);
        left -= 1;
    }
    // Only then: what is current is what folders and counters are about.
    let table = store.keys.table(Table::Dentry, 0);
    for (row_key, value) in store.scan(&table, left)? {
        // Behind the table and the parent's inode comes the name.
        if !row_key.get(table.len() + 8..).unwrap_or_default().ends_with(b"/") {
            let current = FileRow::decode(&value)?.current;
            if !current.marker {
                less(&mut change.head.objects, 1)?;
                less(&mut change.head.bytes, current.size)?;
            }
            drop_row(change, &current, &nobody)?;
        }
        change.batch.del(row_key);
        left -= 1;
    }
    for (row_key, value) in store.scan(&store.keys.table(Table::Part, 0), left)? {
        let part = VersionRow::decode(&value)?;
        less(&mut change.head.part_bytes, part.size)?;
        change.release(&part, &nobody)?;
        change.batch.del(row_key);
        left -= 1;
    }
    for (row_key, _) in store.scan(&store.keys.table(Table::Upload, 0), left)? {
        less(&mut change.head.uploads, 1)?;
        change.batch.del(row_key);
        left -= 1;
    }
    for (row_key, value) in store.scan(&store.keys.table(Table::UndoTime, 0), left)? {
        let (key, ord) = (text(&value)?, u64::from_be_bytes(tail(&row_key, "undo time key")?));
        let row: Option<UndoRow> = store.get(&store.keys.undo(&key, ord))?;
        free(
            change,
            &key,
            &row.ok_or(Error::Broken { what: "a deleted version is known by its time but not there" })?,
        )?;
        left -= 1;
    }
    for (row_key, _) in store.scan(&store.keys.table(Table::Config, 0), left)? {
        change.batch.del(row_key);
        left -= 1;
    }
    Ok(Outcome { size: (FREED_MAX as usize - left) as u64, ..Outcome::default() })
}

fn drop_row(change: &mut Change<'_>, row: &VersionRow, owner: &Owner) -> Result<(), Error> {
    less(&mut change.head.versions, 1)?;
    less(&mut change.head.version_bytes, row.size)?;
    change.release(row, owner)
}
