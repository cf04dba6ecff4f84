//! The root of one volume: what its owner keeps, and all that follows from it.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::segment::VolumeKey;
use crate::words::{from_words, to_words};
use crate::{Error, FolderKey, SigningKey, derive};

/// The key of one volume and of nothing else.
///
/// Of an end-to-end volume it is random, made where it is used, and shown as 24 words: lost with all
/// its copies and shares, the data is lost. Of a volume that the cluster holds the keys of, it follows
/// from the volume's key ([`VolumeRoot::of`]).
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct VolumeRoot([u8; 32]);

impl fmt::Debug for VolumeRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VolumeRoot(…)")
    }
}

impl VolumeRoot {
    /// From 32 random bytes: the root of a new end-to-end volume.
    pub fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// The root of a volume whose key the cluster has.
    pub fn of(key: &VolumeKey) -> Self {
        Self(*derive("abide 2026 volume root v1", &[key.bytes()]))
    }

    /// The root as 24 English words (BIP-39).
    pub fn words(&self) -> String {
        to_words(&self.0)
    }

    /// The reverse of [`VolumeRoot::words`]; case and spacing don't matter.
    pub fn from_words(text: &str) -> Result<Self, Error> {
        Ok(Self(*from_words(text)?))
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A public value that says whether this root belongs to a volume, and nothing else about it.
    pub fn check(&self) -> [u8; 16] {
        let mut check = [0; 16];
        check.copy_from_slice(&derive("abide 2026 volume check v1", &[&self.0])[..16]);
        check
    }

    /// Succeeds if this is the root of the volume with that check value.
    pub fn prove(&self, check: &[u8; 16]) -> Result<(), Error> {
        let found = self.check();
        if found == *check {
            return Ok(());
        }
        Err(Error::OtherVolume { wanted: base::ids::hex(check), found: base::ids::hex(&found) })
    }

    /// Signs owner tickets, kits and parcels. Its public half names the volume in pieces' headers.
    pub fn signing_key(&self) -> SigningKey {
        SigningKey::from_seed(&derive("abide 2026 volume signing v1", &[&self.0]))
    }

    /// Makes and checks grants. Directors have it; it opens nothing.
    pub fn grant_key(&self) -> Zeroizing<[u8; 32]> {
        derive("abide 2026 volume grants v1", &[&self.0])
    }

    /// Seals the kit's logs.
    pub fn kit_key(&self) -> Zeroizing<[u8; 32]> {
        derive("abide 2026 volume kit v1", &[&self.0])
    }

    /// Chooses the nodes that keep copies of the kit.
    pub fn holders_key(&self) -> Zeroizing<[u8; 32]> {
        derive("abide 2026 volume holders v1", &[&self.0])
    }

    /// Opens what headers say about the folder whose key opens the rest of them.
    pub fn anchor_key(&self) -> FolderKey {
        FolderKey::new(*derive("abide 2026 volume anchors v1", &[&self.0]))
    }

    /// The key of the topmost folder.
    pub fn top(&self) -> FolderKey {
        FolderKey::new(*derive("abide 2026 volume folders v1", &[&self.0]))
    }

    /// Keeps an older root of the volume under this one, after keys were rotated: what was written before needs it.
    /// `salt` is random.
    pub fn seal_older(&self, older: &VolumeRoot, salt: [u8; 16]) -> Vec<u8> {
        self.older_key().seal_bytes(salt, b"older root", &older.0)
    }

    /// The reverse of [`VolumeRoot::seal_older`].
    pub fn open_older(&self, sealed: &[u8]) -> Result<VolumeRoot, Error> {
        let bytes = Zeroizing::new(self.older_key().open_bytes(b"older root", sealed)?);
        let root = bytes.as_slice().try_into().map_err(|_| Error::Sealed { what: "an older root" })?;
        Ok(Self(root))
    }

    /// All roots of which one leads to the next: those that this root has sealed, those that they have sealed, and so on; in whatever
    /// order they are given. What doesn't open is left out.
    pub fn open_all_older<'a>(&self, sealed: impl IntoIterator<Item = &'a [u8]>) -> Vec<VolumeRoot> {
        let mut left: Vec<&[u8]> = sealed.into_iter().collect();
        let mut found: Vec<VolumeRoot> = Vec::new();
        loop {
            let before = found.len();
            left.retain(|sealed| {
                let newer = std::iter::once(self).chain(&found);
                let opened = newer.filter_map(|root| root.open_older(sealed).ok()).next();
                let is_open = opened.is_some();
                found.extend(opened);
                !is_open
            });
            if found.len() == before {
                return found;
            }
        }
    }

    fn older_key(&self) -> FolderKey {
        FolderKey::new(*derive("abide 2026 volume older v1", &[&self.0]))
    }
}

#[cfg(test)]
mod tests {
    use base::VolumeId;
    use base::ids::hex;

    use super::*;
    use crate::RootKey;

    #[test]
    fn words_open_their_volume_and_no_other() {
        let root = VolumeRoot::new(std::array::from_fn(|i| i as u8));
        let back = VolumeRoot::from_words(&root.words().to_uppercase()).unwrap();
        back.prove(&root.check()).unwrap();
        let other = VolumeRoot::new([1; 32]);
        assert!(matches!(other.prove(&root.check()), Err(Error::OtherVolume { .. })));
        assert!(matches!(VolumeRoot::from_words("abandon"), Err(Error::WordCount { count: 1 })));
        assert_eq!(format!("{root:?}"), "VolumeRoot(…)");
    }

    #[test]
    fn an_older_root_opens_under_the_newer_only() {
        let (old, new) = (VolumeRoot::new([1; 32]), VolumeRoot::new([2; 32]));
        let sealed = new.seal_older(&old, [3; 16]);
        assert_eq!(new.open_older(&sealed).unwrap(), old);
        assert!(old.open_older(&sealed).is_err());
        assert!(new.open_older(&sealed[..20]).is_err());
    }

    #[test]
    fn the_newest_root_leads_to_all_before_it() {
        let roots: Vec<VolumeRoot> = (0..4).map(|number| VolumeRoot::new([number; 32])).collect();
        let sealed: Vec<Vec<u8>> = roots.windows(2).map(|two| two[1].seal_older(&two[0], [3; 16])).collect();
        let other = VolumeRoot::new([9; 32]).seal_older(&roots[0], [3; 16]);
        let all = sealed.iter().chain([&other]).map(Vec::as_slice);
        let found = roots[3].open_all_older(all);
        assert_eq!(found.len(), 3);
        assert!(roots[..3].iter().all(|root| found.contains(root)));
        assert!(roots[0].open_all_older(sealed.iter().map(Vec::as_slice)).is_empty());
    }

    #[test]
    fn volumes_derivations_never_change() {
        let root = VolumeRoot::new(std::array::from_fn(|i| i as u8));
        let of = VolumeRoot::of(&RootKey::new([9; 32]).store_keys().volume_key(VolumeId(5)));
        let lines = [
            hex(&root.check()),
            root.signing_key().public().to_string(),
            hex(&root.grant_key()[..]),
            hex(&root.kit_key()[..]),
            hex(&root.holders_key()[..]),
            hex(&root.anchor_key().to_bytes()[..]),
            hex(&root.top().to_bytes()[..]),
            hex(&root.top().child("photos").to_bytes()[..]),
            hex(&root.top().at("photos/a.jpg").to_bytes()[..]),
            hex(&of.check()),
        ];
        assert_eq!(lines.join("\n"), include_str!("../tests/volume.txt").trim());
    }
}
