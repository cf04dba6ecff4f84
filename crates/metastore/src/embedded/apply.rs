//! From a record to what it makes of the rows.

use std::ops::Range;
use std::sync::Arc;

use base::Seq;
use base::kv::Batch;

use crate::Error;
use crate::embedded::Layers;
use crate::embedded::map::AnyMap;
use crate::layer::{Cell, CellRow, Layer, ValueRef};
use crate::merge;
use crate::record::{BatchBody, Move, Placed};

impl Layers {
    /// From the oldest to the newest.
    pub fn stack(&self) -> Vec<&Layer> {
        self.frozen.as_deref().into_iter().chain([&*self.active]).collect()
    }

    pub fn get(&self, at: Seq, key: &[u8]) -> Result<Option<Cell>, Error> {
        merge::get(Some(&AnyMap(&self.maps)), &self.stack(), at, key)
    }

    pub fn range(&self, at: Seq, keys: Range<&[u8]>, limit: usize, reverse: bool) -> Result<Vec<CellRow>, Error> {
        merge::cells(Some(&AnyMap(&self.maps)), &self.stack(), at, keys, limit, reverse)
    }

    /// What a removal of the range does to the rows as of `at`.
    pub fn removed(&self, at: Seq, keys: Range<&[u8]>) -> Result<Vec<CellRow>, Error> {
        merge::removed(Some(&AnyMap(&self.maps)), &self.stack(), at, keys)
    }

    /// Takes in large values at their new places, unless their rows changed meanwhile.
    pub fn apply_moves(&self, head: Seq, moves: Vec<Move<ValueRef>>) -> Result<(), Error> {
        let mut cells = Vec::new();
        for one in moves {
            let same = match self.get(head, &one.key)? {
                Some(Cell::Ref(place)) => place.seq == one.seq,
                Some(Cell::Dropped(seq)) => seq == one.seq,
                Some(Cell::Inline(_) | Cell::Gone) | None => false,
            };
            if same {
                cells.push((one.key, Cell::Ref(one.value)));
            }
        }
        self.active.apply(head, cells);
        Ok(())
    }
}

/// What a put makes of its row. `value` is none if the record no longer has it.
fn put_cell(value: Option<&[u8]>, len: u32, min: usize, place: ValueRef) -> Cell {
    match value {
        Some(value) if (len as usize) < min => Cell::Inline(Arc::from(value)),
        Some(_) => Cell::Ref(place),
        None => Cell::Dropped(place.seq),
    }
}

/// The rows that a fresh batch leaves, its removals of ranges aside.
pub(crate) fn batch_cells(
    batch: Batch,
    places: &[u32],
    is_kept: impl Fn(usize) -> bool,
    min: usize,
    seq: Seq,
    file: u64,
    placed: Placed,
) -> Vec<CellRow> {
    let mut cells: Vec<CellRow> = batch.dels.into_iter().map(|key| (key, Cell::Gone)).collect();
    let Placed { record, sealed } = placed;
    for (index, ((key, value), at)) in batch.puts.into_iter().zip(places).enumerate() {
        let len = value.len() as u32;
        let place = ValueRef { seq, file, record, sealed, at: *at, len };
        cells.push((key, put_cell(is_kept(index).then_some(value.as_slice()), len, min, place)));
    }
    cells
}

/// The rows that a batch read from the log leaves, its removals of ranges aside.
pub(crate) fn body_cells(body: &BatchBody<'_>, min: usize, seq: Seq, file: u64, placed: Placed) -> Vec<CellRow> {
    let mut cells: Vec<CellRow> = body.dels.iter().map(|key| (key.to_vec(), Cell::Gone)).collect();
    let Placed { record, sealed } = placed;
    for put in &body.puts {
        let place = ValueRef { seq, file, record, sealed, at: put.at, len: put.len };
        cells.push((put.key.to_vec(), put_cell(put.value, put.len, min, place)));
    }
    cells
}
