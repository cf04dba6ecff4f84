//! Reads of one volume: an object, pages of keys, versions, uploads and parts, and what the
//! keepers of segments need to know.

use base::kv::View;
use base::{GroupId, PolicyId, SegmentId, VolumeId, Wall};
use codec::Versioned;

use crate::error::Error;
use crate::keys::{Table, end, tail};
pub use crate::rows::Head as Stats;
use crate::rows::{FileRow, GarbageRow, Head, MissingRow, Owner, SegmentRow, SlotRow, UploadRow, VersionRow};
use crate::store::{Store, brief};
use crate::tree::Path;
use crate::types::{Body, Part, Upload, UploadId, Version, VersionId, Versioning};
use crate::walk::{Item, Walk, beyond};

/// Rows read at a time.
const CHUNK: usize = 1024;

/// A version that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// An object.
    Object(Version),
    /// A delete marker: as the current version it says that the key is gone.
    Marker(Version),
}

impl Found {
    /// Either of them.
    pub fn into_version(self) -> Version {
        match self {
            Found::Object(version) | Found::Marker(version) => version,
        }
    }

    /// The object; for a marker what it means: no such key (as the current version), or a marker
    /// where an object was wanted.
    pub fn object(self, asked: Option<VersionId>) -> Result<Version, Error> {
        match self {
            Found::Object(version) => Ok(version),
            Found::Marker(_) if asked.is_some() => Err(Error::IsMarker),
            Found::Marker(_) => Err(Error::NoSuchKey),
        }
    }
}

/// A key's current version, or the named one. Attributes are complete. The body is read along if
/// `with_body`; else it may be [`Body::Unloaded`].
///
/// Errors: [`Error::NoSuchKey`] if no version was named and the key has none at all (a current
/// delete marker is found), [`Error::NoSuchVersion`] if the named one isn't there.
pub fn head(
    view: &dyn View,
    volume: VolumeId,
    key: &str,
    version: Option<VersionId>,
    with_body: bool,
) -> Result<Found, Error> {
    let store = Store::new(view, volume);
    let row = match version {
        None => Path::find(&store, key)?.file(&store)?.ok_or(Error::NoSuchKey)?.current,
        Some(version) => named(&store, key, version)?.ok_or(Error::NoSuchVersion)?,
    };
    let version = store.version(row, with_body)?;
    Ok(if version.marker { Found::Marker(version) } else { Found::Object(version) })
}

/// As [`head`], for who asks by a bucket's name: that the bucket was deleted may not be known yet where the name was looked up.
///
/// Errors: as [`head`]; [`Error::Closed`] if there is nothing because the bucket is being deleted, or was.
pub fn find(
    view: &dyn View,
    volume: VolumeId,
    key: &str,
    version: Option<VersionId>,
    with_body: bool,
) -> Result<Found, Error> {
    match head(view, volume, key, version, with_body) {
        Err(Error::NoSuchKey | Error::NoSuchVersion) if stats(view, volume)?.closed => Err(Error::Closed),
        other => other,
    }
}

/// The named version with its body, and its place in the order of versions, which says for a null version too what is later.
///
/// Errors: as [`head`].
pub fn head_and_ord(view: &dyn View, volume: VolumeId, key: &str, version: VersionId) -> Result<(Found, u64), Error> {
    let store = Store::new(view, volume);
    let row = named(&store, key, version)?.ok_or(Error::NoSuchVersion)?;
    let ord = row.ord;
    let version = store.version(row, true)?;
    Ok((if version.marker { Found::Marker(version) } else { Found::Object(version) }, ord))
}

fn named(store: &Store<'_>, key: &str, version: VersionId) -> Result<Option<VersionRow>, Error> {
    let path = Path::find(store, key)?;
    let (Some((parent, name)), Some(file)) = (path.place(), path.file(store)?) else { return Ok(None) };
    if file.current.id() == version {
        return Ok(Some(file.current));
    }
    let ord = if version == VersionId::NULL { file.older_null } else { version.0 };
    if file.older == 0 || ord == 0 {
        return Ok(None);
    }
    let row: Option<VersionRow> = store.get(&store.keys.version(parent, name, ord))?;
    Ok(row.filter(|row| row.id() == version))
}

