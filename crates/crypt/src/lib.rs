//! Keys and what they seal. Knows neither drives nor where its bytes go.
//!
//! One root key (24 words) gives, by [`blake3::derive_key`] with fixed contexts, what nodes serve
//! with ([`StoreKeys`]): the key of the metadata ([`MetaKey`]) and the one that volumes' keys come from
//! ([`VolumeKey`]); a volume's key wraps the random key of each segment ([`SegmentKey`]). Everything is AES-256-GCM but the ordered map's
//! file, which is AES-256-XTS ([`SectorCipher`]): it is rewritten in place. What members of a cluster
//! must believe is signed by Ed25519 ([`SigningKey`]).
//! docs/formats/keys.md has every byte.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod aead;
mod meta;
mod root;
mod sector;
mod segment;
mod sign;
mod store;

pub use meta::{LogSealer, MetaKey};
pub use root::RootKey;
pub use sector::SectorCipher;
pub use segment::{SegmentKey, VolumeKey, WRAPPED_BYTES};
pub use sign::{PublicKey, SIGNATURE_BYTES, SigningKey};
pub use store::StoreKeys;

use base::{Kind, Kinded};

/// Why something could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes were changed, or sealed with another key.
    #[error("{what} doesn't open: the bytes were changed, or they belong to another key")]
    Sealed {
        /// What was opened.
        what: &'static str,
    },
    /// A word that is in no list.
    #[error("word {position} of 24, {word:?}, is not a BIP-39 word: check its spelling")]
    UnknownWord {
        /// Counted from 1.
        position: usize,
        /// As given.
        word: String,
    },
    /// Not 24 words.
    #[error("24 words are wanted, {count} were given")]
    WordCount {
        /// How many were given.
        count: usize,
    },
    /// All are words, but not these together.
    #[error("these 24 words don't belong together (their checksum is wrong): one is mistaken or out of order")]
    WordChecksum,
    /// Not a key file, or a damaged one.
    #[error("the key file can't be read: {why}")]
    KeyFile {
        /// What is wrong with it.
        why: &'static str,
    },
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Sealed { .. } => Kind::Damaged,
            Error::UnknownWord { .. } | Error::WordCount { .. } | Error::WordChecksum | Error::KeyFile { .. } => {
                Kind::Invalid
            }
        }
    }
}

/// 32 bytes of key for one context from key material (BLAKE3 paper, section 2.4).
pub(crate) fn derive(context: &str, parts: &[&[u8]]) -> zeroize::Zeroizing<[u8; 32]> {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(part);
    }
    zeroize::Zeroizing::new(*hasher.finalize().as_bytes())
}

/// BLAKE3 of bytes: the root of a piece, of a segment.
pub fn hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}
