//! A view that notes what is read of it.

use std::cell::RefCell;
use std::ops::Range;

use base::Seq;
use base::kv::{Row, View, ViewError};

use super::rows::{Gather, learned};
use super::{Read, ReadSet, Rows, Wants};

/// A [`View`] over a view, which must be a consistent cut: notes every read with its answer.
pub struct Recorder<'a> {
    view: &'a dyn View,
    noted: RefCell<(Wants, Gather)>,
}

impl<'a> Recorder<'a> {
    /// Records reads of `view`, a cut at `at`.
    pub fn new(view: &'a dyn View, at: Seq) -> Self {
        Self { view, noted: RefCell::new((Wants::new(), Gather::new(at))) }
    }

    /// What was read: for who runs the same rule elsewhere.
    pub fn rows(self) -> Rows {
        self.noted.into_inner().1.rows()
    }

    /// What was read, to be compared later: for a [`super::Proposal`].
    ///
    /// # Errors
    /// If it is too much for a message.
    pub fn read_set(self) -> Result<ReadSet, ViewError> {
        let (wants, rows) = self.noted.into_inner();
        // The rows answer every read that they were made of.
        ReadSet::of(&super::Recorded::new(&rows.rows()), &wants)
    }

    fn note(&self, read: Read) -> Result<Vec<Row>, ViewError> {
        let found = read.of(self.view)?;
        let (wants, rows) = &mut *self.noted.borrow_mut();
        let interval = learned(&read, &found);
        // First, since the count of reads bounds that of intervals.
        wants.add(read)?;
        rows.learn(interval, &found)?;
        Ok(found)
    }
}

impl View for Recorder<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError> {
        let found = self.note(Read::Get { key: key.to_vec() })?;
        Ok(found.into_iter().next().map(|(_, value)| value))
    }

    fn range(&self, range: Range<&[u8]>, limit: usize, reverse: bool) -> Result<Vec<Row>, ViewError> {
        self.note(Read::range(range, limit, reverse))
    }
}
