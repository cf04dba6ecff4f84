//! Where a byte of a segment lies: stripe, cell, piece. Pure arithmetic.
//!
//! A segment of `len` bytes has full stripes of k cells of 64 KiB, and a last one that divides what
//! is left evenly: its cells have c = ceil(rest / k) bytes, zeros behind the end. A stored cell is
//! the cell's bytes and its tag; in a pack, whose objects are sealed themselves, there is no tag.

use std::ops::Range;

use base::limits::{CELL_BYTES, SEAL_BYTES};

const CELL: u64 = CELL_BYTES as u64;

/// The arithmetic of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    k: u64,
    len: u64,
    tag: u64,
}

/// One cell of a segment's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CellAt {
    /// The stripe.
    pub stripe: u64,
    /// The piece, below k.
    pub piece: usize,
}

impl Layout {
    /// Of a segment whose cells are sealed by the segment's key.
    pub fn sealed(k: u8, len: u64) -> Self {
        Self { k: u64::from(k.max(1)), len, tag: SEAL_BYTES as u64 }
    }

    /// Of a pack: its cells are plain pieces of what its objects sealed.
    pub fn pack(k: u8, len: u64) -> Self {
        Self { k: u64::from(k.max(1)), len, tag: 0 }
    }

    /// Data pieces.
    pub fn k(&self) -> usize {
        self.k as usize
    }

    /// Bytes of the segment.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the segment has no bytes (none that is stored has).
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn stripe_bytes(&self) -> u64 {
        self.k * CELL
    }

    /// How many stripes there are.
    pub fn stripes(&self) -> u64 {
        self.len.div_ceil(self.stripe_bytes())
    }

    /// Bytes of each cell of the stripe, without the tag.
    pub fn cell_bytes(&self, stripe: u64) -> u64 {
        let rest = self.len.saturating_sub(stripe * self.stripe_bytes());
        rest.div_ceil(self.k).min(CELL)
    }

    /// Bytes of each stored cell of the stripe.
    pub fn stored_bytes(&self, stripe: u64) -> u64 {
        self.cell_bytes(stripe) + self.tag
    }

    /// Bytes of a stored cell of every stripe but the last.
    pub fn stored_bytes_max(&self) -> u32 {
        (CELL + self.tag) as u32
    }

    /// Bytes of a piece's body.
    pub fn piece_bytes(&self) -> u64 {
        self.piece_range(0..self.stripes()).end
    }

    /// Where the cells of these stripes lie in each piece's body.
    pub fn piece_range(&self, stripes: Range<u64>) -> Range<u64> {
        let full = CELL + self.tag;
        let end = match stripes.end {
            0 => 0,
            end => (end - 1) * full + self.stored_bytes(end - 1),
        };
        stripes.start * full..end.max(stripes.start * full)
    }

    /// Number of a cell, counted through the segment: nonce and part of the associated data.
    pub fn cell_index(&self, at: CellAt) -> u64 {
        at.stripe * self.k + at.piece as u64
    }

    /// The cell that holds the byte.
    pub fn cell_of(&self, byte: u64) -> CellAt {
        let stripe = byte / self.stripe_bytes();
        let inside = byte % self.stripe_bytes();
        CellAt { stripe, piece: (inside / self.cell_bytes(stripe).max(1)) as usize }
    }

    /// The segment's bytes that the cell holds; empty if it is all padding.
    pub fn bytes_of(&self, at: CellAt) -> Range<u64> {
        let cell = self.cell_bytes(at.stripe);
        let start = at.stripe * self.stripe_bytes() + at.piece as u64 * cell;
        start.min(self.len)..(start + cell).min(self.len)
    }

    /// Per data piece, the stripes whose cells hold bytes of `range`, which must not be empty.
    pub fn wanted(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let (first, last) = (self.cell_of(range.start), self.cell_of(range.end - 1));
        (0..self.k as usize)
            .map(|piece| {
                let start = first.stripe + u64::from(piece < first.piece);
                let end = last.stripe + u64::from(piece <= last.piece);
                start..end.max(start)
            })
            .collect()
    }

