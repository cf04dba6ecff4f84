//! Commands, evaluated one after the other in a volume's one total order.

use base::kv::{Batch, View};
use base::{VolumeId, Wall};
use codec::Versioned;

use crate::change::{Change, less, more};
use crate::error::Error;
use crate::journal::What;
use crate::rows::{FileRow, Owner, Place, VersionRow};
use crate::tree::{Path, Presence};
use crate::types::{Attrs, Body, Command, Condition, NewVersion, Outcome, UploadId, VersionId, Versioning};
use crate::{check, segments, undo, uploads};

/// Evaluates a command on the volume's rows: what to write, and what it did. An empty batch means
/// that there was nothing to do. Costs a few row reads per component of the key, whatever the
/// volume holds.
pub fn apply(view: &dyn View, volume: VolumeId, command: &Command, now: Wall) -> Result<(Batch, Outcome), Error> {
    let mut change = Change::new(view, volume, now)?;
    let cleans = matches!(
        command,
        Command::CollectedGarbage { .. }
            | Command::NoteMissing { .. }
            | Command::Rebody { .. }
            | Command::Close
            | Command::Shut
            | Command::Reopen
            | Command::Empty
            | Command::Expire { .. }
    );
    if change.head.closed && !cleans {
        return Err(Error::Closed);
    }
    let outcome = evaluate(&mut change, command)?;
    Ok((change.finish()?, outcome))
}

fn evaluate(change: &mut Change<'_>, command: &Command) -> Result<Outcome, Error> {
    match command {
        Command::Put { key, new, condition } => put(change, key, new, condition),
        Command::Delete { key, version: None, condition } => delete(change, key, condition),
        Command::Delete { key, version: Some(version), condition } => delete_version(change, key, *version, condition),
        Command::SetAttrs { key, version, set, condition } => set_attrs(change, key, *version, set, condition),
        Command::BeginUpload { upload, key, attrs } => uploads::begin(change, *upload, key, attrs),
        Command::PutPart { upload, key, part } => uploads::put_part(change, *upload, key, part),
        Command::CompleteUpload { upload, key, parts, etag, attrs, condition } => {
            uploads::complete(change, *upload, key, parts, etag, attrs, condition)
        }
        Command::AbortUpload { upload, key } => uploads::abort(change, *upload, key),
        Command::SetConfig { name, value } => set_config(change, name, value.as_deref()),
        Command::SetVersioning(state) => set_versioning(change, *state),
        Command::Rebody { key, version, from, to } => rebody(change, key, *version, from, to),
        Command::CollectedGarbage { segments } => {
            segments::collected(change, segments)?;
            Ok(Outcome::default())
        }
        Command::NoteMissing { segment, policy, group, missing } => {
            segments::note_missing(change, *segment, *policy, *group, missing)?;
            Ok(Outcome::default())
        }
        Command::Close => close(change),
        Command::Rename { from, to, etag, attrs, body } => rename(change, (from, to), etag, attrs, body),
        Command::Undelete { key, ord } => undo::undelete(change, key, *ord),
        Command::Expire { by, key } => undo::expire(change, *by, key.as_deref()),
        Command::Shut => Ok(undo::shut(change)),
        Command::Reopen => Ok(undo::reopen(change)),
        Command::Empty => undo::empty(change),
    }
}

/// What a new current version is made of.
pub(crate) struct Content<'a> {
    pub size: u64,
    pub etag: &'a str,
    pub attrs: Attrs,
    pub body: Body,
    pub upload: Option<UploadId>,
    /// When it was written, if not now.
    pub modified: Option<Wall>,
}

fn put(change: &mut Change<'_>, key: &str, new: &NewVersion, condition: &Condition) -> Result<Outcome, Error> {
    check::key(key)?;
    check::body(&new.body, new.size)?;
    check::attrs(&new.attrs)?;
    check::etag(&new.etag)?;
    let path = Path::find(&change.store, key)?;
    let file = path.file(&change.store)?;
    check::write(&change.store, condition, file.as_ref().map(|file| &file.current))?;
    let (attrs, body) = (new.attrs.clone(), new.body.clone());
    let content = Content { size: new.size, etag: &new.etag, attrs, body, upload: None, modified: None };
    write(change, key, path, file, Some(content))
}

/// Makes a new version current: an object, or a delete marker if there is no content.
pub(crate) fn write(
    change: &mut Change<'_>,
    key: &str,
    mut path: Path<'_>,
    file: Option<FileRow>,
    content: Option<Content<'_>>,
) -> Result<Outcome, Error> {
    let before = Presence::of(file.as_ref());
    let (parent, name) = path.make(change);
    let null = change.head.versioning != Versioning::Enabled;
    let (older, older_null) = match file {
        Some(file) => make_way(change, key, (parent, name), file, null)?,
        None => (0, 0),
    };
    let current = new_version(change, key, null, content)?;
    let outcome = Outcome {
        version: Some(current.id()),
        marker: current.marker,
        modified: current.modified,
        size: current.size,
        etag: current.etag.clone(),
    };
    let file = FileRow { older, older_null, current };
    let after = Presence::of(Some(&file));
    change.batch.put(change.store.keys.dentry(parent, name), file.encode());
    path.count(change, before, after)?;
    Ok(outcome)
}

