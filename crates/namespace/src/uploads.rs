//! Uploads in parts: begun, filled, completed without moving a byte, or dropped.

use codec::Versioned;

use crate::apply::{Content, write};
use crate::change::{Change, less, more};
use crate::check;
use crate::error::Error;
use crate::journal::What;
use crate::keys::{Table, end, tail};
use crate::rows::{Owner, Place, UploadRow, VersionRow};
use crate::tree::Path;
use crate::types::{Attrs, Body, Condition, Outcome, Part, Span, UploadId};

/// S3's limit.
pub const PART_NUMBER_MAX: u16 = 10_000;
/// Parts that closing a volume drops in one go, so that its batch stays small; with more the
/// uploads have to be aborted one by one first.
const DROP_PARTS_MAX: usize = 20_000;
/// Rows read at a time.
const CHUNK: usize = 1000;

pub(crate) fn begin(change: &mut Change<'_>, upload: UploadId, key: &str, attrs: &Attrs) -> Result<Outcome, Error> {
    check::key(key)?;
    check::attrs(attrs)?;
    let row_key = change.store.keys.upload(key, upload);
    if change.store.view.get(&row_key)?.is_none() {
        more(&mut change.head.uploads, 1)?;
        change.batch.put(row_key, UploadRow { begun: change.now, attrs: attrs.clone() }.encode());
        change.event(What::UploadBegun { key: key.to_owned(), upload });
    }
    Ok(Outcome { modified: change.now, ..Outcome::default() })
}

/// The upload's row.
fn upload_row(change: &Change<'_>, upload: UploadId, key: &str) -> Result<Option<UploadRow>, Error> {
    change.store.get(&change.store.keys.upload(key, upload))
}

pub(crate) fn put_part(change: &mut Change<'_>, upload: UploadId, key: &str, part: &Part) -> Result<Outcome, Error> {
    if !(1..=PART_NUMBER_MAX).contains(&part.number) {
        return Err(Error::InvalidValue { what: "part number", why: "it is not from 1 to 10,000" });
    }
    check::body(&part.body, part.size)?;
    check::attrs(&part.attrs)?;
    check::etag(&part.etag)?;
    upload_row(change, upload, key)?.ok_or(Error::NoSuchUpload)?;
    let row_key = change.store.keys.part(upload, part.number);
    let owner = Owner::Part { upload, number: part.number };
    if let Some(old) = change.store.get::<VersionRow>(&row_key)? {
        less(&mut change.head.part_bytes, old.size)?;
        change.release(&old, &owner)?;
    }
    let mut row = VersionRow {
        ord: change.next_ord(),
        null: false,
        marker: false,
        modified: change.now,
        size: part.size,
        etag: part.etag.clone(),
        upload: None,
        attrs: Attrs::new(),
        long_attrs: false,
        place: Place::Here(Body::Inline(Vec::new())),
    };
    more(&mut change.head.part_bytes, row.size)?;
    change.uses.add(&part.body, row.ord, &owner);
    change.place(&mut row, part.attrs.clone(), part.body.clone());
    change.batch.put(row_key, row.encode());
    Ok(Outcome { version: None, marker: false, modified: row.modified, size: row.size, etag: row.etag })
}

/// All parts of an upload, ascending.
fn parts(change: &Change<'_>, upload: UploadId) -> Result<Vec<(u16, VersionRow)>, Error> {
    let prefix = change.store.keys.parts(upload);
    let (mut start, end) = (prefix.clone(), end(&prefix));
    let mut parts = Vec::new();
    loop {
        let rows = change.store.view.range(start.as_slice()..end.as_slice(), CHUNK, false)?;
        for (key, value) in &rows {
            parts.push((u16::from_be_bytes(tail(key, "part key")?), VersionRow::decode(value)?));
        }
        match rows.last() {
            Some((key, _)) if rows.len() == CHUNK => {
                start.clone_from(key);
                start.push(0);
            }
            _ => return Ok(parts),
        }
    }
}

#[allow(clippy::too_many_arguments)] // the fields of one command
pub(crate) fn complete(
    change: &mut Change<'_>,
    upload: UploadId,
    key: &str,
    chosen: &[(u16, String)],
    etag: &str,
    attrs: &Attrs,
    condition: &Condition,
) -> Result<Outcome, Error> {
    check::key(key)?;
    check::attrs(attrs)?;
    check::etag(etag)?;
    let path = Path::find(&change.store, key)?;
    let file = path.file(&change.store)?;
    if upload_row(change, upload, key)?.is_none() {
        // Told once more, because the first answer was lost: the same answer.
        let done = file.map(|file| file.current).filter(|current| current.upload == Some(upload));
        let done = done.ok_or(Error::NoSuchUpload)?;
        let version = Some(done.id());
        return Ok(Outcome { version, marker: false, modified: done.modified, size: done.size, etag: done.etag });
    }
    if !chosen.windows(2).all(|pair| pair[0].0 < pair[1].0) {
        return Err(Error::PartOrder);
    }
    let stored = parts(change, upload)?;
    let (size, body) = join(change, &stored, chosen)?;
    check::body(&body, size)?;
    check::write(&change.store, condition, file.as_ref().map(|file| &file.current))?;
    remove(change, upload, key, &stored)?;
    write(
        change,
        key,
        path,
        file,
        Some(Content { size, etag, attrs: attrs.clone(), body, upload: Some(upload), modified: None }),
    )
}

