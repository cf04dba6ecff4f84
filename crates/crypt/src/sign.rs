//! Ed25519 signatures (RFC 8032), each bound to what it is for.
//!
//! What is signed is never the bytes alone but context ‖ 0 ‖ bytes: a signature of one kind of thing can't
//! be shown as one of another kind.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::Error;

/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

/// A private key that signs.
pub struct SigningKey(Ed25519KeyPair);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(… of {})", base::ids::hex(&self.public()))
    }
}

impl SigningKey {
    /// The key of 32 secret bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        match Ed25519KeyPair::from_seed_unchecked(seed) {
            Ok(pair) => Self(pair),
            Err(_) => unreachable!("any 32 bytes are an Ed25519 seed"),
        }
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        let mut public = [0; 32];
        public.copy_from_slice(self.0.public_key().as_ref());
        public
    }

    /// Signs `bytes` as `context`, which holds no zero byte.
    pub fn sign(&self, context: &str, bytes: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let mut signature = [0; SIGNATURE_BYTES];
        signature.copy_from_slice(self.0.sign(&message(context, bytes)).as_ref());
        signature
    }
}

/// Whether `signature` is one of `public` over `bytes` as `context`; `what` is for the error.
pub fn verify(
    public: &[u8; 32],
    context: &str,
    bytes: &[u8],
    signature: &[u8; SIGNATURE_BYTES],
    what: &'static str,
) -> Result<(), Error> {
    let key = UnparsedPublicKey::new(&ED25519, public);
    key.verify(&message(context, bytes), signature).map_err(|_| Error::Signature { what })
}

fn message(context: &str, bytes: &[u8]) -> Vec<u8> {
    [context.as_bytes(), &[0], bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signing_is_rfc_8032() {
        // RFC 8032, 7.1, test 1: the public key of this seed.
        let mut seed = [0; 32];
        assert!(base::ids::unhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60", &mut seed));
        let wanted = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        assert_eq!(base::ids::hex(&SigningKey::from_seed(&seed).public()), wanted);
    }

    #[test]
    fn a_signature_holds_for_its_bytes_its_context_and_its_key_only() {
        let key = SigningKey::from_seed(&[7; 32]);
        let signature = key.sign("map", b"bytes");
        assert_eq!(signature, key.sign("map", b"bytes"), "deterministic");
        verify(&key.public(), "map", b"bytes", &signature, "map").unwrap();
        let other = SigningKey::from_seed(&[8; 32]).public();
        let mut changed = signature;
        changed[10] ^= 1;
        for (public, context, bytes, signature) in [
            (key.public(), "map", &b"byteS"[..], signature),
            (key.public(), "mab", b"bytes", signature),
            (other, "map", b"bytes", signature),
            ([0xff; 32], "map", b"bytes", signature),
            (key.public(), "map", b"bytes", changed),
        ] {
            let error = verify(&public, context, bytes, &signature, "map").unwrap_err();
            assert_eq!(error, Error::Signature { what: "map" });
        }
    }
}
