//! Keys of volumes and segments, and the cells that they seal.

use std::fmt;

use base::limits::SEAL_BYTES;
use base::{SegmentId, VolumeId};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::aead::{Aead, TAG, counter};
use crate::{Error, derive};

/// Bytes of a wrapped key: the key and a tag.
pub const WRAPPED_BYTES: usize = 48;

/// The key of one volume: wraps the keys of its segments.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct VolumeKey {
    #[zeroize(skip)]
    volume: VolumeId,
    key: [u8; 32],
}

impl fmt::Debug for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolumeKey({}, …)", self.volume)
    }
}

impl VolumeKey {
    pub(crate) fn new(volume: VolumeId, key: [u8; 32]) -> Self {
        Self { volume, key }
    }

    /// The volume.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// The key's bytes, from which the volume's root follows.
    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.key
    }

    /// The key that wraps one segment's key, and nothing else: so its nonce is zero.
    fn wrapper(&self, segment: SegmentId, slot: u32) -> Aead {
        Aead::new(&derive("abide 2026 segment wrap v1", &[&self.key, &segment.0, &slot.to_le_bytes()]))
    }

    /// Wraps a segment's key. `slot` is 0 for the key of a whole segment, 1 + i for that of object
    /// i of a pack. A (segment, slot) is wrapped once in its life.
    pub fn wrap(&self, key: &SegmentKey, segment: SegmentId, slot: u32) -> [u8; WRAPPED_BYTES] {
        let mut out = [0; WRAPPED_BYTES];
        out[..32].copy_from_slice(&key.bytes[..]);
        let tag = self.wrapper(segment, slot).seal(counter(0), &[], &mut out[..32]);
        out[32..].copy_from_slice(&tag);
        out
    }

    /// The whole of a wrapped key whose tag was left out: the tag follows from the key. A bare key that was
    /// changed gives a key that opens nothing, so it must lie in something that is sealed itself.
    pub fn with_tag(&self, bare: &[u8; 32], segment: SegmentId, slot: u32) -> [u8; WRAPPED_BYTES] {
        let wrapper = self.wrapper(segment, slot);
        let mut key = Zeroizing::new(*bare);
        // GCM enciphers by adding a stream that depends on key and nonce alone: sealing what was sealed opens it.
        wrapper.seal(counter(0), &[], &mut key[..]);
        self.wrap(&SegmentKey::new(*key), segment, slot)
    }

    /// The reverse of [`VolumeKey::wrap`].
    pub fn unwrap(&self, wrapped: &[u8; WRAPPED_BYTES], segment: SegmentId, slot: u32) -> Result<SegmentKey, Error> {
        let mut bytes = Zeroizing::new(*wrapped);
        let key = self.wrapper(segment, slot).open(counter(0), &[], &mut bytes[..], "a segment's key")?;
        let mut out = [0; 32];
        out.copy_from_slice(key);
        Ok(SegmentKey::new(out))
    }

    /// Seals a small blob (a piece's manifest fragment) under a random nonce, which leads the result.
    pub fn seal_blob(&self, nonce: [u8; 12], aad: &[u8], blob: &[u8]) -> Vec<u8> {
        let key = Aead::new(&derive("abide 2026 fragment v1", &[&self.key]));
        let mut out = Vec::with_capacity(12 + blob.len() + TAG);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(blob);
        let tag = key.seal(nonce, aad, &mut out[12..]);
        out.extend_from_slice(&tag);
        out
    }

    /// The reverse of [`VolumeKey::seal_blob`].
    pub fn open_blob(&self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let what = "a manifest fragment";
        let (nonce, rest) = sealed.split_first_chunk::<12>().ok_or(Error::Sealed { what })?;
        let key = Aead::new(&derive("abide 2026 fragment v1", &[&self.key]));
        let mut bytes = rest.to_vec();
        let len = key.open(*nonce, aad, &mut bytes, what)?.len();
        bytes.truncate(len);
        Ok(bytes)
    }
}

/// The key of one segment, or of one object in a pack: random, used for one set of cells ever.
/// Segments are immutable, so that no (key, cell index) seals twice.
pub struct SegmentKey {
    bytes: Zeroizing<[u8; 32]>,
    aead: Aead,
}

impl fmt::Debug for SegmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SegmentKey(…)")
    }
}

