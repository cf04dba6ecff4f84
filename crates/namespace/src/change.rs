//! A command under evaluation: what was read, what will be written.
//!
//! Every row is written at most once per command, so nothing read needs an overlay: dentries and
//! versions when the command's own rule is done, segments and packs at the end ([`crate::segments`]),
//! the counters last.

use base::kv::{Batch, View};
use base::{VolumeId, Wall};
use codec::Versioned;

use crate::encode::body_len;
use crate::error::Error;
use crate::journal::{Event, What};
use crate::keys::Table;
use crate::rows::{AttrsRow, Head, ManifestRow, Owner, Place, VersionRow};
use crate::segments::Uses;
use crate::store::Store;
use crate::types::{Attrs, Body};
use crate::undo::UndoHead;

/// Manifests up to this many bytes (five segments: 320 MiB) stay in the version's row.
const MANIFEST_BYTES_MAX: usize = 600;
/// Inline bytes up to this many stay in the version's row: a row of their own would cost more.
const HERE_BYTES_MAX: usize = 64;
/// Attributes longer than this go to a row of their own, and aren't in listings.
pub const ATTR_HERE_BYTES_MAX: usize = 256;
/// If the others are more than this in sum, those with `:` in their name follow.
const ATTRS_HERE_BYTES_MAX: usize = 512;

pub(crate) struct Change<'a> {
    pub store: Store<'a>,
    pub now: Wall,
    pub head: Head,
    before: Head,
    /// What is kept though it was deleted, before and after; read by those who change it.
    undo: Option<(UndoHead, UndoHead)>,
    /// The deleted version that this command brings back.
    pub coming_back: Option<u64>,
    pub batch: Batch,
    pub uses: Uses,
}

impl<'a> Change<'a> {
    pub fn new(view: &'a dyn View, volume: VolumeId, now: Wall) -> Result<Self, Error> {
        let store = Store::new(view, volume);
        let head = store.head()?;
        let (before, batch, uses) = (head.clone(), Batch::default(), Uses::default());
        Ok(Change { store, now, before, head, undo: None, coming_back: None, batch, uses })
    }

    /// Settles segments and counters.
    pub fn finish(mut self) -> Result<Batch, Error> {
        let uses = std::mem::take(&mut self.uses);
        uses.settle(&mut self)?;
        if self.head != self.before {
            self.batch.put(self.store.keys.head(), self.head.encode());
        }
        let key = self.store.keys.table(Table::UndoHead, 0);
        match self.undo {
            Some((before, after)) if after == before => {}
            Some((_, after)) if after == UndoHead::default() => _ = self.batch.del(key),
            Some((_, after)) => _ = self.batch.put(key, after.encode()),
            None => {}
        }
        Ok(self.batch)
    }

    pub fn event(&mut self, what: What) {
        let event = Event { volume: self.store.keys.0, at: self.now, what };
        self.batch.event(event.encode());
    }

    /// The counters of what is kept though it was deleted.
    pub fn undo(&mut self) -> Result<&mut UndoHead, Error> {
        let known = match self.undo {
            Some(known) => known,
            None => {
                let before = crate::undo::stats(self.store.view, self.store.keys.0)?;
                (before, before)
            }
        };
        Ok(&mut self.undo.insert(known).1)
    }

    /// The next place in the order of versions and parts.
    pub fn next_ord(&mut self) -> u64 {
        self.head.ord += 1;
        self.head.ord
    }

    /// Writes the rows that hold what is too long for the row itself, and puts the rest into it.
    pub fn place(&mut self, row: &mut VersionRow, attrs: Attrs, body: Body) {
        self.place_attrs(row, attrs);
        self.place_body(row, body);
    }

    pub fn place_attrs(&mut self, row: &mut VersionRow, attrs: Attrs) {
        let (long, mut here): (Attrs, Attrs) =
            attrs.into_iter().partition(|(_, value)| value.len() > ATTR_HERE_BYTES_MAX);
        let mut long = long;
        if here.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > ATTRS_HERE_BYTES_MAX {
            let (details, rest): (Attrs, Attrs) = here.into_iter().partition(|(name, _)| name.contains(':'));
            long.extend(details);
            here = rest;
        }
        let key = self.store.keys.by_ord(Table::Attrs, row.ord);
        let was = std::mem::replace(&mut row.long_attrs, !long.is_empty());
        if row.long_attrs {
            self.batch.put(key, AttrsRow(long).encode());
        } else if was {
            self.batch.del(key);
        }
        row.attrs = here;
    }

    pub fn place_body(&mut self, row: &mut VersionRow, body: Body) {
        row.place = match body {
            Body::Inline(bytes) if bytes.len() > HERE_BYTES_MAX => {
                self.batch.put(self.store.keys.by_ord(Table::Bytes, row.ord), bytes);
                Place::Bytes
            }
            body if body_len(&body) > MANIFEST_BYTES_MAX => {
                self.batch.put(self.store.keys.by_ord(Table::Manifest, row.ord), ManifestRow(body).encode());
                Place::Manifest
            }
            body => Place::Here(body),
        };
    }

    /// Removes what [`Change::place_body`] wrote.
    pub fn unplace_body(&mut self, row: &VersionRow) {
        match row.place {
            Place::Here(_) => {}
            Place::Bytes => {
                self.batch.del(self.store.keys.by_ord(Table::Bytes, row.ord));
            }
            Place::Manifest => {
                self.batch.del(self.store.keys.by_ord(Table::Manifest, row.ord));
            }
        }
    }

    /// Gives back all that a version's or part's row holds elsewhere.
    pub fn release(&mut self, row: &VersionRow, owner: &Owner) -> Result<(), Error> {
        if row.place != Place::Bytes {
            let body = self.store.body(row)?;
            self.uses.remove(&body, row.ord, owner);
        }
        self.unplace_body(row);
        if row.long_attrs {
            self.batch.del(self.store.keys.by_ord(Table::Attrs, row.ord));
        }
        Ok(())
    }
}

/// Subtracts from a counter that can't go below zero unless rows contradict each other.
pub(crate) fn less(counter: &mut u64, by: u64) -> Result<(), Error> {
    *counter = counter.checked_sub(by).ok_or(Error::Broken { what: "a counter would fall below zero" })?;
    Ok(())
}

/// Adds to a counter.
pub(crate) fn more(counter: &mut u64, by: u64) -> Result<(), Error> {
    *counter = counter.checked_add(by).ok_or(Error::Broken { what: "a counter would overflow" })?;
    Ok(())
}
