//! 32 bytes of key under a passphrase: Argon2id (RFC 9106), then AES-256-GCM.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::{Zeroize, Zeroizing};

use crate::Error;
use crate::aead::{Aead, TAG, counter};

/// Bytes of a locked key.
pub const LOCKED_BYTES: usize = HEAD + 32 + TAG;
const HEAD: usize = 29;
const MARK: [u8; 5] = *b"AbPw\x01";
/// What a locked key may ask of the machine that opens it: more is somebody's trick.
const MEMORY_KIB_MAX: u32 = 1 << 20;
const PASSES_MAX: u32 = 64;

/// How hard a guess is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locks {
    /// Memory of one guess in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
}

impl Default for Locks {
    /// 64 MiB, three passes: RFC 9106's second recommendation, on one lane.
    fn default() -> Self {
        Self { memory_kib: 64 * 1024, passes: 3 }
    }
}

/// Locks a key. `salt` is random. Takes about a fifth of a second by default: not for the reactor.
pub fn lock(key: &[u8; 32], passphrase: &str, locks: Locks, salt: [u8; 16]) -> Result<[u8; LOCKED_BYTES], Error> {
    let mut out = [0; LOCKED_BYTES];
    out[..5].copy_from_slice(&MARK);
    out[5..9].copy_from_slice(&locks.memory_kib.to_le_bytes());
    out[9..13].copy_from_slice(&locks.passes.to_le_bytes());
    out[13..HEAD].copy_from_slice(&salt);
    let (head, rest) = out.split_at_mut(HEAD);
    rest[..32].copy_from_slice(key);
    let tag = stretch(passphrase, locks, &salt)?.seal(counter(0), head, &mut rest[..32]);
    rest[32..].copy_from_slice(&tag);
    Ok(out)
}

/// The reverse of [`lock`].
pub fn unlock(locked: &[u8], passphrase: &str) -> Result<Zeroizing<[u8; 32]>, Error> {
    let locked: &[u8; LOCKED_BYTES] =
        locked.try_into().map_err(|_| Error::KeyFile { why: "a locked key has 77 bytes" })?;
    if locked[..5] != MARK {
        return Err(Error::KeyFile { why: "it is no locked key, or one of a newer release" });
    }
    let number = |at: usize| u32::from_le_bytes([locked[at], locked[at + 1], locked[at + 2], locked[at + 3]]);
    let locks = Locks { memory_kib: number(5), passes: number(9) };
    let mut salt = [0; 16];
    salt.copy_from_slice(&locked[13..HEAD]);
    let mut sealed = Zeroizing::new([0; 32 + TAG]);
    sealed.copy_from_slice(&locked[HEAD..]);
    let aead = stretch(passphrase, locks, &salt)?;
    let opened =
        aead.open(counter(0), &locked[..HEAD], &mut sealed[..], "a locked key").map_err(|_| Error::Passphrase)?;
    let mut key = Zeroizing::new([0; 32]);
    key.copy_from_slice(opened);
    Ok(key)
}

fn stretch(passphrase: &str, locks: Locks, salt: &[u8; 16]) -> Result<Aead, Error> {
    let refused =
        Error::KeyFile { why: "it asks for more memory or time than any locked key should, or for too little" };
    if locks.memory_kib > MEMORY_KIB_MAX || locks.passes > PASSES_MAX {
        return Err(refused);
    }
    let params = Params::new(locks.memory_kib, locks.passes, 1, Some(32)).map_err(|_| refused.clone())?;
    let mut memory = vec![Block::default(); params.block_count()];
    let mut key = Zeroizing::new([0; 32]);
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let done = argon.hash_password_into_with_memory(passphrase.as_bytes(), salt, &mut key[..], &mut memory);
    memory.zeroize();
    done.map_err(|_| refused)?;
    Ok(Aead::new(&key))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Locks = Locks { memory_kib: 64, passes: 1 };

    #[test]
    fn a_locked_key_opens_with_its_passphrase_only() {
        let locked = lock(&[7; 32], "correct horse", Locks::default(), [1; 16]).unwrap();
        assert_eq!(*unlock(&locked, "correct horse").unwrap(), [7; 32]);
        assert_eq!(unlock(&locked, "correct hors").unwrap_err(), Error::Passphrase);
        assert_eq!(base::ids::hex(&locked), include_str!("../tests/locked.txt").trim(), "it never changes");
    }

    #[test]
    fn a_changed_or_hostile_locked_key_is_refused() {
        let locked = lock(&[7; 32], "pass", QUICK, [1; 16]).unwrap();
        assert!(unlock(&locked, "pass").is_ok());
        for at in (0..5).chain(13..locked.len()) {
            let mut wrong = locked;
            wrong[at] ^= 1;
            assert!(unlock(&wrong, "pass").is_err(), "changed at {at}");
        }
        for (at, value) in [(5, u32::MAX), (5, 0), (9, u32::MAX), (9, 0), (9, 2)] {
            let mut wrong = locked;
            wrong[at..at + 4].copy_from_slice(&value.to_le_bytes());
            assert!(unlock(&wrong, "pass").is_err(), "{value} at {at}");
        }
        assert!(unlock(&locked[1..], "pass").is_err());
    }
}
