//! MD5's compression of several independent streams at once, one to a lane of vector registers.
//!
//! Lanes are 32 bits wide, as MD5's words are. Eight take no longer than four where registers are
//! wide enough (AVX2), and more would not pay: bringing the streams' words into lanes costs as much
//! as the steps then. Measured in CPU seconds per GB with AVX-512: one stream 1.53, two in four
//! lanes 0.85, four 0.43, eight 0.22; with SSE2 alone four 0.64, eight 0.38.

use std::array;
use std::sync::LazyLock;

use fearless_simd::prelude::*;
use fearless_simd::{Level, dispatch, u32x4, u32x8};
use md5_simd::hazmat::compress_blocks;
use md5_simd::{K, S as TURN};

/// Bytes of a block.
pub const BLOCK: usize = 64;
/// Streams at once at the most.
pub const MOST: usize = 8;

/// What MD5 takes at a time.
pub type Block = [u8; BLOCK];
/// The four words that a stream's blocks are mixed into.
pub type Words = [u32; 4];

/// What the processor can do.
static LEVEL: LazyLock<Level> = LazyLock::new(Level::new);

/// Mixes each stream's blocks into its words. There are as many runs of blocks as words, at most
/// [`MOST`], all of the same length.
pub fn compress(words: &mut [Words], runs: &[&[Block]]) {
    debug_assert!(words.len() == runs.len() && runs.len() <= MOST);
    match (words, runs) {
        ([], _) | (_, []) => {}
        ([words], [run]) => compress_blocks(words, run.as_flattened()),
        (words, runs) if runs.len() <= 4 => wide(words, runs, |lanes, runs| {
            let level = *LEVEL;
            dispatch!(level, simd => mix::<_, u32x4<_>, 4>(simd, lanes, runs));
        }),
        (words, runs) => wide(words, runs, |lanes, runs| {
            let level = *LEVEL;
            dispatch!(level, simd => mix::<_, u32x8<_>, 8>(simd, lanes, runs));
        }),
    }
}

/// Turns words into lanes and back. Lanes without a stream repeat the first one's.
fn wide<const L: usize>(words: &mut [Words], runs: &[&[Block]], mix: impl FnOnce(&mut [[u32; L]; 4], &[&[Block]; L])) {
    let lane = |at: usize| if at < runs.len() { at } else { 0 };
    let mut lanes: [[u32; L]; 4] = array::from_fn(|word| array::from_fn(|at| words[lane(at)][word]));
    mix(&mut lanes, &array::from_fn(|at| runs[lane(at)]));
    for (at, words) in words.iter_mut().enumerate() {
        *words = array::from_fn(|word| lanes[word][at]);
    }
}

/// RFC 1321, section 3.4, on all lanes.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "blocks and words of all lanes are walked at once")]
fn mix<S: Simd, V, const L: usize>(simd: S, lanes: &mut [[u32; L]; 4], runs: &[&[Block]; L])
where
    V: SimdInt<S> + SimdBase<S, Element = u32> + SimdFrom<[u32; L], S>,
{
    let blocks = runs.iter().map(|run| run.len()).min().unwrap_or(0);
    let runs: [&[Block]; L] = array::from_fn(|at| &runs[at][..blocks]);
    let mut all: [V; 4] = array::from_fn(|word| V::simd_from(simd, lanes[word]));
    for block in 0..blocks {
        let mut text = [[0; L]; 16];
        for lane in 0..L {
            let (words, _) = runs[lane][block].as_chunks();
            for word in 0..16 {
                text[word][lane] = u32::from_le_bytes(words[word]);
            }
        }
        let [mut a, mut b, mut c, mut d] = all;
        macro_rules! round {
            ($step0:literal, $mixed:expr, $word:expr; $($step:literal)*) => {$({
                const STEP: usize = $step0 + $step;
                let word: fn(usize) -> usize = $word;
                let sum = a + $mixed + (V::simd_from(simd, text[word($step) % 16]) + K[STEP]);
                let turned = (sum << TURN[STEP]) | (sum >> (32 - TURN[STEP]));
                (a, b, c, d) = (d, b + turned, b, c);
            })*};
        }
        round!(0, d ^ (b & (c ^ d)), |i| i; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        round!(16, (d & b) | (!d & c), |i| 5 * i + 1; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        round!(32, b ^ c ^ d, |i| 3 * i + 5; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        round!(48, c ^ (b | !d), |i| 7 * i; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        all = [all[0] + a, all[1] + b, all[2] + c, all[3] + d];
    }
    for (word, lanes) in lanes.iter_mut().enumerate() {
        all[word].store_slice(lanes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_lanes_gives_what_one_gives() {
        for count in 1..=MOST {
            for blocks in [0, 1, 2, 7] {
                let byte = |stream: usize, at: usize| (stream * 31 + at * 7 + (at >> 8)) as u8;
                let streams: Vec<Vec<Block>> = (0..count)
                    .map(|stream| {
                        (0..blocks).map(|block| array::from_fn(|at| byte(stream, block * BLOCK + at))).collect()
                    })
                    .collect();
                let first =
                    |stream: usize| array::from_fn(|word| ((stream * 5 + word) as u32).wrapping_mul(0x9e37_79b9));
                let mut words: Vec<Words> = (0..count).map(first).collect();
                let runs: Vec<&[Block]> = streams.iter().map(|stream| &stream[..]).collect();
                compress(&mut words, &runs);
                for (stream, words) in words.iter().enumerate() {
                    let mut alone = first(stream);
                    compress_blocks(&mut alone, streams[stream].as_flattened());
                    assert_eq!(*words, alone, "stream {stream} of {count}, {blocks} blocks");
                }
            }
        }
    }
}