/// Which page of keys, versions or uploads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Only keys that begin so.
    pub prefix: String,
    /// Rolls up what follows the prefix up to here; empty: nothing is rolled up.
    pub delimiter: String,
    /// Only what sorts after; a rolled-up prefix that sorts before it or equals it is left out,
    /// even if keys below it sort after.
    pub after: Option<String>,
    /// With `after`, for versions: go on inside that key, after this one.
    pub after_version: Option<VersionId>,
    /// With `after`, for uploads: go on inside that key, after this one.
    pub after_upload: Option<UploadId>,
    /// Attributes to show of current versions; `None`: all short ones. Naming the few that are needed
    /// makes a page much cheaper.
    pub attrs: Option<&'static [&'static str]>,
    /// Items and rolled-up prefixes together; 0 gives an empty page that isn't truncated.
    pub limit: usize,
}

impl ListQuery {
    /// The rolled-up prefix that stands for the key, if one does.
    fn rolled<'k>(&self, key: &'k str) -> Option<&'k str> {
        let rest = key.strip_prefix(self.prefix.as_str()).filter(|_| !self.delimiter.is_empty())?;
        let at = rest.find(self.delimiter.as_str())?;
        Some(&key[..self.prefix.len() + at + self.delimiter.len()])
    }

    /// The least key that may be shown. With `inside`, `after` itself may be.
    fn start(&self, inside: bool) -> Vec<u8> {
        let Some(after) = &self.after else { return self.prefix.clone().into_bytes() };
        match self.rolled(after) {
            Some(prefix) => beyond(prefix),
            None => {
                let mut start = after.clone().into_bytes();
                if !inside {
                    // No key holds a NUL: this is the least string above.
                    start.push(0);
                }
                start
            }
        }
    }

    /// Folders needn't be entered: they are the rolled-up prefixes.
    fn flat(&self) -> bool {
        self.delimiter == "/"
    }
}

/// An entry of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry<T> {
    /// What was asked for.
    Item(T),
    /// Keys rolled up under this prefix.
    Prefix(String),
}

/// A page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// In S3's order, items and prefixes together.
    pub entries: Vec<Entry<T>>,
    /// If there is more: where the next page goes on.
    pub next: Option<Next>,
}

impl<T> Page<T> {
    /// Whether there is more.
    pub fn truncated(&self) -> bool {
        self.next.is_some()
    }
}

/// Where the next page goes on: put these into the next [`ListQuery`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// For `after`: the last key or prefix of this page.
    pub after: String,
    /// For `after_version`.
    pub version: Option<VersionId>,
    /// For `after_upload`.
    pub upload: Option<UploadId>,
}

/// A key and its current version: without body, without attributes of more than 256 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The key.
    pub key: String,
    /// The version.
    pub version: Version,
}

/// One version of a key, without body and long attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The key.
    pub key: String,
    /// The version, maybe a delete marker.
    pub version: Version,
    /// Whether it is the key's current one.
    pub latest: bool,
}

/// A page of current versions, without delete markers. With delimiter `/` it costs what it shows,
/// whatever lies below the prefixes.
pub fn list(view: &dyn View, volume: VolumeId, query: &ListQuery) -> Result<Page<Object>, Error> {
    let mut entries = Vec::new();
    if query.limit == 0 {
        return Ok(Page { entries, next: None });
    }
    let hint = query.limit.saturating_add(1);
    let mut walk = Walk::new(Store::new(view, volume), &query.prefix, true, query.flat(), hint)?;
    walk.seek(&query.start(false))?;
    while let Some(item) = walk.next()? {
        if entries.len() >= query.limit {
            let after = match entries.last() {
                Some(Entry::Item(Object { key, .. })) => key.clone(),
                Some(Entry::Prefix(prefix)) => prefix.clone(),
                None => String::new(),
            };
            return Ok(Page { entries, next: Some(Next { after, ..Next::default() }) });
        }
        let key = walk.path()?;
        match item {
            Item::Folder => entries.push(Entry::Prefix(key.to_owned())),
            Item::File(file) => match query.rolled(key) {
                None => {
                    let version = brief(FileRow::decode_brief(&file, query.attrs)?);
                    entries.push(Entry::Item(Object { key: key.to_owned(), version }));
                }
                Some(prefix) => {
                    let prefix = prefix.to_owned();
                    walk.skip(&prefix)?;
                    entries.push(Entry::Prefix(prefix));
                }
            },
        }
    }
    Ok(Page { entries, next: None })
}