impl SegmentKey {
    /// From 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self { aead: Aead::new(&bytes), bytes: Zeroizing::new(bytes) }
    }

    fn aad(volume: VolumeId, segment: SegmentId, cell: u64) -> [u8; 28] {
        let mut aad = [0; 28];
        aad[..4].copy_from_slice(&volume.0.to_le_bytes());
        aad[4..20].copy_from_slice(&segment.0);
        aad[20..].copy_from_slice(&cell.to_le_bytes());
        aad
    }

    /// Seals a cell in place; its tag belongs right behind it.
    pub fn seal_cell(&self, volume: VolumeId, segment: SegmentId, cell: u64, bytes: &mut [u8]) -> [u8; SEAL_BYTES] {
        self.aead.seal(counter(cell), &Self::aad(volume, segment, cell), bytes)
    }

    /// Opens a sealed cell (bytes and tag) in place; gives its plaintext, at the front.
    pub fn open_cell<'a>(
        &self,
        volume: VolumeId,
        segment: SegmentId,
        cell: u64,
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], Error> {
        self.aead.open(counter(cell), &Self::aad(volume, segment, cell), sealed, "a cell")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RootKey;

    const SEGMENT: SegmentId = SegmentId([3; 16]);

    fn volume_key() -> VolumeKey {
        RootKey::new([9; 32]).store_keys().volume_key(VolumeId(5))
    }

    #[test]
    fn a_wrapped_key_opens_only_as_what_it_was_wrapped_for() {
        let key = SegmentKey::new([7; 32]);
        let wrapped = volume_key().wrap(&key, SEGMENT, 0);
        assert_eq!(*volume_key().unwrap(&wrapped, SEGMENT, 0).unwrap().bytes, [7; 32]);
        assert!(volume_key().unwrap(&wrapped, SEGMENT, 1).is_err());
        assert_eq!(
            volume_key().with_tag(wrapped.first_chunk().unwrap(), SEGMENT, 0),
            wrapped,
            "a bare key is whole again"
        );
        assert!(volume_key().unwrap(&wrapped, SegmentId([4; 16]), 0).is_err());
        assert!(RootKey::new([9; 32]).store_keys().volume_key(VolumeId(6)).unwrap(&wrapped, SEGMENT, 0).is_err());
    }

    #[test]
    fn every_changed_byte_of_a_cell_or_a_blob_is_noticed() {
        let key = SegmentKey::new([7; 32]);
        let mut cell = b"forty-two".to_vec();
        let tag = key.seal_cell(VolumeId(1), SEGMENT, 8, &mut cell);
        cell.extend_from_slice(&tag);
        assert_eq!(key.open_cell(VolumeId(1), SEGMENT, 8, &mut cell.clone()).unwrap(), b"forty-two");
        assert!(key.open_cell(VolumeId(1), SEGMENT, 9, &mut cell.clone()).is_err());
        assert!(key.open_cell(VolumeId(2), SEGMENT, 8, &mut cell.clone()).is_err());
        for at in 0..cell.len() {
            let mut wrong = cell.clone();
            wrong[at] ^= 1;
            assert!(key.open_cell(VolumeId(1), SEGMENT, 8, &mut wrong).is_err());
        }
        let blob = volume_key().seal_blob([1; 12], b"aad", b"fragment");
        assert_eq!(volume_key().open_blob(b"aad", &blob).unwrap(), b"fragment");
        assert!(volume_key().open_blob(b"aae", &blob).is_err());
        for at in 0..blob.len() {
            let mut wrong = blob.clone();
            wrong[at] ^= 0x80;
            assert!(volume_key().open_blob(b"aad", &wrong).is_err());
        }
        assert!(volume_key().open_blob(b"aad", &[]).is_err());
    }

    #[test]
    fn sealed_bytes_never_change() {
        let key = SegmentKey::new(std::array::from_fn(|i| i as u8));
        let mut cell = b"abide".to_vec();
        let tag = key.seal_cell(VolumeId(1), SEGMENT, 2, &mut cell);
        let wrapped = volume_key().wrap(&key, SEGMENT, 3);
        let all = format!("{} {} {}\n", base::ids::hex(&cell), base::ids::hex(&tag), base::ids::hex(&wrapped));
        assert_eq!(all, include_str!("../tests/sealed.txt"));
    }
}
