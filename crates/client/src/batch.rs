//! A few stripes on their way: filled with plaintext, sealed in place, coded, hashed.
//!
//! One buffer per data piece, so that what a drive takes is one run of bytes: the caller's bytes are
//! copied once, to where they stay.

use std::sync::Arc;

use base::limits::{CELL_BYTES, SEAL_BYTES};
use base::{SegmentId, VolumeId};
use bytes::Bytes;
use crypt::SegmentKey;
use erasure::Code;

use crate::Error;

/// Plaintext bytes of a batch, about: three of them, coded, stay below 4 MiB per writer.
pub(crate) const BATCH_BYTES: usize = 768 * 1024;
const STORED: usize = CELL_BYTES + SEAL_BYTES;

/// How many stripes a batch has.
pub(crate) fn stripes(k: usize) -> usize {
    (BATCH_BYTES / (k * CELL_BYTES)).max(1)
}

/// Stripes being filled, in order.
pub(crate) struct Batch {
    k: usize,
    cells: Vec<Vec<u8>>,
    filled: usize,
    stripes: usize,
}

impl Batch {
    /// Room for a whole batch, or for `len_max` bytes if that is less.
    pub fn new(k: usize, len_max: u64) -> Self {
        let stripes = stripes(k).min((len_max.div_ceil((k * CELL_BYTES) as u64)).max(1) as usize);
        Self { k, cells: (0..k).map(|_| Vec::with_capacity(stripes * STORED)).collect(), filled: 0, stripes }
    }

    pub fn room(&self) -> usize {
        self.stripes * self.k * CELL_BYTES - self.filled
    }

    /// Takes as many bytes as there is room for, at most all; says how many.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        let take = bytes.len().min(self.room());
        let mut rest = &bytes[..take];
        while !rest.is_empty() {
            let inside = self.filled % CELL_BYTES;
            let cell = &mut self.cells[self.filled / CELL_BYTES % self.k];
            let part = rest.len().min(CELL_BYTES - inside);
            cell.extend_from_slice(&rest[..part]);
            if inside + part == CELL_BYTES {
                // Room for the tag.
                cell.extend_from_slice(&[0; SEAL_BYTES]);
            }
            self.filled += part;
            rest = &rest[part..];
        }
        take
    }

    /// Divides the bytes of an unfinished last stripe evenly over its cells, zeros behind.
    fn even_out(&mut self) {
        let stripe_bytes = self.k * CELL_BYTES;
        let rest = self.filled % stripe_bytes;
        if rest == 0 {
            return;
        }
        let full = self.filled / stripe_bytes * STORED;
        let mut last = Vec::with_capacity(rest);
        for (at, cell) in self.cells.iter_mut().enumerate() {
            let held = rest.saturating_sub(at * CELL_BYTES).min(CELL_BYTES);
            last.extend_from_slice(&cell[full..full + held]);
            cell.truncate(full);
        }
        let each = rest.div_ceil(self.k);
        for (at, cell) in self.cells.iter_mut().enumerate() {
            let part = last.get(at * each..).unwrap_or_default();
            cell.extend_from_slice(&part[..part.len().min(each)]);
            cell.resize(full + each + SEAL_BYTES, 0);
        }
    }

    fn seal(&mut self, seal: &Seal, first_stripe: u64) {
        for (piece, cells) in self.cells.iter_mut().enumerate() {
            for (stripe, stored) in cells.chunks_mut(STORED).enumerate() {
                let index = (first_stripe + stripe as u64) * self.k as u64 + piece as u64;
                let (plain, tag) = stored.split_at_mut(stored.len() - SEAL_BYTES);
                tag.copy_from_slice(&seal.key.seal_cell(seal.volume, seal.segment, index, plain));
            }
        }
    }

    /// Seals, codes and hashes. Gives each piece's bytes.
    pub fn finish(
        mut self,
        seal: &Seal,
        first_stripe: u64,
        code: &Code,
        roots: &mut Roots,
    ) -> Result<Vec<Bytes>, Error> {
        self.even_out();
        self.seal(seal, first_stripe);
        pieces(self.cells, code, roots)
    }
}