/// A page of all versions and delete markers, by key, newest first.
pub fn list_versions(view: &dyn View, volume: VolumeId, query: &ListQuery) -> Result<Page<Listed>, Error> {
    let mut page = Page { entries: Vec::new(), next: None };
    if query.limit == 0 {
        return Ok(page);
    }
    let store = Store::new(view, volume);
    let mut walk = Walk::new(store, &query.prefix, false, query.flat(), query.limit.saturating_add(1))?;
    walk.seek(&query.start(query.after_version.is_some()))?;
    while let Some(item) = walk.next()? {
        let key = walk.path()?.to_owned();
        let rolled = match &item {
            Item::Folder => Some(key.as_str()),
            Item::File(_) => query.rolled(&key),
        };
        if let Some(prefix) = rolled {
            if page.entries.len() >= query.limit {
                page.next = next_version(&page.entries);
                return Ok(page);
            }
            if matches!(item, Item::File(_)) {
                walk.skip(prefix)?;
            }
            page.entries.push(Entry::Prefix(prefix.to_owned()));
        } else if let Item::File(file) = item {
            let after = query.after_version.filter(|_| query.after.as_deref() == Some(&key));
            if !versions_of(&store, walk.place(), &key, FileRow::decode(&file)?, after, query.limit, &mut page.entries)?
            {
                page.next = next_version(&page.entries);
                return Ok(page);
            }
        }
    }
    Ok(page)
}

fn next_version(entries: &[Entry<Listed>]) -> Option<Next> {
    entries.last().map(|last| match last {
        Entry::Item(Listed { key, version, .. }) => {
            Next { after: key.clone(), version: Some(version.id), upload: None }
        }
        Entry::Prefix(prefix) => Next { after: prefix.clone(), ..Next::default() },
    })
}

/// Adds a file's versions to the page, those after `after`; false if they don't all fit.
fn versions_of(
    store: &Store<'_>,
    (parent, name): (u64, &[u8]),
    key: &str,
    file: FileRow,
    after: Option<VersionId>,
    limit: usize,
    entries: &mut Vec<Entry<Listed>>,
) -> Result<bool, Error> {
    // Versions with a smaller ord than this one are still to be shown. A null version that is gone
    // tells nothing: then all are shown again, rather than one left out.
    let cut = match after {
        None => u64::MAX,
        Some(VersionId::NULL) if file.current.null => file.current.ord,
        Some(VersionId::NULL) if file.older_null != 0 => file.older_null,
        Some(VersionId::NULL) => u64::MAX,
        Some(version) => version.0,
    };
    let mut show = |version: VersionRow, latest: bool| {
        if entries.len() >= limit {
            return false;
        }
        entries.push(Entry::Item(Listed { key: key.to_owned(), version: brief(version), latest }));
        true
    };
    let older = file.older;
    if file.current.ord < cut && !show(file.current, true) {
        return Ok(false);
    }
    if older == 0 {
        return Ok(true);
    }
    let end = end(&store.keys.versions(parent, name));
    let mut start = store.keys.version(parent, name, cut.saturating_sub(1));
    loop {
        let rows = store.view.range(start.as_slice()..end.as_slice(), CHUNK.min(limit.saturating_add(1)), false)?;
        let Some((last, _)) = rows.last() else { return Ok(true) };
        start.clone_from(last);
        start.push(0);
        for (_, value) in rows {
            if !show(VersionRow::decode(&value)?, false) {
                return Ok(false);
            }
        }
    }
}

