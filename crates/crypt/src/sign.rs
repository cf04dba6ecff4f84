//! Signatures: who a node is, and who says that it belongs to the cluster and what its map is.
//!
//! Whatever the cluster's key signs is signed *as* something ([`SigningKey::sign_as`]): a signature of
//! one kind of thing can't be shown as one of another kind.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, ParsedPublicKey};

/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

/// The public half of an Ed25519 key (RFC 8032), shown as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Whether `signature` is this key's, of exactly `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        // Bytes that are no point of the curve are refused here: they are somebody's input.
        ParsedPublicKey::new(&ED25519, self.0).is_ok_and(|key| key.verify_sig(message, signature).is_ok())
    }

    /// Whether `signature` is this key's, of exactly `bytes` signed as `context`.
    pub fn verify_as(&self, context: &str, bytes: &[u8], signature: &[u8]) -> bool {
        self.verify(&in_context(context, bytes), signature)
    }

    /// The key written as 64 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        base::ids::unhex(text, &mut bytes).then_some(Self(bytes))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base::ids::hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// An Ed25519 key that signs.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl SigningKey {
    /// The key of 32 random bytes (RFC 8032's private key).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let Ok(pair) = Ed25519KeyPair::from_seed_unchecked(seed) else { unreachable!("any 32 bytes are a seed") };
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        Self { pair, public: PublicKey(public) }
    }

    /// The half that everybody may know.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// This key's signature of `bytes` as `context`, which says what they are and holds no zero byte.
    pub fn sign_as(&self, context: &str, bytes: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.sign(&in_context(context, bytes))
    }

    /// This key's signature of `message` as it is: for protocols that have contexts of their own (TLS).
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let mut signature = [0; SIGNATURE_BYTES];
        signature.copy_from_slice(self.pair.sign(message).as_ref());
        signature
    }
}

/// What is really signed: context ‖ 0 ‖ bytes.
fn in_context(context: &str, bytes: &[u8]) -> Vec<u8> {
    [context.as_bytes(), &[0], bytes].concat()
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(of {})", self.public)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032, 7.1, test 2.
    #[test]
    fn signatures_are_those_of_the_rfc() {
        let mut seed = [0; 32];
        assert!(base::ids::unhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb", &mut seed));
        let key = SigningKey::from_seed(&seed);
        assert_eq!(key.public().to_string(), "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
        let signature = key.sign(&[0x72]);
        assert!(base::ids::hex(&signature).starts_with("92a009a9f0d4cab8720e820b5f642540"));
        assert!(key.public().verify(&[0x72], &signature));
        assert!(!key.public().verify(&[0x73], &signature));
        assert!(!key.public().verify(&[0x72], &signature[1..]));
        assert!(!PublicKey([0xff; 32]).verify(&[0x72], &signature), "no point of the curve");
        assert_eq!(PublicKey::parse(&key.public().to_string()), Some(key.public()));
    }

    #[test]
    fn a_signature_holds_for_its_bytes_its_context_and_its_key_only() {
        let key = SigningKey::from_seed(&[7; 32]);
        let other = SigningKey::from_seed(&[8; 32]).public();
        let signature = key.sign_as("map", b"bytes");
        assert_eq!(signature, key.sign(b"map\0bytes"), "what is signed, to the byte");
        assert!(key.public().verify_as("map", b"bytes", &signature));
        let mut changed = signature;
        changed[10] ^= 1;
        for (public, context, bytes, signature) in [
            (key.public(), "map", &b"byteS"[..], signature),
            (key.public(), "mab", b"bytes", signature),
            (key.public(), "ma", b"pbytes", signature),
            (other, "map", b"bytes", signature),
            (PublicKey([0xff; 32]), "map", b"bytes", signature),
            (key.public(), "map", b"bytes", changed),
        ] {
            assert!(!public.verify_as(context, bytes, &signature));
        }
    }
}
