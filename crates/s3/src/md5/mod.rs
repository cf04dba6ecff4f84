//! MD5, S3's entity tag (RFC 1321): of one stream, or of several at once.
//!
//! Each step of MD5 waits for the one before it, so that one stream leaves most of a core idle:
//! 1.5 CPU seconds per GB, more than everything else that a write costs. Streams that come in at
//! the same time are therefore hashed beside each other in the lanes of vector registers
//! ([`lanes`]), which takes hardly longer than hashing one of them. Who shares lanes with whom is
//! up to [`pool`] and chance; no stream's result depends on it.

pub mod lanes;
pub mod pool;

use bytes::{Buf, Bytes};
use md5_simd::hazmat::compress_blocks;

use lanes::{BLOCK, Block, Words};

/// The MD5 of one stream on its way. Cheap to move between threads.
#[derive(Clone, Debug)]
pub struct Md5 {
    words: Words,
    /// All bytes that were taken, those in `tail` too.
    len: u64,
    tail: Block,
    /// Bytes in `tail`; all of them only between [`Md5::top_up`] and the compression.
    held: usize,
}

impl Default for Md5 {
    fn default() -> Self {
        Md5 { words: md5_simd::STATE_INIT, len: 0, tail: [0; BLOCK], held: 0 }
    }
}

impl Md5 {
    /// Takes the next bytes, here and now.
    pub fn update(&mut self, mut bytes: &[u8]) {
        if self.held > 0 {
            let took = self.top_up(bytes);
            bytes = &bytes[took..];
            if self.held < BLOCK {
                return;
            }
            compress_blocks(&mut self.words, &self.tail);
            self.held = 0;
        }
        let (blocks, _) = bytes.as_chunks::<BLOCK>();
        compress_blocks(&mut self.words, blocks.as_flattened());
        self.len += blocks.as_flattened().len() as u64;
        self.top_up(&bytes[blocks.as_flattened().len()..]);
    }

    /// Copies bytes behind those of the last block that is not whole yet; how many.
    fn top_up(&mut self, bytes: &[u8]) -> usize {
        let took = bytes.len().min(BLOCK - self.held);
        self.tail[self.held..self.held + took].copy_from_slice(&bytes[..took]);
        self.held += took;
        self.len += took as u64;
        took
    }

    /// The digest.
    pub fn finish(mut self) -> [u8; 16] {
        // RFC 1321, 3.1 and 3.2: a one, zeros, and the length in bits as 64 bits.
        let bits = self.len.wrapping_mul(8).to_le_bytes();
        let zeros = (2 * BLOCK - 9 - self.held) % BLOCK;
        let mut end = [0; 2 * BLOCK];
        end[0] = 0x80;
        end[1 + zeros..9 + zeros].copy_from_slice(&bits);
        self.update(&end[..9 + zeros]);
        let mut digest = [0; 16];
        for (to, word) in digest.chunks_exact_mut(4).zip(self.words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        digest
    }
}

/// A stream and the bytes that it takes next.
#[derive(Debug)]
struct Work {
    md5: Md5,
    parts: std::collections::VecDeque<Bytes>,
}

impl Work {
    /// Makes the next whole blocks lie in one run, by copying only where parts meet. False at the
    /// end: what is left is less than a block, and the stream keeps it.
    fn prepare(&mut self) -> bool {
        while self.md5.held < BLOCK {
            let Some(part) = self.parts.front_mut() else { return false };
            if self.md5.held == 0 && part.len() >= BLOCK {
                return true;
            }
            let took = self.md5.top_up(part);
            part.advance(took);
            if part.is_empty() {
                self.parts.pop_front();
            }
        }
        true
    }

    /// The run that [`Work::prepare`] made.
    fn run(&self) -> &[Block] {
        match self.parts.front() {
            _ if self.md5.held == BLOCK => std::slice::from_ref(&self.md5.tail),
            Some(part) => part.as_chunks().0,
            None => &[],
        }
    }

    /// The first blocks of the run have been compressed.
    fn advance(&mut self, blocks: usize) {
        if self.md5.held == BLOCK {
            self.md5.held = 0;
        } else if let Some(part) = self.parts.front_mut() {
            part.advance(blocks * BLOCK);
            self.md5.len += (blocks * BLOCK) as u64;
        }
    }
}

/// Advances all of them by as many blocks as all have ahead in one run, at most `most`; how many.
/// All were prepared.
fn advance(works: &mut [impl AsMut<Work> + AsRef<Work>], most: usize) -> usize {
    let mut words = [Words::default(); lanes::MOST];
    let mut runs: [&[Block]; lanes::MOST] = [&[]; lanes::MOST];
    let count = works.len().min(lanes::MOST);
    let mut blocks = most;
    for (at, work) in works[..count].iter().enumerate() {
        let work = work.as_ref();
        (words[at], runs[at]) = (work.md5.words, work.run());
        blocks = blocks.min(runs[at].len());
    }
    runs[..count].iter_mut().for_each(|run| *run = &run[..blocks]);
    lanes::compress(&mut words[..count], &runs[..count]);
    for (work, words) in works.iter_mut().zip(words) {
        let work = work.as_mut();
        work.md5.words = words;
        work.advance(blocks);
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_the_rfcs() {
        for (text, digest) in [
            ("", "d41d8cd98f00b204e9800998ecf8427e"),
            ("abc", "900150983cd24fb0d6963f7d28e17f72"),
            ("abcdefghijklmnopqrstuvwxyz", "c3fcd3d76192e4007dfb496cca67e13b"),
            (&"1234567890".repeat(8), "57edf4a22be3c955ac49da2e2107b67a"),
        ] {
            let mut md5 = Md5::default();
            md5.update(text.as_bytes());
            assert_eq!(base::ids::hex(&md5.finish()), digest, "{text}");
        }
    }

    #[test]
    fn every_length_and_every_cut_gives_the_librarys_digest() {
        let bytes: Vec<u8> = (0..200_u8).collect();
        for len in 0..bytes.len() {
            let known = md5_simd::digest_portable(&bytes[..len]);
            for cut in 0..=len {
                let mut md5 = Md5::default();
                md5.update(&bytes[..cut]);
                md5.update(&bytes[cut..len]);
                assert_eq!(md5.finish(), known, "{len} bytes cut at {cut}");
            }
        }
    }
}