/// A page of uploads under way, by key, then by upload id.
pub fn uploads(view: &dyn View, volume: VolumeId, query: &ListQuery) -> Result<Page<Upload>, Error> {
    let mut entries: Vec<Entry<Upload>> = Vec::new();
    if query.limit == 0 {
        return Ok(Page { entries, next: None });
    }
    let store = Store::new(view, volume);
    let table = store.keys.table(Table::Upload, 0);
    let last = end(&[table.as_slice(), query.prefix.as_bytes()].concat());
    let mut start = uploads_start(&store, query);
    loop {
        let rows = view.range(start.as_slice()..last.as_slice(), CHUNK.min(query.limit.saturating_add(1)), false)?;
        if rows.is_empty() {
            return Ok(Page { entries, next: None });
        }
        for (row, value) in rows {
            if entries.len() >= query.limit {
                return Ok(Page { next: entries.last().map(next_upload), entries });
            }
            let (key, id) = upload_of(&row, table.len())?;
            start.clone_from(&row);
            start.push(0);
            if let Some(prefix) = query.rolled(&key) {
                start = [table.as_slice(), &beyond(prefix)].concat();
                entries.push(Entry::Prefix(prefix.to_owned()));
                break;
            }
            let UploadRow { begun, attrs } = UploadRow::decode(&value)?;
            entries.push(Entry::Item(Upload { id, key, begun, attrs }));
        }
    }
}

fn uploads_start(store: &Store<'_>, query: &ListQuery) -> Vec<u8> {
    let table = store.keys.table(Table::Upload, 0);
    let first = [table.as_slice(), query.prefix.as_bytes()].concat();
    let start = match (&query.after, query.after_upload) {
        (Some(after), Some(upload)) if query.rolled(after).is_none() => {
            let mut start = store.keys.upload(after, upload);
            start.push(0);
            start
        }
        (Some(after), _) if query.rolled(after).is_none() => {
            // Beyond the key's own uploads, before those of longer keys.
            let mut start = store.keys.uploads_of(after);
            start.pop();
            start.push(1);
            start
        }
        _ => [table.as_slice(), &query.start(false)].concat(),
    };
    start.max(first)
}

fn upload_of(row: &[u8], table_len: usize) -> Result<(String, UploadId), Error> {
    let id = UploadId(tail(row, "upload key")?);
    let key = row.get(table_len..row.len() - 17).unwrap_or_default();
    let key = std::str::from_utf8(key).map_err(|_| codec::Error::Utf8 { what: "upload key" })?;
    Ok((key.to_owned(), id))
}

fn next_upload(last: &Entry<Upload>) -> Next {
    match last {
        Entry::Item(upload) => Next { after: upload.key.clone(), version: None, upload: Some(upload.id) },
        Entry::Prefix(prefix) => Next { after: prefix.clone(), ..Next::default() },
    }
}

/// An upload under way.
pub fn upload(view: &dyn View, volume: VolumeId, key: &str, id: UploadId) -> Result<Upload, Error> {
    let store = Store::new(view, volume);
    let row: Option<UploadRow> = store.get(&store.keys.upload(key, id))?;
    let UploadRow { begun, attrs } = row.ok_or(Error::NoSuchUpload)?;
    Ok(Upload { id, key: key.to_owned(), begun, attrs })
}

/// Parts of an upload by number, those after `after`, without bodies.
/// [`Error::NoSuchUpload`] if it isn't under way.
pub fn parts(
    view: &dyn View,
    volume: VolumeId,
    key: &str,
    id: UploadId,
    after: u16,
    limit: usize,
) -> Result<Vec<Part>, Error> {
    let store = Store::new(view, volume);
    if view.get(&store.keys.upload(key, id))?.is_none() {
        return Err(Error::NoSuchUpload);
    }
    let Some(first) = after.checked_add(1) else { return Ok(Vec::new()) };
    let (start, end) = (store.keys.part(id, first), end(&store.keys.parts(id)));
    let rows = view.range(start.as_slice()..end.as_slice(), limit, false)?;
    rows.into_iter()
        .map(|(row, value)| {
            let number = u16::from_be_bytes(tail(&row, "part key")?);
            let value = VersionRow::decode(&value)?;
            let attrs = store.attrs(&value)?;
            let VersionRow { modified, size, etag, .. } = value;
            Ok(Part { number, modified, size, etag, attrs, body: Body::Unloaded })
        })
        .collect()
}

/// A setting.
pub fn config(view: &dyn View, volume: VolumeId, name: &str) -> Result<Option<Vec<u8>>, Error> {
    Ok(view.get(&Store::new(view, volume).keys.config(name))?)
}

/// Whether old versions are kept.
pub fn versioning(view: &dyn View, volume: VolumeId) -> Result<Versioning, Error> {
    Ok(stats(view, volume)?.versioning)
}

