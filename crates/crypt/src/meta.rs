//! The metadata at rest: log records sealed one by one.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::aead::{Aead, counter};
use crate::{Error, SectorCipher, derive};

/// The key of all metadata of a store.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MetaKey([u8; 32]);

impl fmt::Debug for MetaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetaKey(…)")
    }
}

impl MetaKey {
    /// From its bytes; see [`crate::StoreKeys::meta_key`].
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// What seals the records of one log file. `salt` is random and made for that file alone.
    pub fn log_key(&self, salt: [u8; 16]) -> LogSealer {
        LogSealer(Aead::new(&derive("abide 2026 log v1", &[&self.0, &salt])))
    }

    /// What seals an ordered map's file. `salt` is random and made for that file alone.
    pub fn sector_key(&self, salt: [u8; 16]) -> SectorCipher {
        SectorCipher::new(
            &derive("abide 2026 sectors data v1", &[&self.0, &salt]),
            &derive("abide 2026 sectors tweak v1", &[&self.0, &salt]),
        )
    }
}

/// Seals the records of one log file.
///
/// The nonce is the record's offset in its file. A file's key is its own (random salt), and a place
/// in a file is written once with one content: a record that is written again after a crash, at a
/// place where a torn one was, must be preceded by a new file with a new salt.
pub struct LogSealer(Aead);

impl LogSealer {
    /// Seals a record in place; the tag is stored beside it. `aad` is the record's plain header.
    pub fn seal(&self, offset: u64, aad: &[u8], record: &mut [u8]) -> [u8; 16] {
        self.0.seal(counter(offset), aad, record)
    }

    /// Opens a record (bytes and tag) in place; gives the plaintext, at the front.
    pub fn open<'a>(&self, offset: u64, aad: &[u8], sealed: &'a mut [u8]) -> Result<&'a mut [u8], Error> {
        self.0.open(counter(offset), aad, sealed, "a log record")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_opens_only_at_its_place_with_its_header() {
        let sealer = MetaKey::new([1; 32]).log_key([2; 16]);
        let mut record = b"record".to_vec();
        let tag = sealer.seal(4096, b"head", &mut record);
        record.extend_from_slice(&tag);
        assert_eq!(sealer.open(4096, b"head", &mut record.clone()).unwrap(), b"record");
        assert!(sealer.open(4097, b"head", &mut record.clone()).is_err());
        assert!(sealer.open(4096, b"heaD", &mut record.clone()).is_err());
        assert!(MetaKey::new([1; 32]).log_key([3; 16]).open(4096, b"head", &mut record).is_err());
    }
}
