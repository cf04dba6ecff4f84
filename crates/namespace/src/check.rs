//! What commands may hold, and the conditions on a key's current version.

use base::limits::{CODE_PIECES_MAX, KEY_BYTES_MAX, SEALED_BYTES_MORE};

use crate::encode::{
    ATTR_BYTES_MAX, ATTR_NAME_BYTES_MAX, ATTRS_MAX, ETAG_BYTES_MAX, INLINE_TOTAL_BYTES_MAX, SEGMENTS_MAX, SPANS_MAX,
};
use crate::error::Error;
use crate::rows::VersionRow;
use crate::store::Store;
use crate::types::{Attrs, Body, Condition, SegmentRef};

/// Bytes of a setting at the most.
pub const CONFIG_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a setting's name at the most.
pub const CONFIG_NAME_BYTES_MAX: usize = 255;

pub(crate) fn key(key: &str) -> Result<(), Error> {
    let why = match key {
        "" => "it is empty",
        key if key.len() > KEY_BYTES_MAX => "too long",
        key if key.contains('\0') => "it contains NUL",
        _ => return Ok(()),
    };
    Err(Error::InvalidName { what: "key", why })
}

pub(crate) fn etag(etag: &str) -> Result<(), Error> {
    invalid_if(etag.len() > ETAG_BYTES_MAX, "etag", "it is too long")
}

pub(crate) fn attrs(attrs: &Attrs) -> Result<(), Error> {
    invalid_if(attrs.len() > ATTRS_MAX, "attributes", "there are too many")?;
    let name = attrs.keys().any(|name| name.len() > ATTR_NAME_BYTES_MAX);
    invalid_if(name, "attribute", "its name is too long")?;
    invalid_if(attrs.values().any(|value| value.len() > ATTR_BYTES_MAX), "attribute", "it is too long")
}

pub(crate) fn config(name: &str, value: Option<&[u8]>) -> Result<(), Error> {
    invalid_if(name.is_empty() || name.len() > CONFIG_NAME_BYTES_MAX, "setting", "its name is empty or too long")?;
    invalid_if(value.is_some_and(|value| value.len() > CONFIG_BYTES_MAX), "setting", "it is too long")
}

/// A body that is whole, within limits, and as long as its version says.
pub(crate) fn body(body: &Body, size: u64) -> Result<(), Error> {
    let mut limits = Totals::default();
    match body {
        Body::Spans(spans) => {
            invalid_if(spans.len() > SPANS_MAX, "body", "it has too many spans")?;
            let mut sum = 0u64;
            for span in spans {
                let nested = matches!(span.body, Body::Spans(_));
                invalid_if(nested, "body", "spans may not hold spans")?;
                simple(&span.body, span.size, &mut limits)?;
                sum = sum.saturating_add(span.size);
            }
            invalid_if(sum != size, "body", "its spans don't add up to its size")
        }
        other => simple(other, size, &mut limits),
    }
}

#[derive(Default)]
struct Totals {
    inline: usize,
    segments: usize,
}

fn simple(body: &Body, size: u64, totals: &mut Totals) -> Result<(), Error> {
    match body {
        Body::Inline(bytes) => {
            totals.inline += bytes.len();
            // Sealed by the client, they have salt and tag besides.
            let bytes = bytes.len() as u64;
            let fits = bytes == size || bytes == size.saturating_add(SEALED_BYTES_MORE as u64);
            invalid_if(!fits, "body", "its bytes are not as many as its size says")?;
        }
        Body::Packed(reference, _) => {
            totals.segments += 1;
            segment(reference)?;
        }
        Body::Segments(segments) => {
            totals.segments += segments.len();
            segments.iter().try_for_each(segment)?;
            let sum = segments.iter().fold(0u64, |sum, segment| sum.saturating_add(segment.len));
            invalid_if(sum != size, "body", "its segments don't add up to its size")?;
        }
        Body::Spans(_) | Body::Unloaded => {
            return Err(Error::InvalidValue { what: "body", why: "it was not loaded" });
        }
    }
    invalid_if(totals.inline > INLINE_TOTAL_BYTES_MAX, "body", "it has too many inline bytes")?;
    invalid_if(totals.segments > SEGMENTS_MAX, "body", "it has too many segments")
}

fn segment(segment: &SegmentRef) -> Result<(), Error> {
    let pieces = usize::from(segment.k) + usize::from(segment.m);
    invalid_if(segment.k == 0 || pieces > CODE_PIECES_MAX, "body", "a segment's coding is out of range")
}

fn invalid_if(bad: bool, what: &'static str, why: &'static str) -> Result<(), Error> {
    if bad { Err(Error::InvalidValue { what, why }) } else { Ok(()) }
}

/// Conditions of a write: a delete marker is a missing key.
pub(crate) fn write(store: &Store<'_>, condition: &Condition, current: Option<&VersionRow>) -> Result<(), Error> {
    match current.filter(|current| !current.marker) {
        Some(current) => holds(store, condition, current),
        None if (Condition { if_none_match: None, ..condition.clone() }) != Condition::default() => {
            Err(Error::NoSuchKey)
        }
        None => Ok(()),
    }
}

/// Conditions of a change to what is there; a marker is there, with an etag that nothing matches but `*`.
pub(crate) fn holds(store: &Store<'_>, condition: &Condition, version: &VersionRow) -> Result<(), Error> {
    let named = |etags: &Vec<String>| {
        etags.iter().any(|etag| etag == "*" || (!version.marker && bare(etag) == bare(&version.etag)))
    };
    let fails = |what| Err(Error::Precondition { what });
    if condition.if_match.as_ref().is_some_and(|etags| !named(etags)) {
        return fails("if-match");
    }
    if condition.if_none_match.as_ref().is_some_and(named) {
        return fails("if-none-match");
    }
    if condition.if_modified.is_some_and(|at| at.secs() != version.modified.secs()) {
        return fails("if-match-last-modified-time");
    }
    if condition.if_size.is_some_and(|size| size != version.size) {
        return fails("if-match-size");
    }
    if !condition.if_attrs.is_empty() {
        let attrs = store.attrs(version)?;
        if condition.if_attrs.iter().any(|(name, value)| attrs.get(name) != value.as_ref()) {
            return fails("attributes");
        }
    }
    Ok(())
}

/// An etag without the quotes that clients put around it or leave out.
pub(crate) fn bare(etag: &str) -> &str {
    etag.trim_matches('"')
}
