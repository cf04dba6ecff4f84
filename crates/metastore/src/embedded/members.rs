//! Which drives hold all acknowledged changes of a shard.

use std::path::Path;

use base::{DriveId, Epoch};
use codec::{Reader, Versioned, Writer};
use env::{Disk, Open};

use crate::Error;

/// Mirrors of one shard at most.
const DRIVES_MAX: u32 = 64;

/// The drives that hold all acknowledged changes of a shard. Whoever knows a later epoch knows
/// better: mirrors that are not in its set miss something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberSet {
    /// The shard.
    pub shard: u32,
    /// The shard's incarnation, as in cursors.
    pub generation: u32,
    /// Raised with every change.
    pub epoch: Epoch,
    /// The drives, ascending.
    pub drives: Vec<DriveId>,
}

impl Versioned for MemberSet {
    const NAME: &'static str = "metadata members";
    const MARK: [u8; 4] = *b"AMem";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        let mut body = Writer::new();
        body.u32(self.shard).u32(self.generation).u64(self.epoch.0).u32(self.drives.len() as u32);
        for drive in &self.drives {
            body.raw(&drive.0);
        }
        let body = body.finish();
        to.raw(&body).u64(codec::crc64(&body));
    }

    fn decode_body(_version: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        let mut again = from.clone();
        let (shard, generation) = (from.u32("shard")?, from.u32("generation")?);
        let epoch = Epoch(from.u64("member epoch")?);
        let count = from.u32("drives")?;
        if count > DRIVES_MAX {
            return Err(codec::Error::TooLong { what: "drives", len: count as usize, max: DRIVES_MAX as usize });
        }
        let mut drives = Vec::new();
        for _ in 0..count {
            drives.push(DriveId(from.array("drive")?));
        }
        let body = again.raw("members", 20 + 16 * count as usize)?;
        if from.u64("checksum")? != codec::crc64(body) {
            return Err(codec::Error::Checksum { what: "metadata members" });
        }
        Ok(Self { shard, generation, epoch, drives })
    }
}

/// The mirror's record of the set; `None` if it has none.
pub(crate) fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<MemberSet>, Error> {
    let path = dir.join("members");
    if !disk.exists(&path) {
        return Ok(None);
    }
    let what = || format!("read {}", path.display());
    let file = disk.open(&path, Open::Read).map_err(|error| Error::io(what(), &error))?;
    let len = file.len().map_err(|error| Error::io(what(), &error))?;
    let mut bytes = vec![0; len.min(4096) as usize];
    file.read_at(&mut bytes, 0).map_err(|error| Error::io(what(), &error))?;
    MemberSet::decode(&bytes).map(Some).map_err(|error| Error::damaged(format!("{}: {error}", path.display())))
}

/// Makes the set durable in the mirror's directory.
pub(crate) fn write(disk: &dyn Disk, dir: &Path, set: &MemberSet) -> std::io::Result<()> {
    let new = dir.join("members.new");
    let file = disk.open(&new, Open::Create)?;
    file.set_len(0)?;
    file.write_at(&set.encode(), 0)?;
    file.sync_data()?;
    disk.rename(&new, &dir.join("members"))?;
    disk.sync_dir(dir)
}
