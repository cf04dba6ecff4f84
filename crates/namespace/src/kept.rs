//! All that is stored of one key, for copies of the metadata that are kept elsewhere.

use base::VolumeId;
use base::kv::View;
use codec::{Reader, Versioned, Writer};

use crate::encode::{read_attrs, read_etag, write_attrs, write_etag};
use crate::error::Error;
use crate::keys::end;
use crate::rows::VersionRow;
use crate::store::Store;
use crate::tree::Path;
use crate::types::{Attrs, Version};

/// Versions of one key at the most: of more the newest count.
const VERSIONS_MAX: usize = 10_000;

/// One version with its place in the volume's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Greater ones of a key are later.
    pub ord: u64,
    /// Whether it is the null version.
    pub null: bool,
    /// It, with its body and all attributes.
    pub version: Version,
}

/// All versions and markers of a key, newest first; none if there is no such key.
pub fn kept(view: &dyn View, volume: VolumeId, key: &str) -> Result<Vec<Kept>, Error> {
    let store = Store::new(view, volume);
    let path = Path::find(&store, key)?;
    let (Some((parent, name)), Some(file)) = (path.place(), path.file(&store)?) else { return Ok(Vec::new()) };
    let one = |row: VersionRow| {
        let (ord, null) = (row.ord, row.null);
        Ok::<_, Error>(Kept { ord, null, version: store.version(row, true)? })
    };
    let mut all = vec![one(file.current)?];
    if file.older > 0 {
        let start = store.keys.versions(parent, name);
        let rows = view.range(start.as_slice()..end(&start).as_slice(), VERSIONS_MAX, false)?;
        for (_, value) in rows {
            all.push(one(VersionRow::decode(&value)?)?);
        }
    }
    Ok(all)
}

/// What only the face understands of a version, as bytes: entity tag and attributes.
pub fn face(etag: &str, attrs: &Attrs) -> Vec<u8> {
    let mut to = Writer::new();
    write_etag(&mut to, etag);
    write_attrs(&mut to, attrs);
    to.finish()
}

/// The reverse of [`face`].
pub fn read_face(bytes: &[u8]) -> Result<(String, Attrs), Error> {
    let mut from = Reader::new(bytes);
    let face = (read_etag(&mut from)?, read_attrs(&mut from)?);
    from.end("entity tag and attributes")?;
    Ok(face)
}
