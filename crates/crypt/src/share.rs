//! A volume's root in shares, any `threshold` of which give it back; fewer say nothing about it.
//!
//! Shamir's scheme (A. Shamir, "How to share a secret", 1979) byte by byte over GF(2^8)/0x11b: share x has, of
//! each byte, f(x), where f(0) is the byte and the other coefficients are random. The arithmetic has no tables and no branches on secrets.

use std::fmt;

use bip39::Language;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{Error, VolumeRoot};

/// Shares of one root at the most: more than a family and its safes need.
pub const SHARES_MAX: usize = 20;
/// Words of a share: 38 bytes and 26 bits of checksum.
const WORDS: usize = 30;
const BYTES: usize = 38;
const CHECK_BITS: u32 = (WORDS * 11 - BYTES * 8) as u32;

/// One share, to be printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Share {
    threshold: u8,
    index: u8,
    tag: [u8; 4],
    value: [u8; 32],
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Share({} of any {}, …)", self.index, self.threshold)
    }
}

impl Share {
    /// Which share it is, from 1.
    pub fn index(&self) -> u8 {
        self.index
    }

    /// How many shares it takes.
    pub fn threshold(&self) -> u8 {
        self.threshold
    }

    /// The first bytes of the volume's check value: which volume the share is of.
    pub fn tag(&self) -> [u8; 4] {
        self.tag
    }

    /// The share as 30 words of BIP-39's list.
    pub fn words(&self) -> String {
        let bytes = self.to_bytes();
        let bits = Bits { bytes: &bytes[..], check: checksum(&bytes) };
        let list = Language::English.word_list();
        let words: Vec<&str> = (0..WORDS).map(|at| list[usize::from(bits.word(at))]).collect();
        words.join(" ")
    }

    /// The reverse of [`Share::words`]; case and spacing don't matter. `number` names the share in errors.
    pub fn from_words(text: &str, number: usize) -> Result<Self, Error> {
        let words: Vec<_> = crate::words::split(text).collect();
        if words.len() != WORDS {
            return Err(Error::ShareWordCount { share: number, count: words.len() });
        }
        let mut bytes = Zeroizing::new([0u8; BYTES + 4]);
        for (at, word) in words.iter().enumerate() {
            let Some(digit) = Language::English.find_word(word) else {
                return Err(Error::ShareWord { share: number, position: at + 1, word: word.to_string() });
            };
            for bit in (0..11).filter(|bit| digit >> (10 - bit) & 1 == 1) {
                let place = at * 11 + bit;
                bytes[place / 8] |= 0x80 >> (place % 8);
            }
        }
        let mut body = Zeroizing::new([0; BYTES]);
        body.copy_from_slice(&bytes[..BYTES]);
        let check = u32::from_be_bytes([bytes[BYTES], bytes[BYTES + 1], bytes[BYTES + 2], bytes[BYTES + 3]]);
        if check >> (32 - CHECK_BITS) != checksum(&body) {
            return Err(Error::ShareChecksum { share: number });
        }
        Self::from_bytes(&body).ok_or(Error::ShareChecksum { share: number })
    }

    fn to_bytes(&self) -> Zeroizing<[u8; BYTES]> {
        let mut bytes = Zeroizing::new([0; BYTES]);
        bytes[0] = self.threshold;
        bytes[1] = self.index;
        bytes[2..6].copy_from_slice(&self.tag);
        bytes[6..].copy_from_slice(&self.value);
        bytes
    }

    fn from_bytes(bytes: &[u8; BYTES]) -> Option<Self> {
        let mut share = Self { threshold: bytes[0], index: bytes[1], tag: [0; 4], value: [0; 32] };
        share.tag.copy_from_slice(&bytes[2..6]);
        share.value.copy_from_slice(&bytes[6..]);
        (share.threshold >= 2 && share.index >= 1).then_some(share)
    }
}

/// Splits a root: any `threshold` of `count` shares give it back. `random` is 32 random bytes.
pub fn split(root: &VolumeRoot, threshold: usize, count: usize, random: [u8; 32]) -> Result<Vec<Share>, Error> {
    if threshold < 2 || threshold > count || count > SHARES_MAX {
        return Err(Error::ShareSplit { threshold, count });
    }
    // The coefficients hang on the root too: the same random bytes twice must not tie two splittings together.
    let mut hasher = blake3::Hasher::new_derive_key("abide 2026 share coefficients v1");
    hasher.update(&random).update(root.bytes()).update(&[threshold as u8, count as u8]);
    let mut coefficients = Zeroizing::new(vec![0u8; 32 * (threshold - 1)]);
    hasher.finalize_xof().fill(&mut coefficients);
    hasher.zeroize();
    let share = |index: u8| {
        let value = std::array::from_fn(|byte| {
            let of =
                |degree: usize| if degree == 0 { root.bytes()[byte] } else { coefficients[(degree - 1) * 32 + byte] };
            (0..threshold).rev().fold(0, |sum, degree| mul(sum, index) ^ of(degree))
        });
        Share { threshold: threshold as u8, index, tag: tag_of(root), value }
    };
    Ok((1..=count as u8).map(share).collect())
}

