//! Digests of bytes that this face moves itself (copies, forms), and of a completed upload from
//! those of its parts.

use aws_lc_rs::digest;
use crc_fast::CrcAlgorithm;

use crate::attrs::Stored;
use crate::error::{Code, Error, Result};
use crate::md5::Md5;

/// A checksum's way to be computed.
enum Hasher {
    Crc(Box<crc_fast::Digest>, usize),
    Sha(digest::Context),
}

fn crc(algorithm: &str) -> Option<(CrcAlgorithm, usize)> {
    Some(match algorithm {
        "CRC32" => (CrcAlgorithm::Crc32IsoHdlc, 4),
        "CRC32C" => (CrcAlgorithm::Crc32Iscsi, 4),
        "CRC64NVME" => (CrcAlgorithm::Crc64Nvme, 8),
        _ => return None,
    })
}

fn sha(algorithm: &str) -> Option<&'static digest::Algorithm> {
    Some(match algorithm {
        "SHA1" => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        "SHA256" => &digest::SHA256,
        _ => return None,
    })
}

impl Hasher {
    fn new(algorithm: &str) -> Option<Hasher> {
        match (crc(algorithm), sha(algorithm)) {
            (Some((crc, bytes)), _) => Some(Hasher::Crc(Box::new(crc_fast::Digest::new(crc)), bytes)),
            (None, Some(sha)) => Some(Hasher::Sha(digest::Context::new(sha))),
            (None, None) => None,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Crc(crc, _) => crc.update(bytes),
            Hasher::Sha(sha) => sha.update(bytes),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Hasher::Crc(crc, bytes) => crc.finalize().to_be_bytes()[8 - bytes..].to_vec(),
            Hasher::Sha(sha) => sha.finish().as_ref().to_vec(),
        }
    }
}

/// Whether this is the name of a checksum that we compute.
pub fn is_algorithm(name: &str) -> bool {
    crc(name).is_some() || sha(name).is_some()
}

/// The MD5 of bytes, and a checksum if one is wanted.
pub struct Check {
    /// The MD5, which may be computed elsewhere and put back.
    pub md5: Md5,
    checksum: Option<(String, Hasher)>,
}

impl Check {
    /// Begins; `algorithm` is one of S3's names.
    pub fn new(algorithm: Option<&str>) -> Result<Check> {
        let checksum = match algorithm {
            None => None,
            Some(name) => {
                let hasher = Hasher::new(name)
                    .ok_or_else(|| Error::new(Code::InvalidRequest, "Checksum algorithm provided is unsupported."))?;
                Some((name.to_owned(), hasher))
            }
        };
        Ok(Check { md5: Md5::default(), checksum })
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.update_checksum(bytes);
    }

    /// Whether there is a checksum beside the MD5.
    pub fn has_checksum(&self) -> bool {
        self.checksum.is_some()
    }

    /// Takes the next bytes for the checksum alone.
    pub fn update_checksum(&mut self, bytes: &[u8]) {
        if let Some((_, hasher)) = &mut self.checksum {
            hasher.update(bytes);
        }
    }

    /// The entity tag and the checksum.
    pub fn finish(self) -> (String, Option<Stored>) {
        let checksum = self.checksum.map(|(algorithm, hasher)| Stored {
            algorithm,
            composite: false,
            value: base64(&hasher.finish()),
        });
        (base::ids::hex(&self.md5.finish()), checksum)
    }
}

/// The entity tag of an object made from parts: MD5 of their MD5s, and how many.
pub fn etag_of_parts<'a>(etags: impl Iterator<Item = &'a str>) -> String {
    let mut md5 = Md5::default();
    let mut count = 0;
    for etag in etags {
        let mut bytes = [0; 16];
        base::ids::unhex(etag, &mut bytes);
        md5.update(&bytes);
        count += 1;
    }
    format!("{}-{count}", base::ids::hex(&md5.finish()))
}

