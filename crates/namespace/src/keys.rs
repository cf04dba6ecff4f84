//! Where a volume's rows lie: volume (u32 big-endian), one table byte, then what this file says.
//! Numbers in keys are big-endian, so that the byte order of rows is their order.

use base::kv::prefix_end;
use base::{GroupId, PolicyId, SegmentId, VolumeId, Wall};

use crate::types::UploadId;

/// One table of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Table {
    /// Long attributes of a version or part: ord.
    Attrs = b'A',
    /// Inline bytes of a version or part: ord.
    Bytes = b'B',
    /// Settings: name.
    Config = b'C',
    /// Dentries: parent inode, name (a folder's ends in `/`).
    Dentry = b'D',
    /// Before which minute done work is forgotten. Of volume 0.
    Forgotten = b'F',
    /// Freed segments whose pieces wait to be deleted: segment.
    Garbage = b'G',
    /// The one row of counters.
    Head = b'H',
    /// Owners of pack slots: pack segment, slot, ord of the owner.
    PackSlot = b'K',
    /// Packs by live share: sixteenths, segment.
    PackShare = b'L',
    /// Long manifests: ord.
    Manifest = b'M',
    /// Notes of missing pieces: segment.
    Missing = b'N',
    /// Work that was done: minute, id. Of volume 0.
    Done = b'O',
    /// Parts: upload, number.
    Part = b'P',
    /// Segments in use: policy, group, segment.
    Segment = b'R',
    /// Segments whose pieces were deleted: segment. Forgotten after a while.
    Tomb = b'T',
    /// Uploads: key, 0, upload.
    Upload = b'U',
    /// Noncurrent versions: parent inode, name, 0, inverted ord.
    Version = b'V',
    /// For how long what is deleted is kept. Of volume 0.
    Window = b'W',
    /// Versions that were deleted or overwritten: key, 0, ord.
    Undo = b'X',
    /// The same by time: when they went, ord.
    UndoTime = b'Y',
    /// The one row that counts those.
    UndoHead = b'Z',
}

/// Builds keys of one volume.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys(pub VolumeId);

impl Keys {
    /// What every key of the table begins with; `room` bytes more are coming.
    pub fn table(self, table: Table, room: usize) -> Vec<u8> {
        let mut key = Vec::with_capacity(5 + room);
        key.extend_from_slice(&self.0.0.to_be_bytes());
        key.push(table as u8);
        key
    }

    pub fn head(self) -> Vec<u8> {
        self.table(Table::Head, 0)
    }

    pub fn dentry(self, parent: u64, name: &[u8]) -> Vec<u8> {
        let mut key = self.table(Table::Dentry, 8 + name.len());
        key.extend_from_slice(&parent.to_be_bytes());
        key.extend_from_slice(name);
        key
    }

    /// What the noncurrent versions of a file begin with; add an inverted ord for one of them.
    pub fn versions(self, parent: u64, name: &[u8]) -> Vec<u8> {
        let mut key = self.table(Table::Version, 17 + name.len());
        key.extend_from_slice(&parent.to_be_bytes());
        key.extend_from_slice(name);
        key.push(0);
        key
    }

    /// Newest first, so the ord is inverted.
    pub fn version(self, parent: u64, name: &[u8], ord: u64) -> Vec<u8> {
        let mut key = self.versions(parent, name);
        key.extend_from_slice(&(!ord).to_be_bytes());
        key
    }

    /// A row of [`Table::Bytes`], [`Table::Manifest`] or [`Table::Attrs`].
    pub fn by_ord(self, table: Table, ord: u64) -> Vec<u8> {
        let mut key = self.table(table, 8);
        key.extend_from_slice(&ord.to_be_bytes());
        key
    }

    /// A row of [`Table::Garbage`], [`Table::Missing`] or [`Table::Tomb`].
    pub fn by_segment(self, table: Table, segment: SegmentId) -> Vec<u8> {
        let mut key = self.table(table, 16);
        key.extend_from_slice(&segment.0);
        key
    }