/// The volume's counters.
pub fn stats(view: &dyn View, volume: VolumeId) -> Result<Head, Error> {
    Store::new(view, volume).head()
}

/// A freed segment whose pieces wait to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Garbage {
    /// The segment.
    pub segment: SegmentId,
    /// Where it is, and since when it is garbage.
    pub row: GarbageRow,
}

/// Freed segments after `after`, by id. Once their pieces are deleted:
/// [`crate::Command::CollectedGarbage`].
pub fn garbage(
    view: &dyn View,
    volume: VolumeId,
    after: Option<SegmentId>,
    limit: usize,
) -> Result<Vec<Garbage>, Error> {
    by_segment(view, volume, Table::Garbage, after, limit, |segment, row| Garbage { segment, row })
}

fn by_segment<R: Versioned, T>(
    view: &dyn View,
    volume: VolumeId,
    table: Table,
    after: Option<SegmentId>,
    limit: usize,
    make: impl Fn(SegmentId, R) -> T,
) -> Result<Vec<T>, Error> {
    let keys = Store::new(view, volume).keys;
    let start = match after {
        Some(after) => [keys.by_segment(table, after), vec![0]].concat(),
        None => keys.table(table, 0),
    };
    let end = end(&keys.table(table, 0));
    let rows = view.range(start.as_slice()..end.as_slice(), limit, false)?;
    rows.into_iter().map(|(key, value)| Ok(make(SegmentId(tail(&key, "segment key")?), R::decode(&value)?))).collect()
}

/// A note that pieces of a segment are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The segment.
    pub segment: SegmentId,
    /// Where it should be, and what is missing.
    pub note: MissingRow,
    /// The segment's row; `None` if no version names it: not yet, or no longer. A note that stays
    /// so should be forgotten by its writer.
    pub row: Option<SegmentRow>,
}

/// Segments with missing pieces after `after`, by id.
pub fn missing(
    view: &dyn View,
    volume: VolumeId,
    after: Option<SegmentId>,
    limit: usize,
) -> Result<Vec<Missing>, Error> {
    let notes = by_segment(view, volume, Table::Missing, after, limit, |id, note: MissingRow| (id, note))?;
    let with_row = |(id, note): (SegmentId, MissingRow)| {
        let row = segment(view, volume, note.policy, note.group, id)?;
        Ok(Missing { segment: id, note, row })
    };
    notes.into_iter().map(with_row).collect()
}

/// The note about one segment's missing pieces.
pub fn missing_note(view: &dyn View, volume: VolumeId, id: SegmentId) -> Result<Option<MissingRow>, Error> {
    let store = Store::new(view, volume);
    store.get(&store.keys.by_segment(Table::Missing, id))
}

/// The row of one segment in use.
pub fn segment(
    view: &dyn View,
    volume: VolumeId,
    policy: PolicyId,
    group: GroupId,
    id: SegmentId,
) -> Result<Option<SegmentRow>, Error> {
    let store = Store::new(view, volume);
    store.get(&store.keys.segment(policy, group, id))
}

/// Whether the segment waits in garbage: not in use, not yet deleted.
pub fn is_garbage(view: &dyn View, volume: VolumeId, id: SegmentId) -> Result<bool, Error> {
    let store = Store::new(view, volume);
    Ok(view.get(&store.keys.by_segment(Table::Garbage, id))?.is_some())
}

/// Segments in use in one placement group after `after`, by id.
pub fn segments_of_group(
    view: &dyn View,
    volume: VolumeId,
    policy: PolicyId,
    group: GroupId,
    after: Option<SegmentId>,
    limit: usize,
) -> Result<Vec<(SegmentId, SegmentRow)>, Error> {
    let keys = Store::new(view, volume).keys;
    let prefix = keys.group(policy, group);
    let start = match after {
        Some(after) => [keys.segment(policy, group, after), vec![0]].concat(),
        None => prefix.clone(),
    };
    let rows = view.range(start.as_slice()..end(&prefix).as_slice(), limit, false)?;
    rows.into_iter()
        .map(|(key, value)| Ok((SegmentId(tail(&key, "segment key")?), SegmentRow::decode(&value)?)))
        .collect()
}

