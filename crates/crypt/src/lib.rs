//! Keys and what they seal. Knows neither drives nor where its bytes go.
//!
//! One root key (24 words) gives, by [`blake3::derive_key`] with fixed contexts, what nodes serve
//! with ([`StoreKeys`]): the key of the metadata ([`MetaKey`]) and the one that volumes' keys come from
//! ([`VolumeKey`]); a volume's key wraps the random key of each segment ([`SegmentKey`]). Everything is AES-256-GCM but the ordered map's
//! file, which is AES-256-XTS ([`SectorCipher`]): it is rewritten in place. What members of a cluster
//! must believe is signed by Ed25519 ([`SigningKey`]).
//!
//! A volume has a root of its own ([`VolumeRoot`]): of an end-to-end volume 24 words that only its owner has, and
//! that can be split into shares ([`Share`]); folders' keys come from it ([`FolderKey`]) and seal names and contents below. [`lock`] and [`unlock`]
//! keep such a root under a passphrase.
//! docs/formats/keys.md has every byte.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod aead;
mod folder;
mod meta;
mod passphrase;
mod root;
mod sector;
mod segment;
mod share;
mod sign;
mod store;
mod volume;
mod words;

pub use folder::{FolderKey, NAME_BYTES_MAX, path_parts};
pub use meta::{LogSealer, MetaKey};
pub use passphrase::{LOCKED_BYTES, Locks, lock, unlock};
pub use root::RootKey;
pub use sector::SectorCipher;
pub use segment::{SegmentKey, VolumeKey, WRAPPED_BYTES};
pub use share::{SHARES_MAX, Share, join, split};
pub use sign::{PublicKey, SIGNATURE_BYTES, SigningKey};
pub use store::StoreKeys;
pub use volume::VolumeRoot;

use base::{Kind, Kinded};
use zeroize::Zeroize;

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
    /// The words are right, and open another volume.
    #[error(
        "these words belong together, but they are of another volume: this one's check value is {wanted}, theirs {found}"
    )]
    OtherVolume {
        /// The volume's check value, in hex.
        wanted: String,
        /// That of the words.
        found: String,
    },
    /// No such split.
    #[error(
        "{threshold} of {count} shares can't be made: at least 2, at most {SHARES_MAX}, and no fewer than are needed"
    )]
    ShareSplit {
        /// Shares that suffice.
        threshold: usize,
        /// Shares.
        count: usize,
    },
    /// A share that doesn't have as many words as shares have.
    #[error("share {share} has {count} words, 30 are wanted")]
    ShareWordCount {
        /// Which of those given, from 1.
        share: usize,
        /// Its words.
        count: usize,
    },
    /// A word of a share that is in no list.
    #[error("word {position} of share {share}, {word:?}, is not a BIP-39 word: check its spelling")]
    ShareWord {
        /// Which of those given, from 1.
        share: usize,
        /// Counted from 1.
        position: usize,
        /// As given.
        word: String,
    },
    /// All are words, but not these together.
    #[error("share {share} is mistyped (its checksum is wrong): one word is mistaken or out of order")]
    ShareChecksum {
        /// Which of those given, from 1.
        share: usize,
    },
    /// A share of something else.
    #[error("share {share} is of another volume, or of another splitting, than share 1")]
    ShareOther {
        /// Which of those given, from 1.
        share: usize,
    },
    /// Not enough.
    #[error("{have} different shares were given, {need} are needed")]
    TooFewShares {
        /// Different ones that were given.
        have: usize,
        /// How many it takes.
        need: usize,
    },
    /// All shares are whole, and together they give no key of the volume that they name.
    #[error("these shares don't belong together: they come from different splittings of the volume's key")]
    SharesMixed,
    /// A name that can't be stored.
    #[error("{what} takes {len} bytes when it is sealed, the limit is {max}: use shorter names or fewer folders")]
    NameTooLong {
        /// A name or a path.
        what: &'static str,
        /// Its bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The passphrase doesn't open.
    #[error("the passphrase is wrong, or the locked key was changed")]
    Passphrase,
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
            Error::OtherVolume { .. } | Error::Passphrase => Kind::Denied,
            Error::UnknownWord { .. }
            | Error::WordCount { .. }
            | Error::WordChecksum
            | Error::ShareSplit { .. }
            | Error::ShareWordCount { .. }
            | Error::ShareWord { .. }
            | Error::ShareChecksum { .. }
            | Error::ShareOther { .. }
            | Error::TooFewShares { .. }
            | Error::SharesMixed
            | Error::NameTooLong { .. }
            | Error::KeyFile { .. } => Kind::Invalid,
        }
    }
}

/// 32 bytes of key for one context from key material (BLAKE3 paper, section 2.4).
pub(crate) fn derive(context: &str, parts: &[&[u8]]) -> zeroize::Zeroizing<[u8; 32]> {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(part);
    }
    let key = zeroize::Zeroizing::new(*hasher.finalize().as_bytes());
    // It buffers what it was given: key material.
    hasher.zeroize();
    key
}

/// BLAKE3 of bytes: the root of a piece, of a segment.
pub fn hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}
