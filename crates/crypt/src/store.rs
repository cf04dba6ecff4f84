//! What a node needs to serve: derived from the root key, which it therefore needn't have.

use std::fmt;

use base::VolumeId;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::segment::VolumeKey;
use crate::{MetaKey, derive};

/// The keys of a store's metadata and volumes. Whoever has them reads everything; but they sign
/// nobody in and make no tickets, and the root key doesn't follow from them. So a node that is
/// stolen can be expunged for good.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct StoreKeys {
    meta: [u8; 32],
    volumes: [u8; 32],
    check: [u8; 16],
}

impl fmt::Debug for StoreKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreKeys(…)")
    }
}

impl StoreKeys {
    /// Bytes of [`StoreKeys::to_bytes`].
    pub const SIZE: usize = 80;

    pub(crate) fn derive(root: &[u8; 32], check: [u8; 16]) -> Self {
        let meta = *derive("abide 2026 metadata v1", &[root]);
        let volumes = *derive("abide 2026 volumes v1", &[root]);
        Self { meta, volumes, check }
    }

    /// The public value of the root key that these come from ([`crate::RootKey::check`]).
    pub fn check(&self) -> [u8; 16] {
        self.check
    }

    /// The key of the metadata at rest.
    pub fn meta_key(&self) -> MetaKey {
        MetaKey::new(self.meta)
    }

    /// The key of a volume. Derived, so that it can't be lost as long as the root key isn't.
    pub fn volume_key(&self, volume: VolumeId) -> VolumeKey {
        VolumeKey::new(volume, *derive("abide 2026 volume v1", &[&self.volumes, &volume.0.to_le_bytes()]))
    }

    /// Metadata's key, volumes' key, check value: secret.
    pub fn to_bytes(&self) -> Zeroizing<[u8; Self::SIZE]> {
        let mut bytes = Zeroizing::new([0; Self::SIZE]);
        bytes[..32].copy_from_slice(&self.meta);
        bytes[32..64].copy_from_slice(&self.volumes);
        bytes[64..].copy_from_slice(&self.check);
        bytes
    }

    /// The reverse of [`StoreKeys::to_bytes`].
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let mut keys = Self { meta: [0; 32], volumes: [0; 32], check: [0; 16] };
        keys.meta.copy_from_slice(&bytes[..32]);
        keys.volumes.copy_from_slice(&bytes[32..64]);
        keys.check.copy_from_slice(&bytes[64..]);
        keys
    }
}

#[cfg(test)]
mod tests {
    use crate::RootKey;

    use super::*;

    #[test]
    fn store_keys_never_change_and_are_never_shown() {
        let root = RootKey::new(std::array::from_fn(|i| i as u8));
        let keys = root.store_keys();
        assert_eq!(base::ids::hex(&keys.to_bytes()[..]), include_str!("../tests/store.txt").trim());
        assert_eq!(StoreKeys::from_bytes(&keys.to_bytes()), keys);
        assert_eq!((format!("{keys:?}").as_str(), keys.check()), ("StoreKeys(…)", root.check()));
        assert_ne!(keys, RootKey::new([1; 32]).store_keys());
    }
}
