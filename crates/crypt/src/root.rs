//! The root key: 24 words, or a file that only its owner reads.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::words::{from_words, to_words};
use crate::{Error, MetaKey, SigningKey, StoreKeys, derive};

/// The first line of a key file.
const FILE_HEAD: &str = "abide root key v1";

/// The key of everything. Lost with all its copies, the data is lost; whoever has it reads all.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct RootKey([u8; 32]);

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKey(…)")
    }
}

impl RootKey {
    /// From 32 random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// The key as 24 English words (BIP-39).
    pub fn words(&self) -> String {
        to_words(&self.0)
    }

    /// The reverse of [`RootKey::words`]; case and spacing don't matter.
    pub fn from_words(text: &str) -> Result<Self, Error> {
        Ok(Self(*from_words(text)?))
    }

    /// The text of a key file: a first line that names it, the 24 words, the check value.
    pub fn file_text(&self) -> String {
        format!("{FILE_HEAD}\n{}\ncheck {}\n", self.words(), base::ids::hex(&self.check()))
    }

    /// The reverse of [`RootKey::file_text`].
    pub fn from_file_text(text: &str) -> Result<Self, Error> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        if lines.next() != Some(FILE_HEAD) {
            return Err(Error::KeyFile { why: "its first line is not \"abide root key v1\"" });
        }
        let key = Self::from_words(lines.next().ok_or(Error::KeyFile { why: "it has no words" })?)?;
        match lines.next().and_then(|line| line.strip_prefix("check ")) {
            Some(check) if check == base::ids::hex(&key.check()) => Ok(key),
            Some(_) => Err(Error::KeyFile { why: "its check line doesn't fit its words" }),
            None => Err(Error::KeyFile { why: "it has no check line" }),
        }
    }

    /// A public value that says whether this key belongs to a store, and nothing else about it.
    pub fn check(&self) -> [u8; 16] {
        let mut check = [0; 16];
        check.copy_from_slice(&derive("abide 2026 key check v1", &[&self.0])[..16]);
        check
    }

    /// The key of the metadata at rest.
    pub fn meta_key(&self) -> MetaKey {
        self.store_keys().meta_key()
    }

    /// The key that signs what all members of the cluster believe: members and maps.
    pub fn signing_key(&self) -> SigningKey {
        SigningKey::from_seed(&derive("abide 2026 root signing v1", &[&self.0]))
    }

    /// The secret of a join ticket that says `claim`. Derived, so that whoever has the root key can
    /// check any ticket without having kept it.
    pub fn ticket_secret(&self, claim: &[u8]) -> [u8; 16] {
        let mut secret = [0; 16];
        secret.copy_from_slice(&derive("abide 2026 ticket v1", &[&self.0, claim])[..16]);
        secret
    }

    /// What a node needs to serve the store: all that is at rest, and no say in who belongs.
    pub fn store_keys(&self) -> StoreKeys {
        StoreKeys::derive(&self.0, self.check())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_bip39_and_come_back() {
        // BIP-39's test vector for 32 zero bytes.
        let key = RootKey::new([0; 32]);
        assert!(key.words().ends_with("abandon art"));
        let key = RootKey::new(std::array::from_fn(|i| i as u8 * 7));
        let back = RootKey::from_words(&format!("  {}\n", key.words().to_uppercase())).unwrap();
        assert_eq!(back.0, key.0);
        assert_eq!(RootKey::from_file_text(&key.file_text()).unwrap().0, key.0);
        assert_eq!(format!("{key:?}"), "RootKey(…)");
    }

    #[test]
    fn a_mistyped_word_is_named() {
        let words = RootKey::new([0; 32]).words();
        let wrong = words.replacen("abandon", "abandom", 1);
        let unknown = Error::UnknownWord { position: 1, word: "abandom".into() };
        assert_eq!(RootKey::from_words(&wrong).unwrap_err(), unknown);
        let wrong = words.replacen("abandon", "ability", 1);
        assert_eq!(RootKey::from_words(&wrong).unwrap_err(), Error::WordChecksum);
        assert_eq!(RootKey::from_words("abandon").unwrap_err(), Error::WordCount { count: 1 });
        let file = RootKey::new([1; 32]).file_text().replace("check ", "check 0");
        assert!(matches!(RootKey::from_file_text(&file), Err(Error::KeyFile { .. })));
    }

    #[test]
    fn derivations_never_change() {
        let key = RootKey::new(std::array::from_fn(|i| i as u8));
        assert_eq!(base::ids::hex(&key.check()), include_str!("../tests/check.txt").trim());
        let signing = key.signing_key().public().to_string();
        assert_eq!(signing, include_str!("../tests/signing.txt").trim());
        assert_eq!(base::ids::hex(&key.ticket_secret(b"claim")), include_str!("../tests/ticket.txt").trim());
    }
}