/// The current version becomes a noncurrent one, unless the new one replaces it; a null version
/// replaces the null version wherever that is. Gives the noncurrent versions that are left.
fn make_way(
    change: &mut Change<'_>,
    key: &str,
    (parent, name): (u64, &[u8]),
    file: FileRow,
    null: bool,
) -> Result<(u64, u64), Error> {
    let FileRow { mut older, mut older_null, current } = file;
    if !current.marker {
        less(&mut change.head.objects, 1)?;
        less(&mut change.head.bytes, current.size)?;
    }
    if null && current.null {
        drop_version(change, key, &current)?;
        return Ok((older, older_null));
    }
    if null && older_null != 0 {
        let row_key = change.store.keys.version(parent, name, older_null);
        let row: Option<VersionRow> = change.store.get(&row_key)?;
        let row = row.ok_or(Error::Broken { what: "a null version is known but not there" })?;
        change.batch.del(row_key);
        drop_version(change, key, &row)?;
        less(&mut older, 1)?;
        older_null = 0;
    }
    if current.null {
        older_null = current.ord;
    }
    change.batch.put(change.store.keys.version(parent, name, current.ord), current.encode());
    Ok((older + 1, older_null))
}

/// A new version's row, its long parts placed, its segments counted.
fn new_version(
    change: &mut Change<'_>,
    key: &str,
    null: bool,
    content: Option<Content<'_>>,
) -> Result<VersionRow, Error> {
    let mut row = VersionRow {
        ord: change.next_ord(),
        null,
        marker: content.is_none(),
        modified: change.now,
        size: 0,
        etag: String::new(),
        upload: None,
        attrs: Attrs::new(),
        long_attrs: false,
        place: Place::Here(Body::Inline(Vec::new())),
    };
    more(&mut change.head.versions, 1)?;
    let version = row.id();
    let Some(content) = content else {
        change.event(What::Marker { key: key.to_owned(), version });
        return Ok(row);
    };
    row.size = content.size;
    row.modified = content.modified.unwrap_or(change.now);
    row.etag = content.etag.to_owned();
    row.upload = content.upload;
    more(&mut change.head.objects, 1)?;
    more(&mut change.head.bytes, row.size)?;
    more(&mut change.head.version_bytes, row.size)?;
    change.uses.add(&content.body, row.ord, &Owner::Version { key: key.to_owned(), version });
    change.place(&mut row, content.attrs, content.body);
    let (key, size, etag) = (key.to_owned(), row.size, row.etag.clone());
    change.event(What::Put { key, version, size, etag, upload: row.upload });
    Ok(row)
}

/// Gives back what a version held. Its own row is the caller's.
fn drop_version(change: &mut Change<'_>, key: &str, row: &VersionRow) -> Result<(), Error> {
    less(&mut change.head.versions, 1)?;
    less(&mut change.head.version_bytes, row.size)?;
    let version = row.id();
    undo::let_go(change, key, row)?;
    change.event(What::Delete { key: key.to_owned(), version, marker: row.marker });
    Ok(())
}

fn delete(change: &mut Change<'_>, key: &str, condition: &Condition) -> Result<Outcome, Error> {
    check::key(key)?;
    let path = Path::find(&change.store, key)?;
    let file = path.file(&change.store)?;
    match file {
        None if change.head.versioning == Versioning::Off || *condition != Condition::default() => {
            Ok(Outcome::default())
        }
        None => write(change, key, path, None, None),
        Some(file) => {
            check::holds(&change.store, condition, &file.current)?;
            if change.head.versioning == Versioning::Off {
                remove_current(change, key, path, file)?;
                return Ok(Outcome::default());
            }
            write(change, key, path, Some(file), None)
        }
    }
}

fn delete_version(
    change: &mut Change<'_>,
    key: &str,
    version: VersionId,
    condition: &Condition,
) -> Result<Outcome, Error> {
    check::key(key)?;
    let path = Path::find(&change.store, key)?;
    let file = path.file(&change.store)?;
    let gone = Outcome { version: Some(version), ..Outcome::default() };
    let (Some(mut file), Some((parent, name))) = (file, path.place()) else {
        return Ok(gone);
    };
    if file.current.id() == version {
        check::holds(&change.store, condition, &file.current)?;
        let marker = file.current.marker;
        remove_current(change, key, path, file)?;
        return Ok(Outcome { marker, ..gone });
    }
    let Some((row_key, row)) = noncurrent(change, (parent, name), &file, version)? else {
        return Ok(gone);
    };
    check::holds(&change.store, condition, &row)?;
    drop_version(change, key, &row)?;
    change.batch.del(row_key);
    less(&mut file.older, 1)?;
    if row.null {
        file.older_null = 0;
    }
    change.batch.put(change.store.keys.dentry(parent, name), file.encode());
    Ok(Outcome { marker: row.marker, ..gone })
}

