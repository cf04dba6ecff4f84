//! Objects from what the headers of their segments say.

use std::collections::BTreeMap;

use base::{SegmentId, Wall};

use crate::header::{End, Facts, PackSlot, Part};
use crate::rescue::{Extent, From, Key, Missing, Pieces, Recovered, Source};
use crate::types::Slot;

/// Bytes that sealing adds to each cell, and the cell's: an object in a pack is sealed cell by cell.
const SEALED_CELL: u64 = (base::limits::CELL_BYTES + base::limits::SEAL_BYTES) as u64;
const SEAL: u64 = base::limits::SEAL_BYTES as u64;

/// A segment that was found.
pub(crate) struct Written<'a> {
    pub segment: SegmentId,
    pub facts: &'a Facts,
    pub pieces: Pieces,
}

impl Written<'_> {
    fn from(&self, slot: Option<Slot>, wrapped_key: [u8; 48]) -> From {
        let mut root = [0; 8];
        root.copy_from_slice(&self.facts.root()[..8]);
        From::Segment {
            volume: self.facts.volume,
            segment: self.segment,
            segment_len: self.facts.len,
            slot,
            key: Key::Wrapped(wrapped_key),
            root,
            pieces: self.pieces.clone(),
        }
    }
}

/// What was written in one go.
#[derive(Default)]
struct Write {
    written: Wall,
    extents: BTreeMap<u64, (Extent, End)>,
}

/// Collects segments by what they are part of.
#[derive(Default)]
pub(crate) struct Assembler {
    writes: BTreeMap<(String, Option<Part>, [u8; 16]), Write>,
    done: Vec<Recovered>,
}

impl Assembler {
    pub fn whole(
        &mut self,
        path: &str,
        write: [u8; 16],
        offset: u64,
        end: End,
        part: Option<Part>,
        found: Written<'_>,
    ) {
        let extent = Extent { offset, len: found.facts.len, from: found.from(None, found.facts.wrapped_key) };
        self.add((path.to_owned(), part, write), extent, end, found.facts.written);
    }

    fn add(&mut self, of: (String, Option<Part>, [u8; 16]), extent: Extent, end: End, written: Wall) {
        let one = self.writes.entry(of).or_default();
        one.written = one.written.max(written);
        let offset = extent.offset;
        // Two segments for one place: a writer tried twice. Who can be read is better.
        match one.extents.get(&offset) {
            Some((known, _)) if known.missing().is_none() => {}
            _ => drop(one.extents.insert(offset, (extent, end))),
        }
    }

    pub fn pack(&mut self, slots: &[PackSlot], found: &Written<'_>) {
        for (index, slot) in slots.iter().enumerate() {
            let place = Slot { index: index as u32, offset: slot.offset, len: slot.len };
            let size = opened_len(slot.len.into());
            let extent = Extent { offset: 0, len: size, from: found.from(Some(place), slot.wrapped_key) };
            let written = found.facts.written;
            if slot.part.is_none() {
                self.done.push(object(slot.path.clone(), written, Some(size), vec![extent], Vec::new()));
                continue;
            }
            // A write of its own, like no other.
            let mut write = found.segment.0;
            write[15] ^= index as u8;
            self.add((slot.path.clone(), slot.part, write), extent, End::Here, written);
        }
    }

    pub fn finish(mut self) -> Vec<Recovered> {
        let mut uploads: BTreeMap<(String, [u8; 16]), BTreeMap<u16, Recovered>> = BTreeMap::new();
        for ((path, part, _), write) in std::mem::take(&mut self.writes) {
            let one = write.finish(path.clone());
            match part {
                None => self.done.push(one),
                Some(Part { upload, number }) => {
                    let parts = uploads.entry((path, upload)).or_default();
                    // A part may be sent again: the last one counts.
                    if parts.get(&number).is_none_or(|known| known.written <= one.written) {
                        parts.insert(number, one);
                    }
                }
            }
        }
        self.done.extend(uploads.into_iter().map(|((path, _), parts)| joined(path, parts)));
        self.done
    }
}

impl Write {
    fn finish(self, path: String) -> Recovered {
        let (mut at, mut end) = (0, End::Unknown);
        let (mut extents, mut gaps) = (Vec::new(), Vec::new());
        for (offset, (extent, ends)) in self.extents {
            if offset > at {
                gaps.push(Missing::Bytes { offset: at, len: offset - at });
            }
            at = offset.saturating_add(extent.len).max(at);
            end = ends;
            extents.push(extent);
        }
        if end == End::Later {
            gaps.push(Missing::Tail { offset: at });
        }
        object(path, self.written, (end == End::Here).then_some(at), extents, gaps)
    }
}

fn object(path: String, written: Wall, size: Option<u64>, extents: Vec<Extent>, gaps: Vec<Missing>) -> Recovered {
    let missing = extents.iter().filter_map(Extent::missing).chain(gaps).collect();
    Recovered { path, written, size, attrs: Vec::new(), source: Source::Headers, parts: Vec::new(), extents, missing }
}

/// An upload: its parts one after the other. Where a part's end isn't known, the object's isn't.
fn joined(path: String, parts: BTreeMap<u16, Recovered>) -> Recovered {
    let numbers = parts.keys().copied().collect();
    let mut whole = object(path, Wall(0), Some(0), Vec::new(), Vec::new());
    let mut at = 0u64;
    for part in parts.into_values() {
        let end = part.extents.last().map_or(0, |last| last.offset.saturating_add(last.len));
        whole.written = whole.written.max(part.written);
        whole.size = whole.size.zip(part.size).map(|(a, b)| a.saturating_add(b));
        for mut extent in part.extents {
            extent.offset = extent.offset.saturating_add(at);
            whole.extents.push(extent);
        }
        whole.missing.extend(part.missing.into_iter().map(|missing| missing.moved(at)));
        at = at.saturating_add(part.size.unwrap_or(end));
    }
    whole.parts = numbers;
    whole
}

impl Missing {
    fn moved(mut self, by: u64) -> Self {
        let (Missing::Pieces { offset, .. } | Missing::Bytes { offset, .. } | Missing::Tail { offset }) = &mut self;
        *offset = offset.saturating_add(by);
        self
    }
}

/// Bytes of an object of which a pack has `sealed`.
fn opened_len(sealed: u64) -> u64 {
    sealed.saturating_sub(sealed.div_ceil(SEALED_CELL) * SEAL)
}
