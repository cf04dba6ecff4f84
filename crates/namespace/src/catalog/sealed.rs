//! End-to-end volumes: what the cluster knows of a volume whose keys it hasn't.

use base::VolumeId;
use base::kv::{Batch, View};
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
}

impl std::fmt::Debug for SealedVolume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedVolume").field("volume", &self.volume).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Versioned for SealedVolume {
    const NAME: &'static str = "end-to-end volume";
    const MARK: [u8; 4] = *b"caSv";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u32(self.volume.0).raw(&self.public).raw(&self.check).raw(&self.grant_key).u64(self.epoch);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        Ok(SealedVolume {
            volume: VolumeId(from.u32("volume")?),
            public: from.array("public key")?,
            check: from.array("check value")?,
            grant_key: from.array("grant key")?,
            epoch: from.u64("epoch")?,
        })
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