/// A noncurrent version by name, with its row's key.
fn noncurrent(
    change: &Change<'_>,
    (parent, name): (u64, &[u8]),
    file: &FileRow,
    version: VersionId,
) -> Result<Option<(Vec<u8>, VersionRow)>, Error> {
    let ord = if version == VersionId::NULL { file.older_null } else { version.0 };
    if file.older == 0 || ord == 0 {
        return Ok(None);
    }
    let key = change.store.keys.version(parent, name, ord);
    let row: Option<VersionRow> = change.store.get(&key)?;
    // A null version isn't found by its ord: that is no name of it.
    Ok(row.filter(|row| row.id() == version).map(|row| (key, row)))
}

/// Removes the current version; the newest of the others takes its place, or the file vanishes.
fn remove_current(change: &mut Change<'_>, key: &str, path: Path<'_>, file: FileRow) -> Result<(), Error> {
    let before = Presence::of(Some(&file));
    let (parent, name) = path.place().ok_or(Error::Broken { what: "a file's folder is not there" })?;
    if !file.current.marker {
        less(&mut change.head.objects, 1)?;
        less(&mut change.head.bytes, file.current.size)?;
    }
    drop_version(change, key, &file.current)?;
    let dentry = change.store.keys.dentry(parent, name);
    let left = if file.older == 0 {
        change.batch.del(dentry);
        None
    } else {
        let current = change.store.newest_older(parent, name)?;
        change.batch.del(change.store.keys.version(parent, name, current.ord));
        if !current.marker {
            more(&mut change.head.objects, 1)?;
            more(&mut change.head.bytes, current.size)?;
        }
        let older_null = if current.null { 0 } else { file.older_null };
        let file = FileRow { older: file.older - 1, older_null, current };
        change.batch.put(dentry, file.encode());
        Some(file)
    };
    path.count(change, before, Presence::of(left.as_ref()))
}

