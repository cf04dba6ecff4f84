//! End-to-end volumes: what the cluster knows of a volume whose keys it hasn't.

use base::kv::{Batch, View};
use base::{VolumeId, Wall};
use codec::{Reader, Versioned, Writer};

use super::{get, keys, scan};
use crate::error::Error;

/// What is public of an end-to-end volume, and what grants are checked with. Nothing in it opens anything.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedVolume {
    /// The volume.
    pub volume: VolumeId,
    /// Its public key: pieces' headers name it.
    pub public: [u8; 32],
    /// Says which words open it.
    pub check: [u8; 16],
    /// Checks grants.
    pub grant_key: [u8; 32],
    /// Grants of earlier epochs are revoked.
    pub epoch: u64,
    /// Keys that this one replaced, oldest first: pieces that were written before name them.
    pub older: Vec<OlderKey>,
    /// Whether no row is called by older keys any more.
    pub settled: bool,
}

/// Keys that a volume had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OlderKey {
    /// The public key.
    pub public: [u8; 32],
    /// The volume's root of then, sealed under the one that replaced it.
    pub sealed: Vec<u8>,
    /// When it was replaced.
    pub replaced: Wall,
}

/// Older keys of a volume at the most.
pub const OLDER_KEYS_MAX: usize = 64;
/// Bytes of a sealed root at the most.
pub const SEALED_ROOT_BYTES_MAX: usize = 128;

impl OlderKey {
    /// In rows, and in what guests are told.
    pub fn write(&self, to: &mut Writer) {
        to.raw(&self.public).bytes(&self.sealed).u64(self.replaced.0);
    }

    /// The reverse.
    pub fn read(from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        let (public, sealed) = (from.array("older key")?, from.bytes("sealed root", SEALED_ROOT_BYTES_MAX)?.to_vec());
        Ok(Self { public, sealed, replaced: Wall(from.u64("replaced")?) })
    }

    /// As many as there are.
    pub fn write_all(all: &[Self], to: &mut Writer) {
        to.u8(all.len() as u8);
        all.iter().for_each(|one| one.write(to));
    }

    /// The reverse.
    pub fn read_all(from: &mut Reader<'_>) -> Result<Vec<Self>, codec::Error> {
        let count = from.u8("older keys")?;
        if usize::from(count) > OLDER_KEYS_MAX {
            return Err(codec::Error::Value { what: "older keys", value: count.into() });
        }
        (0..count).map(|_| Self::read(from)).collect()
    }
}

impl SealedVolume {
    /// Whether this public key is the volume's, or was.
    pub fn had(&self, key: &[u8; 32]) -> bool {
        self.public == *key || self.older.iter().any(|older| older.public == *key)
    }
}

impl std::fmt::Debug for SealedVolume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedVolume").field("volume", &self.volume).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Versioned for SealedVolume {
    const NAME: &'static str = "end-to-end volume";
    const MARK: [u8; 4] = *b"caSv";
    const VERSION: u8 = 2;

    fn encode_body(&self, to: &mut Writer) {
        to.u32(self.volume.0).raw(&self.public).raw(&self.check).raw(&self.grant_key).u64(self.epoch);
        OlderKey::write_all(&self.older, to);
        to.u8(self.settled.into());
    }

    fn decode_body(version: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        let mut row = SealedVolume {
            volume: VolumeId(from.u32("volume")?),
            public: from.array("public key")?,
            check: from.array("check value")?,
            grant_key: from.array("grant key")?,
            epoch: from.u64("epoch")?,
            older: Vec::new(),
            settled: true,
        };
        if version > 1 {
            row.older = OlderKey::read_all(from)?;
            row.settled = crate::rows::flag(from, "settled")?;
        }
        Ok(row)
    }
}

/// What is known of an end-to-end volume; nothing of one that the cluster has the keys of.
pub fn sealed_volume(view: &dyn View, volume: VolumeId) -> Result<Option<SealedVolume>, Error> {
    get(view, &keys::sealed_volume(volume))
}

/// All end-to-end volumes by number, those after `after`, of deleted buckets too while their garbage is there.
pub fn sealed_volumes(view: &dyn View, after: Option<VolumeId>, limit: usize) -> Result<Vec<SealedVolume>, Error> {
    let after = after.map(|volume| volume.0.to_be_bytes());
    scan(view, keys::SEALED_VOLUME, after.as_ref().map(<[u8; 4]>::as_slice), limit)
}

/// Makes the volume end to end, in the batch that makes its bucket; or raises its epoch.
pub fn put_sealed_volume(row: &SealedVolume) -> Batch {
    let mut batch = Batch::default();
    batch.put(keys::sealed_volume(row.volume), row.encode());
    batch
}
