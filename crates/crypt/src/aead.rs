//! AES-256-GCM with nonces that the caller counts. Tag of 16 bytes, nonce of 12.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::Error;

pub(crate) const TAG: usize = 16;

/// A key that was set up once. "Less safe" is the library's word for choosing nonces oneself:
/// each user of this type says why its nonces don't repeat.
pub(crate) struct Aead(LessSafeKey);

impl Aead {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        match UnboundKey::new(&AES_256_GCM, key) {
            Ok(key) => Self(LessSafeKey::new(key)),
            Err(_) => unreachable!("32 bytes are an AES-256 key"),
        }
    }

    pub(crate) fn seal(&self, nonce: [u8; 12], aad: &[u8], bytes: &mut [u8]) -> [u8; TAG] {
        match self.0.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), bytes) {
            Ok(tag) => {
                let mut out = [0; TAG];
                out.copy_from_slice(tag.as_ref());
                out
            }
            Err(_) => unreachable!("no input of ours reaches GCM's limit of 64 GiB"),
        }
    }

    /// Opens `bytes`, which end in the tag, in place; gives the plaintext at their front.
    pub(crate) fn open<'a>(
        &self,
        nonce: [u8; 12],
        aad: &[u8],
        bytes: &'a mut [u8],
        what: &'static str,
    ) -> Result<&'a mut [u8], Error> {
        self.0
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), bytes)
            .map_err(|_| Error::Sealed { what })
    }
}

/// A counter as nonce: little-endian, then zeros.
pub(crate) fn counter(value: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&value.to_le_bytes());
    nonce
}
