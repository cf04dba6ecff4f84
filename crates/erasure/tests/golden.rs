//! The code's bytes are frozen, and another implementation gives the same ones.
#![allow(missing_docs, clippy::unwrap_used)]

use erasure::Code;
use reed_solomon_erasure::galois_8::ReedSolomon;

fn cells(k: usize, m: usize, len: usize, seed: u64) -> Vec<Vec<u8>> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let mut cells: Vec<Vec<u8>> = (0..k).map(|_| (0..len).map(|_| next()).collect()).collect();
    cells.resize(k + m, vec![0; len]);
    cells
}

#[test]
fn another_implementation_gives_the_same_parity() {
    for k in 2..=16 {
        for m in 1..=6 {
            for len in [1, 15, 16, 17, 63, 64, 65, 1000] {
                let mut ours = cells(k, m, len, (k * 100 + m) as u64);
                let mut theirs = ours.clone();
                Code::new(k, m).unwrap().encode(&mut ours).unwrap();
                ReedSolomon::new(k, m).unwrap().encode(&mut theirs).unwrap();
                assert_eq!(ours, theirs, "{k}+{m}, {len} bytes");
            }
        }
    }
}

/// Line by line: k m, then the parity cells in hex, of data cells that hold `cells(k, m, 16, 1)`.
const GOLDEN: &str = include_str!("golden.txt");

#[test]
fn parity_bytes_never_change() {
    let now: String = [(2, 1), (2, 2), (3, 2), (4, 2), (5, 3), (6, 3), (8, 4), (10, 4), (29, 35)]
        .iter()
        .map(|(k, m)| {
            let mut all = cells(*k, *m, 16, 1);
            Code::new(*k, *m).unwrap().encode(&mut all).unwrap();
            let hex: Vec<String> = all[*k..].iter().map(|cell| base::ids::hex(cell)).collect();
            format!("{k} {m} {}\n", hex.join(" "))
        })
        .collect();
    assert_eq!(now, GOLDEN, "the code's bytes changed: stored data could not be decoded any more");
}