/// The key of a segment and what its cells are bound to.
#[derive(Clone)]
pub(crate) struct Seal {
    pub key: Arc<SegmentKey>,
    pub volume: VolumeId,
    pub segment: SegmentId,
}

/// Adds parity to the data pieces' bytes, and hashes all. With k = 1 all pieces are the same bytes.
pub(crate) fn pieces(mut cells: Vec<Vec<u8>>, code: &Code, roots: &mut Roots) -> Result<Vec<Bytes>, Error> {
    let n = code.k() + code.m();
    let pieces: Vec<Bytes> = if code.k() == 1 {
        vec![Bytes::from(cells.swap_remove(0)); n]
    } else {
        let len = cells[0].len();
        cells.resize_with(n, || vec![0; len]);
        code.encode(&mut cells)?;
        cells.into_iter().map(Bytes::from).collect()
    };
    roots.update(&pieces);
    Ok(pieces)
}

/// BLAKE3 of every piece as it grows.
pub(crate) struct Roots {
    hashers: Vec<blake3::Hasher>,
    n: usize,
}

impl Roots {
    pub fn new(code: &Code) -> Self {
        let n = code.k() + code.m();
        let distinct = if code.k() == 1 { 1 } else { n };
        Self { hashers: vec![blake3::Hasher::new(); distinct], n }
    }

    fn update(&mut self, pieces: &[Bytes]) {
        for (hasher, piece) in self.hashers.iter_mut().zip(pieces) {
            hasher.update(piece);
        }
    }

    pub fn finish(&self) -> Vec<[u8; 32]> {
        let roots: Vec<[u8; 32]> = self.hashers.iter().map(|hasher| *hasher.finalize().as_bytes()).collect();
        if roots.len() == self.n { roots } else { vec![roots[0]; self.n] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{CellAt, Layout};

    /// Every byte lies where the layout says, whatever the sizes of the writes.
    #[test]
    fn bytes_lie_where_the_layout_says() {
        for k in [1usize, 2, 3, 4, 6] {
            for len in [1, 5, k, 65_535, 65_536, 65_537, k * 65_536, k * 65_536 + 1, 2 * k * 65_536 + 7 * k + 1] {
                let bytes: Vec<u8> = (0..len).map(|at| (at * 31 + at / 251) as u8).collect();
                let mut batch = Batch { stripes: 3, ..Batch::new(k, 0) };
                for part in bytes.chunks(1000 + k) {
                    assert_eq!(batch.fill(part), part.len());
                }
                batch.even_out();
                let layout = Layout::sealed(k as u8, len as u64);
                for (piece, cells) in batch.cells.iter().enumerate() {
                    assert_eq!(cells.len() as u64, layout.piece_bytes(), "{k} {len}");
                    for stripe in 0..layout.stripes() {
                        let held = layout.bytes_of(CellAt { stripe, piece });
                        let at = layout.piece_range(stripe..stripe + 1).start as usize;
                        let want = &bytes[held.start as usize..held.end as usize];
                        assert_eq!(&cells[at..at + want.len()], want, "{k} {len} {stripe} {piece}");
                        let padding = layout.cell_bytes(stripe) as usize;
                        assert!(cells[at + want.len()..at + padding].iter().all(|byte| *byte == 0));
                    }
                }
            }
        }
    }

    #[test]
    fn a_full_batch_takes_no_more() {
        let mut batch = Batch::new(4, u64::MAX);
        let room = batch.room();
        assert_eq!(batch.fill(&vec![1; room + 10]), room);
        assert_eq!(batch.room(), 0);
        assert_eq!(Batch::new(4, 100).room(), 4 * CELL_BYTES);
    }
}
