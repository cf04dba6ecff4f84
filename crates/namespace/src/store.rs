//! Reading typed rows of one volume.

use base::VolumeId;
use base::kv::{Row, View};
use codec::Versioned;

use crate::error::Error;
use crate::keys::{Keys, Table};
use crate::rows::{AttrsRow, FileRow, Head, ManifestRow, Place, VersionRow};
use crate::types::{Attrs, Body, Version};

/// A volume's rows in one consistent cut.
#[derive(Clone, Copy)]
pub(crate) struct Store<'a> {
    pub view: &'a dyn View,
    pub keys: Keys,
}

impl<'a> Store<'a> {
    pub fn new(view: &'a dyn View, volume: VolumeId) -> Self {
        Store { view, keys: Keys(volume) }
    }

    pub fn get<T: Versioned>(&self, key: &[u8]) -> Result<Option<T>, Error> {
        Ok(match self.view.get(key)? {
            Some(value) => Some(T::decode(&value)?),
            None => None,
        })
    }

    /// At most `limit` rows with the prefix.
    pub fn scan(&self, prefix: &[u8], limit: usize) -> Result<Vec<Row>, Error> {
        Ok(self.view.range(prefix..crate::keys::end(prefix).as_slice(), limit, false)?)
    }

    pub fn head(&self) -> Result<Head, Error> {
        Ok(self.get(&self.keys.head())?.unwrap_or_default())
    }

    /// The bytes of a version's or part's row made whole.
    pub fn body(&self, row: &VersionRow) -> Result<Body, Error> {
        match &row.place {
            Place::Here(body) => Ok(body.clone()),
            Place::Bytes => match self.view.get(&self.keys.by_ord(Table::Bytes, row.ord))? {
                Some(bytes) => Ok(Body::Inline(bytes)),
                None => Err(Error::Broken { what: "a version's inline bytes are not there" }),
            },
            Place::Manifest => match self.get(&self.keys.by_ord(Table::Manifest, row.ord))? {
                Some(ManifestRow(body)) => Ok(body),
                None => Err(Error::Broken { what: "a version's manifest is not there" }),
            },
        }
    }

    /// All attributes of a version or part.
    pub fn attrs(&self, row: &VersionRow) -> Result<Attrs, Error> {
        let mut attrs = row.attrs.clone();
        if row.long_attrs {
            match self.get(&self.keys.by_ord(Table::Attrs, row.ord))? {
                Some(AttrsRow(long)) => attrs.extend(long),
                None => return Err(Error::Broken { what: "a version's long attributes are not there" }),
            }
        }
        Ok(attrs)
    }

    /// A version with all its attributes, its body if wanted or at hand anyway.
    pub fn version(&self, row: VersionRow, with_body: bool) -> Result<Version, Error> {
        let attrs = self.attrs(&row)?;
        let body = if with_body || matches!(row.place, Place::Here(_)) { self.body(&row)? } else { Body::Unloaded };
        Ok(Version { attrs, body, ..brief(row) })
    }

    /// The newest noncurrent version of a file.
    pub fn newest_older(&self, parent: u64, name: &[u8]) -> Result<VersionRow, Error> {
        let row = self.scan(&self.keys.versions(parent, name), 1)?.pop();
        let (_, value) = row.ok_or(Error::Broken { what: "a noncurrent version is counted but not there" })?;
        Ok(VersionRow::decode(&value)?)
    }

    pub fn file(&self, parent: u64, name: &[u8]) -> Result<Option<FileRow>, Error> {
        self.get(&self.keys.dentry(parent, name))
    }
}

/// What listings show of a version: short attributes, no body.
pub(crate) fn brief(row: VersionRow) -> Version {
    Version {
        id: row.id(),
        modified: row.modified,
        marker: row.marker,
        size: row.size,
        etag: row.etag,
        attrs: row.attrs,
        body: Body::Unloaded,
    }
}
