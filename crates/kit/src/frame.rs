//! One frame of a log: sealed, bound to all before it, signed.

use codec::{Reader, Writer};
use crypt::{FolderKey, PublicKey, SIGNATURE_BYTES, SigningKey, VolumeRoot};

/// Bytes of a frame's sealed part at the most: an object of 5 TiB in one manifest is 5 MB.
pub(crate) const SEALED_MAX: usize = 32 << 20;
/// Length, kind, number.
const HEAD: usize = 13;
const TAIL: usize = SIGNATURE_BYTES + 8;
const SIGNED_AS: &str = "abide 2026 kit v1";

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Part of the base, more follows.
    Base = 1,
    /// The last part of the base.
    BaseEnd = 2,
    /// What changed.
    Delta = 3,
}

/// What a log's frames are sealed and signed with.
pub(crate) struct Keys {
    seal: FolderKey,
    sign: SigningKey,
}

impl Keys {
    pub fn new(root: &VolumeRoot) -> Self {
        Self { seal: FolderKey::new(*root.kit_key()), sign: root.signing_key() }
    }

    pub fn public(&self) -> PublicKey {
        self.sign.public()
    }

    /// A frame's bytes, and the chain after it.
    pub fn frame(&self, chain: &[u8; 32], number: u64, kind: Kind, salt: [u8; 16], body: &[u8]) -> (Vec<u8>, [u8; 32]) {
        let mut to = Writer::new();
        let len = body.len() + 32;
        to.u32(u32::try_from(len).unwrap_or(u32::MAX)).u8(kind as u8).u64(number);
        to.raw(&self.seal.seal_bytes(salt, chain, body));
        let mut bytes = to.finish();
        let chain = next(chain, &bytes);
        bytes.extend_from_slice(&self.sign.sign_as(SIGNED_AS, &chain));
        let crc = codec::crc64(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        (bytes, chain)
    }

    /// Opens a whole frame that follows `chain` as number `number`: its kind, what it holds, the chain after it. `None` if it
    /// isn't what the volume's owner wrote there.
    pub fn open(&self, chain: &[u8; 32], number: u64, frame: &[u8]) -> Option<(Kind, Vec<u8>, [u8; 32])> {
        let (signed, tail) = frame.split_at_checked(frame.len().checked_sub(TAIL)?)?;
        let mut from = Reader::new(signed);
        from.u32("length").ok()?;
        let kind = match from.u8("kind").ok()? {
            1 => Kind::Base,
            2 => Kind::BaseEnd,
            3 => Kind::Delta,
            _ => return None,
        };
        if from.u64("number").ok()? != number {
            return None;
        }
        let after = next(chain, signed);
        if !self.public().verify_as(SIGNED_AS, &after, &tail[..SIGNATURE_BYTES]) {
            return None;
        }
        let body = self.seal.open_bytes(chain, &signed[HEAD..]).ok()?;
        Some((kind, body, after))
    }
}

/// The frame at the front of `bytes` if it is whole by its length and checksum.
pub(crate) fn first(bytes: &[u8]) -> Option<&[u8]> {
    let len = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    if len > SEALED_MAX {
        return None;
    }
    let frame = bytes.get(..HEAD + len + TAIL)?;
    let (summed, crc) = frame.split_last_chunk::<8>()?;
    (codec::crc64(summed) == u64::from_le_bytes(*crc)).then_some(frame)
}

fn next(chain: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("abide 2026 kit chain v1");
    hasher.update(chain).update(bytes);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_opens_in_its_place_only() {
        let keys = Keys::new(&VolumeRoot::new([1; 32]));
        let (frame, chain) = keys.frame(&[2; 32], 5, Kind::Delta, [3; 16], b"body");
        assert_eq!(first(&[&frame[..], b"more"].concat()), Some(&frame[..]));
        assert_eq!(keys.open(&[2; 32], 5, &frame), Some((Kind::Delta, b"body".to_vec(), chain)));
        assert_eq!(keys.open(&[2; 32], 6, &frame), None);
        assert_eq!(keys.open(&[0; 32], 5, &frame), None);
        assert_eq!(Keys::new(&VolumeRoot::new([2; 32])).open(&[2; 32], 5, &frame), None);
        assert_eq!(keys.open(&[2; 32], 5, &frame[..50]), None);
    }
}