/// The checksum of an object from those of its parts, in base64, and their sizes: composed, or
/// combined as if the bytes had been read.
pub fn of_parts(algorithm: &str, composite: bool, parts: &[(String, u64)]) -> Result<Stored> {
    let bad = || Error::new(Code::InvalidRequest, "The parts' checksums can't be combined.");
    let mut values = Vec::with_capacity(parts.len());
    for (value, size) in parts {
        values.push((unbase64(value).ok_or_else(bad)?, *size));
    }
    let value = if composite {
        let mut hasher = Hasher::new(algorithm).ok_or_else(bad)?;
        values.iter().for_each(|(value, _)| hasher.update(value));
        format!("{}-{}", base64(&hasher.finish()), parts.len())
    } else {
        let (crc, bytes) = crc(algorithm).ok_or_else(bad)?;
        let number = |value: &[u8]| value.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        let mut values = values.iter().map(|(value, size)| (number(value), *size));
        let first = values.next().ok_or_else(bad)?.0;
        let all = values.fold(first, |sum, (next, size)| crc_fast::checksum_combine(crc, sum, next, size));
        base64(&all.to_be_bytes()[8 - bytes..])
    };
    Ok(Stored { algorithm: algorithm.to_owned(), composite, value })
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 with padding (RFC 4648, section 4).
pub fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let number = chunk.iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * at)) as usize & 63] as char;
            text.push(if at <= chunk.len() { digit } else { '=' });
        }
    }
    text
}

/// The reverse of [`base64`]; `None` for anything else.
pub fn unbase64(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let padding = text.iter().rev().take_while(|digit| **digit == b'=').count();
    if padding > 2 {
        return None;
    }
    for (at, chunk) in text.chunks(4).enumerate() {
        let pad = if (at + 1) * 4 == text.len() { padding } else { 0 };
        let mut number = 0_u32;
        for digit in &chunk[..4 - pad] {
            number = number << 6 | DIGITS.iter().position(|known| known == digit)? as u32;
        }
        number <<= 6 * pad;
        bytes.extend_from_slice(&number.to_be_bytes()[1..4 - pad]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_the_rfcs() {
        for (plain, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), text);
            assert_eq!(unbase64(text).as_deref(), Some(plain.as_bytes()));
        }
        for bad in ["Z", "Zg=", "Zg==Zg==", "====", "Z!==", "Zm8=\n"] {
            assert_eq!(unbase64(bad), None, "{bad}");
        }
    }

    #[test]
    fn parts_give_the_checksum_of_the_whole() {
        let (a, b) = (b"hello ".as_slice(), b"world".as_slice());
        let one = |algorithm: &str, bytes: &[u8]| {
            let mut check = Check::new(Some(algorithm)).unwrap();
            check.update(bytes);
            check.finish().1.unwrap().value
        };
        for algorithm in ["CRC32", "CRC32C", "CRC64NVME"] {
            let parts = [(one(algorithm, a), 6), (one(algorithm, b), 5)];
            let whole = of_parts(algorithm, false, &parts).unwrap();
            assert_eq!(whole.value, one(algorithm, b"hello world"), "{algorithm}");
        }
        // The suite's known value for 1,024 times `A`.
        let part = one("SHA256", &[b'A'; 1024]);
        assert_eq!(part, "arcu6553sHVAiX4MjW0j7I7vD4w6R+Gz9Ok0Q9lTa+0=");
        let composed = of_parts("SHA256", true, &[(part, 1024)]).unwrap();
        assert_eq!(composed.value, "Ok6Cs5b96ux6+MWQkJO7UBT5sKPBeXBLwvj/hK89smg=-1");
        assert!(of_parts("SHA256", false, &[("aGk=".into(), 1)]).is_err());
        assert!(of_parts("CRC32", false, &[]).is_err());
    }

    #[test]
    fn an_etag_of_parts_is_the_md5_of_their_md5s() {
        // md5(md5("a") || md5("b")), computed with another tool.
        let etags = ["0cc175b9c0f1b6a831c399e269772661", "92eb5ffee6ae2fec3ad71c777531578f"];
        assert_eq!(etag_of_parts(etags.into_iter()), "96e024ba2074fe77e8e965ba43a704be-2");
    }
}