/// The root of which these are shares. More than needed may be given, and the same one twice.
pub fn join(shares: &[Share]) -> Result<VolumeRoot, Error> {
    let Some(first) = shares.first() else { return Err(Error::TooFewShares { have: 0, need: 2 }) };
    let mut used: Vec<&Share> = Vec::new();
    for (at, share) in shares.iter().enumerate() {
        if (share.tag, share.threshold) != (first.tag, first.threshold) {
            return Err(Error::ShareOther { share: at + 1 });
        }
        match used.iter().find(|other| other.index == share.index) {
            Some(other) if other.value != share.value => return Err(Error::SharesMixed),
            Some(_) => {}
            None => used.push(share),
        }
    }
    let need = usize::from(first.threshold);
    if used.len() < need {
        return Err(Error::TooFewShares { have: used.len(), need });
    }
    used.truncate(need);
    let root = VolumeRoot::new(at_zero(&used));
    if tag_of(&root) == first.tag { Ok(root) } else { Err(Error::SharesMixed) }
}

/// Lagrange's interpolation at 0. The indices differ, so no divisor is 0.
fn at_zero(shares: &[&Share]) -> [u8; 32] {
    let mut sum = [0; 32];
    for one in shares {
        let others = || shares.iter().filter(|other| other.index != one.index);
        let above = others().fold(1, |product, other| mul(product, other.index));
        let below = others().fold(1, |product, other| mul(product, other.index ^ one.index));
        let weight = mul(above, inverse(below));
        sum.iter_mut().zip(one.value).for_each(|(sum, value)| *sum ^= mul(value, weight));
    }
    sum
}

fn tag_of(root: &VolumeRoot) -> [u8; 4] {
    let check = root.check();
    [check[0], check[1], check[2], check[3]]
}

fn checksum(bytes: &[u8; BYTES]) -> u32 {
    let hash = blake3::derive_key("abide 2026 share v1", bytes);
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) >> (32 - CHECK_BITS)
}

/// The bits of a share, most significant first, cut into words.
struct Bits<'a> {
    bytes: &'a [u8],
    check: u32,
}

impl Bits<'_> {
    fn bit(&self, place: usize) -> u16 {
        match place.checked_sub(BYTES * 8) {
            None => u16::from(self.bytes[place / 8] >> (7 - place % 8) & 1),
            Some(at) => (self.check >> (CHECK_BITS as usize - 1 - at) & 1) as u16,
        }
    }

    fn word(&self, at: usize) -> u16 {
        (at * 11..at * 11 + 11).fold(0, |word, place| word << 1 | self.bit(place))
    }
}

/// Product in GF(2^8)/0x11b.
fn mul(mut a: u8, b: u8) -> u8 {
    let mut product = 0;
    for bit in 0..8 {
        product ^= a & 0u8.wrapping_sub(b >> bit & 1);
        a = a << 1 ^ 0x1b & 0u8.wrapping_sub(a >> 7);
    }
    product
}