/// A segment in use, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InUse {
    /// Its policy.
    pub policy: PolicyId,
    /// Its group.
    pub group: GroupId,
    /// The segment.
    pub segment: SegmentId,
    /// Its row.
    pub row: SegmentRow,
}

/// All segments in use by policy, group, id; those after `after`.
pub fn segments(
    view: &dyn View,
    volume: VolumeId,
    after: Option<(PolicyId, GroupId, SegmentId)>,
    limit: usize,
) -> Result<Vec<InUse>, Error> {
    let keys = Store::new(view, volume).keys;
    let table = keys.table(Table::Segment, 0);
    let start = match after {
        Some((policy, group, segment)) => [keys.segment(policy, group, segment), vec![0]].concat(),
        None => table.clone(),
    };
    let rows = view.range(start.as_slice()..end(&table).as_slice(), limit, false)?;
    rows.into_iter()
        .map(|(key, value)| {
            let at: [u8; 22] = tail(&key, "segment key")?;
            let mut segment = [0; 16];
            segment.copy_from_slice(&at[6..]);
            let policy = PolicyId(u16::from_be_bytes([at[0], at[1]]));
            let group = GroupId(u32::from_be_bytes([at[2], at[3], at[4], at[5]]));
            Ok(InUse { policy, group, segment: SegmentId(segment), row: SegmentRow::decode(&value)? })
        })
        .collect()
}

/// Packs of which at most `sixteenths` sixteenths are still in use, emptiest first, without those
/// younger than `before` (they may still be filling).
pub fn packs_by_live_share(
    view: &dyn View,
    volume: VolumeId,
    sixteenths: u8,
    before: Wall,
    limit: usize,
) -> Result<Vec<InUse>, Error> {
    let store = Store::new(view, volume);
    let mut start = store.keys.table(Table::PackShare, 0);
    let end = store.keys.pack_share(sixteenths.saturating_add(1), SegmentId([0; 16]));
    let mut packs = Vec::new();
    loop {
        let rows = view.range(start.as_slice()..end.as_slice(), CHUNK, false)?;
        let Some((last, _)) = rows.last() else { return Ok(packs) };
        start.clone_from(last);
        start.push(0);
        for (key, value) in rows {
            let segment = SegmentId(tail(&key, "pack share key")?);
            let mut place = codec::Reader::new(&value);
            let (policy, group) = (PolicyId(place.u16("policy")?), GroupId(place.u32("group")?));
            let row: Option<SegmentRow> = store.get(&store.keys.segment(policy, group, segment))?;
            let row = row.ok_or(Error::Broken { what: "a pack is sorted by its share but has no row" })?;
            if row.pack.is_some_and(|pack| pack.created < before) {
                packs.push(InUse { policy, group, segment, row });
                if packs.len() >= limit {
                    return Ok(packs);
                }
            }
        }
    }
}

/// One owner of one slot of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotOwner {
    /// The slot's number.
    pub slot: u32,
    /// The owner's place in the order of versions: names it among a slot's owners.
    pub ord: u64,
    /// Sealed bytes of the slot.
    pub len: u32,
    /// Who.
    pub owner: Owner,
}

/// Owners of a pack's slots by slot, those after `after` (slot, ord).
pub fn pack_slots(
    view: &dyn View,
    volume: VolumeId,
    segment: SegmentId,
    after: Option<(u32, u64)>,
    limit: usize,
) -> Result<Vec<SlotOwner>, Error> {
    let keys = Store::new(view, volume).keys;
    let prefix = keys.pack(segment);
    let start = match after {
        Some((slot, ord)) => [keys.pack_owner(segment, slot, ord), vec![0]].concat(),
        None => prefix.clone(),
    };
    let rows = view.range(start.as_slice()..end(&prefix).as_slice(), limit, false)?;
    rows.into_iter()
        .map(|(key, value)| {
            let at: [u8; 12] = tail(&key, "pack slot key")?;
            let slot = u32::from_be_bytes([at[0], at[1], at[2], at[3]]);
            let ord = u64::from_be_bytes(tail(&key, "pack slot key")?);
            let SlotRow { len, owner, .. } = SlotRow::decode(&value)?;
            Ok(SlotOwner { slot, ord, len, owner })
        })
        .collect()
}