    /// Cuts `range` at every `stripes` stripes, counted from its first.
    pub fn units(&self, range: Range<u64>, stripes: u64) -> Vec<Range<u64>> {
        let mut units = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let next = (at / self.stripe_bytes() + stripes.max(1)) * self.stripe_bytes();
            units.push(at..next.min(range.end));
            at = next;
        }
        units
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_stripe_is_divided_evenly() {
        let layout = Layout::sealed(4, 4 * CELL + 10);
        assert_eq!(layout.stripes(), 2);
        assert_eq!((layout.cell_bytes(0), layout.cell_bytes(1)), (CELL, 3));
        assert_eq!(layout.piece_bytes(), CELL + 16 + 3 + 16);
        assert_eq!(layout.bytes_of(CellAt { stripe: 1, piece: 3 }), 4 * CELL + 9..4 * CELL + 10);
        let tiny = Layout::sealed(4, 1);
        assert_eq!((tiny.cell_bytes(0), tiny.piece_bytes()), (1, 17));
        assert!(tiny.bytes_of(CellAt { stripe: 0, piece: 3 }).is_empty());
        assert_eq!(Layout::pack(4, 4 * CELL).piece_bytes(), CELL);
        assert_eq!(Layout::pack(1, 0).piece_bytes(), 0);
    }

    #[test]
    fn a_read_of_one_cell_touches_one_piece() {
        let layout = Layout::sealed(4, 100 * CELL);
        let wanted = layout.wanted(&(9 * CELL..10 * CELL));
        assert_eq!(wanted, [3..3, 2..3, 2..2, 2..2]);
    }

    proptest! {
        #[test]
        fn cells_cover_the_segment_once_and_in_order(k in 1u8..12, len in 1u64..3_000_000, pack: bool) {
            let layout = if pack { Layout::pack(k, len) } else { Layout::sealed(k, len) };
            let mut at = 0;
            let mut stored = 0;
            for stripe in 0..layout.stripes() {
                prop_assert_eq!(layout.piece_range(stripe..stripe + 1).start, stored);
                stored += layout.stored_bytes(stripe);
                for piece in 0..layout.k() {
                    let bytes = layout.bytes_of(CellAt { stripe, piece });
                    prop_assert_eq!(bytes.start, at);
                    at = bytes.end;
                    if !bytes.is_empty() {
                        prop_assert_eq!(layout.cell_of(bytes.start), CellAt { stripe, piece });
                        prop_assert_eq!(layout.cell_of(bytes.end - 1), CellAt { stripe, piece });
                    }
                }
            }
            prop_assert_eq!(at, len);
            prop_assert_eq!(stored, layout.piece_bytes());
        }

        #[test]
        fn what_is_wanted_is_every_cell_of_the_range(k in 1u8..7, len in 1u64..2_000_000, a: u64, b: u64) {
            let layout = Layout::sealed(k, len);
            let (a, b) = (a % len, b % len);
            let range = a.min(b)..a.max(b) + 1;
            let wanted = layout.wanted(&range);
            for stripe in 0..layout.stripes() {
                for (piece, stripes) in wanted.iter().enumerate() {
                    let bytes = layout.bytes_of(CellAt { stripe, piece });
                    let meets = bytes.start < range.end && range.start < bytes.end;
                    // Padding may be read along; bytes may not be left out, nor others read.
                    prop_assert!(meets == stripes.contains(&stripe) || bytes.is_empty());
                }
            }
            let units = layout.units(range.clone(), 2);
            prop_assert_eq!(units.first().map(|unit| unit.start), Some(range.start));
            prop_assert_eq!(units.last().map(|unit| unit.end), Some(range.end));
            prop_assert!(units.windows(2).all(|pair| pair[0].end == pair[1].start));
        }
    }
}