/// a^254, which is 1 / a.
fn inverse(a: u8) -> u8 {
    (1..8).fold((1, a), |(product, power), _| (mul(product, mul(power, power)), mul(power, power))).0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> VolumeRoot {
        VolumeRoot::new(std::array::from_fn(|i| i as u8))
    }

    #[test]
    fn the_field_is_that_of_aes() {
        // FIPS 197, 4.2; and an oracle by logarithms to the base 3.
        assert_eq!((mul(0x57, 0x83), mul(0x57, 0x13)), (0xc1, 0xfe));
        let (mut exp, mut log, mut x) = ([0u8; 255], [0usize; 256], 1u8);
        for (at, slot) in exp.iter_mut().enumerate() {
            (*slot, log[usize::from(x)]) = (x, at);
            x = x ^ (x << 1) ^ if x & 0x80 != 0 { 0x1b } else { 0 };
        }
        for a in 1..=255u8 {
            assert_eq!(mul(a, inverse(a)), 1);
            for b in 1..=255u8 {
                assert_eq!(mul(a, b), exp[(log[usize::from(a)] + log[usize::from(b)]) % 255]);
            }
        }
        assert_eq!((mul(0, 7), mul(7, 0)), (0, 0));
    }

    #[test]
    fn any_threshold_of_shares_gives_the_root_back_and_fewer_dont() {
        for (threshold, count) in [(2, 3), (3, 5), (5, 5), (2, SHARES_MAX)] {
            let shares = split(&root(), threshold, count, [9; 32]).unwrap();
            for from in 0..count {
                let some: Vec<Share> = (0..threshold).map(|at| shares[(from + 3 * at) % count].clone()).collect();
                let distinct = some.iter().map(Share::index).collect::<std::collections::BTreeSet<_>>().len();
                match join(&some) {
                    Ok(found) => assert_eq!((found == root(), distinct), (true, threshold)),
                    Err(error) => assert_eq!(error, Error::TooFewShares { have: distinct, need: threshold }),
                }
            }
            assert_eq!(join(&shares).unwrap(), root());
            let few = &shares[..threshold - 1];
            assert_eq!(join(few).unwrap_err(), Error::TooFewShares { have: threshold - 1, need: threshold });
        }
        assert_eq!(join(&[]).unwrap_err(), Error::TooFewShares { have: 0, need: 2 });
        for (threshold, count) in [(1, 3), (4, 3), (2, SHARES_MAX + 1)] {
            assert_eq!(split(&root(), threshold, count, [0; 32]), Err(Error::ShareSplit { threshold, count }));
        }
    }

    #[test]
    fn one_share_of_two_fits_every_root() {
        // Whatever the root, some second share completes a given first one: so it says nothing.
        let first = split(&root(), 2, 3, [9; 32]).unwrap().remove(0);
        for other in [[0u8; 32], [0xff; 32], std::array::from_fn(|i| 7 * i as u8)] {
            let slope: [u8; 32] = std::array::from_fn(|i| other[i] ^ first.value[i]);
            let second =
                Share { index: 2, value: std::array::from_fn(|i| other[i] ^ mul(2, slope[i])), ..first.clone() };
            assert_eq!(at_zero(&[&first, &second]), other);
        }
    }

    #[test]
    fn a_share_of_another_volume_or_splitting_is_named() {
        let mine = split(&root(), 2, 3, [9; 32]).unwrap();
        let other = split(&VolumeRoot::new([1; 32]), 2, 3, [9; 32]).unwrap();
        let again = split(&root(), 2, 3, [8; 32]).unwrap();
        let wider = split(&root(), 3, 5, [9; 32]).unwrap();
        assert_eq!(join(&[mine[0].clone(), other[1].clone()]), Err(Error::ShareOther { share: 2 }));
        assert_eq!(join(&[mine[0].clone(), wider[1].clone()]), Err(Error::ShareOther { share: 2 }));
        assert_eq!(join(&[mine[0].clone(), again[1].clone()]), Err(Error::SharesMixed));
        assert_eq!(join(&[mine[0].clone(), again[0].clone()]), Err(Error::SharesMixed));
    }

    #[test]
    fn a_mistyped_share_is_named_and_the_word_if_it_is_none() {
        let share = split(&root(), 2, 3, [9; 32]).unwrap().remove(1);
        let text = share.words();
        assert_eq!(Share::from_words(&text.to_uppercase(), 1).unwrap(), share);
        let words: Vec<&str> = text.split(' ').collect();
        for at in 0..words.len() {
            let mut wrong = words.clone();
            wrong[at] = "abidee";
            let unknown = Error::ShareWord { share: 2, position: at + 1, word: "abidee".into() };
            assert_eq!(Share::from_words(&wrong.join(" "), 2).unwrap_err(), unknown);
            wrong[at] = if words[at] == "zoo" { "abandon" } else { "zoo" };
            assert_eq!(Share::from_words(&wrong.join(" "), 2).unwrap_err(), Error::ShareChecksum { share: 2 });
        }
        let short = words[1..].join(" ");
        assert_eq!(Share::from_words(&short, 3).unwrap_err(), Error::ShareWordCount { share: 3, count: 29 });
        assert_eq!(format!("{share:?}"), "Share(2 of any 2, …)");
    }

    #[test]
    fn shares_never_change() {
        let text: Vec<String> = split(&root(), 2, 3, [9; 32]).unwrap().iter().map(Share::words).collect();
        assert_eq!(text.join("\n"), include_str!("../tests/shares.txt").trim());
    }
}
