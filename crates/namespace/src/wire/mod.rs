//! What nodes say to each other about a volume: commands, their outcomes and refusals, reads.
//!
//! A volume's rules are evaluated where its shard is led; whoever serves a request elsewhere sends
//! what is to be done there. Layouts: docs/formats/metadata-wire.md. Limits of commands are the
//! rules' business, so that a refusal reads the same on every node: here only what would cost the
//! reader more memory than the bytes at hand is refused.
//!
//! In reading order: `command`, `query`, `refusal` (outcomes and errors), `texts`, `tail` (part of the journal).

mod command;
mod query;
mod refusal;
mod tail;
mod texts;

use codec::{Error, Reader, Versioned, Writer};

pub use query::Query;
pub use tail::Tail;

use crate::types::Attrs;

/// Bytes of a key, a name or an etag at the most: far more than the rules allow, so that it is they
/// who refuse it.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;
/// Bytes of an encoded command or work at the most: two bodies whose manifests fill a batch each (a
/// move names the old one and the new one), and room for the rest.
pub const WORK_BYTES_MAX: usize = 40 * 1024 * 1024;

/// Writes a value within another, with its own mark and version.
pub(crate) fn nest<T: Versioned>(to: &mut Writer, value: &T) {
    to.raw(&T::MARK).u8(T::VERSION);
    value.encode_body(to);
}

/// Refuses what is too long to be looked at.
pub(crate) fn bounded(from: &Reader<'_>, what: &'static str) -> Result<(), Error> {
    match from.left() {
        len if len > WORK_BYTES_MAX => Err(Error::TooLong { what, len, max: WORK_BYTES_MAX }),
        _ => Ok(()),
    }
}

pub(crate) fn write_many<T>(to: &mut Writer, many: &[T], write: impl Fn(&mut Writer, &T)) {
    to.u32(u32::try_from(many.len()).expect("no command holds four billion things"));
    many.iter().for_each(|one| write(to, one));
}

/// So many values of at least `each` bytes as the count says. More than the bytes at hand could
/// hold are refused before anything is reserved.
pub(crate) fn read_many<T>(
    from: &mut Reader<'_>,
    what: &'static str,
    each: usize,
    mut read: impl FnMut(&mut Reader<'_>) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    let count = from.u32(what)? as usize;
    let need = count.saturating_mul(each);
    if need > from.left() {
        return Err(Error::Short { what, need, have: from.left() });
    }
    // What a value takes in memory may be many times its bytes: so nothing is reserved ahead.
    let mut many = Vec::new();
    for _ in 0..count {
        many.push(read(from)?);
    }
    Ok(many)
}

pub(crate) fn text(from: &mut Reader<'_>, what: &'static str) -> Result<String, Error> {
    from.str(what, TEXT_BYTES_MAX).map(str::to_owned)
}

/// A value whose length only the whole message bounds.
pub(crate) fn blob(from: &mut Reader<'_>, what: &'static str) -> Result<Vec<u8>, Error> {
    from.bytes(what, WORK_BYTES_MAX).map(<[u8]>::to_vec)
}

fn write_attrs(to: &mut Writer, attrs: &Attrs) {
    to.u32(u32::try_from(attrs.len()).expect("no version has four billion attributes"));
    for (name, value) in attrs {
        to.str(name).bytes(value);
    }
}

fn read_attrs(from: &mut Reader<'_>) -> Result<Attrs, Error> {
    let many = read_many(from, "attributes", 8, |from| Ok((text(from, "attribute name")?, blob(from, "attribute")?)))?;
    Ok(many.into_iter().collect())
}