/// The chosen parts' bodies, one after the other.
fn join(change: &Change<'_>, stored: &[(u16, VersionRow)], chosen: &[(u16, String)]) -> Result<(u64, Body), Error> {
    if chosen.is_empty() {
        return Err(Error::InvalidValue { what: "completion", why: "it names no part" });
    }
    let mut bodies = Vec::with_capacity(chosen.len());
    let mut rest = stored.iter();
    for (number, etag) in chosen {
        // Both ascend, so one walk finds them all.
        let part = rest.find(|(stored, _)| stored >= number).filter(|(stored, _)| stored == number);
        let Some((_, part)) = part.filter(|(_, part)| check::bare(&part.etag) == check::bare(etag)) else {
            return Err(Error::InvalidPart { number: *number });
        };
        bodies.push((part.size, change.store.body(part)?));
    }
    Ok(joined(bodies))
}

/// Bodies one after the other, each with its bytes: how many bytes that makes, and their body.
pub fn joined(bodies: impl IntoIterator<Item = (u64, Body)>) -> (u64, Body) {
    let (mut spans, mut sum) = (Vec::new(), 0u64);
    for (size, body) in bodies {
        sum = sum.saturating_add(size);
        match body {
            Body::Spans(inner) => inner.into_iter().for_each(|span| append(&mut spans, span)),
            body => append(&mut spans, Span { size, body }),
        }
    }
    let body = match spans.len() {
        0 => Body::Inline(Vec::new()),
        1 => spans.remove(0).body,
        _ => Body::Spans(spans),
    };
    (sum, body)
}

/// Adds a span; segments that follow segments become one span with them.
fn append(spans: &mut Vec<Span>, span: Span) {
    match (span.body, spans.last_mut()) {
        (Body::Segments(more), Some(Span { size, body: Body::Segments(segments) })) => {
            segments.extend(more);
            *size = size.saturating_add(span.size);
        }
        (Body::Inline(bytes), _) if bytes.is_empty() => {}
        (body, _) => spans.push(Span { size: span.size, body }),
    }
}

/// Removes an upload and its parts; what nobody else uses becomes garbage.
fn remove(change: &mut Change<'_>, upload: UploadId, key: &str, stored: &[(u16, VersionRow)]) -> Result<(), Error> {
    for (number, part) in stored {
        less(&mut change.head.part_bytes, part.size)?;
        change.release(part, &Owner::Part { upload, number: *number })?;
    }
    less(&mut change.head.uploads, 1)?;
    let prefix = change.store.keys.parts(upload);
    if !stored.is_empty() {
        change.batch.range_dels.push(prefix.clone()..end(&prefix));
    }
    change.batch.del(change.store.keys.upload(key, upload));
    Ok(())
}

pub(crate) fn abort(change: &mut Change<'_>, upload: UploadId, key: &str) -> Result<Outcome, Error> {
    upload_row(change, upload, key)?.ok_or(Error::NoSuchUpload)?;
    let stored = parts(change, upload)?;
    remove(change, upload, key, &stored)?;
    change.event(What::UploadAborted { key: key.to_owned(), upload });
    Ok(Outcome::default())
}

/// Drops every upload of a volume that is being closed.
pub(crate) fn drop_all(change: &mut Change<'_>) -> Result<(), Error> {
    let prefix = change.store.keys.table(Table::Upload, 0);
    let rows = change.store.scan(&prefix, DROP_PARTS_MAX + 1)?;
    let mut count = rows.len();
    for (row_key, _) in rows {
        let upload = UploadId(tail(&row_key, "upload key")?);
        let key = row_key.get(prefix.len()..row_key.len() - 17).unwrap_or_default();
        let key = std::str::from_utf8(key).map_err(|_| codec::Error::Utf8 { what: "upload key" })?.to_owned();
        let stored = parts(change, upload)?;
        count += stored.len();
        if count > DROP_PARTS_MAX {
            return Err(Error::NotEmpty);
        }
        remove(change, upload, &key, &stored)?;
        change.event(What::UploadAborted { key, upload });
    }
    Ok(())
}