    pub fn done(self, minute: u64, id: [u8; 16]) -> Vec<u8> {
        let mut key = self.table(Table::Done, 24);
        key.extend_from_slice(&minute.to_be_bytes());
        key.extend_from_slice(&id);
        key
    }

    pub fn config(self, name: &str) -> Vec<u8> {
        let mut key = self.table(Table::Config, name.len());
        key.extend_from_slice(name.as_bytes());
        key
    }

    /// What the versions of a key begin with that can be had back; add an ord for one of them.
    pub fn undos_of(self, key: &str) -> Vec<u8> {
        let mut row = self.table(Table::Undo, key.len() + 9);
        row.extend_from_slice(key.as_bytes());
        row.push(0);
        row
    }

    pub fn undo(self, key: &str, ord: u64) -> Vec<u8> {
        let mut row = self.undos_of(key);
        row.extend_from_slice(&ord.to_be_bytes());
        row
    }

    pub fn undo_time(self, deleted: Wall, ord: u64) -> Vec<u8> {
        let mut row = self.table(Table::UndoTime, 16);
        row.extend_from_slice(&deleted.0.to_be_bytes());
        row.extend_from_slice(&ord.to_be_bytes());
        row
    }

    pub fn uploads_of(self, key: &str) -> Vec<u8> {
        let mut row = self.table(Table::Upload, key.len() + 17);
        row.extend_from_slice(key.as_bytes());
        row.push(0);
        row
    }

    pub fn upload(self, key: &str, upload: UploadId) -> Vec<u8> {
        let mut row = self.uploads_of(key);
        row.extend_from_slice(&upload.0);
        row
    }

    pub fn parts(self, upload: UploadId) -> Vec<u8> {
        let mut row = self.table(Table::Part, 18);
        row.extend_from_slice(&upload.0);
        row
    }

    pub fn part(self, upload: UploadId, number: u16) -> Vec<u8> {
        let mut row = self.parts(upload);
        row.extend_from_slice(&number.to_be_bytes());
        row
    }

    pub fn group(self, policy: PolicyId, group: GroupId) -> Vec<u8> {
        let mut key = self.table(Table::Segment, 22);
        key.extend_from_slice(&policy.0.to_be_bytes());
        key.extend_from_slice(&group.0.to_be_bytes());
        key
    }

    pub fn segment(self, policy: PolicyId, group: GroupId, segment: SegmentId) -> Vec<u8> {
        let mut key = self.group(policy, group);
        key.extend_from_slice(&segment.0);
        key
    }

    pub fn pack(self, segment: SegmentId) -> Vec<u8> {
        let mut key = self.table(Table::PackSlot, 28);
        key.extend_from_slice(&segment.0);
        key
    }

    pub fn pack_slot(self, segment: SegmentId, slot: u32) -> Vec<u8> {
        let mut key = self.pack(segment);
        key.extend_from_slice(&slot.to_be_bytes());
        key
    }

    pub fn pack_owner(self, segment: SegmentId, slot: u32, ord: u64) -> Vec<u8> {
        let mut key = self.pack_slot(segment, slot);
        key.extend_from_slice(&ord.to_be_bytes());
        key
    }

    pub fn pack_share(self, sixteenths: u8, segment: SegmentId) -> Vec<u8> {
        let mut key = self.table(Table::PackShare, 17);
        key.push(sixteenths);
        key.extend_from_slice(&segment.0);
        key
    }
}

/// The end of the keys that begin with `prefix`. Ours always have an end: a volume number of all
/// ones is never given out.
pub(crate) fn end(prefix: &[u8]) -> Vec<u8> {
    prefix_end(prefix).unwrap_or_else(|| vec![0xff; prefix.len() + 1])
}

/// The last `N` bytes of a key, where a number or id of that width ends it.
pub(crate) fn tail<const N: usize>(key: &[u8], what: &'static str) -> Result<[u8; N], codec::Error> {
    let start = key.len().checked_sub(N).ok_or(codec::Error::Short { what, need: N, have: key.len() })?;
    let mut array = [0; N];
    array.copy_from_slice(&key[start..]);
    Ok(array)
}