/// Finds a version that is no marker, lets `edit` change its row, and writes it where it was.
fn edit(
    change: &mut Change<'_>,
    key: &str,
    version: Option<VersionId>,
    edit: impl FnOnce(&mut Change<'_>, &mut VersionRow) -> Result<bool, Error>,
) -> Result<Outcome, Error> {
    check::key(key)?;
    let path = Path::find(&change.store, key)?;
    let missing = if version.is_some() { Error::NoSuchVersion } else { Error::NoSuchKey };
    let (Some(mut file), Some((parent, name))) = (path.file(&change.store)?, path.place()) else {
        return Err(missing);
    };
    let current = version.is_none_or(|version| file.current.id() == version);
    let noncurrent = match version {
        Some(version) if !current => noncurrent(change, (parent, name), &file, version)?,
        _ => None,
    };
    let (row_key, mut row) = match noncurrent {
        Some((row_key, row)) => (row_key, row),
        None if current => (change.store.keys.dentry(parent, name), file.current.clone()),
        None => return Err(missing),
    };
    if row.marker {
        return Err(if version.is_some() { Error::IsMarker } else { Error::NoSuchKey });
    }
    if edit(change, &mut row)? {
        let value = if current {
            file.current = row.clone();
            file.encode()
        } else {
            row.encode()
        };
        change.batch.put(row_key, value);
    }
    Ok(Outcome { version: Some(row.id()), marker: false, modified: row.modified, size: row.size, etag: row.etag })
}

fn set_attrs(
    change: &mut Change<'_>,
    key: &str,
    version: Option<VersionId>,
    set: &[(String, Option<Vec<u8>>)],
    condition: &Condition,
) -> Result<Outcome, Error> {
    edit(change, key, version, |change, row| {
        check::holds(&change.store, condition, row)?;
        let before = change.store.attrs(row)?;
        let mut attrs = before.clone();
        for (name, value) in set {
            match value {
                Some(value) => attrs.insert(name.clone(), value.clone()),
                None => attrs.remove(name),
            };
        }
        check::attrs(&attrs)?;
        if attrs == before {
            return Ok(false);
        }
        change.place_attrs(row, attrs);
        change.event(What::Attrs { key: key.to_owned(), version: row.id() });
        Ok(true)
    })
}

/// The two keys share no folder, so each row is written once.
fn rename(
    change: &mut Change<'_>,
    (from, to): (&str, &str),
    etag: &str,
    attrs: &Attrs,
    body: &Body,
) -> Result<Outcome, Error> {
    check::key(from)?;
    check::key(to)?;
    check::attrs(attrs)?;
    let top = |key: &str| key.split_once('/').map_or(key.to_owned(), |(top, _)| format!("{top}/"));
    if top(from) == top(to) {
        return Err(Error::InvalidValue { what: "new key", why: "it is in the same topmost folder" });
    }
    let (source, target) = (Path::find(&change.store, from)?, Path::find(&change.store, to)?);
    let (Some(file), Some((parent, name))) = (source.file(&change.store)?, source.place()) else {
        return Err(Error::NoSuchKey);
    };
    let current = file.current.clone();
    if current.marker {
        return Err(Error::NoSuchKey);
    }
    if file.older > 0 {
        return Err(Error::InvalidValue { what: "key", why: "it has noncurrent versions" });
    }
    check::body(body, current.size)?;
    let is_it = Condition { if_match: Some(vec![etag.to_owned()]), ..Condition::default() };
    check::holds(&change.store, &is_it, &current)?;
    let there = target.file(&change.store)?;
    let is_free = Condition { if_none_match: Some(vec!["*".into()]), ..Condition::default() };
    check::write(&change.store, &is_free, there.as_ref().map(|file| &file.current))?;
    // What is moved isn't deleted: nothing of it is kept to be had back.
    less(&mut change.head.objects, 1)?;
    less(&mut change.head.bytes, current.size)?;
    less(&mut change.head.versions, 1)?;
    less(&mut change.head.version_bytes, current.size)?;
    let version = current.id();
    change.release(&current, &Owner::Version { key: from.to_owned(), version })?;
    change.batch.del(change.store.keys.dentry(parent, name));
    source.count(change, Presence::of(Some(&file)), Presence::Absent)?;
    let content = Content {
        size: current.size,
        etag: &current.etag,
        attrs: attrs.clone(),
        body: body.clone(),
        upload: current.upload,
        modified: Some(current.modified),
    };
    let outcome = write(change, to, target, there, Some(content))?;
    change.event(What::Delete { key: from.to_owned(), version, marker: false });
    Ok(outcome)
}

/// A version or body that changed since the mover looked is left as it is: then there is nothing
/// to move.
fn rebody(change: &mut Change<'_>, key: &str, version: VersionId, from: &Body, to: &Body) -> Result<Outcome, Error> {
    let mut is_moved = false;
    let result = edit(change, key, Some(version), |change, row| {
        if change.store.body(row)? != *from || from == to {
            return Ok(false);
        }
        is_moved = true;
        check::body(to, row.size)?;
        let owner = Owner::Version { key: key.to_owned(), version };
        change.uses.remove(from, row.ord, &owner);
        change.uses.add(to, row.ord, &owner);
        change.unplace_body(row);
        change.place_body(row, to.clone());
        change.event(What::Rebody { key: key.to_owned(), version });
        Ok(true)
    });
    match result {
        Ok(done) if is_moved => Ok(done),
        // Perhaps it was deleted, and can still be had back.
        Ok(done) => Ok(undo::rebody(change, key, from, to)?.unwrap_or(done)),
        Err(Error::NoSuchVersion | Error::IsMarker) => Ok(undo::rebody(change, key, from, to)?.unwrap_or_default()),
        other => other,
    }
}

fn set_config(change: &mut Change<'_>, name: &str, value: Option<&[u8]>) -> Result<Outcome, Error> {
    check::config(name, value)?;
    let key = change.store.keys.config(name);
    if change.store.view.get(&key)?.as_deref() != value {
        match value {
            Some(value) => change.batch.put(key, value),
            None => change.batch.del(key),
        };
        change.event(What::Config { name: name.to_owned() });
    }
    Ok(Outcome::default())
}

fn set_versioning(change: &mut Change<'_>, state: Versioning) -> Result<Outcome, Error> {
    if change.head.versioning != state {
        if state == Versioning::Off {
            return Err(Error::InvalidValue { what: "versioning", why: "once on it can only be suspended" });
        }
        change.head.versioning = state;
        change.event(What::Versioning(state));
    }
    Ok(Outcome::default())
}

fn close(change: &mut Change<'_>) -> Result<Outcome, Error> {
    if change.head.closed {
        return Ok(Outcome::default());
    }
    if change.head.versions > 0 {
        return Err(Error::NotEmpty);
    }
    uploads::drop_all(change)?;
    // A bucket that can be had back has its settings then.
    if undo::window(change.store.view)? == 0 {
        let config = change.store.keys.table(crate::keys::Table::Config, 0);
        change.batch.range_dels.push(config.clone()..crate::keys::end(&config));
    }
    change.head.closed = true;
    change.event(What::Closed);
    Ok(Outcome::default())
}
