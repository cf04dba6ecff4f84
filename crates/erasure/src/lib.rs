//! Reed-Solomon over GF(2^8): k cells in, m parity cells out, any k of them give all back.
//!
//! Systematic: the first k cells are the data. Field polynomial 0x11d; the matrix is the one of
//! klauspost/reedsolomon's default (a Vandermonde matrix times the inverse of its top square), which
//! several languages implement. It is frozen: golden vectors in `tests/golden.rs`, and
//! docs/formats/erasure.md for a stranger. Which library computes it is hidden here.
//! The crate knows neither encryption nor drives.
#![cfg_attr(test, allow(clippy::unwrap_used))]

use base::limits::CODE_PIECES_MAX;
use base::{Kind, Kinded};
use sia_reed_solomon::ReedSolomon;

/// Why cells can't be coded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such code.
    #[error("code {k}+{m}: k must be at least 1 and k + m at most {CODE_PIECES_MAX}")]
    Shape {
        /// Data cells.
        k: usize,
        /// Parity cells.
        m: usize,
    },
    /// Cells of different lengths, too many or too few of them, or an index that the code doesn't have.
    #[error("cells don't fit the code {k}+{m}: {why}")]
    Cells {
        /// Data cells.
        k: usize,
        /// Parity cells.
        m: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// Fewer than k cells are present.
    #[error("only {have} of the {need} cells that are needed are present")]
    TooFew {
        /// Cells present.
        have: usize,
        /// k.
        need: usize,
    },
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Shape { .. } => Kind::Invalid,
            Error::Cells { .. } => Kind::Bug,
            Error::TooFew { have, need } => Kind::TooFewPieces { have: *have as u16, need: *need as u16 },
        }
    }
}

/// A code of k data and m parity cells. Cheap to keep; make one per shape and share it.
pub struct Code {
    k: usize,
    m: usize,
    /// None where the parity is a copy of the data (k = 1) or there is none (m = 0).
    engine: Option<ReedSolomon>,
}

impl Code {
    /// The code with k data and m parity cells.
    pub fn new(k: usize, m: usize) -> Result<Self, Error> {
        if k == 0 || k + m > CODE_PIECES_MAX {
            return Err(Error::Shape { k, m });
        }
        let engine = match (k, m) {
            (1, _) | (_, 0) => None,
            _ => Some(ReedSolomon::new(k, m).map_err(|_| Error::Shape { k, m })?),
        };
        Ok(Self { k, m, engine })
    }

    /// Data cells.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Parity cells.
    pub fn m(&self) -> usize {
        self.m
    }

    fn cells(&self, why: &'static str) -> Error {
        Error::Cells { k: self.k, m: self.m, why }
    }

    /// Computes the m parity cells, the last of the k + m `cells`, from the k data cells before
    /// them. All have the same length.
    pub fn encode<T: AsRef<[u8]> + AsMut<[u8]> + Send + Sync>(&self, cells: &mut [T]) -> Result<(), Error> {
        if cells.len() != self.k + self.m {
            return Err(self.cells("their number is not k + m"));
        }
        let len = cells[0].as_ref().len();
        if cells.iter().any(|cell| cell.as_ref().len() != len) {
            return Err(self.cells("their lengths differ"));
        }
        if len == 0 || self.m == 0 {
            return Ok(());
        }
        match &self.engine {
            Some(engine) => engine.encode(cells).map_err(|_| self.cells("the library refused them")),
            None => {
                let (data, parity) = cells.split_at_mut(1);
                parity.iter_mut().for_each(|cell| cell.as_mut().copy_from_slice(data[0].as_ref()));
                Ok(())
            }
        }
    }

    /// Fills in missing cells (`None`) from any k present ones; only data cells if `data_only`.
    pub fn reconstruct(&self, cells: &mut [Option<Vec<u8>>], data_only: bool) -> Result<(), Error> {
        if cells.len() != self.k + self.m {
            return Err(self.cells("their number is not k + m"));
        }
        let have = cells.iter().flatten().count();
        if have < self.k {
            return Err(Error::TooFew { have, need: self.k });
        }
        let len = cells.iter().flatten().map(Vec::len).next().unwrap_or(0);
        if cells.iter().flatten().any(|cell| cell.len() != len) {
            return Err(self.cells("their lengths differ"));
        }
        if have == cells.len() {
            return Ok(());
        }
        if len == 0 {
            cells.iter_mut().for_each(|cell| *cell = Some(Vec::new()));
            return Ok(());
        }
        match &self.engine {
            Some(engine) if data_only => engine.reconstruct_data(cells),
            Some(engine) => engine.reconstruct(cells),
            None => {
                let copy = cells.iter().flatten().next().cloned();
                cells.iter_mut().filter(|cell| cell.is_none()).for_each(|cell| cell.clone_from(&copy));
                return Ok(());
            }
        }
        .map_err(|_| self.cells("the library refused them"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(k: usize, len: usize) -> Vec<Vec<u8>> {
        (0..k).map(|row| (0..len).map(|at| (row * 31 + at * 7 + at / 256) as u8).collect()).collect()
    }

    fn encoded(k: usize, m: usize, len: usize) -> Vec<Vec<u8>> {
        let mut cells = data(k, len);
        cells.resize(k + m, vec![0; len]);
        Code::new(k, m).unwrap().encode(&mut cells).unwrap();
        cells
    }

    #[test]
    fn any_k_cells_give_all_back() {
        for (k, m) in [(1, 0), (1, 2), (2, 1), (2, 2), (3, 2), (4, 2), (6, 3), (8, 4)] {
            let whole = encoded(k, m, 1001);
            let code = Code::new(k, m).unwrap();
            for mask in 0u32..1 << (k + m) {
                if mask.count_ones() as usize > m {
                    continue;
                }
                let lost = |at: usize| mask >> at & 1 == 1;
                let mut cells: Vec<_> =
                    whole.iter().enumerate().map(|(at, cell)| (!lost(at)).then(|| cell.clone())).collect();
                code.reconstruct(&mut cells, false).unwrap();
                assert!(cells.iter().zip(&whole).all(|(a, b)| a.as_ref() == Some(b)), "{k}+{m} {mask:b}");
            }
        }
    }

    #[test]
    fn one_data_cell_is_copied() {
        let cells = encoded(1, 2, 100);
        assert!(cells.iter().all(|cell| *cell == cells[0]));
    }

    #[test]
    fn too_few_or_odd_cells_are_errors() {
        let code = Code::new(4, 2).unwrap();
        let mut cells = vec![None; 6];
        cells[0] = Some(vec![0; 4]);
        assert_eq!(code.reconstruct(&mut cells, true), Err(Error::TooFew { have: 1, need: 4 }));
        assert!(matches!(code.encode(&mut [vec![0u8; 4]]), Err(Error::Cells { .. })));
        assert!(matches!(Code::new(0, 1), Err(Error::Shape { .. })));
        assert!(matches!(Code::new(60, 5), Err(Error::Shape { .. })));
    }
}
