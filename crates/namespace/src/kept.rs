//! All that is stored of one key, for copies of the metadata that are kept elsewhere.

use std::collections::BTreeMap;

use base::VolumeId;
use base::kv::View;
use codec::Versioned;

use crate::error::Error;
use crate::keys::end;
use crate::rows::{Head, VersionRow};
use crate::store::Store;
use crate::tree::Path;
use crate::types::{Command, Condition, NewVersion, Version, Versioning};

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

/// The version of a key with this place in the volume's order, if there still is one.
pub fn kept_at(view: &dyn View, volume: VolumeId, key: &str, ord: u64) -> Result<Option<Kept>, Error> {
    let store = Store::new(view, volume);
    let path = Path::find(&store, key)?;
    let (Some((parent, name)), Some(file)) = (path.place(), path.file(&store)?) else { return Ok(None) };
    let row = match file.current.ord == ord {
        true => Some(file.current),
        false => store.get(&store.keys.version(parent, name, ord))?,
    };
    let one = |row: VersionRow| Ok(Kept { ord, null: row.null, version: store.version(row, true)? });
    row.map(one).transpose()
}

/// Rows as they would be in a volume of which only this much is known: for reading alone.
#[derive(Debug, Default)]
pub struct Copied {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Copied {
    /// Adds a version; those of a key in the order of their `ord`.
    ///
    /// # Errors
    /// If it can't be: then nothing was added.
    pub fn add(&mut self, volume: VolumeId, key: &str, kept: &Kept) -> Result<(), Error> {
        let keys = Store::new(&self.rows, volume).keys;
        let head = Store::new(&self.rows, volume).head()?;
        // The rules give it the next number, and the name that versions have in this state.
        let versioning = if kept.null { Versioning::Suspended } else { Versioning::Enabled };
        let before = Head { ord: kept.ord.saturating_sub(1), versioning, ..head };
        self.rows.insert(keys.head(), before.encode());
        let Version { modified, marker, size, etag, attrs, body, .. } = kept.version.clone();
        let key = key.to_owned();
        let condition = Condition::default();
        let command = match marker {
            true => Command::Delete { key, version: None, condition },
            false => Command::Put { key, new: NewVersion { size, etag, attrs, body }, condition },
        };
        let (batch, _) = crate::apply(&self.rows, volume, &command, modified)?;
        base::kv::apply(&mut self.rows, &batch);
        Ok(())
    }

    /// The rows, of a volume that stands so.
    pub fn finish(mut self, volume: VolumeId, versioning: Versioning) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Error> {
        let store = Store::new(&self.rows, volume);
        let (key, head) = (store.keys.head(), store.head()?);
        self.rows.insert(key, Head { versioning, ..head }.encode());
        Ok(self.rows)
    }
}
