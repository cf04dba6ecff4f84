//! AES-256-XTS (IEEE 1619) for a file that is rewritten in place.
//!
//! XTS hides contents from who takes the drive, block by block of 16 bytes; it doesn't authenticate:
//! the ordered map has checksums of its own inside. A changed block changes its own ciphertext only,
//! so that a torn write tears the ciphertext exactly where it would have torn the plaintext.

use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes256, Block};

/// Bytes of a data unit; its number is the tweak.
const UNIT: u64 = 4096;
/// Bytes of a block: spans begin and end at multiples of it.
pub const BLOCK: usize = 16;
/// Blocks that are ciphered in one call.
const LANES: usize = 32;

/// Ciphers spans of one file.
pub struct SectorCipher {
    data: Aes256,
    tweak: Aes256,
}

impl SectorCipher {
    /// From two keys that are independent of each other.
    pub fn new(data: &[u8; 32], tweak: &[u8; 32]) -> Self {
        Self { data: Aes256::new(&Array::from(*data)), tweak: Aes256::new(&Array::from(*tweak)) }
    }

    /// Enciphers in place the span that lies at `offset` of the file.
    ///
    /// # Panics
    /// If offset or length aren't multiples of 16: a mistake of the caller, not of its input.
    pub fn encrypt(&self, offset: u64, span: &mut [u8]) {
        self.cipher(offset, span, |blocks| self.data.encrypt_blocks(blocks));
    }

    /// The reverse of [`SectorCipher::encrypt`].
    ///
    /// # Panics
    /// As [`SectorCipher::encrypt`].
    pub fn decrypt(&self, offset: u64, span: &mut [u8]) {
        self.cipher(offset, span, |blocks| self.data.decrypt_blocks(blocks));
    }

    fn cipher(&self, offset: u64, span: &mut [u8], act: impl Fn(&mut [Block])) {
        assert!(offset.is_multiple_of(BLOCK as u64) && span.len().is_multiple_of(BLOCK), "spans of whole blocks only");
        let mut offset = offset;
        let mut rest = span;
        while !rest.is_empty() {
            let within = (UNIT - offset % UNIT) as usize;
            let (part, tail) = rest.split_at_mut(within.min(rest.len()));
            self.cipher_unit(offset, part, &act);
            offset += part.len() as u64;
            rest = tail;
        }
    }

    /// A part of one unit.
    fn cipher_unit(&self, offset: u64, part: &mut [u8], act: &impl Fn(&mut [Block])) {
        let mut first = Block::default();
        first[..8].copy_from_slice(&(offset / UNIT).to_le_bytes());
        self.tweak.encrypt_block(&mut first);
        let mut tweak = u128::from_le_bytes(first.into());
        for _ in 0..(offset % UNIT) as usize / BLOCK {
            tweak = double(tweak);
        }
        let mut tweaks = [0u128; LANES];
        for lanes in part.chunks_mut(LANES * BLOCK) {
            let count = lanes.len() / BLOCK;
            for slot in &mut tweaks[..count] {
                *slot = tweak;
                tweak = double(tweak);
            }
            xor(lanes, &tweaks);
            let (blocks, _) = Block::slice_as_chunks_mut(lanes);
            act(blocks);
            xor(lanes, &tweaks);
        }
    }
}

/// Times x in GF(2^128) (IEEE 1619, 5.2).
fn double(tweak: u128) -> u128 {
    (tweak << 1) ^ if tweak >> 127 == 1 { 0x87 } else { 0 }
}

fn xor(bytes: &mut [u8], tweaks: &[u128]) {
    for (block, tweak) in bytes.chunks_exact_mut(BLOCK).zip(tweaks) {
        let mut word = [0; BLOCK];
        word.copy_from_slice(block);
        block.copy_from_slice(&(u128::from_le_bytes(word) ^ tweak).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_xts_of_ieee_1619() {
        // IEEE 1619-2007, annex B, vector 10: AES-256, data unit 0xff, 512 bytes 00..ff twice.
        let mut data_key = [0; 32];
        let mut tweak_key = [0; 32];
        assert!(base::ids::unhex("2718281828459045235360287471352662497757247093699959574966967627", &mut data_key));
        assert!(base::ids::unhex("3141592653589793238462643383279502884197169399375105820974944592", &mut tweak_key));
        let mut span: Vec<u8> = (0..512).map(|at| at as u8).collect();
        SectorCipher::new(&data_key, &tweak_key).encrypt(0xff * UNIT, &mut span);
        assert_eq!(base::ids::hex(&span[..32]), "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b");
    }

    #[test]
    fn parts_of_a_unit_are_ciphered_as_the_whole_is() {
        let cipher = SectorCipher::new(&[1; 32], &[2; 32]);
        let plain: Vec<u8> = (0..3 * 4096).map(|at| (at * 7) as u8).collect();
        let mut whole = plain.clone();
        cipher.encrypt(8192, &mut whole);
        for (from, to) in [(0, 16), (4080, 4112), (16, 12_288), (5008, 9008)] {
            let mut part = plain[from..to].to_vec();
            cipher.encrypt(8192 + from as u64, &mut part);
            assert_eq!(part, whole[from..to]);
            cipher.decrypt(8192 + from as u64, &mut part);
            assert_eq!(part, plain[from..to]);
        }
    }
}
